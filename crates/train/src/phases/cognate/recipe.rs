//! Settings of Phase 1.

use crate::Error;
use crate::optim::OptimConfig;
use data::Mixture;
use serde::{Deserialize, Serialize};

/// Settings of Phase 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CognateRecipe {
    /// Optimizer steps of the ancestor.
    pub ancestor_steps: u64,
    /// Optimizer steps of one epoch of a branch.
    pub epoch_steps: u64,
    /// Epochs of reasoning, memory and speed: 10, 12 and 8 in the plan.
    pub epochs: [u64; 3],
    /// Predicted tokens of an optimizer step.
    pub tokens_per_step: usize,
    /// Rows of a micro-batch; 0 takes the whole step at once.
    pub micro_tokens: usize,
    /// Longest piece of a document.
    pub sequence: usize,
    /// Share of the ancestor's steps before the loops are switched on.
    pub loops_from: f64,
    /// Share of a branch's text that is the shared mix.
    pub replay: f64,
    /// Mixes of reasoning, memory and speed.
    #[serde(default = "specialists")]
    pub mixtures: [Mixture; 3],
    /// ACT thresholds of reasoning, memory and speed.
    pub act_thresholds: [f32; 3],
    /// Share of the steps at the end whose weights are averaged; 0 keeps the last.
    pub average: f64,
    /// Optimizer of the ancestor.
    pub optim: OptimConfig,
    /// Optimizer of the branches.
    pub branch_optim: OptimConfig,
    /// How often diversity is measured while the branches train.
    pub checks: u64,
    /// Steps of fitting the exit gates when a branch ends.
    pub gate_steps: u64,
    /// Rows of a step of the gate fit.
    pub gate_tokens: usize,
    /// Rows of held-out text that diversity and barriers are measured on.
    pub measure_tokens: usize,
    /// Largest loss barrier between two branches, in nats, that Phase 2 accepts.
    pub barrier_limit: f64,
    /// Three further models from independent seeds, whose barriers stand beside those of the branches.
    pub independent: bool,
    /// One further model with the pooled compute of all branches, as a control.
    pub pooled: bool,
}

fn specialists() -> [Mixture; 3] {
    Mixture::SPECIALISTS
}

impl CognateRecipe {
    /// Refuses what cannot run.
    pub fn validate(&self) -> Result<(), Error> {
        let fail = |key: &str, found: String, allowed: &str| {
            Err(Error::Recipe {
                key: format!("cognate.{key}"),
                found: format!("found {found}"),
                allowed: allowed.into(),
            })
        };
        for (key, n) in [
            ("ancestor_steps", self.ancestor_steps),
            ("epoch_steps", self.epoch_steps),
            ("tokens_per_step", self.tokens_per_step as u64),
            ("sequence", self.sequence as u64),
            ("measure_tokens", self.measure_tokens as u64),
        ] {
            if n == 0 {
                return fail(key, "0".into(), "it must be at least 1");
            }
        }
        if self.epochs.contains(&0) {
            return fail(
                "epochs",
                format!("{:?}", self.epochs),
                "every branch trains at least one epoch",
            );
        }
        for (key, x) in [
            ("replay", self.replay),
            ("loops_from", self.loops_from),
            ("average", self.average),
        ] {
            if !(0.0..=1.0).contains(&x) {
                return fail(key, x.to_string(), "a share lies in 0..=1");
            }
        }
        if self.act_thresholds.iter().any(|t| !(0.0..1.0).contains(t)) {
            return fail(
                "act_thresholds",
                format!("{:?}", self.act_thresholds),
                "thresholds lie in 0..1",
            );
        }
        Ok(())
    }

    /// Optimizer steps of each branch.
    pub fn branch_steps(&self) -> [u64; 3] {
        self.epochs.map(|e| e * self.epoch_steps)
    }
}
