//! The table of data sets that this crate can read, and what `forge data check` says of them.
//!
//! One row a data set: where it lies under `data.root`, where it comes from, its licence, the curriculum stages that
//! offer it, and the function that reads it. Nothing is downloaded here.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::adapters::{questions, text};
use crate::builtin;
use crate::error::Error;
use crate::mix::Stage;
use crate::overlap::contamination;
use crate::record::{Family, Loaded};

/// Where a data set is published on the Hugging Face hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Hub {
    /// Owner and name.
    pub repository: &'static str,
    /// Configuration of the repository, "default" where it has one only.
    pub configuration: &'static str,
    /// Branch or commit.
    pub revision: &'static str,
}

/// One row of the table.
pub struct Dataset {
    /// Its name in recipes and reports.
    pub id: &'static str,
    /// Its family.
    pub family: Family,
    /// Its home on the hub, where it has one.
    pub hub: Option<Hub>,
    /// The licence of the data.
    pub licence: &'static str,
    /// Folders under the data root that hold it; the first must be there, the others add to it. None for a built-in one.
    pub folders: &'static [&'static str],
    /// The stages that offer it; empty = all.
    pub stages: &'static [Stage],
    read: Source,
}

enum Source {
    Folders(fn(&Dataset, &[&Path]) -> Result<Loaded, Error>),
    Builtin,
}

const fn hub(repository: &'static str, configuration: &'static str) -> Option<Hub> {
    Some(Hub {
        repository,
        configuration,
        revision: "main",
    })
}

const fn built_in(id: &'static str, family: Family) -> Dataset {
    let licence = "made here";
    Dataset {
        id,
        family,
        hub: None,
        licence,
        folders: &[],
        stages: &[],
        read: Source::Builtin,
    }
}

/// Every data set that can be read, in the order of the reports.
///
/// StrategyQA and CommonsenseQA also stand in, in the advanced stage, for the sets of several hops and of everyday
/// knowledge whose training text is rarely at hand; the prose sets stand in for FineWeb-Edu and OpenWebText.
pub static DATASETS: &[Dataset] = &[
    Dataset {
        id: "gsm8k",
        family: Family::Maths,
        hub: hub("openai/gsm8k", "main"),
        licence: "MIT",
        folders: &["gsm8k"],
        stages: &[Stage::Foundation],
        read: Source::Folders(questions::gsm8k),
    },
    Dataset {
        id: "svamp",
        family: Family::Maths,
        hub: hub("ChilleD/SVAMP", "default"),
        licence: "MIT",
        folders: &["svamp"],
        stages: &[Stage::Foundation],
        read: Source::Folders(questions::svamp),
    },
    Dataset {
        id: "mbpp",
        family: Family::Code,
        hub: hub("google-research-datasets/mbpp", "full"),
        licence: "CC BY 4.0",
        folders: &["mbpp"],
        stages: &[Stage::Foundation],
        read: Source::Folders(questions::mbpp),
    },
    Dataset {
        id: "arc_easy",
        family: Family::Qa,
        hub: hub("allenai/ai2_arc", "ARC-Easy"),
        licence: "CC BY-SA 4.0",
        folders: &["arc_easy"],
        stages: &[Stage::Reasoning],
        read: Source::Folders(questions::arc_easy),
    },
    Dataset {
        id: "strategyqa",
        family: Family::Qa,
        hub: hub("ChilleD/StrategyQA", "default"),
        licence: "MIT",
        folders: &["strategyqa"],
        stages: &[Stage::Reasoning, Stage::Advanced],
        read: Source::Folders(questions::strategyqa),
    },
    Dataset {
        id: "commonsenseqa",
        family: Family::Commonsense,
        hub: hub("tau/commonsense_qa", "default"),
        licence: "MIT",
        folders: &["extra_reasoning/CommonsenseQA"],
        stages: &[Stage::Reasoning, Stage::Advanced],
        read: Source::Folders(questions::commonsenseqa),
    },
    Dataset {
        id: "wikitext",
        family: Family::Language,
        hub: hub("Salesforce/wikitext", "wikitext-2-v1"),
        licence: "CC BY-SA 3.0",
        folders: &["wikitext2"],
        stages: &[Stage::Foundation, Stage::Reasoning],
        read: Source::Folders(text::wikitext),
    },
    Dataset {
        id: "prose",
        family: Family::Language,
        hub: None,
        licence: "CC BY 3.0, public domain",
        folders: &[
            "prose_openstax",
            "prose_web_usgov",
            "prose_classics",
            "prose_classics_more",
        ],
        stages: &[Stage::Foundation, Stage::Advanced],
        read: Source::Folders(text::prose),
    },
    built_in("builtin_maths", Family::Maths),
    built_in("builtin_code", Family::Code),
    built_in("builtin_qa", Family::Qa),
    built_in("builtin_commonsense", Family::Commonsense),
    built_in("builtin_language", Family::Language),
];

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
            .filter(|row| matches!(row.read, Source::Builtin))
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

