//! Settings of Phase 3. The defaults are the plan's reference values; short recipes list what they change.

use crate::Error;
use crate::optim::OptimConfig;
use serde::{Deserialize, Serialize};

/// Settings of Phase 3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuietstarRecipe {
    /// Hidden units of the mixing head.
    pub mixing: usize,
    /// Step 1.
    pub baking: BakingRecipe,
    /// Step 2.
    pub rl: RlRecipe,
    /// What proves that the thoughts do work.
    pub battery: BatteryRecipe,
}

/// Step 1: supervised learning of the visible thoughts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BakingRecipe {
    /// Passes over the traces.
    pub epochs: usize,
    /// How many of them see the easy strategies only.
    pub easy_epochs: usize,
    /// Built-in traces of each strategy.
    pub traces: usize,
    /// At most so many traces from the data sets' worked solutions.
    pub worked: usize,
    /// Held-out prompts of each strategy.
    pub held_out: usize,
    /// Held-out prompts of each strategy after the epochs before the last; at most `held_out`.
    pub held_out_between: usize,
    /// Tokens of a step, replayed text included.
    pub batch_tokens: usize,
    /// Tokens of a micro-batch; 0 for the whole step at once.
    pub micro_tokens: usize,
    /// Share of a step's tokens that is ordinary training text, so that bits per byte survive.
    pub replay: f64,
    /// Traces longer than this many tokens are left out; also the length of replayed pieces.
    pub max_len: usize,
    /// Tokens that an evaluation may generate.
    pub most_new: usize,
    /// Learning rate; 0 finds it by a range test.
    pub lr: f32,
    /// Steps of the range test.
    pub range_steps: usize,
    /// Strength of Grokfast.
    pub grokfast_lambda: f32,
    /// Largest attention logit that is left alone.
    pub qk_clip: f32,
    /// Share of the steps spent warming up.
    pub warmup: f64,
    /// Share of the steps spent cooling down.
    pub cooldown: f64,
}

/// Step 2: reinforcement learning of the silent thoughts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlRecipe {
    /// Steps.
    pub steps: u64,
    /// Learning rate of the model.
    pub lr: f32,
    /// Learning rate of the mixing head and of the start and end embeddings.
    pub head_lr: f32,
    /// Thoughts at a position; 0 by the size of the model.
    pub thoughts: usize,
    /// Longest thought in tokens; 0 by the size of the model.
    pub length: usize,
    /// Positions of a step.
    pub positions: usize,
    /// Share of the positions that stand before the answer of a verifiable task; the rest in text.
    pub tasks: f64,
    /// Tokens ahead that a thought in text is judged by.
    pub n_true: usize,
    /// Passes of text and thoughts; 0 for all of the model's.
    pub passes: usize,
    /// Weight of the divergence from the baked model.
    pub kl: f32,
    /// Temperature of the sampled thoughts.
    pub temperature: f32,
    /// Tokens of ordinary text in a step: the positions in text lie there, and it keeps bits per byte.
    pub text_tokens: usize,
    /// Strength of Grokfast.
    pub grokfast_lambda: f32,
    /// Largest attention logit that is left alone.
    pub qk_clip: f32,
    /// Steps between runs of the battery.
    pub battery_every: u64,
}

/// The anti-theater battery: how much is measured, and the thresholds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatteryRecipe {
    /// Held-out positions.
    pub samples: usize,
    /// Thoughts at each.
    pub thoughts: usize,
    /// Bootstrap resamples of the shuffle gain.
    pub resamples: usize,
    /// Least normalised edit distance between answers with and without thoughts.
    pub divergence: f64,
    /// Least mean length of a thought, in tokens.
    pub thought_length: f64,
    /// Least mean edit distance between thoughts at one position.
    pub diversity: f64,
    /// Least loss of accuracy without the thoughts.
    pub ablation_drop: f64,
    /// Least rank correlation of coherence and utility.
    pub correlation: f64,
}

impl Default for QuietstarRecipe {
    fn default() -> Self {
        Self {
            mixing: 64,
            baking: BakingRecipe {
                epochs: 5,
                easy_epochs: 2,
                traces: 2_500,
                worked: 10_000,
                held_out: 50,
                held_out_between: 50,
                batch_tokens: 8_192,
                micro_tokens: 2_048,
                replay: 0.25,
                max_len: 256,
                most_new: 160,
                lr: 1e-4,
                range_steps: 100,
                grokfast_lambda: 0.2,
                qk_clip: 30.0,
                warmup: 0.05,
                cooldown: 0.4,
            },
            rl: RlRecipe {
                steps: 5_000,
                lr: 5e-4,
                head_lr: 5e-3,
                thoughts: 0,
                length: 0,
                positions: 16,
                tasks: 0.75,
                n_true: 4,
                passes: 0,
                kl: 0.1,
                temperature: 1.0,
                text_tokens: 1_024,
                grokfast_lambda: 0.1,
                qk_clip: 25.0,
                battery_every: 1_000,
            },
            battery: BatteryRecipe {
                samples: 100,
                thoughts: 4,
                resamples: 1_000,
                divergence: 0.3,
                thought_length: 5.0,
                diversity: 3.0,
                ablation_drop: 0.02,
                correlation: 0.5,
            },
        }
    }
}

