//! Batches of training tokens from shards, drawn by counted random numbers.
//!
//! The whole state is a few integers ([`LoaderState`]), so a run that was killed goes on with exactly the batches that
//! it would have had. A document is cut into pieces of at most `max_len` predictions; every token but a document's first
//! is predicted exactly once an epoch, and pieces are never joined, so nothing is attended or remembered across
//! documents. Pieces of a data set come in a counted permutation, a new one each epoch.
//!
//! The mix is a share of *tokens*: a data set is drawn with probability weight / mean length of its pieces. In one
//! stage a data set is repeated at most [`MAX_EPOCHS`] times; then its weight goes to the language sets that are left,
//! or to all that are left where no language is. When everything is used up, all of it is repeated once more as often,
//! and the state says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::random;
use crate::record::Family;
use crate::shard::Shard;

/// How often a data set is repeated in one stage.
pub const MAX_EPOCHS: u64 = 4;

/// A run of tokens of one document.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Inputs and, one further, targets: L + 1 tokens.
    pub tokens: Vec<u32>,
    /// Weight of predicting `tokens[i + 1]`: L numbers, 1 or 0.
    pub loss: Vec<f32>,
    /// Position of the first token in its document.
    pub start: u32,
    /// Index of the shard in the loader's list.
    pub dataset: u16,
    /// Its family.
    pub family: Family,
}

/// Where a piece lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceAt {
    /// Index of the shard in the loader's list.
    pub shard: usize,
    /// Document of the shard.
    pub document: usize,
    /// First token of the piece in its document.
    pub start: usize,
    /// Predictions of the piece.
    pub length: usize,
}

/// What one step of training sees.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Independent sequences.
    pub pieces: Vec<Piece>,
}

impl Batch {
    /// Number of predicted tokens, those of weight 0 included.
    pub fn predictions(&self) -> usize {
        self.pieces.iter().map(|piece| piece.loss.len()).sum()
    }
}

/// The share of tokens that each shard of a loader is to have; need not sum to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    /// One weight a shard, in the loader's order.
    pub weights: Vec<f64>,
}

impl Mix {
    /// The weights of `by_dataset` in the order of `shards`; a shard that is not named gets 0.
    pub fn of(by_dataset: &BTreeMap<String, f64>, shards: &[Arc<Shard>]) -> Self {
        let weight = |shard: &Arc<Shard>| by_dataset.get(shard.dataset()).copied().unwrap_or(0.0);
        Self {
            weights: shards.iter().map(weight).collect(),
        }
    }
}

/// Where a loader stands. It goes with the list of shards, not with the mix: a new stage is a new [`Loader`] over the
/// same shards, and [`LoaderState::begin_stage`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderState {
    /// Batches made.
    pub step: u64,
    /// Pieces drawn in all.
    pub draws: u64,
    /// Pieces drawn of each shard.
    pub drawn: Vec<u64>,
    /// `drawn` when the stage began.
    pub stage: Vec<u64>,
    /// Shards that reached their limit in this stage and were dropped.
    pub dropped: Vec<bool>,
    /// How often in this stage every shard was used up and all began again.
    pub rounds: u64,
}

impl LoaderState {
    /// Begins a stage: every data set may be repeated [`MAX_EPOCHS`] times again.
    pub fn begin_stage(&mut self) {
        self.stage.clone_from(&self.drawn);
        self.dropped.fill(false);
        self.rounds = 0;
    }

    /// Fits a fresh state to the number of shards.
    #[track_caller]
    fn fit(&mut self, shards: usize) {
        if self.drawn.is_empty() {
            (self.drawn, self.stage, self.dropped) =
                (vec![0; shards], vec![0; shards], vec![false; shards]);
        }
        assert!(
            self.drawn.len() == shards
                && self.stage.len() == shards
                && self.dropped.len() == shards,
            "a loader state of {} shards used with {shards} shards",
            self.drawn.len()
        );
    }
}

/// Draws batches; holds nothing that changes but a cache.
pub struct Loader {
    shards: Vec<Arc<Shard>>,
    mix: Mix,
    seed: u64,
    purpose: String,
    cuts: Mutex<BTreeMap<usize, Arc<Vec<Cut>>>>,
}

