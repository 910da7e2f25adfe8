//! What the search does about populations that converge and about degenerate children.

use super::*;

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

/// A search of so many generations whose population counts as converging below this distance.
fn converging(diversity: f64, generations: usize) -> (Parents, Bowl, Search) {
    let parents = parents();
    let evaluator = bowl(&parents);
    let settings = Settings {
        diversity,
        ..settings()
    };
    let search = run(settings, &parents, &evaluator, generations);
    (parents, evaluator, search)
}

#[test]
fn a_converging_population_mutates_faster_keeps_a_distant_elite_and_gets_a_stranger_every_ten_generations()
 {
    let (_, _, always) = converging(10.0, 22);
    for row in &always.history[1..] {
        assert_eq!(row.mutation_rate, 0.02);
        assert_eq!(row.injected, row.generation % 10 == 1, "{row:?}");
    }
    let injected = always.births.iter().find(|b| b.origin == Origin::Injected);
    assert!(injected.unwrap().from.is_empty());
    let (_, _, never) = converging(0.0, 21);
    let calm = |row: &Generation| row.mutation_rate == 0.01 && !row.injected;
    assert!(never.history.iter().all(calm));
    // The second elite of a converging population is the farthest from the best.
    let (parents, evaluator, low) = converging(10.0, 1);
    let mut next = low.clone();
    advance(&mut next, &parents, &evaluator);
    let farther = |a, b| match low.distances[0][b] > low.distances[0][a] {
        true => b,
        false => a,
    };
    let kept = low.population[(1..8).fold(1, farther)].id;
    let mutants = next.births.iter().filter(|b| b.origin == Origin::Mutant);
    assert!(mutants.skip(2).all(|b| b.from == [kept]));
}

#[test]
fn diversity_is_a_share_of_generation_0_which_does_not_count_as_converging_however_alike_merges_are()
 {
    let (parents, _, mut search) = converging(0.3, 1);
    let first = search.history[0].clone();
    let neutral: Vec<&Genome> = search.births[..8].iter().map(|b| &b.genome).collect();
    let spread = mean_distance(&distances(&neutral, &parents));
    assert!(first.distance < 0.3, "{first:?}");
    assert!((first.diversity - first.distance / spread).abs() < 1e-12);
    assert_eq!(search.newly_converging(), None);
    // One of the sweep at most is in the population: they are one direction.
    let of_sweep = |m: &&Individual| search.births[m.id as usize].origin == Origin::Sweep;
    assert_eq!(search.population.iter().filter(of_sweep).count(), 1);
    // Had they come five times as near to each other, they would.
    search
        .distances
        .iter_mut()
        .flatten()
        .for_each(|d| *d /= 5.0);
    let near = search.newly_converging().unwrap();
    assert!((near - first.diversity / 5.0).abs() < 1e-12);
}

#[test]
fn each_remedy_does_what_it_says_and_going_on_is_not_asked_about_again() {
    let (parents, evaluator, start) = converging(10.0, 1);
    let after = |remedy| {
        let mut search = start.clone();
        search.diversify(remedy);
        search.next_generation(&parents, &evaluator).unwrap();
        let row = search.history[1].clone();
        let strangers = search
            .births
            .iter()
            .filter(|b| b.origin == Origin::Injected);
        (row.mutation_rate, strangers.count(), search)
    };
    assert_eq!(after(Remedy::RaiseMutation).1, 0);
    assert_eq!(after(Remedy::RaiseMutation).0, 0.02);
    assert_eq!(
        (after(Remedy::RestartTwo).0, after(Remedy::RestartTwo).1),
        (0.01, 2)
    );
    let (rate, strangers, mut search) = after(Remedy::GoOn);
    assert_eq!((rate, strangers), (0.01, 0));
    for _ in 0..12 {
        assert_eq!(search.newly_converging(), None);
        search.next_generation(&parents, &evaluator).unwrap();
    }
}

#[test]
fn nan_infinite_lost_dead_and_collapsed_children_are_rejected_before_anything_is_scored() {
    let parents = parents();
    // The neutral genomes of combinations 0 to 4, each spoilt in its own way.
    fn combination(child: &Child) -> Option<usize> {
        let parents = self::parents();
        let space = Space::of(&parents);
        let neutral = |b| decode(&Genome::neutral(b, space, 42), &parents);
        (0..3).find(|&b| neutral(b as u8) == *child)
    }
    let mut evaluator = bowl(&parents);
    evaluator.dead = |child| combination(child) == Some(0);
    evaluator.probe = |child| match combination(child) {
        Some(1) => Probe {
            different: 1,
            ..HEALTHY
        },
        Some(2) => Probe {
            nats: 4.5,
            ..HEALTHY
        },
        _ => HEALTHY,
    };
    let search = run(settings(), &parents, &evaluator, 1);
    let reasons: Vec<&str> = search.births[..3]
        .iter()
        .map(|b| b.rejected[0].reason.as_str())
        .collect();
    assert_eq!(reasons[0], "the probe gave NaN");
    assert!(
        reasons[1].contains("one token whatever it reads"),
        "{reasons:?}"
    );
    assert!(
        reasons[2].contains("4.50 nats a token, more than the 4.00"),
        "{reasons:?}"
    );
    assert_eq!(search.history[0].born, [13, 3]);
    let seen = evaluator.seen.lock().unwrap();
    for rejected in search.births.iter().flat_map(|b| &b.rejected) {
        let hash = decode(&rejected.genome, &parents).hash();
        assert!(!seen.iter().any(|s| s.0 == hash), "scored all the same");
    }
    drop(seen);
    // Where the parents do no better, neither counts.
    evaluator.probe = |_| Probe {
        nats: 6.0,
        different: 1,
    };
    evaluator.dead = |_| false;
    let poor = run(settings(), &parents, &evaluator, 1);
    assert_eq!(poor.work().rejected, 0);
}

