//! What a Cognate is made of: one plain struct, every size a number in it.

use serde::{Deserialize, Serialize};

/// Where a block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Before the loop, once per token.
    Stem,
    /// In the loop, once per pass.
    Core,
    /// After the loop, once per token.
    Tail,
}

/// One block of the list.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Where it stands.
    pub part: Part,
    /// Whether a long-term memory stands beside its attention (stem and tail only: memory is written once
    /// per token, never once per pass).
    #[serde(default)]
    pub memory: bool,
    /// Factor of what the block adds to the residual stream; 0 leaves the block out.
    pub scale: f32,
}

/// Standardisation of the exit gate after one pass, measured on held-out text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitScale {
    /// Median of the gate's logit; maps to logit(0.95).
    pub median: f32,
    /// Standard deviation of the gate's logit; maps to 1.
    pub deviation: f32,
}

/// A whole Cognate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Always `cognate`.
    pub architecture: String,
    /// V, rows of the tied embedding.
    pub vocab: usize,
    /// W
    pub width: usize,
    /// H
    pub heads: usize,
    /// Hidden units of the feed-forward layer.
    pub ffn: usize,
    /// Keys back that attention sees, the token itself included.
    pub window: usize,
    /// Persistent key-value pairs that every query sees.
    pub prefix: usize,
    /// Memory slots of a layer, over all heads.
    pub slots: usize,
    /// Rows per chunk of the memory.
    pub chunk: usize,
    /// Largest write strength of the memory.
    pub theta_max: f32,
    /// Most passes of the core.
    pub passes: usize,
    /// A token goes on while its probability of continuing exceeds this.
    pub act_threshold: f32,
    /// One per pass after which a token may halt (passes - 1).
    pub exit: Vec<ExitScale>,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added inside the root of RMS norms.
    pub eps: f32,
    /// Hidden units of the mixing head of parallel thoughts; 0 without thoughts.
    #[serde(default)]
    pub mixing: usize,
    /// The blocks: stem, then core, then tail.
    pub blocks: Vec<Block>,
}

/// A configuration that no model can have.
#[derive(Debug, thiserror::Error)]
#[error("model config `{key}`: {found}; {allowed}")]
pub struct ConfigError {
    /// The key at fault.
    pub key: &'static str,
    /// What was found.
    pub found: String,
    /// What is allowed.
    pub allowed: String,
}

/// Width of the depthwise convolutions of the memory branch.
pub const CONV_WIDTH: usize = 4;

impl Config {
    /// The plan's shape at a given size: stem 2, core 4, tail 2, memory in the second stem block and the
    /// first tail block.
    pub fn new(
        vocab: usize,
        width: usize,
        heads: usize,
        ffn: usize,
        slots: usize,
        passes: usize,
    ) -> Self {
        let block = |part, memory| Block {
            part,
            memory,
            scale: 1.0,
        };
        Self {
            architecture: "cognate".into(),
            vocab,
            width,
            heads,
            ffn,
            window: 128,
            prefix: 4,
            slots,
            chunk: 64,
            theta_max: 1.0 / 32.0,
            passes,
            act_threshold: 0.95,
            exit: vec![
                ExitScale {
                    median: 0.0,
                    deviation: 1.0
                };
                passes.saturating_sub(1)
            ],
            rope_theta: 10_000.0,
            eps: 1e-6,
            mixing: 0,
            blocks: vec![
                block(Part::Stem, false),
                block(Part::Stem, true),
                block(Part::Core, false),
                block(Part::Core, false),
                block(Part::Core, false),
                block(Part::Core, false),
                block(Part::Tail, true),
                block(Part::Tail, false),
            ],
        }
    }

    /// hd
    pub fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// Memory slots of one head.
    pub fn slots_per_head(&self) -> usize {
        self.slots / self.heads
    }

