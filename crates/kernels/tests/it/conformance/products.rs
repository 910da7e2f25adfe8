//! Matrix products: every transposition, of few rows and many, sequential and parallel, symmetric, and by weights in bf16.

use super::trial::{Trial, Wanted, nearest, normals, product, unset};
use super::{Operation, close};
use kernels::cpu::gemm;
use kernels::math::to_bf16;

pub(super) const TABLE: &[Operation] = &[
    close("gemm::gemm", 30.0, 0.0, parallel),
    close("gemm::gemm_seq", 30.0, 0.0, sequential),
    close(
        "gemm::gemm, few rows by contiguous columns",
        20.0,
        0.0,
        few_rows,
    ),
    close("gemm::gemm, deep", 30.0, 0.0, deep),
    close("gemm::gemm_symmetric", 40.0, 0.0, symmetric),
    close("gemm::gemm_bf16", 30.0, 0.0, narrow),
    close("gemm::polar::polar", 60.0, 20.0, polar),
];

/// Rows, columns, steps: around tiles, panels and vectors, and the sizes below which nothing is packed or rounded.
const SHAPES: [[usize; 3]; 16] = [
    [1, 1, 1],
    [1, 31, 33],
    [1, 130, 300],
    [2, 4097, 31],
    [31, 33, 1],
    [33, 1, 31],
    [7, 64, 300],
    [11, 12, 13],
    [13, 12, 13],
    [31, 33, 129],
    [49, 97, 200],
    [193, 65, 31],
    [33, 4097, 31],
    [4097, 33, 31],
    [31, 33, 4097],
    [150, 257, 400],
];

/// Whether A and B are stored transposed; alpha and beta. With beta 0 old values must not be read.
const WAYS: [(bool, bool, f32, f32); 4] = [
    (false, false, 1.0, 0.0),
    (true, false, 0.5, 1.0),
    (false, true, -1.0, 0.0),
    (true, true, 2.0, -1.5),
];

/// `x` [rows, cols], stored transposed where wanted, and its element strides.
fn stored(x: &[f32], rows: usize, cols: usize, transposed: bool) -> (Vec<f32>, usize, usize) {
    match transposed {
        true => (
            (0..rows * cols)
                .map(|i| x[i % rows * cols + i / rows])
                .collect(),
            1,
            rows,
        ),
        false => (x.to_vec(), cols, 1),
    }
}

