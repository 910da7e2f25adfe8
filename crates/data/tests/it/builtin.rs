//! The built-in generators: right, disjoint, repeatable and short.

mod recall;
mod solvers;
mod thoughts;

use std::collections::{BTreeMap, BTreeSet};

use data::builtin::{Strategy, Trace, documents, items, texts, traces, validate};
use data::{Answer, Document, Family, Split, extract_answer, same_answer};

use solvers::{question, solved};

/// `34` in `id/key#34`, and the key.
fn key(id: &str) -> &str {
    let (_, key) = id.split_once('/').unwrap();
    key.rsplit_once('#').unwrap().0
}

fn trace_key(trace: &Trace) -> &str {
    key(&trace.id).rsplit_once('/').unwrap().0
}

const SOLVABLE: [Family; 3] = [Family::Maths, Family::Code, Family::Qa];

#[test]
fn documents_are_a_function_of_seed_and_index() {
    for family in Family::ALL {
        let many = documents(family, 5, 40);
        assert_eq!(many[..10], documents(family, 5, 10)[..]);
        assert_ne!(many, documents(family, 6, 40));
        assert!(many.iter().all(|document| document.family == family));
        let different: BTreeSet<&str> =
            many.iter().map(|document| document.text.as_str()).collect();
        assert!(different.len() >= 38, "{family:?} repeats itself");
    }
    assert_eq!(texts(5, 30)[..7], texts(5, 7)[..]);
    assert_eq!(
        items(Family::Code, 5, 30)[..7],
        items(Family::Code, 5, 7)[..]
    );
    assert_eq!(
        traces(Strategy::Mece, 5, 30, true)[..7],
        traces(Strategy::Mece, 5, 7, true)[..]
    );
}

#[test]
fn documents_end_in_the_answer_that_an_independent_solver_finds() {
    for family in SOLVABLE {
        for document in documents(family, 11, 1500) {
            let right = solved(family, question(&document.text));
            let found = match document.text.contains("\nChoices:") {
                true => document
                    .text
                    .rsplit_once("Answer: ")
                    .map(|(_, answer)| answer.to_string()),
                false => extract_answer(&document.text),
            };
            assert!(
                same_answer(&found.unwrap(), &right),
                "{} != {right}",
                document.text
            );
        }
    }
}

#[test]
fn items_have_the_answer_that_an_independent_solver_finds() {
    for family in SOLVABLE {
        for item in items(family, 11, 900) {
            let right = solved(family, question(&item.prompt));
            match &item.answer {
                Answer::Exact { answer, .. } => assert_eq!(*answer, right, "{}", item.prompt),
                Answer::Program { .. } => panic!("nothing built in needs a sandbox"),
                Answer::Choice { options, gold } => {
                    assert_eq!(options[*gold], format!(" {right}"), "{}", item.prompt)
                }
            }
        }
    }
}

#[test]
fn items_are_different_and_no_two_splits_share_a_problem() {
    assert!(items(Family::Language, 1, 10).is_empty());
    for family in [Family::Maths, Family::Code, Family::Qa, Family::Commonsense] {
        let made = items(family, 3, 1200);
        assert_eq!(made.len(), 1200, "{family:?} runs out");
        let prompts: BTreeSet<&str> = made.iter().map(|item| item.prompt.as_str()).collect();
        let ids: BTreeSet<&str> = made.iter().map(|item| item.id.as_str()).collect();
        assert_eq!((prompts.len(), ids.len()), (1200, 1200));
        let mut splits: BTreeMap<&str, Split> = BTreeMap::new();
        let mut sizes: BTreeMap<Split, usize> = BTreeMap::new();
        for item in &made {
            assert_eq!(item.split, Split::deal(&item.id));
            assert_eq!(
                *splits.entry(key(&item.id)).or_insert(item.split),
                item.split
            );
            *sizes.entry(item.split).or_default() += 1;
            assert!(item.prompt.ends_with("\nAnswer:"));
        }
        assert!(!sizes.contains_key(&Split::Train));
        assert!(
            sizes.len() == 3 && sizes.values().all(|&size| size >= 240),
            "{family:?}: {sizes:?}"
        );
    }
}

#[test]
fn choices_are_two_to_four_different_options_with_their_space() {
    let mut golds = [0usize; 4];
    for family in [Family::Qa, Family::Commonsense] {
        for item in items(family, 4, 600) {
            let Answer::Choice { options, gold } = item.answer else {
                assert_eq!(family, Family::Qa);
                continue;
            };
            let different: BTreeSet<&String> = options.iter().collect();
            assert!((2..=4).contains(&options.len()) && different.len() == options.len());
            assert!(
                options
                    .iter()
                    .all(|option| option.starts_with(' ') && option.len() > 1)
            );
            let shown: Vec<&str> = options.iter().map(|option| option.trim()).collect();
            assert!(
                item.prompt
                    .contains(&format!("\nChoices: {}\nAnswer:", shown.join("; ")))
            );
            golds[gold] += 1;
        }
    }
    assert!(
        golds[0] > 200 && golds[1] > 200 && golds[2] > 80 && golds[3] > 20,
        "{golds:?}"
    );
}

