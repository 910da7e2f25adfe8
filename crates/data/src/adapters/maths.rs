//! ASDiv: 2,305 word problems of six grades, in the authors' XML or, the 1,218 of ASDiv-A, in the hub's columns.
//!
//! The authors cut the set into five folds; folds 0 to 3 are trained on and fold 4 is held out, as the whole set's fold
//! list (`asdiv-w`) has it. The fold is known by the problem's number, so that both forms are split alike.
//!
//! SVAMP's csv of MAWPS and ASDiv-A is not read anywhere: it would train on what is held out here.

use super::{Part, Place, Question, Read, exact, part, read_splits};
use crate::catalogue::Dataset;
use crate::error::Error;
use crate::files::xml::read_elements;
use crate::files::{Record, ending, read_records};
use crate::record::Loaded;

const FILES: [Part; 1] = [part("all", &["ASDiv.xml"], &[])];

/// ASDiv: `ASDiv.xml`, or Parquet with `id`, `question`, `result` and `chain`.
pub(crate) fn asdiv(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let read = |path: &std::path::Path| match ending(path) {
        Some(_) => read_records(path),
        None => read_elements(path, "Problem"),
    };
    read_splits(
        row,
        places,
        &FILES,
        Read::Files(read),
        |loaded, _, record| {
            let (id, number) = number_of(record)?;
            let official = if in_fold_4(number) { "test" } else { "train" };
            let published = record.has("Body");
            let (question, answer, step) = match published {
                true => published_form(record)?,
                false => hub_form(record)?,
            };
            let worked = step
                .clone()
                .map(|step| (Vec::new(), vec![step], answer.clone()));
            let step = step.map_or(String::new(), |step| format!(" {step}"));
            Question {
                id,
                passage: String::new(),
                question,
                response: format!("{step}\n#### {answer}"),
                answer: Some(exact(&answer)),
                worked,
            }
            .add_to(loaded, row, official);
            Ok(())
        },
    )
}

/// `nluds-0001`, which the hub's ids end in, and its number.
fn number_of(record: &Record) -> Result<(String, usize), Error> {
    let whole = record.text(if record.has("ID") { "ID" } else { "id" })?;
    let number = whole
        .rfind("nluds-")
        .map(|at| &whole[at..])
        .and_then(|id| Some((id, id.strip_prefix("nluds-")?.parse().ok()?)))
        .filter(|(_, number)| (1..=2305).contains(number));
    number
        .map(|(id, number)| (id.to_string(), number))
        .ok_or_else(|| {
            record.fault(format!(
                "the id is `{whole}`, allowed are nluds-0001 to nluds-2305, by which the folds go"
            ))
        })
}

/// Question, answer without its unit, and the formula as a worked step.
fn published_form(record: &Record) -> Result<(String, String, Option<String>), Error> {
    let (body, question) = (record.text("Body")?, record.text("Question")?);
    let answer = record.text("Answer")?;
    let bare = answer
        .split_once('(')
        .map_or(answer, |(bare, _)| bare)
        .trim();
    let bare = if bare.is_empty() { answer } else { bare };
    let formula = record.text_or("Formula", "");
    // Some formulas give a remainder or hold notes; only those that end in the answer are a worked step.
    let ends = formula
        .rsplit_once('=')
        .is_some_and(|(_, right)| right.trim() == bare);
    let step = ends.then(|| formula.to_string());
    Ok((format!("{body} {question}"), bare.to_string(), step))
}

/// The same from the hub's columns: the chain's operations between its tags, one a line.
fn hub_form(record: &Record) -> Result<(String, String, Option<String>), Error> {
    let answer = record.text("result")?.trim();
    let chain = record.text_or("chain", "");
    let steps: Vec<String> = chain
        .split("<gadget id=\"calculator\">")
        .skip(1)
        .filter_map(|piece| {
            let (left, rest) = piece.split_once("</gadget>")?;
            let right = rest.split_once("<output>")?.1.split_once("</output>")?.0;
            Some(format!("{} = {}", left.trim(), right.trim()))
        })
        .collect();
    let step = (!steps.is_empty()).then(|| steps.join("\n"));
    let question = record.text("question")?.trim().to_string();
    Ok((question, answer.to_string(), step))
}

/// Whether a problem, by its number from 1 to 2305, is in fold 4.
fn in_fold_4(number: usize) -> bool {
    let bit = number - 1;
    FOLD_4[bit / 64] >> (bit % 64) & 1 == 1
}

/// A bit a problem, in the order of their numbers, the lowest bit first.
#[rustfmt::skip]
const FOLD_4: [u64; 37] = [
    0x0000000000000000, 0x0000000000000000, 0x0040001000000000, 0x00080001fa200000,
    0x0100020000f80000, 0x0000000000010001, 0xff02a00000000000, 0x00000000000007ff,
    0x00000000000f0c00, 0x140a080f4bfc4e00, 0x98101a08010000b7, 0x22a04401ffa00032,
    0x8000022849ff5408, 0xd04410020000801f, 0x0e870143dbd40000, 0x0004a9eb97400000,
    0xb2f80001fc000000, 0x003ffc90203cccd0, 0x1ff0000550000000, 0x0003f00080000000,
    0x000001fe000014b2, 0x0000004a420040c0, 0xaa80a90000ffc000, 0xc01ffc8400002aaa,
    0x00007e0824940080, 0x00000555540001a0, 0x001f922840551490, 0x0208104020208809,
    0x0000010080004190, 0xa52652aaa5612940, 0x82e8a800012b5554, 0x20000694c3c5ca81,
    0x05017555552c0400, 0x951354b4aaaaa958, 0x552ad10400202155, 0x56aaa55956b4ccad,
    0x0000000000000001,
];
