//! The other commands, on the models of a finished run and on foreign ones.

use crate::process::{Root, assert_same, finals, forge, forge_on, undisturbed};
use serde_json::Value;
use std::path::{Path, PathBuf};

#[test]
fn eval_scores_a_final_model_on_its_own_held_out_data() {
    let root = undisturbed(1);
    let result = forge(&root, &["eval", "whole/evomerge", "--json"])
        .ended(0)
        .json();
    let report = forge(&root, &["report", "whole", "--json"]).ended(0).json();
    let told = &report["phases"]["evomerge"]["champion"];
    assert_eq!(result["bits_per_byte"], told["bits_per_byte"]);
    for (task, accuracy) in told["tasks"].as_object().unwrap() {
        let metrics = result["tasks"][task]["metrics"].as_array().unwrap();
        let same = metrics.iter().find(|m| {
            ["acc_norm", "exact_match"]
                .map(Value::from)
                .contains(&m["metric"])
        });
        assert_eq!(&same.unwrap()["value"], accuracy, "{task}");
    }
    for task in result["tasks"].as_object().unwrap().values() {
        assert!(
            task["n"].as_u64().unwrap() > 0 && task["seconds"].is_number(),
            "{task}"
        );
    }
    // What `auto` meant is fixed in the run.
    let header = std::fs::read(root.join("runs/whole/recipe.json")).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    let precision = header["recipe"]["precision"].as_str().unwrap();
    assert!(["f32", "bf16"].contains(&precision), "{precision}");
}

#[test]
fn eval_scores_texts_and_tasks() {
    let root = Root::new();
    let text = root.path().join("text.txt");
    std::fs::write(&text, "One day the sun was warm and the cat slept.").unwrap();
    let runs = undisturbed(1);
    let args = [
        "eval",
        "whole",
        "--text",
        text.to_str().unwrap(),
        "--task",
        "builtin_maths",
        "--json",
    ];
    let result = forge(&runs, &args).ended(0).json();
    assert_eq!(result["bytes"], 43);
    for field in [
        "tokens",
        "nll_per_token",
        "bits_per_byte",
        "word_perplexity",
    ] {
        assert!(result[field].as_f64().is_some_and(|x| x > 0.0), "{field}");
    }
    let maths = &result["tasks"]["builtin_maths"];
    for field in ["n", "no_answer", "seconds"] {
        assert!(maths[field].is_number(), "{field}");
    }
    let exact = &maths["metrics"][0];
    assert_eq!(exact["metric"], "exact_match");
    assert!(
        exact["value"].is_number() && exact["stderr"].is_number(),
        "{exact}"
    );
    forge(&runs, &["eval", "whole", "--task", "bultin_maths"])
        .ended(2)
        .says(&["did you mean `builtin_maths`?"]);
    forge(&runs, &["eval", "whole", "--task", "gsm8k"])
        .ended(2)
        .says(&["data.root"]);
    forge(&runs, &["eval", "whole", "--text", "nowhere.txt"])
        .ended(2)
        .says(&["nowhere.txt"]);
}

#[test]
fn generate_is_the_same_for_the_same_seed() {
    let root = undisturbed(1);
    let made = |seed: &str| {
        let args = [
            "generate",
            "whole/cognate/memory",
            "--prompt",
            "The",
            "--temperature",
            "1",
            "--most",
            "12",
            "--seed",
            seed,
            "--json",
        ];
        forge(&root, &args).ended(0).json()
    };
    let (a, b, c) = (made("1"), made("1"), made("2"));
    assert_eq!(a["text"], b["text"]);
    assert_ne!(a["text"], c["text"]);
    assert!(a["tokens"].as_u64().unwrap() <= 12);
    forge(
        &root,
        &["generate", "whole", "--prompt", "x", "--top-p", "0"],
    )
    .ended(2)
    .says(&["--top-p"]);
}

#[test]
fn silent_thoughts_are_for_models_that_have_them() {
    let root = undisturbed(1);
    let args = [
        "--prompt",
        "The",
        "--most",
        "6",
        "--thoughts",
        "2",
        "--thought-length",
        "3",
        "--json",
    ];
    let made = |model| forge(&root, &[&["generate", model][..], &args].concat());
    let thought = made("whole/quietstar").ended(0).json();
    assert!(thought["tokens"].as_u64().unwrap() <= 6);
    assert_eq!(thought["text"], made("whole/quietstar").json()["text"]);
    made("whole/cognate/speed")
        .ended(2)
        .says(&["no mixing head"]);
}

