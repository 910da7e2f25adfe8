//! Phase 4, BitNet: the champion in 1.58 bits a weight.
//!
//! ```text
//! baseline -> calibrate -> scales -> for each layer: quantise, recover, decide (keep or revert)
//!          -> fine-tune -> judge (fine-tune longer | conservative settings, once) -> pack and measure
//! ```
//!
//! Calibration reads what enters each matrix; by it each gets the scale rule with the smaller error of its
//! output. A layer is ramped from full precision to ternary while it is recovered by distillation
//! ([`distil`]), then judged on held-out text alone: accuracies of small models are near chance, so they steer
//! only beyond their noise. Norms, gates, convolutions, exit gate and embedding stay in higher precision; the
//! embedding goes to 8 bits when the file is still too large, since sparsity does not shrink it.
//!
//! Decisions look at the selection split, the report at the held-out split. What is measured after is the
//! packed file, read back and run on the integer kernels.

mod distil;
mod file;
mod material;
mod measure;
mod outcome;
mod recipe;
mod state;

pub use distil::steps;
pub use file::{PACKED, is_packed, load_packed, save_packed};
pub use recipe::{BitnetRecipe, BySize, Codes};

use crate::checkpoint::{arrays, load_final, model_from};
use crate::optim::{Optimizer, lr_scale};
use crate::phase::folder;
use crate::step::MicroBatch;
use crate::{Context, Error, Phase, report};
use data::{LoaderState, Tokenizer};
use material::Material;
use measure::{Measured, decision_items, decision_nats};
use model::packed::{Embedding, may_be_ternary, pack, unpack};
use model::params::{Inputs, block_of};
use model::{Bound, Cognate, Depth};
use serde_json::{Value, json};
use state::{Layer, Seconds, Stage, State};
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use store::Bag;
use tensor::Tape;
use tensor::ops::ternary::{Scale, TernaryCodes, TernarySettings};

const VERSION: u32 = 1;
/// The second round of fine-tuning runs at this share of the learning rate.
const SECOND_ROUND: f32 = 0.3;

/// The phase.
pub struct BitnetPhase {
    champion: Cognate,
    student: Cognate,
    /// The student before the current layer.
    fallback: Option<Cognate>,
    optimizer: Optimizer,
    tokenizer: Tokenizer,
    state: State,
    recipe: BitnetRecipe,
    /// Derived, not part of the state.
    material: OnceCell<Material>,
    line: String,
}

/// The layers in the order in which they are quantised: each block, and the maps into and out of the core.
fn layers(model: &Cognate, conservative: bool) -> Vec<(String, Vec<String>)> {
    let mut list: Vec<(String, Vec<String>)> = Vec::new();
    let last = model.config.blocks.len() - 1;
    for name in model
        .params
        .names()
        .iter()
        .filter(|n| may_be_ternary(&model.params, n))
    {
        let (layer, spared) = match block_of(name) {
            Some(i) => (format!("blocks.{i}"), i == last),
            None => ("core".to_string(), true),
        };
        // The last resort leaves alone what stands next to the output and around the loop.
        if conservative && spared {
            continue;
        }
        match list.last_mut() {
            Some((l, names)) if *l == layer => names.push(name.clone()),
            _ => list.push((layer, vec![name.clone()])),
        }
    }
    list
}

