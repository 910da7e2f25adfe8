//! `forge evomerge --models`: evolving a merge of models that no run of ours made.
//!
//! The search, its races, cache and splits are Phase 2's; models are read from Hugging Face folders of Llama shape, and the
//! best merge is written as one. The state of the search is a file beside the result, written after every generation:
//! the same command goes on from it.

use crate::args::Common;
use crate::fault::usage;
use crate::models::{self, Kind, Loaded};
use crate::{hub, output, recipes, single, table};
use anyhow::{Context as _, Result};
use clap::Args;
use data::{Document, Family, Item};
use model::hub_format;
use model::llama::Llama;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use train::Recipe;
use train::evaluate::Subject;
use train::phases::evomerge::{
    Contender, Genome, LlamaJudge, Material, Parents, Remedy, Search, Settings, Split,
    combination_name, decode, llama_of, llama_parents,
};

/// `--help` beyond the options.
pub(crate) const HELP: &str = "\
Examples:
  forge evomerge --from mine --set evomerge.generations=20
  forge evomerge --from mine --set evomerge.search=evolution --run other
  forge evomerge --models maths code chat --base base --task arc_easy --text prose.txt --out merged

With --models three checkpoints of Llama shape are merged that were fine-tuned from one base, as Phase 2 merges specialists:
the genes are weights, densities, a source, an inclusion and a scale for each layer. Texts and choice items are dealt to three
splits: one steers the search, one picks the champion, one is looked at once, for the report. The state of the search is
kept in OUT.search.json after every generation, and the same command goes on from it. --set takes evomerge.*, seed,
precision and data.root.";

