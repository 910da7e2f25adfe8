//! The text of Phase 4: what the model is recovered on, and the held-out prompts that show whether it still
//! thinks.
//!
//! Recovery on narrow data destroys general perplexity, so a step mixes the training text of all families with
//! reasoning traces (for a champion whose tokenizer has the thinking tokens). A function of recipe, seed and
//! the run's data; only the loader's counters are state.

use super::recipe::BitnetRecipe;
use crate::{Context, Source};
use data::builtin::{SPECIAL_TOKENS, Strategy, Trace, from_worked_solutions, traces, validate};
use data::{
    Batch as Pieces, Family, Loader, LoaderState, Mix, Mixture, Piece, Stage, Tokenizer,
    extract_answer, same_answer, weights,
};
use model::LanguageModel;
use model::generate::{Sampler, generate};
use serde::{Deserialize, Serialize};
use tensor::random::Counted;

/// Sequences that are generated at once.
const WIDTH: usize = 64;
/// Most tokens of a generated thought with its answer.
const MOST_NEW: usize = 96;

/// Training text and traces of a run.
pub(super) struct Material {
    loader: Loader,
    traces: Vec<Piece>,
    seed: u64,
}

/// Whether a tokenizer has the tokens of visible thoughts.
pub(super) fn thinks(tokenizer: &Tokenizer) -> bool {
    SPECIAL_TOKENS.iter().all(|t| tokenizer.id_of(t).is_some())
}

fn prompt(trace: &Trace, tokenizer: &Tokenizer) -> Vec<u32> {
    std::iter::once(tokenizer.end_of_document())
        .chain(tokenizer.encode(&trace.prompt))
        .collect()
}

/// A trace as Phase 3 teaches it: end of document, prompt, thinking block, end of document.
fn piece(trace: &Trace, tokenizer: &Tokenizer) -> Piece {
    let mut tokens = prompt(trace, tokenizer);
    let from = tokens.len();
    tokens.extend(tokenizer.encode(trace.completion.trim_start_matches(' ')));
    tokens.push(tokenizer.end_of_document());
    let loss = (1..tokens.len())
        .map(|i| f32::from(u8::from(i >= from)))
        .collect();
    Piece {
        tokens,
        loss,
        start: 0,
        dataset: 0,
        family: Family::Maths,
    }
}

impl Material {
    pub(super) fn new(
        source: &Source,
        tokenizer: &Tokenizer,
        recipe: &BitnetRecipe,
        seed: u64,
    ) -> Self {
        let shares = weights(Mixture::Mean, Stage::Ancestor, &source.available());
        let all = Stage::Advanced;
        // Every family is wanted, also those that the early stages do not offer.
        let late = weights(Mixture::Mean, all, &source.available());
        let mut both = shares;
        for (set, w) in late {
            *both.entry(set).or_insert(0.0) += w;
        }
        let loader = Loader::new(
            source.shards.clone(),
            Mix::of(&both, &source.shards),
            seed,
            "bitnet",
        );
        let mut pieces = Vec::new();
        if thinks(tokenizer) && recipe.trace_share > 0.0 {
            let worked = from_worked_solutions(&source.worked);
            pieces = Strategy::ALL
                .iter()
                .flat_map(|&s| traces(s, seed, recipe.traces, false))
                .chain(
                    worked
                        .into_iter()
                        .filter(|t| !t.held_out)
                        .take(4 * recipe.traces),
                )
                .map(|t| piece(&t, tokenizer))
                .filter(|p| p.loss.len() <= recipe.sequence)
                .collect();
        }
        Self {
            loader,
            traces: pieces,
            seed,
        }
    }

    /// The pieces of the next step. `step` counts steps over the whole phase.
    pub(super) fn batch(
        &self,
        recipe: &BitnetRecipe,
        state: &mut LoaderState,
        step: u64,
    ) -> Pieces {
        let share = if self.traces.is_empty() {
            0.0
        } else {
            recipe.trace_share
        };
        let of_traces = (recipe.tokens_per_step as f64 * share) as usize;
        let mut batch = self.loader.batch(
            state,
            (recipe.tokens_per_step - of_traces).max(1),
            recipe.sequence,
        );
        let random = Counted::new(self.seed, "bitnet/traces", step);
        let mut rows = 0;
        for i in 0.. {
            if self.traces.is_empty() {
                break;
            }
            let piece = &self.traces[random.below(i, self.traces.len())];
            rows += piece.loss.len();
            if rows > of_traces {
                break;
            }
            batch.pieces.push(piece.clone());
        }
        batch
    }
}

/// How a model answers held-out prompts that ask for a strategy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Thinking {
    /// Prompts.
    pub(super) prompts: usize,
    /// Share of outputs with a well-formed thinking block.
    pub(super) usage: f64,
    /// Share of right answers.
    pub(super) accuracy: f64,
}

/// Greedy answers to held-out trace prompts; none for a model without thinking tokens.
pub(super) fn thinking(
    cx: &Context,
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    per_strategy: usize,
) -> Option<Thinking> {
    if !thinks(tokenizer) || per_strategy == 0 {
        return None;
    }
    let asked: Vec<Trace> = Strategy::ALL
        .iter()
        .flat_map(|&s| traces(s, cx.recipe.seed, per_strategy, true))
        .collect();
    let prompts: Vec<Vec<u32>> = asked.iter().map(|t| prompt(t, tokenizer)).collect();
    let outputs = generate(
        model,
        &prompts,
        MOST_NEW,
        &[tokenizer.end_of_document()],
        Sampler::GREEDY,
        WIDTH,
    );
    let (mut formed, mut right) = (0, 0);
    for (trace, output) in asked.iter().zip(outputs) {
        let text = tokenizer.decode(&output);
        formed += usize::from(validate(&text).is_ok());
        right += usize::from(extract_answer(&text).is_some_and(|a| same_answer(&a, &trace.answer)));
    }
    let n = asked.len() as f64;
    Some(Thinking {
        prompts: asked.len(),
        usage: formed as f64 / n,
        accuracy: right as f64 / n,
    })
}