#[test]
fn the_packed_model_decodes_and_reads_fewer_bytes() {
    let root = undisturbed(1);
    let speed = |model: &str| {
        forge(
            &root,
            &[
                "bench", "decode", model, "--prompt", "8", "--new", "8", "--json",
            ],
        )
        .ended(0)
        .json()
    };
    let (packed, full) = (speed("whole/bitnet"), speed("whole/quietstar"));
    for field in [
        "prompt_tokens_per_second",
        "decode_tokens_per_second",
        "bytes_read_per_token",
    ] {
        assert!(packed[field].as_f64().is_some_and(|x| x > 0.0), "{field}");
    }
    assert!(packed["bytes_read_per_token"].as_f64() < full["bytes_read_per_token"].as_f64());
}

#[test]
fn a_plan_names_each_phase_with_its_figures() {
    let root = Root::new();
    let plan = root.forge(&["plan", "tiny", "--json"]).ended(0).json();
    let phases = plan["phases"].as_array().unwrap();
    let names: Vec<&str> = phases.iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(names, ["cognate", "evomerge", "quietstar", "bitnet"]);
    for p in phases {
        for field in [
            "params",
            "disk_bytes",
            "peak_memory_bytes",
            "tokens",
            "seconds",
            "cost_usd",
        ] {
            assert!(p[field].is_number(), "{field} of {p}");
        }
    }
    // Phase 2 takes no gradient steps.
    let rows = phases.iter().map(|p| p["micro_batch_rows"].is_number());
    assert_eq!(rows.collect::<Vec<_>>(), [true, false, true, true]);
    assert_eq!(plan["warnings"], serde_json::json!([]));
    assert!(plan["seconds_elsewhere"].is_null());
    assert!(!root.path().join("runs").exists(), "a plan starts nothing");
}

#[test]
fn a_plan_says_what_the_work_takes_elsewhere() {
    let root = Root::new();
    let args = ["plan", "tiny", "--tflops", "0.5", "--json"];
    let plan = root.forge(&args).ended(0).json();
    let phases = plan["phases"].as_array().unwrap();
    let of = |p: &serde_json::Value, field: &str| p[field].as_f64().unwrap();
    let sum: f64 = phases.iter().map(|p| of(p, "flops")).sum();
    assert!((of(&plan, "flops") / sum - 1.0).abs() < 1e-9, "{plan}");
    for p in phases.iter().chain([&plan]) {
        let there = of(p, "flops") / 0.5e12;
        assert!(
            (of(p, "seconds_elsewhere") / there - 1.0).abs() < 1e-9,
            "{p}"
        );
    }
    // Two operations a parameter and token forward, twice as many backward: tokens look some of the parameters up
    // instead of multiplying by them, and pass through the core up to twice.
    let each = of(&phases[0], "flops") / of(&phases[0], "tokens") / of(&phases[0], "params");
    assert!((3.0..12.0).contains(&each), "{each}");
    let text = root.forge(&["plan", "tiny", "--tflops", "0.5"]).ended(0);
    assert!(text.out.contains("at 0.5 TFLOP/s"), "{}", text.out);
    for wrong in ["0", "-3", "fast", "inf"] {
        let wrong = format!("--tflops={wrong}");
        root.forge(&["plan", "tiny", &wrong])
            .ended(2)
            .says(&["--tflops", "above 0"]);
    }
}

