//! Where Newton-Schulz leaves the singular values of a matrix whose singular vectors are known.

use tensor::Tensor;
use tensor::optim::{Coefficients, POLAR_EXPRESS, QUINTIC, newton_schulz};
use tensor::random::Counted;

/// `count` orthonormal vectors of length `n`, by Gram-Schmidt of counted normals in f64.
fn orthonormal(n: usize, count: usize, purpose: &str) -> Vec<Vec<f64>> {
    let random = Counted::new(1, purpose, 0);
    let mut found: Vec<Vec<f64>> = Vec::new();
    for c in 0..count {
        let mut v: Vec<f64> = (0..n)
            .map(|i| f64::from(random.normal((c * n + i) as u64)))
            .collect();
        // Twice is enough (Kahan).
        for _ in 0..2 {
            for u in &found {
                let along: f64 = u.iter().zip(&v).map(|(a, b)| a * b).sum();
                v.iter_mut().zip(u).for_each(|(v, u)| *v -= along * u);
            }
        }
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.iter_mut().for_each(|x| *x /= norm);
        found.push(v);
    }
    found
}

/// Singular values of a given Frobenius norm: all but one spread evenly in the logarithm over
/// [1e-3, top], and the last fills what they leave.
fn spectrum(count: usize, top: f64, norm: f64) -> Vec<f64> {
    let ratio = (top / 1e-3).ln() / (count - 2) as f64;
    let mut s: Vec<f64> = (0..count - 1)
        .map(|i| 1e-3 * (ratio * i as f64).exp())
        .collect();
    s.push((norm * norm - s.iter().map(|s| s * s).sum::<f64>()).sqrt());
    s
}

/// One singular value through the same iteration, in f64.
fn scalar(mut s: f64, coefficients: &[Coefficients]) -> f64 {
    for &(a, b, c) in coefficients {
        s = f64::from(a) * s + f64::from(b) * s.powi(3) + f64::from(c) * s.powi(5);
    }
    s
}

fn lands_in(coefficients: &[Coefficients], norm_factor: f32, low: f64, high: f64) {
    // The bounds are known to three digits.
    let (low, high) = (low - 5e-4, high + 5e-4);
    for (rows, cols, count, top) in [(24, 40, 24, 0.25), (40, 24, 24, 0.05), (16, 16, 16, 0.4)] {
        let (u, v) = (orthonormal(rows, count, "u"), orthonormal(cols, count, "v"));
        // What the iteration starts from, once the scale of 7 is divided out.
        let s = spectrum(count, top, 1.0 / f64::from(norm_factor));
        let entry = |r: usize, c: usize| {
            (0..count)
                .map(|k| 7.0 * u[k][r] * s[k] * v[k][c])
                .sum::<f64>()
        };
        let g = Tensor::from_vec(
            (0..rows * cols)
                .map(|i| entry(i / cols, i % cols) as f32)
                .collect(),
            &[rows, cols],
        );
        let x = newton_schulz(&g, coefficients, norm_factor).to_vec();
        // U^T X V is diagonal and holds the new singular values.
        for (a, u) in u.iter().enumerate() {
            for (b, v) in v.iter().enumerate() {
                let value: f64 = (0..rows * cols)
                    .map(|i| u[i / cols] * f64::from(x[i]) * v[i % cols])
                    .sum();
                let want = if a == b {
                    scalar(s[a], coefficients)
                } else {
                    0.0
                };
                assert!(
                    (value - want).abs() < 2e-3,
                    "[{rows}, {cols}]: {value} for directions {a} and {b}, not {want}"
                );
                assert!(
                    a != b || (low..=high).contains(&value),
                    "[{rows}, {cols}]: {} became {value}",
                    s[a]
                );
            }
        }
    }
    for i in 0..=20_000 {
        let s = 1e-3f64.powf(1.0 - f64::from(i) / 20_000.0);
        let end = scalar(s, coefficients);
        assert!((low..=high).contains(&end), "{s} became {end}");
    }
}

#[test]
fn polar_express_drives_singular_values_close_to_one() {
    lands_in(&POLAR_EXPRESS, 1.01, 0.853, 1.141);
}

#[test]
fn the_quintic_drives_singular_values_near_one() {
    lands_in(&QUINTIC, 1.0, 0.471, 1.202);
}

#[test]
fn a_matrix_of_zeros_stays_finite() {
    assert_eq!(
        newton_schulz(&Tensor::zeros(&[3, 5]), &POLAR_EXPRESS, 1.01).max_abs(),
        0.0
    );
}
