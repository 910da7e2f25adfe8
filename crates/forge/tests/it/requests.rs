//! What people ask of a run while it runs.

use crate::process::{Root, assert_same, finals, undisturbed, wait};
use std::time::{Duration, Instant};

#[test]
fn stopped_on_request_it_leaves_a_checkpoint_and_resumes_to_the_same_bytes() {
    let root = Root::new();
    let mut child = root.start("asked", &["--set", "checkpoint.units=2"]);
    root.wait_for_checkpoint("asked", 2, &mut child);
    let asked = root.forge(&[
        "intervene",
        "asked",
        "stop",
        "--by",
        "tester",
        "--wait",
        "60",
        "--json",
    ]);
    let asked = asked.ended(0).json();
    assert!(
        asked["outcome"].as_str().unwrap().contains("stopped at"),
        "{asked}"
    );
    wait(child)
        .ended(0)
        .says(&["stopped as asked", "forge resume asked"]);
    let status = root.forge(&["status", "asked", "--json"]).ended(0).json();
    assert_eq!(status["state"], "stopped");
    assert_eq!(status["requests"]["applied"][0]["by"], "tester");
    root.forge(&["resume", "asked"]).ended(0);
    assert_same(
        &finals(&undisturbed(1).join("runs/whole")),
        &root.finals("asked"),
    );
}

#[test]
fn paused_it_waits_until_it_is_resumed() {
    let root = Root::new();
    let mut child = root.start(
        "waiting",
        &["--set", "checkpoint.units=2", "--until", "cognate"],
    );
    root.wait_for_checkpoint("waiting", 1, &mut child);
    root.forge(&["intervene", "waiting", "pause", "--wait", "60"])
        .ended(0);
    let begun = Instant::now();
    let state = || root.forge(&["status", "waiting", "--json"]).ended(0).json()["state"].clone();
    while state() != "paused" {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "it does not pause"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it went on by itself");
    root.forge(&["intervene", "waiting", "resume", "--wait", "60"])
        .ended(0);
    wait(child).ended(0);
    assert_eq!(state(), "done");
}

#[test]
fn a_request_to_a_run_that_nobody_works_on_is_refused() {
    let root = undisturbed(1);
    crate::process::forge(&root, &["intervene", "whole", "pause"])
        .ended(2)
        .says(&["no process works on run `whole`", "forge resume whole"]);
    crate::process::forge(&root, &["intervene", "whole", "answer", "9", "go-on"])
        .ended(2)
        .says(&["alert 9"]);
    crate::process::forge(&root, &["intervene", "whole", "set", "nonsense"])
        .ended(2)
        .says(&["KEY=VALUE"]);
}
