//! `forge data`: which data sets there are, whether a recipe's are at hand, getting and packing them.

use crate::args::Common;
use crate::fault::usage;
use crate::{hub, output, recipes, table};
use anyhow::Result;
use clap::{Args, Subcommand};
use data::{Check, Found};
use serde_json::{Value, json};
use std::path::PathBuf;
use train::Source;

#[derive(Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Subcommand)]
enum DataCommand {
    /// Read every data set that a recipe needs, as training would, and say how each stands
    #[command(after_help = "Example:\n  forge data check small --set data.root=DIR")]
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
    /// Tokenize and pack the data of a recipe into a folder
    #[command(after_help = "Example:\n  forge data pack quick --out packed")]
    Pack {
        /// Recipe by name or path
        #[arg(default_value = "quick")]
        recipe: String,
        /// Folder for the shards
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
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
        DataCommand::Pack { recipe, out } => pack(recipe, out, common),
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
    let checks = data::check(&hub::places(recipe.data.root.clone()), &ids);
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

fn pack(recipe: &str, out: &PathBuf, common: &Common) -> Result<u8> {
    let recipe = recipes::load(recipe, &common.set)?;
    if out.join("frozen.json").exists() {
        return usage(format!(
            "--out {}: the folder holds packed data already; choose another",
            out.display()
        ));
    }
    let data = hub::with_cache(&recipe.data);
    let source = Source::prepare(out, &data, recipe.model.vocab, &|line| {
        eprintln!("{line}");
    })?;
    let tokens: u64 = source.summary.iter().map(|u| u.tokens).sum();
    if common.json {
        let summary: Vec<Value> = source.summary.iter().map(|u| json!(u)).collect();
        output::json(
            &json!({ "folder": out, "vocab": source.tokenizer.vocab_size(), "tokens": tokens, "sets": summary }),
        );
    } else {
        let rows: Vec<Vec<String>> = source
            .summary
            .iter()
            .map(|u| {
                vec![
                    u.dataset.clone(),
                    u.family.name().into(),
                    u.documents.to_string(),
                    u.tokens.to_string(),
                    u.items.to_string(),
                    u.note.clone(),
                ]
            })
            .collect();
        output::text(&table::table(
            &["data set", "family", "documents", "tokens", "items", "note"],
            &rows,
        ));
        output::line(&format!(
            "{tokens} tokens of a vocabulary of {} in {}",
            source.tokenizer.vocab_size(),
            out.display()
        ));
    }
    Ok(0)
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
