//! A run's folder: made, locked by its one writer, listed.
//!
//! The lock is the operating system's advisory lock on the file `lock`: it vanishes with the
//! process that holds it, so a killed run can be resumed at once. Readers take no lock. Whether a
//! run has a living writer is found by trying the lock for an instant, which is why opening a run
//! tries for a moment before it gives up.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::array::Array;
use crate::durable::{remove_leftovers, sync_folder, temporary_folder, write_file};
use crate::error::{Error, Result};
use crate::journal::Journal;
use crate::request::Requests;
use crate::tensor_file::write_safetensors;

const LOCK_TRIES: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Where a run stands. `Running` with no living writer means that its process was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Being computed, or killed while it was.
    Running,
    /// A person paused it.
    Paused,
    /// Every phase is finished.
    Done,
    /// A person or a detector stopped it.
    Stopped,
    /// It ended in an error.
    Failed,
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::Done => "done",
            RunState::Stopped => "stopped",
            RunState::Failed => "failed",
        })
    }
}

/// One line of `forge runs`.
#[derive(Clone, Debug)]
pub struct RunInfo {
    /// The run's name.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
    /// The state that its writer last recorded.
    pub state: RunState,
    /// Whether a process holds the writer's lock now.
    pub live: bool,
    /// How often the run was started or resumed.
    pub attempt: u32,
}

/// An open run; the writer's lock goes with it when it is dropped.
#[derive(Debug)]
pub struct Run {
    name: String,
    dir: PathBuf,
    recipe: Value,
    attempt: u32,
    journal: Journal,
    /// Checkpoints found damaged by this handle; they do not count as ones to keep.
    pub(crate) damaged: Mutex<BTreeSet<PathBuf>>,
    /// `Some` for the writer.
    lock: Option<File>,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    state: RunState,
    attempt: u32,
}

impl Run {
    /// Makes `root/runs/name` with its recipe, as its writer, in state running, attempt 1.
    /// Refuses a name that is taken.
    pub fn create(root: &Path, name: &str, recipe_json: &Value) -> Result<Run> {
        check_name("run name", name)?;
        let runs = root.join("runs");
        let dir = runs.join(name);
        if dir.exists() {
            return Err(Error::RunExists {
                name: name.into(),
                runs,
            });
        }
        let failed = |source| Error::write("a new run", &dir, source);
        fs::create_dir_all(&runs).map_err(failed)?;
        // The folder appears with everything in it, so that a kill leaves no half-made run.
        let making = temporary_folder(&runs, ".making-").map_err(failed)?;
        write_json(
            &making.path().join("recipe.json"),
            "the recipe",
            recipe_json,
        )?;
        write_state(making.path(), RunState::Running, 1)?;
        fs::create_dir(making.path().join("checkpoints")).map_err(failed)?;
        drop(Journal::open(
            &making.path().join("journal.sqlite"),
            name,
            true,
        )?);
        let lock = lock(making.path(), name)?;
        sync_folder(making.path()).map_err(failed)?;
        fs::rename(making.path(), &dir).map_err(|source| {
            if dir.exists() {
                Error::RunExists {
                    name: name.into(),
                    runs: runs.clone(),
                }
            } else {
                failed(source)
            }
        })?;
        let _moved = making.keep();
        sync_folder(&runs).map_err(failed)?;
        Run::load(dir, name, Some(lock), 1)
    }

    /// Opens an existing run as its writer and counts a new attempt. Refused while another process
    /// writes it. The state is left as it is; set it when work begins.
    pub fn open(root: &Path, name: &str) -> Result<Run> {
        let dir = find(root, name)?;
        let lock = lock(&dir, name)?;
        let state = read_state(&dir)?;
        write_state(&dir, state.state, state.attempt + 1)?;
        remove_leftovers(&dir, 2)
            .map_err(|source| Error::write("over what a killed process left", &dir, source))?;
        Run::load(dir, name, Some(lock), state.attempt + 1)
    }

    /// Opens an existing run for reading, and for submitting requests, while another process may
    /// be writing it. Everything else that writes is refused on such a handle.
    pub fn read(root: &Path, name: &str) -> Result<Run> {
        let dir = find(root, name)?;
        let attempt = read_state(&dir)?.attempt;
        Run::load(dir, name, None, attempt)
    }

    /// The runs under `root`, by name; none when there is no such folder.
    pub fn list(root: &Path) -> Result<Vec<RunInfo>> {
        let mut runs = Vec::new();
        for name in names(&root.join("runs"))? {
            let dir = root.join("runs").join(&name);
            let StateFile { state, attempt } = read_state(&dir)?;
            let live = match File::open(dir.join("lock")) {
                Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
                Err(_) => false,
            };
            runs.push(RunInfo {
                name,
                dir,
                state,
                live,
                attempt,
            });
        }
        Ok(runs)
    }

