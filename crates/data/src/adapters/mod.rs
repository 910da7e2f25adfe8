//! How the files of each data set become documents and items: `questions` for what is asked without a passage, `maths`
//! for ASDiv, `choices` for everyday knowledge, `passages` for reading, `code` for programs, `text` for prose.
//!
//! Splits are the official ones; where a set has none, a stable hash of the id decides. Ids carry the official split
//! (`test/17`), so that an official score can be computed from the items of all three evaluation splits.
//!
//! A split is looked for in every place in turn, first under the names that the publisher gave its files, then as data
//! files whose names carry the split's word, as on the hub (`data/train-00000-of-00001.parquet`), and last under the
//! names of files that are known to hold a part of it. A record is read in
//! the publisher's form or in the hub's columns, whichever its fields show, and comes out the same.

pub(crate) mod choices;
pub(crate) mod code;
pub(crate) mod maths;
pub(crate) mod passages;
pub(crate) mod questions;
pub(crate) mod text;

use std::path::{Path, PathBuf};

pub use text::{each_document, load_folder};

use crate::catalogue::{Dataset, Hub};
use crate::error::Error;
use crate::files::{Record, Take, ending, for_each_record};
use crate::hub::cache::files;
use crate::record::{Answer, Comparison, Document, Item, Loaded, Split, Worked};

/// A folder that may hold files of a data set.
pub(crate) struct Place {
    /// The folder, or the snapshot of a repository in the cache.
    pub(crate) path: PathBuf,
    /// The repository, where the folder is a snapshot of one.
    pub(crate) hub: Option<&'static Hub>,
    /// The repositories of the data set, of which a folder may be a copy.
    pub(crate) homes: &'static [Hub],
}

/// One official split and the files that hold it.
pub(crate) struct Part {
    /// Its name in ids.
    pub(crate) official: &'static str,
    /// The publisher's names, in the order of preference: the first that is there is read. None for a split that only
    /// the hub has.
    pub(crate) names: &'static [&'static str],
    /// The words that name the split in file names of the hub; empty = every data file.
    pub(crate) words: &'static [&'static str],
    /// Names of files that hold a part of the split only, read where nothing better is anywhere.
    pub(crate) stand_ins: &'static [&'static str],
}

/// Where the files of a split were found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// Under the data root.
    Root,
    /// In the cache.
    Cache,
    /// Under the data root, as a part that stands in for the whole.
    StandIn,
}

const fn part(
    official: &'static str,
    names: &'static [&'static str],
    words: &'static [&'static str],
) -> Part {
    Part {
        official,
        names,
        words,
        stand_ins: &[],
    }
}

/// The words that publishers and the hub use for the three splits.
const TRAIN: &[&str] = &["train"];
const DEV: &[&str] = &["validation", "valid", "val", "dev"];
const TEST: &[&str] = &["test"];

/// The words of all splits, by which data files are told from other files.
const SPLITS: &[&str] = &["train", "validation", "valid", "val", "dev", "test"];

impl Part {
    /// The same, with files that stand in for it.
    const fn or(self, stand_ins: &'static [&'static str]) -> Self {
        Self { stand_ins, ..self }
    }

    /// The files of the split in the first place that has any.
    fn find(&self, places: &[Place]) -> Result<Option<(Vec<PathBuf>, From)>, Error> {
        for place in places {
            let (files, from) = match place.hub {
                Some(hub) => (of_snapshot(hub, &place.path, self.words)?, From::Cache),
                None => (self.of_folder(place)?, From::Root),
            };
            if !files.is_empty() {
                return Ok(Some((files, from)));
            }
        }
        let local = places.iter().filter(|place| place.hub.is_none());
        let mut stand_in = local.filter_map(|place| named(&place.path, self.stand_ins));
        Ok(stand_in.next().map(|path| (vec![path], From::StandIn)))
    }

    /// The publisher's file, else Parquet files of the split anywhere below; of the set's configuration only, where the
    /// folder is a copy of a repository with several.
    fn of_folder(&self, place: &Place) -> Result<Vec<PathBuf>, Error> {
        let folder = &place.path;
        if let Some(path) = named(folder, self.names) {
            return Ok(vec![path]);
        }
        let mut files = files_below(folder)?;
        files.retain(|path| {
            let inside = path.strip_prefix(folder).unwrap_or(path);
            ending(path) == Some("parquet") && has_word(&slashed(inside), self.words)
        });
        let configured = |path: &PathBuf| {
            let inside = slashed(path.strip_prefix(folder).unwrap_or(path));
            let mut homes = place.homes.iter().filter(|hub| !hub.under.is_empty());
            homes.any(|hub| inside.starts_with(hub.under))
        };
        if files.iter().any(configured) {
            files.retain(configured);
        }
        Ok(files)
    }
}

