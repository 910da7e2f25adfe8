//! Settings of Phase 2.

use super::{Settings, Strategy};
use serde::{Deserialize, Serialize};

/// Settings of Phase 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvomergeRecipe {
    /// What proposes children: `evolution`, `cma-es` or `random`.
    #[serde(default)]
    pub search: Strategy,
    /// Generations after generation 0.
    pub generations: u64,
    /// Most items that the search may score, the choice at the end aside; 0 for any number.
    #[serde(default)]
    pub budget_items: u64,
    /// Growing sample sizes of the race.
    pub rounds: Vec<usize>,
    /// Standard errors by which a newcomer must be worse than the best member on the same items to be stopped early.
    #[serde(default = "half")]
    pub doubt: f64,
    /// Mutation rate.
    pub mutation: f64,
    /// Mean cosine distance between task vectors, as a share of that in generation 0, below which a population counts as
    /// converging.
    pub diversity: f64,
    /// Generations between injections while it does.
    pub injection_every: u64,
    /// Lambdas of the task-arithmetic sweep.
    pub sweep: Vec<f64>,
    /// Members of the final choice on the selection split.
    pub finalists: usize,
    /// Items of the selection and held-out comparison.
    pub comparison_items: usize,
    /// Longest piece of a text in an evaluation.
    pub sequence: usize,
    /// Whether random search runs with the same number of scored items, for comparison.
    pub random_search: bool,
    /// Members that are scored in full after the search, to see how well the race stood in for that; 0 for none.
    #[serde(default)]
    pub audit: usize,
}

/// The doubt of recipes that were written before it was a setting.
fn half() -> f64 {
    0.5
}

impl EvomergeRecipe {
    /// The settings of the search.
    pub fn settings(&self, seed: u64) -> Settings {
        Settings {
            seed,
            strategy: self.search,
            generations: self.generations,
            budget_items: self.budget_items,
            rounds: self.rounds.clone(),
            doubt: self.doubt,
            mutation: self.mutation,
            diversity: self.diversity,
            injection_every: self.injection_every,
            sweep: self.sweep.clone(),
        }
    }
}
