//! Memory accounting: what the machine allows, what a training step takes, and how many rows at once fit.
//!
//! The limit is the smallest of the machine's memory, the limits of the control groups that the process is
//! in, because Linux kills what exceeds them instead of refusing, and the limit of its address space. The prediction counts bytes:
//! parameters, gradients and optimizer state from the tensors, activations from the widths of what the
//! tape keeps for each row.
//!
//! Before its first step a phase chooses the micro-batch ([`Steps::choose`]): what the recipe says where that is
//! predicted to fit, else half of it, and so on, down to the longest piece. These are the sizes that
//! [`crate::step::MicroBatch`] comes down to as well when memory is refused after all.

use crate::Error;
use model::params::Role;
use model::{Config, Part};
use std::path::Path;
use tensor::precision::Precision;

/// What this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes.
    pub bytes: u64,
    /// What sets it.
    pub from: &'static str,
}

/// What this process may use, to be asked before it has tensors: the rest of a limited address space shrinks with them.
pub fn limit() -> Limit {
    limit_under(Path::new("/"))
}

/// The number in the first field of a line that begins with `name`.
fn number(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|l| l.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// As [`limit`], reading below another root directory.
pub fn limit_under(root: &Path) -> Limit {
    let read = |p: &str| std::fs::read_to_string(root.join(p)).unwrap_or_default();
    let mut best = match number(&read("proc/meminfo"), "MemTotal:") {
        Some(kb) => Limit {
            bytes: kb * 1024,
            from: "machine",
        },
        None => Limit {
            bytes: u64::MAX,
            from: "system",
        },
    };
    // Of addresses all that are taken count, in use or only reserved.
    if let Some(bytes) = number(&read("proc/self/limits"), "Max address space") {
        let taken = number(&read("proc/self/status"), "VmSize:").unwrap_or(0) * 1024;
        let bytes = bytes.saturating_sub(taken);
        if bytes < best.bytes {
            best = Limit {
                bytes,
                from: "address space limit",
            };
        }
    }
    let mut consider = |text: String| match text.trim().parse::<u64>() {
        Ok(bytes) if bytes < best.bytes => {
            best = Limit {
                bytes,
                from: "control group",
            }
        }
        _ => {}
    };
    // Version 2: a limit anywhere on the way up counts. Version 1: the memory controller's own tree.
    for line in read("proc/self/cgroup").lines() {
        let mut fields = line.splitn(3, ':');
        let (controllers, path) = (fields.nth(1).unwrap_or(""), fields.next().unwrap_or("/"));
        let (base, file) = if controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max")
        } else {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        };
        if !controllers.is_empty() && !controllers.split(',').any(|c| c == "memory") {
            continue;
        }
        let mut at = path.trim_matches('/');
        loop {
            consider(read(&format!("{base}/{at}/{file}").replace("//", "/")));
            match at.rsplit_once('/') {
                Some((up, _)) => at = up,
                None if !at.is_empty() => at = "",
                None => break,
            }
        }
    }
    best
}

/// One line of a prediction.
#[derive(Clone, Debug)]
pub struct Line {
    /// What.
    pub name: &'static str,
    /// How many bytes.
    pub bytes: u64,
    /// How that was found.
    pub formula: String,
}

/// The gradient steps of a phase, as memory sees them.
pub struct Steps<'a> {
    /// Recipe key of the rows of a micro-batch.
    pub key: &'static str,
    /// What it says; 0 for the whole step at once.
    pub micro_tokens: usize,
    /// Rows of a whole step.
    pub rows: usize,
    /// Rows of the longest piece, below which no micro-batch is cut.
    pub longest: usize,
    /// Recipe key of that.
    pub longest_key: &'static str,
    /// What the phase takes with so many rows in a micro-batch.
    pub lines: Box<dyn Fn(usize) -> Vec<Line> + 'a>,
}

/// The rows of a micro-batch that fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Rows at once.
    pub rows: usize,
    /// Bytes predicted with them.
    pub bytes: u64,
    /// Rows at once that the recipe asks for.
    pub asked: usize,
    /// Bytes predicted with those.
    pub asked_bytes: u64,
}

impl Choice {
    /// Whether fewer rows than the recipe asks for are taken.
    pub fn lowered(&self) -> bool {
        self.rows < self.asked
    }
}

/// A prediction may be short by one part in so many.
const SHORT: u64 = 10;

impl Steps<'_> {
    /// Bytes with so many rows in a micro-batch.
    pub fn bytes(&self, rows: usize) -> u64 {
        (self.lines)(rows).iter().map(|l| l.bytes).sum()
    }

    /// The most rows, by halving those that the recipe asks for, that are predicted to fit with a tenth to spare;
    /// those of the longest piece also where that tenth is missing.
    ///
    /// # Errors
    /// [`Error::NothingFits`] where not even that is predicted to fit.
    pub fn choose(&self, limit: Limit) -> Result<Choice, Error> {
        let asked = match self.micro_tokens {
            0 => self.rows,
            n => n.min(self.rows),
        };
        // Pieces longer than what is asked for are taken whole.
        let longest = self.longest.min(self.rows);
        let asked = asked.max(longest);
        let fits = |rows: usize| {
            let bytes = self.bytes(rows);
            bytes.saturating_add(bytes / SHORT) <= limit.bytes
        };
        let mut rows = asked;
        while rows > longest && !fits(rows) {
            rows = (rows / 2).max(longest);
        }
        let (bytes, asked_bytes) = (self.bytes(rows), self.bytes(asked));
        if bytes > limit.bytes {
            return Err(Error::NothingFits {
                key: self.key,
                need: mebibytes(bytes),
                rows,
                limit: mebibytes(limit.bytes),
                from: limit.from,
                longest: self.longest_key,
            });
        }
        Ok(Choice {
            rows,
            bytes,
            asked,
            asked_bytes,
        })
    }
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Buffers come in sizes an eighth apart.
const ROUNDING: f64 = 1.05;

