//! What every source of data is turned into: documents to train on, items to be judged by, and the splits.
//!
//! Formats, the same for every data set, so that one model learns one manner of answering:
//! `Question: ...\nAnswer: ...`, after the passage where there is one to read; an exact answer ends in `\n#### 42`. An
//! item's prompt ends in `Answer:`, and what is scored or compared is what follows it. HellaSwag alone asks nothing: its
//! prompt is a context, its options are continuations.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::adapters::From;

/// The five families that the mixes weigh; science counts as [`Family::Qa`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Word problems and arithmetic.
    Maths,
    /// Programs.
    Code,
    /// Questions over facts, science included.
    Qa,
    /// What everybody knows.
    Commonsense,
    /// Plain text.
    Language,
}

impl Family {
    /// Every family, in the order of the reports.
    pub const ALL: [Family; 5] = [
        Family::Maths,
        Family::Code,
        Family::Qa,
        Family::Commonsense,
        Family::Language,
    ];

    /// The name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Family::Maths => "maths",
            Family::Code => "code",
            Family::Qa => "qa",
            Family::Commonsense => "commonsense",
            Family::Language => "language",
        }
    }
}

/// Where a record is used. The three evaluation splits are disjoint, and none of them is ever trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Trained on.
    Train,
    /// Steers the evolution.
    Fitness,
    /// Chooses among finished models.
    Selection,
    /// Only reported.
    HeldOut,
}

impl Split {
    /// Every split.
    pub const ALL: [Split; 4] = [
        Split::Train,
        Split::Fitness,
        Split::Selection,
        Split::HeldOut,
    ];

    /// The name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Fitness => "fitness",
            Split::Selection => "selection",
            Split::HeldOut => "held_out",
        }
    }

    /// Deals an evaluation record to one of the three evaluation splits, a third each, by a stable hash of its id.
    /// The parts `id#0`, `id#1`, .. of one long text are dealt together.
    pub fn deal(id: &str) -> Split {
        let whole = match id.rsplit_once('#') {
            Some((whole, part)) if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) => {
                whole
            }
            _ => id,
        };
        match id_hash(whole) % 3 {
            0 => Split::Fitness,
            1 => Split::Selection,
            _ => Split::HeldOut,
        }
    }
}

/// A hash of an id that no release may change: it decides splits.
pub(crate) fn id_hash(id: &str) -> u64 {
    let hash = blake3::hash(id.as_bytes());
    u64::from_le_bytes(
        hash.as_bytes()[..8]
            .try_into()
            .expect("a blake3 hash has 32 bytes"),
    )
}

/// One text: to train on, or held out for bits per byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Id of the data set, a key of [`crate::DATASETS`] or the name of the user's folder.
    pub dataset: String,
    /// Its family.
    pub family: Family,
    /// Unique within the data set.
    pub id: String,
    /// The text as the model sees it.
    pub text: String,
    /// Byte ranges of `text` that carry loss; empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loss: Vec<Range<usize>>,
}

impl Document {
    /// The evaluation split of a held-out text (a training document has none to ask for).
    pub fn evaluation_split(&self) -> Split {
        Split::deal(&self.id)
    }
}

/// What an item is judged by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The model writes; its answer is found in that and compared as [`Comparison`] says.
    Exact {
        /// The right answer.
        answer: String,
        /// Other forms of it that count as right; most sets have none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        also: Vec<String>,
        /// How the two are compared.
        #[serde(default, skip_serializing_if = "Comparison::is_value")]
        by: Comparison,
    },
    /// The option of highest likelihood is the model's choice. Each option is a continuation of the prompt as it
    /// stands, so it begins with its space: `" a bank"`.
    Choice {
        /// The continuations.
        options: Vec<String>,
        /// Index of the right one.
        gold: usize,
    },
    /// The model writes a program; [`crate::extract_program`] finds it, and it is right when it and `check` after it run
    /// without an error. Running it is the business of a sandbox that somebody names: nothing in this workspace does.
    Program {
        /// What is run after the program: set-up and assertions.
        check: String,
    },
}

impl Answer {
    /// Whether judging it takes a sandbox. A run has none, and leaves such items out.
    pub fn needs_sandbox(&self) -> bool {
        matches!(self, Answer::Program { .. })
    }
}

/// How a written answer is compared with the right one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// [`crate::extract_answer`] and [`crate::same_answer`]: numbers by value.
    #[default]
    Value,
    /// [`crate::extract_span`] and SQuAD's rule, HotpotQA's official one ([`crate::reading_score`]).
    HotpotQa,
    /// [`crate::extract_span`] and DROP's official rule ([`crate::reading_score`]).
    Drop,
}

