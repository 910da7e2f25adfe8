//! `forge doctor`: what this machine offers, and what would stand in the way of a run.

use crate::args::Common;
use crate::{output, table};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use tensor::precision::Precision;

#[derive(Args)]
pub(crate) struct DoctorArgs {}

/// One line: what, what was found, whether it will do, and what to do if not.
struct Finding {
    name: &'static str,
    found: String,
    good: bool,
    advice: &'static str,
}

pub(crate) fn doctor(common: &Common) -> Result<u8> {
    let train::memory::Limit {
        bytes: memory,
        from,
    } = train::memory::limit();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let free = store::disk_free(&common.root);
    let probe = common.root.join(".forge-doctor");
    let writable = store::write_file(&probe, "a test file", b"test")
        .map(|()| std::fs::remove_file(&probe))
        .map_err(|e| e.to_string());
    let data_root = crate::datasets::root(common)?;
    let isa = tensor::isa::name();
    let paths: Vec<&str> = tensor::isa::available().map(|i| i.name()).collect();
    let mut findings = vec![
        Finding {
            name: "instruction path",
            found: format!(
                "{isa} (of {}), products in {}",
                paths.join(", "),
                Precision::fastest().name()
            ),
            good: isa != "scalar",
            advice: "training is slow without AVX2 or NEON; tiny and quick still run",
        },
        Finding {
            name: "cores",
            found: cores.to_string(),
            good: true,
            advice: "",
        },
        Finding {
            name: "memory limit",
            found: format!("{} ({from})", table::bytes(memory)),
            good: memory > 2_000_000_000,
            advice: "recipe base wants several GB; see: forge plan base",
        },
        Finding {
            name: "free disk",
            found: table::bytes(free),
            good: free > 2_000_000_000,
            advice: "make room, or choose another folder with --root DIR",
        },
        Finding {
            name: "runs can be written",
            found: match &writable {
                Ok(_) => common.root.display().to_string(),
                Err(e) => e.clone(),
            },
            good: writable.is_ok(),
            advice: "choose another folder with --root DIR",
        },
    ];
    findings.push(match &data_root {
        None => Finding {
            name: "data root",
            found: "not set; built-in data only".into(),
            good: true,
            advice: "",
        },
        Some(dir) => {
            let sets = data::DATASETS
                .iter()
                .filter(|d| d.folders.first().is_some_and(|f| dir.join(f).is_dir()));
            let sets: Vec<&str> = sets.map(|d| d.id).collect();
            Finding {
                name: "data root",
                found: format!(
                    "{}: {}",
                    dir.display(),
                    if sets.is_empty() {
                        "no data set".into()
                    } else {
                        sets.join(" ")
                    }
                ),
                good: !sets.is_empty(),
                advice: "`forge data list` shows which folders are looked for",
            }
        }
    });
    findings.push(hub_cache());
    let sound = findings.iter().all(|f| f.good);
    if common.json {
        output::json(&json!({
            "version": env!("CARGO_PKG_VERSION"), "isa": isa, "precision": Precision::fastest().name(), "cores": cores, "memory_bytes": memory, "memory_from": from,
            "disk_free_bytes": free, "root": common.root, "writable": writable.is_ok(), "data_root": data_root, "sound": sound,
            "findings": findings.iter().map(|f| json!({ "name": f.name, "found": f.found, "good": f.good })).collect::<Vec<Value>>(),
        }));
    } else {
        for f in &findings {
            output::line(&format!(
                "{} {:<20} {}",
                if f.good { "ok  " } else { "look" },
                f.name,
                f.found
            ));
            if !f.good {
                output::line(&format!("     {:<20} {}", "", f.advice));
            }
        }
    }
    Ok(u8::from(writable.is_err()))
}

/// The hub's cache and the data sets of which it has a snapshot.
fn hub_cache() -> Finding {
    let cache = crate::hub::places(None).cache;
    let found = match &cache {
        None => "none: neither HF_HOME nor a home folder is set".to_string(),
        Some(cache) => {
            let there = |hub: &data::Hub| {
                data::hub::cache::snapshot(cache, hub.repository, hub.revision).is_some()
            };
            let sets = data::DATASETS.iter().filter(|d| d.hub.iter().any(there));
            let sets: Vec<&str> = sets.map(|d| d.id).collect();
            match sets.is_empty() {
                true => format!("{}: no data set", cache.display()),
                false => format!("{}: {}", cache.display(), sets.join(" ")),
            }
        }
    };
    Finding {
        name: "hub cache",
        found,
        good: true,
        advice: "",
    }
}
