//! A batch of rows: the tokens of several segments after one another.
//!
//! A segment is one document, or a piece of one. Attention, convolution and memory never look across
//! segments; positions count from the start of the document.

use std::sync::Arc;
use tensor::{Ids, Range, Segments};

/// Tokens with their segments and positions.
#[derive(Clone, Debug)]
pub struct Batch {
    /// [N]
    pub tokens: Ids,
    /// Row range of each segment; they cover the rows in order.
    pub segments: Segments,
    /// Position of each row in its document.
    pub positions: Ids,
}

impl Batch {
    /// A batch of segments, each its tokens and the position of its first token.
    pub fn new<'a>(pieces: impl IntoIterator<Item = (&'a [u32], u32)>) -> Self {
        let (mut tokens, mut positions, mut segments): (Vec<u32>, Vec<u32>, Vec<Range<usize>>) =
            Default::default();
        for (piece, start) in pieces {
            let at = tokens.len();
            tokens.extend_from_slice(piece);
            positions.extend((0..piece.len() as u32).map(|i| start + i));
            segments.push(at..tokens.len());
        }
        Self {
            tokens: tokens.into(),
            segments: segments.into(),
            positions: positions.into(),
        }
    }

    /// One segment from position 0.
    pub fn single(tokens: &[u32]) -> Self {
        Self::new([(tokens, 0)])
    }

    /// N
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// All row numbers below `n`.
pub(crate) fn all_rows(n: usize) -> Ids {
    (0..n as u32).collect::<Vec<_>>().into()
}

/// For each row, its index within its segment.
pub(crate) fn offsets(segments: &[Range<usize>]) -> Vec<u32> {
    segments.iter().flat_map(|s| 0..s.len() as u32).collect()
}

/// A shared empty list of rows.
pub(crate) fn no_rows() -> Ids {
    Arc::from([])
}
