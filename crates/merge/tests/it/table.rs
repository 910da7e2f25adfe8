//! The table as a configuration file uses it: whole models in, whole tensor out, errors first.

use merge::{Base, Dtype, Error, Inputs, METHODS, Method, Operand, Parameters, method};

const BASE: [f32; 3] = [1.0, 1.0, 1.0];
const A: [f32; 3] = [2.0, 1.0, 0.0];
const B: [f32; 3] = [1.0, 3.0, 1.0];

fn run(row: &Method, base: &[f32], models: &[&[f32]], parameters: &Parameters) -> Vec<f32> {
    let models: Vec<Operand> = models.iter().map(|m| Operand::from(*m)).collect();
    let base = (row.base != Base::Unknown).then(|| Operand::from(base));
    row.check(parameters, base.is_some()).unwrap();
    let inputs = Inputs {
        tensor: "w",
        shape: &[base.iter().chain(&models).next().unwrap().len()],
        dtype: Dtype::F32,
        base,
        models: &models,
    };
    let mut merged = Vec::new();
    (row.run)(&inputs, parameters, &mut |block| {
        merged.extend_from_slice(block)
    })
    .unwrap();
    merged
}

fn of(name: &str, models: usize) -> (&'static Method, Parameters) {
    let row = method(name).unwrap();
    (row, Parameters::defaults(row, models))
}

#[test]
fn methods_on_task_vectors_add_the_base_back() {
    for name in [
        "task_arithmetic",
        "ties",
        "dare_linear",
        "dare_ties",
        "breadcrumbs",
        "della",
    ] {
        let (row, p) = of(name, 2);
        let merged = run(row, &BASE, &[&A, &B], &p.with("lambda", 0.5));
        assert_eq!(merged, [1.5, 2.0, 0.5], "{name}");
    }
    let (row, p) = of("passthrough", 1);
    assert_eq!(
        run(row, &BASE, &[&B], &p.with("scale", 2.0)),
        [2.0, 6.0, 2.0]
    );
    let (row, p) = of("nearswap", 1);
    assert_eq!(run(row, &BASE, &[&B], &p.with("t", 0.5)), [1.0, 1.5, 1.0]);
    let (row, p) = of("ties", 0);
    assert_eq!(run(row, &BASE, &[], &p), BASE, "no model leaves the base");
}

#[test]
fn merging_a_model_with_itself_gives_it_back_by_every_method() {
    let wide: Vec<f32> = (0..5000).map(|i| (i as f32 * 0.37).sin()).collect();
    let base: Vec<f32> = (0..5000).map(|i| (i as f32 * 0.11).cos()).collect();
    for row in METHODS {
        let models: Vec<&[f32]> = vec![&wide; row.models.0.max(1)];
        let mut p = Parameters::defaults(row, models.len());
        if row.parameter("t").is_some() {
            p = p.with("t", if row.name == "nearswap" { 10.0 } else { 1.0 });
        }
        if row.name == "task_arithmetic"
            || row.name.ends_with("linear")
            || row.name == "breadcrumbs"
        {
            p = p.with_each("weight", &vec![1.0 / models.len() as f64; models.len()]);
        }
        for (i, (x, y)) in run(row, &base, &models, &p).iter().zip(&wide).enumerate() {
            assert!(
                (x - y).abs() < 4e-7,
                "{}: element {i} {x} against {y}",
                row.name
            );
        }
    }
}

#[test]
fn dropped_shares_are_those_asked_for() {
    let n = 64 * 500;
    let model: Vec<f32> = (0..n)
        .map(|i| 2.0 + (i * 7919 % n) as f32 / n as f32)
        .collect();
    let zero = vec![0.0; n];
    for (name, density, kept) in [
        ("dare_linear", 0.3, 0.3),
        ("della_linear", 0.4, 0.4),
        ("breadcrumbs", 0.25, 0.25),
        ("ties", 0.25, 0.25),
    ] {
        let (row, p) = of(name, 1);
        let p = p.with("density", density);
        let merged = run(row, &zero, &[&model], &p);
        let share = merged.iter().filter(|x| **x != 0.0).count() as f64 / n as f64;
        assert!((share - kept).abs() < 0.02, "{name}: {share}");
        if name.ends_with("linear") {
            let l1 = |v: &[f32]| v.iter().map(|x| f64::from(x.abs())).sum::<f64>();
            assert!(
                (l1(&merged) / l1(&model) - 1.0).abs() < 1e-5,
                "{name}: norm"
            );
        } else {
            let most = merged.iter().fold(0.0f32, |m, x| m.max(*x));
            // The largest hundredth are the outliers that breadcrumbs leave out.
            assert_eq!(name == "breadcrumbs", most < 2.99, "{name}: {most}");
        }
    }
}

#[test]
fn random_masks_follow_the_seed_and_not_the_walk() {
    let model: Vec<f32> = (0..4096).map(|i| 1.0 + (i % 97) as f32).collect();
    let zero = vec![0.0; 4096];
    for name in ["dare_ties", "della"] {
        let (row, p) = of(name, 1);
        let p = p.with("density", 0.5).with("rescale", 0.0);
        let first = run(row, &zero, &[&model], &p);
        assert_eq!(first, run(row, &zero, &[&model], &p));
        let other = Parameters {
            seed: 1,
            ..p.clone()
        };
        assert_ne!(first, run(row, &zero, &[&model], &other));
        if name == "dare_ties" {
            assert_eq!(
                first[..3000],
                run(row, &zero[..3000], &[&model[..3000]], &p)
            );
        }
    }
}

#[test]
fn wrong_settings_are_refused_with_what_is_allowed() {
    let unknown = method("tise").unwrap_err().to_string();
    assert!(
        unknown.contains("did you mean `ties`?") && unknown.contains("linear, slerp"),
        "{unknown}"
    );
    let (slerp, p) = of("slerp", 4);
    assert!(matches!(
        slerp.check(&p, true),
        Err(Error::Models { found: 4, .. })
    ));
    let (ties, p) = of("ties", 2);
    assert!(matches!(
        ties.check(&p, false),
        Err(Error::NoBase { method: "ties" })
    ));
    for (key, value) in [
        ("density", -0.5),
        ("density", f64::NAN),
        ("lambda", f64::INFINITY),
        ("weight", f64::NAN),
    ] {
        let bad = p.clone().with(key, value);
        let message = ties.check(&bad, true).unwrap_err().to_string();
        assert!(
            message.contains(key) && message.contains("allowed"),
            "{message}"
        );
    }
}

#[test]
#[should_panic(expected = "different lengths [2, 3]")]
fn tensors_of_different_lengths_are_a_programmers_mistake() {
    merge::linear(&[&A[..2], &B], &[1.0, 1.0], true);
}
