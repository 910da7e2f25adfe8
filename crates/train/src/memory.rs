//! Memory accounting: what the machine allows, and what a training step takes.
//!
//! The limit is the smallest of the machine's memory and the limits of the control groups that the
//! process is in, because Linux kills what exceeds them instead of refusing. The prediction counts bytes:
//! parameters, gradients and optimizer state from the tensors, activations from the widths of what the
//! tape keeps for each row.

use model::params::Role;
use model::{Config, Part};
use std::path::Path;
use tensor::precision::Precision;

/// Bytes that this process may use, and where the limit comes from.
pub fn limit() -> (u64, &'static str) {
    limit_under(Path::new("/"))
}

/// As [`limit`], reading below another root directory.
pub fn limit_under(root: &Path) -> (u64, &'static str) {
    let read = |p: &str| std::fs::read_to_string(root.join(p)).unwrap_or_default();
    let total = read("proc/meminfo")
        .lines()
        .find_map(|l| {
            l.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .map_or((u64::MAX, "unknown"), |kb| (kb * 1024, "machine"));
    let mut best = total;
    let mut consider = |text: String| match text.trim().parse::<u64>() {
        Ok(bytes) if bytes < best.0 => best = (bytes, "control group"),
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

/// Buffers come in sizes an eighth apart.
const ROUNDING: f64 = 1.05;

/// Bytes of the process around the tensors.
const PROGRAM: u64 = 8 << 20;

/// Bytes of a training step with `rows` rows in a micro-batch, whose passes of the core are drawn for each row.
pub fn training_step(
    config: &Config,
    rows: usize,
    grokfast: bool,
    precision: Precision,
) -> Vec<Line> {
    let passes = (1 + config.passes) as f64 / 2.0;
    let specs = model::params::specification(config);
    let size = |f: &dyn Fn(&model::params::Spec) -> bool| {
        specs
            .iter()
            .filter(|s| f(s))
            .map(|s| s.dims.iter().product::<usize>() as u64 * 4)
            .sum::<u64>()
    };
    let params = size(&|_| true);
    let matrices = size(&|s| s.role == Role::Matrix);
    let embedding = size(&|s| s.name == "embed.weight");
    let moments = matrices + 2 * (params - matrices);
    let slow = if grokfast { params - embedding } else { 0 };
    let (w, f) = (config.width as f64, config.ffn as f64);
    // What the operations of `model::cognate::Cognate::block` hold of each row for their backward pass.
    // Normed rows twice, gate, up and their product in fp32; or, where layers are one operation each, gate and up in bf16
    // and only what a memory reads normed.
    let whole = precision == Precision::Bf16 && tensor::isa::detect().multiplies_bf16();
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
    // The gradients of one block that are alive together.
    let backward = 4.0 * w + changing;
    let row = (blocks + around + backward) * ROUNDING;
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
            bytes: moments + slow,
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
}
