//! Layers that are one walk over blocks of rows, where the CPU multiplies bf16: linear maps with norm and sum, and the
//! feed-forward layer.

use super::trial::{Trial, nearest, normals, product, unset, wide};
use super::{Operation, fused, same};
use kernels::cpu::gemm::{self, ffn, linear};

pub(super) const TABLE: &[Operation] = &[
    fused("gemm::linear::forward", 30.0, 0.0, linear_forward),
    fused(
        "gemm::linear::forward, normed",
        30.0,
        1.0,
        linear_forward_normed,
    ),
    fused("gemm::linear::backward", 40.0, 0.0, linear_backward),
    fused(
        "gemm::linear::backward, normed",
        40.0,
        1.0,
        linear_backward_normed,
    ),
    fused("gemm::ffn::forward", 30.0, 2.0, ffn_forward),
    fused("gemm::ffn::backward", 30.0, 4.0, ffn_backward),
    same("gemm::ffn::halves", 0.0, halves),
    same("gemm::ffn::halves_of", 0.0, halves),
];

const EPS: f32 = 1e-3;

fn rounded(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| nearest(x)).collect()
}

fn gains(w: usize) -> Vec<f32> {
    normals(w, 0.3, "gain").iter().map(|g| 1.0 + g).collect()
}

/// A norm of rows, in f64.
struct Normed {
    x: Vec<f64>,
    gain: Vec<f64>,
    rstd: Vec<f64>,
}

impl Normed {
    fn new(x: &[f32], gain: &[f32]) -> Self {
        let (x, gain) = (wide(x), wide(gain));
        let mean = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let rstd = x
            .chunks(gain.len())
            .map(|x| 1.0 / (mean(x) + f64::from(EPS)).sqrt())
            .collect();
        Self { x, gain, rstd }
    }

    fn rows(&self) -> Vec<f64> {
        let w = self.gain.len();
        (0..self.x.len())
            .map(|i| self.x[i] * self.rstd[i / w] * self.gain[i % w])
            .collect()
    }

    /// Gradients of rows and gain, for that of the normed rows.
    fn backward(&self, dn: &[f64]) -> [Vec<f64>; 2] {
        let w = self.gain.len();
        let (mut dx, mut dgain) = (vec![0.0; dn.len()], vec![0.0; w]);
        for (i, r) in self.rstd.iter().enumerate() {
            let row = i * w..(i + 1) * w;
            let along: f64 = row
                .clone()
                .map(|j| dn[j] * self.gain[j % w] * self.x[j])
                .sum();
            for j in row {
                dx[j] = r * (dn[j] * self.gain[j % w] - self.x[j] * r * r * along / w as f64);
                dgain[j % w] += dn[j] * self.x[j] * r;
            }
        }
        [dx, dgain]
    }
}

