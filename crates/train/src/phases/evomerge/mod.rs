//! Phase 2, EvoMerge. Evolves merges of three sibling models into one champion.
//!
//! `genome` says what a child is made of, `combine` turns a genome and the parents into weights,
//! `measure` measures candidates through a cache, `fitness` turns measures into one number, `race` runs
//! newcomers over growing samples, `propose` says what asks to be born (`cma` and `encoding` for
//! CMA-ES, `limits` for what is closed to it), `diversity` compares members, `budget` foresees the work,
//! `search` runs generations over a serializable state that `records` describes, and `verdict` picks the
//! champion and measures it against others. How a child is measured is behind the `Evaluate` trait, so the search knows no model, tokenizer or file and is
//! tested on a synthetic bowl; on `material`, `judge` measures Cognate models, `llama` those from elsewhere; `remember`
//! writes evaluations down, `phase` and `watch` tie it to a run.
//!
//! A population is genomes, never weights: newcomers are decoded once, when they are measured, and
//! dropped when their race is over, so memory holds the children of one race. Everything random is counted on (run
//! seed, purpose, generation, slot) and parallel results are taken in slot order, so a search that is
//! saved, killed and loaded after any generation ends in the same bits, with any number of threads.

mod budget;
mod cma;
mod combine;
mod diversity;
mod encoding;
mod fitness;
mod genome;
mod judge;
mod limits;
mod llama;
mod material;
mod measure;
mod phase;
mod propose;
mod race;
mod recipe;
mod records;
mod remember;
mod search;
mod section;
#[cfg(test)]
mod tests;
mod verdict;
mod watch;

pub use budget::{Cut, most_items};
pub use combine::{Child, Parents, Weights, decode, decode_tensor, degenerate};
pub use diversity::{apart, distances, mean_distance};
pub use fitness::{Accuracy, Measures, Term, doubt, fitness, front, terms};
pub use genome::{Genome, Source, Space, combination_name};
pub use judge::Judge;
pub use limits::Limits;
pub use llama::{LlamaJudge, llama_of, llama_parents};
pub use material::Material;
pub use measure::{Cache, Candidate, Counts, Evaluate, EvaluateError, Probe, Sample, Split};
pub use phase::{EvomergePhase, parents_of};
pub use race::Rejected;
pub use recipe::EvomergeRecipe;
pub use records::{
    Audit, Birth, Champion, Contender, Generation, Individual, Origin, Remedy, Settings, Strategy,
};
pub use search::{Converging, Search};
pub use verdict::fittest;

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
