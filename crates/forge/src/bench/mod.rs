//! `forge bench`: how fast the engine is, in figures that other programs can be compared with.

mod curve;
mod decode;
mod decoder;
mod export;
mod gemm;
mod ops;
mod recall;
mod search;
mod train_step;

pub(crate) use train_step::random_pieces;

use crate::args::Common;
use crate::fault::usage;
use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use std::time::Instant;
use tensor::precision::Precision;
use tensor::probe;

#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: Bench,
    /// What operands of large products are rounded to; auto takes bf16 where the instruction path multiplies it
    /// faster than fp32
    #[arg(long, value_enum, global = true, default_value_t = Rounding::Auto)]
    precision: Rounding,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rounding {
    Auto,
    F32,
    Bf16,
}

#[derive(Subcommand)]
enum Bench {
    /// Training steps: forward, loss, backward, optimizer
    #[command(after_help = "Example:\n  forge bench train-step --steps 5 --threads 2 --json")]
    TrainStep(train_step::TrainStepArgs),
    /// Matrix products of the sizes that the models use
    Gemm(gemm::GemmArgs),
    /// Each operation alone, forward and backward, beside what the machine can do
    Ops(ops::OpsArgs),
    /// Learning curves of variants of model and optimizer on the data of a run
    #[command(
        after_help = "Example:\n  forge bench curve small --variant plain --variant all --tokens 1000000 --seed 0 --seed 1"
    )]
    Curve(curve::CurveArgs),
    /// What the memory is worth: facts given early, asked for late, in longer and longer texts
    #[command(
        after_help = "Example:\n  forge bench recall small --tokens 1000000 --seed 0 --seed 1"
    )]
    Recall(recall::RecallArgs),
    /// Evolution, CMA-ES, random search and the task-arithmetic sweep on the parents of a run, at equal scored items
    #[command(
        after_help = "Example:\n  forge bench search small --seeds 5 --search evolution --search cma-es --json"
    )]
    Search(search::SearchArgs),
    /// Reading a prompt and generating
    #[command(
        after_help = "Examples:\n  forge bench decode myrun/bitnet --json\n  forge bench decode decoder --batch 32"
    )]
    Decode(decode::DecodeArgs),
}

pub(crate) fn bench(args: &BenchArgs, common: &Common) -> Result<u8> {
    let precision = match args.precision {
        Rounding::Auto => Precision::fastest(),
        Rounding::F32 => Precision::F32,
        Rounding::Bf16 => Precision::Bf16,
    };
    tensor::precision::select(precision).map_err(anyhow::Error::msg)?;
    tensor::threads::hot(|| match &args.command {
        Bench::TrainStep(a) => train_step::run(a, common),
        Bench::Gemm(a) => gemm::run(a, common),
        Bench::Ops(a) => ops::run(a, common),
        Bench::Curve(a) => curve::run(a, common),
        Bench::Recall(a) => recall::run(a, common),
        Bench::Search(a) => search::run(a, common),
        Bench::Decode(a) => decode::run(a, common),
    })
}

/// Refuses an instruction path that this machine does not run on.
fn check_isa(wanted: Option<&str>) -> Result<()> {
    match wanted {
        Some(w) if w != tensor::isa::name() => usage(format!(
            "--isa {w}: this process runs on {}; set FORGE_ISA={w} where the machine has it",
            tensor::isa::name()
        )),
        _ => Ok(()),
    }
}

/// Samples of each measurement of the machine; the best counts, since whatever disturbs one only slows it.
const SAMPLES: usize = 15;

/// Floating-point operations a second of the tile loop on every thread at once.
fn peak_arithmetic() -> f64 {
    best(|| probe::tiles(4000))
}

/// Bytes a second that all threads together read from memory beyond the caches.
fn peak_bandwidth() -> f64 {
    let data = vec![1.0f32; 64 << 20];
    best(|| probe::read(&data))
}

/// The best rate of a work that says how much it did.
fn best(work: impl Fn() -> f64) -> f64 {
    let rates = (0..SAMPLES).map(|_| {
        let begun = Instant::now();
        work() / begun.elapsed().as_secs_f64()
    });
    rates.fold(0.0, f64::max)
}

/// The most memory that the process ever held, in MiB; null where the system does not say.
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// The median of some numbers.
fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Adds the fields of one object to another.
fn merge(to: &mut Value, from: Value) {
    if let (Some(to), Value::Object(from)) = (to.as_object_mut(), from) {
        to.extend(from);
    }
}
