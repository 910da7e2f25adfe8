//! What can go wrong in a run that a person can do something about.

use std::path::PathBuf;

/// An error of a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Run folder, journal, checkpoints.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Data sets, tokenizer, shards.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// A model's configuration.
    #[error(transparent)]
    Model(#[from] model::ConfigError),
    /// Phase 2.
    #[error(transparent)]
    Evomerge(#[from] crate::phases::evomerge::Error),
    /// A setting of the recipe.
    #[error("recipe key `{key}`: {found}; {allowed}")]
    Recipe {
        /// The key.
        key: String,
        /// What was found.
        found: String,
        /// What is allowed, and what to do.
        allowed: String,
    },
    /// A model file that does not hold what it should.
    #[error("model file {}: {fault}; give a file that `forge` wrote, or train it again", path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// A checkpoint's bag that this version cannot go on from.
    #[error(
        "checkpoint of phase `{phase}`: {fault}; resume from an older checkpoint or start a new run"
    )]
    Bag {
        /// The phase.
        phase: String,
        /// What is wrong.
        fault: String,
    },
    /// A file beside the store.
    #[error("{}: {fault}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        fault: String,
    },
    /// Not even a micro-batch of one piece is predicted to fit.
    #[error(
        "`{key}`: even in micro-batches of a single piece of {rows} tokens a step needs {need} MiB of memory, and the {from} allows {limit} MiB; lower `{longest}`, or `model.width` and `model.slots_large` for a smaller model, or give the process more memory"
    )]
    NothingFits {
        /// The recipe key of the micro-batch.
        key: &'static str,
        /// MiB that the step needs.
        need: u64,
        /// Tokens of the longest piece.
        rows: usize,
        /// MiB that there are.
        limit: u64,
        /// What sets the limit.
        from: &'static str,
        /// The recipe key that says how long pieces are.
        longest: &'static str,
    },
    /// Not even the smallest micro-batch fits.
    #[error(
        "out of memory: {bytes} bytes more were refused with a micro-batch of a single piece of {rows} tokens; lower `{key}`, or give the process more memory"
    )]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// Tokens of the longest piece.
        rows: usize,
        /// The recipe key that says how long pieces are.
        key: &'static str,
    },
    /// Training cannot go on.
    #[error("training stopped: {reason}; {remedy}")]
    Stopped {
        /// What was seen.
        reason: String,
        /// What to do.
        remedy: String,
    },
}

impl Error {
    /// A bag that is missing or contradicts something.
    pub fn bag(phase: &str, fault: impl ToString) -> Self {
        Self::Bag {
            phase: phase.into(),
            fault: fault.to_string(),
        }
    }
}
