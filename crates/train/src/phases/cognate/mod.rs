//! Phase 1, Cognate: an ancestor on the shared mix, then three specialists branched from it.
//!
//! Branches train interleaved by the share of their steps done, so that diversity can be measured while
//! they train. When a branch ends its exit gate is fitted with the model frozen. At the end every model is
//! evaluated, and the loss barrier is measured between every pair: what says whether Phase 2 may merge.
//!
//! Controls, off by default: three models from independent seeds (their barriers show what sharing an
//! ancestor buys), and one model given the compute of all branches together.

mod gate;
mod measure;
mod recipe;
mod remedies;
mod trainee;

pub use measure::{Behaviour, Sample, barrier, behaviour};
pub use recipe::CognateRecipe;
pub use trainee::{Plan, Trainee};

use crate::checkpoint::save_final;
use crate::detect::{self, Policy, Question};
use crate::memory::{self, Line, Steps, Way};
use crate::ngram::KneserNey;
use crate::phase::folder;
use crate::step::MicroBatch;
use crate::{Context, Error, Phase, report};
use data::{Mixture, Split, Stage};
use model::{Cognate, Config};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use store::Bag;

const VERSION: u32 = 1;
/// The branches, in the order of the plan.
pub const BRANCHES: [&str; 3] = ["reasoning", "memory", "speed"];
/// Most tokens that the 5-gram baseline counts: two gigabytes of grams at the worst.
const NGRAM_TOKENS: usize = 20_000_000;
const INDEPENDENT: [&str; 3] = ["independent0", "independent1", "independent2"];

/// Results so far, besides the trainees.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Results {
    checks: u64,
    gated: u64,
    evaluated: Vec<Value>,
    barriers: Vec<Value>,
    /// How often the branches were sent back to the ancestor because they behaved alike.
    #[serde(default)]
    diverted: u64,
    /// The alert that waits for a person.
    #[serde(default)]
    question: Option<Question>,
}

/// The gradient steps of the phase, for an ancestor of `config`.
pub fn steps<'a>(recipe: &'a CognateRecipe, slots_small: usize, config: &'a Config) -> Steps<'a> {
    let lambda = recipe
        .optim
        .grokfast_lambda
        .max(recipe.branch_optim.grokfast_lambda);
    let way = Way {
        grokfast: lambda > 0.0,
        precision: tensor::precision::in_use(),
        ternary: false,
    };
    let small = Config {
        slots: slots_small,
        ..config.clone()
    };
    let [
        [large_params, large_optimizer],
        [small_params, small_optimizer],
    ] = [config, &small].map(|c| memory::held(c, way.grokfast));
    // All models stay in memory once the branches are there: while a large one takes a step, the rest wait.
    let controls = 3 * u64::from(recipe.independent) + u64::from(recipe.pooled);
    let waiting =
        (1 + controls) * (large_params + large_optimizer) + 2 * (small_params + small_optimizer);
    let branches = large_params * (1 + controls) + 2 * small_params;
    let averages = match recipe.average > 0.0 {
        true => branches,
        false => 0,
    };
    let lines = move |rows| {
        let mut lines = memory::training_step(config, rows, way);
        lines.push(Line {
            name: "waiting",
            bytes: waiting,
            formula: format!("{} other models with their optimizers", 3 + controls),
        });
        lines.push(Line {
            name: "averages",
            bytes: averages,
            formula: "of the weights of each branch at its end".into(),
        });
        lines.push(Line {
            name: "kept",
            bytes: branches,
            formula: "weights of each branch to roll back to".into(),
        });
        lines.retain(|l| l.bytes > 0);
        lines
    };
    Steps {
        key: "cognate.micro_tokens",
        micro_tokens: recipe.micro_tokens,
        rows: recipe.tokens_per_step,
        longest: recipe.sequence,
        longest_key: "cognate.sequence",
        lines: Box::new(lines),
    }
}

/// What the next unit does.
enum Work {
    Train(usize),
    Branch,
    Check,
    Gate(usize),
    Evaluate(usize),
    Barrier(usize),
    Done,
}