impl Comparison {
    fn is_value(&self) -> bool {
        *self == Comparison::Value
    }
}

/// One question of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Id of the data set.
    pub dataset: String,
    /// Its family.
    pub family: Family,
    /// Unique within the data set.
    pub id: String,
    /// `Question: ...\nAnswer:`, after a passage where there is one; the bare context for HellaSwag. For choices it is, to
    /// the last space, the prompt of lm-evaluation-harness.
    pub prompt: String,
    /// How it is judged.
    pub answer: Answer,
    /// One of the three evaluation splits.
    pub split: Split,
}

/// A training question with its solution spelled out, from which Phase 3 makes reasoning traces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worked {
    /// Id of the data set.
    pub dataset: String,
    /// As the document's.
    pub id: String,
    /// The bare question.
    pub question: String,
    /// The questions that it falls into (StrategyQA's decomposition), or empty.
    pub parts: Vec<String>,
    /// The worked steps (GSM8K) or the facts used (StrategyQA).
    pub steps: Vec<String>,
    /// The final answer: a number, `yes` or `no`.
    pub answer: String,
}

/// A data set as read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// To train on.
    pub train: Vec<Document>,
    /// Questions of the evaluation splits.
    pub items: Vec<Item>,
    /// Held-out text for bits per byte; its split is [`Document::evaluation_split`]. The text of an item's record has
    /// the item's id, so both fall into the same split.
    pub texts: Vec<Document>,
    /// Training questions with worked solutions.
    pub worked: Vec<Worked>,
    /// Official splits that were read from the cache of downloads, not from the data root.
    pub cached: Vec<String>,
    /// Official splits that were read from the data root.
    pub local: Vec<String>,
    /// Official splits of which the data root has a part only, read from there because nothing better was found.
    pub stand_in: Vec<String>,
    /// What is missing though every record is there.
    pub lacking: Vec<String>,
    /// Examples by split name: training documents, and evaluation items (texts where a set has no items).
    pub counts: BTreeMap<String, usize>,
    /// Size of the files read.
    pub bytes: u64,
    /// What a person should know: what is missing, what was left out.
    pub note: String,
}

impl Loaded {
    /// Records by official split, which an id opens with; a long text counts once, whatever its parts.
    pub fn official(&self) -> BTreeMap<String, usize> {
        let mut whole: BTreeSet<&str> = BTreeSet::new();
        for text in self.train.iter().chain(&self.texts) {
            let id = text.id.as_str();
            let part = id
                .rsplit_once('#')
                .filter(|(_, part)| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
            whole.insert(part.map_or(id, |(whole, _)| whole));
        }
        let mut counts = BTreeMap::new();
        for id in whole {
            let split = id.split_once('/').map_or("all", |(split, _)| split);
            *counts.entry(split.to_string()).or_default() += 1;
        }
        counts
    }

    /// The note, with what is missing though every record is there, and with the splits of which only a part was found.
    pub fn remark(&self) -> String {
        let mut parts = vec![self.note.clone()];
        parts.extend(self.lacking.iter().map(|what| format!("without {what}")));
        if !self.stand_in.is_empty() {
            parts.push(format!("only a part of {}", self.stand_in.join(", ")));
        }
        parts.retain(|part| !part.is_empty());
        parts.join("; ")
    }

    /// Notes where an official split was read from.
    pub(crate) fn came_from(&mut self, split: &str, from: From) {
        let into = match from {
            From::Root => &mut self.local,
            From::Cache => &mut self.cached,
            From::StandIn => &mut self.stand_in,
        };
        into.push(split.to_string());
    }

    /// Leaves one of records with the same id: a set whose splits come from two places may hold one twice.
    pub(crate) fn once_each(mut self) -> Self {
        let mut seen = HashSet::new();
        self.texts.retain(|text| seen.insert(text.id.clone()));
        self.train.retain(|text| seen.insert(text.id.clone()));
        seen.clear();
        self.items.retain(|item| seen.insert(item.id.clone()));
        seen.clear();
        self.worked.retain(|worked| seen.insert(worked.id.clone()));
        self
    }

    /// Fills `counts` from what was loaded.
    pub(crate) fn counted(mut self) -> Self {
        self.counts
            .insert(Split::Train.name().into(), self.train.len());
        let splits: Vec<Split> = match self.items.is_empty() {
            true => self.texts.iter().map(Document::evaluation_split).collect(),
            false => self.items.iter().map(|item| item.split).collect(),
        };
        for split in splits {
            *self.counts.entry(split.name().into()).or_default() += 1;
        }
        self
    }
}
