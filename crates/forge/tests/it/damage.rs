//! Damaged checkpoints and models: an older one is used, or the message says what to do.

use crate::process::{Root, assert_same, checkpoints, finals, undisturbed, wait};
use std::path::Path;
use store::{Keep, Run, RunState};

/// A run that stopped with at least two checkpoints.
fn stopped(name: &str) -> Root {
    let root = Root::new();
    let mut child = root.start(name, &["--set", "checkpoint.units=3"]);
    root.wait_for_checkpoint(name, 3, &mut child);
    child.kill().unwrap();
    wait(child);
    assert!(checkpoints(&root.run_dir(name)).len() >= 2);
    root
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_byte_in_the_newest_checkpoint_falls_back_to_an_older_one() {
    let root = stopped("flip");
    let newest = checkpoints(&root.run_dir("flip")).pop().unwrap();
    flip(&newest.join("state.safetensors"));
    root.forge(&["resume", "flip"]).ended(0).says(&[
        "is damaged",
        "using an older one",
        "going on from checkpoint",
    ]);
    assert_same(
        &finals(&undisturbed(1).join("runs/whole")),
        &root.finals("flip"),
    );
}

#[test]
fn when_every_checkpoint_is_damaged_the_message_says_what_to_do() {
    let root = stopped("ruin");
    for path in checkpoints(&root.run_dir("ruin")) {
        flip(&path.join("state.safetensors"));
    }
    root.forge(&["resume", "ruin"])
        .ended(1)
        .says(&["checkpoints", "intact", "delete that folder"]);
}

#[test]
fn a_checkpoint_with_a_wrong_shape_is_a_message_not_a_crash() {
    let root = stopped("shape");
    {
        let run = Run::open(root.path(), "shape").unwrap();
        let found = run.newest_checkpoint().unwrap().unwrap();
        let mut bag = found.bag;
        let array = bag
            .arrays
            .iter_mut()
            .find(|a| a.name.ends_with("embed.weight"))
            .unwrap();
        array.shape.reverse();
        run.save_checkpoint("cognate", &found.key, &bag, Keep::All)
            .unwrap();
        run.set_state(RunState::Stopped).unwrap();
    }
    root.forge(&["resume", "shape"]).ended(1).says(&[
        "embed.weight",
        "run `shape` failed",
        "forge resume shape",
    ]);
}

#[test]
fn a_damaged_model_file_is_named() {
    let root = Root::new();
    let good = undisturbed(1).join("runs/whole/phase1-cognate/final/speed.safetensors");
    let bytes = std::fs::read(good).unwrap();
    let cut = root.path().join("cut.safetensors");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    root.forge(&["eval", cut.to_str().unwrap()])
        .ended(1)
        .says(&["cut.safetensors", "is damaged"]);
    let other = root.path().join("other.safetensors");
    store::write_safetensors(
        &other,
        &[store::Array::f32("x", &[1], &[0.0])],
        &Default::default(),
    )
    .unwrap();
    root.forge(&["eval", other.to_str().unwrap()])
        .ended(1)
        .says(&["other.safetensors", "forge.config"]);
}
