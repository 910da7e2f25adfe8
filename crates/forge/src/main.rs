//! The `forge` program: flags to settings, then one command.
//!
//! Standard output holds results, standard error progress and faults. Exit codes: 0 done, 1 failed, 2 wrong
//! usage or configuration, 3 stopped by a detector, 130 interrupted.

mod args;
mod recipes;
mod run;
mod table;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let code = match args.command.run(&args.common) {
        Ok(code) => code,
        Err(fault) => {
            eprintln!("forge: {fault:#}");
            if fault.is::<recipes::RecipeError>()
                || matches!(
                    fault.downcast_ref(),
                    Some(train::Error::Recipe { .. } | train::Error::Model(_))
                )
            {
                2
            } else {
                1
            }
        }
    };
    ExitCode::from(code)
}
