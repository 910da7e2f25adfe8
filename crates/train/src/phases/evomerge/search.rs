//! The search: a serializable state and one unit of work, a generation.
//!
//! A generation is proposed (`propose`: evolution, CMA-ES or random genomes), raced (`race`) and, with the members that
//! stay, ranked; the best eight are the population. In evolution generation 0 is the eight combinations with neutral
//! genes, and the best of a sweep of plain task arithmetic joins them. Every strategy has the same races, cache, book of
//! births and fallback for degenerate children, so they can be compared at the same number of scored items.

use super::cma::Cma;
use super::measure::{Bench, Job};
use super::propose::Proposal;
use super::race::Rules;
use super::{
    Audit, Birth, Cache, Counts, Error, Evaluate, Generation, Genome, Individual, Limits, Measures,
    Origin, Parents, Remedy, Sample, Settings, Space, Split, Strategy, distances, fitness, front,
    mean_distance,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Members of a population.
pub(super) const POPULATION: usize = 8;

/// The whole state of a search; what a checkpoint holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// Settings, fixed at the start.
    pub settings: Settings,
    /// Hash of the parents that this search belongs to.
    pub parents_hash: String,
    /// Generations done, generation 0 included.
    pub generation: u64,
    /// The population, best first.
    pub population: Vec<Individual>,
    /// Cosine distances between its members.
    pub distances: Vec<Vec<f64>>,
    /// Mean distance between the newcomers of generation 0: what diversity is a share of.
    pub(super) spread: f64,
    /// All members ever, by id.
    pub births: Vec<Birth>,
    /// The task-arithmetic sweep, in the order of its lambdas.
    pub sweep: Vec<Individual>,
    /// The Pareto front over all members that finished a race.
    pub front: Vec<Individual>,
    /// Valid children per combination, without sweep and fallbacks.
    pub combinations: [u64; 8],
    /// One row per generation.
    pub history: Vec<Generation>,
    /// What is done about a population that converges.
    pub converging: Converging,
    /// Where the search no longer goes.
    pub limits: Limits,
    /// The distribution of CMA-ES.
    pub(super) cma: Option<Cma>,
    /// Everything measured.
    pub cache: Cache,
}

/// A newcomer, where it was not left out, and whether it was degenerate.
pub(super) type Born = (Option<Individual>, bool);

/// A converging population: when it was last reported, and what was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Converging {
    /// Generation before which it was last reported; None while the population is diverse.
    reported: Option<u64>,
    /// What was decided then.
    pub(super) remedy: Remedy,
    /// Random genomes that the next generation brings in.
    pub(super) newcomers: usize,
}

impl Search {
    /// A search that has not begun. Checks settings and parents.
    pub fn new(settings: Settings, parents: &Parents) -> Result<Search, Error> {
        settings.check()?;
        parents.check()?;
        Ok(Search {
            settings,
            parents_hash: parents.hash(),
            generation: 0,
            population: Vec::new(),
            distances: Vec::new(),
            spread: 0.0,
            births: Vec::new(),
            sweep: Vec::new(),
            front: Vec::new(),
            combinations: [0; 8],
            history: Vec::new(),
            converging: Converging::default(),
            limits: Limits::default(),
            cma: None,
            cache: Cache::default(),
        })
    }

    /// A random search with the same rounds; run it until `scored()` is the same.
    pub fn random_baseline(&self, parents: &Parents) -> Result<Search, Error> {
        let settings = Settings {
            strategy: Strategy::Random,
            ..self.settings.clone()
        };
        Search::new(settings, parents)
    }

    /// Whether all generations are done.
    pub fn finished(&self) -> bool {
        self.history.len() as u64 > self.settings.generations
    }

    /// Items that the generations scored, choice and comparisons aside.
    pub fn scored(&self) -> u64 {
        self.history.iter().map(|g| g.work.scored_items).sum()
    }

    /// The diversity of a converging population that nobody was told of yet, or for `injection_every` generations.
    pub fn newly_converging(&self) -> Option<f64> {
        let due = match (self.converging.reported, self.converging.remedy) {
            (None, _) => true,
            (Some(_), Remedy::GoOn) => false,
            (Some(at), _) => self.generation >= at + self.settings.injection_every,
        };
        (due && self.low_diversity()).then(|| self.diversity())
    }

    /// Decides what is done about a converging population, until it is diverse again or reported once more.
    pub fn diversify(&mut self, remedy: Remedy) {
        self.converging = Converging {
            reported: Some(self.generation),
            remedy,
            newcomers: match remedy {
                Remedy::Inject => 1,
                Remedy::RestartTwo => 2,
                Remedy::GoOn | Remedy::RaiseMutation => 0,
            },
        };
    }

    /// Counted work so far.
    pub fn work(&self) -> Counts {
        self.cache.counts
    }

    /// The best member so far by fitness; None before generation 0.
    pub fn best(&self) -> Option<&Individual> {
        self.population.first()
    }

