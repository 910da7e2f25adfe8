//! One model in training: ancestor, branch or control.

use crate::checkpoint::{array, arrays, model_from, named};
use crate::optim::StepReport;
use crate::optim::{OptimConfig, Optimizer, lr_scale};
use crate::phase::folder;
use crate::step::{MicroBatch, PassReport, TrainDepth, forward_backward};
use crate::{Context, Error};
use data::{Loader, LoaderState, Mix, Mixture, Stage, stage_at, weights_with_replay};
use model::{Cognate, Config};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use store::Array;
use tensor::{Grads, Tensor};

/// What a trainee is, apart from its tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// `ancestor`, `reasoning`, ...
    pub name: String,
    /// Which text it sees.
    pub mixture: Mixture,
    /// The ancestor sees stages one and two together; branches follow the curriculum.
    pub curriculum: bool,
    /// Share of shared mix in a branch's text.
    pub replay: f64,
    /// Steps in all.
    pub total: u64,
    /// Steps before the loops are switched on.
    pub loops_from: u64,
    /// Seed of its data order and depths.
    pub seed: u64,
    /// Steps at the end whose weights are averaged.
    pub averaged: u64,
}

/// A model in training.
pub struct Trainee {
    /// What it is.
    pub plan: Plan,
    /// The model as it stands.
    pub model: Cognate,
    /// Optimizer state.
    pub optimizer: Optimizer,
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Predicted tokens seen.
    pub tokens: u64,
    /// Documents and pieces seen.
    pub samples: u64,
    loader: LoaderState,
    stage: Option<Stage>,
    average: Option<Vec<Tensor>>,
    averaged: u64,
    /// How many rows are computed at once.
    pub micro_batch: MicroBatch,
    /// Loader of the current stage: derived, not part of the state.
    cached: RefCell<Option<(Stage, Loader)>>,
}

/// The small state of a trainee in a checkpoint.
#[derive(Serialize, Deserialize)]
struct Saved {
    plan: Plan,
    config: Config,
    step: u64,
    tokens: u64,
    samples: u64,
    loader: LoaderState,
    stage: Option<Stage>,
    averaged: u64,
    #[serde(default)]
    micro_batch: MicroBatch,
    optimizer: serde_json::Value,
}

impl Trainee {
    /// A trainee about to begin, in micro-batches as given.
    pub fn new(plan: Plan, model: Cognate, optim: OptimConfig, micro_batch: MicroBatch) -> Self {
        let optimizer = Optimizer::new(&model.params, optim);
        Self {
            plan,
            model,
            optimizer,
            step: 0,
            tokens: 0,
            samples: 0,
            loader: LoaderState::default(),
            stage: None,
            average: None,
            averaged: 0,
            micro_batch,
            cached: RefCell::new(None),
        }
    }

    /// Share of its steps done.
    pub fn fraction(&self) -> f64 {
        self.step as f64 / self.plan.total.max(1) as f64
    }

    /// Whether all its steps are done.
    pub fn finished(&self) -> bool {
        self.step >= self.plan.total
    }

    /// The curriculum stage of the next step.
    pub fn stage(&self) -> Stage {
        if self.plan.curriculum {
            stage_at(self.fraction())
        } else {
            Stage::Ancestor
        }
    }

    fn batch(&mut self, cx: &Context, tokens: usize, sequence: usize) -> data::Batch {
        let stage = self.stage();
        if self.stage != Some(stage) {
            if self.stage.is_some() {
                self.loader.begin_stage();
            }
            self.stage = Some(stage);
        }
        let mut cached = self.cached.borrow_mut();
        if cached.as_ref().is_none_or(|(s, _)| *s != stage) {
            let shares = weights_with_replay(
                self.plan.mixture,
                stage,
                &cx.source.available(),
                self.plan.replay,
            );
            let mix = Mix::of(&shares, &cx.source.shards);
            *cached = Some((
                stage,
                Loader::new(
                    cx.source.shards.clone(),
                    mix,
                    self.plan.seed,
                    &self.plan.name,
                ),
            ));
        }
        let (_, loader) = cached.as_ref().expect("filled just above");
        loader.batch(&mut self.loader, tokens, sequence)
    }

