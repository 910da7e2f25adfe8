//! Checkpoints: a phase's bag of state as a folder that is there whole or not at all.
//!
//! Saving writes `state.safetensors`, `state.json` and the bag's files into a hidden folder, each
//! synced, then `manifest.json` with the length and blake3 of every one of them, then renames the
//! folder to `NUMBER-PHASE` and syncs its parent. The number counts saves, so the newest checkpoint
//! is the one with the highest number, whatever its phase. The journal is marked just before the
//! rename. The attempt is not part of a checkpoint: a run killed and resumed writes the same bytes.
//!
//! Loading tries the newest first and takes the first whose every byte agrees with its manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::array::{Array, Bag};
use crate::durable::{Hashing, REMOVING, WRITING, fill_and_sync, sync_folder, temporary_folder};
use crate::error::{Error, Result};
use crate::journal::Key;
use crate::run::{Run, check_name};
use crate::tensor_file::{read_arrays, write_arrays};

const ARRAYS: &str = "state.safetensors";
const JSON: &str = "state.json";
const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;
/// What `Keep::Minimal` keeps: the newest, and one to fall back on should its bytes rot.
const MINIMAL: usize = 2;

/// Which checkpoints stay on the disk after a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Every one.
    All,
    /// The newest two.
    Minimal,
}

/// A checkpoint that verified.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// Where it was taken; the attempt is 0, because checkpoints do not know theirs.
    pub key: Key,
    /// The state.
    pub bag: Bag,
    /// Newer ones that did not verify, newest first; warn of each.
    pub skipped: Vec<Skipped>,
}

/// A damaged checkpoint that was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its folder.
    pub path: PathBuf,
    /// The file and what is wrong with it.
    pub fault: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    phase: String,
    branch: String,
    step: u64,
    bag_version: u32,
    files: BTreeMap<String, FileEntry>,
    /// Of this manifest with an empty string here.
    blake3: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    bytes: u64,
    blake3: String,
}

impl Run {
    /// Saves `bag` as the newest checkpoint and returns its folder. `phase` names the folder,
    /// `key` says where the run stands; its attempt is not stored. On any error the checkpoints
    /// that were there are untouched.
    pub fn save_checkpoint(
        &self,
        phase: &str,
        key: &Key,
        bag: &Bag,
        keep: Keep,
    ) -> Result<PathBuf> {
        self.need_writer("saving a checkpoint")?;
        check_name("phase", phase)?;
        for name in bag.files.keys() {
            check_name("file of a checkpoint", name)?;
            assert!(
                ![ARRAYS, JSON, MANIFEST].contains(&name.as_str()),
                "a bag's file may not be called `{name}`: the checkpoint has its own"
            );
        }
        let folder = self.checkpoints();
        let failed = |source| Error::write("a checkpoint", &folder, source);
        fs::create_dir_all(&folder).map_err(failed)?;
        let number = numbered(&folder)?
            .last()
            .map_or(1, |(number, _)| number + 1);
        let path = folder.join(format!("{number:06}-{phase}"));

        let making = temporary_folder(&folder, WRITING).map_err(failed)?;
        write_bag(making.path(), key, bag).map_err(failed)?;
        self.journal().mark(number, key)?;
        fs::rename(making.path(), &path).map_err(failed)?;
        let _moved = making.keep();
        sync_folder(&folder).map_err(failed)?;
        if keep == Keep::Minimal {
            self.prune(&folder)?;
        }
        Ok(path)
    }

