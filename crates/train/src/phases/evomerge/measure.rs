//! Measuring candidates: checks before the first full evaluation, then samples through a cache, in parallel.
//!
//! How a model is measured is behind [`Evaluate`]; nothing here knows a tensor or a text. A sample is the first so many
//! items of a split, so a larger one holds a smaller one: where that is known, only the items that are new are scored, and
//! the measures are added up. The cache is keyed by weight hash, evaluation-set hash and sample size. During one batch it
//! is read as it stood before, and results enter in slot order, so counts and results do not depend on the number of
//! threads. Candidates are tasks of the pool that the kernels compute on.
//!
//! A child is *degenerate* when its weights hold a value that is not finite or have lost their variance, when its forward
//! pass is dead, or when it has collapsed: it gives one token whatever it reads although every parent does better, or its
//! loss is above that of the token frequencies alone (and above every parent's). It is then never scored.

use super::{Child, Error, Genome, Measures, Parents, decode, degenerate};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The three disjoint sets of evaluation items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// What a few tokens tell of a model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Mean loss per token, in nats.
    pub nats: f64,
    /// Different tokens among those it holds for the likeliest.
    pub different: usize,
}

/// How models are measured. Must give the same numbers for the same child and items, always.
pub trait Evaluate: Sync {
    /// Hash of a split's items and of how they are scored.
    fn set_hash(&self, split: Split) -> String;

    /// Items of a split.
    fn items(&self, split: Split) -> usize;

    /// Loss per token, in nats, of a guess that knows only how often each token occurs.
    fn unigram(&self) -> f64;

    /// Makes a child ready to be measured, once for all its samples.
    fn ready<'a>(&'a self, child: Child) -> Box<dyn Candidate + 'a>;
}

/// A model that is ready to be measured.
pub trait Candidate: Send + Sync {
    /// A forward pass over a few tokens, before the first evaluation.
    fn probe(&self) -> Result<Probe, EvaluateError>;

    /// Measures it on some items of a split.
    fn evaluate(&self, split: Split, items: Range<usize>) -> Result<Measures, EvaluateError>;
}

/// Counted work of a search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Evaluations run, one for each round of a candidate.
    pub evaluations: u64,
    /// Models of which anything was scored.
    pub candidates: u64,
    /// Items scored.
    pub scored_items: u64,
    /// Tokens of the texts among them.
    pub scored_tokens: u64,
    /// Evaluations answered by the cache.
    pub cache_hits: u64,
    /// Degenerate candidates replaced.
    pub rejected: u64,
}

impl Counts {
    /// The work since an earlier count.
    pub fn since(self, before: Counts) -> Counts {
        Counts {
            evaluations: self.evaluations - before.evaluations,
            candidates: self.candidates - before.candidates,
            scored_items: self.scored_items - before.scored_items,
            scored_tokens: self.scored_tokens - before.scored_tokens,
            cache_hits: self.cache_hits - before.cache_hits,
            rejected: self.rejected - before.rejected,
        }
    }

    /// Share of the evaluations asked for that the cache answered; None before the first.
    pub fn hit_rate(self) -> Option<f64> {
        let asked = self.cache_hits + self.evaluations;
        (asked > 0).then(|| self.cache_hits as f64 / asked as f64)
    }
}

/// All that has been measured, and the work it took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    /// By weight hash and set hash, then by sample size.
    measured: BTreeMap<String, BTreeMap<usize, Measures>>,
    dead: BTreeMap<String, String>,
    /// The parents' mean, by set hash and sample size.
    means: BTreeMap<String, Measures>,
    /// The worst of the parents' probes.
    floor: Option<Probe>,
    /// The work so far.
    pub counts: Counts,
}

/// Where candidates are measured: what stays the same during one unit of work.
#[derive(Clone, Copy)]
pub(super) struct Bench<'a> {
    pub(super) parents: &'a Parents,
    pub(super) evaluator: &'a dyn Evaluate,
}

/// A genome to be measured; where it was measured before, the hash of its weights; where it is decoded, itself.
pub(super) struct Job<'a, 'b> {
    pub(super) genome: &'b Genome,
    pub(super) hash: Option<&'b str>,
    pub(super) ready: Option<Box<dyn Candidate + 'a>>,
}

/// A job whose weights are known.
struct Prepared<'a> {
    genome: Genome,
    hash: String,
    child: Option<Child>,
    ready: Option<Box<dyn Candidate + 'a>>,
}

impl<'a> Prepared<'a> {
    /// What the cache will answer.
    fn unmeasured(self) -> Outcome<'a> {
        Outcome {
            hash: self.hash,
            measured: Err(String::new()),
            ready: self.ready,
            probe: None,
            scored: None,
            first: false,
        }
    }
}

