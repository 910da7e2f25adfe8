//! The `forge` program: flags to settings, then one command.
//!
//! Standard output holds results, standard error progress and faults.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod datasets;
mod doctor;
mod eval;
mod fault;
mod generate;
mod intervene;
mod models;
mod output;
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

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let path = tensor::isa::selected().map_err(|why| fault::Usage(why.into()).into());
    let code = path.and_then(|_| args.command.run(&args.common));
    ExitCode::from(code.unwrap_or_else(|fault| {
        eprintln!("forge: {fault:#}");
        fault::exit_code(&fault)
    }))
}
