//! Where a search no longer goes: what a detector or a person closed to it after degenerate merges.

use super::genome::LAMBDA;
use super::{Genome, Source};
use serde::{Deserialize, Serialize};

/// The combinations with DFS, one bit each.
const DFS: u8 = 0b1010_1010;

/// Restrictions on every further genome of a search; the default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Combinations that are not used any more, one bit each.
    pub banned: u8,
    /// Halvings of the range of lambda.
    pub halvings: u32,
    /// Whether only interpolations and parents are left as sources, without DFS.
    pub interpolation_only: bool,
    /// Whether a degenerate child is left out instead of replaced by a linear merge.
    pub drop: bool,
}

impl Limits {
    /// Bans a combination, as long as another is left.
    pub fn ban(&mut self, bits: u8) {
        let banned = self.banned | 1 << bits;
        if banned != u8::MAX {
            self.banned = banned;
        }
    }

    /// The genome of the restricted space that is nearest to one.
    pub(super) fn apply(&self, mut genome: Genome) -> Genome {
        let (low, high) = LAMBDA;
        let most = low + (high - low) / f64::from(1u32 << self.halvings.min(16));
        if self.halvings > 0 {
            genome.lambda = genome.lambda.min(most);
        }
        if self.interpolation_only {
            let layers = genome.sources.iter_mut();
            layers.chain([&mut genome.shared]).for_each(|source| {
                if *source == Source::Arithmetic {
                    *source = Source::Interpolation;
                }
            });
        }
        let closed = match self.interpolation_only {
            true => self.banned | DFS,
            false => self.banned,
        };
        // The fewest bits changed, and of those the smallest; where all are closed DFS is the least to worry about.
        let open = |closed: u8| (0..8u8).filter(move |bits| closed & 1 << bits == 0);
        let nearest = |closed| open(closed).min_by_key(|bits| (bits ^ genome.bits).count_ones());
        genome.bits = nearest(closed)
            .or(nearest(self.banned))
            .unwrap_or(genome.bits);
        genome
    }
}