    /// One optimizer step.
    pub fn train_step(&mut self, cx: &Context) -> Result<(PassReport, StepReport), Error> {
        let recipe = &cx.recipe.cognate;
        let batch = self.batch(cx, recipe.tokens_per_step, recipe.sequence);
        let depth = if self.step < self.plan.loops_from {
            TrainDepth::Same(1)
        } else {
            TrainDepth::Random {
                seed: self.plan.seed,
                step: self.step,
            }
        };
        let model = &self.model;
        let mut grads = Grads::new(model.params.len());
        let (pass, halved) = self.micro_batch.run(
            &batch,
            recipe.micro_tokens,
            "cognate.sequence",
            |micro_tokens| {
                grads.clear();
                forward_backward(model, &batch, depth, micro_tokens, &mut grads)
            },
        )?;
        if let Some(halved) = halved {
            halved.journal(
                cx,
                &cx.key(folder("cognate"), &self.plan.name, self.step + 1),
            )?;
        }
        let scale = lr_scale(self.step, self.plan.total, &self.optimizer.config);
        let report = self
            .optimizer
            .step(&mut self.model.params, &mut grads, scale, &pass.peaks);
        self.step += 1;
        self.tokens += pass.predictions as u64;
        self.samples += batch.pieces.len() as u64;
        if self.step + self.plan.averaged > self.plan.total {
            self.accumulate();
        }
        if self.finished() {
            self.settle();
        }
        Ok((pass, report))
    }

    /// Takes the weights of this step into the running mean.
    fn accumulate(&mut self) {
        let params = &self.model.params;
        let average = self.average.get_or_insert_with(|| {
            (0..params.len())
                .map(|i| Tensor::zeros(params.at(i).dims()))
                .collect()
        });
        self.averaged += 1;
        let share = 1.0 / self.averaged as f32;
        for (i, a) in average.iter_mut().enumerate() {
            a.lerp_(params.at(i), share);
        }
    }

    /// Replaces the weights by their mean at the end.
    fn settle(&mut self) {
        if let Some(average) = self.average.take() {
            for (i, a) in average.into_iter().enumerate() {
                *self.model.params.at_mut(i) = a;
            }
        }
    }

    /// Its state: arrays behind `prefix`, and JSON. A finished trainee keeps its model only.
    pub fn save(&self, prefix: &str) -> (Vec<Array>, serde_json::Value) {
        let mut all = arrays(&self.model, &format!("{prefix}model/"));
        let (state, json) = self
            .optimizer
            .state(&self.model.params, &format!("{prefix}optimizer/"));
        if !self.finished() {
            all.extend(state);
            for (i, a) in self.average.iter().flatten().enumerate() {
                all.push(array(
                    format!("{prefix}average/{}", self.model.params.names()[i]),
                    a,
                ));
            }
        }
        let saved = Saved {
            plan: self.plan.clone(),
            config: self.model.config.clone(),
            step: self.step,
            tokens: self.tokens,
            samples: self.samples,
            loader: self.loader.clone(),
            stage: self.stage,
            averaged: self.averaged,
            micro_batch: self.micro_batch,
            optimizer: json,
        };
        (all, serde_json::to_value(saved).expect("plain data"))
    }

    /// What [`Trainee::save`] gave.
    pub fn restore(all: &[Array], prefix: &str, json: &serde_json::Value) -> Result<Self, Error> {
        let saved: Saved =
            serde_json::from_value(json.clone()).map_err(|e| Error::bag("cognate", e))?;
        let model = model_from(saved.config, all, &format!("{prefix}model/"))?;
        let optimizer = Optimizer::restore(
            &model.params,
            all,
            &format!("{prefix}optimizer/"),
            &saved.optimizer,
        )?;
        let mut average = named(all, &format!("{prefix}average/"));
        let average = if average.is_empty() {
            None
        } else {
            let list: Option<Vec<Tensor>> = model
                .params
                .names()
                .iter()
                .map(|n| average.remove(n))
                .collect();
            Some(list.ok_or_else(|| Error::bag("cognate", "an averaged tensor is missing"))?)
        };
        Ok(Self {
            plan: saved.plan,
            model,
            optimizer,
            step: saved.step,
            tokens: saved.tokens,
            samples: saved.samples,
            loader: saved.loader,
            stage: saved.stage,
            average,
            averaged: saved.averaged,
            micro_batch: saved.micro_batch,
            cached: RefCell::new(None),
        })
    }
}
