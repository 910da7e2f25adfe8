//! The 5-gram baseline, against an independent implementation in exact fractions (`fixtures/kneser_ney.py`).

use serde::Deserialize;
use train::ngram::KneserNey;

#[derive(Deserialize)]
struct Reference {
    vocab: usize,
    sequences: Vec<Vec<u32>>,
    probes: Vec<Vec<u32>>,
    probabilities: Vec<Vec<f64>>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("../fixtures/kneser_ney.json")).unwrap()
}

#[test]
fn probabilities_are_those_of_the_definition() {
    let r = reference();
    let model = KneserNey::train(r.vocab, r.sequences);
    for (tokens, expected) in r.probes.iter().zip(&r.probabilities) {
        for (at, p) in (1..).zip(expected) {
            let found = model.probability(tokens, at);
            assert!(
                (found - p).abs() < 1e-12,
                "{tokens:?} at {at}: {found}, not {p}"
            );
        }
    }
}

#[test]
fn the_order_of_the_text_does_not_matter_and_probabilities_sum_to_one() {
    let r = reference();
    let model = KneserNey::train(r.vocab, r.sequences.clone());
    let backwards = KneserNey::train(r.vocab, r.sequences.iter().rev().cloned());
    for probe in &r.probes {
        let mut tokens = probe.clone();
        let last = tokens.len() - 1;
        let mut sum = 0.0;
        for token in 0..r.vocab as u32 {
            tokens[last] = token;
            let p = model.probability(&tokens, last);
            assert_eq!(p.to_bits(), backwards.probability(&tokens, last).to_bits());
            assert!(p > 0.0);
            sum += p;
        }
        assert!((sum - 1.0).abs() < 1e-12, "{probe:?}: {sum}");
    }
}

#[test]
fn no_text_at_all_is_uniform_guessing() {
    let model = KneserNey::train(50, []);
    assert_eq!(model.probability(&[1, 2, 3], 2), 0.02);
}