impl BitnetPhase {
    /// Begins with the finished model of an earlier phase.
    pub fn start(cx: &Context, champion: &Path) -> Result<Self, Error> {
        let recipe = cx.recipe.bitnet.clone();
        recipe.validate()?;
        let (model, tokenizer) = load_final(champion)?;
        let champion_bytes = std::fs::metadata(champion)
            .map_err(|e| Error::File {
                path: champion.into(),
                fault: format!("cannot be read: {e}"),
            })?
            .len();
        let key = cx.key(folder("bitnet"), "", 0);
        let state = State {
            stage: Stage::Baseline,
            settings: BySize::of(model.params.count(), &recipe),
            conservative: false,
            second_round: false,
            done: 0,
            calibrated: 0,
            inputs: BTreeMap::new(),
            kept_scale: BTreeMap::new(),
            ternary: BTreeMap::new(),
            layer: 0,
            step: 0,
            longer: false,
            steps: 0,
            loader: LoaderState::default(),
            champion_nats: 0.0,
            champion_items: Vec::new(),
            nats: 0.0,
            layers: Vec::new(),
            champion_bytes,
            before: None,
            result: None,
            seconds: Seconds::default(),
            micro_batch: MicroBatch::plan(cx, &key, &steps(&recipe, &model.config))?,
        };
        cx.event(&key, "settings", &json!({ "params": model.params.count(), "size_category": report::size_category(model.params.count()), "settings": state.settings }))?;
        Ok(Self {
            student: model.clone(),
            optimizer: Optimizer::new(&model.params, recipe.optim.clone()),
            champion: model,
            fallback: None,
            tokenizer,
            state,
            recipe,
            material: OnceCell::new(),
            line: String::new(),
        })
    }

    /// Goes on from a checkpoint.
    pub fn restore(cx: &Context, bag: &Bag) -> Result<Self, Error> {
        let bad = |e: String| Error::bag("bitnet", e);
        if bag.version != VERSION {
            return Err(bad(format!(
                "its version is {}, this program reads {VERSION}",
                bag.version
            )));
        }
        let state: State =
            serde_json::from_value(bag.json["state"].clone()).map_err(|e| bad(e.to_string()))?;
        let config =
            || serde_json::from_value(bag.json["config"].clone()).map_err(|e| bad(e.to_string()));
        let champion = model_from(config()?, &bag.arrays, "champion/")?;
        let student = model_from(config()?, &bag.arrays, "student/")?;
        let has = bag.arrays.iter().any(|a| a.name.starts_with("fallback/"));
        let fallback = has
            .then(|| model_from(config()?, &bag.arrays, "fallback/"))
            .transpose()?;
        let optimizer = Optimizer::restore(
            &student.params,
            &bag.arrays,
            "optimizer/",
            &bag.json["optimizer"],
        )?;
        let tokenizer = bag
            .files
            .get("tokenizer.json")
            .ok_or_else(|| bad("`tokenizer.json` is missing".into()))?;
        let mut this = Self {
            champion,
            student,
            fallback,
            optimizer,
            tokenizer: Tokenizer::from_bytes(tokenizer)?,
            state,
            recipe: cx.recipe.bitnet.clone(),
            material: OnceCell::new(),
            line: String::new(),
        };
        this.apply_ternary();
        Ok(this)
    }

    fn material(&self, cx: &Context) -> &Material {
        self.material
            .get_or_init(|| Material::new(cx.source, &self.tokenizer, &self.recipe, cx.recipe.seed))
    }

    fn layers(&self) -> Vec<(String, Vec<String>)> {
        layers(&self.student, self.state.conservative)
    }

    /// Puts the state's list of ternary matrices into the student.
    fn apply_ternary(&mut self) {
        let s = &self.state;
        let setting = |name: &String, &lambda: &f32| TernarySettings {
            sparsity: s.settings.sparsity,
            lambda,
            scale: if s.kept_scale.get(name).copied().unwrap_or(false) {
                Scale::Kept
            } else {
                Scale::Absmean
            },
        };
        self.student.ternary = s
            .ternary
            .iter()
            .map(|(name, lambda)| (name.clone(), setting(name, lambda)))
            .collect();
    }

    /// The student as it would run from its file.
    fn packed_student(&self, embedding: Embedding) -> Cognate {
        let (entries, _) = pack(&self.student, self.recipe.packing.packing(), embedding);
        unpack(self.student.config.clone(), entries).expect("a packed model unpacks")
    }

    fn baseline(&mut self, cx: &Context) {
        let s = &mut self.state;
        s.champion_nats = decision_nats(cx, &self.champion, &self.tokenizer);
        s.champion_items = decision_items(cx, &self.champion, &self.tokenizer);
        s.nats = s.champion_nats;
        let before = Measured::of(cx, &self.champion, &self.tokenizer);
        self.line = format!("champion: {:.3} bits per byte", before.bits_per_byte);
        s.before = Some(before);
        s.stage = Stage::Calibrate;
    }

