//! The recipe of a run: what `recipes/*.toml` say, resolved.
//!
//! Each phase's settings are a struct beside the phase. Unknown keys are refused; the binary turns TOML
//! with `base` and `--set` into this struct.

use crate::Error;
use crate::detect::DetectorsRecipe;
use crate::phases::bitnet::BitnetRecipe;
use crate::phases::cognate::CognateRecipe;
use crate::phases::evomerge::EvomergeRecipe;
use crate::phases::quietstar::QuietstarRecipe;
use model::Config;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tensor::precision::Precision;

/// Everything that decides a run's result, apart from the data themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Its name, for reports.
    pub name: String,
    /// Seed of the run; branches use seed, seed + 1, seed + 2.
    pub seed: u64,
    /// What the operands of large products are rounded to.
    #[serde(default)]
    pub precision: PrecisionRecipe,
    /// Where text comes from.
    pub data: DataRecipe,
    /// Sizes of the model.
    pub model: ModelRecipe,
    /// Failure detectors.
    #[serde(default)]
    pub detectors: DetectorsRecipe,
    /// Phase 1.
    pub cognate: CognateRecipe,
    /// Phase 2.
    pub evomerge: EvomergeRecipe,
    /// Phase 3.
    pub quietstar: QuietstarRecipe,
    /// Phase 4.
    pub bitnet: BitnetRecipe,
    /// Checkpoints.
    pub checkpoint: CheckpointRecipe,
}

/// What the operands of large products are rounded to; sums and everything else are fp32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionRecipe {
    /// bf16 where the instruction path multiplies it faster than fp32, else fp32.
    #[default]
    Auto,
    /// fp32: not rounded at all.
    F32,
    /// bf16, on any path.
    Bf16,
}

impl PrecisionRecipe {
    /// Itself, with what `auto` means on the instruction path in use: a run takes its precision to another machine.
    pub fn fixed(self) -> Self {
        match self.resolved() {
            Precision::F32 => PrecisionRecipe::F32,
            Precision::Bf16 => PrecisionRecipe::Bf16,
        }
    }

    /// What it means on the instruction path in use.
    pub fn resolved(self) -> Precision {
        match self {
            PrecisionRecipe::Auto => Precision::fastest(),
            PrecisionRecipe::F32 => Precision::F32,
            PrecisionRecipe::Bf16 => Precision::Bf16,
        }
    }
}

/// Where text comes from and how much of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// Folder that holds the data sets; not needed for built-in data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// The hub's cache, where data sets that are not under `root` are looked for. A matter of the machine, not of the
    /// recipe: it is never written, and set anew by whoever reads one.
    #[serde(skip)]
    pub cache: Option<PathBuf>,
    /// A folder of the user's own text, taken as one more data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// Ids of the data sets; `builtin` stands for the five built-in ones.
    pub sets: Vec<String>,
    /// Seed of the built-in generators and of sampling.
    pub seed: u64,
    /// Documents of each built-in data set.
    pub builtin_documents: usize,
    /// Most bytes of training text of one data set.
    pub bytes_per_set: usize,
    /// Most evaluation items of one data set and split.
    pub items_per_set: usize,
    /// Most held-out texts of one data set and split.
    pub texts_per_set: usize,
    /// Bytes of a held-out text that are scored, from its beginning.
    pub text_bytes: usize,
    /// Most worked solutions of one data set, for Phase 3.
    pub worked_per_set: usize,
    /// Bytes of text that the tokenizer is trained on.
    pub tokenizer_bytes: usize,
    /// How like an earlier one a training document must be to be left out: 0.5 to 1 (the same runs of words); 0 leaves
    /// none out. Built-in sets, whose texts come from templates, are taken as they are.
    #[serde(default)]
    pub dedup: f64,
    /// Whether training documents that hold what any set is evaluated on are left out, built-in ones aside.
    #[serde(default)]
    pub decontaminate: bool,
}

impl DataRecipe {
    /// Where the recipe's data sets are looked for.
    pub fn places(&self) -> data::Places {
        data::Places {
            root: self.root.clone(),
            cache: self.cache.clone(),
        }
    }
}

/// Sizes of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Model width.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden units of the feed-forward layers.
    pub ffn: usize,
    /// Keys back that attention sees.
    pub window: usize,
    /// Persistent keys.
    pub prefix: usize,
    /// Memory slots of the reasoning and speed branches.
    pub slots_small: usize,
    /// Memory slots of the ancestor and the memory branch.
    pub slots_large: usize,
    /// Most passes of the core.
    pub passes: usize,
}

impl ModelRecipe {
    /// The ancestor's configuration.
    pub fn config(&self) -> Config {
        let mut c = Config::new(
            self.vocab,
            self.width,
            self.heads,
            self.ffn,
            self.slots_large,
            self.passes,
        );
        (c.window, c.prefix) = (self.window, self.prefix);
        c
    }
}

/// When checkpoints are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointRecipe {
    /// Seconds between checkpoints.
    pub seconds: f64,
    /// Units of work between checkpoints.
    pub units: u64,
    /// `all` or `minimal` (the newest two).
    pub keep: Keep,
}

/// Which checkpoints are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Every one.
    All,
    /// The newest two.
    Minimal,
}

impl CheckpointRecipe {
    /// As the driver wants it.
    pub fn saving(&self) -> crate::driver::Saving {
        let keep = match self.keep {
            Keep::All => store::Keep::All,
            Keep::Minimal => store::Keep::Minimal,
        };
        crate::driver::Saving {
            seconds: self.seconds,
            units: self.units,
            keep,
        }
    }
}

impl Recipe {
    /// Refuses what cannot run, naming the key.
    pub fn validate(&self) -> Result<(), Error> {
        self.model.config().validate()?;
        let fail = |key: &str, found: String, allowed: &str| {
            Err(Error::Recipe {
                key: key.into(),
                found: format!("found {found}"),
                allowed: allowed.into(),
            })
        };
        if self.model.slots_small > self.model.slots_large
            || !self.model.slots_small.is_multiple_of(self.model.heads)
            || self.model.slots_small == 0
        {
            return fail(
                "model.slots_small",
                self.model.slots_small.to_string(),
                "a positive multiple of model.heads, at most model.slots_large",
            );
        }
        if self.model.vocab < 300 {
            return fail(
                "model.vocab",
                self.model.vocab.to_string(),
                "at least 300: 256 bytes, the end of document and some merges",
            );
        }
        if self.data.sets.is_empty() && self.data.folder.is_none() {
            return fail(
                "data.sets",
                "an empty list".into(),
                "name at least one data set, or give a folder with --data",
            );
        }
        if self.data.text_bytes == 0 {
            return fail(
                "data.text_bytes",
                "0".into(),
                "at least 1: bytes of a held-out text that are scored",
            );
        }
        let dedup = self.data.dedup;
        if dedup != 0.0 && !(0.5..=1.0).contains(&dedup) {
            return fail(
                "data.dedup",
                dedup.to_string(),
                "0 (keep every document), or 0.5 to 1: how like an earlier document one must be to be left out",
            );
        }
        self.detectors.validate()?;
        self.quietstar.validate()?;
        self.bitnet.validate()?;
        self.cognate.validate()
    }
}
