//! Metrics, events, alerts and cache, and how a resume rewinds them.

use std::fs;

use serde_json::json;
use store::{Error, Filter, Keep, Run};

use crate::sample::{bag, key, new_run};

const PHASE: &str = "phase1-cognate";

fn steps(run: &Run, filter: &Filter) -> Vec<u64> {
    run.journal()
        .metrics(filter)
        .unwrap()
        .iter()
        .map(|row| row.key.step)
        .collect()
}

#[test]
fn metrics_come_back_in_order_with_every_kind_of_number() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let values = [1.5, f64::NAN, f64::INFINITY, -0.0, 1e-308];
    for (step, value) in values.into_iter().enumerate() {
        run.journal()
            .metric(&key(PHASE, step as u64), "loss", value, 0.25)
            .unwrap();
    }
    let rows = run.journal().metrics(&Filter::default()).unwrap();
    for (row, value) in rows.iter().zip(values) {
        assert!(row.value.is_nan() == value.is_nan() && (value.is_nan() || row.value == value));
        assert_eq!(
            (row.name.as_str(), row.wall, row.superseded),
            ("loss", 0.25, false)
        );
    }
    assert_eq!(steps(&run, &Filter::default()), [0, 1, 2, 3, 4]);
}

#[test]
fn filters_choose_phase_branch_name_and_what_is_new() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let journal = run.journal();
    journal.metric(&key(PHASE, 1), "loss", 1.0, 0.0).unwrap();
    journal.metric(&key(PHASE, 2), "lr", 1.0, 0.0).unwrap();
    let speed = store::Key {
        branch: "speed".into(),
        ..key(PHASE, 3)
    };
    journal.metric(&speed, "loss", 1.0, 0.0).unwrap();
    let seen = journal
        .metrics(&Filter::default())
        .unwrap()
        .last()
        .unwrap()
        .seq;
    journal
        .metric(&key("phase4-bitnet", 4), "loss", 1.0, 0.0)
        .unwrap();
    let only = |text: &str| Some(text.to_string());
    assert_eq!(
        steps(
            &run,
            &Filter {
                phase: only(PHASE),
                ..Filter::default()
            }
        ),
        [1, 2, 3]
    );
    assert_eq!(
        steps(
            &run,
            &Filter {
                branch: only("speed"),
                ..Filter::default()
            }
        ),
        [3]
    );
    assert_eq!(
        steps(
            &run,
            &Filter {
                name: only("loss"),
                ..Filter::default()
            }
        ),
        [1, 3, 4]
    );
    assert_eq!(
        steps(
            &run,
            &Filter {
                after: Some(seen),
                ..Filter::default()
            }
        ),
        [4]
    );
}

#[test]
fn metrics_wait_in_memory_until_flushed_and_a_full_batch_flushes_itself() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let reader = Run::read(root.path(), "first").unwrap();
    let record = |count: u64| {
        (0..count).for_each(|step| {
            run.journal()
                .metric(&key(PHASE, step), "loss", 1.0, 0.0)
                .unwrap()
        });
    };
    record(10);
    assert_eq!(steps(&reader, &Filter::default()).len(), 0);
    run.journal().flush().unwrap();
    assert_eq!(steps(&reader, &Filter::default()).len(), 10);
    record(512);
    assert_eq!(steps(&reader, &Filter::default()).len(), 522);
    record(3);
    run.journal()
        .event(&key(PHASE, 3), "note", &json!({}))
        .unwrap();
    assert_eq!(
        steps(&reader, &Filter::default()).len(),
        525,
        "an event takes along what was before it"
    );
    record(1);
    drop(run);
    assert_eq!(
        steps(&reader, &Filter::default()).len(),
        526,
        "and so does the end"
    );
}

#[test]
fn the_journal_of_one_seed_is_the_same_but_for_the_clock() {
    let [first, second] = [0.1, 0.2].map(|wall| {
        let root = tempfile::tempdir().unwrap();
        let run = new_run(root.path());
        for step in 0..50 {
            run.journal()
                .metric(&key(PHASE, step), "loss", 1.0 / (step + 1) as f64, wall)
                .unwrap();
            if step % 10 == 0 {
                run.journal()
                    .event(&key(PHASE, step), "stage", &json!({"b": 1, "a": step}))
                    .unwrap();
            }
        }
        let rows = run.journal().metrics(&Filter::default()).unwrap();
        let events = run.journal().events().unwrap();
        (
            rows.into_iter()
                .map(|row| (row.seq, row.key, row.name, row.value.to_bits()))
                .collect::<Vec<_>>(),
            events
                .into_iter()
                .map(|e| (e.seq, e.key, e.kind, e.json.to_string()))
                .collect::<Vec<_>>(),
        )
    });
    assert_eq!(first, second);
}

