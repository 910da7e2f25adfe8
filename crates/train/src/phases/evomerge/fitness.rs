//! Fitness: the plan's four terms, each relative to the parents' mean, weighted by model size.
//!
//! fitness = 1 + sum_k w_k (term_k - 1), so the mean parent scores exactly 1.0:
//! - perplexity: exp(nats of the mean parent - nats of the child);
//! - accuracy: 1 + mean over tasks of s (a - b) / max(b, 0.1), a and b the smoothed accuracies
//!   (c + 1) / (n + 2) of child and mean parent. The floor keeps a task near zero from turning one
//!   lucky answer into a large ratio. s = n / (n + 32) min(1, z / 2) shrinks what few items say, of which one answer
//!   more or less would outweigh every other term, and a task on which both are within two standard errors of
//!   chance, z being the larger distance from chance in standard errors;
//! - speed and memory: counted work and bytes of the mean parent over the child's. Wall-clock time
//!   would make a search irreproducible and reward a quiet machine.

use merge::elementary::exp;
use serde::{Deserialize, Serialize};

/// Answers to one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Task name.
    pub task: String,
    /// Items answered correctly (a mean over models may be a fraction).
    pub correct: f64,
    /// Items asked.
    pub n: u64,
    /// Accuracy of guessing, 0 for free answers.
    pub chance: f64,
}

/// What was measured on one model and one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Mean loss per token, in nats.
    pub nats: f64,
    /// Tokens that it is the mean of.
    pub tokens: u64,
    /// Mean loss per token of each text, in their order: what a difference between two models is judged by.
    pub losses: Vec<f32>,
    /// Tasks, always in the same order.
    pub accuracies: Vec<Accuracy>,
    /// Floating-point operations counted over the sample (FLOPs times executed halting steps).
    pub counted_flops: f64,
    /// Counted bytes: weights of the layers that run and state.
    pub bytes: f64,
}

impl Accuracy {
    /// (correct + 1) / (n + 2): never 0, never 1.
    pub fn smoothed(&self) -> f64 {
        (self.correct + 1.0) / (self.n as f64 + 2.0)
    }

    /// Distance of the smoothed accuracy from chance in standard errors.
    fn errors_off_chance(&self) -> f64 {
        let p = self.smoothed();
        (p - self.chance).abs() / (p * (1.0 - p) / (self.n as f64 + 2.0)).sqrt()
    }
}

impl Measures {
    /// The mean of several models measured on the same sample. Panics on none, or on other tasks.
    #[track_caller]
    pub fn mean(of: &[Measures]) -> Measures {
        let n = of.len() as f64;
        let mean = |value: fn(&Measures) -> f64| of.iter().map(value).sum::<f64>() / n;
        let task = |t: usize| {
            of.iter()
                .for_each(|m| same_task(&m.accuracies[t], &of[0].accuracies[t]));
            let correct = of.iter().map(|m| m.accuracies[t].correct).sum::<f64>() / n;
            Accuracy {
                correct,
                ..of[0].accuracies[t].clone()
            }
        };
        let loss = |t: usize| of.iter().map(|m| f64::from(m.losses[t])).sum::<f64>() / n;
        Measures {
            nats: mean(|m| m.nats),
            tokens: of[0].tokens,
            losses: (0..of[0].losses.len()).map(|t| loss(t) as f32).collect(),
            accuracies: (0..of[0].accuracies.len()).map(task).collect(),
            counted_flops: mean(|m| m.counted_flops),
            bytes: mean(|m| m.bytes),
        }
    }

    /// Those of two samples of one model that have no item in common, this one's items first.
    pub fn plus(&self, more: &Measures) -> Measures {
        let tokens = self.tokens + more.tokens;
        let (a, b) = (self.tokens as f64, more.tokens as f64);
        let mut accuracies = self.accuracies.clone();
        for other in &more.accuracies {
            match accuracies.iter_mut().find(|own| own.task == other.task) {
                Some(own) => {
                    // A task's items may have different numbers of options.
                    let (own_n, n) = (own.n as f64, other.n as f64);
                    own.chance = (own.chance * own_n + other.chance * n) / (own_n + n);
                    own.correct += other.correct;
                    own.n += other.n;
                }
                None => accuracies.push(other.clone()),
            }
        }
        accuracies.sort_by(|a, b| a.task.cmp(&b.task));
        Measures {
            nats: (self.nats * a + more.nats * b) / (a + b).max(1.0),
            tokens,
            losses: self.losses.iter().chain(&more.losses).copied().collect(),
            accuracies,
            counted_flops: self.counted_flops + more.counted_flops,
            bytes: self.bytes,
        }
    }

    /// Mean difference of the loss from another model's on the same texts, and its standard error. Panics on others.
    #[track_caller]
    pub fn paired(&self, other: &Measures) -> (f64, f64) {
        let wide = |m: &Measures| m.losses.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        crate::evaluate::paired(&wide(self), &wide(other))
    }

    /// Whether every number can be compared; a model that gives others is dead.
    pub fn finite(&self) -> bool {
        self.nats.is_finite()
            && self.counted_flops.is_finite()
            && self.counted_flops > 0.0
            && self.bytes.is_finite()
            && self.bytes > 0.0
            && self.accuracies.iter().all(|a| a.correct.is_finite())
    }

