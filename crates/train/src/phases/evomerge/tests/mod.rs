//! The search on a synthetic problem: loss is a bowl around a point in the space of task vectors,
//! which layers mix differently, seen through noise that falls with the sample.
#![allow(clippy::unwrap_used)]

mod detectors;
mod genomes;
mod race;

use super::*;
use merge::random::Counted;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const BLOCKS: usize = 4;

fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix('b')
        .and_then(|rest| rest.split('.').next())
        .and_then(|digits| digits.parse().ok())
}

fn tensors() -> Vec<String> {
    let mut names = vec!["embedding".to_owned(), "norm".to_owned()];
    names.extend((0..BLOCKS).map(|b| format!("b{b}.w")));
    names
}

/// An ancestor and three branches whose task vectors are nearly orthogonal; the norm stays all ones.
fn parents() -> Parents {
    let tensor = |name: &str, purpose: u64, size: f32| -> Vec<f32> {
        let draws = Counted::new(11, name, purpose);
        (0..96)
            .map(|i| {
                if name == "norm" {
                    1.0
                } else {
                    size * draws.normal(i)
                }
            })
            .collect()
    };
    let ancestor: Weights = tensors()
        .into_iter()
        .map(|n| (n.clone(), tensor(&n, 0, 1.0)))
        .collect();
    let model = |purpose: u64| -> Arc<Weights> {
        let branch = |(name, base): (&String, &Vec<f32>)| {
            let delta = tensor(name, purpose, if name == "norm" { 0.0 } else { 0.3 });
            let moved = base
                .iter()
                .zip(&delta)
                .map(|(b, d)| if name == "norm" { *b } else { b + d });
            (name.clone(), moved.collect())
        };
        Arc::new(ancestor.iter().map(branch).collect())
    };
    Parents {
        models: [model(1), model(2), model(3)],
        ancestor: Arc::new(ancestor),
        block_of,
        blocks: BLOCKS,
        thresholds: [0.95, 0.90, 0.99],
    }
}

/// The bowl, with a rule for which children are dead, what their probes find, and a count of the evaluations that ran.
struct Bowl {
    target: Weights,
    dead: fn(&Child) -> bool,
    probe: fn(&Child) -> Probe,
    /// Evaluations after which every further one fails.
    fails_after: u64,
    ran: AtomicU64,
    /// Weights, split and item of everything scored.
    seen: Mutex<BTreeSet<(String, Split, usize)>>,
    twice: AtomicU64,
}

fn bowl(parents: &Parents) -> Bowl {
    let mix = |name: &str| match block_of(name) {
        Some(0) => [0.9, 0.2, 0.1],
        Some(1) => [0.1, 0.8, 0.3],
        Some(_) => [0.45, 0.35, 0.55],
        None => [0.4, 0.4, 0.4],
    };
    let target = |(name, base): (&String, &Vec<f32>)| {
        let point = |(i, b): (usize, &f32)| {
            let delta = |m: usize| parents.models[m][name][i] - b;
            b + mix(name)[0] * delta(0) + mix(name)[1] * delta(1) + mix(name)[2] * delta(2)
        };
        (name.clone(), base.iter().enumerate().map(point).collect())
    };
    let target = parents.ancestor.iter().map(target).collect();
    Bowl {
        target,
        dead: |_| false,
        probe: |_| HEALTHY,
        fails_after: u64::MAX,
        ran: AtomicU64::new(0),
        seen: Mutex::default(),
        twice: AtomicU64::new(0),
    }
}

/// What the probe of a sound model finds.
const HEALTHY: Probe = Probe {
    nats: 2.0,
    different: 5,
};

impl Evaluate for Bowl {
    fn set_hash(&self, split: Split) -> String {
        format!("{split:?}")
    }

    fn items(&self, _: Split) -> usize {
        1000
    }

    fn unigram(&self) -> f64 {
        4.0
    }

