//! Phase 3, Quiet-STaR: a model learns to think before it answers, and proves that the thoughts do work.
//!
//! Step 0 (`extend`) adds the twelve tokens and the mixing head. Step 1 (`baking` on `lessons`) teaches
//! visible thoughts, against a control of the same compute that learns to answer directly. Step 2 (`rl`)
//! trains silent thoughts (`chains` at the places of a `scene`, paid by `reward`), examined by the
//! anti-theater `battery` through a `thinker`. `silent` generates with them.
//!
//! This file is the sequence: one unit is a gradient step, the evaluation of one strategy, or one run of the
//! battery, and `Record` with the models and the optimizer is the whole state.
//!
//! Left out: fitting the exit gate again; the gate of the model that comes in is kept.

pub mod baking;
pub mod battery;
pub mod chains;
pub mod extend;
pub mod lessons;
mod recipe;
pub mod reward;
pub mod rl;
pub mod scene;
mod section;
pub mod silent;
pub mod thinker;

pub use recipe::{BakingRecipe, BatteryRecipe, QuietstarRecipe, RlRecipe};

use crate::checkpoint::{self, arrays, model_from};
use crate::optim::{Optimizer, lr_scale};
use crate::phase::folder;
use crate::step::TrainDepth;
use crate::{Context, Error, Phase, Source};
use baking::{Verdict, judge, share};
use battery::{Fault, Measures, faults, measure, remedy};
use chains::{Sampling, entropies};
use data::builtin::{SPECIAL_TOKENS, Strategy};
use data::{Batch as Pieces, LoaderState, Piece, Split, Tokenizer};
use extend::{Added, MIXING_LEFT_ZERO, extend, open_thoughts};
use lessons::{Arm, Lessons};
use model::{Bound, Cognate, Config, Depth};
use rl::{Heads, Plan, Pressure, RlReport};
use scene::Scene;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::Bag;
use tensor::Tape;
use tensor::random::Counted;
use thinker::ModelThinker;

/// Version of the bag.
const VERSION: u32 = 1;
/// After so many roll backs a further failure keeps the baked model.
const MOST_ROLLBACKS: u32 = 2;
/// Steps that the report averages over.
const RECENT: usize = 50;

/// Where the phase stands: the next unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    Range { step: usize },
    Bake { epoch: usize, step: usize },
    Judge { epoch: usize, strategy: usize },
    Control { step: usize },
    JudgeControl { strategy: usize },
    Rl { step: u64 },
    Battery { step: u64 },
    Usage { strategy: usize },
    Done,
}

/// Results of the held-out prompts after an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Epoch {
    accuracy: f64,
    answers: f64,
    by_strategy: Vec<f64>,
}

/// One run of the battery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Examined {
    step: u64,
    measures: Measures,
    faults: Vec<Fault>,
}

/// Counters and results so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    stage: Stage,
    done: u64,
    added: Added,
    lr: f32,
    range: Vec<f64>,
    nats: f64,
    skipped: u64,
    /// Verdicts of the evaluation in progress or last finished, by strategy.
    thinking: Vec<Vec<Verdict>>,
    direct: Vec<Vec<Verdict>>,
    usage: Vec<Vec<Verdict>>,
    epochs: Vec<Epoch>,
    replay: LoaderState,
    control_replay: LoaderState,
    text: LoaderState,
    pressure: Pressure,
    rollbacks: u32,
    /// The baked model is kept, since the thoughts never passed.
    abandoned: bool,
    recent: Vec<RlReport>,
    examined: Option<Examined>,
    /// The battery's last pass, which belongs to the last good model.
    passed: Option<Examined>,
}

/// What a unit has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// A number by name.
    Metric(String, f64),
    /// An event of a kind.
    Event(&'static str, Value),
}

