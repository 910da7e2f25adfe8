//! Operations on rows: norms, rotation, convolution, cross-entropy.

use super::trial::{Trial, Wanted, normals, product, unset, wide};
use super::{Operation, close, same};
use kernels::cpu::{conv, loss, norm};
use std::ops::Range;

pub(super) const TABLE: &[Operation] = &[
    same("norm::rms_norm", 6.0, rms_norm),
    same("norm::rms_norm_backward", 10.0, rms_norm_backward),
    same("norm::rotation_table", 2.0, rotation_table),
    same("norm::head_norm_rope", 8.0, head_norm_rope),
    same(
        "norm::head_norm_rope_backward",
        16.0,
        head_norm_rope_backward,
    ),
    same("conv::causal_conv", 4.0, causal_conv),
    same("conv::causal_conv_backward", 16.0, causal_conv_backward),
    close("loss::cross_entropy", 10.0, 0.0, cross_entropy),
    close(
        "loss::cross_entropy_backward",
        40.0,
        1.0,
        cross_entropy_backward,
    ),
];

const EPS: f32 = 1e-3;

/// Rows and columns around vectors, and around the rows that a reduction takes at a time.
const SHAPES: [(usize, usize); 6] = [(1, 1), (31, 33), (33, 31), (3, 4097), (129, 64), (4097, 5)];

/// Reciprocal root mean squares of rows.
fn reciprocals(x: &[f64], d: usize, eps: f32) -> Vec<f64> {
    let squares = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
    x.chunks(d)
        .map(|x| 1.0 / (squares(x) / d as f64 + f64::from(eps)).sqrt())
        .collect()
}

fn rms_norm(t: &mut Trial) {
    for (rows, d) in SHAPES {
        let (x, w) = (normals(rows * d, 2.0, "x"), normals(d, 1.0, "w"));
        let (x64, w64) = (wide(&x), wide(&w));
        let rstd = reciprocals(&x64, d, EPS);
        let y = (0..rows * d)
            .map(|i| x64[i] * rstd[i / d] * w64[i % d])
            .collect();
        t.compare(&format!("[{rows}, {d}]"), vec![y, rstd], || {
            let (mut y, mut rstd) = (unset(rows * d), unset(rows));
            norm::rms_norm(&x, &w, EPS, &mut y, &mut rstd);
            vec![y, rstd]
        });
    }
}

fn rms_norm_backward(t: &mut Trial) {
    // A row of one number keeps its size, so it has next to no gradient.
    for (rows, d) in SHAPES.into_iter().filter(|(_, d)| *d > 1) {
        let (x, w, dy) = (
            normals(rows * d, 2.0, "x"),
            normals(d, 1.0, "w"),
            normals(rows * d, 1.0, "dy"),
        );
        let old = normals(rows * d, 1.0, "old");
        let (x64, w64, dy64) = (wide(&x), wide(&w), wide(&dy));
        // What the forward pass keeps is fp32.
        let kept: Vec<f32> = reciprocals(&x64, d, EPS)
            .iter()
            .map(|&r| r as f32)
            .collect();
        for add in [false, true] {
            let mut dx: Vec<f64> = if add { wide(&old) } else { vec![0.0; rows * d] };
            let mut dw = vec![1.0; d];
            for (i, r) in wide(&kept).into_iter().enumerate() {
                let row = i * d..(i + 1) * d;
                let along: f64 = row.clone().map(|j| dy64[j] * w64[j % d] * x64[j]).sum();
                for j in row {
                    dx[j] += r * (dy64[j] * w64[j % d] - x64[j] * r * r * along / d as f64);
                    dw[j % d] += dy64[j] * x64[j] * r;
                }
            }
            t.compare(&format!("[{rows}, {d}], add {add}"), vec![dx, dw], || {
                let mut dx = if add { old.clone() } else { unset(rows * d) };
                let mut dw = vec![1.0; d];
                norm::rms_norm_backward(&x, &w, &kept, &dy, add, &mut dx, &mut dw);
                vec![dx, dw]
            });
        }
    }
}

const THETA: f64 = 10_000.0;

fn tables(positions: &[u32], half: usize) -> [Vec<f64>; 2] {
    let angle =
        |i: usize| f64::from(positions[i / half]) * THETA.powf(-((i % half) as f64) / half as f64);
    let all = 0..positions.len() * half;
    [
        all.clone().map(|i| angle(i).cos()).collect(),
        all.map(|i| angle(i).sin()).collect(),
    ]
}