    /// Mean smoothed accuracy over the tasks; 0 where there is none.
    pub fn accuracy(&self) -> f64 {
        let n = self.accuracies.len().max(1) as f64;
        self.accuracies.iter().map(Accuracy::smoothed).sum::<f64>() / n
    }
}

#[track_caller]
fn same_task(a: &Accuracy, b: &Accuracy) {
    assert!(
        a.task == b.task && a.n == b.n,
        "fitness: task {} of {} items against {} of {}",
        a.task,
        a.n,
        b.task,
        b.n
    );
}

/// One term of the fitness: its name, the plan's weight, its value (1.0 for the mean parent).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// perplexity, accuracy, speed or memory.
    pub name: &'static str,
    /// Weight for this model size.
    pub weight: f64,
    /// Value relative to the parents' mean.
    pub value: f64,
}

/// The four terms, for the report.
#[track_caller]
pub fn terms(measures: &Measures, parents_mean: &Measures, size_mb: f64) -> [Term; 4] {
    let [perplexity, accuracy, speed, memory] = match size_mb {
        mb if mb < 100.0 => [0.5, 0.3, 0.1, 0.1],
        mb if mb < 1000.0 => [0.4, 0.3, 0.2, 0.1],
        _ => [0.4, 0.3, 0.15, 0.15],
    };
    let term = |name, weight, value| Term {
        name,
        weight,
        value,
    };
    [
        term(
            "perplexity",
            perplexity,
            exp(parents_mean.nats - measures.nats),
        ),
        term(
            "accuracy",
            accuracy,
            relative_accuracy(measures, parents_mean),
        ),
        term(
            "speed",
            speed,
            parents_mean.counted_flops / measures.counted_flops,
        ),
        term("memory", memory, parents_mean.bytes / measures.bytes),
    ]
}

/// The fitness of a model of `size_mb` fp32 megabytes; `parents_mean` from the same sample.
#[track_caller]
pub fn fitness(measures: &Measures, parents_mean: &Measures, size_mb: f64) -> f64 {
    let terms = terms(measures, parents_mean, size_mb);
    1.0 + terms
        .iter()
        .map(|t| t.weight * (t.value - 1.0))
        .sum::<f64>()
}

/// Standard error of the difference between the fitness of two models on one sample: of the paired losses for the
/// perplexity term, binomial for the accuracy term; speed and memory are counted. To first order, terms as independent.
#[track_caller]
pub fn doubt(a: &Measures, b: &Measures, parents_mean: &Measures, size_mb: f64) -> f64 {
    let [perplexity, accuracy, ..] = terms(b, parents_mean, size_mb);
    let nats = perplexity.weight * perplexity.value * a.paired(b).1;
    let task = |((a, b), mean): ((&Accuracy, &Accuracy), &Accuracy)| {
        let trust = trust(a, mean).max(trust(b, mean));
        let p = (a.smoothed() + b.smoothed()) / 2.0;
        let slope = trust / mean.smoothed().max(LEAST_ACCURACY);
        // One binomial variance for the two, as their answers to an item go together.
        slope * slope * p * (1.0 - p) / (b.n as f64 + 2.0)
    };
    let pairs = a.accuracies.iter().zip(&b.accuracies);
    let variance: f64 = pairs.zip(&parents_mean.accuracies).map(task).sum();
    let tasks = b.accuracies.len().max(1) as f64;
    let answers = accuracy.weight * variance.sqrt() / tasks;
    (nats * nats + answers * answers).sqrt()
}

/// How far an accuracy term counts: less where there are few items, or both are within two standard errors of chance.
fn trust(child: &Accuracy, parent: &Accuracy) -> f64 {
    let off = child.errors_off_chance().max(parent.errors_off_chance());
    let n = child.n as f64;
    n / (n + HALF_TRUSTED) * (off / 2.0).min(1.0)
}

/// Items of a task that count half: with fewer, the fitness on a few texts ranks merges of the same models otherwise than the
/// fitness on many (docs/log.md, 2026-11-28).
const HALF_TRUSTED: f64 = 32.0;

/// Least accuracy that another is relative to.
const LEAST_ACCURACY: f64 = 0.1;

fn relative_accuracy(measures: &Measures, parents_mean: &Measures) -> f64 {
    let tasks = measures.accuracies.len();
    assert_eq!(
        tasks,
        parents_mean.accuracies.len(),
        "fitness: numbers of tasks differ"
    );
    let gain = |(child, parent): (&Accuracy, &Accuracy)| {
        same_task(child, parent);
        let (a, b) = (child.smoothed(), parent.smoothed());
        trust(child, parent) * (a - b) / b.max(LEAST_ACCURACY)
    };
    let gains = measures
        .accuracies
        .iter()
        .zip(&parents_mean.accuracies)
        .map(gain)
        .sum::<f64>();
    1.0 + gains / tasks.max(1) as f64
}

/// The Pareto front: indices of the models that no other beats in one of loss, accuracy, work and
/// bytes without losing in another. Of equal models the first stays.
pub fn front(models: &[Measures]) -> Vec<usize> {
    let costs = |m: &Measures| [m.nats, -m.accuracy(), m.counted_flops, m.bytes];
    let beaten = |i: usize| {
        let own = costs(&models[i]);
        models.iter().enumerate().any(|(j, other)| {
            let other = costs(other);
            j != i && other.iter().zip(&own).all(|(a, b)| a <= b) && (other != own || j < i)
        })
    };
    (0..models.len()).filter(|&i| !beaten(i)).collect()
}
