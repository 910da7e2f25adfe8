//! The Llama: PyTorch's numbers, a published model word for word, files whole, sharded, narrow and broken.

use crate::pytorch::{numbers, tensors, whole};
use crate::sample::{Draw, distance};
use model::generate::{Sampler, generate};
use model::llama2c::{self, Vocabulary};
use model::{Batch, Bound, LanguageModel, Llama, hub_format};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tensor::{Tape, Tensor};

fn reference() -> Value {
    serde_json::from_str(include_str!("../fixtures/llama.json")).unwrap()
}

fn logits(m: &Llama, batch: &Batch) -> Vec<f32> {
    let tape = Tape::inference();
    let p = Bound::new(&tape, &m.params);
    tape.value(m.logits(&p, m.forward(&p, batch))).to_vec()
}

/// The published model, when it is at hand.
fn stories() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/stories260K");
    if folder.exists() {
        return Some(folder);
    }
    println!("skipped: no ../shared");
    None
}

/// Writes tensors as safetensors of one type.
fn write(path: &Path, weights: &BTreeMap<String, Tensor>, dtype: Dtype) {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = weights
        .iter()
        .map(|(n, t)| {
            let data = t.to_vec().into_iter().flat_map(|x| match dtype {
                Dtype::F32 => x.to_le_bytes().to_vec(),
                Dtype::F16 => half::f16::from_f32(x).to_le_bytes().to_vec(),
                Dtype::BF16 => half::bf16::from_f32(x).to_le_bytes().to_vec(),
                _ => x.to_le_bytes().repeat(2),
            });
            (n.clone(), t.dims().to_vec(), data.collect())
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(n, d, b)| (n, TensorView::new(dtype, d.clone(), b).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A folder with the tiny reference model in one fp32 file.
fn tiny() -> (tempfile::TempDir, Value, BTreeMap<String, Tensor>) {
    let json = reference();
    let folder = tempfile::tempdir().unwrap();
    let weights = tensors(&json["weights"]);
    std::fs::write(
        folder.path().join("config.json"),
        json["config"].to_string(),
    )
    .unwrap();
    write(
        &folder.path().join("model.safetensors"),
        &weights,
        Dtype::F32,
    );
    (folder, json, weights)
}

#[test]
fn logits_are_those_of_pytorch_in_every_type_and_in_shards() {
    let (folder, json, weights) = tiny();
    let at = |name: &str| folder.path().join(name);
    let batch = Batch::single(&whole(&json["tokens"]));
    let check = |what: &str| {
        let hub = hub_format::load(folder.path()).unwrap();
        let x = distance(&logits(&hub.model, &batch), &numbers(&json["logits"]));
        assert!(x < 1e-4, "{what}: logits differ by {x}");
        assert_eq!(hub.model.config.eos, [2, 3]);
        hub.tokenizer
    };
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        write(&at("model.safetensors"), &weights, dtype);
        assert!(check(&format!("{dtype:?}")).is_none());
    }
    std::fs::remove_file(at("model.safetensors")).unwrap();
    let mut map = BTreeMap::new();
    for (shard, keep) in [
        ("model-1.safetensors", true),
        ("model-2.safetensors", false),
    ] {
        let part: BTreeMap<String, Tensor> = weights
            .iter()
            .filter(|(n, _)| n.contains("layers.0") == keep)
            .map(|(n, t)| (n.clone(), t.clone()))
            .collect();
        write(&at(shard), &part, Dtype::F32);
        map.extend(part.into_keys().map(|n| (n, shard)));
    }
    std::fs::write(
        at("model.safetensors.index.json"),
        json!({ "weight_map": map }).to_string(),
    )
    .unwrap();
    std::fs::write(at("tokenizer.json"), "{}").unwrap();
    assert_eq!(check("shards"), Some(b"{}".to_vec()));
    // Streaming and likelihood of the same model.
    let m = hub_format::load(folder.path()).unwrap().model;
    streams_as_it_trains(&m, &Draw::new(1, "llama"), 300);
    let tokens = whole(&json["tokens"]);
    let nll = m.nll(&batch, &tokens);
    let first = &numbers(&json["logits"])[..11];
    let expected = first.iter().map(|x| x.exp()).sum::<f32>().ln() - first[tokens[0] as usize];
    assert!((nll[0] - expected).abs() < 1e-4);
    assert_eq!(
        (m.vocab(), m.parameters()),
        (11, weights.values().map(Tensor::numel).sum())
    );
}

/// Ragged streaming of three sequences, with a restart, against whole texts.
fn streams_as_it_trains(m: &Llama, d: &Draw, most: usize) {
    let v = m.config.vocab;
    let mut texts: Vec<Vec<u32>> = [most, most / 3, most / 2]
        .iter()
        .map(|&n| d.tokens(n, v))
        .collect();
    let mut done = [0; 3];
    let mut stream = m.stream(3);
    let mut restarted = false;
    while (0..3).any(|i| done[i] < texts[i].len()) {
        let grows: Vec<(usize, usize)> = (0..3)
            .filter(|&i| done[i] < texts[i].len() && d.below(3) > 0)
            .map(|i| (i, d.between(1, (texts[i].len() - done[i]).min(40))))
            .collect();
        if grows.is_empty() {
            continue;
        }
        let entries: Vec<(usize, &[u32])> = grows
            .iter()
            .map(|&(i, n)| (i, &texts[i][done[i]..done[i] + n]))
            .collect();
        let ends = stream.extend(&entries).to_vec();
        for (row, &(i, n)) in grows.iter().enumerate() {
            done[i] += n;
            let all = logits(m, &Batch::single(&texts[i][..done[i]]));
            let x = distance(&ends[row * v..][..v], &all[all.len() - v..]);
            assert!(x < 1e-4, "sequence {i} after {} rows: {x}", done[i]);
        }
        if !restarted && done[1] == texts[1].len() {
            restarted = true;
            stream.reset(1);
            (texts[1], done[1]) = (d.tokens(most / 4, v), 0);
        }
    }
    // A prompt longer than one pass takes, and segments that do not hear of each other.
    let long = d.tokens(700, v);
    let mut stream = m.stream(1);
    let all = logits(m, &Batch::single(&long));
    assert!(
        distance(
            &stream.extend(&[(0, &long)]).to_vec(),
            &all[all.len() - v..]
        ) < 1e-4
    );
    let both = logits(m, &Batch::new([(&long[..50], 0), (&long[50..90], 0)]));
    assert!(distance(&both[..50 * v], &all[..50 * v]) < 1e-4);
    assert!(distance(&both[50 * v..], &logits(m, &Batch::single(&long[50..90]))) < 1e-4);
}

#[test]
fn stories260k_tells_its_story() {
    let Some(folder) = stories() else { return };
    let m = llama2c::load(&folder.join("stories260K.bin")).unwrap();
    assert_eq!(m.parameters(), 260_032);
    let vocabulary = Vocabulary::load(&folder.join("tok512.bin")).unwrap();
    assert_eq!(vocabulary.len(), 512);
    let written = generate(
        &m,
        &[vec![llama2c::BOS]],
        80,
        &m.config.eos,
        Sampler::GREEDY,
        1,
    );
    let text = vocabulary.decode(&written[0]);
    let expected = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball.";
    assert!(text.starts_with(expected), "{text}");
    // Encoding what it wrote gives back what it chose.
    let encoded = vocabulary.encode(expected, true);
    assert_eq!(encoded[0], llama2c::BOS);
    assert_eq!(encoded[1..], written[0][..encoded.len() - 1]);
    for text in ["", "a", " two  spaces ", "Zürich, 3 €\n\ttab", "<0x41>"] {
        assert_eq!(vocabulary.decode(&vocabulary.encode(text, true)), text);
    }
}

#[test]
fn stories260k_has_pytorchs_logits_from_both_formats() {
    let Some(folder) = stories() else { return };
    let json = &reference()["stories260K"];
    let tokens = whole(&json["tokens"]);
    let hub = hub_format::load(&folder.join("hf_derived")).unwrap().model;
    let bin = llama2c::load(&folder.join("stories260K.bin")).unwrap();
    for (name, m) in [("safetensors", &hub), ("llama2.c", &bin)] {
        let all = logits(m, &Batch::single(&tokens));
        for (i, row) in whole(&json["rows"]).into_iter().enumerate() {
            let x = distance(
                &all[row as usize * 512..][..512],
                &numbers(&json["logits"][i]),
            );
            assert!(x < 1e-4, "{name}, row {row}: logits differ by {x}");
        }
    }
    let named = |m: &Llama| {
        m.params
            .iter()
            .map(|(n, t)| (n.to_string(), t.to_vec()))
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!(
        named(&hub),
        named(&bin),
        "the two files hold the same weights"
    );
    streams_as_it_trains(&bin, &Draw::new(2, "stories"), 60);
}

/// The message of a folder that cannot be read; it must name all of `parts`.
fn refused(folder: &Path, parts: &[&str]) {
    let message = hub_format::load(folder)
        .err()
        .unwrap_or_else(|| panic!("read in spite of {parts:?}"))
        .to_string();
    assert!(
        parts.iter().all(|p| message.contains(p)),
        "{message} does not name {parts:?}"
    );
}

#[test]
fn a_config_that_is_not_computed_is_refused_by_its_key() {
    let (folder, json, _) = tiny();
    for (key, value) in [
        ("model_type", json!("gpt2")),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0}),
        ),
        (
            "rope_parameters",
            json!({"rope_type": "yarn", "rope_theta": 1e4}),
        ),
        ("quantization_config", json!({"bits": 4})),
        ("vocab_size", json!(0)),
        ("hidden_size", json!("12")),
        ("num_hidden_layers", Value::Null),
        ("num_hidden_layers", json!(1_000_000)),
        ("num_key_value_heads", json!(3)),
        ("rms_norm_eps", json!(-1.0)),
        ("rope_theta", json!("big")),
    ] {
        let mut config = json["config"].clone();
        config[key] = value.clone();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        refused(folder.path(), &["config.json", &format!("`{key}`")]);
    }
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    refused(folder.path(), &["config.json", "not JSON"]);
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    refused(folder.path(), &["config.json", "cannot read"]);
}

#[test]
fn newer_rotary_settings_are_read() {
    let (folder, json, _) = tiny();
    let mut config = json["config"].clone();
    config["rope_theta"] = Value::Null;
    config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 500.0});
    config["rope_scaling"] = json!({"rope_type": "default"});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    assert_eq!(
        hub_format::load(folder.path())
            .unwrap()
            .model
            .config
            .rope_theta,
        500.0
    );
}

