//! Races, the cache, and what was counted.

use super::*;
use crate::phases::evomerge::remember::Remembered;

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
fn a_failed_evaluation_leaves_the_state_as_it_was() {
    let parents = parents();
    let mut evaluator = bowl(&parents);
    let mut search = run(settings(), &parents, &evaluator, 2);
    let before = search.clone();
    evaluator.fails_after = 0;
    let error = search.next_generation(&parents, &evaluator).unwrap_err();
    assert!(matches!(error, Error::Evaluation(_)));
    assert_eq!(search, before);
}

#[test]
fn no_item_is_scored_twice_for_the_same_weights_and_cache_hits_are_counted() {
    let parents = parents();
    let evaluator = bowl(&parents);
    let mut search = run(settings(), &parents, &evaluator, 12);
    let work = search.work();
    assert_eq!(work.evaluations, evaluator.ran.load(Ordering::Relaxed));
    assert_eq!(
        work.scored_items,
        evaluator.seen.lock().unwrap().len() as u64
    );
    assert_eq!(evaluator.twice.load(Ordering::Relaxed), 0);
    for generation in &search.history[1..] {
        // Six newcomers race, at most: 6 on 20 items, 2 on 60, 1 on 200. The parents were measured in generation 0.
        let asked = generation.work.evaluations + generation.work.cache_hits;
        assert!((6..=6 + 2 + 1).contains(&asked), "{generation:?}");
        assert!(generation.work.scored_items <= 6 * 20 + 2 * 40 + 140);
    }
    let best = search.best().unwrap().clone();
    let contenders = [("best".to_owned(), best.genome.clone())];
    let sample = |split| Sample { split, items: 200 };
    let row = search
        .compare(&parents, &evaluator, &contenders, sample(Split::Fitness))
        .unwrap();
    assert_eq!((row[0].fitness, &row[0].hash), (best.fitness, &best.hash));
    let hit = Counts {
        cache_hits: work.cache_hits + 1,
        ..work
    };
    assert_eq!(search.work(), hit);
    assert!(hit.hit_rate().unwrap() > 0.0);
    // As many items of another split are another measurement: of the member and three parents.
    search
        .compare(&parents, &evaluator, &contenders, sample(Split::Selection))
        .unwrap();
    assert_eq!(search.work().evaluations, work.evaluations + 4);
}

#[test]
fn a_generation_that_was_killed_begins_again_without_the_evaluations_that_were_finished() {
    let parents = parents();
    let plain = bowl(&parents);
    let straight = run(settings(), &parents, &plain, 2);
    let all = plain.ran.load(Ordering::Relaxed);
    let dir = tempfile::tempdir().unwrap();
    let run = store::Run::create(dir.path(), "test", &serde_json::json!({})).unwrap();
    let mut evaluator = bowl(&parents);
    let mut ends = Vec::new();
    for fails_after in [4, 17, 30, u64::MAX] {
        evaluator.fails_after = fails_after;
        let remembered = Remembered {
            inner: &evaluator,
            journal: run.journal(),
        };
        // Nothing of the search itself was saved.
        let mut search = Search::new(settings(), &parents).unwrap();
        let mut next = || {
            if search.newly_converging().is_some() {
                search.diversify(Remedy::Inject);
            }
            search.next_generation(&parents, &remembered).map(|_| ())
        };
        ends.push(next().and_then(|()| next()).is_ok());
        if fails_after == u64::MAX {
            assert_eq!(search, straight);
        }
    }
    assert_eq!(ends, [false, false, false, true]);
    // As if it had never been killed: not one evaluation more.
    assert_eq!(evaluator.ran.load(Ordering::Relaxed), all);
    assert_eq!(evaluator.twice.load(Ordering::Relaxed), 0);
}

#[test]
fn equal_children_of_one_generation_are_scored_once() {
    let mut parents = parents();
    let same = parents.models[0].clone();
    parents.models = [same.clone(), same.clone(), same];
    parents.thresholds = [0.9; 3];
    let evaluator = bowl(&parents);
    let search = run(settings(), &parents, &evaluator, 2);
    assert_eq!(evaluator.twice.load(Ordering::Relaxed), 0);
    assert!(search.work().cache_hits > 5, "{:?}", search.work());
    assert_eq!(apart(&parents), [0.0; 3]);
    assert!(apart(&self::parents()).iter().all(|a| *a > 1.0));
}

