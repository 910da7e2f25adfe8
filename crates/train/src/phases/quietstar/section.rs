//! What the phase says of itself in the report.

use super::baking::share;
use super::battery::bootstrap;
use super::silent::{Silent, generate_with_thoughts};
use super::{Quietstar, rl::RlReport};
use data::builtin::Strategy;
use model::generate::{Sampler, generate};
use serde_json::{Map, Value, json};

/// Tokens generated to time a token.
const TIMED: usize = 16;

impl Quietstar {
    /// The phase's section of the report, around what is measured of the finished `model`. `clock` gives
    /// seconds.
    pub fn section(&self, model: &Value, clock: &dyn Fn() -> f64) -> Value {
        let r = &self.record;
        let by_strategy: Map<String, Value> = Strategy::ALL
            .iter()
            .zip(&r.thinking)
            .map(|(s, v)| (s.name().into(), json!(share(v, |v| v.well_formed))))
            .collect();
        let below: Vec<&str> = Strategy::ALL
            .iter()
            .zip(&r.thinking)
            .filter(|(s, v)| share(*v, |v| v.well_formed) < s.threshold())
            .map(|(s, _)| s.name())
            .collect();
        let correct = |list: &[Vec<super::baking::Verdict>]| -> Vec<f64> {
            list.iter()
                .flatten()
                .map(|v| f64::from(u8::from(v.correct)))
                .collect()
        };
        let (thinking, direct) = (correct(&r.thinking), correct(&r.direct));
        let differences: Vec<f64> = thinking.iter().zip(&direct).map(|(a, b)| a - b).collect();
        let share_of = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let recent = |f: fn(&RlReport) -> f64| {
            r.recent.iter().map(f).sum::<f64>() / r.recent.len().max(1) as f64
        };
        let (with, without) = self.milliseconds(clock);
        let sampling = self.sampling();
        // Of the model that is kept: its own examination where it passed, else the last one, which it failed.
        let shown = r.passed.as_ref().or(r.examined.as_ref());
        let theater = shown.map_or(Value::Null, |e| {
            let m = &e.measures;
            json!({
                "divergence": m.divergence,
                "thought_length": m.thought_length,
                "diversity": m.diversity,
                "ablation_drop": m.ablation_drop,
                "correlation": m.correlation,
                "shuffle_gain": m.shuffle_gain,
                "passed": e.faults.is_empty(),
                "failed_checks": e.faults,
                "at_step": e.step,
                "rollbacks": r.rollbacks,
                "kept": if r.abandoned { "baked" } else { "thinking" },
            })
        });
        json!({
            "tokens_added": r.added.tokens,
            "size_increase": (r.added.after as f64 - r.added.before as f64) / r.added.before as f64,
            "traces": self.lessons.train.len(),
            "traces_too_long": self.lessons.too_long,
            "cost_usd": 0.0,
            "model": model,
            "baking": {
                "accuracy": share(r.thinking.iter().flatten(), |v| v.well_formed),
                "answer_accuracy": share_of(&thinking),
                "answer_accuracy_without_thinking": share_of(&direct),
                "answer_gain": bootstrap(&differences, self.recipe.battery.resamples, self.seed),
                "items": thinking.len(),
                "by_strategy": by_strategy,
                "below_threshold": below,
                "epochs": r.epochs,
                "lr": r.lr,
            },
            "rl": {
                "steps": self.recipe.rl.steps,
                "reward": recent(|r| r.reward),
                "gain": recent(|r| r.gain),
                "kl": recent(|r| r.kl),
                "mixing_weight": recent(|r| r.weight),
                "thoughts": sampling.thoughts,
                "thought_length": recent(|r| r.thought_length),
                "longest_thought": sampling.length,
                "coherence": recent(|r| r.coherence),
                "thinking_usage": share(r.usage.iter().flatten(), |v| v.thinks),
                "skipped_steps": r.skipped,
                "ms_per_token_with": with,
                "ms_per_token_without": without,
            },
            "anti_theater": theater,
        })
    }

    /// Milliseconds a generated token takes with silent thoughts and without.
    fn milliseconds(&self, clock: &dyn Fn() -> f64) -> (f64, f64) {
        let prompt = &self.lessons.held_out[0][0].prompt;
        let how = Silent {
            thoughts: self.sampling(),
            ahead: self.recipe.rl.n_true,
            temperature: 0.0,
            seed: self.seed,
        };
        let timed = |work: &dyn Fn() -> usize| {
            let start = clock();
            let tokens = work();
            (clock() - start) * 1e3 / tokens.max(1) as f64
        };
        let with =
            timed(&|| generate_with_thoughts(&self.model, prompt, &[], TIMED, &[], how).len());
        let without = timed(&|| {
            generate(
                &self.model,
                std::slice::from_ref(prompt),
                TIMED,
                &[],
                Sampler::GREEDY,
                1,
            )[0]
            .len()
        });
        (with, without)
    }
}
