//! Interpolation between tensors in memory: weighted mean, SLERP of two, nested SLERP of three.
//!
//! Shapes: every slice is one flattened tensor of n elements; the result has n elements. The work is done by the methods
//! of the table; these are their forms for whoever holds tensors, such as a search.

use crate::arithmetic::collected;
use crate::elementary::{arccos, sin, sine};
use crate::methods;
use crate::operand::Operand;
use crate::table::Parameters;

/// Above this |cosine| two tensors count as collinear and are interpolated linearly (mergekit).
pub const COLLINEAR: f64 = 0.9995;

/// sum_i w_i t_i / sum_i w_i. With `normalize` false (or weights that sum to less than 1e-8 in
/// magnitude) the sum is not divided.
#[track_caller]
pub fn linear(tensors: &[&[f32]], weights: &[f64], normalize: bool) -> Vec<f32> {
    assert_eq!(
        tensors.len(),
        weights.len(),
        "linear: one weight per tensor"
    );
    let parameters = Parameters {
        tensor: vec![("normalize", f64::from(u8::from(normalize)))],
        models: weights.iter().map(|w| vec![("weight", *w)]).collect(),
        seed: 0,
    };
    collected(None, tensors, &parameters, methods::linear)
}

/// Spherical interpolation from `a` (t = 0) to `b` (t = 1) of whole flattened tensors, as mergekit:
/// the angle is measured between the normalised tensors (a norm of at most 1e-8 is left as it is),
/// the two coefficients act on the tensors as they are. Collinear tensors get a linear mix.
///
/// On raw weights of siblings the cosine usually exceeds the threshold and this *is* the linear
/// mix; run it on task vectors.
#[track_caller]
pub fn slerp(t: f64, a: &[f32], b: &[f32]) -> Vec<f32> {
    let parameters = Parameters {
        tensor: vec![("t", t)],
        models: vec![Vec::new()],
        seed: 0,
    };
    collected(Some(Operand::from(a)), &[b], &parameters, methods::slerp)
}

/// The coefficients of two tensors on the arc between them, from the sums of their squares and of their products.
pub(crate) fn angle_coefficients(t: f64, aa: f64, bb: f64, ab: f64) -> (f64, f64) {
    let norm = |square: f64| {
        if square.sqrt() > 1e-8 {
            square.sqrt()
        } else {
            1.0
        }
    };
    let cosine = ab / norm(aa) / norm(bb);
    // Written so that a cosine of NaN, from a broken tensor, takes the linear branch and stays NaN.
    if cosine.abs() <= COLLINEAR {
        let angle = arccos(cosine);
        // Within [0, 1] the series runs unreduced, as it always did: recorded runs hang on its bits.
        let arc = |x: f64| {
            if (0.0..=1.0).contains(&t) {
                sin(x)
            } else {
                sine(x)
            }
        };
        (
            arc((1.0 - t) * angle) / sin(angle),
            arc(t * angle) / sin(angle),
        )
    } else {
        (1.0 - t, t)
    }
}

/// Nested SLERP of three: `t[0]` goes from the first to the second, `t[1]` from there to the third.
/// `[1/2, 1/3]` gives each the same share where the three are collinear.
#[track_caller]
pub fn slerp3(t: [f64; 2], tensors: [&[f32]; 3]) -> Vec<f32> {
    let pair = slerp(t[0], tensors[0], tensors[1]);
    slerp(t[1], &pair, tensors[2])
}
