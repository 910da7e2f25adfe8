//! What is refused before anything is written, and how it is said.

use super::{Scene, llama};
use safetensors::tensor::Dtype;
use serde_json::json;

fn said(scene: &Scene, config: &str) -> String {
    match scene.plan(config) {
        Err(why) => why.to_string(),
        Ok(_) => panic!("accepted: {config}"),
    }
}

#[test]
fn configurations_are_refused_by_the_key_with_a_suggestion() {
    let scene = Scene::new();
    scene.model("a", &llama(1, 2, 16, 20), Dtype::F32);
    for (config, words) in [
        (
            "{merge_metod: linear, models: [a]}",
            &["merge_metod", "did you mean `merge_method`?"][..],
        ),
        (
            "{merge_method: tise, models: [a]}",
            &["merge_method", "tise", "did you mean `ties`?"],
        ),
        ("models: [a]", &["merge_method is missing", "slerp"]),
        ("merge_method: linear", &["models is missing"]),
        (
            "{merge_method: linear, models: []}",
            &["models is missing", "empty"],
        ),
        (
            "{merge_method: linear, models: [a], slices: []}",
            &["slices", "one of the two"],
        ),
        (
            "{merge_method: linear, models: [{model: a, wieght: 1}]}",
            &["wieght", "models[0]"],
        ),
        (
            "{merge_method: linear, models: [a], parameters: {wieght: 1}}",
            &["parameters", "did you mean `weight`?"],
        ),
        (
            "{merge_method: linear, models: [a], parameters: {weight: heavy}}",
            &["parameters.weight", "`heavy`", "line 1"],
        ),
        (
            "{merge_method: linear, models: [a], parameters: {weight: .inf}}",
            &["parameters.weight", "finite"],
        ),
        (
            "{merge_method: linear, models: [a]}",
            &["parameter `weight`", "model `a`", "embed_tokens"],
        ),
        ("{merge_method: linear, models: [a, a]}", &["`a` twice"]),
        (
            "{merge_method: linear, models: [a], dtype: float8}",
            &["dtype", "float8", "bfloat16"],
        ),
        (
            "{merge_method: ties, base_model: a, models: [{model: a}], parameters: {density: 1.5}}",
            &["density", "1.5", "from 0 to 1"],
        ),
        (
            "{merge_method: slerp, models: [a], parameters: {t: 0.5}}",
            &["slerp", "base"],
        ),
        (
            "{merge_method: passthrough, models: [nowhere]}",
            &["nowhere", "config.json"],
        ),
        (
            "{merge_method: passthrough, models: [a+adapter]}",
            &["adapter", "merge_and_unload"],
        ),
        (
            "{merge_method: passthrough, modules: {}}",
            &["modules", "slices"],
        ),
        (
            "{merge_method: passthrough, slices: [{sources: [{model: a, layer_range: [1, 9]}]}]}",
            &["layer_range", "[1, 9]", "2 layers"],
        ),
        (
            "{merge_method: passthrough, slices: [{sources: [{model: a}]}]}",
            &["slices[0].sources[0].layer_range"],
        ),
        (
            "{merge_method: passthrough, models: [a], tokenizer_source: a}",
            &["tokenizer.json"],
        ),
        ("{merge_method: passthrough, models: [a", &["no YAML"]),
    ] {
        let message = said(&scene, config);
        for word in words {
            assert!(message.contains(word), "{config}\n{message}\nlacks {word}");
        }
    }
}

#[test]
fn models_that_do_not_match_are_refused_by_the_first_tensor_with_both_shapes() {
    let scene = Scene::new();
    let a = llama(1, 2, 16, 20);
    scene.model("a", &a, Dtype::F32);
    scene.model("wide", &llama(2, 2, 24, 20), Dtype::F32);
    scene.model("deep", &llama(2, 3, 16, 20), Dtype::F32);
    scene.model("large", &llama(2, 2, 16, 24), Dtype::F32);
    let mut other = a.clone();
    other.remove("model.layers.1.mlp.up_proj.weight");
    scene.model("other", &other, Dtype::F32);
    scene.model("named", &a, Dtype::F32);
    scene.json(
        "named",
        "config.json",
        &json!({"architectures": ["MistralForCausalLM"], "num_hidden_layers": 2}),
    );
    for (model, words) in [
        (
            "wide",
            &[
                "model.embed_tokens.weight",
                "[20, 16] in `a`",
                "[20, 24] in `wide`",
            ][..],
        ),
        ("large", &["[24, 16] in `large`", "tokenizer_source"]),
        ("deep", &["`a` gives 2 layers, `deep` 3", "layer_range"]),
        (
            "other",
            &[
                "model.layers.1.mlp.up_proj.weight",
                "[32, 16] in `a`",
                "no such tensor in `other`",
            ],
        ),
        (
            "named",
            &["LlamaForCausalLM", "MistralForCausalLM", "--allow-crimes"],
        ),
    ] {
        let message = said(
            &scene,
            &format!("{{merge_method: linear, models: [a, {model}], parameters: {{weight: 1}}}}"),
        );
        for word in words {
            assert!(message.contains(word), "{model}: {message}\nlacks {word}");
        }
    }
}

#[test]
fn damaged_files_are_named() {
    let scene = Scene::new();
    let folder = scene.model("a", &llama(1, 2, 16, 20), Dtype::F32);
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let config = "{merge_method: passthrough, models: [a]}";
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    let message = said(&scene, config);
    assert!(
        message.contains("model.safetensors") && message.contains("header asks for"),
        "{message}"
    );
    std::fs::write(&path, &bytes[..4]).unwrap();
    assert!(said(&scene, config).contains("no safetensors header"));
    std::fs::remove_file(&path).unwrap();
    assert!(said(&scene, config).contains("safe_serialization"));
    scene.json(
        "a",
        "model.safetensors.index.json",
        &json!({"weight_map": {"x": "../b/model.safetensors"}}),
    );
    assert!(said(&scene, config).contains("outside the folder"));
}