fn rotation_table(t: &mut Trial) {
    for half in [1, 31, 33] {
        let positions: Vec<u32> = (0..129).chain([4097, 1_000_000]).collect();
        let n = positions.len() * half;
        t.compare(
            &format!("{half}"),
            tables(&positions, half).to_vec(),
            || {
                let (mut cos, mut sin) = (unset(n), unset(n));
                norm::rotation_table(&positions, half, THETA, &mut cos, &mut sin);
                vec![cos, sin]
            },
        );
    }
}

/// Rows, heads, their width.
const HEADS: [(usize, usize, usize); 5] = [
    (1, 1, 2),
    (31, 3, 34),
    (33, 1, 62),
    (129, 4, 64),
    (1025, 2, 16),
];

struct Heads {
    x: Vec<f32>,
    gain: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Heads {
    fn new((rows, heads, hd): (usize, usize, usize)) -> Self {
        let positions: Vec<u32> = (0..rows as u32).map(|i| i * 3 % 700).collect();
        let [cos, sin] = tables(&positions, hd / 2).map(|t| t.iter().map(|&x| x as f32).collect());
        let x = normals(rows * heads * hd, 2.0, "x");
        let gain = normals(heads, 0.3, "gain")
            .iter()
            .map(|g| 1.0 + g)
            .collect();
        Self { x, gain, cos, sin }
    }

    fn gain(&self, normed: bool) -> Option<&[f32]> {
        normed.then_some(&self.gain[..])
    }

    fn rotation(&self, rotated: bool) -> Option<norm::Rotation<'_>> {
        let (cos, sin) = (&self.cos, &self.sin);
        rotated.then_some(norm::Rotation { cos, sin })
    }

    /// Cosine and signed sine that meet element `c` of a head in `row`, and the element that the sine goes with.
    fn turn(&self, rotated: bool, row: usize, c: usize, hd: usize) -> (f64, f64, usize) {
        let half = hd / 2;
        let at = row * half + c % half;
        match rotated {
            false => (1.0, 0.0, c),
            true if c < half => (self.cos[at].into(), -f64::from(self.sin[at]), c + half),
            true => (self.cos[at].into(), self.sin[at].into(), c - half),
        }
    }
}

/// With and without gain, with and without rotation.
const WAYS: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];

fn head_norm_rope(t: &mut Trial) {
    for (shape, (normed, rotated)) in HEADS.into_iter().flat_map(|s| WAYS.map(|w| (s, w))) {
        let ((rows, heads, hd), h) = (shape, Heads::new(shape));
        let x64 = wide(&h.x);
        let rstd = match normed {
            true => reciprocals(&x64, hd, 1e-6),
            false => vec![1.0; rows * heads],
        };
        let f = |at: usize| {
            rstd[at]
                * if normed {
                    f64::from(h.gain[at % heads])
                } else {
                    1.0
                }
        };
        let y = (0..x64.len()).map(|i| {
            let (at, c) = (i / hd, i % hd);
            let (cos, sin, other) = h.turn(rotated, at / heads, c, hd);
            f(at) * (x64[i] * cos + x64[at * hd + other] * sin)
        });
        let want = vec![y.collect(), rstd.clone()];
        t.compare(
            &format!("{shape:?}, normed {normed}, rotated {rotated}"),
            want,
            || {
                let (mut y, mut rstd) = (unset(h.x.len()), unset(rows * heads));
                let (gain, rotation) = (h.gain(normed), h.rotation(rotated));
                norm::head_norm_rope(&h.x, heads, gain, rotation, &mut y, &mut rstd);
                vec![y, rstd]
            },
        );
    }
}

fn head_norm_rope_backward(t: &mut Trial) {
    for (shape, (normed, rotated)) in HEADS.into_iter().flat_map(|s| WAYS.map(|w| (s, w))) {
        let ((rows, heads, hd), h) = (shape, Heads::new(shape));
        let (x64, dy) = (wide(&h.x), normals(h.x.len(), 1.0, "dy"));
        let kept: Vec<f32> = match normed {
            true => reciprocals(&x64, hd, 1e-6)
                .iter()
                .map(|&r| r as f32)
                .collect(),
            false => vec![1.0; rows * heads],
        };
        let (mut dx, mut dgain) = (vec![0.0; x64.len()], vec![1.0; heads]);
        for (at, r) in wide(&kept).into_iter().enumerate() {
            let all = at * hd..(at + 1) * hd;
            // The transpose of the rotation.
            for c in 0..hd {
                let (cos, sin, other) = h.turn(rotated, at / heads, c, hd);
                dx[at * hd + c] =
                    f64::from(dy[at * hd + c]) * cos - f64::from(dy[at * hd + other]) * sin;
            }
            if normed {
                let along: f64 = all.clone().map(|i| dx[i] * x64[i]).sum();
                dgain[at % heads] += along * r;
                let gain = f64::from(h.gain[at % heads]);
                for i in all {
                    dx[i] = gain * r * (dx[i] - x64[i] * along * r * r / hd as f64);
                }
            }
        }
        t.compare(
            &format!("{shape:?}, normed {normed}, rotated {rotated}"),
            vec![dx, dgain],
            || {
                let (mut dx, mut dgain) = (unset(h.x.len()), vec![1.0; heads]);
                let (gain, rotation) = (h.gain(normed), h.rotation(rotated));
                norm::head_norm_rope_backward(
                    &h.x, heads, gain, rotation, &kept, &dy, &mut dx, &mut dgain,
                );
                vec![dx, dgain]
            },
        );
    }
}

