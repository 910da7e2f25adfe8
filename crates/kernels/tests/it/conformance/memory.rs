//! The memory: whole segments forward and backward, single states, streams, and reads of frozen ones, against the
//! recurrences of `kernels::cpu::memory` token by token, and their gradient backwards token by token.

use super::trial::{Trial, Wanted, normals, unset, wide};
use super::{Operation, close};
use crate::memory::reference::{Case, Draw};
use kernels::cpu::memory::{self, MemoryShape, MemoryState, State};
use kernels::cpu::memory_read::{read_rows, read_rows_backward};
use std::ops::Range;

pub(super) const TABLE: &[Operation] = &[
    close("memory::forward", 30.0, 8.0, forward),
    close("memory::backward", 200.0, 12.0, backward),
    close("memory::states::chunk_states", 30.0, 8.0, chunk_states),
    close("memory::states::read", 20.0, 4.0, read),
    close("memory::states::slot_reads", 20.0, 2.0, slot_reads),
    close("memory::stream::extend", 30.0, 8.0, extend),
    close("memory_read::read_rows", 20.0, 4.0, frozen),
    close(
        "memory_read::read_rows_backward",
        20.0,
        6.0,
        frozen_backward,
    ),
];

/// Heads, width, slots, chunk: ragged, and such as fill tiles of bf16.
const SHAPES: [[usize; 4]; 6] = [
    [2, 5, 3, 4],
    [1, 1, 1, 1],
    [3, 20, 37, 16],
    [1, 31, 33, 31],
    [2, 32, 96, 64],
    [1, 64, 32, 33],
];

fn shape([heads, width, slots, chunk]: [usize; 4]) -> MemoryShape {
    MemoryShape {
        heads,
        width,
        slots,
        chunk,
    }
}

/// Segments of one row, of part of a chunk, of whole chunks and of broken ones, none, and rows of none between.
/// Values so small that no error is clipped, and such that some are.
fn cases() -> impl Iterator<Item = (String, Case)> {
    let all = SHAPES.into_iter().flat_map(|s| [(s, 0.1), (s, 1.5)]);
    all.map(|(sizes, v_size)| {
        let (shape, c) = (shape(sizes), sizes[3]);
        let lengths = [1, c, 3 * c + 1, c.div_ceil(2), 0, 4 * c, 2 * c - 1];
        let mut at = 0;
        let segments: Vec<_> = lengths
            .into_iter()
            .enumerate()
            .map(|(i, len)| {
                let start = at + i % 3 / 2;
                at = start + len;
                start..at
            })
            .collect();
        let case = Case::random(shape, at + 1, &segments, v_size);
        (format!("{sizes:?}, values of {v_size}"), case)
    })
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

fn slope(x: f64) -> f64 {
    sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)))
}

/// Of [`slope`].
fn bend(x: f64) -> f64 {
    let s = sigmoid(x);
    s * (1.0 - s) * (2.0 + x * (1.0 - 2.0 * s))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(y: &mut [f64], a: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

/// Keys, then values, of one head: each [slots, width].
#[derive(Clone)]
struct Net {
    width: usize,
    x: Vec<f64>,
}

impl Net {
    fn slots(&self) -> usize {
        self.x.len() / 2 / self.width
    }

    fn key(&self, j: usize) -> Range<usize> {
        j * self.width..(j + 1) * self.width
    }

    fn value(&self, j: usize) -> Range<usize> {
        self.key(self.slots() + j)
    }

    /// What it says to `q`.
    fn read(&self, q: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.width];
        for j in 0..self.slots() {
            add(
                &mut out,
                silu(dot(&self.x[self.key(j)], q)),
                &self.x[self.value(j)],
            );
        }
        out
    }

    /// Adds the gradient of a read to that of the net; gives that of `q`.
    fn read_backward(&self, q: &[f64], dout: &[f64], to: &mut [f64]) -> Vec<f64> {
        let mut dq = vec![0.0; self.width];
        for j in 0..self.slots() {
            let h = dot(&self.x[self.key(j)], q);
            add(&mut to[self.value(j)], silu(h), dout);
            let dh = dot(&self.x[self.value(j)], dout) * slope(h);
            add(&mut to[self.key(j)], dh, q);
            add(&mut dq, dh, &self.x[self.key(j)]);
        }
        dq
    }
}

/// The inner error of a pair, its norm, and what it is clipped to.
fn error(net: &Net, k: &[f64], v: &[f64]) -> (f64, Vec<f64>) {
    let mut e = net.read(k);
    add(&mut e, -1.0, v);
    let norm = dot(&e, &e).sqrt();
    e.iter_mut().for_each(|e| *e /= norm.max(1.0));
    (norm, e)
}

/// One token of one head.
struct Token<'a> {
    q: &'a [f64],
    k: &'a [f64],
    v: &'a [f64],
    eta: f64,
    theta: f64,
    alpha: f64,
}