/// Phase 3 at some point of its work.
pub struct Quietstar {
    recipe: QuietstarRecipe,
    seed: u64,
    tokenizer: Tokenizer,
    lessons: Lessons,
    /// Batches of each epoch, and of the control.
    dealt: Vec<Vec<Vec<u32>>>,
    dealt_direct: Vec<Vec<u32>>,
    loader: Option<data::Loader>,
    record: Record,
    model: Cognate,
    /// The model as it came, extended: what the range test and then the control trains a copy of.
    aside: Option<Cognate>,
    /// The frozen model that RL must not leave too far.
    baked: Option<Cognate>,
    /// The last model that passed the battery; the baked one at first.
    good: Option<Cognate>,
    optimizer: Optimizer,
    heads: Heads,
    notes: Vec<Note>,
}

impl Quietstar {
    /// Begins with the champion of the phase before.
    pub fn start(cx: &Context, from: &Cognate, tokenizer: &Tokenizer) -> Result<Self, Error> {
        Self::begin(&cx.recipe.quietstar, cx.recipe.seed, cx.source, from, tokenizer)
    }

    /// Goes on from a checkpoint.
    pub fn restore(cx: &Context, bag: &Bag) -> Result<Self, Error> {
        Self::resume(&cx.recipe.quietstar, cx.recipe.seed, cx.source, bag)
    }

    /// [`Quietstar::start`] without a run around it.
    pub fn begin(recipe: &QuietstarRecipe, seed: u64, source: &Source, from: &Cognate, tokenizer: &Tokenizer) -> Result<Self, Error> {
        let recipe = recipe.clone();
        recipe.validate()?;
        let (model, tokenizer, added) = extend(from, tokenizer, recipe.mixing, seed)?;
        let lr = recipe.baking.lr;
        let record = Record {
            stage: if lr == 0.0 { Stage::Range { step: 0 } } else { Stage::Bake { epoch: 0, step: 0 } },
            done: 0,
            added,
            lr,
            range: Vec::new(),
            nats: 0.0,
            skipped: 0,
            thinking: Vec::new(),
            direct: Vec::new(),
            usage: Vec::new(),
            epochs: Vec::new(),
            replay: LoaderState::default(),
            control_replay: LoaderState::default(),
            text: LoaderState::default(),
            pressure: Pressure { kl: recipe.rl.kl, strictness: 1.0 },
            rollbacks: 0,
            abandoned: false,
            recent: Vec::new(),
            examined: None,
            passed: None,
        };
        let optimizer = Optimizer::new(&model.params, recipe.baking.optim(lr));
        let mut this = Self::assemble(recipe, seed, source, tokenizer, record, model, optimizer)?;
        this.aside = Some(this.model.clone());
        Ok(this)
    }

    /// [`Quietstar::restore`] without a run around it.
    pub fn resume(recipe: &QuietstarRecipe, seed: u64, source: &Source, bag: &Bag) -> Result<Self, Error> {
        let bad = |fault: String| Error::bag("quietstar", fault);
        if bag.version != VERSION {
            return Err(bad(format!("it has version {}, this program reads {VERSION}", bag.version)));
        }
        let file = |name: &str| bag.files.get(name).ok_or_else(|| bad(format!("file `{name}` is missing")));
        let config: Config = serde_json::from_slice(file("config.json")?).map_err(|e| bad(format!("config.json: {e}")))?;
        let tokenizer = Tokenizer::from_bytes(file("tokenizer.json")?)?;
        let record: Record = serde_json::from_value(bag.json["record"].clone()).map_err(|e| bad(format!("`record`: {e}")))?;
        let model = model_from(config.clone(), &bag.arrays, "model/")?;
        let optimizer = Optimizer::restore(&model.params, &bag.arrays, "optimizer/", &bag.json["optimizer"])?;
        let mut this = Self::assemble(recipe.clone(), seed, source, tokenizer, record, model, optimizer)?;
        let other = |prefix: &str| bag.arrays.iter().any(|a| a.name.starts_with(prefix)).then(|| model_from(config.clone(), &bag.arrays, prefix)).transpose();
        (this.aside, this.baked, this.good) = (other("aside/")?, other("baked/")?, other("good/")?);
        let steps = bag.json["heads"].as_u64().ok_or_else(|| bad("`heads` is missing".into()))?;
        this.heads = Heads::restore(&bag.arrays, "heads/", steps as u32)?;
        Ok(this)
    }

