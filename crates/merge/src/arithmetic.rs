//! Arithmetic on task vectors: the differences d_i = model_i - base that fine-tuning made.
//!
//! - task arithmetic (2212.04089): lambda * sum_i w_i d_i
//! - DARE (2311.03099): drop each element of d with probability p, rescale what is left
//! - TIES (2306.01708): keep the largest elements, elect a sign per element, average those that agree
//!
//! Every function takes and returns task vectors (n elements, flattened) and never sees the base:
//! the caller adds it. Random masks are keyed on (seed, tensor name, model, element).

use crate::interpolate::same_length;
use kernels::random::Counted;

/// d = model - base.
#[track_caller]
pub fn task_vector(model: &[f32], base: &[f32]) -> Vec<f32> {
    same_length("task_vector", &[model, base]);
    model.iter().zip(base).map(|(m, b)| m - b).collect()
}

/// lambda * sum_i w_i d_i. Sums of three want lambda between 0.3 and 0.5; 1.0 ruins the model.
#[track_caller]
pub fn task_arithmetic(deltas: &[&[f32]], weights: &[f64], lambda: f64) -> Vec<f32> {
    let n = same_length("task_arithmetic", deltas);
    assert_eq!(
        deltas.len(),
        weights.len(),
        "task_arithmetic: one weight per task vector"
    );
    (0..n)
        .map(|i| {
            let sum: f64 = deltas
                .iter()
                .zip(weights)
                .map(|(d, w)| w * f64::from(d[i]))
                .sum();
            (lambda * sum) as f32
        })
        .collect()
}

/// How DARE makes up for the dropped elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rescale {
    /// Divide by the keep probability 1 - p, so that the expectation stays.
    Paper,
    /// Scale so that the L1 norm equals that of the task vector before dropping (mergekit).
    Mergekit,
}

impl Rescale {
    /// Reads `paper` or `mergekit`.
    pub fn from_name(name: &str) -> Option<Rescale> {
        match name {
            "paper" => Some(Rescale::Paper),
            "mergekit" => Some(Rescale::Mergekit),
            _ => None,
        }
    }
}

/// DARE: drops each element of `delta` with probability `drop` in [0, 1), and rescales.
///
/// The mask of element i is a function of (`seed`, `tensor`, `model`, i) alone; `model` numbers the
/// models of one merge so that each has its own mask. `drop` 0 returns the task vector unchanged.
#[track_caller]
pub fn dare(
    delta: &[f32],
    drop: f64,
    rescale: Rescale,
    seed: u64,
    tensor: &str,
    model: usize,
) -> Vec<f32> {
    assert!(
        (0.0..1.0).contains(&drop),
        "dare: drop rate {drop} is outside [0, 1)"
    );
    if drop == 0.0 {
        return delta.to_vec();
    }
    let draws = Counted::new(seed, tensor, model as u64);
    drop_and_rescale(delta, drop, rescale, |i| draws.uniform(i as u64) >= drop)
}

/// The deterministic half of DARE: keeps the elements that `keep` names and rescales them.
pub fn drop_and_rescale(
    delta: &[f32],
    drop: f64,
    rescale: Rescale,
    keep: impl Fn(usize) -> bool,
) -> Vec<f32> {
    let mut kept: Vec<f32> = delta
        .iter()
        .enumerate()
        .map(|(i, &d)| if keep(i) { d } else { 0.0 })
        .collect();
    let factor = match rescale {
        Rescale::Paper => 1.0 / (1.0 - drop),
        Rescale::Mergekit => {
            let l1 = |v: &[f32]| v.iter().map(|x| f64::from(x.abs())).sum::<f64>();
            let (before, after) = (l1(delta), l1(&kept));
            // A vector of (nearly) nothing has no norm to restore.
            if before < 1e-7 || after < 1e-7 {
                1.0
            } else {
                before / after
            }
        }
    };
    for x in &mut kept {
        *x = (factor * f64::from(*x)) as f32;
    }
    kept
}

/// TIES: trim, elect signs, merge disjointly.
///
/// Each task vector keeps its floor(`density` * n) largest elements by magnitude (at least one; of
/// equals the earlier), then is multiplied by its weight. The elected sign of an element is that of
/// the sum, zero counting as plus; elements that disagree are left out. With `normalize` the sum of
/// the rest is divided by the sum of their weights. The result is times `lambda`.
#[track_caller]
pub fn ties(
    deltas: &[&[f32]],
    weights: &[f64],
    density: f64,
    lambda: f64,
    normalize: bool,
) -> Vec<f32> {
    let n = same_length("ties", deltas);
    assert_eq!(
        deltas.len(),
        weights.len(),
        "ties: one weight per task vector"
    );
    let trimmed: Vec<Vec<f32>> = deltas.iter().map(|d| trim(d, density)).collect();
    (0..n)
        .map(|i| {
            let elected: f64 = trimmed
                .iter()
                .zip(weights)
                .map(|(d, w)| w * f64::from(d[i]))
                .sum();
            let (mut sum, mut share) = (0.0, 0.0);
            for (d, &w) in trimmed.iter().zip(weights) {
                let x = w * f64::from(d[i]);
                if (x > 0.0 && elected >= 0.0) || (x < 0.0 && elected < 0.0) {
                    sum += x;
                    share += w;
                } else if x.is_nan() {
                    // A broken model must stay visible in the merge.
                    sum = f64::NAN;
                }
            }
            let divisor = if normalize && share.abs() >= 1e-8 {
                share
            } else {
                1.0
            };
            (lambda * sum / divisor) as f32
        })
        .collect()
}

/// Keeps the floor(density * n) elements of largest magnitude, at least one, in O(n): a selection
/// over keys that hold the magnitude's bits above the reversed index, so no two are equal.
#[track_caller]
pub fn trim(delta: &[f32], density: f64) -> Vec<f32> {
    assert!(
        density > 0.0 && density <= 1.0,
        "ties: density {density} is outside (0, 1]"
    );
    let n = delta.len();
    assert!(
        n <= u32::MAX as usize,
        "ties: a tensor of {n} elements is beyond 2^32"
    );
    let keep = ((density * n as f64) as usize).max(1);
    if keep >= n {
        return delta.to_vec();
    }
    let key = |(i, d): (usize, &f32)| {
        (u64::from(d.abs().to_bits()) << 32) | u64::from(u32::MAX - i as u32)
    };
    let mut keys: Vec<u64> = delta.iter().enumerate().map(key).collect();
    let (_, &mut smallest_kept, _) = keys.select_nth_unstable(n - keep);
    delta
        .iter()
        .enumerate()
        .map(|(i, d)| {
            if key((i, d)) >= smallest_kept {
                *d
            } else {
                0.0
            }
        })
        .collect()
}
