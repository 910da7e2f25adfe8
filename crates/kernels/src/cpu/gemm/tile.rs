//! The register tile: some rows of A times one panel of B, for each instruction path.
//!
//! A tile holds its part of C in registers while it walks k: per step two vectors of B and one broadcast
//! element of A for each row. AVX2 has 16 registers (6 rows x 2 vectors), AVX-512 32 (12 rows x 2 vectors).
//! All paths are one macro; only the vector and the number of rows differ.

use crate::isa::Isa;

/// Rows and columns of the largest tile of any path.
pub(super) const MOST_ELEMENTS: usize = 12 * 32;

/// C `[rows, cols]` = beta C + alpha A B over `k` steps.
///
/// `a` points at row 0: element (i, p) lies at `i * rsa + p * csa`. `b` points at the first of `cols`
/// neighbouring columns, steps `rsb` apart. With `beta` 0 the old C is not read.
///
/// # Safety
/// A, B and C cover what is addressed; the CPU has the path's features; `rows` is 1 to the path's `rows`.
pub(super) type Tile = unsafe fn(
    rows: usize,
    k: usize,
    a: *const f32,
    rsa: usize,
    csa: usize,
    b: *const f32,
    rsb: usize,
    alpha: f32,
    beta: f32,
    c: *mut f32,
    rsc: usize,
);

/// The kernels of an instruction path.
#[derive(Clone, Copy)]
pub(super) struct Path {
    /// Most rows of a tile.
    pub(super) rows: usize,
    /// Columns of a tile.
    pub(super) cols: usize,
    pub(super) tile: Tile,
}

/// The tile of an instruction path.
pub(super) fn path(isa: Isa) -> Path {
    match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Path {
            rows: 12,
            cols: 32,
            tile: x86::avx512,
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Path {
            rows: 6,
            cols: 16,
            tile: x86::avx2,
        },
        _ => Path {
            rows: 4,
            cols: 8,
            tile: scalar::<4, 8>,
        },
    }
}

/// A tile of `R` rows and two vectors.
macro_rules! tile {
    ($name:ident, $feature:literal, $lanes:literal, $zero:ident, $splat:ident, $load:ident, $store:ident,
     $mul:ident, $fma:ident, $($rows:literal)*) => {
        /// # Safety
        /// As [`Tile`](super::Tile).
        #[target_feature(enable = $feature)]
        #[allow(clippy::too_many_arguments)]
        pub(super) unsafe fn $name(
            rows: usize, k: usize, a: *const f32, rsa: usize, csa: usize, b: *const f32, rsb: usize,
            alpha: f32, beta: f32, c: *mut f32, rsc: usize,
        ) {
            /// With `PACKED` rows 1 apart, steps of A `R` and of B two vectors, so that all offsets in a step
            /// are constants: computing them takes more instructions than a core can start beside the sums.
            ///
            /// # Safety
            /// As [`Tile`](super::Tile), with `R` rows.
            #[target_feature(enable = $feature)]
            #[allow(clippy::too_many_arguments)]
            unsafe fn of<const R: usize, const PACKED: bool>(
                k: usize, mut a: *const f32, rsa: usize, csa: usize, mut b: *const f32, rsb: usize,
                alpha: f32, beta: f32, c: *mut f32, rsc: usize,
            ) {
                let (rsa, csa, rsb) = if PACKED { (1, R, 2 * $lanes) } else { (rsa, csa, rsb) };
                let mut sum = [[$zero(); 2]; R];
                // SAFETY: the caller's operands cover all k steps and R rows; the pointers are not followed
                // after the last step. Prefetching follows no pointer.
                unsafe {
                    for i in 0..R {
                        let c = c.wrapping_add(i * rsc);
                        _mm_prefetch::<_MM_HINT_T0>(c.cast());
                        _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(2 * $lanes - 1).cast());
                    }
                    for _ in 0..k {
                        if PACKED {
                            let ahead = b.wrapping_add(AHEAD * rsb);
                            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                            if $lanes == 16 {
                                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add($lanes).cast());
                            }
                        }
                        let (b0, b1) = ($load(b), $load(b.add($lanes)));
                        for (i, s) in sum.iter_mut().enumerate() {
                            let x = $splat(*a.add(i * rsa));
                            s[0] = $fma(x, b0, s[0]);
                            s[1] = $fma(x, b1, s[1]);
                        }
                        (a, b) = (a.wrapping_add(csa), b.wrapping_add(rsb));
                    }
                    let (alpha, old) = ($splat(alpha), $splat(beta));
                    for (i, s) in sum.iter().enumerate() {
                        for (j, &s) in s.iter().enumerate() {
                            let at = c.add(i * rsc + j * $lanes);
                            let new = $mul(alpha, s);
                            $store(at, if beta == 0.0 { new } else { $fma(old, $load(at), new) });
                        }
                    }
                }
            }
            let packed = rsa == 1 && csa == rows && rsb == 2 * $lanes;
            // SAFETY: passed on from the caller.
            unsafe {
                match (rows, packed) {
                    $(($rows, true) => of::<$rows, true>(k, a, rsa, csa, b, rsb, alpha, beta, c, rsc),
                    ($rows, false) => of::<$rows, false>(k, a, rsa, csa, b, rsb, alpha, beta, c, rsc),)*
                    _ => unreachable!("a tile of {rows} rows"),
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Steps of B that are on their way from the second-level cache.
    const AHEAD: usize = 16;

    tile!(avx2, "avx2,fma", 8, _mm256_setzero_ps, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps,
        _mm256_mul_ps, _mm256_fmadd_ps, 1 2 3 4 5 6);
    tile!(avx512, "avx512f", 16, _mm512_setzero_ps, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps,
        _mm512_mul_ps, _mm512_fmadd_ps, 1 2 3 4 5 6 7 8 9 10 11 12);
}

/// The tile of any other CPU, in plain loops.
///
/// # Safety
/// As [`Tile`].
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn scalar<const R: usize, const C: usize>(
    rows: usize,
    k: usize,
    a: *const f32,
    rsa: usize,
    csa: usize,
    b: *const f32,
    rsb: usize,
    alpha: f32,
    beta: f32,
    c: *mut f32,
    rsc: usize,
) {
    let mut sum = [[0.0f32; C]; R];
    // SAFETY: the caller's operands cover all k steps, `rows` rows and C columns.
    unsafe {
        for p in 0..k {
            let b = std::slice::from_raw_parts(b.add(p * rsb), C);
            for (i, s) in sum.iter_mut().enumerate().take(rows) {
                let x = *a.add(i * rsa + p * csa);
                for (s, b) in s.iter_mut().zip(b) {
                    *s += x * b;
                }
            }
        }
        for (i, s) in sum.iter().enumerate().take(rows) {
            let c = std::slice::from_raw_parts_mut(c.add(i * rsc), C);
            for (c, s) in c.iter_mut().zip(s) {
                *c = if beta == 0.0 { 0.0 } else { beta * *c } + alpha * s;
            }
        }
    }
}
