//! Question sets: GSM8K, SVAMP, StrategyQA, ARC, CommonsenseQA, MBPP.
//!
//! The text of a record is `Question: ...\nAnswer: ...`. Worked answers end in `\n#### 42`; a choice is judged by the
//! likelihood of each option after `Answer:`, so the options are not listed in the prompt. A record of an evaluation
//! split becomes an item and, under the same id, a held-out text.

mod strategyqa_dev;

use super::{DEV, Place, Question, Read, TEST, TRAIN, exact, judge, part, read_splits};
use crate::catalogue::Dataset;
use crate::error::Error;
use crate::files::Record;
use crate::record::{Answer, Loaded, id_hash};

/// GSM8K: `train.jsonl`, `test.jsonl` with `question` and a worked `answer`.
pub(crate) fn gsm8k(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let files = [
        part("train", &["train.jsonl"], TRAIN),
        part("test", &["test.jsonl"], TEST),
    ];
    read_splits(
        row,
        places,
        &files,
        Read::Records,
        |loaded, official, record| {
            let (worked, answer) = record.text("answer")?.rsplit_once("####").ok_or_else(|| {
            record.fault("field `answer` must end in a line `#### N`, found none; the file may be cut off".into())
        })?;
            let (worked, answer) = (without_marks(worked.trim()), answer.trim().replace(',', ""));
            Question {
                id: record.position().to_string(),
                passage: String::new(),
                question: record.text("question")?.trim().to_string(),
                response: format!(" {worked}\n#### {answer}"),
                answer: Some(exact(&answer)),
                worked: Some((
                    Vec::new(),
                    worked.lines().map(str::to_string).collect(),
                    answer,
                )),
            }
            .add_to(loaded, row, official);
            Ok(())
        },
    )
}

/// Removes the calculator's marks `<<48/2=24>>`.
fn without_marks(text: &str) -> String {
    let mut pieces = text.split("<<");
    let first = pieces.next().unwrap_or_default().to_string();
    pieces.fold(first, |all, piece| {
        all + piece.split_once(">>").map_or(piece, |(_, rest)| rest)
    })
}

/// SVAMP: `SVAMP.json`, 1,000 problems without a split; 700 for training and 300, by the hash of the id, for evaluation.
/// The csv of MAWPS and ASDiv-A beside it is not used: it would leak ASDiv.
pub(crate) fn svamp(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let files = [part("all", &["SVAMP.json"], &[])];
    read_splits(row, places, &files, Read::Records, |loaded, _, record| {
        let id = record.text("ID")?.to_string();
        let official = if svamp_is_held_out(&id) {
            "test"
        } else {
            "train"
        };
        let equation = tidy_equation(record.text("Equation")?);
        let answer = record.number_or_text("Answer")?.to_string();
        let step = format!("{equation} = {answer}");
        let question = joined(record.text("Body")?.trim(), record.text("Question")?.trim());
        Question {
            id,
            passage: String::new(),
            question,
            response: format!(" {step}\n#### {answer}"),
            answer: Some(exact(&answer)),
            worked: Some((Vec::new(), vec![step], answer)),
        }
        .add_to(loaded, row, official);
        Ok(())
    })
}

/// Exactly 300 of the published ids `chal-1` to `chal-1000`: those of the 300 lowest hashes.
fn svamp_is_held_out(id: &str) -> bool {
    id_hash(id) < SVAMP_HELD_OUT_BELOW
}

/// The 301st lowest hash of the published ids.
const SVAMP_HELD_OUT_BELOW: u64 = 0x4a75_d58f_8a32_9f28;

/// `( ( 3.0 + 4.0 ) - 2.0 )` as `(3 + 4) - 2`.
fn tidy_equation(equation: &str) -> String {
    let numbers = equation
        .split_whitespace()
        .map(|word| word.strip_suffix(".0").unwrap_or(word));
    let text = numbers
        .collect::<Vec<_>>()
        .join(" ")
        .replace("( ", "(")
        .replace(" )", ")");
    match text
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
    {
        Some(inner) => inner.to_string(),
        None => text,
    }
}

/// A body and its question; where the body ends without a stop, the question goes on its sentence.
fn joined(body: &str, question: &str) -> String {
    if !body.ends_with(char::is_alphanumeric) {
        return format!("{body} {question}");
    }
    let mut rest = question.chars();
    let first = rest.next().map(char::to_lowercase).into_iter().flatten();
    format!("{body}, {}{}", first.collect::<String>(), rest.as_str())
}

