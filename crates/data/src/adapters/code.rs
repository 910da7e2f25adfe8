//! CodeXGLUE: translation from Java to C# and text to code (CONCODE), the two tasks of it that teach to write programs.
//!
//! There are no items, only text: neither task comes with tests, and one reference program is not the only right one. The tasks that label, search, complete, mend or describe
//! code are left out.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{DEV, Part, Place, Question, Read, TEST, TRAIN, part, read_splits};
use crate::catalogue::Dataset;
use crate::error::{Error, Place as At};
use crate::files::{Record, ending, read_records, read_text};
use crate::record::Loaded;

const TRANSLATION: [Part; 3] = [
    part(
        "train",
        &["code-to-code-trans/train.java-cs.txt.java"],
        TRAIN,
    ),
    part("valid", &["code-to-code-trans/valid.java-cs.txt.java"], DEV),
    part("test", &["code-to-code-trans/test.java-cs.txt.java"], TEST),
];

/// The programs of the test split are not public.
const CONCODE: [Part; 2] = [
    part("train", &["text-to-code/concode/train.json"], TRAIN),
    part("valid", &["text-to-code/concode/dev.json"], DEV),
];

/// CodeXGLUE: both tasks, each from its own folder or repository.
pub(crate) fn codexglue(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let translation = task(
        row,
        places,
        ("code_to_code_trans", &TRANSLATION),
        |record| {
            Ok(Question {
                id: format!("java-cs/{}", record.position()),
                passage: String::new(),
                question: format!(
                    "Write this Java method in C#.\n{}",
                    record.text("java")?.trim()
                ),
                response: format!("\n{}", record.text("cs")?.trim()),
                answer: None,
                worked: None,
            })
        },
    );
    let concode = task(row, places, ("text_to_code", &CONCODE), |record| {
        let wanted = record.text("nl")?.replace(" concode_field_sep ", "\n");
        let wanted = wanted.replace(" concode_elem_sep ", "; ");
        Ok(Question {
            id: format!("concode/{}", record.position()),
            passage: String::new(),
            question: format!("Write a Java method of this class.\n{}", wanted.trim()),
            response: format!("\n{}", record.text("code")?.trim()),
            answer: None,
            worked: None,
        })
    });
    let mut loaded = match (translation, concode) {
        (Ok(mut all), Ok(more)) => {
            all.train.extend(more.train);
            all.texts.extend(more.texts);
            all.bytes += more.bytes;
            all.cached.extend(more.cached);
            all.local.extend(more.local);
            all.note = joined([all.note, more.note]);
            all
        }
        // One task is enough to go on with; what is wrong with the other, if it is there, is an error.
        (Ok(one), Err(Error::Missing { missing, .. }))
        | (Err(Error::Missing { missing, .. }), Ok(one)) => {
            let note = joined([one.note.clone(), format!("not there: {missing}")]);
            Loaded { note, ..one }
        }
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    loaded.note = joined([
        loaded.note,
        "held-out text only: no tests come with the programs".into(),
    ]);
    Ok(loaded)
}

/// One task, from the local folders and from the repository whose name holds `of`.
fn task(
    row: &Dataset,
    places: &[Place],
    (of, parts): (&str, &[Part]),
    question: impl Fn(&Record) -> Result<Question, Error>,
) -> Result<Loaded, Error> {
    let own = |place: &&Place| place.hub.is_none_or(|hub| hub.repository.contains(of));
    let own: Vec<Place> = places
        .iter()
        .filter(own)
        .map(|place| Place {
            path: place.path.clone(),
            hub: place.hub,
            homes: place.homes,
        })
        .collect();
    read_splits(
        row,
        &own,
        parts,
        Read::Files(read_pairs),
        |loaded, official, record| {
            question(record)?.add_to(loaded, row, official);
            Ok(())
        },
    )
}

/// The lines of `X.java` beside those of `X.cs`; any other file as it is.
fn read_pairs(path: &Path) -> Result<Vec<Record>, Error> {
    if ending(path).is_some() {
        return read_records(path);
    }
    let name = path.display().to_string();
    let other = PathBuf::from(name.replace(".txt.java", ".txt.cs"));
    let (java, sharp) = (read_text(path)?, read_text(&other)?);
    let (java, sharp): (Vec<&str>, Vec<&str>) = (java.lines().collect(), sharp.lines().collect());
    if java.len() != sharp.len() || java.is_empty() {
        let problem = format!(
            "{} lines where {} has {}; the two must be aligned, fetch both again",
            sharp.len(),
            path.display(),
            java.len()
        );
        return Err(Error::content(&other, None, problem));
    }
    let pair = |(i, (java, cs)): (usize, (&&str, &&str))| {
        Record::new(path, At::Line(i + 1), json!({ "java": java, "cs": cs }))
    };
    Ok(java.iter().zip(&sharp).enumerate().map(pair).collect())
}

fn joined(notes: impl IntoIterator<Item = String>) -> String {
    let notes: Vec<String> = notes.into_iter().filter(|note| !note.is_empty()).collect();
    notes.join("; ")
}