/// The phase.
pub struct CognatePhase {
    /// Ancestor, then branches, then controls, as they come into being.
    trainees: Vec<Trainee>,
    results: Results,
    recipe: CognateRecipe,
    line: String,
}

impl CognatePhase {
    /// Begins the phase.
    pub fn start(cx: &Context) -> Result<Self, Error> {
        let r = &cx.recipe.cognate;
        let mut config = cx.recipe.model.config();
        config.vocab = cx.source.tokenizer.vocab_size();
        // It has no gate yet, so it takes every pass.
        config.act_threshold = 0.0;
        let plan = Plan {
            name: "ancestor".into(),
            mixture: Mixture::Mean,
            main_share: None,
            curriculum: false,
            replay: 0.0,
            begun: 0,
            total: r.ancestor_steps,
            loops_from: (r.ancestor_steps as f64 * r.loops_from) as u64,
            seed: cx.recipe.seed,
            averaged: 0,
        };
        let micro_batch = MicroBatch::plan(
            cx,
            &cx.key(folder("cognate"), "", 0),
            &steps(r, cx.recipe.model.slots_small, &config),
        )?;
        let model = Cognate::new(config, cx.recipe.seed);
        Ok(Self {
            trainees: vec![Trainee::new(plan, model, r.optim.clone(), micro_batch)],
            results: Results::default(),
            recipe: r.clone(),
            line: String::new(),
        })
    }

