//! Failure detectors of Phase 2 on real models: equal parents, merges that are dead, a budget that is too small.

use crate::core::{World, recipe};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use train::detect::{DETECTORS, Policy};
use train::phases::cognate::CognatePhase;
use train::phases::evomerge::{
    Child, Evaluate, EvomergePhase, Genome, Judge, Material, Parents, Sample, Search, Split,
    Strategy, decode, parents_of,
};
use train::{Context, Error, Phase, Recipe};

/// Specialists that were trained once for all tests here.
fn trained() -> &'static (World, [PathBuf; 4]) {
    static TRAINED: OnceLock<(World, [PathBuf; 4])> = OnceLock::new();
    TRAINED.get_or_init(|| {
        // Long enough to beat the frequencies of the tokens.
        let mut recipe = recipe();
        (recipe.cognate.ancestor_steps, recipe.cognate.epochs) = (30, [2, 2, 2]);
        let world = World::of(recipe);
        let cx = world.context();
        let mut phase = CognatePhase::start(&cx).unwrap();
        while !phase.finished() {
            phase.unit(&cx).unwrap();
        }
        phase.finish(&cx).unwrap();
        let files = EvomergePhase::inputs(&world.run);
        (world, files)
    })
}

/// A run of its own on what was trained.
struct Trial {
    _dir: tempfile::TempDir,
    run: store::Run,
    recipe: Recipe,
    files: [PathBuf; 4],
}

fn trial(change: impl FnOnce(&mut Recipe)) -> Trial {
    let (world, files) = trained();
    let mut recipe = world.recipe.clone();
    recipe.evomerge.search = Strategy::Evolution;
    recipe.evomerge.random_search = false;
    recipe.evomerge.audit = 0;
    change(&mut recipe);
    let dir = tempfile::tempdir().unwrap();
    let run = store::Run::create(dir.path(), "test", &serde_json::json!({})).unwrap();
    Trial {
        _dir: dir,
        run,
        recipe,
        files: files.clone(),
    }
}

impl Trial {
    fn context(&self) -> Context<'_> {
        Context {
            run: &self.run,
            recipe: &self.recipe,
            source: &trained().0.source,
            memory: train::memory::limit(),
            clock: &|| 0.0,
        }
    }

    fn paths(&self) -> [&Path; 4] {
        self.files.each_ref().map(PathBuf::as_path)
    }

    /// The phase to its end; with `hop`, saved and restored after every unit.
    fn finish(&self, hop: bool) -> Result<Value, Error> {
        let cx = self.context();
        let mut phase = EvomergePhase::start(&cx, &self.paths())?;
        while !phase.finished() {
            assert!(phase.question().is_none(), "nobody is asked");
            phase.unit(&cx)?;
            assert!(phase.done() <= phase.total());
            if hop {
                phase = EvomergePhase::restore(&cx, &self.paths(), &phase.save())?;
            }
        }
        phase.finish(&cx)
    }

    /// Detectors and what was done, in order.
    fn alerts(&self) -> Vec<(String, String)> {
        let list = self.run.journal().alerts().unwrap().into_iter();
        list.map(|a| (a.detector, a.action.unwrap_or_default()))
            .collect()
    }

    fn events(&self, kind: &str) -> Vec<Value> {
        let all = self.run.journal().events().unwrap().into_iter();
        all.filter(|e| e.kind == kind).map(|e| e.json).collect()
    }
}

fn named(detector: &str, action: &str) -> (String, String) {
    (detector.to_owned(), action.to_owned())
}

