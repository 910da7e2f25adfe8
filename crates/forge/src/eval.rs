//! `forge eval`: bits per byte on a text, accuracy on tasks, of any model.

use crate::args::Common;
use crate::fault::{nearest, usage};
use crate::models::{self, Loaded, Text};
use crate::{output, table};
use anyhow::{Context as _, Result};
use clap::Args;
use data::{Document, Item, Split};
use model::Batch;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use tensor::precision::Precision;
use train::evaluate::{self, TextScore};
use train::report::{MAX_LEN, MOST_NEW};

#[derive(Args)]
pub(crate) struct EvalArgs {
    /// RUN, RUN/PHASE, RUN/PHASE/NAME, a folder or a file
    model: String,
    /// A data set to be examined on (repeatable); its held-out items
    #[arg(long, value_name = "NAME")]
    task: Vec<String>,
    /// A text to be scored in bits per byte; - for standard input
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Most items of each task
    #[arg(long, value_name = "N", default_value_t = 300)]
    items: usize,
    /// Tokenizer of a model that has none beside it
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

pub(crate) fn eval(args: &EvalArgs, common: &Common) -> Result<u8> {
    let model = models::load(&args.model, args.tokenizer.as_deref(), common)?;
    tensor::precision::select(precision(&model)).map_err(anyhow::Error::msg)?;
    let own = own_data(&model)?;
    let mut result = Map::new();
    let text = match &args.text {
        Some(path) => {
            let text = models::read_text_file(path)?;
            if text.is_empty() {
                return usage(format!("--text {}: the file is empty", path.display()));
            }
            Some(score(&model, &text))
        }
        // Without any wish: what the model's own run held out.
        None if args.task.is_empty() => match (&own, &model.text) {
            (Some(source), Text::Tokenizer(t)) => {
                let docs = source.texts_of(Split::HeldOut, None);
                Some(evaluate::text(model.language(), t, &docs, MAX_LEN))
            }
            _ => {
                return usage(
                    "nothing to evaluate on: the model lies in no run with data of its own; give --text FILE or --task NAME (`forge data list` shows the tasks)",
                );
            }
        },
        None => None,
    };
    if let Some(s) = text {
        result.insert("tokens".into(), json!(s.tokens));
        result.insert("bytes".into(), json!(s.bytes));
        result.insert("nll_per_token".into(), json!(s.nll_per_token()));
        result.insert("bits_per_byte".into(), json!(s.bits_per_byte()));
        result.insert("word_perplexity".into(), json!(s.word_perplexity()));
    }
    let items = if args.task.is_empty() && args.text.is_none() {
        let all = own.iter().flat_map(|s| s.items_of(Split::HeldOut));
        all.cloned().collect()
    } else {
        let mut items = Vec::new();
        for task in &args.task {
            items.extend(items_of(task, own.as_ref(), args.items, common)?);
        }
        items
    };
    if !items.is_empty() {
        let Text::Tokenizer(tokenizer) = &model.text else {
            return usage("tasks need a tokenizer.json; give one with --tokenizer FILE");
        };
        let items: Vec<&Item> = items.iter().collect();
        let scores = evaluate::items(model.language(), tokenizer, &items, MOST_NEW);
        result.insert("tasks".into(), json!(evaluate::by_task(&items, &scores)));
    }
    result.insert("model".into(), json!(model.path));
    result.insert("params".into(), json!(model.language().parameters()));
    let result = Value::Object(result);
    if common.json {
        output::json(&result);
    } else {
        output::text(&shown(&result));
    }
    Ok(0)
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
    if let Some(tasks) = result["tasks"].as_object() {
        let rows: Vec<Vec<String>> = tasks
            .iter()
            .map(|(name, t)| {
                let share = |k: &str| format!("{:.3}", t[k].as_f64().unwrap_or(f64::NAN));
                vec![
                    name.clone(),
                    share("accuracy"),
                    share("stderr"),
                    share("chance"),
                    t["items"].to_string(),
                    t["format_errors"].to_string(),
                ]
            })
            .collect();
        out += &table::table(
            &["task", "accuracy", "stderr", "chance", "items", "no answer"],
            &rows,
        );
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

/// Held-out items of a task: those of the model's run where it has them, else those under data.root.
fn items_of(
    task: &str,
    own: Option<&train::Source>,
    most: usize,
    common: &Common,
) -> Result<Vec<Item>> {
    let in_run: Vec<Item> = own
        .iter()
        .flat_map(|s| s.items_of(Split::HeldOut))
        .filter(|i| i.dataset == task)
        .take(most)
        .cloned()
        .collect();
    if !in_run.is_empty() {
        return Ok(in_run);
    }
    if data::dataset(task).is_none() {
        let known: Vec<&str> = data::DATASETS.iter().map(|d| d.id).collect();
        return usage(format!(
            "--task {task}: no such data set; there are {}{}",
            known.join(", "),
            nearest(task, known.iter().copied())
        ));
    }
    let root = crate::datasets::root(common)?;
    let loaded = data::load(task, &crate::hub::places(root))?;
    let items: Vec<Item> = loaded
        .items
        .into_iter()
        .filter(|i| i.split == Split::HeldOut)
        .take(most)
        .collect();
    if items.is_empty() {
        return usage(format!(
            "--task {task}: the data set has text only, no questions; score its text with --text FILE"
        ));
    }
    Ok(items)
}

/// The score of one text, whatever spells it.
fn score(model: &Loaded, text: &str) -> TextScore {
    if let Text::Tokenizer(t) = &model.text
        && model.start() == Some(t.end_of_document())
    {
        let document = Document {
            dataset: "text".into(),
            family: data::Family::Language,
            id: "text".into(),
            text: text.into(),
            loss: Vec::new(),
        };
        return evaluate::text(model.language(), t, &[&document], MAX_LEN);
    }
    let tokens = model.encode(text);
    let mut score = TextScore {
        bytes: text.len() as u64,
        words: text.split_whitespace().count() as u64,
        ..TextScore::default()
    };
    let mut start = 0;
    while start + 1 < tokens.len() {
        let end = (start + MAX_LEN).min(tokens.len() - 1);
        let batch = Batch::new([(&tokens[start..end], start as u32)]);
        let nll = model.language().nll(&batch, &tokens[start + 1..=end]);
        score.nats += nll.iter().map(|&x| f64::from(x)).sum::<f64>();
        score.tokens += nll.len() as u64;
        start = end;
    }
    score
}
