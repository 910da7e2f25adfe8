//! What Phase 4 remembers besides tensors.

use super::measure::Measured;
use super::recipe::BySize;
use crate::step::MicroBatch;
use data::LoaderState;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// What the next unit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    Baseline,
    Calibrate,
    Scales,
    Quantise,
    Recover,
    Decide,
    FineTune,
    Judge,
    Pack,
    Done,
}

/// What became of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Layer {
    pub(super) name: String,
    /// Nats a token that it cost.
    pub(super) cost: f64,
    pub(super) kept: bool,
}

/// Seconds by part, for the report.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Seconds {
    pub(super) calibration: f64,
    pub(super) compression: f64,
    pub(super) fine_tuning: f64,
}

/// Everything but tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) stage: Stage,
    pub(super) settings: BySize,
    pub(super) conservative: bool,
    pub(super) second_round: bool,
    pub(super) done: u64,
    pub(super) calibrated: usize,
    /// Sums of squares of the inputs of every matrix, while calibrating.
    pub(super) inputs: BTreeMap<String, (u64, Vec<f64>)>,
    /// Whether a matrix's scale is the mean of the kept weights.
    pub(super) kept_scale: BTreeMap<String, bool>,
    /// Matrices that are ternary now, and how far.
    pub(super) ternary: BTreeMap<String, f32>,
    pub(super) layer: usize,
    /// Steps of the current recovery or fine-tuning.
    pub(super) step: u64,
    /// Whether the current layer cost too much once and is recovered longer.
    pub(super) longer: bool,
    /// Steps of the whole phase.
    pub(super) steps: u64,
    pub(super) loader: LoaderState,
    pub(super) champion_nats: f64,
    pub(super) champion_items: Vec<bool>,
    /// Before the current layer.
    pub(super) nats: f64,
    pub(super) layers: Vec<Layer>,
    pub(super) champion_bytes: u64,
    pub(super) before: Option<Measured>,
    pub(super) result: Option<Value>,
    pub(super) seconds: Seconds,
    #[serde(default)]
    pub(super) micro_batch: MicroBatch,
}
