//! The arithmetic of the memory for one head and one chunk: read, write, and their gradients.
//!
//! Legend: T rows, S slots, D width of a head; every matrix is row-major and contiguous.
//! `keys`, `values` `[S, D]`; q, k, v, out `[T, D]`; what has an entry per row and slot `[T, S]`.
//!
//! A read is out = silu(q keysᵀ) values. A write takes the gradient of ½|M(k_t) - v_t|² for all
//! rows at the memory as the chunk found it, with the error clipped to norm 1:
//! ```text
//! hidden = k keysᵀ            active = silu(hidden)      slope = silu'(hidden)
//! error  = clip(active values - v)                       pull = error valuesᵀ
//! gradient of values = activeᵀ error                     gradient of keys = (pull ∘ slope)ᵀ k
//! ```
//! Both gradients are sums of outer products over rows, and the scans over rows (momentum, then
//! forgetting) are linear, so the state at the end of the chunk is the same sum with one weight per
//! row ([`Coefficients`]): no state between rows is ever formed.

use super::MemoryShape;
use super::scan::Coefficients;
use crate::cpu::elementwise::silu_in_place;
use crate::cpu::gemm::gemm_seq;
use crate::cpu::scratch::{self, Scratch};
use crate::isa::multiversion;
use crate::math::{dot, dot_difference, sigmoid, silu, silu_derivative};
use std::ops::Range;

/// Keys and values of one head, `[S, D]` each.
#[derive(Clone, Copy)]
pub(super) struct Slots<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
}

/// How a task computes: with fp32 products ([`Plain`]), or on tiles of bf16.
pub(super) trait Arithmetic {
    /// What the reads and writes of one moment share besides the memory itself.
    type Packed;

    /// Packs a memory for all that reads it.
    fn pack(&self, memory: Slots, backward: bool) -> Self::Packed;

    /// As [`read`].
    fn read(&self, memory: Slots, packed: &Self::Packed, q: &[f32]) -> Scratch;

    /// As [`write()`]; `packed` is the memory before.
    fn write(&self, base: Slots, memory: MemoryView, packed: &Self::Packed, chunk: &Chunk);

    /// As [`read_backward`], with gradients added to keys and values of `to`.
    fn read_backward(
        &self,
        memory: (Slots, &Self::Packed),
        q: &[f32],
        dout: &[f32],
        to: [&mut [f32]; 2],
    ) -> Scratch;

    /// As [`write_backward`].
    fn write_backward(
        &self,
        base: Slots,
        start: (&HeadMemory, &Self::Packed),
        chunk: &Chunk,
        last: bool,
        grad: &mut HeadMemory,
        dbase: &mut SlotGradients,
    ) -> ChunkGradient;
}

/// The functions of this module.
pub(super) struct Plain(pub(super) MemoryShape);

impl Arithmetic for Plain {
    type Packed = ();

    fn pack(&self, _: Slots, _: bool) {}

    fn read(&self, memory: Slots, (): &(), q: &[f32]) -> Scratch {
        read(self.0, memory, q)
    }

    fn write(&self, base: Slots, memory: MemoryView, (): &(), chunk: &Chunk) {
        write(self.0, base, memory, chunk);
    }

    fn read_backward(
        &self,
        (memory, ()): (Slots, &()),
        q: &[f32],
        dout: &[f32],
        [dkeys, dvalues]: [&mut [f32]; 2],
    ) -> Scratch {
        read_backward(self.0, memory, q, dout, dkeys, dvalues)
    }

    fn write_backward(
        &self,
        base: Slots,
        (start, ()): (&HeadMemory, &()),
        chunk: &Chunk,
        last: bool,
        grad: &mut HeadMemory,
        dbase: &mut SlotGradients,
    ) -> ChunkGradient {
        write_backward(self.0, base, start, chunk, last, grad, dbase)
    }
}

