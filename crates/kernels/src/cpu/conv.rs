//! Depthwise causal convolution over the rows of each segment.
//!
//! out[i, d] = sum over j < W of w[d, j] x[i - W + 1 + j, d]; rows before the start of a segment come from
//! its left context, `left` [segments, W - 1, D] (oldest row first), or are zero without one.

use super::elementwise::reduce_rows;
use rayon::prelude::*;
use std::ops::Range;

/// Segment and row within it for each of `n` rows. The segments follow one another and hold every row:
/// a row outside them would be taken for the start of the first.
fn places(segments: &[Range<usize>], n: usize) -> Vec<(u32, u32)> {
    let mut places = Vec::with_capacity(n);
    for (s, range) in segments.iter().enumerate() {
        assert_eq!(
            range.start,
            places.len(),
            "causal_conv: segment {s} is {range:?}, the one before ends elsewhere"
        );
        places.extend((0..range.len()).map(|t| (s as u32, t as u32)));
    }
    assert_eq!(places.len(), n, "causal_conv: rows in segments and rows");
    places
}

/// Weights transposed to [W, D], so that the inner loop runs over neighbouring channels.
fn transpose(w: &[f32], width: usize) -> Vec<f32> {
    let d = w.len() / width;
    (0..width)
        .flat_map(|j| (0..d).map(move |c| w[c * width + j]))
        .collect()
}

/// The input row that tap `j` of row `t` of a segment reads; none before the start without a context.
#[allow(clippy::too_many_arguments)]
fn tap<'a>(
    x: &'a [f32],
    left: Option<&'a [f32]>,
    d: usize,
    width: usize,
    i: usize,
    s: u32,
    t: u32,
    j: usize,
) -> Option<&'a [f32]> {
    let back = width - 1 - j;
    if back <= t as usize {
        Some(&x[(i - back) * d..][..d])
    } else {
        // Row -1 of the segment is the last row of its context.
        let row = width - 1 + t as usize - back;
        left.map(|l| &l[(s as usize * (width - 1) + row) * d..][..d])
    }
}

/// Forward. x, out [N, D]; w [D, W].
pub fn causal_conv(
    x: &[f32],
    w: &[f32],
    width: usize,
    segments: &[Range<usize>],
    left: Option<&[f32]>,
    out: &mut [f32],
) {
    let d = w.len() / width;
    let wt = transpose(w, width);
    let places = places(segments, x.len() / d);
    out.par_chunks_mut(d)
        .enumerate()
        .with_min_len(16)
        .for_each(|(i, out)| {
            let (s, t) = places[i];
            out.fill(0.0);
            for j in 0..width {
                if let Some(row) = tap(x, left, d, width, i, s, t, j) {
                    for ((o, &x), &w) in out.iter_mut().zip(row).zip(&wt[j * d..][..d]) {
                        *o += x * w;
                    }
                }
            }
        });
}

/// Backward: dx [N, D] is overwritten; dw [D, W] and dleft are added to.
#[allow(clippy::too_many_arguments)]
pub fn causal_conv_backward(
    x: &[f32],
    w: &[f32],
    width: usize,
    segments: &[Range<usize>],
    left: Option<&[f32]>,
    dy: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
    dleft: Option<&mut [f32]>,
) {
    let d = w.len() / width;
    let n = x.len() / d;
    let wt = transpose(w, width);
    let places = places(segments, n);
    dx.par_chunks_mut(d)
        .enumerate()
        .with_min_len(16)
        .for_each(|(i, dx)| {
            dx.fill(0.0);
            let (s, t) = places[i];
            let remaining = segments[s as usize].len() - t as usize;
            for back in 0..width.min(remaining) {
                let j = width - 1 - back;
                for ((o, &g), &w) in dx
                    .iter_mut()
                    .zip(&dy[(i + back) * d..][..d])
                    .zip(&wt[j * d..][..d])
                {
                    *o += g * w;
                }
            }
        });
    let mut dwt = vec![0.0; d * width];
    reduce_rows(n, d * width, &mut dwt, |i, acc| {
        let (s, t) = places[i];
        for j in 0..width {
            if let Some(row) = tap(x, left, d, width, i, s, t, j) {
                for ((a, &x), &g) in acc[j * d..][..d].iter_mut().zip(row).zip(&dy[i * d..][..d]) {
                    *a += x * g;
                }
            }
        }
    });
    for c in 0..d {
        for j in 0..width {
            dw[c * width + j] += dwt[j * d + c];
        }
    }
    if let Some(dleft) = dleft {
        for (s, range) in segments.iter().enumerate() {
            for (t, i) in range.clone().enumerate().take(width - 1) {
                for j in 0..width - 1 - t {
                    // Tap j of row t lies `width - 1 - j` rows back, in row t + j of the context.
                    let at = (s * (width - 1) + t + j) * d;
                    for ((o, &g), &w) in dleft[at..][..d]
                        .iter_mut()
                        .zip(&dy[i * d..][..d])
                        .zip(&wt[j * d..][..d])
                    {
                        *o += g * w;
                    }
                }
            }
        }
    }
}
