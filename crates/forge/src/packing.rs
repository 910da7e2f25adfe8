//! `forge data pack`: the data of a recipe, as a run of it would read them, or folders of text of any size.

use crate::args::Common;
use crate::fault::{nearest, usage};
use crate::{hub, output, recipes, table};
use anyhow::Result;
use clap::Args;
use data::{Duplicates, LeftOut, Packed, Tokenizer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;
use train::Source;

/// Text that a tokenizer is learned on where none is given, in bytes.
const SAMPLE: usize = 10_000_000;

#[derive(Args)]
pub(crate) struct PackArgs {
    /// A recipe by name or path, or folders (or files) of text
    #[arg(default_value = "quick", value_name = "RECIPE|DIR")]
    what: Vec<String>,
    /// Folder for the shards
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The tokenizer.json to use for folders; without it one is learned on their first 10 MB
    #[arg(long, value_name = "FILE", conflicts_with = "vocab")]
    tokenizer: Option<PathBuf>,
    /// Most tokens of the tokenizer that is learned for folders [default: 8192]
    #[arg(long, value_name = "N")]
    vocab: Option<usize>,
    /// For folders: how like an earlier document one must be to be left out, 0.5 to 1; 0 keeps all [default: 0.8]
    #[arg(long, value_name = "X")]
    dedup: Option<f64>,
}

pub(crate) fn pack(args: &PackArgs, common: &Common) -> Result<u8> {
    let is_recipe = |name: &str| recipes::names().contains(&name) || name.ends_with(".toml");
    match args.what.as_slice() {
        [recipe] if is_recipe(recipe) => pack_recipe(recipe, args, common),
        folders => pack_folders(folders, args, common),
    }
}

fn pack_recipe(recipe: &str, args: &PackArgs, common: &Common) -> Result<u8> {
    let own = [
        ("--tokenizer", args.tokenizer.is_some(), "model.vocab"),
        ("--vocab", args.vocab.is_some(), "model.vocab"),
        ("--dedup", args.dedup.is_some(), "data.dedup"),
    ];
    if let Some((flag, _, key)) = own.iter().find(|(_, given, _)| *given) {
        return usage(format!(
            "{flag} is for folders; of a recipe set {key} with --set"
        ));
    }
    let recipe = recipes::load(recipe, &common.set)?;
    recipe.validate()?;
    let out = &args.out;
    if out.join("frozen.json").exists() {
        return taken(out);
    }
    let started = Instant::now();
    let data = hub::with_cache(&recipe.data);
    let source = Source::prepare(out, &data, recipe.model.vocab, &|line| {
        eprintln!("{line}");
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let tokens: u64 = source.summary.iter().map(|u| u.tokens).sum();
    let bytes: u64 = source.summary.iter().filter_map(|u| u.bytes).sum();
    if common.json {
        let sets: Vec<Value> = source.summary.iter().map(|u| json!(u)).collect();
        output::json(&json!({
            "folder": out, "vocab": source.tokenizer.vocab_size(), "tokens": tokens, "text_bytes": bytes,
            "seconds": seconds, "sets": sets,
        }));
        return Ok(0);
    }
    let row = |u: &train::source::Used| {
        vec![
            u.dataset.clone(),
            u.family.name().into(),
            u.documents.to_string(),
            u.tokens.to_string(),
            u.items.to_string(),
            reasons(u.left_out),
            u.note.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = source.summary.iter().map(row).collect();
    let header = [
        "data set",
        "family",
        "documents",
        "tokens",
        "items",
        "left out",
        "note",
    ];
    output::text(&table::table(&header, &rows));
    output::line(&format!(
        "{tokens} tokens of a vocabulary of {} in {}: {} of text in {}, reading, comparing and learning the vocabulary included",
        source.tokenizer.vocab_size(),
        out.display(),
        table::bytes(bytes),
        table::seconds(seconds)
    ));
    Ok(0)
}

fn pack_folders(folders: &[String], args: &PackArgs, common: &Common) -> Result<u8> {
    if let Some(change) = common.set.first() {
        return usage(format!(
            "--set {change}: packing folders takes no recipe's settings"
        ));
    }
    let dedup = args.dedup.unwrap_or(0.8);
    if dedup != 0.0 && !(0.5..=1.0).contains(&dedup) {
        return usage(format!("--dedup {dedup}: 0 (keep all), or 0.5 to 1"));
    }
    let sets = named(folders)?;
    let out = &args.out;
    for (name, _) in &sets {
        if out.join(format!("{name}.json")).exists() {
            return taken(out);
        }
    }
    let tokenizer = match &args.tokenizer {
        Some(file) => Tokenizer::from_file(file)?,
        None => learned(&sets, args.vocab.unwrap_or(8192))?,
    };
    store::write_file(
        &out.join("tokenizer.json"),
        "the tokenizer",
        &tokenizer.to_bytes(),
    )?;
    let mut duplicates = (dedup > 0.0).then(|| Duplicates::new(dedup));
    let mut packed = Vec::new();
    for (name, folder) in &sets {
        eprintln!("packing {}", folder.display());
        let started = Instant::now();
        let one = data::pack_folder(folder, (out, name), &tokenizer, duplicates.as_mut())?;
        packed.push((name, one, started.elapsed().as_secs_f64()));
    }
    if common.json {
        let sets: Vec<Value> = packed
            .iter()
            .map(|(name, p, s)| as_json(name, p, *s))
            .collect();
        output::json(&json!({ "folder": out, "vocab": tokenizer.vocab_size(), "sets": sets }));
        return Ok(0);
    }
    let row = |(name, p, seconds): &(&String, Packed, f64)| {
        let shards = p.shards.iter();
        let parts = shards.map(|s| format!("{} {}", s.manifest().split.name(), s.documents()));
        vec![
            name.to_string(),
            parts.collect::<Vec<_>>().join(", "),
            tokens(p).to_string(),
            reasons(p.left_out),
            table::bytes(p.text),
            table::seconds(*seconds),
            format!("{:.1}", p.text as f64 / 1e6 / seconds.max(1e-9)),
            p.note.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = packed.iter().map(row).collect();
    let header = [
        "data set",
        "documents",
        "tokens",
        "left out",
        "text",
        "time",
        "MB/s",
        "note",
    ];
    output::text(&table::table(&header, &rows));
    output::line(&format!(
        "a vocabulary of {} in {}",
        tokenizer.vocab_size(),
        out.display()
    ));
    Ok(0)
}

/// Each folder with the name of its data set: its own, without what a file's name would not hold well.
fn named(folders: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut sets: Vec<(String, PathBuf)> = Vec::new();
    for typed in folders {
        let Ok(path) = Path::new(typed).canonicalize() else {
            return usage(format!(
                "{typed} is neither a folder nor a recipe ({}){}",
                recipes::names().join(", "),
                nearest(typed, recipes::names().iter().copied())
            ));
        };
        let stem = path.file_stem().filter(|_| path.is_file());
        let name = stem
            .or(path.file_name())
            .unwrap_or_default()
            .to_string_lossy();
        let keep = |c: char| {
            if c.is_alphanumeric() || "-_".contains(c) {
                c
            } else {
                '_'
            }
        };
        let name: String = name.chars().map(keep).collect();
        if let Some((_, other)) = sets.iter().find(|(known, _)| *known == name) {
            return usage(format!(
                "{} and {} would both become the data set `{name}`; pack them into two folders",
                other.display(),
                path.display()
            ));
        }
        sets.push((name, path));
    }
    Ok(sets)
}

/// A tokenizer learned on the beginnings of the folders, the same share of each.
fn learned(sets: &[(String, PathBuf)], vocab: usize) -> Result<Tokenizer> {
    let mut texts = Vec::new();
    for (name, folder) in sets {
        let mut left = SAMPLE / sets.len();
        data::each_document(folder, name, &mut |document, is_held_out| {
            if !is_held_out {
                left = left.saturating_sub(document.text.len());
                texts.push(document.text);
            }
            Ok(left > 0)
        })?;
    }
    eprintln!("learning a vocabulary of {vocab}");
    Ok(Tokenizer::train(texts.iter().map(String::as_str), vocab)?)
}

fn taken<T>(out: &Path) -> Result<T> {
    usage(format!(
        "--out {}: the folder holds packed data already; choose another",
        out.display()
    ))
}

fn reasons(left_out: LeftOut) -> String {
    Some(left_out.describe())
        .filter(|text| !text.is_empty())
        .unwrap_or("-".into())
}

fn tokens(packed: &Packed) -> u64 {
    packed.shards.iter().map(|shard| shard.tokens_total()).sum()
}

fn as_json(name: &str, p: &Packed, seconds: f64) -> Value {
    let shards = p.shards.iter().map(|shard| {
        json!({ "split": shard.manifest().split, "documents": shard.documents(), "tokens": shard.tokens_total() })
    });
    json!({
        "dataset": name, "shards": shards.collect::<Vec<_>>(), "tokens": tokens(p), "left_out": p.left_out,
        "text_bytes": p.text, "file_bytes": p.files, "seconds": seconds,
        "megabytes_per_second": p.text as f64 / 1e6 / seconds.max(1e-9), "note": p.note,
    })
}
