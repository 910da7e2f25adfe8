//! Measuring candidates: through a cache, in parallel, on growing samples.
//!
//! A race runs in synchronous rounds. All candidates are measured on the first sample; the better
//! half goes on to the next, larger one, and so on; what a candidate is worth is its fitness in the
//! last round that it reached. Every candidate of a round sees the same items, and the parents' mean
//! on those items is what it is measured against.
//!
//! The cache is keyed by weight hash, evaluation-set hash and sample size. During one batch it is
//! read as it stood before, and results enter in slot order, so counts and results do not depend on
//! the number of threads. Candidates are tasks of the pool that the kernels compute on.

use super::{
    Child, Error, Genome, Individual, Measures, Parents, Space, decode, degenerate, fitness,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The three disjoint sets of evaluation items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Steers the search.
    Fitness,
    /// Picks the champion among the finalists.
    Selection,
    /// Is looked at once, for the report.
    HeldOut,
}

/// The first `items` items of a split (all, where it has fewer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Which set.
    pub split: Split,
    /// How many items.
    pub items: usize,
}

/// Why a child was not measured.
#[derive(Debug)]
pub enum EvaluateError {
    /// The child's forward pass is dead; it is replaced.
    Dead(String),
    /// Something else failed; the generation ends and nothing of it is kept.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

/// How a model is measured. Must give the same numbers for the same child and sample, always.
pub trait Evaluate: Sync {
    /// Hash of a split's items and of how they are scored.
    fn set_hash(&self, split: Split) -> String;

    /// A forward pass over a few tokens, before the first full evaluation of a child.
    fn probe(&self, child: &Child) -> Result<(), EvaluateError>;

    /// Measures a child on a sample.
    fn evaluate(&self, child: &Child, sample: Sample) -> Result<Measures, EvaluateError>;
}

/// Counted work of a search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Evaluations run.
    pub evaluations: u64,
    /// Items scored in them.
    pub scored_items: u64,
    /// Evaluations answered by the cache.
    pub cache_hits: u64,
    /// Degenerate or dead candidates replaced.
    pub rejected: u64,
}

/// All that has been measured, and the work it took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    measured: BTreeMap<String, Measures>,
    dead: BTreeMap<String, String>,
    means: BTreeMap<String, Measures>,
    /// The work so far.
    pub counts: Counts,
}

/// Where candidates are measured: what stays the same during one unit of work.
#[derive(Clone, Copy)]
pub(super) struct Bench<'a> {
    pub(super) parents: &'a Parents,
    pub(super) evaluator: &'a dyn Evaluate,
}

/// A genome to be measured and, where it was measured before, the hash of its weights.
pub(super) struct Job<'a> {
    pub(super) genome: &'a Genome,
    pub(super) hash: Option<&'a str>,
}

/// A child's weight hash with its measures, or the reason why it has none.
pub(super) struct Outcome {
    pub(super) hash: String,
    pub(super) measured: Result<Measures, String>,
    hit: bool,
}

/// A candidate that was replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejected {
    /// What it was.
    pub genome: Genome,
    /// What was wrong with it.
    pub reason: String,
}

/// A member on its way through the race.
struct Runner {
    id: u64,
    genome: Genome,
    rejected: Vec<Rejected>,
    last: Option<(usize, String, Measures, f64)>,
}

fn key(hash: &str, set: &str, items: usize) -> String {
    format!("{hash}/{set}/{items}")
}

