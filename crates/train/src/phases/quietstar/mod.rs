//! Phase 3, Quiet-STaR: a model learns to think before it answers, and proves that the thoughts do work.
//!
//! Step 0 (`extend`) adds the twelve tokens and the mixing head. Step 1 (`baking` on `lessons`) teaches
//! visible thoughts, against a control of the same compute that learns to answer directly. Step 2 (`rl`)
//! trains silent thoughts (`chains` at the places of a `scene`, paid by `reward`), examined by the
//! anti-theater `battery` through a `thinker`. `silent` generates with them.
//!
//! One unit is a gradient step, an evaluation of some strategies, or one run of the battery (`step_one` and `step_two`
//! hold them); `record` with the models and the optimizer is the whole state.
//!
//! Left out: fitting the exit gate again; the gate of the model that comes in is kept.

pub mod baking;
pub mod battery;
pub mod chains;
pub mod extend;
pub mod lessons;
mod recipe;
mod record;
pub mod reward;
pub mod rl;
pub mod scene;
mod section;
pub mod silent;
mod step_one;
mod step_two;
pub mod thinker;

pub use recipe::{BakingRecipe, BatteryRecipe, QuietstarRecipe, RlRecipe};

use crate::checkpoint::{self, arrays, model_from};
use crate::optim::Optimizer;
use crate::phase::folder;
use crate::step::{Halved, MicroBatch};
use crate::{Context, Error, Phase, Source, report};
use data::builtin::Strategy;
use data::{LoaderState, Split, Tokenizer};
use extend::extend;
use lessons::{Arm, Lessons};
use model::{Cognate, Config};
use record::{Record, Stage};
use rl::{Heads, Pressure};
use serde_json::{Value, json};
use store::Bag;

/// Version of the bag.
const VERSION: u32 = 1;

