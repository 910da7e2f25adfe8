//! `forge eval`: bits per byte on a text and the metrics of tasks, of any model.
//!
//! What a task's questions are is in [`tasks`], running programs in [`sandbox`]; formulas are those of
//! `train::evaluate`.

mod sandbox;
mod tasks;

use crate::args::Common;
use crate::fault::usage;
use crate::models::{self, Loaded, Text};
use crate::{output, table};
use anyhow::{Context as _, Result};
use clap::Args;
use data::Split;
use sandbox::Sandbox;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use tasks::{Asked, Run, Samples, Task};
use tensor::precision::Precision;
use train::evaluate::{self, TextScore};
use train::report::MAX_LEN;

#[derive(Args)]
pub(crate) struct EvalArgs {
    /// RUN, RUN/PHASE, RUN/PHASE/NAME, a folder or a file
    model: String,
    /// A data set to be examined on (repeatable), or `all` that are at hand
    #[arg(long, value_name = "NAME")]
    task: Vec<String>,
    /// A text to be scored in bits per byte; - for standard input
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Most items of each task, the first of its file; all when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    items: Option<u64>,
    /// The publisher's whole evaluation split also for the model of a run, whose search has looked at two thirds of it
    #[arg(long)]
    official: bool,
    /// What runs a written program, given on standard input, and exits with 0 when it passes; a shell command
    #[arg(long, value_name = "COMMAND")]
    sandbox: Option<String>,
    /// Also write every item's likelihoods or answer to a file, as JSON lines
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
    /// Tokenizer of a model that has none beside it
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

pub(crate) fn eval(args: &EvalArgs, common: &Common) -> Result<u8> {
    let sandbox = args.sandbox.as_deref().map(Sandbox::open).transpose()?;
    let model = models::load(&args.model, args.tokenizer.as_deref(), common)?;
    tensor::precision::select(precision(&model)).map_err(anyhow::Error::msg)?;
    let own = own_data(&model)?;
    let mut result = Map::new();
    result.insert("model".into(), json!(model.path));
    result.insert("params".into(), json!(model.language().parameters()));
    let unasked = args.task.is_empty() && args.text.is_none();
    if let Some(path) = &args.text {
        let text = models::read_text_file(path)?;
        if text.is_empty() {
            return usage(format!("--text {}: the file is empty", path.display()));
        }
        tell_text(&mut result, score(&model, &text));
    } else if unasked {
        // Without any wish: what the model's own run held out.
        let (Some(source), Text::Tokenizer(t)) = (&own, &model.text) else {
            return usage(
                "nothing to evaluate on: the model lies in no run with data of its own; give --text FILE or --task NAME (`forge data list` shows the tasks)",
            );
        };
        let docs = source.texts_of(Split::HeldOut, None);
        tell_text(
            &mut result,
            evaluate::text(model.language(), t, &docs, MAX_LEN),
        );
    }
    let asked = Asked {
        own: own.as_ref(),
        official: args.official,
        most: args.items.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        common,
    };
    let found: Vec<Task> = match unasked {
        true => asked.own_tasks(),
        false => asked.tasks(&args.task)?,
    };
    if !found.is_empty() {
        let samples = args.samples.as_deref().map(Samples::create).transpose()?;
        let mut run = Run {
            subject: model.subject(),
            sandbox: sandbox.as_ref(),
            samples,
        };
        let mut tasks = Map::new();
        for task in &found {
            tasks.insert(task.name.clone(), run.measure(task)?);
        }
        result.insert("tasks".into(), Value::Object(tasks));
    }
    let result = Value::Object(result);
    if common.json {
        output::json(&result);
    } else {
        output::text(&shown(&result));
    }
    Ok(0)
}

fn tell_text(result: &mut Map<String, Value>, score: TextScore) {
    result.insert("tokens".into(), json!(score.tokens));
    result.insert("bytes".into(), json!(score.bytes));
    result.insert("nll_per_token".into(), json!(score.nll_per_token()));
    result.insert("bits_per_byte".into(), json!(score.bits_per_byte()));
    result.insert("word_perplexity".into(), json!(score.word_perplexity()));
}

fn shown(result: &Value) -> String {
    let mut out = format!("{}\n", result["model"].as_str().unwrap_or_default());
    if let Some(bits) = result["bits_per_byte"].as_f64() {
        out += &format!(
            "text: {bits:.4} bits per byte, {:.4} nats per token, word perplexity {:.2} ({} tokens, {} bytes)\n",
            result["nll_per_token"].as_f64().unwrap_or(f64::NAN),
            result["word_perplexity"].as_f64().unwrap_or(f64::NAN),
            result["tokens"],
            result["bytes"]
        );
    }
    let Some(tasks) = result["tasks"].as_object() else {
        return out;
    };
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    for (name, task) in tasks {
        if let Some(missing) = task["missing"].as_str() {
            notes.push(format!("{name}: {missing}"));
        }
        for metric in task["metrics"].as_array().into_iter().flatten() {
            let number = |key: &str| {
                let value = metric[key].as_f64();
                value.map_or("-".into(), |x| format!("{x:.4}"))
            };
            let of = |key: &str| task[key].as_str().unwrap_or_default();
            rows.push(vec![
                name.clone(),
                of("split").into(),
                task["n"].to_string(),
                metric["metric"].as_str().unwrap_or_default().into(),
                number("value"),
                number("stderr"),
                number("chance"),
                task["no_answer"]
                    .as_u64()
                    .map_or("-".into(), |n| n.to_string()),
            ]);
            if let Some(reason) = metric["reason"].as_str() {
                notes.push(format!("{name}: {reason}"));
            }
        }
    }
    if !rows.is_empty() {
        let header = [
            "task",
            "split",
            "n",
            "metric",
            "value",
            "stderr",
            "chance",
            "no answer",
        ];
        out += &table::table(&header, &rows);
    }
    for note in notes {
        out += &format!("{note}\n");
    }
    out
}

/// The precision that the run which the model lies in computes with, so that its figures come out again; fp32 for
/// any other model.
fn precision(model: &Loaded) -> Precision {
    let header = model.run_folder().map(|r| r.join("recipe.json"));
    let header = header.and_then(|path| std::fs::read(path).ok());
    let header: Value = header
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    if header["recipe"]["precision"] == Precision::Bf16.name() {
        Precision::Bf16
    } else {
        Precision::F32
    }
}

/// The data of the run that the model lies in.
fn own_data(model: &Loaded) -> Result<Option<train::Source>> {
    match model.run_folder().map(|r| r.join("data")) {
        Some(dir) if dir.join("frozen.json").is_file() => Ok(Some(
            train::Source::open(&dir).context("the data of the model's run")?,
        )),
        _ => Ok(None),
    }
}

/// The score of one text, whatever spells it.
fn score(model: &Loaded, text: &str) -> TextScore {
    let (nats, tokens) = evaluate::rolling(&model.subject(), &[text])[0];
    TextScore {
        tokens,
        bytes: text.len() as u64,
        words: text.split_whitespace().count() as u64,
        nats,
    }
}
