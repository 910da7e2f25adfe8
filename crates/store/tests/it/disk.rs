//! Disks that are full, limited or read-only. The full and read-only ones are real: a small memory
//! disk mounted for one child, where the system allows that.

use std::fs;
use std::path::Path;

use serde_json::json;
use store::{Action, Error, Filter, Keep, Run, RunState};

use crate::child;
use crate::sample::{bag, big_bag, key, new_run, sorted};

const PHASE: &str = "phase1-cognate";
const MOUNT: [&str; 2] = ["unshare", "-rm"];

/// Saves a checkpoint that fits and one that does not, and expects the first to stand.
fn overfill(root: &Path, bytes: usize) -> String {
    let run = new_run(root);
    run.save_checkpoint("cognate", &key(PHASE, 1), &bag(1), Keep::Minimal)
        .unwrap();
    let fault = run
        .save_checkpoint("cognate", &key(PHASE, 2), &big_bag(2, bytes), Keep::Minimal)
        .unwrap_err();
    assert!(matches!(fault, Error::DiskFull { .. }), "{fault}");
    let model = run.write_model(
        "phase1-cognate",
        "m",
        &big_bag(2, bytes).arrays,
        &Default::default(),
    );
    assert!(matches!(model, Err(Error::DiskFull { .. })), "{model:?}");
    let left: Vec<_> = fs::read_dir(run.dir().join("checkpoints"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1, "the half-written one is gone");
    assert_eq!(
        run.newest_checkpoint().unwrap().unwrap().bag,
        sorted(bag(1))
    );
    run.save_checkpoint("cognate", &key(PHASE, 3), &bag(3), Keep::Minimal)
        .unwrap();
    fault.to_string()
}

#[test]
fn a_write_beyond_the_limit_on_file_sizes_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let script = "trap '' XFSZ; ulimit -f 2000; exec \"$@\"";
    let test = "disk::child_meets_the_limit_on_file_sizes";
    child::assert_passed(
        &child::scripted(&["env"], script, test, root.path())
            .output()
            .unwrap(),
    );
}

#[test]
fn child_meets_the_limit_on_file_sizes() {
    let Some(root) = child::folder() else { return };
    let text = overfill(&root, 3_000_000);
    assert!(text.contains("the limit on file sizes"), "{text}");
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    if !child::can_mount() {
        println!("skipped: this system does not let a test mount a disk of its own");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=1m tmpfs \"$DIR\" && exec \"$@\"";
    let test = "disk::child_fills_the_disk";
    child::assert_passed(
        &child::scripted(&MOUNT, script, test, root.path())
            .output()
            .unwrap(),
    );
}

#[test]
fn child_fills_the_disk() {
    let Some(root) = child::folder() else { return };
    let text = overfill(&root, 2_000_000);
    assert!(
        text.contains("the disk is full while writing a checkpoint"),
        "{text}"
    );
    assert!(
        text.contains("bytes are free") && text.contains("nothing already written was lost"),
        "{text}"
    );

    // The journal: rows that found no room wait, and are written when there is some.
    let run = Run::open(&root, "first").unwrap();
    let filler = root.join("filler");
    let free = store::disk_free(&root) as usize;
    assert!((10_000..1 << 20).contains(&free), "{free}");
    fs::write(&filler, vec![0; free - free % 4096]).unwrap();
    let mut recorded = 0;
    let fault = loop {
        recorded += 1;
        let metric = run
            .journal()
            .metric(&key(PHASE, recorded), "loss", 1.0, 0.0);
        if let Err(fault) = metric.and_then(|()| run.journal().flush()) {
            break fault;
        }
        assert!(recorded < 100_000, "the disk never filled");
    };
    assert!(matches!(fault, Error::DiskFull { .. }), "{fault}");
    assert!(fault.to_string().contains("writing the journal"), "{fault}");
    assert!(run.set_state(RunState::Failed).is_err());
    assert_eq!(
        run.state().unwrap(),
        RunState::Running,
        "the old state stands"
    );
    fs::remove_file(&filler).unwrap();
    run.journal().flush().unwrap();
    assert_eq!(
        run.journal().metrics(&Filter::default()).unwrap().len() as u64,
        recorded
    );
    assert_eq!(run.newest_checkpoint().unwrap().unwrap().key.step, 3);
}

#[test]
fn a_read_only_disk_refuses_writers_with_the_remedy_and_serves_readers() {
    if !child::can_mount() {
        println!("skipped: this system does not let a test mount a disk of its own");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let script =
        "mount -t tmpfs tmpfs \"$DIR\" && \"$@\" && mount -o remount,ro \"$DIR\" && exec \"$@\"";
    let test = "disk::child_meets_a_read_only_disk";
    let output = child::scripted(&MOUNT, script, test, root.path())
        .output()
        .unwrap();
    child::assert_passed(&output);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout)
            .matches("1 passed")
            .count(),
        2
    );
}

#[test]
fn child_meets_a_read_only_disk() {
    let Some(root) = child::folder() else { return };
    if !root.join("runs").exists() {
        let run = new_run(&root);
        run.journal()
            .metric(&key(PHASE, 1), "loss", 1.0, 0.0)
            .unwrap();
        run.save_checkpoint("cognate", &key(PHASE, 1), &bag(1), Keep::All)
            .unwrap();
        return;
    }
    for fault in [
        Run::create(&root, "second", &json!({})).unwrap_err(),
        Run::open(&root, "first").unwrap_err(),
        store::write_safetensors(root.join("m.safetensors"), &[], &Default::default()).unwrap_err(),
    ] {
        assert!(matches!(fault, Error::ReadOnly { .. }), "{fault}");
        assert!(fault.to_string().contains("--root DIR"), "{fault}");
    }
    assert_eq!(Run::list(&root).unwrap().len(), 1);
    let run = Run::read(&root, "first").unwrap();
    assert_eq!(run.journal().metrics(&Filter::default()).unwrap().len(), 1);
    assert_eq!(
        run.newest_checkpoint().unwrap().unwrap().bag,
        sorted(bag(1))
    );
    let fault = run
        .requests()
        .submit(Action::Stop, &json!({}), "ada")
        .unwrap_err();
    assert!(matches!(fault, Error::ReadOnly { .. }), "{fault}");
}

#[cfg(unix)]
#[test]
fn a_folder_without_the_right_to_write_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(root.path().join("probe"), "x").is_ok() {
        println!("skipped: this user may write anywhere");
        return;
    }
    let fault = Run::create(root.path(), "first", &json!({})).unwrap_err();
    assert!(matches!(fault, Error::ReadOnly { .. }), "{fault}");
}

#[test]
fn a_root_that_is_a_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let text = Run::create(&file, "first", &json!({}))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("file/runs/first") && text.contains("check that the path"),
        "{text}"
    );
}

#[test]
fn free_room_is_known_for_paths_that_do_not_exist_yet() {
    let root = tempfile::tempdir().unwrap();
    assert!(store::disk_free(&root.path().join("not/made/yet")) > 0);
    assert!(store::disk_free(Path::new("relative-and-absent")) > 0);
}