    /// The newest checkpoint whose every file agrees with its manifest; `None` when none was ever
    /// saved. Damaged ones are passed over and reported in `skipped`; when all are damaged that is
    /// an error, because starting anew in silence would hide it.
    pub fn newest_checkpoint(&self) -> Result<Option<Checkpoint>> {
        let folder = self.checkpoints();
        let found = numbered(&folder)?;
        let mut skipped = Vec::new();
        for (_, path) in found.iter().rev() {
            match read_checkpoint(path) {
                Ok((key, bag)) => {
                    return Ok(Some(Checkpoint {
                        path: path.clone(),
                        key,
                        bag,
                        skipped,
                    }));
                }
                Err(fault) => {
                    self.damaged
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(path.clone());
                    skipped.push(Skipped {
                        path: path.clone(),
                        fault: fault.to_string(),
                    });
                }
            }
        }
        match skipped.into_iter().next() {
            None => Ok(None),
            Some(newest) => Err(Error::NoIntactCheckpoint {
                path: folder,
                count: found.len(),
                fault: newest.fault,
            }),
        }
    }

    /// The folders of all checkpoints, oldest first, unverified.
    pub fn checkpoint_paths(&self) -> Result<Vec<PathBuf>> {
        Ok(numbered(&self.checkpoints())?
            .into_iter()
            .map(|(_, path)| path)
            .collect())
    }

    /// Puts the journal back to `checkpoint`, or to the run's beginning: rows behind it are
    /// superseded, and the requests applied behind it are pending again (see
    /// [`crate::Journal::supersede_after`]).
    pub fn rewind(&self, checkpoint: Option<&Checkpoint>) -> Result<()> {
        self.need_writer("rewinding its journal")?;
        match checkpoint {
            Some(checkpoint) => {
                let number =
                    number_of(&checkpoint.path).expect("a checkpoint's folder is numbered");
                self.journal()
                    .supersede_after_mark(Some(number), &checkpoint.key)
            }
            None => self.journal().supersede_all(),
        }
    }

    fn checkpoints(&self) -> PathBuf {
        self.dir().join("checkpoints")
    }

    fn prune(&self, folder: &Path) -> Result<()> {
        let damaged: BTreeSet<PathBuf> = self
            .damaged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let found = numbered(folder)?;
        let kept: BTreeSet<&PathBuf> = found
            .iter()
            .map(|(_, path)| path)
            .rev()
            .filter(|path| !damaged.contains(*path))
            .take(MINIMAL)
            .collect();
        for (_, path) in found.iter().filter(|(_, path)| !kept.contains(path)) {
            // Renamed first, so that a kill leaves no folder that looks like a torn checkpoint.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let leaving = folder.join(format!("{REMOVING}{name}"));
            fs::rename(path, &leaving)
                .and_then(|()| fs::remove_dir_all(&leaving))
                .map_err(|source| Error::write("over an old checkpoint", path, source))?;
        }
        Ok(())
    }
}

/// Writes the folder's files, each synced, the manifest last.
fn write_bag(folder: &Path, key: &Key, bag: &Bag) -> io::Result<()> {
    let mut files = BTreeMap::new();
    let mut add = |name: &str, fill: &dyn Fn(&mut dyn Write) -> io::Result<()>| {
        let file = File::create_new(folder.join(name))?;
        let mut entry = None;
        fill_and_sync(&file, |out| {
            let mut hashing = Hashing::new(out);
            fill(&mut hashing)?;
            entry = Some(FileEntry {
                bytes: hashing.count,
                blake3: hashing.hex(),
            });
            Ok(())
        })?;
        files.extend(entry.map(|entry| (name.to_string(), entry)));
        io::Result::Ok(())
    };
    add(ARRAYS, &|out| {
        write_arrays(out, &bag.arrays, &BTreeMap::new())
    })?;
    add(JSON, &|out| {
        serde_json::to_writer_pretty(out, &bag.json).map_err(io::Error::from)
    })?;
    for (name, bytes) in &bag.files {
        add(name, &|out| out.write_all(bytes))?;
    }
    let manifest = Manifest {
        format: FORMAT,
        phase: key.phase.clone(),
        branch: key.branch.clone(),
        step: key.step,
        bag_version: bag.version,
        files,
        blake3: String::new(),
    };
    let sealed = seal(manifest);
    fill_and_sync(&File::create_new(folder.join(MANIFEST))?, |out| {
        out.write_all(&sealed)
    })?;
    sync_folder(folder)
}

