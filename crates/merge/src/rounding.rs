//! The types that weights are stored and merged in, and the loops that round to them.
//!
//! A merge in bf16 or f16 rounds after every operation, where PyTorch does: that is what mergekit computes, and
//! what makes results agree to the last bit. Arithmetic within an operation is f64 (products of two stored
//! numbers are then exact), so in fp32 nothing is rounded but differences from the base and the result.
//!
//! Loops over slices are compiled for each instruction path; they fuse no multiplication with an addition, so
//! all paths give the same bits.

use half::f16;
use half::slice::HalfFloatSliceExt;
use kernels::multiversion;

/// A type of stored weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, 5 of them exponent.
    F16,
    /// 16 bits, 8 of them exponent.
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// As mergekit and Hugging Face's `config.json` spell it.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::F16 => "float16",
            Dtype::Bf16 => "bfloat16",
        }
    }

    /// Reads `float32`, `float16` or `bfloat16`, with or without `torch.` before it.
    pub fn from_name(name: &str) -> Option<Dtype> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        [Dtype::F32, Dtype::F16, Dtype::Bf16]
            .into_iter()
            .find(|dtype| dtype.name() == name)
    }

    /// The type that holds both without loss.
    pub fn promoted(self, other: Dtype) -> Dtype {
        if self == other { self } else { Dtype::F32 }
    }

    /// The nearest number of this type; in fp32 the number as it is, since a result is rounded once at its end.
    pub fn round(self, x: f64) -> f64 {
        match self {
            Dtype::F32 => x,
            Dtype::F16 => To16::round(x),
            Dtype::Bf16 => ToBf16::round(x),
        }
    }
}

/// Rounding as a type, so that loops over it are compiled for each.
pub(crate) trait Rounding: Copy {
    /// Whether every intermediate result is rounded.
    const EACH: bool;
    /// Rounds an intermediate result.
    fn round(x: f64) -> f64;
    /// Rounds a result.
    fn last(x: f32) -> f32;
}

/// Nothing but the result is rounded.
#[derive(Clone, Copy)]
pub(crate) struct To32;
/// To bf16.
#[derive(Clone, Copy)]
pub(crate) struct ToBf16;
/// To f16.
#[derive(Clone, Copy)]
pub(crate) struct To16;

impl Rounding for To32 {
    const EACH: bool = false;
    #[inline(always)]
    fn round(x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn last(x: f32) -> f32 {
        x
    }
}

impl Rounding for ToBf16 {
    const EACH: bool = true;
    #[inline(always)]
    fn round(x: f64) -> f64 {
        f64::from(Self::last(x as f32))
    }
    #[inline(always)]
    fn last(x: f32) -> f32 {
        let bits = x.to_bits();
        let even = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
        if x.is_nan() { x } else { f32::from_bits(even) }
    }
}

impl Rounding for To16 {
    const EACH: bool = true;
    #[inline(always)]
    fn round(x: f64) -> f64 {
        f64::from(Self::last(x as f32))
    }
    #[inline(always)]
    fn last(x: f32) -> f32 {
        let size = x.abs();
        let bits = size.to_bits();
        let normal = f32::from_bits(bits.wrapping_add(0xfff + ((bits >> 13) & 1)) & !0x1fff);
        // Below 2^-14 numbers are multiples of 2^-24, which is the spacing of fp32 between 1/2 and 1.
        let small = (size + 0.75) - 0.75;
        let rounded = if size < 6.103_515_6e-5 { small } else { normal };
        let rounded = if size >= 65520.0 {
            f32::INFINITY
        } else {
            rounded
        };
        if x.is_nan() { x } else { rounded.copysign(x) }
    }
}

/// Calls `$loop(ROUNDING, ...)` for the rounding of a dtype.
macro_rules! rounded {
    ($dtype:expr, $loop:ident($($arg:expr),* $(,)?)) => {
        match $dtype {
            $crate::rounding::Dtype::F32 => $loop($crate::rounding::To32, $($arg),*),
            $crate::rounding::Dtype::F16 => $loop($crate::rounding::To16, $($arg),*),
            $crate::rounding::Dtype::Bf16 => $loop($crate::rounding::ToBf16, $($arg),*),
        }
    };
}
pub(crate) use rounded;

multiversion! {
    fn bf16_to_f32(bytes: &[u8], out: &mut [f32]) {
        for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *o = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
        }
    }
}
multiversion! {
    fn f32_to_f32(bytes: &[u8], out: &mut [f32]) {
        for (o, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
            *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        }
    }
}
multiversion! {
    fn f32_to_bf16(values: &[f32], out: &mut [u8]) {
        for (o, &x) in out.chunks_exact_mut(2).zip(values) {
            // A NaN whose payload is below the upper half would become an infinity.
            let quiet = if x.is_nan() { 0x40 } else { 0 };
            let bits = (ToBf16::last(x).to_bits() >> 16) as u16 | quiet;
            o.copy_from_slice(&bits.to_le_bytes());
        }
    }
}
multiversion! {
    fn f32_to_bytes(values: &[f32], out: &mut [u8]) {
        for (o, x) in out.chunks_exact_mut(4).zip(values) {
            o.copy_from_slice(&x.to_le_bytes());
        }
    }
}
multiversion! {
    fn round_all<R: Rounding>(_to: R, values: &mut [f32]) {
        for x in values {
            *x = R::last(*x);
        }
    }
}

