//! How the files of each data set become documents and items: `questions` for what has answers, `text` for prose.
//!
//! Splits are the official ones; where a set has none, a stable hash of the id decides. Ids carry the official split
//! (`test/17`), so that an official score can be computed from the items of all three evaluation splits.

pub(crate) mod questions;
pub(crate) mod text;

use std::path::{Path, PathBuf};

pub use text::load_folder;

use crate::catalogue::Dataset;
use crate::error::Error;
use crate::files::Record;
use crate::record::{Document, Loaded};

/// Reads the files of a data set that are there, in the order given, and hands each record to `take` with the file's
/// official split. What is not there goes into the note; it is an error only when none is.
fn read_splits(
    row: &Dataset,
    folder: &Path,
    files: &[(&'static str, &str)],
    read: fn(&Path) -> Result<Vec<Record>, Error>,
    mut take: impl FnMut(&mut Loaded, &'static str, &Record) -> Result<(), Error>,
) -> Result<Loaded, Error> {
    let mut loaded = Loaded::default();
    let mut missing = Vec::new();
    for (split, name) in files {
        let path = folder.join(name);
        let packed = PathBuf::from(format!("{}.gz", path.display()));
        let Some(path) = [path, packed].into_iter().find(|path| path.is_file()) else {
            missing.push(*name);
            continue;
        };
        loaded.bytes += size(&path)?;
        for record in read(&path)? {
            take(&mut loaded, split, &record)?;
        }
    }
    if missing.len() == files.len() {
        let (id, missing) = (row.id.to_string(), missing.join(" or "));
        return Err(Error::Missing {
            id,
            missing,
            root: folder.to_path_buf(),
        });
    }
    loaded.note = match missing.is_empty() {
        true => String::new(),
        false => format!("not there: {}", missing.join(", ")),
    };
    Ok(loaded)
}

fn size(path: &Path) -> Result<u64, Error> {
    Ok(std::fs::metadata(path)
        .map_err(|e| Error::io(path, e))?
        .len())
}

fn document(row: &Dataset, id: String, text: String) -> Document {
    Document {
        dataset: row.id.to_string(),
        family: row.family,
        id,
        text,
        loss: Vec::new(),
    }
}
