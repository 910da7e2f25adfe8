//! Operands rounded to bf16 and copied into the order in which tiles are read.
//!
//! A tile of A is `[16 rows, 32 steps]`; a tile of B is `[16 pairs of steps, 16 columns, 2]`. Seen as 16 x 16 pairs
//! one is the transpose of the other, so each source is read along its neighbouring elements and the pairs
//! are transposed where that gave the other form. What lies beyond an operand's edge is zero.

use super::tile::{BLOCK, SIDE, STEPS, TILE};
use super::vector::{interleaved, lowest, lowest_of_32, rounded};
use std::arch::x86_64::*;

/// The 16 x 16 pairs of a tile.
pub(in crate::cpu) type Pairs = [__m512i; SIDE];

/// One operand: element (line, step) lies at `line * lines + step * steps`, where lines are rows of A or columns
/// of B.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Source<T> {
    pub(in crate::cpu) data: *const T,
    pub(in crate::cpu) lines: usize,
    pub(in crate::cpu) steps: usize,
}

impl<T> Source<T> {
    /// What begins at an element of it.
    ///
    /// # Safety
    /// The element is there.
    pub(in crate::cpu) unsafe fn from(self, line: usize, step: usize) -> Self {
        // SAFETY: promised by the caller.
        let data = unsafe { self.data.add(line * self.lines + step * self.steps) };
        Self { data, ..self }
    }
}

/// An element of an operand: fp32, rounded while it is packed, or bf16.
pub(in crate::cpu) trait Element: Copy + Sync + Default {
    /// The first `n` of 32 neighbours as bf16, zero beyond.
    ///
    /// # Safety
    /// They are there, and the CPU has AVX-512 BW and BF16.
    unsafe fn neighbours(from: *const Self, n: usize) -> __m512i;

    /// The first `n` of 16 neighbours at `low` as bf16, and as many at `high` above them.
    ///
    /// # Safety
    /// As [`Element::neighbours`].
    unsafe fn two(low: *const Self, high: *const Self, n: usize) -> __m512i;
}

impl Element for f32 {
    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn neighbours(from: *const f32, n: usize) -> __m512i {
        // SAFETY: promised by the caller; masked elements are not read.
        unsafe {
            if n >= STEPS {
                return rounded(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
            }
            let beyond = from.wrapping_add(16);
            rounded(
                _mm512_maskz_loadu_ps(lowest(n), from),
                _mm512_maskz_loadu_ps(lowest(n.saturating_sub(16)), beyond),
            )
        }
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn two(low: *const f32, high: *const f32, n: usize) -> __m512i {
        let mask = lowest(n);
        // SAFETY: promised by the caller; masked elements are not read.
        unsafe {
            rounded(
                _mm512_maskz_loadu_ps(mask, low),
                _mm512_maskz_loadu_ps(mask, high),
            )
        }
    }
}

impl Element for u16 {
    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn neighbours(from: *const u16, n: usize) -> __m512i {
        let mask = lowest_of_32(n);
        // SAFETY: promised by the caller; masked elements are not read.
        unsafe { _mm512_maskz_loadu_epi16(mask, from.cast()) }
    }

    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn two(low: *const u16, high: *const u16, n: usize) -> __m512i {
        let mask: __mmask32 = if n >= SIDE { 0xffff } else { (1 << n) - 1 };
        // SAFETY: promised by the caller; masked elements are not read.
        unsafe {
            let low = _mm512_maskz_loadu_epi16(mask, low.cast());
            let high = _mm512_maskz_loadu_epi16(mask, high.cast());
            _mm512_inserti64x4::<1>(low, _mm512_castsi512_si256(high))
        }
    }
}

/// Which operand is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::cpu) enum Form {
    /// `[16 lines, 32 steps]`
    A,
    /// `[16 pairs of steps, 16 lines, 2]`
    B,
}

/// Packs `lines` lines of `steps` steps as strips of [`BLOCK`] lines: in a strip, for each 32 steps as many tiles as 16
/// go into its lines, one after the other.
///
/// # Safety
/// The source has these elements, `to` room for all tiles, and the CPU AVX-512 BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(in crate::cpu) unsafe fn pack<T: Element>(
    x: Source<T>,
    form: Form,
    lines: usize,
    steps: usize,
    to: *mut u16,
) {
    // SAFETY: passed on from the caller.
    unsafe { pack_part(x, form, [lines, steps], [0, steps], to) }
}

/// As [`pack`], into strips of more steps: those from `first`, which begins a tile, out of `deep`.
///
/// # Safety
/// As [`pack`], with room for all tiles of `deep` steps.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(in crate::cpu) unsafe fn pack_part<T: Element>(
    x: Source<T>,
    form: Form,
    [lines, steps]: [usize; 2],
    [first, deep]: [usize; 2],
    to: *mut u16,
) {
    let deep = deep.next_multiple_of(STEPS);
    let tile = |line: usize, step: usize| {
        let start = line / BLOCK * BLOCK;
        let high = BLOCK.min(lines - start).div_ceil(SIDE);
        let at = start * deep + ((first + step) / STEPS * high + (line - start) / SIDE) * TILE;
        // SAFETY: the tile's part of the source is there, and so is its place.
        unsafe {
            let from = x.from(line, step).data;
            let (lines, steps) = (SIDE.min(lines - line), STEPS.min(steps - step));
            let pairs = match (x.steps == 1, form) {
                (true, Form::A) => along(from, x.lines, lines, steps),
                (true, Form::B) => transposed(along(from, x.lines, lines, steps)),
                (false, Form::A) => transposed(across(from, x.lines, x.steps, lines, steps)),
                (false, Form::B) => across(from, x.lines, x.steps, lines, steps),
            };
            for (i, pairs) in pairs.into_iter().enumerate() {
                _mm512_storeu_si512(to.add(at + i * STEPS).cast(), pairs);
            }
        }
    };
    // In the order in which the source lies in memory.
    if x.steps == 1 {
        for strip in (0..lines).step_by(BLOCK) {
            for step in (0..steps).step_by(STEPS) {
                for line in (strip..lines.min(strip + BLOCK)).step_by(SIDE) {
                    ahead(x, steps, line, step);
                    tile(line, step);
                }
            }
        }
    } else {
        for step in (0..steps).step_by(STEPS) {
            for line in (0..lines).step_by(SIDE) {
                tile(line, step);
            }
        }
    }
}

