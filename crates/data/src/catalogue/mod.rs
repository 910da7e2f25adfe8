//! The table of data sets that this crate can read ([`table`]), and reading one of them by its id.
//!
//! A data set is looked for in two places, split by split: its folders under the data root, then the cache of downloads
//! from the hub ([`crate::hub`]). Nothing is downloaded here: reading never touches the network.

mod check;
mod table;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::adapters::Place;
use crate::builtin;
use crate::error::Error;
use crate::hub;
use crate::mix::Stage;
use crate::record::{Family, Loaded};

pub use check::{Check, Found, Official, check};
pub use table::DATASETS;

/// Where a data set is published on the Hugging Face hub, and which of the files there are its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Hub {
    /// Owner and name.
    pub repository: &'static str,
    /// Configuration of the repository, "default" where it has one only.
    pub configuration: &'static str,
    /// Commit, or the branch where no commit could be verified when the table was written.
    pub revision: &'static str,
    /// Folder of the repository that holds the configuration's data files; "" = all of it.
    pub under: &'static str,
    /// How many of the data files are fetched, the first by name; 0 = all.
    pub most_files: usize,
}

/// One row of the table.
pub struct Dataset {
    /// Its name in recipes and reports.
    pub id: &'static str,
    /// Its family.
    pub family: Family,
    /// Its homes on the hub; more than one where the parts of a set are repositories of their own.
    pub hub: &'static [Hub],
    /// The licence of the data.
    pub licence: &'static str,
    /// Folders under the data root that may hold it. None for a built-in one.
    pub folders: &'static [&'static str],
    /// Where the publisher's own files come from, whose names the adapter knows as well; "" where only the hub has it.
    pub origin: &'static str,
    /// Published examples of each official split, of those splits that are used (with labels).
    pub published: &'static [(&'static str, usize)],
    /// The stages that offer it; empty = all.
    pub stages: &'static [Stage],
    /// Whether a recipe that names it goes on without it, saying so, when it is nowhere.
    pub optional: bool,
    read: Source,
}

enum Source {
    Files(fn(&Dataset, &[Place]) -> Result<Loaded, Error>),
    Builtin,
}

/// Where data sets are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Folder that holds the data sets, one folder each.
    pub root: Option<PathBuf>,
    /// The hub's cache, in the layout of PyPI's `huggingface-hub` ([`hub::cache`]).
    pub cache: Option<PathBuf>,
}

impl Places {
    /// A data root and no cache.
    pub fn local(root: &Path) -> Self {
        Self {
            root: Some(root.to_path_buf()),
            cache: None,
        }
    }

    /// Repositories of a data set of which a fetch into the cache has begun and not ended. They are not read: what is
    /// there looks like all there is.
    fn unfinished(&self, row: &Dataset) -> Vec<&'static str> {
        let hubs = self.cache.iter().flat_map(|cache| {
            let began = |hub: &&Hub| {
                hub::cache::snapshot(cache, hub.repository, hub.revision)
                    .is_some_and(|path| hub::cache::is_unfinished(&path))
            };
            row.hub.iter().filter(began)
        });
        hubs.map(|hub| hub.repository).collect()
    }

    /// The folders that hold a data set: under the root first, then snapshots in the cache.
    pub(crate) fn of(&self, row: &'static Dataset) -> Vec<Place> {
        let folders = self.root.iter().flat_map(|root| {
            let paths = row.folders.iter().map(move |folder| root.join(folder));
            paths.map(|path| Place {
                path,
                hub: None,
                homes: row.hub,
            })
        });
        let snapshots = self.cache.iter().flat_map(|cache| {
            let found = row.hub.iter().filter_map(move |hub| {
                let path = hub::cache::snapshot(cache, hub.repository, hub.revision)?;
                (!hub::cache::is_unfinished(&path)).then_some(Place {
                    path,
                    hub: Some(hub),
                    homes: row.hub,
                })
            });
            found.collect::<Vec<_>>()
        });
        folders
            .filter(|place| place.path.is_dir())
            .chain(snapshots)
            .collect()
    }
}

/// Seed and numbers of documents, items and texts (of all families together) of a built-in data set that is asked for
/// by its id; a recipe that wants others calls [`builtin`] itself.
const BUILT_IN: (u64, usize, usize, usize) = (42, 4000, 900, 2000);

/// The row of a data set.
pub fn dataset(id: &str) -> Option<&'static Dataset> {
    DATASETS.iter().find(|dataset| dataset.id == id)
}

/// The ids of a recipe's list, with `builtin` standing for the five built-in sets.
pub fn expand(ids: &[&str]) -> Vec<String> {
    let built_in = || {
        DATASETS
            .iter()
            .filter(|row| row.is_built_in())
            .map(|row| row.id.to_string())
    };
    let one = |id: &&str| {
        if *id == "builtin" {
            built_in().collect()
        } else {
            vec![id.to_string()]
        }
    };
    ids.iter().flat_map(one).collect()
}

