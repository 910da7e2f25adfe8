//! Data files that are missing, cut off or wrong: named with place and remedy, and no run is left behind.

use crate::process::Root;
use std::path::Path;

fn lines(n: usize) -> String {
    (0..n)
        .map(|i| format!("{{\"question\": \"How much is {i} and 1?\", \"answer\": \"It is {}.\\n#### {}\"}}\n", i + 1, i + 1))
        .collect()
}

fn gsm8k(root: &Root, train: &str) -> String {
    let folder = root.path().join("texts/gsm8k");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("train.jsonl"), train).unwrap();
    std::fs::write(folder.join("test.jsonl"), lines(30)).unwrap();
    format!("data.root={}", root.path().join("texts").display())
}

fn refused(root: &Root, data_root: &str, code: i32, parts: &[&str]) {
    let sets = [
        "--set",
        "data.sets=[\"gsm8k\", \"builtin\"]",
        "--set",
        data_root,
    ];
    root.run("bad", &sets).ended(code).says(parts);
    assert!(
        !root.run_dir("bad").exists(),
        "the name is taken by a run that never began"
    );
}

#[test]
fn a_missing_data_set_names_the_folder_and_the_remedy() {
    let root = Root::new();
    let nowhere = format!("data.root={}", root.path().join("nowhere").display());
    refused(&root, &nowhere, 2, &["gsm8k", "nowhere", "data.root"]);
    let unset = ["--set", "data.sets=[\"gsm8k\"]"];
    root.run("bad", &unset)
        .ended(2)
        .says(&["data.root", "--set data.root=DIR"]);
}

#[test]
fn an_unknown_data_set_suggests_the_nearest() {
    let root = Root::new();
    root.run(
        "bad",
        &["--set", "data.sets=[\"gsm8\"]", "--set", "data.root=."],
    )
    .ended(2)
    .says(&["gsm8", "did you mean `gsm8k`?"]);
}

#[test]
fn a_truncated_file_names_the_line() {
    let root = Root::new();
    let whole = lines(40);
    let data_root = gsm8k(&root, &whole[..whole.len() - 30]);
    refused(&root, &data_root, 1, &["train.jsonl", "line 40"]);
}

#[test]
fn a_record_without_its_field_names_line_and_field() {
    let root = Root::new();
    let train = lines(10) + "{\"question\": \"How much is 3 and 1?\", \"solution\": \"4\"}\n";
    let data_root = gsm8k(&root, &train);
    refused(
        &root,
        &data_root,
        1,
        &["train.jsonl", "line 11", "`answer`"],
    );
    // `data check` says the same before anything starts.
    let sets = [
        "data",
        "check",
        "tiny",
        "--json",
        "--set",
        "data.sets=[\"gsm8k\"]",
        "--set",
        &data_root,
    ];
    let checked = root.forge(&sets).ended(1).json();
    assert_eq!(checked[0]["found"], "missing");
    assert!(
        checked[0]["note"].as_str().unwrap().contains("line 11"),
        "{checked}"
    );
}

#[test]
fn a_folder_of_own_text_joins_the_run() {
    let root = Root::new();
    let folder = root.path().join("letters");
    std::fs::create_dir_all(&folder).unwrap();
    for i in 0..30 {
        std::fs::write(
            folder.join(format!("{i}.txt")),
            format!("Letter {i}. The weather was fine on day {i}.\n"),
        )
        .unwrap();
    }
    let out = root.path().join("packed");
    let report = root
        .run(
            "own",
            &[
                "--until",
                "cognate",
                "--json",
                "--data",
                folder.to_str().unwrap(),
            ],
        )
        .ended(0)
        .json();
    let sets: Vec<&str> = report["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|u| u["dataset"].as_str())
        .collect();
    assert!(sets.contains(&"own_text"), "{sets:?}");
    assert!(!Path::new(&out).exists());
    root.run("nowhere", &["--data", "no-such-folder"])
        .ended(2)
        .says(&["--data no-such-folder"]);
}

#[test]
fn all_data_sets_that_are_missing_are_named_at_once() {
    let root = Root::new();
    let sets = ["--set", "data.sets=[\"gsm8k\", \"svamp\", \"builtin\"]"];
    let nowhere = format!("data.root={}", root.path().join("nowhere").display());
    root.run("bad", &[&sets[..], &["--set", &nowhere]].concat())
        .ended(2)
        .says(&["2 data sets", "forge data fetch gsm8k svamp", "`svamp`"]);
    assert!(!root.run_dir("bad").exists());
}

#[test]
fn what_a_run_does_without_is_an_alert_of_its_report() {
    let root = Root::new();
    let sets = "data.sets=[\"openwebtext\", \"builtin_maths\", \"builtin_language\"]";
    let args = ["--until", "cognate", "--json", "--set", sets];
    let report = root.run("without", &args).ended(0).json();
    let alerts = report["alerts"].as_array().unwrap();
    let about = |detector: &str| -> Vec<&str> {
        let of = alerts.iter().filter(|a| a["detector"] == detector);
        of.map(|a| a["branch"].as_str().unwrap()).collect()
    };
    assert_eq!(about("dataset-unavailable"), ["openwebtext"]);
    let families = ["code", "qa", "commonsense"];
    assert_eq!(about("family-without-text"), families);
    // What was there was gone through, and the report says how often.
    for model in report["phases"]["cognate"]["models"].as_array().unwrap() {
        let epochs = model["epochs"].as_object().unwrap();
        assert_eq!(epochs.len(), 2, "{epochs:?}");
        assert!(epochs.values().all(|e| e.as_f64().unwrap() > 0.0));
    }
}