#[test]
fn equal_parents_are_told_and_measured_once_instead_of_searched() {
    let mut equal = trial(|r| r.evomerge.generations = 20);
    (equal.files[2], equal.files[3]) = (equal.files[1].clone(), equal.files[1].clone());
    let report = equal.finish(true).unwrap();
    assert_eq!(equal.alerts()[0], named("identical-parents", "skip"));
    assert_eq!(report["generations"], 0);
    assert!(report["cache_hits"].as_u64().unwrap() > 0);
    let event = &equal.events("identical-parents")[0];
    assert!(
        event["remedy"]
            .as_str()
            .unwrap()
            .contains("cognate.mixtures")
    );
    assert_eq!(event["apart"]["reasoning-memory"], 0.0);

    // Two of three: there is something left to merge.
    let mut two = trial(|_| {});
    two.files[2] = two.files[1].clone();
    let report = two.finish(false).unwrap();
    assert_eq!(two.alerts()[0], named("identical-parents", "go-on"));
    assert_eq!(report["generations"], 1);

    let mut asked = trial(|r| r.detectors.population.policy = Policy::Ask);
    (asked.files[2], asked.files[3]) = (asked.files[1].clone(), asked.files[1].clone());
    let cx = asked.context();
    let mut phase = EvomergePhase::start(&cx, &asked.paths()).unwrap();
    phase.unit(&cx).unwrap();
    let mut phase = EvomergePhase::restore(&cx, &asked.paths(), &phase.save()).unwrap();
    assert_eq!(phase.question().unwrap().detector, "identical-parents");
    assert_eq!(phase.done(), 0, "nothing is done before the answer");
    let said = phase.answer(&cx, "stop").unwrap_err();
    assert!(matches!(said, Error::Stopped { .. }));
}

#[test]
fn a_population_that_converges_is_told_mended_and_ends_in_the_same_bits_after_any_kill() {
    let mut reports = Vec::new();
    for hop in [false, true] {
        let trial = trial(|r| {
            r.evomerge.generations = 4;
            (r.evomerge.diversity, r.evomerge.injection_every) = (10.0, 2);
        });
        let mut report = trial.finish(hop).unwrap();
        let told = named("premature-convergence", "inject");
        let times = trial.alerts().iter().filter(|a| **a == told).count();
        assert_eq!(times, 2, "before generations 1 and 3");
        report["champion"] = Value::Null;
        reports.push(report);
    }
    assert_eq!(reports[0], reports[1]);
    let off = trial(|r| {
        r.evomerge.diversity = 10.0;
        r.detectors.population.policy = Policy::Off;
    });
    off.finish(false).unwrap();
    let converging = |a: &(String, String)| a.0 == "premature-convergence";
    assert!(!off.alerts().iter().any(converging));
}

#[test]
fn absurd_lambdas_make_dead_merges_which_are_replaced_counted_and_told_with_their_reasons() {
    // Three of thirteen: weights that overflow, and two that are only much too large.
    let few = trial(|r| r.evomerge.sweep = vec![0.4, 1e39, 40.0, 0.3, 80.0]);
    let report = few.finish(true).unwrap();
    assert_eq!(few.alerts()[0], named("degenerate-merge", "linear"));
    let events = few.events("degenerate-merge");
    let rejected = events[0]["rejected"].as_array().unwrap();
    let reason = |i: usize| rejected[i]["reason"].as_str().unwrap();
    assert!(
        reason(0).contains("is inf") || reason(0).contains("is NaN"),
        "{rejected:?}"
    );
    assert!(reason(1).contains("collapsed"), "{rejected:?}");
    assert!(report["rejected"].as_u64().unwrap() >= 3);

    // Most of a generation: louder, and the search is confined.
    let most = trial(|r| r.evomerge.sweep = vec![1e39; 12]);
    most.finish(false).unwrap();
    assert_eq!(most.alerts()[0], named("degenerate-generation", "narrow"));

    let asked = trial(|r| {
        r.evomerge.sweep = vec![0.4, 1e39];
        r.detectors.degenerate.policy = Policy::Ask;
    });
    let cx = asked.context();
    let mut phase = EvomergePhase::start(&cx, &asked.paths()).unwrap();
    phase.unit(&cx).unwrap();
    assert_eq!(
        phase.question().unwrap().choices()[..3],
        ["linear", "drop", "ban"]
    );
    phase.answer(&cx, "drop").unwrap();
    assert!(phase.question().is_none());
    while !phase.finished() {
        phase.unit(&cx).unwrap();
    }
}

#[test]
fn a_budget_that_is_too_small_cuts_samples_then_generations_and_says_so() {
    let within = |budget: u64| {
        trial(move |r| {
            (r.evomerge.generations, r.evomerge.budget_items) = (30, budget);
            r.evomerge.rounds = vec![4, 8];
        })
    };
    let small = within(300);
    let report = small.finish(true).unwrap();
    assert!(report["generations"].as_u64().unwrap() < 30);
    let cuts = small.events("budget-cut");
    assert!(!cuts.is_empty());
    for cut in &cuts {
        assert!(cut["items"][0].as_u64() > Some(300), "{cut}");
    }
    assert!(cuts.last().unwrap()["items"][1].as_u64() <= Some(300));
    let alerts = small.alerts();
    assert!(
        alerts.contains(&named("slow-evaluation", "smaller-samples")),
        "{alerts:?}"
    );
    assert!(
        alerts.contains(&named("slow-evaluation", "fewer-generations")),
        "{alerts:?}"
    );

    let said = within(20).finish(false).unwrap_err();
    assert!(matches!(said, Error::Stopped { .. }));
    assert!(said.to_string().contains("evomerge.budget_items"), "{said}");
}

