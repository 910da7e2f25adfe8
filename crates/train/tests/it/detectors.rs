//! Failure detectors of Phase 1: each fault is provoked, seen, repaired or stopped, and journaled; what is healthy is
//! left alone.

use crate::core::World;
use serde_json::{Value, json};
use std::sync::atomic::AtomicBool;
use store::{Action, Bag, Keep};
use tensor::random::Counted;
use train::detect::{ConvergenceRecipe, Policy, Signal, Watch};
use train::driver::{self, End, Saving};
use train::phases::cognate::CognatePhase;
use train::{Context, Error, Phase, Recipe};

/// A watch that has seen these losses, and what it says of them.
fn seen(losses: impl IntoIterator<Item = f64>, recipe: &ConvergenceRecipe) -> (Watch, Vec<Signal>) {
    let (mut watch, mut signals) = (Watch::default(), Vec::new());
    for loss in losses {
        watch.note(loss, loss.is_finite(), recipe);
        signals.extend(watch.signal(recipe));
    }
    (watch, signals)
}

/// Numbers of mean 0 and deviation 1, about.
fn noise(seed: u64, n: u64) -> Vec<f64> {
    let random = Counted::new(seed, "noise", 0);
    (0..n).map(|i| f64::from(random.normal(i))).collect()
}

#[test]
fn losses_as_training_has_them_raise_no_alarm() {
    let recipe = ConvergenceRecipe::default();
    for seed in 0..40 {
        // A fall like that of a language model, then a long flat tail; batches of several families are noisy.
        let losses = noise(seed, 600).into_iter().enumerate();
        let losses = losses.map(|(i, e)| 2.0 + 6.0 / (1.0 + i as f64 / 20.0) + 0.15 * e);
        let (_, signals) = seen(losses, &recipe);
        assert!(signals.is_empty(), "seed {seed}: {signals:?}");
    }
}

#[test]
fn a_rise_a_standstill_and_numbers_that_are_not_finite_are_told_apart() {
    let recipe = ConvergenceRecipe::default();
    let rising = noise(1, 60).into_iter().enumerate();
    let (_, signals) = seen(
        rising.map(|(i, e)| 3.0 + 0.05 * i as f64 + 0.1 * e),
        &recipe,
    );
    assert!(matches!(signals[0], Signal::Diverging(slope) if (0.03..0.07).contains(&slope)));

    let still = noise(2, 60).into_iter().map(|e| 3.0 + 0.02 * e);
    let (_, signals) = seen(still, &recipe);
    assert_eq!(signals.len(), 11, "from the fiftieth loss on");
    assert!(matches!(signals[0], Signal::Plateau(v) if v < 0.001));

    let (_, signals) = seen([3.0, f64::NAN, 3.1, f64::NAN, f64::INFINITY], &recipe);
    assert_eq!(signals, [], "two in a row are left to the skipped steps");
    let (_, signals) = seen([3.0, f64::NAN, f64::NAN, f64::INFINITY], &recipe);
    assert_eq!(signals, [Signal::NotFinite(3)]);
    let (mut watch, _) = seen([f64::NAN; 3], &recipe);
    watch.overlook();
    assert_eq!(watch.signal(&recipe), None, "a person said to go on");
}

#[test]
fn patience_runs_out_where_the_mean_loss_finds_no_new_low() {
    let recipe = ConvergenceRecipe {
        plateau_steps: 5,
        plateau: 0.0,
        patience: 20,
        ..Default::default()
    };
    let flat = noise(3, 60).into_iter().enumerate();
    let losses = flat.map(|(i, e)| 3.0 - 0.1 * (i as f64).min(20.0) + 0.02 * e);
    let (watch, signals) = seen(losses, &recipe);
    assert!(matches!(signals.first(), Some(Signal::Plateau(steps)) if *steps == 20.0));
    assert_eq!(watch.signal(&recipe).unwrap().measured(&recipe).1, 20.0);
    let off = ConvergenceRecipe {
        patience: 0,
        ..recipe
    };
    assert!(seen(vec![3.0; 60], &off).1.is_empty());
}