#[test]
fn one_phase_alone_begins_from_the_models_of_a_run() {
    let root = Root::new();
    let whole = undisturbed(1);
    // The run is copied, so that the new one stands beside it.
    copy(&whole.join("runs/whole"), &root.run_dir("whole"));
    root.forge(&["bitnet", "--from", "whole"]).ended(0);
    let again = finals(&root.run_dir("whole-bitnet"));
    let packed = "phase4-bitnet/final/model.packed.safetensors";
    assert_eq!(
        again[packed],
        root.finals("whole")[packed],
        "the phase alone differs from the phase in the run"
    );
    root.forge(&["bitnet", "--from", "whole/cognate/speed", "--run", "small"])
        .ended(0);
    assert!(root.run_dir("small").join(packed).is_file());
    root.forge(&[
        "evomerge", "--from", "whole", "--set", "seed=3", "--run", "other",
    ])
    .ended(0);
    assert_ne!(
        root.finals("other")["phase2-evomerge/final/champion.safetensors"],
        root.finals("whole")["phase2-evomerge/final/champion.safetensors"]
    );
    root.forge(&["bitnet", "--from", "nothing"])
        .ended(2)
        .says(&["no run `nothing`"]);
    let again = root
        .forge(&["reproduce", "small", "--json"])
        .ended(0)
        .json();
    assert_eq!(again["equal"], true);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn phase_one_alone_goes_on_to_the_rest_when_asked() {
    let root = Root::new();
    root.run("first", &["--until", "cognate"]).ended(0);
    assert!(!root.run_dir("first").join("phase2-evomerge/final").exists());
    root.forge(&["resume", "first", "--until", "evomerge"])
        .ended(0);
    let whole = finals(&undisturbed(1).join("runs/whole"));
    let first = root.finals("first");
    let part = whole
        .into_iter()
        .filter(|(name, _)| first.contains_key(name))
        .collect();
    assert_same(&part, &first);
    assert!(first.contains_key("phase2-evomerge/final/champion.safetensors"));
}

#[test]
fn a_tokenizer_is_learned_and_spells_any_text() {
    let root = Root::new();
    let (text, file) = (
        root.path().join("t.txt"),
        root.path().join("tokenizer.json"),
    );
    std::fs::write(&text, "the cat and the hat and the bat ".repeat(40)).unwrap();
    let (text, file) = (text.to_str().unwrap(), file.to_str().unwrap());
    let made = root
        .forge(&[
            "tokenizer",
            "train",
            file,
            "--text",
            text,
            "--vocab",
            "270",
            "--json",
        ])
        .ended(0)
        .json();
    assert_eq!(made["vocab"], 270);
    let cut = root
        .forge(&["tokenizer", "encode", file, "the cat \u{e9}", "--json"])
        .ended(0)
        .json();
    assert_eq!(cut["bytes"], 10);
    assert!(cut["tokens"].as_u64().unwrap() < 10);
    root.forge(&["tokenizer", "train", file, "--text", text, "--vocab", "20"])
        .ended(2)
        .says(&["257"]);
}

#[test]
fn data_is_listed_checked_and_packed() {
    let root = Root::new();
    let list = root.forge(&["data", "list", "--json"]).ended(0).json();
    assert!(
        list.as_array()
            .unwrap()
            .iter()
            .any(|d| d["dataset"] == "gsm8k")
    );
    let check = root
        .forge(&["data", "check", "tiny", "--json"])
        .ended(0)
        .json();
    for row in check.as_array().unwrap() {
        assert_eq!(row["found"], "local");
        for field in ["dataset", "family", "examples", "bytes", "licence", "note"] {
            assert!(row.get(field).is_some(), "{field} of {row}");
        }
    }
    let out = root.path().join("packed");
    let out = out.to_str().unwrap();
    let packed = root
        .forge(&[
            "data",
            "pack",
            "tiny",
            "--out",
            out,
            "--set",
            "data.builtin_documents=50",
            "--json",
        ])
        .ended(0)
        .json();
    assert!(packed["tokens"].as_u64().unwrap() > 0);
    root.forge(&["data", "pack", "tiny", "--out", out])
        .ended(2)
        .says(&["choose another"]);
}

/// Two folders of text, one of which repeats the other, and a question of GSM8K's evaluation in a third.
#[test]
fn folders_of_text_are_packed_without_what_repeats() {
    let root = Root::new();
    let lines = |n: std::ops::Range<usize>| -> String {
        n.map(|i| {
            format!(
                "{{\"text\": \"Letter {i}. The weather was fine on day {i} of the year {i}.\"}}\n"
            )
        })
        .collect()
    };
    for (name, text) in [("one", lines(0..80)), ("two", lines(40..120))] {
        let folder = root.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("a.jsonl"), text).unwrap();
    }
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_string();
    let (one, two, out) = (path("one"), path("two"), path("packed"));
    let args = [
        "data", "pack", &one, &two, "--out", &out, "--vocab", "300", "--json",
    ];
    let packed = root.forge(&args).ended(0).json();
    let sets = packed["sets"].as_array().unwrap();
    assert_eq!(sets[0]["left_out"]["exact"], 0);
    assert_eq!(sets[1]["left_out"]["exact"], 40);
    let documents = |set: &serde_json::Value| -> u64 {
        let shards = set["shards"].as_array().unwrap();
        shards
            .iter()
            .filter_map(|shard| shard["documents"].as_u64())
            .sum()
    };
    assert_eq!((documents(&sets[0]), documents(&sets[1])), (80, 40));
    assert!(sets[0]["megabytes_per_second"].as_f64() > Some(0.0));
    assert!(root.path().join("packed/two.json").is_file());
    root.forge(&args).ended(2).says(&["choose another"]);
    root.forge(&["data", "pack", "nowhere", "--out", &out])
        .ended(2)
        .says(&["nowhere", "neither a folder nor a recipe"]);
    root.forge(&["data", "pack", "quik", "--out", &out])
        .ended(2)
        .says(&["did you mean `quick`?"]);
    root.forge(&["data", "pack", "tiny", "--out", &out, "--vocab", "300"])
        .ended(2)
        .says(&["--vocab is for folders", "model.vocab"]);
}

