//! `forge data`: which data sets there are, whether a recipe's are at hand, getting and packing them.

use crate::args::Common;
use crate::fault::usage;
use crate::{hub, output, packing, recipes, table};
use anyhow::Result;
use clap::{Args, Subcommand};
use data::{Check, Found};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Subcommand)]
enum DataCommand {
    /// Read every data set that a recipe needs, as training would, and say how each stands
    #[command(
        after_help = "Example:\n  forge data check small --set data.root=DIR\n\nBesides what is there and what is missing it counts, in all of the text, training documents that repeat an earlier one and those that hold what any of the sets is evaluated on, by pairs of sets. A run leaves both out of what it takes (data.dedup, data.decontaminate), built-in sets aside."
    )]
    Check {
        /// Recipe by name or path
        #[arg(default_value = "quick")]
        recipe: String,
    },
    /// Get data sets from the Hugging Face hub into its cache, where runs then find them
    #[command(
        after_help = "Examples:\n  forge data fetch gsm8k piqa\n  forge data fetch plan --dry-run\n  forge data fetch plan --mirror https://MIRROR\n\nThe cache is the one of Hugging Face's own programs (HF_HOME, HF_HUB_CACHE). What was fetched is checked for size and hash; what broke off is gone on with at the next call. HF_ENDPOINT names another hub, HF_TOKEN opens repositories that ask for a token, HTTPS_PROXY names a proxy, and HF_HUB_OFFLINE=1 forbids the network."
    )]
    Fetch(hub::FetchArgs),
    /// Tokenize and pack the data of a recipe, or folders of text, into a folder
    #[command(
        after_help = "Examples:\n  forge data pack quick --out packed\n  forge data pack texts/ more/ --out packed --vocab 8192\n  forge data pack texts/ --out packed --tokenizer tokenizer.json\n\nOf a recipe everything is packed that a run of it would read. Folders may be larger than the memory: each becomes a data set of its name, one text in twenty held out, in shards NAME.bin (trained on), NAME.fitness.bin, NAME.selection.bin and NAME.held_out.bin, each with its manifest NAME.json. Documents that repeat an earlier one are left out, and of a recipe those that hold what is evaluated on (data.dedup, data.decontaminate)."
    )]
    Pack(packing::PackArgs),
    /// The data sets that this program reads
    List,
}

/// data.root as given with --set, for commands that take no recipe.
pub(crate) fn root(common: &Common) -> Result<Option<PathBuf>> {
    let mut root = None;
    for change in &common.set {
        let Some(("data.root", dir)) = change.split_once('=') else {
            return usage(format!(
                "--set {change}: this command takes data.root only, as in --set data.root=DIR"
            ));
        };
        root = Some(PathBuf::from(dir));
    }
    Ok(root)
}

pub(crate) fn data(args: &DataArgs, common: &Common) -> Result<u8> {
    match &args.command {
        DataCommand::Check { recipe } => check(recipe, common),
        DataCommand::Fetch(args) => hub::fetch(args, common),
        DataCommand::Pack(args) => packing::pack(args, common),
        DataCommand::List => {
            list(common);
            Ok(0)
        }
    }
}

fn check(recipe: &str, common: &Common) -> Result<u8> {
    let recipe = recipes::load(recipe, &common.set)?;
    let ids: Vec<&str> = recipe.data.sets.iter().map(String::as_str).collect();
    let ids = data::expand(&ids);
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let checks = data::check(
        &hub::places(recipe.data.root.clone()),
        &ids,
        (recipe.data.dedup > 0.0).then_some(recipe.data.dedup),
    );
    let nowhere = |c: &&Check| c.found == Found::Missing && !c.optional;
    let missing = checks.iter().filter(nowhere).count();
    if common.json {
        output::json(&json!(checks));
    } else {
        let rows: Vec<Vec<String>> = checks.iter().map(row).collect();
        output::text(&table::table(
            &[
                "data set", "family", "found", "examples", "records", "bytes", "licence", "note",
            ],
            &rows,
        ));
        overlaps(&checks);
        lacking(&checks);
        if missing > 0 {
            eprintln!(
                "{missing} of {} data sets are missing; get them with `forge data fetch`, set data.root to the folder that holds them, or leave them out with --set 'data.sets=[\"builtin\"]'",
                checks.len()
            );
        }
    }
    Ok(u8::from(missing > 0))
}

