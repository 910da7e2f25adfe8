//! One model in training: ancestor, branch or control.

use crate::checkpoint::{array, arrays, model_from, named};
use crate::detect::{ConvergenceRecipe, Policy, Watch};
use crate::optim::StepReport;
use crate::optim::{OptimConfig, Optimizer, lr_scale};
use crate::phase::folder;
use crate::step::{MicroBatch, PassReport, TrainDepth, forward_backward};
use crate::{Context, Error};
use data::{
    Blend, Loader, LoaderState, Mix, Mixture, PieceAt, Stage, stage_at, weights_with_replay,
};
use model::{Cognate, Config, Params};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use store::Array;
use tensor::{Grads, Tensor};

/// What a trainee is, apart from its tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// `ancestor`, `reasoning`, ...
    pub name: String,
    /// Which text it sees.
    pub mixture: Mixture,
    /// Share of the mixture's main family in place of its own.
    #[serde(default)]
    pub main_share: Option<f64>,
    /// The ancestor sees stages one and two together; branches follow the curriculum.
    pub curriculum: bool,
    /// Share of shared mix in a branch's text.
    pub replay: f64,
    /// Step at which it began anew: 0, unless it was sent back to the ancestor.
    #[serde(default)]
    pub begun: u64,
    /// Steps in all.
    pub total: u64,
    /// Steps before the loops are switched on.
    pub loops_from: u64,
    /// Seed of its data order and depths.
    pub seed: u64,
    /// Steps at the end whose weights are averaged.
    pub averaged: u64,
}

impl Plan {
    fn blend(&self) -> Blend {
        Blend {
            mixture: self.mixture,
            main_share: self.main_share,
        }
    }
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
    /// Whether it converges.
    pub watch: Watch,
    /// Weights to roll back to.
    kept: Option<Kept>,
    /// Step at which it began to warm up again, after a roll back.
    rewarm_from: Option<u64>,
    /// Loader of the current stage: derived, not part of the state.
    cached: RefCell<Option<(Stage, Loader)>>,
}

/// Weights to roll back to.
struct Kept {
    params: Params,
    /// Mean of the losses just before, where there were enough since the loss last jumped for a good reason.
    loss: Option<f64>,
}

