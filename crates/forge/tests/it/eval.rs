//! `forge eval` on tasks: the log-likelihoods of lm-evaluation-harness, official splits, programs and their sandbox.
//!
//! `tests/fixtures/harness.json` holds what the harness found for the first items of six tasks on stories260K, by the
//! items' ids; `bench/peers/harness.py --write-fixture` made it. The items themselves are read from where the data lie.

use crate::process::{Root, forge, undisturbed};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The published model and the folder of data sets, when they are at hand.
fn shared() -> Option<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let Ok(folder) = folder.canonicalize() else {
        eprintln!("skipped: no ../shared");
        return None;
    };
    let text = |path: PathBuf| path.to_str().unwrap().to_string();
    let model = folder.join("models/stories260K/stories260K.bin");
    Some((
        text(model),
        format!("data.root={}", text(folder.join("datasets"))),
    ))
}

/// A data root with one data set of a few records.
fn data_root(root: &Root, files: &[(&str, &str)]) -> String {
    for (name, text) in files {
        let path = root.path().join("data").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    format!("data.root={}", root.path().join("data").display())
}

fn metric<'a>(result: &'a Value, task: &str, name: &str) -> &'a Value {
    let metrics = result["tasks"][task]["metrics"].as_array().unwrap();
    metrics
        .iter()
        .find(|m| m["metric"] == name)
        .unwrap_or_else(|| panic!("{task} has no {name}: {result}"))
}

#[test]
fn log_likelihoods_are_those_of_the_harness() {
    let Some((model, data)) = shared() else {
        return;
    };
    let root = Root::new();
    let samples = root.path().join("samples.jsonl");
    let made: Value = serde_json::from_str(include_str!("../fixtures/harness.json")).unwrap();
    for (task, rows) in made.as_object().unwrap() {
        let rows = rows.as_array().unwrap();
        let items = rows.len().to_string();
        let args = [
            "eval",
            &model,
            "--task",
            task,
            "--items",
            &items,
            "--samples",
            samples.to_str().unwrap(),
            "--set",
            &data,
            "--json",
        ];
        let result = root.forge(&args).ended(0).json();
        assert_eq!(result["tasks"][task]["n"], rows.len());
        let lines = std::fs::read_to_string(&samples).unwrap();
        let lines: Vec<Value> = lines
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines.len(), rows.len(), "{task}");
        for (line, row) in lines.iter().zip(rows) {
            assert_eq!(line["id"], row["id"], "{task}");
            let ours: Vec<f64> = match line["options"].as_array() {
                Some(options) => options
                    .iter()
                    .map(|o| o["log_likelihood"].as_f64().unwrap())
                    .collect(),
                None => vec![line["log_likelihood"].as_f64().unwrap()],
            };
            let theirs: Vec<f64> = row["log_likelihoods"]
                .as_array()
                .unwrap()
                .iter()
                .map(|x| x.as_f64().unwrap())
                .collect();
            assert_eq!(ours.len(), theirs.len());
            for (a, b) in ours.iter().zip(&theirs) {
                // Theirs are sums in fp32, over thousands of tokens for a page.
                assert!(
                    (a - b).abs() < 1e-5 * b.abs().max(20.0),
                    "{task} {}: {a}, the harness has {b}",
                    row["id"]
                );
            }
        }
    }
}

