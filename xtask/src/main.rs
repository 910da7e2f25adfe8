//! The command line of the chores: parses flags, calls the library, turns findings into exit codes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};
use xtask::{Error, kill_test, tidy};

#[derive(Parser)]
#[command(name = "xtask", about = "Chores of the Forge repository")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Check the conventions of CONTRIBUTING.md on all tracked files
    Tidy,
    /// Kill a run at random moments, resume it, compare its final files with an undisturbed run
    KillTest {
        /// Recipe to run
        #[arg(long, default_value = "quick")]
        recipe: String,
        /// How often to kill
        #[arg(long, default_value_t = 10)]
        times: usize,
        /// The forge binary (build it first: cargo build --release -p forge)
        #[arg(long, default_value = "target/release/forge")]
        binary: PathBuf,
        /// Folder for both runs, kept afterwards; a temporary one, removed on success, when absent
        #[arg(long)]
        root: Option<PathBuf>,
        /// Seed of the moments; from the clock when absent, and printed
        #[arg(long)]
        seed: Option<u64>,
        /// Passed on to `forge run` (repeatable)
        #[arg(long, value_name = "a.b=VALUE")]
        set: Vec<String>,
        /// Passed on to `forge run` and `forge resume`, behind `--`: such as -- --until evomerge --threads 1
        #[arg(last = true)]
        flags: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Tidy => run_tidy(),
        Chore::KillTest {
            recipe,
            times,
            binary,
            root,
            seed,
            set,
            flags,
        } => {
            let seed = seed.unwrap_or_else(seed_from_clock);
            run_kill_test(kill_test::Plan {
                recipe,
                times,
                binary,
                root,
                seed,
                set,
                flags,
            })
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_tidy() -> Result<bool, Error> {
    let repository = tidy::Repository::tracked(&tidy::top_folder()?)?;
    let findings = tidy::check(&repository);
    for finding in &findings {
        println!("{finding}");
    }
    println!(
        "tidy: {} files, {} findings",
        repository.files.len(),
        findings.len()
    );
    Ok(findings.is_empty())
}

fn run_kill_test(plan: kill_test::Plan) -> Result<bool, Error> {
    let outcome = kill_test::run(&plan, &mut |line| println!("{line}"))?;
    print!("{outcome}");
    Ok(outcome.passed())
}

fn seed_from_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}