#[test]
fn broken_weights_are_refused_by_file_and_tensor() {
    let (folder, _, weights) = tiny();
    let file = folder.path().join("model.safetensors");
    let with = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut w = weights.clone();
        change(&mut w);
        write(&file, &w, Dtype::F32);
    };
    with(&|w| drop(w.remove("model.norm.weight")));
    refused(folder.path(), &["`model.norm.weight`", "[12]", "missing"]);
    with(&|w| drop(w.insert("model.norm.weight".into(), Tensor::zeros(&[5]))));
    refused(
        folder.path(),
        &["model.safetensors", "`model.norm.weight`", "[5]", "[12]"],
    );
    with(&|w| {
        drop(w.insert(
            "model.layers.0.self_attn.q_proj.bias".into(),
            Tensor::zeros(&[16]),
        ))
    });
    refused(
        folder.path(),
        &[
            "model.safetensors",
            "`model.layers.0.self_attn.q_proj.bias`",
        ],
    );
    write(&file, &weights, Dtype::F64);
    refused(folder.path(), &["model.safetensors", "F64", "BF16"]);
    write(&file, &weights, Dtype::F32);
    let bytes = std::fs::read(&file).unwrap();
    for cut in [0, 4, 100, bytes.len() - 1] {
        std::fs::write(&file, &bytes[..cut]).unwrap();
        refused(
            folder.path(),
            &["model.safetensors", "not a whole safetensors file"],
        );
    }
    std::fs::remove_file(&file).unwrap();
    refused(folder.path(), &["neither model.safetensors nor"]);
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, "{}").unwrap();
    refused(
        folder.path(),
        &["model.safetensors.index.json", "`weight_map`"],
    );
    std::fs::write(
        &index,
        json!({"weight_map": {"a": "../elsewhere.safetensors"}}).to_string(),
    )
    .unwrap();
    refused(
        folder.path(),
        &["model.safetensors.index.json", "../elsewhere.safetensors"],
    );
    std::fs::write(
        &index,
        json!({"weight_map": {"a": "absent.safetensors"}}).to_string(),
    )
    .unwrap();
    refused(folder.path(), &["absent.safetensors", "cannot read"]);
}

