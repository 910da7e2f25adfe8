//! The `forge` program: flags to settings, then one command.
//!
//! Standard output holds results, standard error progress and faults.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod datasets;
mod doctor;
mod eval;
mod evolving;
mod fault;
mod generate;
mod hub;
mod intervene;
mod merging;
mod models;
mod output;
mod packing;
mod plan;
mod progress;
mod recipes;
mod report;
mod reproduce;
mod run;
mod runs;
mod single;
mod table;
mod tokenizer;

use anyhow::bail;
use clap::Parser;
use std::process::ExitCode;
use tensor::storage::within_memory;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let code = instruction_path().and_then(|()| {
        within_memory(|| args.command.run(&args.common)).unwrap_or_else(|refused| {
            let bytes = table::bytes(refused.bytes as u64);
            bail!("out of memory: the system refused {bytes} more; make the batch or the model smaller, or the limit larger (`forge plan` says what a recipe needs); a run goes on from its last checkpoint with `forge resume`")
        })
    });
    ExitCode::from(code.unwrap_or_else(|fault| {
        eprintln!("forge: {fault:#}");
        fault::exit_code(&fault)
    }))
}

/// Takes the instruction path that `FORGE_ISA` names.
fn instruction_path() -> anyhow::Result<()> {
    match std::env::var("FORGE_ISA") {
        Ok(name) if !name.is_empty() => tensor::isa::select(&name)
            .or_else(|why| fault::usage(format!("FORGE_ISA: {why}; leave it out for the best"))),
        _ => Ok(()),
    }
}
