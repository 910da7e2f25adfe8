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
                let first = match (detect(), high) {
                    (Isa::Avx512, 12) if csa == 1 => tile_of_12(from, rsa, k, to),
                    (Isa::Avx2, 6) if csa == 1 => tile_of_6(from, rsa, k, to),
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

/// Twelve rows, each of neighbouring elements, as `[k, 12]`; gives how many steps it did, a multiple of 4.
///
/// # Safety
/// The rows are there `rsa` apart, `to` has `12 k` elements, and the CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn tile_of_12(a: *const f32, rsa: usize, k: usize, to: *mut f32) -> usize {
    use std::arch::x86_64::*;
    // SAFETY: promised by the caller.
    unsafe {
        for p in (0..k / 4 * 4).step_by(4) {
            let (a, to) = (a.add(p), to.add(p * 12));
            // Rows i and i + 4 in the halves of a register: four steps of eight rows at once.
            let row = |i: usize| {
                let low = _mm256_castps128_ps256(_mm_loadu_ps(a.add(i * rsa)));
                _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(a.add((i + 4) * rsa)))
            };
            let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
            let (l0, h0) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
            let (l1, h1) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
            _mm256_storeu_ps(to, _mm256_shuffle_ps::<0x44>(l0, l1));
            _mm256_storeu_ps(to.add(12), _mm256_shuffle_ps::<0xee>(l0, l1));
            _mm256_storeu_ps(to.add(24), _mm256_shuffle_ps::<0x44>(h0, h1));
            _mm256_storeu_ps(to.add(36), _mm256_shuffle_ps::<0xee>(h0, h1));
            let rows = quads(a.add(8 * rsa), rsa);
            for (i, row) in rows.into_iter().enumerate() {
                _mm_storeu_ps(to.add(i * 12 + 8), row);
            }
        }
    }
    k / 4 * 4
}

/// As [`tile_of_12`], for six rows.
///
/// # Safety
/// As [`tile_of_12`], with `6 k` elements.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn tile_of_6(a: *const f32, rsa: usize, k: usize, to: *mut f32) -> usize {
    use std::arch::x86_64::*;
    // SAFETY: promised by the caller.
    unsafe {
        for p in (0..k / 4 * 4).step_by(4) {
            let (a, to) = (a.add(p), to.add(p * 6));
            let rows = quads(a, rsa);
            let (r4, r5) = (_mm_loadu_ps(a.add(4 * rsa)), _mm_loadu_ps(a.add(5 * rsa)));
            let pairs =
                [_mm_unpacklo_ps(r4, r5), _mm_unpackhi_ps(r4, r5)].map(|x| _mm_castps_pd(x));
            for (i, row) in rows.into_iter().enumerate() {
                _mm_storeu_ps(to.add(i * 6), row);
                let pair = to.add(i * 6 + 4).cast();
                if i % 2 == 0 {
                    _mm_storel_pd(pair, pairs[i / 2]);
                } else {
                    _mm_storeh_pd(pair, pairs[i / 2]);
                }
            }
        }
    }
    k / 4 * 4
}

/// Four neighbouring elements of four rows `stride` apart, transposed.
///
/// # Safety
/// They are there.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn quads(x: *const f32, stride: usize) -> [std::arch::x86_64::__m128; 4] {
    use std::arch::x86_64::*;
    // SAFETY: promised by the caller; SSE is part of x86-64.
    unsafe {
        let row = |i: usize| _mm_loadu_ps(x.add(i * stride));
        let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
        let (l0, h0) = (_mm_unpacklo_ps(r0, r1), _mm_unpackhi_ps(r0, r1));
        let (l1, h1) = (_mm_unpacklo_ps(r2, r3), _mm_unpackhi_ps(r2, r3));
        [
            _mm_movelh_ps(l0, l1),
            _mm_movehl_ps(l1, l0),
            _mm_movelh_ps(h0, h1),
            _mm_movehl_ps(h1, h0),
        ]
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
