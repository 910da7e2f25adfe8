//! What a user, a file or a disk can do wrong in a merge.

use std::path::{Path, PathBuf};

/// Why a merge cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that is not known.
    #[error("{key}: unknown `{found}`{suggestion}; allowed: {allowed}")]
    Unknown {
        /// Where it stands.
        key: String,
        /// As written.
        found: String,
        /// `, did you mean ...?`, or nothing.
        suggestion: String,
        /// What is known.
        allowed: String,
    },
    /// A value that cannot be.
    #[error("{key} is {found}; allowed: {allowed}")]
    Value {
        /// Where it stands.
        key: String,
        /// As written.
        found: String,
        /// What may stand there.
        allowed: String,
    },
    /// Something that must be said is not.
    #[error("{key} is missing; {remedy}")]
    Missing {
        /// What is missing.
        key: String,
        /// What to write.
        remedy: String,
    },
    /// Too few or too many models.
    #[error("merge method `{method}` takes {allowed} models{beside}, found {found}")]
    Models {
        /// The method's name.
        method: &'static str,
        /// The allowed number or range.
        allowed: String,
        /// Whether the base is counted.
        beside: &'static str,
        /// How many there are.
        found: usize,
    },
    /// A method on task vectors has no base model.
    #[error(
        "merge method `{method}` works on differences from a base model; name one in `base_model`"
    )]
    NoBase {
        /// The method's name.
        method: &'static str,
    },
    /// The models cannot be merged with each other.
    #[error("{0}")]
    Mismatch(String),
    /// A tensor for which a method has no result.
    #[error("tensor `{tensor}`: {reason}")]
    Undefined {
        /// The tensor.
        tensor: String,
        /// Why.
        reason: &'static str,
    },
    /// A file that is not what its name says.
    #[error("`{}`: {found}; {remedy}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The file system said no to reading.
    #[error("cannot read `{}`: {source}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// The file system said no to writing.
    #[error("cannot write `{}`: {source}; check the free space and the permissions", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
}

impl Error {
    /// An unknown name, with the nearest known one.
    pub(crate) fn unknown<'a>(
        key: impl Into<String>,
        found: &str,
        known: impl Iterator<Item = &'a str>,
    ) -> Error {
        let known: Vec<&str> = known.collect();
        let near = known
            .iter()
            .map(|k| (strsim::damerau_levenshtein(found, k), *k))
            .min()
            .filter(|(distance, name)| *distance <= 2.max(name.len() / 3));
        Error::Unknown {
            key: key.into(),
            found: found.to_owned(),
            suggestion: near.map_or(String::new(), |(_, k)| format!(", did you mean `{k}`?")),
            allowed: known.join(", "),
        }
    }

    pub(crate) fn read(path: &Path, source: std::io::Error) -> Error {
        Error::Read {
            path: path.into(),
            source,
        }
    }

    pub(crate) fn write(path: &Path, source: std::io::Error) -> Error {
        Error::Write {
            path: path.into(),
            source,
        }
    }

    pub(crate) fn file(path: &Path, found: impl Into<String>, remedy: &'static str) -> Error {
        Error::File {
            path: path.into(),
            found: found.into(),
            remedy,
        }
    }
}
