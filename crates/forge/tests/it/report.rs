//! The fields that scripts rely on are there, and no number is missing by being NaN.

use crate::process::{Root, forge, undisturbed};
use serde_json::Value;

const MODEL: &[&str] = &[
    "name",
    "path",
    "params",
    "bytes",
    "size_category",
    "vocab",
    "bits_per_byte",
    "perplexity",
    "halting_steps",
    "memory_use",
    "forward_ms",
    "decode_tokens_per_second",
    "peak_memory_bytes",
    "seconds",
    "tasks",
];

#[track_caller]
fn has(value: &Value, place: &str, fields: &[&str]) {
    for field in fields {
        assert!(
            value.get(field).is_some(),
            "{place} has no `{field}`: {value}"
        );
    }
}

/// NaN becomes null in JSON, so a number that must be measured may not be null.
#[track_caller]
fn measured(value: &Value, place: &str, fields: &[&str]) {
    for field in fields {
        let x = value[field].as_f64();
        assert!(
            x.is_some_and(f64::is_finite),
            "{place}.{field} is {}",
            value[field]
        );
    }
}

fn model(value: &Value, place: &str) {
    has(value, place, MODEL);
    let numbers = [
        "params",
        "bytes",
        "vocab",
        "bits_per_byte",
        "perplexity",
        "halting_steps",
        "forward_ms",
        "decode_tokens_per_second",
        "peak_memory_bytes",
    ];
    measured(value, place, &numbers);
    assert!(
        !value["tasks"].as_object().unwrap().is_empty(),
        "{place} has no tasks"
    );
}

#[test]
fn the_report_has_the_fields_that_scripts_rely_on() {
    let report = forge(&undisturbed(1), &["report", "whole", "--json"])
        .ended(0)
        .json();
    has(
        &report,
        "report",
        &[
            "run",
            "recipe",
            "state",
            "seed",
            "revision",
            "isa",
            "threads",
            "seconds",
            "storage_bytes",
            "alerts",
            "phases",
            "criteria",
        ],
    );
    assert_eq!(report["state"], "done");
    assert_eq!(report["seed"], 42);
    measured(&report, "report", &["seconds", "storage_bytes", "threads"]);
    for c in report["criteria"].as_array().unwrap() {
        has(
            c,
            "a criterion",
            &["phase", "name", "target", "value", "met"],
        );
    }
    let p = &report["phases"];
    let c = &p["cognate"];
    measured(c, "cognate", &["seconds", "tokens", "samples"]);
    model(&c["ancestor"], "ancestor");
    assert_eq!(c["models"].as_array().unwrap().len(), 3);
    for m in c["models"].as_array().unwrap() {
        model(m, "a specialist");
    }
    measured(
        &c["diversity"],
        "diversity",
        &["halting", "memory", "speed"],
    );
    for b in c["barriers"].as_array().unwrap() {
        has(b, "a barrier", &["a", "b", "nats"]);
    }
    let e = &p["evomerge"];
    measured(
        e,
        "evomerge",
        &[
            "seconds",
            "generations",
            "evaluations",
            "scored_items",
            "cache_hits",
            "cache_hit_rate",
            "fitness",
        ],
    );
    has(
        e,
        "evomerge",
        &[
            "combo",
            "improvement",
            "held_out",
            "combos",
            "diversity",
            "rejected",
            "search",
            "rounds",
        ],
    );
    measured(&e["racing"], "racing", &["saved", "audited"]);
    model(&e["champion"], "champion");
    measured(
        &e["improvement"],
        "improvement",
        &["over_mean_parent", "over_best_parent"],
    );
    has(
        &e["held_out"],
        "held_out",
        &[
            "champion",
            "best_parent",
            "task_arithmetic",
            "random_search",
            "pooled_compute",
            "stderr",
        ],
    );
    measured(&e["held_out"], "held_out", &["champion", "ancestor"]);
    assert_eq!(e["combos"].as_object().unwrap().len(), 8);
    measured(&e["diversity"], "diversity", &["min", "mean"]);
    let q = &p["quietstar"];
    measured(
        q,
        "quietstar",
        &[
            "seconds",
            "tokens_added",
            "size_increase",
            "traces",
            "cost_usd",
        ],
    );
    model(&q["model"], "the thinking model");
    has(
        &q["baking"],
        "baking",
        &[
            "accuracy",
            "answer_accuracy",
            "answer_accuracy_without_thinking",
            "by_strategy",
        ],
    );
    has(
        &q["rl"],
        "rl",
        &[
            "steps",
            "reward",
            "kl",
            "thoughts",
            "thought_length",
            "coherence",
            "thinking_usage",
            "ms_per_token_with",
            "ms_per_token_without",
        ],
    );
    if q["anti_theater"].is_object() {
        has(
            &q["anti_theater"],
            "anti_theater",
            &[
                "divergence",
                "thought_length",
                "diversity",
                "ablation_drop",
                "correlation",
                "shuffle_gain",
                "passed",
            ],
        );
    }
    let b = &p["bitnet"];
    measured(
        &b["seconds"],
        "bitnet.seconds",
        &["calibration", "compression", "fine_tuning"],
    );
    model(&b["model"], "the packed model");
    measured(
        b,
        "bitnet",
        &[
            "file_bytes",
            "compression_fp32",
            "compression_fp16",
            "sparsity",
            "zero_count",
            "quantised_params",
            "kept_params",
            "bits_per_byte_before",
            "bits_per_byte_after",
            "decode_speedup",
        ],
    );
    has(
        b,
        "bitnet",
        &[
            "accuracy_before",
            "accuracy_after",
            "accuracy_drop",
            "thinking_usage_before",
            "thinking_usage_after",
            "reverted_layers",
        ],
    );
}

