//! Cross-entropy fused with the output head: the logits of a block of rows live only while they are used.
//!
//! nll[i] = logsumexp_v(h_i . e_v) - h_i . e_target. Blocks of rows follow one another; inside a block
//! the products are parallel. The backward pass recomputes the logits instead of keeping N x V of them.

use super::gemm::gemm;
use crate::isa::multiversion;
use crate::math;
use rayon::prelude::*;

/// Rows whose logits are alive at once.
const ROWS: usize = 512;

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
    fn probabilities(x: &mut [f32], lse: f32, scale: f32) {
        for x in x.iter_mut() { *x = math::exp(*x - lse) * scale; }
    }
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
    let mut logits = vec![0.0; ROWS.min(n) * v];
    for lo in (0..n).step_by(ROWS) {
        let rows = ROWS.min(n - lo);
        let block = &mut logits[..rows * v];
        gemm(
            rows,
            v,
            width,
            1.0,
            &h[lo * width..],
            width,
            1,
            table,
            1,
            width,
            0.0,
            block,
            v,
        );
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
}

/// Adds to dh [N, W] and dtable [V, W] the gradient of sum_i weight_i nll_i. Rows of weight zero are skipped.
#[allow(clippy::too_many_arguments)]
pub fn cross_entropy_backward(
    h: &[f32],
    table: &[f32],
    width: usize,
    targets: &[u32],
    lse: &[f32],
    weight: &[f32],
    dh: &mut [f32],
    dtable: &mut [f32],
) {
    let v = table.len() / width;
    // Only rows that carry loss take part.
    let live: Vec<usize> = (0..targets.len()).filter(|&i| weight[i] != 0.0).collect();
    let mut logits = vec![0.0; ROWS.min(live.len()) * v];
    let mut hb = vec![0.0; ROWS.min(live.len()) * width];
    let mut dhb = vec![0.0; ROWS.min(live.len()) * width];
    for rows in live.chunks(ROWS) {
        let r = rows.len();
        for (dst, &i) in hb.chunks_mut(width).zip(rows) {
            dst.copy_from_slice(&h[i * width..][..width]);
        }
        let block = &mut logits[..r * v];
        gemm(
            r, v, width, 1.0, &hb, width, 1, table, 1, width, 0.0, block, v,
        );
        block
            .par_chunks_mut(v)
            .zip(rows.par_iter())
            .for_each(|(x, &i)| {
                probabilities(x, lse[i], weight[i]);
                x[targets[i] as usize] -= weight[i];
            });
        gemm(
            r, width, v, 1.0, block, v, 1, table, width, 1, 0.0, &mut dhb, width,
        );
        gemm(
            v, width, r, 1.0, block, 1, v, &hb, width, 1, 1.0, dtable, width,
        );
        for (src, &i) in dhb.chunks(width).zip(rows) {
            for (d, s) in dh[i * width..][..width].iter_mut().zip(src) {
                *d += s;
            }
        }
    }
}
