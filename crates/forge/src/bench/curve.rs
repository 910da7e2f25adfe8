//! Learning curves: variants of the model and the optimizer on the same text, read at equal tokens, at equal work and at
//! equal time off the same curve.
//!
//! A variant trains as the ancestor of Phase 1 does, on the data of a run that is there, by the run's recipe. Held-out loss
//! is that of the selection split unless another is named, every pass of the core taken. Variants without memory get wider
//! feed-forward layers, so that all have as many parameters as the whole model, within one unit of width.
//!
//! With `--from` the training of a model that is there goes on instead, measured before it does, halting as it does.
//!
//! Under `--seconds` the end of training is a time, measurements not counted: learning rates and the beginning of the
//! loops go by the share of the time that is gone, where they go by the share of the steps otherwise.

use super::export::Export;
use crate::args::Common;
use crate::fault::usage;
use crate::models::{self, Kind};
use crate::{output, recipes, run, runs, table};
use anyhow::Result;
use clap::{Args, ValueEnum};
use data::{Document, Mixture, Split};
use model::{Cognate, Config, Params, params::Role};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;
use train::evaluate::{self, TextScore};
use train::phases::cognate::{Plan, Trainee};
use train::report::MAX_LEN;
use train::step::MicroBatch;
use train::{Context, Recipe, Source};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Variant {
    /// One pass, no memory, no Grokfast: a plain decoder
    Plain,
    /// The plain decoder with AdamW on every tensor
    Adamw,
    /// The plain decoder and loops from the first step
    Recursion,
    /// The plain decoder and loops from the recipe's share of the steps on
    LateRecursion,
    /// The plain decoder and the memory
    Memory,
    /// The plain decoder and Grokfast
    Grokfast,
    /// Everything, as the recipe has it
    All,
}

/// A split to measure on.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measured {
    /// What choices are made by
    Selection,
    /// What is only reported
    HeldOut,
}

#[derive(Args)]
pub(crate) struct CurveArgs {
    /// A run, whose data and recipe are taken
    run: String,
    /// What is trained (repeatable) [default: all variants]
    #[arg(long, value_enum)]
    variant: Vec<Variant>,
    /// A model of the run whose training goes on, in place of new ones
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["variant", "export"])]
    from: Option<String>,
    /// Tokens that each variant is trained on
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    tokens: u64,
    /// Seconds of training after which a curve ends though tokens are left
    #[arg(long, value_name = "N")]
    seconds: Option<f64>,
    /// Points of a curve, equally far apart
    #[arg(long, value_name = "N", default_value_t = 8)]
    points: u64,
    /// Seed of weights and order (repeatable)
    #[arg(long, value_name = "N", default_values_t = [0])]
    seed: Vec<u64>,
    /// Bytes of held-out text that each point is measured on, of each data set
    #[arg(long, value_name = "N", default_value_t = 30_000)]
    bytes: usize,
    /// Data set that is measured (repeatable) [default: all]
    #[arg(long, value_name = "SET")]
    measure: Vec<String>,
    /// Split that is measured
    #[arg(long, value_enum, default_value = "selection")]
    split: Measured,
    /// Where the only curve leaves what another program needs to train the same: config.json, batches.jsonl,
    /// held_out.json, start.safetensors, and end.safetensors when it is through
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
}