#[test]
fn a_history_begins_anew_where_the_loss_may_jump() {
    let recipe = ConvergenceRecipe::default();
    let (mut watch, _) = seen((0..30).map(|i| 3.0 - 0.05 * f64::from(i)), &recipe);
    watch.begin();
    for _ in 0..10 {
        watch.note(4.0, true, &recipe);
        assert_eq!(watch.signal(&recipe), None);
    }
}

#[test]
fn one_batch_far_above_the_others_is_poisoned_and_two_are_not() {
    let recipe = ConvergenceRecipe::default();
    let usual: Vec<f64> = noise(4, 30).into_iter().map(|e| 3.0 + 0.1 * e).collect();
    let (mut watch, _) = seen(usual, &recipe);
    assert!(!watch.poisoned(3.6, &recipe), "within the noise");
    assert!(watch.poisoned(6.0, &recipe));
    assert!(!watch.poisoned(6.0, &recipe), "twice is no accident");
    let (mut young, _) = seen([3.0; 10], &recipe);
    assert!(!young.poisoned(6.0, &recipe), "too little is known");
}

fn phase(cx: &Context) -> CognatePhase {
    CognatePhase::start(cx).unwrap()
}

/// Drives a phase to its end, or to an error.
fn finish(cx: &Context, mut phase: CognatePhase, hop: bool) -> Result<Value, Error> {
    while !phase.finished() {
        phase.unit(cx)?;
        if hop {
            phase = CognatePhase::restore(cx, &phase.save())?;
        }
        assert!(
            phase.done() <= phase.total(),
            "{}/{}",
            phase.done(),
            phase.total()
        );
    }
    phase.finish(cx)
}

/// Detectors, and what was done, in order.
fn alerts(cx: &Context) -> Vec<(String, String)> {
    let list = cx.run.journal().alerts().unwrap();
    list.into_iter()
        .map(|a| (a.detector, a.action.unwrap_or_default()))
        .collect()
}

fn events(cx: &Context, kind: &str) -> Vec<Value> {
    let all = cx.run.journal().events().unwrap();
    all.into_iter()
        .filter(|e| e.kind == kind)
        .map(|e| e.json)
        .collect()
}

/// A recipe whose ancestor learns at an absurd rate, long enough to be noticed.
fn absurd(recipe: &Recipe) -> Recipe {
    let mut recipe = recipe.clone();
    let c = &mut recipe.cognate;
    (c.ancestor_steps, c.average) = (60, 0.0);
    (c.optim.muon_lr, c.optim.adam_lr) = (4.0, 2.0);
    (c.optim.warmup, c.loops_from) = (0.3, 0.0);
    recipe.detectors.convergence.shortest = 8;
    recipe
}

#[test]
fn an_absurd_learning_rate_is_rolled_back_and_lowered_with_the_same_bits_after_a_kill() {
    let mut finals = Vec::new();
    for hop in [false, true] {
        let world = World::new();
        let recipe = absurd(&world.recipe);
        let cx = Context {
            recipe: &recipe,
            ..world.context()
        };
        let report = finish(&cx, phase(&cx), hop).unwrap();
        let seen = alerts(&cx);
        assert!(
            seen.contains(&("diverging".into(), "roll-back".into())),
            "{seen:?}"
        );
        let rates: Vec<f64> = events(&cx, "roll-back")
            .iter()
            .map(|e| e["muon_lr"].as_f64().unwrap())
            .collect();
        assert!(
            rates[0] < 1.21 && rates.windows(2).all(|r| r[1] < r[0]),
            "{rates:?}"
        );
        // Uniform guessing costs ln(vocabulary) a token: what was repaired is better, what diverged is far worse.
        let ancestor = report["ancestor"]["perplexity"].as_f64().unwrap().ln();
        assert!(ancestor < (recipe.model.vocab as f64).ln(), "{ancestor}");
        finals.push(world.finals("phase1-cognate"));
    }
    assert!(finals[0] == finals[1], "killed after every unit or not");
}

