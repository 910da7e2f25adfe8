//! The compiled paths (AVX-512, AVX2, ...) against plain loops over the same scalar functions: equal bits.
//!
//! The library picks one path for the machine it runs on; the loops here are compiled for the baseline.

use kernels::cpu::{elementwise as e, norm, optim};
use kernels::math;
use kernels::random::Counted;

/// Around the lane count and the block length, with remainders.
const LENGTHS: [usize; 9] = [0, 1, 7, 16, 17, 31, 100, 1025, (1 << 14) + 5];

pub(crate) fn normals(n: usize, scale: f32, purpose: &str) -> Vec<f32> {
    let random = Counted::new(4, purpose, 0);
    (0..n as u64).map(|i| random.normal(i) * scale).collect()
}

#[track_caller]
fn same(what: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!(
            f.to_bits() == w.to_bits(),
            "{what}: element {i} of {} is {f:e}, a plain loop gives {w:e}",
            found.len()
        );
    }
}

/// Generic, so that `f` is inlined into the loops of both sides.
#[track_caller]
fn same_map(what: &str, x: &[f32], f: impl Fn(f32) -> f32 + Copy + Sync) {
    let mut out = vec![f32::NAN; x.len()];
    e::unary(x, &mut out, f);
    same(what, &out, &x.iter().map(|&x| f(x)).collect::<Vec<_>>());
}

#[test]
fn elementwise_maps_have_the_bits_of_plain_loops() {
    for n in LENGTHS {
        let (a, b, c) = (
            normals(n, 20.0, "a"),
            normals(n, 1.0, "b"),
            normals(n, 1.0, "c"),
        );
        same_map("exp", &a, math::exp);
        same_map("sigmoid", &a, math::sigmoid);
        same_map("silu", &a, math::silu);
        same_map("silu'", &a, math::silu_derivative);
        same_map("tanh", &a, math::tanh);
        let mut out = vec![f32::NAN; n];
        // The shape that a compiler would fuse if it were allowed to.
        e::ternary(&a, &b, &c, &mut out, |a, b, c| a * b + c);
        same(
            "a b + c",
            &out,
            &a.iter()
                .zip(&b)
                .zip(&c)
                .map(|((a, b), c)| a * b + c)
                .collect::<Vec<_>>(),
        );
        e::swiglu(&a, &b, &mut out);
        same(
            "swiglu",
            &out,
            &a.iter()
                .zip(&b)
                .map(|(a, b)| math::silu(*a) * b)
                .collect::<Vec<_>>(),
        );
        let mut y = b.clone();
        e::add_scaled(&mut y, &c, 0.3);
        same(
            "add_scaled",
            &y,
            &b.iter()
                .zip(&c)
                .map(|(b, c)| b + 0.3 * c)
                .collect::<Vec<_>>(),
        );
        let mut y = b.clone();
        optim::lerp(&mut y, &c, 0.3);
        same(
            "lerp",
            &y,
            &b.iter()
                .zip(&c)
                .map(|(b, c)| b + 0.3 * (c - b))
                .collect::<Vec<_>>(),
        );
    }
}

#[test]
fn reductions_have_the_bits_of_plain_loops() {
    for n in LENGTHS {
        let (a, b) = (normals(n, 3.0, "a"), normals(n, 1.0, "b"));
        same("dot", &[e::dot(&a, &b)], &[math::dot(&a, &b)]);
        let exact: f64 = a.iter().map(|x| f64::from(*x).powi(2)).sum();
        assert!(
            (e::sum_sq(&a) - exact).abs() <= 1e-6 * exact,
            "sum_sq of {n}"
        );
        let exact: f64 = a.iter().map(|x| f64::from(*x)).sum();
        assert!(
            (e::total(&a) - exact).abs() <= 1e-9 * (1.0 + exact.abs()),
            "total of {n}"
        );
    }
}

#[test]
fn softmax_has_the_bits_of_a_plain_loop() {
    for cols in [1, 5, 16, 33, 700] {
        let rows = 3;
        let x = normals(rows * cols, 4.0, "x");
        let (mut out, mut lse) = (vec![0.0; x.len()], vec![0.0; rows]);
        e::softmax(&x, cols, &mut out, &mut lse);
        for (r, row) in x.chunks(cols).enumerate() {
            let m = math::max(row);
            let exponentials: Vec<f32> = row.iter().map(|v| math::exp(v - m)).collect();
            let (s, inv) = (math::sum(&exponentials), 1.0 / math::sum(&exponentials));
            same(
                "softmax",
                &out[r * cols..][..cols],
                &exponentials.iter().map(|v| v * inv).collect::<Vec<_>>(),
            );
            same("log-sum-exp", &lse[r..=r], &[m + math::ln(s)]);
        }
    }
}

