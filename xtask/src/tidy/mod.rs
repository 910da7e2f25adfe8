//! Conventions as checks over the tracked files (after rust-analyzer's `xtask/src/tidy.rs`).
//!
//! A check is a pure function from the tracked files to findings, so each is tested on a bad
//! example without a repository on disk. [`CHECKS`] is the flat list of them all. What the
//! compiler, clippy and rustfmt already check is left to them.

mod files;
mod imports;
mod map;
mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

pub use source::code_only;

/// The tracked files, by path from the top folder with `/` between its parts.
#[derive(Default)]
pub struct Repository {
    /// Path to content.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// One breach of a convention: where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file, from the top folder.
    pub path: String,
    /// Its line from 1, or 0 where the whole file is meant.
    pub line: usize,
    /// What was found, what is allowed, what to do.
    pub message: String,
}

/// A check: the files in, its findings out.
pub type Check = fn(&Repository) -> Vec<Finding>;

/// All checks, by name.
pub const CHECKS: &[(&str, Check)] = &[
    ("imports between crates", imports::allowed_imports),
    ("the map in ARCHITECTURE.md", map::architecture_map),
    ("lines of a file", files::file_lengths),
    ("bytes of a file", files::file_bytes),
    ("absolute machine paths", files::machine_paths),
    ("addresses in npm lock files", files::npm_addresses),
    ("module names", files::module_names),
    ("module documentation", source::module_docs),
    ("stubs", source::stubs),
    ("ignored tests", source::ignored_tests),
    ("unsafe code", source::unsafe_code),
];

/// Runs every check; findings come in the order of [`CHECKS`], then of the files.
pub fn check(repository: &Repository) -> Vec<Finding> {
    CHECKS
        .iter()
        .flat_map(|(_, check)| check(repository))
        .collect()
}

/// The top folder of the repository that the current folder is in.
pub fn top_folder() -> Result<PathBuf, Error> {
    let out = git(Path::new("."), &["rev-parse", "--show-toplevel"])?;
    Ok(PathBuf::from(String::from_utf8_lossy(&out).trim_end()))
}

impl Repository {
    /// Reads all files that git tracks under `top`. One that is tracked but gone from disk is a
    /// removal on its way to a commit, and is left out.
    pub fn tracked(top: &Path) -> Result<Self, Error> {
        let list = git(top, &["ls-files", "-z"])?;
        let mut files = BTreeMap::new();
        for name in list
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty())
        {
            let name = String::from_utf8_lossy(name).into_owned();
            let path = top.join(&name);
            if path.is_file() {
                let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
                files.insert(name, bytes);
            }
        }
        Ok(Self { files })
    }

    /// The files that are text, in order of their paths.
    fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(|(path, bytes)| {
            let text = std::str::from_utf8(bytes).ok()?;
            (!text.contains('\0')).then_some((path.as_str(), text))
        })
    }

    /// The Rust sources, in order of their paths.
    fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts().filter(|(path, _)| path.ends_with(".rs"))
    }
}

impl Finding {
    fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            message: message.into(),
        }
    }

    fn file(path: &str, message: impl Into<String>) -> Self {
        Self::at(path, 0, message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

fn git(folder: &Path, arguments: &[&str]) -> Result<Vec<u8>, Error> {
    let program = format!("git {}", arguments.join(" "));
    let out = Command::new("git")
        .args(arguments)
        .current_dir(folder)
        .output();
    let out = out.map_err(|source| Error::Start {
        program: program.clone(),
        source,
        remedy: "tidy reads the list of tracked files from git, install it",
    })?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    Err(Error::Ended {
        what: program,
        status: out.status.to_string(),
        remedy: format!("git says: {}", String::from_utf8_lossy(&out.stderr).trim()),
    })
}