#[test]
fn a_run_leaves_out_what_repeats_and_what_is_evaluated_on_and_says_so() {
    let root = Root::new();
    let folder = root.path().join("texts/gsm8k");
    std::fs::create_dir_all(&folder).unwrap();
    let question = |i: usize, n: usize| {
        let words: Vec<String> = (0..16).map(|j| format!("w{i}x{j}")).collect();
        let question = format!("How much is {} and {n}?", words.join(" "));
        serde_json::json!({ "question": question, "answer": format!("It is {n}.\n#### {n}") })
            .to_string()
            + "\n"
    };
    // 40 questions, of which 5 are asked twice and 3 stand in the test split with another number.
    let train = (0..40).chain(0..5).map(|i| question(i, 1));
    let test = (37..57).map(|i| question(i, 2));
    std::fs::write(folder.join("train.jsonl"), train.collect::<String>()).unwrap();
    std::fs::write(folder.join("test.jsonl"), test.collect::<String>()).unwrap();
    let data_root = format!("data.root={}", root.path().join("texts").display());
    let sets = "data.sets=[\"gsm8k\", \"builtin\"]";
    let packed = |out: &str, more: &[&str]| {
        let out = root.path().join(out);
        let args = [
            "data", "pack", "tiny", "--json", "--set", &data_root, "--set", sets, "--out",
        ];
        let args = [&args[..], &[out.to_str().unwrap()], more].concat();
        root.forge(&args).ended(0)
    };
    let done = packed("a", &[])
        .says(&["left out of gsm8k: 5 exact duplicates, 3 that hold evaluation items"]);
    let set = done.json()["sets"][0].clone();
    assert_eq!(set["documents"], 37);
    assert_eq!(
        set["left_out"],
        serde_json::json!({ "exact": 5, "near": 0, "contaminated": 3 })
    );
    let manifest = std::fs::read(root.path().join("a/gsm8k.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["left_out"], set["left_out"]);
    // Built-in sets are taken as they are.
    assert_eq!(done.json()["sets"][1]["documents"], 600);
    let keep = ["--set", "data.dedup=0", "--set", "data.decontaminate=false"];
    let set = packed("b", &keep).json()["sets"][0].clone();
    assert_eq!(set["documents"], 45);
    assert_eq!(set["left_out"]["exact"], serde_json::Value::Null);
    root.forge(&[
        "data",
        "pack",
        "tiny",
        "--out",
        "c",
        "--set",
        "data.dedup=0.3",
    ])
    .ended(2)
    .says(&["data.dedup", "0.5 to 1"]);
}

#[test]
fn doctor_and_runs_speak_json() {
    let root = Root::new();
    let found = root.forge(&["doctor", "--json"]).ended(0).json();
    for field in [
        "isa",
        "cores",
        "memory_bytes",
        "memory_from",
        "disk_free_bytes",
        "writable",
    ] {
        assert!(!found[field].is_null(), "{field}");
    }
    assert_eq!(
        root.forge(&["runs", "--json"]).ended(0).json(),
        serde_json::json!([])
    );
}

#[test]
fn an_instruction_path_can_be_forced_and_a_wrong_one_is_refused() {
    let root = Root::new();
    let best = root.forge(&["doctor", "--json"]).ended(0).json();
    for isa in ["scalar", "neon", "avx2", "avx512"] {
        let done = forge_on(isa, root.path(), &["doctor", "--json"]);
        if done.code == Some(0) {
            assert_eq!(done.json()["isa"], isa);
        } else {
            let best = best["isa"].as_str().unwrap();
            done.ended(2)
                .says(&["FORGE_ISA", isa, best, "leave it out"]);
        }
    }
}

#[test]
fn benches_report_their_figures() {
    let root = Root::new();
    let gemm = root
        .forge(&["bench", "gemm", "--repeat", "1", "--json"])
        .ended(0)
        .json();
    for field in ["isa", "threads", "m", "k", "n", "gflops", "share"] {
        assert!(!gemm[0][field].is_null(), "{field}");
    }
    let ops = ["bench", "ops", "--tokens", "256", "--repeat", "1", "--json"];
    let ops = root.forge(&ops).ended(0).json();
    assert!(ops["peak_gflops"].as_f64().unwrap() > 0.0);
    let list = ops["ops"].as_array().unwrap();
    assert!(list.len() > 20);
    for op in list {
        assert!(op["share"].as_f64().unwrap() > 0.0, "{op}");
    }
    let decode = "bench decode --batch 3 --prompt 4 --new 2 --json";
    let run = |more: &[&str]| {
        let args: Vec<&str> = decode.split(' ').chain(more.iter().copied()).collect();
        root.forge(&args).ended(0).json()
    };
    let (whole, narrow) = (run(&[]), run(&["--bf16"]));
    assert_eq!(
        (&whole["batch"], &whole["params"]),
        (&3.into(), &33_694_208.into())
    );
    let bytes = |x: &Value| x["bytes_read_per_step"].as_f64().unwrap();
    // Norms stay as they are.
    assert!((1.99..2.0).contains(&(bytes(&whole) / bytes(&narrow))));
    assert!(narrow["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
    let step = root
        .forge(&[
            "bench",
            "train-step",
            "--steps",
            "1",
            "--batch",
            "1",
            "--sequence",
            "16",
            "--json",
        ])
        .ended(0)
        .json();
    assert_eq!(step["params"], 33_694_208);
    assert!(step["tokens_per_second"]["median"].as_f64().unwrap() > 0.0);
    assert!(step["peak_rss_mib"].as_f64().unwrap() > 400.0);
    root.forge(&["bench", "gemm", "--isa", "nonsense"])
        .ended(2)
        .says(&["nonsense"]);
}

#[test]
fn a_training_step_takes_the_memory_that_plan_predicts() {
    // The micro-batches of the three recipes.
    for (recipe, batch, sequence) in [
        ("quick", "5", "256"),
        ("small", "12", "256"),
        ("base", "4", "512"),
    ] {
        let mut args = vec!["bench", "train-step", "--model", "cognate", "--json"];
        args.extend(["--recipe", recipe, "--steps", "1"]);
        args.extend(["--batch", batch, "--sequence", sequence]);
        let step = Root::new().forge(&args).ended(0).json();
        let told = |name: &str| step[name].as_f64().unwrap();
        let ratio = told("peak_rss_mib") / told("predicted_mib");
        assert!((0.9..1.1).contains(&ratio), "{recipe}: {ratio} in {step}");
    }
}

#[test]
fn help_names_every_command_and_gives_examples() {
    let help = Root::new().forge(&["--help"]).ended(0).out;
    for command in [
        "run",
        "resume",
        "plan",
        "reproduce",
        "runs",
        "status",
        "report",
        "intervene",
        "data",
        "tokenizer",
        "cognate",
        "evomerge",
        "quietstar",
        "bitnet",
        "eval",
        "generate",
        "chat",
        "doctor",
        "bench",
        "Examples:",
        "Exit codes:",
    ] {
        assert!(help.contains(command), "{command}");
    }
}

#[test]
fn a_llama_from_elsewhere_is_sampled_and_scored() {
    let folder: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/stories260K");
    let Ok(folder) = folder.canonicalize() else {
        eprintln!("skipped: no ../shared");
        return;
    };
    let root = Root::new();
    let model = folder.join("stories260K.bin");
    let model = model.to_str().unwrap();
    let made = root
        .forge(&["generate", model, "--prompt", "", "--most", "20", "--json"])
        .ended(0)
        .json();
    assert!(
        made["text"]
            .as_str()
            .unwrap()
            .trim_start()
            .starts_with("Once upon a time"),
        "{made}"
    );
    let text = root.path().join("t.txt");
    std::fs::write(
        &text,
        "Once upon a time, there was a little girl named Lily.",
    )
    .unwrap();
    let score = root
        .forge(&["eval", model, "--text", text.to_str().unwrap(), "--json"])
        .ended(0)
        .json();
    assert!(score["bits_per_byte"].as_f64().unwrap() < 1.5, "{score}");
    let hub = folder.join("hf_derived");
    root.forge(&[
        "eval",
        hub.to_str().unwrap(),
        "--text",
        text.to_str().unwrap(),
    ])
    .ended(2)
    .says(&["--tokenizer FILE"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_refusal_of_memory_is_said_in_one_line() {
    let root = Root::new();
    let args = [
        "bench",
        "train-step",
        "--model",
        "cognate",
        "--recipe",
        "tiny",
        "--batch",
        "4096",
    ];
    let done = crate::process::forge_within(700_000, root.path(), &args).ended(1);
    assert_eq!(done.err.lines().count(), 1, "{}", done.err);
    assert!(
        done.err
            .starts_with("forge: out of memory: the system refused "),
        "{}",
        done.err
    );
}