    fn assemble(recipe: QuietstarRecipe, seed: u64, source: &Source, tokenizer: Tokenizer, record: Record, model: Cognate, optimizer: Optimizer) -> Result<Self, Error> {
        let b = &recipe.baking;
        let lessons = Lessons::new(b, &source.worked, &tokenizer, seed);
        if lessons.train.iter().all(|l| !l.strategy.is_easy()) {
            return Err(Error::Recipe { key: "quietstar.baking.max_len".into(), found: format!("no trace has at most {} tokens", b.max_len), allowed: "raise it".into() });
        }
        let loader = baking::replay(&source.shards, seed, "quietstar/replay");
        let tokens = if loader.is_some() { (b.batch_tokens as f64 * (1.0 - b.replay)) as usize } else { b.batch_tokens };
        let dealt: Vec<_> = (0..b.epochs).map(|e| lessons.deal(Arm::Thinking, e < b.easy_epochs, e as u64, tokens, seed)).collect();
        let steps: usize = dealt.iter().map(Vec::len).sum();
        // The control takes as many steps of as many tokens; its lessons are shorter, so it sees more of them.
        let dealt_direct = (0..).flat_map(|pass| lessons.deal(Arm::Direct, false, pass, tokens, seed)).take(steps).collect();
        Ok(Self { recipe, seed, tokenizer, lessons, dealt, dealt_direct, loader, record, model, aside: None, baked: None, good: None, optimizer, heads: Heads::default(), notes: Vec::new() })
    }

    /// Steps of baking.
    fn bake_steps(&self) -> usize {
        self.dealt_direct.len()
    }

    /// Step of baking, counted over epochs.
    fn bake_step(&self, epoch: usize, step: usize) -> usize {
        self.dealt[..epoch].iter().map(Vec::len).sum::<usize>() + step
    }

    /// The pieces of a step of an arm: lessons and replayed text.
    fn pieces(&mut self, arm: Arm, batch: &[u32]) -> Pieces {
        let b = &self.recipe.baking;
        let mut pieces = Pieces { pieces: self.lessons.pieces(arm, batch) };
        let state = if arm == Arm::Thinking { &mut self.record.replay } else { &mut self.record.control_replay };
        let tokens = (b.batch_tokens as f64 * b.replay) as usize;
        baking::add_replay(&mut pieces, self.loader.as_ref(), state, tokens, b.max_len);
        pieces
    }

    fn range(&mut self, step: usize) {
        let steps = self.recipe.baking.range_steps.max(2);
        // The test leaves no trace but its choice: it trains a copy, and the replayed text begins again.
        let batch = self.dealt.iter().flatten().cycle().nth(step).cloned().unwrap_or_default();
        let pieces = self.pieces(Arm::Thinking, &batch);
        let rate = baking::range_rate(step, steps) as f32;
        (self.optimizer.config.muon_lr, self.optimizer.config.adam_lr) = (rate, rate);
        let aside = self.aside.as_mut().expect("the range test has a copy");
        let depth = TrainDepth::Random { seed: self.seed, step: step as u64 };
        let (pass, _) = baking::train(aside, &mut self.optimizer, &pieces, depth, self.recipe.baking.micro_tokens, 1.0);
        self.record.range.push(if pass.nats.is_finite() { pass.nats } else { 1e9 });
        self.note("baking/range_loss", pass.nats);
        self.record.stage = Stage::Range { step: step + 1 };
        if step + 1 == steps {
            self.aside = Some(self.model.clone());
            self.record.replay = LoaderState::default();
            self.record.lr = baking::range_choice(&self.record.range) as f32;
            self.note("baking/lr", f64::from(self.record.lr));
            self.optimizer = Optimizer::new(&self.model.params, self.recipe.baking.optim(self.record.lr));
            self.record.stage = Stage::Bake { epoch: 0, step: 0 };
        }
    }

