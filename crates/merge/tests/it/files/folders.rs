//! What lies in the folder of a merge.

use super::{Scene, config, llama, read};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

const LINEAR: &str = "
merge_method: linear
models:
  - model: a
    parameters: {weight: 0.25}
  - model: b
    parameters: {weight: 0.75}
";

fn pair(dtype: Dtype) -> (Scene, super::Weights, super::Weights) {
    let scene = Scene::new();
    let (a, b) = (llama(1, 3, 24, 40), llama(2, 3, 24, 40));
    scene.model("a", &a, dtype);
    scene.model("b", &b, dtype);
    (scene, a, b)
}

#[test]
fn a_merge_is_a_folder_with_configuration_tokenizer_and_generation_settings() {
    let (scene, a, b) = pair(Dtype::F32);
    scene.json("a", "generation_config.json", &json!({"eos_token_id": 2}));
    scene.json("a", "tokenizer.json", &json!({"model": {"vocab": {}}}));
    let out = scene.merge(LINEAR, 1 << 30);
    let merged = read(&out);
    assert_eq!(
        merged.keys().collect::<Vec<_>>(),
        a.keys().collect::<Vec<_>>()
    );
    for (name, (dtype, shape, values)) in &merged {
        assert_eq!((*dtype, shape), (Dtype::F32, &a[name].0));
        for (i, x) in values.iter().enumerate() {
            let expected = 0.25 * a[name].1[i] + 0.75 * b[name].1[i];
            assert!((x - expected).abs() < 1e-7, "{name}[{i}]");
        }
    }
    for file in [
        "generation_config.json",
        "tokenizer.json",
        "mergekit_config.yml",
    ] {
        assert!(out.join(file).exists(), "{file}");
    }
    assert_eq!(config(&out)["num_hidden_layers"], 3);
    let left: Vec<_> = std::fs::read_dir(out.parent().unwrap())
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(left.len(), 3, "nothing half-written is left: {left:?}");
}

#[test]
fn large_merges_are_cut_into_shards_that_the_index_names() {
    let (scene, ..) = pair(Dtype::BF16);
    let whole = read(&scene.merge(LINEAR, 1 << 30));
    std::fs::rename(scene.path("out"), scene.path("whole")).unwrap();
    let out = scene.merge(LINEAR, 5000);
    assert_eq!(read(&out), whole);
    assert!(!out.join("model.safetensors").exists());
    let index = std::fs::read(out.join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), whole.len());
    let total: usize = whole.values().map(|(_, _, v)| 2 * v.len()).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    for file in map.values() {
        let size = std::fs::metadata(out.join(file.as_str().unwrap()))
            .unwrap()
            .len();
        assert!(size < 7000, "{file}: {size}");
    }
    // Shards are read as they are written.
    std::fs::rename(&out, scene.path("sharded")).unwrap();
    let again = scene.merge("merge_method: passthrough\nmodels: [sharded]", 1 << 30);
    assert_eq!(read(&again), whole);
}

#[test]
fn the_type_of_the_merge_and_of_the_file_follow_dtype_and_out_dtype() {
    let (scene, ..) = pair(Dtype::BF16);
    for (more, expected, named) in [
        ("", Dtype::BF16, "bfloat16"),
        ("dtype: float32", Dtype::F32, "float32"),
        ("dtype: float32\nout_dtype: float16", Dtype::F16, "float16"),
    ] {
        let out = scene.merge(&format!("{LINEAR}{more}\n"), 1 << 30);
        assert!(
            read(&out).values().all(|(dtype, ..)| *dtype == expected),
            "{more}"
        );
        assert_eq!(config(&out)["torch_dtype"], named);
        std::fs::remove_dir_all(out).unwrap();
    }
}

#[test]
fn slices_stack_layers_of_models_of_different_depth() {
    let scene = Scene::new();
    let (a, b) = (llama(1, 3, 16, 20), llama(2, 5, 16, 20));
    scene.model("a", &a, Dtype::F32);
    scene.model("b", &b, Dtype::F32);
    let out = scene.merge(
        "
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [2, 5], parameters: {scale: [{filter: up_proj, value: 0.5}, {value: 1.0}]}}]
",
        1 << 30,
    );
    let merged = read(&out);
    assert_eq!(config(&out)["num_hidden_layers"], 5);
    for (layer, (model, from)) in [(&a, 0), (&a, 1), (&b, 2), (&b, 3), (&b, 4)]
        .iter()
        .enumerate()
    {
        let name = |layer, rest: &str| format!("model.layers.{layer}.{rest}.weight");
        let got = &merged[&name(layer, "self_attn.q_proj")].2;
        assert_eq!(
            got,
            &model[&name(*from, "self_attn.q_proj")].1,
            "layer {layer}"
        );
        let factor = if layer < 2 { 1.0 } else { 0.5 };
        let expected: Vec<f32> = model[&name(*from, "mlp.up_proj")]
            .1
            .iter()
            .map(|x| factor * x)
            .collect();
        assert_eq!(
            merged[&name(layer, "mlp.up_proj")].2,
            expected,
            "layer {layer}"
        );
    }
    assert_eq!(
        merged["model.embed_tokens.weight"].2,
        a["model.embed_tokens.weight"].1
    );
    assert_eq!(merged["lm_head.weight"].2, b["lm_head.weight"].1);
}

