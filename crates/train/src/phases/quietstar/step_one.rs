//! The units of step 1: range test, baking, its evaluations, and the control without thinking.

use super::baking::{self, Baked, Verdict, judge, share};
use super::extend::open_thoughts;
use super::lessons::{Arm, Lesson};
use super::record::{Epoch, Stage};
use super::rl::Heads;
use super::{Note, Quietstar};
use crate::Error;
use crate::optim::{Optimizer, lr_scale};
use crate::step::TrainDepth;
use data::builtin::Strategy;
use data::{Batch as Pieces, LoaderState};
use model::Cognate;

impl Quietstar {
    /// Steps of baking.
    pub(super) fn bake_steps(&self) -> usize {
        self.dealt_direct.len()
    }

    /// Step of baking, counted over epochs.
    fn bake_step(&self, epoch: usize, step: usize) -> usize {
        self.dealt[..epoch].iter().map(Vec::len).sum::<usize>() + step
    }

    /// The pieces of a step of an arm: lessons and replayed text.
    fn pieces(&mut self, arm: Arm, batch: &[u32]) -> Pieces {
        let b = &self.recipe.baking;
        let mut pieces = Pieces {
            pieces: self.lessons.pieces(arm, batch),
        };
        let state = if arm == Arm::Thinking {
            &mut self.record.replay
        } else {
            &mut self.record.control_replay
        };
        let tokens = (b.batch_tokens as f64 * b.replay) as usize;
        baking::add_replay(&mut pieces, self.loader.as_ref(), state, tokens, b.max_len);
        pieces
    }

    /// One step of the range test.
    pub(super) fn range(&mut self, step: usize) -> Result<(), Error> {
        let steps = self.recipe.baking.range_steps.max(2);
        // The test leaves no trace but its choice: it trains a copy, and the replayed text begins again.
        let batch = self
            .dealt
            .iter()
            .flatten()
            .cycle()
            .nth(step)
            .cloned()
            .unwrap_or_default();
        let pieces = self.pieces(Arm::Thinking, &batch);
        let rate = baking::range_rate(step, steps) as f32;
        (self.optimizer.config.muon_lr, self.optimizer.config.adam_lr) = (rate, rate);
        let aside = self.aside.as_mut().expect("the range test has a copy");
        let depth = TrainDepth::Random {
            seed: self.seed,
            step: step as u64,
        };
        let baked = baking::train(
            aside,
            &mut self.optimizer,
            &pieces,
            depth,
            (
                &mut self.record.micro_batch,
                self.recipe.baking.micro_tokens,
            ),
            1.0,
        )?;
        let nats = self.seen(baked).0;
        self.record
            .range
            .push(if nats.is_finite() { nats } else { 1e9 });
        self.note("baking/range_loss", nats);
        self.record.stage = Stage::Range { step: step + 1 };
        if step + 1 == steps {
            self.aside = Some(self.model.clone());
            self.record.replay = LoaderState::default();
            self.record.lr = baking::range_choice(&self.record.range) as f32;
            self.note("baking/lr", f64::from(self.record.lr));
            self.optimizer =
                Optimizer::new(&self.model.params, self.recipe.baking.optim(self.record.lr));
            self.record.stage = Stage::Bake { epoch: 0, step: 0 };
        }
        Ok(())
    }

    /// Loss in nats of a step, and whether it was skipped; notes when memory did not suffice at first.
    fn seen(&mut self, baked: Baked) -> (f64, bool) {
        self.notes.extend(baked.halved.map(Note::Halved));
        (baked.pass.nats, baked.step.skipped)
    }

    /// One step of baking.
    pub(super) fn bake(&mut self, epoch: usize, step: usize) -> Result<(), Error> {
        let batch = self.dealt[epoch][step].clone();
        let pieces = self.pieces(Arm::Thinking, &batch);
        let at = self.bake_step(epoch, step);
        let scale = lr_scale(at as u64, self.bake_steps() as u64, &self.optimizer.config);
        let depth = TrainDepth::Random {
            seed: self.seed,
            step: at as u64,
        };
        let baked = baking::train(
            &mut self.model,
            &mut self.optimizer,
            &pieces,
            depth,
            (
                &mut self.record.micro_batch,
                self.recipe.baking.micro_tokens,
            ),
            scale,
        )?;
        let (nats, skipped) = self.seen(baked);
        self.record.nats = nats;
        self.record.skipped += u64::from(skipped);
        self.note("baking/loss", nats);
        self.record.stage = if step + 1 < self.dealt[epoch].len() {
            Stage::Bake {
                epoch,
                step: step + 1,
            }
        } else {
            Stage::Judge { epoch, strategy: 0 }
        };
        Ok(())
    }

