//! `forge cognate|evomerge|quietstar|bitnet`: one phase alone, as a run of its own.
//!
//! Phase 1 begins from a recipe. The others begin from models of a run: their files and the run's data are
//! copied into the new run, so that it stands on its own, is resumed and reproduced like any other.

use crate::args::Common;
use crate::fault::usage;
use crate::run::{Span, go, header, recipe_of};
use crate::{models, recipes, run, runs};
use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;
use std::path::Path;
use store::Run;
use train::phase::{ORDER, folder};

#[derive(Args)]
pub(crate) struct CognateArgs {
    #[command(flatten)]
    run: run::RunArgs,
}

#[derive(Args)]
pub(crate) struct FromArgs {
    /// The run whose models the phase begins from, or one model of it (RUN/PHASE/NAME)
    #[arg(long, value_name = "RUN", required = true)]
    from: String,
    /// Name of the new run; FROM-PHASE without it
    #[arg(long, value_name = "NAME")]
    run: Option<String>,
}

impl FromArgs {
    pub(crate) fn new(from: String, run: Option<String>) -> Self {
        Self { from, run }
    }
}

pub(crate) fn cognate(args: CognateArgs, common: &Common) -> Result<u8> {
    let mut args = args.run;
    if args.until.is_some() {
        return usage("forge cognate is Phase 1 alone and takes no --until; use: forge run");
    }
    args.until = Some(ORDER[0].into());
    run::run(&args, common)
}

/// Evomerge, quietstar or bitnet, from the models of a run.
pub(crate) fn later(phase: &'static str, args: &FromArgs, common: &Common) -> Result<u8> {
    let before = ORDER
        .into_iter()
        .take_while(|p| *p != phase)
        .last()
        .unwrap_or(ORDER[0]);
    let whole_run = runs::read(&common.root, &args.from);
    let (source, file) = match whole_run {
        Ok(run) => (run, None),
        Err(fault) if !args.from.contains('/') => return Err(fault),
        Err(_) => {
            let file = models::find(&args.from, &common.root)?;
            let Some(dir) = models::run_folder(&file) else {
                return usage(format!(
                    "--from {}: the file lies in no run, and the phase needs the data of one; give a run's name or RUN/PHASE/NAME",
                    args.from
                ));
            };
            let name = dir
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let root = dir.ancestors().nth(2).unwrap_or(Path::new("."));
            (Run::read(root, &name)?, Some(file))
        }
    };
    // What the phase will look for in its own run's folder.
    let mut inputs = Vec::new();
    match file {
        Some(_) if phase == "evomerge" => {
            return usage(
                "evomerge begins from the ancestor and the three specialists of a run; give the run's name with --from RUN",
            );
        }
        Some(file) => inputs.push((file, main_name(before))),
        None => {
            let found = models::finals(source.dir(), before);
            if found.is_empty() {
                return usage(format!(
                    "--from {}: the run has no finished model of phase {before}; `forge status {}` shows where it stands",
                    args.from,
                    source.name()
                ));
            }
            inputs.extend(found.into_iter().map(|f| {
                let name = f
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                (f, name)
            }));
        }
    }
    let data = source.dir().join("data");
    if !data.join("frozen.json").is_file() {
        return usage(format!("--from {}: the run has no data", args.from));
    }
    let recipe = recipes::change(&recipe_of(&source)?, &common.set)?;
    let name = args
        .run
        .clone()
        .unwrap_or_else(|| format!("{}-{phase}", source.name()));
    let from = json!({ "phase": phase, "run": source.name(), "models": args.from });
    let header = header(&recipe, Some(phase), &from);
    let run = Run::create(&common.root, &name, &header)?;
    copy_folder(&data, &run.dir().join("data"))?;
    for (file, name) in &inputs {
        copy(
            file,
            &run.dir().join(folder(before)).join("final").join(name),
        )?;
    }
    go(&run, &recipe, &Span::of(&header), None, common)
}

/// The file that a phase hands to the next one.
fn main_name(phase: &str) -> String {
    match phase {
        "evomerge" => "champion.safetensors".into(),
        other => format!("{other}.safetensors"),
    }
}

/// Copies a file that lies in one run to the same place in another.
pub(crate) fn copy_into(file: &Path, from: &Path, to: &Path) -> Result<()> {
    let inside = file.strip_prefix(from).context("a file of the run")?;
    copy(file, &to.join(inside))
}

/// Copies the files of a folder. The file that says that all is there comes last.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let entries = std::fs::read_dir(from).with_context(|| from.display().to_string())?;
    let mut files: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_file())
        .collect();
    files.sort_by_key(|p| (p.ends_with("frozen.json"), p.clone()));
    for file in files {
        copy(&file, &to.join(file.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).with_context(|| from.display().to_string())?;
    Ok(store::write_file(to, "a copied input", &bytes)?)
}