/// Steps between what is read and what is on its way from memory.
const AHEAD: usize = 4 * STEPS;

/// Has the tile of lines that is read [`AHEAD`] steps later brought near; beyond the last step, that of the next
/// strip. The lines lie apart, so that no prefetcher of the CPU sees where they go on.
fn ahead<T>(x: Source<T>, steps: usize, line: usize, step: usize) {
    let (mut line, mut step) = (line, step + AHEAD);
    if step >= steps {
        (line, step) = (line + BLOCK, step % STEPS + (step - steps) / STEPS * STEPS);
    }
    for i in line..line + SIDE {
        let from = x.data.wrapping_add(i * x.lines + step).cast::<i8>();
        // SAFETY: prefetching follows no pointer.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(from);
            if size_of::<T>() > 2 {
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(64));
            }
        }
    }
}

/// Lines of neighbouring steps: `[line, pair of steps]`.
///
/// # Safety
/// As [`pack`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn along<T: Element>(from: *const T, stride: usize, lines: usize, steps: usize) -> Pairs {
    let mut pairs = [_mm512_setzero_si512(); SIDE];
    if lines == SIDE && steps == STEPS {
        for (i, pairs) in pairs.iter_mut().enumerate() {
            // SAFETY: promised by the caller.
            *pairs = unsafe { T::neighbours(from.add(i * stride), STEPS) };
        }
        return pairs;
    }
    for (i, pairs) in pairs.iter_mut().enumerate().take(lines) {
        // SAFETY: promised by the caller.
        *pairs = unsafe { T::neighbours(from.add(i * stride), steps) };
    }
    pairs
}

/// Steps of (mostly neighbouring) lines: `[pair of steps, line]`.
///
/// # Safety
/// As [`pack`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn across<T: Element>(
    from: *const T,
    lines_apart: usize,
    steps_apart: usize,
    lines: usize,
    steps: usize,
) -> Pairs {
    let mut pairs = [_mm512_setzero_si512(); SIDE];
    let zeros = [T::default(); SIDE];
    for (i, pairs) in pairs.iter_mut().enumerate().take(steps.div_ceil(2)) {
        // SAFETY: promised by the caller; only steps that are there are read.
        let both = unsafe {
            let low = from.add(2 * i * steps_apart);
            let high = if 2 * i + 1 < steps {
                from.add((2 * i + 1) * steps_apart)
            } else {
                zeros.as_ptr()
            };
            if lines_apart == 1 {
                T::two(low, high, lines)
            } else {
                let (mut x, mut y) = (zeros, zeros);
                for line in 0..lines {
                    x[line] = *low.add(line * lines_apart);
                    if 2 * i + 1 < steps {
                        y[line] = *high.add(line * lines_apart);
                    }
                }
                T::two(x.as_ptr(), y.as_ptr(), SIDE)
            }
        };
        *pairs = interleaved(both);
    }
    pairs
}

/// Block (row, column) of C [n, n] below the diagonal becomes the transpose of the block (column, row); on the
/// diagonal, what lies below it that of what lies above.
///
/// # Safety
/// Both blocks of 16 x 16 lie in C, and the CPU has AVX-512.
#[target_feature(enable = "avx512f")]
pub(in crate::cpu::gemm) unsafe fn mirror_block(c: *mut f32, n: usize, row: usize, column: usize) {
    let mut block = [_mm512_setzero_si512(); SIDE];
    // SAFETY: promised by the caller.
    unsafe {
        for (i, x) in block.iter_mut().enumerate() {
            *x = _mm512_loadu_si512(c.add((column + i) * n + row).cast());
        }
        for (i, x) in transposed(block).into_iter().enumerate() {
            let below = if row == column { lowest(i) } else { !0 };
            _mm512_mask_storeu_epi32(c.add((row + i) * n + column).cast(), below, x);
        }
    }
}

/// 16 x 16 pairs transposed.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::cpu) fn transposed(x: Pairs) -> Pairs {
    // Neighbouring rows interleaved, then pairs of them, then quarters exchanged twice.
    let mut y = x;
    for i in (0..SIDE).step_by(2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    let mut z = y;
    for i in (0..SIDE).step_by(4) {
        z[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        z[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        z[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        z[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    // Now z[4 i + j] holds columns j, j + 4, j + 8, j + 12 of rows 4 i to 4 i + 3, a quarter each.
    let mut out = x;
    for j in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x44>(z[j], z[4 + j]);
        let low2 = _mm512_shuffle_i32x4::<0xee>(z[j], z[4 + j]);
        let high = _mm512_shuffle_i32x4::<0x44>(z[8 + j], z[12 + j]);
        let high2 = _mm512_shuffle_i32x4::<0xee>(z[8 + j], z[12 + j]);
        out[j] = _mm512_shuffle_i32x4::<0x88>(low, high);
        out[4 + j] = _mm512_shuffle_i32x4::<0xdd>(low, high);
        out[8 + j] = _mm512_shuffle_i32x4::<0x88>(low2, high2);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(low2, high2);
    }
    out
}
