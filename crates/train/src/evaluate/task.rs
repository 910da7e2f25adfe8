//! The metrics of a task, each with its standard error and the value of a blind guess.
//!
//! Errors are analytic. A metric that is a mean over n items has the sample standard deviation (n - 1) over the root of n
//! (for shares the binomial one, with n - 1 for n), as lm-evaluation-harness has it. Bits per byte and word perplexity are
//! ratios of sums over texts; theirs is the linearised error of a ratio with texts as the sampled units, and for the
//! perplexity, an exponential of that ratio, the ratio's error times the value. One item or text has none.

use super::answer::{Answered, ItemScore, best, judge, per_character};
use data::{Answer, Comparison, Item};
use serde::Serialize;
use std::collections::BTreeMap;

/// One figure of a task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metric {
    /// Its name, as lm-evaluation-harness has it where it has one.
    pub metric: &'static str,
    /// None where it could not be measured; `reason` says why.
    pub value: Option<f64>,
    /// Standard error.
    pub stderr: Option<f64>,
    /// What a blind guess gets, where guessing is possible.
    pub chance: Option<f64>,
    /// Why there is no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A mean over items.
fn mean(metric: &'static str, values: &[f64], chance: Option<f64>) -> Metric {
    let (value, stderr) = mean_and_error(values);
    Metric {
        metric,
        value,
        stderr,
        chance,
        reason: None,
    }
}

fn mean_and_error(values: &[f64]) -> (Option<f64>, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let error = (squares / (n - 1.0) / n).sqrt();
    ((n > 0.0).then_some(mean), (n > 1.0).then_some(error))
}

/// The metrics of a task's items, all of one kind: `acc` and `acc_norm` of choices (highest likelihood of the option, and
/// highest likelihood a character of it), `exact_match` of written answers, with `f1` for reading, and `pass@1` of
/// programs, for which `passed` has what a sandbox said of each.
pub fn metrics(items: &[&Item], answered: &[Answered], passed: Option<&[bool]>) -> Vec<Metric> {
    let share = |right: &mut dyn Iterator<Item = bool>| -> Vec<f64> {
        right.map(|right| f64::from(u8::from(right))).collect()
    };
    let scores: Vec<ItemScore> = items
        .iter()
        .zip(answered)
        .map(|(i, a)| judge(i, a))
        .collect();
    let correct = share(&mut scores.iter().map(|score| score.correct));
    match items.first().map(|item| &item.answer) {
        None => Vec::new(),
        Some(Answer::Choice { .. }) => {
            let chances: Vec<f64> = scores.iter().map(|score| score.chance).collect();
            let chance = mean_and_error(&chances).0;
            let by_sum = items.iter().zip(answered).map(|(item, answered)| {
                matches!((&item.answer, answered), (Answer::Choice { gold, .. }, Answered::Options(options))
                    if best(options, |option| option.log_likelihood) == Some(*gold))
            });
            let by_character = items.iter().zip(answered).map(|(item, answered)| {
                matches!((&item.answer, answered), (Answer::Choice { gold, .. }, Answered::Options(options))
                    if best(options, per_character) == Some(*gold))
            });
            vec![
                mean("acc", &share(&mut by_sum.into_iter()), chance),
                mean("acc_norm", &share(&mut by_character.into_iter()), chance),
            ]
        }
        Some(Answer::Exact {
            by: Comparison::Value,
            ..
        }) => vec![mean("exact_match", &correct, None)],
        Some(Answer::Exact { .. }) => {
            let f1: Vec<f64> = scores.iter().map(|score| score.f1).collect();
            vec![mean("exact_match", &correct, None), mean("f1", &f1, None)]
        }
        Some(Answer::Program { .. }) => match passed {
            Some(passed) => vec![mean("pass@1", &share(&mut passed.iter().copied()), None)],
            None => vec![Metric {
                metric: "pass@1",
                value: None,
                stderr: None,
                chance: None,
                reason: Some("programs run in a sandbox only, and none was named".into()),
            }],
        },
    }
}

/// `bits_per_byte` and `word_perplexity` of texts, each its nats, bytes and words.
pub fn text_metrics(texts: &[(f64, u64, u64)]) -> Vec<Metric> {
    let of = |size: fn(&(f64, u64, u64)) -> u64| {
        ratio_and_error(texts.iter().map(|text| (text.0, size(text) as f64)))
    };
    let figure = |metric, value: Option<f64>, stderr: Option<f64>| Metric {
        metric,
        value,
        stderr,
        chance: None,
        reason: None,
    };
    let (bytes, bytes_error) = of(|text| text.1);
    let (words, words_error) = of(|text| text.2);
    let bits = |nats: f64| nats / std::f64::consts::LN_2;
    let perplexity = words.map(f64::exp);
    vec![
        figure("bits_per_byte", bytes.map(bits), bytes_error.map(bits)),
        figure(
            "word_perplexity",
            perplexity,
            perplexity
                .zip(words_error)
                .map(|(value, error)| value * error),
        ),
    ]
}

/// The ratio of two sums, and its linearised standard error over the pairs.
fn ratio_and_error(pairs: impl Iterator<Item = (f64, f64)> + Clone) -> (Option<f64>, Option<f64>) {
    let sum = pairs
        .clone()
        .fold((0.0, 0.0, 0.0), |(n, a, b), (x, y)| (n + 1.0, a + x, b + y));
    let (n, above, below) = sum;
    if below == 0.0 {
        return (None, None);
    }
    let ratio = above / below;
    let squares = pairs.map(|(x, y)| (x - ratio * y).powi(2)).sum::<f64>();
    let error = (squares * n / (n - 1.0)).sqrt() / below;
    (Some(ratio), (n > 1.0).then_some(error))
}

/// Accuracy of one task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TaskScore {
    /// Share answered right.
    pub accuracy: f64,
    /// Standard error of the share; null for one item.
    pub stderr: Option<f64>,
    /// Number of items.
    pub items: usize,
    /// Outputs without a readable answer.
    pub format_errors: usize,
    /// Accuracy of blind guessing.
    pub chance: f64,
}

/// Item scores by data set.
pub fn by_task(items: &[&Item], scores: &[ItemScore]) -> BTreeMap<String, TaskScore> {
    let mut groups: BTreeMap<String, Vec<ItemScore>> = BTreeMap::new();
    for (item, score) in items.iter().zip(scores) {
        groups.entry(item.dataset.clone()).or_default().push(*score);
    }
    groups
        .into_iter()
        .map(|(task, s)| {
            let correct: Vec<f64> = s.iter().map(|s| f64::from(u8::from(s.correct))).collect();
            let (accuracy, stderr) = mean_and_error(&correct);
            let score = TaskScore {
                accuracy: accuracy.expect("a group has an item"),
                stderr,
                items: s.len(),
                format_errors: s.iter().filter(|s| s.format_error).count(),
                chance: s.iter().map(|s| s.chance).sum::<f64>() / s.len() as f64,
            };
            (task, score)
        })
        .collect()
}
