//! Ternary weights and 8-bit activations (BitNet b1.58, Ma et al. 2024): quantising and the exact product.
//!
//! * Weights, per row: gamma = max(mean |w|, 1e-5); t = 0 where |w / gamma| < 0.5 + s, else the sign of w;
//!   the row stands for `scale` t. The scale is gamma (absmean), or the mean of |w| over the weights that were
//!   kept, which is nearer in squares ([`Scale`]); it is rounded to half precision at once, so that training
//!   and the packed file see the same number.
//! * Activations, per token: step = max(|x|_max, 1e-5) / 127; q = round(x / step).
//! * Product: y[n, o] = (sum over i of t[o, i] q[n, i]) (scale[o] step[n]). The sum is an integer, so every
//!   instruction path gives the same bits; it is exact in f32 as well up to [`MOST_COLUMNS`] columns, which is
//!   how the training-time product in `tensor` equals this one.
//!
//! How codes lie in memory and in files is the business of [`packed`]; this module holds the numbers. Left
//! out: an AMX path, and groups smaller than a row.

pub mod packed;

use super::elementwise::ROW_BLOCK;
use crate::isa::{Isa, multiversion};
use packed::{BLOCK, Packed};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Columns up to which a sum of products |t q| <= 127 is exact in f32.
pub const MOST_COLUMNS: usize = (1 << 24) / 127;

/// Products below this many multiplications run on the calling thread.
const PARALLEL_FROM: usize = 1 << 19;

/// What a row's codes are multiplied with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// gamma, the mean magnitude of the whole row.
    #[default]
    Absmean,
    /// The mean magnitude of the weights that are not zeroed: least squares for the given codes.
    Kept,
}

/// The nearest half-precision number (to even), for finite magnitudes below 65,504.
pub fn round_half(x: f32) -> f32 {
    if x.abs() < 1.0 / 16_384.0 {
        // Subnormal: multiples of 2^-24.
        return (x * 16_777_216.0).round_ties_even() / 16_777_216.0;
    }
    let bits = x.to_bits();
    let even = (bits >> 13) & 1;
    f32::from_bits(bits.wrapping_add(0xfff + even) & !0x1fff)
}

multiversion! {
    /// Codes in {-1, 0, 1} of one row, and its scale.
    fn quantise_row(w: &[f32], sparsity: f32, scale: Scale, codes: &mut [i8]) -> f32 {
        let mut lanes = [0.0f32; crate::math::LANES];
        for c in w.chunks(crate::math::LANES) {
            for (l, v) in lanes.iter_mut().zip(c) { *l += v.abs(); }
        }
        let mean = crate::math::sum(&lanes) / w.len() as f32;
        let gamma = if mean < 1e-5 { 1e-5 } else { mean };
        let edge = gamma * (0.5 + sparsity);
        let (mut kept, mut count) = (0.0f32, 0u32);
        for (c, &v) in codes.iter_mut().zip(w) {
            let on = v.abs() >= edge;
            *c = i8::from(on && v > 0.0) - i8::from(on && v < 0.0);
            kept += if on { v.abs() } else { 0.0 };
            count += u32::from(on);
        }
        match scale {
            Scale::Kept if count > 0 => round_half(kept / count as f32),
            _ => round_half(gamma),
        }
    }
}

/// Codes and scales of w [O, I]; `codes` [O, I], `scales` [O].
#[track_caller]
pub fn quantise(
    w: &[f32],
    cols: usize,
    sparsity: f32,
    scale: Scale,
    codes: &mut [i8],
    scales: &mut [f32],
) {
    assert!(
        w.len() == codes.len() && w.len() == cols * scales.len(),
        "quantise: {} weights, {} columns, {} scales",
        w.len(),
        cols,
        scales.len()
    );
    codes
        .par_chunks_mut(cols * ROW_BLOCK)
        .zip(w.par_chunks(cols * ROW_BLOCK))
        .zip(scales.par_chunks_mut(ROW_BLOCK))
        .for_each(|((codes, w), scales)| {
            for ((c, w), s) in codes.chunks_mut(cols).zip(w.chunks(cols)).zip(scales) {
                *s = quantise_row(w, sparsity, scale, c);
            }
        });
}

multiversion! {
    /// q of one token; gives its step (NaN when an element is not finite, so that faults are not hidden).
    fn quantise_token(x: &[f32], q: &mut [i8]) -> f32 {
        let (mut most, mut fault) = (0.0f32, 0.0f32);
        for &v in x {
            most = if v.abs() > most { v.abs() } else { most };
            fault += v * 0.0;
        }
        let most = if most < 1e-5 { 1e-5 } else { most };
        let s = 127.0 / most;
        for (q, &v) in q.iter_mut().zip(x) {
            *q = (v * s).round_ties_even() as i8;
        }
        most / 127.0 + fault
    }
}

