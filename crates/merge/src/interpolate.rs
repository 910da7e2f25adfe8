//! Interpolation between tensors: weighted mean, SLERP of two, nested SLERP of three.
//!
//! Shapes: every slice is one flattened tensor of n elements; the result has n elements.

use crate::elementary::{arccos, sin};

/// Above this |cosine| two tensors count as collinear and are interpolated linearly (mergekit).
pub const COLLINEAR: f64 = 0.9995;

/// Panics unless all tensors have the length of the first: mixing shapes is the caller's mistake.
#[track_caller]
pub(crate) fn same_length(op: &str, tensors: &[&[f32]]) -> usize {
    let n = tensors.first().map_or(0, |t| t.len());
    let lengths: Vec<usize> = tensors.iter().map(|t| t.len()).collect();
    assert!(
        lengths.iter().all(|&l| l == n),
        "{op}: tensors of different lengths {lengths:?}"
    );
    n
}

/// sum_i w_i t_i / sum_i w_i. With `normalize` false (or weights that sum to less than 1e-8 in
/// magnitude) the sum is not divided.
#[track_caller]
pub fn linear(tensors: &[&[f32]], weights: &[f64], normalize: bool) -> Vec<f32> {
    let n = same_length("linear", tensors);
    assert_eq!(
        tensors.len(),
        weights.len(),
        "linear: one weight per tensor"
    );
    let total: f64 = weights.iter().sum();
    let divisor = if normalize && total.abs() >= 1e-8 {
        total
    } else {
        1.0
    };
    (0..n)
        .map(|i| {
            let sum: f64 = tensors
                .iter()
                .zip(weights)
                .map(|(t, w)| w * f64::from(t[i]))
                .sum();
            (sum / divisor) as f32
        })
        .collect()
}

/// Spherical interpolation from `a` (t = 0) to `b` (t = 1) of whole flattened tensors, as mergekit:
/// the angle is measured between the normalised tensors (a norm of at most 1e-8 is left as it is),
/// the two coefficients act on the tensors as they are. Collinear tensors get a linear mix.
///
/// On raw weights of siblings the cosine usually exceeds the threshold and this *is* the linear
/// mix; run it on task vectors.
#[track_caller]
pub fn slerp(t: f64, a: &[f32], b: &[f32]) -> Vec<f32> {
    same_length("slerp", &[a, b]);
    let (mut aa, mut bb, mut ab) = (0.0f64, 0.0f64, 0.0f64);
    for (&x, &y) in a.iter().zip(b) {
        let (x, y) = (f64::from(x), f64::from(y));
        aa += x * x;
        bb += y * y;
        ab += x * y;
    }
    let norm = |square: f64| {
        if square.sqrt() > 1e-8 {
            square.sqrt()
        } else {
            1.0
        }
    };
    let cosine = ab / norm(aa) / norm(bb);
    // Written so that a cosine of NaN, from a broken tensor, takes the linear branch and stays NaN.
    let (from, to) = if cosine.abs() <= COLLINEAR {
        let angle = arccos(cosine);
        (
            sin((1.0 - t) * angle) / sin(angle),
            sin(t * angle) / sin(angle),
        )
    } else {
        (1.0 - t, t)
    };
    a.iter()
        .zip(b)
        .map(|(&x, &y)| (from * f64::from(x) + to * f64::from(y)) as f32)
        .collect()
}

/// Nested SLERP of three: `t[0]` goes from the first to the second, `t[1]` from there to the third.
/// `[1/2, 1/3]` gives each the same share where the three are collinear.
#[track_caller]
pub fn slerp3(t: [f64; 2], tensors: [&[f32]; 3]) -> Vec<f32> {
    let pair = slerp(t[0], tensors[0], tensors[1]);
    slerp(t[1], &pair, tensors[2])
}