    /// One batch of what enters the matrices.
    fn calibrate(&mut self, cx: &Context) {
        let mut loader = std::mem::take(&mut self.state.loader);
        let pieces = self
            .material(cx)
            .batch(&self.recipe, &mut loader, self.state.done);
        self.state.loader = loader;
        let rows = self.state.micro_batch.tokens(self.recipe.micro_tokens);
        let inputs = RefCell::new(Inputs {
            squares: std::mem::take(&mut self.state.inputs),
        });
        for part in crate::step::micro_batches(&pieces.pieces, rows) {
            let (batch, _, _) = crate::step::rows(part);
            let tape = Tape::inference();
            let p = Bound::watching(&tape, &self.champion.params, &inputs);
            self.champion
                .forward(&p, &batch, Depth::Halting, None, false);
        }
        let s = &mut self.state;
        s.inputs = inputs.into_inner().squares;
        s.calibrated += pieces.pieces.len();
        self.line = format!(
            "calibration {}/{}",
            s.calibrated.min(s.settings.calibration_samples),
            s.settings.calibration_samples
        );
        if s.calibrated >= s.settings.calibration_samples {
            s.stage = Stage::Scales;
        }
    }

    /// Chooses each matrix's scale rule by the error of its output on the calibration text.
    fn choose_scales(&mut self, cx: &Context) -> Result<(), Error> {
        let s = &mut self.state;
        let inputs = std::mem::take(&mut s.inputs);
        for name in self
            .champion
            .params
            .names()
            .iter()
            .filter(|n| may_be_ternary(&self.champion.params, n))
        {
            let w = self.champion.params.get(name);
            let error = |scale: Scale| {
                let mut d = TernaryCodes::of(w, s.settings.sparsity, scale).dequantised(w.cols());
                d.add_scaled_(w, -1.0);
                let weight = inputs.get(name).map(|i| &i.1[..]);
                let squares = |row: &[f32]| {
                    row.iter()
                        .enumerate()
                        .map(|(i, v)| f64::from(*v).powi(2) * weight.map_or(1.0, |w| w[i]))
                        .sum::<f64>()
                };
                d.to_vec().chunks(w.cols()).map(squares).sum::<f64>()
            };
            s.kept_scale
                .insert(name.clone(), error(Scale::Kept) < error(Scale::Absmean));
        }
        let kept = s.kept_scale.values().filter(|k| **k).count();
        self.line = format!(
            "scales: mean of kept weights for {kept} of {} matrices",
            s.kept_scale.len()
        );
        s.stage = Stage::Quantise;
        cx.event(
            &cx.key(folder("bitnet"), "", s.steps),
            "calibrated",
            &json!({ "samples": s.calibrated, "kept_scale": s.kept_scale }),
        )
    }

    /// Makes the next layer ternary.
    fn quantise(&mut self) {
        let layers = self.layers();
        let Some((name, matrices)) = layers.get(self.state.layer) else {
            self.begin_steps(Stage::FineTune);
            return;
        };
        self.fallback = Some(self.student.clone());
        self.state
            .ternary
            .extend(matrices.iter().map(|m| (m.clone(), 1.0)));
        self.line = format!("{name}: {} matrices ternary", matrices.len());
        self.begin_steps(if self.recipe.recover_steps > 0 {
            Stage::Recover
        } else {
            Stage::Decide
        });
    }

    /// Enters a stage of gradient steps with a fresh optimizer.
    fn begin_steps(&mut self, stage: Stage) {
        self.apply_ternary();
        self.optimizer = Optimizer::new(&self.student.params, self.recipe.optim.clone());
        self.state.step = 0;
        self.state.stage = if stage == Stage::FineTune && self.recipe.finetune_steps == 0 {
            Stage::Judge
        } else {
            stage
        };
    }

