//! Ctrl-C ends a run in order: a checkpoint, exit code 130, and the way to go on.

use crate::process::{Root, assert_same, finals, undisturbed, wait};
use std::process::{Child, Command};

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .arg(name)
        .arg(child.id().to_string())
        .status();
    assert!(sent.unwrap().success());
}

fn interrupted(name: &str, signal_name: &str, at: u32) {
    let root = Root::new();
    let mut child = root.start(name, &["--set", "checkpoint.units=4"]);
    root.wait_for_checkpoint(name, at, &mut child);
    signal(&child, signal_name);
    wait(child)
        .ended(130)
        .says(&["checkpoint written", &format!("forge resume {name}")]);
    let status = root.forge(&["status", name, "--json"]).ended(0).json();
    assert_eq!(status["state"], "stopped");
    root.forge(&["resume", name])
        .ended(0)
        .says(&["going on from checkpoint"]);
    assert_same(
        &finals(&undisturbed(1).join("runs/whole")),
        &root.finals(name),
    );
}

#[test]
fn interrupted_by_ctrl_c_it_resumes_to_the_same_bytes() {
    interrupted("ctrl-c", "-INT", 2);
}

#[test]
fn sigterm_is_ctrl_c() {
    interrupted("term", "-TERM", 4);
}