/// The manifest's bytes, with its own hash filled in.
fn seal(mut manifest: Manifest) -> Vec<u8> {
    let text = |manifest: &Manifest| {
        serde_json::to_vec_pretty(manifest).expect("a manifest is strings and integers")
    };
    manifest.blake3.clear();
    manifest.blake3 = blake3::hash(&text(&manifest)).to_hex().to_string();
    text(&manifest)
}

fn read_checkpoint(folder: &Path) -> Result<(Key, Bag)> {
    let path = folder.join(MANIFEST);
    let bytes = fs::read(&path).map_err(|source| Error::read("the manifest", &path, source))?;
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .map_err(|fault| Error::damaged(&path, format!("not a checkpoint's manifest: {fault}")))?;
    if manifest.format != FORMAT {
        let fault = format!(
            "it has format {}, this program knows {FORMAT}",
            manifest.format
        );
        return Err(Error::damaged(&path, fault));
    }
    let (phase, branch, step) = (
        manifest.phase.clone(),
        manifest.branch.clone(),
        manifest.step,
    );
    let key = Key {
        attempt: 0,
        phase,
        branch,
        step,
    };
    let mut bag = Bag {
        version: manifest.bag_version,
        json: Value::Null,
        arrays: Vec::new(),
        files: BTreeMap::new(),
    };
    for (name, entry) in &manifest.files {
        check_name("file of a checkpoint", name)?;
        let path = folder.join(name);
        match name.as_str() {
            ARRAYS => {
                bag.arrays =
                    read_verified(&path, entry, |file| read_state_arrays(file, entry, &path))?
            }
            JSON => {
                let bytes = read_verified(&path, entry, |file| read_all(file, &path))?;
                bag.json = serde_json::from_slice(&bytes)
                    .map_err(|fault| Error::damaged(&path, fault.to_string()))?;
            }
            _ => {
                let bytes = read_verified(&path, entry, |file| read_all(file, &path))?;
                bag.files.insert(name.clone(), bytes);
            }
        }
    }
    for name in [ARRAYS, JSON] {
        if !manifest.files.contains_key(name) {
            return Err(Error::damaged(&path, format!("it does not list {name}")));
        }
    }
    if seal(manifest) != bytes {
        return Err(Error::damaged(
            &path,
            "its bytes differ from what was written (its own blake3 disagrees)",
        ));
    }
    Ok((key, bag))
}

/// Reads a file in one pass, and refuses it unless length and hash are those of `entry`.
fn read_verified<T>(
    path: &Path,
    entry: &FileEntry,
    read: impl FnOnce(&mut Hashing<File>) -> Result<T>,
) -> Result<T> {
    let failed = |source| Error::read("the checkpoint's file", path, source);
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length != entry.bytes {
        return Err(Error::damaged(
            path,
            format!("{length} bytes where {} were written", entry.bytes),
        ));
    }
    let mut hashing = Hashing::new(file);
    let value = read(&mut hashing)?;
    let found = hashing.hex();
    if found != entry.blake3 {
        let fault = format!("its blake3 is {found} where {} was written", entry.blake3);
        return Err(Error::damaged(path, fault));
    }
    Ok(value)
}

fn read_all(file: &mut impl Read, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|source| Error::read("the checkpoint's file", path, source))?;
    Ok(bytes)
}

fn read_state_arrays(file: &mut impl Read, entry: &FileEntry, path: &Path) -> Result<Vec<Array>> {
    Ok(read_arrays(file, entry.bytes, path)?.0)
}

/// The checkpoints in `folder` with their numbers, oldest first.
fn numbered(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::read("the folder of checkpoints", folder, source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|source| Error::read("the folder of checkpoints", folder, source))?
            .path();
        found.extend(number_of(&path).map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

fn number_of(path: &Path) -> Option<u64> {
    let (number, _) = path.file_name()?.to_str()?.split_once('-')?;
    number.parse().ok()
}