#[test]
fn nothing_that_is_held_out_occurs_in_training_at_any_seed() {
    let mut trained = BTreeSet::new();
    let mut prompts = BTreeSet::new();
    for family in Family::ALL {
        for document in (1..4).flat_map(|seed| documents(family, seed, 1500)) {
            trained.insert(key(&document.id).to_string());
            prompts.insert(document.text.split("\nAnswer:").next().unwrap().to_string());
        }
    }
    for strategy in Strategy::ALL {
        for trace in (1..3).flat_map(|seed| traces(strategy, seed, 400, false)) {
            assert!(!trace.held_out);
            trained.insert(trace_key(&trace).to_string());
        }
    }
    assert!(trained.len() > 5000);
    for family in Family::ALL {
        for item in items(family, 7, 1000) {
            assert!(!trained.contains(key(&item.id)), "{}", item.id);
            assert!(!prompts.contains(item.prompt.strip_suffix("\nAnswer:").unwrap()));
        }
    }
    for text in texts(7, 2000) {
        assert!(!trained.contains(key(&text.id)), "{}", text.id);
    }
    for strategy in Strategy::ALL {
        for trace in traces(strategy, 7, 400, true) {
            assert!(trace.held_out);
            assert!(!trained.contains(trace_key(&trace)), "{}", trace.id);
        }
    }
}

#[test]
fn every_held_out_fact_of_the_small_world_is_told_as_a_statement() {
    let told: String = documents(Family::Commonsense, 2, 3000)
        .into_iter()
        .map(|document| document.text + "\n")
        .collect();
    let mut facts = 0;
    for item in items(Family::Commonsense, 2, 600) {
        let Answer::Choice { options, gold } = &item.answer else {
            panic!("commonsense is asked by choice")
        };
        let asked = question(&item.prompt);
        let right = options[*gold].trim();
        let (statement, shown) = match asked.strip_prefix("What is the opposite of ") {
            Some(x) => (
                format!("The opposite of {} is {right}.", x.trim_end_matches('?')),
                true,
            ),
            None => match asked.strip_prefix("What comes after ") {
                Some(x) => (
                    format!("After {} comes {right}.", x.trim_end_matches('?')),
                    true,
                ),
                None => (String::new(), false),
            },
        };
        if shown {
            facts += 1;
            assert!(told.contains(&statement), "never told: {statement}");
            assert!(
                !told.contains(&format!("Question: {asked}")),
                "asked in training: {asked}"
            );
        }
    }
    assert!(facts > 30, "{facts}");
}

#[test]
fn comparisons_never_contradict_what_training_says() {
    let mut larger: BTreeSet<(String, String)> = BTreeSet::new();
    for document in documents(Family::Commonsense, 2, 3000) {
        for sentence in document.text.split_inclusive('.') {
            let words: Vec<&str> = sentence.trim().trim_end_matches('.').split(' ').collect();
            if let ["A" | "An", one, "is", more, "than", "a" | "an", other] = words[..] {
                let more = more
                    .replace("smaller", "<bigger")
                    .replace("slower", "<faster")
                    .replace("lighter", "<heavier");
                let (low, high) = if more.starts_with('<') {
                    (one, other)
                } else {
                    (other, one)
                };
                let scale = more.trim_start_matches('<');
                larger.insert((format!("{scale} {low}"), format!("{scale} {high}")));
            }
        }
    }
    assert!(larger.len() > 150);
    for (low, high) in &larger {
        assert!(
            !larger.contains(&(high.clone(), low.clone())),
            "{low} against {high}"
        );
    }
    for item in items(Family::Commonsense, 9, 800) {
        let Answer::Choice { options, gold } = &item.answer else {
            panic!("commonsense is asked by choice")
        };
        let asked = question(&item.prompt);
        for scale in ["bigger", "faster", "heavier"]
            .into_iter()
            .filter(|scale| asked.contains(scale))
        {
            for option in options {
                let contradiction = (
                    format!("{scale}{}", options[*gold]),
                    format!("{scale}{option}"),
                );
                assert!(!larger.contains(&contradiction), "{contradiction:?}");
            }
        }
    }
}

/// Digits are tokens of their own, and so is about every word and mark.
fn estimated_tokens(text: &str) -> usize {
    let digits = text.chars().filter(char::is_ascii_digit).count();
    let marks = text
        .chars()
        .filter(|c| ".,?!:;\"+-*/=<>[]()#".contains(*c))
        .count();
    let words = text
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| !word.is_empty())
        .count();
    digits + marks + words
}

#[test]
fn documents_and_thoughts_are_short() {
    for family in Family::ALL {
        let lengths: Vec<usize> = documents(family, 8, 500)
            .iter()
            .map(|document| estimated_tokens(&document.text))
            .collect();
        let mean = lengths.iter().sum::<usize>() / lengths.len();
        assert!((15..=80).contains(&mean), "{family:?}: mean {mean}");
        assert!(lengths.iter().all(|&length| length <= 120));
    }
    for strategy in Strategy::ALL {
        for trace in traces(strategy, 8, 300, false) {
            let body = validate(&trace.completion).unwrap().body;
            assert!(estimated_tokens(&body) <= 64, "{}", trace.completion);
        }
    }
}

#[test]
fn held_out_texts_come_from_every_family_and_every_split() {
    let made: Vec<Document> = texts(1, 600);
    for family in Family::ALL {
        let splits: BTreeSet<Split> = made
            .iter()
            .filter(|text| text.family == family)
            .map(Document::evaluation_split)
            .collect();
        assert_eq!(splits.len(), 3, "{family:?}");
    }
}
