//! `forge data fetch` and `forge data check`: what the environment says, what lands, what is missing.
//!
//! The hub is one of the test's own on the loopback device; how fetching meets its faults is tested in `data`.

use crate::process::{Done, Root, end, own};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

const COMMIT: &str = "cccccccccccccccccccccccccccccccccccccccc";

/// What `git hash-object` says of [`questions`].
const BLOB: &str = "701112f34ed73a3d726fb355c38c6304ebc9262f";

/// Questions of StrategyQA's form, as a file of the hub.
fn questions() -> String {
    let line = |i: usize| {
        json!({ "qid": format!("q{i}"), "question": format!("Is {i} even?"), "answer": i.is_multiple_of(2), "facts": "Count." })
            .to_string()
            + "\n"
    };
    (0..40).map(line).collect()
}

/// A hub with StrategyQA alone; the heads of its requests.
fn hub() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let shared = Arc::clone(&heads);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while reader.read_line(&mut head).is_ok_and(|n| n > 2) {}
            let body = match head.split_whitespace().nth(1).unwrap_or_default() {
                "/api/datasets/ChilleD/StrategyQA/revision/main?blobs=true" => {
                    json!({ "sha": COMMIT, "siblings": [{ "rfilename": "train.json", "size": questions().len(),
                            "blobId": BLOB }] })
                    .to_string()
                }
                path if path == format!("/datasets/ChilleD/StrategyQA/resolve/{COMMIT}/train.json") => {
                    questions()
                }
                _ => String::new(),
            };
            shared.lock().unwrap().push(head);
            let status = if body.is_empty() {
                "404 Not Found"
            } else {
                "200 OK"
            };
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    (address, heads)
}

/// Runs the program with a hub at `address`.
fn online(root: &Root, address: &str, args: &[&str]) -> Done {
    let mut command = own(root.path());
    command
        .env_remove("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", address)
        .env("HF_TOKEN", "secret");
    end(command.arg("--root").arg(root.path()).args(args))
}

#[test]
fn what_is_fetched_is_found_by_check_and_pack() {
    let (root, (address, heads)) = (Root::new(), hub());
    let asked = online(
        &root,
        &address,
        &["data", "fetch", "strategyqa", "--dry-run", "--json"],
    );
    let asked = asked.ended(0).json();
    let size = questions().len();
    assert_eq!(asked["sets"][0]["fetched"], size);
    assert!(!root.path().join("huggingface").exists());
    let fetched = online(&root, &address, &["data", "fetch", "strategyqa", "--json"])
        .ended(0)
        .json();
    let row = &fetched["sets"][0];
    assert_eq!(
        (&row["files"], &row["fetched"]),
        (&json!(["train.json"]), &json!(size))
    );
    assert!(row["folder"].as_str().unwrap().ends_with(COMMIT));
    assert!(
        heads
            .lock()
            .unwrap()
            .iter()
            .all(|head| head.contains("Bearer secret"))
    );
    // From here on without the hub, as every other test.
    let again = root
        .forge(&["data", "fetch", "strategyqa", "--json"])
        .ended(0)
        .json();
    assert_eq!(again["sets"][0]["commit"], COMMIT);
    let sets = ["--set", "data.sets=[\"strategyqa\"]"];
    let check = root.forge(&[&["data", "check", "tiny", "--json"][..], &sets].concat());
    let check = check.ended(0).json();
    assert_eq!(check[0]["found"], "cache");
    assert_eq!(
        check[0]["official"]["train"],
        json!({ "found": 40, "published": 2061 })
    );
    assert_eq!(
        check[0]["missing"],
        "dev, all 229 records; train, 2021 of 2061 records"
    );
    let out = root.path().join("packed");
    let packed = [
        "data",
        "pack",
        "tiny",
        "--json",
        "--out",
        out.to_str().unwrap(),
    ];
    let packed = root.forge(&[&packed[..], &sets].concat()).ended(0).json();
    assert_eq!(packed["sets"][0]["documents"], 40);
}