/// Strided operands, as [`gemm::gemm`] takes them.
#[derive(Clone, Copy)]
struct Strided<'a> {
    shape: [usize; 3],
    a: (&'a [f32], usize, usize),
    b: (&'a [f32], usize, usize),
    alpha: f32,
    beta: f32,
}

fn cases(
    t: &mut Trial,
    shapes: &[[usize; 3]],
    ways: &[(bool, bool, f32, f32)],
    run: fn(Strided, &mut [f32]),
) {
    for &[m, n, k] in shapes {
        let (a, b, old) = (
            normals(m * k, 1.0, "a"),
            normals(k * n, 1.0, "b"),
            normals(m * n, 1.0, "c"),
        );
        let products = t.by_operands(|round| {
            let [a, b] = [&a, &b].map(|x| x.iter().map(|&x| round(x)).collect::<Vec<_>>());
            vec![product([m, n, k], (&a, false), (&b, false))]
        });
        for &(ta, tb, alpha, beta) in ways {
            let ((a, rsa, csa), (b, rsb, csb)) = (stored(&a, m, k, ta), stored(&b, k, n, tb));
            let sum = |(x, old): (&f64, &f32)| match beta == 0.0 {
                true => f64::from(alpha) * x,
                false => f64::from(alpha) * x + f64::from(beta) * f64::from(*old),
            };
            let wanted: Vec<Wanted> = products
                .iter()
                .map(|p| vec![p[0].iter().zip(&old).map(sum).collect()])
                .collect();
            let case = format!(
                "[{m}, {k}] x [{k}, {n}], transposed {ta} {tb}, alpha {alpha}, beta {beta}"
            );
            t.compare_any(&case, &wanted, || {
                let mut c = if beta == 0.0 {
                    unset(m * n)
                } else {
                    old.clone()
                };
                let (a, b) = ((&a[..], rsa, csa), (&b[..], rsb, csb));
                run(
                    Strided {
                        shape: [m, n, k],
                        a,
                        b,
                        alpha,
                        beta,
                    },
                    &mut c,
                );
                vec![c]
            });
        }
    }
}

fn by_gemm(s: Strided, c: &mut [f32]) {
    let ([m, n, k], (a, rsa, csa), (b, rsb, csb)) = (s.shape, s.a, s.b);
    gemm::gemm(m, n, k, s.alpha, a, rsa, csa, b, rsb, csb, s.beta, c, n);
}

fn parallel(t: &mut Trial) {
    cases(t, &SHAPES, &WAYS, by_gemm);
}

fn sequential(t: &mut Trial) {
    cases(t, &SHAPES, &WAYS, |s, c| {
        let ([m, n, k], (a, rsa, csa), (b, rsb, csb)) = (s.shape, s.a, s.b);
        gemm::gemm_seq(m, n, k, s.alpha, a, rsa, csa, b, rsb, csb, s.beta, c, n);
    });
}

fn few_rows(t: &mut Trial) {
    let mut shapes = Vec::new();
    for m in [1, 2, 3, 5, 7, 8, 31, 48] {
        shapes.extend([[m, 31, 33], [m, 97, 129], [m, 33, 300]]);
    }
    shapes.extend([[1, 4097, 260], [5, 4097, 140], [3, 33, 4097]]);
    cases(
        t,
        &shapes,
        &[(false, true, 1.0, 0.0), (false, true, 0.5, -1.5)],
        by_gemm,
    );
}

fn deep(t: &mut Trial) {
    // More columns than are packed at once, and several blocks of steps.
    cases(
        t,
        &[[13, 4097, 769], [65, 1025, 1100]],
        &[(false, true, 1.0, 1.0), (true, false, 1.0, 0.0)],
        by_gemm,
    );
}

fn symmetric(t: &mut Trial) {
    for [n, k] in [[1, 3], [31, 33], [33, 31], [97, 400], [330, 17], [13, 4097]] {
        let a = normals(n * k, 1.0, "a");
        let products = t.by_operands(|round| {
            let a: Vec<f64> = a.iter().map(|&x| round(x)).collect();
            vec![product([n, n, k], (&a, false), (&a, true))]
        });
        let half = normals(n * n, 1.0, "c");
        let old: Vec<f32> = (0..n * n)
            .map(|i| half[i / n * n + i % n] + half[i % n * n + i / n])
            .collect();
        for (transposed, alpha, beta) in [(false, 1.0, 0.0f32), (true, 0.5, -1.5)] {
            let (a, rs, cs) = stored(&a, n, k, transposed);
            let sum =
                |(x, old): (&f64, &f32)| f64::from(alpha) * x + f64::from(beta) * f64::from(*old);
            let wanted: Vec<Wanted> = products
                .iter()
                .map(|p| vec![p[0].iter().zip(&old).map(sum).collect()])
                .collect();
            t.compare_any(
                &format!("[{n}, {k}], transposed {transposed}"),
                &wanted,
                || {
                    let mut c = if beta == 0.0 {
                        unset(n * n)
                    } else {
                        old.clone()
                    };
                    gemm::gemm_symmetric(n, k, alpha, &a, rs, cs, beta, &mut c);
                    vec![c]
                },
            );
        }
    }
}

fn narrow(t: &mut Trial) {
    let shapes = [
        [1, 31, 33],
        [1, 4097, 260],
        [3, 1, 31],
        [31, 33, 129],
        [48, 97, 300],
        [49, 97, 300],
        [130, 257, 33],
        // In whole steps, from as few rows on as tiles pay for.
        [4, 64, 64],
        [5, 32, 32],
        [16, 97, 128],
        [17, 4097, 96],
        [31, 33, 4096],
        [48, 160, 544],
    ];
    for [m, n, k] in shapes {
        let (a, b) = (normals(m * k, 1.0, "a"), normals(n * k, 1.0, "b"));
        let bits: Vec<u16> = b.iter().map(|&x| to_bf16(x)).collect();
        let b: Vec<f64> = b.iter().map(|&x| nearest(x)).collect();
        let wanted = t.by_operands(|round| {
            let a: Vec<f64> = a.iter().map(|&x| round(x)).collect();
            vec![product([m, n, k], (&a, false), (&b, true))]
        });
        t.compare_any(&format!("[{m}, {k}] x [{k}, {n}]"), &wanted, || {
            let mut c = unset(m * n);
            gemm::gemm_bf16(m, n, k, &a, &bits, &mut c);
            vec![c]
        });
    }
}

fn polar(t: &mut Trial) {
    let coefficients = [(3.4445f32, -4.775f32, 2.0315f32); 2];
    for [r, c] in [
        [1, 31],
        [31, 1],
        [31, 33],
        [33, 31],
        [32, 32],
        [65, 600],
        [600, 65],
        [48, 48],
    ] {
        let mut x = normals(r * c, 1.0, "x");
        let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt();
        x.iter_mut().for_each(|x| *x /= norm);
        let mut wanted = super::trial::wide(&x);
        for (a, b, c2) in coefficients.map(|(a, b, c)| (f64::from(a), f64::from(b), f64::from(c))) {
            // From the left, whichever side is longer: X (Xᵀ X) = (X Xᵀ) X.
            let gram = product([r, r, c], (&wanted, false), (&wanted, true));
            let square = product([r, r, r], (&gram, false), (&gram, false));
            let poly: Vec<f64> = gram
                .iter()
                .zip(square)
                .map(|(g, s)| b * g + c2 * s)
                .collect();
            let turned = product([r, c, r], (&poly, false), (&wanted, false));
            wanted = wanted.iter().zip(turned).map(|(x, t)| a * x + t).collect();
        }
        t.compare(&format!("[{r}, {c}]"), vec![wanted], || {
            let mut x = x.clone();
            gemm::polar::polar(&mut x, [r, c], &coefficients);
            vec![x]
        });
    }
}