    /// Runs the next generation. Deterministic from the state, at any number of threads; on an
    /// error the state is as it was.
    pub fn next_generation(
        &mut self,
        parents: &Parents,
        evaluator: &dyn Evaluate,
    ) -> Result<&Generation, Error> {
        self.same_parents(parents)?;
        let mut next = self.clone();
        next.advance(Bench { parents, evaluator })?;
        *self = next;
        Ok(self.history.last().expect("advance adds a row"))
    }

    pub(super) fn same_parents(&self, parents: &Parents) -> Result<(), Error> {
        let found = parents.hash();
        if found == self.parents_hash {
            return Ok(());
        }
        Err(Error::ParentsChanged {
            saved: self.parents_hash.clone(),
            found,
        })
    }

    fn advance(&mut self, bench: Bench) -> Result<(), Error> {
        let before = self.cache.counts;
        let space = Space::of(bench.parents);
        if !self.low_diversity() {
            self.converging = Converging::default();
        }
        let (kept, proposals, points) = self.proposals(space);
        let injected = proposals.iter().any(|p| p.0 == Origin::Injected);
        let asked = proposals.len();
        let best = self.population.first().map(|m| m.hash.clone());
        let mut pool: Vec<Individual> = kept.iter().map(|&i| self.population[i].clone()).collect();
        let mut born = self.bear(bench, proposals, best)?;
        self.learn(points, &born);
        if self.generation == 0 {
            let newcomers = born.iter().filter_map(|b| b.0.as_ref());
            let genomes: Vec<&Genome> = newcomers.map(|m| &m.genome).collect();
            self.spread = mean_distance(&distances(&genomes, bench.parents));
        }
        let mut degenerate = born.iter().filter(|b| b.1).count();
        let mut all = asked;
        if self.generation == 0 && self.settings.strategy == Strategy::Evolution {
            rank_born(&mut born);
            let best = born
                .first()
                .and_then(|b| b.0.as_ref())
                .map(|m| m.hash.clone());
            let lambdas = self.settings.sweep.iter();
            let seeds: Vec<Proposal> = lambdas
                .map(|&lambda| (Origin::Sweep, Vec::new(), Genome::arithmetic(lambda, space)))
                .collect();
            all += seeds.len();
            let sweep = self.bear(bench, seeds, best)?;
            degenerate += sweep.iter().filter(|b| b.1).count();
            self.sweep = sweep.into_iter().filter_map(|b| b.0).collect();
            // They are one direction at several lengths: more than one of them would crowd out the others.
            born.extend(self.best_of_sweep().map(|best| (Some(best), false)));
        }
        pool.extend(born.into_iter().filter_map(|b| b.0));
        self.widen_front(&pool);
        rank(&mut pool);
        pool.truncate(POPULATION);
        if pool.is_empty() {
            let reason = "every child of generation 0 was left out".to_owned();
            return Err(Error::NothingValid { reason });
        }
        self.population = pool;
        let genomes: Vec<&Genome> = self.population.iter().map(|m| &m.genome).collect();
        self.distances = distances(&genomes, bench.parents);
        self.record(before, injected, [all as u64, degenerate as u64]);
        self.converging.newcomers = 0;
        self.generation += 1;
        Ok(())
    }

    fn record(&mut self, before: Counts, injected: bool, born: [u64; 2]) {
        let best = &self.population[0];
        let total = self.population.iter().map(|m| m.fitness).sum::<f64>();
        self.history.push(Generation {
            generation: self.generation,
            best_fitness: best.fitness,
            best: best.id,
            mean_fitness: total / self.population.len() as f64,
            diversity: self.diversity(),
            distance: mean_distance(&self.distances),
            improvement: best.fitness - 1.0,
            mutation_rate: self.mutation_rate(),
            injected,
            born,
            work: self.cache.counts.since(before),
        });
    }

    /// Mean distance between the members as a share of that between the newcomers of generation 0; 0 where those were one.
    pub(super) fn diversity(&self) -> f64 {
        match self.spread > 0.0 {
            true => mean_distance(&self.distances) / self.spread,
            false => 0.0,
        }
    }

    pub(super) fn low_diversity(&self) -> bool {
        self.settings.strategy == Strategy::Evolution
            && !self.population.is_empty()
            && self.diversity() < self.settings.diversity
    }