#[test]
fn the_report_for_people_ends_in_what_to_type_next() {
    let report = forge(&undisturbed(1), &["report", "whole"]).ended(0);
    for part in [
        "1 cognate",
        "2 evomerge",
        "3 quietstar",
        "4 bitnet",
        "bits/byte",
        "search (cma-es): 1 generations",
        ", ancestor ",
        "forge chat whole/bitnet",
    ] {
        assert!(
            report.out.contains(part),
            "`{part}` is not in: {}",
            report.out
        );
    }
}

#[test]
fn a_run_reproduces_from_its_recipe_and_seed() {
    let again = forge(&undisturbed(1), &["reproduce", "whole", "--json"])
        .ended(0)
        .json();
    assert_eq!(again["equal"], true);
    let files = again["files"].as_array().unwrap();
    for part in ["tokenizer.json", "champion", "model.packed"] {
        assert!(
            files
                .iter()
                .any(|f| f["file"].as_str().unwrap().contains(part)),
            "{part} was not compared"
        );
    }
}

#[test]
fn searches_are_compared_at_equal_items_on_the_parents_of_a_run() {
    let args = "bench search whole --seeds 2 --items 60 --audit 4 --json";
    let args: Vec<&str> = args.split(' ').collect();
    let result = forge(&undisturbed(1), &args).ended(0).json();
    let searches = result["searches"].as_array().unwrap();
    let names: Vec<_> = searches.iter().map(|s| &s["search"]).collect();
    assert_eq!(names, ["evolution", "cma-es", "random", "arithmetic"]);
    for search in searches {
        has(search, "a search", &["rank_correlation", "saved"]);
        measured(&search["held_out_fitness"], "fitness", &["mean", "stderr"]);
        measured(&search["nats_difference"], "nats", &["mean", "stderr"]);
        let seeds = search["seeds"].as_array().unwrap();
        assert_eq!(seeds.len(), 2);
        for seed in seeds {
            let items = seed["scored_items"].as_u64().unwrap();
            // A generation is done to its end; the sweep takes as many whole lambdas as fit.
            assert!((50..90).contains(&items), "{seed}");
        }
    }
}

#[test]
fn a_learning_curve_trains_variants_of_equal_size_on_the_data_of_a_run() {
    let args = "bench curve whole --variant plain --variant memory --tokens 600 --points 2 --bytes 500 --json";
    let args: Vec<&str> = args.split(' ').collect();
    let result = forge(&undisturbed(1), &args).ended(0).json();
    let curves = result["curves"].as_array().unwrap();
    let parameters = |i: usize| curves[i]["parameters"].as_f64().unwrap();
    assert!((parameters(0) / parameters(1) - 1.0).abs() < 0.02);
    for curve in curves {
        let points = curve["points"].as_array().unwrap();
        assert_eq!(points.len(), 2);
        for field in ["tokens", "seconds", "flops"] {
            let at = |i: usize| points[i][field].as_f64().unwrap();
            assert!(at(1) > at(0) && at(0) > 0.0, "{field}");
        }
        measured(&points[1], "point", &["bits_per_byte", "mean_over_sets"]);
    }
    for wrong in [
        "--points 0",
        "--seconds 0",
        "--measure nowhere",
        "--export out",
        "--from whole/evomerge --variant all",
        "--from nowhere",
    ] {
        let args = ["bench", "curve", "whole"].into_iter();
        let args: Vec<&str> = args.chain(wrong.split(' ')).collect();
        forge(&undisturbed(1), &args).ended(2);
    }
}

