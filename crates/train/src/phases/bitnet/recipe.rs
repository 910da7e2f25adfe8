//! Settings of Phase 4, and what follows from the size of the model.

use crate::Error;
use crate::optim::OptimConfig;
use crate::report::size_category;
use serde::{Deserialize, Serialize};
use tensor::ops::ternary::Packing;

/// Settings of Phase 4. The three that may be left out follow from the size of the model ([`BySize`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitnetRecipe {
    /// Weights below 0.5 + sparsity of their row's mean magnitude become zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f32>,
    /// Wanted ratio of the FP32 file to the packed one; below it the embedding goes to 8 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_compression: Option<f64>,
    /// Pieces of training text that calibration reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration_samples: Option<usize>,
    /// How the file holds codes.
    pub packing: Codes,
    /// Steps of recovery after each layer.
    pub recover_steps: u64,
    /// Steps over which a layer goes from full precision to ternary; at most `recover_steps`.
    pub ramp: u64,
    /// Steps of fine-tuning once all layers are ternary; as many again where the cost is still high.
    pub finetune_steps: u64,
    /// Predicted tokens of a step.
    pub tokens_per_step: usize,
    /// Rows of a micro-batch; 0 takes the whole step at once.
    pub micro_tokens: usize,
    /// Longest piece of a document.
    pub sequence: usize,
    /// Share of a step's tokens that is reasoning traces (for a model that has learned them).
    pub trace_share: f64,
    /// Traces of each strategy.
    pub traces: usize,
    /// Weight of the champion's distribution in the loss; the rest is the text itself.
    pub distill: f32,
    /// Weight of the distance between the exit gates' logits.
    pub gate: f32,
    /// A layer whose cost on held-out text exceeds this many nats a token is reverted.
    pub layer_limit: f64,
    /// Cost of the whole model in nats a token beyond which conservative settings are tried.
    pub total_limit: f64,
    /// Relative loss of accuracy beyond which they are tried, when it is outside the noise.
    pub accuracy_limit: f64,
    /// Held-out tokens that decisions are made on.
    pub decision_tokens: usize,
    /// Items that decisions look at; 0 for none.
    pub decision_items: usize,
    /// Most items of the evaluation before and after; 0 for all.
    pub items: usize,
    /// Held-out prompts of each strategy for the use of thinking before and after.
    pub thinking_prompts: usize,
    /// Optimizer of recovery and fine-tuning.
    pub optim: OptimConfig,
}

/// How the file holds codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codes {
    /// Five a byte: 1.6 bits a weight.
    Base3,
    /// Four a byte.
    TwoBit,
}

impl Codes {
    /// As the kernels call it.
    pub fn packing(self) -> Packing {
        match self {
            Codes::Base3 => Packing::Base3,
            Codes::TwoBit => Packing::TwoBit,
        }
    }
}

impl Default for BitnetRecipe {
    fn default() -> Self {
        Self {
            sparsity: None,
            target_compression: None,
            calibration_samples: None,
            packing: Codes::Base3,
            recover_steps: 200,
            ramp: 150,
            finetune_steps: 6000,
            tokens_per_step: 16_384,
            micro_tokens: 2048,
            sequence: 512,
            trace_share: 0.3,
            traces: 500,
            distill: 0.8,
            gate: 0.05,
            layer_limit: 0.05,
            total_limit: 0.3,
            accuracy_limit: 0.10,
            decision_tokens: 16_384,
            decision_items: 300,
            items: 0,
            thinking_prompts: 30,
            optim: OptimConfig {
                muon_lr: 1e-3,
                adam_lr: 5e-4,
                grokfast_lambda: 0.0,
                weight_decay: 0.0,
                warmup: 0.02,
                cooldown: 0.5,
                ..OptimConfig::default()
            },
        }
    }
}

impl BitnetRecipe {
    /// Refuses what cannot run.
    pub fn validate(&self) -> Result<(), Error> {
        let fail = |key: &str, found: String, allowed: &str| {
            Err(Error::Recipe {
                key: format!("bitnet.{key}"),
                found: format!("found {found}"),
                allowed: allowed.into(),
            })
        };
        for (key, n) in [
            ("tokens_per_step", self.tokens_per_step),
            ("sequence", self.sequence),
            ("decision_tokens", self.decision_tokens),
        ] {
            if n == 0 {
                return fail(key, "0".into(), "it must be at least 1");
            }
        }
        for (key, x, most) in [
            ("sparsity", f64::from(self.sparsity.unwrap_or(0.0)), 0.5),
            ("trace_share", self.trace_share, 1.0),
            ("distill", f64::from(self.distill), 1.0),
        ] {
            if !(0.0..=most).contains(&x) {
                return fail(key, x.to_string(), &format!("it lies in 0..={most}"));
            }
        }
        if self.ramp > self.recover_steps {
            return fail(
                "ramp",
                self.ramp.to_string(),
                &format!(
                    "at most recover_steps ({}): a layer is judged when it is fully ternary",
                    self.recover_steps
                ),
            );
        }
        for (key, x) in [
            ("layer_limit", self.layer_limit),
            ("total_limit", self.total_limit),
            ("accuracy_limit", self.accuracy_limit),
            ("gate", f64::from(self.gate)),
        ] {
            if x.is_nan() || x < 0.0 {
                return fail(key, x.to_string(), "it must be 0 or more");
            }
        }
        Ok(())
    }
}

/// What follows from the size of the model (the plan's table), with the recipe's own values on top.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BySize {
    /// s of the zero threshold.
    pub sparsity: f32,
    /// Wanted ratio of file sizes.
    pub target_compression: f64,
    /// Pieces of text for calibration.
    pub calibration_samples: usize,
}

impl BySize {
    /// Settings for a number of parameters.
    pub fn of(parameters: usize, recipe: &BitnetRecipe) -> Self {
        let (sparsity, target, samples) = match size_category(parameters) {
            "tiny" => (0.05, 6.0, 500),
            "small" => (0.1, 8.0, 1000),
            "medium" => (0.15, 10.0, 2000),
            _ => (0.2, 12.0, 5000),
        };
        Self {
            sparsity: recipe.sparsity.unwrap_or(sparsity),
            target_compression: recipe.target_compression.unwrap_or(target),
            calibration_samples: recipe.calibration_samples.unwrap_or(samples),
        }
    }

    /// The plan's last resort: the fewest zeros, and no more than a ratio of 4.
    pub fn conservative(self) -> Self {
        Self {
            sparsity: self.sparsity.min(0.05),
            target_compression: self.target_compression.min(4.0),
            ..self
        }
    }
}
