//! What another program needs to train the same: the model's configuration and first weights, the batches in their order,
//! and the texts that are measured, as tokens.
//!
//! | file | what is in it |
//! |---|---|
//! | `config.json` | the model's configuration |
//! | `start.safetensors`, `end.safetensors` | its weights before and after training |
//! | `batches.jsonl` | a line for each step: its pieces, each with `tokens` (L + 1), `start`, the position of the first in its document, and `unscored`, the predictions (of L) that carry no loss |
//! | `held_out.json` | `texts`, each with `dataset`, `bytes` and `tokens`, the end-of-document token first; `max_len`, the predictions of one piece of a long text |
//!
//! `bench/peers/curve.py` reads it.

use anyhow::Result;
use data::Document;
use model::Cognate;
use serde_json::json;
use std::path::Path;
use train::Context;
use train::checkpoint::{arrays, metadata};
use train::phases::cognate::Trainee;
use train::report::MAX_LEN;

/// Where it goes.
pub(super) struct Export<'a> {
    pub(super) dir: &'a Path,
    pub(super) cx: &'a Context<'a>,
}

impl Export<'_> {
    /// All that is known before training. `trainee` is one that nobody trains: it deals `steps` batches.
    pub(super) fn begin(
        &self,
        trainee: &mut Trainee,
        steps: u64,
        held_out: &[&Document],
    ) -> Result<()> {
        self.json("config.json", &json!(trainee.model.config))?;
        self.weights("start.safetensors", &trainee.model)?;
        let tokenizer = &self.cx.source.tokenizer;
        let texts: Vec<_> = held_out
            .iter()
            .map(|d| {
                let mut tokens = vec![tokenizer.end_of_document()];
                tokens.extend(tokenizer.encode(&d.text));
                json!({ "dataset": d.dataset, "bytes": d.text.len(), "tokens": tokens })
            })
            .collect();
        self.json(
            "held_out.json",
            &json!({ "max_len": MAX_LEN, "texts": texts }),
        )?;
        let mut lines = String::new();
        for _ in 0..steps {
            let pieces: Vec<_> = trainee
                .next_batch(self.cx)
                .pieces
                .into_iter()
                .map(|p| {
                    let unscored = (0..p.loss.len()).filter(|&i| p.loss[i] == 0.0);
                    let unscored: Vec<usize> = unscored.collect();
                    json!({ "tokens": p.tokens, "start": p.start, "unscored": unscored })
                })
                .collect();
            lines += &json!(pieces).to_string();
            lines.push('\n');
        }
        let path = self.dir.join("batches.jsonl");
        Ok(store::write_file(&path, "the batches", lines.as_bytes())?)
    }

    /// The trained model.
    pub(super) fn end(&self, model: &Cognate) -> Result<()> {
        self.weights("end.safetensors", model)
    }

    fn weights(&self, name: &str, model: &Cognate) -> Result<()> {
        let metadata = metadata(&model.config, &self.cx.source.tokenizer);
        let path = self.dir.join(name);
        Ok(store::write_safetensors(
            path,
            &arrays(model, ""),
            &metadata,
        )?)
    }

    fn json(&self, name: &str, value: &serde_json::Value) -> Result<()> {
        let path = self.dir.join(name);
        Ok(store::write_file(
            &path,
            "an export",
            value.to_string().as_bytes(),
        )?)
    }
}