/// Elements of f16 that are converted at a time.
const HALVES: usize = 256;

/// Stored little-endian numbers as fp32; `bytes` holds as many as `out`.
pub(crate) fn decode(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(bytes.len(), dtype.size() * out.len());
    match dtype {
        Dtype::F32 => f32_to_f32(bytes, out),
        Dtype::Bf16 => bf16_to_f32(bytes, out),
        Dtype::F16 => {
            let mut halves = [f16::ZERO; HALVES];
            for (bytes, out) in bytes.chunks(2 * HALVES).zip(out.chunks_mut(HALVES)) {
                for (half, b) in halves.iter_mut().zip(bytes.chunks_exact(2)) {
                    *half = f16::from_le_bytes([b[0], b[1]]);
                }
                halves[..out.len()].convert_to_f32_slice(out);
            }
        }
    }
}

/// fp32 as stored numbers, rounded to the nearest, ties to even.
pub(crate) fn encode(dtype: Dtype, values: &[f32], out: &mut [u8]) {
    debug_assert_eq!(out.len(), dtype.size() * values.len());
    match dtype {
        Dtype::F32 => f32_to_bytes(values, out),
        Dtype::Bf16 => f32_to_bf16(values, out),
        Dtype::F16 => {
            let mut halves = [f16::ZERO; HALVES];
            for (values, out) in values.chunks(HALVES).zip(out.chunks_mut(2 * HALVES)) {
                halves[..values.len()].convert_from_f32_slice(values);
                for (half, o) in halves.iter().zip(out.chunks_exact_mut(2)) {
                    o.copy_from_slice(&half.to_le_bytes());
                }
            }
        }
    }
}

/// Rounds fp32 to numbers of the type.
pub(crate) fn round_slice(dtype: Dtype, values: &mut [f32]) {
    if dtype != Dtype::F32 {
        rounded!(dtype, round_all(values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn rounding_agrees_with_the_half_crate_on_every_exponent() {
        for exponent in 0..=255u32 {
            for mantissa in (0..1 << 23).step_by(997) {
                for sign in [0, 1 << 31] {
                    let x = f32::from_bits(sign | exponent << 23 | mantissa);
                    let (a, b) = (ToBf16::last(x), bf16::from_f32(x).to_f32());
                    assert!(
                        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
                        "{x:e}"
                    );
                    let (a, b) = (To16::last(x), f16::from_f32(x).to_f32());
                    assert!(
                        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
                        "{x:e}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_decoded_is_encoded_to_the_same_bytes() {
        let every: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let mut values = vec![0.0; 1 << 16];
            decode(dtype, &every, &mut values);
            let mut again = vec![0; every.len()];
            encode(dtype, &values, &mut again);
            for ((a, b), x) in again.chunks(2).zip(every.chunks(2)).zip(&values) {
                assert!(a == b || x.is_nan(), "{dtype:?} {x:e}");
            }
        }
    }
}
