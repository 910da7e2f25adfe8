//! Values small enough to check on paper, and properties that hold for every input.

use merge::elementary::{arccos, cos, exp, ln, sin};
use merge::random::Counted;
use merge::{Rescale, arithmetic, dare, linear, slerp, slerp3, task_arithmetic, ties};

#[test]
fn linear_is_the_weighted_mean_and_without_normalize_the_weighted_sum() {
    let (a, b) = ([1.0, 2.0], [3.0, -2.0]);
    assert_eq!(linear(&[&a, &b], &[1.0, 3.0], true), [2.5, -1.0]);
    assert_eq!(linear(&[&a, &b], &[1.0, 3.0], false), [10.0, -4.0]);
}

#[test]
fn slerp_between_orthogonal_unit_vectors_stays_on_the_circle() {
    let half = slerp(0.5, &[1.0, 0.0], &[0.0, 1.0]);
    assert!((half[0] - 0.5f32.sqrt()).abs() < 1e-7 && (half[1] - half[0]).abs() < 1e-7);
    let third = slerp(1.0 / 3.0, &[2.0, 0.0], &[0.0, 1.0]);
    assert!((third[0] - 3f32.sqrt()).abs() < 1e-6 && (third[1] - 0.5).abs() < 1e-6);
}

#[test]
fn slerp_of_collinear_opposite_or_zero_vectors_is_linear_and_finite() {
    assert_eq!(slerp(0.25, &[4.0, 0.0], &[8.0, 0.0]), [5.0, 0.0]);
    assert_eq!(slerp(0.25, &[4.0, 0.0], &[-4.0, 0.0]), [2.0, 0.0]);
    assert_eq!(slerp(0.25, &[0.0, 0.0], &[0.0, 0.0]), [0.0, 0.0]);
    // Just inside the threshold the arc is taken: cosine 0.9994 bends by about 1e-4 of the length.
    let (x, y) = (0.9994f32, (1.0 - 0.9994f32 * 0.9994).sqrt());
    let arc = slerp(0.5, &[1.0, 0.0], &[x, y]);
    assert!((arc[0].hypot(arc[1]) - 1.0).abs() < 1e-6);
}

#[test]
fn nested_slerp_of_three_equal_tensors_is_that_tensor() {
    let a = [0.3f32, -0.7, 0.1];
    let merged = slerp3([0.5, 1.0 / 3.0], [&a, &a, &a]);
    assert!(merged.iter().zip(&a).all(|(x, y)| (x - y).abs() < 1e-7));
    assert_eq!(
        slerp3([0.5, 1.0], [&[1.0, 0.0], &[0.0, 1.0], &[0.0, -5.0]])[1],
        -5.0
    );
}

#[test]
fn ties_trims_elects_and_averages_as_on_paper() {
    // density 1/2 of 4 keeps two each: a keeps 4, -3; b keeps 5, 2; c keeps -6, 1.
    let a = [4.0, -3.0, 0.1, 0.2];
    let b = [0.0, 5.0, 2.0, 0.3];
    let c = [-6.0, 0.1, 0.2, 1.0];
    // Sums of weights-1 survivors: -2 -> minus, only c; 2 -> plus, only b; only b; only c.
    assert_eq!(
        ties(&[&a, &b, &c], &[1.0; 3], 0.5, 1.0, true),
        [-6.0, 5.0, 2.0, 1.0]
    );
    // Weight 2 on a turns both contested elections: a alone agrees; lambda halves everything.
    assert_eq!(
        ties(&[&a, &b, &c], &[2.0, 1.0, 1.0], 0.5, 0.5, true),
        [2.0, -1.5, 1.0, 0.5]
    );
    // Where two agree, their mean; where they cancel, zero counts as plus.
    assert_eq!(
        ties(&[&[1.0, 2.0], &[3.0, -2.0]], &[1.0; 2], 1.0, 1.0, true),
        [2.0, 2.0]
    );
}

