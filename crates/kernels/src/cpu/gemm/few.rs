//! Products of few rows by columns that are contiguous, as generation needs them: y = x Wᵀ for W [O, I] in
//! row-major order, fp32 or bf16.
//!
//! W is read once, where it lies, and nothing is packed: four rows share each column of B, three columns at a
//! time. Every sum is taken over k in vectors of the path's width, in an order that follows from the shape.

use super::Shape;
use crate::cpu::shared::Shared;
use crate::isa::{Isa, vectors};
use crate::math::from_bf16;
use rayon::prelude::*;

/// Most rows and columns of a tile.
const ROWS: usize = 4;
const COLS: usize = 3;

/// Steps of k from which a column is long.
const LONG: usize = 128;

/// Multiplications of a task at least.
const TASK: usize = 1 << 16;

/// Whether a product of fp32 operands is better done here than by packing.
#[cfg(not(target_arch = "aarch64"))]
pub(super) fn suits(s: &Shape) -> bool {
    s.csa == 1 && s.rsb == 1 && s.csb != 1 && (s.m < 8 || s.m <= MOST_ROWS && s.k >= LEAST_DEPTH)
}

/// Packing pays for more rows than these.
pub(super) const MOST_ROWS: usize = 48;

/// Sums over fewer steps are spent on adding lanes up, unless packing would cost more still.
#[cfg(not(target_arch = "aarch64"))]
const LEAST_DEPTH: usize = 128;

/// Sums of up to [`ROWS`] rows of A by up to [`COLS`] columns of B, `rsa` and `csb` elements apart.
///
/// # Safety
/// Rows and columns have `k` elements; the CPU has the path's features.
type Sums<T> = unsafe fn(
    rows: usize,
    cols: usize,
    k: usize,
    a: *const f32,
    rsa: usize,
    b: *const T,
    csb: usize,
) -> [[f32; COLS]; ROWS];

/// An element of B.
pub(super) trait Element: Copy + Sync {
    /// Columns that fewer than [`ROWS`] rows walk side by side where they are long. Measured: memory gives
    /// fp32 fastest in several streams, bf16 in one.
    const STREAMS: usize;
    fn sums(isa: Isa) -> Sums<Self>;
    fn value(self) -> f32;
}

impl Element for f32 {
    const STREAMS: usize = COLS;
    fn sums(isa: Isa) -> Sums<f32> {
        match isa.vectors() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::avx512_f32,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::avx2_f32,
            _ => plain,
        }
    }
    fn value(self) -> f32 {
        self
    }
}

impl Element for u16 {
    const STREAMS: usize = 1;
    fn sums(isa: Isa) -> Sums<u16> {
        match isa.vectors() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::avx512_bf16,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::avx2_bf16,
            _ => plain,
        }
    }
    fn value(self) -> f32 {
        from_bf16(self)
    }
}

/// What all tasks read.
#[derive(Clone, Copy)]
struct Operands<T> {
    a: *const f32,
    b: *const T,
    sums: Sums<T>,
}
// SAFETY: A and B are only read, while the caller's borrows last.
unsafe impl<T> Send for Operands<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Operands<T> {}

impl<T: Element> Operands<T> {
    /// # Safety
    /// As [`Sums`], with the rows and columns of `s` from (row, column) on.
    unsafe fn at(&self, s: &Shape, tile: [usize; 4]) -> [[f32; COLS]; ROWS] {
        let [row, rows, column, cols] = tile;
        // SAFETY: promised by the caller.
        unsafe {
            let (a, b) = (self.a.add(row * s.rsa), self.b.add(column * s.csb));
            (self.sums)(rows, cols, s.k, a, s.rsa, b, s.csb)
        }
    }
}

/// The product of `s`, whose `csa` and `rsb` are 1.
///
/// # Safety
/// A, B and C cover what `s` addresses; m, n, k are not 0.
pub(super) unsafe fn run<T: Element>(
    s: Shape,
    a: *const f32,
    b: *const T,
    c: Shared,
    parallel: bool,
) {
    // SAFETY: promised by the caller; the CPU has the path that was detected.
    unsafe { run_on(vectors(), s, a, b, c, parallel) }
}