/// Training documents that repeat others, and what training text holds of the evaluation, by pairs of sets.
fn overlaps(checks: &[Check]) {
    let repeated: Vec<Vec<String>> = checks
        .iter()
        .filter(|c| c.left_out.describe() != "")
        .map(|c| {
            let built_in = data::dataset(&c.dataset).is_some_and(data::Dataset::is_built_in);
            let count = |n: Option<usize>| n.map_or("-".into(), |n: usize| n.to_string());
            vec![
                c.dataset.clone(),
                count(c.examples.get("train").copied()),
                count(c.left_out.exact),
                count(c.left_out.near),
                count(c.left_out.contaminated),
                if built_in {
                    "kept, from templates"
                } else {
                    "left out"
                }
                .into(),
            ]
        })
        .collect();
    if !repeated.is_empty() {
        output::line(
            "\nTraining documents that say again what an earlier one says, or that hold what is evaluated on:",
        );
        let header = [
            "data set",
            "documents",
            "exact",
            "near",
            "contaminated",
            "in a run",
        ];
        output::text(&table::table(&header, &repeated));
    }
    let pairs: Vec<Vec<String>> = checks
        .iter()
        .flat_map(|c| &c.overlaps)
        .map(|pair| {
            vec![
                pair.training.clone(),
                pair.evaluation.clone(),
                pair.documents.to_string(),
                pair.items.to_string(),
            ]
        })
        .collect();
    if !pairs.is_empty() {
        output::line("\nEvaluation items found in training text, by 13 words in a row:");
        let header = ["trained on", "evaluated on", "documents", "items found"];
        output::text(&table::table(&header, &pairs));
    }
    let short: Vec<String> = checks
        .iter()
        .filter(|c| c.too_short > 0)
        .map(|c| format!("{} {}", c.dataset, c.too_short))
        .collect();
    if !short.is_empty() {
        output::line(&format!(
            "too short to be looked for (fewer than 8 words): {}",
            short.join(", ")
        ));
    }
}

/// What of the published records is not there, and how to get it.
fn lacking(checks: &[Check]) {
    let lacking: Vec<&Check> = checks.iter().filter(|c| c.missing.is_some()).collect();
    if lacking.is_empty() {
        return;
    }
    output::line("\nNot there:");
    for c in lacking {
        let optional = if c.optional { " (optional)" } else { "" };
        output::line(&format!(
            "  {}{optional}: {}",
            c.dataset,
            c.missing.as_deref().unwrap_or_default()
        ));
        if let Some(remedy) = &c.remedy {
            output::line(&format!("    {remedy}"));
        }
    }
}

fn row(c: &Check) -> Vec<String> {
    let examples: Vec<String> = c.examples.iter().map(|(s, n)| format!("{s} {n}")).collect();
    let found = serde_json::to_value(c.found).unwrap_or_default();
    let record = |(split, n): (&String, &data::Official)| match n.published {
        Some(published) => format!("{split} {}/{published}", n.found),
        None => format!("{split} {}", n.found),
    };
    let records: Vec<String> = c.official.iter().map(record).collect();
    vec![
        c.dataset.clone(),
        c.family.map_or("-", |f| f.name()).into(),
        found.as_str().unwrap_or("-").into(),
        examples.join(", "),
        records.join(", "),
        c.bytes.map_or("-".into(), table::bytes),
        c.licence.unwrap_or("-").into(),
        match (c.found, &c.missing) {
            (Found::Missing, Some(_)) => "see below".into(),
            _ => c.note.clone(),
        },
    ]
}

fn list(common: &Common) {
    if common.json {
        let rows: Vec<Value> = data::DATASETS
            .iter()
            .map(|d| {
                json!({ "dataset": d.id, "family": d.family, "folders": d.folders, "licence": d.licence,
                        "hub": d.hub, "published": published(d), "optional": d.optional, "origin": d.origin })
            })
            .collect();
        output::json(&Value::Array(rows));
        return;
    }
    let rows: Vec<Vec<String>> = data::DATASETS
        .iter()
        .map(|d| {
            vec![
                d.id.into(),
                d.family.name().into(),
                if d.folders.is_empty() {
                    "built in".into()
                } else {
                    d.folders.join(" ")
                },
                d.licence.into(),
                d.published
                    .iter()
                    .map(|(split, n)| format!("{split} {n}"))
                    .collect::<Vec<_>>()
                    .join(", "),
                match d.hub {
                    [] => "-".into(),
                    homes => homes
                        .iter()
                        .map(|h| format!("{}@{:.7}", h.repository, h.revision))
                        .collect::<Vec<_>>()
                        .join(", "),
                },
            ]
        })
        .collect();
    output::text(&table::table(
        &[
            "data set",
            "family",
            "folder under data.root",
            "licence",
            "records",
            "published as",
        ],
        &rows,
    ));
}

/// The published counts by official split, as JSON.
fn published(d: &data::Dataset) -> Value {
    d.published
        .iter()
        .map(|(split, n)| ((*split).to_string(), json!(n)))
        .collect()
}
