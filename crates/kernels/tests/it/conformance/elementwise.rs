//! Maps, reductions and softmax, and the optimizer's updates: equal bits on every path.

use super::trial::{Trial, normals, unset, wide};
use super::{Operation, same};
use kernels::cpu::{elementwise as e, optim};
use kernels::math;

pub(super) const TABLE: &[Operation] = &[
    same("elementwise::unary", 16.0, unary),
    same("elementwise::binary", 2.0, binary),
    same("elementwise::ternary", 2.0, ternary),
    same("elementwise::update", 2.0, update),
    same("elementwise::add_scaled", 2.0, add_scaled),
    same("elementwise::swiglu", 4.0, swiglu),
    same("elementwise::swiglu_backward", 8.0, swiglu_backward),
    same("elementwise::reduce_rows", 12.0, reduce_rows),
    same("elementwise::sum_sq", 4.0, sum_sq),
    same("elementwise::total", 2.0, total),
    same("elementwise::dot", 6.0, dot),
    same("elementwise::softmax", 8.0, softmax),
    same(
        "elementwise::softmax_backward_row",
        8.0,
        softmax_backward_row,
    ),
    same("optim::adamw", 4.0, adamw),
    same("optim::lerp", 2.0, lerp),
];

/// Around vectors and the block that a task takes.
const LENGTHS: [usize; 8] = [0, 1, 16, 31, 33, 1025, 4097, (1 << 14) + 5];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Each number by `f`, for every length.
fn each<const N: usize>(
    t: &mut Trial,
    what: &str,
    wanted: impl Fn([f64; N]) -> f64,
    run: impl Fn([&[f32]; N], &mut [f32]) + Sync,
) {
    let names: [String; N] = std::array::from_fn(|i| format!("input {i}"));
    for n in LENGTHS {
        let x: [Vec<f32>; N] = std::array::from_fn(|i| normals(n, 2.0, &names[i]));
        let want = (0..n).map(|i| wanted(x.each_ref().map(|x| f64::from(x[i]))));
        t.compare(&format!("{what} of {n}"), vec![want.collect()], || {
            let mut out = unset(n);
            run(x.each_ref().map(|x| &x[..]), &mut out);
            vec![out]
        });
    }
}

fn unary(t: &mut Trial) {
    // Generic, so that the function is compiled for the path.
    fn one(
        t: &mut Trial,
        what: &str,
        f: impl Fn(f32) -> f32 + Copy + Sync,
        wanted: fn(f64) -> f64,
    ) {
        each(t, what, |[x]| wanted(x), |[x], out| e::unary(x, out, f));
    }
    one(t, "exp", math::exp, f64::exp);
    one(t, "sigmoid", math::sigmoid, sigmoid);
    one(t, "silu", math::silu, |x| x * sigmoid(x));
    one(t, "silu'", math::silu_derivative, |x| {
        sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)))
    });
    one(t, "tanh", math::tanh, f64::tanh);
}

fn binary(t: &mut Trial) {
    each(
        t,
        "a b",
        |[a, b]| a * b,
        |[a, b], out| e::binary(a, b, out, |a, b| a * b),
    );
}

fn ternary(t: &mut Trial) {
    // The shape that a compiler would fuse if it were allowed to.
    each(
        t,
        "a b + c",
        |[a, b, c]| a * b + c,
        |[a, b, c], out| {
            e::ternary(a, b, c, out, |a, b, c| a * b + c);
        },
    );
}

fn update(t: &mut Trial) {
    each(
        t,
        "a - b",
        |[a, b]| a - b,
        |[a, b], out| {
            out.copy_from_slice(a);
            e::update(out, b, |a, b| a - b);
        },
    );
}

fn add_scaled(t: &mut Trial) {
    each(
        t,
        "a + 0.3 b",
        |[a, b]| a + f64::from(0.3f32) * b,
        |[a, b], out| {
            out.copy_from_slice(a);
            e::add_scaled(out, b, 0.3);
        },
    );
}

fn swiglu(t: &mut Trial) {
    each(
        t,
        "swiglu",
        |[a, b]| a * sigmoid(a) * b,
        |[a, b], out| e::swiglu(a, b, out),
    );
}

fn swiglu_backward(t: &mut Trial) {
    let slope = |g: f64| sigmoid(g) * (1.0 + g * (1.0 - sigmoid(g)));
    each(
        t,
        "gate",
        |[g, u, d]| d * u * slope(g),
        |[g, u, d], out| {
            e::swiglu_backward(g, u, d, out, &mut unset(g.len()));
        },
    );
    each(
        t,
        "up",
        |[g, _, d]| d * g * sigmoid(g),
        |[g, u, d], out| {
            e::swiglu_backward(g, u, d, &mut unset(g.len()), out);
        },
    );
}

fn reduce_rows(t: &mut Trial) {
    for (rows, cols) in [(1, 1), (31, 33), (129, 5), (300, 31), (4097, 3)] {
        let x = normals(rows * cols, 1.0, "rows");
        let mut want = vec![1.0; cols];
        for row in x.chunks(cols) {
            want.iter_mut()
                .zip(row)
                .for_each(|(w, x)| *w += f64::from(*x));
        }
        t.compare(&format!("[{rows}, {cols}]"), vec![want], || {
            let mut out = vec![1.0; cols];
            e::reduce_rows(rows, cols, &mut out, |i, acc| {
                acc.iter_mut()
                    .zip(&x[i * cols..])
                    .for_each(|(a, x)| *a += x);
            });
            vec![out]
        });
    }
}

