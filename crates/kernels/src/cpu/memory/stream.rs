//! The memory of one sequence that grows a few rows at a time (generation, evaluation).
//!
//! Rows wait until their chunk is full and the next row arrives; only then are they written. So the
//! state is always the memory at the start of the chunk of the newest row, which is what that row
//! read and what thoughts at that row read.

use rayon::prelude::*;

use super::chunk::{self, Chunk, MemoryView};
use super::columns::gather;
use super::{MemoryShape, Rows};

/// The memory of one sequence, and the rows of the chunk that is not yet written.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryState {
    /// Keys at the start of the current chunk, `[H, S, D]`; ready for [`super::read`].
    pub keys: Vec<f32>,
    /// Values at the start of the current chunk, `[H, S, D]`.
    pub values: Vec<f32>,
    momentum_keys: Vec<f32>,
    momentum_values: Vec<f32>,
    pending: Pending,
}

/// Rows not yet written: k, v `[P, H*D]`, the rest `[P, H]`, P at most one chunk.
#[derive(Clone, Debug, Default, PartialEq)]
struct Pending {
    k: Vec<f32>,
    v: Vec<f32>,
    eta: Vec<f32>,
    theta: Vec<f32>,
    alpha: Vec<f32>,
}

impl MemoryState {
    /// The start of a sequence: the learned slots.
    ///
    /// # Panics
    /// When a length does not fit `shape`.
    #[track_caller]
    pub fn new(shape: MemoryShape, keys0: &[f32], values0: &[f32]) -> Self {
        shape.check_slots(keys0, values0);
        Self {
            keys: keys0.to_vec(),
            values: values0.to_vec(),
            momentum_keys: vec![0.0; keys0.len()],
            momentum_values: vec![0.0; values0.len()],
            pending: Pending::default(),
        }
    }

    /// Back to the start of a sequence (a document ended).
    pub fn reset(&mut self, keys0: &[f32], values0: &[f32]) {
        self.keys.copy_from_slice(keys0);
        self.values.copy_from_slice(values0);
        self.momentum_keys.fill(0.0);
        self.momentum_values.fill(0.0);
        self.pending = Pending::default();
    }

    /// Everything as one row of numbers, for saving: keys, values, both momenta, then the waiting
    /// rows (k, v, eta, theta, alpha).
    pub fn to_flat(&self) -> Vec<f32> {
        let p = &self.pending;
        let fast = [
            &self.keys,
            &self.values,
            &self.momentum_keys,
            &self.momentum_values,
        ];
        let waiting = [&p.k, &p.v, &p.eta, &p.theta, &p.alpha];
        fast.into_iter().chain(waiting).flatten().copied().collect()
    }

    /// The inverse of [`MemoryState::to_flat`]; `None` when no state of `shape` has this length.
    pub fn from_flat(shape: MemoryShape, flat: &[f32]) -> Option<Self> {
        let per_row = 2 * shape.row_len() + 3 * shape.heads;
        let waiting = flat.len().checked_sub(4 * shape.slots_len())?;
        let rows = waiting / per_row;
        if waiting % per_row != 0 || rows > shape.chunk {
            return None;
        }
        let mut rest = flat;
        let mut take = |len: usize| {
            let (front, back) = rest.split_at(len);
            rest = back;
            front.to_vec()
        };
        let (wide, narrow) = (rows * shape.row_len(), rows * shape.heads);
        Some(Self {
            keys: take(shape.slots_len()),
            values: take(shape.slots_len()),
            momentum_keys: take(shape.slots_len()),
            momentum_values: take(shape.slots_len()),
            pending: Pending {
                k: take(wide),
                v: take(wide),
                eta: take(narrow),
                theta: take(narrow),
                alpha: take(narrow),
            },
        })
    }
}

/// Appends rows to a sequence; overwrites `out` [n, H*D] with what they read. Any split of a
/// segment into calls gives what [`super::forward`] gives on the whole, up to rounding.
///
/// # Panics
/// When a length does not fit `shape`.
#[track_caller]
pub fn extend(
    shape: MemoryShape,
    keys0: &[f32],
    values0: &[f32],
    state: &mut MemoryState,
    rows: &Rows,
    out: &mut [f32],
) {
    shape.check_slots(keys0, values0);
    shape.check_slots(&state.keys, &state.values);
    let n = rows.count(shape);
    assert_eq!(
        out.len(),
        rows.q.len(),
        "memory: out of {n} rows, {shape:?}"
    );
    let mut at = 0;
    while at < n {
        if state.pending.eta.len() == shape.chunk * shape.heads {
            flush(shape, keys0, values0, state);
        }
        let waiting = state.pending.eta.len() / shape.heads;
        let end = n.min(at + shape.chunk - waiting);
        let wide = at * shape.row_len()..end * shape.row_len();
        let narrow = at * shape.heads..end * shape.heads;
        super::read(
            shape,
            &state.keys,
            &state.values,
            &rows.q[wide.clone()],
            &mut out[wide.clone()],
        );
        let p = &mut state.pending;
        p.k.extend_from_slice(&rows.k[wide.clone()]);
        p.v.extend_from_slice(&rows.v[wide]);
        p.eta.extend_from_slice(&rows.eta[narrow.clone()]);
        p.theta.extend_from_slice(&rows.theta[narrow.clone()]);
        p.alpha.extend_from_slice(&rows.alpha[narrow]);
        at = end;
    }
}

/// Writes the waiting chunk.
fn flush(shape: MemoryShape, keys0: &[f32], values0: &[f32], state: &mut MemoryState) {
    let per_head = shape.head_len();
    let pending = std::mem::take(&mut state.pending);
    let heads = (state.keys.par_chunks_exact_mut(per_head))
        .zip(state.values.par_chunks_exact_mut(per_head))
        .zip(state.momentum_keys.par_chunks_exact_mut(per_head))
        .zip(state.momentum_values.par_chunks_exact_mut(per_head));
    heads.enumerate().for_each(
        |(head, (((keys, values), momentum_keys), momentum_values))| {
            let take = |x: &[f32], width| gather(x, shape.heads, width, head, 0..shape.chunk);
            let written = Chunk {
                k: &take(&pending.k, shape.width),
                v: &take(&pending.v, shape.width),
                eta: &take(&pending.eta, 1),
                theta: &take(&pending.theta, 1),
                alpha: &take(&pending.alpha, 1),
            };
            let memory = MemoryView {
                keys,
                values,
                momentum_keys,
                momentum_values,
            };
            chunk::write(shape, shape.head(keys0, values0, head), memory, &written);
        },
    );
}