#[test]
fn a_task_is_its_official_split_with_its_error_and_its_chance() {
    let Some((model, _)) = shared() else { return };
    let root = Root::new();
    let record = |id: usize, key: &str| {
        format!(
            r#"{{"id": "q{id}", "question": {{"stem": "What is it {id}?", "choices": [{{"text": "a dog", "label": "A"}}, {{"text": "a cat", "label": "B"}}]}}, "answerKey": "{key}"}}"#
        )
    };
    let file = |ids: std::ops::Range<usize>| {
        ids.map(|i| record(i, ["A", "B"][i % 2]))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let data = data_root(
        &root,
        &[
            ("arc_easy/test.jsonl", &file(0..7)),
            ("arc_easy/dev.jsonl", &file(10..13)),
            (
                "wikitext2/wiki.test.tokens",
                " \n = One = \n \n Once upon a time , there was a cat . \n \n = Two = \n \n A dog ran . \n",
            ),
        ],
    );
    let args = ["eval", &model, "--task", "all", "--set", &data, "--json"];
    let result = root.forge(&args).ended(0).json();
    let arc = &result["tasks"]["arc_easy"];
    assert_eq!((&arc["n"], &arc["split"]), (&7.into(), &"test".into()));
    let acc = metric(&result, "arc_easy", "acc");
    let (p, error) = (
        acc["value"].as_f64().unwrap(),
        acc["stderr"].as_f64().unwrap(),
    );
    assert!(
        (error - (p * (1.0 - p) / 6.0).sqrt()).abs() < 1e-12,
        "{acc}"
    );
    assert_eq!(acc["chance"], 0.5);
    assert_eq!(result["tasks"]["wikitext"]["n"], 2);
    for name in ["bits_per_byte", "word_perplexity"] {
        let metric = metric(&result, "wikitext", name);
        assert!(
            metric["value"].as_f64().unwrap() > 0.0 && metric["stderr"].as_f64().unwrap() > 0.0,
            "{metric}"
        );
    }
    // What is not at hand is named with the way to get it, and no figure stands for it.
    let gsm8k = &result["tasks"]["gsm8k"];
    assert_eq!(gsm8k["n"], 0);
    assert!(
        gsm8k["missing"]
            .as_str()
            .unwrap()
            .contains("forge data fetch gsm8k"),
        "{gsm8k}"
    );
    root.forge(&["eval", &model, "--task", "gsm8k", "--set", &data])
        .ended(2)
        .says(&["forge data fetch gsm8k"]);
    let shown = root
        .forge(&["eval", &model, "--task", "arc_easy", "--set", &data])
        .ended(0)
        .out;
    for word in ["acc_norm", "stderr", "chance", "test"] {
        assert!(shown.contains(word), "{shown}");
    }
}

#[test]
fn reading_is_scored_by_words_and_written_answers_by_value() {
    let Some((model, _)) = shared() else { return };
    let root = Root::new();
    let passage = r#"{"context": "Passage: Lily had a red ball.\nQuestion: What did Lily have?\nAnswer:", "ref_text": "a red ball|ball"}"#;
    let data = data_root(
        &root,
        &[
            ("drop/drop_v0_dev.jsonl", passage),
            (
                "gsm8k/test.jsonl",
                "{\"question\": \"One and one?\", \"answer\": \"1 + 1 = 2\\n#### 2\"}",
            ),
        ],
    );
    let args = [
        "eval", &model, "--task", "drop", "--task", "gsm8k", "--set", &data, "--json",
    ];
    let result = root.forge(&args).ended(0).json();
    assert!(metric(&result, "drop", "f1")["value"].is_number());
    assert!(metric(&result, "drop", "exact_match")["value"].is_number());
    let exact = metric(&result, "gsm8k", "exact_match");
    // One item has no standard error.
    assert!(exact["value"].is_number() && exact["stderr"].is_null() && exact["chance"].is_null());
    assert!(result["tasks"]["gsm8k"]["no_answer"].is_number());
}

#[test]
#[cfg(unix)]
fn programs_run_only_in_a_sandbox_that_is_named_and_that_works() {
    let Some((model, _)) = shared() else { return };
    let root = Root::new();
    let record = r#"{"text": "Write f.", "code": "def f(): pass", "task_id": 11, "test_setup_code": "", "test_list": ["assert f() == 1"]}"#;
    let data = data_root(&root, &[("mbpp/mbpp.jsonl", record)]);
    let mut args = vec!["eval", &model, "--task", "mbpp", "--set", &data, "--json"];
    let result = root.forge(&args).ended(0).json();
    let pass = metric(&result, "mbpp", "pass@1");
    assert!(
        pass["value"].is_null() && pass["reason"].as_str().unwrap().contains("sandbox"),
        "{pass}"
    );
    assert_eq!(result["tasks"]["mbpp"]["n"], 1);
    // It runs nothing: a program passes when it does not say 3.
    let seen = root.path().join("seen");
    let judge = format!("tee -a '{}' | (! grep -q 3)", seen.display());
    args.extend(["--sandbox", &judge]);
    let result = root.forge(&args).ended(0).json();
    assert_eq!(metric(&result, "mbpp", "pass@1")["value"], 1.0);
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.ends_with("assert f() == 1\n"), "{seen}");
    for (command, fault) in [
        ("true", "it accepts `assert 1 + 1 == 3`"),
        ("false", "it rejects"),
        ("no-such-program", "it rejects"),
    ] {
        root.forge(&[
            "eval",
            &model,
            "--task",
            "mbpp",
            "--set",
            &data,
            "--sandbox",
            command,
        ])
        .ended(2)
        .says(&[fault]);
    }
}

#[test]
fn the_model_of_a_run_is_asked_what_its_run_held_out() {
    let runs = undisturbed(1);
    let args = ["eval", "whole", "--task", "builtin_qa", "--json"];
    let own = forge(&runs, &args).ended(0).json();
    assert_eq!(own["tasks"]["builtin_qa"]["split"], "held_out");
    let whole = forge(
        &runs,
        &[&args[..], &["--official", "--items", "5"]].concat(),
    )
    .ended(0)
    .json();
    assert_eq!(whole["tasks"]["builtin_qa"]["n"], 5);
}
