//! Wrong recipes end in exit code 2 and a message that helps.

use crate::process::Root;

#[test]
fn a_wrong_key_suggests_the_right_one() {
    let root = Root::new();
    root.forge(&["run", "tiny", "--set", "cognate.epoch_stps=3"])
        .ended(2)
        .says(&["cognate.epoch_stps", "did you mean `cognate.epoch_steps`?"]);
    let file = root.path().join("mine.toml");
    std::fs::write(
        &file,
        "base = \"tiny\"\nname = \"mine\"\n[cognate]\nancestor_stepz = 3\n",
    )
    .unwrap();
    root.forge(&["run", file.to_str().unwrap()])
        .ended(2)
        .says(&["ancestor_stepz", "did you mean `ancestor_steps`?"]);
    assert!(
        !root.path().join("runs").exists(),
        "a run was made all the same"
    );
}

#[test]
fn a_value_of_the_wrong_kind_names_what_is_expected() {
    Root::new()
        .forge(&["run", "tiny", "--set", "cognate.ancestor_steps=many"])
        .ended(2)
        .says(&["`cognate.ancestor_steps`", "expected u64"]);
    Root::new()
        .forge(&["run", "tiny", "--set", "model.width=65"])
        .ended(2)
        .says(&["width", "65"]);
    Root::new()
        .forge(&["run", "tiny", "--set", "seed"])
        .ended(2)
        .says(&["KEY=VALUE"]);
}

#[test]
fn an_unknown_recipe_names_the_nearest_and_all() {
    Root::new()
        .forge(&["run", "quik"])
        .ended(2)
        .says(&["did you mean `quick`?", "tiny, quick, small, base, plan"]);
    Root::new()
        .forge(&["plan", "nowhere.toml"])
        .ended(2)
        .says(&["nowhere.toml"]);
}

#[test]
fn a_wrong_flag_is_wrong_usage() {
    let root = Root::new();
    root.forge(&["run", "--thread", "x"])
        .ended(2)
        .says(&["--threads"]);
    root.forge(&["statsu"]).ended(2).says(&["status"]);
    root.forge(&["runs", "--threads", "0"])
        .ended(2)
        .says(&["at least 1"]);
}
