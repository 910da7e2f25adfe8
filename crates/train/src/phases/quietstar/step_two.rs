//! The units of step 2: reinforcement learning of silent thoughts, and the battery with its remedies.

use super::baking;
use super::battery::{faults, measure, remedy};
use super::chains::{Sampling, entropies};
use super::extend::MIXING_LEFT_ZERO;
use super::record::{Examined, Stage};
use super::rl::{self, Heads, Plan};
use super::scene::Scene;
use super::thinker::ModelThinker;
use super::{Note, Quietstar};
use crate::Source;
use crate::optim::Optimizer;
use data::builtin::SPECIAL_TOKENS;
use data::{Batch as Pieces, Piece, Split};
use model::{Bound, Depth};
use serde_json::json;
use tensor::Tape;
use tensor::random::Counted;

/// After so many roll backs a further failure keeps the baked model.
const MOST_ROLLBACKS: u32 = 2;
/// Steps that the report averages over.
const RECENT: usize = 50;

impl Quietstar {
    /// How thoughts are sampled in training.
    pub(super) fn sampling(&self) -> Sampling {
        let r = &self.recipe.rl;
        let (thoughts, length) = r.sizes(self.model.params.count());
        let passes = if r.passes == 0 {
            self.model.config.passes
        } else {
            r.passes.min(self.model.config.passes)
        };
        let close = self
            .tokenizer
            .id_of(SPECIAL_TOKENS[1])
            .expect("the twelve tokens were added");
        Sampling {
            thoughts,
            length,
            temperature: r.temperature,
            passes,
            close,
        }
    }

    /// How many of `positions` stand in tasks; all when there is no text.
    fn in_tasks(&self, positions: usize, text: bool) -> usize {
        if text {
            (positions as f64 * self.recipe.rl.tasks).round() as usize
        } else {
            positions
        }
    }

    /// One step of reinforcement learning.
    pub(super) fn rl(&mut self, step: u64) {
        let r = self.recipe.rl.clone();
        let mut text = Pieces { pieces: Vec::new() };
        baking::add_replay(
            &mut text,
            self.loader.as_ref(),
            &mut self.record.text,
            r.text_tokens,
            self.recipe.baking.max_len,
        );
        let tasks = self.in_tasks(r.positions, !text.pieces.is_empty());
        let random = Counted::new(self.seed, "quietstar/task", step);
        let chosen: Vec<_> = (0..tasks as u64)
            .map(|i| &self.lessons.train[random.below(i, self.lessons.train.len())])
            .collect();
        let mut scene = Scene::new(&chosen, &text.pieces);
        let plan = Plan {
            sampling: self.sampling(),
            in_text: r.positions - tasks,
            n_true: r.n_true,
            head_lr: r.head_lr,
            seed: self.seed,
            step,
        };
        let baked = self.baked.as_ref().expect("baked before");
        let report = rl::step(
            &mut self.model,
            baked,
            &mut self.optimizer,
            &mut self.heads,
            &mut scene,
            plan,
            self.record.pressure,
        );
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
        let due = next.is_multiple_of(r.battery_every) && report.weight > MIXING_LEFT_ZERO;
        self.record.stage = if due || next == r.steps {
            Stage::Battery { step: next }
        } else {
            Stage::Rl { step: next }
        };
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
                Piece {
                    loss: vec![1.0; tokens.len() - 1],
                    tokens,
                    start: 0,
                    dataset: 0,
                    family: d.family,
                }
            })
            .filter(|p| p.tokens.len() > r.n_true + 1)
            .take(b.samples)
            .collect();
        let tasks = self.in_tasks(b.samples, !texts.is_empty());
        let in_text = b.samples - tasks;
        let mut scene = Scene::new(
            &self.lessons.mixed_held_out(tasks),
            &texts[..in_text.min(texts.len())],
        );
        if in_text > 0 && !texts.is_empty() {
            let baked = self.baked.as_ref().expect("baked before");
            let tape = Tape::inference();
            let p = Bound::new(&tape, &baked.params);
            let out = baked.forward(
                &p,
                &scene.batch,
                Depth::Fixed(self.sampling().passes),
                None,
                false,
            );
            let entropy = entropies(baked, &tape.value(out.hidden));
            scene.place_in_text(
                &entropy,
                in_text,
                r.n_true,
                &Counted::new(self.seed, "quietstar/exam", 0),
            );
        }
        scene
    }

    /// Runs the battery, and goes back when it fails.
    pub(super) fn battery(&mut self, source: &Source, step: u64) {
        let scene = self.exam(source);
        let sampling = Sampling {
            thoughts: self.recipe.battery.thoughts,
            ..self.sampling()
        };
        let baked = self.baked.as_ref().expect("baked before");
        let thinker = ModelThinker {
            model: &self.model,
            baked,
            scene: &scene,
            sampling,
            random: Counted::new(self.seed, "quietstar/exam-thought", 0),
        };
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
        let examined = Examined {
            step,
            measures,
            faults: found.clone(),
        };
        self.record.examined = Some(examined.clone());
        let over = step >= self.recipe.rl.steps;
        self.record.stage = if over {
            Stage::Usage { strategy: 0 }
        } else {
            Stage::Rl { step }
        };
        if found.is_empty() {
            self.good = Some(self.model.clone());
            self.record.passed = Some(examined);
            return;
        }
        self.model = self.good.clone().expect("the baked model at least");
        let give_up =
            self.record.rollbacks >= MOST_ROLLBACKS || (over && self.record.passed.is_none());
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
}