/// As [`run`], on the path given.
///
/// # Safety
/// As [`run`], and the CPU has the path.
pub(super) unsafe fn run_on<T: Element>(
    isa: Isa,
    s: Shape,
    a: *const f32,
    b: *const T,
    c: Shared,
    parallel: bool,
) {
    debug_assert!(s.csa == 1 && s.rsb == 1);
    let sums = T::sums(isa);
    let o = Operands { a, b, sums };
    let wide = if s.m < ROWS && s.k >= LONG {
        T::STREAMS
    } else {
        COLS
    };
    let columns = |range: std::ops::Range<usize>| {
        for column in range.clone().step_by(wide) {
            let cols = wide.min(range.end - column);
            for row in (0..s.m).step_by(ROWS) {
                let rows = ROWS.min(s.m - row);
                // SAFETY: these rows and columns are there; their part of C is this task's alone.
                unsafe {
                    let sums = o.at(&s, [row, rows, column, cols]);
                    for (i, sums) in sums.iter().enumerate().take(rows) {
                        let c = c.slice((row + i) * s.rsc + column, cols);
                        for (c, sum) in c.iter_mut().zip(sums) {
                            let old = if s.beta == 0.0 { 0.0 } else { s.beta * *c };
                            *c = old + s.alpha * sum;
                        }
                    }
                }
            }
        }
    };
    if !parallel {
        return columns(0..s.n);
    }
    let task = (TASK / (s.m * s.k)).max(1).next_multiple_of(4 * COLS);
    (0..s.n.div_ceil(task))
        .into_par_iter()
        .for_each(|t| columns(t * task..((t + 1) * task).min(s.n)));
}

