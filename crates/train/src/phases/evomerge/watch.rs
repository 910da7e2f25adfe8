//! The detectors of Phase 2 in a run: a population that converges, parents that are the same, degenerate merges, and more
//! work than was allowed. What is seen comes from the search's state and counted work, never from the clock.
//!
//! A degenerate child is replaced within its race whatever the policy is, since there is no number to give it; the
//! detector counts, tells, and decides what becomes of the next ones.

use super::{EvomergePhase, Generation, Remedy, apart, combination_name};
use crate::detect::{self, Policy, Question, Raised};
use crate::phase::folder;
use crate::{Context, Error};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Key;

const CONVERGING: &str = "premature-convergence";
const IDENTICAL: &str = "identical-parents";
const DEGENERATE: &str = "degenerate-merge";
const MOSTLY: &str = "degenerate-generation";
const SLOW: &str = "slow-evaluation";

/// What the detectors remember.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Watched {
    /// The alert that waits for a person.
    pub(super) question: Option<Question>,
    /// Whether the parents were looked at.
    compared: bool,
    /// Whether the budget may be exceeded, because a person said so.
    overspend: bool,
    /// What a person wants done about degenerate merges.
    degenerate: Option<String>,
}

impl EvomergePhase {
    /// Looks at what is known before a generation; true when a person is asked.
    pub(super) fn held_before(&mut self, cx: &Context) -> Result<bool, Error> {
        let key = cx.key(folder("evomerge"), "", self.search.generation);
        self.compare_parents(cx, &key)?;
        self.foresee(cx, &key)?;
        let policy = cx.recipe.detectors.population.policy;
        if let Some(diversity) = self.search.newly_converging()
            && policy != Policy::Off
            && !self.asked()
        {
            let measured = (diversity, self.search.settings.diversity);
            self.raise(cx, &key, CONVERGING, measured, policy)?;
        }
        // A remedy may have ended the search.
        Ok(self.asked() || self.search.finished())
    }

    fn asked(&self) -> bool {
        self.results.watched.question.is_some()
    }

    /// Parents that are the same cannot be merged into anything else.
    fn compare_parents(&mut self, cx: &Context, key: &Key) -> Result<(), Error> {
        let r = &cx.recipe.detectors.population;
        if self.results.watched.compared || r.policy == Policy::Off {
            return Ok(());
        }
        self.results.watched.compared = true;
        let apart = apart(&self.parents);
        let alike = apart.iter().filter(|a| **a < r.identical).count();
        if alike == 0 {
            return Ok(());
        }
        let pairs = ["reasoning-memory", "reasoning-speed", "memory-speed"];
        let pairs: std::collections::BTreeMap<_, _> = pairs.into_iter().zip(apart).collect();
        cx.event(key, IDENTICAL, &json!({ "apart": pairs, "remedy": "train the specialists further apart: other cognate.mixtures, act_thresholds, more epochs" }))?;
        if alike < apart.len() {
            // Two different ones are left to merge.
            let nearest = apart.iter().copied().fold(f64::INFINITY, f64::min);
            return detect::settled(cx, key, IDENTICAL, (nearest, r.identical), "go-on");
        }
        let farthest = apart.iter().copied().fold(0.0, f64::max);
        self.raise(cx, key, IDENTICAL, (farthest, r.identical), r.policy)
    }

