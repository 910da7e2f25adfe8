//! Vectors on their way into tiles: exponentials, and fp32 rounded to bf16 in the order of A or of B.
//!
//! Whoever computes with vectors does it without `map` on arrays and options: that is compiled for any CPU, so what
//! it is given is called through memory, a vector at a time.

use super::tile::SIDE;
use std::arch::x86_64::*;

/// log2 e
pub(in crate::cpu) const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// 2^x within 2e-7, zero below 2^-126; NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::cpu) fn exp2(x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let there = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(-126.0));
    let n = _mm512_roundscale_ps::<NEAREST>(x);
    let r = _mm512_sub_ps(x, n);
    let mut p = _mm512_set1_ps(1.535_336_2e-4);
    for c in [
        1.339_887_4e-3,
        9.618_437e-3,
        5.550_332_4e-2,
        2.402_264_7e-1,
        6.931_472e-1,
        1.0,
    ] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    _mm512_maskz_scalef_ps(there, p, n)
}

/// 1 / (1 + e^-x) within 3e-7; at least 2^-126.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::cpu) fn sigmoid(x: __m512) -> __m512 {
    // In this order a NaN stays one; without the limit the step below would multiply infinity by zero.
    let power = _mm512_min_ps(
        _mm512_set1_ps(126.0),
        _mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)),
    );
    let y = _mm512_add_ps(_mm512_set1_ps(1.0), exp2(power));
    // One step of Newton's method from 14 bits, in a third of a division's time.
    let guess = _mm512_rcp14_ps(y);
    _mm512_mul_ps(guess, _mm512_fnmadd_ps(y, guess, _mm512_set1_ps(2.0)))
}

/// Two rows of 16 columns as pairs, the order of B.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(in crate::cpu) fn paired(row: __m512, next: __m512) -> __m512i {
    interleaved(rounded(row, next))
}

/// 16 bf16 and the 16 above them, by turns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::cpu) fn interleaved(x: __m512i) -> __m512i {
    let order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
        19, 3, 18, 2, 17, 1, 16, 0,
    );
    _mm512_permutexvar_epi16(order, x)
}

/// 32 values as bf16, to the nearest and ties to even; denormals become zero. One row of a tile of A.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(in crate::cpu) fn rounded(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of plain data.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// 32 bf16 as fp32.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::cpu) fn widened(x: __m512i) -> [__m512; 2] {
    let [low, high] = [_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x)];
    [widened_half(low), widened_half(high)]
}

/// 16 bf16 as fp32.
#[inline]
#[target_feature(enable = "avx512f")]
fn widened_half(x: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
}

/// 32 elements, zero beyond the first `n`.
///
/// # Safety
/// The first `n` are there, and the CPU has AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::cpu) unsafe fn loaded(from: *const f32, n: usize) -> [__m512; 2] {
    // SAFETY: promised by the caller; masked elements are not read.
    unsafe {
        [
            _mm512_maskz_loadu_ps(lowest(n), from),
            _mm512_maskz_loadu_ps(lowest(n.saturating_sub(SIDE)), from.wrapping_add(SIDE)),
        ]
    }
}

/// The lowest `n` of 16 lanes.
#[inline]
pub(in crate::cpu) fn lowest(n: usize) -> __mmask16 {
    if n >= SIDE { !0 } else { (1 << n) - 1 }
}

/// The lowest `n` of 32 lanes.
#[inline]
pub(in crate::cpu) fn lowest_of_32(n: usize) -> __mmask32 {
    if n >= 2 * SIDE { !0 } else { (1 << n) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function of vectors as one of numbers, where the CPU has it.
    fn of_numbers(f: unsafe fn(__m512) -> __m512) -> Option<impl Fn(f32) -> f32> {
        if !is_x86_feature_detected!("avx512f") {
            println!("skipped: no AVX-512");
            return None;
        }
        Some(move |x: f32| {
            let mut y = [0.0f32; SIDE];
            // SAFETY: the CPU has it, as just checked.
            unsafe { _mm512_storeu_ps(y.as_mut_ptr(), f(_mm512_set1_ps(x))) };
            y[0]
        })
    }

    #[test]
    fn sigmoids_are_those_of_f64_and_keep_nan() {
        let Some(of) = of_numbers(sigmoid) else {
            return;
        };
        for i in -8_700..9_000 {
            let x = i as f32 * 0.01003;
            let want = 1.0 / (1.0 + f64::from(-x).exp());
            let far = (f64::from(of(x)) / want - 1.0).abs();
            // The power is rounded before it is taken.
            assert!(
                far < 3e-7 + 1e-7 * f64::from(x.abs()),
                "sigmoid({x}) = {}",
                of(x)
            );
        }
        for (x, least, most) in [(-1e30, 0.0, 1e-37), (f32::NEG_INFINITY, 0.0, 1e-37)] {
            assert!((least..=most).contains(&of(x)), "sigmoid({x}) = {}", of(x));
        }
        assert_eq!((of(1e30), of(f32::INFINITY)), (1.0, 1.0));
        assert!(of(f32::NAN).is_nan());
    }

    #[test]
    fn powers_of_two_are_within_a_few_units_in_the_last_place() {
        let Some(of) = of_numbers(exp2) else {
            return;
        };
        for i in -12_500..12_500 {
            let x = i as f32 * 0.01003;
            let want = f64::from(x).exp2();
            assert!(
                (f64::from(of(x)) / want - 1.0).abs() < 3e-7,
                "2^{x} = {}",
                of(x)
            );
        }
        assert_eq!(
            (of(-130.0), of(f32::NEG_INFINITY), of(200.0)),
            (0.0, 0.0, f32::INFINITY)
        );
        assert!(of(f32::NAN).is_nan());
    }
}
