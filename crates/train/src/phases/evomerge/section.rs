//! The phase's section of the report.

use super::{EvomergePhase, combination_name, terms};
use crate::phase::folder;
use crate::{Context, Error, report};
use serde_json::{Value, json};

impl EvomergePhase {
    /// What the search made and what it took; field names are those that scripts rely on.
    pub(super) fn section(&self, cx: &Context) -> Result<Value, Error> {
        let path = cx
            .run
            .dir()
            .join(folder("evomerge"))
            .join("final")
            .join("champion.safetensors");
        let model = self.champion(cx);
        let r = &self.results;
        let champion = r.champion.as_ref().expect("finished");
        let of = |name: &str| {
            r.comparison
                .iter()
                .find(|c| c.name == name)
                .map(|c| c.fitness)
        };
        let best = of(&format!("parent{}", r.best_parent)).unwrap_or(f64::NAN);
        let held_out = of("champion").unwrap_or(f64::NAN);
        let (difference, error) = r.nats_difference.unwrap_or((f64::NAN, f64::NAN));
        // To first order the perplexity term moves by its weight times the nats; the others are not sampled.
        let fitness_error = r
            .comparison
            .first()
            .map(|c| error * terms(&c.measures, &c.measures, self.parents.size_mb())[0].weight);
        let diversities: Vec<f64> = self.search.history.iter().map(|g| g.diversity).collect();
        let counts = self.search.work();
        let combos: serde_json::Map<String, Value> = self
            .search
            .combinations
            .iter()
            .enumerate()
            .map(|(b, n)| (format!("{b:03b}"), json!(n)))
            .collect();
        Ok(json!({
            "search": self.search.settings.strategy,
            "generations": self.search.settings.generations,
            "rounds": self.search.settings.rounds,
            "evaluations": counts.evaluations,
            "scored_items": counts.scored_items,
            "scored_tokens": counts.scored_tokens,
            "cache_hits": counts.cache_hits,
            "cache_hit_rate": counts.hit_rate(),
            "racing": {
                "saved": r.audit.map(|a| a.saved),
                "rank_correlation": r.audit.and_then(|a| a.spearman),
                "audited": r.audit.map(|a| a.members),
            },
            "rejected": counts.rejected,
            "champion": report::model(cx, "champion", Some(&path), &model, data::Split::HeldOut, None)?,
            "combo": combination_name(champion.individual.genome.bits),
            "fitness": held_out,
            "improvement": { "over_mean_parent": held_out - 1.0, "over_best_parent": held_out / best - 1.0 },
            "held_out": {
                "champion": held_out, "best_parent": best, "task_arithmetic": of("task_arithmetic"), "uniform": of("uniform"),
                "random_search": of("random_search"), "ancestor": r.controls.get("ancestor"),
                "pooled_compute": r.controls.get("pooled"), "stderr": fitness_error,
                "nats_champion_minus_best_parent": difference, "nats_stderr": error,
            },
            "best_parent": super::super::cognate_branch(r.best_parent),
            "combos": combos,
            "diversity": {
                "min": diversities.iter().copied().fold(f64::INFINITY, f64::min),
                "mean": diversities.iter().sum::<f64>() / diversities.len().max(1) as f64,
                "last": diversities.last(),
                "generation_0_distance": self.search.history.first().map(|g| g.distance),
            },
            "genome": champion.individual.genome,
            "lineage": self.search.lineage(champion.individual.id).len(),
        }))
    }
}
