//! Neural long-term memory: a small network per head whose weights are written while it reads.
//!
//! The memory of a head is M(x) = sum over slots j of silu(key_j · x) value_j. Each row of input
//! offers a pair (k, v) to learn and a query q. Source: Titans, "Learning to Memorize at Test Time"
//! (2501.00663), in its chunk-parallel form, with four departures that keep it finite and useful:
//! momentum in EMA form, the error of the inner loss clipped to norm 1, forgetting that decays to
//! the *learned* slots instead of to zero, and reads that see the memory as it stood at the start
//! of their chunk (attention covers the chunk; training and streaming then agree).
//! ```text
//! u_t = -theta_t * gradient of ½|M_c(k_t) - v_t|², M_c the memory at the start of t's chunk c
//! S_t = eta_t S_{t-1} + (1 - eta_t) u_t
//! M_t = M_0 + (1 - alpha_t) (M_{t-1} - M_0) + S_t
//! out_t = M_c(q_t)
//! ```
//! Shapes: H heads, D width of a head, S slots per head, N rows. q, k, v, out are `[N, H*D]`; eta,
//! theta, alpha `[N, H]`; learned keys and values `[H, S, D]`. Rows come in segments (one document
//! each), a segment in chunks counted from its own start; each segment begins at the learned slots.
//! A slot whose key and value are both zero stays exactly zero through every write.
//!
//! `chunk` holds the arithmetic of one chunk and head, `tiles` the same where the CPU multiplies tiles of
//! bf16, `scan` the coefficients of a write, `states` what one memory answers, `stream` the memory that grows a few rows at a time; `pieces` divides
//! the work: rows that read the learned slots (first chunks, so whole documents when they are short)
//! are joined into blocks and read in one product; what remains of a longer segment is a chain that
//! walks its chunks in order. A task is a head and a block or chain, fixed by the shapes alone, so
//! results have the same bits at any thread count. The last chunk of a segment is never written,
//! because nothing reads it.
//!
//! Left out on purpose: q and k arrive normalised and eta, theta, alpha in their ranges (eta and
//! alpha in 0..1, theta >= 0); nothing here checks them.

mod chunk;
mod columns;
mod pieces;
mod scan;
mod states;
mod stream;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::ops::Range;

use rayon::prelude::*;

use self::chunk::{Arithmetic, HeadMemory, Plain, SlotGradients, Slots};
use self::columns::{Columns, gather};
use self::pieces::{HeadRows, Piece, groups, pieces};
pub use self::states::{State, chunk_states, read, slot_reads};
pub use self::stream::{MemoryState, extend};
#[cfg(target_arch = "x86_64")]
use self::tiles::Tiles;
#[cfg(target_arch = "x86_64")]
use super::gemm::mixed::{self, tile::Unit};
use super::scratch::Scratch;
#[cfg(target_arch = "x86_64")]
use crate::{
    isa,
    precision::{self, Precision},
};

/// Sizes of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryShape {
    /// Heads, H.
    pub heads: usize,
    /// Width of a head, D.
    pub width: usize,
    /// Slots per head, S.
    pub slots: usize,
    /// Rows between two writes.
    pub chunk: usize,
}

impl MemoryShape {
    /// Numbers in a row of q, k, v: H*D.
    pub fn row_len(self) -> usize {
        self.heads * self.width
    }

    /// Numbers in the keys (or the values) of a whole memory: H*S*D.
    pub fn slots_len(self) -> usize {
        self.heads * self.head_len()
    }

    /// Numbers in the keys of one head: S*D.
    fn head_len(self) -> usize {
        self.slots * self.width
    }

    /// One head of keys and values that lie as `[H, S, D]`.
    fn head<'a>(self, keys: &'a [f32], values: &'a [f32], head: usize) -> Slots<'a> {
        let range = head * self.head_len()..(head + 1) * self.head_len();
        Slots {
            keys: &keys[range.clone()],
            values: &values[range],
        }
    }

