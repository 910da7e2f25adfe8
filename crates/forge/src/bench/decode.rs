//! Tokens a second of reading a prompt and of generating, one sequence.

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
    /// Tokenizer of a model that has none beside it
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

pub(super) fn run(args: &DecodeArgs, common: &Common) -> Result<u8> {
    if args.prompt == 0 || args.new == 0 {
        return usage("--prompt and --new are at least 1");
    }
    let loaded = models::load(&args.model, args.tokenizer.as_deref(), common)?;
    let model = loaded.language();
    let random = tensor::random::Counted::new(0, "bench/decode", 0);
    let prompt: Vec<u32> = (0..args.prompt as u64)
        .map(|i| random.below(i, model.vocab()) as u32)
        .collect();
    let mut stream = model.stream(1);
    // Once to warm the buffers.
    stream.extend(&[(0, &prompt)]);
    stream.reset(0);
    let begun = Instant::now();
    let mut logits = stream.extend(&[(0, &prompt)]).to_vec();
    let reading = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    for step in 0..args.new {
        let token = Sampler::GREEDY.choose(&logits, 0, step as u64);
        logits = stream.extend(&[(0, &[token])]).to_vec();
    }
    let generating = begun.elapsed().as_secs_f64();
    let result = json!({
        "isa": tensor::isa::name(), "threads": rayon::current_num_threads(), "params": model.parameters(),
        "prompt_tokens_per_second": args.prompt as f64 / reading,
        "decode_tokens_per_second": args.new as f64 / generating,
        "bytes_read_per_token": bytes_read(&loaded),
    });
    if common.json {
        output::json(&result);
    } else {
        let figure = |k: &str| result[k].as_f64().unwrap_or(0.0);
        output::line(&format!(
            "prompt {:.1} tokens/s, decoding {:.1} tokens/s, {} of weights read a token",
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