/// A model whose every embedding is that of one token, but for a longer one, which it therefore gives always.
fn one_token(child: &mut Child, width: usize) {
    let embedding = child.weights.get_mut("embed.weight").unwrap();
    let first = embedding[..width].to_vec();
    embedding
        .chunks_mut(width)
        .for_each(|row| row.copy_from_slice(&first));
    embedding[5 * width..6 * width]
        .iter_mut()
        .for_each(|x| *x *= 2.0);
    embedding[7 * width..8 * width]
        .iter_mut()
        .for_each(|x| *x *= -2.0);
}

#[test]
fn spoilt_weights_are_told_from_sound_ones_by_the_probe() {
    let (world, files) = trained();
    let (parents, template) = parents_of(files).unwrap();
    let material = Material::new(&world.source, 48);
    let judge = Judge {
        material: &material,
        tokenizer: &world.source.tokenizer,
        template: &template,
    };
    let child = |i| decode(&Genome::parent(i, &parents), &parents);
    let probe = |child: Child| judge.ready(child).probe().unwrap();
    let sound = probe(child(0));
    assert!(
        sound.nats < judge.unigram() && sound.different > 1,
        "{sound:?} {}",
        judge.unigram()
    );
    let mut collapsed = child(0);
    one_token(&mut collapsed, world.recipe.model.width);
    assert_eq!(probe(collapsed).different, 1);
    let mut dead = child(0);
    let spoilt = dead.weights.get_mut("norm.weight").unwrap();
    spoilt.iter_mut().for_each(|x| *x = f32::MAX);
    assert!(!probe(dead).nats.is_finite());
    let mut loud = child(0);
    let spoilt = loud.weights.get_mut("norm.weight").unwrap();
    spoilt.iter_mut().for_each(|x| *x *= -20.0);
    assert!(probe(loud).nats > judge.unigram());
}

#[test]
fn a_sample_measured_in_parts_is_the_sample_measured_at_once() {
    let (world, files) = trained();
    let (parents, template): (Parents, _) = parents_of(files).unwrap();
    let material = Material::new(&world.source, 48);
    let judge = Judge {
        material: &material,
        tokenizer: &world.source.tokenizer,
        template: &template,
    };
    let model = judge.model(&decode(&Genome::parent(1, &parents), &parents));
    let part = |items| judge.measure(&model, Split::Fitness, items).unwrap();
    let (whole, parts) = (part(0..12), part(0..5).plus(&part(5..12)));
    assert_eq!((whole.tokens, whole.losses.len()), (parts.tokens, 12));
    assert_eq!(whole.accuracies.len(), parts.accuracies.len());
    for (a, b) in whole.accuracies.iter().zip(&parts.accuracies) {
        assert_eq!((&a.task, a.n, a.correct), (&b.task, b.n, b.correct));
    }
    assert!((whole.nats - parts.nats).abs() < 1e-4);
    assert!((whole.counted_flops / parts.counted_flops - 1.0).abs() < 0.02);
    // A sample larger than its split is the split.
    let mut search = Search::new(world.recipe.evomerge.settings(1), &parents).unwrap();
    let contenders = [("parent".to_owned(), Genome::parent(0, &parents))];
    let sample = |items| Sample {
        split: Split::Selection,
        items,
    };
    let all = judge.items(Split::Selection);
    search
        .compare(&parents, &judge, &contenders, sample(all))
        .unwrap();
    let scored = search.work().scored_items;
    search
        .compare(&parents, &judge, &contenders, sample(all + 500))
        .unwrap();
    assert_eq!(search.work().scored_items, scored);
}

#[test]
fn every_detector_says_why_it_matters_and_recommends_something() {
    for detector in DETECTORS {
        assert!(
            detector.why.len() > 20 && detector.choices.len() >= 3,
            "{detector:?}"
        );
        assert_eq!(detector.choices.last(), Some(&"stop"));
    }
}
