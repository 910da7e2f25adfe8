//! The tasks of `forge eval`: whose questions they are, asking them, and what is told of it.
//!
//! The model of a run is asked what its run held out, which nothing ever chose by; any other model, or one with
//! `--official`, what the publisher reports on: the last of the splits with labels.

use super::sandbox::Sandbox;
use crate::args::Common;
use crate::datasets;
use crate::fault::{nearest, usage};
use crate::hub;
use crate::progress::Count;
use anyhow::{Context as _, Result};
use data::{Answer, Document, Item, Page, Places, Split, extract_program};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use train::evaluate::{self, Answered, Metric, Subject};
use train::report::MOST_NEW;

/// Items that are asked before the display is told.
const ITEMS: usize = 128;
/// Texts that are scored before the display is told.
const TEXTS: usize = 8;
/// Most generated tokens of a program.
const MOST_NEW_OF_PROGRAM: usize = 256;

/// A task with what it asks.
pub(super) struct Task {
    pub(super) name: String,
    /// The official split, `held_out`, or "" for what is not there.
    split: String,
    content: Content,
}

enum Content {
    Items(Vec<Item>),
    Texts(Vec<Document>),
    Pages(Vec<Page>),
    /// Why there is nothing.
    Missing(String),
}

/// What was asked for.
pub(super) struct Asked<'a> {
    pub(super) own: Option<&'a train::Source>,
    pub(super) official: bool,
    pub(super) most: Option<usize>,
    pub(super) common: &'a Common,
}

impl Asked<'_> {
    /// All that the run of the model held out, a task a data set.
    pub(super) fn own_tasks(&self) -> Vec<Task> {
        let items = self.own.iter().flat_map(|s| s.items_of(Split::HeldOut));
        let mut names: Vec<&str> = items.map(|item| item.dataset.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .filter_map(|name| self.of_run(name))
            .collect()
    }

    /// The tasks of some names, or every one that is at hand for `all`; then what is missing is told, not refused.
    pub(super) fn tasks(&self, names: &[String]) -> Result<Vec<Task>> {
        let places = hub::places(datasets::root(self.common)?);
        let mut tasks: Vec<Task> = Vec::new();
        for name in names {
            let found: Vec<Task> = match name.as_str() {
                "all" => data::DATASETS
                    .iter()
                    .filter(|row| !row.folders.is_empty())
                    .map(|row| match self.task(row.id, &places) {
                        Err(fault) => match fault.downcast_ref::<data::Error>() {
                            Some(data::Error::Missing { .. }) => Ok(Task {
                                name: row.id.to_string(),
                                split: String::new(),
                                content: Content::Missing(fault.to_string()),
                            }),
                            _ => Err(fault),
                        },
                        found => found,
                    })
                    .collect::<Result<_>>()?,
                name => vec![self.task(name, &places)?],
            };
            for task in found {
                if tasks.iter().all(|other| other.name != task.name) {
                    tasks.push(task);
                }
            }
        }
        Ok(tasks)
    }

    fn task(&self, name: &str, places: &Places) -> Result<Task> {
        let Some(row) = data::dataset(name) else {
            let known: Vec<&str> = data::DATASETS.iter().map(|d| d.id).collect();
            return usage(format!(
                "--task {name}: no such data set; there are all, {}{}",
                known.join(", "),
                nearest(name, known.iter().copied().chain(["all"]))
            ));
        };
        if !self.official
            && let Some(task) = self.of_run(name)
        {
            return Ok(task);
        }
        let most = self.most.unwrap_or(usize::MAX);
        if name == "wikitext" {
            let mut pages = data::wikitext_pages(places)?;
            pages.truncate(most);
            return Ok(Task {
                name: name.into(),
                split: "test".into(),
                content: Content::Pages(pages),
            });
        }
        let mut loaded = data::load(name, places)?;
        let official = row.published.last().map(|(split, _)| format!("{split}/"));
        let official = official.filter(|split| split != "all/");
        let reported = |id: &str, split: Split| match &official {
            Some(official) => id.starts_with(official.as_str()),
            None => split == Split::HeldOut,
        };
        loaded.items.retain(|item| reported(&item.id, item.split));
        loaded.items.truncate(most);
        loaded
            .texts
            .retain(|text| reported(&text.id, text.evaluation_split()));
        loaded.texts.truncate(most);
        let split = official.as_deref().unwrap_or("held_out/");
        let split = split.trim_end_matches('/').to_string();
        let content = match (loaded.items.is_empty(), loaded.texts.is_empty()) {
            (false, _) => Content::Items(loaded.items),
            (true, false) => Content::Texts(loaded.texts),
            (true, true) => {
                return Err(data::Error::Missing {
                    id: name.into(),
                    missing: format!("split {split}"),
                    looked: loaded.remark(),
                    remedy: row.remedy(),
                }
                .into());
            }
        };
        Ok(Task {
            name: name.into(),
            split,
            content,
        })
    }

    /// The items that the run of the model held out.
    fn of_run(&self, name: &str) -> Option<Task> {
        let items = self.own.iter().flat_map(|s| s.items_of(Split::HeldOut));
        let items: Vec<Item> = items
            .filter(|item| item.dataset == name)
            .take(self.most.unwrap_or(usize::MAX))
            .cloned()
            .collect();
        (!items.is_empty()).then(|| Task {
            name: name.into(),
            split: Split::HeldOut.name().into(),
            content: Content::Items(items),
        })
    }
}

/// A file of JSON lines, one an item.
pub(super) struct Samples {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Samples {
    pub(super) fn create(path: &Path) -> Result<Self> {
        match File::create(path) {
            Ok(file) => Ok(Self {
                path: path.into(),
                file: BufWriter::new(file),
            }),
            Err(e) => usage(format!(
                "--samples {}: {e}; give a file that can be written",
                path.display()
            )),
        }
    }

