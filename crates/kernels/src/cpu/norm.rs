//! RMS normalisation of rows, and the per-head form with rotary embedding.
//!
//! y = x r w, r = (mean x^2 + eps)^(-1/2) (Zhang & Sennrich 2019). The head form normalises each head,
//! multiplies by one learned gain a head (QK-norm), then rotates the pairs (i, i + hd/2) by the angle of
//! the row's position (RoPE, Su et al. 2021, in the half-split layout of Hugging Face's Llama).

use super::elementwise::{ROW_BLOCK, reduce_rows};
use crate::isa::multiversion;
use crate::math::{self, LANES, lanes};
use rayon::prelude::*;

multiversion! {
    pub(super) fn rms_row(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> f32 {
        let r = 1.0 / (math::dot(x, x) / x.len() as f32 + eps).sqrt();
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) { *y = x * r * w; }
        r
    }
}

multiversion! {
    pub(super) fn rms_backward_row(x: &[f32], w: &[f32], r: f32, dy: &[f32], add: bool, dx: &mut [f32], dw: &mut [f32]) {
        // dx = r (g - x r^2 mean(g x)), with g = dy w
        let n = x.len();
        let (w, dy, dx, dw) = (&w[..n], &dy[..n], &mut dx[..n], &mut dw[..n]);
        let c = math::dot3(dy, w, x) * r * r / n as f32;
        if add {
            for i in 0..n { dx[i] += r * (dy[i] * w[i] - x[i] * c); }
        } else {
            for i in 0..n { dx[i] = r * (dy[i] * w[i] - x[i] * c); }
        }
        for i in 0..n { dw[i] += dy[i] * x[i] * r; }
    }
}

/// y [N, D] and the reciprocal root mean square of each row [N].
pub fn rms_norm(x: &[f32], w: &[f32], eps: f32, y: &mut [f32], rstd: &mut [f32]) {
    let d = w.len();
    y.par_chunks_mut(d)
        .zip(x.par_chunks(d))
        .zip(rstd.par_iter_mut())
        .with_min_len(16)
        .for_each(|((y, x), r)| *r = rms_row(x, w, eps, y));
}

/// dx is added to what is there with `add`, else put in its place; dw is added to.
#[allow(clippy::too_many_arguments)]
pub fn rms_norm_backward(
    x: &[f32],
    w: &[f32],
    rstd: &[f32],
    dy: &[f32],
    add: bool,
    dx: &mut [f32],
    dw: &mut [f32],
) {
    let d = w.len();
    let parts: Vec<Vec<f32>> = dx
        .par_chunks_mut(ROW_BLOCK * d)
        .enumerate()
        .map(|(block, dx)| {
            let mut part = vec![0.0; d];
            for (i, dx) in dx.chunks_mut(d).enumerate() {
                let row = block * ROW_BLOCK + i;
                let (x, dy) = (&x[row * d..][..d], &dy[row * d..][..d]);
                rms_backward_row(x, w, rstd[row], dy, add, dx, &mut part);
            }
            part
        })
        .collect();
    for part in parts {
        for (sum, x) in dw.iter_mut().zip(part) {
            *sum += x;
        }
    }
}

/// Cosines and sines of the rotary embedding for N rows: two slices of [N, hd/2].
#[derive(Clone, Copy)]
pub struct Rotation<'a> {
    /// cos(position * frequency)
    pub cos: &'a [f32],
    /// sin(position * frequency)
    pub sin: &'a [f32],
}

impl<'a> Rotation<'a> {
    /// Cosines and sines of a row, for heads of `width`.
    fn row(self, i: usize, width: usize) -> (&'a [f32], &'a [f32]) {
        let half = width / 2;
        (&self.cos[i * half..][..half], &self.sin[i * half..][..half])
    }
}

/// Fills the rotary tables: frequency i of hd/2 is theta^(-2 i / hd).
pub fn rotation_table(
    positions: &[u32],
    half: usize,
    theta: f64,
    cos: &mut [f32],
    sin: &mut [f32],
) {
    let frequencies: Vec<f64> = (0..half)
        .map(|i| theta.powf(-(i as f64) / half as f64))
        .collect();
    cos.par_chunks_mut(half)
        .zip(sin.par_chunks_mut(half))
        .zip(positions.par_iter())
        .with_min_len(64)
        .for_each(|((c, s), &p)| {
            for i in 0..half {
                let (sin, cos) = (f64::from(p) * frequencies[i]).sin_cos();
                c[i] = cos as f32;
                s[i] = sin as f32;
            }
        });
}

/// The row of a rotation, or no turn at all.
#[inline(always)]
fn turn(rotation: Option<(&[f32], &[f32])>, at: usize) -> [[f32; LANES]; 2] {
    match rotation {
        Some((cos, sin)) => [lanes(cos, at), lanes(sin, at)],
        None => [[1.0; LANES], [0.0; LANES]],
    }
}

