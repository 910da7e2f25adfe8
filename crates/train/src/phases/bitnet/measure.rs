//! What Phase 4 measures of a model before and after, and what it decides by.

use super::material::{Thinking, thinking};
use crate::evaluate::{self, TextScore};
use crate::report::{self, MAX_LEN, MOST_NEW, size_category};
use crate::{Context, Source};
use data::{Document, Item, Split, Tokenizer};
use model::Cognate;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A model on the held-out split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) bits_per_byte: f64,
    perplexity: f64,
    families: Map<String, Value>,
    /// By item, for paired comparisons.
    pub(super) correct: Vec<bool>,
    tasks: Value,
    pub(super) thinking: Option<Thinking>,
}

impl Measured {
    pub(super) fn of(cx: &Context, model: &Cognate, tokenizer: &Tokenizer) -> Self {
        let recipe = &cx.recipe.bitnet;
        let docs = cx.source.texts_of(Split::HeldOut, None);
        let scores = evaluate::texts(model, tokenizer, &docs, MAX_LEN);
        let all = scores
            .iter()
            .copied()
            .fold(TextScore::default(), TextScore::plus);
        let items = some_items(cx.source, Split::HeldOut, recipe.items);
        let answers = evaluate::items(model, tokenizer, &items, MOST_NEW);
        Self {
            bits_per_byte: all.bits_per_byte(),
            perplexity: all.nll_per_token().exp(),
            families: evaluate::by_family(&docs, &scores)
                .into_iter()
                .map(|(f, s)| (f.name().to_string(), json!(s.bits_per_byte())))
                .collect(),
            correct: answers.iter().map(|s| s.correct).collect(),
            tasks: json!(evaluate::by_task(&items, &answers)),
            thinking: thinking(cx, model, tokenizer, recipe.thinking_prompts),
        }
    }

    /// Share of right answers; none without items.
    pub(super) fn accuracy(&self) -> Option<f64> {
        share(&self.correct)
    }

    /// The `MODEL` object of the report.
    pub(super) fn model_json(
        &self,
        cx: &Context,
        path: &str,
        bytes: u64,
        m: &Cognate,
        tokenizer: &Tokenizer,
    ) -> Value {
        tensor::storage::reset_peak();
        let speed = report::speed(m, tokenizer, &cx.source.texts_of(Split::HeldOut, None));
        let tasks: Map<String, Value> = self
            .tasks
            .as_object()
            .into_iter()
            .flatten()
            .map(|(t, s)| (t.clone(), s["accuracy"].clone()))
            .collect();
        json!({
            "name": "bitnet",
            "path": path,
            "params": m.params.count(),
            "bytes": bytes,
            "size_category": size_category(m.params.count()),
            "vocab": m.config.vocab,
            "slots": m.config.slots,
            "act_threshold": m.config.act_threshold,
            "bits_per_byte": self.bits_per_byte,
            "bits_per_byte_by_family": self.families,
            "perplexity": self.perplexity,
            "halting_steps": speed.steps,
            "memory_use": null,
            "forward_ms": speed.forward_ms,
            "decode_tokens_per_second": speed.decode,
            "peak_memory_bytes": tensor::storage::peak_bytes(),
            "seconds": null,
            "tasks": tasks,
            "tasks_detail": self.tasks,
        })
    }
}

fn share(correct: &[bool]) -> Option<f64> {
    (!correct.is_empty())
        .then(|| correct.iter().filter(|c| **c).count() as f64 / correct.len() as f64)
}

/// Items spread evenly over those of a split; all for `most` 0.
fn some_items(source: &Source, split: Split, most: usize) -> Vec<&Item> {
    let all = source.items_of(split);
    if most == 0 || most >= all.len() {
        return all;
    }
    (0..most).map(|i| all[i * all.len() / most]).collect()
}

/// Mean nats a token on text that decisions may look at.
pub(super) fn decision_nats(cx: &Context, model: &Cognate, tokenizer: &Tokenizer) -> f64 {
    let mut left = cx.recipe.bitnet.decision_tokens as i64;
    let docs: Vec<&Document> = cx
        .source
        .texts_of(Split::Selection, None)
        .into_iter()
        .take_while(|d| {
            let more = left > 0;
            left -= tokenizer.encode(&d.text).len() as i64;
            more
        })
        .collect();
    evaluate::text(model, tokenizer, &docs, MAX_LEN).nll_per_token()
}

/// Right and wrong answers on items that decisions may look at.
pub(super) fn decision_items(cx: &Context, model: &Cognate, tokenizer: &Tokenizer) -> Vec<bool> {
    let most = cx.recipe.bitnet.decision_items;
    if most == 0 {
        return Vec::new();
    }
    let items = some_items(cx.source, Split::Selection, most);
    evaluate::items(model, tokenizer, &items, MOST_NEW)
        .iter()
        .map(|s| s.correct)
        .collect()
}

/// A paired comparison of right answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Drop {
    /// (before - after) / before; none where nothing was right before.
    pub(super) relative: Option<f64>,
    /// before - after, and its standard error.
    pub(super) difference: (f64, f64),
}

impl Drop {
    pub(super) fn between(before: &[bool], after: &[bool]) -> Self {
        let numbers = |c: &[bool]| {
            c.iter()
                .map(|&c| f64::from(u8::from(c)))
                .collect::<Vec<_>>()
        };
        let difference = evaluate::paired(&numbers(before), &numbers(after));
        Self {
            relative: share(before).filter(|b| *b > 0.0).map(|b| difference.0 / b),
            difference,
        }
    }

    /// Whether the loss exceeds a relative limit, and noise does not explain it.
    pub(super) fn exceeds(&self, limit: f64) -> bool {
        self.relative.is_some_and(|r| r > limit) && self.difference.0 > 2.0 * self.difference.1
    }
}