#[derive(Args)]
pub(crate) struct EvomergeArgs {
    /// The run whose specialists are merged
    #[arg(long, value_name = "RUN", required_unless_present = "models", conflicts_with_all = ["models", "base", "task", "text", "out"])]
    from: Option<String>,
    /// Name of the new run; FROM-evomerge without it
    #[arg(long, value_name = "NAME", conflicts_with = "models")]
    run: Option<String>,
    /// Three Hugging Face folders of Llama shape, fine-tuned from one base
    #[arg(long, num_args = 3, value_names = ["A", "B", "C"], requires_all = ["base", "out"])]
    models: Vec<String>,
    /// The model that they were fine-tuned from
    #[arg(long, value_name = "FOLDER")]
    base: Option<String>,
    /// A data set whose evaluation texts and items count (repeatable)
    #[arg(long, value_name = "NAME")]
    task: Vec<String>,
    /// A text that counts (repeatable)
    #[arg(long, value_name = "FILE")]
    text: Vec<PathBuf>,
    /// The folder to be made
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub(crate) fn evomerge(args: &EvomergeArgs, common: &Common) -> Result<u8> {
    match (&args.from, &args.base, &args.out) {
        (Some(from), _, _) => {
            let from = single::FromArgs::new(from.clone(), args.run.clone());
            single::later("evomerge", &from, common)
        }
        (None, Some(base), Some(out)) => evolve(args, base, out, common),
        (None, _, _) => usage("--models needs --base FOLDER and --out FOLDER"),
    }
}

/// The state of a search on disk.
#[derive(Serialize, Deserialize)]
struct Saved {
    /// What else decides the result: hashes of the texts and items.
    measured_on: String,
    search: Search,
}

fn evolve(args: &EvomergeArgs, base: &str, out: &Path, common: &Common) -> Result<u8> {
    if out.exists() {
        return usage(format!(
            "--out {}: it exists; give a folder that does not",
            out.display()
        ));
    }
    let recipe = recipes::load("small", &common.set)?;
    tensor::precision::select(recipe.precision.resolved()).map_err(anyhow::Error::msg)?;
    let base = models::load(base, None, common)?;
    let ancestor = llama(&base)?;
    let loaded = args.models.iter().map(|m| sibling(m, &base, common));
    let three = loaded.collect::<Result<Vec<Llama>>>()?;
    let Ok(three) = <[Llama; 3]>::try_from(three) else {
        return usage(
            "--models takes three folders; `forge merge` merges any number at given weights",
        );
    };
    let parents = llama_parents(ancestor, &three);
    drop(three);
    let reader = base.subject();
    let material = material(args, &reader, &recipe)?;
    let judge = LlamaJudge {
        material: &material,
        reader: &reader,
        config: &ancestor.config,
    };
    let state = state_path(out);
    let mut search = begin(&state, &recipe, &parents, &judge)?;
    while !search.finished() {
        if search.newly_converging().is_some() {
            search.diversify(Remedy::Inject);
        }
        let g = tensor::threads::hot(|| search.next_generation(&parents, &judge).cloned())?;
        eprintln!(
            "generation {}/{} best {:.4} mean {:.4} diversity {:.2} rejected {}",
            g.generation,
            search.settings.generations,
            g.best_fitness,
            g.mean_fitness,
            g.diversity,
            g.work.rejected
        );
        keep(&state, &search, &judge)?;
    }
    let found = tensor::threads::hot(|| compare(&mut search, &parents, &judge, &recipe))?;
    let child = decode(&found.champion, &parents);
    hub_format::save(out, &llama_of(&child, &ancestor.config), &base.path)?;
    let report = report(&found, &search, args, out);
    let bytes = serde_json::to_vec_pretty(&report)?;
    store::write_file(&out.join("evomerge.json"), "the report", &bytes)?;
    std::fs::remove_file(&state).with_context(|| state.display().to_string())?;
    match common.json {
        true => output::json(&report),
        false => output::text(&shown(&report)),
    }
    Ok(0)
}

/// The Llama of a loaded model.
fn llama(loaded: &Loaded) -> Result<&Llama> {
    match &loaded.kind {
        Kind::Llama(model) if loaded.path.is_dir() => Ok(model),
        _ => usage(format!(
            "{}: no Hugging Face folder of a Llama; the specialists of a run are merged with --from RUN",
            loaded.path.display()
        )),
    }
}

/// A model that has the base's architecture and reads as it does.
fn sibling(name: &str, base: &Loaded, common: &Common) -> Result<Llama> {
    let loaded = models::load(name, None, common)?;
    let (model, of_base) = (llama(&loaded)?, llama(base)?);
    let tokenizer = |path: &Path| std::fs::read(path.join("tokenizer.json")).ok();
    if tokenizer(&loaded.path) != tokenizer(&base.path) {
        return usage(format!(
            "{}: its tokenizer.json is not that of {}; bring both to one vocabulary first, by a forge merge with tokenizer_source",
            loaded.path.display(),
            base.path.display()
        ));
    }
    let (own, other) = (&model.config, &of_base.config);
    for (key, own, other) in [
        ("num_attention_heads", own.heads as f64, other.heads as f64),
        (
            "num_key_value_heads",
            own.kv_heads as f64,
            other.kv_heads as f64,
        ),
        ("rms_norm_eps", f64::from(own.eps), f64::from(other.eps)),
        ("rope_theta", own.rope_theta, other.rope_theta),
    ] {
        if own != other {
            return usage(format!(
                "{}: {key} is {own}, in {} it is {other}; only models of one architecture are merged",
                loaded.path.display(),
                base.path.display()
            ));
        }
    }
    Ok(model.clone())
}

/// The texts and items that models are measured on.
fn material(args: &EvomergeArgs, reader: &Subject, recipe: &Recipe) -> Result<Material> {
    let sequence = reader.longest.map_or(recipe.evomerge.sequence, |most| {
        most.min(recipe.evomerge.sequence)
    });
    let (mut documents, mut items): (Vec<Document>, Vec<Item>) = (Vec::new(), Vec::new());
    let places = hub::places(recipe.data.root.clone());
    for name in &args.task {
        let loaded = data::load(name, &places)?;
        documents.extend(loaded.texts);
        items.extend(loaded.items);
    }
    for path in &args.text {
        documents.extend(pieces(path, sequence)?);
    }
    let material = Material::read(
        (reader.spelling, reader.start),
        &documents,
        &items,
        sequence,
    );
    let fewest = [Split::Fitness, Split::Selection, Split::HeldOut].map(|s| material.texts(s));
    if fewest.into_iter().min() < Some(8) {
        return usage(format!(
            "too little text to measure on: {fewest:?} pieces for steering, choosing and the report, at least 8 of each are needed; give a longer --text FILE or --task wikitext"
        ));
    }
    Ok(material)
}

/// A text file as pieces of about one sequence, each dealt to a split of its own.
fn pieces(path: &Path, sequence: usize) -> Result<Vec<Document>> {
    let text = models::read_text_file(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (mut documents, mut piece) = (Vec::new(), String::new());
    for line in text.split_inclusive('\n') {
        piece += line;
        // About four bytes make a token.
        if piece.len() >= 4 * sequence {
            let id = format!("{name}/{}", documents.len());
            documents.push(document(&name, id, std::mem::take(&mut piece)));
        }
    }
    if !piece.trim().is_empty() {
        documents.push(document(
            &name,
            format!("{name}/{}", documents.len()),
            piece,
        ));
    }
    Ok(documents)
}

fn document(dataset: &str, id: String, text: String) -> Document {
    Document {
        dataset: dataset.into(),
        family: Family::Language,
        id,
        text,
        loss: Vec::new(),
    }
}

/// `OUT.search.json`
fn state_path(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".search.json");
    out.with_file_name(name)
}

/// What decides the measures, besides the models.
fn measured_on(judge: &LlamaJudge) -> String {
    use train::phases::evomerge::Evaluate as _;
    [Split::Fitness, Split::Selection, Split::HeldOut]
        .map(|s| judge.set_hash(s))
        .join("/")
}

/// A new search, or the one that an earlier start left behind.
fn begin(path: &Path, recipe: &Recipe, parents: &Parents, judge: &LlamaJudge) -> Result<Search> {
    let settings = recipe.evomerge.settings(recipe.seed);
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(_) => return Ok(Search::new(settings, parents)?),
    };
    let saved: Saved = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is damaged; remove it to begin anew", path.display()))?;
    let begun = Settings {
        generations: settings.generations,
        ..saved.search.settings.clone()
    };
    if begun != settings
        || saved.measured_on != measured_on(judge)
        || saved.search.parents_hash != parents.hash()
    {
        return usage(format!(
            "{} holds a search with other models, texts or settings; go on with those, or remove it to begin anew",
            path.display()
        ));
    }
    let mut search = saved.search;
    search.settings.generations = settings.generations;
    eprintln!("going on after {} generations", search.history.len());
    Ok(search)
}