#[test]
fn a_models_training_goes_on_from_where_it_stands() {
    let args =
        "bench curve whole --from whole/evomerge --tokens 3000 --points 2 --bytes 3000 --json";
    let args: Vec<&str> = args.split(' ').collect();
    let curve = forge(&undisturbed(1), &args).ended(0).json()["curves"][0].clone();
    let points = curve["points"].as_array().unwrap();
    let at = |i: usize, field: &str| points[i][field].as_f64().unwrap();
    assert_eq!((points.len(), at(0, "tokens")), (3, 0.0));
    assert!(at(1, "tokens") > 0.0 && at(2, "tokens") > at(1, "tokens"));
    // It knows what a new model does not after its first step, and learns more.
    let (first, last) = (at(0, "bits_per_byte"), at(2, "bits_per_byte"));
    assert!(last < first, "{first} {last}");
    let fresh = "bench curve whole --variant all --tokens 500 --points 1 --bytes 3000 --json";
    let fresh: Vec<&str> = fresh.split(' ').collect();
    let fresh = forge(&undisturbed(1), &fresh).ended(0).json()["curves"][0]["points"][0].clone();
    assert!(fresh["bits_per_byte"].as_f64().unwrap() > first, "{fresh}");
}

#[test]
fn a_learning_curve_leaves_what_another_program_needs_to_train_the_same() {
    let root = undisturbed(1);
    let dir = root.join("exported");
    let dir_text = dir.to_str().unwrap();
    let args =
        "bench curve whole --variant plain --tokens 3000 --seconds 0.000001 --points 1 --bytes 500";
    let args =
        args.split(' ')
            .chain(["--measure", "builtin_maths", "--json", "--export", dir_text]);
    let args: Vec<&str> = args.collect();
    let curve = forge(&root, &args).ended(0).json()["curves"][0].clone();
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let config = json(&read("config.json"));
    assert_eq!(config["ffn"], curve["ffn"]);
    // One step was taken, and as many batches dealt as the tokens asked for; the first is what it was taken on.
    let point = &curve["points"][0];
    assert_eq!(point["step"], 1);
    let batches: Vec<_> = read("batches.jsonl").lines().map(json).collect();
    assert!(batches.len() > 1);
    let scored = |piece: &serde_json::Value| {
        let length = |key: &str| piece[key].as_array().unwrap().len();
        length("tokens") - 1 - length("unscored")
    };
    let pieces = batches[0].as_array().unwrap().iter();
    assert_eq!(point["tokens"], pieces.map(scored).sum::<usize>());
    let texts = json(&read("held_out.json"))["texts"]
        .as_array()
        .unwrap()
        .clone();
    assert!(!texts.is_empty() && texts.iter().all(|t| t["dataset"] == "builtin_maths"));
    assert!(texts.iter().all(|t| t["tokens"][0] == 0));
    let weights = |name: &str| std::fs::read(dir.join(name)).unwrap();
    assert_ne!(weights("start.safetensors"), weights("end.safetensors"));
}

#[test]
fn recall_asks_models_with_and_without_memory_on_longer_and_longer_texts() {
    let args = "bench recall whole --tokens 600 --texts 2 --length 8 --length 24 --json";
    let args: Vec<&str> = args.split(' ').collect();
    let result = forge(&undisturbed(1), &args).ended(0).json();
    let models = result["models"].as_array().unwrap();
    let conditions = [
        &["facts first", "others' facts"][..],
        &["facts first", "others' facts", "no writes"],
    ];
    for (model, conditions) in models.iter().zip(conditions) {
        let lengths = model["lengths"].as_array().unwrap();
        let tokens = |i: usize| lengths[i]["tokens_a_text"].as_f64().unwrap();
        assert!((2.0..4.0).contains(&(tokens(1) / tokens(0))));
        for length in lengths {
            let answers = length["answers"].as_array().unwrap();
            let named: Vec<_> = answers.iter().map(|a| a["condition"].clone()).collect();
            assert_eq!(named, conditions);
            let nats: Vec<f64> = answers
                .iter()
                .map(|a| a["nats"].as_f64().unwrap())
                .collect();
            assert!(nats.iter().all(|n| *n > 0.0), "{nats:?}");
            // What lies further back than windows reach, only a memory can tell.
            if model["variant"] == "memory" {
                assert!(nats.windows(2).all(|w| w[0] != w[1]), "{nats:?}");
            }
        }
    }
    let refused = ["bench", "recall", "whole", "--facts", "13"];
    forge(&undisturbed(1), &refused).ended(2).says(&["--facts"]);
}

#[test]
fn the_champion_stands_beside_one_model_with_the_compute_of_all_parents() {
    let root = Root::new();
    let pooled = ["--until", "evomerge", "--set", "cognate.pooled=true"];
    let done = root.run("pooled", &pooled).ended(0);
    let line = "one model with the compute of all parents ";
    assert!(done.out.contains(line), "{}", done.out);
    let report = root.forge(&["report", "pooled", "--json"]).ended(0).json();
    let held_out = &report["phases"]["evomerge"]["held_out"];
    measured(held_out, "held_out", &["pooled_compute", "ancestor"]);
}
