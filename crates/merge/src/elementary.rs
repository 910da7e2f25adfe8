//! sin, cos, arccos, exp and ln in f64 from additions, multiplications and divisions only.
//!
//! The platform's versions differ in the last bit between C libraries; these give the same bits
//! everywhere. They are called a few times per tensor or per fitness value, never per element, so
//! they are plain series: accuracy near 1e-15, no attention to speed.

use std::f64::consts::{FRAC_PI_2, PI};

/// sin(x) for x in [0, pi], which is where slerp needs it.
pub fn sin(x: f64) -> f64 {
    debug_assert!(
        (0.0..=PI + 1e-9).contains(&x),
        "sin of {x} is outside [0, pi]"
    );
    let x = if x > FRAC_PI_2 { PI - x } else { x };
    let (mut term, mut sum) = (x, x);
    for n in 1..12 {
        term *= -x * x / f64::from(2 * n * (2 * n + 1));
        sum += term;
    }
    sum
}

/// cos(x) for x in [0, pi].
pub fn cos(x: f64) -> f64 {
    if x <= FRAC_PI_2 {
        sin(FRAC_PI_2 - x)
    } else {
        -sin(x - FRAC_PI_2)
    }
}

/// sin(x) for any finite x; the error grows with |x|, which is a few turns at most.
pub fn sine(x: f64) -> f64 {
    let turns = (x / (2.0 * PI)).round();
    let x = x - turns * 2.0 * PI;
    if x < 0.0 { -sin(-x) } else { sin(x) }
}

/// cos(x) for any finite x.
pub fn cosine(x: f64) -> f64 {
    let turns = (x / (2.0 * PI)).round();
    cos((x - turns * 2.0 * PI).abs().min(PI))
}

/// arccos(x) for |x| <= 1: by Newton's method on cos, which approaches the root from one side, and near the ends, where that
/// is slow, as twice the arcsine of half the chord.
pub fn arccos(x: f64) -> f64 {
    assert!(
        x.is_nan() || x.abs() <= 1.0,
        "arccos of {x} is outside [-1, 1]"
    );
    if x.abs() > 0.9999 {
        let y = ((1.0 - x.abs()) / 2.0).sqrt();
        let square = y * y;
        let series = 1.0 + square * (1.0 / 6.0 + square * (3.0 / 40.0 + square * 15.0 / 336.0));
        let angle = 2.0 * y * series;
        return if x > 0.0 { angle } else { PI - angle };
    }
    let mut angle = FRAC_PI_2;
    for _ in 0..16 {
        angle += (cos(angle) - x) / sin(angle);
    }
    angle
}

/// exp(x); arguments outside [-700, 700] give 0 or infinity, NaN gives NaN.
pub fn exp(x: f64) -> f64 {
    if x.is_nan() || x > 700.0 {
        return x + f64::INFINITY;
    }
    if x < -700.0 {
        return 0.0;
    }
    // x = k ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts keeps r exact.
    let k = (x * std::f64::consts::LOG2_E).round();
    let r = (x - k * 6.931_471_803_691_238e-1) - k * 1.908_214_929_270_587_7e-10;
    let (mut term, mut sum) = (1.0, 1.0);
    for n in 1..18 {
        term *= r / f64::from(n);
        sum += term;
    }
    sum * f64::from_bits(((k as i64 + 1023) as u64) << 52)
}

/// ln(x); 0 and subnormal numbers give minus infinity, below 0 NaN.
pub fn ln(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x < f64::MIN_POSITIVE || x.is_infinite() {
        return if x.is_infinite() {
            x
        } else {
            f64::NEG_INFINITY
        };
    }
    // x = m 2^k with m in [sqrt(1/2), sqrt(2)); ln m = 2 artanh((m - 1) / (m + 1)).
    let mut k = (x.to_bits() >> 52) as i64 - 1023;
    let mut m = f64::from_bits((x.to_bits() & ((1 << 52) - 1)) | (1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        (m, k) = (m / 2.0, k + 1);
    }
    let y = (m - 1.0) / (m + 1.0);
    let (mut power, mut sum) = (y, y);
    for n in 1..14 {
        power *= y * y;
        sum += power / f64::from(2 * n + 1);
    }
    2.0 * sum + k as f64 * std::f64::consts::LN_2
}