    /// Judges held-out prompts after an epoch.
    pub(super) fn judge(&mut self, epoch: usize, strategy: usize) {
        let b = &self.recipe.baking;
        let last = epoch + 1 == b.epochs;
        if strategy == 0 {
            self.record.thinking.clear();
        }
        let count = if last { b.held_out } else { b.held_out_between };
        let verdicts = self.judged(&self.model, strategy, count);
        self.record.thinking.extend(verdicts);
        let strategy = self.record.thinking.len();
        if strategy < Strategy::ALL.len() {
            self.record.stage = Stage::Judge { epoch, strategy };
            return;
        }
        let all = || self.record.thinking.iter().flatten();
        let result = Epoch {
            accuracy: share(all(), |v| v.well_formed),
            answers: share(all(), |v| v.correct),
            by_strategy: self
                .record
                .thinking
                .iter()
                .map(|v| share(v, |v| v.well_formed))
                .collect(),
        };
        self.note("baking/val_accuracy", result.accuracy);
        self.note("baking/answer_accuracy", result.answers);
        for (s, accuracy) in Strategy::ALL.iter().zip(&result.by_strategy) {
            self.note(&format!("baking/val_accuracy/{s}"), *accuracy);
        }
        self.record.epochs.push(result);
        if !last {
            self.record.stage = Stage::Bake {
                epoch: epoch + 1,
                step: 0,
            };
            return;
        }
        self.optimizer =
            Optimizer::new(&self.model.params, self.recipe.baking.optim(self.record.lr));
        self.record.stage = Stage::Control { step: 0 };
    }

    /// One step of the control, which learns to answer directly.
    pub(super) fn control(&mut self, step: usize) -> Result<(), Error> {
        let batch = self.dealt_direct[step].clone();
        let pieces = self.pieces(Arm::Direct, &batch);
        let scale = lr_scale(
            step as u64,
            self.bake_steps() as u64,
            &self.optimizer.config,
        );
        let depth = TrainDepth::Random {
            seed: self.seed,
            step: step as u64,
        };
        let control = self.aside.as_mut().expect("the control stands aside");
        let baked = baking::train(
            control,
            &mut self.optimizer,
            &pieces,
            depth,
            (
                &mut self.record.micro_batch,
                self.recipe.baking.micro_tokens,
            ),
            scale,
        )?;
        let nats = self.seen(baked).0;
        self.note("control/loss", nats);
        self.record.stage = if step + 1 < self.bake_steps() {
            Stage::Control { step: step + 1 }
        } else {
            Stage::JudgeControl { strategy: 0 }
        };
        Ok(())
    }

    /// Judges the control; then step 2 begins.
    pub(super) fn judge_control(&mut self, strategy: usize) {
        let control = self.aside.as_ref().expect("the control stands aside");
        let verdicts = self.judged(control, strategy, self.recipe.baking.held_out);
        self.record.direct.extend(verdicts);
        let strategy = self.record.direct.len();
        self.record.stage = Stage::JudgeControl { strategy };
        if strategy == Strategy::ALL.len() {
            self.note(
                "control/answer_accuracy",
                share(self.record.direct.iter().flatten(), |v| v.correct),
            );
            self.aside = None;
            open_thoughts(&mut self.model, &self.tokenizer);
            self.baked = Some(self.model.clone());
            self.good = Some(self.model.clone());
            self.optimizer = Optimizer::new(&self.model.params, self.recipe.rl.optim());
            self.heads = Heads::default();
            self.record.stage = if self.recipe.rl.steps > 0 {
                Stage::Rl { step: 0 }
            } else {
                Stage::Battery { step: 0 }
            };
        }
    }

    /// Verdicts on `count` prompts of each strategy from number `first` on: of as many strategies as are
    /// generated at once, of one at least.
    fn judged(&self, model: &Cognate, first: usize, count: usize) -> Vec<Vec<Verdict>> {
        let group = (baking::WIDTH / count.max(1)).max(1);
        let chosen: Vec<&[Lesson]> = self.lessons.held_out[first..]
            .iter()
            .take(group)
            .map(|list| &list[..count.min(list.len())])
            .collect();
        let questions = chosen.concat();
        let mut verdicts = judge(
            model,
            &self.tokenizer,
            &questions,
            self.recipe.baking.most_new,
        )
        .into_iter();
        chosen
            .iter()
            .map(|list| verdicts.by_ref().take(list.len()).collect())
            .collect()
    }

    /// Judges how the finished model answers without silent thoughts.
    pub(super) fn usage(&mut self, strategy: usize) {
        let verdicts = self.judged(&self.model, strategy, self.recipe.baking.held_out_between);
        self.record.usage.extend(verdicts);
        let strategy = self.record.usage.len();
        self.record.stage = Stage::Usage { strategy };
        if strategy == Strategy::ALL.len() {
            self.note(
                "rl/thinking_usage",
                share(self.record.usage.iter().flatten(), |v| v.thinks),
            );
            self.record.stage = Stage::Done;
        }
    }
}
