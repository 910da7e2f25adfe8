//! `forge bench`: how fast the engine is, in figures that other programs can be compared with.

mod decode;
mod decoder;
mod gemm;
mod ops;
mod train_step;

pub(crate) use train_step::random_pieces;

use crate::args::Common;
use crate::fault::usage;
use anyhow::Result;
use clap::{Args, Subcommand};

#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: Bench,
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
    /// Reading a prompt and generating
    #[command(
        after_help = "Examples:\n  forge bench decode myrun/bitnet --json\n  forge bench decode decoder --batch 32"
    )]
    Decode(decode::DecodeArgs),
}

pub(crate) fn bench(args: &BenchArgs, common: &Common) -> Result<u8> {
    match &args.command {
        Bench::TrainStep(a) => train_step::run(a, common),
        Bench::Gemm(a) => gemm::run(a, common),
        Bench::Ops(a) => ops::run(a, common),
        Bench::Decode(a) => decode::run(a, common),
    }
}

/// Refuses an instruction path that this machine does not run on.
fn check_isa(wanted: Option<&str>) -> Result<()> {
    match wanted {
        Some(w) if w != tensor::isa::name() => usage(format!(
            "--isa {w}: this process runs on {}; set {}={w} where the machine has it",
            tensor::isa::name(),
            tensor::isa::VARIABLE
        )),
        _ => Ok(()),
    }
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