#[test]
fn who_is_clearly_worse_than_the_best_is_stopped_early_and_the_order_stays() {
    let parents = parents();
    let evaluator = bowl(&parents);
    let settings = Settings {
        rounds: vec![8, 24, 72, 216],
        ..settings()
    };
    let search = run(settings, &parents, &evaluator, 30);
    let audit = search.audit(&parents, &evaluator, 60).unwrap();
    println!("{audit:?}");
    assert!(audit.members >= 40 && audit.saved > 5.0, "{audit:?}");
    assert!(audit.spearman.unwrap() > 0.9, "{audit:?}");
    // In full: a search whose only round is the last one.
    let full = Settings {
        rounds: vec![216],
        ..search.settings.clone()
    };
    let full = run(full, &parents, &evaluator, 30);
    let audit = full.audit(&parents, &evaluator, 60).unwrap();
    assert_eq!(audit.spearman, Some(1.0));
    let per_candidate = full.scored() / full.work().candidates;
    assert_eq!(per_candidate, 216);
}

#[test]
fn rank_correlation_shares_ranks_among_equals() {
    let spearman = super::search::spearman;
    assert_eq!(spearman(&[1.0, 2.0, 5.0], &[10.0, 20.0, 21.0]), 1.0);
    assert_eq!(spearman(&[1.0, 2.0, 5.0], &[3.0, 2.0, 1.0]), -1.0);
    // scipy.stats.spearmanr([1, 2, 2, 4], [1, 3, 2, 4]) = 0.9486832980505138
    let tied = spearman(&[1.0, 2.0, 2.0, 4.0], &[1.0, 3.0, 2.0, 4.0]);
    assert!((tied - 0.948_683_298_050_513_8).abs() < 1e-12);
    assert!(spearman(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
}

#[test]
fn the_champion_stands_beside_parents_sweep_and_mean_and_a_dead_one_has_no_row() {
    let parents = parents();
    let mut evaluator = bowl(&parents);
    let mut search = Search::new(settings(), &parents).unwrap();
    let champion = Genome::arithmetic(0.37, Space::of(&parents));
    let names =
        |rows: &[Contender]| -> Vec<String> { rows.iter().map(|r| r.name.clone()).collect() };
    let others = || vec![("other".to_owned(), Genome::parent(1, &self::parents()))];
    let rows = search.stand(&parents, &evaluator, &champion, others(), 200);
    let rows = rows.unwrap();
    let all = "champion parent0 parent1 parent2 task_arithmetic uniform other";
    assert_eq!(names(&rows).join(" "), all);
    assert_eq!(rows[6].measures, rows[2].measures);
    // No lambda of the sweep is better on the selection split.
    let lambda = |&l: &f64| (String::new(), Genome::arithmetic(l, Space::of(&parents)));
    let sweep: Vec<_> = settings().sweep.iter().map(lambda).collect();
    let selection = Sample {
        split: Split::Selection,
        items: 200,
    };
    let swept = search.compare(&parents, &evaluator, &sweep, selection);
    let swept = swept.unwrap();
    let best = swept.iter().find(|r| r.genome == rows[4].genome).unwrap();
    assert!(swept.iter().all(|r| r.fitness <= best.fitness));
    let fitness = |i: usize| rows[1 + i].fitness;
    let best = search.best_parent(&parents, &evaluator, 400).unwrap();
    assert!((0..3).all(|i| fitness(i) <= fitness(best)));

    evaluator.dead = |child| {
        let parents = self::parents();
        let uniform = Genome::linear([1.0 / 3.0; 3], Space::of(&parents));
        *child == decode(&uniform, &parents)
    };
    let mut search = Search::new(settings(), &parents).unwrap();
    let rows = search.stand(&parents, &evaluator, &champion, others(), 200);
    assert_eq!(names(&rows.unwrap()).join(" "), all.replace("uniform ", ""));
    let dead = Genome::linear([1.0 / 3.0; 3], Space::of(&parents));
    let error = search.stand(&parents, &evaluator, &dead, others(), 200);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`champion` cannot be evaluated"), "{error}");
}