/// Channels, taps, segments.
fn convolutions() -> Vec<(usize, usize, Vec<Range<usize>>)> {
    #[allow(clippy::single_range_in_vec_init)]
    let one = vec![0..1];
    vec![
        (1, 1, one),
        (31, 4, vec![0..1, 1..3, 3..3, 3..34, 34..163]),
        (33, 3, vec![0..31, 31..64, 64..300]),
        (5, 4, vec![0..4097, 4097..4100]),
    ]
}

/// The row that each tap of each row of a segment reads: of x, of the context, or none.
enum Tap {
    Own(usize),
    Left(usize),
}

fn taps(segments: &[Range<usize>], width: usize, left: bool, mut f: impl FnMut(usize, usize, Tap)) {
    for (s, range) in segments.iter().enumerate() {
        for (t, i) in range.clone().enumerate() {
            for j in 0..width {
                let back = width - 1 - j;
                if back <= t {
                    f(i, j, Tap::Own(i - back));
                } else if left {
                    f(i, j, Tap::Left(s * (width - 1) + width - 1 + t - back));
                }
            }
        }
    }
}

fn causal_conv(t: &mut Trial) {
    for ((d, width, segments), context) in convolutions()
        .into_iter()
        .flat_map(|c| [(c.clone(), false), (c, true)])
    {
        let n = segments.last().unwrap().end;
        let (x, w) = (normals(n * d, 1.0, "x"), normals(d * width, 1.0, "w"));
        let left = normals(segments.len() * (width - 1) * d, 1.0, "left");
        let left = context.then_some(&left[..]);
        let mut y = vec![0.0; n * d];
        taps(&segments, width, context, |i, j, tap| {
            let row = match tap {
                Tap::Own(at) => &x[at * d..],
                Tap::Left(at) => &left.unwrap()[at * d..],
            };
            for c in 0..d {
                y[i * d + c] += f64::from(row[c]) * f64::from(w[c * width + j]);
            }
        });
        t.compare(
            &format!("{d} channels, {width} taps, context {context}"),
            vec![y],
            || {
                let mut y = unset(n * d);
                conv::causal_conv(&x, &w, width, &segments, left, &mut y);
                vec![y]
            },
        );
    }
}

fn causal_conv_backward(t: &mut Trial) {
    for ((d, width, segments), context) in convolutions()
        .into_iter()
        .flat_map(|c| [(c.clone(), false), (c, true)])
    {
        let n = segments.last().unwrap().end;
        let (x, w, dy) = (
            normals(n * d, 1.0, "x"),
            normals(d * width, 1.0, "w"),
            normals(n * d, 1.0, "dy"),
        );
        let left = normals(segments.len() * (width - 1) * d, 1.0, "left");
        let (mut dx, mut dw) = (vec![0.0; n * d], vec![1.0; d * width]);
        let mut dleft = vec![1.0; left.len()];
        taps(&segments, width, context, |i, j, tap| {
            for c in 0..d {
                let (g, w) = (f64::from(dy[i * d + c]), f64::from(w[c * width + j]));
                match tap {
                    Tap::Own(at) => {
                        dx[at * d + c] += g * w;
                        dw[c * width + j] += g * f64::from(x[at * d + c]);
                    }
                    Tap::Left(at) => {
                        dleft[at * d + c] += g * w;
                        dw[c * width + j] += g * f64::from(left[at * d + c]);
                    }
                }
            }
        });
        t.compare(
            &format!("{d} channels, {width} taps, context {context}"),
            vec![dx, dw, dleft],
            || {
                let (mut dx, mut dw) = (unset(n * d), vec![1.0; d * width]);
                let mut dleft = vec![1.0; left.len()];
                let (context, to) = match context {
                    true => (Some(&left[..]), Some(&mut dleft[..])),
                    false => (None, None),
                };
                conv::causal_conv_backward(
                    &x, &w, width, &segments, context, &dy, &mut dx, &mut dw, to,
                );
                vec![dx, dw, dleft]
            },
        );
    }
}

