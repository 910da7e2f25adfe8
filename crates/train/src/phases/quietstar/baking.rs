//! Step 1: gradient steps on lessons mixed with replayed text, the range test, and what is learned.
//!
//! *Baking accuracy* is the share of held-out prompts answered with a well-formed thinking block in the
//! asked strategy; whether the answer is right is counted beside it.

use super::BakingRecipe;
use super::lessons::Lesson;
use crate::Error;
use crate::memory::{self, Line, Steps, Way};
use crate::optim::{Optimizer, StepReport};
use crate::step::{Halved, MicroBatch, PassReport, TrainDepth, forward_backward};
use data::builtin::well_formed;
use data::{
    Batch as Pieces, Loader, LoaderState, Mix, Shard, Tokenizer, extract_answer, same_answer,
};
use model::generate::{Sampler, generate};
use model::{Cognate, Config, LanguageModel};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tensor::Grads;

/// Sequences generated at once by an evaluation.
pub(super) const WIDTH: usize = 64;

/// Ordinary training text, every data set with the same weight; none where the run has no shards.
pub fn replay(shards: &[Arc<Shard>], seed: u64, purpose: &str) -> Option<Loader> {
    (!shards.is_empty()).then(|| {
        Loader::new(
            shards.to_vec(),
            Mix {
                weights: vec![1.0; shards.len()],
            },
            seed,
            purpose,
        )
    })
}

/// Appends about `tokens` tokens of replayed text.
pub fn add_replay(
    pieces: &mut Pieces,
    loader: Option<&Loader>,
    state: &mut LoaderState,
    tokens: usize,
    max_len: usize,
) {
    if let (Some(loader), true) = (loader, tokens > 0) {
        pieces
            .pieces
            .extend(loader.batch(state, tokens, max_len).pieces);
    }
}

/// The gradient steps of baking, for a model of `config`.
pub fn steps<'a>(recipe: &'a BakingRecipe, config: &'a Config) -> Steps<'a> {
    let way = Way {
        grokfast: recipe.grokfast_lambda > 0.0,
        precision: tensor::precision::in_use(),
        ternary: false,
    };
    let [params, _] = memory::held(config, way.grokfast);
    let lines = move |rows| {
        let mut lines = memory::training_step(config, rows, way);
        lines.push(Line {
            name: "waiting",
            bytes: 3 * params,
            formula: "the control, the baked and the last good model".into(),
        });
        lines
    };
    Steps {
        key: "quietstar.baking.micro_tokens",
        micro_tokens: recipe.micro_tokens,
        rows: recipe.batch_tokens,
        longest: recipe.max_len,
        longest_key: "quietstar.baking.max_len",
        lines: Box::new(lines),
    }
}

/// What a gradient step did.
pub(super) struct Baked {
    pub(super) pass: PassReport,
    pub(super) step: StepReport,
    pub(super) halved: Option<Halved>,
}

/// One gradient step.
pub(super) fn train(
    model: &mut Cognate,
    optimizer: &mut Optimizer,
    pieces: &Pieces,
    depth: TrainDepth,
    (micro_batch, micro_tokens): (&mut MicroBatch, usize),
    lr_scale: f32,
) -> Result<Baked, Error> {
    let mut grads = Grads::new(model.params.len());
    let (pass, halved) = micro_batch.run(
        pieces,
        micro_tokens,
        "quietstar.baking.max_len",
        |micro_tokens| {
            grads.clear();
            forward_backward(model, pieces, depth, micro_tokens, &mut grads)
        },
    )?;
    let step = optimizer.step(&mut model.params, &mut grads, lr_scale, &pass.peaks);
    Ok(Baked { pass, step, halved })
}

/// First and last learning rate of the range test.
const RANGE: (f64, f64) = (1e-5, 1e-1);

/// The learning rate of step `i` of `n` of a range test: geometric from 1e-5 to 1e-1 (Smith 2017).
pub fn range_rate(i: usize, n: usize) -> f64 {
    RANGE.0 * (RANGE.1 / RANGE.0).powf(i as f64 / (n.max(2) - 1) as f64)
}

/// What the losses of a range test suggest: a third of the rate at which the smoothed loss was lowest, which
/// keeps clear of where it turns up.
pub fn range_choice(losses: &[f64]) -> f64 {
    let (mut average, mut weight, mut best) = (0.0, 0.0, (0, f64::INFINITY));
    for (i, &loss) in losses.iter().enumerate() {
        let loss = if loss.is_finite() {
            loss
        } else {
            f64::MAX.sqrt()
        };
        (average, weight) = (0.9 * average + 0.1 * loss, 0.9 * weight + 0.1);
        if average / weight < best.1 {
            best = (i, average / weight);
        }
    }
    range_rate(best.0, losses.len()) / 3.0
}

/// How a held-out question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// A well-formed thinking block in the asked strategy.
    pub well_formed: bool,
    /// Whether it thinks visibly at all.
    pub thinks: bool,
    /// The right answer.
    pub correct: bool,
}

/// Greedy answers to held-out questions.
pub fn judge(
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    questions: &[Lesson],
    most_new: usize,
) -> Vec<Verdict> {
    let prompts: Vec<Vec<u32>> = questions.iter().map(|q| q.prompt.clone()).collect();
    let outputs = generate(
        model,
        &prompts,
        most_new,
        &[tokenizer.end_of_document()],
        Sampler::GREEDY,
        WIDTH,
    );
    questions
        .iter()
        .zip(outputs)
        .map(|(q, tokens)| {
            let output = tokenizer.decode(&tokens);
            Verdict {
                well_formed: well_formed(&output, q.strategy),
                thinks: output.contains(data::builtin::SPECIAL_TOKENS[0]),
                correct: extract_answer(&output).is_some_and(|a| same_answer(&a, &q.answer)),
            }
        })
        .collect()
}

/// Share of verdicts for which `f` holds.
pub fn share<'a>(
    verdicts: impl IntoIterator<Item = &'a Verdict>,
    f: impl Fn(&Verdict) -> bool,
) -> f64 {
    let (hits, n) = verdicts
        .into_iter()
        .fold((0usize, 0usize), |(h, n), v| (h + usize::from(f(v)), n + 1));
    hits as f64 / n.max(1) as f64
}
