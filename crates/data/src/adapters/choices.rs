//! Everyday knowledge: PIQA, HellaSwag and BoolQ.
//!
//! Prompts and options are those of lm-evaluation-harness, stray spaces included, so that its figures come out: PIQA asks
//! for a goal, HellaSwag's context is simply gone on with, BoolQ's passage stands before its question. The records have no ids on the hub, so an id is the record's place in its
//! file, whose order is the publisher's in every copy. Test splits have no public labels and are not read.

use std::path::{Path, PathBuf};

use super::{DEV, Place, Question, Read, TRAIN, add, part, read_splits};
use crate::catalogue::Dataset;
use crate::error::Error;
use crate::files::{Record, ending, read_records, read_text};
use crate::record::{Answer, Loaded};

/// PIQA: `train.jsonl` and `valid.jsonl` with their labels in `train-labels.lst` and `valid-labels.lst`; on the hub the
/// label is a column.
pub(crate) fn piqa(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let files = [
        part("train", &["train.jsonl"], TRAIN),
        part("valid", &["valid.jsonl"], DEV),
    ];
    read_splits(
        row,
        places,
        &files,
        Read::Files(read_labelled),
        |loaded, official, record| {
            let solution = |name: &str| Ok(format!(" {}", record.text(name)?));
            let options = vec![solution("sol1")?, solution("sol2")?];
            let gold = record.index("label", options.len())?;
            Question {
                id: record.position().to_string(),
                passage: String::new(),
                question: record.text("goal")?.to_string(),
                response: options[gold].trim_end().to_string(),
                answer: Some(Answer::Choice { options, gold }),
                worked: None,
            }
            .add_to(loaded, row, official);
            Ok(())
        },
    )
}

/// The records of `NAME.jsonl` with the lines of `NAME-labels.lst` as their labels, where they have none themselves.
fn read_labelled(path: &Path) -> Result<Vec<Record>, Error> {
    let mut records = read_records(path)?;
    if ending(path) != Some("jsonl") || records.iter().all(|record| record.has("label")) {
        return Ok(records);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.split(".jsonl").next().unwrap_or_default();
    let labels: PathBuf = path.with_file_name(format!("{stem}-labels.lst"));
    let text = read_text(&labels)?;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    if lines.len() != records.len() {
        let problem = format!(
            "{} labels for the {} records of {name}; one is cut off, fetch both again",
            lines.len(),
            records.len()
        );
        return Err(Error::content(&labels, None, problem));
    }
    for (record, label) in records.iter_mut().zip(lines) {
        record.set("label", label.into());
    }
    Ok(records)
}

/// HellaSwag: `hellaswag_train.jsonl`, `hellaswag_val.jsonl`; four endings of a context that opens with its activity.
pub(crate) fn hellaswag(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let files = [
        part("train", &["hellaswag_train.jsonl"], TRAIN),
        part(
            "val",
            &["hellaswag_val.jsonl", "derived_hellaswag_val.jsonl"],
            DEV,
        ),
    ];
    read_splits(
        row,
        places,
        &files,
        Read::Records,
        |loaded, official, record| {
            // `ctx` is the two parts joined; the harness opens the second, a sentence begun, with a capital.
            let context = match record.text_or("ctx_b", "") {
                "" => record.text("ctx")?.to_string(),
                begun => format!("{} {}", record.text("ctx_a")?, capitalised(begun)),
            };
            let context = match record.text_or("activity_label", "") {
                "" => without_marks(&context),
                activity => without_marks(&format!("{activity}: {context}")),
            };
            let endings = record.texts("endings")?;
            let options: Vec<String> = endings
                .iter()
                .map(|ending| format!(" {}", without_marks(ending)))
                .collect();
            let gold = record.index("label", options.len())?;
            let id = format!("{official}/{}", record.position());
            let response = options[gold].trim_end().to_string();
            let answer = Answer::Choice { options, gold };
            add(
                loaded,
                row,
                (official, id),
                context,
                (response, Some(answer)),
            );
            Ok(())
        },
    )
}

/// The first letter large, all others small, as Python's `capitalize`.
fn capitalised(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(char::to_uppercase).into_iter().flatten();
    first.chain(rest.as_str().to_lowercase().chars()).collect()
}

/// Takes out what WikiHow's headings left behind, as the harness does: `[title]` ends a sentence, anything else in
/// brackets goes, and a space that this leaves at an end stays.
fn without_marks(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut pieces = text.split('[');
    let first = pieces.next().unwrap_or_default().to_string();
    let all = pieces.fold(first, |all, piece| match piece.split_once(']') {
        Some((_, rest)) => all + rest,
        None => all + "[" + piece,
    });
    all.replace("  ", " ")
}

/// BoolQ: `train.jsonl`, `dev.jsonl`; yes or no on a passage. A training file of questions alone, in the instruction form
/// of LLM-Adapters, stands in where the passages are not at hand.
pub(crate) fn boolq(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let files = [
        part("train", &["train.jsonl"], TRAIN).or(&["llm_adapters_train_no_passage.json"]),
        part("dev", &["dev.jsonl"], DEV),
    ];
    let mut bare = 0;
    let mut loaded = read_splits(
        row,
        places,
        &files,
        Read::Records,
        |loaded, official, record| {
            let (passage, question, yes) = match record.has("passage") {
                true => (
                    record.text("passage")?.trim(),
                    record.text("question")?,
                    record.truth("answer")?,
                ),
                false => {
                    bare += 1;
                    let (question, yes) = instructed(record)?;
                    ("", question, yes)
                }
            };
            let question = question.trim().trim_end_matches('?');
            Question {
                id: record.position().to_string(),
                passage: passage.to_string(),
                question: format!("{question}?"),
                response: if yes { " yes" } else { " no" }.to_string(),
                answer: Some(Answer::Choice {
                    options: vec![" yes".into(), " no".into()],
                    gold: usize::from(!yes),
                }),
                worked: None,
            }
            .add_to(loaded, row, official);
            Ok(())
        },
    )?;
    if bare > 0 {
        loaded
            .lacking
            .push(format!("the passages of {bare} questions"));
    }
    Ok(loaded)
}

/// `Please answer the following question with true or false, question: ..?` with the answer `true` or `false`.
fn instructed(record: &Record) -> Result<(&str, bool), Error> {
    let instruction = record.text("instruction")?;
    let question = instruction
        .split_once("question: ")
        .map(|(_, rest)| rest.split("\n\n").next().unwrap_or(rest))
        .ok_or_else(|| {
            record.fault("field `instruction` must hold `question: ..`, found none".into())
        })?;
    let yes = match record.text("answer")? {
        "true" => true,
        "false" => false,
        other => {
            let problem = format!("field `answer` is `{other}`, allowed are true and false");
            return Err(record.fault(problem));
        }
    };
    Ok((question, yes))
}
