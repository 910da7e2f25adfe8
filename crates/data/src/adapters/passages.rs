//! Reading: HotpotQA (two hops over ten paragraphs) and DROP (arithmetic over a passage).
//!
//! The passage stands before the question, the answer on a line `#### ..` of its own, as everywhere. An answer may have
//! several right forms: the first is what is learned, all of them count. Several spans are one text, joined by `and`, as
//! in simple-evals: a small model writes text, not lists.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::{DEV, Place, Question, Read, TRAIN, part, read_splits};
use crate::catalogue::Dataset;
use crate::error::{Error, Place as At};
use crate::files::{Record, ending, read_records, read_text};
use crate::record::{Answer, Comparison, Loaded, id_hash};

/// HotpotQA in its distractor setting: `hotpot_train_v1.1.json`, `hotpot_dev_distractor_v1.json`. The parts of it that go
/// round under other names (`amor_dev.jsonl`: 100 training records, `amor_test_500.jsonl`: 500 of dev) are read where
/// the whole files are not there. Dev questions without paragraphs are not used: nothing could be looked up in them.
pub(crate) fn hotpotqa(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let files = [
        part("train", &["hotpot_train_v1.1.json"], TRAIN).or(&["amor_dev.jsonl"]),
        part("dev", &["hotpot_dev_distractor_v1.json"], DEV).or(&["amor_test_500.jsonl"]),
    ];
    read_splits(
        row,
        places,
        &files,
        Read::Records,
        |loaded, official, record| {
            let answer = record.text("answer")?.trim();
            Question {
                id: record
                    .text(if record.has("_id") { "_id" } else { "id" })?
                    .to_string(),
                passage: paragraphs(record)?,
                question: record.text("question")?.trim().to_string(),
                response: format!("\n#### {answer}"),
                answer: Some(Answer::Exact {
                    answer: answer.to_string(),
                    also: Vec::new(),
                    by: Comparison::HotpotQa,
                }),
                worked: None,
            }
            .add_to(loaded, row, official);
            Ok(())
        },
    )
}

/// The ten paragraphs, a line each, after their titles: pairs of title and sentences, or the hub's two lists.
fn paragraphs(record: &Record) -> Result<String, Error> {
    let wrong = || {
        let problem = "field `context` must hold titles with their sentences, as [title, [sentence, ..]] or as lists \
                       `title` and `sentences`";
        record.fault(problem.into())
    };
    let context = record.field("context")?;
    let pairs: Vec<(&Value, &Value)> = match context {
        Value::Array(pairs) => pairs
            .iter()
            .map(|pair| Some((pair.get(0)?, pair.get(1)?)))
            .collect::<Option<_>>(),
        columns => columns
            .get("title")
            .and_then(Value::as_array)
            .zip(columns.get("sentences").and_then(Value::as_array))
            .map(|(titles, sentences)| titles.iter().zip(sentences).collect()),
    }
    .ok_or_else(wrong)?;
    let line = |(title, sentences): (&Value, &Value)| {
        let sentences: Option<Vec<&str>> =
            sentences.as_array()?.iter().map(Value::as_str).collect();
        let sentences = sentences?.iter().map(|s| s.trim()).collect::<Vec<_>>();
        Some(format!("{}: {}", title.as_str()?, sentences.join(" ")))
    };
    let lines: Option<Vec<String>> = pairs.into_iter().map(line).collect();
    Ok(lines.ok_or_else(wrong)?.join("\n"))
}