/// Gradients with respect to [`Slots`], sums over what a task does.
pub(super) struct SlotGradients {
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

/// One head's memory in motion (or a gradient with respect to it), `[S, D]` each.
pub(super) struct HeadMemory {
    pub(super) keys: Scratch,
    pub(super) values: Scratch,
    pub(super) momentum_keys: Scratch,
    pub(super) momentum_values: Scratch,
}

impl HeadMemory {
    /// A memory at the start of a segment: the learned slots, no momentum.
    pub(super) fn start(base: Slots) -> Self {
        Self {
            keys: scratch::copy(base.keys),
            values: scratch::copy(base.values),
            momentum_keys: scratch::zeros(base.keys.len()),
            momentum_values: scratch::zeros(base.values.len()),
        }
    }

    pub(super) fn zeros(len: usize) -> Self {
        let [keys, values, momentum_keys, momentum_values] = [(); 4].map(|()| scratch::zeros(len));
        Self {
            keys,
            values,
            momentum_keys,
            momentum_values,
        }
    }

    pub(super) fn copy(&self) -> Self {
        Self {
            keys: scratch::copy(&self.keys),
            values: scratch::copy(&self.values),
            momentum_keys: scratch::copy(&self.momentum_keys),
            momentum_values: scratch::copy(&self.momentum_values),
        }
    }

    pub(super) fn slots(&self) -> Slots<'_> {
        Slots {
            keys: &self.keys,
            values: &self.values,
        }
    }

    pub(super) fn view(&mut self) -> MemoryView<'_> {
        MemoryView {
            keys: &mut self.keys,
            values: &mut self.values,
            momentum_keys: &mut self.momentum_keys,
            momentum_values: &mut self.momentum_values,
        }
    }
}

/// The same as [`HeadMemory`], borrowed from wherever it is kept.
pub(super) struct MemoryView<'a> {
    pub(super) keys: &'a mut [f32],
    pub(super) values: &'a mut [f32],
    pub(super) momentum_keys: &'a mut [f32],
    pub(super) momentum_values: &'a mut [f32],
}

/// What one head writes in one chunk: k, v `[T, D]` and one coefficient of each kind per row.
pub(super) struct Chunk<'a> {
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) eta: &'a [f32],
    pub(super) theta: &'a [f32],
    pub(super) alpha: &'a [f32],
}

/// Gradients with respect to the fields of a [`Chunk`].
pub(super) struct ChunkGradient {
    pub(super) dk: Scratch,
    pub(super) dv: Scratch,
    pub(super) deta: Vec<f32>,
    pub(super) dtheta: Vec<f32>,
    pub(super) dalpha: Vec<f32>,
}

/// out = silu(q keysᵀ) values.
pub(super) fn read(shape: MemoryShape, memory: Slots, q: &[f32]) -> Scratch {
    let (s, d) = (shape.slots, shape.width);
    let t = q.len() / d;
    let mut active = times_transposed(q, memory.keys, t, s, d);
    silu_in_place(&mut active);
    times(&active, memory.values, t, d, s)
}

/// sums `[S]` += |silu(q keysᵀ)| summed over rows.
pub(super) fn add_slot_reads(shape: MemoryShape, keys: &[f32], q: &[f32], sums: &mut [f32]) {
    let (s, d) = (shape.slots, shape.width);
    let mut active = times_transposed(q, keys, q.len() / d, s, d);
    silu_in_place(&mut active);
    for row in active.chunks_exact(s) {
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, a)| *sum += a.abs());
    }
}

/// Gradients of [`read`]: returns dq, adds to `dkeys` and `dvalues` `[S, D]`.
fn read_backward(
    shape: MemoryShape,
    memory: Slots,
    q: &[f32],
    dout: &[f32],
    dkeys: &mut [f32],
    dvalues: &mut [f32],
) -> Scratch {
    let (s, d) = (shape.slots, shape.width);
    let t = q.len() / d;
    let hidden = times_transposed(q, memory.keys, t, s, d);
    let (mut active, mut slope) = (scratch::take(t * s), scratch::take(t * s));
    silu_and_slope(&hidden, &mut active, &mut slope);
    let mut dhidden = times_transposed(dout, memory.values, t, s, d);
    multiply_by(&mut dhidden, &slope);
    add_transposed_times(&active, dout, dvalues, s, d, t);
    add_transposed_times(&dhidden, q, dkeys, s, d, t);
    times(&dhidden, memory.keys, t, d, s)
}

