//! The one error of this crate: what a file, a folder or a request got wrong, and what to do about it.

use std::path::{Path, PathBuf};

/// What can be wrong with data on disk or with a request for it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("{}: {source}; check that it exists and may be read or written, and that the disk is not full", path.display())]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is there but its content is not what its format asks for.
    #[error("{}{}: {problem}", path.display(), line.map(|line| format!(" {line}")).unwrap_or_default())]
    Content {
        /// The file.
        path: PathBuf,
        /// Where in it.
        line: Option<Place>,
        /// What was found, what is allowed, what to do.
        problem: String,
    },
    /// No data set has this id.
    #[error("unknown data set `{id}`{}; known are: {known}", suggestion.as_ref().map(|s| format!(", did you mean `{s}`?")).unwrap_or_default())]
    Unknown {
        /// As asked for.
        id: String,
        /// The nearest id, when one is near.
        suggestion: Option<String>,
        /// Every id.
        known: String,
    },
    /// The data set is neither under the data root nor in the cache.
    #[error(
        "data set `{id}` not found: no {missing} {looked}; {remedy} (--set data.root=DIR), or leave it out of the recipe"
    )]
    Missing {
        /// The data set.
        id: String,
        /// The file or folder looked for.
        missing: String,
        /// Where it was looked for: `in FOLDER`.
        looked: String,
        /// How to get it.
        remedy: String,
    },
    /// Several data sets are neither under the data root nor in the cache.
    #[error("{count} data sets are not there; `forge data fetch {ids}` gets all of them:{faults}")]
    MissingSeveral {
        /// How many.
        count: usize,
        /// The error of each, a line each.
        faults: String,
        /// Their ids.
        ids: String,
    },
    /// The hub, or the way to it, refused for good: retries are spent, or would not help.
    #[error("{repository}: {problem}; {remedy}")]
    Hub {
        /// The repository, with the file where it is about one.
        repository: String,
        /// What happened, at which address.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The disk has no room for what is to be fetched.
    #[error("{}: {needed} bytes are to be written and {free} are free; make room, fetch less, or set HF_HOME to a folder on a larger disk", path.display())]
    NoSpace {
        /// The folder of the cache.
        path: PathBuf,
        /// Bytes still to come, with a reserve.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A tokenizer could not be learned or read.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}

/// A place in a file.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// A line, counted from 1.
    Line(usize),
    /// A record of a JSON array, counted from 1.
    Record(usize),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(n) => write!(f, "line {n}"),
            Self::Record(n) => write!(f, "record {n}"),
        }
    }
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn content(path: &Path, line: Option<Place>, problem: impl Into<String>) -> Self {
        Self::Content {
            path: path.to_path_buf(),
            line,
            problem: problem.into(),
        }
    }
}