    #[track_caller]
    fn check_slots(self, keys: &[f32], values: &[f32]) {
        let at_least_one = self.heads.min(self.width).min(self.slots).min(self.chunk);
        assert!(
            at_least_one > 0,
            "memory: every size is at least 1: {self:?}"
        );
        let lens = [keys.len(), values.len()];
        assert_eq!(
            lens,
            [self.slots_len(); 2],
            "memory: keys and values of {self:?}"
        );
    }
}

/// What the rows bring: q, k, v `[N, H*D]` and eta, theta, alpha `[N, H]`.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Queries, of norm 1 per head.
    pub q: &'a [f32],
    /// Keys to write under, of norm 1 per head.
    pub k: &'a [f32],
    /// Values to write.
    pub v: &'a [f32],
    /// Share of the momentum that is kept, in 0..1.
    pub eta: &'a [f32],
    /// Step size, not negative.
    pub theta: &'a [f32],
    /// Share of what was written that is forgotten, in 0..1.
    pub alpha: &'a [f32],
}

impl Rows<'_> {
    /// The number of rows, after checking all six lengths.
    #[track_caller]
    fn count(&self, shape: MemoryShape) -> usize {
        let n = self.eta.len() / shape.heads;
        let wide = [self.q.len(), self.k.len(), self.v.len()];
        assert_eq!(
            wide,
            [n * shape.row_len(); 3],
            "memory: q, k, v of {n} rows, {shape:?}"
        );
        let narrow = [self.eta.len(), self.theta.len(), self.alpha.len()];
        assert_eq!(
            narrow,
            [n * shape.heads; 3],
            "memory: eta, theta, alpha of {n} rows, {shape:?}"
        );
        n
    }
}

/// Reads and writes whole segments; overwrites `out` `[N, H*D]`.
///
/// `segments` are ascending and do not overlap; rows in none of them give zero.
///
/// # Panics
/// When a length does not fit `shape` or the segments are out of order.
#[track_caller]
pub fn forward(
    shape: MemoryShape,
    keys0: &[f32],
    values0: &[f32],
    rows: &Rows,
    segments: &[Range<usize>],
    out: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = unit(shape) {
        // SAFETY: the CPU has the unit, and the shape suits it.
        let begin = || unsafe { Tiles::begin(unit, shape) };
        return forward_with(begin, shape, [keys0, values0], rows, segments, out);
    }
    let begin = || Plain(shape);
    forward_with(begin, shape, [keys0, values0], rows, segments, out);
}

/// What multiplies tiles of bf16, where operands are rounded to it and the shape fits.
#[cfg(target_arch = "x86_64")]
fn unit(shape: MemoryShape) -> Option<Unit> {
    let rounds = precision::in_use() == Precision::Bf16 && tiles::suits(shape);
    rounds.then(|| mixed::unit(isa::detect())).flatten()
}

/// [`forward`] by the arithmetic that each task begins.
#[track_caller]
fn forward_with<A: Arithmetic>(
    begin: impl Fn() -> A + Sync,
    shape: MemoryShape,
    [keys0, values0]: [&[f32]; 2],
    rows: &Rows,
    segments: &[Range<usize>],
    out: &mut [f32],
) {
    shape.check_slots(keys0, values0);
    let n = rows.count(shape);
    assert_eq!(
        out.len(),
        rows.q.len(),
        "memory: out of {n} rows, {shape:?}"
    );
    let out = Columns::zeroed(out, shape.heads, shape.width);
    let pieces = pieces(segments, n, shape.chunk);
    (0..shape.heads * pieces.len())
        .into_par_iter()
        .for_each(|task| {
            let (head, piece) = (task / pieces.len(), &pieces[task % pieces.len()]);
            let base = shape.head(keys0, values0, head);
            // SAFETY: pieces own disjoint rows of `out`: a block its rows, a chain all but the first
            // chunk of its segment, and blocks hold first chunks only. The task owns this head alone.
            let put = |at: usize, x: &[f32]| unsafe { out.put(at, head, x) };
            let by = begin();
            match piece {
                Piece::Block(range) => {
                    let q = gather(rows.q, shape.heads, shape.width, head, range.clone());
                    put(range.start, &by.read(base, &by.pack(base, false), &q));
                }
                Piece::Chain(range) => {
                    let input = HeadRows::of(shape, rows, head, range.clone());
                    let mut memory = HeadMemory::start(base);
                    let mut packed = by.pack(base, false);
                    for c in 1..range.len().div_ceil(shape.chunk) {
                        by.write(base, memory.view(), &packed, &input.chunk(c - 1));
                        packed = by.pack(memory.slots(), false);
                        let read = by.read(memory.slots(), &packed, input.q(c));
                        put(range.start + c * shape.chunk, &read);
                    }
                }
            }
        });
}

