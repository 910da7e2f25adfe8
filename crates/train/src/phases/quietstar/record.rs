//! The state of the phase besides tensors: where it stands, and its results so far.

use super::baking::Verdict;
use super::battery::{Fault, Measures};
use super::extend::Added;
use super::rl::{Pressure, RlReport};
use crate::step::MicroBatch;
use data::LoaderState;
use serde::{Deserialize, Serialize};

/// Where the phase stands: the next unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
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
pub(super) struct Epoch {
    pub(super) accuracy: f64,
    pub(super) answers: f64,
    pub(super) by_strategy: Vec<f64>,
}

/// One run of the battery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Examined {
    pub(super) step: u64,
    pub(super) measures: Measures,
    pub(super) faults: Vec<Fault>,
}

/// Counters and results so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) stage: Stage,
    pub(super) done: u64,
    pub(super) added: Added,
    pub(super) lr: f32,
    pub(super) range: Vec<f64>,
    pub(super) nats: f64,
    pub(super) skipped: u64,
    /// Verdicts of the evaluation in progress or last finished, by strategy.
    pub(super) thinking: Vec<Vec<Verdict>>,
    pub(super) direct: Vec<Vec<Verdict>>,
    pub(super) usage: Vec<Vec<Verdict>>,
    pub(super) epochs: Vec<Epoch>,
    pub(super) replay: LoaderState,
    pub(super) control_replay: LoaderState,
    pub(super) text: LoaderState,
    pub(super) pressure: Pressure,
    pub(super) rollbacks: u32,
    /// The baked model is kept, since the thoughts never passed.
    pub(super) abandoned: bool,
    pub(super) recent: Vec<RlReport>,
    pub(super) examined: Option<Examined>,
    /// The battery's last pass, which belongs to the last good model.
    pub(super) passed: Option<Examined>,
    #[serde(default)]
    pub(super) micro_batch: MicroBatch,
}