    fn ready<'a>(&'a self, child: Child) -> Box<dyn Candidate + 'a> {
        Box::new(InBowl { bowl: self, child })
    }
}

struct InBowl<'a> {
    bowl: &'a Bowl,
    child: Child,
}

impl Candidate for InBowl<'_> {
    fn probe(&self) -> Result<Probe, EvaluateError> {
        match (self.bowl.dead)(&self.child) {
            true => Err(EvaluateError::Dead("the probe gave NaN".to_owned())),
            false => Ok((self.bowl.probe)(&self.child)),
        }
    }

    fn evaluate(&self, split: Split, items: Range<usize>) -> Result<Measures, EvaluateError> {
        if self.bowl.ran.load(Ordering::Relaxed) >= self.bowl.fails_after {
            return Err(EvaluateError::Failed("the disk is gone".into()));
        }
        self.bowl.ran.fetch_add(1, Ordering::Relaxed);
        let child = &self.child;
        let hash = child.hash();
        let mut seen = self.bowl.seen.lock().unwrap();
        let new = |i| seen.insert((hash.clone(), split, i));
        let again = items.clone().map(new).filter(|new| !new).count();
        self.bowl.twice.fetch_add(again as u64, Ordering::Relaxed);
        drop(seen);
        let mut square = 0.0;
        for (name, goal) in &self.bowl.target {
            let scale = block_of(name).map_or(1.0, |b| child.scales[b]);
            for (x, g) in child.weights[name].iter().zip(goal) {
                square += f64::from(scale * x - g).powi(2);
            }
        }
        let layers = child.scales.iter().filter(|s| **s != 0.0).count() as f64;
        let place = u64::from_str_radix(&hash[..8], 16).unwrap();
        let noise = Counted::new(0, "noise", place);
        let n = items.len() as u64;
        let loss = |i: usize| (2.0 + square / 60.0) as f32 + 0.05 * noise.normal(i as u64);
        let losses: Vec<f32> = items.map(loss).collect();
        let correct = (n as f64 * (0.25 + 0.3 / (1.0 + square))).floor();
        Ok(Measures {
            nats: losses.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64,
            tokens: n,
            losses,
            accuracies: vec![Accuracy {
                task: "bowl".to_owned(),
                correct,
                n,
                chance: 0.25,
            }],
            counted_flops: n as f64 * (2.0 + layers * (2.0 - child.threshold)),
            bytes: 200.0 + 400.0 * layers,
        })
    }
}

fn settings() -> Settings {
    Settings {
        rounds: vec![20, 60, 200],
        ..Settings::default()
    }
}

fn run(settings: Settings, parents: &Parents, evaluator: &Bowl, generations: usize) -> Search {
    let mut search = Search::new(settings, parents).unwrap();
    for _ in 0..generations {
        advance(&mut search, parents, evaluator);
    }
    search
}

/// One generation, with the recommended remedy where the population converges.
fn advance(search: &mut Search, parents: &Parents, evaluator: &Bowl) {
    if search.newly_converging().is_some() {
        search.diversify(Remedy::Inject);
    }
    search.next_generation(parents, evaluator).unwrap();
}

fn norm(child: &Child, parents: &Parents) -> f64 {
    let deltas = child
        .weights
        .iter()
        .flat_map(|(n, t)| t.iter().zip(&parents.ancestor[n]));
    deltas
        .map(|(x, b)| f64::from(x - b).powi(2))
        .sum::<f64>()
        .sqrt()
}