/// Rows, width, vocabulary: around vectors, and around the rows whose logits are alive at once.
const LOSSES: [(usize, usize, usize); 5] = [
    (1, 1, 3),
    (31, 33, 257),
    (33, 31, 4097),
    (5, 64, 31),
    (1057, 24, 97),
];

struct Loss {
    h: Vec<f32>,
    table: Vec<f32>,
    targets: Vec<u32>,
    weight: Vec<f32>,
}

impl Loss {
    fn new((n, w, v): (usize, usize, usize)) -> Self {
        Self {
            h: normals(n * w, 1.0, "h"),
            table: normals(v * w, 1.0, "table"),
            targets: (0..n).map(|i| (i * 7919 % v) as u32).collect(),
            // Every third row carries no loss.
            weight: (0..n)
                .map(|i| {
                    if i % 3 == 1 {
                        0.0
                    } else {
                        0.01 * (i % 7) as f32 + 0.02
                    }
                })
                .collect(),
        }
    }

    /// Logits, then log-sum-exp of each row.
    fn logits(
        &self,
        (n, w, v): (usize, usize, usize),
        round: fn(f32) -> f64,
    ) -> (Vec<f64>, Vec<f64>) {
        let [h, table] =
            [&self.h, &self.table].map(|x| x.iter().map(|&x| round(x)).collect::<Vec<_>>());
        let logits = product([n, v, w], (&h, false), (&table, true));
        let lse = |x: &[f64]| {
            let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            top + x.iter().map(|x| (x - top).exp()).sum::<f64>().ln()
        };
        let lse = logits.chunks(v).map(lse).collect();
        (logits, lse)
    }
}

fn cross_entropy(t: &mut Trial) {
    for shape in LOSSES {
        let ((n, w, v), l) = (shape, Loss::new(shape));
        let wanted = t.by_operands(|round| {
            let (logits, lse) = l.logits(shape, round);
            let nll = (0..n)
                .map(|i| lse[i] - logits[i * v + l.targets[i] as usize])
                .collect();
            vec![nll, lse]
        });
        t.compare_any(&format!("{shape:?}"), &wanted, || {
            let (mut nll, mut lse) = (unset(n), unset(n));
            loss::cross_entropy(&l.h, &l.table, w, &l.targets, &mut nll, &mut lse);
            vec![nll, lse]
        });
    }
}

fn cross_entropy_backward(t: &mut Trial) {
    for (shape, beta) in LOSSES.into_iter().flat_map(|s| [(s, 0.0f32), (s, 1.0)]) {
        let ((n, w, v), l) = (shape, Loss::new(shape));
        let wanted = t.by_operands(|round| -> Wanted {
            let (logits, lse) = l.logits(shape, round);
            let mut sum = 0.0;
            let mut dlogits = vec![0.0; n * v];
            for i in 0..n {
                let (weight, target) = (f64::from(l.weight[i]), l.targets[i] as usize);
                sum += weight * (lse[i] - logits[i * v + target]);
                for j in 0..v {
                    let hit = if j == target { 1.0 } else { 0.0 };
                    dlogits[i * v + j] = weight * ((logits[i * v + j] - lse[i]).exp() - hit);
                }
            }
            let [h, table] =
                [&l.h, &l.table].map(|x| x.iter().map(|&x| round(x)).collect::<Vec<_>>());
            let mut dh = product([n, w, v], (&dlogits, false), (&table, false));
            let mut dtable = product([v, w, n], (&dlogits, true), (&h, false));
            dh.iter_mut().for_each(|x| *x += 1.0);
            dtable.iter_mut().for_each(|x| *x += f64::from(beta));
            vec![vec![sum], dh, dtable]
        });
        for known in [false, true] {
            t.compare_any(
                &format!("{shape:?}, beta {beta}, known {known}"),
                &wanted,
                || {
                    let (mut nll, mut lse) = (unset(n), unset(n));
                    loss::cross_entropy(&l.h, &l.table, w, &l.targets, &mut nll, &mut lse);
                    let (mut dh, mut dtable) = (
                        vec![1.0; n * w],
                        if beta == 0.0 {
                            unset(v * w)
                        } else {
                            vec![1.0; v * w]
                        },
                    );
                    let grads = loss::Gradients {
                        h: &mut dh,
                        table: &mut dtable,
                        beta,
                    };
                    let known = known.then_some(&lse[..]);
                    let sum = loss::cross_entropy_backward(
                        &l.h, &l.table, w, &l.targets, known, &l.weight, grads,
                    );
                    vec![vec![sum as f32], dh, dtable]
                },
            );
        }
    }
}
