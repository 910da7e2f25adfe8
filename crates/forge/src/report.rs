//! `forge report`: what a run made, how good it is, and the plan's criteria with their values.
//!
//! A report is put together from the sections that the phases left under `reports/`, so it can be asked for
//! at any time. Field names are those that scripts rely on; what is unknown is null.

use crate::args::Common;
use crate::{output, runs, table};
use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use store::Run;
use train::phase::ORDER;

#[derive(Args)]
pub(crate) struct ReportArgs {
    /// Name of the run
    run: String,
}

pub(crate) fn report(args: &ReportArgs, common: &Common) -> Result<u8> {
    let run = runs::read(&common.root, &args.run)?;
    let report = assemble(&run)?;
    if common.json {
        output::json(&report);
    } else {
        output::text(&summary(&run, &report));
    }
    Ok(0)
}

/// Where a phase's section lies.
pub(crate) fn section_path(run: &Run, phase: &str) -> PathBuf {
    run.dir().join("reports").join(format!("{phase}.json"))
}

/// The report of a run, from the sections of its phases.
pub(crate) fn assemble(run: &Run) -> Result<Value> {
    let header = run.recipe();
    let mut phases = Map::new();
    let mut seconds = 0.0;
    for name in ORDER {
        let path = section_path(run, name);
        let Ok(bytes) = std::fs::read(&path) else {
            continue;
        };
        let section: Value = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged", path.display()))?;
        seconds += seconds_of(&section).unwrap_or(0.0);
        phases.insert(name.into(), section);
    }
    let phases = Value::Object(phases);
    let data = std::fs::read(run.dir().join("data").join("frozen.json"))
        .ok()
        .and_then(|b| serde_json::from_slice::<Value>(&b).ok())
        .map_or(Value::Null, |v| v["summary"].clone());
    let storage = runs::folder_bytes(run.dir());
    Ok(json!({
        "run": run.name(),
        "recipe": header["recipe"]["name"],
        "state": run.state()?,
        "seed": header["recipe"]["seed"],
        "revision": header["revision"],
        "isa": header["isa"],
        "threads": header["threads"],
        "seconds": seconds,
        "storage_bytes": storage,
        "alerts": run.journal().alerts()?,
        "data": data,
        "from": header["from"],
        "criteria": criteria(&phases, storage),
        "phases": phases,
    }))
}

/// Seconds of a section: a number, or the sum of its parts.
fn seconds_of(section: &Value) -> Option<f64> {
    let s = &section["seconds"];
    s.as_f64()
        .or_else(|| Some(s.as_object()?.values().filter_map(Value::as_f64).sum()))
}