/// Gradient of the inner loss.
fn inner(net: &Net, t: &Token) -> Vec<f64> {
    let (_, e) = error(net, t.k, t.v);
    let mut grad = vec![0.0; net.x.len()];
    net.read_backward(t.k, &e, &mut grad);
    grad
}

/// Gradients of the pair, given `dg` that of [`inner`]; adds that of the net.
fn inner_backward(net: &Net, t: &Token, dg: &[f64], to: &mut [f64]) -> [Vec<f64>; 2] {
    let (norm, e) = error(net, t.k, t.v);
    let (mut de, mut dk) = (vec![0.0; net.width], vec![0.0; net.width]);
    for j in 0..net.slots() {
        let (key, value) = (net.key(j), net.value(j));
        let h = dot(&net.x[key.clone()], t.k);
        let along = dot(&net.x[value.clone()], &e);
        // Of the key's part, along slope(h) k.
        let dpull = dot(&dg[key.clone()], t.k);
        add(&mut dk, along * slope(h), &dg[key.clone()]);
        add(&mut to[value.clone()], dpull * slope(h), &e);
        add(&mut de, dpull * slope(h), &net.x[value.clone()]);
        // Of the value's part, silu(h) e.
        add(&mut de, silu(h), &dg[value.clone()]);
        let dh = dpull * along * bend(h) + dot(&dg[value], &e) * slope(h);
        add(&mut to[key.clone()], dh, t.k);
        add(&mut dk, dh, &net.x[key]);
    }
    if norm > 1.0 {
        let along = dot(&e, &de);
        de.iter_mut()
            .zip(&e)
            .for_each(|(d, e)| *d = (*d - e * along) / norm);
    }
    add(&mut dk, 1.0, &net.read_backward(t.k, &de, to));
    de.iter_mut().for_each(|d| *d = -*d);
    [dk, de]
}

/// A case in f64.
struct Walk {
    shape: MemoryShape,
    segments: Vec<Range<usize>>,
    inputs: [Vec<f64>; 8],
}

impl Walk {
    fn new(case: &Case) -> Self {
        Self {
            shape: case.shape,
            segments: case.segments.clone(),
            inputs: case.wide(),
        }
    }

    fn at(&self, head: usize, row: usize) -> (usize, Range<usize>) {
        let at = row * self.shape.heads + head;
        (at, at * self.shape.width..(at + 1) * self.shape.width)
    }