    /// Races proposals and enters them in the book of births. Gives each, and whether it was degenerate.
    fn bear(
        &mut self,
        bench: Bench,
        proposals: Vec<Proposal>,
        best: Option<String>,
    ) -> Result<Vec<Born>, Error> {
        let first = self.births.len() as u64;
        let genomes = proposals.iter().map(|p| self.limits.apply(p.2.clone()));
        let newcomers = (first..).zip(genomes).collect();
        let rules = Rules {
            rounds: &self.settings.rounds,
            best: best.as_deref(),
            doubt: self.settings.doubt,
            drop: self.limits.drop,
        };
        let raced = bench.race(&mut self.cache, newcomers, rules)?;
        let mut born = Vec::new();
        for ((id, (origin, from, _)), (individual, rejected)) in (first..).zip(proposals).zip(raced)
        {
            let degenerate = !rejected.is_empty();
            if let Some(m) = individual.as_ref()
                && !degenerate
                && origin != Origin::Sweep
            {
                self.combinations[m.genome.bits as usize] += 1;
            }
            // One that was left out is remembered as what it was meant to be.
            let meant = rejected.first().map(|r| r.genome.clone());
            let of = individual.as_ref();
            let genome = of.map(|m| m.genome.clone()).or(meant);
            self.births.push(Birth {
                id,
                generation: self.generation,
                origin,
                from,
                genome: genome.expect("a newcomer is measured or rejected"),
                hash: of.map_or(String::new(), |m| m.hash.clone()),
                round: of.map_or(0, |m| m.round),
                fitness: of.map(|m| m.fitness),
                rejected,
            });
            born.push((individual, degenerate));
        }
        Ok(born)
    }

    fn widen_front(&mut self, pool: &[Individual]) {
        let mut candidates = std::mem::take(&mut self.front);
        candidates.extend(pool.iter().filter(|m| self.raced(m)).cloned());
        let measures: Vec<Measures> = candidates.iter().map(|m| m.measures.clone()).collect();
        self.front = front(&measures)
            .into_iter()
            .map(|i| candidates[i].clone())
            .collect();
    }

    pub(super) fn raced(&self, member: &Individual) -> bool {
        member.round + 1 == self.settings.rounds.len()
    }

    /// The best of the task-arithmetic sweep on the fitness split.
    pub(super) fn best_of_sweep(&self) -> Option<Individual> {
        let mut sweep = self.sweep.clone();
        rank(&mut sweep);
        sweep.into_iter().next()
    }

    /// Scores `n` members, spread evenly over the births, on all that the race's last round scores, and compares the race's
    /// verdict with that. Costs nothing of the search's own count.
    pub fn audit(
        &self,
        parents: &Parents,
        evaluator: &dyn Evaluate,
        n: usize,
    ) -> Result<Audit, Error> {
        let bench = Bench { parents, evaluator };
        let mut cache = self.cache.clone();
        let everyone: Vec<&Birth> = self.births.iter().filter(|b| b.fitness.is_some()).collect();
        let step = everyone.len().div_ceil(n.max(1)).max(1);
        let members: Vec<&Birth> = everyone.iter().step_by(step).copied().collect();
        let sample = Sample {
            split: Split::Fitness,
            items: *self.settings.rounds.last().expect("settings are checked"),
        };
        let mean = bench.parents_mean(&mut cache, sample)?;
        let jobs = members.iter().map(|b| Job {
            hash: Some(&b.hash),
            ..Job::new(&b.genome)
        });
        let jobs = jobs.collect();
        let outcomes = bench.measure(&mut cache, jobs, sample)?;
        let in_full: Vec<f64> = outcomes
            .into_iter()
            .map(|o| match o.measured {
                Ok(m) => fitness(&m, &mean, parents.size_mb()),
                Err(_) => f64::NEG_INFINITY,
            })
            .collect();
        let raced: Vec<f64> = members.iter().filter_map(|b| b.fitness).collect();
        let items = sample.items.min(evaluator.items(Split::Fitness)) as u64;
        let candidates: u64 = self.history.iter().map(|g| g.work.candidates).sum();
        Ok(Audit {
            members: members.len(),
            spearman: Some(spearman(&raced, &in_full)).filter(|r| r.is_finite()),
            saved: (candidates * items) as f64 / self.scored().max(1) as f64,
        })
    }

    /// A member's birth and those of all it came from, oldest first.
    pub fn lineage(&self, id: u64) -> Vec<&Birth> {
        let mut ids = BTreeSet::new();
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if ids.insert(id) {
                open.extend(&self.births[id as usize].from);
            }
        }
        ids.into_iter()
            .map(|id| &self.births[id as usize])
            .collect()
    }
}

/// Best first: by the last round reached, then by fitness in it, then the older.
pub(super) fn rank(members: &mut [Individual]) {
    members.sort_by(order);
}

fn order(a: &Individual, b: &Individual) -> std::cmp::Ordering {
    b.round
        .cmp(&a.round)
        .then(b.fitness.total_cmp(&a.fitness))
        .then(a.id.cmp(&b.id))
}

/// Newcomers that may have been left out: best first, those last.
fn rank_born(born: &mut [Born]) {
    born.sort_by(|a, b| match (&a.0, &b.0) {
        (Some(a), Some(b)) => order(a, b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
}

/// Rank correlation; equal values share their mean rank. NaN where a list is constant.
pub(super) fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |x: &f64| {
        let below = values.iter().filter(|y| *y < x).count() as f64;
        let equal = values.iter().filter(|y| *y == x).count() as f64;
        below + (equal - 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}