/// Moves `memory` from the start of a chunk to its end; `base` is what forgetting decays towards.
pub(super) fn write(shape: MemoryShape, base: Slots, memory: MemoryView, chunk: &Chunk) {
    let surprise = Surprise::at(
        shape,
        Slots {
            keys: memory.keys,
            values: memory.values,
        },
        chunk,
    );
    let c = Coefficients::of(chunk.eta, chunk.theta, chunk.alpha);
    let halves = [
        (
            memory.keys,
            memory.momentum_keys,
            base.keys,
            &surprise.key_pull(),
            chunk.k,
        ),
        (
            memory.values,
            memory.momentum_values,
            base.values,
            &surprise.active,
            &surprise.error,
        ),
    ];
    for (fast, momentum, learned, left, right) in halves {
        carry_over(fast, momentum, learned, c.keep, c.carry, c.decay);
        add_outer(shape, left, right, &c.to_memory, fast);
        add_outer(shape, left, right, &c.to_momentum, momentum);
    }
}

/// Gradients of [`write`], from the memory `start` that the chunk found.
///
/// `grad` holds the gradient of the state after the chunk and leaves as that of the state before
/// it; `dbase` receives what flows to the learned slots through forgetting. `last` says that the
/// momentum after this chunk is never used, so that its gradient is zero.
fn write_backward(
    shape: MemoryShape,
    base: Slots,
    start: &HeadMemory,
    chunk: &Chunk,
    last: bool,
    grad: &mut HeadMemory,
    dbase: &mut SlotGradients,
) -> ChunkGradient {
    let (s, d) = (shape.slots, shape.width);
    let t = chunk.eta.len();
    let surprise = Surprise::at(shape, start.slots(), chunk);
    let c = Coefficients::of(chunk.eta, chunk.theta, chunk.alpha);

    // Through the weighted outer products, to their factors and to the weights.
    let key_pull = surprise.key_pull();
    let (mut dk, mut derror) = (scratch::zeros(t * d), scratch::zeros(t * d));
    let (mut dkey_pull, mut dactive) = (scratch::zeros(t * s), scratch::zeros(t * s));
    let mut dto_memory = vec![0.0; t];
    let mut dto_momentum = vec![0.0; t];
    let mut outer = |weights: &[f32], dweights: &mut [f32], to_keys: &[f32], to_values: &[f32]| {
        outer_backward(
            shape,
            &key_pull,
            chunk.k,
            weights,
            to_keys,
            &mut dkey_pull,
            &mut dk,
            dweights,
        );
        outer_backward(
            shape,
            &surprise.active,
            &surprise.error,
            weights,
            to_values,
            &mut dactive,
            &mut derror,
            dweights,
        );
    };
    outer(&c.to_memory, &mut dto_memory, &grad.keys, &grad.values);
    if !last {
        outer(
            &c.to_momentum,
            &mut dto_momentum,
            &grad.momentum_keys,
            &grad.momentum_values,
        );
    }

    // Through the carried-over state: fast = base + keep (start - base) + carry momentum + ...
    let mut carried = CarriedBack::default();
    carried.strip(&c, base, start, grad, dbase, 0..s * d);

    // Through the surprise: pull, clipped error, active, hidden.
    let mut dpull = scratch::copy(&dkey_pull);
    multiply_by(&mut dpull, &surprise.slope);
    let mut dhidden = dkey_pull;
    multiply_by_curvature(&mut dhidden, &surprise.pull, &surprise.hidden);
    add_times(&dpull, &start.values, &mut derror, t, d, s);
    add_transposed_times(&dpull, &surprise.error, &mut grad.values, s, d, t);
    clip_backward(&mut derror, &surprise.error, &surprise.norm, d);
    add_transposed_times(&surprise.active, &derror, &mut grad.values, s, d, t);
    add_times_transposed(&derror, &start.values, &mut dactive, t, s, d);
    add_product(&dactive, &surprise.slope, &mut dhidden);
    add_transposed_times(&dhidden, chunk.k, &mut grad.keys, s, d, t);
    add_times(&dhidden, &start.keys, &mut dk, t, d, s);
    derror.iter_mut().for_each(|g| *g = -*g);

    c.chunk_gradient(chunk, dk, derror, &[dto_memory, dto_momentum], &carried)
}

