//! Creating, opening, listing and locking runs.

use serde_json::json;
use store::{Error, Run, RunState};

use crate::child;
use crate::sample::{bag, key, new_run};

#[test]
fn a_new_run_is_found_again_with_its_recipe_and_state() {
    let root = tempfile::tempdir().unwrap();
    let recipe = json!({"z": 1, "a": {"lr": 0.1}});
    let run = Run::create(root.path(), "my-run_1.0", &recipe).unwrap();
    assert_eq!(run.dir(), root.path().join("runs/my-run_1.0"));
    assert_eq!(
        (run.state().unwrap(), run.attempt()),
        (RunState::Running, 1)
    );
    run.set_state(RunState::Paused).unwrap();
    drop(run);

    let run = Run::open(root.path(), "my-run_1.0").unwrap();
    assert_eq!(
        run.recipe().to_string(),
        recipe.to_string(),
        "the order of keys is kept"
    );
    assert_eq!((run.state().unwrap(), run.attempt()), (RunState::Paused, 2));
    assert_eq!(Run::read(root.path(), "my-run_1.0").unwrap().attempt(), 2);
}

#[test]
fn an_existing_name_is_refused_with_both_ways_out() {
    let root = tempfile::tempdir().unwrap();
    drop(new_run(root.path()));
    let text = Run::create(root.path(), "first", &json!({}))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("--run OTHER") && text.contains("forge resume first"),
        "{text}"
    );
    // Whatever else sits at that name is left alone too.
    std::fs::create_dir(root.path().join("runs/empty")).unwrap();
    assert!(matches!(
        Run::create(root.path(), "empty", &json!({})),
        Err(Error::RunExists { .. })
    ));
}

#[test]
fn an_unknown_run_is_answered_with_those_there_are() {
    let root = tempfile::tempdir().unwrap();
    let text = Run::open(root.path(), "typo").unwrap_err().to_string();
    assert!(text.contains("there are none"), "{text}");
    drop(new_run(root.path()));
    drop(Run::create(root.path(), "second", &json!({})).unwrap());
    let text = Run::read(root.path(), "typo").unwrap_err().to_string();
    assert!(text.contains("first, second"), "{text}");
}

#[test]
fn odd_names_are_refused_before_anything_is_made() {
    let root = tempfile::tempdir().unwrap();
    let long = "x".repeat(101);
    for name in [
        "", ".", "..", ".hidden", "-flag", "a/b", "a\\b", "a b", "ü", "end.", "a\0b", &long,
    ] {
        let fault = Run::create(root.path(), name, &json!({})).unwrap_err();
        assert!(matches!(fault, Error::Name { .. }), "{name:?}: {fault}");
        assert!(matches!(
            Run::open(root.path(), name),
            Err(Error::Name { .. })
        ));
    }
    assert!(!root.path().join("runs").exists());
    let run = new_run(root.path());
    assert!(
        run.write_model("../elsewhere", "m", &[], &Default::default())
            .is_err()
    );
    assert!(
        run.write_model("phase1-cognate", "a/b", &[], &Default::default())
            .is_err()
    );
}

#[test]
fn a_second_writer_is_refused_and_readers_are_not() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let text = Run::open(root.path(), "first").unwrap_err().to_string();
    assert!(
        text.contains("another process writes run `first`"),
        "{text}"
    );
    assert_eq!(run.attempt(), 1, "a refused opening counts no attempt");
    let output = child::command("runs::child_is_refused_as_second_writer", root.path())
        .output()
        .unwrap();
    child::assert_passed(&output);
    drop(run);
    assert_eq!(Run::open(root.path(), "first").unwrap().attempt(), 2);
}

#[test]
fn child_is_refused_as_second_writer() {
    let Some(root) = child::folder() else { return };
    assert!(matches!(
        Run::open(&root, "first"),
        Err(Error::Locked { .. })
    ));
    assert_eq!(
        Run::read(&root, "first").unwrap().state().unwrap(),
        RunState::Running
    );
}

#[test]
fn a_reading_handle_writes_nothing_but_requests() {
    let root = tempfile::tempdir().unwrap();
    let _writer = new_run(root.path());
    let reader = Run::read(root.path(), "first").unwrap();
    let key = key("phase1-cognate", 1);
    let refused = [
        reader.set_state(RunState::Done),
        reader
            .save_checkpoint("cognate", &key, &bag(1), store::Keep::All)
            .map(drop),
        reader
            .write_model("phase1-cognate", "m", &[], &Default::default())
            .map(drop),
        reader.rewind(None),
        reader.journal().metric(&key, "loss", 1.0, 0.0),
        reader.journal().event(&key, "note", &json!(1)),
        reader.journal().alert(&key, "nan", 1.0, 0.0).map(drop),
        reader.journal().settle_alert(1, "x", "y"),
        reader.journal().cache("k", &json!(1)),
        reader.journal().supersede_after(&key),
        reader.requests().apply(1, &key, "done"),
    ];
    for (index, result) in refused.into_iter().enumerate() {
        assert!(
            matches!(result, Err(Error::ReadHandle { .. })),
            "number {index}: {result:?}"
        );
    }
    assert_eq!(
        reader
            .requests()
            .submit(store::Action::Stop, &json!({}), "ada")
            .unwrap(),
        1
    );
}

#[test]
fn the_list_tells_living_runs_from_dead_ones() {
    let root = tempfile::tempdir().unwrap();
    assert!(Run::list(root.path()).unwrap().is_empty());
    let live = Run::create(root.path(), "b-live", &json!({})).unwrap();
    let dead = Run::create(root.path(), "a-dead", &json!({})).unwrap();
    dead.set_state(RunState::Done).unwrap();
    drop(dead);
    std::fs::create_dir(root.path().join("runs/not-a-run")).unwrap();
    std::fs::write(root.path().join("runs/file"), "x").unwrap();
    let list = Run::list(root.path()).unwrap();
    let found: Vec<_> = list
        .iter()
        .map(|run| (run.name.as_str(), run.state, run.live))
        .collect();
    assert_eq!(
        found,
        [
            ("a-dead", RunState::Done, false),
            ("b-live", RunState::Running, true)
        ]
    );
    drop(live);
}

#[test]
fn damaged_run_files_are_named() {
    let root = tempfile::tempdir().unwrap();
    drop(new_run(root.path()));
    let dir = root.path().join("runs/first");
    std::fs::write(dir.join("state.json"), "{\"state\": \"flying\"}").unwrap();
    let text = Run::open(root.path(), "first").unwrap_err().to_string();
    assert!(
        text.contains("state.json is damaged") && text.contains("flying"),
        "{text}"
    );
}
