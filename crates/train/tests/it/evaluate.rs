//! What is asked of a model and what becomes of its likelihoods, with models whose likelihoods are known.

use data::{Answer, Comparison, Family, Item, Split};
use model::{Batch, LanguageModel, Stream};
use train::evaluate::{self, Answered, OptionScore, Spelling, Subject};

/// Every byte is a token; nats of a target are its value in hundredths, and the first position of each segment must be 0.
struct Bytes;

impl Spelling for Bytes {
    fn encode(&self, text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }
    fn decode(&self, tokens: &[u32]) -> String {
        tokens.iter().map(|&t| char::from(t as u8)).collect()
    }
}

/// The most tokens that [`Bytes`] sees at once.
const LONGEST: usize = 8;

impl LanguageModel for Bytes {
    fn vocab(&self) -> usize {
        256
    }
    fn parameters(&self) -> usize {
        0
    }
    fn nll(&self, batch: &Batch, targets: &[u32]) -> Vec<f32> {
        for rows in batch.segments.iter() {
            assert!(rows.len() <= LONGEST, "a segment of {} tokens", rows.len());
            // Each target is the token after its row.
            assert_eq!(
                batch.tokens[rows.start + 1..rows.end],
                targets[rows.start..rows.end - 1]
            );
        }
        targets.iter().map(|&t| t as f32 / 100.0).collect()
    }
    fn stream(&self, _sequences: usize) -> Box<dyn Stream + '_> {
        unreachable!("nothing is written here")
    }
}

fn subject() -> Subject<'static> {
    Subject {
        model: &Bytes,
        spelling: &Bytes,
        opening: vec![1],
        start: 1,
        stop: vec![],
        window: LONGEST,
        longest: Some(LONGEST),
    }
}

fn choice(prompt: &str, options: &[&str], gold: usize) -> Item {
    Item {
        dataset: "test".into(),
        family: Family::Qa,
        id: "test/1".into(),
        prompt: prompt.into(),
        answer: Answer::Choice {
            options: options.iter().map(|o| o.to_string()).collect(),
            gold,
        },
        split: Split::HeldOut,
    }
}

fn value(text: &str) -> f64 {
    text.bytes().map(|b| f64::from(f32::from(b) / 100.0)).sum()
}

#[test]
fn every_token_of_a_text_is_predicted_once_in_windows_that_fit() {
    for n in 1..40 {
        let text: String = (0..n).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
        let (nats, tokens) = evaluate::rolling(&subject(), &[&text])[0];
        assert_eq!(tokens, n as u64);
        assert!((nats - value(&text)).abs() < 1e-5, "{n}: {nats}");
    }
    assert_eq!(evaluate::rolling(&subject(), &["", "ab"])[0], (0.0, 0));
}

#[test]
fn an_option_is_scored_behind_its_prompt_and_a_long_prompt_loses_its_beginning() {
    let items = [
        choice("ab", &[" c", " dd"], 0),
        choice("a prompt that is long", &[" c", " dd"], 0),
        // White space at a prompt's end counts to the option.
        choice("ab ", &["c", "dd"], 1),
    ];
    let items: Vec<&Item> = items.iter().collect();
    for answered in evaluate::answers(&subject(), &items, 1) {
        let Answered::Options(scores) = answered else {
            panic!("a choice has options");
        };
        for (score, option) in scores.iter().zip([" c", " dd"]) {
            assert!(
                (score.log_likelihood + value(option)).abs() < 1e-6,
                "{score:?}"
            );
            assert_eq!(score.tokens, option.len() as u64);
        }
    }
}

#[test]
fn accuracies_are_by_likelihood_and_by_likelihood_a_character() {
    let option = |log_likelihood, characters| OptionScore {
        log_likelihood,
        tokens: 1,
        characters,
    };
    let answered = vec![
        Answered::Options(vec![option(-3.0, 1), option(-4.0, 4)]),
        Answered::Options(vec![option(-3.0, 2), option(-9.0, 4)]),
        Answered::Options(vec![option(-2.0, 2), option(-2.0, 2)]),
    ];
    let items = [
        choice("a", &[" b", " c"], 0),
        choice("a", &[" b", " c"], 0),
        choice("a", &[" b", " c"], 1),
    ];
    let items: Vec<&Item> = items.iter().collect();
    let metrics = evaluate::metrics(&items, &answered, None);
    let of = |name: &str| metrics.iter().find(|m| m.metric == name).unwrap();
    // The first of equal options is taken, as the harness's argmax does.
    assert_eq!(of("acc").value, Some(2.0 / 3.0));
    assert_eq!(of("acc_norm").value, Some(1.0 / 3.0));
    let p: f64 = 2.0 / 3.0;
    assert!((of("acc").stderr.unwrap() - (p * (1.0 - p) / 2.0).sqrt()).abs() < 1e-12);
    assert_eq!(of("acc").chance, Some(0.5));
    // What a run goes by is the second.
    let right = items
        .iter()
        .zip(&answered)
        .map(|(i, a)| evaluate::judge(i, a).correct);
    assert_eq!(right.collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn a_ratio_has_the_error_of_its_residuals() {
    let metrics = evaluate::text_metrics(&[(10.0, 10, 2), (20.0, 10, 2), (30.0, 20, 4)]);
    let bits = &metrics[0];
    let ratio: f64 = 60.0 / 40.0;
    let squares = (10.0 - ratio * 10.0).powi(2)
        + (20.0 - ratio * 10.0).powi(2)
        + (30.0 - ratio * 20.0).powi(2);
    let error = (squares * 1.5).sqrt() / 40.0;
    assert!((bits.value.unwrap() - ratio / std::f64::consts::LN_2).abs() < 1e-12);
    assert!((bits.stderr.unwrap() - error / std::f64::consts::LN_2).abs() < 1e-12);
    let words = &metrics[1];
    assert!((words.value.unwrap() - 7.5f64.exp()).abs() < 1e-9);
    assert!((words.stderr.unwrap() - 7.5f64.exp() * error * 5.0).abs() < 1e-6);
    assert_eq!(evaluate::text_metrics(&[(1.0, 1, 1)])[0].stderr, None);
    assert_eq!(evaluate::text_metrics(&[])[0].value, None);
}

#[test]
fn an_answer_on_a_passage_is_judged_by_words_and_a_number_by_value() {
    let mut item = choice("a", &[], 0);
    let judged = |item: &Item, text: &str| evaluate::judge(item, &Answered::Text(text.into()));
    item.answer = Answer::Exact {
        answer: "the Chicago Bears".into(),
        also: vec!["Bears".into()],
        by: Comparison::HotpotQa,
    };
    assert!(judged(&item, "\n#### bears.").correct);
    let half = judged(&item, "Chicago");
    assert!(
        !half.correct && (half.f1 - 2.0 / 3.0).abs() < 1e-12,
        "{half:?}"
    );
    assert!(judged(&item, " \n").format_error);
    item.answer = Answer::Exact {
        answer: "1000".into(),
        also: vec![],
        by: Comparison::Value,
    };
    assert!(judged(&item, " so 1,000.0").correct && judged(&item, "none").format_error);
    item.answer = Answer::Program {
        check: "assert f()".into(),
    };
    assert!(!judged(&item, "def f(): return 1").correct);
    let metrics = evaluate::metrics(&[&item], &[], None);
    assert_eq!((metrics[0].metric, metrics[0].value), ("pass@1", None));
    assert!(metrics[0].reason.is_some());
}