/// Gradients of the weights of carried-over state, summed over the slots.
#[derive(Default)]
pub(super) struct CarriedBack {
    keep: f64,
    carry: f64,
    decay: f64,
}

impl CarriedBack {
    /// Goes back through fast = base + keep (start - base) + carry momentum for some numbers of keys and values.
    pub(super) fn strip(
        &mut self,
        c: &Coefficients,
        base: Slots,
        start: &HeadMemory,
        grad: &mut HeadMemory,
        dbase: &mut SlotGradients,
        part: Range<usize>,
    ) {
        let halves = [
            (
                &mut grad.keys,
                &mut grad.momentum_keys,
                base.keys,
                &start.keys,
                &start.momentum_keys,
                &mut dbase.keys,
            ),
            (
                &mut grad.values,
                &mut grad.momentum_values,
                base.values,
                &start.values,
                &start.momentum_values,
                &mut dbase.values,
            ),
        ];
        let part = || part.clone();
        for (dfast, dmomentum, learned, fast, momentum, dlearned) in halves {
            let (dfast, dmomentum) = (&mut dfast[part()], &mut dmomentum[part()]);
            let (learned, fast, momentum) = (&learned[part()], &fast[part()], &momentum[part()]);
            let dlearned = &mut dlearned[part()];
            let sums = carry_sums(dfast, dmomentum, learned, fast, momentum);
            self.keep += f64::from(sums[0]);
            self.carry += f64::from(sums[1]);
            self.decay += f64::from(sums[2]);
            carry_back(dfast, dmomentum, dlearned, c.keep, c.carry, c.decay);
        }
    }
}

impl Coefficients {
    /// Gradients of a chunk from those of its rows, its weights (to memory, to momentum), and carried-over state.
    pub(super) fn chunk_gradient(
        &self,
        chunk: &Chunk,
        dk: Scratch,
        dv: Scratch,
        dweights: &[Vec<f32>; 2],
        carried: &CarriedBack,
    ) -> ChunkGradient {
        let (deta, dtheta, dalpha) = self.backward(
            (chunk.eta, chunk.theta, chunk.alpha),
            &dweights[0],
            &dweights[1],
            (carried.keep, carried.carry, carried.decay),
        );
        ChunkGradient {
            dk,
            dv,
            deta,
            dtheta,
            dalpha,
        }
    }
}

/// What the rows of a chunk find wrong with the memory at its start (see the module's text).
struct Surprise {
    hidden: Scratch,
    active: Scratch,
    slope: Scratch,
    pull: Scratch,
    /// Clipped, `[T, D]`.
    error: Scratch,
    /// Before the clip, `[T]`.
    norm: Scratch,
}

impl Surprise {
    fn at(shape: MemoryShape, memory: Slots, chunk: &Chunk) -> Self {
        let (s, d) = (shape.slots, shape.width);
        let t = chunk.eta.len();
        let hidden = times_transposed(chunk.k, memory.keys, t, s, d);
        let (mut active, mut slope) = (scratch::take(t * s), scratch::take(t * s));
        silu_and_slope(&hidden, &mut active, &mut slope);
        let mut error = times(&active, memory.values, t, d, s);
        let norm = clip(&mut error, chunk.v, d);
        let pull = times_transposed(&error, memory.values, t, s, d);
        Self {
            hidden,
            active,
            slope,
            pull,
            error,
            norm,
        }
    }

