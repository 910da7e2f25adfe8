//! Tokens a second of reading prompts and of generating, one sequence or several at once.

use super::{median, peak_rss_mib};
use crate::args::Common;
use crate::fault::usage;
use crate::models::{self, Kind};
use crate::{output, recipes};
use anyhow::Result;
use clap::Args;
use model::{Cognate, Part, Sampler};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args)]
pub(crate) struct DecodeArgs {
    /// RUN, RUN/PHASE, RUN/PHASE/NAME, a folder or a file; or, with random weights, the models of train-step:
    /// decoder, cognate
    #[arg(default_value = "decoder")]
    model: String,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 64)]
    prompt: usize,
    /// Tokens generated
    #[arg(long, value_name = "N", default_value_t = 128)]
    new: usize,
    /// Sequences that are generated at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Weights in bf16 instead of fp32
    #[arg(long)]
    bf16: bool,
    /// Tokenizer of a model that has none beside it
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

pub(super) fn run(args: &DecodeArgs, common: &Common) -> Result<u8> {
    if args.prompt == 0 || args.new == 0 || args.batch == 0 {
        return usage("--prompt, --new and --batch are at least 1");
    }
    let mut kind = match args.model.as_str() {
        "decoder" => Kind::Llama(Box::new(super::decoder::llama())),
        "cognate" => {
            let recipe = recipes::load("base", &common.set)?;
            Kind::Cognate(Box::new(Cognate::new(recipe.model.config(), 0)))
        }
        name => models::load(name, args.tokenizer.as_deref(), common)?.kind,
    };
    if args.bf16 {
        kind.narrow();
    }
    let model = kind.language();
    let random = tensor::random::Counted::new(0, "bench/decode", 0);
    let prompts: Vec<Vec<u32>> = (0..args.batch as u64)
        .map(|s| {
            let token = |i| random.below(s * args.prompt as u64 + i, model.vocab()) as u32;
            (0..args.prompt as u64).map(token).collect()
        })
        .collect();
    let entries: Vec<(usize, &[u32])> = prompts.iter().map(Vec::as_slice).enumerate().collect();
    let mut stream = model.stream(args.batch);
    // Once to warm the buffers.
    stream.extend(&entries);
    (0..args.batch).for_each(|s| stream.reset(s));
    let begun = Instant::now();
    let mut logits = stream.extend(&entries);
    let reading = begun.elapsed().as_secs_f64();
    let mut seconds = Vec::with_capacity(args.new);
    for step in 0..args.new {
        let begun = Instant::now();
        let rows = logits.to_vec();
        let tokens: Vec<[u32; 1]> = rows
            .chunks(model.vocab())
            .map(|row| [Sampler::GREEDY.choose(row, 0, step as u64)])
            .collect();
        let entries: Vec<(usize, &[u32])> = tokens.iter().map(|t| &t[..]).enumerate().collect();
        logits = stream.extend(&entries);
        seconds.push(begun.elapsed().as_secs_f64());
    }
    let generating: f64 = seconds.iter().sum();
    let step = median(seconds);
    let bandwidth = super::peak_bandwidth();
    let (weights, state) = bytes_read(&kind);
    let bytes = weights + state * args.batch as u64;
    let result = json!({
        "isa": tensor::isa::name(), "threads": rayon::current_num_threads(), "params": model.parameters(),
        "batch": args.batch, "weights": if args.bf16 { "bf16" } else { "f32" },
        "prompt_tokens_per_second": (args.batch * args.prompt) as f64 / reading,
        "decode_tokens_per_second": (args.batch * args.new) as f64 / generating,
        "median_step_seconds": step,
        "bytes_read_per_token": bytes as f64 / args.batch as f64,
        "bytes_read_per_step": bytes,
        "gigabytes_per_second": bytes as f64 / step / 1e9,
        "peak_gigabytes_per_second": bandwidth / 1e9,
        "peak_rss_mib": peak_rss_mib(),
    });
    if common.json {
        output::json(&result);
    } else {
        let figure = |k: &str| result[k].as_f64().unwrap_or(0.0);
        output::line(&format!(
            "{} at once: prompt {:.1} tokens/s, decoding {:.1} tokens/s; a step reads {} at {:.1} of {:.1} GB/s",
            args.batch,
            figure("prompt_tokens_per_second"),
            figure("decode_tokens_per_second"),
            crate::table::bytes(bytes),
            figure("gigabytes_per_second"),
            figure("peak_gigabytes_per_second"),
        ));
    }
    Ok(0)
}

/// Bytes that a step of one token a sequence reads: of weights, and of each sequence's own memories. Every
/// matrix counts once, those of the core once a pass at full depth; keys and values of attention, which grow
/// with the text, are left out.
fn bytes_read(kind: &Kind) -> (u64, u64) {
    match kind {
        Kind::Llama(m) => {
            // An embedding that is not the head is read by the row.
            let c = &m.config;
            let all: usize = m.params.iter().map(|(_, t)| t.bytes()).sum();
            let rows = if c.tied { 0 } else { m.params.at(0).bytes() };
            ((all - rows) as u64, 0)
        }
        Kind::Cognate(m) => {
            let c = &m.config;
            let core: Vec<String> = c.part(Part::Core).map(|i| format!("blocks.{i}.")).collect();
            let times = |name: &str| {
                let looped = name.starts_with("core.") || core.iter().any(|c| name.starts_with(c));
                if looped { c.passes as u64 } else { 1 }
            };
            // Each sequence has slots of its own.
            let slots =
                |name: &str| name.ends_with(".memory.keys") || name.ends_with(".memory.values");
            let (mut weights, mut own) = (0, 0);
            for (name, t) in m.params.iter() {
                let bytes = t.bytes() as u64 * times(name);
                *(if slots(name) { &mut own } else { &mut weights }) += bytes;
            }
            let packed = m.packed.iter();
            weights += packed
                .map(|(name, p)| p.bytes() as u64 * times(name))
                .sum::<u64>();
            (weights, own)
        }
    }
}
