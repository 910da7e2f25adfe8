//! Recall: facts that are given early and asked for late, with stories between, to see what a memory is worth.
//!
//! No data set of a run is made of these; they are for experiments, in which the distance between a fact and its
//! question is the point. What a person keeps is drawn anew for every text, so nothing but the text can tell.

use super::draw::Draw;
use super::language::{self, THINGS};
use super::lexicon::PEOPLE;

/// A text in parts, so that answers can be told from the rest after tokenization.
#[derive(Clone, Debug, PartialEq)]
pub struct Recall {
    /// The parts in their order, each with whether it is an answer.
    pub parts: Vec<(String, bool)>,
}

/// Where the facts of a text stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facts {
    /// Anywhere, with a question after each story: what a model learns from.
    Anywhere,
    /// All at the beginning, all questions at the end: the longest way.
    First,
    /// As [`Facts::First`], but another text's: the answers stay, what was given is not what is asked for.
    OthersFirst,
}

/// The text `index` of a seed, with so many facts and stories. Nothing else differs between the ways to place facts of
/// one index, but for questions in the middle.
///
/// # Panics
/// More facts than there are people (12).
#[track_caller]
pub fn recall(seed: u64, index: usize, facts: usize, stories: usize, place: Facts) -> Recall {
    assert!(
        facts <= PEOPLE.len(),
        "{facts} facts, {} people",
        PEOPLE.len()
    );
    let known = known(&mut Draw::new(seed, "recall/facts", index), facts);
    let told = match place {
        Facts::OthersFirst => self::known(&mut Draw::new(seed, "recall/others", index), facts),
        Facts::Anywhere | Facts::First => known.clone(),
    };
    let mut draw = Draw::new(seed, "recall/stories", index);
    let mut slots: Vec<usize> = (0..facts)
        .map(|_| match place {
            Facts::Anywhere => draw.below(stories.max(1)),
            Facts::First | Facts::OthersFirst => 0,
        })
        .collect();
    slots.sort_unstable();
    let mut parts = Vec::new();
    let mut given = 0;
    for story in 0..stories.max(1) {
        while given < facts && slots[given] == story {
            let (name, thing) = told[given];
            parts.push((format!("{name} keeps the {thing}.\n"), false));
            given += 1;
        }
        if stories > 0 {
            parts.push((language::story(&mut draw).text + "\n", false));
        }
        if place == Facts::Anywhere && given > 0 {
            ask(known[draw.below(given)], &mut parts);
        }
    }
    draw.several(&known, facts)
        .into_iter()
        .for_each(|fact| ask(fact, &mut parts));
    Recall { parts }
}

/// Who keeps what: all different.
fn known(draw: &mut Draw, facts: usize) -> Vec<(&'static str, &'static str)> {
    let people = draw.several(&PEOPLE, facts);
    let things = draw.several(&THINGS, facts);
    (people.iter().map(|p| p.name)).zip(things).collect()
}

fn ask((name, thing): (&str, &str), parts: &mut Vec<(String, bool)>) {
    parts.push((format!("What does {name} keep? The"), false));
    parts.push((format!(" {thing}"), true));
    parts.push((".\n".into(), false));
}
