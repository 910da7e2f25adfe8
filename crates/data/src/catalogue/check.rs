//! What `forge data check` says of a data set: where it was found, how much of what was published, what is missing and
//! how to get that.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Dataset, Places, dataset, load};
use crate::duplicates::{Duplicates, LeftOut, sketches};
use crate::error::Error;
use crate::overlap::{Evaluation, Pair};
use crate::record::{Family, Loaded, Split};

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
    /// Training documents that repeat an earlier one, of this set or of one before it, and that hold what any of the sets
    /// is evaluated on. Of a built-in set neither is ever left out of a run.
    pub left_out: LeftOut,
    /// What its training text holds of the evaluation of each set.
    pub overlaps: Vec<Pair>,
    /// Questions and held-out texts too short for such a search.
    pub too_short: usize,
    /// What was left out; the error when missing.
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

/// Reads every data set named, as training would, and says how each stands. `least` is the likeness from which on a
/// training document repeats another ([`Duplicates::new`]); None looks for none.
///
/// Sets are read twice, one at a time, so that no more than one of them is in memory: training text is held against the
/// evaluation of all sets, which is known after the first time only.
pub fn check(places: &Places, ids: &[&str], least: Option<f64>) -> Vec<Check> {
    let mut duplicates = Duplicates::new(least.unwrap_or(1.0));
    let mut evaluation = Evaluation::default();
    let mut checks: Vec<Check> = Vec::new();
    for id in ids {
        let loaded = load(id, places);
        let mut left_out = LeftOut::default();
        if let Ok(loaded) = &loaded {
            evaluation.add(id, &loaded.items, &loaded.texts);
            if let Some(least) = least {
                let is_built_in = dataset(id).is_some_and(Dataset::is_built_in);
                let mut alone = Duplicates::new(least);
                // What repeats a built-in text stays in a run, so that no other set is held against those.
                let duplicates = match is_built_in {
                    true => &mut alone,
                    false => &mut duplicates,
                };
                let texts: Vec<&str> = loaded.train.iter().map(|d| d.text.as_str()).collect();
                let repeats = sketches(&texts)
                    .into_iter()
                    .filter_map(|s| duplicates.take(s));
                left_out = LeftOut::no_repeats();
                repeats.for_each(|repeat| left_out.count(repeat));
            }
        }
        let check = check_one(id, loaded);
        checks.push(Check { left_out, ..check });
    }
    let mut screen = evaluation.close();
    let mut read = Vec::new();
    for (at, id) in ids.iter().enumerate() {
        if checks[at].examples.get(Split::Train.name()) > Some(&0)
            && let Ok(loaded) = load(id, places)
        {
            screen.read(id, &loaded.train);
            read.push(at);
        }
    }
    let overlap = screen.overlap();
    for (at, documents) in read.into_iter().zip(&overlap.documents) {
        checks[at].left_out.contaminated = Some(documents.len());
    }
    for check in &mut checks {
        let of_this = overlap
            .pairs
            .iter()
            .filter(|pair| pair.training == check.dataset);
        check.overlaps = of_this.cloned().collect();
        check.too_short = overlap.short.get(&check.dataset).copied().unwrap_or(0);
    }
    checks
}

fn check_one(id: &str, loaded: Result<Loaded, Error>) -> Check {
    let row = dataset(id);
    let official = official(row, loaded.as_ref().ok());
    let missing = missing(&official, loaded.as_ref().ok());
    let mut check = Check {
        dataset: id.to_string(),
        family: row.map(|row| row.family),
        found: Found::Missing,
        examples: BTreeMap::new(),
        bytes: None,
        licence: row.map(|row| row.licence),
        left_out: LeftOut::default(),
        overlaps: Vec::new(),
        too_short: 0,
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
    // The cache holds what the hub has, so another fetch brings no more.
    let mut all_short = official.keys().filter(short).peekable();
    let cached = |split: &String| loaded.is_some_and(|l| l.cached.contains(split));
    if all_short.peek().is_some() && all_short.all(cached) {
        return format!(
            "the hub's copy, which was read, has no more; {}",
            row.by_hand()
        );
    }
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
