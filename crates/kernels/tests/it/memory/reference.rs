//! Cases for the memory's tests, and its definition: the recurrences token by token in f64.

use std::ops::Range;

use kernels::cpu::memory::{self, Gradients, MemoryShape, Rows};

/// Order of the inputs everywhere in this file.
pub(crate) const NAMES: [&str; 8] = ["keys0", "values0", "q", "k", "v", "eta", "theta", "alpha"];

/// A memory and the rows that pass through it, in the order of [`NAMES`].
pub(crate) struct Case {
    pub(crate) shape: MemoryShape,
    pub(crate) inputs: [Vec<f32>; 8],
    pub(crate) segments: Vec<Range<usize>>,
}

impl Case {
    /// Random inputs; `v_size` sets how far the errors lie from the clip at norm 1.
    pub(crate) fn random(
        shape: MemoryShape,
        n: usize,
        segments: &[Range<usize>],
        v_size: f32,
    ) -> Self {
        let mut draw = Draw(17);
        let wide = n * shape.heads * shape.width;
        let slots = shape.heads * shape.slots * shape.width;
        let spread = 1.0 / (shape.width as f32).sqrt();
        let mut unit = |len| {
            let mut x = draw.many(len, -1.0, 1.0);
            for row in x.chunks_mut(shape.width) {
                let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter_mut().for_each(|x| *x /= norm);
            }
            x
        };
        let (q, k) = (unit(wide), unit(wide));
        let inputs = [
            draw.many(slots, -1.5, 1.5),
            draw.many(slots, -1.5 * spread, 1.5 * spread),
            q,
            k,
            draw.many(wide, -v_size * spread, v_size * spread),
            draw.many(n * shape.heads, 0.1, 0.9),
            draw.many(n * shape.heads, 0.0, 0.6),
            draw.many(n * shape.heads, 0.0, 0.4),
        ];
        Self {
            shape,
            inputs,
            segments: segments.to_vec(),
        }
    }

    pub(crate) fn n(&self) -> usize {
        self.inputs[5].len() / self.shape.heads
    }

    pub(crate) fn rows(&self) -> Rows<'_> {
        self.part(0..self.n())
    }

    pub(crate) fn part(&self, rows: Range<usize>) -> Rows<'_> {
        let heads = self.shape.heads;
        let wide = rows.start * heads * self.shape.width..rows.end * heads * self.shape.width;
        let narrow = rows.start * heads..rows.end * heads;
        let [_, _, q, k, v, eta, theta, alpha] = &self.inputs;
        Rows {
            q: &q[wide.clone()],
            k: &k[wide.clone()],
            v: &v[wide],
            eta: &eta[narrow.clone()],
            theta: &theta[narrow.clone()],
            alpha: &alpha[narrow],
        }
    }

    pub(crate) fn forward(&self) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.inputs[2].len()];
        let [keys0, values0, ..] = &self.inputs;
        memory::forward(
            self.shape,
            keys0,
            values0,
            &self.rows(),
            &self.segments,
            &mut out,
        );
        out
    }

    /// Gradients in the order of [`NAMES`].
    pub(crate) fn backward(&self, dout: &[f32]) -> [Vec<f32>; 8] {
        let mut grads = self.inputs.each_ref().map(|x| vec![f32::NAN; x.len()]);
        let [dkeys0, dvalues0, dq, dk, dv, deta, dtheta, dalpha] = &mut grads;
        dkeys0.fill(0.0);
        dvalues0.fill(0.0);
        let [keys0, values0, ..] = &self.inputs;
        memory::backward(
            self.shape,
            keys0,
            values0,
            &self.rows(),
            &self.segments,
            dout,
            Gradients {
                slots: [dkeys0, dvalues0],
                wide: [dq, dk, dv],
                narrow: [deta, dtheta, dalpha],
            },
        );
        grads
    }

    pub(crate) fn wide(&self) -> [Vec<f64>; 8] {
        self.inputs
            .each_ref()
            .map(|x| x.iter().map(|&x| f64::from(x)).collect())
    }
}

/// A counter turned into numbers (splitmix64).
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn many(&mut self, len: usize, low: f32, high: f32) -> Vec<f32> {
        let mut one = || {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            low + (high - low) * ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..len).map(|_| one()).collect()
    }
}

/// The definition, one token after the other. Returns out and the norm of every inner error.
pub(crate) fn reference(
    shape: MemoryShape,
    inputs: &[Vec<f64>; 8],
    segments: &[Range<usize>],
) -> (Vec<f64>, Vec<f64>) {
    let [keys0, values0, q, k, v, eta, theta, alpha] = inputs;
    let (heads, d, slots) = (shape.heads, shape.width, shape.slots);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (mut out, mut norms) = (vec![0.0; q.len()], Vec::new());
    for head in 0..heads {
        let learned = head * slots * d..(head + 1) * slots * d;
        // Keys, then values, in one vector.
        let start = [&keys0[learned.clone()], &values0[learned]].concat();
        for segment in segments {
            let (mut now, mut momentum) = (start.clone(), vec![0.0; start.len()]);
            let mut frozen = now.clone();
            for t in segment.clone() {
                if (t - segment.start) % shape.chunk == 0 {
                    frozen = now.clone();
                }
                let (keys, values) = frozen.split_at(slots * d);
                let slot = |j: usize| j * d..(j + 1) * d;
                let wide = (t * heads + head) * d..(t * heads + head + 1) * d;
                let apply = |x: &[f64]| {
                    let mut y = vec![0.0; d];
                    for j in 0..slots {
                        let h = dot(&keys[slot(j)], x);
                        for (y, value) in y.iter_mut().zip(&values[slot(j)]) {
                            *y += h * sigmoid(h) * value;
                        }
                    }
                    y
                };
                out[wide.clone()].copy_from_slice(&apply(&q[wide.clone()]));
                let (k, v) = (&k[wide.clone()], &v[wide]);
                let mut error: Vec<f64> = apply(k).iter().zip(v).map(|(o, v)| o - v).collect();
                let norm = dot(&error, &error).sqrt();
                norms.push(norm);
                error.iter_mut().for_each(|e| *e /= norm.max(1.0));
                let at = t * heads + head;
                for j in 0..slots {
                    let h = dot(&keys[slot(j)], k);
                    let s = sigmoid(h);
                    let slope = s * (1.0 + h * (1.0 - s));
                    let pull = dot(&values[slot(j)], &error) * slope;
                    for i in 0..d {
                        let (key, value) = (j * d + i, (slots + j) * d + i);
                        for (place, grad) in [(key, pull * k[i]), (value, h * s * error[i])] {
                            let u = -theta[at] * grad;
                            momentum[place] = eta[at] * momentum[place] + (1.0 - eta[at]) * u;
                            now[place] = start[place]
                                + (1.0 - alpha[at]) * (now[place] - start[place])
                                + momentum[place];
                        }
                    }
                }
            }
        }
    }
    (out, norms)
}
