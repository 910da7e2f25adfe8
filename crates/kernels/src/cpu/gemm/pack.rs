//! Packing: operands copied into the order in which a tile reads them.
//!
//! A panel of B holds `cols` neighbouring columns as `[k, cols]`, zero beyond the last column. A packed tile
//! of A holds its rows as `[k, rows]`.

use crate::isa::{Isa, vectors};

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
        if rsb == 1 && matches!(vectors(), Isa::Avx2 | Isa::Avx512) {
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

/// Rows `0..rows` of A over `k` steps as tiles of `high` rows (the last one of what is left), each
/// `[k, its rows]`.
///
/// # Safety
/// A covers `rows` rows of `rsa` and `k` steps of `csa`; `to` has `k * rows` elements.
pub(super) unsafe fn rows(
    a: *const f32,
    rsa: usize,
    csa: usize,
    k: usize,
    rows: usize,
    high: usize,
    to: &mut [f32],
) {
    debug_assert!(to.len() >= k * rows);
    let to = to.as_mut_ptr();
    let whole = rows / high;
    // SAFETY: promised by the caller.
    unsafe {
        // Step by step over all tiles, so that a line of A is used whole while it is near.
        if rsa == 1 {
            for p in 0..k {
                let from = a.add(p * csa);
                for t in 0..whole {
                    let to = to.add((t * k + p) * high);
                    // A copy of known length is a few moves, one of unknown length a call.
                    match high {
                        6 => *to.cast::<[f32; 6]>() = *from.add(t * 6).cast(),
                        12 => *to.cast::<[f32; 12]>() = *from.add(t * 12).cast(),
                        _ => from.add(t * high).copy_to_nonoverlapping(to, high),
                    }
                }
            }
        } else {
            for t in 0..whole {
                let (from, to) = (a.add(t * high * rsa), to.add(t * high * k));
                #[cfg(target_arch = "x86_64")]
                let first = match high {
                    12 if csa == 1 => quads::<12>(from, rsa, k, to),
                    6 if csa == 1 => quads::<6>(from, rsa, k, to),
                    _ => 0,
                };
                #[cfg(not(target_arch = "x86_64"))]
                let first = 0;
                for p in first..k {
                    for i in 0..high {
                        *to.add(p * high + i) = *from.add(i * rsa + p * csa);
                    }
                }
            }
        }
        let (done, left) = (whole * high, rows % high);
        for p in 0..k {
            for i in 0..left {
                *to.add(done * k + p * left + i) = *a.add((done + i) * rsa + p * csa);
            }
        }
    }
}

/// `HIGH` rows (an even number), each of neighbouring elements, as `[k, HIGH]`, in blocks of four rows and steps;
/// gives how many steps it did, a multiple of 4.
///
/// # Safety
/// The rows are there `rsa` apart, and `to` has `HIGH * k` elements.
#[cfg(target_arch = "x86_64")]
unsafe fn quads<const HIGH: usize>(a: *const f32, rsa: usize, k: usize, to: *mut f32) -> usize {
    use std::arch::x86_64::*;
    let whole = k / 4 * 4;
    // SAFETY: promised by the caller; SSE2 is part of x86-64.
    unsafe {
        for p in (0..whole).step_by(4) {
            let (a, to) = (a.add(p), to.add(p * HIGH));
            let row = |i: usize| _mm_loadu_ps(a.add(i * rsa));
            let pair = |i: usize| {
                let (x, y) = (row(i), row(i + 1));
                (_mm_unpacklo_ps(x, y), _mm_unpackhi_ps(x, y))
            };
            for i in (0..HIGH / 4 * 4).step_by(4) {
                let ((l0, h0), (l1, h1)) = (pair(i), pair(i + 2));
                _mm_storeu_ps(to.add(i), _mm_movelh_ps(l0, l1));
                _mm_storeu_ps(to.add(HIGH + i), _mm_movehl_ps(l1, l0));
                _mm_storeu_ps(to.add(2 * HIGH + i), _mm_movelh_ps(h0, h1));
                _mm_storeu_ps(to.add(3 * HIGH + i), _mm_movehl_ps(h1, h0));
            }
            if HIGH % 4 == 2 {
                let (low, high) = pair(HIGH - 2);
                let (low, high) = (_mm_castps_pd(low), _mm_castps_pd(high));
                let to = to.add(HIGH - 2);
                _mm_storel_pd(to.cast(), low);
                _mm_storeh_pd(to.add(HIGH).cast(), low);
                _mm_storel_pd(to.add(2 * HIGH).cast(), high);
                _mm_storeh_pd(to.add(3 * HIGH).cast(), high);
            }
        }
    }
    whole
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
