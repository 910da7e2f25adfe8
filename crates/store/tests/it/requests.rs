//! Requests from other processes, their application and their replay.

use serde_json::json;
use store::{Action, Error, Keep, Run};

use crate::child;
use crate::sample::{bag, key, new_run};

const PHASE: &str = "phase1-cognate";

#[test]
fn a_request_from_another_process_arrives_while_the_run_writes() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let mut people = child::command("requests::child_submits", root.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut applied = 0;
    for step in 0.. {
        run.journal()
            .metric(&key(PHASE, step), "loss", 1.0, 0.0)
            .unwrap();
        run.journal().flush().unwrap();
        for request in run.requests().pending().unwrap() {
            assert_eq!((request.id, request.at), (applied + 1, None));
            assert_eq!(request.arguments, json!({"key": "lr", "value": applied}));
            run.requests()
                .apply(request.id, &key(PHASE, step), "done")
                .unwrap();
            applied += 1;
        }
        if applied == 20 {
            break;
        }
        assert!(
            step < 100_000 || people.try_wait().unwrap().is_none(),
            "only {applied} arrived"
        );
    }
    child::assert_passed(&people.wait_with_output().unwrap());
    let done = run.requests().applied().unwrap();
    assert_eq!(
        done.iter().map(|request| request.id).collect::<Vec<_>>(),
        (1..=20).collect::<Vec<_>>()
    );
    assert!(
        done.iter()
            .all(|request| request.author == "ada" && request.created > 1e9)
    );
}

#[test]
fn child_submits() {
    let Some(root) = child::folder() else { return };
    let run = Run::read(&root, "first").unwrap();
    for value in 0..20 {
        run.requests()
            .submit(Action::Set, &json!({"key": "lr", "value": value}), "ada")
            .unwrap();
    }
}

#[test]
fn requests_that_change_the_result_are_replayed_where_they_applied() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let requests = run.requests();
    let submit = |action, value: u64| requests.submit(action, &json!(value), "ada").unwrap();
    let first = submit(Action::Set, 1);
    requests.apply(first, &key(PHASE, 3), "lr = 1").unwrap();
    run.save_checkpoint("cognate", &key(PHASE, 5), &bag(5), Keep::All)
        .unwrap();
    // Applied in another order than submitted: the replay follows the application.
    let [set, answer, pause] =
        [Action::Set, Action::Answer, Action::Pause].map(|action| submit(action, 2));
    requests.apply(pause, &key(PHASE, 6), "paused").unwrap();
    requests
        .apply(answer, &key(PHASE, 7), "rolled back")
        .unwrap();
    requests.apply(set, &key(PHASE, 8), "lr = 2").unwrap();
    let new = submit(Action::Checkpoint, 3);
    drop(run);

    let run = Run::open(root.path(), "first").unwrap();
    run.rewind(run.newest_checkpoint().unwrap().as_ref())
        .unwrap();
    let pending = run.requests().pending().unwrap();
    let found: Vec<_> = pending
        .iter()
        .map(|r| (r.id, r.at.as_ref().map(|key| key.step)))
        .collect();
    assert_eq!(found, [(answer, Some(7)), (set, Some(8)), (new, None)]);
    assert!(
        pending[0].at.as_ref().unwrap().same_point(&key(PHASE, 7)) && pending[0].outcome.is_none()
    );
    let applied = run.requests().applied().unwrap();
    assert_eq!(
        applied.iter().map(|r| r.id).collect::<Vec<_>>(),
        [first, pause]
    );

    let again = store::Key {
        attempt: 2,
        ..key(PHASE, 7)
    };
    run.requests().apply(answer, &again, "rolled back").unwrap();
    assert_eq!(
        run.requests().applied().unwrap().last().unwrap().at,
        Some(again)
    );
}

#[test]
fn a_request_applies_once() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let id = run
        .requests()
        .submit(Action::Stop, &json!({}), "ada")
        .unwrap();
    run.requests().apply(id, &key(PHASE, 1), "stopped").unwrap();
    let text = run
        .requests()
        .apply(id, &key(PHASE, 2), "stopped")
        .unwrap_err()
        .to_string();
    assert!(text.contains("request 1 is settled already"), "{text}");
    assert!(matches!(
        run.requests().apply(7, &key(PHASE, 2), ""),
        Err(Error::Settled { id: 7, .. })
    ));
    assert_eq!(
        run.requests().applied().unwrap()[0].outcome.as_deref(),
        Some("stopped")
    );
}

#[test]
fn actions_are_read_by_their_names_and_others_are_refused_with_the_list() {
    for action in Action::ALL {
        assert_eq!(action.name().parse::<Action>().unwrap(), action);
    }
    let text = "halt".parse::<Action>().unwrap_err().to_string();
    assert!(text.contains("`halt`") && text.contains("stop"), "{text}");
}