/// One number from all, for every length.
fn reduction(
    t: &mut Trial,
    want: impl Fn(&[f64], &[f64]) -> f64,
    f: impl Fn(&[f32], &[f32]) -> f64 + Sync,
) {
    for n in LENGTHS {
        // Means that are not zero, so that the result is no difference of large sums.
        let [a, b] = ["a", "b"]
            .map(|what| -> Vec<f32> { normals(n, 1.0, what).iter().map(|x| x + 2.0).collect() });
        let want = want(&wide(&a), &wide(&b));
        t.compare(&format!("{n}"), vec![vec![want]], || {
            vec![vec![f(&a, &b) as f32]]
        });
    }
}

fn sum_sq(t: &mut Trial) {
    reduction(t, |a, _| a.iter().map(|x| x * x).sum(), |a, _| e::sum_sq(a));
}

fn total(t: &mut Trial) {
    reduction(t, |a, _| a.iter().sum(), |a, _| e::total(a));
}

fn dot(t: &mut Trial) {
    let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
    reduction(t, sum, |a, b| f64::from(e::dot(a, b)));
}

/// Probabilities and log-sum-exp of a row.
fn distribution(row: &[f32]) -> (Vec<f64>, f64) {
    let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
    let p = row.iter().map(|&x| f64::from(x).exp() / sum);
    (p.collect(), sum.ln())
}

const ROWS: [(usize, usize); 5] = [(3, 1), (7, 31), (31, 33), (2, 4097), (40, 16)];

fn softmax(t: &mut Trial) {
    for (rows, cols) in ROWS {
        let x = normals(rows * cols, 4.0, "scores");
        let (p, lse): (Vec<_>, Vec<_>) = x.chunks(cols).map(distribution).unzip();
        t.compare(&format!("[{rows}, {cols}]"), vec![p.concat(), lse], || {
            let (mut out, mut lse) = (unset(x.len()), unset(rows));
            e::softmax(&x, cols, &mut out, &mut lse);
            vec![out, lse]
        });
    }
}

fn softmax_backward_row(t: &mut Trial) {
    for (rows, cols) in ROWS {
        let dy = normals(rows * cols, 1.0, "dy");
        let scores = normals(rows * cols, 2.0, "scores");
        let p: Vec<f32> = (scores.chunks(cols))
            .flat_map(|row| distribution(row).0)
            .map(|p| p as f32)
            .collect();
        let mut want = Vec::new();
        for (p, dy) in p.chunks(cols).zip(dy.chunks(cols)) {
            let (p, dy) = (wide(p), wide(dy));
            let mean: f64 = p.iter().zip(&dy).map(|(p, d)| p * d).sum();
            want.extend(p.iter().zip(&dy).map(|(p, d)| p * (d - mean)));
        }
        // A row of one column has no gradient but what rounding of its probability leaves.
        if cols == 1 {
            want.fill(0.0);
        }
        t.compare(&format!("[{rows}, {cols}]"), vec![want], || {
            let mut out = unset(rows * cols);
            for (i, out) in out.chunks_mut(cols).enumerate() {
                let at = i * cols..(i + 1) * cols;
                e::softmax_backward_row(&p[at.clone()], &dy[at], out);
            }
            vec![out]
        });
    }
}

fn adamw(t: &mut Trial) {
    let s = optim::AdamW {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 3,
    };
    for n in LENGTHS {
        let [p, g, m] = ["p", "g", "m"].map(|what| normals(n, 1.0, what));
        let v: Vec<f32> = normals(n, 0.3, "v").iter().map(|v| v * v).collect();
        let mut want = [wide(&p), wide(&m), wide(&v)];
        let [b1, b2, lr, eps, decay] =
            [s.beta1, s.beta2, s.lr, s.eps, s.weight_decay].map(f64::from);
        for (i, g) in wide(&g).into_iter().enumerate() {
            let [p, m, v] = want.each_mut().map(|x| &mut x[i]);
            *m = b1 * *m + (1.0 - b1) * g;
            *v = b2 * *v + (1.0 - b2) * g * g;
            let (m, v) = (*m / (1.0 - b1.powi(3)), *v / (1.0 - b2.powi(3)));
            *p -= lr * (m / (v.sqrt() + eps) + decay * *p);
        }
        t.compare(&format!("{n}"), want.to_vec(), || {
            let (mut p, mut m, mut v) = (p.clone(), m.clone(), v.clone());
            optim::adamw(&mut p, &g, &mut m, &mut v, s);
            vec![p, m, v]
        });
    }
}

fn lerp(t: &mut Trial) {
    each(
        t,
        "a + 0.3 (b - a)",
        |[a, b]| a + f64::from(0.3f32) * (b - a),
        |[a, b], out| {
            out.copy_from_slice(a);
            optim::lerp(out, b, 0.3);
        },
    );
}
