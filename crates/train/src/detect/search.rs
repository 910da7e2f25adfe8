//! Settings of the detectors of Phase 2; what they see comes from the search's state (`phases::evomerge`).

use super::Policy;
use crate::Error;
use serde::{Deserialize, Serialize};

/// A population that converges too early, and parents that are the same. The diversity below which a population converges
/// and the generations between injections are the search's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PopulationRecipe {
    /// Who decides.
    pub policy: Policy,
    /// Difference of two parents, relative to how far they went from the ancestor, below which they are the same.
    pub identical: f64,
}

impl Default for PopulationRecipe {
    fn default() -> Self {
        Self {
            policy: Policy::Automatic,
            identical: 1e-3,
        }
    }
}

/// Merges that are dead: not finite, without variance, or collapsed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DegenerateRecipe {
    /// Who decides.
    pub policy: Policy,
    /// Share of a generation above which the search is confined.
    pub share: f64,
}

impl Default for DegenerateRecipe {
    fn default() -> Self {
        Self {
            policy: Policy::Automatic,
            share: 0.5,
        }
    }
}

/// A search that scores more than its budget, `evomerge.budget_items`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationRecipe {
    /// Who decides.
    pub policy: Policy,
}

/// Refuses what cannot run.
pub(super) fn validate(
    population: &PopulationRecipe,
    degenerate: &DegenerateRecipe,
) -> Result<(), Error> {
    let shares = [
        ("population.identical", population.identical),
        ("degenerate.share", degenerate.share),
    ];
    match shares.into_iter().find(|(_, x)| !(0.0..=1.0).contains(x)) {
        Some((key, found)) => Err(Error::Recipe {
            key: format!("detectors.{key}"),
            found: format!("found {found}"),
            allowed: "a share lies between 0 and 1".into(),
        }),
        None => Ok(()),
    }
}
