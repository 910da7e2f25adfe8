//! Files that are there whole or not at all.
//!
//! Written to a temporary neighbour, synced, renamed over the target, and the folder synced: after
//! a kill or a power cut one sees the old file or the new one. Folders of files (checkpoints) use
//! the same pieces in `checkpoint.rs`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Begins the names of files and folders that are not finished.
pub(crate) const WRITING: &str = ".writing-";
/// Begins the names of folders on their way out.
pub(crate) const REMOVING: &str = ".removing-";

/// Bytes that may still be written on the disk holding `path` (or its nearest existing parent);
/// 0 when the system does not say.
pub fn disk_free(path: &Path) -> u64 {
    path.ancestors()
        .map(|folder| {
            if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            }
        })
        .find(|folder| folder.exists())
        .and_then(|folder| fs4::available_space(folder).ok())
        .unwrap_or(0)
}

/// Writes `bytes` to `path` whole or not at all; the folder is made when missing. `what` is a noun
/// for the error message.
pub fn write_file(path: &Path, what: &str, bytes: &[u8]) -> Result<()> {
    write_with(path, what, |out| out.write_all(bytes))
}

/// As [`write_file`], with the bytes produced by `fill`.
pub(crate) fn write_with(
    path: &Path,
    what: &str,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(WRITING);
        #[cfg(unix)]
        builder.permissions(shared(0o666));
        let temporary = builder.tempfile_in(folder)?;
        fill_and_sync(temporary.as_file(), fill)?;
        temporary.persist(path).map_err(|failed| failed.error)?;
        sync_folder(folder)
    };
    write().map_err(|source| Error::write(what, path, source))
}

/// Fills a fresh file through a buffer and forces it to the disk.
pub(crate) fn fill_and_sync(
    file: &File,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    out.flush()?;
    drop(out);
    file.sync_all()
}

/// Makes renames within `folder` durable. Windows has no such call and needs none.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}

/// A hidden temporary folder in `parent`, removed on drop unless renamed away.
pub(crate) fn temporary_folder(parent: &Path, prefix: &str) -> io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    builder.permissions(shared(0o777));
    builder.tempdir_in(parent)
}

/// Removes what a killed writer left unfinished in `folder` and `depth` levels below it. For the
/// holder of the run's lock only.
pub(crate) fn remove_leftovers(folder: &Path, depth: usize) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = entry.file_type()?.is_dir();
        if name.starts_with(WRITING) || name.starts_with(REMOVING) {
            if is_folder {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        } else if is_folder && depth > 0 {
            remove_leftovers(&entry.path(), depth - 1)?;
        }
    }
    Ok(())
}

/// Temporary files are private by default, what we hand on is as open as the umask says.
#[cfg(unix)]
fn shared(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

/// Passes bytes on and hashes them on the way.
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
    /// Bytes passed so far.
    pub(crate) count: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Hashing<T> {
        Hashing {
            inner,
            hasher: blake3::Hasher::new(),
            count: 0,
        }
    }

    pub(crate) fn hex(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: io::Read> io::Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        Ok(count)
    }
}
