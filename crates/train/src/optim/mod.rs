//! Muon x Grokfast for hidden matrices, AdamW for everything else, with QK-clip.
//!
//! One step, in this order: clip the raw gradients at a global norm; filter them through Grokfast
//! (h <- a h + (1 - a) g, g <- g + lambda h; Lee et al. 2024), which stays off the embedding; update;
//! then QK-clip. Muon (Jordan et al. 2024): m <- lerp(m, g, 1 - beta), Nesterov, orthogonalise by five
//! Polar Express iterations, scale by 0.2 sqrt(max(rows, columns)) so that AdamW's learning rates and
//! decay carry over. Decay is cautious: it acts only where the update and the weight agree in sign.
//!
//! QK-clip: under QK-norm the learned per-head gains, not the weights, set the size of the logits, so the
//! clip acts on the gains: both are multiplied by sqrt(tau / S) when the largest logit S exceeds tau.
//!
//! A step whose gradient norm is not finite changes nothing and is counted.

mod schedule;

pub use schedule::lr_scale;

use crate::Error;
use crate::checkpoint::array;
use model::Params;
use model::params::Role;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::Array;
use tensor::optim::{AdamW, POLAR_EXPRESS, adamw_, newton_schulz};
use tensor::{Grads, Tensor};

/// Settings of the optimizer; the default is the plan's for Phase 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimConfig {
    /// Learning rate of the hidden matrices.
    pub muon_lr: f32,
    /// Learning rate of everything else.
    pub adam_lr: f32,
    /// Decoupled weight decay of the hidden matrices.
    pub weight_decay: f32,
    /// Muon's momentum.
    pub momentum: f32,
    /// Decay of Grokfast's slow gradient.
    pub grokfast_alpha: f32,
    /// Strength of Grokfast; 0 turns it off.
    pub grokfast_lambda: f32,
    /// Largest attention logit that is left alone.
    pub qk_clip: f32,
    /// Largest norm of the gradient.
    pub clip_norm: f32,
    /// Share of the steps spent warming up.
    pub warmup: f64,
    /// Share of the steps spent cooling down.
    pub cooldown: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self {
            muon_lr: 1e-3,
            adam_lr: 1e-3,
            weight_decay: 0.1,
            momentum: 0.95,
            grokfast_alpha: 0.98,
            grokfast_lambda: 0.3,
            qk_clip: 30.0,
            clip_norm: 1.0,
            warmup: 0.05,
            cooldown: 0.4,
        }
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepReport {
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Whether the step was skipped: its gradient is not finite, or it was left out.
    pub skipped: bool,
    /// Heads whose gains were clipped.
    pub qk_clips: u32,
}

/// Optimizer state: moments per tensor, and counters.
#[derive(Debug)]
pub struct Optimizer {
    /// Settings; may be changed between steps.
    pub config: OptimConfig,
    /// Steps taken.
    pub step: u32,
    /// Steps skipped.
    pub skipped: u32,
    first: Vec<Option<Tensor>>,
    second: Vec<Option<Tensor>>,
    slow: Vec<Option<Tensor>>,
}

/// The embedding and the thought embeddings beside it: Grokfast stays off them.
fn is_embedding(name: &str) -> bool {
    name == "embed.weight" || name.starts_with("thought.")
}

impl Optimizer {
    /// Fresh state for these parameters.
    pub fn new(params: &Params, config: OptimConfig) -> Self {
        let none = || vec![None; params.len()];
        Self {
            config,
            step: 0,
            skipped: 0,
            first: none(),
            second: none(),
            slow: none(),
        }
    }

    /// One step. `lr_scale` multiplies both learning rates; Grokfast acts only while it is 1 (after the
    /// warm-up and before the cool-down). Tensors without a gradient are left alone. `peaks` are the
    /// largest attention logits by block and head.
    pub fn step(
        &mut self,
        params: &mut Params,
        grads: &mut Grads,
        lr_scale: f32,
        peaks: &[(usize, Vec<f32>)],
    ) -> StepReport {
        let c = self.config.clone();
        let norm = norm(grads);
        if !norm.is_finite() {
            return self.leave_out(grads);
        }
        self.step += 1;
        let settings = Settings {
            clip: (norm > f64::from(c.clip_norm)).then(|| (f64::from(c.clip_norm) / norm) as f32),
            grokfast: lr_scale >= 1.0,
            muon_lr: c.muon_lr * lr_scale,
            adam: AdamW {
                lr: c.adam_lr * lr_scale,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.0,
                step: self.step,
            },
            config: &c,
        };
        let moments = (self.first.iter_mut().zip(&mut self.second)).zip(&mut self.slow);
        let slots: Vec<Slot> = (params.iter_mut().zip(grads.iter_mut()).zip(moments))
            .filter_map(|(((name, role, w), g), ((first, second), slow))| {
                Some(Slot {
                    w,
                    g: g?,
                    first,
                    second,
                    slow,
                    role,
                    embedding: is_embedding(name),
                })
            })
            .collect();
        // One tensor after another in each thread: a matrix stays in its cache from the gradient to the update.
        let each = slots.into_par_iter().with_max_len(1);
        each.for_each(|slot| slot.step(&settings));
        StepReport {
            grad_norm: norm,
            skipped: false,
            qk_clips: qk_clip(params, c.qk_clip, peaks),
        }
    }

    /// A step that changes nothing and is counted.
    pub fn leave_out(&mut self, grads: &Grads) -> StepReport {
        self.skipped += 1;
        StepReport {
            grad_norm: norm(grads),
            skipped: true,
            qk_clips: 0,
        }
    }

