//! Tokens a second of training steps, of the plain decoder or of our own model.

use super::decoder::{Decoder, VOCAB};
use super::{check_isa, median, peak_rss_mib};
use crate::args::Common;
use crate::fault::usage;
use crate::{output, recipes, table};
use anyhow::Result;
use clap::{Args, ValueEnum};
use model::{Cognate, Config};
use serde_json::json;
use std::time::Instant;
use tensor::Grads;
use tensor::random::Counted;
use train::memory;
use train::optim::Optimizer;
use train::step::{self, TrainDepth};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Model {
    /// The plain decoder that engines are compared on
    Decoder,
    /// Our model, at the sizes of a recipe
    Cognate,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Depth {
    Random,
    Full,
}

#[derive(Args)]
pub(crate) struct TrainStepArgs {
    /// What is trained
    #[arg(long, value_enum, default_value_t = Model::Decoder)]
    model: Model,
    /// Recipe whose model and optimizer our model takes
    #[arg(long, value_name = "NAME", default_value = "base")]
    recipe: String,
    /// How many passes of its core our model takes: drawn for each token as in training, or all
    #[arg(long, value_enum, default_value_t = Depth::Random)]
    depth: Depth,
    /// Timed steps, after one that is not
    #[arg(long, value_name = "N", default_value_t = 5)]
    steps: usize,
    /// Sequences in a batch
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 256)]
    sequence: usize,
    /// Tokens that our model goes through at once, all gradients being summed before the optimizer's step [default:
    /// the whole batch]
    #[arg(long, value_name = "N")]
    micro_tokens: Option<usize>,
    /// Refuse to measure on another instruction path than this
    #[arg(long, value_name = "PATH")]
    isa: Option<String>,
}

pub(super) fn run(args: &TrainStepArgs, common: &Common) -> Result<u8> {
    check_isa(args.isa.as_deref())?;
    let tokens = args.batch * args.sequence;
    let micro = args.micro_tokens.unwrap_or(tokens);
    if [args.steps, tokens, micro].contains(&0) {
        return usage("--steps, --batch, --sequence and --micro-tokens are at least 1");
    }
    if args.model == Model::Decoder && args.micro_tokens.is_some() {
        return usage("--micro-tokens goes with --model cognate");
    }
    let Timed {
        params,
        seconds,
        flops,
        predicted,
        config,
    } = match args.model {
        Model::Decoder => decoder(args),
        Model::Cognate => cognate(args, common)?,
    };
    let best = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let (median, best) = (tokens as f64 / median(seconds), tokens as f64 / best);
    // Backward products cost twice the forward ones.
    let flops_per_token = 3.0 * flops as f64 / tokens as f64;
    let result = json!({
        "isa": tensor::isa::name(), "precision": tensor::precision::in_use().name(), "threads": rayon::current_num_threads(), "params": params, "batch": args.batch,
        "sequence": args.sequence, "micro_tokens": micro, "tokens_per_second": { "median": median, "best": best },
        "flops_per_token": flops_per_token, "peak_rss_mib": peak_rss_mib(),
        "predicted_mib": predicted.map(|bytes| bytes as f64 / 1048576.0), "config": config,
    });
    if common.json {
        output::json(&result);
    } else {
        let predicted = predicted.map_or(String::new(), |bytes| {
            format!(" (`forge plan` predicts {})", table::bytes(bytes))
        });
        output::line(&format!(
            "{params} parameters, {} x {} tokens{}, {} {}, {} threads: {median:.0} tokens/s (best {best:.0}), {:.1} GFLOP/s, peak {}{predicted}",
            args.batch,
            args.sequence,
            match micro < tokens {
                true => format!(", {micro} at once"),
                false => String::new(),
            },
            tensor::isa::name(),
            tensor::precision::in_use().name(),
            rayon::current_num_threads(),
            flops_per_token * median / 1e9,
            peak_rss_mib().map_or("unknown".into(), |m| table::bytes((m * 1048576.0) as u64))
        ));
    }
    Ok(0)
}

/// What timing a model gave.
struct Timed {
    params: usize,
    /// Of each timed step.
    seconds: Vec<f64>,
    /// Floating-point operations of a forward pass.
    flops: u64,
    /// Bytes of memory that the plan of a run would say.
    predicted: Option<u64>,
    /// Of our model.
    config: Option<Config>,
}

fn decoder(args: &TrainStepArgs) -> Timed {
    let rows = args.batch * args.sequence;
    let random = Counted::new(0, "bench/tokens", 0);
    let all: Vec<u32> = (0..=rows as u64)
        .map(|i| random.below(i, VOCAB) as u32)
        .collect();
    let mut model = Decoder::new();
    let (mut seconds, mut flops) = (Vec::new(), 0);
    for _ in 0..=args.steps {
        let begun = Instant::now();
        flops = model.train_step(&all[..rows], &all[1..], args.sequence).1;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    seconds.remove(0);
    Timed {
        params: model.parameters(),
        seconds,
        flops,
        predicted: None,
        config: None,
    }
}

fn cognate(args: &TrainStepArgs, common: &Common) -> Result<Timed> {
    let recipe = recipes::load(&args.recipe, &common.set)?;
    let config = recipe.model.config();
    let mut model = Cognate::new(config.clone(), 0);
    let mut optimizer = Optimizer::new(&model.params, recipe.cognate.optim.clone());
    let mut grads = Grads::new(model.params.len());
    let micro = args.micro_tokens.unwrap_or(args.batch * args.sequence);
    let pieces = random_pieces(args.batch, args.sequence, config.vocab);
    let (mut seconds, mut flops) = (Vec::new(), 0);
    for at in 0..=args.steps as u64 {
        let begun = Instant::now();
        let depth = match args.depth {
            Depth::Random => TrainDepth::Random { seed: 0, step: at },
            Depth::Full => TrainDepth::Same(config.passes),
        };
        let report = step::forward_backward(&model, &pieces, depth, micro, &mut grads);
        optimizer.step(&mut model.params, &mut grads, 1.0, &report.peaks);
        grads.clear();
        flops = report.flops;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    seconds.remove(0);
    let way = memory::Way {
        grokfast: recipe.cognate.optim.grokfast_lambda > 0.0,
        precision: tensor::precision::in_use(),
        ternary: false,
    };
    let lines = memory::training_step(&config, micro, way);
    Ok(Timed {
        params: model.params.count(),
        seconds,
        flops,
        predicted: Some(lines.iter().map(|l| l.bytes).sum()),
        config: Some(config),
    })
}

/// Sequences of random tokens, all of which carry loss.
pub(crate) fn random_pieces(count: usize, length: usize, vocab: usize) -> data::Batch {
    let random = Counted::new(0, "bench/tokens", 0);
    let tokens = length as u64 + 1;
    let pieces = (0..count as u64)
        .map(|i| data::Piece {
            tokens: (0..tokens)
                .map(|j| random.below(i * tokens + j, vocab) as u32)
                .collect(),
            loss: vec![1.0; length],
            start: 0,
            dataset: 0,
            family: data::Family::Language,
        })
        .collect();
    data::Batch { pieces }
}