#[test]
fn a_resume_supersedes_what_came_after_the_checkpoint_and_keeps_it() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let work = |run: &Run, from: u64, to: u64| {
        for step in from..=to {
            let key = store::Key {
                attempt: run.attempt(),
                ..key(PHASE, step)
            };
            run.journal()
                .metric(&key, "loss", step as f64, 0.0)
                .unwrap();
            run.journal().event(&key, "step", &json!(step)).unwrap();
        }
    };
    work(&run, 1, 5);
    run.save_checkpoint("cognate", &key(PHASE, 5), &bag(5), Keep::All)
        .unwrap();
    // The next phase begins again at step 1: what is newer cannot be told by steps.
    run.journal()
        .metric(&key("phase2-evomerge", 1), "fitness", 1.0, 0.0)
        .unwrap();
    work(&run, 6, 8);
    drop(run);

    let run = Run::open(root.path(), "first").unwrap();
    let checkpoint = run.newest_checkpoint().unwrap().unwrap();
    run.journal().supersede_after(&checkpoint.key).unwrap();
    assert_eq!(steps(&run, &Filter::default()), [1, 2, 3, 4, 5]);
    work(&run, 6, 7);
    assert_eq!(steps(&run, &Filter::default()), [1, 2, 3, 4, 5, 6, 7]);
    let all = Filter {
        superseded: true,
        ..Filter::default()
    };
    assert_eq!(steps(&run, &all), [1, 2, 3, 4, 5, 1, 6, 7, 8, 6, 7]);
    assert_eq!(run.journal().events().unwrap().len(), 7);
    assert_eq!(run.journal().all_events().unwrap().len(), 10);
    let last = run.journal().events().unwrap().pop().unwrap();
    assert_eq!((last.key.attempt, last.key.step), (2, 7));
}

#[test]
fn rewind_takes_the_checkpoint_itself_when_two_were_saved_at_one_point() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let save = || {
        run.save_checkpoint("cognate", &key(PHASE, 5), &bag(5), Keep::All)
            .unwrap()
    };
    run.journal()
        .event(&key(PHASE, 5), "before", &json!(1))
        .unwrap();
    save();
    run.journal()
        .event(&key(PHASE, 5), "between", &json!(2))
        .unwrap();
    let newest = save();
    run.journal()
        .event(&key(PHASE, 6), "behind", &json!(3))
        .unwrap();
    let count = || run.journal().events().unwrap().len();
    run.rewind(run.newest_checkpoint().unwrap().as_ref())
        .unwrap();
    assert_eq!(count(), 2);
    fs::remove_file(newest.join("state.json")).unwrap();
    run.rewind(run.newest_checkpoint().unwrap().as_ref())
        .unwrap();
    assert_eq!(count(), 1);
    run.rewind(None).unwrap();
    assert_eq!(count(), 0);
}

#[test]
fn a_lost_journal_does_not_stop_a_resume() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    run.save_checkpoint("cognate", &key(PHASE, 5), &bag(5), Keep::All)
        .unwrap();
    drop(run);
    let dir = root.path().join("runs/first");
    fs::remove_file(dir.join("journal.sqlite")).unwrap();
    let run = Run::open(root.path(), "first").unwrap();
    run.journal()
        .metric(&key(PHASE, 5), "loss", 1.0, 0.0)
        .unwrap();
    run.journal()
        .metric(&key(PHASE, 6), "loss", 1.0, 0.0)
        .unwrap();
    run.rewind(run.newest_checkpoint().unwrap().as_ref())
        .unwrap();
    assert_eq!(
        steps(&run, &Filter::default()),
        [5],
        "without a mark, steps decide"
    );
}

