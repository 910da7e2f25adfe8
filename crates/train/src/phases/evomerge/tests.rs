//! The search on a synthetic problem: loss is a bowl around a point in the space of task vectors,
//! which layers mix differently, seen through noise that falls with the sample.
#![allow(clippy::unwrap_used)]

use super::*;
use merge::random::Counted;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// The bowl, with a rule for which children are dead and a count of the evaluations that ran.
struct Bowl {
    target: Weights,
    dead: fn(&Child) -> bool,
    fails: bool,
    ran: AtomicU64,
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
        fails: false,
        ran: AtomicU64::new(0),
    }
}

impl Evaluate for Bowl {
    fn set_hash(&self, split: Split) -> String {
        format!("{split:?}")
    }

    fn probe(&self, child: &Child) -> Result<(), EvaluateError> {
        if (self.dead)(child) {
            Err(EvaluateError::Dead("the probe gave NaN".to_owned()))
        } else {
            Ok(())
        }
    }

    fn evaluate(&self, child: &Child, sample: Sample) -> Result<Measures, EvaluateError> {
        if self.fails {
            return Err(EvaluateError::Failed("the disk is gone".into()));
        }
        self.ran.fetch_add(1, Ordering::Relaxed);
        let mut square = 0.0;
        for (name, goal) in &self.target {
            let scale = block_of(name).map_or(1.0, |b| child.scales[b]);
            for (x, g) in child.weights[name].iter().zip(goal) {
                square += f64::from(scale * x - g).powi(2);
            }
        }
        let layers = child.scales.iter().filter(|s| **s != 0.0).count() as f64;
        let place = u64::from_str_radix(&child.hash()[..8], 16).unwrap();
        let noise = f64::from(Counted::new(0, "noise", place).normal(sample.items as u64));
        let n = sample.items as u64;
        let nats = 2.0 + square / 60.0 + 0.05 * noise / (n as f64).sqrt();
        let correct = (n as f64 * (0.25 + 0.3 / (1.0 + square))).floor();
        Ok(Measures {
            nats,
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
        search.next_generation(parents, evaluator).unwrap();
    }
    search
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
fn special_genomes_decode_to_parents_mean_and_task_arithmetic() {
    let parents = parents();
    let space = Space::of(&parents);
    for i in 0..3 {
        let child = decode(&Genome::parent(i, &parents), &parents);
        assert_eq!(child.weights, *parents.models[i]);
        assert_eq!(
            (child.threshold, &child.scales[..]),
            (parents.thresholds[i], &[1.0; BLOCKS][..])
        );
    }
    let linear = decode(&Genome::linear([1.0, 2.0, 1.0], space), &parents);
    let summed = decode(&Genome::arithmetic(0.4, space), &parents);
    for (name, base) in parents.ancestor.iter() {
        for (i, &b) in base.iter().enumerate() {
            let [x, y, z] = [0, 1, 2].map(|m| parents.models[m][name][i]);
            assert!((linear.weights[name][i] - (x + 2.0 * y + z) / 4.0).abs() < 1e-6);
            assert!((summed.weights[name][i] - b - 0.4 * (x + y + z - 3.0 * b)).abs() < 1e-6);
        }
    }
}

#[test]
fn one_lambda_means_the_same_size_to_dare_and_ties_whatever_the_weights_add_up_to() {
    let mut parents = parents();
    let same = parents.models[0].clone();
    parents.models = [same.clone(), same.clone(), same.clone()];
    let space = Space::of(&parents);
    for bits in [0, 2] {
        let plain = Genome {
            bits,
            density: 1.0,
            ..Genome::arithmetic(1.0 / 3.0, space)
        };
        let child = decode(
            &Genome {
                weights: [0.5; 3],
                ..plain
            },
            &parents,
        );
        for (name, tensor) in same.iter() {
            let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
            assert!(
                child.weights[name].iter().zip(tensor).all(close),
                "{name}, bits {bits}"
            );
        }
    }
}

#[test]
fn the_eight_neutral_combinations_are_eight_different_models() {
    let parents = parents();
    let space = Space::of(&parents);
    let hashes: std::collections::BTreeSet<String> = (0..8)
        .map(|bits| decode(&Genome::neutral(bits, space, 1), &parents).hash())
        .collect();
    assert_eq!(hashes.len(), 8);
    assert_eq!(combination_name(4), "100");
    assert!(Genome::neutral(4, space, 1).slerp() && Genome::neutral(2, space, 1).ties());
}

#[test]
fn selection_takes_each_layer_from_its_source_and_dfs_alone_scales_and_leaves_out() {
    let parents = parents();
    let mut genome = Genome::neutral(0, Space::of(&parents), 1);
    genome.sources = vec![
        Source::Parent(2),
        Source::Parent(0),
        Source::Interpolation,
        Source::Arithmetic,
    ];
    genome.shared = Source::Parent(1);
    genome.included[1] = false;
    genome.scales[2] = 1.5;
    let franken = decode(&genome, &parents);
    assert_eq!(franken.scales, [1.0; 4]);
    assert_eq!(franken.weights["b0.w"], parents.models[2]["b0.w"]);
    assert_eq!(franken.weights["b1.w"], parents.models[0]["b1.w"]);
    assert_eq!(franken.weights["embedding"], parents.models[1]["embedding"]);
    let dfs = decode(&Genome { bits: 1, ..genome }, &parents);
    assert_eq!(dfs.scales, [1.0, 0.0, 1.5, 1.0]);
    assert_eq!(dfs.weights, franken.weights);
    assert_ne!(dfs.hash(), franken.hash());
    assert_ne!(
        Child {
            threshold: 0.5,
            ..dfs.clone()
        }
        .hash(),
        dfs.hash()
    );
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
    while random.work().scored_items < search.work().scored_items {
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
fn who_got_further_in_the_race_ranks_higher_then_the_fitter_then_the_older() {
    let parents = parents();
    let member = run(settings(), &parents, &bowl(&parents), 1).population[0].clone();
    let of = |id, round, fitness| Individual {
        id,
        round,
        fitness,
        ..member.clone()
    };
    // A lucky fitness on a small sample does not beat a sober one on a large sample.
    let mut members = [
        of(0, 0, 2.0),
        of(1, 2, 1.1),
        of(2, 2, 1.2),
        of(4, 1, 1.5),
        of(3, 1, 1.5),
    ];
    super::search::rank(&mut members);
    assert_eq!(members.map(|m| m.id), [2, 1, 3, 4, 0]);
}

#[test]
fn saved_and_loaded_after_every_generation_or_run_by_three_threads_it_ends_in_the_same_bits() {
    let parents = parents();
    let evaluator = bowl(&parents);
    let straight = run(settings(), &parents, &evaluator, 12);
    let mut text = serde_json::to_string(&Search::new(settings(), &parents).unwrap()).unwrap();
    for generation in 0..12 {
        let mut search: Search = serde_json::from_str(&text).unwrap();
        rayon::ThreadPoolBuilder::new()
            .num_threads(1 + generation % 3)
            .build()
            .unwrap()
            .install(|| search.next_generation(&parents, &evaluator).map(|_| ()))
            .unwrap();
        text = serde_json::to_string(&search).unwrap();
    }
    assert_eq!(text, serde_json::to_string(&straight).unwrap());
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
    let search = run(settings(), &parents, &bowl(&parents), 6);
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

#[test]
fn a_combination_that_never_lived_is_tried_again() {
    let parents = parents();
    // The neutral genomes of all four DFS combinations are dead, other genomes are not.
    let space = Space::of(&parents);
    let mut evaluator = bowl(&parents);
    evaluator.dead = |child| {
        let parents = self::parents();
        let space = Space::of(&parents);
        (0..8).any(|b| b & 1 == 1 && decode(&Genome::neutral(b, space, 42), &parents) == *child)
    };
    let mut search = run(settings(), &parents, &evaluator, 1);
    assert_eq!(search.combinations, [1, 0, 1, 0, 1, 0, 1, 0]);
    assert_eq!(search.work().rejected, 4);
    let replaced = search.births.iter().filter(|b| !b.rejected.is_empty());
    for birth in replaced {
        assert_eq!(birth.genome, Genome::linear([1.0; 3], space));
        assert_eq!(birth.rejected[0].reason, "the probe gave NaN");
    }
    search.next_generation(&parents, &evaluator).unwrap();
    let retried = search
        .births
        .iter()
        .find(|b| b.origin == Origin::Injected)
        .unwrap();
    assert_eq!((retried.generation, retried.genome.bits), (1, 1));
    for _ in 0..7 {
        search.next_generation(&parents, &evaluator).unwrap();
    }
    assert!(
        search.combinations.iter().all(|&n| n > 0),
        "{:?}",
        search.combinations
    );
}

#[test]
fn children_with_nan_infinity_or_lost_variance_are_degenerate_and_constant_norms_are_not() {
    let parents = parents();
    let sound = decode(&Genome::linear([1.0; 3], Space::of(&parents)), &parents);
    assert_eq!(degenerate(&sound, &parents), None);
    let broken = |name: &str, change: fn(&mut Vec<f32>)| {
        let mut child = sound.clone();
        change(child.weights.get_mut(name).unwrap());
        degenerate(&child, &parents).unwrap()
    };
    assert!(broken("b1.w", |t| t[7] = f32::NAN).contains("b1.w[7] is NaN"));
    assert!(broken("b2.w", |t| t[0] = f32::INFINITY).contains("b2.w[0] is inf"));
    assert!(broken("b0.w", |t| t.fill(0.25)).contains("b0.w has lost its variance"));
    assert!(broken("b0.w", |t| t.fill(0.0)).contains("b0.w has lost its variance"));
    // A few gains may be equal by chance.
    let mut few = sound.clone();
    few.weights.insert("b0.w".into(), vec![0.25; 4]);
    assert_eq!(degenerate(&few, &parents), None);
    let infinite = Child {
        scales: vec![f32::NAN; BLOCKS],
        ..sound.clone()
    };
    assert!(degenerate(&infinite, &parents).is_some());
}

#[test]
fn dead_children_are_replaced_by_the_linear_merge_and_never_measured_in_full() {
    let parents = parents();
    let mut evaluator = bowl(&parents);
    // Children as large as a parent are dead; the mean of three is shorter by the square root of 3.
    evaluator.dead = |child| {
        let parents = self::parents();
        let is_parent = parents.models.iter().any(|m| **m == child.weights);
        !is_parent && norm(child, &parents) > 4.1
    };
    let search = run(settings(), &parents, &evaluator, 4);
    let rejected = search
        .births
        .iter()
        .filter(|b| !b.rejected.is_empty())
        .count();
    assert!(rejected > 0 && search.work().rejected >= rejected as u64);
    for member in &search.population {
        assert!(norm(&decode(&member.genome, &parents), &parents) <= 4.1);
    }
    evaluator.dead = |child| !self::parents().models.iter().any(|m| **m == child.weights);
    let mut hopeless = Search::new(settings(), &parents).unwrap();
    let error = hopeless.next_generation(&parents, &evaluator).unwrap_err();
    assert!(matches!(error, Error::NothingValid { .. }), "{error}");
    evaluator.dead = |_| true;
    let error = hopeless.next_generation(&parents, &evaluator).unwrap_err();
    assert!(
        matches!(error, Error::DeadParent { index: 0, .. }),
        "{error}"
    );
}

#[test]
fn a_failed_evaluation_leaves_the_state_as_it_was() {
    let parents = parents();
    let mut evaluator = bowl(&parents);
    let mut search = run(settings(), &parents, &evaluator, 2);
    let before = search.clone();
    evaluator.fails = true;
    let error = search.next_generation(&parents, &evaluator).unwrap_err();
    assert!(matches!(error, Error::Evaluation(_)));
    assert_eq!(search, before);
}

#[test]
fn elites_are_never_measured_again_and_cache_hits_are_counted() {
    let parents = parents();
    let evaluator = bowl(&parents);
    let mut search = run(settings(), &parents, &evaluator, 5);
    let work = search.work();
    assert_eq!(work.evaluations, evaluator.ran.load(Ordering::Relaxed));
    let generation = &search.history[3].work;
    // Six newcomers race: 6 on 20 items, 3 on 60, 2 on 200; the parents were measured in generation 0.
    assert_eq!(generation.evaluations + generation.cache_hits, 6 + 3 + 2);
    let best = search.best().unwrap().clone();
    let sample = Sample {
        split: Split::Fitness,
        items: 200,
    };
    let row = search
        .compare(
            &parents,
            &evaluator,
            &[("best".to_owned(), best.genome.clone())],
            sample,
        )
        .unwrap();
    assert_eq!((row[0].fitness, &row[0].hash), (best.fitness, &best.hash));
    assert_eq!(
        search.work(),
        Counts {
            cache_hits: work.cache_hits + 1,
            ..work
        }
    );
    // As many items of another split are another measurement: of the member and three parents.
    let other = Sample {
        split: Split::Selection,
        ..sample
    };
    search
        .compare(
            &parents,
            &evaluator,
            &[("best".to_owned(), best.genome)],
            other,
        )
        .unwrap();
    assert_eq!(search.work().evaluations, work.evaluations + 4);
}

#[test]
fn low_diversity_doubles_mutation_picks_a_distant_elite_and_injects_every_tenth_generation() {
    let parents = parents();
    let evaluator = bowl(&parents);
    let always_low = run(
        Settings {
            diversity: 2.0,
            ..settings()
        },
        &parents,
        &evaluator,
        21,
    );
    for row in &always_low.history[1..] {
        assert_eq!(row.mutation_rate, 0.02);
        assert_eq!(
            row.injected,
            row.generation % 10 == 0,
            "generation {}",
            row.generation
        );
    }
    let injected = always_low
        .births
        .iter()
        .find(|b| b.origin == Origin::Injected)
        .unwrap();
    assert!(injected.from.is_empty());
    let never_low = run(
        Settings {
            diversity: 0.0,
            ..settings()
        },
        &parents,
        &evaluator,
        21,
    );
    assert!(
        never_low
            .history
            .iter()
            .all(|row| row.mutation_rate == 0.01 && !row.injected)
    );
    // The second elite of a converging population is the farthest from the best.
    let low = run(
        Settings {
            diversity: 2.0,
            ..settings()
        },
        &parents,
        &evaluator,
        1,
    );
    let mut next = low.clone();
    next.next_generation(&parents, &evaluator).unwrap();
    let farthest = (1..8).fold(1, |a, b| {
        if low.distances[0][b] > low.distances[0][a] {
            b
        } else {
            a
        }
    });
    let kept = low.population[farthest].id;
    assert!(next.population.iter().any(|m| m.id == kept));
    let mutants = next.births.iter().filter(|b| b.origin == Origin::Mutant);
    assert!(mutants.skip(2).all(|b| b.from == [kept]));
}

#[test]
fn distances_are_cosines_of_task_vectors_and_see_layers_left_out() {
    let parents = parents();
    let of = |i| Genome::parent(i, &parents);
    let (a, b) = (of(0), of(1));
    let without = Genome {
        bits: 1,
        included: vec![false, true, true, true],
        ..a.clone()
    };
    let members = [&a, &b, &a, &without];
    let matrix = distances(&members, &parents);
    assert!(matrix[0][2].abs() < 1e-12 && matrix[0][0] == 0.0);
    assert!(
        (matrix[0][1] - 1.0).abs() < 0.15,
        "independent directions: {}",
        matrix[0][1]
    );
    assert!(matrix[0][3] > 0.05, "one layer of four: {}", matrix[0][3]);
    let by_hand =
        (matrix[0][1] + matrix[0][2] + matrix[0][3] + matrix[1][2] + matrix[1][3] + matrix[2][3])
            / 6.0;
    assert!((mean_distance(&matrix) - by_hand).abs() < 1e-12);
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let alone = one.unwrap().install(|| distances(&members, &parents));
    assert_eq!(matrix, alone);
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
fn accuracy_near_chance_and_lucky_answers_to_a_hopeless_task_hardly_count() {
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
    let relative = |child: f64, parent: f64| (child - parent) / (parent + 1.0) / 2.0;
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