    fn load(dir: PathBuf, name: &str, lock: Option<File>, attempt: u32) -> Result<Run> {
        let recipe = read_json(&dir.join("recipe.json"), "the recipe")?;
        let journal = Journal::open(&dir.join("journal.sqlite"), name, lock.is_some())?;
        Ok(Run {
            name: name.into(),
            dir,
            recipe,
            attempt,
            journal,
            damaged: Mutex::default(),
            lock,
        })
    }

    /// The run's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The run's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The recipe as it was given to [`Run::create`].
    pub fn recipe(&self) -> Value {
        self.recipe.clone()
    }

    /// Which attempt this is: 1 for a new run, one more for each [`Run::open`].
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The journal, for this handle's lifetime; safe to use from several threads.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What people asked of the run.
    pub fn requests(&self) -> Requests<'_> {
        Requests::new(&self.journal)
    }

    /// The state last recorded.
    pub fn state(&self) -> Result<RunState> {
        Ok(read_state(&self.dir)?.state)
    }

    /// Records the state, durably.
    pub fn set_state(&self, state: RunState) -> Result<()> {
        self.need_writer("changing its state")?;
        write_state(&self.dir, state, self.attempt)
    }

    /// Writes `phase_dir/final/name.safetensors`, whole or not at all, and returns its path.
    /// `metadata` carries configuration and tokenizer, so that the one file is self-contained.
    pub fn write_model(
        &self,
        phase_dir: &str,
        name: &str,
        arrays: &[Array],
        metadata: &std::collections::BTreeMap<String, String>,
    ) -> Result<PathBuf> {
        self.need_writer("writing a model")?;
        check_name("phase folder", phase_dir)?;
        check_name("model name", name)?;
        let path = self
            .dir
            .join(phase_dir)
            .join("final")
            .join(format!("{name}.safetensors"));
        write_safetensors(&path, arrays, metadata)?;
        Ok(path)
    }

    pub(crate) fn need_writer(&self, doing: &'static str) -> Result<()> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(Error::ReadHandle {
                name: self.name.clone(),
                doing,
            }),
        }
    }
}

/// Refuses names that are not plain file names on every system.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let sound = (1..=100).contains(&name.len())
        && name.chars().all(plain)
        && !name.starts_with(['.', '-'])
        && !name.ends_with('.');
    if sound {
        Ok(())
    } else {
        Err(Error::Name {
            what,
            name: name.into(),
        })
    }
}

fn find(root: &Path, name: &str) -> Result<PathBuf> {
    check_name("run name", name)?;
    let runs = root.join("runs");
    let dir = runs.join(name);
    if dir.join("recipe.json").is_file() {
        return Ok(dir);
    }
    let known = match names(&runs) {
        Ok(names) if !names.is_empty() => format!("there are: {}", names.join(", ")),
        _ => "there are none; start one with `forge run`, or name their folder with --root DIR"
            .into(),
    };
    Err(Error::NoRun {
        name: name.into(),
        runs,
        known,
    })
}

/// The names of the folders in `runs` that hold a recipe, sorted.
fn names(runs: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::read("the folder of runs", runs, source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| Error::read("the folder of runs", runs, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if check_name("run name", &name).is_ok() && entry.path().join("recipe.json").is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn lock(dir: &Path, name: &str) -> Result<File> {
    let path = dir.join("lock");
    let failed = |source| Error::write("the lock", &path, source);
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(failed)?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
    Err(Error::Locked { name: name.into() })
}

fn read_state(dir: &Path) -> Result<StateFile> {
    read_json(&dir.join("state.json"), "the run's state")
}

fn write_state(dir: &Path, state: RunState, attempt: u32) -> Result<()> {
    write_json(
        &dir.join("state.json"),
        "the run's state",
        &StateFile { state, attempt },
    )
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path, what: &str) -> Result<T> {
    let bytes = fs::read(path).map_err(|source| Error::read(what, path, source))?;
    serde_json::from_slice(&bytes).map_err(|fault| Error::damaged(path, fault.to_string()))
}

fn write_json(path: &Path, what: &str, value: &impl Serialize) -> Result<()> {
    let mut bytes =
        serde_json::to_vec_pretty(value).expect("plain structs and JSON values serialise");
    bytes.push(b'\n');
    write_file(path, what, &bytes)
}
