//! Attention over random layouts, forward and backward, against its definition.

use super::trial::{Trial, normals, unset};
use super::{Operation, close};
use kernels::cpu::attention::{Gradients, Layout, Operands, backward, forward};
use kernels::random::Counted;

pub(super) const TABLE: &[Operation] = &[
    close("attention::forward", 40.0, 4.0, attention_forward),
    close("attention::backward", 60.0, 8.0, attention_backward),
];

struct Problem {
    layout: Layout,
    heads: usize,
    kv_heads: usize,
    width: usize,
    /// Rows of keys and values: prefix, then the segments', then extra.
    rows: [usize; 3],
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dy: Vec<f32>,
}

/// What a layout may have.
#[derive(Clone, Copy)]
struct Kind {
    width: usize,
    /// Queries of a segment: at least, and below.
    queries: [usize; 2],
    extra: bool,
}

/// Ragged small ones with everything, and such as fill tiles of bf16.
const KINDS: [Kind; 4] = [
    Kind {
        width: 5,
        queries: [1, 150],
        extra: true,
    },
    Kind {
        width: 33,
        queries: [1, 40],
        extra: true,
    },
    Kind {
        width: 32,
        queries: [16, 150],
        extra: false,
    },
    Kind {
        width: 64,
        queries: [16, 200],
        extra: false,
    },
];

impl Problem {
    /// Segments, some with keys before their first query, some queries that share a position.
    fn new(kind: Kind, draw: u64) -> Self {
        let r = Counted::new(8, "layout", draw);
        let (heads, kv_heads) = [(1, 1), (2, 2), (4, 2), (3, 1)][r.below(0, 4)];
        let mut layout = Layout {
            window: [0, 1, 31, 90][r.below(1, 4)],
            ..Layout::default()
        };
        let with_extra = kind.extra && r.below(2, 2) == 1;
        let (mut q, mut k, mut extra) = (0, 0, 0);
        for s in 0..1 + r.below(3, 3) as u64 {
            let [least, below] = kind.queries;
            let n = least + r.below(10 + s, below - least);
            let past = r.below(20 + s, 33);
            layout.queries.push(q..q + n);
            layout.keys.push(k..k + past + n);
            for i in 0..n {
                // Out of order on purpose: nothing asks for positions that rise.
                let jump = r.below(100 * (s + 1) + i as u64, 3);
                layout.last.push((past + i).saturating_sub(jump) as u32);
                if with_extra {
                    let own = r.below(1000 * (s + 1) + i as u64, 3) as u32;
                    layout.extra.push(extra..extra + own);
                    extra += own;
                }
            }
            (q, k) = (q + n, k + past + n);
        }
        // With one key only there is no gradient but what rounding leaves.
        let prefix = [0, 1, 3, 33][r.below(4, 4)].max(usize::from(layout.window == 1));
        let rows = [prefix, k, if with_extra { extra as usize + 1 } else { 0 }];
        let keys = rows.iter().sum::<usize>() * kv_heads * kind.width;
        let queries = q * heads * kind.width;
        Self {
            layout,
            heads,
            kv_heads,
            width: kind.width,
            rows,
            q: normals(queries, 1.0, "q"),
            k: normals(keys, 1.0, "k"),
            v: normals(keys, 1.0, "v"),
            dy: normals(queries, 1.0, "dy"),
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// `x` in parts: prefix, the segments' rows, extra.
    fn parts<'a>(&self, x: &'a [f32]) -> [&'a [f32]; 3] {
        let [prefix, own, _] = self.rows.map(|rows| rows * self.kv_heads * self.width);
        let (prefix, rest) = x.split_at(prefix);
        let (own, extra) = rest.split_at(own);
        [prefix, own, extra]
    }

    fn operands(&self) -> Operands<'_> {
        let ([pk, k, ek], [pv, v, ev]) = (self.parts(&self.k), self.parts(&self.v));
        Operands {
            q: &self.q,
            k,
            v,
            prefix: (!pk.is_empty()).then_some((pk, pv)),
            extra: (!ek.is_empty()).then_some((ek, ev)),
            heads: self.heads,
            kv_heads: self.kv_heads,
            width: self.width,
            scale: self.scale(),
        }
    }

    /// Output, log-sum-exp of each row and head, largest score of each head.
    fn forward(&self) -> [Vec<f32>; 3] {
        let mut all = [
            unset(self.q.len()),
            unset(self.q.len() / self.width),
            unset(self.heads),
        ];
        let [out, lse, max] = &mut all;
        forward(&self.operands(), &self.layout, out, lse, max);
        all
    }