/// DROP: `drop_dataset_train.json` and `drop_dataset_dev.json` in AI2's form (passages with their questions),
/// `drop_v0_dev.jsonl` in that of simple-evals, or the hub's columns. Ids are hashes of passage and question, for the
/// forms have no other in common. The contrast sets are another evaluation and not read.
///
/// The hub's copy is poorer than AI2's files: 9 questions of train and 1 of dev are left out, and a question of dev has
/// the answers of those who validated it only, those of several spans a span each.
pub(crate) fn drop(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let files = [
        part("train", &["drop_dataset_train.json"], TRAIN),
        part("dev", &["drop_dataset_dev.json", "drop_v0_dev.jsonl"], DEV),
    ];
    let mut times: BTreeMap<u64, usize> = BTreeMap::new();
    read_splits(
        row,
        places,
        &files,
        Read::Files(read_drop),
        |loaded, official, record| {
            let (passage, question, answers) = match record.has("ref_text") {
                true => simple_evals(record)?,
                false => (
                    record.text("passage")?.trim().to_string(),
                    record.text("question")?.trim().to_string(),
                    spans(record, official)?,
                ),
            };
            let mut answers = answers
                .into_iter()
                .filter(|answer| !answer.trim().is_empty());
            let Some(answer) = answers.next() else {
                return Err(record.fault("no answer: a number, a span or a date is needed".into()));
            };
            let mut also: Vec<String> = answers.filter(|other| *other != answer).collect();
            also.dedup();
            let hash = id_hash(&format!("{passage}\n{question}"));
            let time = times.entry(hash).or_default();
            *time += 1;
            Question {
                id: match time {
                    1 => format!("{hash:016x}"),
                    n => format!("{hash:016x}-{n}"),
                },
                passage,
                question,
                response: format!("\n#### {answer}"),
                answer: Some(Answer::Exact {
                    answer,
                    also,
                    by: Comparison::Drop,
                }),
                worked: None,
            }
            .add_to(loaded, row, official);
            Ok(())
        },
    )
}

/// The right answers in the hub's columns. A training question has one there, whose spans stand apart; AI2's form, which
/// [`read_drop`] brings into these columns without `types`, has whole answers.
fn spans(record: &Record, official: &str) -> Result<Vec<String>, Error> {
    let spans = record.texts("answers_spans.spans")?;
    match official == "train" && record.has("answers_spans.types") {
        true => Ok(vec![spans.join(" and ")]),
        false => Ok(spans),
    }
}

/// `context` (`Passage: ..\nQuestion: ..\nAnswer:`) and `ref_text` (answers apart by `|`).
fn simple_evals(record: &Record) -> Result<(String, String, Vec<String>), Error> {
    let context = record.text("context")?;
    let (passage, rest) = context
        .strip_prefix("Passage: ")
        .and_then(|context| context.rsplit_once("\nQuestion: "))
        .ok_or_else(|| {
            record.fault("field `context` must be `Passage: ..` and `Question: ..`".into())
        })?;
    let question = rest.strip_suffix("\nAnswer:").unwrap_or(rest);
    let answers = record.text("ref_text")?.split('|').map(str::to_string);
    Ok((
        passage.trim().to_string(),
        question.trim().to_string(),
        answers.collect(),
    ))
}

/// The records of a file; AI2's form, one object of passages, becomes a record a question in the hub's columns.
fn read_drop(path: &Path) -> Result<Vec<Record>, Error> {
    if ending(path) != Some("json") {
        return read_records(path);
    }
    let fault = |problem: String| Error::content(path, None, problem);
    let passages: BTreeMap<String, Value> = serde_json::from_str(&read_text(path)?)
        .map_err(|e| fault(format!("not JSON ({e}); if it is cut off, fetch it again")))?;
    let mut records = Vec::new();
    for (name, entry) in &passages {
        let (Some(passage), Some(pairs)) = (
            entry.get("passage").and_then(Value::as_str),
            entry.get("qa_pairs").and_then(Value::as_array),
        ) else {
            return Err(fault(format!(
                "passage `{name}` must have `passage` and `qa_pairs`"
            )));
        };
        for pair in pairs {
            let more = pair.get("validated_answers").and_then(Value::as_array);
            let spans: Vec<String> = pair
                .get("answer")
                .into_iter()
                .chain(more.into_iter().flatten())
                .filter_map(one_answer)
                .collect();
            let value = json!({
                "passage": passage,
                "question": pair.get("question"),
                "answers_spans": { "spans": spans },
            });
            records.push(Record::new(path, At::Record(records.len() + 1), value));
        }
    }
    Ok(records)
}

/// An answer in AI2's form as text: its number, its spans, or its date; None when it has none of these.
fn one_answer(answer: &Value) -> Option<String> {
    let text = |name: &str| answer.get(name)?.as_str().filter(|text| !text.is_empty());
    if let Some(number) = text("number") {
        return Some(number.to_string());
    }
    let spans = answer.get("spans").and_then(Value::as_array);
    let spans: Vec<&str> = spans
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !spans.is_empty() {
        return Some(spans.join(" and "));
    }
    let date = answer.get("date")?;
    let parts = ["day", "month", "year"].map(|part| date.get(part).and_then(Value::as_str));
    let parts: Vec<&str> = parts
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
        .collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}