/// How one shard falls into pieces of at most a certain length.
struct Cut {
    /// Number of pieces before each document, and at last of all.
    before: Vec<u64>,
    /// Mean number of predictions of a piece.
    mean: f64,
}

impl Loader {
    /// A loader over training shards. `purpose` tells apart loaders of one seed (`"ancestor"`, `"reasoning"`).
    ///
    /// # Panics
    /// The mix does not fit the shards, or gives weight to none that holds a prediction.
    #[track_caller]
    pub fn new(shards: Vec<Arc<Shard>>, mix: Mix, seed: u64, purpose: &str) -> Self {
        assert!(
            shards.len() == mix.weights.len(),
            "a mix of {} weights for {} shards",
            mix.weights.len(),
            shards.len()
        );
        assert!(
            shards.len() <= usize::from(u16::MAX),
            "{} shards; a piece names its shard in 16 bits",
            shards.len()
        );
        assert!(
            mix.weights.iter().all(|w| w.is_finite() && *w >= 0.0),
            "weights of a mix are >= 0: {:?}",
            mix.weights
        );
        let usable = |(shard, &weight): (&Arc<Shard>, &f64)| {
            weight > 0.0 && (0..shard.documents()).any(|document| shard.length(document) > 1)
        };
        assert!(
            shards.iter().zip(&mix.weights).any(usable),
            "no shard with a weight holds a document to predict"
        );
        Self {
            shards,
            mix,
            seed,
            purpose: purpose.to_string(),
            cuts: Mutex::new(BTreeMap::new()),
        }
    }

    /// The shards, in the order of [`Piece::dataset`].
    pub fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    /// The next batch: as many pieces as fit into `tokens` predictions, at least one. `max_len` stays the same for as
    /// long as a state is used: it decides the pieces that the state counts.
    #[track_caller]
    pub fn batch(&self, state: &mut LoaderState, tokens: usize, max_len: usize) -> Batch {
        assert!(
            max_len > 0,
            "max_len is the number of predictions of a piece, it must be > 0"
        );
        state.fit(self.shards.len());
        let cuts = self.cut(max_len);
        let (mut pieces, mut total) = (Vec::new(), 0);
        while pieces.is_empty() || total < tokens {
            let chosen = self.choose(state, &cuts);
            let (document, start, length) =
                self.locate(state.drawn[chosen], chosen, &cuts[chosen], max_len);
            // What does not fit is not drawn: the next batch begins with it.
            if !pieces.is_empty() && total + length > tokens {
                break;
            }
            pieces.push(self.piece(chosen, document, start, length));
            total += length;
            state.draws += 1;
            state.drawn[chosen] += 1;
        }
        state.step += 1;
        Batch { pieces }
    }

    /// Where the pieces lie that were drawn up to `state`, each once however often it was drawn. `max_len` is what the
    /// batches were made with.
    pub fn drawn(&self, state: &LoaderState, max_len: usize) -> BTreeSet<PieceAt> {
        let cuts = self.cut(max_len);
        let mut places = BTreeSet::new();
        for (shard, (&count, cut)) in state.drawn.iter().zip(cuts.iter()).enumerate() {
            let once = count.min(*cut.before.last().expect("a cut ends with its total"));
            // An epoch is a permutation: its draws are all different.
            places.extend((0..once).map(|at| {
                let (document, start, length) = self.locate(at, shard, cut, max_len);
                PieceAt {
                    shard,
                    document,
                    start,
                    length,
                }
            }));
        }
        places
    }

    /// How often each shard was gone through up to `state`, in the order of the shards: pieces drawn over pieces there
    /// are, 0 where there are none. `max_len` is what the batches were made with.
    pub fn epochs(&self, state: &LoaderState, max_len: usize) -> Vec<f64> {
        let cuts = self.cut(max_len);
        let pieces = |cut: &Cut| *cut.before.last().expect("a cut ends with its total");
        (cuts.iter().enumerate())
            .map(|(i, cut)| {
                let drawn = state.drawn.get(i).copied().unwrap_or(0);
                drawn as f64 / pieces(cut).max(1) as f64
            })
            .collect()
    }

