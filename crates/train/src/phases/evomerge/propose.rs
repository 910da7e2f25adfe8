//! What asks to be born: the children of a generation, by strategy.
//!
//! *Evolution*: two elites stay, four children are their mutants, two come from merging the six losers in two groups of
//! three (every other rank each, so both groups hold good and bad). While a population converges and that is to be mended,
//! the mutation rate doubles, the second elite is the best one far enough from the first, and a random genome of the
//! combination least used takes the place of a merged one. A combination that never had a valid child is tried again every
//! generation. *CMA-ES*: eight points of its distribution, which is told their order; the first eight are moved to one
//! combination each. *Random*: the elites and six genomes drawn anew, the baseline of a search that learns nothing.

use super::cma::{Cma, reflected};
use super::encoding;
use super::genome::Draws;
use super::search::{Born, POPULATION};
use super::{Genome, Individual, Origin, Remedy, Search, Space, Strategy};

/// A genome that asks to be born, how it came to be, and the members it came from.
pub(super) type Proposal = (Origin, Vec<u64>, Genome);

/// First step of CMA-ES, in units of a gene's range.
const FIRST_STEP: f64 = 0.2;

impl Search {
    /// Members that stay, children, and for CMA-ES the children's points.
    pub(super) fn proposals(&mut self, space: Space) -> (Vec<usize>, Vec<Proposal>, Vec<Vec<f64>>) {
        match (self.generation, self.settings.strategy) {
            (0, Strategy::Evolution) => {
                let proposals = self.combinations_of_generation_0(space);
                (Vec::new(), proposals, Vec::new())
            }
            (_, Strategy::Evolution) => {
                let elites = self.elites();
                (elites.to_vec(), self.children(elites, space), Vec::new())
            }
            (_, Strategy::CmaEs) => {
                let (proposals, points) = self.sampled(space);
                ((0..self.population.len()).collect(), proposals, points)
            }
            (generation, Strategy::Random) => {
                let kept = self.population.len().min(2);
                let new = if generation == 0 {
                    POPULATION
                } else {
                    POPULATION - 2
                };
                (
                    (0..kept).collect(),
                    self.random_genomes(space, new),
                    Vec::new(),
                )
            }
        }
    }

    /// Lets CMA-ES learn from the order of its points; degenerate ones come last.
    pub(super) fn learn(&mut self, points: Vec<Vec<f64>>, born: &[Born]) {
        let Some(cma) = &mut self.cma else { return };
        let mut slots: Vec<usize> = (0..points.len()).collect();
        let place = |&slot: &usize| {
            let (individual, degenerate) = &born[slot];
            let sound = individual.as_ref().filter(|_| !degenerate);
            sound.map_or((-1, f64::NEG_INFINITY), |m| (m.round as i64, m.fitness))
        };
        // Stable: of equals the earlier slot counts as better.
        slots.sort_by(|a, b| {
            let (a, b) = (place(a), place(b));
            b.0.cmp(&a.0).then(b.1.total_cmp(&a.1))
        });
        let ordered: Vec<Vec<f64>> = slots.into_iter().map(|slot| points[slot].clone()).collect();
        cma.tell(&ordered);
    }

    fn sampled(&mut self, space: Space) -> (Vec<Proposal>, Vec<Vec<f64>>) {
        let cma = (self.cma).get_or_insert_with(|| Cma::new(encoding::centre(space), FIRST_STEP));
        let (seed, generation) = (self.settings.seed, self.generation);
        let point = |slot| {
            let mut point = cma.ask(&mut Draws::new(seed, "evomerge cma-es", generation, slot));
            // The first population has every combination, as evolution's has.
            if generation == 0 {
                encoding::combine(&mut point, slot as u8);
            }
            point
        };
        let points: Vec<Vec<f64>> = (0..POPULATION).map(point).collect();
        let genome = |point: &Vec<f64>| encoding::genome(&reflected(point), space, seed);
        let proposals = points
            .iter()
            .map(|point| (Origin::Sampled, Vec::new(), genome(point)));
        (proposals.collect(), points)
    }

    /// Rate at which this generation's mutants are made.
    pub(super) fn mutation_rate(&self) -> f64 {
        match self.converging.remedy {
            Remedy::Inject | Remedy::RaiseMutation => 2.0 * self.settings.mutation,
            Remedy::GoOn | Remedy::RestartTwo => self.settings.mutation,
        }
    }

    /// The two that stay: the best, and the next best; while convergence is mended, the next best that is at least
    /// `diversity` of generation 0's spread away from the first, or the farthest.
    fn elites(&self) -> [usize; 2] {
        let alone = self.population.len() == 1;
        if alone || self.converging.remedy != Remedy::Inject {
            return [0, usize::from(!alone)];
        }
        let from_best = &self.distances[0];
        let enough = self.settings.diversity * self.spread;
        let far = (1..self.population.len()).find(|&i| from_best[i] >= enough);
        let farthest = (1..self.population.len())
            .rev()
            .max_by(|&a, &b| from_best[a].total_cmp(&from_best[b]))
            .expect("there is a second member");
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

    fn children(&self, elites: [usize; 2], space: Space) -> Vec<Proposal> {
        let rate = self.mutation_rate();
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
            // A population from which some were left out has fewer losers, perhaps none.
            let loser = |k: usize| losers.get((group + k) % losers.len().max(1)).copied();
            let of = [0, 2, 4].map(|k| loser(k).unwrap_or(&self.population[0]));
            let mut draws = self.draws("evomerge merged", group);
            let genome = Genome::merged(of.map(|m| &m.genome), &mut draws);
            children.push((Origin::Merged, of.map(|m| m.id).to_vec(), genome));
        }
        let least = (0..8)
            .min_by_key(|&bits| self.combinations[bits])
            .expect("eight combinations");
        let never = usize::from(self.combinations[least] == 0);
        let from = children.len() - self.converging.newcomers.max(never).min(children.len());
        for (slot, child) in children[from..].iter_mut().enumerate() {
            let mut draws = self.draws("evomerge injected", slot);
            let genome = Genome::random(least as u8, space, &mut draws);
            *child = (Origin::Injected, Vec::new(), genome);
        }
        children
    }

    fn draws(&self, purpose: &str, slot: usize) -> Draws {
        Draws::new(self.settings.seed, purpose, self.generation, slot)
    }
}
