//! The cache on disk, in the layout that PyPI's `huggingface-hub` reads and writes.
//!
//! ```text
//! datasets--OWNER--NAME/refs/REVISION                 the commit that a branch named
//!                      /blobs/HASH                    a file's bytes, by sha256 or git's blob id
//!                      /blobs/HASH.incomplete         what has come of it so far
//!                      /.unfinished/COMMIT            there while a fetch of ours has not brought all (not known to others)
//!                      /snapshots/COMMIT/PATH         a relative link to its blob (a copy where links cannot be made)
//! .locks/datasets--OWNER--NAME/HASH.lock              held while a file is fetched
//! ```
//!
//! A blob is synced before it is renamed into its place, so one that is there is whole.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::adapters::{data_files, files_below, slashed};
use crate::catalogue::Hub;
use crate::error::Error;

/// The folder of a data set's repository in the cache.
pub fn repository_folder(cache: &Path, repository: &str) -> PathBuf {
    cache.join(format!("datasets--{}", repository.replace('/', "--")))
}

/// The folder of the snapshot that a revision names, if the cache has it.
pub fn snapshot(cache: &Path, repository: &str, revision: &str) -> Option<PathBuf> {
    let commit = match is_commit(revision) {
        true => revision.to_string(),
        false => {
            let path = repository_folder(cache, repository)
                .join("refs")
                .join(revision);
            let text = fs::read_to_string(path).ok()?;
            Some(text.trim().to_string()).filter(|commit| is_commit(commit))?
        }
    };
    Some(snapshot_folder(cache, repository, &commit)).filter(|folder| folder.is_dir())
}

/// The folder of a commit's snapshot, whether it is there or not.
pub(super) fn snapshot_folder(cache: &Path, repository: &str, commit: &str) -> PathBuf {
    repository_folder(cache, repository)
        .join("snapshots")
        .join(commit)
}

/// Marks that a snapshot is being fetched and is not whole until [`end`]: its files come one after the other, and what
/// is there looks like all there is.
pub(super) fn begin(cache: &Path, repository: &str, commit: &str) -> Result<(), Error> {
    let path = unfinished(&snapshot_folder(cache, repository, commit));
    make(path.parent().unwrap_or(&path))?;
    let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
    file.sync_all().map_err(|e| Error::io(&path, e))?;
    sync_folder(&path)
}

/// Every file of a snapshot is there.
pub(super) fn end(cache: &Path, repository: &str, commit: &str) -> Result<(), Error> {
    let path = unfinished(&snapshot_folder(cache, repository, commit));
    fs::remove_file(&path).or_else(|e| match e.kind() {
        // Another process has ended the same fetch.
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(Error::io(&path, e)),
    })
}

/// Whether a fetch of a snapshot has begun and not ended.
pub(crate) fn is_unfinished(snapshot: &Path) -> bool {
    unfinished(snapshot).exists()
}

/// The mark of a snapshot's folder.
fn unfinished(snapshot: &Path) -> PathBuf {
    let commit = snapshot.file_name().unwrap_or_default();
    let repository = snapshot.parent().and_then(Path::parent);
    repository
        .unwrap_or(snapshot)
        .join(".unfinished")
        .join(commit)
}

/// Whether a revision is a whole commit hash.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40
        && revision
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Where a file's bytes lie.
pub(super) fn blob(cache: &Path, repository: &str, name: &str) -> PathBuf {
    repository_folder(cache, repository)
        .join("blobs")
        .join(name)
}

/// Where a file's bytes are gathered.
pub(super) fn partial(blob: &Path) -> PathBuf {
    let name = blob.file_name().unwrap_or_default().to_string_lossy();
    blob.with_file_name(format!("{name}.incomplete"))
}

/// The length of a file that is there.
pub(super) fn length(path: &Path) -> Option<u64> {
    let found = fs::metadata(path).ok()?;
    found.is_file().then_some(found.len())
}

