//! Arithmetic on task vectors: the differences d_i = model_i - base that fine-tuning made.
//!
//! - task arithmetic (2212.04089): lambda * sum_i w_i d_i
//! - DARE (2311.03099): drop each element of d with probability p, rescale what is left
//! - TIES (2306.01708): keep the largest elements, elect a sign per element, average those that agree
//!
//! Every function takes and returns task vectors (n elements, flattened) and never sees the base:
//! the caller adds it. Random masks are keyed on (seed, tensor name, model, element).

use crate::error::Error;
use crate::operand::{BLOCK, Operand};
use crate::rounding::Dtype;
use crate::select::cuts;
use crate::table::{Inputs, Parameters};
use crate::thin::{Rule, l1_factor};
use crate::{loops, methods};
use kernels::random::Counted;

/// Runs a method on tensors in memory, in fp32. A method that can fail does so for reasons that these have not.
#[track_caller]
pub(crate) fn collected(
    base: Option<Operand<'_>>,
    models: &[&[f32]],
    parameters: &Parameters,
    run: impl Fn(&Inputs, &Parameters, &mut dyn FnMut(&[f32])) -> Result<(), Error>,
) -> Vec<f32> {
    let operands: Vec<Operand> = models.iter().map(|m| Operand::from(*m)).collect();
    let n = operands.first().map_or(0, Operand::len);
    let inputs = Inputs {
        tensor: "",
        shape: &[n],
        dtype: Dtype::F32,
        base,
        models: &operands,
    };
    let mut merged = Vec::with_capacity(n);
    match run(&inputs, parameters, &mut |block| {
        merged.extend_from_slice(block)
    }) {
        Ok(()) => merged,
        Err(why) => panic!("merge of tensors in memory: {why}"),
    }
}

/// d = model - base.
#[track_caller]
pub fn task_vector(model: &[f32], base: &[f32]) -> Vec<f32> {
    assert_eq!(
        model.len(),
        base.len(),
        "task_vector: tensors of different lengths"
    );
    model.iter().zip(base).map(|(m, b)| m - b).collect()
}

/// lambda * sum_i w_i d_i. Sums of three want lambda between 0.3 and 0.5; 1.0 ruins the model.
#[track_caller]
pub fn task_arithmetic(deltas: &[&[f32]], weights: &[f64], lambda: f64) -> Vec<f32> {
    assert_eq!(
        deltas.len(),
        weights.len(),
        "task_arithmetic: one weight per task vector"
    );
    summed(deltas, weights, (1.0, lambda, false), (Rule::All, false))
}

/// A sum of task vectors with (density, lambda, normalize).
#[track_caller]
fn summed(
    deltas: &[&[f32]],
    weights: &[f64],
    (density, lambda, normalize): (f64, f64, bool),
    rule: (Rule, bool),
) -> Vec<f32> {
    let parameters = Parameters {
        tensor: vec![
            ("lambda", lambda),
            ("normalize", f64::from(u8::from(normalize))),
            ("rescale", 0.0),
        ],
        models: weights
            .iter()
            .map(|w| vec![("weight", *w), ("density", density)])
            .collect(),
        seed: 0,
    };
    collected(None, deltas, &parameters, |x, p, out| {
        methods::sum_task_vectors(x, p, rule, out)
    })
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
    let mut kept = delta.to_vec();
    Counted::new(seed, tensor, model as u64).drop_below(drop, 0, &mut kept);
    make_up(delta, &mut kept, drop, rescale);
    kept
}

/// The second half of DARE: scales what was kept of `delta`.
pub fn make_up(delta: &[f32], kept: &mut [f32], drop: f64, rescale: Rescale) {
    let l1 = |v: &[f32]| v.chunks(BLOCK).map(loops::l1).sum::<f64>();
    let factor = match rescale {
        Rescale::Paper => 1.0 / (1.0 - drop),
        Rescale::Mergekit => l1_factor(Dtype::F32, l1(delta), l1(kept)),
    };
    loops::scale(Dtype::F32, kept, factor);
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
    assert_eq!(
        deltas.len(),
        weights.len(),
        "ties: one weight per task vector"
    );
    check_density(density);
    summed(
        deltas,
        weights,
        (density, lambda, normalize),
        (Rule::Largest, true),
    )
}

#[track_caller]
fn check_density(density: f64) {
    assert!(
        density > 0.0 && density <= 1.0,
        "ties: density {density} is outside (0, 1]"
    );
}

/// Keeps the floor(density * n) elements of largest magnitude, at least one, in O(n); of equals the earlier.
#[track_caller]
pub fn trim(delta: &[f32], density: f64) -> Vec<f32> {
    check_density(density);
    let mut kept = delta.to_vec();
    let keep = ((density * delta.len() as f64) as usize).max(1);
    if keep < delta.len() {
        let walk = |count: &mut dyn FnMut(usize, &[f32])| count(0, delta);
        cuts(&[keep], false, walk)[0].apply(&mut kept);
    }
    kept
}
