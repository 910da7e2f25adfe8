//! Contamination: training documents that hold what a model is to be evaluated on.
//!
//! Runs of 13 words are compared, as in GPT-3's appendix C, in lower case and without punctuation ([`crate::words`]).
//! What is looked for is, of an item, its question (a passage before it is given to the model anyway and comes from
//! Wikipedia, as much of the training text does), and of a set without items its held-out texts. A question of 8 to 12
//! words is one run of its length; a shorter one occurs in any text and is not looked for. A run that more than
//! [`COMMON`] training documents hold is a phrase and shows nothing, as there.
//!
//! A training document is contaminated where it holds one run of a question, or a fifth of the runs of a held-out text:
//! one run in common is enough to give a question away, and is nothing in an article.

use std::collections::{BTreeMap, BTreeSet};

use ahash::AHashMap;
use rayon::prelude::*;
use serde::Serialize;

use crate::record::{Document, Item};
use crate::words::{runs, words};

/// Words of a run.
const RUN: usize = 13;

/// The shortest question that is looked for, in words.
const SHORTEST: usize = 8;

/// A run in more training documents than this is a phrase.
const COMMON: u32 = 10;

/// One in so many runs of a held-out text make a document contaminated.
const SHARE: usize = 5;

/// Documents that are read at a time.
const CHUNK: usize = 1024;

/// Questions and held-out texts of all sets.
#[derive(Default)]
pub struct Evaluation {
    sets: Vec<String>,
    probes: Vec<Probe>,
    /// Each run with the probe that it is of.
    runs: Vec<(u64, u32)>,
    /// The hashes of the runs of each length.
    lengths: BTreeMap<usize, Vec<u64>>,
    short: BTreeMap<String, usize>,
}

/// A question or a text.
struct Probe {
    /// Index of its set.
    set: usize,
    /// Runs that a document must share with it.
    needed: usize,
}

impl Evaluation {
    /// Adds what a set is evaluated on.
    pub fn add(&mut self, dataset: &str, items: &[Item], texts: &[Document]) {
        self.sets.push(dataset.to_string());
        let ids: BTreeSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
        let texts = texts.iter().filter(|text| !ids.contains(text.id.as_str()));
        let questions = items.iter().map(|item| (question(&item.prompt), true));
        for (text, is_question) in questions.chain(texts.map(|text| (text.text.as_str(), false))) {
            let words = words(text);
            let length = words.len().min(RUN);
            if length < SHORTEST {
                *self.short.entry(dataset.to_string()).or_default() += 1;
                continue;
            }
            let mut found: Vec<u64> = runs(&words, length).collect();
            found.sort_unstable();
            found.dedup();
            self.lengths.entry(length).or_default().extend(&found);
            let needed = match is_question {
                true => 1,
                false => (found.len() / SHARE).max(1),
            };
            let probe = self.probes.len() as u32;
            self.runs.extend(found.into_iter().map(|run| (run, probe)));
            let set = self.sets.len() - 1;
            self.probes.push(Probe { set, needed });
        }
    }

    /// Ends the list, for training text to be held against it.
    pub fn close(mut self) -> Screen {
        self.runs.par_sort_unstable();
        let mut known = AHashMap::new();
        for (at, (run, _)) in self.runs.iter().enumerate() {
            known.entry(*run).or_insert(at as u32);
        }
        let lengths = std::mem::take(&mut self.lengths);
        let filters = lengths.into_iter();
        let filters = filters.map(|(length, runs)| (length, Filter::of(&runs)));
        Screen {
            documents: vec![0; self.runs.len()],
            evaluation: self,
            known,
            filters: filters.collect(),
            training: Vec::new(),
            hits: Vec::new(),
        }
    }
}

/// A bit for each known run, so that hardly any other has to be looked up.
struct Filter(Vec<u64>);

impl Filter {
    /// Sixteen bits a run.
    fn of(runs: &[u64]) -> Self {
        let mut cells = vec![0; (runs.len() / 4).next_power_of_two()];
        let last = cells.len() - 1;
        for run in runs {
            cells[(run >> 6) as usize & last] |= 1 << (run & 63);
        }
        Self(cells)
    }

    fn may_hold(&self, run: u64) -> bool {
        let cell = self.0[(run >> 6) as usize & (self.0.len() - 1)];
        cell >> (run & 63) & 1 == 1
    }
}

/// The question of a prompt, without the passage before it; all of a prompt that asks nothing.
fn question(prompt: &str) -> &str {
    let prompt = prompt.strip_suffix("Answer:").unwrap_or(prompt);
    prompt
        .rsplit_once("Question: ")
        .map_or(prompt, |(_, question)| question)
}