/// The data files of a snapshot, by their names in the repository; a link without its file is one that was cleared away.
pub(crate) fn files(snapshot: &Path, hub: &Hub) -> Result<Vec<String>, Error> {
    let all = files_below(snapshot)?;
    let names: Vec<String> = all
        .iter()
        .filter(|path| length(path).is_some())
        .map(|path| slashed(path.strip_prefix(snapshot).unwrap_or(path)))
        .collect();
    let chosen = data_files(hub, names.iter().map(String::as_str));
    Ok(chosen.into_iter().map(str::to_string).collect())
}

/// Holds a file against other processes until it is dropped; `waiting` is called when that takes a while.
pub(super) fn lock(
    cache: &Path,
    repository: &str,
    name: &str,
    waiting: impl FnOnce(),
) -> Result<File, Error> {
    let folder = repository_folder(&cache.join(".locks"), repository);
    let path = folder.join(format!("{name}.lock"));
    make(&folder)?;
    let io = |e| Error::io(&path, e);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            waiting();
            file.lock().map_err(io)?;
            Ok(file)
        }
        // A file system without locks, such as some on networks: two processes there would fetch the same file, and the
        // check of its hash is what protects it.
        Err(fs::TryLockError::Error(_)) => Ok(file),
    }
}

/// Puts a whole and checked file into its place.
pub(super) fn land(partial: &Path, blob: &Path) -> Result<(), Error> {
    let file = File::open(partial).map_err(|e| Error::io(partial, e))?;
    file.sync_all().map_err(|e| Error::io(partial, e))?;
    fs::rename(partial, blob).map_err(|e| Error::io(blob, e))?;
    sync_folder(blob)
}

/// Whether a snapshot names a blob that is whole.
pub(super) fn has(cache: &Path, repository: &str, commit: &str, (name, size): (&str, u64)) -> bool {
    length(&snapshot_folder(cache, repository, commit).join(name)) == Some(size)
}

/// Names a blob in a snapshot. The caller holds the blob's lock.
pub(super) fn point(
    cache: &Path,
    repository: &str,
    commit: &str,
    (name, blob): (&str, &Path),
) -> Result<(), Error> {
    let path = snapshot_folder(cache, repository, commit).join(name);
    let folder = path.parent().unwrap_or(&path).to_path_buf();
    make(&folder)?;
    // Up from the file's folder to the repository's, then down to the blob.
    let depth = name.split('/').count() + 1;
    let blob_name = blob.file_name().unwrap_or_default();
    let target = PathBuf::from("../".repeat(depth))
        .join("blobs")
        .join(blob_name);
    let fresh = path.with_file_name(format!(".{}.new", blob_name.to_string_lossy()));
    let _ = fs::remove_file(&fresh);
    link(&target, blob, &fresh).map_err(|e| Error::io(&fresh, e))?;
    fs::rename(&fresh, &path).map_err(|e| Error::io(&path, e))?;
    sync_folder(&path)
}

#[cfg(unix)]
fn link(target: &Path, blob: &Path, at: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, at).or_else(|_| fs::copy(blob, at).map(|_| ()))
}

#[cfg(not(unix))]
fn link(_target: &Path, blob: &Path, at: &Path) -> std::io::Result<()> {
    fs::copy(blob, at).map(|_| ())
}

/// Writes which commit a branch named. A commit needs no reference.
pub(super) fn write_reference(cache: &Path, hub: &Hub, commit: &str) -> Result<(), Error> {
    if is_commit(hub.revision) {
        return Ok(());
    }
    let path = repository_folder(cache, hub.repository)
        .join("refs")
        .join(hub.revision);
    let folder = path.parent().unwrap_or(&path).to_path_buf();
    make(&folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let written = File::create(&fresh).and_then(|mut file| {
        file.write_all(commit.as_bytes())
            .and_then(|()| file.sync_all())
    });
    written.map_err(|e| Error::io(&fresh, e))?;
    fs::rename(&fresh, &path).map_err(|e| Error::io(&path, e))?;
    sync_folder(&path)
}

/// Makes a folder with all above it.
pub(super) fn make(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))
}

/// Makes a rename in the folder of `path` outlast a power cut, where the system lets folders be synced.
fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    if cfg!(unix) {
        let opened = File::open(folder).map_err(|e| Error::io(folder, e))?;
        opened.sync_all().map_err(|e| Error::io(folder, e))?;
    }
    Ok(())
}