    fn token(&self, head: usize, row: usize) -> Token<'_> {
        let [_, _, q, k, v, eta, theta, alpha] = &self.inputs;
        let (at, wide) = self.at(head, row);
        Token {
            q: &q[wide.clone()],
            k: &k[wide.clone()],
            v: &v[wide],
            eta: eta[at],
            theta: theta[at],
            alpha: alpha[at],
        }
    }

    fn learned(&self, head: usize) -> Net {
        let len = self.shape.slots * self.shape.width;
        let own = head * len..(head + 1) * len;
        let x = [&self.inputs[0][own.clone()], &self.inputs[1][own]].concat();
        Net {
            width: self.shape.width,
            x,
        }
    }

    /// Net and momentum before each token of a segment and after the last.
    fn states(&self, head: usize, segment: &Range<usize>) -> Vec<(Net, Vec<f64>)> {
        let start = self.learned(head);
        let momentum = vec![0.0; start.x.len()];
        let mut states = vec![(start.clone(), momentum)];
        let mut frozen = start.clone();
        for row in segment.clone() {
            let (mut now, mut momentum) = states[row - segment.start].clone();
            if (row - segment.start).is_multiple_of(self.shape.chunk) {
                frozen = now.clone();
            }
            let t = self.token(head, row);
            for (i, g) in inner(&frozen, &t).into_iter().enumerate() {
                momentum[i] = t.eta * momentum[i] - (1.0 - t.eta) * t.theta * g;
                now.x[i] = start.x[i] + (1.0 - t.alpha) * (now.x[i] - start.x[i]) + momentum[i];
            }
            states.push((now, momentum));
        }
        states
    }

    /// What every row reads.
    fn out(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.inputs[2].len()];
        for head in 0..self.shape.heads {
            for segment in &self.segments {
                let states = self.states(head, segment);
                for row in segment.clone() {
                    let t = row - segment.start;
                    let net = &states[t - t % self.shape.chunk].0;
                    out[self.at(head, row).1].copy_from_slice(&net.read(self.token(head, row).q));
                }
            }
        }
        out
    }

    /// Keys, then values, `[H, S, D]` each, at the start of a chunk of a segment.
    fn state(&self, segment: usize, chunk: usize) -> [Vec<f64>; 2] {
        let half = self.shape.slots * self.shape.width;
        let mut all = [Vec::new(), Vec::new()];
        for head in 0..self.shape.heads {
            let states = self.states(head, &self.segments[segment]);
            let net = &states[chunk * self.shape.chunk].0;
            all[0].extend(&net.x[..half]);
            all[1].extend(&net.x[half..]);
        }
        all
    }

    /// Gradients of all inputs, in their order.
    fn gradients(&self, dout: &[f64]) -> Wanted {
        let mut grads: Wanted = self.inputs.iter().map(|x| vec![0.0; x.len()]).collect();
        for head in 0..self.shape.heads {
            let mut learned = vec![0.0; 2 * self.shape.slots * self.shape.width];
            for segment in &self.segments {
                self.segment_backward(head, segment, dout, &mut learned, &mut grads);
            }
            let half = learned.len() / 2;
            for (which, part) in learned.chunks(half).enumerate() {
                grads[which][head * half..(head + 1) * half].copy_from_slice(part);
            }
        }
        grads
    }

    fn segment_backward(
        &self,
        head: usize,
        segment: &Range<usize>,
        dout: &[f64],
        learned: &mut [f64],
        grads: &mut Wanted,
    ) {
        let states = self.states(head, segment);
        let start = &states[0].0;
        let zero = vec![0.0; start.x.len()];
        // Of the net and the momentum after a token, and of the net that its chunk sees.
        let (mut dnow, mut dmomentum, mut dfrozen) = (zero.clone(), zero.clone(), zero.clone());
        for row in segment.clone().rev() {
            let (i, token) = (row - segment.start, self.token(head, row));
            let first = i - i % self.shape.chunk;
            let frozen = &states[first].0;
            let (before, momentum) = &states[i];
            let g = inner(frozen, &token);
            let (at, wide) = self.at(head, row);
            let mut dg = zero.clone();
            for s in 0..zero.len() {
                dmomentum[s] += dnow[s];
                learned[s] += token.alpha * dnow[s];
                grads[7][at] -= (before.x[s] - start.x[s]) * dnow[s];
                dnow[s] *= 1.0 - token.alpha;
                grads[5][at] += dmomentum[s] * (momentum[s] + token.theta * g[s]);
                let du = (1.0 - token.eta) * dmomentum[s];
                grads[6][at] -= du * g[s];
                dg[s] = -token.theta * du;
                dmomentum[s] *= token.eta;
            }
            let [dk, dv] = inner_backward(frozen, &token, &dg, &mut dfrozen);
            let dq = frozen.read_backward(token.q, &dout[wide.clone()], &mut dfrozen);
            for (which, grad) in [(2, dq), (3, dk), (4, dv)] {
                grads[which][wide.clone()].copy_from_slice(&grad);
            }
            if i == first {
                add(&mut dnow, 1.0, &dfrozen);
                dfrozen.fill(0.0);
            }
        }
        add(learned, 1.0, &dnow);
    }
}

fn forward(t: &mut Trial) {
    for (name, case) in cases() {
        t.compare(&name, vec![Walk::new(&case).out()], || vec![case.forward()]);
    }
}

fn backward(t: &mut Trial) {
    for (name, case) in cases() {
        let dout = Draw(3).many(case.inputs[2].len(), -1.0, 1.0);
        let want = Walk::new(&case).gradients(&wide(&dout));
        t.compare(&name, want, || case.backward(&dout).to_vec());
    }
}

fn chunk_states(t: &mut Trial) {
    for (name, case) in cases() {
        let wanted = [(5, 4), (2, 1), (6, 0), (2, 3)];
        let walk = Walk::new(&case);
        let want = wanted.iter().flat_map(|&(s, c)| walk.state(s, c)).collect();
        t.compare(&name, want, || {
            let [keys0, values0, ..] = &case.inputs;
            let states = memory::chunk_states(
                case.shape,
                keys0,
                values0,
                &case.rows(),
                &case.segments,
                &wanted,
            );
            states
                .into_iter()
                .flat_map(|s| [s.keys, s.values])
                .collect()
        });
    }
}

/// Rows that meet frozen memories, and their number.
struct Reads {
    shape: MemoryShape,
    states: Vec<State>,
    q: Vec<f32>,
    rows: usize,
}

fn reads() -> impl Iterator<Item = (String, Reads)> {
    let all = SHAPES.into_iter().flat_map(|s| [(s, 1), (s, 31), (s, 129)]);
    all.map(|(sizes, rows)| {
        let shape = shape(sizes);
        let spread = 1.0 / (shape.width as f32).sqrt();
        let states = ["first", "second"].map(|name| State {
            keys: normals(shape.slots_len(), 1.0, name),
            values: normals(shape.slots_len(), spread, &format!("values of the {name}")),
        });
        let q = normals(rows * shape.row_len(), spread, "q");
        let states = states.to_vec();
        (
            format!("{sizes:?}, {rows} rows"),
            Reads {
                shape,
                states,
                q,
                rows,
            },
        )
    })
}