/// A child's weight hash with its measures, or the reason why it has none.
pub(super) struct Outcome<'a> {
    pub(super) hash: String,
    pub(super) measured: Result<Measures, String>,
    /// Ready for a larger sample, where it had to be decoded.
    pub(super) ready: Option<Box<dyn Candidate + 'a>>,
    probe: Option<Probe>,
    /// Items and tokens scored; None when the cache had the answer.
    scored: Option<(usize, u64)>,
    first: bool,
}

impl Cache {
    /// What is known of a model's sample.
    fn known(&self, hash: &str, set: &str, items: usize) -> Option<Result<Measures, String>> {
        let sizes = self.measured.get(&key(hash, set));
        let measured = sizes.and_then(|s| s.get(&items)).map(|m| Ok(m.clone()));
        measured.or_else(|| self.dead.get(hash).map(|reason| Err(reason.clone())))
    }

    /// The largest sample up to `items` that is known.
    fn part(&self, hash: &str, set: &str, items: usize) -> Option<(usize, &Measures)> {
        let sizes = self.measured.get(&key(hash, set))?;
        sizes.range(..items).next_back().map(|(n, m)| (*n, m))
    }

    /// Whether a model has been scored on any set, and so is sound.
    fn sound(&self, hash: &str) -> bool {
        let from = self.measured.range(hash.to_owned()..).next();
        from.is_some_and(|(key, _)| key.starts_with(hash))
    }

    fn enter(&mut self, outcome: &Outcome, set: &str, items: usize) {
        let Some((scored, tokens)) = outcome.scored else {
            self.counts.cache_hits += 1;
            return;
        };
        match &outcome.measured {
            Ok(measures) => {
                self.counts.evaluations += 1;
                self.counts.candidates += u64::from(outcome.first);
                self.counts.scored_items += scored as u64;
                self.counts.scored_tokens += tokens;
                let sizes = self.measured.entry(key(&outcome.hash, set)).or_default();
                sizes.insert(items, measures.clone());
            }
            Err(reason) => {
                self.dead.insert(outcome.hash.clone(), reason.clone());
            }
        }
    }
}

fn key(hash: &str, set: &str) -> String {
    format!("{hash}/{set}")
}

impl<'a> Bench<'a> {
    /// A sample no larger than its split.
    fn within(&self, sample: Sample) -> Sample {
        let items = sample.items.min(self.evaluator.items(sample.split));
        Sample { items, ..sample }
    }

