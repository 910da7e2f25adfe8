//! Checkpoints: whole, verified, byte-identical, and how many stay.

use std::fs;
use std::path::Path;

use store::{Error, Keep, Run};

use crate::sample::{bag, contents, key, new_run, sorted};

const PHASE: &str = "phase1-cognate";

#[test]
fn a_bag_comes_back_as_it_went() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    assert!(run.newest_checkpoint().unwrap().is_none());
    let path = run
        .save_checkpoint("cognate", &key(PHASE, 7), &bag(7), Keep::All)
        .unwrap();
    assert_eq!(path, run.dir().join("checkpoints/000001-cognate"));
    let found = run.newest_checkpoint().unwrap().unwrap();
    assert_eq!((&found.path, &found.bag), (&path, &sorted(bag(7))));
    assert!(found.key.same_point(&key(PHASE, 7)) && found.skipped.is_empty());
    assert_eq!(
        found.bag.json.to_string(),
        bag(7).json.to_string(),
        "the order of keys is kept"
    );
}

#[test]
fn the_newest_is_the_last_saved_whatever_phase_and_step() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    run.save_checkpoint(
        "quietstar",
        &key("phase3-quietstar", 900),
        &bag(1),
        Keep::All,
    )
    .unwrap();
    run.save_checkpoint("bitnet", &key("phase4-bitnet", 1), &bag(2), Keep::All)
        .unwrap();
    drop(run);
    let run = Run::open(root.path(), "first").unwrap();
    assert_eq!(run.newest_checkpoint().unwrap().unwrap().bag.version, 3);
    assert_eq!(
        run.newest_checkpoint().unwrap().unwrap().key.phase,
        "phase4-bitnet"
    );
    let path = run
        .save_checkpoint("bitnet", &key("phase4-bitnet", 2), &bag(3), Keep::All)
        .unwrap();
    assert!(path.ends_with("000003-bitnet"));
}

#[test]
fn the_same_state_gives_the_same_bytes_in_any_attempt() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let first = run
        .save_checkpoint("cognate", &key(PHASE, 7), &bag(7), Keep::All)
        .unwrap();
    drop(run);
    let run = Run::open(root.path(), "first").unwrap();
    let later = store::Key {
        attempt: run.attempt(),
        ..key(PHASE, 7)
    };
    let second = run
        .save_checkpoint("cognate", &later, &bag(7), Keep::All)
        .unwrap();
    assert_eq!(contents(&first), contents(&second));
    assert_eq!(contents(&first).len(), 5);
}

/// Damages the newer of two checkpoints and expects the older one, with the fault reported.
fn expect_skipped(run: &Run, newer: &Path, file: &str, bytes: Option<&[u8]>) {
    let path = newer.join(file);
    let whole = fs::read(&path).unwrap();
    match bytes {
        Some(bytes) => fs::write(&path, bytes).unwrap(),
        None => fs::remove_file(&path).unwrap(),
    }
    let found = run.newest_checkpoint().unwrap().unwrap();
    assert_eq!(found.key.step, 1, "{file} was damaged and trusted");
    assert_eq!(found.bag, sorted(bag(1)));
    assert_eq!(found.skipped.len(), 1);
    assert_eq!(found.skipped[0].path, newer);
    assert!(
        found.skipped[0].fault.contains(file),
        "{}",
        found.skipped[0].fault
    );
    fs::write(&path, whole).unwrap();
}