    fn bake(&mut self, epoch: usize, step: usize) {
        let batch = self.dealt[epoch][step].clone();
        let pieces = self.pieces(Arm::Thinking, &batch);
        let at = self.bake_step(epoch, step);
        let scale = lr_scale(at as u64, self.bake_steps() as u64, &self.optimizer.config);
        let depth = TrainDepth::Random { seed: self.seed, step: at as u64 };
        let (pass, report) = baking::train(&mut self.model, &mut self.optimizer, &pieces, depth, self.recipe.baking.micro_tokens, scale);
        self.record.nats = pass.nats;
        self.record.skipped += u64::from(report.skipped);
        self.note("baking/loss", pass.nats);
        self.record.stage = if step + 1 < self.dealt[epoch].len() { Stage::Bake { epoch, step: step + 1 } } else { Stage::Judge { epoch, strategy: 0 } };
    }

    fn judge(&mut self, epoch: usize, strategy: usize) {
        let b = &self.recipe.baking;
        let last = epoch + 1 == b.epochs;
        if strategy == 0 {
            self.record.thinking.clear();
        }
        let questions = &self.lessons.held_out[strategy];
        let count = if last { questions.len() } else { b.held_out_between.min(questions.len()) };
        self.record.thinking.push(judge(&self.model, &self.tokenizer, &questions[..count], b.most_new));
        if strategy + 1 < Strategy::ALL.len() {
            self.record.stage = Stage::Judge { epoch, strategy: strategy + 1 };
            return;
        }
        let all = || self.record.thinking.iter().flatten();
        let result = Epoch {
            accuracy: share(all(), |v| v.well_formed),
            answers: share(all(), |v| v.correct),
            by_strategy: self.record.thinking.iter().map(|v| share(v, |v| v.well_formed)).collect(),
        };
        self.note("baking/val_accuracy", result.accuracy);
        self.note("baking/answer_accuracy", result.answers);
        for (s, accuracy) in Strategy::ALL.iter().zip(&result.by_strategy) {
            self.note(&format!("baking/val_accuracy/{s}"), *accuracy);
        }
        self.record.epochs.push(result);
        if !last {
            self.record.stage = Stage::Bake { epoch: epoch + 1, step: 0 };
            return;
        }
        self.optimizer = Optimizer::new(&self.model.params, self.recipe.baking.optim(self.record.lr));
        self.record.stage = Stage::Control { step: 0 };
    }

    fn control(&mut self, step: usize) {
        let batch = self.dealt_direct[step].clone();
        let pieces = self.pieces(Arm::Direct, &batch);
        let scale = lr_scale(step as u64, self.bake_steps() as u64, &self.optimizer.config);
        let depth = TrainDepth::Random { seed: self.seed, step: step as u64 };
        let control = self.aside.as_mut().expect("the control stands aside");
        let (pass, _) = baking::train(control, &mut self.optimizer, &pieces, depth, self.recipe.baking.micro_tokens, scale);
        self.note("control/loss", pass.nats);
        self.record.stage = if step + 1 < self.bake_steps() { Stage::Control { step: step + 1 } } else { Stage::JudgeControl { strategy: 0 } };
    }

    fn judge_control(&mut self, strategy: usize) {
        let control = self.aside.as_ref().expect("the control stands aside");
        let verdicts = judge(control, &self.tokenizer, &self.lessons.held_out[strategy], self.recipe.baking.most_new);
        self.record.direct.push(verdicts);
        self.record.stage = Stage::JudgeControl { strategy: strategy + 1 };
        if strategy + 1 == Strategy::ALL.len() {
            self.note("control/answer_accuracy", share(self.record.direct.iter().flatten(), |v| v.correct));
            self.aside = None;
            open_thoughts(&mut self.model, &self.tokenizer);
            self.baked = Some(self.model.clone());
            self.good = Some(self.model.clone());
            self.optimizer = Optimizer::new(&self.model.params, self.recipe.rl.optim());
            self.heads = Heads::default();
            self.record.stage = if self.recipe.rl.steps > 0 { Stage::Rl { step: 0 } } else { Stage::Battery { step: 0 } };
        }
    }

