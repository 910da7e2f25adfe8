//! The built-in generators: small but real tasks that are written here and need no files and no network.
//!
//! Five families, one data set each (`builtin_maths`, `builtin_code`, `builtin_qa`, `builtin_commonsense`,
//! `builtin_language`), and the reasoning traces of Phase 3. Everything is a function of (seed, index): the
//! families are endless, and the same seed gives the same text anywhere. Meant for models of 0.1-6 million
//! parameters with vocabularies of 512-1,024 tokens, so the lexicon is small, numbers lie mostly in 0-99, and
//! a document has 20-80 tokens.
//!
//! Training and evaluation never share a problem. Each problem has a *key* that names its parameters without
//! names and wording; one key in four, by hash and whatever the seed, is held out (`draw.rs`). For stories the
//! key is the template (the tuple of sentence patterns), for commonsense see `commonsense.rs`. Evaluation items
//! and held-out texts have the id `data set/key#number`, and [`Split::deal`] puts the number aside: the three
//! evaluation splits share no problem either. What is kept out are problems, not sums: 34 + 28 may still occur as
//! one step among others of a training problem.
//!
//! Text has the form of the other data sets: `Question: ...\nAnswer: worked steps\n#### 42`, or with choices
//! `Question: ...\nChoices: a; b\nAnswer: b`.

mod code;
mod commonsense;
mod computation;
mod draw;
mod language;
mod lexicon;
mod maths;
mod qa;
mod recall;
mod strategy;
mod tasks;
mod thought;
mod traces;
mod worked;

use std::collections::BTreeSet;

use crate::{Answer, Comparison, Document, Family, Item, Split};
use draw::{Draw, held_out};

pub use recall::{Facts, Recall, recall};
pub use strategy::{SPECIAL_TOKENS, Strategy};
pub use thought::{ParsedThought, TraceFault, check_computation, validate, well_formed};
pub use traces::{Trace, traces};
pub use worked::from_worked_solutions;

/// How many problems are drawn in vain before a generator is taken to be exhausted.
const PATIENCE: usize = 2_000;

/// One problem before it becomes a document or an item.
struct Exercise {
    key: String,
    question: String,
    /// The steps that lead to the answer; empty when the answer is one of `choices`.
    worked: String,
    answer: String,
    choices: Vec<String>,
}

impl Exercise {
    fn exact(key: String, question: String, worked: String, answer: impl ToString) -> Self {
        Exercise {
            key,
            question,
            worked,
            answer: answer.to_string(),
            choices: Vec::new(),
        }
    }

    fn choice(key: String, question: String, answer: &str, choices: Vec<String>) -> Self {
        Exercise {
            key,
            question,
            worked: String::new(),
            answer: answer.to_string(),
            choices,
        }
    }

    fn prompt(&self) -> String {
        if self.choices.is_empty() {
            format!("Question: {}\nAnswer:", self.question)
        } else {
            format!(
                "Question: {}\nChoices: {}\nAnswer:",
                self.question,
                self.choices.join("; ")
            )
        }
    }

    fn text(&self) -> String {
        if self.choices.is_empty() {
            format!("{} {}\n#### {}", self.prompt(), self.worked, self.answer)
        } else {
            format!("{} {}", self.prompt(), self.answer)
        }
    }
}

/// One text with the key that decides on which side it lies.
struct Line {
    key: String,
    text: String,
}

/// The data set's id of a family: `builtin_maths` and so on.
pub fn dataset(family: Family) -> &'static str {
    match family {
        Family::Maths => "builtin_maths",
        Family::Code => "builtin_code",
        Family::Qa => "builtin_qa",
        Family::Commonsense => "builtin_commonsense",
        Family::Language => "builtin_language",
    }
}

/// `count` training documents of one family.
pub fn documents(family: Family, seed: u64, count: usize) -> Vec<Document> {
    let purpose = format!("{}/documents", dataset(family));
    (0..count)
        .map(|index| document(family, &mut Draw::new(seed, &purpose, index), false, index))
        .collect()
}

/// `count` held-out texts for bits per byte, the five families in turn. No key of theirs occurs in training.
pub fn texts(seed: u64, count: usize) -> Vec<Document> {
    (0..count)
        .map(|index| {
            let family = Family::ALL[index % Family::ALL.len()];
            let purpose = format!("{}/texts", dataset(family));
            document(family, &mut Draw::new(seed, &purpose, index), true, index)
        })
        .collect()
}

/// At most `count` different held-out items of one family, each with its split; none for language. Fewer only
/// when the family's held-out problems run out (commonsense has some thousands).
pub fn items(family: Family, seed: u64, count: usize) -> Vec<Item> {
    if family == Family::Language {
        return Vec::new();
    }
    let purpose = format!("{}/items", dataset(family));
    let mut seen = BTreeSet::new();
    let mut made = Vec::new();
    let mut misses = 0;
    for index in 0.. {
        if made.len() == count || misses == PATIENCE {
            break;
        }
        let exercise = exercise(family, &mut Draw::new(seed, &purpose, index), true);
        if seen.insert(exercise.prompt()) {
            made.push(item(family, exercise, index));
            misses = 0;
        } else {
            misses += 1;
        }
    }
    made
}

fn item(family: Family, exercise: Exercise, index: usize) -> Item {
    let (id, prompt) = (id(family, &exercise.key, index), exercise.prompt());
    let answer = if exercise.choices.is_empty() {
        Answer::Exact {
            answer: exercise.answer,
            also: Vec::new(),
            by: Comparison::Value,
        }
    } else {
        let gold = exercise
            .choices
            .iter()
            .position(|option| *option == exercise.answer)
            .expect("the answer is one of the choices");
        Answer::Choice {
            options: exercise
                .choices
                .iter()
                .map(|option| format!(" {option}"))
                .collect(),
            gold,
        }
    };
    Item {
        dataset: dataset(family).to_string(),
        family,
        split: Split::deal(&id),
        id,
        prompt,
        answer,
    }
}

fn id(family: Family, key: &str, index: usize) -> String {
    format!("{}/{key}#{index}", dataset(family))
}

fn document(family: Family, draw: &mut Draw, held: bool, index: usize) -> Document {
    let Line { key, text } = match family {
        Family::Language => on_side(held, || language::story(draw), |line| &line.key),
        Family::Commonsense if !held && draw.below(2) == 0 => commonsense::statements(draw),
        _ => {
            let exercise = exercise(family, draw, held);
            Line {
                text: exercise.text(),
                key: exercise.key,
            }
        }
    };
    Document {
        dataset: dataset(family).to_string(),
        family,
        id: id(family, &key, index),
        text,
        loss: Vec::new(),
    }
}

/// A problem of the family on the asked side.
fn exercise(family: Family, draw: &mut Draw, held: bool) -> Exercise {
    let make = || match family {
        Family::Maths => maths::exercise(draw),
        Family::Code => code::exercise(draw),
        Family::Qa => qa::exercise(draw),
        Family::Commonsense => commonsense::exercise(draw),
        Family::Language => unreachable!("language has no problems"),
    };
    on_side(held, make, |exercise| &exercise.key)
}

/// Draws until the key lies on the asked side (each try succeeds with probability 1/4 or 3/4).
fn on_side<T>(held: bool, mut make: impl FnMut() -> T, key: impl Fn(&T) -> &str) -> T {
    for _ in 0..PATIENCE {
        let made = make();
        if held_out(key(&made)) == held {
            return made;
        }
    }
    panic!(
        "{PATIENCE} draws and none on the {} side",
        if held { "held-out" } else { "training" }
    );
}
