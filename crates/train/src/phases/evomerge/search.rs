//! The search: a serializable state and one unit of work, a generation.
//!
//! Generation 0 is the eight combinations with neutral genes; a sweep of plain task arithmetic then
//! joins the pool, of which the best eight go on. Each later generation of eight: two elites stay,
//! four children are their mutants, two come from merging the six losers in two groups of three
//! (every other rank each, so both groups hold good and bad). When the mean distance of the
//! population is below `diversity` the mutation rate doubles, the second elite is the best one far
//! enough from the first, and every tenth generation the last child is a random genome of the
//! combination least used. A combination that never had a valid child is tried again every generation.
//!
//! Random search (`Strategy::Random`) is the same loop with six random genomes in place of the six
//! children, so that it can be run to the same number of evaluations with the same races and cache.

use super::genome::Draws;
use super::race::{Bench, Job, Outcome};
use super::{
    Birth, Cache, Champion, Contender, Counts, Error, Evaluate, Generation, Genome, Individual,
    Measures, Origin, Parents, Sample, Settings, Space, Split, Strategy, distances, fitness, front,
    mean_distance,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Members of a population.
const POPULATION: usize = 8;

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
    /// Everything measured.
    pub cache: Cache,
}

/// A genome that asks to be born.
type Proposal = (Origin, Vec<u64>, Genome);

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
            births: Vec::new(),
            sweep: Vec::new(),
            front: Vec::new(),
            combinations: [0; 8],
            history: Vec::new(),
            cache: Cache::default(),
        })
    }

    /// A random search with the same settings; run it until `work().scored_items` is the same.
    pub fn random_baseline(&self, parents: &Parents) -> Result<Search, Error> {
        let settings = Settings {
            strategy: Strategy::Random,
            ..self.settings.clone()
        };
        Search::new(settings, parents)
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

    fn same_parents(&self, parents: &Parents) -> Result<(), Error> {
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
        let low = self.low_diversity();
        let mutation_rate = self.settings.mutation * if low { 2.0 } else { 1.0 };
        let (mut pool, proposals) = match (self.generation, self.settings.strategy) {
            (0, Strategy::Evolution) => (Vec::new(), self.combinations_of_generation_0(space)),
            (0, Strategy::Random) => (Vec::new(), self.random_genomes(space, POPULATION)),
            (_, Strategy::Random) => {
                let kept = self.population[..2].to_vec();
                (kept, self.random_genomes(space, POPULATION - 2))
            }
            (_, Strategy::Evolution) => {
                let elites = self.elites();
                let kept = elites.map(|i| self.population[i].clone()).to_vec();
                (kept, self.children(elites, mutation_rate, low, space))
            }
        };
        let injected = proposals.iter().any(|p| p.0 == Origin::Injected);
        pool.extend(self.bear(bench, proposals)?);
        if self.generation == 0 && self.settings.strategy == Strategy::Evolution {
            let lambdas = self.settings.sweep.iter();
            let seeds: Vec<Proposal> = lambdas
                .map(|&lambda| (Origin::Sweep, Vec::new(), Genome::arithmetic(lambda, space)))
                .collect();
            self.sweep = self.bear(bench, seeds)?;
            pool.extend(self.sweep.clone());
        }
        self.widen_front(&pool);
        rank(&mut pool);
        pool.truncate(POPULATION);
        self.population = pool;
        let genomes: Vec<&Genome> = self.population.iter().map(|m| &m.genome).collect();
        self.distances = distances(&genomes, bench.parents);
        self.record(before, mutation_rate, injected);
        self.generation += 1;
        Ok(())
    }

    fn record(&mut self, before: Counts, mutation_rate: f64, injected: bool) {
        let best = &self.population[0];
        let total = self.population.iter().map(|m| m.fitness).sum::<f64>();
        let now = self.cache.counts;
        self.history.push(Generation {
            generation: self.generation,
            best_fitness: best.fitness,
            best: best.id,
            mean_fitness: total / self.population.len() as f64,
            diversity: mean_distance(&self.distances),
            improvement: best.fitness - 1.0,
            mutation_rate,
            injected,
            work: Counts {
                evaluations: now.evaluations - before.evaluations,
                scored_items: now.scored_items - before.scored_items,
                cache_hits: now.cache_hits - before.cache_hits,
                rejected: now.rejected - before.rejected,
            },
        });
    }

    fn low_diversity(&self) -> bool {
        self.settings.strategy == Strategy::Evolution
            && !self.population.is_empty()
            && mean_distance(&self.distances) < self.settings.diversity
    }

    /// The two that stay: the best, and the next best; when diversity is low, the next best that is
    /// at least `diversity` away from the first, or the farthest.
    fn elites(&self) -> [usize; 2] {
        if !self.low_diversity() {
            return [0, 1];
        }
        let from_best = &self.distances[0];
        let far = (1..self.population.len()).find(|&i| from_best[i] >= self.settings.diversity);
        let farthest = (1..self.population.len())
            .rev()
            .max_by(|&a, &b| from_best[a].total_cmp(&from_best[b]))
            .expect("a population has eight members");
        [0, far.unwrap_or(farthest)]
    }

    fn combinations_of_generation_0(&self, space: Space) -> Vec<Proposal> {
        let neutral = |bits| {
            (
                Origin::Combination,
                Vec::new(),
                Genome::neutral(bits, space, self.settings.seed),
            )
        };
        (0..8).map(neutral).collect()
    }

    fn random_genomes(&self, space: Space, n: usize) -> Vec<Proposal> {
        let genome = |slot: usize| {
            let mut draws = self.draws("evomerge random", slot);
            // The first population has every combination, as evolution's has.
            let bits = if n == POPULATION {
                slot as u8
            } else {
                (draws.bits() & 7) as u8
            };
            (
                Origin::Random,
                Vec::new(),
                Genome::random(bits, space, &mut draws),
            )
        };
        (0..n).map(genome).collect()
    }

    fn children(&self, elites: [usize; 2], rate: f64, low: bool, space: Space) -> Vec<Proposal> {
        let mutant = |slot: usize| {
            let of = &self.population[elites[slot / 2]];
            let genome = of
                .genome
                .mutated(rate, space, &mut self.draws("evomerge mutant", slot));
            (Origin::Mutant, vec![of.id], genome)
        };
        let mut children: Vec<Proposal> = (0..4).map(mutant).collect();
        let losers: Vec<&Individual> = (0..self.population.len())
            .filter(|i| !elites.contains(i))
            .map(|i| &self.population[i])
            .collect();
        for group in 0..2 {
            let of = [losers[group], losers[group + 2], losers[group + 4]];
            let mut draws = self.draws("evomerge merged", group);
            let genome = Genome::merged(of.map(|m| &m.genome), &mut draws);
            children.push((Origin::Merged, of.map(|m| m.id).to_vec(), genome));
        }
        let least = (0..8)
            .min_by_key(|&bits| self.combinations[bits])
            .expect("eight combinations");
        let due = low
            && self
                .generation
                .is_multiple_of(self.settings.injection_every);
        if due || self.combinations[least] == 0 {
            let mut draws = self.draws("evomerge injected", 0);
            let genome = Genome::random(least as u8, space, &mut draws);
            children[5] = (Origin::Injected, Vec::new(), genome);
        }
        children
    }

    fn draws(&self, purpose: &str, slot: usize) -> Draws {
        Draws::new(self.settings.seed, purpose, self.generation, slot)
    }

    /// Races proposals and enters them in the book of births.
    fn bear(&mut self, bench: Bench, proposals: Vec<Proposal>) -> Result<Vec<Individual>, Error> {
        let first = self.births.len() as u64;
        let newcomers = (first..)
            .zip(proposals.iter().map(|p| p.2.clone()))
            .collect();
        let raced = bench.race(&mut self.cache, newcomers, &self.settings.rounds)?;
        let mut born = Vec::new();
        for ((origin, from, _), (individual, rejected)) in proposals.into_iter().zip(raced) {
            if rejected.is_empty() && origin != Origin::Sweep {
                self.combinations[individual.genome.bits as usize] += 1;
            }
            self.births.push(Birth {
                id: individual.id,
                generation: self.generation,
                origin,
                from,
                genome: individual.genome.clone(),
                hash: individual.hash.clone(),
                rejected,
            });
            born.push(individual);
        }
        Ok(born)
    }

    fn widen_front(&mut self, pool: &[Individual]) {
        let mut candidates = std::mem::take(&mut self.front);
        candidates.extend(pool.iter().filter(|m| self.finished(m)).cloned());
        let measures: Vec<Measures> = candidates.iter().map(|m| m.measures.clone()).collect();
        self.front = front(&measures)
            .into_iter()
            .map(|i| candidates[i].clone())
            .collect();
    }

    fn finished(&self, member: &Individual) -> bool {
        member.round + 1 == self.settings.rounds.len()
    }

    /// The best `n` different members that finished a race: population, sweep and Pareto front.
    pub fn finalists(&self, n: usize) -> Vec<Individual> {
        let everyone = self.population.iter().chain(&self.sweep).chain(&self.front);
        let mut finalists: Vec<Individual> =
            everyone.filter(|m| self.finished(m)).cloned().collect();
        rank(&mut finalists);
        let mut seen = BTreeSet::new();
        finalists.retain(|m| seen.insert(m.hash.clone()));
        finalists.truncate(n);
        finalists
    }

    /// The best of the task-arithmetic sweep on the fitness split.
    pub fn best_of_sweep(&self) -> Option<Individual> {
        let mut sweep = self.sweep.clone();
        rank(&mut sweep);
        sweep.into_iter().next()
    }

    /// Chooses the champion: the best of `n` finalists on `items` items of the selection split.
    pub fn choose(
        &mut self,
        parents: &Parents,
        evaluator: &dyn Evaluate,
        (n, items): (usize, usize),
    ) -> Result<Champion, Error> {
        assert!(
            !self.population.is_empty(),
            "choose: no generation has been run"
        );
        let finalists = self.finalists(n.max(1));
        let named = |m: &Individual| (format!("member {}", m.id), m.genome.clone());
        let contenders: Vec<(String, Genome)> = finalists.iter().map(named).collect();
        let sample = Sample {
            split: Split::Selection,
            items,
        };
        let mut rows = self.compare(parents, evaluator, &contenders, sample)?;
        // Stable: of equals the one with the better fitness.
        rows.sort_by(|a, b| b.fitness.total_cmp(&a.fitness));
        let individual = finalists
            .into_iter()
            .find(|m| m.hash == rows[0].hash)
            .expect("a row is made of each finalist");
        Ok(Champion {
            individual,
            finalists: rows,
        })
    }

    /// Measures named genomes on one sample, through the cache, against the parents' mean there:
    /// champion, parents (`Genome::parent`), best of sweep, best of random search.
    pub fn compare(
        &mut self,
        parents: &Parents,
        evaluator: &dyn Evaluate,
        contenders: &[(String, Genome)],
        sample: Sample,
    ) -> Result<Vec<Contender>, Error> {
        self.same_parents(parents)?;
        let bench = Bench { parents, evaluator };
        let mean = bench.parents_mean(&mut self.cache, sample)?;
        let jobs: Vec<Job> = contenders
            .iter()
            .map(|(_, genome)| Job { genome, hash: None })
            .collect();
        let outcomes = bench.measure(&mut self.cache, &jobs, sample)?;
        let row = |((name, genome), outcome): (&(String, Genome), Outcome)| {
            let measures = outcome.measured.map_err(|reason| Error::DeadContender {
                name: name.clone(),
                reason,
            })?;
            let fitness = fitness(&measures, &mean, parents.size_mb());
            Ok(Contender {
                name: name.clone(),
                genome: genome.clone(),
                hash: outcome.hash,
                measures,
                fitness,
            })
        };
        contenders.iter().zip(outcomes).map(row).collect()
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
    members.sort_by(|a, b| {
        b.round
            .cmp(&a.round)
            .then(b.fitness.total_cmp(&a.fitness))
            .then(a.id.cmp(&b.id))
    });
}
