//! Packing: operands copied into the order in which a tile reads them.
//!
//! A panel of B holds `cols` neighbouring columns as `[k, cols]`, zero beyond the last column. A packed tile
//! of A holds its rows as `[k, rows]`.

use crate::isa::{Isa, detect};

/// Columns `0..some` of B over `k` steps as a panel of `cols` columns.
///
/// # Safety
/// B covers `k` steps of `rsb` and `some` columns of `csb`; `to` has `k * cols` elements, `some <= cols`.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn panel(
    b: *const f32,
    rsb: usize,
    csb: usize,
    k: usize,
    some: usize,
    cols: usize,
    to: &mut [f32],
) {
    debug_assert!(some <= cols && to.len() >= k * cols);
    // SAFETY: promised by the caller.
    unsafe {
        if csb == 1 {
            for (p, row) in to.chunks_exact_mut(cols).enumerate().take(k) {
                let from = b.add(p * rsb);
                // A copy of known length is a few moves, one of unknown length a call.
                match (some, cols) {
                    (16, 16) => *row.as_mut_ptr().cast::<[f32; 16]>() = *from.cast(),
                    (32, 32) => *row.as_mut_ptr().cast::<[f32; 32]>() = *from.cast(),
                    _ => {
                        row[..some].copy_from_slice(std::slice::from_raw_parts(from, some));
                        row[some..].fill(0.0);
                    }
                }
            }
            return;
        }
        let mut from = (0, 0);
        #[cfg(target_arch = "x86_64")]
        if rsb == 1 && matches!(detect(), Isa::Avx2 | Isa::Avx512) {
            from = (k / 8 * 8, some / 8 * 8);
            for j in (0..from.1).step_by(8) {
                for p in (0..from.0).step_by(8) {
                    transpose(
                        b.add(j * csb + p),
                        csb,
                        to.as_mut_ptr().add(p * cols + j),
                        cols,
                    );
                }
            }
        }
        // What the 8 x 8 blocks left: the last steps of all columns, all steps of the last columns.
        for p in 0..k {
            let first = if p < from.0 { from.1 } else { 0 };
            for j in first..some {
                to[p * cols + j] = *b.add(p * rsb + j * csb);
            }
            to[p * cols + some..(p + 1) * cols].fill(0.0);
        }
    }
}

/// Rows `0..rows` of A over `k` steps, `[k, rows]`.
///
/// # Safety
/// A covers `rows` rows of `rsa` and `k` steps of `csa`; `to` has `k * rows` elements.
pub(super) unsafe fn rows(
    a: *const f32,
    rsa: usize,
    csa: usize,
    k: usize,
    rows: usize,
    to: &mut [f32],
) {
    // SAFETY: promised by the caller.
    unsafe {
        for (p, to) in to.chunks_exact_mut(rows).enumerate().take(k) {
            let a = a.add(p * csa);
            if rsa == 1 {
                // As above.
                match rows {
                    6 => *to.as_mut_ptr().cast::<[f32; 6]>() = *a.cast(),
                    12 => *to.as_mut_ptr().cast::<[f32; 12]>() = *a.cast(),
                    _ => to.copy_from_slice(std::slice::from_raw_parts(a, rows)),
                }
            } else {
                for (i, x) in to.iter_mut().enumerate() {
                    *x = *a.add(i * rsa);
                }
            }
        }
    }
}

/// An 8 x 8 block of `x` (rows `stride` apart) transposed into `y`.
///
/// # Safety
/// Both blocks are there, and the CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose(x: *const f32, stride: usize, y: *mut f32, out: usize) {
    use std::arch::x86_64::*;
    // SAFETY: promised by the caller.
    unsafe {
        let row = |i: usize| _mm256_loadu_ps(x.add(i * stride));
        // Pairs of rows interleaved, then pairs of pairs, then the halves exchanged.
        let pair = |i: usize| {
            let (a, b) = (row(i), row(i + 1));
            (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b))
        };
        let quad = |i: usize| {
            let ((a, b), (c, d)) = (pair(i), pair(i + 2));
            [
                _mm256_shuffle_ps::<0x44>(a, c),
                _mm256_shuffle_ps::<0xee>(a, c),
                _mm256_shuffle_ps::<0x44>(b, d),
                _mm256_shuffle_ps::<0xee>(b, d),
            ]
        };
        let (low, high) = (quad(0), quad(4));
        for i in 0..4 {
            _mm256_storeu_ps(
                y.add(i * out),
                _mm256_permute2f128_ps::<0x20>(low[i], high[i]),
            );
            _mm256_storeu_ps(
                y.add((i + 4) * out),
                _mm256_permute2f128_ps::<0x31>(low[i], high[i]),
            );
        }
    }
}
