//! Where runs lie: taken names, unknown names, folders that cannot be written, a disk that is full.

use crate::process::{Done, FORGE, Root, assert_same, finals, forge, micro, undisturbed};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn a_taken_name_is_refused_with_both_ways_out() {
    let root = undisturbed(1);
    let before = finals(&root.join("runs/whole"));
    forge(&root, &["run", "tiny", "--run", "whole"])
        .ended(2)
        .says(&["run `whole` exists", "--run OTHER", "forge resume whole"]);
    assert_same(&before, &finals(&root.join("runs/whole")));
}

#[test]
fn an_unknown_run_suggests_the_nearest() {
    let root = undisturbed(1);
    for command in ["status", "report", "resume", "reproduce"] {
        forge(&root, &[command, "whol"])
            .ended(2)
            .says(&["no run `whol`", "did you mean `whole`?"]);
    }
    forge(&root, &["eval", "whole/cogntae"])
        .ended(2)
        .says(&["did you mean `cognate`?"]);
    forge(&root, &["eval", "whole/cognate/sped"])
        .ended(2)
        .says(&["did you mean `speed`?"]);
    forge(&root, &["eval", "whole/cognate"])
        .ended(2)
        .says(&["several models", "reasoning"]);
}

#[test]
fn a_run_name_that_cannot_be_a_file_name_is_refused() {
    Root::new()
        .run("a/b", &[])
        .ended(2)
        .says(&["run name `a/b`", "choose another name"]);
}

/// `/sys` refuses folders even to an administrator.
#[test]
fn a_root_that_cannot_be_written_is_named() {
    if !Path::new("/sys/kernel").is_dir() {
        return;
    }
    forge(Path::new("/sys"), &["run", "tiny"])
        .ended(1)
        .says(&["/sys", "--root DIR"]);
    forge(Path::new("/sys"), &["doctor"]).ended(1);
}

#[test]
fn a_finished_run_is_not_done_again() {
    let root = undisturbed(1);
    forge(&root, &["resume", "whole"])
        .ended(0)
        .says(&["nothing is left to do"]);
    forge(&root, &["resume", "whole", "--set", "seed=8"])
        .ended(2)
        .says(&["recipe of a run is fixed"]);
}

/// A limit on file sizes stands for a full disk: the write is cut off in the middle in the same way.
#[cfg(unix)]
#[test]
fn a_full_disk_loses_nothing_and_the_run_goes_on_when_there_is_room() {
    let root = Root::new();
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 2000; exec \"$0\" \"$@\"",
            FORGE,
            "--root",
        ])
        .arg(root.path())
        .args(micro("full"))
        .args(["--set", "checkpoint.units=2"])
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    Done {
        code: output.status.code(),
        out: String::new(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
    .ended(1)
    .says(&[
        "limit on file sizes",
        "nothing already written was lost",
        "forge resume full",
    ]);
    let state = root.forge(&["runs", "--json"]).ended(0).json();
    assert_eq!(state[0]["state"], "failed");
    root.forge(&["resume", "full"]).ended(0);
    assert_same(
        &finals(&undisturbed(1).join("runs/whole")),
        &root.finals("full"),
    );
}
