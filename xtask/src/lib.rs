//! The project's own chores, run as `cargo run -p xtask -- CHORE`.
//!
//! [`tidy`] holds the conventions of CONTRIBUTING.md as checks; [`kill_test`] kills and resumes a
//! real run and compares bytes. Nothing here is part of the product, and nothing here imports a
//! crate of it: both work on files and processes only.

pub mod kill_test;
pub mod tidy;

use std::path::PathBuf;

/// What can go wrong around a chore. What a chore *finds* is a result, not an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read, written or made.
    #[error("{}: {source}; check that it exists and may be read and written", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another program could not be started.
    #[error("cannot start {program}: {source}; {remedy}")]
    Start {
        /// The program as it was called.
        program: String,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Another program ended with a failure where success was needed.
    #[error("{what} ended with {status}; {remedy}")]
    Ended {
        /// The program and what it was asked.
        what: String,
        /// How it ended.
        status: String,
        /// What to do.
        remedy: String,
    },
    /// A program did not end in the time that it was given.
    #[error("{what} was still running after {seconds:.0} s, {remedy}")]
    TooLong {
        /// The program and what it was asked.
        what: String,
        /// How long it was given.
        seconds: f64,
        /// What to do.
        remedy: String,
    },
    /// A flag has a value that makes no sense.
    #[error("{flag}: {found} given, {allowed} allowed")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

impl Error {
    /// Names the path that an input or output error is about.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}