/// [`Sums`] in plain loops.
///
/// # Safety
/// As [`Sums`].
unsafe fn plain<T: Element>(
    rows: usize,
    cols: usize,
    k: usize,
    a: *const f32,
    rsa: usize,
    b: *const T,
    csb: usize,
) -> [[f32; COLS]; ROWS] {
    const LANES: usize = crate::math::LANES;
    let mut out = [[0.0; COLS]; ROWS];
    for (i, out) in out.iter_mut().enumerate().take(rows) {
        for (j, out) in out.iter_mut().enumerate().take(cols) {
            // SAFETY: row i and column j are there.
            let (a, b) = unsafe {
                (
                    std::slice::from_raw_parts(a.add(i * rsa), k),
                    std::slice::from_raw_parts(b.add(j * csb), k),
                )
            };
            let mut sum = [0.0f32; LANES];
            for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
                for ((s, a), b) in sum.iter_mut().zip(a).zip(b) {
                    *s += a * b.value();
                }
            }
            *out = sum.iter().sum();
        }
    }
    out
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{COLS, Element, ROWS};
    use std::arch::x86_64::*;

    /// Eight bf16 values: the upper halves of fp32 ones.
    ///
    /// # Safety
    /// They are there, and the CPU has AVX2.
    #[target_feature(enable = "avx2")]
    unsafe fn eight_bf16(p: *const u16) -> __m256 {
        // SAFETY: eight elements are there.
        let x = unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))
    }

    /// Sixteen of them.
    ///
    /// # Safety
    /// They are there, and the CPU has AVX-512.
    #[target_feature(enable = "avx512f")]
    unsafe fn sixteen_bf16(p: *const u16) -> __m512 {
        // SAFETY: sixteen elements are there.
        let x = unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
    }

    /// The sum of all lanes: halves, then halves of those.
    #[target_feature(enable = "avx2")]
    fn total256(x: __m256) -> f32 {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
    }

    #[target_feature(enable = "avx512f")]
    fn total512(x: __m512) -> f32 {
        let upper = _mm512_castsi512_pd(_mm512_castps_si512(x));
        let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(upper));
        total256(_mm256_add_ps(_mm512_castps512_ps256(x), upper))
    }

    macro_rules! sums {
        ($name:ident, $element:ty, $feature:literal, $lanes:literal, $zero:ident, $load:ident, $load_b:ident,
         $fma:ident, $total:ident) => {
            /// # Safety
            /// As [`Sums`](super::Sums).
            #[target_feature(enable = $feature)]
            pub(super) unsafe fn $name(
                rows: usize,
                cols: usize,
                k: usize,
                a: *const f32,
                rsa: usize,
                b: *const $element,
                csb: usize,
            ) -> [[f32; COLS]; ROWS] {
                /// R rows by C columns, one vector of partial sums each: the order does not depend on R and C.
                ///
                /// # Safety
                /// As [`Sums`](super::Sums).
                #[target_feature(enable = $feature)]
                unsafe fn of<const R: usize, const C: usize>(
                    k: usize,
                    a: *const f32,
                    rsa: usize,
                    b: *const $element,
                    csb: usize,
                ) -> [[f32; COLS]; ROWS] {
                    let mut sum = [[$zero(); C]; R];
                    let whole = k / $lanes * $lanes;
                    // SAFETY: all rows and columns have `k` elements.
                    unsafe {
                        for p in (0..whole).step_by($lanes) {
                            let mut right = [$zero(); C];
                            for (j, right) in right.iter_mut().enumerate() {
                                *right = $load_b(b.add(j * csb + p));
                            }
                            for (i, sum) in sum.iter_mut().enumerate() {
                                let left = $load(a.add(i * rsa + p));
                                for (sum, right) in sum.iter_mut().zip(right) {
                                    *sum = $fma(left, right, *sum);
                                }
                            }
                        }
                        let mut out = [[0.0; COLS]; ROWS];
                        for (i, (out, sum)) in out.iter_mut().zip(sum).enumerate() {
                            for (j, (out, sum)) in out.iter_mut().zip(sum).enumerate() {
                                *out = $total(sum);
                                for p in whole..k {
                                    *out += *a.add(i * rsa + p) * (*b.add(j * csb + p)).value();
                                }
                            }
                        }
                        out
                    }
                }
                // SAFETY: passed on from the caller.
                unsafe {
                    match (rows, cols) {
                        (4, 3) => of::<4, 3>(k, a, rsa, b, csb),
                        (3, 3) => of::<3, 3>(k, a, rsa, b, csb),
                        (2, 3) => of::<2, 3>(k, a, rsa, b, csb),
                        (1, 3) => of::<1, 3>(k, a, rsa, b, csb),
                        (4, 2) => of::<4, 2>(k, a, rsa, b, csb),
                        (3, 2) => of::<3, 2>(k, a, rsa, b, csb),
                        (2, 2) => of::<2, 2>(k, a, rsa, b, csb),
                        (1, 2) => of::<1, 2>(k, a, rsa, b, csb),
                        (4, 1) => of::<4, 1>(k, a, rsa, b, csb),
                        (3, 1) => of::<3, 1>(k, a, rsa, b, csb),
                        (2, 1) => of::<2, 1>(k, a, rsa, b, csb),
                        (1, 1) => of::<1, 1>(k, a, rsa, b, csb),
                        _ => unreachable!("a tile of {rows} x {cols}"),
                    }
                }
            }
        };
    }

    sums!(
        avx2_f32,
        f32,
        "avx2,fma",
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_loadu_ps,
        _mm256_fmadd_ps,
        total256
    );
    sums!(
        avx2_bf16,
        u16,
        "avx2,fma",
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        eight_bf16,
        _mm256_fmadd_ps,
        total256
    );
    sums!(
        avx512_f32,
        f32,
        "avx512f,avx2,fma",
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_loadu_ps,
        _mm512_fmadd_ps,
        total512
    );
    sums!(
        avx512_bf16,
        u16,
        "avx512f,avx2,fma",
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        sixteen_bf16,
        _mm512_fmadd_ps,
        total512
    );
}
