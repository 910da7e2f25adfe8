//! The feed-forward layer as one walk, against plain loops in f64, where the CPU multiplies bf16.

use kernels::cpu::gemm::ffn::{Ffn, Gradients, Kept, Saved, backward, forward};
use kernels::isa;
use kernels::random::Counted;

/// Rows, width, hidden units: around tiles, blocks of rows, depths, and parts of hidden units.
const SHAPES: [(usize, usize, usize); 5] = [
    (33, 40, 70),
    (300, 32, 513),
    (257, 520, 129),
    (32, 64, 32),
    (31, 33, 1100),
];

const EPS: f32 = 1e-3;

fn normals(n: usize, scale: f32, purpose: &str) -> Vec<f32> {
    let random = Counted::new(3, purpose, n as u64);
    (0..n as u64).map(|i| scale * random.normal(i)).collect()
}

/// C [m, n] = A B, with elements at the strides given.
pub(crate) fn product(
    [m, n, k]: [usize; 3],
    a: (&[f64], usize, usize),
    b: (&[f64], usize, usize),
) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for p in 0..k {
            let x = a.0[i * a.1 + p * a.2];
            for j in 0..n {
                c[i * n + j] += x * b.0[p * b.1 + j * b.2];
            }
        }
    }
    c
}

/// Within two hundredths of the largest: operands carry eight bits.
pub(crate) fn near(name: &str, found: &[f32], want: &[f64]) {
    let top = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    for (i, (&f, &w)) in found.iter().zip(want).enumerate() {
        let off = (f64::from(f) - w).abs();
        assert!(
            off <= 0.02 * top,
            "{name}: element {i} is {f}, not {w} (largest {top})"
        );
    }
}

#[test]
fn forward_and_backward_are_those_of_the_operations() {
    if !isa::detect().multiplies_bf16() {
        println!("skipped: {} has no products of bf16", isa::name());
        return;
    }
    for (n, w, f) in SHAPES {
        let x = normals(n * w, 1.0, "x");
        let scale = 1.0 / (w as f32).sqrt();
        let (gate, up) = (normals(f * w, scale, "gate"), normals(f * w, scale, "up"));
        let down = normals(w * f, 1.0 / (f as f32).sqrt(), "down");
        let gain: Vec<f32> = normals(w, 0.3, "gain").iter().map(|g| 1.0 + g).collect();
        let dy = normals(n * w, 1.0, "dy");
        let o = Ffn {
            x: &x,
            gain: &gain,
            eps: EPS,
            gate: &gate,
            up: &up,
            down: &down,
        };

        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let [raw, gain64, g64, u64, d64, dy64] =
            [&x, &gain, &gate, &up, &down, &dy].map(|v| wide(v));
        let rstd: Vec<f64> = raw
            .chunks_exact(w)
            .map(|x| x.iter().map(|x| x * x).sum::<f64>() / w as f64 + f64::from(EPS))
            .map(|mean| 1.0 / mean.sqrt())
            .collect();
        let x64: Vec<f64> = (0..n * w)
            .map(|i| raw[i] * rstd[i / w] * gain64[i % w])
            .collect();
        let g = product([n, f, w], (&x64, w, 1), (&g64, 1, w));
        let u = product([n, f, w], (&x64, w, 1), (&u64, 1, w));
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let hidden: Vec<f64> = g
            .iter()
            .zip(&u)
            .map(|(&g, &u)| g * sigmoid(g) * u)
            .collect();
        let mut y = product([n, w, f], (&hidden, f, 1), (&d64, 1, f));
        y.iter_mut().zip(&raw).for_each(|(y, x)| *y += x);
        let dh = product([n, f, w], (&dy64, w, 1), (&d64, f, 1));
        let slope = |g: f64| sigmoid(g) * (1.0 + g * (1.0 - sigmoid(g)));
        let dg: Vec<f64> = (0..n * f).map(|i| dh[i] * u[i] * slope(g[i])).collect();
        let du: Vec<f64> = (0..n * f).map(|i| dh[i] * g[i] * sigmoid(g[i])).collect();
        let mut dn = product([n, w, f], (&dg, f, 1), (&g64, w, 1));
        let by_up = product([n, w, f], (&du, f, 1), (&u64, w, 1));
        dn.iter_mut().zip(by_up).for_each(|(x, y)| *x += y);
        let (mut dx, mut dgain) = (dy64.clone(), vec![0.0; w]);
        for (i, r) in rstd.iter().enumerate() {
            let row = i * w..(i + 1) * w;
            let mean = row
                .clone()
                .map(|j| dn[j] * gain64[j % w] * raw[j])
                .sum::<f64>()
                / w as f64;
            for j in row {
                dx[j] += r * (dn[j] * gain64[j % w] - raw[j] * r * r * mean);
                dgain[j % w] += dn[j] * raw[j] * r;
            }
        }

        let (mut kept_gate, mut kept_up) = (vec![0; n * f], vec![0; n * f]);
        let (mut out, mut again) = (vec![f32::NAN; n * w], vec![f32::NAN; n * w]);
        let mut kept_rstd = vec![f32::NAN; n];
        let kept = Kept {
            gate: &mut kept_gate,
            up: &mut kept_up,
            rstd: &mut kept_rstd,
        };
        forward(&o, &mut out, Some(kept));
        forward(&o, &mut again, None);
        assert!(
            out == again,
            "{n} x {w} x {f}: what is kept changes nothing"
        );
        near("y", &out, &y);

        // Added to the input's gradient and to that of up; put in place of the others.
        let mut sums = [
            vec![1.0; n * w],
            vec![f32::NAN; f * w],
            vec![1.0; f * w],
            vec![f32::NAN; w * f],
            vec![1.0; w],
        ];
        let [sx, sg, su, sd, sn] = &mut sums;
        let grads = Gradients {
            x: Some((sx, 1.0)),
            gain: Some((sn, 1.0)),
            gate: Some((sg, 0.0)),
            up: Some((su, 1.0)),
            down: Some((sd, 0.0)),
        };
        let saved = Saved {
            gate: &kept_gate,
            up: &kept_up,
            rstd: &kept_rstd,
        };
        backward(&o, saved, &dy, grads);
        let more = |x: Vec<f64>| x.into_iter().map(|x| x + 1.0).collect::<Vec<_>>();
        near("dx", &sums[0], &more(dx));
        near("dgain", &sums[4], &more(dgain));
        near(
            "dgate",
            &sums[1],
            &product([f, w, n], (&dg, 1, f), (&x64, w, 1)),
        );
        near(
            "dup",
            &sums[2],
            &more(product([f, w, n], (&du, 1, f), (&x64, w, 1))),
        );
        near(
            "ddown",
            &sums[3],
            &product([w, f, n], (&dy64, 1, w), (&hidden, f, 1)),
        );
    }
}