    /// How thoughts are sampled in training.
    fn sampling(&self) -> Sampling {
        let r = &self.recipe.rl;
        let (thoughts, length) = r.sizes(self.model.params.count());
        let passes = if r.passes == 0 { self.model.config.passes } else { r.passes.min(self.model.config.passes) };
        let close = self.tokenizer.id_of(SPECIAL_TOKENS[1]).expect("the twelve tokens were added");
        Sampling { thoughts, length, temperature: r.temperature, passes, close }
    }

    /// How many of `positions` stand in tasks; all when there is no text.
    fn in_tasks(&self, positions: usize, text: bool) -> usize {
        if text { (positions as f64 * self.recipe.rl.tasks).round() as usize } else { positions }
    }

    fn rl(&mut self, step: u64) {
        let r = self.recipe.rl.clone();
        let mut text = Pieces { pieces: Vec::new() };
        baking::add_replay(&mut text, self.loader.as_ref(), &mut self.record.text, r.text_tokens, self.recipe.baking.max_len);
        let tasks = self.in_tasks(r.positions, !text.pieces.is_empty());
        let random = Counted::new(self.seed, "quietstar/task", step);
        let chosen: Vec<_> = (0..tasks as u64).map(|i| &self.lessons.train[random.below(i, self.lessons.train.len())]).collect();
        let mut scene = Scene::new(&chosen, &text.pieces);
        let plan = Plan { sampling: self.sampling(), in_text: r.positions - tasks, n_true: r.n_true, head_lr: r.head_lr, seed: self.seed, step };
        let baked = self.baked.as_ref().expect("baked before");
        let report = rl::step(&mut self.model, baked, &mut self.optimizer, &mut self.heads, &mut scene, plan, self.record.pressure);
        self.record.skipped += u64::from(report.skipped);
        for (name, value) in [
            ("rl/reward", report.reward),
            ("rl/gain", report.gain),
            ("rl/kl", report.kl),
            ("rl/loss", report.nats),
            ("rl/mixing_weight", report.weight),
            ("rl/thought_length", report.thought_length),
            ("rl/coherence", report.coherence),
        ] {
            self.note(name, value);
        }
        if self.record.recent.len() == RECENT {
            self.record.recent.remove(0);
        }
        self.record.recent.push(report);
        let next = step + 1;
        let due = next % r.battery_every == 0 && report.weight > MIXING_LEFT_ZERO;
        self.record.stage = if due || next == r.steps { Stage::Battery { step: next } } else { Stage::Rl { step: next } };
    }

    /// Held-out places for the battery.
    fn exam(&self, source: &Source) -> Scene {
        let (b, r) = (&self.recipe.battery, &self.recipe.rl);
        let end = self.tokenizer.end_of_document();
        let texts: Vec<Piece> = source
            .texts_of(Split::Selection, None)
            .iter()
            .map(|d| {
                let mut tokens = vec![end];
                tokens.extend(self.tokenizer.encode(&d.text));
                tokens.truncate(self.recipe.baking.max_len + 1);
                Piece { loss: vec![1.0; tokens.len() - 1], tokens, start: 0, dataset: 0, family: d.family }
            })
            .filter(|p| p.tokens.len() > r.n_true + 1)
            .take(b.samples)
            .collect();
        let tasks = self.in_tasks(b.samples, !texts.is_empty());
        let in_text = b.samples - tasks;
        let mut scene = Scene::new(&self.lessons.mixed_held_out(tasks), &texts[..in_text.min(texts.len())]);
        if in_text > 0 && !texts.is_empty() {
            let baked = self.baked.as_ref().expect("baked before");
            let tape = Tape::inference();
            let p = Bound::new(&tape, &baked.params);
            let out = baked.forward(&p, &scene.batch, Depth::Fixed(self.sampling().passes), None, false);
            let entropy = entropies(baked, &tape.value(out.hidden));
            scene.place_in_text(&entropy, in_text, r.n_true, &Counted::new(self.seed, "quietstar/exam", 0));
        }
        scene
    }

