//! The element loops of the methods, over one block.
//!
//! Sums run over the models, per element, in the order of the models, in f64. Where a merge is done in bf16 or f16
//! (`Dtype`), each operation rounds as PyTorch's does; see `rounding`.

use crate::rounding::{Dtype, Rounding, rounded};
use kernels::multiversion;

multiversion! {
    fn subtract_loop<R: Rounding>(_to: R, x: &mut [f32], base: &[f32]) {
        for (x, b) in x.iter_mut().zip(base) { *x = R::last(*x - b); }
    }
}
/// x = x - base
pub(crate) fn subtract(dtype: Dtype, x: &mut [f32], base: &[f32]) {
    rounded!(dtype, subtract_loop(x, base));
}

multiversion! {
    fn add_loop<R: Rounding>(_to: R, x: &mut [f32], base: &[f32]) {
        for (x, b) in x.iter_mut().zip(base) { *x = R::last(b + *x); }
    }
}
/// x = base + x
pub(crate) fn add(dtype: Dtype, x: &mut [f32], base: &[f32]) {
    rounded!(dtype, add_loop(x, base));
}

multiversion! {
    fn scale_loop<R: Rounding>(_to: R, x: &mut [f32], factor: f64) {
        for x in x { *x = R::last((factor * f64::from(*x)) as f32); }
    }
}
/// x = factor x
pub(crate) fn scale(dtype: Dtype, x: &mut [f32], factor: f64) {
    rounded!(dtype, scale_loop(x, factor));
}

multiversion! {
    fn add_weighted_loop<R: Rounding>(_to: R, x: &[f32], weight: f64, sum: &mut [f64]) {
        for (s, x) in sum.iter_mut().zip(x) { *s += R::round(weight * f64::from(*x)); }
    }
}
/// sum += weight x
pub(crate) fn add_weighted(dtype: Dtype, x: &[f32], weight: f64, sum: &mut [f64]) {
    rounded!(dtype, add_weighted_loop(x, weight, sum));
}

/// What is summed where models agree with the elected sign.
pub(crate) struct Agreement<'a> {
    /// Its sign is elected; zero counts as plus.
    pub(crate) elected: &'a [f64],
    /// Sum of what agrees.
    pub(crate) sum: &'a mut [f64],
    /// Sum of the weights of what agrees.
    pub(crate) share: &'a mut [f64],
}

multiversion! {
    fn add_agreeing_loop<R: Rounding>(_to: R, x: &[f32], weight: f64, into: Agreement) {
        let n = x.len();
        let (elected, sum, share) = (&into.elected[..n], &mut into.sum[..n], &mut into.share[..n]);
        for i in 0..n {
            let x = R::round(weight * f64::from(x[i]));
            let along = if elected[i] >= 0.0 { x } else { -x };
            // Not `along > 0`: a NaN is added, since a broken model must stay visible in the merge.
            sum[i] += if along <= 0.0 { 0.0 } else { x };
            share[i] += if along > 0.0 { weight } else { 0.0 };
        }
    }
}
/// Where the sign of weight x is the elected one: sum += weight x, share += weight
pub(crate) fn add_agreeing(dtype: Dtype, x: &[f32], weight: f64, into: Agreement) {
    rounded!(dtype, add_agreeing_loop(x, weight, into));
}

multiversion! {
    fn quotient_loop<R: Rounding>(_to: R, sum: &[f64], divisor: &[f64], lambda: f64, out: &mut [f32]) {
        for ((o, &sum), &divisor) in out.iter_mut().zip(sum).zip(divisor) {
            let divisor = R::round(divisor);
            let divisor = if divisor.abs() >= 1e-8 { divisor } else { 1.0 };
            let merged = if R::EACH {
                R::round(R::round(R::round(sum) / divisor) * lambda)
            } else {
                lambda * sum / divisor
            };
            *o = merged as f32;
        }
    }
}
/// out = lambda sum / divisor; a divisor of nothing counts as 1.
pub(crate) fn quotient(dtype: Dtype, sum: &[f64], divisor: &[f64], lambda: f64, out: &mut [f32]) {
    rounded!(dtype, quotient_loop(sum, divisor, lambda, out));
}

multiversion! {
    fn mean_loop<R: Rounding>(_to: R, sum: &[f64], divisor: f64, out: &mut [f32]) {
        for (o, &sum) in out.iter_mut().zip(sum) { *o = R::last((sum / divisor) as f32); }
    }
}
/// out = sum / divisor, rounded once
pub(crate) fn mean(dtype: Dtype, sum: &[f64], divisor: f64, out: &mut [f32]) {
    rounded!(dtype, mean_loop(sum, divisor, out));
}

multiversion! {
    fn mix_loop<R: Rounding>(_to: R, a: &mut [f32], b: &[f32], from: f64, to: f64) {
        for (a, b) in a.iter_mut().zip(b) {
            *a = R::last((from * f64::from(*a) + to * f64::from(*b)) as f32);
        }
    }
}
/// a = from a + to b, rounded once
pub(crate) fn mix(dtype: Dtype, a: &mut [f32], b: &[f32], from: f64, to: f64) {
    rounded!(dtype, mix_loop(a, b, from, to));
}

/// Accumulators of a sum within a block; more than one, so that the additions need not wait for each other.
const LANES: usize = 16;

multiversion! {
    fn products(a: &[f32], b: &[f32]) -> f64 {
        let mut lanes = [0.0f64; LANES];
        let (a, rest_a) = a.as_chunks::<LANES>();
        let (b, rest_b) = b.as_chunks::<LANES>();
        for (a, b) in a.iter().zip(b) {
            for i in 0..LANES { lanes[i] += f64::from(a[i]) * f64::from(b[i]); }
        }
        for (i, (a, b)) in rest_a.iter().zip(rest_b).enumerate() {
            lanes[i] += f64::from(*a) * f64::from(*b);
        }
        lanes.iter().sum()
    }
}
/// sum a b, in a fixed order
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    products(a, b)
}

multiversion! {
    fn magnitudes(x: &[f32]) -> f64 {
        let mut lanes = [0.0f64; LANES];
        let (x, rest) = x.as_chunks::<LANES>();
        for x in x {
            for i in 0..LANES { lanes[i] += f64::from(x[i].abs()); }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) { *lane += f64::from(x.abs()); }
        lanes.iter().sum()
    }
}
/// sum |x|, in a fixed order
pub(crate) fn l1(x: &[f32]) -> f64 {
    magnitudes(x)
}
