//! What is done in Phase 1 about models that do not converge and branches that behave alike.

use super::{BRANCHES, CognatePhase, Diversity};
use crate::detect::{self, Policy, Raised};
use crate::phase::folder;
use crate::{Context, Error, Phase};
use data::Mixture;
use serde_json::json;
use store::Key;

impl CognatePhase {
    /// Raises an alert where the branches behave alike, and has the remedy applied.
    pub(super) fn judge_diversity(
        &mut self,
        cx: &Context,
        key: &Key,
        d: &Diversity,
    ) -> Result<(), Error> {
        let r = &cx.recipe.detectors.diversity;
        if r.policy == Policy::Off {
            return Ok(());
        }
        let small = [(d.halting, r.halting), (d.speed, r.speed)];
        let Some(&measured) = small.iter().find(|(found, least)| found < least) else {
            return Ok(());
        };
        if r.policy == Policy::Automatic && self.results.diverted >= r.remedies {
            return detect::settled(cx, key, "no-diversity", measured, "go-on");
        }
        match detect::raise(cx, key, "no-diversity", measured, r.policy)? {
            Raised::Apply(choice) => self.act(cx, "no-diversity", "", choice),
            Raised::Asked(question) => {
                self.results.question = Some(question);
                Ok(())
            }
        }
    }

    /// Sends the branches back to the ancestor, with exit thresholds and mixes further apart.
    fn diverge(&mut self, cx: &Context) -> Result<(), Error> {
        let r = &cx.recipe.detectors.diversity;
        self.results.diverted += 1;
        self.results.checks = self.results.diverted * self.recipe.checks;
        for i in 0..BRANCHES.len() {
            let model = self.descendant(cx, i, r.act_thresholds[i]);
            let trainee = &mut self.trainees[1 + i];
            // Where a person made the mixes alike, more of one family would not set them apart.
            trainee.begin_anew(model, Mixture::SPECIALISTS[i], r.main_share[i]);
        }
        let key = cx.key(folder("cognate"), "", self.done());
        let what = json!({
            "from": "ancestor", "act_thresholds": r.act_thresholds, "main_share": r.main_share,
            "steps": self.recipe.branch_steps(),
        });
        cx.event(&key, "diverged-from-ancestor", &what)
    }

    /// Raises an alert where training of a model does not converge, and has the remedy applied.
    pub(super) fn judge_convergence(&mut self, cx: &Context, i: usize) -> Result<(), Error> {
        let r = &cx.recipe.detectors.convergence;
        let t = &self.trainees[i];
        if r.policy == Policy::Off {
            return Ok(());
        }
        let Some(signal) = t.watch.signal(r) else {
            return Ok(());
        };
        let key = cx.key(folder("cognate"), &t.plan.name, t.step);
        if t.watch.remedies >= r.remedies && r.policy == Policy::Automatic {
            detect::settled(cx, &key, signal.name(), signal.measured(r), "stop")?;
            return Err(not_converging(
                &t.plan.name,
                signal.name(),
                t.watch.remedies,
            ));
        }
        match detect::raise(cx, &key, signal.name(), signal.measured(r), r.policy)? {
            Raised::Apply(choice) => {
                let name = t.plan.name.clone();
                self.act(cx, signal.name(), &name, choice)
            }
            Raised::Asked(question) => {
                self.results.question = Some(question);
                Ok(())
            }
        }
    }

    /// Does what was chosen about an alert of `detector` on the model `about`.
    pub(super) fn act(
        &mut self,
        cx: &Context,
        detector: &str,
        about: &str,
        choice: &str,
    ) -> Result<(), Error> {
        let r = &cx.recipe.detectors.convergence;
        if choice == "diverge" {
            return self.diverge(cx);
        }
        let i = self.trainees.iter().position(|t| t.plan.name == about);
        let Some(t) = i.map(|i| &mut self.trainees[i]) else {
            return match choice {
                "stop" => Err(Error::Stopped {
                    reason: format!("an alert of `{detector}` was answered with stop"),
                    remedy: "change the recipe and start again".into(),
                }),
                _ => Ok(()),
            };
        };
        match choice {
            "roll-back" => t.roll_back(r.lower),
            "lower-rate" => {
                t.lower_rates(r.lower_on_plateau);
                t.watch.repaired();
            }
            "stop" => return Err(not_converging(about, detector, t.watch.remedies)),
            _ => {
                t.watch.overlook();
                return Ok(());
            }
        }
        let key = cx.key(folder("cognate"), about, t.step);
        let rates = &t.optimizer.config;
        let what = json!({ "muon_lr": rates.muon_lr, "adam_lr": rates.adam_lr, "remedy": t.watch.remedies });
        cx.event(&key, choice, &what)
    }
}

fn not_converging(name: &str, detector: &str, remedies: u64) -> Error {
    Error::Stopped {
        reason: format!("`{name}` does not converge ({detector}) after {remedies} remedies"),
        remedy: "lower cognate.optim.muon_lr and cognate.optim.adam_lr (or those of branch_optim), look at the data that it was given, and start again; detectors.convergence has the thresholds".into(),
    }
}
