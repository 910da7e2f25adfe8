//! The final files of two runs, byte for byte.
//!
//! Compared is what the phases hand on, `phase*/final/` with all that lies under it. Journals and
//! reports hold times and are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::Error;

/// One file that at least one of the runs has.
#[derive(Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Its path from the run's folder.
    pub path: String,
    /// Its length in the reference run, if it has the file.
    pub reference_bytes: Option<usize>,
    /// Its length in the other run, if it has the file.
    pub other_bytes: Option<usize>,
    /// The first byte at which they differ (the shorter length, if one is the start of the other).
    pub differs_at: Option<usize>,
}

impl Comparison {
    /// Whether both runs have the file, with the same bytes.
    pub fn equal(&self) -> bool {
        self.reference_bytes.is_some() && self.other_bytes.is_some() && self.differs_at.is_none()
    }
}

/// All files under `phase*/final` of either run, in order of their paths.
pub fn compare(reference: &Path, other: &Path) -> Result<Vec<Comparison>, Error> {
    let (left, right) = (final_files(reference)?, final_files(other)?);
    let paths: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let mut all = Vec::new();
    for path in paths {
        // One pair of files in memory at a time: checkpoints of large recipes are large.
        let read = |side: &BTreeMap<String, PathBuf>| {
            side.get(path)
                .map(|file| std::fs::read(file).map_err(Error::io(file)))
                .transpose()
        };
        let (a, b) = (read(&left)?, read(&right)?);
        all.push(Comparison {
            path: path.clone(),
            reference_bytes: a.as_ref().map(Vec::len),
            other_bytes: b.as_ref().map(Vec::len),
            differs_at: a.zip(b).and_then(|(a, b)| first_difference(&a, &b)),
        });
    }
    Ok(all)
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let shared = a.iter().zip(b).position(|(a, b)| a != b);
    shared.or((a.len() != b.len()).then_some(a.len().min(b.len())))
}

/// Path from the run's folder, with `/`, to path on disk.
fn final_files(run: &Path) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut files = BTreeMap::new();
    for (name, path) in entries(run)? {
        let folder = path.join("final");
        if name.starts_with("phase") && folder.is_dir() {
            collect(&folder, &format!("{name}/final"), &mut files)?;
        }
    }
    Ok(files)
}

fn collect(
    folder: &Path,
    prefix: &str,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<(), Error> {
    for (name, path) in entries(folder)? {
        let name = format!("{prefix}/{name}");
        if path.is_dir() {
            collect(&path, &name, files)?;
        } else {
            files.insert(name, path);
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        found.push((
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        ));
    }
    Ok(found)
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.reference_bytes, self.other_bytes, self.differs_at) {
            (None, ..) => "only when killed".to_owned(),
            (_, None, _) => "lost when killed".to_owned(),
            (.., Some(at)) => format!("differs at {at}"),
            _ => "equal".to_owned(),
        };
        let bytes = self.reference_bytes.or(self.other_bytes).unwrap_or(0);
        write!(f, "{bytes:>12}  {verdict:<20} {}", self.path)
    }
}
