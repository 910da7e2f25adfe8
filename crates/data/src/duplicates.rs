//! Documents that say again what an earlier one said, exactly or nearly.
//!
//! Exactly: the same text, by its hash. Nearly: most runs of five words in common. The likeness of two documents is the
//! share of their runs that both have (Jaccard); it is estimated by [`HASHES`] minima (MinHash, Broder 1997) of hashes of
//! the runs, which two documents have in common as often as they are alike. Documents are compared where one of
//! [`BANDS`] groups of [`ROWS`] minima agrees as a whole: a pair that is 0.8 alike is compared with probability 0.998,
//! one that is 0.4 alike with 0.08. The first document of each group is the one that later ones are compared with, so
//! that the work grows with the number of documents and not with its square.
//!
//! The minima are those of fast similarity sketching (Dahlgaard, Knudsen, Thorup 2017): a run is hashed into one of the
//! minima, and only while some of them are empty, as for short documents, all runs are hashed once more. That is one
//! hash a run where plain MinHash needs [`HASHES`].
//!
//! The result depends on the order of the documents and on nothing else: the earlier one stays.

use ahash::{AHashMap, AHashSet};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::random::{bits, mix};
use crate::words::{runs, words};

/// Words of a run.
const RUN: usize = 5;

/// Groups of minima.
const BANDS: usize = 20;

/// Minima of a group.
const ROWS: usize = 6;

/// Minima of a document.
const HASHES: usize = BANDS * ROWS;

/// Training documents that were found and not kept, by the reason; None where it was not looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// They say exactly what an earlier document says.
    pub exact: Option<usize>,
    /// They say nearly what an earlier document says.
    pub near: Option<usize>,
    /// They hold what is evaluated on ([`crate::Screen`]).
    pub contaminated: Option<usize>,
}

impl LeftOut {
    /// None yet, of what repeats.
    pub fn no_repeats() -> Self {
        Self {
            exact: Some(0),
            near: Some(0),
            contaminated: None,
        }
    }

    /// Counts a document that repeats another.
    pub fn count(&mut self, repeat: Repeat) {
        let count = match repeat {
            Repeat::Exact => &mut self.exact,
            Repeat::Near => &mut self.near,
        };
        *count = Some(count.unwrap_or(0) + 1);
    }

    /// Whether nothing was looked for.
    pub(crate) fn is_unknown(&self) -> bool {
        *self == Self::default()
    }

    /// `3 exact duplicates, 1 near duplicate, 2 that hold evaluation items`; empty where nothing was left out.
    pub fn describe(&self) -> String {
        let part = |count: Option<usize>, one: &str, many: &str| match count {
            None | Some(0) => None,
            Some(1) => Some(format!("1 {one}")),
            Some(n) => Some(format!("{n} {many}")),
        };
        let parts = [
            part(self.exact, "exact duplicate", "exact duplicates"),
            part(self.near, "near duplicate", "near duplicates"),
            part(
                self.contaminated,
                "that holds an evaluation item",
                "that hold evaluation items",
            ),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// How a document repeats an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It is the same text.
    Exact,
    /// It shares most of its runs of words.
    Near,
}

/// What of a document is compared: 150 bytes or so, whatever its length.
pub struct Sketch {
    /// Of the text.
    hash: u128,
    /// The low bits of the minima, which suffice to compare, and the groups' hashes. None for a text of fewer than five
    /// words.
    minima: Option<(Box<[u8; HASHES]>, [u64; BANDS])>,
}

/// The sketch of a text. This is the work; it needs nothing but the text, so many may be made at once.
pub fn sketch(text: &str) -> Sketch {
    let hash = blake3::hash(text.as_bytes());
    let hash = u128::from_le_bytes(
        hash.as_bytes()[..16]
            .try_into()
            .expect("a hash has 32 bytes"),
    );
    let words = words(text);
    if words.len() < RUN {
        return Sketch { hash, minima: None };
    }
    let minima = minima(&runs(&words, RUN).collect::<Vec<_>>());
    let bands = std::array::from_fn(|band| {
        let rows = &minima[band * ROWS..(band + 1) * ROWS];
        let first = bits(0, "minhash/band", 0, band as u64);
        rows.iter().fold(first, |all, &row| mix(all ^ row))
    });
    let low = Box::new(minima.map(|least| least as u8));
    Sketch {
        hash,
        minima: Some((low, bands)),
    }
}

/// [`sketch`] of many texts, by all threads.
pub fn sketches(texts: &[&str]) -> Vec<Sketch> {
    texts.par_iter().map(|text| sketch(text)).collect()
}

/// The minima of the runs of a text, of which there is at least one.
fn minima(runs: &[u64]) -> [u64; HASHES] {
    let mut minima = [u64::MAX; HASHES];
    let mut empty = HASHES;
    for round in 0usize.. {
        // Every round is above the one before it, so that a minimum is of the first round that reaches it.
        let above = (round as u64) << 32;
        let fixed = round.checked_sub(HASHES);
        for &run in runs {
            let hash = match round {
                0 => run,
                _ => mix(run ^ mix(above)),
            };
            // The last rounds fill what is still empty for certain, a minimum each.
            let at = fixed.unwrap_or((((hash >> 32) * HASHES as u64) >> 32) as usize);
            let least = &mut minima[at];
            empty -= usize::from(*least == u64::MAX);
            *least = (*least).min(above | (hash & 0xffff_ffff));
        }
        if empty == 0 {
            break;
        }
    }
    minima
}

/// The documents met so far, but for those that repeated one.
pub struct Duplicates {
    least: f64,
    texts: AHashSet<u128>,
    /// The first document of each group of minima.
    bands: AHashMap<u64, u32>,
    minima: Vec<[u8; HASHES]>,
}

impl Duplicates {
    /// `least` is the likeness from which on a document repeats another; above 1 nothing but the same text does.
    pub fn new(least: f64) -> Self {
        Self {
            least,
            texts: AHashSet::new(),
            bands: AHashMap::new(),
            minima: Vec::new(),
        }
    }

    /// Whether a document repeats one that was taken before; one that does not is taken.
    pub fn take(&mut self, sketch: Sketch) -> Option<Repeat> {
        if self.texts.contains(&sketch.hash) {
            return Some(Repeat::Exact);
        }
        if let Some((minima, bands)) = sketch.minima {
            let known = bands.iter().filter_map(|band| self.bands.get(band));
            let near =
                |&document: &u32| likeness(&self.minima[document as usize], &minima) >= self.least;
            if known.copied().any(|document| near(&document)) {
                return Some(Repeat::Near);
            }
            for band in bands {
                self.bands.entry(band).or_insert(self.minima.len() as u32);
            }
            self.minima.push(*minima);
        }
        self.texts.insert(sketch.hash);
        None
    }
}

/// The estimated likeness of two documents. Of two different minima one in 256 has the same low bits.
fn likeness(a: &[u8; HASHES], b: &[u8; HASHES]) -> f64 {
    let same = a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / HASHES as f64;
    let chance = 1.0 / 256.0;
    (same - chance) / (1.0 - chance)
}