#[test]
fn normalisation_has_the_bits_of_a_plain_loop() {
    for (rows, d) in [(3, 5), (40, 16), (200, 37)] {
        let (x, w) = (normals(rows * d, 2.0, "x"), normals(d, 1.0, "w"));
        let (mut y, mut rstd) = (vec![0.0; x.len()], vec![0.0; rows]);
        norm::rms_norm(&x, &w, 1e-5, &mut y, &mut rstd);
        for (i, row) in x.chunks(d).enumerate() {
            let r = 1.0 / (math::dot(row, row) / d as f32 + 1e-5).sqrt();
            same("rstd", &rstd[i..=i], &[r]);
            same(
                "rms_norm",
                &y[i * d..][..d],
                &row.iter()
                    .zip(&w)
                    .map(|(x, w)| x * r * w)
                    .collect::<Vec<_>>(),
            );
        }
    }
}

#[test]
fn adamw_has_the_bits_of_a_plain_loop() {
    let n = (1 << 14) + 9;
    let s = optim::AdamW {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 3,
    };
    let (mut p, g, mut m) = (
        normals(n, 1.0, "p"),
        normals(n, 1.0, "g"),
        normals(n, 0.1, "m"),
    );
    let mut v: Vec<f32> = normals(n, 0.1, "v").iter().map(|v| v * v).collect();
    let (mut p2, mut m2, mut v2) = (p.clone(), m.clone(), v.clone());
    optim::adamw(&mut p, &g, &mut m, &mut v, s);
    let correct = |beta: f32| 1.0 / (1.0 - f64::from(beta).powi(3)) as f32;
    let (c1, c2) = (correct(s.beta1), correct(s.beta2));
    for i in 0..n {
        m2[i] = s.beta1 * m2[i] + (1.0 - s.beta1) * g[i];
        v2[i] = s.beta2 * v2[i] + (1.0 - s.beta2) * g[i] * g[i];
        let u = (m2[i] * c1) / ((v2[i] * c2).sqrt() + s.eps);
        p2[i] -= s.lr * (u + s.weight_decay * p2[i]);
    }
    same("parameters", &p, &p2);
    same("first moments", &m, &m2);
    same("second moments", &v, &v2);
}

#[test]
fn not_a_number_is_never_hidden() {
    let mut x = normals(40, 1.0, "x");
    x[17] = f32::NAN;
    let mut out = vec![0.0; 40];
    for f in [math::exp, math::sigmoid, math::silu, math::tanh, math::ln] {
        e::unary(&x, &mut out, f);
        assert!(out[17].is_nan());
    }
    let mut lse = [0.0];
    e::softmax(&x, 40, &mut out, &mut lse);
    assert!(out[17].is_nan() && lse[0].is_nan());
    assert!(e::sum_sq(&x).is_nan() && e::total(&x).is_nan());
}

#[test]
fn rows_are_reduced_in_fixed_blocks() {
    // 300 rows: three blocks, whose partial sums are added in order.
    let (rows, cols) = (300, 5);
    let x = normals(rows * cols, 1.0, "x");
    let mut out = vec![1.0; cols];
    e::reduce_rows(rows, cols, &mut out, |i, acc| {
        acc.iter_mut()
            .zip(&x[i * cols..])
            .for_each(|(a, x)| *a += x)
    });
    let mut want = vec![1.0f32; cols];
    for block in x.chunks(e::ROW_BLOCK * cols) {
        for (c, w) in want.iter_mut().enumerate() {
            *w += block.chunks(cols).map(|r| r[c]).fold(0.0, |a, x| a + x);
        }
    }
    same("column sums", &out, &want);
}

#[test]
fn rotation_keeps_far_positions_exact() {
    let (mut cos, mut sin) = (vec![0.0; 4 * 3], vec![0.0; 4 * 3]);
    let positions = [0, 1, 1000, 1_000_000];
    norm::rotation_table(&positions, 3, 10_000.0, &mut cos, &mut sin);
    for (r, p) in positions.iter().enumerate() {
        for i in 0..3 {
            let angle = f64::from(*p) * 10_000f64.powf(-(i as f64) / 3.0);
            assert!(
                (f64::from(cos[r * 3 + i]) - angle.cos()).abs() < 1e-7
                    && (f64::from(sin[r * 3 + i]) - angle.sin()).abs() < 1e-7
            );
        }
    }
}
