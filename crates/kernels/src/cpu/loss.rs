//! Cross-entropy fused with the output head: the logits of a block of rows live only while they are used.
//!
//! nll[i] = logsumexp_v(h_i . e_v) - h_i . e_target. Blocks of rows follow one another; inside a block
//! the products are parallel. N x V logits are never kept: a weighted sum, as training wants it, takes its
//! gradient along in the forward pass; the general form computes the logits once more.

use super::gemm::gemm;
use super::scratch;
use crate::isa::multiversion;
use crate::math;
use rayon::prelude::*;

/// Rows whose logits are alive at once.
const ROWS: usize = 1024;

multiversion! {
    fn log_sum_exp(x: &[f32]) -> f32 {
        let m = math::max(x);
        let mut acc = [0.0f32; math::LANES];
        let chunks = x.chunks_exact(math::LANES);
        let rest = chunks.remainder();
        for c in chunks {
            for i in 0..math::LANES { acc[i] += math::exp(c[i] - m); }
        }
        for (i, &v) in rest.iter().enumerate() { acc[i] += math::exp(v - m); }
        m + math::ln(math::sum(&acc))
    }
}

multiversion! {
    /// softmax(x) times `scale` in place of x; gives the log-sum-exp.
    fn softmax_scaled(x: &mut [f32], scale: f32) -> f32 {
        let m = math::max(x);
        for x in x.iter_mut() { *x = math::exp(*x - m); }
        let s = math::sum(x);
        let factor = scale / s;
        for x in x.iter_mut() { *x *= factor; }
        m + math::ln(s)
    }
}

multiversion! {
    fn probabilities(x: &mut [f32], lse: f32, scale: f32) {
        for x in x.iter_mut() { *x = math::exp(*x - lse) * scale; }
    }
}

/// Logits of the rows of `h` [N, W] under `table` [V, W] into `logits` [N, V].
fn products(h: &[f32], table: &[f32], width: usize, logits: &mut [f32]) {
    let (n, v) = (h.len() / width, table.len() / width);
    gemm(
        n, v, width, 1.0, h, width, 1, table, 1, width, 0.0, logits, v,
    );
}

/// nll [N] and the log-sum-exp of each row [N], for h [N, W], table [V, W], targets [N].
pub fn cross_entropy(
    h: &[f32],
    table: &[f32],
    width: usize,
    targets: &[u32],
    nll: &mut [f32],
    lse: &mut [f32],
) {
    let v = table.len() / width;
    let n = targets.len();
    scratch::with(ROWS.min(n) * v, |logits| {
        for lo in (0..n).step_by(ROWS) {
            let rows = ROWS.min(n - lo);
            let block = &mut logits[..rows * v];
            products(&h[lo * width..(lo + rows) * width], table, width, block);
            nll[lo..lo + rows]
                .par_iter_mut()
                .zip(lse[lo..lo + rows].par_iter_mut())
                .zip(block.par_chunks(v))
                .enumerate()
                .for_each(|(i, ((nll, lse), x))| {
                    *lse = log_sum_exp(x);
                    *nll = *lse - x[targets[lo + i] as usize];
                });
        }
    });
}

/// Where the gradients of a loss go.
pub struct Gradients<'a> {
    /// [N, W], added to.
    pub h: &'a mut [f32],
    /// [V, W]
    pub table: &'a mut [f32],
    /// 1 adds the gradient of the table to what is there, 0 puts it in its place.
    pub beta: f32,
}

/// Adds the gradient of sum_i weight_i nll_i, and gives that sum. `lse` holds the log-sum-exp of each row
/// where the forward pass has been run before. Rows of weight zero are skipped.
#[allow(clippy::too_many_arguments)]
pub fn cross_entropy_backward(
    h: &[f32],
    table: &[f32],
    width: usize,
    targets: &[u32],
    lse: Option<&[f32]>,
    weight: &[f32],
    grads: Gradients,
) -> f64 {
    let v = table.len() / width;
    // Only rows that carry loss take part.
    let live: Vec<usize> = (0..targets.len()).filter(|&i| weight[i] != 0.0).collect();
    let most = ROWS.min(live.len());
    let mut beta = grads.beta;
    if live.is_empty() && beta == 0.0 {
        grads.table.fill(0.0);
    }
    let mut sum = 0.0;
    scratch::with(most * (v + 2 * width + 1), |buffer| {
        let (logits, rest) = buffer.split_at_mut(most * v);
        let (hb, rest) = rest.split_at_mut(most * width);
        let (dhb, losses) = rest.split_at_mut(most * width);
        for rows in live.chunks(ROWS) {
            let r = rows.len();
            let (hb, dhb) = (&mut hb[..r * width], &mut dhb[..r * width]);
            for (dst, &i) in hb.chunks_mut(width).zip(rows) {
                dst.copy_from_slice(&h[i * width..][..width]);
            }
            let block = &mut logits[..r * v];
            products(hb, table, width, block);
            block
                .par_chunks_mut(v)
                .zip(losses[..r].par_iter_mut())
                .zip(rows.par_iter())
                .for_each(|((x, loss), &i)| {
                    let target = targets[i] as usize;
                    let score = x[target];
                    let lse = match lse {
                        Some(lse) => {
                            probabilities(x, lse[i], weight[i]);
                            lse[i]
                        }
                        None => softmax_scaled(x, weight[i]),
                    };
                    *loss = weight[i] * (lse - score);
                    x[target] -= weight[i];
                });
            sum += losses[..r].iter().map(|&x| f64::from(x)).sum::<f64>();
            gemm(
                r, width, v, 1.0, block, v, 1, table, width, 1, 0.0, dhb, width,
            );
            gemm(
                v,
                width,
                r,
                1.0,
                block,
                1,
                v,
                hb,
                width,
                1,
                beta,
                grads.table,
                width,
            );
            beta = 1.0;
            for (src, &i) in dhb.chunks(width).zip(rows) {
                for (d, s) in grads.h[i * width..][..width].iter_mut().zip(src) {
                    *d += s;
                }
            }
        }
    });
    sum
}
