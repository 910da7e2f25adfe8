//! The ten strategies of reasoning: names, tokens, and the accuracy at which each counts as baked.

use std::fmt;

/// A way of thinking before the answer. Each changes the computation, not only its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strategy {
    /// One step after another.
    ChainOfThought,
    /// Disjoint cases that are counted apart and summed.
    Mece,
    /// A candidate tested by the inverse operation, or by looking for a counterexample.
    Falsification,
    /// A named rule applied.
    Expert,
    /// A second, different method.
    Orthogonal,
    /// A first answer re-checked by going back.
    SelfDoubt,
    /// Prior and likelihood by counting.
    Bayesian,
    /// The problem mapped to coins, a walk or an area.
    Multidomain,
    /// A wrong step found and mended.
    SelfCorrection,
    /// Bounds before the value.
    Uncertainty,
}

/// The twelve tokens of Phase 3: the two brackets, then the strategies in the order of [`Strategy::ALL`].
pub const SPECIAL_TOKENS: [&str; 12] = [
    "[thinking]",
    "[/endthinking]",
    "<step>",
    "<mece>",
    "<falsify>",
    "<expert>",
    "<orthogonal>",
    "<doubt>",
    "<bayesian>",
    "<multidomain>",
    "<correct>",
    "<uncertain>",
];

impl Strategy {
    /// All ten, in the order of their tokens.
    pub const ALL: [Strategy; 10] = [
        Strategy::ChainOfThought,
        Strategy::Mece,
        Strategy::Falsification,
        Strategy::Expert,
        Strategy::Orthogonal,
        Strategy::SelfDoubt,
        Strategy::Bayesian,
        Strategy::Multidomain,
        Strategy::SelfCorrection,
        Strategy::Uncertainty,
    ];

    /// The name that a prompt asks for: `Think: mece`.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::ChainOfThought => "chain_of_thought",
            Strategy::Mece => "mece",
            Strategy::Falsification => "falsification",
            Strategy::Expert => "expert",
            Strategy::Orthogonal => "orthogonal",
            Strategy::SelfDoubt => "self_doubt",
            Strategy::Bayesian => "bayesian",
            Strategy::Multidomain => "multidomain",
            Strategy::SelfCorrection => "self_correction",
            Strategy::Uncertainty => "uncertainty",
        }
    }

    /// The strategy of this name.
    pub fn named(name: &str) -> Option<Strategy> {
        Strategy::ALL
            .into_iter()
            .find(|strategy| strategy.name() == name)
    }

    /// The token that follows `[thinking]`.
    pub fn token(self) -> &'static str {
        SPECIAL_TOKENS[2 + self as usize]
    }

    /// The share of held-out prompts that must be answered by a well-formed thought: the plan's four figures, and
    /// its overall 0.85 for the strategies that it does not name.
    pub fn threshold(self) -> f64 {
        match self {
            Strategy::ChainOfThought => 0.90,
            Strategy::Falsification => 0.80,
            Strategy::Bayesian => 0.75,
            _ => 0.85,
        }
    }

    /// Whether the first two epochs of baking use it.
    pub fn is_easy(self) -> bool {
        matches!(self, Strategy::ChainOfThought | Strategy::SelfDoubt)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}