#[test]
fn alerts_are_settled_once_and_keep_their_ids_through_a_resume() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let journal = run.journal();
    assert_eq!(
        journal
            .alert(&key(PHASE, 1), "diversity", 0.2, 0.3)
            .unwrap(),
        1
    );
    run.save_checkpoint("cognate", &key(PHASE, 1), &bag(1), Keep::All)
        .unwrap();
    assert_eq!(
        journal.alert(&key(PHASE, 2), "nan", f64::NAN, 0.0).unwrap(),
        2
    );
    journal.settle_alert(1, "continue", "ada").unwrap();
    assert!(matches!(
        journal.settle_alert(1, "again", "ada"),
        Err(Error::Settled { .. })
    ));
    let text = journal
        .settle_alert(9, "again", "ada")
        .unwrap_err()
        .to_string();
    assert!(text.contains("alert 9 does not exist"), "{text}");
    let alerts = journal.alerts().unwrap();
    assert_eq!(alerts[0].by.as_deref(), Some("ada"));
    let json = serde_json::to_value(&alerts[1]).unwrap();
    assert_eq!(json["value"], json!(null), "unknown is null");
    for field in [
        "id",
        "detector",
        "phase",
        "step",
        "value",
        "threshold",
        "action",
        "by",
    ] {
        assert!(json.get(field).is_some(), "{field}");
    }

    run.rewind(run.newest_checkpoint().unwrap().as_ref())
        .unwrap();
    let alerts = journal.alerts().unwrap();
    assert_eq!(
        (alerts.len(), &alerts[0].action),
        (1, &None),
        "settled behind the checkpoint: open again"
    );
    assert_eq!(journal.alert(&key(PHASE, 2), "nan", 1.0, 0.0).unwrap(), 2);
}

#[test]
fn cache_entries_behind_a_checkpoint_count_as_misses_once() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let journal = run.journal();
    let replayed = |key: &str| journal.cached(key).unwrap().map(|entry| entry.replayed);
    assert_eq!(replayed("a"), None);
    journal.cache("a", &json!({"fitness": 1.25})).unwrap();
    run.save_checkpoint("evomerge", &key("phase2-evomerge", 1), &bag(1), Keep::All)
        .unwrap();
    journal.cache("b", &json!(2)).unwrap();
    run.rewind(run.newest_checkpoint().unwrap().as_ref())
        .unwrap();
    assert_eq!(
        (replayed("a"), replayed("b"), replayed("b")),
        (Some(false), Some(true), Some(false))
    );
    assert_eq!(
        journal.cached("a").unwrap().unwrap().value,
        json!({"fitness": 1.25})
    );
    assert_eq!(journal.cached("b").unwrap().unwrap().value, json!(2));
}

#[test]
fn a_damaged_or_foreign_journal_is_named_and_moving_it_away_helps() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    run.save_checkpoint("cognate", &key(PHASE, 5), &bag(5), Keep::All)
        .unwrap();
    drop(run);
    let path = root.path().join("runs/first/journal.sqlite");
    let whole = fs::read(&path).unwrap();
    let text_file = b"this is not a database, whatever its name may say".repeat(10);
    let mut pages_lost = whole.clone();
    pages_lost[4096..].fill(0xff);
    for bytes in [text_file, pages_lost, whole[..5000].to_vec()] {
        fs::write(&path, bytes).unwrap();
        let fault = Run::open(root.path(), "first").unwrap_err();
        assert!(matches!(fault, Error::JournalDamaged { .. }), "{fault}");
        let text = fault.to_string();
        assert!(
            text.contains("journal.sqlite is damaged") && text.contains("forge resume"),
            "{text}"
        );
    }
    fs::remove_file(&path).unwrap();
    let run = Run::open(root.path(), "first").unwrap();
    assert_eq!(run.newest_checkpoint().unwrap().unwrap().key.step, 5);
    drop(run);

    let later = rusqlite::Connection::open(&path).unwrap();
    later.pragma_update(None, "user_version", 99).unwrap();
    drop(later);
    let text = Run::open(root.path(), "first").unwrap_err().to_string();
    assert!(text.contains("has version 99"), "{text}");
}

#[test]
fn several_threads_record_without_losing_a_row() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    std::thread::scope(|scope| {
        for branch in ["a", "b", "c"] {
            let journal = run.journal();
            scope.spawn(move || {
                for step in 0..400 {
                    let key = store::Key {
                        branch: branch.into(),
                        ..key(PHASE, step)
                    };
                    journal.metric(&key, "loss", step as f64, 0.0).unwrap();
                }
            });
        }
    });
    for branch in ["a", "b", "c"] {
        let filter = Filter {
            branch: Some(branch.into()),
            ..Filter::default()
        };
        assert_eq!(steps(&run, &filter), (0..400).collect::<Vec<_>>());
    }
}