#[test]
fn broken_llama2c_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.bin");
    let header = |words: [i32; 7]| {
        words
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let refused = |bytes: &[u8], part: &str| {
        std::fs::write(&file, bytes).unwrap();
        let message = llama2c::load(&file).unwrap_err().to_string();
        assert!(
            message.contains("model.bin") && message.contains(part),
            "{message}"
        );
    };
    refused(b"abc", "too few");
    refused(&header([0x616b_3432, 1, 0, 0, 0, 0, 0]), "version 1 or 2");
    refused(&header([8, 12, 1, 3, 3, 9, 16]), "is no model's");
    refused(&header([8, 12, 1, -2, 2, 9, 16]), "is no model's");
    refused(
        &header([8, 12, 1, 2, 2, 9, 16]),
        "28 bytes, the header asks for",
    );
    refused(&header([8, 12, 1 << 20, 2, 2, 9, 16]), "is no model's");
    refused(
        &header([1 << 23, 1 << 23, 1 << 10, 2, 2, 1 << 23, 1 << 23]),
        "asks for",
    );
    let message = llama2c::load(&folder.path().join("absent.bin"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("absent.bin") && message.contains("cannot read"),
        "{message}"
    );
    for bytes in [
        &b"ab"[..],
        &[8, 0, 0, 0, 1, 2, 3],
        &[8, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 127],
        &[8, 0, 0, 0],
    ] {
        std::fs::write(&file, bytes).unwrap();
        assert!(
            Vocabulary::load(&file)
                .unwrap_err()
                .to_string()
                .contains("not a whole llama2.c vocabulary")
        );
    }
}

#[test]
fn an_untied_llama2c_file_is_read() {
    // Width 4, two heads, one layer; all elements count up, so that every place can be checked.
    let (vocab, width, ffn) = (300, 4, 6);
    let sizes = [
        vocab * width,
        width,
        16,
        16,
        16,
        16,
        width,
        ffn * width,
        ffn * width,
        ffn * width,
        width,
        16 * 2,
        vocab * width,
    ];
    let mut bytes: Vec<u8> = [4i32, 6, 1, 2, 2, -300, 16]
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect();
    bytes.extend((0..sizes.iter().sum::<usize>()).flat_map(|i| (i as f32 * 1e-3).to_le_bytes()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("untied.bin");
    std::fs::write(&file, bytes).unwrap();
    let m = llama2c::load(&file).unwrap();
    assert!(!m.config.tied);
    let at = |kind: usize| sizes[..kind].iter().sum::<usize>();
    let first = |name: &str| (m.params.get(name).to_vec()[0] * 1e3).round() as usize;
    assert_eq!(first("model.layers.0.mlp.gate_proj.weight"), at(7));
    assert_eq!(first("model.layers.0.mlp.down_proj.weight"), at(8));
    assert_eq!(first("model.layers.0.mlp.up_proj.weight"), at(9));
    assert_eq!(first("model.norm.weight"), at(10));
    assert_eq!(first("lm_head.weight"), at(12));
    let rows: Vec<usize> = m
        .params
        .get("model.layers.0.self_attn.q_proj.weight")
        .to_vec()
        .chunks(4)
        .map(|r| ((r[0] * 1e3).round() as usize - at(2)) / 4)
        .collect();
    assert_eq!(
        rows,
        [0, 1, 2, 3],
        "heads of two rows are the same in both layouts"
    );
    assert!(
        logits(&m, &Batch::single(&[1, 2, 3]))
            .iter()
            .all(|x| x.is_finite())
    );
}

#[test]
fn a_vocabulary_joins_the_best_pair_first_and_the_leftmost_of_equals() {
    // Two unions share a score, and one pair of tokens spells the same union as another.
    let unions = [
        ("ab", 5.0),
        ("bc", 5.0),
        ("aa", 4.0),
        ("abc", 6.0),
        ("aab", -0.0),
        ("ca", 0.0),
        ("bca", 3.0),
    ];
    let mut tokens: Vec<(Vec<u8>, f32)> = (0..259)
        .map(|i| (format!("<{i}>").into_bytes(), 0.0))
        .collect();
    tokens.extend([" ", "a", "b", "c"].map(|c| (c.as_bytes().to_vec(), 0.0)));
    tokens.extend(unions.map(|(text, score)| (text.as_bytes().to_vec(), score)));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tok.bin");
    let mut bytes = 8i32.to_le_bytes().to_vec();
    for (text, score) in &tokens {
        bytes.extend(score.to_le_bytes());
        bytes.extend((text.len() as i32).to_le_bytes());
        bytes.extend(text);
    }
    std::fs::write(&file, bytes).unwrap();
    let vocabulary = Vocabulary::load(&file).unwrap();
    let id = |text: &[u8]| tokens.iter().position(|t| t.0 == text);
    // llama2.c's own loop: look at every pair, join the best, begin again.
    let slowly = |text: &str| {
        let letters = text.bytes().map(|b| id(&[b]).unwrap());
        let mut all: Vec<usize> = std::iter::once(id(b" ").unwrap()).chain(letters).collect();
        loop {
            let mut best: Option<(f32, usize, usize)> = None;
            for i in 1..all.len() {
                let union = [&tokens[all[i - 1]].0[..], &tokens[all[i]].0].concat();
                if let Some(id) = id(&union)
                    && best.is_none_or(|b| tokens[id].1 > b.0)
                {
                    best = Some((tokens[id].1, i, id));
                }
            }
            let Some((_, at, id)) = best else { break all };
            all[at - 1] = id;
            all.remove(at);
        }
    };
    for i in 0..200u64 {
        let mut left = i * 7919 + 13;
        let letters = (0..i % 23).map(|_| {
            left = left.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ['a', 'b', 'c'][(left >> 33) as usize % 3]
        });
        let text: String = std::iter::once('a').chain(letters).collect();
        let found = vocabulary.encode(&text, false);
        let wanted: Vec<u32> = slowly(&text).into_iter().map(|t| t as u32).collect();
        assert_eq!(found, wanted, "{text}");
    }
}

#[test]
fn forked_sequences_go_on_as_if_each_had_seen_the_prompt() {
    let (folder, json, _) = tiny();
    let m = hub_format::load(folder.path()).unwrap().model;
    let tokens: Vec<u32> = whole(&json["tokens"]);
    let (prompts, rest) = (
        [&tokens[..5], &tokens[1..3]],
        [&tokens[4..9], &tokens[2..4], &tokens[7..8]],
    );
    // Sequences 0 and 2 take a prompt each, 1 and 3 are copies; a copy's own rows leave the other as it was.
    let mut stream = m.fork(4).unwrap();
    stream.extend(&[(0, prompts[0]), (2, prompts[1])]);
    stream.fork(0, 1);
    stream.fork(2, 3);
    let entries = [(0, rest[0]), (1, rest[1]), (3, rest[2])];
    let targets: Vec<u32> = rest
        .iter()
        .flat_map(|r| r.iter().map(|t| (t + 1) % 7))
        .collect();
    let found = stream.nll(&entries, &targets);
    let mut at = 0;
    for (prompt, rest) in [
        (prompts[0], rest[0]),
        (prompts[0], rest[1]),
        (prompts[1], rest[2]),
    ] {
        let all = [prompt, rest].concat();
        let mut wanted = vec![0; prompt.len()];
        wanted.extend(&targets[at..at + rest.len()]);
        let whole = m.nll(&Batch::single(&all), &wanted);
        let x = distance(&found[at..at + rest.len()], &whole[prompt.len()..]);
        assert!(x < 1e-4, "{x}");
        at += rest.len();
    }
    assert_eq!(at, found.len());
}
