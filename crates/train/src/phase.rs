//! A phase: a sequence of units of work over a versioned bag of state.
//!
//! A gradient step is one kind of unit; a generation of the evolution, an evaluation, a quantised layer are
//! others. A unit's result depends on the state alone, so a run that is killed and resumed from any
//! checkpoint ends in the same bits.

use crate::detect::Question;
use crate::memory::Limit;
use crate::{Error, Recipe, Source};
use serde_json::Value;
use store::{Bag, Key, Run};

/// What a unit of work may use besides its state.
pub struct Context<'a> {
    /// The run's folder: journal, final models.
    pub run: &'a Run,
    /// The resolved recipe.
    pub recipe: &'a Recipe,
    /// The data, frozen at the start of the run.
    pub source: &'a Source,
    /// What the process may use of memory: it decides how many rows are computed at once.
    pub memory: Limit,
    /// Seconds since the start of the process: for reports only, never for a decision.
    pub clock: &'a (dyn Fn() -> f64 + Sync),
}

impl Context<'_> {
    /// A point of a phase, for the journal.
    pub fn key(&self, phase: &str, branch: &str, step: u64) -> Key {
        Key {
            attempt: self.run.attempt(),
            phase: phase.into(),
            branch: branch.into(),
            step,
        }
    }

    /// Journals a number.
    pub fn metric(&self, key: &Key, name: &str, value: f64) -> Result<(), Error> {
        Ok(self
            .run
            .journal()
            .metric(key, name, value, (self.clock)())?)
    }

    /// Journals an event, durably.
    pub fn event(&self, key: &Key, kind: &str, json: &Value) -> Result<(), Error> {
        Ok(self.run.journal().event(key, kind, json)?)
    }
}

/// One of the four phases, at some point of its work.
pub trait Phase {
    /// `cognate`, `evomerge`, `quietstar` or `bitnet`.
    fn name(&self) -> &'static str;
    /// Units done.
    fn done(&self) -> u64;
    /// Units in all, as far as known.
    fn total(&self) -> u64;
    /// One line for the progress display.
    fn message(&self) -> String;
    /// Does one unit of work.
    fn unit(&mut self, cx: &Context) -> Result<(), Error>;
    /// Whether nothing is left to do but [`Phase::finish`].
    fn finished(&self) -> bool;
    /// Everything needed to go on.
    fn save(&self) -> Bag;
    /// Changes a setting while running (a request `set`); says what came of it.
    fn set(&mut self, arguments: &Value) -> String {
        format!(
            "phase `{}` has no setting that can be changed while it runs; asked: {arguments}",
            self.name()
        )
    }
    /// The alert that waits for a person: no unit is done before it is answered.
    fn question(&self) -> Option<&Question> {
        None
    }
    /// Applies one of the choices of [`Phase::question`].
    fn answer(&mut self, _cx: &Context, _choice: &str) -> Result<(), Error> {
        Ok(())
    }
    /// Writes the finished models and returns the phase's section of the report.
    fn finish(&mut self, cx: &Context) -> Result<Value, Error>;
}

/// Folder of a phase within a run.
pub fn folder(phase: &str) -> &'static str {
    match phase {
        "cognate" => "phase1-cognate",
        "evomerge" => "phase2-evomerge",
        "quietstar" => "phase3-quietstar",
        "bitnet" => "phase4-bitnet",
        other => panic!("no phase `{other}`"),
    }
}

/// The phases in their order.
pub const ORDER: [&str; 4] = ["cognate", "evomerge", "quietstar", "bitnet"];