    /// The piece at a place.
    pub fn piece_at(&self, place: PieceAt) -> Piece {
        self.piece(place.shard, place.document, place.start, place.length)
    }

    /// The shard of the next piece.
    fn choose(&self, state: &mut LoaderState, cuts: &[Cut]) -> usize {
        let pieces = |i: usize| *cuts[i].before.last().expect("a cut ends with its total");
        let wanted = |i: usize| self.mix.weights[i] > 0.0 && pieces(i) > 0;
        loop {
            for i in 0..self.shards.len() {
                let limit = MAX_EPOCHS * (state.rounds + 1) * pieces(i);
                state.dropped[i] = wanted(i) && state.drawn[i] - state.stage[i] >= limit;
            }
            if (0..self.shards.len()).any(|i| wanted(i) && !state.dropped[i]) {
                break;
            }
            state.rounds += 1;
        }
        let left = |i: usize| wanted(i) && !state.dropped[i];
        let language = |i: usize| self.shards[i].family() == Family::Language;
        let freed: f64 = (0..self.shards.len())
            .filter(|&i| state.dropped[i])
            .map(|i| self.mix.weights[i])
            .sum();
        let any_language = (0..self.shards.len()).any(|i| left(i) && language(i));
        let heirs: f64 = (0..self.shards.len())
            .filter(|&i| left(i) && (language(i) || !any_language))
            .map(|i| self.mix.weights[i])
            .sum();
        let rate = |i: usize| match (left(i), language(i) || !any_language) {
            (false, _) => 0.0,
            (true, heir) => {
                let weight = self.mix.weights[i];
                (weight + if heir { freed * weight / heirs } else { 0.0 }) / cuts[i].mean
            }
        };
        let sum: f64 = (0..self.shards.len()).map(rate).sum();
        let mut at = sum * random::uniform(self.seed, &self.purpose, state.draws, 0);
        let mut last = None;
        for i in (0..self.shards.len()).filter(|&i| left(i)) {
            last = Some(i);
            at -= rate(i);
            if at < 0.0 {
                break;
            }
        }
        last.expect("one shard is left")
    }

    /// Document, first token and number of predictions of the `drawn`-th piece of a shard.
    fn locate(
        &self,
        drawn: u64,
        chosen: usize,
        cut: &Cut,
        max_len: usize,
    ) -> (usize, usize, usize) {
        let count = *cut.before.last().expect("a cut ends with its total");
        let (epoch, at) = (drawn / count, drawn % count);
        let shard = &self.shards[chosen];
        let purpose = format!("{}/{}", self.purpose, shard.dataset());
        let piece = random::permuted(at, count, self.seed, &purpose, epoch);
        let document = cut.before.partition_point(|&before| before <= piece) - 1;
        let start = (piece - cut.before[document]) as usize * max_len;
        (
            document,
            start,
            max_len.min(shard.length(document) - 1 - start),
        )
    }

    fn piece(&self, chosen: usize, document: usize, start: usize, length: usize) -> Piece {
        let shard = &self.shards[chosen];
        let mask = shard.mask_in(document, start + 1..start + 1 + length);
        let loss = mask.into_iter().map(|on| f32::from(u8::from(on))).collect();
        Piece {
            tokens: shard.tokens_in(document, start..start + length + 1),
            loss,
            start: start as u32,
            dataset: chosen as u16,
            family: shard.family(),
        }
    }

    /// The pieces of every shard; computed once a length.
    fn cut(&self, max_len: usize) -> Arc<Vec<Cut>> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        let made = cuts.entry(max_len).or_insert_with(|| {
            let cut = |shard: &Arc<Shard>| {
                let (mut before, mut pieces, mut predictions) = (vec![0], 0, 0);
                for document in 0..shard.documents() {
                    let length = shard.length(document).saturating_sub(1);
                    pieces += length.div_ceil(max_len) as u64;
                    predictions += length as u64;
                    before.push(pieces);
                }
                Cut {
                    before,
                    mean: predictions as f64 / pieces.max(1) as f64,
                }
            };
            Arc::new(self.shards.iter().map(cut).collect())
        });
        Arc::clone(made)
    }
}