/// Activations x [N, I] as q [N, stride], zero behind column I, and the step of each token [N].
#[track_caller]
pub fn quantise_tokens(x: &[f32], cols: usize, q: &mut [i8], stride: usize, steps: &mut [f32]) {
    assert!(
        x.len() == cols * steps.len() && q.len() == stride * steps.len() && stride >= cols,
        "quantise_tokens: {} values, {} columns, {} tokens",
        x.len(),
        cols,
        steps.len()
    );
    for ((q, x), s) in q.chunks_mut(stride).zip(x.chunks(cols)).zip(steps) {
        *s = quantise_token(x, &mut q[..cols]);
        q[cols..].fill(0);
    }
}

/// How the integer sums are computed; all give the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Plain loops.
    Scalar,
    /// AVX2: `maddubs` and `madd`.
    Avx2,
    /// AVX-512 with VNNI: `dpbusd`.
    Vnni,
}

impl Path {
    /// The paths of this CPU, the best one last.
    pub fn available() -> &'static [Path] {
        const ALL: [Path; 3] = [Path::Scalar, Path::Avx2, Path::Vnni];
        static COUNT: OnceLock<usize> = OnceLock::new();
        let count = *COUNT.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            if crate::isa::vectors() == Isa::Avx512 && is_x86_feature_detected!("avx512vnni") {
                return 3;
            }
            match crate::isa::vectors() {
                Isa::Avx2 | Isa::Avx512 => 2,
                _ => 1,
            }
        });
        &ALL[..count]
    }

    /// The best path of this CPU.
    pub fn best() -> Path {
        *Path::available()
            .last()
            .expect("the scalar path is always there")
    }
}

/// Sums of T tokens over one packed row: codes count 0, 1, 2 here, the caller takes the sum of q off.
fn dot<const T: usize>(path: Path, row: &[u8], q: [&[i8]; T]) -> [i32; T] {
    debug_assert!(q.iter().all(|q| q.len() == row.len() * 4));
    match path {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `integer_sums` admits only paths that this CPU has; lengths are those of whole blocks.
        Path::Avx2 => unsafe { x86::avx2(row, q) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Path::Vnni => unsafe { x86::vnni(row, q) },
        _ => q.map(|q| scalar(row, q)),
    }
}

fn scalar(row: &[u8], q: &[i8]) -> i32 {
    let mut sum = 0;
    for (bytes, q) in row.chunks_exact(BLOCK / 4).zip(q.chunks_exact(BLOCK)) {
        for (j, b) in bytes.iter().enumerate() {
            for part in 0..4 {
                sum += i32::from((b >> (2 * part)) & 3) * i32::from(q[j + 8 * part]);
            }
        }
    }
    sum
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! A block's 8 bytes, broadcast to four lanes and shifted by 0, 2, 4 and 6 bits, are its 32 codes in order.
    use super::BLOCK;
    use std::arch::x86_64::*;

    /// # Safety
    /// The CPU has AVX2; each q is four times as long as `row`, which consists of whole blocks.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn avx2<const T: usize>(row: &[u8], q: [&[i8]; T]) -> [i32; T] {
        let shifts = _mm256_set_epi64x(6, 4, 2, 0);
        let mask = _mm256_set1_epi8(3);
        let ones = _mm256_set1_epi16(1);
        let mut acc = [_mm256_setzero_si256(); T];
        for b in 0..row.len() * 4 / BLOCK {
            // SAFETY: block b lies within the row and within each q.
            unsafe {
                let bytes = row
                    .as_ptr()
                    .add(b * BLOCK / 4)
                    .cast::<i64>()
                    .read_unaligned();
                let codes =
                    _mm256_and_si256(_mm256_srlv_epi64(_mm256_set1_epi64x(bytes), shifts), mask);
                for t in 0..T {
                    let x = _mm256_loadu_si256(q[t].as_ptr().add(b * BLOCK).cast());
                    // Pairs reach at most 2 * 2 * 128 in 16 bits: nothing saturates.
                    acc[t] = _mm256_add_epi32(
                        acc[t],
                        _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), ones),
                    );
                }
            }
        }
        acc.map(|a| {
            let s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
            let s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0b0100_1110));
            _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0b1011_0001)))
        })
    }

    /// # Safety
    /// The CPU has AVX-512 F, BW, VL and VNNI; lengths as for [`avx2`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn vnni<const T: usize>(row: &[u8], q: [&[i8]; T]) -> [i32; T] {
        let spread = _mm512_set_epi64(1, 1, 1, 1, 0, 0, 0, 0);
        let shifts = _mm512_set_epi64(6, 4, 2, 0, 6, 4, 2, 0);
        let mask = _mm512_set1_epi8(3);
        let mut acc = [_mm512_setzero_si512(); T];
        let blocks = row.len() * 4 / BLOCK;
        let decode = |pair: __m128i| {
            _mm512_and_si512(
                _mm512_srlv_epi64(
                    _mm512_permutexvar_epi64(spread, _mm512_castsi128_si512(pair)),
                    shifts,
                ),
                mask,
            )
        };
        for b in 0..blocks / 2 {
            // SAFETY: blocks 2b and 2b + 1 lie within the row and within each q.
            unsafe {
                let codes = decode(_mm_loadu_si128(row.as_ptr().add(b * BLOCK / 2).cast()));
                for t in 0..T {
                    acc[t] = _mm512_dpbusd_epi32(
                        acc[t],
                        codes,
                        _mm512_loadu_si512(q[t].as_ptr().add(b * 2 * BLOCK).cast()),
                    );
                }
            }
        }
        if blocks % 2 == 1 {
            let b = blocks - 1;
            // SAFETY: the last block lies within the row and within each q; the upper half is masked to zero.
            unsafe {
                let codes = decode(_mm_loadl_epi64(row.as_ptr().add(b * BLOCK / 4).cast()));
                for t in 0..T {
                    acc[t] = _mm512_dpbusd_epi32(
                        acc[t],
                        codes,
                        _mm512_maskz_loadu_epi8(0xffff_ffff, q[t].as_ptr().add(b * BLOCK)),
                    );
                }
            }
        }
        acc.map(|a| _mm512_reduce_add_epi32(a))
    }
}