    /// pull ∘ slope: the left factor of the keys' gradient.
    fn key_pull(&self) -> Scratch {
        let mut pull = scratch::copy(&self.pull);
        multiply_by(&mut pull, &self.slope);
        pull
    }
}

/// into `[S, D]` += sum over t of weights_t left_t ⊗ right_t.
fn add_outer(shape: MemoryShape, left: &[f32], right: &[f32], weights: &[f32], into: &mut [f32]) {
    let weighted = scale_rows(right, weights);
    add_transposed_times(
        left,
        &weighted,
        into,
        shape.slots,
        shape.width,
        weights.len(),
    );
}

/// Gradients of [`add_outer`] given that of `into`; adds to all three.
#[allow(clippy::too_many_arguments)]
fn outer_backward(
    shape: MemoryShape,
    left: &[f32],
    right: &[f32],
    weights: &[f32],
    grad: &[f32],
    dleft: &mut [f32],
    dright: &mut [f32],
    dweights: &mut [f32],
) {
    let (s, d) = (shape.slots, shape.width);
    let t = weights.len();
    let seen = times(left, grad, t, d, s);
    weigh_back(right, &seen, weights, dright, dweights);
    add_times_transposed(&scale_rows(right, weights), grad, dleft, t, s, d);
}

multiversion! {
    /// For each row: dright += weight seen, dweight += right · seen.
    pub(super) fn weigh_back(right: &[f32], seen: &[f32], weights: &[f32], dright: &mut [f32], dweights: &mut [f32]) {
        let d = right.len() / weights.len();
        let rows = right.chunks_exact(d).zip(seen.chunks_exact(d));
        let rows = rows.zip(dright.chunks_exact_mut(d));
        for (((right, seen), dright), (w, dw)) in rows.zip(weights.iter().zip(dweights)) {
            *dw += dot(right, seen);
            for (g, y) in dright.iter_mut().zip(seen) { *g += w * y; }
        }
    }
}

multiversion! {
    /// Subtracts `v` and clips each row to norm 1; gives the norms before, `[T]`.
    pub(super) fn clip(error: &mut [f32], v: &[f32], d: usize) -> Scratch {
        let mut norms = scratch::take(error.len() / d);
        let rows = error.chunks_exact_mut(d).zip(v.chunks_exact(d));
        for ((e, v), norm) in rows.zip(norms.iter_mut()) {
            for (e, v) in e.iter_mut().zip(v) { *e -= v; }
            *norm = dot(e, e).sqrt();
            if *norm > 1.0 {
                for x in e.iter_mut() { *x /= *norm; }
            }
        }
        norms
    }
}

multiversion! {
    /// Turns the gradient of clipped errors into that of errors.
    pub(super) fn clip_backward(derror: &mut [f32], error: &[f32], norms: &[f32], d: usize) {
        let rows = derror.chunks_exact_mut(d).zip(error.chunks_exact(d));
        for ((de, e), &n) in rows.zip(norms) {
            if n > 1.0 {
                let along = dot(de, e);
                for (g, e) in de.iter_mut().zip(e) { *g = (*g - along * e) / n; }
            }
        }
    }
}

multiversion! {
    /// Each row times its weight.
    pub(super) fn scale_rows(x: &[f32], weights: &[f32]) -> Scratch {
        let mut scaled = scratch::copy(x);
        let rows = scaled.chunks_exact_mut(x.len() / weights.len());
        for (row, w) in rows.zip(weights) {
            for x in row { *x *= w; }
        }
        scaled
    }
}

