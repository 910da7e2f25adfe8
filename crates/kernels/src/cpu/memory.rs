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
//! `chunk` holds the arithmetic of one chunk and head, `scan` the coefficients of a write, `states`
//! what one memory answers, `stream` the memory that grows a few rows at a time; `pieces` divides
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

use std::ops::Range;

use rayon::prelude::*;

use self::chunk::{HeadMemory, SlotGradients, Slots};
use self::columns::{Columns, gather};
use self::pieces::{HeadRows, Piece, groups, pieces};
pub use self::states::{State, chunk_states, read, slot_reads};
pub use self::stream::{MemoryState, extend};
use super::scratch::Scratch;

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
            match piece {
                Piece::Block(range) => {
                    let q = gather(rows.q, shape.heads, shape.width, head, range.clone());
                    put(range.start, &chunk::read(shape, base, &q));
                }
                Piece::Chain(range) => {
                    let input = HeadRows::of(shape, rows, head, range.clone());
                    let mut memory = HeadMemory::start(base);
                    for c in 1..range.len().div_ceil(shape.chunk) {
                        chunk::write(shape, base, memory.view(), &input.chunk(c - 1));
                        let read = chunk::read(shape, memory.slots(), input.q(c));
                        put(range.start + c * shape.chunk, &read);
                    }
                }
            }
        });
}

/// The full gradient of [`forward`] given `dout` `[N, H*D]`: through reads, writes, the clip, the
/// momentum and the forgetting, back to the learned slots.
///
/// `dkeys0`, `dvalues0` `[H, S, D]` are added to, the rest is overwritten. Nothing is kept by the
/// forward pass: a chain walks its chunks again and holds their states while it goes back.
///
/// # Panics
/// As [`forward`].
#[track_caller]
#[allow(clippy::too_many_arguments)]
pub fn backward(
    shape: MemoryShape,
    keys0: &[f32],
    values0: &[f32],
    rows: &Rows,
    segments: &[Range<usize>],
    dout: &[f32],
    dkeys0: &mut [f32],
    dvalues0: &mut [f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    deta: &mut [f32],
    dtheta: &mut [f32],
    dalpha: &mut [f32],
) {
    shape.check_slots(keys0, values0);
    shape.check_slots(dkeys0, dvalues0);
    let n = rows.count(shape);
    let grads = Rows {
        q: dq,
        k: dk,
        v: dv,
        eta: deta,
        theta: dtheta,
        alpha: dalpha,
    };
    assert_eq!(grads.count(shape), n, "memory: gradients of {n} rows");
    assert_eq!(
        dout.len(),
        rows.q.len(),
        "memory: gradient of out, {n} rows, {shape:?}"
    );
    let [dq, dk, dv] = [dq, dk, dv].map(|g| Columns::zeroed(g, shape.heads, shape.width));
    let [deta, dtheta, dalpha] = [deta, dtheta, dalpha].map(|g| Columns::zeroed(g, shape.heads, 1));
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
            for piece in &pieces[group.clone()] {
                match piece {
                    Piece::Block(range) => {
                        let q = gather(rows.q, shape.heads, shape.width, head, range.clone());
                        let dout = gather(dout, shape.heads, shape.width, head, range.clone());
                        let grad = chunk::read_backward(
                            shape,
                            base,
                            &q,
                            &dout,
                            &mut dbase.keys,
                            &mut dbase.values,
                        );
                        put(&dq, range.start, &grad);
                    }
                    Piece::Chain(range) => {
                        let input = HeadRows::of(shape, rows, head, range.clone());
                        let dout = gather(dout, shape.heads, shape.width, head, range.clone());
                        chain_backward(shape, base, &input, &dout, &mut dbase, |c, grad| {
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
fn chain_backward(
    shape: MemoryShape,
    base: Slots,
    input: &HeadRows,
    dout: &[f32],
    dbase: &mut SlotGradients,
    mut put: impl FnMut(usize, ChainGradient),
) {
    let chunks = input.chunks();
    let mut starts = vec![HeadMemory::start(base)];
    for c in 1..chunks {
        let mut next = starts[c - 1].copy();
        chunk::write(shape, base, next.view(), &input.chunk(c - 1));
        starts.push(next);
    }
    let mut grad = HeadMemory::zeros(shape.head_len());
    for (c, start) in starts.iter().enumerate().rev() {
        if c + 1 < chunks {
            let last = c + 2 == chunks;
            let written = input.chunk(c);
            let rows = chunk::write_backward(shape, base, start, &written, last, &mut grad, dbase);
            put(c, ChainGradient::Write(rows));
        }
        if c > 0 {
            let (q, dout) = (input.q(c), &dout[input.wide(c)]);
            let HeadMemory { keys, values, .. } = &mut grad;
            let dq = chunk::read_backward(shape, start.slots(), q, dout, keys, values);
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