/// What a unit has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// A number by name.
    Metric(String, f64),
    /// An event of a kind.
    Event(&'static str, Value),
    /// A step that had to compute fewer rows at once.
    Halved(Halved),
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
        let recipe = &cx.recipe.quietstar;
        let mut this = Self::begin(recipe, cx.recipe.seed, cx.source, from, tokenizer)?;
        let key = cx.key(folder("quietstar"), "", 0);
        this.record.micro_batch = {
            let steps = baking::steps(&recipe.baking, &this.model.config);
            MicroBatch::plan(cx, &key, &steps)?
        };
        Ok(this)
    }

    /// Goes on from a checkpoint.
    pub fn restore(cx: &Context, bag: &Bag) -> Result<Self, Error> {
        Self::resume(&cx.recipe.quietstar, cx.recipe.seed, cx.source, bag)
    }

    /// [`Quietstar::start`] without a run around it.
    pub fn begin(
        recipe: &QuietstarRecipe,
        seed: u64,
        source: &Source,
        from: &Cognate,
        tokenizer: &Tokenizer,
    ) -> Result<Self, Error> {
        let recipe = recipe.clone();
        recipe.validate()?;
        let (model, tokenizer, added) = extend(from, tokenizer, recipe.mixing, seed)?;
        let lr = recipe.baking.lr;
        let record = Record {
            stage: if lr == 0.0 {
                Stage::Range { step: 0 }
            } else {
                Stage::Bake { epoch: 0, step: 0 }
            },
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
            pressure: Pressure {
                kl: recipe.rl.kl,
                strictness: 1.0,
            },
            rollbacks: 0,
            abandoned: false,
            recent: Vec::new(),
            examined: None,
            passed: None,
            micro_batch: MicroBatch::default(),
        };
        let optimizer = Optimizer::new(&model.params, recipe.baking.optim(lr));
        let mut this = Self::assemble(recipe, seed, source, tokenizer, record, model, optimizer)?;
        this.aside = Some(this.model.clone());
        Ok(this)
    }

    /// [`Quietstar::restore`] without a run around it.
    pub fn resume(
        recipe: &QuietstarRecipe,
        seed: u64,
        source: &Source,
        bag: &Bag,
    ) -> Result<Self, Error> {
        let bad = |fault: String| Error::bag("quietstar", fault);
        if bag.version != VERSION {
            return Err(bad(format!(
                "it has version {}, this program reads {VERSION}",
                bag.version
            )));
        }
        let file = |name: &str| {
            bag.files
                .get(name)
                .ok_or_else(|| bad(format!("file `{name}` is missing")))
        };
        let config: Config = serde_json::from_slice(file("config.json")?)
            .map_err(|e| bad(format!("config.json: {e}")))?;
        let tokenizer = Tokenizer::from_bytes(file("tokenizer.json")?)?;
        let record: Record = serde_json::from_value(bag.json["record"].clone())
            .map_err(|e| bad(format!("`record`: {e}")))?;
        let model = model_from(config.clone(), &bag.arrays, "model/")?;
        let optimizer = Optimizer::restore(
            &model.params,
            &bag.arrays,
            "optimizer/",
            &bag.json["optimizer"],
        )?;
        let mut this = Self::assemble(
            recipe.clone(),
            seed,
            source,
            tokenizer,
            record,
            model,
            optimizer,
        )?;
        let other = |prefix: &str| {
            bag.arrays
                .iter()
                .any(|a| a.name.starts_with(prefix))
                .then(|| model_from(config.clone(), &bag.arrays, prefix))
                .transpose()
        };
        (this.aside, this.baked, this.good) = (other("aside/")?, other("baked/")?, other("good/")?);
        let steps = bag.json["heads"]
            .as_u64()
            .ok_or_else(|| bad("`heads` is missing".into()))?;
        this.heads = Heads::restore(&bag.arrays, "heads/", steps as u32)?;
        Ok(this)
    }

    fn assemble(
        recipe: QuietstarRecipe,
        seed: u64,
        source: &Source,
        tokenizer: Tokenizer,
        record: Record,
        model: Cognate,
        optimizer: Optimizer,
    ) -> Result<Self, Error> {
        let b = &recipe.baking;
        let lessons = Lessons::new(b, &source.worked, &tokenizer, seed);
        if lessons.train.iter().all(|l| !l.strategy.is_easy()) {
            return Err(Error::Recipe {
                key: "quietstar.baking.max_len".into(),
                found: format!("no trace has at most {} tokens", b.max_len),
                allowed: "raise it".into(),
            });
        }
        let loader = baking::replay(&source.shards, seed, "quietstar/replay");
        let tokens = if loader.is_some() {
            (b.batch_tokens as f64 * (1.0 - b.replay)) as usize
        } else {
            b.batch_tokens
        };
        let dealt: Vec<_> = (0..b.epochs)
            .map(|e| lessons.deal(Arm::Thinking, e < b.easy_epochs, e as u64, tokens, seed))
            .collect();
        let steps: usize = dealt.iter().map(Vec::len).sum();
        // The control takes as many steps of as many tokens; its lessons are shorter, so it sees more of them.
        let dealt_direct = (0..)
            .flat_map(|pass| lessons.deal(Arm::Direct, false, pass, tokens, seed))
            .take(steps)
            .collect();
        Ok(Self {
            recipe,
            seed,
            tokenizer,
            lessons,
            dealt,
            dealt_direct,
            loader,
            record,
            model,
            aside: None,
            baked: None,
            good: None,
            optimizer,
            heads: Heads::default(),
            notes: Vec::new(),
        })
    }

    fn note(&mut self, name: &str, value: f64) {
        self.notes.push(Note::Metric(name.into(), value));
    }

    /// Does one unit of work; gives what the journal should know.
    ///
    /// # Errors
    /// A step does not fit into memory even in the smallest parts.
    #[track_caller]
    pub fn advance(&mut self, source: &Source) -> Result<Vec<Note>, Error> {
        let stage = self.record.stage;
        match stage {
            Stage::Range { step } => self.range(step)?,
            Stage::Bake { epoch, step } => self.bake(epoch, step)?,
            Stage::Judge { epoch, strategy } => self.judge(epoch, strategy),
            Stage::Control { step } => self.control(step)?,
            Stage::JudgeControl { strategy } => self.judge_control(strategy),
            Stage::Rl { step } => self.rl(step),
            Stage::Battery { step } => self.battery(source, step),
            Stage::Usage { strategy } => self.usage(strategy),
            Stage::Done => panic!("quietstar: a unit after the last"),
        }
        self.record.done += 1;
        if std::mem::discriminant(&stage) != std::mem::discriminant(&self.record.stage) {
            // The next kind of work asks for buffers of other sizes.
            tensor::storage::trim();
        }
        Ok(std::mem::take(&mut self.notes))
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
        // Strategies are judged in groups of as many as are generated at once.
        let units = |prompts: usize| {
            Strategy::ALL
                .len()
                .div_ceil((baking::WIDTH / prompts.max(1)).max(1))
        };
        let judged = b.epochs * units(b.held_out_between) + 2 * units(b.held_out);
        let total = (range + 2 * self.bake_steps() + judged) as u64
            + r.steps
            + r.steps.div_ceil(r.battery_every).max(1);
        if self.finished() {
            self.record.done
        } else {
            total.max(self.record.done + 1)
        }
    }

    fn message(&self) -> String {
        let r = &self.record;
        match r.stage {
            Stage::Range { step } => format!(
                "range test, step {step} of {}",
                self.recipe.baking.range_steps.max(2)
            ),
            Stage::Bake { epoch, step } => format!(
                "baking, epoch {} step {step} of {}, loss {:.3}",
                epoch + 1,
                self.dealt[epoch].len(),
                r.nats
            ),
            Stage::Judge { epoch, .. } => format!("judging epoch {}", epoch + 1),
            Stage::Control { step } => format!(
                "control without thinking, step {step} of {}",
                self.bake_steps()
            ),
            Stage::JudgeControl { .. } => "judging the control".into(),
            Stage::Rl { step } => {
                let last = r.recent.last().copied().unwrap_or_default();
                format!(
                    "thoughts, step {step} of {}, reward {:.2}, weight {:.2}",
                    self.recipe.rl.steps, last.reward, last.weight
                )
            }
            Stage::Battery { step } => format!("anti-theater battery at step {step}"),
            Stage::Usage { .. } => "judging the finished model".into(),
            Stage::Done => "done".into(),
        }
    }

    fn unit(&mut self, cx: &Context) -> Result<(), Error> {
        let key = cx.key(folder("quietstar"), "", self.record.done);
        for note in self.advance(cx.source)? {
            match note {
                Note::Metric(name, value) => cx.metric(&key, &name, value)?,
                Note::Event(kind, json) => cx.event(&key, kind, &json)?,
                Note::Halved(halved) => halved.journal(cx, &key)?,
            }
        }
        Ok(())
    }

    fn finished(&self) -> bool {
        self.record.stage == Stage::Done
    }

    fn save(&self) -> Bag {
        let mut all = arrays(&self.model, "model/");
        for (prefix, model) in [
            ("aside/", &self.aside),
            ("baked/", &self.baked),
            ("good/", &self.good),
        ] {
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
            files: [
                ("config.json".to_string(), config),
                ("tokenizer.json".to_string(), self.tokenizer.to_bytes()),
            ]
            .into(),
        }
    }

    fn finish(&mut self, cx: &Context) -> Result<Value, Error> {
        let path = checkpoint::save_final(
            cx.run,
            folder("quietstar"),
            "quietstar",
            &self.model,
            &self.tokenizer,
        )?;
        let model = report::model(
            cx,
            "quietstar",
            Some(&path),
            &self.model,
            Split::HeldOut,
            None,
        )?;
        Ok(self.section(&model, cx.clock))
    }
}