/// The first of some names that a folder has, as it is or packed.
fn named(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    let paths = names.iter().flat_map(|name| {
        let path = folder.join(name);
        let packed = PathBuf::from(format!("{}.gz", path.display()));
        [path, packed]
    });
    paths.into_iter().find(|path| path.is_file())
}

/// The data files of a split in a snapshot, in the order of their names.
fn of_snapshot(hub: &Hub, snapshot: &Path, words: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let mut names = files(snapshot, hub)?;
    names.retain(|name| has_word(name, words));
    Ok(names.iter().map(|name| snapshot.join(name)).collect())
}

/// Those of a repository's files that are the data of `hub`, in the order of their names: what lies in its folder as
/// Parquet, or, where there is none, as JSON or CSV with the name of a split.
pub(crate) fn data_files<'a>(hub: &Hub, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut files: Vec<&str> = names
        .filter(|name| name.starts_with(hub.under))
        .filter(|name| {
            ending(Path::new(name)).is_some_and(|kind| kind == "parquet" || has_word(name, SPLITS))
        })
        .collect();
    if files.iter().any(|name| name.ends_with(".parquet")) {
        files.retain(|name| name.ends_with(".parquet"));
    }
    files.sort_unstable();
    if hub.most_files > 0 {
        files.truncate(hub.most_files);
    }
    files
}

/// Whether a file's name has one of `words` in it, or, where it has the word of no split, a folder of its path has.
fn has_word(name: &str, words: &[&str]) -> bool {
    let within = |part: &str, words: &[&str]| {
        part.split(|c: char| !c.is_ascii_alphanumeric())
            .any(|word| words.contains(&word.to_lowercase().as_str()))
    };
    let (folders, file) = name.rsplit_once('/').unwrap_or(("", name));
    words.is_empty() || within(file, words) || (!within(file, SPLITS) && within(folders, words))
}

/// A relative path with `/` between its parts, as on the hub.
pub(crate) fn slashed(path: &Path) -> String {
    let parts: Vec<_> = path
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    parts.join("/")
}

/// How the files of a set are read.
enum Read {
    /// As their endings say, record by record: the large sets are many times larger as records than on disk.
    Records,
    /// By a function of the set's own, file by file, but for Parquet.
    Files(fn(&Path) -> Result<Vec<Record>, Error>),
}

impl Read {
    fn each(&self, path: &Path, take: Take) -> Result<(), Error> {
        match self {
            Self::Files(read) if ending(path) != Some("parquet") => read(path)?
                .into_iter()
                .try_for_each(|record| take(record).map(|_| ())),
            _ => for_each_record(path, take),
        }
    }
}

