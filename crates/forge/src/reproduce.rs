//! `forge reproduce`: a finished run once more, from its recipe and seed, and the bytes compared.

use crate::args::Common;
use crate::fault::usage;
use crate::run::{Span, go_quietly, recipe_of};
use crate::{models, output, runs, table};
use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use store::Run;
use train::phase::ORDER;

#[derive(Args)]
pub(crate) struct ReproduceArgs {
    /// Name of the run
    run: String,
    /// Keep the second run in this folder instead of a temporary one
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(crate) fn reproduce(args: &ReproduceArgs, common: &Common) -> Result<u8> {
    if let Some(change) = common.set.first() {
        return usage(format!("--set {change}: a run is reproduced as it was"));
    }
    let first = runs::read(&common.root, &args.run)?;
    let header = first.recipe();
    let mut span = Span::of(&header);
    let finished = runs::finished_phases(first.dir());
    match finished.last() {
        Some(last) => span.last = (*last).to_string(),
        None => {
            return usage(format!(
                "run `{}` has finished no phase yet, so there is nothing to compare; go on with: forge resume {}",
                args.run, args.run
            ));
        }
    }
    if header["isa"].as_str() != Some(tensor::isa::name()) {
        eprintln!(
            "note: the run was made on the {} path and this machine runs {}; last bits may differ",
            header["isa"].as_str().unwrap_or("unknown"),
            tensor::isa::name()
        );
    }
    let requests = first.requests().applied()?;
    if requests
        .iter()
        .any(|r| matches!(r.action, store::Action::Set | store::Action::Answer))
    {
        eprintln!(
            "note: people changed settings of this run while it ran; those changes are not replayed"
        );
    }
    let temporary = tempfile::tempdir().context("a temporary folder")?;
    let root = args.keep.as_deref().unwrap_or(temporary.path());
    let recipe = recipe_of(&first)?;
    let second = Run::create(root, &args.run, &header)?;
    // What a run that begins later took from elsewhere is input, not result.
    for phase in ORDER.into_iter().take_while(|p| *p != span.first) {
        for file in models::finals(first.dir(), phase) {
            crate::single::copy_into(&file, first.dir(), second.dir())?;
        }
    }
    if span.first != ORDER[0] {
        crate::single::copy_folder(&first.dir().join("data"), &second.dir().join("data"))?;
    }
    go_quietly(&second, &recipe, &span)?;
    let mut rows = Vec::new();
    for name in files(first.dir()) {
        let (a, b) = (
            hash(&first.dir().join(&name)),
            hash(&second.dir().join(&name)),
        );
        rows.push(json!({ "file": name, "blake3": a, "again": b, "equal": a.is_some() && a == b }));
    }
    let equal = rows.iter().all(|r| r["equal"] == true);
    if common.json {
        output::json(&json!({ "run": args.run, "equal": equal, "files": rows }));
    } else {
        let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
        output::text(&table::table(&["file", "blake3", "again"], &cells));
        output::line(if equal {
            "every file came out the same, byte for byte"
        } else {
            "the run did not reproduce: the marked files differ"
        });
    }
    Ok(u8::from(!equal))
}

fn cells(row: &Value) -> Vec<String> {
    let short = |v: &Value| v.as_str().map_or("-".into(), |h| h[..16].to_string());
    vec![
        row["file"].as_str().unwrap_or_default().into(),
        short(&row["blake3"]),
        if row["equal"] == true {
            "the same".into()
        } else {
            format!("{} DIFFERS", short(&row["again"]))
        },
    ]
}

/// What a run hands on, and the data it was made from, relative to its folder.
fn files(dir: &Path) -> Vec<String> {
    let mut list = Vec::new();
    if let Ok(entries) = std::fs::read_dir(dir.join("data")) {
        list.extend(entries.flatten().map(|e| e.path()).filter(|p| p.is_file()));
    }
    for phase in ORDER {
        list.extend(models::finals(dir, phase));
    }
    let mut names: Vec<String> = list
        .iter()
        .filter_map(|p| p.strip_prefix(dir).ok())
        .map(|p| p.display().to_string())
        .collect();
    names.sort();
    names
}

fn hash(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    Some(blake3::hash(&bytes).to_hex().to_string())
}
