//! The command line: what was typed, validated; expensive objects are built by the commands.

use crate::run;
use anyhow::Result;
use clap::{Args as ClapArgs, Parser, Subcommand};
use std::path::PathBuf;

/// Text in, one small language model that reasons out.
#[derive(Parser)]
#[command(name = "forge", version, about, max_term_width = 110)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What every command takes.
#[derive(ClapArgs, Clone)]
pub(crate) struct Common {
    /// Folder that holds `runs/` and `cache/`
    #[arg(long, global = true, default_value = ".", value_name = "DIR")]
    pub(crate) root: PathBuf,
    /// Change a recipe key, such as --set seed=7 or --set data.root=DIR (repeatable)
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Threads of the numeric kernels; the result does not depend on it
    #[arg(long, global = true, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Print JSON on standard output and nothing else there
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run all four phases of a recipe
    Run(run::RunArgs),
    /// Go on with a run that was stopped or killed
    Resume(run::ResumeArgs),
}

impl Command {
    pub(crate) fn run(&self, common: &Common) -> Result<u8> {
        if let Some(n) = common.threads {
            rayon::ThreadPoolBuilder::new()
                .num_threads(n)
                .build_global()?;
        }
        match self {
            Self::Run(a) => run::run(a, common),
            Self::Resume(a) => run::resume(a, common),
        }
    }
}