    fn battery(&mut self, source: &Source, step: u64) {
        let scene = self.exam(source);
        let sampling = Sampling { thoughts: self.recipe.battery.thoughts, ..self.sampling() };
        let baked = self.baked.as_ref().expect("baked before");
        let thinker = ModelThinker { model: &self.model, baked, scene: &scene, sampling, random: Counted::new(self.seed, "quietstar/exam-thought", 0) };
        let measures = measure(&thinker, self.recipe.battery.resamples, self.seed);
        let found = faults(&measures, &self.recipe.battery);
        for (name, value) in [
            ("anti_theater/divergence", measures.divergence),
            ("anti_theater/thought_length", measures.thought_length),
            ("anti_theater/diversity", measures.diversity),
            ("anti_theater/ablation_drop", measures.ablation_drop),
            ("anti_theater/correlation", measures.correlation),
            ("anti_theater/shuffle_gain", measures.shuffle_gain.mean),
            ("anti_theater/shuffle_gain_low", measures.shuffle_gain.low),
        ] {
            self.note(name, value);
        }
        let examined = Examined { step, measures, faults: found.clone() };
        self.record.examined = Some(examined.clone());
        let over = step >= self.recipe.rl.steps;
        self.record.stage = if over { Stage::Usage { strategy: 0 } } else { Stage::Rl { step } };
        if found.is_empty() {
            self.good = Some(self.model.clone());
            self.record.passed = Some(examined);
            return;
        }
        self.model = self.good.clone().expect("the baked model at least");
        let give_up = self.record.rollbacks >= MOST_ROLLBACKS || (over && self.record.passed.is_none());
        let done = if give_up {
            self.model = self.baked.clone().expect("baked before");
            self.record.passed = None;
            self.record.abandoned = true;
            self.record.stage = Stage::Usage { strategy: 0 };
            "the baked model is kept"
        } else if over {
            "the last good model is kept"
        } else {
            let change = remedy(&found);
            self.record.pressure.kl *= change.kl;
            self.record.pressure.strictness *= change.strictness;
            self.record.rollbacks += 1;
            self.optimizer = Optimizer::new(&self.model.params, self.recipe.rl.optim());
            self.heads = Heads::default();
            "rolled back to the last good model"
        };
        let seen = json!({ "battery": examined, "done": done, "kl": self.record.pressure.kl, "strictness": self.record.pressure.strictness, "rollbacks": self.record.rollbacks });
        self.notes.push(Note::Event("remedy", seen));
    }

    fn usage(&mut self, strategy: usize) {
        let b = &self.recipe.baking;
        let questions = &self.lessons.held_out[strategy];
        let count = b.held_out_between.min(questions.len());
        self.record.usage.push(judge(&self.model, &self.tokenizer, &questions[..count], b.most_new));
        self.record.stage = Stage::Usage { strategy: strategy + 1 };
        if strategy + 1 == Strategy::ALL.len() {
            self.note("rl/thinking_usage", share(self.record.usage.iter().flatten(), |v| v.thinks));
            self.record.stage = Stage::Done;
        }
    }

    fn note(&mut self, name: &str, value: f64) {
        self.notes.push(Note::Metric(name.into(), value));
    }

