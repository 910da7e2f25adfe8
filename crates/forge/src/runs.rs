//! `forge runs` and `forge status`: what there is, and where one run stands.

use crate::args::Common;
use crate::fault::{Usage, nearest};
use crate::{output, table};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::path::Path;
use store::{Filter, Run, RunInfo, RunState};
use train::phase::{ORDER, folder};

#[derive(Args)]
pub(crate) struct StatusArgs {
    /// Name of the run
    run: String,
}

/// Adds the nearest name to the fault of a run that is not there.
pub(crate) fn named<T>(root: &Path, name: &str, opened: store::Result<T>) -> Result<T> {
    opened.map_err(|fault| match fault {
        store::Error::NoRun { .. } => {
            let known = Run::list(root).unwrap_or_default();
            let near = nearest(name, known.iter().map(|r| r.name.as_str()));
            Usage(format!("{fault}{near}")).into()
        }
        other => other.into(),
    })
}

/// Opens a run for reading.
pub(crate) fn read(root: &Path, name: &str) -> Result<Run> {
    named(root, name, Run::read(root, name))
}

/// The state as a person should understand it: `running` without a living process was killed.
pub(crate) fn state_of(info: &RunInfo) -> String {
    match info.state {
        RunState::Running | RunState::Paused if !info.live => "killed".into(),
        state => state.to_string(),
    }
}

/// The phases whose report is written.
pub(crate) fn finished_phases(dir: &Path) -> Vec<&'static str> {
    ORDER
        .into_iter()
        .filter(|p| dir.join("reports").join(format!("{p}.json")).is_file())
        .collect()
}

pub(crate) fn runs(common: &Common) -> Result<u8> {
    let list = Run::list(&common.root)?;
    let rows: Vec<Value> = list
        .iter()
        .map(|r| {
            let header = std::fs::read(r.dir.join("recipe.json")).unwrap_or_default();
            let header: Value = serde_json::from_slice(&header).unwrap_or_default();
            json!({
                "run": r.name, "recipe": header["recipe"]["name"], "state": r.state, "live": r.live, "attempt": r.attempt,
                "phases": finished_phases(&r.dir), "storage_bytes": folder_bytes(&r.dir),
            })
        })
        .collect();
    if common.json {
        output::json(&Value::Array(rows));
    } else if rows.is_empty() {
        output::line(&format!(
            "no runs in {}; start one with: forge run",
            common.root.join("runs").display()
        ));
    } else {
        let cells: Vec<Vec<String>> = list
            .iter()
            .zip(&rows)
            .map(|(info, row)| {
                vec![
                    info.name.clone(),
                    row["recipe"].as_str().unwrap_or("-").into(),
                    state_of(info),
                    finished_phases(&info.dir)
                        .last()
                        .map_or("-".into(), |p| (*p).to_string()),
                    info.attempt.to_string(),
                    table::bytes(row["storage_bytes"].as_u64().unwrap_or(0)),
                ]
            })
            .collect();
        output::text(&table::table(
            &[
                "run",
                "recipe",
                "state",
                "finished up to",
                "attempts",
                "on disk",
            ],
            &cells,
        ));
    }
    Ok(0)
}

