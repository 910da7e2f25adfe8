//! What a search is told and what it writes down: settings, members, births, generations, results.
//!
//! Plain data without behaviour (settings check themselves), all of it part of the saved state or
//! of a report.

use super::{Counts, Error, Genome, Measures, Rejected};
use serde::{Deserialize, Serialize};

/// What proposes new genomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Elites, mutants, merged losers.
    #[default]
    Evolution,
    /// Points of a normal distribution that follows the better ones.
    CmaEs,
    /// Uniformly drawn genomes: the baseline.
    Random,
}

/// Settings of a search; the default is the plan's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The run's seed.
    pub seed: u64,
    /// What proposes new genomes.
    pub strategy: Strategy,
    /// Generations after generation 0.
    pub generations: u64,
    /// Most items that the search may score; 0 for any number.
    pub budget_items: u64,
    /// Sample sizes of the race's rounds, growing.
    pub rounds: Vec<usize>,
    /// Standard errors by which a newcomer must be worse than the best member on the same items to be stopped.
    pub doubt: f64,
    /// Mutation rate; doubled while a population converges.
    pub mutation: f64,
    /// Share of generation 0's mean distance below which a population counts as converging.
    pub diversity: f64,
    /// Generations between injections while it does.
    pub injection_every: u64,
    /// Lambdas of the task-arithmetic sweep.
    pub sweep: Vec<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            seed: 42,
            strategy: Strategy::Evolution,
            generations: 50,
            budget_items: 0,
            rounds: vec![16, 64, 256, 1000],
            doubt: 0.5,
            mutation: 0.01,
            diversity: 0.3,
            injection_every: 10,
            sweep: vec![0.3, 0.35, 0.4, 0.45, 0.5],
        }
    }
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), Error> {
        let bad = |key, found: String, allowed| {
            Err(Error::Setting {
                key,
                found,
                allowed,
            })
        };
        if self.rounds.is_empty() || self.rounds[0] == 0 || !self.rounds.is_sorted_by(|a, b| a < b)
        {
            return bad(
                "rounds",
                format!("{:?}", self.rounds),
                "growing sample sizes, at least one",
            );
        }
        if !(0.0..=10.0).contains(&self.doubt) {
            return bad("doubt", self.doubt.to_string(), "standard errors, 0 to 10");
        }
        if !(self.mutation > 0.0 && self.mutation <= 0.25) {
            return bad(
                "mutation",
                self.mutation.to_string(),
                "above 0, at most 0.25",
            );
        }
        if !(0.0..=10.0).contains(&self.diversity) {
            return bad(
                "diversity",
                self.diversity.to_string(),
                "a share of generation 0's distances, 0 to 10",
            );
        }
        if self.injection_every == 0 {
            return bad("injection_every", "0".to_owned(), "at least 1");
        }
        if self.sweep.iter().any(|l| !l.is_finite()) {
            return bad("sweep", format!("{:?}", self.sweep), "finite numbers");
        }
        Ok(())
    }
}

/// A measured member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Individual {
    /// Index of its `Birth`.
    pub id: u64,
    /// Its recipe.
    pub genome: Genome,
    /// Hash of its weights, scales and threshold.
    pub hash: String,
    /// Last round of the race that it reached, from 0.
    pub round: usize,
    /// Measures of that round.
    pub measures: Measures,
    /// Fitness of that round, on the fitness split.
    pub fitness: f64,
}

/// How a member came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// One of generation 0's eight.
    Combination,
    /// Plain task arithmetic.
    Sweep,
    /// Mutant of an elite.
    Mutant,
    /// Merge of three losers.
    Merged,
    /// Brought in for diversity, or for a combination without a valid child.
    Injected,
    /// A point of CMA-ES.
    Sampled,
    /// Random search.
    Random,
}

/// What is done about a population that converges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// Nothing.
    #[default]
    GoOn,
    /// The mutation rate is doubled, the second elite is taken far from the first, a random genome is brought in.
    Inject,
    /// The mutation rate is doubled.
    RaiseMutation,
    /// Two random genomes take the place of the merged children.
    RestartTwo,
}

/// A member's entry in the book of births; together they are the lineage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Birth {
    /// Its number, counted from 0.
    pub id: u64,
    /// The generation.
    pub generation: u64,
    /// How.
    pub origin: Origin,
    /// Ids of the members it came from; empty for those made from the parents alone.
    pub from: Vec<u64>,
    /// Its genome (after fallback, the linear one that took its place).
    pub genome: Genome,
    /// Hash of its weights.
    pub hash: String,
    /// What it was meant to be, where that was degenerate.
    pub rejected: Vec<Rejected>,
    /// Last round of the race that it reached, from 0.
    pub round: usize,
    /// Its fitness there; None for one that was left out.
    pub fitness: Option<f64>,
}

/// What happened in one generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number.
    pub generation: u64,
    /// Fitness of the best member that finished the race.
    pub best_fitness: f64,
    /// Its id.
    pub best: u64,
    /// Mean over the population, each in its last round.
    pub mean_fitness: f64,
    /// Mean cosine distance between the members' task vectors, as a share of that between the newcomers of generation 0.
    pub diversity: f64,
    /// The mean distance itself.
    pub distance: f64,
    /// Relative gain of the best over the parents' mean.
    pub improvement: f64,
    /// Rate at which this generation's mutants were made.
    pub mutation_rate: f64,
    /// Whether a random genome was brought in.
    pub injected: bool,
    /// Genomes that asked to be born, and how many of them were degenerate.
    pub born: [u64; 2],
    /// Work of this generation alone.
    pub work: Counts,
}

/// A model in a comparison on one split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contender {
    /// What it is.
    pub name: String,
    /// Its recipe.
    pub genome: Genome,
    /// Hash of its weights.
    pub hash: String,
    /// Its measures.
    pub measures: Measures,
    /// Fitness relative to the parents' mean on that split.
    pub fitness: f64,
}

/// How well the race stands in for scoring everyone in full: see [`Search::audit`](super::Search::audit).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// Members that were scored in full for it.
    pub members: usize,
    /// Rank correlation of what the race found them worth with what they are worth in full; None where one is constant.
    pub spearman: Option<f64>,
    /// Items that scoring every candidate in full takes, over those that the race scored.
    pub saved: f64,
}

/// The member chosen on the selection split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Champion {
    /// The member, as the fitness split saw it.
    pub individual: Individual,
    /// All finalists on the selection split, best first.
    pub finalists: Vec<Contender>,
}
