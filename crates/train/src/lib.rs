//! Training: the optimizer, evaluation, the four phases, and the loop that drives them.
//!
//! A phase is a sequence of units of work over a versioned bag of state ([`phase`]); [`driver`] runs units,
//! checkpoints, and applies requests of people between them. Phases never import each other: they meet
//! through the finished models in the run's folder.
//!
//! Everything random is counted on (seed, purpose, step, index). The clock is passed in and decides only
//! when a checkpoint is written, never a result.

#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod detect;
pub mod driver;
pub mod error;
pub mod evaluate;
pub mod memory;
pub mod ngram;
pub mod optim;
pub mod phase;
pub mod phases;
pub mod recipe;
pub mod report;
pub mod source;
pub mod step;

pub use error::Error;
pub use phase::{Context, Phase};
pub use recipe::Recipe;
pub use source::Source;
