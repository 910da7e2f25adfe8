//! `forge merge`: mergekit's configurations on Hugging Face folders.

use crate::args::Common;
use crate::fault::usage;
use crate::{hub, output, table};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use merge::{Config, Numbers, Options, Plan, Planned, Target};
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// `--help` beyond the options.
pub(crate) const HELP: &str = "\
Examples:
  forge merge ties.yml merged                 a folder that transformers, vLLM or forge eval load
  forge merge ties.yml merged --dry-run       what each tensor would be made of
  forge merge slices.yml deeper --shard-size 2GB

CONFIG is a mergekit configuration: merge_method, base_model, models or slices, parameters (numbers, gradients, filters),
dtype, out_dtype, tokenizer_source (union, base, a model) or tokenizer, chat_template. Methods: linear, slerp, nuslerp,
multislerp, karcher, task_arithmetic, ties, dare_linear, dare_ties, della, della_linear, breadcrumbs, breadcrumbs_ties,
sce, model_stock, nearswap, passthrough.

A model is a folder with config.json and safetensors files, or OWNER/NAME[@REVISION] that is in the hub's cache; nothing is
fetched. The merge is done in `dtype`, or in the models' own type, as mergekit does it. The same seed gives the same bytes
at any number of threads. A merge that is killed leaves a folder .merging-... beside OUT, which may be removed.";

#[derive(Args)]
pub(crate) struct MergeArgs {
    /// A mergekit configuration (YAML)
    config: PathBuf,
    /// The folder to be made
    out: PathBuf,
    /// Print what each tensor would be made of, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Seed of the random masks of dare and della
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Most bytes of weights in one file, such as 500MB or 5GB
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "5GB",
        alias = "out-shard-size"
    )]
    shard_size: String,
    /// Merge models of different architectures, as long as their tensors agree
    #[arg(long)]
    allow_crimes: bool,
}

pub(crate) fn merge(args: &MergeArgs, common: &Common) -> Result<u8> {
    let begun = Instant::now();
    let Some(shard_bytes) = size(&args.shard_size) else {
        return usage(format!(
            "--shard-size {}: a number of bytes, with KB, MB or GB behind it if you like",
            args.shard_size
        ));
    };
    let path = &args.config;
    let source = std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read the merge configuration `{}`; check the path",
            path.display()
        )
    })?;
    let named = || format!("{}", path.display());
    let config = Config::parse(&source).with_context(named)?;
    for key in &config.ignored {
        eprintln!(
            "{}: {key} is not used by merge method {}",
            path.display(),
            config.method.name
        );
    }
    let options = Options {
        resolve: &folder,
        seed: args.seed,
        allow_crimes: args.allow_crimes,
    };
    let plan = Plan::new(&config, &options).with_context(named)?;
    if args.dry_run {
        show(&plan, common);
        return Ok(0);
    }
    let (needed, free) = (plan.bytes(), store::disk_free(&args.out));
    if needed > free {
        bail!(
            "{}: the merged weights take {}, the disk has {} left; make room or name a folder on another disk",
            args.out.display(),
            table::bytes(needed),
            table::bytes(free)
        );
    }
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = "{spinner} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
        let bar = ProgressBar::new(needed);
        match ProgressStyle::with_template(style) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    });
    let target = Target {
        folder: &args.out,
        shard_bytes,
        source: &source,
    };
    let done = plan.write(&target, &|bytes| {
        if let Some(bar) = &bar {
            bar.inc(bytes);
        }
    });
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    done?;
    let seconds = begun.elapsed().as_secs_f64();
    let (tensors, layers) = (plan.tensors.len(), plan.layers());
    if common.json {
        output::json(&json!({
            "folder": args.out, "method": plan.method.name, "tensors": tensors, "bytes": needed,
            "layers": layers, "seconds": seconds,
        }));
    } else {
        output::line(&format!(
            "{}: {tensors} tensors, {}{}, by {} in {}",
            args.out.display(),
            table::bytes(needed),
            layers.map_or(String::new(), |n| format!(", {n} layers")),
            plan.method.name,
            table::seconds(seconds)
        ));
    }
    Ok(0)
}

/// Bytes from `5GB`, `5B` (mergekit's thousand millions), `200m` or digits alone.
fn size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &lower[digits.len()..] {
        "" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "b" | "g" | "gb" => 1e9,
        _ => return None,
    };
    let number: f64 = digits.parse().ok()?;
    (number > 0.0 && number * unit < 1e18).then_some((number * unit) as u64)
}

/// A model's folder: a path that is there, or a snapshot in the hub's cache.
fn folder(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    if path.is_dir() {
        return Some(path.to_owned());
    }
    let (repository, revision) = name.split_once('@').unwrap_or((name, "main"));
    let plain =
        |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', '/']);
    let (owner, model) = repository.split_once('/')?;
    if !plain(owner) || !plain(model) || revision.contains("..") {
        return None;
    }
    let place = hub::cache()?.join(format!("models--{owner}--{model}"));
    let commit = std::fs::read_to_string(place.join("refs").join(revision));
    let commit = commit.map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
    Some(place.join("snapshots").join(commit)).filter(|folder| folder.is_dir())
}

fn numbers(numbers: &Numbers) -> Map<String, Value> {
    numbers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect()
}

fn as_json(tensor: &Planned) -> Value {
    let mut models = tensor.parameters.models.iter();
    let parts: Vec<Value> = tensor
        .parts
        .iter()
        .map(|part| {
            let own = if part.base { None } else { models.next() };
            json!({
                "model": part.model, "tensor": part.tensor, "base": part.base,
                "parameters": own.map(numbers).unwrap_or_default(),
            })
        })
        .collect();
    json!({
        "tensor": tensor.name, "shape": tensor.shape, "type": tensor.kind,
        "merged_in": tensor.dtype.map(merge::Dtype::name),
        "parameters": numbers(&tensor.parameters.tensor), "parts": parts,
    })
}

fn words(numbers: &Numbers) -> String {
    numbers
        .iter()
        .map(|(name, value)| format!("  {name} {value}"))
        .collect()
}

/// What each tensor of the result is made of.
fn show(plan: &Plan, common: &Common) {
    if common.json {
        output::json(&json!({
            "method": plan.method.name, "layers": plan.layers(), "bytes": plan.bytes(),
            "tensors": plan.tensors.iter().map(as_json).collect::<Vec<_>>(),
        }));
        return;
    }
    let mut text = String::new();
    for tensor in &plan.tensors {
        let how = match tensor.dtype {
            Some(dtype) => format!(
                "{} in {}{}",
                plan.method.name,
                dtype.name(),
                words(&tensor.parameters.tensor)
            ),
            None => "copied".to_owned(),
        };
        text += &format!(
            "{} {} {:?}: {how}\n",
            tensor.name, tensor.kind, tensor.shape
        );
        let mut models = tensor.parameters.models.iter();
        for part in &tensor.parts {
            let own = if part.base {
                "  base".to_owned()
            } else {
                models.next().map(words).unwrap_or_default()
            };
            text += &format!("    {} of {}{own}\n", part.tensor, part.model);
        }
    }
    text += &format!(
        "{} tensors, {}\n",
        plan.tensors.len(),
        table::bytes(plan.bytes())
    );
    output::text(&text);
}