    /// Goes on from a checkpoint.
    pub fn restore(cx: &Context, bag: &Bag) -> Result<Self, Error> {
        if bag.version != VERSION {
            return Err(Error::bag(
                "cognate",
                format!(
                    "its version is {}, this program reads {VERSION}",
                    bag.version
                ),
            ));
        }
        let results = serde_json::from_value(bag.json["results"].clone())
            .map_err(|e| Error::bag("cognate", e))?;
        let list = bag.json["trainees"].as_array().cloned().unwrap_or_default();
        let trainees = list
            .iter()
            .enumerate()
            .map(|(i, json)| Trainee::restore(&bag.arrays, &format!("{i}/"), json))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            trainees,
            results,
            recipe: cx.recipe.cognate.clone(),
            line: String::new(),
        })
    }

    fn branched(&self) -> bool {
        self.trainees.len() > 1
    }

    /// The control trainees, as (name, steps).
    fn controls(&self) -> Vec<(&'static str, u64)> {
        let r = &self.recipe;
        let longest = r.branch_steps().into_iter().max().unwrap_or(0);
        let mut list = Vec::new();
        if r.independent {
            list.extend(INDEPENDENT.map(|n| (n, r.ancestor_steps + longest)));
        }
        if r.pooled {
            list.push(("pooled", r.branch_steps().iter().sum()));
        }
        list
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        let mut pairs = vec![(1, 2), (1, 3), (2, 3)];
        if self.recipe.independent {
            pairs.extend([(4, 5), (4, 6), (5, 6)]);
        }
        pairs
    }

    fn next(&self) -> Work {
        if !self.trainees[0].finished() {
            return Work::Train(0);
        }
        if !self.branched() {
            return Work::Branch;
        }
        let lowest = (1..4)
            .min_by(|&a, &b| {
                self.trainees[a]
                    .fraction()
                    .total_cmp(&self.trainees[b].fraction())
            })
            .expect("three branches");
        let checked = self.results.checks - self.results.diverted * self.recipe.checks;
        let due = checked < self.recipe.checks
            && self.trainees[lowest].fraction() * self.recipe.checks as f64 >= (checked + 1) as f64;
        if due {
            return Work::Check;
        }
        if !self.trainees[lowest].finished() {
            return Work::Train(lowest);
        }
        if let Some(i) = (4..self.trainees.len()).find(|&i| !self.trainees[i].finished()) {
            return Work::Train(i);
        }
        match (
            self.results.gated as usize + 1,
            self.results.evaluated.len(),
            self.results.barriers.len(),
        ) {
            (g, _, _) if g < self.trainees.len() => Work::Gate(g),
            (_, e, _) if e < self.trainees.len() => Work::Evaluate(e),
            (_, _, b) if b < self.pairs().len() => Work::Barrier(b),
            _ => Work::Done,
        }
    }

    /// The ancestor as the branch `i` of [`BRANCHES`] begins, with its slots and an exit threshold.
    fn descendant(&self, cx: &Context, i: usize, act_threshold: f32) -> Cognate {
        let slots = match BRANCHES[i] {
            "memory" => cx.recipe.model.slots_large,
            _ => cx.recipe.model.slots_small,
        };
        let mut model = self.trainees[0].model.with_slots(slots);
        model.config.act_threshold = act_threshold;
        model
    }

    /// Makes the branches and controls.
    fn branch(&mut self, cx: &Context) -> Result<(), Error> {
        let (r, seed) = (&self.recipe, cx.recipe.seed);
        let ancestor = self.trainees[0].model.clone();
        let micro_batch = self.trainees[0].micro_batch;
        let averaged = |total: u64| (total as f64 * r.average) as u64;
        let mut made = Vec::new();
        for (i, name) in BRANCHES.into_iter().enumerate() {
            let model = self.descendant(cx, i, r.act_thresholds[i]);
            let total = r.branch_steps()[i];
            let plan = Plan {
                name: name.into(),
                mixture: r.mixtures[i],
                main_share: None,
                curriculum: true,
                replay: r.replay,
                begun: 0,
                total,
                loops_from: 0,
                seed: seed + i as u64,
                averaged: averaged(total),
            };
            made.push(Trainee::new(
                plan,
                model,
                r.branch_optim.clone(),
                micro_batch,
            ));
        }
        for (i, (name, total)) in self.controls().into_iter().enumerate() {
            let pooled = name == "pooled";
            let mut model = if pooled {
                ancestor.clone()
            } else {
                Cognate::new(ancestor.config.clone(), seed + 1000 + i as u64)
            };
            model.config.act_threshold = r.act_thresholds[0];
            let plan = Plan {
                name: name.into(),
                mixture: Mixture::Mean,
                main_share: None,
                curriculum: pooled,
                replay: r.replay,
                begun: 0,
                total,
                loops_from: if pooled {
                    0
                } else {
                    (r.ancestor_steps as f64 * r.loops_from) as u64
                },
                seed: seed + 1000 + i as u64,
                averaged: averaged(total),
            };
            made.push(Trainee::new(
                plan,
                model,
                if pooled {
                    r.branch_optim.clone()
                } else {
                    r.optim.clone()
                },
                micro_batch,
            ));
        }
        self.trainees.extend(made);
        cx.event(
            &cx.key(folder("cognate"), "", self.done()),
            "branched",
            &json!({ "ancestor_tokens": self.trainees[0].tokens }),
        )
    }

    fn sample(&self, cx: &Context, split: Split) -> Sample {
        Sample::new(
            &cx.source.tokenizer,
            &cx.source.texts_of(split, None),
            self.recipe.measure_tokens,
            self.recipe.sequence,
        )
    }

    /// Training pieces for fitting a gate: batches of the shared mix that training never drew.
    fn gate_batches(&self, cx: &Context, trainee: &Trainee, steps: u64) -> Vec<Vec<data::Piece>> {
        let shares = data::weights(Mixture::Mean, Stage::Ancestor, &cx.source.available());
        let loader = data::Loader::new(
            cx.source.shards.clone(),
            data::Mix::of(&shares, &cx.source.shards),
            trainee.plan.seed,
            &format!("gate/{}", trainee.plan.name),
        );
        let mut state = data::LoaderState::default();
        (0..steps)
            .map(|_| {
                loader
                    .batch(&mut state, self.recipe.gate_tokens, self.recipe.sequence)
                    .pieces
            })
            .collect()
    }

    /// Diversity while the branches train, on copies whose gates are fitted briefly.
    fn check(&mut self, cx: &Context) -> Result<(), Error> {
        let sample = self.sample(cx, Split::Selection);
        let check = self.results.checks - self.results.diverted * self.recipe.checks;
        let mut all = Vec::new();
        for i in 1..4 {
            let trainee = &self.trainees[i];
            let mut model = trainee.model.clone();
            gate::fit(
                &mut model,
                &self.gate_batches(cx, trainee, (self.recipe.gate_steps / 4).max(1)),
                0.01,
            );
            model.standardise_gate(&sample.batch);
            let b = behaviour(&model, &sample, cx.recipe.model.slots_large, cx.recipe.seed);
            let key = cx.key(folder("cognate"), BRANCHES[i - 1], trainee.step);
            for (name, value) in [
                ("halting_steps", b.halting_steps),
                ("memory_use", b.memory_use),
                ("flops_per_token", b.flops_per_token),
                ("loss", b.loss),
            ] {
                cx.metric(&key, &format!("model{i}/{name}"), value)?;
            }
            all.push(b);
        }
        let d = diversity(&all);
        let key = cx.key(folder("cognate"), "", self.results.checks);
        for (name, value) in [
            ("halting", d.halting),
            ("memory", d.memory),
            ("speed", d.speed),
        ] {
            cx.metric(&key, &format!("diversity/{name}"), value)?;
        }
        self.results.checks += 1;
        self.line = format!(
            "diversity: halting {:.2} memory {:.2} speed {:.0}%",
            d.halting,
            d.memory,
            d.speed * 100.0
        );
        // Branches start identical: the first half of the checks is a grace period.
        match 2 * (check + 1) > self.recipe.checks {
            true => self.judge_diversity(cx, &key, &d),
            false => Ok(()),
        }
    }

    fn train(&mut self, cx: &Context, i: usize) -> Result<(), Error> {
        let t = &mut self.trainees[i];
        let stage = t.stage();
        let (pass, report) = t.train_step(cx)?;
        let key = cx.key(folder("cognate"), &t.plan.name, t.step);
        let name = if i == 0 {
            "ancestor".to_string()
        } else {
            format!("model{i}")
        };
        for (metric, value) in [
            ("loss", pass.nats),
            ("perplexity", pass.nats.exp()),
            ("grad_norm", report.grad_norm),
            ("qk_clips", f64::from(report.qk_clips)),
            ("tokens", t.tokens as f64),
        ] {
            cx.metric(&key, &format!("{name}/{metric}"), value)?;
        }
        self.line = format!(
            "{} {}/{} loss {:.3} ({stage:?})",
            t.plan.name, t.step, t.plan.total, pass.nats
        );
        if t.step.is_multiple_of(self.recipe.epoch_steps) || t.finished() {
            for (dataset, epochs) in t.epochs(cx) {
                cx.metric(&key, &format!("{name}/epochs/{dataset}"), epochs)?;
            }
        }
        if report.skipped {
            cx.event(
                &key,
                "step-skipped",
                &json!({ "reason": why_skipped(report.grad_norm), "loss": pass.nats, "skipped": t.optimizer.skipped }),
            )?;
            if t.optimizer.skipped > 10 + t.plan.total as u32 / 10 {
                return Err(Error::Stopped {
                    reason: format!("{} of {} steps of `{}` were skipped, because the gradient was not finite or the loss far above the others", t.optimizer.skipped, t.step, t.plan.name),
                    remedy: "lower cognate.optim.muon_lr and cognate.optim.adam_lr (or those of branch_optim) and start again".into(),
                });
            }
        }
        self.judge_convergence(cx, i)?;
        self.let_rest();
        Ok(())
    }

    /// Frees what only models in training need, unless a person may still choose it.
    fn let_rest(&mut self) {
        if self.results.question.is_none() {
            let done = self.trainees.iter_mut().filter(|t| t.finished());
            done.for_each(Trainee::rest);
        }
    }

    /// What a 5-gram model makes of the held-out texts that has seen the same tokens as the model `i`, each once; null
    /// where that are more than [`NGRAM_TOKENS`].
    fn kneser_ney(&self, cx: &Context, i: usize) -> Value {
        let t = &self.trainees[i];
        let (loader, mut places) = t.drawn(cx);
        if !INDEPENDENT.contains(&t.plan.name.as_str()) {
            places.append(&mut self.trainees[0].drawn(cx).1);
        }
        if places.iter().map(|p| p.length).sum::<usize>() > NGRAM_TOKENS {
            return Value::Null;
        }
        let sequences = places.iter().map(|&p| loader.piece_at(p).tokens);
        let model = KneserNey::train(cx.source.tokenizer.vocab_size(), sequences);
        let documents = cx.source.texts_of(Split::HeldOut, None);
        let scores = model.texts(&cx.source.tokenizer, &documents);
        report::text(&documents, &scores)
    }

    fn evaluate(&mut self, cx: &Context, i: usize) -> Result<(), Error> {
        let t = &self.trainees[i];
        let path = save_final(
            cx.run,
            folder("cognate"),
            &t.plan.name,
            &t.model,
            &cx.source.tokenizer,
        )?;
        let mut value = report::model(
            cx,
            &t.plan.name,
            Some(&path),
            &t.model,
            Split::HeldOut,
            None,
        )?;
        let sample = self.sample(cx, Split::HeldOut);
        let b = behaviour(
            &t.model,
            &sample,
            cx.recipe.model.slots_large,
            cx.recipe.seed,
        );
        if i > 0 {
            value["halting_steps"] = json!(b.halting_steps);
        }
        value["memory_use"] = json!(b.memory_use);
        value["tokens"] = json!(t.tokens);
        value["skipped_steps"] = json!(t.optimizer.skipped);
        value["behaviour"] = json!(b);
        value["epochs"] = json!(t.epochs(cx));
        value["kneser_ney"] = self.kneser_ney(cx, i);
        self.line = format!(
            "evaluated {}: {:.3} bits per byte",
            t.plan.name,
            value["bits_per_byte"].as_f64().unwrap_or(f64::NAN)
        );
        self.results.evaluated.push(value);
        Ok(())
    }
}