#[test]
fn numbers_follow_filters_gradients_and_who_is_nearest() {
    let (scene, ..) = pair(Dtype::F32);
    let plan = scene
        .plan(
            "
merge_method: linear
models:
  - model: a
    parameters:
      weight:
        - {filter: q_proj, value: [0, 1]}
        - {filter: up_proj, value: 7}
  - model: b
parameters: {weight: [2, 4], normalize: no}
",
        )
        .unwrap();
    let weights = |name: &str| {
        let tensor = plan.tensors.iter().find(|t| t.name == name).unwrap();
        assert_eq!(tensor.parameters.tensor, [("normalize", 0.0)]);
        tensor
            .parameters
            .models
            .iter()
            .map(|m| m[0].1)
            .collect::<Vec<_>>()
    };
    for (layer, blend) in [(0, 0.0), (1, 0.5), (2, 1.0)] {
        assert_eq!(
            weights(&format!("model.layers.{layer}.self_attn.q_proj.weight")),
            [blend, 2.0 + 2.0 * blend]
        );
        assert_eq!(
            weights(&format!("model.layers.{layer}.mlp.up_proj.weight")),
            [7.0, 2.0 + 2.0 * blend]
        );
    }
    // No filter of `a` fits: the numbers for all hold. Outside of layers gradients stand at their beginning.
    assert_eq!(weights("lm_head.weight"), [2.0, 2.0]);
    assert_eq!(plan.tensors[0].name, "model.embed_tokens.weight");
    assert_eq!(plan.tensors.last().unwrap().name, "model.norm.weight");
}

#[test]
fn a_base_that_is_not_listed_is_added_and_no_weight_is_asked_of_it() {
    let (scene, a, b) = pair(Dtype::F32);
    let out = scene.merge(
        "{merge_method: task_arithmetic, base_model: b, models: [{model: a, parameters: {weight: 0.5}}]}",
        1 << 30,
    );
    for (name, (_, _, values)) in read(&out) {
        for (i, x) in values.iter().enumerate() {
            let expected = b[&name].1[i] + 0.5 * (a[&name].1[i] - b[&name].1[i]);
            assert!((x - expected).abs() < 1e-7, "{name}[{i}]");
        }
    }
}

#[test]
fn random_merges_have_the_same_bytes_at_one_thread_and_three() {
    let (scene, ..) = pair(Dtype::BF16);
    let text = "{merge_method: dare_ties, base_model: b, models: [{model: a, parameters: {weight: 1, density: 0.4}}]}";
    let mut seen = Vec::new();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let out = pool.install(|| scene.merge(text, 9000));
        let mut files: Vec<_> = std::fs::read_dir(&out)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        files.sort();
        seen.push(
            files
                .iter()
                .map(|f| std::fs::read(f).unwrap())
                .collect::<Vec<_>>(),
        );
        std::fs::remove_dir_all(out).unwrap();
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn tied_models_stay_tied_and_lend_their_embedding_to_one_that_is_not() {
    let (scene, mut a, b) = pair(Dtype::F32);
    a.remove("lm_head.weight");
    scene.model("tied", &a, Dtype::F32);
    let mut tied = config(&scene.path("tied"));
    tied["tie_word_embeddings"] = json!(true);
    scene.json("tied", "config.json", &tied);
    let alone = scene.merge("{merge_method: passthrough, models: [tied]}", 1 << 30);
    assert!(!read(&alone).contains_key("lm_head.weight"));
    assert_eq!(config(&alone)["tie_word_embeddings"], true);
    std::fs::remove_dir_all(alone).unwrap();
    let text = "{merge_method: linear, models: [tied, b], parameters: {weight: 1}}";
    let out = scene.merge(text, 1 << 30);
    let head = &read(&out)["lm_head.weight"].2;
    let (embedding, own) = (&a["model.embed_tokens.weight"].1, &b["lm_head.weight"].1);
    for (i, x) in head.iter().enumerate() {
        assert!((x - (embedding[i] + own[i]) / 2.0).abs() < 1e-7);
    }
    assert_eq!(config(&out)["tie_word_embeddings"], false);
}

#[test]
fn an_interrupted_or_refused_merge_leaves_no_folder() {
    let scene = Scene::new();
    let a = llama(1, 2, 16, 20);
    let mut b = a.clone();
    let mut c = a.clone();
    // Directions that cancel: multislerp has no centre for this tensor.
    for (name, model, sign) in [("b", &mut b, -1.0), ("c", &mut c, 0.0)] {
        let gain = &mut model.get_mut("model.norm.weight").unwrap().1;
        gain.iter_mut().for_each(|x| *x *= sign);
        scene.model(name, model, Dtype::F32);
    }
    scene.model("a", &a, Dtype::F32);
    let text = "{merge_method: multislerp, models: [a, b, c], parameters: {weight: 1}}";
    let folder = scene.path("out");
    let target = merge::Target {
        folder: &folder,
        shard_bytes: 1 << 30,
        source: text,
    };
    let failed = scene
        .plan(text)
        .unwrap()
        .write(&target, &|_| {})
        .unwrap_err()
        .to_string();
    assert!(
        failed.contains("model.norm.weight") && failed.contains("other weights"),
        "{failed}"
    );
    let left: Vec<_> = std::fs::read_dir(scene.path(""))
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left.len(), 3, "{left:?}");
    // A folder that is there is not touched.
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("mine"), "x").unwrap();
    let refused = scene
        .plan(text)
        .unwrap()
        .write(&target, &|_| {})
        .unwrap_err()
        .to_string();
    assert!(refused.contains("there already"), "{refused}");
    assert!(folder.join("mine").exists());
}