fn keep(path: &Path, search: &Search, judge: &LlamaJudge) -> Result<()> {
    let saved = json!({ "measured_on": measured_on(judge), "search": search });
    Ok(store::write_file(
        path,
        "the state of the search",
        &serde_json::to_vec(&saved)?,
    )?)
}

/// What a search came to.
struct Found {
    champion: Genome,
    best_parent: usize,
    rows: Vec<Contender>,
    difference: (f64, f64),
}

/// Picks the champion and the best parent on the selection split, and measures all on the held-out one.
fn compare(
    search: &mut Search,
    parents: &Parents,
    judge: &LlamaJudge,
    recipe: &Recipe,
) -> Result<Found> {
    let r = &recipe.evomerge;
    let champion = search.choose(parents, judge, (r.finalists, r.comparison_items))?;
    let champion = champion.individual.genome;
    let best_parent = search.best_parent(parents, judge, r.comparison_items)?;
    let rows = search.stand(parents, judge, &champion, Vec::new(), r.comparison_items)?;
    let difference = rows[0].measures.paired(&rows[1 + best_parent].measures);
    Ok(Found {
        champion,
        best_parent,
        rows,
        difference,
    })
}

fn report(found: &Found, search: &Search, args: &EvomergeArgs, out: &Path) -> Value {
    let contenders: Vec<Value> = (found.rows.iter())
        .map(|row| {
            let m = &row.measures;
            let tasks = m
                .accuracies
                .iter()
                .map(|a| (a.task.clone(), json!(a.correct / a.n.max(1) as f64)));
            json!({ "name": row.name, "fitness": row.fitness, "nats": m.nats,
                "accuracy": tasks.collect::<serde_json::Map<_, _>>(), "bytes_fp32": m.bytes })
        })
        .collect();
    json!({
        "out": out, "base": args.base, "models": args.models, "generations": search.history.len() - 1,
        "combination": combination_name(found.champion.bits), "genome": found.champion,
        "best_parent": format!("parent{}", found.best_parent), "held_out": contenders,
        "nats_difference": { "mean": found.difference.0, "stderr": found.difference.1 },
        "work": search.work(), "cache_hit_rate": search.work().hit_rate(),
    })
}

fn shown(report: &Value) -> String {
    let number = |v: &Value| v.as_f64().map_or("-".into(), |x| format!("{x:.4}"));
    let rows: Vec<Vec<String>> = (report["held_out"].as_array().into_iter().flatten())
        .map(|row| {
            let tasks = row["accuracy"].as_object().into_iter().flatten();
            let tasks: Vec<String> = tasks
                .map(|(task, a)| format!("{task} {}", number(a)))
                .collect();
            vec![
                row["name"].as_str().unwrap_or_default().into(),
                number(&row["fitness"]),
                number(&row["nats"]),
                tasks.join(", "),
            ]
        })
        .collect();
    format!(
        "\n{}\nchampion minus {}: {} +- {} nats a token, on texts that nothing was chosen by\nwritten to {}\n",
        table::table(&["held out", "fitness", "nats a token", "accuracy"], &rows),
        report["best_parent"].as_str().unwrap_or_default(),
        number(&report["nats_difference"]["mean"]),
        number(&report["nats_difference"]["stderr"]),
        report["out"].as_str().unwrap_or_default(),
    )
}
