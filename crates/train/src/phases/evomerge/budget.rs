//! What a search will score, foreseen in items, and what is cut where that is more than it may.
//!
//! Items are counted work: a budget in seconds would make the result follow the machine. Before generation 0 the forecast
//! is the most that races can take (nobody stopped early); once some generations are done it is what they took on average.

use super::race::KEEP;
use super::search::POPULATION;
use super::{Search, Settings, Strategy};
use serde::{Deserialize, Serialize};

/// Fewest items of a first round, and the share of the last round that is left at least.
const FEWEST: usize = 4;
const LEAST_SHARE: f64 = 0.25;
/// Generations whose mean is worth more than what they might take at most.
const TELLING: usize = 3;

/// What was cut: rounds and generations before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cut {
    /// Sample sizes of the race.
    pub rounds: [Vec<usize>; 2],
    /// Generations after generation 0.
    pub generations: [u64; 2],
    /// Items that the search is expected to score.
    pub items: [u64; 2],
}

/// Most items that a race of so many newcomers scores: one in `KEEP`, rounded up, goes on from each round.
fn race_items(newcomers: usize, rounds: &[usize]) -> u64 {
    let (mut living, mut before, mut items) = (newcomers, 0, 0);
    for &round in rounds {
        items += living * (round - before);
        (living, before) = (living.div_ceil(KEEP), round);
    }
    items as u64
}

/// Items of generation 0, parents included, and most items of each later one.
fn generations(settings: &Settings) -> (u64, u64) {
    let rounds = &settings.rounds;
    let parents = 3 * rounds.last().copied().unwrap_or(0) as u64;
    let (later, sweep) = match settings.strategy {
        Strategy::Evolution => (POPULATION - 2, race_items(settings.sweep.len(), rounds)),
        Strategy::CmaEs => (POPULATION, 0),
        Strategy::Random => (POPULATION - 2, 0),
    };
    let first = parents + race_items(POPULATION, rounds) + sweep;
    (first, race_items(later, rounds))
}

/// Most items that a search with these settings scores.
pub fn most_items(settings: &Settings) -> u64 {
    let (first, later) = generations(settings);
    first + settings.generations * later
}

impl Search {
    /// Items that the search will have scored when all its generations are done.
    pub fn forecast(&self) -> u64 {
        let (first, most) = generations(&self.settings);
        match self.history.get(1..) {
            None => first + self.settings.generations * most,
            Some(later) if later.len() < TELLING => self.scored() + self.generations_left() * most,
            Some(later) => {
                let items: u64 = later.iter().map(|g| g.work.scored_items).sum();
                self.scored() + self.generations_left() * items.div_ceil(later.len() as u64)
            }
        }
    }

    /// Whether more items are foreseen than the budget allows.
    pub fn over_budget(&self) -> bool {
        let budget = self.settings.budget_items;
        budget > 0 && self.forecast() > budget
    }

    /// Takes smaller samples, as few as needed, down to a quarter. Only before generation 0: members that were measured on
    /// other samples could not be compared.
    pub fn take_smaller_samples(&mut self) -> Option<Cut> {
        if !self.history.is_empty() || !self.over_budget() {
            return None;
        }
        let before = self.clone();
        let mut share = 1.0;
        while self.over_budget() && share > LEAST_SHARE {
            share = f64::max(share - 0.05, LEAST_SHARE);
            let scaled = |&n: &usize| ((n as f64 * share) as usize).max(FEWEST.min(n));
            self.settings.rounds = before.settings.rounds.iter().map(scaled).collect();
            self.settings.rounds.dedup();
        }
        Some(self.cut_from(&before))
    }

    /// Leaves out as many of the last generations as needed.
    pub fn take_fewer_generations(&mut self) -> Option<Cut> {
        if !self.over_budget() {
            return None;
        }
        let before = self.clone();
        let done = (self.history.len() as u64).saturating_sub(1);
        while self.over_budget() && self.settings.generations > done {
            self.settings.generations -= 1;
        }
        Some(self.cut_from(&before))
    }

    fn cut_from(&self, before: &Search) -> Cut {
        Cut {
            rounds: [before.settings.rounds.clone(), self.settings.rounds.clone()],
            generations: [before.settings.generations, self.settings.generations],
            items: [before.forecast(), self.forecast()],
        }
    }

    fn generations_left(&self) -> u64 {
        (self.settings.generations + 1).saturating_sub(self.history.len() as u64)
    }
}
