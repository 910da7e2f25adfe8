//! Tokens a second of reading prompts and of generating, one sequence or several at once.

use super::{median, peak_rss_mib};
use crate::args::Common;
use crate::fault::usage;
use crate::models::{self, Kind};
use crate::output;
use anyhow::Result;
use clap::Args;
use model::Part;
use model::Sampler;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args)]
pub(crate) struct DecodeArgs {
    /// RUN, RUN/PHASE, RUN/PHASE/NAME, a folder or a file
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
    /// Tokenizer of a model that has none beside it
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

pub(super) fn run(args: &DecodeArgs, common: &Common) -> Result<u8> {
    if args.prompt == 0 || args.new == 0 || args.batch == 0 {
        return usage("--prompt, --new and --batch are at least 1");
    }
    let loaded = models::load(&args.model, args.tokenizer.as_deref(), common)?;
    let model = loaded.language();
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
    let tokens = (args.batch * args.new) as f64;
    let result = json!({
        "isa": tensor::isa::name(), "threads": rayon::current_num_threads(), "params": model.parameters(),
        "batch": args.batch,
        "prompt_tokens_per_second": (args.batch * args.prompt) as f64 / reading,
        "decode_tokens_per_second": tokens / generating,
        "median_step_seconds": median(seconds),
        "bytes_read_per_token": bytes_read(&loaded),
        "peak_rss_mib": peak_rss_mib(),
    });
    if common.json {
        output::json(&result);
    } else {
        let figure = |k: &str| result[k].as_f64().unwrap_or(0.0);
        output::line(&format!(
            "{} at once: prompt {:.1} tokens/s, decoding {:.1} tokens/s, {} of weights read a step",
            args.batch,
            figure("prompt_tokens_per_second"),
            figure("decode_tokens_per_second"),
            crate::table::bytes(figure("bytes_read_per_token") as u64)
        ));
    }
    Ok(0)
}

/// Bytes of weights that one generated token reads: every matrix once, those of the core once a pass at full
/// depth.
fn bytes_read(loaded: &models::Loaded) -> u64 {
    match &loaded.kind {
        Kind::Llama(m) => 4 * m.params.count() as u64,
        Kind::Cognate(m) => {
            let core: Vec<String> = m
                .config
                .part(Part::Core)
                .map(|i| format!("blocks.{i}."))
                .collect();
            let times = |name: &str| {
                let looped = name.starts_with("core.") || core.iter().any(|c| name.starts_with(c));
                if looped { m.config.passes as u64 } else { 1 }
            };
            let plain = m.params.iter();
            let plain: u64 = plain
                .map(|(name, t)| 4 * t.numel() as u64 * times(name))
                .sum();
            let packed = m.packed.iter();
            let packed: u64 = packed.map(|(name, p)| p.bytes() as u64 * times(name)).sum();
            plain + packed
        }
    }
}