    /// Does one unit of work; gives what the journal should know.
    #[track_caller]
    pub fn advance(&mut self, source: &Source) -> Vec<Note> {
        match self.record.stage {
            Stage::Range { step } => self.range(step),
            Stage::Bake { epoch, step } => self.bake(epoch, step),
            Stage::Judge { epoch, strategy } => self.judge(epoch, strategy),
            Stage::Control { step } => self.control(step),
            Stage::JudgeControl { strategy } => self.judge_control(strategy),
            Stage::Rl { step } => self.rl(step),
            Stage::Battery { step } => self.battery(source, step),
            Stage::Usage { strategy } => self.usage(strategy),
            Stage::Done => panic!("quietstar: a unit after the last"),
        }
        self.record.done += 1;
        std::mem::take(&mut self.notes)
    }

    /// Baking accuracy after each epoch so far.
    pub fn baking_accuracy(&self) -> Vec<f64> {
        self.record.epochs.iter().map(|e| e.accuracy).collect()
    }
}

impl Phase for Quietstar {
    fn name(&self) -> &'static str {
        "quietstar"
    }

    fn done(&self) -> u64 {
        self.record.done
    }

    fn total(&self) -> u64 {
        let (b, r) = (&self.recipe.baking, &self.recipe.rl);
        let range = if b.lr == 0.0 { b.range_steps.max(2) } else { 0 };
        let judged = Strategy::ALL.len() * (b.epochs + 2);
        let total = (range + 2 * self.bake_steps() + judged) as u64 + r.steps + r.steps.div_ceil(r.battery_every).max(1);
        if self.finished() { self.record.done } else { total.max(self.record.done + 1) }
    }

    fn message(&self) -> String {
        let r = &self.record;
        match r.stage {
            Stage::Range { step } => format!("range test, step {step} of {}", self.recipe.baking.range_steps.max(2)),
            Stage::Bake { epoch, step } => format!("baking, epoch {} step {step} of {}, loss {:.3}", epoch + 1, self.dealt[epoch].len(), r.nats),
            Stage::Judge { epoch, .. } => format!("judging epoch {}", epoch + 1),
            Stage::Control { step } => format!("control without thinking, step {step} of {}", self.bake_steps()),
            Stage::JudgeControl { .. } => "judging the control".into(),
            Stage::Rl { step } => {
                let last = r.recent.last().copied().unwrap_or_default();
                format!("thoughts, step {step} of {}, reward {:.2}, weight {:.2}", self.recipe.rl.steps, last.reward, last.weight)
            }
            Stage::Battery { step } => format!("anti-theater battery at step {step}"),
            Stage::Usage { .. } => "judging the finished model".into(),
            Stage::Done => "done".into(),
        }
    }

    fn unit(&mut self, cx: &Context) -> Result<(), Error> {
        let key = cx.key(folder("quietstar"), "", self.record.done);
        for note in self.advance(cx.source) {
            match note {
                Note::Metric(name, value) => cx.metric(&key, &name, value)?,
                Note::Event(kind, json) => cx.event(&key, kind, &json)?,
            }
        }
        Ok(())
    }

    fn finished(&self) -> bool {
        self.record.stage == Stage::Done
    }

    fn save(&self) -> Bag {
        let mut all = arrays(&self.model, "model/");
        for (prefix, model) in [("aside/", &self.aside), ("baked/", &self.baked), ("good/", &self.good)] {
            all.extend(model.iter().flat_map(|m| arrays(m, prefix)));
        }
        let (optimizer, state) = self.optimizer.state(&self.model.params, "optimizer/");
        let (heads, steps) = self.heads.state("heads/");
        all.extend(optimizer);
        all.extend(heads);
        let config = serde_json::to_vec(&self.model.config).expect("a config is plain data");
        Bag {
            version: VERSION,
            json: json!({ "record": self.record, "optimizer": state, "heads": steps }),
            arrays: all,
            files: [("config.json".to_string(), config), ("tokenizer.json".to_string(), self.tokenizer.to_bytes())].into(),
        }
    }

    fn finish(&mut self, cx: &Context) -> Result<Value, Error> {
        let path = checkpoint::save_final(cx.run, folder("quietstar"), "quietstar", &self.model, &self.tokenizer)?;
        self.section(cx, &path)
    }
}
