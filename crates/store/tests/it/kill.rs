//! SIGKILL at arbitrary moments: what was acknowledged is there, and what is there verifies.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use store::{Filter, Keep, Key, Run};

use crate::child;
use crate::sample::{bag, big_bag, new_run, sorted};

const KILLS: u64 = 12;

fn point(run: &Run, step: u64) -> Key {
    Key {
        attempt: run.attempt(),
        phase: "phase1-cognate".into(),
        branch: String::new(),
        step,
    }
}

#[test]
fn a_run_killed_at_any_moment_goes_on_from_a_checkpoint_that_verifies() {
    let root = tempfile::tempdir().unwrap();
    drop(new_run(root.path()));
    let mut reached = 0;
    for kill in 0..KILLS {
        let mut writer = child::command("kill::child_writes_until_killed", root.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(writer.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        let listener = std::thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .for_each(|line| drop(sender.send(line)));
        });
        // After its first save, at a moment that differs from kill to kill.
        let mut seen = vec![];
        while !seen.iter().any(|line: &String| line.starts_with("saved")) {
            seen.push(
                lines
                    .recv_timeout(Duration::from_secs(20))
                    .expect("the writer makes progress"),
            );
        }
        std::thread::sleep(Duration::from_micros(137 * kill * kill + 500));
        writer.kill().unwrap();
        writer.wait().unwrap();
        listener.join().unwrap();
        seen.extend(lines.try_iter());

        let last = |what: &str| -> u64 {
            let steps = seen
                .iter()
                .filter_map(|line| line.strip_prefix(what)?.trim().parse().ok());
            steps.max().unwrap_or(0)
        };
        let run = Run::read(root.path(), "first").unwrap();
        let checkpoint = run.newest_checkpoint().unwrap().unwrap();
        assert_eq!(
            checkpoint.skipped,
            [],
            "a kill left a checkpoint that does not verify"
        );
        let step = checkpoint.key.step;
        assert!(
            step >= last("saved") && step > reached,
            "step {step} after {:?}",
            seen.last()
        );
        assert_eq!(checkpoint.bag, sorted(big_bag(step, 20_000)));
        let events = run.journal().events().unwrap();
        assert!(
            events.last().unwrap().key.step >= last("event"),
            "an acknowledged event is gone"
        );
        let steps: Vec<u64> = events.iter().map(|event| event.key.step).collect();
        assert_eq!(
            steps,
            (1..=steps.len() as u64).collect::<Vec<_>>(),
            "each step once, none left out"
        );
        reached = step;
    }
    // What the resumed writers left is what one that was never killed would have left.
    let run = Run::open(root.path(), "first").unwrap();
    let checkpoint = run.newest_checkpoint().unwrap().unwrap();
    run.rewind(Some(&checkpoint)).unwrap();
    let rows = run.journal().metrics(&Filter::default()).unwrap();
    let found: Vec<_> = rows.iter().map(|row| (row.key.step, row.value)).collect();
    let expected: Vec<_> = (1..=reached).map(|step| (step, step as f64)).collect();
    assert_eq!(found, expected);
    assert!(run.attempt() as u64 > KILLS);
}

#[test]
fn child_writes_until_killed() {
    let Some(root) = child::folder() else { return };
    let run = Run::open(&root, "first").unwrap();
    let checkpoint = run.newest_checkpoint().unwrap();
    run.rewind(checkpoint.as_ref()).unwrap();
    let start = checkpoint.map_or(0, |checkpoint| checkpoint.key.step);
    for step in start + 1.. {
        let key = point(&run, step);
        run.journal()
            .metric(&key, "loss", step as f64, 0.0)
            .unwrap();
        run.journal().event(&key, "step", &json!(step)).unwrap();
        println!("event {step}");
        run.save_checkpoint("cognate", &key, &big_bag(step, 20_000), Keep::Minimal)
            .unwrap();
        println!("\nsaved {step}");
    }
}

#[test]
fn a_run_killed_while_it_was_made_leaves_its_name_free() {
    let root = tempfile::tempdir().unwrap();
    for round in 0..8 {
        let mut maker = child::command("kill::child_makes_a_run", root.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(2 + 3 * round));
        maker.kill().unwrap();
        maker.wait().unwrap();
        let made = root.path().join("runs/first");
        if made.exists() {
            let run = Run::open(root.path(), "first").unwrap();
            run.save_checkpoint("cognate", &point(&run, 1), &bag(1), Keep::All)
                .unwrap();
            drop(run);
            std::fs::remove_dir_all(made).unwrap();
        }
    }
    drop(new_run(root.path()));
    assert_eq!(Run::list(root.path()).unwrap().len(), 1);
}

#[test]
fn child_makes_a_run() {
    let Some(root) = child::folder() else { return };
    let _run = new_run(&root);
    std::thread::sleep(Duration::from_secs(60));
}