#[test]
fn the_search_improves_on_generation_0_the_best_parent_the_sweep_and_random_search() {
    let parents = parents();
    let evaluator = bowl(&parents);
    let mut search = run(settings(), &parents, &evaluator, 30);
    let best: Vec<f64> = search.history.iter().map(|g| g.best_fitness).collect();
    assert!(
        best.is_sorted(),
        "a finished best member never gets lost: {best:?}"
    );
    assert!(best[29] > best[0] + 0.01, "{best:?}");
    assert!(search.best().unwrap().fitness > search.best_of_sweep().unwrap().fitness + 0.01);

    let mut random = search.random_baseline(&parents).unwrap();
    while random.scored() < search.scored() {
        random.next_generation(&parents, &evaluator).unwrap();
    }
    let champion = search.choose(&parents, &evaluator, (4, 400)).unwrap();
    assert!(
        champion
            .finalists
            .is_sorted_by(|a, b| a.fitness >= b.fitness)
    );
    let mut contenders = vec![("champion".to_owned(), champion.individual.genome)];
    contenders.extend((0..3).map(|i| (format!("parent {i}"), Genome::parent(i, &parents))));
    contenders.push(("random".to_owned(), random.best().unwrap().genome.clone()));
    let sample = Sample {
        split: Split::HeldOut,
        items: 1000,
    };
    let rows = search
        .compare(&parents, &evaluator, &contenders, sample)
        .unwrap();
    println!(
        "{:?}",
        rows.iter()
            .map(|r| (&r.name, r.fitness, r.measures.nats))
            .collect::<Vec<_>>()
    );
    assert!(rows[1..].iter().all(|row| rows[0].fitness > row.fitness));
    assert!(
        search
            .lineage(champion.individual.id)
            .iter()
            .any(|b| b.generation == 0)
    );
}

#[test]
fn cma_es_improves_on_where_it_began_and_on_random_search_at_equal_items() {
    let parents = parents();
    let evaluator = bowl(&parents);
    let of = |strategy| Settings {
        strategy,
        ..settings()
    };
    let cma = run(of(Strategy::CmaEs), &parents, &evaluator, 40);
    let best: Vec<f64> = cma.history.iter().map(|g| g.best_fitness).collect();
    assert!(best.is_sorted() && best[39] > best[0] + 0.02, "{best:?}");
    assert!(
        cma.births
            .iter()
            .all(|b| b.origin == Origin::Sampled && b.from.is_empty())
    );
    let first = cma.births[..8].iter().map(|b| b.genome.bits);
    assert!(first.eq(0..8), "generation 0 is the eight combinations");
    let mut random = Search::new(of(Strategy::Random), &parents).unwrap();
    while random.scored() < cma.scored() {
        advance(&mut random, &parents, &evaluator);
    }
    assert!(cma.best().unwrap().fitness > random.best().unwrap().fitness);
}

#[test]
fn saved_and_loaded_after_every_generation_or_run_by_three_threads_it_ends_in_the_same_bits() {
    let parents = parents();
    let evaluator = bowl(&parents);
    for strategy in [Strategy::CmaEs, Strategy::Random, Strategy::Evolution] {
        let settings = Settings {
            strategy,
            ..settings()
        };
        let straight = run(settings.clone(), &parents, &evaluator, 12);
        let fresh = Search::new(settings, &parents).unwrap();
        let mut text = serde_json::to_string(&fresh).unwrap();
        for generation in 0..12 {
            let mut search: Search = serde_json::from_str(&text).unwrap();
            rayon::ThreadPoolBuilder::new()
                .num_threads(1 + generation % 3)
                .build()
                .unwrap()
                .install(|| advance(&mut search, &parents, &evaluator));
            text = serde_json::to_string(&search).unwrap();
        }
        assert_eq!(text, serde_json::to_string(&straight).unwrap());
    }
    let straight = run(settings(), &parents, &evaluator, 12);
    let other = run(
        Settings {
            seed: 43,
            ..settings()
        },
        &parents,
        &evaluator,
        12,
    );
    assert_ne!(other.population, straight.population);
}