impl Bench<'_> {
    /// Measures a batch; the result has the order of the jobs.
    pub(super) fn measure(
        &self,
        cache: &mut Cache,
        jobs: &[Job],
        sample: Sample,
    ) -> Result<Vec<Outcome>, Error> {
        let set = self.evaluator.set_hash(sample.split);
        let before = &*cache;
        let outcomes: Vec<Result<Outcome, Error>> = jobs
            .par_iter()
            .with_max_len(1)
            .map(|job| self.one(before, job, sample, &set))
            .collect();
        // The first fault in slot order, whichever thread was first.
        let outcomes: Vec<Outcome> = outcomes.into_iter().collect::<Result<_, Error>>()?;
        for outcome in &outcomes {
            if outcome.hit {
                cache.counts.cache_hits += 1;
                continue;
            }
            match &outcome.measured {
                Ok(measures) => {
                    cache.counts.evaluations += 1;
                    cache.counts.scored_items += sample.items as u64;
                    cache
                        .measured
                        .insert(key(&outcome.hash, &set, sample.items), measures.clone());
                }
                Err(reason) => {
                    cache.dead.insert(outcome.hash.clone(), reason.clone());
                }
            }
        }
        Ok(outcomes)
    }

    fn one(&self, cache: &Cache, job: &Job, sample: Sample, set: &str) -> Result<Outcome, Error> {
        let known = |hash: &str| {
            let measured = cache
                .measured
                .get(&key(hash, set, sample.items))
                .map(|m| Ok(m.clone()));
            let measured =
                measured.or_else(|| cache.dead.get(hash).map(|reason| Err(reason.clone())));
            measured.map(|measured| Outcome {
                hash: hash.to_owned(),
                measured,
                hit: true,
            })
        };
        if let Some(outcome) = job.hash.and_then(known) {
            return Ok(outcome);
        }
        let child = decode(job.genome, self.parents);
        let hash = child.hash();
        if let Some(outcome) = known(&hash) {
            return Ok(outcome);
        }
        // What has a hash has passed both checks in an earlier round.
        let checked = match job.hash {
            Some(_) => Ok(()),
            None => match degenerate(&child, self.parents) {
                Some(reason) => Err(EvaluateError::Dead(reason)),
                None => self.evaluator.probe(&child),
            },
        };
        let measured = match checked.and_then(|()| self.evaluator.evaluate(&child, sample)) {
            Ok(measures) if measures.finite() => Ok(measures),
            Ok(measures) => Err(format!("the evaluation gave {measures:?}")),
            Err(EvaluateError::Dead(reason)) => Err(reason),
            Err(EvaluateError::Failed(source)) => return Err(Error::Evaluation(source)),
        };
        Ok(Outcome {
            hash,
            measured,
            hit: false,
        })
    }

    /// The mean of the three parents on a sample.
    pub(super) fn parents_mean(
        &self,
        cache: &mut Cache,
        sample: Sample,
    ) -> Result<Measures, Error> {
        let set = self.evaluator.set_hash(sample.split);
        let name = key("parents", &set, sample.items);
        if let Some(mean) = cache.means.get(&name) {
            return Ok(mean.clone());
        }
        let genomes: Vec<Genome> = (0..3).map(|i| Genome::parent(i, self.parents)).collect();
        let jobs: Vec<Job> = genomes
            .iter()
            .map(|genome| Job { genome, hash: None })
            .collect();
        let outcomes = self.measure(cache, &jobs, sample)?;
        let measures: Vec<Measures> = outcomes
            .into_iter()
            .enumerate()
            .map(|(index, o)| {
                o.measured
                    .map_err(|reason| Error::DeadParent { index, reason })
            })
            .collect::<Result<_, _>>()?;
        let mean = Measures::mean(&measures);
        cache.means.insert(name, mean.clone());
        Ok(mean)
    }

    /// Races newcomers over the rounds (sample sizes). Returns them in the order given, each with
    /// what replaced it on the way, where it was degenerate.
    pub(super) fn race(
        &self,
        cache: &mut Cache,
        newcomers: Vec<(u64, Genome)>,
        rounds: &[usize],
    ) -> Result<Vec<(Individual, Vec<Rejected>)>, Error> {
        let start = |(id, genome)| Runner {
            id,
            genome,
            rejected: Vec::new(),
            last: None,
        };
        let mut runners: Vec<Runner> = newcomers.into_iter().map(start).collect();
        let mut living: Vec<usize> = (0..runners.len()).collect();
        for (round, &items) in rounds.iter().enumerate() {
            self.run_round(cache, &mut runners, &living, round, items)?;
            let worth = |&i: &usize| runners[i].last.as_ref().map_or(f64::NEG_INFINITY, |l| l.3);
            // Stable: of equals the earlier slot goes on.
            living.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
            living.truncate(living.len().div_ceil(2).max(2));
            living.sort_unstable();
        }
        let finish = |runner: Runner| {
            let (round, hash, measures, fitness) = runner
                .last
                .expect("every runner is measured in the first round, of at least one");
            let Runner {
                id,
                genome,
                rejected,
                ..
            } = runner;
            (
                Individual {
                    id,
                    genome,
                    hash,
                    round,
                    measures,
                    fitness,
                },
                rejected,
            )
        };
        Ok(runners.into_iter().map(finish).collect())
    }

    /// One round: measures the living; a dead one is replaced by the linear merge with its own
    /// weights, and should that be dead too, with equal weights.
    fn run_round(
        &self,
        cache: &mut Cache,
        runners: &mut [Runner],
        living: &[usize],
        round: usize,
        items: usize,
    ) -> Result<(), Error> {
        let sample = Sample {
            split: Split::Fitness,
            items,
        };
        let mean = self.parents_mean(cache, sample)?;
        let size_mb = self.parents.size_mb();
        let mut waiting = living.to_vec();
        while !waiting.is_empty() {
            let job = |&i: &usize| Job {
                genome: &runners[i].genome,
                hash: runners[i].last.as_ref().map(|last| last.1.as_str()),
            };
            let jobs: Vec<Job> = waiting.iter().map(job).collect();
            let outcomes = self.measure(cache, &jobs, sample)?;
            let mut again = Vec::new();
            for (&i, Outcome { hash, measured, .. }) in waiting.iter().zip(outcomes) {
                let runner = &mut runners[i];
                match measured {
                    Ok(measures) => {
                        let fitness = fitness(&measures, &mean, size_mb);
                        runner.last = Some((round, hash, measures, fitness));
                    }
                    Err(reason) => {
                        let space = Space::of(self.parents);
                        let fallback = match runner.rejected.len() {
                            0 => Genome::linear(runner.genome.weights, space),
                            1 => Genome::linear([1.0; 3], space),
                            _ => return Err(Error::NothingValid { reason }),
                        };
                        cache.counts.rejected += 1;
                        let genome = std::mem::replace(&mut runner.genome, fallback);
                        runner.rejected.push(Rejected { genome, reason });
                        runner.last = None;
                        again.push(i);
                    }
                }
            }
            waiting = again;
        }
        Ok(())
    }
}