    /// Gradients of queries, keys and values.
    fn backward(&self) -> [Vec<f32>; 3] {
        let [out, lse, _] = self.forward();
        let (mut q, mut k, mut v) = (
            unset(self.q.len()),
            unset(self.k.len()),
            unset(self.v.len()),
        );
        let [prefix, own, _] = self.rows.map(|rows| rows * self.kv_heads * self.width);
        let (pk, rest) = k.split_at_mut(prefix);
        let (own_k, ek) = rest.split_at_mut(own);
        let (pv, rest) = v.split_at_mut(prefix);
        let (own_v, ev) = rest.split_at_mut(own);
        let o = self.operands();
        let grads = Gradients {
            q: &mut q,
            k: own_k,
            v: own_v,
            prefix: o.prefix.map(|_| (pk, pv)),
            extra: o.extra.map(|_| (ek, ev)),
        };
        backward(&o, &self.layout, &out, &lse, &self.dy, grads);
        [q, k, v]
    }

    /// Rows of keys that a query sees.
    fn seen(&self, i: usize) -> Vec<usize> {
        let [prefix, own, _] = self.rows;
        let segment = self
            .layout
            .queries
            .iter()
            .position(|r| r.contains(&i))
            .unwrap();
        let (last, window) = (self.layout.last[i] as usize, self.layout.window);
        let mut seen: Vec<usize> = (0..prefix).collect();
        let within = (0..=last).filter(|j| window == 0 || j + window > last);
        seen.extend(within.map(|j| prefix + self.layout.keys[segment].start + j));
        let extra = self.layout.extra.get(i).cloned().unwrap_or_default();
        seen.extend(extra.map(|j| prefix + own + j as usize));
        seen
    }

    /// The definition: output, log-sum-exp and largest scores; gradients of queries, keys and values.
    fn definition(&self) -> ([Vec<f64>; 3], [Vec<f64>; 3]) {
        let (qs, ks, width) = (
            self.heads * self.width,
            self.kv_heads * self.width,
            self.width,
        );
        let (mut out, mut dq) = (vec![0.0; self.q.len()], vec![0.0; self.q.len()]);
        let (mut dk, mut dv) = (vec![0.0; self.k.len()], vec![0.0; self.k.len()]);
        let mut lse = vec![0.0; self.q.len() / width];
        let mut top = vec![f64::NEG_INFINITY; self.heads];
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        };
        for i in 0..self.layout.last.len() {
            let seen = self.seen(i);
            for (h, top) in top.iter_mut().enumerate() {
                let (qa, ka) = (i * qs + h * width, h * self.kv_heads / self.heads * width);
                let own = qa..qa + width;
                let row = |j: usize| j * ks + ka..j * ks + ka + width;
                let (q, dy) = (&self.q[own.clone()], &self.dy[own.clone()]);
                let score = |&j: &usize| dot(q, &self.k[row(j)]) * f64::from(self.scale());
                let scores: Vec<f64> = seen.iter().map(score).collect();
                *top = scores.iter().copied().fold(*top, f64::max);
                let total: f64 = scores.iter().map(|s| s.exp()).sum();
                lse[i * self.heads + h] = total.ln();
                let weights: Vec<f64> = scores.iter().map(|s| s.exp() / total).collect();
                let dp: Vec<f64> = seen.iter().map(|&j| dot(dy, &self.v[row(j)])).collect();
                let mean: f64 = weights.iter().zip(&dp).map(|(w, d)| w * d).sum();
                for ((&j, w), d) in seen.iter().zip(&weights).zip(&dp) {
                    let ds = w * (d - mean) * f64::from(self.scale());
                    let at = row(j);
                    for c in 0..width {
                        out[qa + c] += w * f64::from(self.v[at.start + c]);
                        dq[qa + c] += ds * f64::from(self.k[at.start + c]);
                        dk[at.start + c] += ds * f64::from(q[c]);
                        dv[at.start + c] += w * f64::from(dy[c]);
                    }
                }
            }
        }
        ([out, lse, top], [dq, dk, dv])
    }
}

fn problems() -> impl Iterator<Item = (String, Problem)> {
    (0..32).map(|draw| {
        let kind = KINDS[draw as usize % KINDS.len()];
        (
            format!("layout {draw} of width {}", kind.width),
            Problem::new(kind, draw),
        )
    })
}

fn attention_forward(t: &mut Trial) {
    for (case, p) in problems() {
        t.compare(&case, p.definition().0.to_vec(), || p.forward().to_vec());
    }
}

fn attention_backward(t: &mut Trial) {
    for (case, p) in problems() {
        t.compare(&case, p.definition().1.to_vec(), || p.backward().to_vec());
    }
}
