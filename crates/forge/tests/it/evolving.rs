//! `forge evomerge --models`: three checkpoints of one base, merged by a search, killed in the middle, refused.

use crate::process::{Done, Root};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use store::Array;

const VOCAB: usize = 300;
const WIDTH: usize = 16;
const FFN: usize = 32;

/// Numbers that look random, from a seed.
fn noise(seed: u64, n: usize, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..n).map(|_| next() * 2.0 * scale).collect()
}

/// A Llama of two layers: the base's weights and, for others, a little of their own.
fn model(root: &Root, name: &str, own: u64) {
    let folder = root.path().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": FFN,
        "max_position_embeddings": 128, "tie_word_embeddings": true, "rms_norm_eps": 1e-5,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut tensors = vec![("model.embed_tokens.weight".to_string(), vec![VOCAB, WIDTH])];
    for i in 0..2 {
        let mut add = |s: &str, dims: &[usize]| {
            tensors.push((format!("model.layers.{i}.{s}.weight"), dims.to_vec()))
        };
        add("input_layernorm", &[WIDTH]);
        add("post_attention_layernorm", &[WIDTH]);
        for s in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{s}"), &[WIDTH, WIDTH]);
        }
        add("mlp.gate_proj", &[FFN, WIDTH]);
        add("mlp.up_proj", &[FFN, WIDTH]);
        add("mlp.down_proj", &[WIDTH, FFN]);
    }
    tensors.push(("model.norm.weight".into(), vec![WIDTH]));
    let arrays: Vec<Array> = (tensors.iter().enumerate())
        .map(|(i, (name, dims))| {
            let n = dims.iter().product();
            let mut values = noise(7 + i as u64, n, 0.3);
            if dims.len() == 1 {
                values.fill(1.0);
            }
            for (v, d) in values.iter_mut().zip(noise(1000 * own + i as u64, n, 0.05)) {
                *v += if own > 0 { d } else { 0.0 };
            }
            Array::f32(name, dims, &values)
        })
        .collect();
    store::write_safetensors(
        folder.join("model.safetensors"),
        &arrays,
        &Default::default(),
    )
    .unwrap();
    std::fs::copy(
        root.path().join("tokenizer.json"),
        folder.join("tokenizer.json"),
    )
    .unwrap();
}

/// Three models, their base, and a text.
fn models() -> Root {
    let root = Root::new();
    let line = |i: usize| {
        let (a, b) = (
            ["cat", "dog", "bird"][i % 3],
            ["river", "hill", "barn", "lake"][i % 4],
        );
        format!(
            "On day {i} the {a} went to the {b} and saw {} {a}s there.\n",
            i % 7
        )
    };
    let text: String = (0..200).map(line).collect();
    std::fs::write(root.path().join("text.txt"), text).unwrap();
    let (text, out) = (path(&root, "text.txt"), path(&root, "tokenizer.json"));
    root.forge(&[
        "tokenizer",
        "train",
        &out,
        "--text",
        &text,
        "--vocab",
        "300",
    ])
    .ended(0);
    for (own, name) in ["base", "a", "b", "c"].into_iter().enumerate() {
        model(&root, name, own as u64);
    }
    root
}

fn path(root: &Root, name: &str) -> String {
    root.path().join(name).display().to_string()
}

fn arguments(root: &Root, out: &str, generations: usize) -> Vec<String> {
    let mut args = vec!["evomerge".to_string(), "--models".into()];
    args.extend(["a", "b", "c"].map(|name| path(root, name)));
    for (flag, value) in [("--base", "base"), ("--text", "text.txt"), ("--out", out)] {
        args.extend([flag.to_string(), path(root, value)]);
    }
    for set in [
        format!("evomerge.generations={generations}"),
        "evomerge.rounds=[4,12]".into(),
        "evomerge.comparison_items=16".into(),
        "evomerge.sequence=32".into(),
        "precision=f32".into(),
    ] {
        args.extend(["--set".to_string(), set]);
    }
    args
}

fn evolve(root: &Root, out: &str, generations: usize, more: &[&str]) -> Done {
    let args = arguments(root, out, generations);
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.extend(more);
    root.forge(&args)
}

#[test]
fn three_checkpoints_become_one_that_other_programs_read() {
    let root = models();
    let report = evolve(&root, "merged", 2, &["--json"]).ended(0).json();
    let names: Vec<&str> = (report["held_out"].as_array().unwrap().iter())
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "champion",
            "parent0",
            "parent1",
            "parent2",
            "task_arithmetic",
            "uniform"
        ]
    );
    let merged = root.path().join("merged");
    assert!(!root.path().join("merged.search.json").exists());
    for file in ["config.json", "tokenizer.json", "evomerge.json"] {
        assert!(merged.join(file).is_file(), "{file}");
    }
    // What was written is what was measured.
    let eval = [
        "eval",
        &path(&root, "merged"),
        "--text",
        &path(&root, "text.txt"),
        "--json",
    ];
    let nats = root.forge(&eval).ended(0).json()["nll_per_token"]
        .as_f64()
        .unwrap();
    let measured = report["held_out"][0]["nats"].as_f64().unwrap();
    assert!((nats - measured).abs() < 0.3, "{nats} and {measured}");
    evolve(&root, "merged", 2, &[])
        .ended(2)
        .says(&["--out", "exists"]);
}

#[test]
fn a_search_that_was_killed_goes_on_and_ends_in_the_same_bytes() {
    let root = models();
    evolve(&root, "whole", 8, &[]).ended(0);
    let args = arguments(&root, "cut", 8);
    let mut child = std::process::Command::new(crate::process::FORGE)
        .args(&args)
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let (state, begun) = (root.path().join("cut.search.json"), Instant::now());
    while !state.exists() && begun.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!root.path().join("cut").exists(), "killed before its end");
    // Other settings are another search.
    evolve(&root, "cut", 8, &["--set", "evomerge.mutation=0.02"])
        .ended(2)
        .says(&["cut.search.json", "other models, texts or settings"]);
    evolve(&root, "cut", 8, &[])
        .ended(0)
        .says(&["going on after"]);
    let weights =
        |name: &str| std::fs::read(root.path().join(name).join("model.safetensors")).unwrap();
    assert_eq!(weights("whole"), weights("cut"));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let root = models();
    let tokenizer = root.path().join("c/tokenizer.json");
    let mut other = std::fs::read_to_string(&tokenizer).unwrap();
    other.push('\n');
    std::fs::write(&tokenizer, other).unwrap();
    evolve(&root, "out", 1, &[])
        .ended(2)
        .says(&["tokenizer_source"]);
    model(&root, "c", 3);
    let path_of_config = root.path().join("c/config.json");
    let config = std::fs::read(&path_of_config).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["rms_norm_eps"] = json!(1e-6);
    std::fs::write(&path_of_config, config.to_string()).unwrap();
    evolve(&root, "out", 1, &[])
        .ended(2)
        .says(&["rms_norm_eps"]);
    std::fs::write(root.path().join("text.txt"), "Too short.\n").unwrap();
    model(&root, "c", 3);
    evolve(&root, "out", 1, &[])
        .ended(2)
        .says(&["too little text"]);
    root.forge(&["evomerge", "--models", "a", "b"]).ended(2);
    assert!(!Path::new(&path(&root, "out")).exists());
}