#[test]
fn every_combination_is_used_and_every_child_can_be_rebuilt_from_its_genome() {
    let parents = parents();
    let settings = Settings {
        diversity: 0.0,
        ..settings()
    };
    let search = run(settings, &parents, &bowl(&parents), 6);
    assert!(
        search.combinations.iter().all(|&n| n > 0),
        "{:?}",
        search.combinations
    );
    assert_eq!(search.births.len(), 8 + 5 + 5 * 6);
    for birth in &search.births {
        assert_eq!(
            decode(&birth.genome, &parents).hash(),
            birth.hash,
            "member {}",
            birth.id
        );
    }
    for generation in 1..6 {
        let born: Vec<&Birth> = search
            .births
            .iter()
            .filter(|b| b.generation == generation)
            .collect();
        let of = |origin| born.iter().filter(|b| b.origin == origin).count();
        assert_eq!((of(Origin::Mutant), of(Origin::Merged)), (4, 2));
        let merged = born.iter().filter(|b| b.origin == Origin::Merged);
        let losers: Vec<u64> = merged.flat_map(|b| b.from.clone()).collect();
        let different: std::collections::BTreeSet<&u64> = losers.iter().collect();
        assert_eq!(
            (losers.len(), different.len()),
            (6, 6),
            "six losers in two groups of three"
        );
    }
    let roots = search.lineage(search.best().unwrap().id);
    assert!(
        roots
            .iter()
            .all(|b| b.from.iter().all(|f| roots.iter().any(|r| r.id == *f)))
    );
}

fn measures(nats: f64, correct: f64, flops: f64, bytes: f64) -> Measures {
    let task = |task: &str, correct, chance| Accuracy {
        task: task.to_owned(),
        correct,
        n: 300,
        chance,
    };
    Measures {
        nats,
        tokens: 1000,
        losses: vec![nats as f32; 8],
        accuracies: vec![task("choice", correct, 0.25), task("free", 0.0, 0.0)],
        counted_flops: flops,
        bytes,
    }
}

#[test]
fn the_mean_parent_scores_exactly_one_in_every_size_category() {
    let all = [
        measures(3.1, 80.0, 7e9, 1e8),
        measures(2.9, 71.0, 9e9, 1.1e8),
        measures(3.3, 93.0, 8e9, 1e8),
    ];
    let mean = Measures::mean(&all);
    for size_mb in [3.0, 99.9, 100.0, 999.0, 1000.0, 7e4] {
        assert_eq!(fitness(&mean, &mean, size_mb), 1.0);
        let weights: f64 = terms(&mean, &mean, size_mb).iter().map(|t| t.weight).sum();
        assert!((weights - 1.0).abs() < 1e-12);
    }
}

#[test]
fn fitness_weighs_its_terms_by_size_as_the_plan_does() {
    let mean = measures(3.0, 150.0, 8.0, 100.0);
    let half_the_work = Measures {
        counted_flops: 4.0,
        ..mean.clone()
    };
    assert!((fitness(&half_the_work, &mean, 99.9) - 1.1).abs() < 1e-12);
    assert!((fitness(&half_the_work, &mean, 999.9) - 1.2).abs() < 1e-12);
    assert!((fitness(&half_the_work, &mean, 1000.0) - 1.15).abs() < 1e-12);
    let better = Measures {
        nats: 3.0 - 1.2f64.ln(),
        ..mean.clone()
    };
    assert!((fitness(&better, &mean, 50.0) - 1.1).abs() < 1e-12);
    assert!((fitness(&better, &mean, 500.0) - 1.08).abs() < 1e-12);
}

