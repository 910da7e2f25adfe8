//! Linear maps of the same rows, against plain loops in f64, where the CPU multiplies bf16.

use crate::ffn::{near, product};
use crate::paths::normals;
use kernels::cpu::gemm::linear::{Gradients, Linear, backward, forward};
use kernels::isa;

const EPS: f32 = 1e-3;

/// Rows, width, outputs of the maps: around tiles, blocks of rows and depths.
const SHAPES: [(usize, usize, [usize; 3]); 4] = [
    (33, 40, [32, 70, 513]),
    (300, 520, [96, 1030, 33]),
    (64, 64, [64, 64, 64]),
    (511, 129, [512, 40, 100]),
];

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn forward_and_backward_are_those_of_the_operations() {
    if !isa::detect().multiplies_bf16() {
        println!("skipped: {} has no products of bf16", isa::name());
        return;
    }
    for ((n, w, outputs), normed) in SHAPES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        let name = |what: &str| format!("{n} x {w} x {outputs:?}, normed {normed}: {what}");
        let x = normals(n * w, 1.0, "x");
        let gain: Vec<f32> = normals(w, 0.3, "gain").iter().map(|g| 1.0 + g).collect();
        let scale = 1.0 / (w as f32).sqrt();
        let weights = outputs.map(|o| normals(o * w, scale, "weights"));
        let dys = outputs.map(|o| normals(n * o, 1.0, "dy"));
        let weights = weights.each_ref().map(|w| &w[..]);
        let o = Linear {
            x: &x,
            width: w,
            norm: normed.then_some((&gain, EPS)),
            weights: &weights,
        };

        let (x64, gain64) = (wide(&x), wide(&gain));
        let rstd: Vec<f64> = x64
            .chunks_exact(w)
            .map(|x| x.iter().map(|x| x * x).sum::<f64>() / w as f64 + f64::from(EPS))
            .map(|mean| 1.0 / mean.sqrt())
            .collect();
        let rows: Vec<f64> = (0..n * w)
            .map(|i| match normed {
                true => x64[i] * rstd[i / w] * gain64[i % w],
                false => x64[i],
            })
            .collect();

        let mut found = outputs.map(|o| vec![f32::NAN; n * o]);
        let mut kept = vec![f32::NAN; n];
        let mut slices = found.each_mut().map(|y| &mut y[..]);
        forward(&o, None, &mut slices, &mut kept);
        for (i, &out) in outputs.iter().enumerate() {
            let want = product([n, out, w], (&rows, w, 1), (&wide(weights[i]), 1, w));
            near(&name("y"), &found[i], &want);
        }
        // A sum goes with a single map.
        let single = Linear {
            weights: &weights[..1],
            ..o
        };
        let mut sum = vec![f32::NAN; n * outputs[0]];
        forward(&single, Some(&dys[0]), &mut [&mut sum], &mut kept);
        let want: Vec<f64> = found[0]
            .iter()
            .zip(&dys[0])
            .map(|(y, add)| f64::from(*y) + f64::from(*add))
            .collect();
        near(&name("sum"), &sum, &want);

        // Nothing comes of the second map.
        let mut dn = vec![0.0; n * w];
        for i in [0, 2] {
            let by = product(
                [n, w, outputs[i]],
                (&wide(&dys[i]), outputs[i], 1),
                (&wide(weights[i]), w, 1),
            );
            dn.iter_mut().zip(by).for_each(|(x, y)| *x += y);
        }
        let (mut dx, mut dgain) = (vec![1.0; n * w], vec![0.0; w]);
        for (i, r) in rstd.iter().enumerate() {
            let row = i * w..(i + 1) * w;
            let products = row.clone().map(|j| dn[j] * gain64[j % w] * x64[j]);
            let mean = products.sum::<f64>() / w as f64;
            for j in row {
                dx[j] += match normed {
                    true => r * (dn[j] * gain64[j % w] - x64[j] * r * r * mean),
                    false => dn[j],
                };
                dgain[j % w] += dn[j] * x64[j] * r;
            }
        }
        let mut gradients = outputs.map(|o| vec![f32::NAN; o * w]);
        let (mut gx, mut ggain) = (vec![1.0; n * w], vec![f32::NAN; w]);
        let [g0, g1, g2] = gradients.each_mut().map(|g| Some((&mut g[..], 0.0)));
        let grads = Gradients {
            x: Some((&mut gx, 1.0)),
            gain: normed.then_some((&mut ggain[..], 0.0)),
            weights: vec![g0, g1, g2],
        };
        backward(&o, &kept, &[Some(&dys[0]), None, Some(&dys[2])], grads);
        near(&name("dx"), &gx, &dx);
        if normed {
            near(&name("dgain"), &ggain, &dgain);
        }
        for i in [0, 2] {
            let shape = [outputs[i], w, n];
            let want = product(shape, (&wide(&dys[i]), 1, outputs[i]), (&rows, w, 1));
            near(&name("dw"), &gradients[i], &want);
        }
        assert!(gradients[1].iter().all(|&g| g == 0.0), "{}", name("none"));
    }
}