#[test]
fn a_set_that_fails_is_named_and_the_others_are_fetched() {
    let (root, (address, _)) = (Root::new(), hub());
    let args = [
        "data",
        "fetch",
        "gsm8k",
        "strategyqa",
        "prose",
        "builtin_maths",
        "--json",
    ];
    let done = online(&root, &address, &args).ended(1);
    let sets = done.json()["sets"].clone();
    assert!(sets[0]["error"].as_str().unwrap().contains("404"));
    assert_eq!(sets[1]["error"], Value::Null);
    done.says(&[
        "gsm8k: openai/gsm8k",
        "HF_TOKEN",
        "1 of 2 data sets failed",
        "prose: not on the hub",
        "builtin_maths: built in",
    ]);
}

#[test]
fn wrong_names_and_offline_say_what_to_do() {
    let root = Root::new();
    root.forge(&["data", "fetch", "gsm8"]).ended(2).says(&[
        "gsm8 is neither",
        "hellaswag",
        "plan",
        "did you mean `gsm8k`?",
    ]);
    root.forge(&["data", "fetch", "gsm8k"])
        .ended(1)
        .says(&["not in the cache", "HF_HUB_OFFLINE"]);
    let (address, heads) = hub();
    let args = ["data", "fetch", "strategyqa", "--offline"];
    online(&root, &address, &args).ended(1).says(&["--offline"]);
    assert!(heads.lock().unwrap().is_empty());
}

#[test]
fn a_run_goes_on_without_an_optional_set_and_says_so() {
    let root = Root::new();
    let out = root.path().join("packed");
    let sets = "data.sets=[\"openwebtext\", \"builtin\"]";
    let args = [
        "data",
        "pack",
        "tiny",
        "--out",
        out.to_str().unwrap(),
        "--set",
        sets,
    ];
    let done = root.forge(&args).ended(0).says(&[
        "going on without openwebtext",
        "forge data fetch openwebtext",
    ]);
    assert!(done.out.contains("not there, and optional"), "{}", done.out);
    let check = root
        .forge(&["data", "check", "tiny", "--set", sets])
        .ended(0);
    assert!(
        check.out.contains("openwebtext (optional): all of it"),
        "{}",
        check.out
    );
}

/// The sixteen of the plan on the real files beside the checkout.
#[test]
fn the_plan_names_every_set_with_what_is_there_and_what_is_not() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/datasets");
    let Ok(data) = data.canonicalize() else {
        println!("skipped: no ../shared");
        return;
    };
    let root = Root::new();
    let place = format!("data.root={}", data.display());
    let args = ["data", "check", "plan", "--set", &place];
    let rows = root
        .forge(&[&args[..], &["--json"]].concat())
        .ended(0)
        .json();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 16 + 2 + 5);
    for row in &rows[..16] {
        let id = row["dataset"].as_str().unwrap();
        assert!(!row["licence"].as_str().unwrap().is_empty());
        let official = row["official"].as_object().unwrap();
        assert!(
            official
                .values()
                .all(|split| split["published"].as_u64().unwrap() > 0),
            "{id}"
        );
        let short = official
            .values()
            .any(|split| split["found"].as_u64() < split["published"].as_u64());
        // BoolQ has all its questions, and lacks the passages of those for training.
        let short = short || id == "boolq";
        assert_eq!(row["missing"].is_string(), short, "{id}");
        assert_eq!(row["remedy"].is_string(), short, "{id}");
        if short {
            let remedy = row["remedy"].as_str().unwrap();
            assert!(
                remedy.contains(&format!("forge data fetch {id}")),
                "{remedy}"
            );
        }
    }
    let said = root.forge(&args).ended(0).out;
    for part in [
        "hotpotqa: dev, 6905 of 7405 records; train, 90347 of 90447 records",
        "openwebtext (optional): all of it",
        "drop: train, all 77409 records",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}