/// Reads the splits of a data set that are there, in the order given, and hands each record to `take` with its official
/// split. What is not there goes into the note; it is an error only when nothing is.
fn read_splits(
    row: &Dataset,
    places: &[Place],
    parts: &[Part],
    read: Read,
    mut take: impl FnMut(&mut Loaded, &'static str, &Record) -> Result<(), Error>,
) -> Result<Loaded, Error> {
    let mut loaded = Loaded::default();
    let mut missing: Vec<&str> = Vec::new();
    for part in parts {
        let Some((files, from)) = part.find(places)? else {
            missing.extend(part.names.first());
            continue;
        };
        loaded.came_from(part.official, from);
        let mut last = 0;
        for path in files {
            loaded.bytes += size(&path)?;
            let before = last;
            read.each(&path, &mut |record| {
                let record = record.after(before);
                last = record.position();
                take(&mut loaded, part.official, &record).map(|()| true)
            })?;
        }
    }
    if loaded.bytes == 0 {
        let places: Vec<&Place> = places.iter().collect();
        return Err(nothing(row, &places, &missing.join(" or ")));
    }
    loaded.note = match missing.is_empty() {
        true => String::new(),
        false => format!("not there: {}", missing.join(", ")),
    };
    Ok(loaded)
}

/// The error for places that hold none of a data set's files.
fn nothing(row: &Dataset, places: &[&Place], missing: &str) -> Error {
    let looked: Vec<String> = places
        .iter()
        .map(|place| place.path.display().to_string())
        .collect();
    Error::Missing {
        id: row.id.to_string(),
        missing: missing.to_string(),
        looked: format!("in {}", looked.join(" nor in ")),
        remedy: row.remedy(),
    }
}

/// A record in the common form.
struct Question {
    id: String,
    /// What is read before the question; "" for none.
    passage: String,
    /// Without `Question:`.
    question: String,
    /// What follows `Answer:` in the text, its space or line end included.
    response: String,
    /// How it is judged; None for what only text can be.
    answer: Option<Answer>,
    /// The questions that it falls into, the steps or facts of its solution, and its final answer.
    worked: Option<(Vec<String>, Vec<String>, String)>,
}

impl Question {
    fn prompt(&self) -> String {
        let passage = match self.passage.as_str() {
            "" => String::new(),
            passage => format!("{passage}\n"),
        };
        format!("{passage}Question: {}\nAnswer:", self.question)
    }

    fn add_to(self, loaded: &mut Loaded, row: &Dataset, official: &str) {
        let prompt = self.prompt();
        let id = format!("{official}/{}", self.id);
        if official == "train"
            && let Some((parts, steps, answer)) = self.worked
        {
            loaded.worked.push(Worked {
                dataset: row.id.to_string(),
                id: id.clone(),
                question: self.question,
                parts,
                steps,
                answer,
            });
        }
        add(
            loaded,
            row,
            (official, id),
            prompt,
            (self.response, self.answer),
        );
    }
}

/// Adds a record to training, or to the held-out texts and, where it can be judged, to the items. `of` is its official
/// split and its id, `end` what follows the prompt and how that is judged.
fn add(
    loaded: &mut Loaded,
    row: &Dataset,
    of: (&str, String),
    prompt: String,
    end: (String, Option<Answer>),
) {
    let ((official, id), (response, answer)) = (of, end);
    let text = document(row, id.clone(), format!("{prompt}{response}"));
    if official == "train" {
        loaded.train.push(text);
        return;
    }
    loaded.texts.push(text);
    if let Some(answer) = answer {
        judge(loaded, row, id, prompt, answer);
    }
}

/// Adds an item.
fn judge(loaded: &mut Loaded, row: &Dataset, id: String, prompt: String, answer: Answer) {
    loaded.items.push(Item {
        dataset: row.id.to_string(),
        family: row.family,
        split: Split::deal(&id),
        id,
        prompt,
        answer,
    });
}

/// An answer with one right text, compared by value.
fn exact(answer: &str) -> Answer {
    Answer::Exact {
        answer: answer.to_string(),
        also: Vec::new(),
        by: Comparison::Value,
    }
}

fn size(path: &Path) -> Result<u64, Error> {
    Ok(std::fs::metadata(path)
        .map_err(|e| Error::io(path, e))?
        .len())
}

/// Every file below a folder, in the order of their paths, hidden ones left out.
pub(crate) fn files_below(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    for entry in entries {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'))
        {
            continue;
        }
        match path.is_dir() {
            true => files.extend(files_below(&path)?),
            false => files.push(path),
        }
    }
    files.sort();
    Ok(files)
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
