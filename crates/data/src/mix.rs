//! How much of each data set a model sees: the plan's three mixes over the five families, and its curriculum.
//!
//! The stages run over 0-30%, 30-60% and 60-100% of a model's training. A stage offers the data sets that the catalogue
//! gives it; the mix's family weights are re-normalised over the families on offer, language gets at least
//! [`LANGUAGE_FLOOR`], and a family's weight falls to its data sets by their tokens, so that all of a family is repeated
//! equally often. What a family cannot fill goes to language at run time ([`crate::Loader`]).
//!
//! Data sets outside the plan (the built-in ones, the user's own folder) are on offer in every stage. The language sets
//! that a stage names are used where there are any, else every language set: the floor holds in all stages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalogue::dataset;
use crate::record::Family;

/// The least share of language in every stage: maths and code alone do not make a language model.
pub const LANGUAGE_FLOOR: f64 = 0.2;

/// The plan's mixes, named for the specialist that each makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixture {
    /// Heavy on maths and questions.
    Reasoning,
    /// Heavy on long text and questions.
    Memory,
    /// Heavy on quick answers.
    Speed,
    /// The mean of the three, for the ancestor.
    Mean,
}

impl Mixture {
    /// The specialists' mixes, in the order of the branches.
    pub const SPECIALISTS: [Mixture; 3] = [Mixture::Reasoning, Mixture::Memory, Mixture::Speed];

    /// The plan's weight of a family; the five sum to 1.
    pub fn weight(self, family: Family) -> f64 {
        match (self, family) {
            (Mixture::Reasoning, Family::Maths) => 0.4,
            (Mixture::Reasoning | Mixture::Memory, Family::Qa) => 0.3,
            (Mixture::Memory, Family::Language) => 0.4,
            (Mixture::Speed, Family::Commonsense) => 0.4,
            (Mixture::Speed, Family::Maths) => 0.3,
            (Mixture::Mean, family) => {
                Self::SPECIALISTS
                    .iter()
                    .map(|m| m.weight(family))
                    .sum::<f64>()
                    / 3.0
            }
            _ => 0.1,
        }
    }

    /// The family of the largest weight, by which a specialist is judged.
    pub fn main_family(self) -> Family {
        match self {
            Mixture::Reasoning => Family::Maths,
            Mixture::Memory | Mixture::Mean => Family::Language,
            Mixture::Speed => Family::Commonsense,
        }
    }
}

/// A mixture, as it is or with more of its main family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// The plan's weights.
    pub mixture: Mixture,
    /// Share of the main family in place of its own, 0 to 1; the others keep their proportions.
    pub main_share: Option<f64>,
}

impl From<Mixture> for Blend {
    fn from(mixture: Mixture) -> Self {
        Self {
            mixture,
            main_share: None,
        }
    }
}

impl Blend {
    /// The weight of a family; the five sum to 1.
    pub fn weight(self, family: Family) -> f64 {
        let plain = self.mixture.weight(family);
        let main = self.mixture.main_family();
        match self.main_share {
            None => plain,
            Some(share) if family == main => share,
            Some(share) => plain * (1.0 - share) / (1.0 - self.mixture.weight(main)),
        }
    }
}

/// A stage of the curriculum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// 0-30%: arithmetic and short programs.
    Foundation,
    /// 30-60%: science, everyday knowledge, encyclopedia text.
    Reasoning,
    /// 60-100%: several hops, long text.
    Advanced,
    /// Foundation and reasoning together, for the ancestor.
    Ancestor,
}

impl Stage {
    fn offers(self, stages: &[Stage]) -> bool {
        match self {
            Stage::Ancestor => stages
                .iter()
                .any(|s| matches!(s, Stage::Foundation | Stage::Reasoning)),
            stage => stages.contains(&stage),
        }
    }
}

/// The stage of a branch that has done `fraction` of its training.
pub fn stage_at(fraction: f64) -> Stage {
    match fraction {
        f if f < 0.3 => Stage::Foundation,
        f if f < 0.6 => Stage::Reasoning,
        _ => Stage::Advanced,
    }
}

/// The share of each data set on offer in a stage; they sum to 1 unless nothing is available. `available` names the
/// packed data sets with their family and number of tokens.
pub fn weights(
    blend: impl Into<Blend>,
    stage: Stage,
    available: &[(&str, Family, u64)],
) -> BTreeMap<String, f64> {
    weights_with_replay(blend, stage, available, 0.0)
}

/// As [`weights`], with a share `replay` (0 to 1) spent on everything available by the plain mix, so that what a stage
/// does not offer is not forgotten. The language floor holds in both parts, hence in the whole.
pub fn weights_with_replay(
    blend: impl Into<Blend>,
    stage: Stage,
    available: &[(&str, Family, u64)],
    replay: f64,
) -> BTreeMap<String, f64> {
    let blend = blend.into();
    let listed = |name: &str| {
        dataset(name)
            .map(|d| d.stages)
            .filter(|stages| !stages.is_empty())
    };
    let offered = |name: &str| listed(name).is_none_or(|stages| stage.offers(stages));
    let own_language = available
        .iter()
        .any(|(name, family, _)| *family == Family::Language && offered(name));
    let on_offer: Vec<_> = available
        .iter()
        .copied()
        .filter(|(name, family, _)| offered(name) || (*family == Family::Language && !own_language))
        .collect();
    // A stage none of whose sets is at hand falls back on all that there is.
    let nothing = on_offer.iter().all(|(_, _, tokens)| *tokens == 0);
    let mut shares = shares(blend, if nothing { available } else { &on_offer });
    if replay > 0.0 {
        shares.values_mut().for_each(|share| *share *= 1.0 - replay);
        for (name, share) in self::shares(blend, available) {
            *shares.entry(name).or_default() += replay * share;
        }
    }
    shares
}

/// Family weights over the families present, with the floor, dealt to data sets by tokens.
fn shares(blend: Blend, sets: &[(&str, Family, u64)]) -> BTreeMap<String, f64> {
    let mut tokens: BTreeMap<Family, u64> = BTreeMap::new();
    for (_, family, count) in sets.iter().filter(|set| set.2 > 0) {
        *tokens.entry(*family).or_default() += count;
    }
    let sum: f64 = tokens.keys().map(|&family| blend.weight(family)).sum();
    let mut families: BTreeMap<Family, f64> = tokens
        .keys()
        .map(|&family| (family, blend.weight(family) / sum))
        .collect();
    if let Some(&language) = families.get(&Family::Language)
        && language < LANGUAGE_FLOOR
    {
        families
            .values_mut()
            .for_each(|weight| *weight *= (1.0 - LANGUAGE_FLOOR) / (1.0 - language));
        families.insert(Family::Language, LANGUAGE_FLOOR);
    }
    let share =
        |family: Family, count: u64| families[&family] * count as f64 / tokens[&family] as f64;
    sets.iter()
        .filter(|set| set.2 > 0)
        .map(|(name, family, count)| (name.to_string(), share(*family, *count)))
        .collect()
}
