//! Phase 2, EvoMerge. Evolves merges of three sibling models into one champion.
//!
//! `genome` says what a child is made of, `combine` turns a genome and the parents into weights,
//! `fitness` turns measures into one number, `race` measures candidates on growing samples through
//! a cache, `diversity` compares members, `search` runs generations over a serializable state that
//! `records` describes. How a child is measured is behind the `Evaluate` trait, so the search
//! knows no model, tokenizer or file and is tested on a synthetic bowl; `phase` ties it to a run.
//!
//! A population is genomes, never weights: members are decoded when they are measured and dropped
//! afterwards, so memory holds about as many children as there are threads. Everything random is counted on (run
//! seed, purpose, generation, slot) and parallel results are taken in slot order, so a search that is
//! saved, killed and loaded after any generation ends in the same bits, with any number of threads.

mod combine;
mod diversity;
mod fitness;
mod genome;
mod phase;
mod race;
mod records;
mod search;
#[cfg(test)]
mod tests;

pub use combine::{Child, Parents, Weights, decode, decode_tensor, degenerate};
pub use diversity::{distances, mean_distance};
pub use fitness::{Accuracy, Measures, Term, fitness, front, terms};
pub use genome::{Genome, Source, Space, combination_name};
pub use phase::{EvomergePhase, EvomergeRecipe};
pub use race::{Cache, Counts, Evaluate, EvaluateError, Rejected, Sample, Split};
pub use records::{Birth, Champion, Contender, Generation, Individual, Origin, Settings, Strategy};
pub use search::Search;

/// What can go wrong in a search; a failed child is no error but a replaced candidate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The parents and the ancestor are not the same network.
    #[error(
        "the models to merge differ: tensor `{tensor}` {found}; merge branches of one ancestor with one \
         configuration (a smaller memory is padded with zero slots first)"
    )]
    ParentsDiffer {
        /// The first tensor that differs.
        tensor: String,
        /// How.
        found: String,
    },
    /// A saved search meets other parents than it was started with.
    #[error(
        "this search was started with other models (weights hash {saved}, now {found}); resume with the same \
         models or start a new search"
    )]
    ParentsChanged {
        /// Hash in the saved state.
        saved: String,
        /// Hash of the models given.
        found: String,
    },
    /// A parent cannot be measured, so nothing can be measured against it.
    #[error(
        "parent {index} cannot be evaluated: {reason}; check that its training ended without NaN"
    )]
    DeadParent {
        /// 0, 1 or 2.
        index: usize,
        /// What was found.
        reason: String,
    },
    /// Even the plain mean of the parents is degenerate.
    #[error(
        "even the linear merge of the parents is degenerate: {reason}; measure the loss barrier between them"
    )]
    NothingValid {
        /// What was found.
        reason: String,
    },
    /// A model named for comparison cannot be measured.
    #[error("`{name}` cannot be evaluated: {reason}")]
    DeadContender {
        /// The name it was given for the comparison.
        name: String,
        /// What was found.
        reason: String,
    },
    /// A setting is out of its range.
    #[error("setting `{key}` is {found}; allowed: {allowed}")]
    Setting {
        /// The setting's name.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The evaluation itself failed (data, disk), which says nothing about the child.
    #[error("a child could not be evaluated")]
    Evaluation(#[source] Box<dyn std::error::Error + Send + Sync>),
}