    fn write(&mut self, value: &Value) -> Result<()> {
        writeln!(self.file, "{value}")
            .and_then(|()| self.file.flush())
            .with_context(|| format!("--samples {}", self.path.display()))
    }
}

/// What it takes to measure.
pub(super) struct Run<'a> {
    pub(super) subject: Subject<'a>,
    pub(super) sandbox: Option<&'a Sandbox>,
    pub(super) samples: Option<Samples>,
}

impl Run<'_> {
    /// Asks a task; n, split, metrics and seconds as JSON.
    pub(super) fn measure(&mut self, task: &Task) -> Result<Value> {
        let (n, no_answer, metrics, seconds) = match &task.content {
            Content::Missing(missing) => {
                return Ok(json!({
                    "n": 0, "split": null, "metrics": [], "no_answer": null, "seconds": null, "missing": missing,
                }));
            }
            Content::Items(items) => self.items(&task.name, items)?,
            Content::Texts(texts) => {
                let sizes = |text: &Document| {
                    let words = text.text.split_whitespace().count() as u64;
                    (text.text.len() as u64, words)
                };
                let texts: Vec<_> = texts
                    .iter()
                    .map(|text| (text.text.as_str(), sizes(text)))
                    .collect();
                self.texts(&task.name, &texts)?
            }
            Content::Pages(pages) => {
                let pages: Vec<_> = pages
                    .iter()
                    .map(|page| (page.text.as_str(), (page.bytes, page.words)))
                    .collect();
                self.texts(&task.name, &pages)?
            }
        };
        Ok(json!({
            "n": n, "split": task.split, "metrics": metrics, "no_answer": no_answer, "seconds": seconds,
        }))
    }

    fn items(&mut self, task: &str, items: &[Item]) -> Result<Measured> {
        let all: Vec<&Item> = items.iter().collect();
        let program = all.iter().any(|item| item.answer.needs_sandbox());
        if program && self.sandbox.is_none() {
            // What will not be run need not be written.
            return Ok((all.len(), None, evaluate::metrics(&all, &[], None), None));
        }
        let most_new = if program {
            MOST_NEW_OF_PROGRAM
        } else {
            MOST_NEW
        };
        let (mut answered, mut passed) = (Vec::new(), Vec::new());
        let mut display = Count::new(task, all.len());
        for part in all.chunks(ITEMS) {
            let new = evaluate::answers(&self.subject, part, most_new);
            for (item, answer) in part.iter().zip(&new) {
                let run = match (&item.answer, answer, self.sandbox) {
                    (Answer::Program { check }, Answered::Text(text), Some(sandbox)) => {
                        let program = format!("{}\n{check}", extract_program(text));
                        Some(sandbox.passes(&program)?)
                    }
                    _ => None,
                };
                passed.extend(run);
                if let Some(samples) = &mut self.samples {
                    samples.write(&sample(item, answer, run))?;
                }
            }
            answered.extend(new);
            display.add(part.len());
        }
        let seconds = display.finish();
        let passed = program.then_some(&passed[..]);
        let written = |answer: &Answered| matches!(answer, Answered::Text(_));
        let no_answer = answered.iter().any(written).then(|| {
            let pairs = all.iter().zip(&answered);
            pairs
                .filter(|(i, a)| evaluate::judge(i, a).format_error)
                .count()
        });
        let metrics = evaluate::metrics(&all, &answered, passed);
        Ok((all.len(), no_answer, metrics, Some(seconds)))
    }

    /// Texts with their bytes and words.
    fn texts(&mut self, task: &str, texts: &[(&str, (u64, u64))]) -> Result<Measured> {
        let mut display = Count::new(task, texts.len());
        let mut scores = Vec::new();
        for part in texts.chunks(TEXTS) {
            let plain: Vec<&str> = part.iter().map(|text| text.0).collect();
            for (&(_, (bytes, words)), (nats, tokens)) in
                part.iter().zip(evaluate::rolling(&self.subject, &plain))
            {
                if let Some(samples) = &mut self.samples {
                    samples.write(&json!({
                        "task": task, "id": scores.len(), "log_likelihood": -nats, "tokens": tokens, "bytes": bytes,
                        "words": words,
                    }))?;
                }
                scores.push((nats, bytes, words));
            }
            display.add(part.len());
        }
        let seconds = display.finish();
        Ok((
            texts.len(),
            None,
            evaluate::text_metrics(&scores),
            Some(seconds),
        ))
    }
}

/// Number of items, outputs without an answer, metrics, seconds.
type Measured = (usize, Option<usize>, Vec<Metric>, Option<f64>);

/// One item with what was made of it.
fn sample(item: &Item, answered: &Answered, passed: Option<bool>) -> Value {
    let mut line = json!({ "task": item.dataset, "id": item.id });
    match (&item.answer, answered) {
        (Answer::Choice { options, gold }, Answered::Options(scores)) => {
            let pairs = options.iter().zip(scores).map(|(option, score)| {
                json!({ "option": option, "log_likelihood": score.log_likelihood, "tokens": score.tokens,
                        "characters": score.characters })
            });
            line["options"] = pairs.collect();
            line["gold"] = json!(gold);
        }
        (_, Answered::Text(text)) => {
            let score = evaluate::judge(item, answered);
            line["text"] = json!(text);
            line["correct"] = json!(passed.unwrap_or(score.correct));
            line["f1"] = json!(score.f1);
        }
        (_, Answered::Options(_)) => {}
    }
    line
}