pub(crate) fn status(args: &StatusArgs, common: &Common) -> Result<u8> {
    let run = read(&common.root, &args.run)?;
    let list = Run::list(&common.root)?;
    let info = list.iter().find(|r| r.name == args.run);
    let state = info.map_or_else(|| "unknown".into(), state_of);
    let finished = finished_phases(run.dir());
    let present = ORDER.into_iter().find(|p| !finished.contains(p));
    // The newest point of the present phase, with what was last measured there.
    let rows = match present {
        Some(phase) => run.journal().metrics(&Filter {
            phase: Some(folder(phase).into()),
            ..Filter::default()
        })?,
        None => Vec::new(),
    };
    let last = rows.last().map(|r| r.key.clone());
    let mut newest = serde_json::Map::new();
    for row in &rows {
        newest.insert(row.name.clone(), json!(row.value));
    }
    let checkpoints = run.checkpoint_paths()?;
    let age = checkpoints.last().and_then(|p| {
        let written = p.metadata().ok()?.modified().ok()?;
        Some(written.elapsed().ok()?.as_secs_f64())
    });
    let pending: Vec<Value> = run
        .requests()
        .pending()?
        .iter()
        .map(|r| json!({ "id": r.id, "action": r.action.name(), "arguments": r.arguments, "by": r.author }))
        .collect();
    let applied: Vec<Value> = run
        .requests()
        .applied()?
        .iter()
        .map(|r| json!({ "id": r.id, "action": r.action.name(), "by": r.author, "outcome": r.outcome }))
        .collect();
    let alerts = run.journal().alerts()?;
    let open: Vec<_> = alerts.iter().filter(|a| a.action.is_none()).collect();
    let status = json!({
        "run": run.name(), "state": run.state()?, "live": info.is_some_and(|i| i.live), "attempt": run.attempt(),
        "finished": finished, "phase": present,
        "at": last.as_ref().map(|k| json!({ "phase": k.phase, "branch": k.branch, "step": k.step })),
        "metrics": newest, "checkpoints": checkpoints.len(), "checkpoint_age_seconds": age,
        "requests": { "pending": pending, "applied": applied }, "alerts": alerts,
    });
    if common.json {
        output::json(&status);
        return Ok(0);
    }
    let mut out = format!("run `{}`: {state}, attempt {}\n", run.name(), run.attempt());
    out += &format!(
        "finished: {}\n",
        if finished.is_empty() {
            "no phase yet".into()
        } else {
            finished.join(", ")
        }
    );
    if let (Some(phase), Some(k)) = (present, &last) {
        let branch = if k.branch.is_empty() {
            String::new()
        } else {
            format!(" {}", k.branch)
        };
        out += &format!("now: {phase}{branch}, step {}\n", k.step);
        for (name, value) in &newest {
            out += &format!("  {name} = {:.4}\n", value.as_f64().unwrap_or(f64::NAN));
        }
    }
    out += &match age {
        Some(s) => format!(
            "checkpoints: {}, the newest {} old\n",
            checkpoints.len(),
            table::seconds(s)
        ),
        None => "checkpoints: none\n".into(),
    };
    for r in &pending {
        out += &format!(
            "waiting: request {} {}\n",
            r["id"],
            r["action"].as_str().unwrap_or("")
        );
    }
    for r in &applied {
        out += &format!(
            "request {} {}: {}\n",
            r["id"],
            r["action"].as_str().unwrap_or(""),
            r["outcome"].as_str().unwrap_or("")
        );
    }
    for a in &open {
        let known = train::detect::detector(&a.detector);
        out += &format!(
            "open alert {}: {} = {:.4} (threshold {}) at {} step {}{}; answer with: forge intervene {} answer {} {}\n",
            a.id,
            a.detector,
            a.value,
            a.threshold,
            a.phase,
            a.step,
            known.map_or(String::new(), |d| format!(": {}", d.why)),
            run.name(),
            a.id,
            known.map_or("CHOICE".into(), |d| d.choices.join("|"))
        );
    }
    out += &match state.as_str() {
        "done" => format!("next: forge report {}\n", run.name()),
        "running" | "paused" => format!(
            "next: forge intervene {} pause|resume|checkpoint|stop\n",
            run.name()
        ),
        _ => format!("next: forge resume {}\n", run.name()),
    };
    output::text(&out);
    Ok(0)
}

/// Bytes of the files in a folder.
pub(crate) fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|e| match e.file_type() {
            Ok(t) if t.is_dir() => folder_bytes(&e.path()),
            _ => e.metadata().map_or(0, |m| m.len()),
        })
        .sum()
}
