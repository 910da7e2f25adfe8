//! Counted draws and the line between training and evaluation.
//!
//! A [`Draw`] belongs to one thing that is being made (a document, an item, a trace): its values are a
//! function of (seed, purpose, index of the thing, number of the draw), so the seventh document is the same
//! whether or not the first six were made. A *key* names the parameters of a problem without its names and
//! wording (`add 28 34`); its hash alone says on which side it lies, so a held-out problem differs from every
//! training problem in its numbers or facts, never only in its names. Leaves out any sequential generator.

use crate::random;

/// Values for one generated thing, drawn in order.
pub(super) struct Draw<'a> {
    seed: u64,
    purpose: &'a str,
    index: u64,
    drawn: u64,
}

impl<'a> Draw<'a> {
    pub(super) fn new(seed: u64, purpose: &'a str, index: usize) -> Self {
        Draw {
            seed,
            purpose,
            index: index as u64,
            drawn: 0,
        }
    }

    /// A value in `0..limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        let value = random::below(
            limit as u64,
            self.seed,
            self.purpose,
            self.index,
            self.drawn,
        );
        self.drawn += 1;
        value as usize
    }

    /// A value in `low..=high`.
    pub(super) fn within(&mut self, low: i64, high: i64) -> i64 {
        assert!(low <= high, "a draw within {low}..={high}");
        low + self.below((high - low + 1) as usize) as i64
    }

    pub(super) fn pick<'b, T>(&mut self, from: &'b [T]) -> &'b T {
        &from[self.below(from.len())]
    }

    /// `count` different elements in a random order.
    pub(super) fn several<T: Clone>(&mut self, from: &[T], count: usize) -> Vec<T> {
        let mut all = from.to_vec();
        self.shuffle(&mut all);
        all.truncate(count);
        all
    }

    /// Fisher and Yates.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// Whether the problem with this key is kept out of training: one in four, by hash. Keys that begin with
/// `fact` name knowledge that no reasoning can supply (a times table, where a fish lives): always training.
pub(super) fn held_out(key: &str) -> bool {
    !key.starts_with("fact") && blake3::hash(key.as_bytes()).as_bytes()[0] < 64
}
