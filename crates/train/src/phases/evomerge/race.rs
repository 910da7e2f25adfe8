//! The race: newcomers on growing samples, and what cannot win stopped early.
//!
//! It runs in synchronous rounds. All newcomers are measured on the first sample. The best third goes on to the next,
//! larger one, unless it is already clearly worse than the best member of the population on the same items: by more than
//! `doubt` standard errors of the difference. What a newcomer is worth is its fitness in the last round that it reached.
//! Everyone in a round sees the same items, and the parents' mean on those items is what fitness is measured against.

use super::measure::{Bench, Candidate, Job, Outcome};
use super::{Cache, Error, Genome, Individual, Measures, Sample, Space, Split, doubt, fitness};
use serde::{Deserialize, Serialize};

/// One in so many goes on from a round.
pub(super) const KEEP: usize = 3;

/// A candidate that was replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejected {
    /// What it was.
    pub genome: Genome,
    /// What was wrong with it.
    pub reason: String,
}

/// How a race is run.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    /// Sample sizes, growing.
    pub(super) rounds: &'a [usize],
    /// Hash of the best member, which a newcomer must not be clearly worse than.
    pub(super) best: Option<&'a str>,
    /// Standard errors by which one that is stopped is worse than it.
    pub(super) doubt: f64,
    /// Whether a degenerate newcomer is left out instead of replaced by a linear merge.
    pub(super) drop: bool,
}

/// A newcomer after its race, with what it was replaced for; None where it was left out.
pub(super) type Raced = (Option<Individual>, Vec<Rejected>);

/// A newcomer on its way through the race.
struct Runner<'a> {
    id: u64,
    genome: Genome,
    rejected: Vec<Rejected>,
    last: Option<Last>,
    ready: Option<Box<dyn Candidate + 'a>>,
}

/// Where a newcomer stands after a round.
struct Last {
    round: usize,
    hash: String,
    measures: Measures,
    fitness: f64,
}

impl<'a> Bench<'a> {
    /// Races newcomers over the rounds. Returns them in the order given.
    pub(super) fn race(
        &self,
        cache: &mut Cache,
        newcomers: Vec<(u64, Genome)>,
        rules: Rules,
    ) -> Result<Vec<Raced>, Error> {
        let start = |(id, genome)| Runner {
            id,
            genome,
            rejected: Vec::new(),
            last: None,
            ready: None,
        };
        let mut runners: Vec<Runner> = newcomers.into_iter().map(start).collect();
        let mut living: Vec<usize> = (0..runners.len()).collect();
        for (round, &items) in rules.rounds.iter().enumerate() {
            self.run_round(cache, &mut runners, &mut living, (round, items), rules.drop)?;
            self.go_on(cache, &mut runners, &mut living, items, rules)?;
        }
        Ok(runners.into_iter().map(Runner::finish).collect())
    }

    /// Keeps those that go on to the next round.
    fn go_on(
        &self,
        cache: &mut Cache,
        runners: &mut [Runner],
        living: &mut Vec<usize>,
        items: usize,
        rules: Rules,
    ) -> Result<(), Error> {
        let before = living.clone();
        let worth = |i: usize| {
            runners[i]
                .last
                .as_ref()
                .map_or(f64::NEG_INFINITY, |l| l.fitness)
        };
        // Stable: of equals the earlier slot goes on.
        living.sort_by(|&a, &b| worth(b).total_cmp(&worth(a)));
        living.truncate(living.len().div_ceil(KEEP));
        let sample = Sample {
            split: Split::Fitness,
            items,
        };
        let best = rules.best.and_then(|hash| self.known(cache, hash, sample));
        if let Some(best) = best {
            let mean = self.parents_mean(cache, sample)?;
            let size_mb = self.parents.size_mb();
            let its_fitness = fitness(&best, &mean, size_mb);
            living.retain(|&i| {
                runners[i].last.as_ref().is_some_and(|own| {
                    let error = doubt(&own.measures, &best, &mean, size_mb);
                    own.fitness + rules.doubt * error >= its_fitness
                })
            });
        }
        living.sort_unstable();
        // Whoever is out needs no memory any more.
        for i in before {
            if !living.contains(&i) {
                runners[i].ready = None;
            }
        }
        Ok(())
    }

    /// One round: measures the living; a degenerate one is replaced by the linear merge with its own weights, and should
    /// that be degenerate too, with equal weights; or it is left out.
    fn run_round(
        &self,
        cache: &mut Cache,
        runners: &mut [Runner<'a>],
        living: &mut Vec<usize>,
        (round, items): (usize, usize),
        drop: bool,
    ) -> Result<(), Error> {
        let sample = Sample {
            split: Split::Fitness,
            items,
        };
        let mean = self.parents_mean(cache, sample)?;
        let size_mb = self.parents.size_mb();
        let mut waiting = living.clone();
        while !waiting.is_empty() {
            let mut ready: Vec<_> = waiting.iter().map(|&i| runners[i].ready.take()).collect();
            let job = |(&i, ready): (&usize, &mut Option<Box<dyn Candidate + 'a>>)| Job {
                genome: &runners[i].genome,
                hash: runners[i].last.as_ref().map(|last| last.hash.as_str()),
                ready: ready.take(),
            };
            let jobs: Vec<Job> = waiting.iter().zip(&mut ready).map(job).collect();
            let outcomes = self.measure(cache, jobs, sample)?;
            let mut again = Vec::new();
            for (&i, outcome) in waiting.iter().zip(outcomes) {
                let Outcome {
                    hash,
                    measured,
                    ready,
                    ..
                } = outcome;
                let runner = &mut runners[i];
                match measured {
                    Ok(measures) => {
                        let fitness = fitness(&measures, &mean, size_mb);
                        runner.ready = ready;
                        runner.last = Some(Last {
                            round,
                            hash,
                            measures,
                            fitness,
                        });
                    }
                    Err(reason) => {
                        cache.counts.rejected += 1;
                        if drop {
                            let genome = runner.genome.clone();
                            runner.rejected.push(Rejected { genome, reason });
                            runner.last = None;
                        } else {
                            runner.replace(reason, Space::of(self.parents))?;
                            again.push(i);
                        }
                    }
                }
            }
            waiting = again;
        }
        living.retain(|&i| runners[i].last.is_some());
        Ok(())
    }
}

impl Runner<'_> {
    /// Takes the linear merge in place of what is degenerate.
    fn replace(&mut self, reason: String, space: Space) -> Result<(), Error> {
        let fallback = match self.rejected.len() {
            0 => Genome::linear(self.genome.weights, space),
            1 => Genome::linear([1.0; 3], space),
            _ => return Err(Error::NothingValid { reason }),
        };
        let genome = std::mem::replace(&mut self.genome, fallback);
        self.rejected.push(Rejected { genome, reason });
        (self.last, self.ready) = (None, None);
        Ok(())
    }

    fn finish(self) -> Raced {
        let (id, genome) = (self.id, self.genome);
        let individual = self.last.map(|last| Individual {
            id,
            genome,
            hash: last.hash,
            round: last.round,
            measures: last.measures,
            fitness: last.fitness,
        });
        (individual, self.rejected)
    }
}