    fn train(&mut self, cx: &Context, scale: f32) -> Result<(), Error> {
        let mut loader = std::mem::take(&mut self.state.loader);
        let pieces = self
            .material(cx)
            .batch(&self.recipe, &mut loader, self.state.done);
        self.state.loader = loader;
        let at = self.state.steps;
        let (seen, halved) = distil::step(
            &mut self.student,
            &self.champion,
            &pieces,
            &self.recipe,
            &mut self.state.micro_batch,
            &mut self.optimizer,
            scale,
            cx.recipe.seed,
            at,
        )?;
        self.state.step += 1;
        self.state.steps += 1;
        let key = cx.key(folder("bitnet"), "", self.state.steps);
        if let Some(halved) = halved {
            halved.journal(cx, &key)?;
        }
        for (name, value) in [
            ("divergence", seen.divergence),
            ("loss", seen.nats),
            ("grad_norm", seen.report.grad_norm),
            ("ternary", self.state.ternary.len() as f64),
        ] {
            cx.metric(&key, &format!("recovery/{name}"), value)?;
        }
        if self.optimizer.skipped > 10 + self.state.step as u32 / 10 {
            return Err(Error::Stopped {
                reason: format!(
                    "{} steps of recovery had a gradient that is not finite",
                    self.optimizer.skipped
                ),
                remedy:
                    "lower bitnet.optim.muon_lr and bitnet.optim.adam_lr and start the phase again"
                        .into(),
            });
        }
        self.line = format!("divergence {:.3} loss {:.3}", seen.divergence, seen.nats);
        Ok(())
    }

    fn recover(&mut self, cx: &Context) -> Result<(), Error> {
        let (name, matrices) = self.layers().swap_remove(self.state.layer);
        let lambda = if self.recipe.ramp == 0 || self.state.longer {
            1.0
        } else {
            ((self.state.step + 1) as f32 / self.recipe.ramp as f32).min(1.0)
        };
        for m in matrices {
            self.state.ternary.insert(m, lambda);
        }
        self.apply_ternary();
        let warm = self
            .recipe
            .optim
            .warmup
            .mul_add(self.recipe.recover_steps as f64, 1.0) as f32;
        self.train(cx, ((self.state.step + 1) as f32 / warm).min(1.0))?;
        self.line = format!(
            "recovering {name} {}/{}: {}",
            self.state.step, self.recipe.recover_steps, self.line
        );
        if self.state.step >= self.recipe.recover_steps {
            self.state.stage = Stage::Decide;
        }
        Ok(())
    }

    /// Keeps or reverts the current layer.
    fn decide(&mut self, cx: &Context) -> Result<(), Error> {
        let nats = decision_nats(cx, &self.student, &self.tokenizer);
        let (name, matrices) = self.layers().swap_remove(self.state.layer);
        let s = &mut self.state;
        let cost = nats - s.nats;
        // A cost that is not a number is too much as well.
        let kept = cost <= self.recipe.layer_limit;
        if !kept && !s.longer && self.recipe.recover_steps > 0 {
            // Once as long again: a layer at the front needs more than one next to the output.
            s.longer = true;
            s.step = 0;
            s.stage = Stage::Recover;
            self.line = format!("{name} costs {cost:+.4} nats: recovered longer");
            return Ok(());
        }
        s.longer = false;
        let before = self.fallback.take();
        if kept {
            s.nats = nats;
        } else {
            self.student = before.expect("kept since the layer was quantised");
            s.ternary.retain(|n, _| !matrices.contains(n));
        }
        s.layers.push(Layer {
            name: name.clone(),
            cost: if cost.is_finite() { cost } else { f64::MAX },
            kept,
        });
        s.layer += 1;
        s.stage = Stage::Quantise;
        self.line = format!(
            "{name} {}: {cost:+.4} nats",
            if kept { "kept" } else { "reverted" }
        );
        let key = cx.key(folder("bitnet"), "", self.state.steps);
        cx.metric(&key, "layer/cost", cost)?;
        cx.event(
            &key,
            if kept { "layer-kept" } else { "layer-reverted" },
            &json!({ "layer": name, "cost": cost, "limit": self.recipe.layer_limit }),
        )?;
        self.apply_ternary();
        Ok(())
    }