fn added(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Rows, width, outputs of the maps: around tiles, blocks of rows and depths.
const MAPS: [(usize, usize, [usize; 3]); 5] = [
    (33, 40, [32, 70, 513]),
    (300, 520, [96, 545, 33]),
    (64, 64, [64, 64, 64]),
    (511, 129, [257, 40, 100]),
    (4097, 33, [32, 40, 33]),
];

struct Maps {
    x: Vec<f32>,
    gain: Vec<f32>,
    weights: [Vec<f32>; 3],
    dys: [Vec<f32>; 3],
}

impl Maps {
    fn new((n, w, outputs): (usize, usize, [usize; 3])) -> Self {
        let scale = 1.0 / (w as f32).sqrt();
        Self {
            x: normals(n * w, 1.0, "x"),
            gain: gains(w),
            weights: outputs.map(|o| normals(o * w, scale, "weights")),
            dys: outputs.map(|o| normals(n * o, 1.0, "dy")),
        }
    }
}

fn linear_forward(t: &mut Trial) {
    maps_forward(t, false);
}

fn linear_forward_normed(t: &mut Trial) {
    maps_forward(t, true);
}

fn maps_forward(t: &mut Trial, normed: bool) {
    for shape in MAPS {
        let ((n, w, outputs), m) = (shape, Maps::new(shape));
        assert!(gemm::fuses([n, w].into_iter().chain(outputs)), "{shape:?}");
        let norm = Normed::new(&m.x, &m.gain);
        let rows = if normed { norm.rows() } else { rounded(&m.x) };
        let mut want: Vec<Vec<f64>> = (outputs.iter().zip(&m.weights))
            .map(|(&o, weights)| product([n, o, w], (&rows, false), (&rounded(weights), true)))
            .collect();
        // A sum goes with a single map.
        let mut sum = want[0].clone();
        added(&mut sum, &wide(&m.dys[0]));
        want.extend([
            sum,
            if normed {
                norm.rstd.clone()
            } else {
                Vec::new()
            },
        ]);
        t.compare(&format!("{shape:?}"), want, || {
            let weights = m.weights.each_ref().map(|w| &w[..]);
            let norm = normed.then_some((&m.gain[..], EPS));
            let o = linear::Linear {
                x: &m.x,
                width: w,
                norm,
                weights: &weights,
            };
            let mut found = outputs.map(|o| unset(n * o));
            let mut rstd = unset(if normed { n } else { 0 });
            linear::forward(
                &o,
                None,
                &mut found.each_mut().map(|y| &mut y[..]),
                &mut rstd,
            );
            let single = linear::Linear {
                weights: &weights[..1],
                ..o
            };
            let mut sum = unset(n * outputs[0]);
            linear::forward(&single, Some(&m.dys[0]), &mut [&mut sum], &mut rstd.clone());
            found.into_iter().chain([sum, rstd]).collect()
        });
    }
}

fn linear_backward(t: &mut Trial) {
    maps_backward(t, false);
}

fn linear_backward_normed(t: &mut Trial) {
    maps_backward(t, true);
}

fn maps_backward(t: &mut Trial, normed: bool) {
    for shape in MAPS {
        let ((n, w, outputs), m) = (shape, Maps::new(shape));
        let norm = Normed::new(&m.x, &m.gain);
        let rows = if normed { norm.rows() } else { rounded(&m.x) };
        // Nothing comes of the second map.
        let mut dn = vec![0.0; n * w];
        let mut dw = outputs.map(|o| vec![0.0; o * w]);
        for i in [0, 2] {
            let (dy, o) = (rounded(&m.dys[i]), outputs[i]);
            added(
                &mut dn,
                &product([n, w, o], (&dy, false), (&rounded(&m.weights[i]), false)),
            );
            dw[i] = product([o, w, n], (&dy, true), (&rows, false));
        }
        // Added to what is there: to the rows' gradient, and to the third map's.
        dw[2].iter_mut().for_each(|x| *x += 1.0);
        let [mut dx, mut dgain] = norm.backward(&dn);
        if !normed {
            (dx, dgain) = (dn, Vec::new());
        }
        dx.iter_mut().for_each(|x| *x += 1.0);
        let want = dw.into_iter().chain([dx, dgain]).collect();
        t.compare(&format!("{shape:?}"), want, || {
            let weights = m.weights.each_ref().map(|w| &w[..]);
            let given = normed.then_some((&m.gain[..], EPS));
            let o = linear::Linear {
                x: &m.x,
                width: w,
                norm: given,
                weights: &weights,
            };
            let mut dw = [
                unset(outputs[0] * w),
                unset(outputs[1] * w),
                vec![1.0; outputs[2] * w],
            ];
            let (mut dx, mut dgain) = (vec![1.0; n * w], unset(if normed { w } else { 0 }));
            let [g0, g1, g2] = dw.each_mut();
            let grads = linear::Gradients {
                x: Some((&mut dx, 1.0)),
                gain: normed.then_some((&mut dgain[..], 0.0)),
                weights: vec![Some((g0, 0.0)), Some((g1, 0.0)), Some((g2, 1.0))],
            };
            let rstd: Vec<f32> = norm.rstd.iter().map(|&r| r as f32).collect();
            linear::backward(&o, &rstd, &[Some(&m.dys[0]), None, Some(&m.dys[2])], grads);
            dw.into_iter().chain([dx, dgain]).collect()
        });
    }
}

/// Rows, width, hidden units: around tiles, blocks of rows, depths, and parts of hidden units.
const LAYERS: [(usize, usize, usize); 5] = [
    (33, 40, 70),
    (300, 32, 513),
    (257, 520, 129),
    (32, 64, 32),
    (31, 33, 1100),
];

struct Layer {
    x: Vec<f32>,
    gain: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
    dy: Vec<f32>,
}

impl Layer {
    fn new((n, w, f): (usize, usize, usize)) -> Self {
        let scale = 1.0 / (w as f32).sqrt();
        Self {
            x: normals(n * w, 1.0, "x"),
            gain: gains(w),
            gate: normals(f * w, scale, "gate"),
            up: normals(f * w, scale, "up"),
            down: normals(w * f, 1.0 / (f as f32).sqrt(), "down"),
            dy: normals(n * w, 1.0, "dy"),
        }
    }

    fn operands(&self) -> ffn::Ffn<'_> {
        let Self {
            x,
            gain,
            gate,
            up,
            down,
            ..
        } = self;
        ffn::Ffn {
            x,
            gain,
            eps: EPS,
            gate,
            up,
            down,
        }
    }

    /// Output; with what is kept.
    fn forward(&self) -> (Vec<f32>, [Vec<u16>; 2], Vec<f32>) {
        let (n, hidden) = (
            self.x.len() / self.gain.len(),
            self.x.len() / self.gain.len() * self.gate.len() / self.gain.len(),
        );
        let (mut y, mut again) = (unset(self.x.len()), unset(self.x.len()));
        let ([mut gate, mut up], mut rstd) = ([vec![0; hidden], vec![0; hidden]], unset(n));
        let kept = ffn::Kept {
            gate: &mut gate,
            up: &mut up,
            rstd: &mut rstd,
        };
        ffn::forward(&self.operands(), &mut y, Some(kept));
        ffn::forward(&self.operands(), &mut again, None);
        assert!(y == again, "what is kept changes nothing");
        (y, [gate, up], rstd)
    }

    /// Norm, gate, up and their product.
    fn hidden(&self, n: usize, w: usize, f: usize) -> (Normed, [Vec<f64>; 4]) {
        let norm = Normed::new(&self.x, &self.gain);
        let rows = norm.rows();
        let [g, u] =
            [&self.gate, &self.up].map(|m| product([n, f, w], (&rows, false), (&rounded(m), true)));
        let h = g.iter().zip(&u).map(|(g, u)| g * sigmoid(*g) * u).collect();
        (norm, [rows, g, u, h])
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn ffn_forward(t: &mut Trial) {
    for shape in LAYERS {
        let ((n, w, f), l) = (shape, Layer::new(shape));
        let (norm, [_, _, _, h]) = l.hidden(n, w, f);
        let mut y = product([n, w, f], (&h, false), (&rounded(&l.down), true));
        added(&mut y, &norm.x);
        t.compare(&format!("{shape:?}"), vec![y, norm.rstd], || {
            let (y, _, rstd) = l.forward();
            vec![y, rstd]
        });
    }
}

fn ffn_backward(t: &mut Trial) {
    for shape in LAYERS {
        let ((n, w, f), l) = (shape, Layer::new(shape));
        let (norm, [rows, g, u, h]) = l.hidden(n, w, f);
        let dy = rounded(&l.dy);
        let dh = product([n, f, w], (&dy, false), (&rounded(&l.down), false));
        let slope = |g: f64| sigmoid(g) * (1.0 + g * (1.0 - sigmoid(g)));
        let dg: Vec<f64> = (0..n * f).map(|i| dh[i] * u[i] * slope(g[i])).collect();
        let du: Vec<f64> = (0..n * f).map(|i| dh[i] * g[i] * sigmoid(g[i])).collect();
        let mut dn = product([n, w, f], (&dg, false), (&rounded(&l.gate), false));
        added(
            &mut dn,
            &product([n, w, f], (&du, false), (&rounded(&l.up), false)),
        );
        let [mut dx, mut dgain] = norm.backward(&dn);
        added(&mut dx, &wide(&l.dy));
        let dgate = product([f, w, n], (&dg, true), (&rows, false));
        let mut dup = product([f, w, n], (&du, true), (&rows, false));
        let ddown = product([w, f, n], (&dy, true), (&h, false));
        // Added to the gradients of input, gain and up; put in place of the others.
        for x in [&mut dx, &mut dgain, &mut dup] {
            x.iter_mut().for_each(|x| *x += 1.0);
        }
        t.compare(
            &format!("{shape:?}"),
            vec![dx, dgain, dgate, dup, ddown],
            || {
                let (_, [gate, up], rstd) = l.forward();
                let mut all = [
                    vec![1.0; n * w],
                    vec![1.0; w],
                    unset(f * w),
                    vec![1.0; f * w],
                    unset(w * f),
                ];
                let [sx, sn, sg, su, sd] = &mut all;
                let grads = ffn::Gradients {
                    x: Some((sx, 1.0)),
                    gain: Some((sn, 1.0)),
                    gate: Some((sg, 0.0)),
                    up: Some((su, 1.0)),
                    down: Some((sd, 0.0)),
                };
                let saved = ffn::Saved {
                    gate: &gate,
                    up: &up,
                    rstd: &rstd,
                };
                ffn::backward(&l.operands(), saved, &l.dy, grads);
                all.to_vec()
            },
        );
    }
}

/// Written through one view and read through the other.
fn halves(t: &mut Trial) {
    for n in [1, 31, 33, 4097] {
        let want = (0..2 * n).map(|i| (i * 77 % 65_536) as f64).collect();
        t.compare(&format!("{n}"), vec![want], || {
            let mut room = vec![0.0; n];
            let to = ffn::halves(&mut room);
            to.iter_mut()
                .enumerate()
                .for_each(|(i, x)| *x = (i * 77 % 65_536) as u16);
            vec![
                ffn::halves_of(&room)
                    .iter()
                    .map(|&x| f32::from(x))
                    .collect(),
            ]
        });
    }
}