    /// Blocks of one part, as their indices.
    pub fn part(&self, part: Part) -> impl Iterator<Item = usize> + '_ {
        self.blocks
            .iter()
            .enumerate()
            .filter(move |(_, b)| b.part == part)
            .map(|(i, _)| i)
    }

    /// Number of core blocks: the halting steps of one pass.
    pub fn core_blocks(&self) -> usize {
        self.part(Part::Core).count()
    }

    /// Number of parameters, by formula; equals the sum over the tensors.
    pub fn parameters(&self) -> usize {
        crate::params::specification(self)
            .iter()
            .map(|s| s.dims.iter().product::<usize>())
            .sum()
    }

    /// Refuses what no model can be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |key, found: String, allowed: &str| {
            Err(ConfigError {
                key,
                found,
                allowed: allowed.into(),
            })
        };
        if self.architecture != "cognate" {
            return fail(
                "architecture",
                format!("found `{}`", self.architecture),
                "only `cognate` is read here",
            );
        }
        for (key, value) in [
            ("vocab", self.vocab),
            ("width", self.width),
            ("heads", self.heads),
            ("ffn", self.ffn),
            ("window", self.window),
            ("chunk", self.chunk),
            ("passes", self.passes),
        ] {
            if value == 0 {
                return fail(key, "found 0".into(), "it must be at least 1");
            }
        }
        if !self.width.is_multiple_of(self.heads) || !self.head_width().is_multiple_of(2) {
            return fail(
                "heads",
                format!("found {} heads for width {}", self.heads, self.width),
                "width / heads must be a whole even number",
            );
        }
        if self.slots == 0 || !self.slots.is_multiple_of(self.heads) {
            return fail(
                "slots",
                format!("found {} slots for {} heads", self.slots, self.heads),
                "slots must be a positive multiple of heads",
            );
        }
        if self.passes > usize::from(u8::MAX) {
            return fail(
                "passes",
                format!("found {}", self.passes),
                "it must be at most 255",
            );
        }
        if self.exit.len() + 1 != self.passes {
            return fail(
                "exit",
                format!(
                    "found {} entries for {} passes",
                    self.exit.len(),
                    self.passes
                ),
                "there is one entry per pass but the last",
            );
        }
        if !(0.0..=1.0).contains(&self.act_threshold) {
            return fail(
                "act_threshold",
                format!("found {}", self.act_threshold),
                "it must lie in 0..=1",
            );
        }
        if self
            .exit
            .iter()
            .any(|e| !e.median.is_finite() || !e.deviation.is_finite())
        {
            return fail(
                "exit",
                format!("found {:?}", self.exit),
                "medians and deviations are finite numbers",
            );
        }
        if !(self.theta_max >= 0.0 && self.theta_max.is_finite()) {
            return fail(
                "theta_max",
                format!("found {}", self.theta_max),
                "it must be a finite number, at least 0",
            );
        }
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            return fail(
                "eps",
                format!("found {}", self.eps),
                "it must be a finite number above 0",
            );
        }
        if !(self.rope_theta > 0.0 && self.rope_theta.is_finite()) {
            return fail(
                "rope_theta",
                format!("found {}", self.rope_theta),
                "it must be a finite number above 0",
            );
        }
        let order: Vec<u8> = self.blocks.iter().map(|b| b.part as u8).collect();
        if !order.is_sorted() || self.core_blocks() == 0 {
            return fail(
                "blocks",
                format!("found parts {order:?}"),
                "blocks go stem, core, tail, with at least one core block",
            );
        }
        if self.blocks.iter().any(|b| b.part == Part::Core && b.memory) {
            return fail(
                "blocks",
                "found a memory in a core block".into(),
                "memory is written once per token, so it stands outside the loop",
            );
        }
        if let Some(b) = self.blocks.iter().find(|b| !b.scale.is_finite()) {
            return fail(
                "blocks",
                format!("found scale {}", b.scale),
                "scales are finite numbers",
            );
        }
        Ok(())
    }
}