fn why_skipped(grad_norm: f64) -> &'static str {
    match grad_norm.is_finite() {
        true => "the loss lies far above those before it",
        false => "the gradient is not finite",
    }
}

/// Spreads between the three branches.
struct Diversity {
    halting: f64,
    memory: f64,
    /// Relative to the mean.
    speed: f64,
}

fn diversity(b: &[Behaviour]) -> Diversity {
    let spread = |f: &dyn Fn(&Behaviour) -> f64| {
        let v: Vec<f64> = b.iter().map(f).collect();
        v.iter().copied().fold(f64::MIN, f64::max) - v.iter().copied().fold(f64::MAX, f64::min)
    };
    let mean_flops = b.iter().map(|b| b.flops_per_token).sum::<f64>() / b.len() as f64;
    Diversity {
        halting: spread(&|b| b.halting_steps),
        memory: spread(&|b| b.memory_use),
        speed: spread(&|b| b.flops_per_token) / mean_flops,
    }
}

impl Phase for CognatePhase {
    fn name(&self) -> &'static str {
        "cognate"
    }

    fn done(&self) -> u64 {
        let r = &self.results;
        self.trainees.iter().map(|t| t.step).sum::<u64>()
            + u64::from(self.branched())
            + r.checks
            + r.gated
            + (r.evaluated.len() + r.barriers.len()) as u64
    }

    fn total(&self) -> u64 {
        let r = &self.recipe;
        let controls = self.controls();
        let models = 3 + controls.len() as u64;
        let steps = match self.branched() {
            true => self.trainees.iter().map(|t| t.plan.total).sum(),
            false => {
                let branches: u64 = r.branch_steps().iter().sum();
                r.ancestor_steps + branches + controls.iter().map(|c| c.1).sum::<u64>()
            }
        };
        steps
            + 1
            + r.checks * (1 + self.results.diverted)
            + models
            + (models + 1)
            + self.pairs().len() as u64
    }

    fn message(&self) -> String {
        self.line.clone()
    }

    fn unit(&mut self, cx: &Context) -> Result<(), Error> {
        match self.next() {
            Work::Train(i) => self.train(cx, i)?,
            Work::Branch => self.branch(cx)?,
            Work::Check => self.check(cx)?,
            Work::Gate(i) => {
                let batches = self.gate_batches(cx, &self.trainees[i], self.recipe.gate_steps);
                let sample = self.sample(cx, Split::Selection);
                let t = &mut self.trainees[i];
                gate::fit(&mut t.model, &batches, 0.01);
                t.model.standardise_gate(&sample.batch);
                self.line = format!("exit gate of {} fitted", t.plan.name);
                self.results.gated += 1;
            }
            Work::Evaluate(i) => self.evaluate(cx, i)?,
            Work::Barrier(i) => {
                let (a, b) = self.pairs()[i];
                let sample = self.sample(cx, Split::Selection);
                let (a, b) = (&self.trainees[a], &self.trainees[b]);
                let nats = barrier(&a.model, &b.model, &sample);
                self.line = format!("barrier {} - {}: {nats:+.3} nats", a.plan.name, b.plan.name);
                self.results
                    .barriers
                    .push(json!({ "a": a.plan.name, "b": b.plan.name, "nats": nats }));
            }
            Work::Done => {}
        }
        Ok(())
    }

    fn finished(&self) -> bool {
        matches!(self.next(), Work::Done)
    }

    fn question(&self) -> Option<&Question> {
        self.results.question.as_ref()
    }

    fn answer(&mut self, cx: &Context, choice: &str) -> Result<(), Error> {
        match self.results.question.take() {
            Some(q) => self.act(cx, &q.detector, &q.about, choice)?,
            None => return Ok(()),
        }
        self.let_rest();
        Ok(())
    }

    fn save(&self) -> Bag {
        let (mut arrays, mut list) = (Vec::new(), Vec::new());
        for (i, t) in self.trainees.iter().enumerate() {
            let (a, json) = t.save(&format!("{i}/"));
            arrays.extend(a);
            list.push(json);
        }
        Bag {
            version: VERSION,
            json: json!({ "results": self.results, "trainees": list }),
            arrays,
            files: BTreeMap::new(),
        }
    }

    fn finish(&mut self, cx: &Context) -> Result<Value, Error> {
        let e = &self.results.evaluated;
        let behaviours: Vec<Behaviour> = e[1..4]
            .iter()
            .map(|m| serde_json::from_value(m["behaviour"].clone()))
            .collect::<Result<_, _>>()
            .map_err(|x| Error::bag("cognate", x))?;
        let d = diversity(&behaviours);
        let thresholds = &cx.recipe.detectors.diversity;
        for (detector, found, least) in [
            ("no-diversity", d.halting, thresholds.halting),
            ("no-memory-diversity", d.memory, thresholds.memory),
            ("no-speed-diversity", d.speed, thresholds.speed),
        ] {
            if thresholds.policy != Policy::Off && found < least {
                let key = cx.key(folder("cognate"), "", self.done());
                detect::settled(cx, &key, detector, (found, least), "go-on")?;
            }
        }
        let worst = self.results.barriers[..3]
            .iter()
            .filter_map(|b| b["nats"].as_f64())
            .fold(f64::MIN, f64::max);
        if worst > self.recipe.barrier_limit {
            let key = cx.key(folder("cognate"), "", self.done());
            let measured = (worst, self.recipe.barrier_limit);
            detect::settled(cx, &key, "barrier", measured, "go-on")?;
        }
        Ok(json!({
            "tokens": self.trainees.iter().map(|t| t.tokens).sum::<u64>(),
            "samples": self.trainees.iter().map(|t| t.samples).sum::<u64>(),
            "ancestor": e[0],
            "models": e[1..4],
            "controls": e[4..],
            "diversity": { "halting": d.halting, "memory": d.memory, "speed": d.speed },
            "barriers": self.results.barriers,
        }))
    }
}