/// Losses whose mean says whether newer weights are worth keeping.
const KEPT_LOSSES: usize = 10;
/// Nats by which their mean may exceed that of the weights kept before: less than what noise does to it.
const KEPT_SLACK: f64 = 0.05;

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
    #[serde(default)]
    watch: Watch,
    #[serde(default)]
    kept_loss: Option<f64>,
    #[serde(default)]
    rewarm_from: Option<u64>,
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
            watch: Watch::default(),
            kept: None,
            rewarm_from: None,
            cached: RefCell::new(None),
        }
    }

    /// Share of its steps done, since it last began.
    pub fn fraction(&self) -> f64 {
        let (done, all) = self.since_begun();
        done as f64 / all.max(1) as f64
    }

    /// Steps done and steps in all, since it last began.
    fn since_begun(&self) -> (u64, u64) {
        let begun = self.plan.begun;
        (self.step - begun, self.plan.total - begun)
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

    /// The batch of the next step, drawn: a step that is taken afterwards trains on the one behind it.
    pub fn next_batch(&mut self, cx: &Context) -> data::Batch {
        let (tokens, sequence) = (
            cx.recipe.cognate.tokens_per_step,
            cx.recipe.cognate.sequence,
        );
        let stage = self.stage();
        if self.stage != Some(stage) {
            if self.stage.is_some() {
                self.loader.begin_stage();
            }
            self.stage = Some(stage);
            self.expect_jump();
        }
        let mut cached = self.cached.borrow_mut();
        if cached.as_ref().is_none_or(|(s, _)| *s != stage) {
            let shares = weights_with_replay(
                self.plan.blend(),
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

    /// The loss may jump from here on, for a good reason.
    fn expect_jump(&mut self) {
        self.watch.begin();
        if let Some(kept) = &mut self.kept {
            kept.loss = None;
        }
    }

    /// The different pieces that it was trained on, and a loader that reads them.
    pub fn drawn(&self, cx: &Context) -> (Loader, BTreeSet<PieceAt>) {
        let loader = self.reader(cx);
        let places = loader.drawn(&self.loader, cx.recipe.cognate.sequence);
        (loader, places)
    }

    /// How often it went through each data set.
    pub fn epochs<'a>(&self, cx: &'a Context) -> BTreeMap<&'a str, f64> {
        let sequence = cx.recipe.cognate.sequence;
        let epochs = self.reader(cx).epochs(&self.loader, sequence);
        let names = cx.source.shards.iter().map(|s| s.dataset());
        names.zip(epochs).collect()
    }

    /// A loader of all of its text, to look up what it has seen.
    fn reader(&self, cx: &Context) -> Loader {
        let shards = cx.source.shards.clone();
        let weights = vec![1.0; shards.len()];
        Loader::new(shards, Mix { weights }, self.plan.seed, &self.plan.name)
    }

    /// One optimizer step.
    pub fn train_step(&mut self, cx: &Context) -> Result<(PassReport, StepReport), Error> {
        let recipe = &cx.recipe.cognate;
        let detector = &cx.recipe.detectors.convergence;
        let watched = detector.policy != Policy::Off;
        if watched && self.kept.is_none() {
            self.keep();
        }
        if self.step == self.plan.loops_from {
            self.expect_jump();
        }
        let batch = self.next_batch(cx);
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
        let rewarm = self.rewarm_from.map_or(1.0, |from| {
            ((self.step - from + 1) as f32 / detector.rewarm.max(1) as f32).min(1.0)
        });
        let (done, all) = self.since_begun();
        let scale = lr_scale(done, all, &self.optimizer.config) * rewarm;
        let poisoned = watched && self.watch.poisoned(pass.nats, detector);
        let report = match poisoned {
            true => self.optimizer.leave_out(&grads),
            false => self
                .optimizer
                .step(&mut self.model.params, &mut grads, scale, &pass.peaks),
        };
        self.step += 1;
        self.tokens += pass.predictions as u64;
        self.samples += batch.pieces.len() as u64;
        if watched {
            if !poisoned {
                self.watch
                    .note(pass.nats, report.grad_norm.is_finite(), detector);
            }
            self.keep_if_sound(detector);
        }
        if self.step + self.plan.averaged > self.plan.total {
            self.accumulate();
        }
        if self.finished() {
            self.settle();
        }
        Ok((pass, report))
    }

    /// Keeps the weights to roll back to, now and then, while all is well and the loss has not risen since the last.
    fn keep_if_sound(&mut self, detector: &ConvergenceRecipe) {
        if !self.step.is_multiple_of(detector.keep_every) || self.watch.signal(detector).is_some() {
            return;
        }
        let before = self.kept.as_ref().and_then(|k| k.loss);
        if let Some(now) = self.watch.mean(KEPT_LOSSES)
            && before.is_none_or(|before| now <= before + KEPT_SLACK)
        {
            self.keep();
        }
    }

    fn keep(&mut self) {
        self.kept = Some(Kept {
            params: self.model.params.clone(),
            loss: self.watch.mean(KEPT_LOSSES),
        });
    }

    /// Takes the kept weights back, with fresh moments, learning rates times `factor`, and a new warm-up. Steps and text
    /// are not taken back: what was spent is spent, and the batch that did it does not come again.
    pub fn roll_back(&mut self, factor: f64) {
        if let Some(kept) = &self.kept {
            self.model.params = kept.params.clone();
        }
        self.restart();
        self.rewarm_from = Some(self.step);
        self.lower_rates(factor);
        self.watch.repaired();
    }

    /// Begins anew from another model, for as many steps as before, on more of a mixture's main family.
    pub fn begin_anew(&mut self, model: Cognate, mixture: Mixture, main_share: f64) {
        let plan = &mut self.plan;
        (plan.mixture, plan.main_share) = (mixture, Some(main_share));
        (plan.begun, plan.total) = (self.step, self.step + plan.total - plan.begun);
        (self.model, self.rewarm_from) = (model, None);
        self.cached.replace(None);
        self.watch = Watch::default();
        self.restart();
        self.keep();
    }

    /// Fresh moments, for weights that are not where they were.
    fn restart(&mut self) {
        let mut fresh = Optimizer::new(&self.model.params, self.optimizer.config.clone());
        fresh.skipped = self.optimizer.skipped;
        self.optimizer = fresh;
        (self.average, self.averaged) = (None, 0);
    }

    /// Multiplies the learning rates.
    pub fn lower_rates(&mut self, factor: f64) {
        let config = &mut self.optimizer.config;
        config.muon_lr *= factor as f32;
        config.adam_lr *= factor as f32;
    }

    /// Lets go of what only training needs.
    pub fn rest(&mut self) {
        self.kept = None;
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
        for (name, t) in self.kept.iter().flat_map(|kept| kept.params.iter()) {
            all.push(array(format!("{prefix}kept/{name}"), t));
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
            watch: self.watch.clone(),
            kept_loss: self.kept.as_ref().and_then(|k| k.loss),
            rewarm_from: self.rewarm_from,
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
        let kept = named(all, &format!("{prefix}kept/"));
        let kept = match kept.is_empty() {
            true => None,
            false => Some(Kept {
                params: Params::from_named(&model.config, kept, |_| false, 0)
                    .map_err(|e| Error::bag("cognate", e))?,
                loss: saved.kept_loss,
            }),
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
            watch: saved.watch,
            kept,
            rewarm_from: saved.rewarm_from,
            cached: RefCell::new(None),
        })
    }
}