/// Reads a data set from its folders under the root or from the cache (a built-in one looks at neither).
///
/// # Errors
/// No such data set, it is in none of the places, or a file of it is wrong.
pub fn load(id: &str, places: &Places) -> Result<Loaded, Error> {
    let row = dataset(id).ok_or_else(|| unknown(id))?;
    let loaded = match row.read {
        Source::Builtin => load_builtin(row),
        Source::Files(read) => {
            let found = places.of(row);
            if found.is_empty() {
                return Err(nowhere(row, places));
            }
            let mut loaded = read(row, &found)?;
            for repository in places.unfinished(row) {
                loaded.lacking.push(format!(
                    "{repository}, whose fetch into the cache has not come to its end (`forge data fetch {id}`)"
                ));
            }
            loaded
        }
    };
    Ok(loaded.once_each().counted())
}

/// Checks before anything is read that the places hold all of the data sets that a recipe cannot go on without.
///
/// # Errors
/// No such data set; or some are in none of the places: the error names all of them at once.
pub fn check_present(ids: &[String], places: &Places) -> Result<(), Error> {
    let mut absent = Vec::new();
    for id in ids {
        let row = dataset(id).ok_or_else(|| unknown(id))?;
        if !row.is_built_in() && !row.optional && places.of(row).is_empty() {
            absent.push(row);
        }
    }
    match absent.as_slice() {
        [] => Ok(()),
        [row] => Err(nowhere(row, places)),
        several => Err(Error::MissingSeveral {
            count: several.len(),
            faults: several
                .iter()
                .map(|row| format!("\n  {}", nowhere(row, places)))
                .collect(),
            ids: several
                .iter()
                .map(|row| row.id)
                .collect::<Vec<_>>()
                .join(" "),
        }),
    }
}

/// The error for a data set that is in none of the places.
fn nowhere(row: &Dataset, places: &Places) -> Error {
    let looked = match (&places.root, &places.cache) {
        (Some(root), Some(cache)) => {
            format!("in {} nor in the cache {}", root.display(), cache.display())
        }
        (Some(root), None) => format!("in {}", root.display()),
        (None, Some(cache)) => format!("in the cache {}, and no data.root is set", cache.display()),
        (None, None) => "anywhere: no data.root is set".to_string(),
    };
    let unfinished = places.unfinished(row);
    let looked = match unfinished.is_empty() {
        true => looked,
        false => format!(
            "{looked}, where a fetch of {} has not come to its end",
            unfinished.join(" and ")
        ),
    };
    Error::Missing {
        id: row.id.to_string(),
        missing: format!("folder {}", row.folders.join(" or ")),
        looked,
        remedy: row.remedy(),
    }
}

impl Dataset {
    /// Whether it is made here. What repeats in such a set is meant to, as its texts come from templates; and its two sides
    /// are made from disjoint templates or ranges, so that what they share is the templates' frames.
    pub fn is_built_in(&self) -> bool {
        matches!(self.read, Source::Builtin)
    }

    /// How to get the data set without the hub.
    fn by_hand(&self) -> String {
        let folders = self.folders.join(" or ");
        match self.origin {
            "" => format!("put its files into the folder {folders} under data.root"),
            origin => format!("put {origin} into the folder {folders} under data.root"),
        }
    }

    /// How to get the data set, in one sentence.
    pub fn remedy(&self) -> String {
        let by_hand = self.by_hand();
        let fetch = self.hub.iter().map(|hub| match hub.most_files {
            0 => hub.repository.to_string(),
            1 => format!("one file of {}", hub.repository),
            n => format!("{n} files of {}", hub.repository),
        });
        let fetch: Vec<String> = fetch.collect();
        match fetch.is_empty() {
            true => by_hand,
            false => format!(
                "`forge data fetch {}` gets it from the hub ({}); or {by_hand}",
                self.id,
                fetch.join(", ")
            ),
        }
    }
}

fn load_builtin(row: &Dataset) -> Loaded {
    let (seed, documents, items, texts) = BUILT_IN;
    let train = builtin::documents(row.family, seed, documents);
    let mut texts = builtin::texts(seed, texts);
    texts.retain(|text| text.family == row.family);
    Loaded {
        bytes: train
            .iter()
            .map(|document| document.text.len() as u64)
            .sum(),
        train,
        items: builtin::items(row.family, seed, items),
        texts,
        note: format!("made here from seed {seed}"),
        ..Loaded::default()
    }
}

/// The error for an id that no data set has.
pub(crate) fn unknown(id: &str) -> Error {
    let known: Vec<&str> = DATASETS.iter().map(|dataset| dataset.id).collect();
    let near = known
        .iter()
        .map(|name| (distance(id, name), name))
        .min()
        .filter(|(d, _)| *d <= 2 + id.len() / 4);
    Error::Unknown {
        id: id.to_string(),
        suggestion: near.map(|(_, name)| name.to_string()),
        known: known.join(" "),
    }
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let cost = (diagonal + usize::from(x != y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}