/// The plan's criteria ("Success Criteria") with what was measured; `met` is null where a phase did not run.
fn criteria(p: &Value, storage: u64) -> Vec<Value> {
    let (c, e, q, b) = (&p["cognate"], &p["evomerge"], &p["quietstar"], &p["bitnet"]);
    let least = |v: &[f64]| v.iter().copied().min_by(f64::total_cmp);
    let models = |key: &str| -> Vec<f64> {
        let list = c["models"].as_array().into_iter().flatten();
        list.filter_map(|m| m[key].as_f64()).collect()
    };
    let gsm8k: Vec<f64> = c["models"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|m| m["tasks"]["gsm8k"].as_f64())
        .collect();
    let tasks = |m: &Value| -> Option<f64> {
        let t = m["tasks"].as_object()?;
        let values: Vec<f64> = t.values().filter_map(Value::as_f64).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let gain = || Some(tasks(&q["model"])? - tasks(&e["champion"])?);
    let barriers: Vec<f64> = c["barriers"]
        .as_array()
        .into_iter()
        .flatten()
        .take(3)
        .filter_map(|b| b["nats"].as_f64())
        .collect();
    let used = e["combos"]
        .as_object()
        .map(|m| m.values().filter(|v| v.as_u64() > Some(0)).count() as f64);
    let hours = |s: &Value| seconds_of(s).map(|x| x / 3600.0);
    // Phase, name, value, comparison, target.
    let rows: Vec<(&str, &str, Option<f64>, char, f64)> = vec![
        (
            "cognate",
            "specialists made",
            c["models"].as_array().map(|m| m.len() as f64),
            '≥',
            3.0,
        ),
        (
            "cognate",
            "parameters of a specialist, millions",
            least(&models("params")).map(|n| n / 1e6),
            '≥',
            24.0,
        ),
        (
            "cognate",
            "spread of halting steps",
            c["diversity"]["halting"].as_f64(),
            '>',
            2.0,
        ),
        (
            "cognate",
            "largest barrier between branches, nats",
            barriers.iter().copied().max_by(f64::total_cmp),
            '≤',
            0.02,
        ),
        (
            "cognate",
            "GSM8K accuracy, best specialist",
            gsm8k.iter().copied().max_by(f64::total_cmp),
            '>',
            0.10,
        ),
        ("cognate", "training time, hours", hours(c), '<', 30.0),
        (
            "cognate",
            "storage, GB",
            c.is_object().then_some(storage as f64 / 1e9),
            '<',
            10.0,
        ),
        (
            "evomerge",
            "fitness over the mean parent",
            e["improvement"]["over_mean_parent"].as_f64(),
            '≥',
            0.20,
        ),
        ("evomerge", "evolution time, hours", hours(e), '<', 2.0),
        (
            "evomerge",
            "least diversity",
            e["diversity"]["min"].as_f64(),
            '>',
            0.3,
        ),
        ("evomerge", "combinations used", used, '≥', 8.0),
        (
            "quietstar",
            "thinking tokens added",
            q["tokens_added"].as_f64(),
            '≥',
            12.0,
        ),
        (
            "quietstar",
            "baking accuracy",
            q["baking"]["accuracy"].as_f64(),
            '≥',
            0.85,
        ),
        ("quietstar", "task accuracy over Phase 2", gain(), '≥', 0.03),
        (
            "quietstar",
            "thought divergence",
            q["anti_theater"]["divergence"].as_f64(),
            '>',
            0.3,
        ),
        (
            "quietstar",
            "ablation drop",
            q["anti_theater"]["ablation_drop"].as_f64(),
            '>',
            0.02,
        ),
        (
            "quietstar",
            "thought correlation",
            q["anti_theater"]["correlation"].as_f64(),
            '>',
            0.5,
        ),
        (
            "quietstar",
            "ms a token with thoughts",
            q["rl"]["ms_per_token_with"].as_f64(),
            '<',
            200.0,
        ),
        (
            "bitnet",
            "compression against FP32",
            b["compression_fp32"].as_f64(),
            '≥',
            6.0,
        ),
        (
            "bitnet",
            "relative accuracy drop",
            b["accuracy_drop"].as_f64(),
            '<',
            0.10,
        ),
        (
            "bitnet",
            "decoding speed-up",
            b["decode_speedup"].as_f64(),
            '≥',
            2.0,
        ),
        ("bitnet", "sparsity", b["sparsity"].as_f64(), '>', 0.30),
    ];
    rows.into_iter()
        .map(|(phase, name, value, sign, target)| {
            let met = value.map(|v| match sign {
                '≥' => v >= target,
                '>' => v > target,
                '≤' => v <= target,
                _ => v < target,
            });
            json!({ "phase": phase, "name": name, "target": format!("{sign} {target}"), "value": value, "met": met })
        })
        .collect()
}

/// The closing table: what was made, how good it is, what to type next.
pub(crate) fn summary(run: &Run, report: &Value) -> String {
    let p = &report["phases"];
    let mut rows = Vec::new();
    let mut row = |phase: &str, m: &Value, note: String| rows.push(model_row(phase, m, note));
    if p["cognate"].is_object() {
        row("1 cognate", &p["cognate"]["ancestor"], String::new());
        for m in p["cognate"]["models"].as_array().into_iter().flatten() {
            row("", m, String::new());
        }
    }
    if p["evomerge"].is_object() {
        let h = &p["evomerge"]["held_out"];
        let note = format!(
            "fitness {} (best parent {})",
            number(&h["champion"], 3),
            number(&h["best_parent"], 3)
        );
        row("2 evomerge", &p["evomerge"]["champion"], note);
    }
    if p["quietstar"].is_object() {
        let note = format!(
            "baking {}",
            number(&p["quietstar"]["baking"]["accuracy"], 3)
        );
        row("3 quietstar", &p["quietstar"]["model"], note);
    }
    if p["bitnet"].is_object() {
        let note = format!("{}x smaller", number(&p["bitnet"]["compression_fp32"], 1));
        row("4 bitnet", &p["bitnet"]["model"], note);
    }
    let mut out = format!(
        "\nrun `{}`: {} in {}, {} on disk\n\n",
        run.name(),
        report["state"].as_str().unwrap_or("unknown"),
        table::seconds(report["seconds"].as_f64().unwrap_or(0.0)),
        table::bytes(report["storage_bytes"].as_u64().unwrap_or(0))
    );
    out += &table::table(
        &[
            "phase",
            "model",
            "parameters",
            "file",
            "bits/byte",
            "accuracy",
            "steps",
            "",
        ],
        &rows,
    );
    out += &left_out(&report["data"]);
    out += "\nbits/byte and accuracy (mean over the tasks) are on held-out data; steps are core layers a token.\n";
    out += &by_family(&p["cognate"]);
    out += &by_dataset(&p["cognate"]);
    out += &search(&p["evomerge"]);
    for alert in report["alerts"].as_array().into_iter().flatten() {
        out += &format!(
            "alert: {} {} (threshold {}) at {} {} step {}: {}\n",
            alert["detector"].as_str().unwrap_or("?"),
            number(&alert["value"], 3),
            number(&alert["threshold"], 3),
            alert["phase"].as_str().unwrap_or(""),
            alert["branch"].as_str().unwrap_or(""),
            alert["step"],
            alert["action"].as_str().unwrap_or("open"),
        );
    }
    let met: Vec<&Value> = report["criteria"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let measured = met.iter().filter(|c| c["met"].is_boolean()).count();
    if measured > 0 {
        out += &format!(
            "the plan's criteria: {} of {measured} measured ones met; not met: {}\n",
            met.iter().filter(|c| c["met"] == true).count(),
            list(&met)
        );
    }
    out += "\nnext:\n";
    out += &format!("  forge report {} --json     all figures\n", run.name());
    if let Some(last) = ORDER.into_iter().rev().find(|n| p[*n].is_object()) {
        let model = match last {
            "cognate" => format!("{}/cognate/reasoning", run.name()),
            other => format!("{}/{other}", run.name()),
        };
        out += &format!("  forge eval {model}\n  forge chat {model}\n");
    }
    out
}

/// Bits per byte of each family, of the models of Phase 1 and of 5-gram models that counted the same text.
fn by_family(cognate: &Value) -> String {
    let models: Vec<&Value> = std::iter::once(&cognate["ancestor"])
        .chain(cognate["models"].as_array().into_iter().flatten())
        .filter(|m| m["bits_per_byte_by_family"].is_object())
        .collect();
    let Some(families) = models
        .first()
        .and_then(|m| m["bits_per_byte_by_family"].as_object())
    else {
        return String::new();
    };
    let header: Vec<&str> = ["bits/byte on"]
        .into_iter()
        .chain(families.keys().map(String::as_str))
        .chain(["mean"])
        .collect();
    let mut rows = Vec::new();
    let mut row = |name: String, by_family: &Value| {
        let values: Vec<&Value> = families.keys().map(|f| &by_family[f]).collect();
        let known: Vec<f64> = values.iter().filter_map(|v| v.as_f64()).collect();
        let mean = json!(known.iter().sum::<f64>() / known.len() as f64);
        let cells = values
            .into_iter()
            .map(|v| number(v, 3))
            .chain([number(&mean, 3)]);
        rows.push([name].into_iter().chain(cells).collect());
    };
    for m in models {
        row(
            m["name"].as_str().unwrap_or("-").into(),
            &m["bits_per_byte_by_family"],
        );
        if m["kneser_ney"].is_object() {
            row(
                "  5-gram, same text".into(),
                &m["kneser_ney"]["bits_per_byte_by_family"],
            );
        }
    }
    format!("\n{}\n", table::table(&header, &rows))
}

/// How often the models of Phase 1 went through each data set.
fn by_dataset(cognate: &Value) -> String {
    let models: Vec<&Value> = std::iter::once(&cognate["ancestor"])
        .chain(cognate["models"].as_array().into_iter().flatten())
        .filter(|m| m["epochs"].is_object())
        .collect();
    let Some(sets) = models.first().and_then(|m| m["epochs"].as_object()) else {
        return String::new();
    };
    let names = models.iter().map(|m| m["name"].as_str().unwrap_or("-"));
    let header: Vec<&str> = std::iter::once("epochs of").chain(names).collect();
    let row = |set: &String| {
        let cells = models.iter().map(|m| number(&m["epochs"][set], 2));
        std::iter::once(set.clone()).chain(cells).collect()
    };
    let rows: Vec<Vec<String>> = sets.keys().map(row).collect();
    format!("{}\n", table::table(&header, &rows))
}

/// A line on the search of Phase 2: its work, and how well its races stood in for scoring every candidate in full.
fn search(e: &Value) -> String {
    let Some(items) = e["scored_items"].as_u64() else {
        return String::new();
    };
    let percent = |v: &Value| {
        v.as_f64()
            .map_or("-".into(), |x| format!("{:.0}%", 100.0 * x))
    };
    let mut out = format!(
        "\nsearch ({}): {} generations, {items} items scored, {} of the evaluations answered by the cache, {} merges rejected",
        e["search"].as_str().unwrap_or("evolution"),
        e["generations"],
        percent(&e["cache_hit_rate"]),
        e["rejected"]
    );
    let racing = &e["racing"];
    if racing["rank_correlation"].is_number() {
        out += &format!(
            "; scoring every candidate in full takes {} times as many items, rank correlation with it {} over {} members",
            number(&racing["saved"], 1),
            number(&racing["rank_correlation"], 3),
            racing["audited"]
        );
    }
    out + "\n" + &held_out(&e["held_out"])
}

/// A line on the champion beside all that it is compared with; nothing where there is no such comparison.
fn held_out(fitness: &Value) -> String {
    let known = [
        ("champion", "champion"),
        ("best_parent", "best parent"),
        ("random_search", "random search"),
        ("task_arithmetic", "task arithmetic"),
        ("uniform", "uniform merge"),
        ("ancestor", "ancestor"),
        (
            "pooled_compute",
            "one model with the compute of all parents",
        ),
    ];
    let parts: Vec<String> = known
        .iter()
        .filter(|(key, _)| fitness[key].is_number())
        .map(|(key, name)| format!("{name} {}", number(&fitness[key], 3)))
        .collect();
    if parts.is_empty() {
        return String::new();
    }
    let error = number(&fitness["stderr"], 3);
    let (nats, nats_error) = (
        number(&fitness["nats_champion_minus_best_parent"], 3),
        number(&fitness["nats_stderr"], 3),
    );
    format!(
        "fitness on held-out items (the parents' mean is 1): {}; standard error {error}; champion minus best parent {nats} +- {nats_error} nats a token\n",
        parts.join(", ")
    )
}

/// A line on the training documents that were found and not kept; nothing where all were.
fn left_out(data: &Value) -> String {
    let sets = data.as_array().into_iter().flatten();
    let parts = sets.filter_map(|used| {
        let left_out: data::LeftOut = serde_json::from_value(used["left_out"].clone()).ok()?;
        let what = Some(left_out.describe()).filter(|what| !what.is_empty())?;
        Some(format!("{} ({what})", used["dataset"].as_str()?))
    });
    match parts.collect::<Vec<_>>() {
        none if none.is_empty() => String::new(),
        parts => format!("\nleft out of training: {}\n", parts.join(", ")),
    }
}

fn list(criteria: &[&Value]) -> String {
    let missed: Vec<String> = criteria
        .iter()
        .filter(|c| c["met"] == false)
        .map(|c| {
            format!(
                "{} {} ({})",
                c["name"].as_str().unwrap_or(""),
                number(&c["value"], 3),
                c["target"].as_str().unwrap_or("")
            )
        })
        .collect();
    if missed.is_empty() {
        "none".into()
    } else {
        missed.join(", ")
    }
}

fn number(v: &Value, digits: usize) -> String {
    v.as_f64().map_or("-".into(), |x| format!("{x:.digits$}"))
}

fn model_row(phase: &str, m: &Value, note: String) -> Vec<String> {
    let tasks: Vec<f64> = m["tasks"]
        .as_object()
        .map(|t| t.values().filter_map(Value::as_f64).collect())
        .unwrap_or_default();
    let accuracy = if tasks.is_empty() {
        "-".into()
    } else {
        format!("{:.3}", tasks.iter().sum::<f64>() / tasks.len() as f64)
    };
    vec![
        phase.into(),
        m["name"].as_str().unwrap_or("-").into(),
        m["params"].as_u64().map_or("-".into(), |n| n.to_string()),
        m["bytes"].as_u64().map_or("-".into(), table::bytes),
        number(&m["bits_per_byte"], 3),
        accuracy,
        number(&m["halting_steps"], 1),
        note,
    ]
}