    /// Measures a batch; the result has the order of the jobs. Of jobs with the same weights the first is scored.
    pub(super) fn measure(
        &self,
        cache: &mut Cache,
        jobs: Vec<Job<'a, '_>>,
        sample: Sample,
    ) -> Result<Vec<Outcome<'a>>, Error> {
        let sample = self.within(sample);
        let set = self.evaluator.set_hash(sample.split);
        let prepared: Vec<Prepared> = jobs
            .into_par_iter()
            .with_max_len(1)
            .map(|job| self.prepare(job))
            .collect();
        let before = &*cache;
        let mut seen = BTreeSet::new();
        let answered = |p: &Prepared| before.known(&p.hash, &set, sample.items).is_some();
        let to_score: Vec<bool> = prepared
            .iter()
            .map(|p| !answered(p) && seen.insert(p.hash.clone()))
            .collect();
        let scored: Vec<Result<Outcome, Error>> = prepared
            .into_par_iter()
            .zip(to_score)
            .with_max_len(1)
            .map(|(p, score)| match score {
                true => self.score(before, p, sample, &set),
                false => Ok(p.unmeasured()),
            })
            .collect();
        // The first fault in slot order, whichever thread was first.
        let mut outcomes: Vec<Outcome> = scored.into_iter().collect::<Result<_, Error>>()?;
        for outcome in &outcomes {
            cache.enter(outcome, &set, sample.items);
        }
        for outcome in outcomes.iter_mut().filter(|o| o.scored.is_none()) {
            let known = cache.known(&outcome.hash, &set, sample.items);
            outcome.measured = known.expect("the first of equal weights was scored");
        }
        Ok(outcomes)
    }

    /// Decodes a job that was not measured before, to see what its weights are.
    fn prepare(&self, job: Job<'a, '_>) -> Prepared<'a> {
        let child = job.hash.is_none().then(|| decode(job.genome, self.parents));
        let hash = child.as_ref().map(Child::hash);
        Prepared {
            genome: job.genome.clone(),
            hash: hash.or(job.hash.map(str::to_owned)).unwrap_or_default(),
            child,
            ready: job.ready,
        }
    }

    /// Checks a child unless it has been scored before, and scores the items that are new to it.
    fn score(
        &self,
        cache: &Cache,
        prepared: Prepared<'a>,
        sample: Sample,
        set: &str,
    ) -> Result<Outcome<'a>, Error> {
        let mut outcome = Outcome {
            hash: prepared.hash,
            measured: Err(String::new()),
            ready: None,
            probe: None,
            scored: Some((0, 0)),
            first: false,
        };
        let candidate = match prepared.ready {
            Some(ready) => Ok(ready),
            None => {
                let decoded = prepared.child;
                let child = decoded.unwrap_or_else(|| decode(&prepared.genome, self.parents));
                self.checked(cache, child, &mut outcome)
            }
        };
        let part = cache.part(&outcome.hash, set, sample.items);
        let from = part.map_or(0, |(items, _)| items);
        let measured = candidate.and_then(|candidate| {
            let measured = candidate.evaluate(sample.split, from..sample.items);
            outcome.ready = Some(candidate);
            measured
        });
        outcome.measured = match measured {
            Ok(measures) if measures.finite() => {
                outcome.first = part.is_none();
                outcome.scored = Some((sample.items - from, measures.tokens));
                Ok(part.map_or_else(|| measures.clone(), |(_, known)| known.plus(&measures)))
            }
            Ok(measures) => Err(format!("the evaluation gave {measures:?}")),
            Err(EvaluateError::Dead(reason)) => Err(reason),
            Err(EvaluateError::Failed(source)) => return Err(Error::Evaluation(source)),
        };
        Ok(outcome)
    }

    /// A child that is ready to be scored, where it is sound.
    fn checked(
        &self,
        cache: &Cache,
        child: Child,
        outcome: &mut Outcome,
    ) -> Result<Box<dyn Candidate + 'a>, EvaluateError> {
        let sound = cache.sound(&outcome.hash);
        if !sound && let Some(reason) = degenerate(&child, self.parents) {
            return Err(EvaluateError::Dead(reason));
        }
        let candidate = self.evaluator.ready(child);
        if !sound {
            let probe = candidate.probe()?;
            outcome.probe = Some(probe);
            self.alive(probe, cache.floor)?;
        }
        Ok(candidate)
    }

    /// Refuses what has collapsed, measured by the frequencies of the tokens and by the worst parent.
    fn alive(&self, probe: Probe, floor: Option<Probe>) -> Result<(), EvaluateError> {
        let dead = |reason: String| Err(EvaluateError::Dead(reason));
        if !probe.nats.is_finite() {
            return dead("its forward pass gives values that are not finite".to_owned());
        }
        let Some(floor) = floor else { return Ok(()) };
        if probe.different <= 1 && floor.different > 1 {
            return dead("it has collapsed: it gives one token whatever it reads".to_owned());
        }
        let limit = self.evaluator.unigram().max(floor.nats);
        if probe.nats > limit {
            return dead(format!(
                "it has collapsed: {:.2} nats a token, more than the {limit:.2} of the token frequencies alone",
                probe.nats
            ));
        }
        Ok(())
    }

    /// The mean of the three parents on a sample.
    pub(super) fn parents_mean(
        &self,
        cache: &mut Cache,
        sample: Sample,
    ) -> Result<Measures, Error> {
        let sample = self.within(sample);
        let set = self.evaluator.set_hash(sample.split);
        let name = format!("{set}/{}", sample.items);
        if let Some(mean) = cache.means.get(&name) {
            return Ok(mean.clone());
        }
        let genomes: Vec<Genome> = (0..3).map(|i| Genome::parent(i, self.parents)).collect();
        let jobs = genomes.iter().map(Job::new).collect();
        let outcomes = self.measure(cache, jobs, sample)?;
        if cache.floor.is_none() {
            let probes = outcomes.iter().filter_map(|o| o.probe);
            cache.floor = probes.reduce(|a, b| Probe {
                nats: a.nats.max(b.nats),
                different: a.different.min(b.different),
            });
        }
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

    /// What is known of a member's sample, without measuring anything.
    pub(super) fn known(&self, cache: &Cache, hash: &str, sample: Sample) -> Option<Measures> {
        let sample = self.within(sample);
        let set = self.evaluator.set_hash(sample.split);
        cache.known(hash, &set, sample.items)?.ok()
    }
}

impl<'b> Job<'_, 'b> {
    /// A genome that was not measured before.
    pub(super) fn new(genome: &'b Genome) -> Self {
        Job {
            genome,
            hash: None,
            ready: None,
        }
    }
}