/// StrategyQA: `train.json`, `dev.json`; yes or no, with the facts that lead there after the answer. The hub's copy is cut
/// into other splits; the authors' 229 questions for development are known by their ids wherever they stand.
pub(crate) fn strategyqa(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let files = [
        part("train", &["train.json"], TRAIN),
        part("dev", &["dev.json"], DEV),
        // A split of the hub that the authors do not have.
        part("all", &[], TEST),
    ];
    let mut loaded = read_splits(
        row,
        places,
        &files,
        Read::Records,
        |loaded, split, record| {
            let id = record.text("qid")?.to_string();
            let official = match split {
                _ if strategyqa_dev::holds(&id) => "dev",
                "all" => "train",
                split => split,
            };
            let yes = record.truth("answer")?;
            let answer = if yes { "yes" } else { "no" };
            let facts = record.texts_or_text("facts")?;
            Question {
                id,
                passage: String::new(),
                question: record.text("question")?.trim().to_string(),
                response: format!(" {answer}\n{}", facts.join(" "))
                    .trim_end()
                    .to_string(),
                answer: Some(Answer::Choice {
                    options: vec![" yes".into(), " no".into()],
                    gold: usize::from(!yes),
                }),
                worked: Some((
                    record.texts_or_text("decomposition")?,
                    facts,
                    answer.to_string(),
                )),
            }
            .add_to(loaded, row, official);
            Ok(())
        },
    )?;
    if !loaded.texts.is_empty() && loaded.note == "not there: dev.json" {
        // They stood in another split.
        loaded.note.clear();
    }
    Ok(loaded)
}

/// ARC-Easy and ARC-Challenge: `train.jsonl`, `dev.jsonl`, `test.jsonl`.
pub(crate) fn arc(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let files = [
        part("train", &["train.jsonl"], TRAIN),
        part("dev", &["dev.jsonl"], DEV),
        part("test", &["test.jsonl"], TEST),
    ];
    read_splits(
        row,
        places,
        &files,
        Read::Records,
        |loaded, official, record| {
            choice(record)?.add_to(loaded, row, official);
            Ok(())
        },
    )
}

/// CommonsenseQA: `train_rand_split.jsonl`, `dev_rand_split.jsonl`; the test split has no public labels.
pub(crate) fn commonsenseqa(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let files = [
        part("train", &["train_rand_split.jsonl"], TRAIN),
        part("dev", &["dev_rand_split.jsonl"], DEV),
    ];
    read_splits(
        row,
        places,
        &files,
        Read::Records,
        |loaded, official, record| {
            choice(record)?.add_to(loaded, row, official);
            Ok(())
        },
    )
}

/// AI2's form: `id`, `question.stem`, `question.choices[].label/.text`, `answerKey`; on the hub `question` is the stem
/// and `choices` holds the two lists `label` and `text`.
fn choice(record: &Record) -> Result<Question, Error> {
    let key = record.text("answerKey")?;
    let published = record.has("question.stem");
    let stem = record.text(if published {
        "question.stem"
    } else {
        "question"
    })?;
    let choices: Vec<(String, String)> = if published {
        record.list("question.choices", |choice| {
            Ok((
                choice.text("label")?.to_string(),
                choice.text("text")?.to_string(),
            ))
        })?
    } else {
        let labels = record.texts("choices.label")?;
        labels
            .into_iter()
            .zip(record.texts("choices.text")?)
            .collect()
    };
    let gold = choices
        .iter()
        .position(|(label, _)| label == key)
        .ok_or_else(|| {
            let labels: Vec<&str> = choices.iter().map(|(label, _)| label.as_str()).collect();
            record.fault(format!(
                "field `answerKey` is `{key}`, the choices are {}",
                labels.join(", ")
            ))
        })?;
    let options: Vec<String> = choices
        .into_iter()
        .map(|(_, text)| format!(" {text}"))
        .collect();
    Ok(Question {
        id: record.text("id")?.to_string(),
        passage: String::new(),
        question: stem.to_string(),
        response: options[gold].trim_end().to_string(),
        answer: Some(Answer::Choice { options, gold }),
        worked: None,
    })
}

/// MBPP: `mbpp.jsonl`; tasks 601-974 train, 511-600 validation, 11-510 test, 1-10 are for few-shot prompts and unused.
/// An item's prompt names the tests, as the authors' does: the function's name stands nowhere else.
pub(crate) fn mbpp(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let files = [part("all", &["mbpp.jsonl"], &[])];
    read_splits(row, places, &files, Read::Records, |loaded, _, record| {
        let task = record.number("task_id")?;
        let official = match task as u64 {
            1..=10 => return Ok(()),
            11..=510 => "test",
            511..=600 => "validation",
            601..=974 => "train",
            _ => {
                return Err(
                    record.fault(format!("field `task_id` is {task}, allowed are 1 to 974"))
                );
            }
        };
        let wanted = record.text("text")?.trim();
        if official != "train" {
            let tests = unix_lines(&record.texts("test_list")?.join("\n"));
            let prompt =
                format!("Question: {wanted} Your code should pass these tests:\n{tests}\nAnswer:");
            let set_up = unix_lines(record.text_or("test_setup_code", ""));
            let check = format!("{set_up}\n{tests}\n").trim_start().to_string();
            let id = format!("{official}/{task}");
            judge(loaded, row, id, prompt, Answer::Program { check });
        }
        Question {
            id: task.to_string(),
            passage: String::new(),
            question: wanted.to_string(),
            response: format!("\n{}", unix_lines(record.text("code")?).trim_end()),
            answer: None,
            worked: None,
        }
        .add_to(loaded, row, official);
        Ok(())
    })
}

fn unix_lines(text: &str) -> String {
    text.replace("\r\n", "\n")
}