/// Training text held against the evaluation.
pub struct Screen {
    evaluation: Evaluation,
    /// The first place of a run in the evaluation's list.
    known: AHashMap<u64, u32>,
    /// The lengths of the runs, each with what tells those that are not known.
    filters: Vec<(usize, Filter)>,
    /// How many training documents hold the run, at its first place.
    documents: Vec<u32>,
    training: Vec<String>,
    /// Documents with known runs: their set, their index there, and the runs' first places.
    hits: Vec<(usize, usize, Vec<u32>)>,
}

impl Screen {
    /// Reads the training documents of a set.
    pub fn read(&mut self, dataset: &str, documents: &[Document]) {
        let set = self.training.len();
        self.training.push(dataset.to_string());
        for (chunk, some) in documents.chunks(CHUNK).enumerate() {
            let found: Vec<Vec<u32>> = some.par_iter().map(|d| self.places(&d.text)).collect();
            for (i, places) in found.into_iter().enumerate() {
                for &place in &places {
                    self.documents[place as usize] += 1;
                }
                if !places.is_empty() {
                    self.hits.push((set, chunk * CHUNK + i, places));
                }
            }
        }
    }

    /// The first places of the known runs of a text, each once.
    fn places(&self, text: &str) -> Vec<u32> {
        let words = words(text);
        let mut places = Vec::new();
        for (length, filter) in &self.filters {
            let maybe = runs(&words, *length).filter(|run| filter.may_hold(*run));
            places.extend(maybe.filter_map(|run| self.known.get(&run)));
        }
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Whether a text holds what is evaluated on, by the phrases of the documents read so far.
    pub fn is_contaminated(&self, text: &str) -> bool {
        !self.shared(&self.places(text)).is_empty()
    }

    /// The questions and texts that the runs at these places give away.
    fn shared(&self, places: &[u32]) -> Vec<u32> {
        let runs = &self.evaluation.runs;
        let mut shared: BTreeMap<u32, usize> = BTreeMap::new();
        for &place in places {
            if self.documents[place as usize] > COMMON {
                continue;
            }
            let run = runs[place as usize].0;
            let of_run = runs[place as usize..].iter();
            for (_, probe) in of_run.take_while(|(other, _)| *other == run) {
                *shared.entry(*probe).or_default() += 1;
            }
        }
        let enough = |(probe, count): &(u32, usize)| {
            *count >= self.evaluation.probes[*probe as usize].needed
        };
        let probes = shared.into_iter().filter(enough);
        probes.map(|(probe, _)| probe).collect()
    }

    /// What of the training text is contaminated, by what.
    pub fn overlap(&self) -> Overlap {
        let evaluation = &self.evaluation;
        let mut overlap = Overlap {
            documents: vec![Vec::new(); self.training.len()],
            pairs: Vec::new(),
            short: evaluation.short.clone(),
        };
        let mut pairs: BTreeMap<(usize, usize), (usize, BTreeSet<u32>)> = BTreeMap::new();
        for (set, document, places) in &self.hits {
            let shared = self.shared(places);
            if shared.is_empty() {
                continue;
            }
            overlap.documents[*set].push(*document);
            let mut by_set: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
            for probe in shared {
                let of = evaluation.probes[probe as usize].set;
                by_set.entry(of).or_default().push(probe);
            }
            for (of, probes) in by_set {
                let pair = pairs.entry((*set, of)).or_default();
                pair.0 += 1;
                pair.1.extend(probes);
            }
        }
        let named =
            |((set, of), (documents, probes)): ((usize, usize), (usize, BTreeSet<u32>))| Pair {
                training: self.training[set].clone(),
                evaluation: evaluation.sets[of].clone(),
                documents,
                items: probes.len(),
            };
        overlap.pairs = pairs.into_iter().map(named).collect();
        overlap
    }
}

/// Which training documents are contaminated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The contaminated documents of each set that was read, in that order, by their indices, ascending.
    pub documents: Vec<Vec<usize>>,
    /// The pairs of sets that share something, in the order of the sets.
    pub pairs: Vec<Pair>,
    /// Questions and texts that are too short to be looked for, by set.
    pub short: BTreeMap<String, usize>,
}

/// What the training text of one set holds of the evaluation of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// The set trained on.
    pub training: String,
    /// The set evaluated on.
    pub evaluation: String,
    /// Training documents that are contaminated.
    pub documents: usize,
    /// Questions, or held-out texts, that they hold.
    pub items: usize,
}
