//! Failure detectors: what is watched, what is done about it, and what a person may choose instead.
//!
//! A detector is a pure function of counted work and losses, never of the clock, so a run that was killed and resumed
//! sees the same things at the same steps. What it sees is an alert in the journal. Its *policy* says who decides:
//! `automatic` applies the remedy at once and settles the alert, `ask` holds the phase until a person answers
//! (`forge intervene RUN answer ALERT CHOICE`), `off` does not look.

mod convergence;
mod search;

pub use convergence::{ConvergenceRecipe, Signal, Watch};
pub use search::{DegenerateRecipe, EvaluationRecipe, PopulationRecipe};

use crate::{Context, Error};
use serde::{Deserialize, Serialize};
use store::Key;

/// Who decides what is done about an alert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The remedy is applied at once.
    #[default]
    Automatic,
    /// The phase waits for a person.
    Ask,
    /// Nothing is looked for.
    Off,
}

/// A detector as people meet it.
#[derive(Clone, Copy, Debug)]
pub struct Detector {
    /// Its name in the journal.
    pub name: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// What a person may answer; the first is recommended, and what `automatic` does.
    pub choices: &'static [&'static str],
}

/// The detectors whose alerts a person may answer.
pub const DETECTORS: [Detector; 9] = [
    Detector {
        name: "diverging",
        why: "the loss rises, so further steps spoil the model",
        choices: &["roll-back", "go-on", "stop"],
    },
    Detector {
        name: "not-finite",
        why: "losses or gradients overflow, so no step changes the model any more",
        choices: &["roll-back", "go-on", "stop"],
    },
    Detector {
        name: "plateau",
        why: "the loss does not move, so steps at this learning rate are spent for nothing",
        choices: &["lower-rate", "go-on", "stop"],
    },
    Detector {
        name: "no-diversity",
        why: "specialists that behave alike have nothing to give to a merge",
        choices: &["diverge", "go-on", "stop"],
    },
    Detector {
        name: "premature-convergence",
        why: "members of a population that are alike have only alike children, so the search stands still",
        choices: &["inject", "raise-mutation", "restart-two", "go-on", "stop"],
    },
    Detector {
        name: "identical-parents",
        why: "every merge of equal models is that model again; specialists must be trained further apart",
        choices: &["skip", "go-on", "stop"],
    },
    Detector {
        name: "degenerate-merge",
        why: "a merge that is dead or has collapsed cannot be compared; it was replaced by a linear one",
        choices: &["linear", "drop", "ban", "stop"],
    },
    Detector {
        name: "degenerate-generation",
        why: "most children of a generation were dead, so the search looks where no models are",
        choices: &["narrow", "interpolate", "go-on", "stop"],
    },
    Detector {
        name: "slow-evaluation",
        why: "the generations that are asked for score more than evomerge.budget_items",
        choices: &["smaller-samples", "fewer-generations", "go-on", "stop"],
    },
];

/// The detector of this name, where its alerts may be answered.
pub fn detector(name: &str) -> Option<&'static Detector> {
    DETECTORS.iter().find(|d| d.name == name)
}

/// Settings of the detectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorsRecipe {
    /// Seconds that an alert waits for a person; then a checkpoint is written and the run stops.
    pub ask_seconds: f64,
    /// Training that does not converge.
    pub convergence: ConvergenceRecipe,
    /// Specialists that behave alike.
    pub diversity: DiversityRecipe,
    /// Populations that converge.
    #[serde(default)]
    pub population: PopulationRecipe,
    /// Merges that are dead.
    #[serde(default)]
    pub degenerate: DegenerateRecipe,
    /// Searches that are longer than allowed.
    #[serde(default)]
    pub evaluation: EvaluationRecipe,
}

impl Default for DetectorsRecipe {
    fn default() -> Self {
        Self {
            ask_seconds: 3600.0,
            convergence: ConvergenceRecipe::default(),
            diversity: DiversityRecipe::default(),
            population: PopulationRecipe::default(),
            degenerate: DegenerateRecipe::default(),
            evaluation: EvaluationRecipe::default(),
        }
    }
}

impl DetectorsRecipe {
    /// Refuses what cannot run.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key.
    pub fn validate(&self) -> Result<(), Error> {
        if self.ask_seconds.is_nan() || self.ask_seconds < 0.0 {
            return Err(Error::Recipe {
                key: "detectors.ask_seconds".into(),
                found: format!("found {}", self.ask_seconds),
                allowed: "it is a number of seconds, 0 or more".into(),
            });
        }
        search::validate(&self.population, &self.degenerate)?;
        self.convergence.validate()
    }
}

/// When the specialists count as alike; the numbers are the plan's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiversityRecipe {
    /// Who decides.
    pub policy: Policy,
    /// Least spread of the mean halting steps of a token.
    pub halting: f64,
    /// Least spread of the share of memory slots read; below it a warning, never a remedy.
    pub memory: f64,
    /// Least spread of the work of a forward pass, relative to its mean.
    pub speed: f64,
    /// How often a remedy may send the branches back to the ancestor.
    pub remedies: u64,
    /// Thresholds of the gates that the remedy sets.
    pub act_thresholds: [f32; 3],
    /// Share of a specialist's own family that the remedy sets.
    pub main_share: [f64; 3],
}

impl Default for DiversityRecipe {
    fn default() -> Self {
        Self {
            policy: Policy::Automatic,
            halting: 2.0,
            memory: 0.3,
            speed: 0.2,
            remedies: 1,
            act_thresholds: [0.95, 0.85, 0.99],
            main_share: [0.6, 0.4, 0.5],
        }
    }
}

/// An alert that waits for a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Its number.
    pub alert: u64,
    /// Which detector raised it: a name of [`DETECTORS`].
    pub detector: String,
    /// What it is about, for the phase: the branch, or nothing.
    pub about: String,
}

impl Question {
    /// What may be answered.
    pub fn choices(&self) -> &'static [&'static str] {
        detector(&self.detector).map_or(&[], |d| d.choices)
    }
}

/// What comes of an alert.
#[derive(Debug, PartialEq)]
pub enum Raised {
    /// The recommended choice is to be applied now; the alert is settled.
    Apply(&'static str),
    /// A person is asked.
    Asked(Question),
}

/// Raises an alert that is settled at once: what was measured, its threshold, and what is done.
///
/// # Errors
/// What the journal may say.
pub fn settled(
    cx: &Context,
    key: &Key,
    name: &str,
    (value, threshold): (f64, f64),
    action: &str,
) -> Result<(), Error> {
    let journal = cx.run.journal();
    let alert = journal.alert(key, name, value, threshold)?;
    Ok(journal.settle_alert(alert, action, "automatic")?)
}

/// Raises the alert `detector` with what was measured and its threshold, and settles it where the policy is automatic.
///
/// # Errors
/// What the journal may say.
///
/// # Panics
/// The detector is not one of [`DETECTORS`].
pub fn raise(
    cx: &Context,
    key: &Key,
    name: &str,
    measured: (f64, f64),
    policy: Policy,
) -> Result<Raised, Error> {
    let detector = detector(name).unwrap_or_else(|| panic!("no detector `{name}`"));
    if policy == Policy::Ask {
        let alert = cx.run.journal().alert(key, name, measured.0, measured.1)?;
        return Ok(Raised::Asked(Question {
            alert,
            detector: name.into(),
            about: key.branch.clone(),
        }));
    }
    let choice = detector.choices[0];
    settled(cx, key, name, measured, choice)?;
    Ok(Raised::Apply(choice))
}
