//! Operands rounded to bf16 and copied into the order in which tiles are read.
//!
//! A tile of A is `[16 rows, 32 steps]`; a tile of B is `[16 pairs of steps, 16 columns, 2]`. Seen as 16 x 16 pairs
//! one is the transpose of the other, so each source is read along its neighbouring elements and the pairs
//! are transposed where that gave the other form. What lies beyond an operand's edge is zero.

use super::tile::{SIDE, STEPS, TILE};
use std::arch::x86_64::*;

/// The 16 x 16 pairs of a tile.
type Pairs = [__m512i; SIDE];

/// One operand: element (line, step) lies at `line * lines + step * steps`, where lines are rows of A or columns
/// of B.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) data: *const f32,
    pub(super) lines: usize,
    pub(super) steps: usize,
}

impl Source {
    /// What begins at an element of it.
    ///
    /// # Safety
    /// The element is there.
    pub(super) unsafe fn from(self, line: usize, step: usize) -> Self {
        // SAFETY: promised by the caller.
        let data = unsafe { self.data.add(line * self.lines + step * self.steps) };
        Self { data, ..self }
    }
}

/// Which operand is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `[16 lines, 32 steps]`
    A,
    /// `[16 pairs of steps, 16 lines, 2]`
    B,
}

/// Packs `lines` lines of `steps` steps: for each 32 steps as many tiles as 16 go into the lines, one after the
/// other.
///
/// # Safety
/// The source has these elements, `to` room for all tiles, and the CPU AVX-512 BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn strip(x: Source, form: Form, lines: usize, steps: usize, to: *mut u16) {
    let high = lines.div_ceil(SIDE);
    for step in (0..steps).step_by(STEPS) {
        for tile in 0..high {
            let (line, some) = (tile * SIDE, SIDE.min(lines - tile * SIDE));
            // SAFETY: the tile's part of the source is there, and so is its place.
            unsafe {
                let from = x.from(line, step).data;
                let to = to.add((step / STEPS * high + tile) * TILE);
                let pairs = if x.steps == 1 {
                    let read = along(from, x.lines, some, STEPS.min(steps - step));
                    if form == Form::A { read } else { transposed(read) }
                } else {
                    let read = across(from, x.lines, x.steps, some, STEPS.min(steps - step));
                    if form == Form::B { read } else { transposed(read) }
                };
                for (i, pairs) in pairs.into_iter().enumerate() {
                    _mm512_storeu_si512(to.add(i * STEPS).cast(), pairs);
                }
            }
        }
    }
}

/// Lines of neighbouring steps: `[line, pair of steps]`.
///
/// # Safety
/// As [`strip`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn along(from: *const f32, stride: usize, lines: usize, steps: usize) -> Pairs {
    let mut pairs = [_mm512_setzero_si512(); SIDE];
    if lines == SIDE && steps == STEPS {
        for (i, pairs) in pairs.iter_mut().enumerate() {
            // SAFETY: promised by the caller.
            let (low, high) = unsafe {
                let from = from.add(i * stride);
                (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)))
            };
            *pairs = rounded(low, high);
        }
        return pairs;
    }
    let (low, high) = (mask(steps), mask(steps.saturating_sub(16)));
    for (i, pairs) in pairs.iter_mut().enumerate().take(lines) {
        // SAFETY: promised by the caller; masked elements are not read.
        let (low, high) = unsafe {
            let from = from.add(i * stride);
            let beyond = from.wrapping_add(16);
            (_mm512_maskz_loadu_ps(low, from), _mm512_maskz_loadu_ps(high, beyond))
        };
        *pairs = rounded(low, high);
    }
    pairs
}

/// Steps of (mostly neighbouring) lines: `[pair of steps, line]`.
///
/// # Safety
/// As [`strip`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn across(
    from: *const f32,
    lines_apart: usize,
    steps_apart: usize,
    lines: usize,
    steps: usize,
) -> Pairs {
    let mut pairs = [_mm512_setzero_si512(); SIDE];
    let mask = mask(lines);
    let interleave = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19,
        3, 18, 2, 17, 1, 16, 0,
    );
    let read = |step: usize| {
        if step >= steps {
            return _mm512_setzero_ps();
        }
        let from = from.wrapping_add(step * steps_apart);
        // SAFETY: promised by the caller; masked elements are not read.
        unsafe {
            if lines_apart == 1 {
                return _mm512_maskz_loadu_ps(mask, from);
            }
            let mut line = [0.0f32; SIDE];
            for (i, x) in line.iter_mut().enumerate().take(lines) {
                *x = *from.add(i * lines_apart);
            }
            _mm512_loadu_ps(line.as_ptr())
        }
    };
    for (i, pairs) in pairs.iter_mut().enumerate().take(steps.div_ceil(2)) {
        let both = rounded(read(2 * i), read(2 * i + 1));
        *pairs = _mm512_permutexvar_epi16(interleave, both);
    }
    pairs
}

/// The lowest `n` of 16 lanes.
fn mask(n: usize) -> __mmask16 {
    if n >= 16 { !0 } else { (1 << n) - 1 }
}

/// 32 elements as bf16, to the nearest and ties to even; denormals become zero.
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of plain data.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// 16 x 16 pairs transposed.
#[target_feature(enable = "avx512f")]
fn transposed(x: Pairs) -> Pairs {
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