pub(super) fn run(args: &CurveArgs, common: &Common) -> Result<u8> {
    if args.points == 0 || args.tokens == 0 || args.bytes == 0 {
        return usage("--tokens, --points and --bytes are at least 1");
    }
    if args.seconds.is_some_and(|s| s.is_nan() || s <= 0.0) {
        return usage("--seconds is more than 0");
    }
    let variants = match (&args.from, args.variant.is_empty()) {
        (Some(_), _) => &[Variant::All],
        (None, true) => Variant::value_variants(),
        (None, false) => &args.variant,
    };
    if args.export.is_some() && (variants.len(), args.seed.len()) != (1, 1) {
        return usage("--export goes with one --variant and one --seed");
    }
    let found = runs::read(&common.root, &args.run)?;
    let recipe = recipes::change(&run::recipe_of(&found)?, &common.set)?;
    let source = Source::open(&found.dir().join("data"))?;
    let begun = args.from.as_ref().map(|name| begun(name, &source, common));
    let begun = begun.transpose()?;
    let known: BTreeSet<&str> = source.texts.iter().map(|d| &*d.dataset).collect();
    if let Some(set) = args.measure.iter().find(|s| !known.contains(s.as_str())) {
        let known: Vec<&str> = known.into_iter().collect();
        let known = known.join(", ");
        return usage(format!(
            "--measure {set}: `{}` has held-out text of {known}",
            args.run
        ));
    }
    let (mut curves, mut rows) = (Vec::new(), Vec::new());
    for &variant in variants {
        for &seed in &args.seed {
            let changed = variant.recipe(&recipe, seed);
            let cx = Context {
                run: &found,
                recipe: &changed,
                source: &source,
                memory: train::memory::limit(),
                clock: &|| 0.0,
            };
            let model = begun.clone().unwrap_or_else(|| {
                let config = variant.config(&changed, source.tokenizer.vocab_size());
                variant.model(config, seed)
            });
            let curve = train(args, &cx, variant, model)?;
            if let Some(last) = curve["points"].as_array().and_then(|p| p.last()) {
                rows.push(row(&curve, last));
            }
            if !common.json {
                for point in curve["points"].as_array().into_iter().flatten() {
                    output::line(&row(&curve, point).join("  "));
                }
            }
            curves.push(curve);
        }
    }
    if common.json {
        output::json(
            &json!({ "run": args.run, "isa": tensor::isa::name(), "precision": tensor::precision::in_use().name(),
            "threads": rayon::current_num_threads(), "curves": curves }),
        );
    } else {
        let header = [
            "variant",
            "seed",
            "parameters",
            "tokens",
            "seconds",
            "TFLOP",
            "bits/byte",
            "mean of sets",
        ];
        output::text(&table::table(&header, &rows));
    }
    Ok(0)
}

fn row(curve: &Value, last: &Value) -> Vec<String> {
    let number = |v: &Value, digits: usize| format!("{:.digits$}", v.as_f64().unwrap_or(f64::NAN));
    vec![
        curve["variant"].as_str().unwrap_or("").into(),
        curve["seed"].to_string(),
        curve["parameters"].to_string(),
        last["tokens"].to_string(),
        number(&last["seconds"], 1),
        number(&json!(last["flops"].as_f64().map(|f| f / 1e12)), 2),
        number(&last["bits_per_byte"], 4),
        number(&last["mean_over_sets"], 4),
    ]
}

impl Variant {
    pub(super) fn name(self) -> String {
        let name = self.to_possible_value();
        name.map_or(String::new(), |v| v.get_name().to_string())
    }

    /// The recipe as this variant changes it.
    pub(super) fn recipe(self, recipe: &Recipe, seed: u64) -> Recipe {
        let mut changed = recipe.clone();
        changed.seed = seed;
        if !matches!(self, Self::All | Self::Grokfast) {
            changed.cognate.optim.grokfast_lambda = 0.0;
        }
        if self == Self::Recursion {
            changed.cognate.loops_from = 0.0;
        }
        changed
    }

    /// The model's configuration, with as many parameters as the whole model.
    pub(super) fn config(self, recipe: &Recipe, vocab: usize) -> Config {
        let mut whole = recipe.model.config();
        (whole.vocab, whole.act_threshold) = (vocab, 0.0);
        let loops = matches!(self, Self::All | Self::Recursion | Self::LateRecursion);
        let mut config = whole.clone();
        if !loops {
            (config.passes, config.exit) = (1, Vec::new());
        }
        if !matches!(self, Self::All | Self::Memory) {
            config.blocks.iter_mut().for_each(|b| b.memory = false);
        }
        while config.parameters() < whole.parameters() {
            config.ffn += 1;
        }
        config
    }

    /// A model, with the optimizer that each tensor gets.
    pub(super) fn model(self, config: Config, seed: u64) -> Cognate {
        let mut model = Cognate::new(config, seed);
        if self == Self::Adamw {
            let tensors = model.params.iter();
            let others = tensors.map(|(name, t)| (name.to_string(), Role::Other, t.clone()));
            model.params = Params::from_tensors(others.collect());
        }
        model
    }
}

/// The model that goes on, which must read as the run's data is written.
fn begun(name: &str, source: &Source, common: &Common) -> Result<Cognate> {
    match models::load(name, None, common)?.kind {
        Kind::Cognate(model) if model.config.vocab == source.tokenizer.vocab_size() => Ok(*model),
        _ => usage(format!(
            "--from {name}: no Cognate with the vocabulary of the run's data ({} tokens); give a model of that run, such as RUN/evomerge",
            source.tokenizer.vocab_size()
        )),
    }
}