    fn finetune(&mut self, cx: &Context) -> Result<(), Error> {
        let share = if self.state.second_round {
            SECOND_ROUND
        } else {
            1.0
        };
        let total = self.recipe.finetune_steps;
        self.train(
            cx,
            share * lr_scale(self.state.step, total, &self.recipe.optim),
        )?;
        self.line = format!("fine-tuning {}/{total}: {}", self.state.step, self.line);
        if self.state.step >= total {
            self.state.stage = Stage::Judge;
        }
        Ok(())
    }
}

impl Phase for BitnetPhase {
    fn name(&self) -> &'static str {
        "bitnet"
    }

    fn done(&self) -> u64 {
        self.state.done
    }

    fn total(&self) -> u64 {
        let (s, r) = (&self.state, &self.recipe);
        let per_layer = r.recover_steps + 2;
        let layers = self.layers().len() as u64 - s.layer as u64;
        let rounds = |left: u64| left + 2;
        let ahead = match s.stage {
            Stage::Baseline | Stage::Calibrate | Stage::Scales => {
                // As many batches as the pieces still wanted, at the rate so far.
                let left = s.settings.calibration_samples.saturating_sub(s.calibrated) as u64;
                let rate = (s.calibrated as u64 / s.done.max(1)).max(1);
                left.div_ceil(rate) + 1 + layers * per_layer + rounds(r.finetune_steps) + 1
            }
            Stage::Quantise => layers * per_layer + 1 + rounds(r.finetune_steps),
            Stage::Recover => layers * per_layer - s.step + rounds(r.finetune_steps),
            Stage::Decide => (layers.saturating_sub(1)) * per_layer + 2 + rounds(r.finetune_steps),
            Stage::FineTune => rounds(r.finetune_steps - s.step),
            Stage::Judge => 2,
            Stage::Pack => 1,
            Stage::Done => 0,
        };
        s.done + ahead
    }

    fn message(&self) -> String {
        self.line.clone()
    }

    fn unit(&mut self, cx: &Context) -> Result<(), Error> {
        let (began, stage) = ((cx.clock)(), self.state.stage);
        match stage {
            Stage::Baseline => self.baseline(cx),
            Stage::Calibrate => self.calibrate(cx),
            Stage::Scales => self.choose_scales(cx)?,
            Stage::Quantise => self.quantise(),
            Stage::Recover => self.recover(cx)?,
            Stage::Decide => self.decide(cx)?,
            Stage::FineTune => self.finetune(cx)?,
            Stage::Judge => self.judge(cx)?,
            Stage::Pack => self.pack(cx)?,
            Stage::Done => return Ok(()),
        }
        self.state.done += 1;
        let spent = (cx.clock)() - began;
        let seconds = &mut self.state.seconds;
        match stage {
            Stage::Baseline | Stage::Calibrate | Stage::Scales => seconds.calibration += spent,
            Stage::FineTune | Stage::Judge => seconds.fine_tuning += spent,
            _ => seconds.compression += spent,
        }
        Ok(())
    }

    fn finished(&self) -> bool {
        self.state.stage == Stage::Done
    }

    fn save(&self) -> Bag {
        let mut all = arrays(&self.champion, "champion/");
        all.extend(arrays(&self.student, "student/"));
        all.extend(self.fallback.iter().flat_map(|f| arrays(f, "fallback/")));
        let (moments, optimizer) = self.optimizer.state(&self.student.params, "optimizer/");
        all.extend(moments);
        Bag {
            version: VERSION,
            json: json!({ "state": self.state, "config": self.champion.config, "optimizer": optimizer }),
            arrays: all,
            files: BTreeMap::from([("tokenizer.json".to_string(), self.tokenizer.to_bytes())]),
        }
    }

    fn finish(&mut self, _cx: &Context) -> Result<Value, Error> {
        let mut section = self
            .state
            .result
            .clone()
            .ok_or_else(|| Error::bag("bitnet", "the packed model was never measured"))?;
        section["seconds"] = json!(self.state.seconds);
        Ok(section)
    }
}