#[test]
fn merges_that_overflow_are_caught_by_their_weights_alone() {
    let parents = parents();
    let evaluator = bowl(&parents);
    let settings = Settings {
        sweep: vec![0.4, 1e39],
        ..settings()
    };
    let search = run(settings, &parents, &evaluator, 1);
    let swept = search.births.iter().find(|b| b.id == 9).unwrap();
    let reason = &swept.rejected[0].reason;
    assert!(
        reason.contains("is inf") || reason.contains("is -inf"),
        "{reason}"
    );
    assert_eq!(search.history[0].born, [10, 1]);
    assert!(search.population.iter().all(|m| m.fitness.is_finite()));
}

#[test]
fn limits_confine_every_further_genome_and_left_out_children_leave_a_smaller_population() {
    let parents = parents();
    let mut evaluator = bowl(&parents);
    let mut search = run(settings(), &parents, &evaluator, 1);
    search.limits.halvings = 1;
    search.limits.ban(7);
    search.limits.ban(0);
    for _ in 0..10 {
        advance(&mut search, &parents, &evaluator);
    }
    for birth in search.births.iter().filter(|b| b.generation > 0) {
        let genome = &birth.genome;
        assert!(
            genome.lambda <= 0.4501 && ![0, 7].contains(&genome.bits),
            "{birth:?}"
        );
    }
    search.limits.interpolation_only = true;
    let from = search.generation;
    for _ in 0..5 {
        advance(&mut search, &parents, &evaluator);
    }
    for birth in search.births.iter().filter(|b| b.generation >= from) {
        let sources = birth.genome.sources.iter().chain([&birth.genome.shared]);
        assert!(sources.clone().all(|s| *s != Source::Arithmetic) && !birth.genome.dfs());
    }
    let mut all = Limits::default();
    (0..8).for_each(|bits| all.ban(bits));
    assert_ne!(all.banned, u8::MAX, "one is left");

    evaluator.dead = |child| {
        let parents = self::parents();
        !parents.models.iter().any(|m| **m == child.weights) && norm(child, &parents) > 4.1
    };
    let mut dropping = Search::new(settings(), &parents).unwrap();
    dropping.limits.drop = true;
    for _ in 0..6 {
        advance(&mut dropping, &parents, &evaluator);
    }
    let gone: Vec<&Birth> = dropping
        .births
        .iter()
        .filter(|b| b.fitness.is_none())
        .collect();
    assert!(
        !gone.is_empty()
            && gone
                .iter()
                .all(|b| b.rejected.len() == 1 && b.hash.is_empty())
    );
}

#[test]
fn a_search_is_cut_to_its_budget_by_smaller_samples_and_then_by_fewer_generations() {
    let parents = parents();
    let evaluator = bowl(&parents);
    let of = |budget_items, generations| Settings {
        budget_items,
        generations,
        ..settings()
    };
    let mut roomy = Search::new(of(0, 50), &parents).unwrap();
    let most = roomy.forecast();
    assert_eq!(most, most_items(&roomy.settings));
    assert!(!roomy.over_budget() && roomy.take_smaller_samples().is_none());

    let mut tight = Search::new(of(most / 2, 50), &parents).unwrap();
    let cut = tight.take_smaller_samples().unwrap();
    assert_eq!((cut.items[0], cut.generations), (most, [50, 50]));
    assert!(cut.items[1] <= most / 2 && cut.rounds[1][2] > 60, "{cut:?}");
    assert!(!tight.over_budget());
    while !tight.finished() {
        advance(&mut tight, &parents, &evaluator);
    }
    assert!(tight.history.len() == 51 && tight.scored() <= most / 2);

    let mut tighter = Search::new(of(most / 10, 50), &parents).unwrap();
    assert_eq!(
        tighter.take_smaller_samples().unwrap().rounds[1],
        [5, 15, 50]
    );
    let cut = tighter.take_fewer_generations().unwrap();
    assert!(
        cut.generations[1] < 50 && cut.items[1] <= most / 10,
        "{cut:?}"
    );
    while !tighter.finished() {
        advance(&mut tighter, &parents, &evaluator);
    }
    assert!(tighter.scored() <= most / 10);
}