/// Trains a variant and measures it on the way.
fn train(args: &CurveArgs, cx: &Context, variant: Variant, model: Cognate) -> Result<Value> {
    let recipe = &cx.recipe.cognate;
    let seed = cx.recipe.seed;
    let total = args.tokens.div_ceil(recipe.tokens_per_step as u64);
    let plan = Plan {
        name: "ancestor".into(),
        mixture: Mixture::Mean,
        main_share: None,
        curriculum: false,
        replay: 0.0,
        begun: 0,
        total,
        loops_from: (total as f64 * recipe.loops_from) as u64,
        seed,
        averaged: 0,
    };
    let parameters = model.params.count();
    let optim = recipe.optim.clone();
    let new = |model| Trainee::new(plan.clone(), model, optim.clone(), MicroBatch::default());
    let held_out = held_out(cx.source, args);
    let export = args.export.as_ref().map(|dir| Export { dir, cx });
    if let Some(export) = &export {
        export.begin(&mut new(model.clone()), total, &held_out)?;
    }
    let mut trainee = new(model);
    let (mut seconds, mut flops, mut points) = (0.0, 0.0, Vec::new());
    let measure = |model: &Cognate| measure(model, cx.source, &held_out);
    if args.from.is_some() {
        let mut point = json!({ "step": 0, "tokens": 0, "seconds": 0.0, "flops": 0.0 });
        super::merge(&mut point, measure(&trainee.model));
        points.push(point);
    }
    while trainee.step < total && args.seconds.is_none_or(|budget| seconds < budget) {
        if let Some(budget) = args.seconds {
            keep_time(&mut trainee, seconds / budget, total, recipe.loops_from);
        }
        let begun = Instant::now();
        let (pass, _) = trainee.train_step(cx)?;
        seconds += begun.elapsed().as_secs_f64();
        // Backward products cost twice the forward ones.
        flops += 3.0 * pass.flops as f64;
        let gone = args.seconds.map_or(0.0, |budget| seconds / budget);
        let gone = gone.max(trainee.step as f64 / total as f64).min(1.0);
        let due = (gone * args.points as f64) as usize + usize::from(args.from.is_some());
        if due > points.len() {
            let mut point = json!({
                "step": trainee.step, "tokens": trainee.tokens, "seconds": seconds, "flops": flops, "train_nats": pass.nats,
            });
            super::merge(&mut point, measure(&trainee.model));
            points.push(point);
        }
    }
    if let Some(export) = &export {
        export.end(&trainee.model)?;
    }
    Ok(
        json!({ "variant": variant.name(), "seed": seed, "parameters": parameters, "ffn": trainee.model.config.ffn,
        "skipped": trainee.optimizer.skipped, "points": points }),
    )
}

/// A model's loss on texts.
fn measure(model: &Cognate, source: &Source, texts: &[&Document]) -> Value {
    let scores = evaluate::texts(model, &source.tokenizer, texts, MAX_LEN);
    let all = (scores.iter().copied()).fold(TextScore::default(), TextScore::plus);
    let sets = by_set(texts, &scores);
    let mean = sets.values().sum::<f64>() / sets.len() as f64;
    json!({ "bits_per_byte": all.bits_per_byte(), "mean_over_sets": mean, "by_set": sets })
}

/// Sets the steps in all, and those before the loops, to what they will be if the rest goes as fast as what is done:
/// `gone` is the share of the time.
fn keep_time(trainee: &mut Trainee, gone: f64, most: u64, loops_from: f64) {
    if gone == 0.0 {
        return;
    }
    let step = trainee.step;
    let total = ((step as f64 / gone) as u64).clamp(step + 1, most);
    trainee.plan.total = total;
    // Once begun they stay.
    if step <= trainee.plan.loops_from {
        trainee.plan.loops_from = ((total as f64 * loops_from) as u64).max(step);
    }
}

/// Texts of the split to be measured, about so many bytes of each data set.
fn held_out<'a>(source: &'a Source, args: &CurveArgs) -> Vec<&'a Document> {
    let split = match args.split {
        Measured::Selection => Split::Selection,
        Measured::HeldOut => Split::HeldOut,
    };
    let mut taken = BTreeMap::new();
    let mut texts = source.texts_of(split, None);
    texts.retain(|d| {
        let wanted = args.measure.is_empty() || args.measure.iter().any(|set| *set == *d.dataset);
        let sum: &mut usize = taken.entry(d.dataset.to_string()).or_default();
        let fits = wanted && *sum < args.bytes;
        *sum += d.text.len();
        fits
    });
    texts
}

/// Bits per byte of each data set.
fn by_set(documents: &[&Document], scores: &[TextScore]) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::<String, TextScore>::new();
    for (d, s) in documents.iter().zip(scores) {
        let sum = sums.entry(d.dataset.to_string()).or_default();
        *sum = sum.plus(*s);
    }
    sums.into_iter()
        .map(|(set, s)| (set, s.bits_per_byte()))
        .collect()
}
