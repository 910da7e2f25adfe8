//! What `forge data check` says of a data set: where it was found, how much of what was published, what is missing and
//! how to get that.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Dataset, Places, dataset, load};
use crate::error::Error;
use crate::overlap::contamination;
use crate::record::{Family, Loaded};

/// Where a data set was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Under the data root (some of its splits may come from the cache), or built in.
    Local,
    /// In the cache of earlier downloads.
    Cache,
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
    /// Records by official split, those that were found and those that were published.
    pub official: BTreeMap<String, Official>,
    /// Size of its files; unknown when missing.
    pub bytes: Option<u64>,
    /// Its licence.
    pub licence: Option<&'static str>,
    /// What was left out, how many evaluation items overlap with training text; the error when missing.
    pub note: String,
    /// Exactly what of the published records is not there; None when nothing is missing.
    pub missing: Option<String>,
    /// How to get what is missing.
    pub remedy: Option<String>,
    /// Whether a recipe goes on without it when it is nowhere.
    pub optional: bool,
}

/// Records of one official split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Official {
    /// As read.
    pub found: usize,
    /// As published; None for a split that no publisher counted.
    pub published: Option<usize>,
}

/// Reads every data set named, as training would, and says how each stands.
pub fn check(places: &Places, ids: &[&str]) -> Vec<Check> {
    ids.iter().map(|id| check_one(places, id)).collect()
}

fn check_one(places: &Places, id: &str) -> Check {
    let row = dataset(id);
    let loaded = load(id, places);
    let official = official(row, loaded.as_ref().ok());
    let missing = missing(&official, loaded.as_ref().ok());
    let mut check = Check {
        dataset: id.to_string(),
        family: row.map(|row| row.family),
        found: Found::Missing,
        examples: BTreeMap::new(),
        bytes: None,
        licence: row.map(|row| row.licence),
        note: String::new(),
        remedy: row
            .filter(|_| missing.is_some() || loaded.is_err())
            .map(|row| remedy(row, &official, loaded.as_ref().ok())),
        missing,
        official,
        optional: row.is_some_and(|row| row.optional),
    };
    match loaded {
        Err(error) => {
            if check.missing.is_none() && matches!(error, Error::Missing { .. }) {
                check.missing = Some("all of it".into());
            }
            check.note = error.to_string();
        }
        Ok(loaded) => take(&mut check, loaded),
    }
    check
}

fn take(check: &mut Check, loaded: Loaded) {
    let local = !loaded.local.is_empty() || !loaded.stand_in.is_empty();
    check.found = match local || loaded.cached.is_empty() {
        true => Found::Local,
        false => Found::Cache,
    };
    let mut notes = vec![loaded.note];
    if check.found == Found::Local && !loaded.cached.is_empty() {
        notes.push(format!("{} from the cache", loaded.cached.join(", ")));
    }
    if loaded.train.is_empty() {
        notes.push("no training text".into());
    }
    if !loaded.items.is_empty() {
        let shared = contamination(&loaded.train, &loaded.items, 13);
        let total = loaded.items.len();
        notes.push(format!(
            "{shared} of {total} evaluation items share 13 words with training text"
        ));
    }
    notes.retain(|note| !note.is_empty());
    check.note = notes.join("; ");
    check.bytes = Some(loaded.bytes);
    check.examples = loaded.counts;
}

/// What was published and what was read, by official split; a set that has no official splits has one, `all`.
fn official(row: Option<&Dataset>, loaded: Option<&Loaded>) -> BTreeMap<String, Official> {
    let mut splits: BTreeMap<String, Official> = BTreeMap::new();
    let published = row.map_or(&[][..], |row| row.published);
    for (split, count) in published {
        splits.entry((*split).to_string()).or_default().published = Some(*count);
    }
    let found = loaded.map(Loaded::official).unwrap_or_default();
    if published.is_empty() {
        return splits;
    }
    for (split, count) in found {
        let known = splits.contains_key(&split);
        let split = if known { split } else { "all".to_string() };
        splits.entry(split).or_default().found += count;
    }
    splits
}

/// How to get what is missing. A file under the data root wins over the cache, so one that is short must go first.
fn remedy(row: &Dataset, official: &BTreeMap<String, Official>, loaded: Option<&Loaded>) -> String {
    let short = |split: &&String| {
        let count = official.get(split.as_str());
        count.is_some_and(|count| count.published.is_some_and(|all| count.found < all))
    };
    let local = loaded.map_or(&[][..], |loaded| &loaded.local);
    let local: Vec<&str> = local.iter().filter(short).map(String::as_str).collect();
    match local.is_empty() || row.hub.is_empty() {
        true => row.remedy(),
        false => format!(
            "{}; for {} first move away the shorter file that is there, which is read before the hub's",
            row.remedy(),
            local.join(", ")
        ),
    }
}

/// `train, 90347 of 90447 records; dev, ..`; None where all that was published is there, or nothing was counted.
fn missing(official: &BTreeMap<String, Official>, loaded: Option<&Loaded>) -> Option<String> {
    let loaded = loaded?;
    let mut short: Vec<String> = official
        .iter()
        .filter_map(|(split, count)| {
            let published = count
                .published
                .filter(|published| count.found < *published)?;
            Some(match count.found {
                0 => format!("{split}, all {published} records"),
                found => format!("{split}, {} of {published} records", published - found),
            })
        })
        .collect();
    short.extend(loaded.lacking.iter().cloned());
    (!short.is_empty()).then(|| short.join("; "))
}