/// Bytes of the process around the tensors.
const PROGRAM: u64 = 8 << 20;

/// What of a step decides its memory, besides the model and the rows.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Whether the optimizer filters gradients by Grokfast.
    pub grokfast: bool,
    /// What operands of products are rounded to.
    pub precision: Precision,
    /// Whether the hidden matrices run in ternary form.
    pub ternary: bool,
}

/// Bytes of a model and of its optimizer's state.
pub fn held(config: &Config, grokfast: bool) -> [u64; 2] {
    let specs = model::params::specification(config);
    let size = |f: &dyn Fn(&model::params::Spec) -> bool| {
        let some = specs.iter().filter(|s| f(s));
        some.map(|s| s.dims.iter().product::<usize>() as u64 * 4)
            .sum::<u64>()
    };
    let params = size(&|_| true);
    let matrices = size(&|s| s.role == Role::Matrix);
    let embedding = size(&|s| s.name == "embed.weight");
    let slow = if grokfast { params - embedding } else { 0 };
    [params, matrices + 2 * (params - matrices) + slow]
}

/// Bytes of a training step with `rows` rows in a micro-batch, whose passes of the core are drawn for each row.
pub fn training_step(config: &Config, rows: usize, way: Way) -> Vec<Line> {
    let passes = mean_passes(config);
    let [params, optimizer] = held(config, way.grokfast);
    let (w, f) = (config.width as f64, config.ffn as f64);
    // What the operations of `model::cognate::Cognate::block` hold of each row for their backward pass.
    // Normed rows twice, gate, up and their product in fp32; or, where layers are one operation each, gate and up in bf16
    // and only what a memory reads normed.
    let whole =
        !way.ternary && way.precision == Precision::Bf16 && tensor::isa::detect().multiplies_bf16();
    let (hidden, normed, changing) = if whole {
        (f, w, 1.5 * f)
    } else {
        (2.0 * w + 3.0 * f, 0.0, 3.0 * f)
    };
    let block = 8.0 * w + hidden;
    let memory = normed + 18.0 * w + 8.0 * config.heads as f64;
    // Rows that sit a pass out still lend their keys and values.
    let lent = 2.0 * w * (config.passes as f64 - passes);
    let blocks: f64 = config
        .blocks
        .iter()
        .map(|b| match b.part {
            Part::Core => passes * block + lent,
            _ if b.memory => block + memory,
            _ => block,
        })
        .sum();
    let around = passes * 5.0 * w + 3.0 * w;
    // The gradients of one block that are alive together; in ternary form there is more before the first block's, when
    // the distributions over the vocabulary are alive.
    let (last, matrices) = match way.ternary {
        true => rounded(config),
        false => (4.0 * w + changing, 0),
    };
    let row = (blocks + around + last) * ROUNDING;
    let activations = (rows as f64 * row * 4.0) as u64;
    let logits = 1024.min(rows as u64) * (config.vocab as u64 + 2 * config.width as u64) * 4;
    vec![
        Line {
            name: "parameters",
            bytes: params,
            formula: "4 bytes each".into(),
        },
        Line {
            name: "gradients",
            bytes: params,
            formula: "4 bytes a parameter".into(),
        },
        Line {
            name: "optimizer",
            bytes: optimizer,
            formula:
                "one moment a hidden matrix, two elsewhere, Grokfast one more off the embedding"
                    .into(),
        },
        Line {
            name: "activations",
            bytes: activations,
            formula: format!("{rows} rows x {row:.0} numbers x 4 bytes"),
        },
        Line {
            name: "ternary",
            bytes: matrices,
            formula: "4 bytes an element of every matrix, once a pass".into(),
        },
        Line {
            name: "logits",
            bytes: logits,
            formula: "1,024 rows of the vocabulary at once".into(),
        },
        Line {
            name: "updates",
            bytes: params,
            formula: "4 bytes a parameter: filtered gradients and updates".into(),
        },
        Line {
            name: "program",
            bytes: PROGRAM,
            formula: "code, stacks and packed operands of products".into(),
        },
    ]
    .into_iter()
    .filter(|line| line.bytes > 0)
    .collect()
}

/// What ternary matrices keep for their gradient: numbers a row, the rounded inputs of each less the inputs themselves,
/// which are shared and no longer kept; and bytes, the rounded matrices of every pass.
fn rounded(config: &Config) -> (f64, u64) {
    let (mut row, mut bytes) = (0.0, 0);
    for spec in model::params::specification(config) {
        if spec.role != Role::Matrix {
            continue;
        }
        let block = model::params::block_of(&spec.name);
        let core = match block {
            Some(block) => config.blocks[block].part == Part::Core,
            None => spec.name.starts_with("core."),
        };
        let passes = if core { config.passes } else { 1 };
        if block.is_some() {
            let inputs = *spec.dims.last().expect("a matrix has columns") as f64;
            row += inputs * if core { mean_passes(config) } else { 1.0 };
        }
        bytes += (passes * spec.dims.iter().product::<usize>() * 4) as u64;
    }
    let shared = (2 * config.width + config.ffn) as f64;
    for block in &config.blocks {
        let core = block.part == Part::Core;
        row -= shared * if core { mean_passes(config) } else { 1.0 };
    }
    (row, bytes)
}

/// Passes of the core where they are drawn for each row.
fn mean_passes(config: &Config) -> f64 {
    (1 + config.passes) as f64 / 2.0
}