impl Reads {
    fn net(&self, state: usize, head: usize) -> Net {
        let (len, State { keys, values }) =
            (self.shape.slots * self.shape.width, &self.states[state]);
        let own = head * len..(head + 1) * len;
        Net {
            width: self.shape.width,
            x: wide(&[&keys[own.clone()], &values[own]].concat()),
        }
    }

    /// `f` of the memory of each row and head, its query, and where that lies.
    fn each(&self, of_row: &[u32], mut f: impl FnMut(&Net, &[f64], Range<usize>)) {
        let d = self.shape.width;
        for head in 0..self.shape.heads {
            let nets: Vec<Net> = (0..self.states.len()).map(|s| self.net(s, head)).collect();
            for (i, &state) in of_row.iter().enumerate() {
                let at = (i * self.shape.heads + head) * d;
                f(
                    &nets[state as usize],
                    &wide(&self.q[at..at + d]),
                    at..at + d,
                );
            }
        }
    }

    fn out(&self, of_row: &[u32]) -> Vec<f64> {
        let mut out = vec![0.0; self.q.len()];
        self.each(of_row, |net, q, at| out[at].copy_from_slice(&net.read(q)));
        out
    }

    /// Runs of one row and of many.
    fn of_row(&self) -> Vec<u32> {
        (0..self.rows as u32)
            .map(|i| u32::from(i % 50 == 7 || i > 80))
            .collect()
    }
}

fn read(t: &mut Trial) {
    for (name, r) in reads() {
        let want = r.out(&vec![0; r.rows]);
        t.compare(&name, vec![want], || {
            let mut out = unset(r.q.len());
            memory::read(
                r.shape,
                &r.states[0].keys,
                &r.states[0].values,
                &r.q,
                &mut out,
            );
            vec![out]
        });
    }
}

fn slot_reads(t: &mut Trial) {
    for (name, r) in reads() {
        let mut want = vec![0.0; r.shape.heads * r.shape.slots];
        r.each(&vec![0; r.rows], |net, q, at| {
            let head = at.start / r.shape.width % r.shape.heads;
            for j in 0..net.slots() {
                want[head * net.slots() + j] += silu(dot(&net.x[net.key(j)], q)).abs();
            }
        });
        t.compare(&name, vec![want], || {
            vec![memory::slot_reads(r.shape, &r.states[0].keys, &r.q)]
        });
    }
}

fn extend(t: &mut Trial) {
    for (name, case) in cases() {
        // One segment of all rows, a few at a time.
        #[allow(clippy::single_range_in_vec_init)]
        let segments = vec![0..case.n()];
        let walk = Walk {
            segments,
            ..Walk::new(&case)
        };
        let newest = (case.n() - 1) / case.shape.chunk;
        let [keys, values] = walk.state(0, newest);
        t.compare(&name, vec![walk.out(), keys, values], || {
            let [keys0, values0, ..] = &case.inputs;
            let mut state = MemoryState::new(case.shape, keys0, values0);
            let (mut out, mut at) = (unset(case.inputs[2].len()), 0);
            for step in [1, 31, 3, 33].into_iter().cycle() {
                let rows = at..case.n().min(at + step);
                let wide = rows.start * case.shape.row_len()..rows.end * case.shape.row_len();
                let part = case.part(rows.clone());
                memory::extend(
                    case.shape,
                    keys0,
                    values0,
                    &mut state,
                    &part,
                    &mut out[wide],
                );
                at = rows.end;
                if at == case.n() {
                    break;
                }
            }
            vec![out, state.keys, state.values]
        });
    }
}

fn frozen(t: &mut Trial) {
    for (name, r) in reads() {
        let of_row = r.of_row();
        t.compare(&name, vec![r.out(&of_row)], || {
            let mut out = unset(r.q.len());
            read_rows(r.shape, &r.states, &of_row, &r.q, &mut out);
            vec![out]
        });
    }
}

fn frozen_backward(t: &mut Trial) {
    for (name, r) in reads() {
        let (of_row, dout) = (r.of_row(), normals(r.q.len(), 1.0, "dout"));
        let mut dq = vec![0.0; r.q.len()];
        r.each(&of_row, |net, q, at| {
            let mut unused = vec![0.0; net.x.len()];
            let grad = net.read_backward(q, &wide(&dout[at.clone()]), &mut unused);
            dq[at].copy_from_slice(&grad);
        });
        t.compare(&name, vec![dq], || {
            let mut dq = unset(r.q.len());
            read_rows_backward(r.shape, &r.states, &of_row, &r.q, &dout, &mut dq);
            vec![dq]
        });
    }
}
