//! The choice of a champion, and what it is measured against.
//!
//! Finalists, parents and a sweep of task arithmetic are chosen from on the selection split; what came of it is measured on the
//! held-out split, which nothing is chosen on.

use super::measure::{Bench, Job, Outcome};
use super::search::rank;
use super::{
    Champion, Contender, Error, Evaluate, Genome, Individual, Parents, Sample, Search, Space,
    Split, fitness,
};
use std::collections::BTreeSet;

/// The row with the best fitness; of equals the first.
pub fn fittest(rows: Vec<Contender>) -> Option<Contender> {
    let better = |a: Contender, b: Contender| if b.fitness > a.fitness { b } else { a };
    rows.into_iter().reduce(better)
}

/// The parents as genomes: `parent0` to `parent2`.
fn three(parents: &Parents) -> [(String, Genome); 3] {
    [0, 1, 2].map(|i| (format!("parent{i}"), Genome::parent(i, parents)))
}

impl Search {
    /// The best `n` different members that finished a race: population, sweep and Pareto front.
    fn finalists(&self, n: usize) -> Vec<Individual> {
        let everyone = self.population.iter().chain(&self.sweep).chain(&self.front);
        let mut finalists: Vec<Individual> = everyone.filter(|m| self.raced(m)).cloned().collect();
        rank(&mut finalists);
        let mut seen = BTreeSet::new();
        finalists.retain(|m| seen.insert(m.hash.clone()));
        finalists.truncate(n);
        finalists
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

    /// The parent with the best fitness on `items` items of the selection split: 0, 1 or 2.
    pub fn best_parent(
        &mut self,
        parents: &Parents,
        evaluator: &dyn Evaluate,
        items: usize,
    ) -> Result<usize, Error> {
        let sample = Sample {
            split: Split::Selection,
            items,
        };
        let rows = self.compare(parents, evaluator, &three(parents), sample)?;
        let best = (0..3).max_by(|&a, &b| rows[a].fitness.total_cmp(&rows[b].fitness));
        Ok(best.expect("three parents"))
    }

    /// Measures on `items` items of the held-out split, in this order: the champion, `parent0` to `parent2`,
    /// `task_arithmetic` (with the settings' lambda that is best on as many items of the selection split), `uniform`, and
    /// `others`. A merge that is degenerate has no row.
    pub fn stand(
        &mut self,
        parents: &Parents,
        evaluator: &dyn Evaluate,
        champion: &Genome,
        others: Vec<(String, Genome)>,
        items: usize,
    ) -> Result<Vec<Contender>, Error> {
        let sample = |split| Sample { split, items };
        let space = Space::of(parents);
        let lambda = |&lambda: &f64| (String::new(), Genome::arithmetic(lambda, space));
        let sweep: Vec<_> = self.settings.sweep.iter().map(lambda).collect();
        let swept = self.compare_living(parents, evaluator, &sweep, sample(Split::Selection))?;

        let mut sound = vec![("champion".to_owned(), champion.clone())];
        sound.extend(three(parents));
        let mut rows = self.compare(parents, evaluator, &sound, sample(Split::HeldOut))?;
        let arithmetic = fittest(swept).map(|best| ("task_arithmetic".to_owned(), best.genome));
        let mut rest = Vec::from_iter(arithmetic);
        let uniform = Genome::linear([1.0 / 3.0; 3], space);
        rest.push(("uniform".to_owned(), uniform));
        rest.extend(others);
        rows.extend(self.compare_living(parents, evaluator, &rest, sample(Split::HeldOut))?);
        Ok(rows)
    }

    /// Measures named genomes on one sample, through the cache, against the parents' mean there.
    ///
    /// # Errors
    /// Among others a contender that is degenerate.
    pub fn compare(
        &mut self,
        parents: &Parents,
        evaluator: &dyn Evaluate,
        contenders: &[(String, Genome)],
        sample: Sample,
    ) -> Result<Vec<Contender>, Error> {
        let rows = self.outcomes(parents, evaluator, contenders, sample)?;
        rows.into_iter().collect()
    }

    /// As [`Search::compare`], without those that are degenerate.
    pub fn compare_living(
        &mut self,
        parents: &Parents,
        evaluator: &dyn Evaluate,
        contenders: &[(String, Genome)],
        sample: Sample,
    ) -> Result<Vec<Contender>, Error> {
        let rows = self.outcomes(parents, evaluator, contenders, sample)?;
        Ok(rows.into_iter().filter_map(Result::ok).collect())
    }

    /// A row for each contender, or why it is degenerate.
    fn outcomes(
        &mut self,
        parents: &Parents,
        evaluator: &dyn Evaluate,
        contenders: &[(String, Genome)],
        sample: Sample,
    ) -> Result<Vec<Result<Contender, Error>>, Error> {
        self.same_parents(parents)?;
        let bench = Bench { parents, evaluator };
        let mean = bench.parents_mean(&mut self.cache, sample)?;
        let jobs = contenders.iter().map(|c| Job::new(&c.1)).collect();
        let outcomes = bench.measure(&mut self.cache, jobs, sample)?;
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
        Ok(contenders.iter().zip(outcomes).map(row).collect())
    }
}