#[test]
fn accuracy_near_chance_of_few_items_and_lucky_answers_to_a_hopeless_task_hardly_count() {
    let term = |child: f64, parent: f64| {
        terms(
            &measures(3.0, child, 1.0, 1.0),
            &measures(3.0, parent, 1.0, 1.0),
            50.0,
        )[1]
        .value
    };
    // 300 items, chance 75 correct, standard error 7.5: the same ten answers count less near chance.
    let (near, far) = (term(80.0, 70.0) - 1.0, term(130.0, 120.0) - 1.0);
    let relative =
        |child: f64, parent: f64| 300.0 / 332.0 * (child - parent) / (parent + 1.0) / 2.0;
    assert!((far - relative(130.0, 120.0)).abs() < 1e-12);
    assert!(near < 0.45 * relative(80.0, 70.0), "{near}");
    let mean = measures(3.0, 75.0, 1.0, 1.0);
    let mut lucky = mean.clone();
    lucky.accuracies[1].correct = 1.0;
    let gain = fitness(&lucky, &mean, 50.0) - 1.0;
    assert!(
        gain > 0.0 && gain < 0.01,
        "one answer in 300 to a task at zero: {gain}"
    );
    // One answer in two outweighs nothing, however far from chance.
    let of_two = |correct| {
        let mut m = measures(3.0, correct, 1.0, 1.0);
        m.accuracies.iter_mut().for_each(|a| a.n = 2);
        m
    };
    let gain = fitness(&of_two(2.0), &of_two(1.0), 50.0) - 1.0;
    assert!(gain > 0.0 && gain < 0.005, "{gain}");
}

#[test]
fn the_front_keeps_what_nothing_beats() {
    let models = [
        measures(3.0, 80.0, 8.0, 100.0),
        measures(2.9, 80.0, 9.0, 100.0),
        measures(3.1, 80.0, 8.0, 100.0),
        measures(3.0, 80.0, 8.0, 100.0),
        measures(3.5, 90.0, 9.0, 100.0),
    ];
    assert_eq!(front(&models), [0, 1, 4]);
    let parents = parents();
    let search = run(settings(), &parents, &bowl(&parents), 8);
    assert!(!search.front.is_empty() && search.front.iter().all(|m| m.round == 2));
}

#[test]
fn wrong_parents_and_settings_are_refused_with_what_to_do() {
    let good = parents();
    let text = |error: Error| error.to_string();
    let mut bad = good.clone();
    let mut model = (*bad.models[1]).clone();
    model.get_mut("b1.w").unwrap().pop();
    bad.models[1] = Arc::new(model);
    let message = text(Search::new(settings(), &bad).unwrap_err());
    assert!(
        message.contains("`b1.w` has 95 elements in parent 1, 96 in the ancestor"),
        "{message}"
    );
    let mut model = (*good.models[2]).clone();
    model.remove("norm");
    bad.models = [
        good.models[0].clone(),
        good.models[1].clone(),
        Arc::new(model),
    ];
    assert!(
        text(Search::new(settings(), &bad).unwrap_err()).contains("`norm` is missing in parent 2")
    );
    let shallow = Parents {
        blocks: 2,
        ..good.clone()
    };
    assert!(text(Search::new(settings(), &shallow).unwrap_err()).contains("layer 2 of 2"));

    let mut search = run(settings(), &good, &bowl(&good), 1);
    let swapped = Parents {
        thresholds: [0.9, 0.9, 0.9],
        ..good.clone()
    };
    let error = search.next_generation(&swapped, &bowl(&good)).unwrap_err();
    assert!(matches!(error, Error::ParentsChanged { .. }));

    for (bad, key) in [
        (
            Settings {
                rounds: vec![],
                ..settings()
            },
            "rounds",
        ),
        (
            Settings {
                rounds: vec![50, 50],
                ..settings()
            },
            "rounds",
        ),
        (
            Settings {
                mutation: 0.0,
                ..settings()
            },
            "mutation",
        ),
        (
            Settings {
                diversity: f64::NAN,
                ..settings()
            },
            "diversity",
        ),
        (
            Settings {
                injection_every: 0,
                ..settings()
            },
            "injection_every",
        ),
    ] {
        assert!(text(Search::new(bad, &good).unwrap_err()).contains(&format!("`{key}`")));
    }
    assert!(serde_json::from_str::<Settings>(r#"{"mutations": 0.1}"#).is_err());
}
