//! Transcendental functions of our own: branch-free, so that loops over them vectorise, and independent
//! of the C library, so that a result has the same bits on every system.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts: the first has few enough bits that its product with an exponent is exact.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// e^x within 2 units in the last place; clamped to the finite range (below -87.3 it gives about 1e-38).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // `max(-87.3)` would turn NaN into a number: compare so that NaN passes through.
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    // Rounding to the nearest integer by adding and subtracting 1.5 * 2^23.
    const MAGIC: f32 = 12_582_912.0;
    let shifted = x * LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * LN2_HI - n * LN2_LO;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.000_000_3e-1;
    let y = p * r * r + r + 1.0;
    // The low bits of `shifted` hold n: build 2^n from them without a conversion (NaN stays NaN in y).
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127).wrapping_shl(23));
    y * scale
}

/// [`exp`], but zero where x is too small for it: what a softmax leaves of a masked score. The smallest
/// numbers would be denormal after the division by the sum, which costs a hundred cycles each on some CPUs.
#[inline(always)]
pub fn exp_or_zero(x: f32) -> f32 {
    if x < -87.3 { 0.0 } else { exp(x) }
}

/// The value of a bf16 number: the upper half of an fp32 one.
#[inline(always)]
pub fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// The nearest bf16 number, ties to even; NaN stays NaN.
#[inline(always)]
pub fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let odd = (bits >> 16) & 1;
    (bits.wrapping_add(0x7fff + odd) >> 16) as u16
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// Derivative of [`silu`] with respect to x.
#[inline(always)]
pub fn silu_derivative(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// Natural logarithm; -inf at zero, NaN below.
pub fn ln(x: f32) -> f32 {
    if x == 0.0 {
        return f32::NEG_INFINITY;
    }
    if x.is_nan() || x < 0.0 {
        return f32::NAN;
    }
    if x.is_infinite() {
        return x;
    }
    // In f64 every positive f32 is normal: split into mantissa in [sqrt(1/2), sqrt 2) and exponent.
    let bits = f64::from(x).to_bits();
    let mut e = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        e += 1;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)), as its series.
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let mut p = 1.0 / 17.0;
    for d in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        p = p * s2 + 1.0 / d;
    }
    (2.0 * s * p + e as f64 * std::f64::consts::LN_2) as f32
}

/// How many partial sums a reduction keeps: one AVX-512 register, so that all paths add in one order.
pub const LANES: usize = 16;

/// Combines the partial sums of a reduction in a fixed tree.
#[inline(always)]
fn tree(mut acc: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            acc[i] += acc[i + width];
        }
        width /= 2;
    }
    acc[0]
}

/// The elements from `at` on that fill the lanes: loops over copies become vectors, loops over places in slices may not.
#[inline(always)]
pub(crate) fn lanes(x: &[f32], at: usize) -> [f32; LANES] {
    let mut v = [0.0; LANES];
    v.copy_from_slice(&x[at..at + LANES]);
    v
}

/// sum a_i b_i, in sixteen interleaved partial sums.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [0.0f32; LANES];
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let (ca, cb) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (ra, rb) = (ca.remainder(), cb.remainder());
    for (x, y) in ca.zip(cb) {
        for i in 0..LANES {
            acc[i] += x[i] * y[i];
        }
    }
    for (i, (x, y)) in ra.iter().zip(rb).enumerate() {
        acc[i] += x * y;
    }
    tree(acc)
}

/// sum a_i b_i c_i, in sixteen interleaved partial sums.
#[inline(always)]
pub fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut acc = [0.0f32; LANES];
    let n = a.len().min(b.len()).min(c.len());
    let (a, b, c) = (&a[..n], &b[..n], &c[..n]);
    let whole = n / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let (x, y, z) = (lanes(a, at), lanes(b, at), lanes(c, at));
        for i in 0..LANES {
            acc[i] += x[i] * y[i] * z[i];
        }
    }
    for i in whole..n {
        acc[i - whole] += a[i] * b[i] * c[i];
    }
    tree(acc)
}

/// sum a_i (b_i - c_i), in sixteen interleaved partial sums: digits stay where b and c are nearly equal.
#[inline(always)]
pub fn dot_difference(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut acc = [0.0f32; LANES];
    let n = a.len().min(b.len()).min(c.len());
    let (a, b, c) = (&a[..n], &b[..n], &c[..n]);
    let whole = n / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let (x, y, z) = (lanes(a, at), lanes(b, at), lanes(c, at));
        for i in 0..LANES {
            acc[i] += x[i] * (y[i] - z[i]);
        }
    }
    for i in whole..n {
        acc[i - whole] += a[i] * (b[i] - c[i]);
    }
    tree(acc)
}

/// sum x_i, in sixteen interleaved partial sums.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let mut acc = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for c in chunks {
        for i in 0..LANES {
            acc[i] += c[i];
        }
    }
    for (i, v) in rest.iter().enumerate() {
        acc[i] += v;
    }
    tree(acc)
}

/// The largest element; -inf for none.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut acc = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for c in chunks {
        for i in 0..LANES {
            acc[i] = if c[i] > acc[i] { c[i] } else { acc[i] };
        }
    }
    for (i, v) in rest.iter().enumerate() {
        acc[i] = if *v > acc[i] { *v } else { acc[i] };
    }
    acc.iter()
        .copied()
        .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_ln_are_within_a_few_units_in_the_last_place() {
        let mut x = -80.0f32;
        while x < 80.0 {
            let want = f64::from(x).exp();
            assert!(
                (f64::from(exp(x)) / want - 1.0).abs() < 3e-7,
                "exp({x}) = {} want {want}",
                exp(x)
            );
            x += 0.0137;
        }
        for x in [1e-40f32, 1e-30, 0.1, 0.99, 1.0, 1.5, 2.0, 1e10, 3e38] {
            let want = f64::from(x).ln();
            assert!(
                (f64::from(ln(x)) - want).abs() <= 1e-7 * want.abs().max(1e-3),
                "ln({x})"
            );
        }
        assert!(exp(f32::NAN).is_nan() && ln(-1.0).is_nan());
        assert!(exp(-1e9) < 1e-37 && exp(1e9).is_finite());
        assert_eq!(exp_or_zero(f32::NEG_INFINITY), 0.0);
        assert!(exp_or_zero(-87.0) == exp(-87.0) && exp_or_zero(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_agree_with_f64() {
        let x: Vec<f32> = (0..1001)
            .map(|i| ((i * 37) % 101) as f32 * 0.01 - 0.5)
            .collect();
        let want: f64 = x.iter().map(|v| f64::from(*v)).sum();
        assert!((f64::from(sum(&x)) - want).abs() < 1e-3);
        let want: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum();
        assert!((f64::from(dot(&x, &x)) / want - 1.0).abs() < 1e-5);
        assert_eq!(max(&x), 0.5);
    }
}