/// Gradients of everything that a memory reads.
pub struct Gradients<'a> {
    /// Of the learned slots, `[H, S, D]` each; added to.
    pub slots: [&'a mut [f32]; 2],
    /// Of q, k, v, `[N, H*D]` each; overwritten.
    pub wide: [&'a mut [f32]; 3],
    /// Of eta, theta, alpha, `[N, H]` each; overwritten.
    pub narrow: [&'a mut [f32]; 3],
}

/// The full gradient of [`forward`] given `dout` `[N, H*D]`: through reads, writes, the clip, the
/// momentum and the forgetting, back to the learned slots.
///
/// Nothing is kept by the forward pass: a chain walks its chunks again and holds their states while it goes back.
///
/// # Panics
/// As [`forward`].
#[track_caller]
pub fn backward(
    shape: MemoryShape,
    keys0: &[f32],
    values0: &[f32],
    rows: &Rows,
    segments: &[Range<usize>],
    dout: &[f32],
    grads: Gradients,
) {
    let learned = [keys0, values0];
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = unit(shape) {
        // SAFETY: the CPU has the unit, and the shape suits it.
        let begin = || unsafe { Tiles::begin(unit, shape) };
        return backward_with(begin, shape, learned, rows, segments, dout, grads);
    }
    let begin = || Plain(shape);
    backward_with(begin, shape, learned, rows, segments, dout, grads);
}

/// [`backward`] by the arithmetic that each task begins.
#[track_caller]
fn backward_with<A: Arithmetic>(
    begin: impl Fn() -> A + Sync,
    shape: MemoryShape,
    [keys0, values0]: [&[f32]; 2],
    rows: &Rows,
    segments: &[Range<usize>],
    dout: &[f32],
    grads: Gradients,
) {
    let [dkeys0, dvalues0] = grads.slots;
    shape.check_slots(keys0, values0);
    shape.check_slots(dkeys0, dvalues0);
    let n = rows.count(shape);
    for (len, want) in (grads.wide.iter().map(|g| (g.len(), n * shape.row_len())))
        .chain(grads.narrow.iter().map(|g| (g.len(), n * shape.heads)))
    {
        assert_eq!(len, want, "memory: gradients of {n} rows, {shape:?}");
    }
    assert_eq!(
        dout.len(),
        rows.q.len(),
        "memory: gradient of out, {n} rows, {shape:?}"
    );
    let [dq, dk, dv] = grads
        .wide
        .map(|g| Columns::zeroed(g, shape.heads, shape.width));
    let [deta, dtheta, dalpha] = grads.narrow.map(|g| Columns::zeroed(g, shape.heads, 1));
    let pieces = pieces(segments, n, shape.chunk);
    let groups = groups(&pieces);
    let partial: Vec<SlotGradients> = (0..shape.heads * groups.len())
        .into_par_iter()
        .map(|task| {
            let (head, group) = (task / groups.len(), &groups[task % groups.len()]);
            let base = shape.head(keys0, values0, head);
            let mut dbase = SlotGradients {
                keys: vec![0.0; shape.head_len()],
                values: vec![0.0; shape.head_len()],
            };
            // SAFETY: this task alone has this head of the pieces in its group. Pieces own disjoint
            // rows of dq as in `forward`; of the rest a block writes nothing and a chain only the
            // rows of its own segment.
            let put = |to: &Columns, at: usize, x: &[f32]| unsafe { to.put(at, head, x) };
            let by = begin();
            let packed = by.pack(base, true);
            for piece in &pieces[group.clone()] {
                match piece {
                    Piece::Block(range) => {
                        let q = gather(rows.q, shape.heads, shape.width, head, range.clone());
                        let dout = gather(dout, shape.heads, shape.width, head, range.clone());
                        let to = [&mut dbase.keys[..], &mut dbase.values[..]];
                        let grad = by.read_backward((base, &packed), &q, &dout, to);
                        put(&dq, range.start, &grad);
                    }
                    Piece::Chain(range) => {
                        let input = HeadRows::of(shape, rows, head, range.clone());
                        let dout = gather(dout, shape.heads, shape.width, head, range.clone());
                        chain_backward(&by, base, &input, &dout, &mut dbase, |c, grad| {
                            let at = range.start + c * shape.chunk;
                            match grad {
                                ChainGradient::Read(g) => put(&dq, at, &g),
                                ChainGradient::Write(g) => {
                                    put(&dk, at, &g.dk);
                                    put(&dv, at, &g.dv);
                                    put(&deta, at, &g.deta);
                                    put(&dtheta, at, &g.dtheta);
                                    put(&dalpha, at, &g.dalpha);
                                }
                            }
                        });
                    }
                }
            }
            dbase
        })
        .collect();
    let per_head = shape.head_len();
    for (task, part) in partial.iter().enumerate() {
        let range = task / groups.len() * per_head..(task / groups.len() + 1) * per_head;
        dkeys0[range.clone()]
            .iter_mut()
            .zip(&part.keys)
            .for_each(|(g, p)| *g += p);
        dvalues0[range]
            .iter_mut()
            .zip(&part.values)
            .for_each(|(g, p)| *g += p);
    }
}

/// What a step back along a chain yields for chunk c.
enum ChainGradient {
    Read(Scratch),
    Write(chunk::ChunkGradient),
}

/// Goes back along one chain of one head; adds to the keys and values of `dbase`.
fn chain_backward<A: Arithmetic>(
    by: &A,
    base: Slots,
    input: &HeadRows,
    dout: &[f32],
    dbase: &mut SlotGradients,
    mut put: impl FnMut(usize, ChainGradient),
) {
    let chunks = input.chunks();
    let begin = |memory: HeadMemory| {
        let packed = by.pack(memory.slots(), true);
        (memory, packed)
    };
    let mut starts = vec![begin(HeadMemory::start(base))];
    for c in 1..chunks {
        let (memory, packed) = &starts[c - 1];
        let mut next = memory.copy();
        by.write(base, next.view(), packed, &input.chunk(c - 1));
        starts.push(begin(next));
    }
    let mut grad = HeadMemory::zeros(base.keys.len());
    for (c, (start, packed)) in starts.iter().enumerate().rev() {
        if c + 1 < chunks {
            let last = c + 2 == chunks;
            let (written, start) = (input.chunk(c), (start, packed));
            let rows = by.write_backward(base, start, &written, last, &mut grad, dbase);
            put(c, ChainGradient::Write(rows));
        }
        if c > 0 {
            let (q, dout) = (input.q(c), &dout[input.wide(c)]);
            let to = [&mut grad.keys[..], &mut grad.values[..]];
            let dq = by.read_backward((start.slots(), packed), q, dout, to);
            put(c, ChainGradient::Read(dq));
        }
    }
    dbase
        .keys
        .iter_mut()
        .zip(grad.keys.iter())
        .for_each(|(d, g)| *d += g);
    dbase
        .values
        .iter_mut()
        .zip(grad.values.iter())
        .for_each(|(d, g)| *d += g);
}
