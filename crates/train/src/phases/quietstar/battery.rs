//! The anti-theater battery: do the thoughts do work, or only look like it?
//!
//! The plan's five checks, and ours: the log-likelihood gain of a thought over the thoughts of *other*
//! positions, which look alike and fit the style but not the question, with a 95% bootstrap interval over
//! positions that must lie above 0. [`measure`] asks a [`Thinker`] for thoughts and judgements; [`faults`]
//! compares with the thresholds. Neither knows a model, so both are tested on thinkers built to think, to
//! pretend, and to keep silent.
//!
//! Left out: free-running generation. An answer is the most likely token at each judged place, with the
//! places before it as they should be.

use super::recipe::BatteryRecipe;
use super::reward::{correlation, edit_distance, ranks};
use serde::{Deserialize, Serialize};
use tensor::random::Counted;

/// How the tokens ahead of a position fare.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// Total log-likelihood of the judged tokens.
    pub log_p: f64,
    /// The most likely token at each.
    pub answer: Vec<u32>,
    /// Share of them that is right.
    pub right: f64,
}

/// What can be examined: a number of positions, thoughts at each, and what follows.
pub trait Thinker {
    /// Number of positions.
    fn positions(&self) -> usize;
    /// The same number of sampled thoughts at each position.
    fn thoughts(&self) -> Vec<Vec<Vec<u32>>>;
    /// Judges each (position, thought); no thought means that the model goes on without.
    fn judge(&self, asked: &[(usize, Option<&[u32]>)]) -> Vec<Judgement>;
    /// Coherence of each (position, thought), as `reward` defines it.
    fn coherence(&self, asked: &[(usize, &[u32])]) -> Vec<f64>;
}

/// A mean with its 95% interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Mean.
    pub mean: f64,
    /// Upper end.
    pub high: f64,
}

/// What the battery measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Edit distance between the answers with and without thoughts, over the length of the latter.
    pub divergence: f64,
    /// Mean tokens of a thought.
    pub thought_length: f64,
    /// Mean edit distance between the thoughts at a position.
    pub diversity: f64,
    /// Share of right tokens lost without the thoughts.
    pub ablation_drop: f64,
    /// Rank correlation of coherence and utility.
    pub correlation: f64,
    /// Nats that real thoughts gain over those of other positions.
    pub shuffle_gain: Interval,
}

/// A check that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Answers hardly differ with and without thoughts.
    Divergence,
    /// Thoughts are too short.
    ThoughtLength,
    /// Thoughts at a position are alike.
    Diversity,
    /// Nothing is lost without the thoughts.
    AblationDrop,
    /// Coherent thoughts are no more useful than others.
    Correlation,
    /// Thoughts of other positions do as well.
    ShuffleGain,
}

/// The checks that these measures fail.
pub fn faults(m: &Measures, limits: &BatteryRecipe) -> Vec<Fault> {
    [
        (m.divergence > limits.divergence, Fault::Divergence),
        (
            m.thought_length >= limits.thought_length,
            Fault::ThoughtLength,
        ),
        (m.diversity >= limits.diversity, Fault::Diversity),
        (m.ablation_drop > limits.ablation_drop, Fault::AblationDrop),
        (m.correlation > limits.correlation, Fault::Correlation),
        (m.shuffle_gain.low > 0.0, Fault::ShuffleGain),
    ]
    .into_iter()
    .filter(|(passed, _)| !passed)
    .map(|(_, fault)| fault)
    .collect()
}

/// What a failed battery asks for, besides going back to the last good checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Remedy {
    /// Factor of the KL weight.
    pub kl: f32,
    /// Factor of the strictness of the reward.
    pub strictness: f64,
}

/// KL x 2 and reward x 1.5 stricter; but when divergence alone is low, KL is halved, since more of it would
/// lower the divergence further.
pub fn remedy(faults: &[Fault]) -> Remedy {
    if faults == [Fault::Divergence] {
        Remedy {
            kl: 0.5,
            strictness: 1.0,
        }
    } else {
        Remedy {
            kl: 2.0,
            strictness: 1.5,
        }
    }
}

/// Mean of `values` with its 95% percentile-bootstrap interval.
pub fn bootstrap(values: &[f64], resamples: usize, seed: u64) -> Interval {
    let n = values.len();
    if n == 0 {
        return Interval::default();
    }
    let mut means: Vec<f64> = (0..resamples as u64)
        .map(|r| {
            let random = Counted::new(seed, "bootstrap", r);
            (0..n as u64)
                .map(|i| values[random.below(i, n)])
                .sum::<f64>()
                / n as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((resamples - 1) as f64 * share).round() as usize];
    Interval {
        low: at(0.025),
        mean: values.iter().sum::<f64>() / n as f64,
        high: at(0.975),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0usize), |(s, n), x| (s + x, n + 1));
    sum / n.max(1) as f64
}

/// Measures a thinker; deterministic in its answers and `seed`.
pub fn measure(thinker: &dyn Thinker, resamples: usize, seed: u64) -> Measures {
    let n = thinker.positions();
    let thoughts = thinker.thoughts();
    let asked: Vec<(usize, &[u32])> = (0..n)
        .flat_map(|s| thoughts[s].iter().map(move |t| (s, &t[..])))
        .collect();
    // The thought of the same number at the next position: all are used, none stays.
    let swapped: Vec<(usize, Option<&[u32]>)> = (0..n)
        .flat_map(|s| thoughts[(s + 1) % n].iter().map(move |t| (s, Some(&t[..]))))
        .collect();
    let real = thinker.judge(&asked.iter().map(|&(s, t)| (s, Some(t))).collect::<Vec<_>>());
    let other = thinker.judge(&swapped);
    let none = thinker.judge(&(0..n).map(|s| (s, None)).collect::<Vec<_>>());
    let coherence = thinker.coherence(&asked);
    let utility: Vec<f64> = asked
        .iter()
        .zip(&real)
        .map(|((s, _), r)| r.log_p - none[*s].log_p)
        .collect();
    let of_position = |list: &[Judgement], from: &dyn Fn(usize) -> usize| -> Vec<f64> {
        let mut at = 0;
        (0..n)
            .map(|s| {
                let k = thoughts[from(s)].len();
                at += k;
                mean(list[at - k..at].iter().map(|j| j.log_p))
            })
            .collect()
    };
    let own = of_position(&real, &|s| s);
    let foreign = of_position(&other, &|s| (s + 1) % n);
    let gains: Vec<f64> = own.iter().zip(&foreign).map(|(a, b)| a - b).collect();
    let pairs = thoughts.iter().flat_map(|group| {
        (0..group.len()).flat_map(move |i| {
            (i + 1..group.len()).map(move |j| edit_distance(&group[i], &group[j]) as f64)
        })
    });
    Measures {
        divergence: mean(asked.iter().zip(&real).map(|((s, _), r)| {
            edit_distance(&none[*s].answer, &r.answer) as f64 / none[*s].answer.len().max(1) as f64
        })),
        thought_length: mean(asked.iter().map(|(_, t)| t.len() as f64)),
        diversity: mean(pairs),
        ablation_drop: mean(real.iter().map(|j| j.right)) - mean(none.iter().map(|j| j.right)),
        correlation: correlation(&coherence, &ranks(&utility)),
        shuffle_gain: bootstrap(&gains, resamples, seed),
    }
}