    /// Cuts the search to its budget.
    fn foresee(&mut self, cx: &Context, key: &Key) -> Result<(), Error> {
        let policy = cx.recipe.detectors.evaluation.policy;
        if policy == Policy::Off || self.asked() || self.results.watched.overspend {
            return Ok(());
        }
        let budget = self.search.settings.budget_items;
        while self.search.over_budget() && !self.search.finished() {
            let measured = (self.search.forecast() as f64, budget as f64);
            let smaller = self.search.clone().take_smaller_samples();
            let shrinks = smaller.is_some_and(|cut| cut.rounds[0] != cut.rounds[1]);
            if !shrinks && self.search.settings.generations == 0 {
                return Err(Error::Stopped {
                    reason: format!(
                        "generation 0 alone scores up to {} items, evomerge.budget_items allows {budget}",
                        self.search.forecast()
                    ),
                    remedy: "raise evomerge.budget_items, or lower evomerge.rounds or the number of evomerge.sweep".into(),
                });
            }
            if shrinks || policy == Policy::Ask {
                self.raise(cx, key, SLOW, measured, policy)?;
            } else {
                detect::settled(cx, key, SLOW, measured, "fewer-generations")?;
                self.act(cx, SLOW, "fewer-generations")?;
            }
            if self.asked() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Looks at a generation that is done.
    pub(super) fn look_after(&mut self, cx: &Context, g: &Generation) -> Result<(), Error> {
        let r = &cx.recipe.detectors.degenerate;
        let [born, degenerate] = g.born;
        if r.policy == Policy::Off || degenerate == 0 {
            return Ok(());
        }
        let key = cx.key(folder("evomerge"), "", g.generation);
        let births = self.search.births.iter();
        let rejected: Vec<_> = births
            .filter(|b| b.generation == g.generation)
            .flat_map(|b| b.rejected.iter().map(move |r| (b.id, r)))
            .map(|(id, r)| json!({ "member": id, "combination": combination_name(r.genome.bits), "reason": r.reason }))
            .collect();
        cx.event(&key, DEGENERATE, &json!({ "rejected": rejected }))?;
        let share = degenerate as f64 / born as f64;
        if share > r.share {
            let limits = &self.search.limits;
            let measured = (share, r.share);
            return match (r.policy, limits.interpolation_only, limits.halvings) {
                // Nothing is left to be closed: what is rejected now is an interpolation.
                (_, true, _) => detect::settled(cx, &key, MOSTLY, measured, "go-on"),
                (Policy::Automatic, false, 1..) => {
                    detect::settled(cx, &key, MOSTLY, measured, "interpolate")?;
                    self.act(cx, MOSTLY, "interpolate")
                }
                _ => self.raise(cx, &key, MOSTLY, measured, r.policy),
            };
        }
        let measured = (degenerate as f64, 0.0);
        match self.results.watched.degenerate.clone() {
            Some(choice) => {
                detect::settled(cx, &key, DEGENERATE, measured, &choice)?;
                self.act(cx, DEGENERATE, &choice)
            }
            None => self.raise(cx, &key, DEGENERATE, measured, r.policy),
        }
    }

    fn raise(
        &mut self,
        cx: &Context,
        key: &Key,
        detector: &str,
        measured: (f64, f64),
        policy: Policy,
    ) -> Result<(), Error> {
        match detect::raise(cx, key, detector, measured, policy)? {
            Raised::Apply(choice) => self.act(cx, detector, choice),
            Raised::Asked(question) => {
                self.results.watched.question = Some(question);
                Ok(())
            }
        }
    }

    /// Does what was chosen about an alert.
    pub(super) fn act(&mut self, cx: &Context, detector: &str, choice: &str) -> Result<(), Error> {
        if choice == "stop" {
            return Err(Error::Stopped {
                reason: format!("an alert of `{detector}` was answered with stop"),
                remedy: "change the recipe and start again".into(),
            });
        }
        match detector {
            CONVERGING => self.search.diversify(match choice {
                "inject" => Remedy::Inject,
                "raise-mutation" => Remedy::RaiseMutation,
                "restart-two" => Remedy::RestartTwo,
                _ => Remedy::GoOn,
            }),
            IDENTICAL if choice == "skip" => {
                self.search.settings.generations = 0;
                self.line = "the parents are the same: only generation 0 is measured".into();
            }
            DEGENERATE => self.close(choice),
            MOSTLY if choice == "narrow" => self.search.limits.halvings += 1,
            MOSTLY if choice == "interpolate" => self.search.limits.interpolation_only = true,
            SLOW if choice == "go-on" => self.results.watched.overspend = true,
            SLOW => {
                let smaller = (choice == "smaller-samples")
                    .then(|| self.search.take_smaller_samples())
                    .flatten()
                    .filter(|cut| cut.rounds[0] != cut.rounds[1]);
                let cut = smaller.or_else(|| self.search.take_fewer_generations());
                let key = cx.key(folder("evomerge"), "", self.search.generation);
                cx.event(&key, "budget-cut", &json!(cut))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What a person wants done about degenerate merges from now on.
    fn close(&mut self, choice: &str) {
        self.results.watched.degenerate = Some(choice.to_owned());
        if choice == "drop" {
            self.search.limits.drop = true;
        }
        if choice == "ban" {
            let newest = self.search.generation.saturating_sub(1);
            let births = self.search.births.iter().filter(|b| b.generation == newest);
            let bits = births.filter_map(|b| b.rejected.first().map(|r| r.genome.bits));
            for bits in bits.collect::<Vec<_>>() {
                self.search.limits.ban(bits);
            }
        }
    }
}
