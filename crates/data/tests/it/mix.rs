//! Mixes and curriculum.

use std::collections::BTreeMap;

use data::Family::{Code, Commonsense, Language, Maths, Qa};
use data::{Family, LANGUAGE_FLOOR, Mixture, Stage, stage_at, weights, weights_with_replay};

const REAL: [(&str, Family, u64); 8] = [
    ("gsm8k", Maths, 900),
    ("svamp", Maths, 100),
    ("mbpp", Code, 300),
    ("arc_easy", Qa, 400),
    ("strategyqa", Qa, 100),
    ("commonsenseqa", Commonsense, 500),
    ("wikitext", Language, 3000),
    ("prose", Language, 30_000),
];
const BUILTIN: [(&str, Family, u64); 5] = [
    ("builtin_maths", Maths, 10),
    ("builtin_code", Code, 20),
    ("builtin_qa", Qa, 30),
    ("builtin_commonsense", Commonsense, 40),
    ("builtin_language", Language, 50),
];
const STAGES: [Stage; 4] = [
    Stage::Foundation,
    Stage::Reasoning,
    Stage::Advanced,
    Stage::Ancestor,
];
const MIXTURES: [Mixture; 4] = [
    Mixture::Reasoning,
    Mixture::Memory,
    Mixture::Speed,
    Mixture::Mean,
];

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-12
}

fn sets(weights: &BTreeMap<String, f64>) -> Vec<&str> {
    weights.keys().map(String::as_str).collect()
}

#[test]
fn stages_begin_at_30_and_60_percent() {
    let stages = [0.0, 0.299, 0.3, 0.599, 0.6, 1.0].map(stage_at);
    use Stage::{Advanced as A, Foundation as F, Reasoning as R};
    assert_eq!(stages, [F, F, R, R, A, A]);
}

#[test]
fn each_stage_offers_its_own_data_sets() {
    let offered = |stage| weights(Mixture::Reasoning, stage, &REAL);
    assert_eq!(
        sets(&offered(Stage::Foundation)),
        ["gsm8k", "mbpp", "prose", "svamp", "wikitext"]
    );
    assert_eq!(
        sets(&offered(Stage::Reasoning)),
        ["arc_easy", "commonsenseqa", "strategyqa", "wikitext"]
    );
    assert_eq!(
        sets(&offered(Stage::Advanced)),
        ["commonsenseqa", "prose", "strategyqa"]
    );
    assert_eq!(offered(Stage::Ancestor).len(), REAL.len());
}

#[test]
fn weights_sum_to_one_and_language_keeps_its_floor_everywhere() {
    for stage in STAGES {
        for mixture in MIXTURES {
            for available in [&REAL[..], &BUILTIN[..]] {
                for replay in [0.0, 0.3] {
                    let weights = weights_with_replay(mixture, stage, available, replay);
                    assert!(near(weights.values().sum(), 1.0), "{weights:?}");
                    let language = available.iter().filter(|set| set.1 == Language);
                    let share: f64 = language.filter_map(|set| weights.get(set.0)).sum();
                    assert!(
                        share > LANGUAGE_FLOOR - 1e-12,
                        "{stage:?} {mixture:?} {weights:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn builtin_data_alone_gives_the_plans_mix_in_every_stage() {
    for stage in STAGES {
        let memory = weights(Mixture::Memory, stage, &BUILTIN);
        let found = BUILTIN.map(|(name, _, _)| memory[name]);
        assert!(
            found
                .iter()
                .zip([0.1, 0.1, 0.3, 0.1, 0.4])
                .all(|(a, b)| near(*a, b)),
            "{found:?}"
        );
        // Below the floor, language takes 0.2 and the rest shares 0.8 in its own proportions.
        let reasoning = weights(Mixture::Reasoning, stage, &BUILTIN);
        assert!(
            near(reasoning["builtin_language"], 0.2)
                && near(reasoning["builtin_maths"], 0.4 * 0.8 / 0.9)
        );
    }
}

#[test]
fn the_ancestor_takes_the_mean_of_the_three_mixes() {
    let mean = weights(Mixture::Mean, Stage::Ancestor, &BUILTIN);
    let expected = [0.8 / 3.0, 0.1, 0.7 / 3.0, 0.2, 0.2];
    let found = BUILTIN.map(|(name, _, _)| mean[name]);
    assert!(
        found.iter().zip(expected).all(|(a, b)| near(*a, b)),
        "{found:?}"
    );
}

#[test]
fn a_familys_weight_falls_to_its_sets_by_their_tokens() {
    let foundation = weights(Mixture::Speed, Stage::Foundation, &REAL);
    assert!(near(foundation["gsm8k"] / foundation["svamp"], 9.0));
    assert!(near(foundation["prose"] / foundation["wikitext"], 10.0));
    // Maths 0.3, code 0.1, language 0.1 of the plan over what is offered: the floor lifts nothing here.
    assert!(near(foundation["gsm8k"] + foundation["svamp"], 0.6));
}

#[test]
fn a_stage_without_its_own_language_or_without_anything_uses_what_there_is() {
    let few = [("gsm8k", Maths, 10), ("wikitext", Language, 10)];
    let advanced = weights(Mixture::Reasoning, Stage::Advanced, &few);
    assert_eq!(sets(&advanced), ["wikitext"]);
    let only = weights(Mixture::Reasoning, Stage::Advanced, &few[..1]);
    assert_eq!(only, BTreeMap::from([("gsm8k".to_string(), 1.0)]));
    assert!(weights(Mixture::Reasoning, Stage::Advanced, &[]).is_empty());
    assert_eq!(
        sets(&weights(
            Mixture::Speed,
            Stage::Advanced,
            &[("own_text", Language, 5)]
        )),
        ["own_text"]
    );
    assert!(weights(Mixture::Speed, Stage::Foundation, &[("gsm8k", Maths, 0)]).is_empty());
}

#[test]
fn replay_gives_a_stage_a_share_of_everything() {
    let plain = weights(Mixture::Reasoning, Stage::Advanced, &REAL);
    assert!(!plain.contains_key("gsm8k"));
    let replayed = weights_with_replay(Mixture::Reasoning, Stage::Advanced, &REAL, 0.25);
    // Maths is 0.4 * 0.8 / 0.9 of the plain mix with its floor, nine tenths of it GSM8K.
    assert!(
        near(replayed["gsm8k"], 0.25 * 0.4 * 0.8 / 0.9 * 0.9),
        "{replayed:?}"
    );
}