#[test]
fn the_same_rate_stops_with_a_message_where_no_remedy_is_left() {
    let world = World::new();
    let mut recipe = absurd(&world.recipe);
    recipe.detectors.convergence.remedies = 0;
    let cx = Context {
        recipe: &recipe,
        ..world.context()
    };
    let said = finish(&cx, phase(&cx), false).unwrap_err();
    let stopped = matches!(said, Error::Stopped { .. });
    let said = said.to_string();
    for part in [
        "`ancestor` does not converge (diverging)",
        "cognate.optim.muon_lr",
    ] {
        assert!(stopped && said.contains(part), "{said}");
    }
    assert_eq!(alerts(&cx), [("diverging".to_string(), "stop".to_string())]);

    recipe.detectors.convergence.policy = Policy::Off;
    let world = World::new();
    let cx = Context {
        recipe: &recipe,
        ..world.context()
    };
    let mut phase = phase(&cx);
    for _ in 0..60 {
        phase.unit(&cx).unwrap();
    }
    assert_eq!(alerts(&cx), [], "nobody looks");
}

/// The state of a phase with every weight of the ancestor's embedding spoilt.
fn spoilt(mut bag: Bag) -> Bag {
    let array = (bag.arrays.iter_mut()).find(|a| a.name == "0/model/embed.weight");
    let array = array.unwrap();
    *array = store::Array::f32(
        array.name.clone(),
        &array.shape,
        &vec![f32::NAN; array.to_f32().len()],
    );
    bag
}

#[test]
fn weights_that_are_not_finite_are_taken_back_from_those_kept() {
    let world = World::new();
    let mut recipe = world.recipe.clone();
    recipe.cognate.ancestor_steps = 12;
    let cx = Context {
        recipe: &recipe,
        ..world.context()
    };
    let mut phase = phase(&cx);
    for _ in 0..3 {
        phase.unit(&cx).unwrap();
    }
    let mut phase = CognatePhase::restore(&cx, &spoilt(phase.save())).unwrap();
    for _ in 0..4 {
        phase.unit(&cx).unwrap();
    }
    assert_eq!(
        alerts(&cx),
        [("not-finite".to_string(), "roll-back".to_string())]
    );
    assert_eq!(events(&cx, "step-skipped").len(), 3);
    let weights = phase.save().arrays;
    let weights = weights.iter().find(|a| a.name == "0/model/embed.weight");
    assert!(weights.unwrap().to_f32().iter().all(|w| w.is_finite()));
}

#[test]
fn specialists_made_alike_go_back_to_the_ancestor_and_come_out_different() {
    let world = World::new();
    let mut recipe = world.recipe.clone();
    recipe.cognate.mixtures = [data::Mixture::Mean; 3];
    recipe.cognate.act_thresholds = [0.95; 3];
    let cx = Context {
        recipe: &recipe,
        ..world.context()
    };
    let report = finish(&cx, phase(&cx), false).unwrap();
    assert_eq!(alerts(&cx)[0], ("no-diversity".into(), "diverge".into()));
    let event = &events(&cx, "diverged-from-ancestor")[0];
    assert_eq!(event["main_share"], json!([0.6, 0.4, 0.5]));
    let of_check = |name: &str| {
        let filter = store::Filter {
            name: Some(name.into()),
            ..Default::default()
        };
        let rows = cx.run.journal().metrics(&filter).unwrap();
        rows.into_iter().map(|r| r.value).collect::<Vec<f64>>()
    };
    let halting = of_check("diversity/halting");
    assert_eq!(halting.len(), 2, "once more after the remedy");
    assert!(halting[1] > halting[0] + 0.5, "{halting:?}");
    assert_eq!(report["models"].as_array().unwrap().len(), 3);

    let mut off = recipe.clone();
    off.detectors.diversity.policy = Policy::Off;
    let world = World::new();
    let cx = Context {
        recipe: &off,
        ..world.context()
    };
    finish(&cx, phase(&cx), false).unwrap();
    assert!(alerts(&cx).iter().all(|a| !a.0.contains("diversity")));
}

