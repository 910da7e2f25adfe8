//! Vocabularies of different size, and chat templates.

use super::{Scene, Weights, config, llama, read};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const EMBEDDING: &str = "model.embed_tokens.weight";

fn tokenizer(scene: &Scene, model: &str, words: &[&str]) {
    let vocab: BTreeMap<&str, usize> = words.iter().enumerate().map(|(i, w)| (*w, i)).collect();
    let special = json!([{"id": 0, "content": words[0], "special": true}]);
    scene.json(
        model,
        "tokenizer.json",
        &json!({"added_tokens": special, "model": {"type": "BPE", "vocab": vocab, "merges": []}}),
    );
    scene.json(
        model,
        "tokenizer_config.json",
        &json!({"chat_template": format!("{{{{ {model} }}}}")}),
    );
}

/// `a` knows one and two, `b` (with a row that no token uses) two, three and a special token of its own.
fn scene() -> (Scene, Weights, Weights) {
    let scene = Scene::new();
    let (a, b) = (llama(1, 1, 8, 3), llama(2, 1, 8, 5));
    scene.model("a", &a, Dtype::F32);
    scene.model("b", &b, Dtype::F32);
    tokenizer(&scene, "a", &["<s>", "one", "two"]);
    tokenizer(&scene, "b", &["<b>", "three", "two", "<s>"]);
    (scene, a, b)
}

fn ids(folder: &Path) -> BTreeMap<String, usize> {
    let file: Value =
        serde_json::from_slice(&std::fs::read(folder.join("tokenizer.json")).unwrap()).unwrap();
    let vocab = file["model"]["vocab"].as_object().unwrap();
    let mut ids: BTreeMap<String, usize> = vocab
        .iter()
        .map(|(t, id)| (t.clone(), id.as_u64().unwrap() as usize))
        .collect();
    for token in file["added_tokens"].as_array().unwrap() {
        ids.insert(
            token["content"].as_str().unwrap().to_owned(),
            token["id"].as_u64().unwrap() as usize,
        );
    }
    ids
}

fn row(weights: &Weights, id: usize) -> &[f32] {
    &weights[EMBEDDING].1[8 * id..8 * (id + 1)]
}

fn mean(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter()
        .zip(b)
        .map(|(a, b)| ((f64::from(*a) + f64::from(*b)) / 2.0) as f32)
        .collect()
}

#[test]
fn a_union_has_the_tokens_of_all_and_lends_rows_to_models_that_lack_them() {
    let (scene, a, b) = scene();
    let out = scene.merge(
        "{merge_method: linear, models: [a, b], parameters: {weight: 1}, tokenizer_source: union}",
        1 << 30,
    );
    let ids = ids(&out);
    // The base's tokens keep their numbers, plain tokens follow, then added ones.
    let expected = [("<b>", 4), ("<s>", 0), ("one", 1), ("three", 3), ("two", 2)];
    assert_eq!(
        ids.iter()
            .map(|(t, id)| (t.as_str(), *id))
            .collect::<Vec<_>>(),
        expected
    );
    let (_, shape, values) = &read(&out)[EMBEDDING];
    assert_eq!(shape, &[5, 8]);
    assert_eq!(config(&out)["vocab_size"], 5);
    let got = |id: usize| values[8 * id..8 * (id + 1)].to_vec();
    assert_eq!(got(0), mean(row(&a, 0), row(&b, 3)));
    assert_eq!(got(1), row(&a, 1));
    assert_eq!(got(2), mean(row(&a, 2), row(&b, 2)));
    assert_eq!(got(3), row(&b, 1));
    assert_eq!(got(4), row(&b, 0));
}

#[test]
fn the_tokens_of_one_model_may_be_taken_and_rows_padded() {
    let (scene, a, b) = scene();
    let text = "
merge_method: linear
models: [a, b]
parameters: {weight: 1}
tokenizer:
  source: b
  pad_to_multiple_of: 6
  tokens:
    three: {source: {kind: model_token, model: a, token: one}, force: true}
    new: {source: {kind: zero}}
";
    let out = scene.merge(text, 1 << 30);
    let (_, shape, values) = &read(&out)[EMBEDDING];
    assert_eq!(
        (shape[0], config(&out)["vocab_size"].as_u64()),
        (6, Some(6))
    );
    let got = |id: usize| values[8 * id..8 * (id + 1)].to_vec();
    assert_eq!(ids(&out)["new"], 4);
    assert_eq!(got(0), row(&b, 0));
    assert_eq!(got(1), row(&a, 1));
    assert_eq!(got(2), mean(row(&a, 2), row(&b, 2)));
    assert_eq!(got(4), [0.0; 8]);
    // Padding is the mean of the other rows.
    let column: f32 = (0..5).map(|id| got(id)[3]).sum::<f32>() / 5.0;
    assert!((got(5)[3] - column).abs() < 1e-6);
}

#[test]
fn a_token_of_several_models_comes_from_the_base_before_their_mean() {
    let (scene, _, b) = scene();
    let c = llama(3, 1, 8, 4);
    scene.model("c", &c, Dtype::F32);
    tokenizer(&scene, "c", &["<s>", "three", "four", "five"]);
    let text = "{merge_method: task_arithmetic, base_model: BASE, models: [a, b, c], parameters: {weight: 0}, tokenizer_source: union}";
    // With b as base, its row for `three` is what a lacks; with a as base, the mean of b's and c's.
    for (base, expected) in [
        ("b", row(&b, 1).to_vec()),
        ("a", mean(row(&b, 1), row(&c, 1))),
    ] {
        let out = scene.merge(&text.replace("BASE", base), 1 << 30);
        let id = ids(&out)["three"];
        assert_eq!(
            read(&out)[EMBEDDING].2[8 * id..8 * (id + 1)],
            expected[..],
            "base {base}"
        );
        std::fs::remove_dir_all(out).unwrap();
    }
}

#[test]
fn chat_templates_are_kept_chosen_or_written() {
    let (scene, ..) = scene();
    let template = |more: &str| {
        let out = scene.merge(
            &format!("{{merge_method: passthrough, models: [b]{more}}}"),
            1 << 30,
        );
        let settings: Value =
            serde_json::from_slice(&std::fs::read(out.join("tokenizer_config.json")).unwrap())
                .unwrap();
        let file = std::fs::read_to_string(out.join("chat_template.jinja")).ok();
        std::fs::remove_dir_all(out).unwrap();
        (settings["chat_template"].as_str().unwrap().to_owned(), file)
    };
    assert_eq!(template(""), ("{{ b }}".to_owned(), None));
    let (inside, file) = template(", chat_template: auto");
    assert_eq!(
        (inside.as_str(), file.as_deref()),
        ("{{ b }}", Some("{{ b }}"))
    );
    assert_eq!(template(", chat_template: '{% x %}'").0, "{% x %}");
    assert!(
        template(", chat_template: chatml")
            .0
            .contains("<|im_start|>")
    );
    let plan = scene
        .plan("{merge_method: passthrough, models: [b], chat_template: nonsense}")
        .unwrap();
    let folder = scene.path("out");
    let target = merge::Target {
        folder: &folder,
        shard_bytes: 1 << 30,
        source: "",
    };
    let message = plan.write(&target, &|_| {}).unwrap_err().to_string();
    assert!(
        message.contains("nonsense") && message.contains("chatml"),
        "{message}"
    );
}
