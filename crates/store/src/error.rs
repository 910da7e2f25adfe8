//! What can go wrong with files, disks and names; every message says what to do next.

use std::io;
use std::path::{Path, PathBuf};

use crate::durable::disk_free;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A user's mistake or a fault of the world.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that cannot be a file name on every system.
    #[error(
        "{what} `{name}` cannot be used: allowed are 1 to 100 letters, digits and `.`, `_`, `-`, \
         neither beginning with `.` or `-` nor ending with `.`; choose another name"
    )]
    Name {
        /// What the name is for, such as `run name`.
        what: &'static str,
        /// The name as given.
        name: String,
    },
    /// The run to be created is there already.
    #[error(
        "run `{name}` exists in {}: choose another name with --run OTHER, or continue it with \
         `forge resume {name}`",
        runs.display()
    )]
    RunExists {
        /// The run.
        name: String,
        /// The folder of runs.
        runs: PathBuf,
    },
    /// No such run.
    #[error("no run `{name}` in {}; {known}", runs.display())]
    NoRun {
        /// The run asked for.
        name: String,
        /// The folder of runs.
        runs: PathBuf,
        /// The runs that there are, as a sentence.
        known: String,
    },
    /// Another process holds the writer's lock.
    #[error(
        "another process writes run `{name}`: wait for it to end, or ask it to stop with \
         `forge intervene {name} stop`"
    )]
    Locked {
        /// The run.
        name: String,
    },
    /// A handle from `Run::read` was asked to write.
    #[error("run `{name}` is open for reading only, so {doing} is refused; open it as its writer")]
    ReadHandle {
        /// The run.
        name: String,
        /// What was asked.
        doing: &'static str,
    },
    /// No room for what was to be written.
    #[error(
        "{why} while writing {writing} to {}: {free} bytes are free there; nothing already \
         written was lost; make room, then continue with `forge resume`",
        path.display()
    )]
    DiskFull {
        /// Disk, quota or file-size limit.
        why: &'static str,
        /// What was being written.
        writing: String,
        /// Where.
        path: PathBuf,
        /// Bytes free on that disk when it failed.
        free: u64,
    },
    /// A folder or file that may not be written.
    #[error(
        "cannot write {writing}: {} is read-only or belongs to someone else ({source}); give \
         yourself the right to write there, or choose another folder with --root DIR",
        path.display()
    )]
    ReadOnly {
        /// What was being written.
        writing: String,
        /// Where.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Any other failure of the file system.
    #[error("cannot {doing} {}: {source}; check that the path is right and can be reached", path.display())]
    Io {
        /// Verb and object, such as `read the recipe`.
        doing: String,
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A file whose content is not what it should be.
    #[error("{} is damaged: {fault}; restore it from a copy or write it anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        fault: String,
    },
    /// There are checkpoints, but none can be trusted.
    #[error(
        "none of the {count} checkpoints in {} is intact; the newest: {fault}; restore one from a \
         copy, or delete that folder to start the run from its beginning",
        path.display()
    )]
    NoIntactCheckpoint {
        /// The folder of checkpoints.
        path: PathBuf,
        /// How many there are.
        count: usize,
        /// What is wrong with the newest.
        fault: String,
    },
    /// The journal stayed locked for as long as we wait.
    #[error(
        "the journal {} has been locked by another process for more than {seconds} s; close the \
         program that holds it (a database browser?) and try again",
        path.display()
    )]
    JournalLocked {
        /// The database.
        path: PathBuf,
        /// How long we waited.
        seconds: u64,
    },
    /// The journal is not a sound database.
    #[error(
        "the journal {} is damaged ({fault}); the checkpoints are not touched by this: move \
         it and its -wal and -shm neighbours away, and `forge resume` goes on with an empty journal",
        path.display()
    )]
    JournalDamaged {
        /// The database.
        path: PathBuf,
        /// SQLite's words.
        fault: String,
    },
    /// The journal was written by a later Forge.
    #[error(
        "the journal {} has version {found}, this program knows {known}; use the newer forge \
         that wrote it",
        path.display()
    )]
    JournalVersion {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Any other failure of the journal.
    #[error("cannot {doing} in the journal {}: {fault}", path.display())]
    Journal {
        /// What was asked.
        doing: &'static str,
        /// The database.
        path: PathBuf,
        /// SQLite's words.
        fault: String,
    },
    /// An action that there is not.
    #[error("no action `{found}`: allowed are pause, resume, checkpoint, stop, answer and set")]
    Action {
        /// The word as given.
        found: String,
    },
    /// A request or alert that there is not, or that is settled.
    #[error("{what} {id} {fault}; list what is open with `forge status`")]
    Settled {
        /// `request` or `alert`.
        what: &'static str,
        /// Its number.
        id: u64,
        /// `does not exist` or `is settled already`.
        fault: &'static str,
    },
}

impl Error {
    /// Sorts a failed write into its kind. `writing` is a noun, such as `a checkpoint`.
    pub(crate) fn write(writing: &str, path: &Path, source: io::Error) -> Error {
        use io::ErrorKind::{
            FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
        };
        let why = match source.kind() {
            StorageFull => "the disk is full",
            QuotaExceeded => "the disk quota is used up",
            FileTooLarge => "the limit on file sizes (ulimit -f) was reached",
            PermissionDenied | ReadOnlyFilesystem => {
                return Error::ReadOnly {
                    writing: writing.into(),
                    path: path.into(),
                    source,
                };
            }
            _ => {
                return Error::Io {
                    doing: format!("write {writing} to"),
                    path: path.into(),
                    source,
                };
            }
        };
        Error::DiskFull {
            why,
            writing: writing.into(),
            path: path.into(),
            free: disk_free(path),
        }
    }

    pub(crate) fn read(reading: &str, path: &Path, source: io::Error) -> Error {
        Error::Io {
            doing: format!("read {reading}"),
            path: path.into(),
            source,
        }
    }

    pub(crate) fn damaged(path: &Path, fault: impl Into<String>) -> Error {
        Error::Damaged {
            path: path.into(),
            fault: fault.into(),
        }
    }
}
