//! How the work is divided: by shapes alone, so that results have the same bits at any thread count.
//!
//! A [`Piece`] is a block of rows that read the learned slots, or a chain of chunks; a task is a
//! piece (forward) or a group of pieces (backward) for one head, which works on [`HeadRows`].

use std::ops::Range;

use super::chunk::Chunk;
use super::columns::gather;
use super::{MemoryShape, Rows};
use crate::cpu::scratch::Scratch;

/// Rows that one task reads against the learned slots: large enough for a good product, small
/// enough that rows x slots stays in the cache.
const READ_ROWS: usize = 256;

/// Tasks per head in the backward pass. Each keeps a partial sum as large as the head's slots, and
/// the partial sums are added in order.
const GROUPS: usize = 4;

/// A unit of work for one head.
pub(super) enum Piece {
    /// Rows that read the learned slots.
    Block(Range<usize>),
    /// A segment of more than one chunk: reads from its second chunk on, and all writes.
    Chain(Range<usize>),
}

/// All units of work, by rising rows; rows in no segment belong to none.
#[track_caller]
pub(super) fn pieces(segments: &[Range<usize>], n: usize, chunk: usize) -> Vec<Piece> {
    check_segments(segments, n);
    let mut pieces = Vec::new();
    let mut run = 0..0;
    for segment in segments {
        let first = segment.start..segment.end.min(segment.start + chunk);
        if first.start != run.end {
            pieces.extend(split(run).map(Piece::Block));
            run = first.start..first.start;
        }
        run.end = first.end;
        if segment.len() > chunk {
            pieces.push(Piece::Chain(segment.clone()));
        }
    }
    pieces.extend(split(run).map(Piece::Block));
    pieces
}

/// Pieces own disjoint rows only if segments do: what is unsafe in the callers rests on this.
#[track_caller]
pub(super) fn check_segments(segments: &[Range<usize>], n: usize) {
    let mut end = 0;
    for s in segments {
        let fits = end <= s.start && s.start <= s.end && s.end <= n;
        assert!(fits, "memory: segment {s:?} after row {end} of {n}");
        end = s.end;
    }
}

/// Blocks of at most [`READ_ROWS`] rows.
pub(super) fn split(run: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = run.end;
    run.step_by(READ_ROWS)
        .map(move |at| at..end.min(at + READ_ROWS))
}

/// Divides the pieces into at most [`GROUPS`] stretches of about equal work.
pub(super) fn groups(pieces: &[Piece]) -> Vec<Range<usize>> {
    let cost = |piece: &Piece| match piece {
        Piece::Block(range) => range.len(),
        Piece::Chain(range) => 4 * range.len(), // a write back costs about three reads
    };
    let total: usize = pieces.iter().map(cost).sum();
    let (mut groups, mut start, mut done) = (Vec::new(), 0, 0);
    for (i, piece) in pieces.iter().enumerate() {
        done += cost(piece);
        if done * GROUPS >= total * (groups.len() + 1) {
            groups.push(start..i + 1);
            start = i + 1;
        }
    }
    groups
}

/// The rows of one segment for one head, contiguous: q, k, v `[T, D]`, the rest `[T]`.
pub(super) struct HeadRows {
    shape: MemoryShape,
    q: Scratch,
    k: Scratch,
    v: Scratch,
    eta: Scratch,
    theta: Scratch,
    alpha: Scratch,
}

impl HeadRows {
    pub(super) fn of(shape: MemoryShape, rows: &Rows, head: usize, range: Range<usize>) -> Self {
        let take = |x: &[f32], width| gather(x, shape.heads, width, head, range.clone());
        Self {
            shape,
            q: take(rows.q, shape.width),
            k: take(rows.k, shape.width),
            v: take(rows.v, shape.width),
            eta: take(rows.eta, 1),
            theta: take(rows.theta, 1),
            alpha: take(rows.alpha, 1),
        }
    }

    pub(super) fn chunks(&self) -> usize {
        self.eta.len().div_ceil(self.shape.chunk)
    }

    fn narrow(&self, c: usize) -> Range<usize> {
        c * self.shape.chunk..self.eta.len().min((c + 1) * self.shape.chunk)
    }

    pub(super) fn wide(&self, c: usize) -> Range<usize> {
        let rows = self.narrow(c);
        rows.start * self.shape.width..rows.end * self.shape.width
    }

    pub(super) fn q(&self, c: usize) -> &[f32] {
        &self.q[self.wide(c)]
    }

    pub(super) fn chunk(&self, c: usize) -> Chunk<'_> {
        Chunk {
            k: &self.k[self.wide(c)],
            v: &self.v[self.wide(c)],
            eta: &self.eta[self.narrow(c)],
            theta: &self.theta[self.narrow(c)],
            alpha: &self.alpha[self.narrow(c)],
        }
    }
}