#[test]
fn any_flipped_or_missing_byte_is_found_and_the_one_before_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    run.save_checkpoint("cognate", &key(PHASE, 1), &bag(1), Keep::All)
        .unwrap();
    let newer = run
        .save_checkpoint("cognate", &key(PHASE, 2), &bag(2), Keep::All)
        .unwrap();
    for (file, whole) in contents(&newer) {
        for position in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[position] ^= 1 << (position % 8);
            // The manifest names the others, so a flip in it may be noticed at them.
            let named = if file == "manifest.json" { "" } else { &file };
            let path = newer.join(&file);
            fs::write(&path, &bytes).unwrap();
            let found = run.newest_checkpoint().unwrap().unwrap();
            assert_eq!(
                found.key.step, 1,
                "{file}, byte {position} was flipped and trusted"
            );
            assert!(
                found.skipped[0].fault.contains(named),
                "{}",
                found.skipped[0].fault
            );
            fs::write(&path, &whole).unwrap();
        }
        for length in [0, whole.len() / 2, whole.len() - 1] {
            expect_skipped(&run, &newer, &file, Some(&whole[..length]));
        }
        expect_skipped(
            &run,
            &newer,
            &file,
            Some(&[whole.as_slice(), b" "].concat()),
        );
        expect_skipped(&run, &newer, &file, None);
    }
    assert_eq!(
        run.newest_checkpoint().unwrap().unwrap().key.step,
        2,
        "restored"
    );
}

#[test]
fn when_every_checkpoint_is_damaged_that_is_an_error_with_a_remedy() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    for step in 1..=2 {
        let path = run
            .save_checkpoint("cognate", &key(PHASE, step), &bag(step), Keep::All)
            .unwrap();
        fs::write(path.join("state.json"), "{}").unwrap();
    }
    let fault = run.newest_checkpoint().unwrap_err();
    assert!(matches!(fault, Error::NoIntactCheckpoint { count: 2, .. }));
    let text = fault.to_string();
    assert!(
        text.contains("000002-cognate") && text.contains("delete that folder"),
        "{text}"
    );
}

#[test]
fn minimal_keeps_the_newest_two_and_never_counts_a_damaged_one() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let save = |step| {
        run.save_checkpoint("cognate", &key(PHASE, step), &bag(step), Keep::Minimal)
            .unwrap()
    };
    let names = || -> Vec<String> {
        let paths = run.checkpoint_paths().unwrap();
        paths
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect()
    };
    (1..=4).for_each(|step| drop(save(step)));
    assert_eq!(names(), ["000003-cognate", "000004-cognate"]);
    fs::write(
        run.dir().join("checkpoints/000004-cognate/state.json"),
        "{}",
    )
    .unwrap();
    assert_eq!(run.newest_checkpoint().unwrap().unwrap().key.step, 3);
    save(5);
    assert_eq!(
        names(),
        ["000003-cognate", "000005-cognate"],
        "the good one was kept to fall back on"
    );
    assert_eq!(
        fs::read_dir(run.dir().join("checkpoints")).unwrap().count(),
        2
    );
}

#[test]
fn what_a_killed_writer_left_half_made_is_removed_on_opening() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    run.save_checkpoint("cognate", &key(PHASE, 1), &bag(1), Keep::All)
        .unwrap();
    let folder = run.dir().join("checkpoints");
    drop(run);
    fs::create_dir_all(folder.join(".writing-abc")).unwrap();
    fs::write(folder.join(".writing-abc/state.safetensors"), "half").unwrap();
    fs::create_dir_all(folder.join(".removing-000000-x")).unwrap();
    let models = root.path().join("runs/first/phase1-cognate/final");
    fs::create_dir_all(&models).unwrap();
    fs::write(models.join(".writing-def"), "half a model").unwrap();
    fs::write(models.join("whole.safetensors"), "a model").unwrap();
    let run = Run::open(root.path(), "first").unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    assert_eq!(contents(&models).len(), 1);
    assert_eq!(run.newest_checkpoint().unwrap().unwrap().key.step, 1);
}

#[test]
#[should_panic(expected = "may not be called `manifest.json`")]
fn a_bags_file_may_not_take_the_checkpoints_own_names() {
    let root = tempfile::tempdir().unwrap();
    let mut bag = bag(1);
    bag.files.insert("manifest.json".into(), vec![]);
    let _ = new_run(root.path()).save_checkpoint("cognate", &key(PHASE, 1), &bag, Keep::All);
}
