//! `forge merge` as a person types it, and beside mergekit where that is installed.

use crate::process::{FORGE, Root};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use store::Array;

/// A model of two tensors, the one that stands in a layer filled with `value`.
fn model(root: &Root, name: &str, value: f32) {
    let folder = root.path().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let config =
        json!({"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1, "vocab_size": 4});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let arrays = [
        Array::f32("model.embed_tokens.weight", &[4, 2], &[0.5; 8]),
        Array::f32("model.layers.0.mlp.up_proj.weight", &[2, 2], &[value; 4]),
    ];
    store::write_safetensors(
        folder.join("model.safetensors"),
        &arrays,
        &Default::default(),
    )
    .unwrap();
}

/// Writes a configuration whose models are folders of the root.
fn config(root: &Root, text: &str) -> String {
    let path = root.path().join("merge.yml");
    std::fs::write(
        &path,
        text.replace("ROOT", &root.path().display().to_string()),
    )
    .unwrap();
    path.display().to_string()
}

const LINEAR: &str = "
merge_method: linear
models:
  - {model: ROOT/a, parameters: {weight: 1}}
  - {model: ROOT/b, parameters: {weight: 3}}
parameters: {t: 0.5}
";

#[test]
fn a_merge_is_written_shown_and_told_as_json() {
    let root = Root::new();
    model(&root, "a", 1.0);
    model(&root, "b", 2.0);
    let (config, out) = (config(&root, LINEAR), root.path().join("out"));
    let out_name = out.display().to_string();
    let shown = root
        .forge(&["merge", &config, &out_name, "--dry-run"])
        .ended(0);
    for words in [
        "model.layers.0.mlp.up_proj.weight F32 [2, 2]: linear in float32  normalize 1",
        "/b  weight 3",
        "2 tensors, 48 B",
    ] {
        assert!(shown.out.contains(words), "{words}: {}", shown.out);
    }
    assert!(!out.exists(), "a dry run writes nothing");
    let told = root
        .forge(&["merge", &config, &out_name, "--json"])
        .ended(0);
    // A parameter of another method does not stop the merge, and does not pass unseen either.
    assert!(
        told.err.contains("parameters.t is not used"),
        "{}",
        told.err
    );
    let told = told.json();
    assert_eq!(
        (&told["tensors"], &told["bytes"], &told["layers"]),
        (&json!(2), &json!(48), &json!(1))
    );
    let (arrays, _) = store::read_safetensors(out.join("model.safetensors")).unwrap();
    assert_eq!(arrays[1].to_f32(), [1.75; 4]);
    root.forge(&["merge", &config, &out_name])
        .ended(1)
        .says(&["out", "there already"]);
}

#[test]
fn what_is_wrong_ends_in_code_2_with_the_file_and_the_key() {
    let root = Root::new();
    model(&root, "a", 1.0);
    let merge = |text: &str, more: &[&str]| {
        let config = config(&root, text);
        let mut args = vec!["merge", &config, "out"];
        args.extend(more);
        root.forge(&args)
    };
    merge("{merge_method: ties, models: [ROOT/a]}", &[])
        .ended(2)
        .says(&["merge.yml", "base_model"]);
    merge("{merge_method: linaer, models: [ROOT/a]}", &[])
        .ended(2)
        .says(&["did you mean `linear`?"]);
    merge(LINEAR, &[]).ended(2).says(&["/b`", "hub's cache"]);
    merge(LINEAR, &["--shard-size", "many"])
        .ended(2)
        .says(&["--shard-size many", "GB"]);
    root.forge(&["merge", "missing.yml", "out"])
        .ended(1)
        .says(&["missing.yml"]);
}

#[test]
fn a_model_is_found_in_the_hubs_cache_by_its_name() {
    let root = Root::new();
    let commit = "c".repeat(40);
    let place = "huggingface/hub/models--maker--tiny";
    model(&root, &format!("{place}/snapshots/{commit}"), 3.0);
    std::fs::create_dir_all(root.path().join(place).join("refs")).unwrap();
    std::fs::write(root.path().join(place).join("refs/main"), &commit).unwrap();
    let out = root.path().join("out").display().to_string();
    for (i, name) in ["maker/tiny".to_owned(), format!("maker/tiny@{commit}")]
        .iter()
        .enumerate()
    {
        let config = config(
            &root,
            &format!("{{merge_method: passthrough, models: ['{name}']}}"),
        );
        root.forge(&["merge", &config, &format!("{out}{i}")])
            .ended(0);
    }
    let config = config(&root, "{merge_method: passthrough, models: ['../tiny']}");
    root.forge(&["merge", &config, &out])
        .ended(2)
        .says(&["../tiny"]);
}

/// mergekit is too large to be fetched by a test: `.ci/run` has `bench/peers/merge.py install` make its environment.
#[test]
fn results_are_those_of_mergekit() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = top.join("target/peers/mergekit/bin/python");
    let there = Command::new(&python)
        .args(["-c", "import mergekit"])
        .output();
    if !there.is_ok_and(|done| done.status.success()) {
        println!(
            "skipped: mergekit is not in target/peers/mergekit (crates/merge compares with its recorded numbers)"
        );
        return;
    }
    let done = Command::new(python)
        .arg(top.join("bench/peers/merge.py"))
        .args(["parity", "--forge", FORGE])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let fault = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}\n{fault}");
    assert!(said.contains("merges agree"), "{said}");
}