impl QuietstarRecipe {
    /// Refuses what cannot run.
    pub fn validate(&self) -> Result<(), Error> {
        let (b, r, t) = (&self.baking, &self.rl, &self.battery);
        let refuse = |key: &str, found: String, allowed: &str| {
            Err(Error::Recipe {
                key: format!("quietstar.{key}"),
                found: format!("found {found}"),
                allowed: allowed.into(),
            })
        };
        for (key, value) in [
            ("mixing", self.mixing),
            ("baking.epochs", b.epochs),
            ("baking.traces", b.traces),
            ("baking.held_out", b.held_out),
            ("baking.held_out_between", b.held_out_between),
            ("baking.batch_tokens", b.batch_tokens),
            ("baking.max_len", b.max_len),
            ("baking.most_new", b.most_new),
            ("rl.positions", r.positions),
            ("rl.n_true", r.n_true),
            ("rl.battery_every", r.battery_every as usize),
            ("battery.resamples", t.resamples),
        ] {
            if value == 0 {
                return refuse(key, "0".into(), "it must be at least 1");
            }
        }
        for (key, value) in [
            ("battery.samples", t.samples),
            ("battery.thoughts", t.thoughts),
        ] {
            if value < 2 {
                return refuse(
                    key,
                    value.to_string(),
                    "at least 2 are compared with each other",
                );
            }
        }
        if b.held_out_between > b.held_out {
            return refuse(
                "baking.held_out_between",
                b.held_out_between.to_string(),
                "at most baking.held_out",
            );
        }
        for (key, value) in [("baking.replay", b.replay), ("rl.tasks", r.tasks)] {
            if !(0.0..=1.0).contains(&value) {
                return refuse(key, value.to_string(), "it is a share in 0..=1");
            }
        }
        if b.replay > 0.9 {
            return refuse(
                "baking.replay",
                b.replay.to_string(),
                "at most 0.9, or nothing is left for the traces",
            );
        }
        if r.thoughts == 1 {
            return refuse(
                "rl.thoughts",
                "1".into(),
                "thoughts are judged against each other: 2 or more, or 0 to choose by size",
            );
        }
        for (key, value) in [
            ("baking.lr", b.lr),
            ("rl.lr", r.lr),
            ("rl.head_lr", r.head_lr),
            ("rl.kl", r.kl),
        ] {
            if !(0.0..=10.0).contains(&value) {
                return refuse(key, value.to_string(), "it must lie in 0..=10");
            }
        }
        if !(0.05..=10.0).contains(&r.temperature) {
            return refuse(
                "rl.temperature",
                r.temperature.to_string(),
                "it must lie in 0.05..=10",
            );
        }
        Ok(())
    }
}

impl BakingRecipe {
    /// The optimizer at a learning rate.
    pub fn optim(&self, lr: f32) -> OptimConfig {
        OptimConfig {
            muon_lr: lr,
            adam_lr: lr,
            grokfast_lambda: self.grokfast_lambda,
            qk_clip: self.qk_clip,
            warmup: self.warmup,
            cooldown: self.cooldown,
            ..OptimConfig::default()
        }
    }
}

impl RlRecipe {
    /// The optimizer.
    pub fn optim(&self) -> OptimConfig {
        OptimConfig {
            muon_lr: self.lr,
            adam_lr: self.lr,
            grokfast_lambda: self.grokfast_lambda,
            qk_clip: self.qk_clip,
            ..OptimConfig::default()
        }
    }

    /// Thoughts at a position and their longest length for a model of so many parameters: the plan's table
    /// over its size at 4 bytes a parameter, where the recipe leaves them open.
    pub fn sizes(&self, parameters: usize) -> (usize, usize) {
        let megabytes = parameters as f64 * 4.0 / (1 << 20) as f64;
        let (thoughts, length) = match megabytes {
            m if m < 100.0 => (8, 20),
            m if m < 500.0 => (6, 15),
            m if m < 2000.0 => (4, 12),
            _ => (4, 10),
        };
        let or = |chosen: usize, table: usize| if chosen == 0 { table } else { chosen };
        (or(self.thoughts, thoughts), or(self.length, length))
    }
}