const SAVING: Saving = Saving {
    seconds: 1e9,
    units: 1_000_000,
    keep: Keep::Minimal,
};

fn drive(cx: &Context, phase: &mut CognatePhase) -> Result<End, Error> {
    driver::drive(phase, cx, SAVING, &AtomicBool::new(false), &mut |_| {})
}

#[test]
fn an_alert_that_asks_waits_stops_in_a_checkpoint_and_takes_an_answer_after_the_resume() {
    let world = World::new();
    let mut recipe = absurd(&world.recipe);
    recipe.detectors.convergence.policy = Policy::Ask;
    recipe.detectors.ask_seconds = 0.0;
    let cx = Context {
        recipe: &recipe,
        ..world.context()
    };
    let said = drive(&cx, &mut phase(&cx)).unwrap_err();
    assert!(matches!(said, Error::Stopped { .. }));
    let said = said.to_string();
    for part in [
        "alert 1 (`diverging`)",
        "roll-back, go-on, stop",
        "forge resume test",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let checkpoint = world.run.newest_checkpoint().unwrap().unwrap();
    let mut phase = CognatePhase::restore(&cx, &checkpoint.bag).unwrap();
    let question = phase.question().unwrap().clone();
    let asked = |choice: &str| {
        let arguments = json!({ "alert": question.alert, "choice": choice });
        let requests = world.run.requests();
        requests.submit(Action::Answer, &arguments, "ada").unwrap();
    };
    asked("sing");
    assert!(drive(&cx, &mut phase).is_err(), "no choice, no answer");
    asked("stop");
    let said = drive(&cx, &mut phase).unwrap_err().to_string();
    assert!(said.contains("does not converge"), "{said}");
    let outcomes: Vec<_> = (world.run.requests().applied().unwrap().into_iter())
        .filter_map(|r| r.outcome)
        .collect();
    assert!(outcomes[0].contains("`sing` is no choice of alert 1: roll-back, go-on, stop"));
    let alert = &world.run.journal().alerts().unwrap()[0];
    assert_eq!(
        (alert.action.as_deref(), alert.by.as_deref()),
        (Some("stop"), Some("ada"))
    );
}

/// Documents of one plain sentence again and again, and a few of random bytes among them.
fn poisoned_folder(dir: &std::path::Path) {
    let random = Counted::new(7, "poison", 0);
    let mut lines = String::new();
    for i in 0..240u64 {
        let text = match i % 24 {
            23 => (0..160)
                .map(|k| char::from(b'!' + random.below(i * 1000 + k, 90) as u8))
                .collect(),
            _ => "the cat sat on the mat and the dog lay by the door. ".repeat(4),
        };
        lines += &format!("{}\n", json!({ "text": text }));
    }
    std::fs::write(dir.join("docs.jsonl"), lines).unwrap();
}

#[test]
fn a_poisoned_batch_is_left_out_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    poisoned_folder(dir.path());
    let mut recipe = World::new().recipe;
    (recipe.data.sets, recipe.data.folder) = (Vec::new(), Some(dir.path().into()));
    // The sentence is to repeat.
    recipe.data.dedup = 0.0;
    let c = &mut recipe.cognate;
    (c.ancestor_steps, c.tokens_per_step, c.loops_from) = (90, 48, 0.0);
    let world = World::of(recipe);
    let cx = world.context();
    let mut phase = phase(&cx);
    for _ in 0..90 {
        phase.unit(&cx).unwrap();
    }
    let left_out = events(&cx, "step-skipped");
    assert!(!left_out.is_empty());
    for event in &left_out {
        assert_eq!(event["reason"], "the loss lies far above those before it");
        assert!(event["loss"].as_f64().unwrap() > 2.0, "{event}");
    }
    assert_eq!(alerts(&cx), [], "a batch is no trend");
}