/// Tokens that share the decoding of a row.
const TOKENS: usize = 4;
/// Tokens, or rows of a single token, that a task handles.
const TASK: usize = 32;

/// For each (token, row): the integer sum, handed to `f` for what becomes of it. q [N, padded columns].
fn sums<V: Send>(
    path: Path,
    w: &Packed,
    q: &[i8],
    out: &mut [V],
    f: impl Fn(usize, usize, i32) -> V + Sync,
) {
    assert!(
        Path::available().contains(&path),
        "ternary: this CPU has no {path:?} path"
    );
    let (rows, stride) = (w.rows(), w.padded_cols());
    let tokens = q.len() / stride;
    assert!(
        q.len() == tokens * stride && out.len() == tokens * rows,
        "ternary: {} activations and {} results for a matrix [{rows}, {}]",
        q.len(),
        out.len(),
        w.cols()
    );
    let totals: Vec<i32> = q
        .chunks(stride)
        .map(|q| q.iter().map(|&v| i32::from(v)).sum())
        .collect();
    let token = |t: usize| &q[t * stride..][..stride];
    let parallel = tokens * rows * stride >= PARALLEL_FROM;
    if tokens == 1 {
        let task = |first: usize, out: &mut [V]| {
            for (j, o) in out.iter_mut().enumerate() {
                let [s] = dot(path, w.row(first + j), [token(0)]);
                *o = f(0, first + j, s - totals[0]);
            }
        };
        match parallel {
            true => out
                .par_chunks_mut(TASK * 4)
                .enumerate()
                .for_each(|(c, out)| task(c * TASK * 4, out)),
            false => task(0, out),
        }
        return;
    }
    let task = |first: usize, out: &mut [V]| {
        let n = out.len() / rows;
        for r in 0..rows {
            let row = w.row(r);
            let mut t = 0;
            while t + TOKENS <= n {
                let at = first + t;
                let s = dot(
                    path,
                    row,
                    [token(at), token(at + 1), token(at + 2), token(at + 3)],
                );
                for (j, s) in s.into_iter().enumerate() {
                    out[(t + j) * rows + r] = f(at + j, r, s - totals[at + j]);
                }
                t += TOKENS;
            }
            while t < n {
                let [s] = dot(path, row, [token(first + t)]);
                out[t * rows + r] = f(first + t, r, s - totals[first + t]);
                t += 1;
            }
        }
    };
    match parallel {
        true => out
            .par_chunks_mut(TASK * rows)
            .enumerate()
            .for_each(|(c, out)| task(c * TASK, out)),
        false => task(0, out),
    }
}

/// The integer sums of q [N, padded columns] with every row -> [N, O], on a path that this CPU has.
#[track_caller]
pub fn integer_sums(path: Path, w: &Packed, q: &[i8], out: &mut [i32]) {
    sums(path, w, q, out, |_, _, s| s);
}

/// x [N, I] times the packed rows [O, I] transposed -> [N, O]; activations are quantised on the way.
#[track_caller]
pub fn ternary_matmul(w: &Packed, x: &[f32], out: &mut [f32]) {
    assert_eq!(
        x.len() * w.rows(),
        out.len() * w.cols(),
        "ternary_matmul: {} inputs, {} outputs for a matrix [{}, {}]",
        x.len(),
        out.len(),
        w.rows(),
        w.cols()
    );
    let tokens = x.len() / w.cols();
    let mut q = vec![0; tokens * w.padded_cols()];
    let mut steps = vec![0.0; tokens];
    quantise_tokens(x, w.cols(), &mut q, w.padded_cols(), &mut steps);
    let scales = w.scales();
    sums(Path::best(), w, &q, out, |t, r, s| {
        s as f32 * (scales[r] * steps[t])
    });
}
