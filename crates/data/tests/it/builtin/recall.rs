//! Texts that give facts and ask for them.

use data::builtin::{Facts, Recall, recall};
use std::collections::BTreeMap;

/// What is kept by whom, as the text gives it.
fn given(text: &Recall) -> BTreeMap<String, String> {
    let facts = text.parts.iter().filter_map(|(part, _)| {
        let (name, thing) = part.strip_suffix(".\n")?.split_once(" keeps the ")?;
        Some((name.to_string(), thing.to_string()))
    });
    facts.collect()
}

/// Names asked for, with the answers, and the number of parts before each question.
fn asked(text: &Recall) -> Vec<(usize, String, String)> {
    let questions = text.parts.windows(2).enumerate().filter_map(|(at, pair)| {
        let name = pair[0]
            .0
            .strip_prefix("What does ")?
            .strip_suffix(" keep? The")?;
        assert!(pair[1].1, "an answer follows");
        Some((at, name.to_string(), pair[1].0.trim().to_string()))
    });
    questions.collect()
}

#[test]
fn what_is_asked_was_given_before() {
    for index in 0..50 {
        for place in [Facts::Anywhere, Facts::First] {
            let text = recall(3, index, 4, 6, place);
            let given = given(&text);
            let asked = asked(&text);
            assert_eq!(given.len(), 4);
            for (at, name, thing) in &asked {
                assert_eq!(given[name], *thing);
                let fact = format!("{name} keeps");
                let told = text.parts.iter().position(|(p, _)| p.starts_with(&fact));
                assert!(told.unwrap() < *at, "asked before it was given");
            }
            // At the end all of them.
            let last: Vec<_> = asked.iter().rev().take(4).map(|a| &a.1).collect();
            assert!(given.keys().all(|name| last.contains(&name)));
            assert_eq!(asked.len() > 4, place == Facts::Anywhere);
        }
    }
}

#[test]
fn others_facts_change_nothing_but_what_was_given() {
    let (mut told, mut all) = (0, 0);
    for index in 0..50 {
        let own = recall(3, index, 4, 6, Facts::First);
        let others = recall(3, index, 4, 6, Facts::OthersFirst);
        assert_eq!(asked(&own), asked(&others));
        assert_eq!(own.parts[4..], others.parts[4..]);
        let given = given(&others);
        let right = |(_, name, thing): &(usize, String, String)| given.get(name) == Some(thing);
        told += asked(&own).iter().filter(|a| right(a)).count();
        all += asked(&own).len();
    }
    assert!(told * 10 < all, "{told} of {all} are told after all");
}