multiversion! {
    /// What a write does to state that was there before (see [`Coefficients`]).
    pub(super) fn carry_over(fast: &mut [f32], momentum: &mut [f32], learned: &[f32], keep: f32, carry: f32, decay: f32) {
        for ((m, s), m0) in fast.iter_mut().zip(momentum).zip(learned) {
            *m = m0 + keep * (*m - m0) + carry * *s;
            *s *= decay;
        }
    }
}

multiversion! {
    /// dfast · (fast - learned), dfast · momentum, dmomentum · momentum.
    fn carry_sums(dfast: &[f32], dmomentum: &[f32], learned: &[f32], fast: &[f32], momentum: &[f32]) -> [f32; 3] {
        [dot_difference(dfast, fast, learned), dot(dfast, momentum), dot(dmomentum, momentum)]
    }
}

multiversion! {
    /// Gradients of [`carry_over`]; adds to `dlearned`.
    fn carry_back(dfast: &mut [f32], dmomentum: &mut [f32], dlearned: &mut [f32], keep: f32, carry: f32, decay: f32) {
        for ((g, dm), d0) in dfast.iter_mut().zip(dmomentum).zip(dlearned) {
            *d0 += (1.0 - keep) * *g;
            *dm = decay * *dm + carry * *g;
            *g *= keep;
        }
    }
}

multiversion! {
    /// active = silu(hidden), slope = silu'(hidden).
    fn silu_and_slope(hidden: &[f32], active: &mut [f32], slope: &mut [f32]) {
        for ((&h, a), s) in hidden.iter().zip(active).zip(slope) {
            *a = silu(h);
            *s = silu_derivative(h);
        }
    }
}

multiversion! {
    /// x *= by * silu''(hidden).
    fn multiply_by_curvature(x: &mut [f32], by: &[f32], hidden: &[f32]) {
        for ((x, &by), &h) in x.iter_mut().zip(by).zip(hidden) {
            let s = sigmoid(h);
            *x *= by * s * (1.0 - s) * (2.0 + h * (1.0 - 2.0 * s));
        }
    }
}

multiversion! {
    /// into += a ∘ b.
    fn add_product(a: &[f32], b: &[f32], into: &mut [f32]) {
        for ((&a, &b), into) in a.iter().zip(b).zip(into) {
            *into += a * b;
        }
    }
}

multiversion! {
    /// x *= by.
    fn multiply_by(x: &mut [f32], by: &[f32]) {
        for (x, &by) in x.iter_mut().zip(by) {
            *x *= by;
        }
    }
}

/// a `[m, k]` bᵀ, b `[n, k]`.
fn times_transposed(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Scratch {
    let mut c = scratch::take(m * n);
    gemm_seq(m, n, k, 1.0, a, k, 1, b, 1, k, 0.0, &mut c, n);
    c
}

/// c `[m, n]` += a `[m, k]` bᵀ, b `[n, k]`.
fn add_times_transposed(a: &[f32], b: &[f32], c: &mut [f32], m: usize, n: usize, k: usize) {
    gemm_seq(m, n, k, 1.0, a, k, 1, b, 1, k, 1.0, c, n);
}

/// a `[m, k]` b, b `[k, n]`.
fn times(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Scratch {
    let mut c = scratch::take(m * n);
    gemm_seq(m, n, k, 1.0, a, k, 1, b, n, 1, 0.0, &mut c, n);
    c
}

/// c `[m, n]` += a `[m, k]` b `[k, n]`.
fn add_times(a: &[f32], b: &[f32], c: &mut [f32], m: usize, n: usize, k: usize) {
    gemm_seq(m, n, k, 1.0, a, k, 1, b, n, 1, 1.0, c, n);
}

/// c `[m, n]` += aᵀ b, a `[k, m]`, b `[k, n]`.
fn add_transposed_times(a: &[f32], b: &[f32], c: &mut [f32], m: usize, n: usize, k: usize) {
    gemm_seq(m, n, k, 1.0, a, 1, m, b, n, 1, 1.0, c, n);
}