/// Reads a data set from its folders under `root` (which a built-in one does not look at).
///
/// # Errors
/// No such data set, its folder is not there, or a file of it is wrong.
pub fn load(id: &str, root: &Path) -> Result<Loaded, Error> {
    let row = dataset(id).ok_or_else(|| unknown(id))?;
    let loaded = match row.read {
        Source::Builtin => load_builtin(row),
        Source::Folders(read) => {
            let paths: Vec<_> = row.folders.iter().map(|folder| root.join(folder)).collect();
            let found: Vec<&Path> = paths
                .iter()
                .map(|path| path.as_path())
                .filter(|path| path.is_dir())
                .collect();
            if found.is_empty() {
                let (id, missing) = (
                    id.to_string(),
                    format!("folder {}", row.folders.join(" or ")),
                );
                return Err(Error::Missing {
                    id,
                    missing,
                    root: root.to_path_buf(),
                });
            }
            read(row, &found)?
        }
    };
    Ok(loaded.counted())
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

fn unknown(id: &str) -> Error {
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

/// Where a data set was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Under the data root, or built in.
    Local,
    /// In the cache of earlier downloads.
    Cache,
    /// On the hub.
    Hub,
    /// Nowhere, or what was found cannot be read; the note says what to do.
    Missing,
}

/// What `forge data check` says of one data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Its id.
    pub dataset: String,
    /// Its family; unknown for an id that no data set has.
    pub family: Option<Family>,
    /// Where it was found.
    pub found: Found,
    /// Examples by split.
    pub examples: BTreeMap<String, usize>,
    /// Size of its files; unknown when missing.
    pub bytes: Option<u64>,
    /// Its licence.
    pub licence: Option<&'static str>,
    /// What is missing and what to do, what was left out, how many evaluation items overlap with training text.
    pub note: String,
}

/// Reads every data set named, as training would, and says how each stands. `root` is the data root, if one is set.
pub fn check(root: Option<&Path>, ids: &[&str]) -> Vec<Check> {
    ids.iter().map(|id| check_one(root, id)).collect()
}

fn check_one(root: Option<&Path>, id: &str) -> Check {
    let row = dataset(id);
    let mut check = Check {
        dataset: id.to_string(),
        family: row.map(|row| row.family),
        found: Found::Missing,
        examples: BTreeMap::new(),
        bytes: None,
        licence: row.map(|row| row.licence),
        note: String::new(),
    };
    let needs_root = row.is_some_and(|row| !row.folders.is_empty());
    if needs_root && root.is_none() {
        check.note = "no data.root is set: set it to the folder that holds the data sets, or use built-in data".into();
        return check;
    }
    match load(id, root.unwrap_or(Path::new("."))) {
        Err(error) => check.note = error.to_string(),
        Ok(loaded) => {
            check.found = Found::Local;
            check.bytes = Some(loaded.bytes);
            check.note = loaded.note;
            if !loaded.items.is_empty() {
                let shared = contamination(&loaded.train, &loaded.items, 13);
                let total = loaded.items.len();
                let glue = if check.note.is_empty() { "" } else { "; " };
                check.note += &format!(
                    "{glue}{shared} of {total} evaluation items share 13 words with training text"
                );
            }
            check.examples = loaded.counts;
        }
    }
    check
}
