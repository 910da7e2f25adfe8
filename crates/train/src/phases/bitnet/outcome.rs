//! The end of Phase 4: whether the whole is good enough, and the packed file with its measures.

use super::BitnetPhase;
use super::file::{load_packed, packed_size, save_packed};
use super::material;
use super::measure::{Drop, Measured, decision_items, decision_nats};
use super::state::Stage;
use crate::phase::folder;
use crate::{Context, Error, report};
use data::Split;
use model::Cognate;
use model::packed::Embedding;
use serde_json::json;

impl BitnetPhase {
    /// Goes on, fine-tunes longer, or begins again with conservative settings.
    pub(super) fn judge(&mut self, cx: &Context) -> Result<(), Error> {
        let packed = self.packed_student(Embedding::Half);
        let nats = decision_nats(cx, &packed, &self.tokenizer);
        let cost = nats - self.state.champion_nats;
        let drop = Drop::between(
            &self.state.champion_items,
            &decision_items(cx, &packed, &self.tokenizer),
        );
        let over = |share: f64| {
            cost.is_nan()
                || cost > share * self.recipe.total_limit
                || drop.exceeds(share * self.recipe.accuracy_limit)
        };
        let action = if over(0.5) && !self.state.second_round && self.recipe.finetune_steps > 0 {
            self.state.second_round = true;
            self.begin_steps(Stage::FineTune);
            "fine-tune-longer"
        } else if over(1.0) && !self.state.conservative {
            self.student = self.champion.clone();
            let s = &mut self.state;
            (s.conservative, s.second_round, s.layer, s.nats) = (true, false, 0, s.champion_nats);
            s.settings = s.settings.conservative();
            s.layers.clear();
            s.ternary.clear();
            s.stage = Stage::Quantise;
            "conservative-settings"
        } else {
            self.state.stage = Stage::Pack;
            "go-on"
        };
        self.line = format!("cost {cost:+.4} nats: {action}");
        let key = cx.key(folder("bitnet"), "", self.state.steps);
        cx.event(&key, "judged", &json!({ "cost": cost, "limit": self.recipe.total_limit, "accuracy_drop": drop.relative, "action": action }))?;
        if action == "conservative-settings" {
            let (value, limit) = if cost > self.recipe.total_limit {
                (cost, self.recipe.total_limit)
            } else {
                (drop.relative.unwrap_or(0.0), self.recipe.accuracy_limit)
            };
            let id = cx
                .run
                .journal()
                .alert(&key, "accuracy-drop", value, limit)?;
            cx.run.journal().settle_alert(id, action, "automatic")?;
        }
        Ok(())
    }

    /// Writes the packed file, reads it back and measures what it does.
    pub(super) fn pack(&mut self, cx: &Context) -> Result<(), Error> {
        let packing = self.recipe.packing.packing();
        let params = self.champion.params.count() as u64;
        let fp32 = self.state.champion_bytes;
        let target = self.state.settings.target_compression;
        // Header, configuration and tokenizer: about the same in both files.
        let around = fp32.saturating_sub(4 * params);
        let ratio =
            |e: Embedding| fp32 as f64 / (packed_size(&self.student, packing, e).0 + around) as f64;
        let half = ratio(Embedding::Half);
        let embedding = if half < target {
            Embedding::Eight
        } else {
            Embedding::Half
        };
        let path = save_packed(cx.run, &self.student, &self.tokenizer, packing, embedding)?;
        let (model, tokenizer) = load_packed(&path)?;
        let bytes = std::fs::metadata(&path)
            .map_err(|e| Error::File {
                path: path.clone(),
                fault: format!("cannot be read back: {e}"),
            })?
            .len();
        let (_, census) = packed_size(&self.student, packing, embedding);

        let before = self
            .state
            .before
            .as_ref()
            .expect("the first unit measures the champion");
        let after = Measured::of(cx, &model, &tokenizer);
        let drop = Drop::between(&before.correct, &after.correct);
        let docs = cx.source.texts_of(Split::HeldOut, None);
        let decode = |m: &Cognate| {
            (0..3)
                .map(|_| report::speed(m, &tokenizer, &docs).decode)
                .fold(0.0, f64::max)
        };
        let speedup = decode(&model) / decode(&self.champion);
        let relative = path
            .strip_prefix(cx.run.dir())
            .unwrap_or(&path)
            .display()
            .to_string();
        let thinking = |m: &Measured, f: fn(&material::Thinking) -> f64| m.thinking.as_ref().map(f);
        let reverted: Vec<&str> = self
            .state
            .layers
            .iter()
            .filter(|l| !l.kept)
            .map(|l| &*l.name)
            .collect();
        let ratio = fp32 as f64 / bytes as f64;
        let key = cx.key(folder("bitnet"), "", self.state.steps);
        for (name, value) in [
            ("compression_ratio", ratio),
            ("target", target),
            ("bits_per_byte", after.bits_per_byte),
            ("decode_speedup", speedup),
        ] {
            cx.metric(&key, &format!("packed/{name}"), value)?;
        }
        if half < target {
            let id = cx
                .run
                .journal()
                .alert(&key, "low-compression", half, target)?;
            cx.run
                .journal()
                .settle_alert(id, "eight-bit-embedding", "automatic")?;
        }
        self.line = format!(
            "packed: {ratio:.1}x smaller, {:.3} -> {:.3} bits per byte",
            before.bits_per_byte, after.bits_per_byte
        );
        self.state.result = Some(json!({
            "model": after.model_json(cx, &relative, bytes, &model, &tokenizer),
            "file_bytes": bytes,
            "compression_fp32": ratio,
            "compression_fp16": fp32.saturating_sub(2 * params) as f64 / bytes as f64,
            "target_compression": target,
            "sparsity": (census.ternary > 0).then(|| census.zeros as f64 / census.ternary as f64),
            "zero_count": census.zeros,
            "quantised_params": census.ternary,
            "kept_params": census.kept,
            "bits_per_weight": 8.0 * bytes as f64 / params as f64,
            "embedding": embedding,
            "accuracy_before": before.accuracy(),
            "accuracy_after": after.accuracy(),
            "accuracy_drop": drop.relative,
            "accuracy_difference": { "mean": drop.difference.0, "low": drop.difference.0 - 1.96 * drop.difference.1, "high": drop.difference.0 + 1.96 * drop.difference.1, "items": before.correct.len() },
            "bits_per_byte_before": before.bits_per_byte,
            "bits_per_byte_after": after.bits_per_byte,
            "decode_speedup": speedup,
            "thinking_usage_before": thinking(before, |t| t.usage),
            "thinking_usage_after": thinking(&after, |t| t.usage),
            "thinking_accuracy_before": thinking(before, |t| t.accuracy),
            "thinking_accuracy_after": thinking(&after, |t| t.accuracy),
            "thinking_prompts": before.thinking.map(|t| t.prompts),
            "reverted_layers": reverted,
            "layers": self.state.layers,
            "conservative": self.state.conservative,
            "sparsity_threshold": self.state.settings.sparsity,
        }));
        self.state.stage = Stage::Done;
        Ok(())
    }
}