multiversion! {
    /// One row of heads: y = f x, f = gain r, rotated; `r` and `y` are overwritten.
    fn heads_row(x: &[f32], gain: Option<&[f32]>, rotation: Option<(&[f32], &[f32])>, y: &mut [f32], r: &mut [f32]) {
        let hd = x.len() / r.len();
        let half = hd / 2;
        for (h, (x, y)) in x.chunks_exact(hd).zip(y.chunks_exact_mut(hd)).enumerate() {
            // No closures: what they call would not be compiled for the path.
            let f = match gain {
                Some(gain) => {
                    r[h] = 1.0 / (math::dot(x, x) / hd as f32 + HEAD_EPS).sqrt();
                    gain[h] * r[h]
                }
                None => { r[h] = 1.0; 1.0 }
            };
            let whole = half / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                let ([cos, sin], mut a, mut b) = (turn(rotation, at), lanes(x, at), lanes(x, half + at));
                for i in 0..LANES {
                    let (p, q) = (a[i] * f, b[i] * f);
                    a[i] = p * cos[i] - q * sin[i];
                    b[i] = q * cos[i] + p * sin[i];
                }
                y[at..at + LANES].copy_from_slice(&a);
                y[half + at..half + at + LANES].copy_from_slice(&b);
            }
            for i in whole..half {
                let (c, s) = match rotation { Some((cos, sin)) => (cos[i], sin[i]), None => (1.0, 0.0) };
                let (p, q) = (x[i] * f, x[half + i] * f);
                y[i] = p * c - q * s;
                y[half + i] = q * c + p * s;
            }
            if hd % 2 == 1 { y[hd - 1] = x[hd - 1] * f; }
        }
    }
}

multiversion! {
    /// Backward of [`heads_row`]: `dx` is overwritten, and `dgain` by this row's part of the gain's gradient.
    fn heads_backward_row(x: &[f32], gain: Option<&[f32]>, rotation: Option<(&[f32], &[f32])>, r: &[f32], dy: &[f32], dx: &mut [f32], dgain: &mut [f32]) {
        let hd = x.len() / r.len();
        let half = hd / 2;
        let heads = x.chunks_exact(hd).zip(dy.chunks_exact(hd)).zip(dx.chunks_exact_mut(hd));
        for (h, ((x, dy), dx)) in heads.enumerate() {
            let whole = half / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                let ([cos, sin], mut a, mut b) = (turn(rotation, at), lanes(dy, at), lanes(dy, half + at));
                for i in 0..LANES {
                    let (p, q) = (a[i], b[i]);
                    a[i] = p * cos[i] + q * sin[i];
                    b[i] = q * cos[i] - p * sin[i];
                }
                dx[at..at + LANES].copy_from_slice(&a);
                dx[half + at..half + at + LANES].copy_from_slice(&b);
            }
            for i in whole..half {
                let (c, s) = match rotation { Some((cos, sin)) => (cos[i], sin[i]), None => (1.0, 0.0) };
                dx[i] = dy[i] * c + dy[half + i] * s;
                dx[half + i] = dy[half + i] * c - dy[i] * s;
            }
            if hd % 2 == 1 { dx[hd - 1] = dy[hd - 1]; }
            if let Some(gain) = gain {
                // Of the unrotated dy.
                let along = math::dot(dx, x);
                dgain[h] = along * r[h];
                let (f, c) = (gain[h] * r[h], along * r[h] * r[h] / hd as f32);
                for (d, &x) in dx.iter_mut().zip(x) { *d = f * (*d - x * c); }
            }
        }
    }
}

const HEAD_EPS: f32 = 1e-6;

/// Per-head normalisation with gain (when given) and rotation (when given) of x [N, H hd]; `rstd` [N, H].
pub fn head_norm_rope(
    x: &[f32],
    heads: usize,
    gain: Option<&[f32]>,
    rotation: Option<Rotation>,
    y: &mut [f32],
    rstd: &mut [f32],
) {
    let rows = rstd.len() / heads;
    if rows == 0 {
        return;
    }
    let d = x.len() / rows;
    y.par_chunks_mut(d)
        .zip(x.par_chunks(d))
        .zip(rstd.par_chunks_mut(heads))
        .enumerate()
        .with_min_len(16)
        .for_each(|(i, ((y, x), r))| {
            heads_row(x, gain, rotation.map(|t| t.row(i, d / heads)), y, r)
        });
}

/// Backward of [`head_norm_rope`]: dx is overwritten, dgain [H] is added to.
#[allow(clippy::too_many_arguments)]
pub fn head_norm_rope_backward(
    x: &[f32],
    heads: usize,
    gain: Option<&[f32]>,
    rotation: Option<Rotation>,
    rstd: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dgain: &mut [f32],
) {
    let rows = rstd.len() / heads;
    if rows == 0 {
        return;
    }
    let d = x.len() / rows;
    // Per row and head: sum of (unrotated dy) * x * r, the gradient of the gain.
    let mut parts = vec![0.0; rstd.len()];
    dx.par_chunks_mut(d)
        .zip(parts.par_chunks_mut(heads))
        .enumerate()
        .with_min_len(16)
        .for_each(|(i, (dx, parts))| {
            let (x, dy, r) = (
                &x[i * d..][..d],
                &dy[i * d..][..d],
                &rstd[i * heads..][..heads],
            );
            let rotation = rotation.map(|t| t.row(i, d / heads));
            heads_backward_row(x, gain, rotation, r, dy, dx, parts);
        });
    if gain.is_some() {
        reduce_rows(rows, heads, dgain, |i, acc| {
            for (a, p) in acc.iter_mut().zip(&parts[i * heads..][..heads]) {
                *a += p;
            }
        });
    }
}