    /// The whole state: arrays behind `prefix`, and counters.
    pub fn state(&self, params: &Params, prefix: &str) -> (Vec<Array>, Value) {
        let mut arrays = Vec::new();
        for (kind, list) in [
            ("first", &self.first),
            ("second", &self.second),
            ("slow", &self.slow),
        ] {
            for (slot, t) in list
                .iter()
                .enumerate()
                .filter_map(|(i, t)| Some((i, t.as_ref()?)))
            {
                arrays.push(array(format!("{prefix}{kind}/{}", params.names()[slot]), t));
            }
        }
        (
            arrays,
            json!({ "step": self.step, "skipped": self.skipped, "config": self.config }),
        )
    }

    /// State that [`Optimizer::state`] gave.
    pub fn restore(
        params: &Params,
        arrays: &[Array],
        prefix: &str,
        json: &Value,
    ) -> Result<Self, Error> {
        let bad = |e: String| Error::bag("optimizer", e);
        let config =
            serde_json::from_value(json["config"].clone()).map_err(|e| bad(e.to_string()))?;
        let mut this = Self::new(params, config);
        let count = |key: &str| {
            json[key]
                .as_u64()
                .map(|n| n as u32)
                .ok_or_else(|| bad(format!("`{key}` is missing")))
        };
        (this.step, this.skipped) = (count("step")?, count("skipped")?);
        for (kind, list) in [
            ("first", &mut this.first),
            ("second", &mut this.second),
            ("slow", &mut this.slow),
        ] {
            for (name, t) in crate::checkpoint::named(arrays, &format!("{prefix}{kind}/")) {
                let slot = params
                    .slot(&name)
                    .ok_or_else(|| bad(format!("state of an unknown tensor `{name}`")))?;
                if t.dims() != params.at(slot).dims() {
                    return Err(bad(format!(
                        "state of `{name}` has shape {:?}, the tensor {:?}",
                        t.dims(),
                        params.at(slot).dims()
                    )));
                }
                list[slot] = Some(t);
            }
        }
        Ok(this)
    }
}

/// Norm of all gradients together.
fn norm(grads: &Grads) -> f64 {
    (0..grads.len())
        .filter_map(|s| grads.get(s))
        .map(Tensor::sum_sq)
        .sum::<f64>()
        .sqrt()
}

/// What a step is for all tensors.
struct Settings<'a> {
    /// Factor of the gradients, when they are too large together.
    clip: Option<f32>,
    /// Whether the slow part of the gradients is amplified.
    grokfast: bool,
    muon_lr: f32,
    adam: AdamW,
    config: &'a OptimConfig,
}

/// A tensor with a gradient.
struct Slot<'a> {
    w: &'a mut Tensor,
    /// Spoilt by the step.
    g: &'a mut Tensor,
    first: &'a mut Option<Tensor>,
    second: &'a mut Option<Tensor>,
    slow: &'a mut Option<Tensor>,
    role: Role,
    embedding: bool,
}

impl Slot<'_> {
    fn step(self, s: &Settings) {
        let (c, g) = (s.config, self.g);
        let zeros = || Tensor::zeros(self.w.dims());
        if let Some(factor) = s.clip {
            g.scale_(factor);
        }
        if c.grokfast_lambda != 0.0 && !self.embedding {
            let slow = self.slow.get_or_insert_with(zeros);
            slow.lerp_(g, 1.0 - c.grokfast_alpha);
            if s.grokfast {
                g.add_scaled_(slow, c.grokfast_lambda);
            }
        }
        let first = self.first.get_or_insert_with(zeros);
        match self.role {
            Role::Matrix => {
                first.lerp_(g, 1.0 - c.momentum);
                g.lerp_(first, c.momentum);
                let update = newton_schulz(g, &POLAR_EXPRESS, 1.01);
                let scale = 0.2 * (g.rows().max(g.cols()) as f32).sqrt();
                muon_update(self.w, &update, s.muon_lr, scale, c.weight_decay);
            }
            Role::Other => {
                let second = self.second.get_or_insert_with(zeros);
                adamw_(self.w, g, first, second, s.adam);
            }
        }
    }
}

/// w <- w - lr (scale u + decay w [u w >= 0])
fn muon_update(w: &mut Tensor, u: &Tensor, lr: f32, scale: f32, decay: f32) {
    w.update_(u, move |w, u| {
        w - lr * (scale * u + if u * w >= 0.0 { decay * w } else { 0.0 })
    });
}

/// Shrinks the gains of heads whose logits grew beyond `tau`; returns how many.
fn qk_clip(params: &mut Params, tau: f32, peaks: &[(usize, Vec<f32>)]) -> u32 {
    let mut clips = 0;
    for (block, peaks) in peaks {
        let mut factors = vec![1.0f32; peaks.len()];
        for (f, &s) in factors.iter_mut().zip(peaks) {
            if s > tau {
                *f = (tau / s).sqrt();
                clips += 1;
            }
        }
        if factors.iter().any(|&f| f < 1.0) {
            let factors = Tensor::from_vec(factors.clone(), &[factors.len()]);
            for gain in ["q_gain", "k_gain"] {
                if let Some(slot) = params.slot(&format!("blocks.{block}.attn.{gain}")) {
                    params.at_mut(slot).update_(&factors, |g, f| g * f);
                }
            }
        }
    }
    clips
}
