//! What is reported of a model: the fields of `MODEL` in the JSON that scripts rely on.

use crate::evaluate::{self, TextScore};
use crate::{Context, Error};
use data::{Document, Split};
use model::generate::{Sampler, generate};
use model::{Batch, Bound, Cognate, Depth};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;
use tensor::Tape;

/// tiny, small, medium or large, by the plan's parameter counts.
pub fn size_category(parameters: usize) -> &'static str {
    match parameters {
        n if n < 50_000_000 => "tiny",
        n if n < 500_000_000 => "small",
        n if n < 2_000_000_000 => "medium",
        _ => "large",
    }
}

/// Longest piece of text in an evaluation.
pub const MAX_LEN: usize = 512;
/// Most generated tokens of an exact answer.
pub const MOST_NEW: usize = 96;

/// Measures a finished model on a split and gives its `MODEL` object.
pub fn model(
    cx: &Context,
    name: &str,
    path: Option<&Path>,
    m: &Cognate,
    split: Split,
    seconds: Option<f64>,
) -> Result<Value, Error> {
    let tokenizer = &cx.source.tokenizer;
    let docs = cx.source.texts_of(split, None);
    let items = cx.source.items_of(split);
    tensor::storage::reset_peak();
    let scores = evaluate::texts(m, tokenizer, &docs, MAX_LEN);
    let all = scores
        .iter()
        .copied()
        .fold(TextScore::default(), TextScore::plus);
    let answers = evaluate::items(m, tokenizer, &items, MOST_NEW);
    let tasks = evaluate::by_task(&items, &answers);
    let families = by_family(&docs, &scores);
    let speed = speed(m, tokenizer, &docs);
    let bytes = path
        .and_then(|p| std::fs::metadata(p).ok())
        .map(|f| f.len());
    Ok(json!({
        "name": name,
        "path": path.map(|p| p.strip_prefix(cx.run.dir()).unwrap_or(p).display().to_string()),
        "params": m.params.count(),
        "bytes": bytes,
        "size_category": size_category(m.params.count()),
        "vocab": m.config.vocab,
        "slots": m.config.slots,
        "act_threshold": m.config.act_threshold,
        "bits_per_byte": all.bits_per_byte(),
        "bits_per_byte_by_family": families,
        "perplexity": all.nll_per_token().exp(),
        "halting_steps": speed.steps,
        "memory_use": null,
        "forward_ms": speed.forward_ms,
        "decode_tokens_per_second": speed.decode,
        "peak_memory_bytes": tensor::storage::peak_bytes(),
        "seconds": seconds,
        "tasks": tasks.iter().map(|(t, s)| (t.clone(), json!(s.accuracy))).collect::<serde_json::Map<_, _>>(),
        "tasks_detail": tasks,
    }))
}

/// Bits per byte of texts, in all and by family.
pub fn text(docs: &[&Document], scores: &[TextScore]) -> Value {
    let all = scores
        .iter()
        .copied()
        .fold(TextScore::default(), TextScore::plus);
    json!({ "bits_per_byte": all.bits_per_byte(), "bits_per_byte_by_family": by_family(docs, scores) })
}

fn by_family(docs: &[&Document], scores: &[TextScore]) -> Value {
    let families = evaluate::by_family(docs, scores).into_iter();
    let families = families.map(|(f, s)| (f.name().to_string(), json!(s.bits_per_byte())));
    Value::Object(families.collect())
}

/// Wall-clock figures of a model, and its mean halting steps.
pub struct Speed {
    /// Milliseconds of a forward pass over 256 tokens.
    pub forward_ms: f64,
    /// Generated tokens per second, one sequence.
    pub decode: f64,
    /// Mean core layers evaluated for a token.
    pub steps: f64,
    /// Floating-point operations of the products, per token.
    pub flops_per_token: f64,
}

/// Times a forward pass and greedy decoding.
pub fn speed(m: &Cognate, tokenizer: &data::Tokenizer, docs: &[&data::Document]) -> Speed {
    let mut tokens: Vec<u32> = docs
        .iter()
        .flat_map(|d| tokenizer.encode(&d.text))
        .take(256)
        .collect();
    if tokens.is_empty() {
        tokens.push(tokenizer.end_of_document());
    }
    let pass = || {
        let start = Instant::now();
        let tape = Tape::inference();
        let p = Bound::new(&tape, &m.params);
        let out = m.forward(&p, &Batch::single(&tokens), Depth::Halting, None, false);
        (
            start.elapsed().as_secs_f64() * 1e3,
            out.depths,
            tape.flops(),
        )
    };
    let mut times: Vec<f64> = (0..5).map(|_| pass().0).collect();
    times.sort_by(f64::total_cmp);
    let (_, depths, flops) = pass();
    let prompt: Vec<u32> = tokens.iter().copied().take(16).collect();
    let start = Instant::now();
    let made = generate(m, &[prompt], 32, &[], Sampler::GREEDY, 1);
    let decode = made[0].len() as f64 / start.elapsed().as_secs_f64();
    let mean = depths.iter().map(|&d| f64::from(d)).sum::<f64>() / depths.len() as f64;
    Speed {
        forward_ms: times[2],
        decode,
        steps: mean * m.config.core_blocks() as f64,
        flops_per_token: flops as f64 / tokens.len() as f64,
    }
}