#[test]
fn trim_keeps_exactly_the_floor_and_of_equals_the_earlier() {
    assert_eq!(
        arithmetic::trim(&[1.0, -1.0, 1.0, 0.5], 0.5),
        [1.0, -1.0, 0.0, 0.0]
    );
    assert_eq!(arithmetic::trim(&[0.1, 0.2], 0.01), [0.0, 0.2]);
    assert_eq!(arithmetic::trim(&[0.1, 0.2], 1.0), [0.1, 0.2]);
}

#[test]
fn a_broken_model_stays_visible_in_every_merge() {
    let (bad, good) = ([f32::NAN, 1.0], [1.0, 1.0]);
    assert!(ties(&[&bad, &good], &[1.0; 2], 1.0, 1.0, true)[0].is_nan());
    assert!(task_arithmetic(&[&bad, &good], &[1.0; 2], 0.4)[0].is_nan());
    assert!(slerp(0.5, &bad, &good)[0].is_nan());
    assert!(linear(&[&bad, &good], &[1.0; 2], true)[0].is_nan());
}

#[test]
fn dare_keeps_the_expectation_and_mergekits_variant_the_norm() {
    let delta: Vec<f32> = (0..20_000).map(|i| 1.0 + (i % 7) as f32).collect();
    let paper = dare(&delta, 0.7, Rescale::Paper, 3, "x.weight", 0);
    let kept = paper.iter().filter(|&&x| x != 0.0).count() as f64 / 20_000.0;
    assert!((kept - 0.3).abs() < 0.015, "kept {kept}");
    let scale = 1.0 / 0.3;
    assert!(
        paper
            .iter()
            .zip(&delta)
            .all(|(p, d)| *p == 0.0 || (p / d - scale).abs() < 1e-5)
    );
    let sum = |v: &[f32]| v.iter().map(|&x| f64::from(x)).sum::<f64>();
    assert!((sum(&paper) / sum(&delta) - 1.0).abs() < 0.04);
    let same_norm = dare(&delta, 0.7, Rescale::Mergekit, 3, "x.weight", 0);
    assert!((sum(&same_norm) / sum(&delta) - 1.0).abs() < 1e-6);
}

#[test]
fn dare_masks_depend_on_seed_tensor_and_model_and_on_nothing_else() {
    let delta = [1.0f32; 512];
    let mask = |seed, name, model| dare(&delta, 0.5, Rescale::Paper, seed, name, model);
    let first = mask(1, "a", 0);
    assert_eq!(first, mask(1, "a", 0));
    assert_ne!(first, mask(2, "a", 0));
    assert_ne!(first, mask(1, "b", 0));
    assert_ne!(first, mask(1, "a", 1));
    // Element i does not know how long the tensor is.
    assert_eq!(
        first[..100],
        dare(&delta[..100], 0.5, Rescale::Paper, 1, "a", 0)[..]
    );
    assert_eq!(dare(&delta, 0.0, Rescale::Paper, 1, "a", 0), delta);
}

#[test]
fn elementary_functions_agree_with_the_platform() {
    let draws = Counted::new(5, "angles", 0);
    for i in 0..2_000 {
        let x = draws.uniform(i) * std::f64::consts::PI;
        assert!(
            (sin(x) - x.sin()).abs() < 4e-16 && (cos(x) - x.cos()).abs() < 4e-16,
            "{x}"
        );
        let c = draws.uniform(i + 10_000) * 1.9998 - 0.9999;
        assert!((arccos(c) - c.acos()).abs() < 1e-13, "{c}");
        let e = draws.uniform(i + 20_000) * 60.0 - 40.0;
        assert!((exp(e) / e.exp() - 1.0).abs() < 1e-14, "{e}");
        let l = e.exp();
        assert!((ln(l) - l.ln()).abs() < 1e-14 * e.abs().max(0.1), "{l}");
    }
    assert_eq!((exp(0.0), exp(-1e9), exp(1e9)), (1.0, 0.0, f64::INFINITY));
    assert!(exp(f64::NAN).is_nan() && ln(f64::NAN).is_nan() && ln(-1.0).is_nan());
    assert_eq!((ln(1.0), ln(0.0)), (0.0, f64::NEG_INFINITY));
    assert_eq!(ln(f64::INFINITY), f64::INFINITY);
}
