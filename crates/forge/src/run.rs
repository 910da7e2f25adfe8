//! `forge run` and `forge resume`: the four phases in order, over one run folder.
//!
//! What is done is read off the folder: a phase whose report lies under `reports/` is finished; the newest
//! checkpoint says where the present one stands.

use crate::args::Common;
use crate::{recipes, table};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use store::{Bag, Run, RunState};
use train::driver::{self, End};
use train::phase::{ORDER, folder};
use train::phases::cognate::CognatePhase;
use train::phases::evomerge::EvomergePhase;
use train::{Context, Phase, Recipe, Source};

#[derive(Args)]
pub(crate) struct RunArgs {
    /// tiny, quick, small, base, plan, or a path to a TOML file
    #[arg(default_value = "quick")]
    recipe: String,
    /// Name of the run; the recipe's name without it
    #[arg(long, value_name = "NAME")]
    run: Option<String>,
    /// A folder of your own text, taken as one more data set
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Stop after this phase: cognate, evomerge, quietstar or bitnet
    #[arg(long, value_name = "PHASE", value_parser = ORDER)]
    until: Option<String>,
}

#[derive(Args)]
pub(crate) struct ResumeArgs {
    /// Name of the run
    run: String,
    /// Go on even on another instruction path, where the last bits may differ
    #[arg(long)]
    force: bool,
}

/// What is written once beside the run: the recipe and what its bits depend on.
fn header(recipe: &Recipe, until: Option<&str>) -> Value {
    json!({ "recipe": recipe, "isa": tensor::isa::name(), "revision": option_env!("FORGE_REVISION").unwrap_or(env!("CARGO_PKG_VERSION")), "threads": rayon::current_num_threads(), "until": until })
}

pub(crate) fn run(args: &RunArgs, common: &Common) -> Result<u8> {
    let mut set = common.set.clone();
    if let Some(dir) = &args.data {
        if !dir.is_dir() {
            bail!(
                "--data {}: no such folder; give a folder of .txt, .jsonl, .json or .csv files",
                dir.display()
            );
        }
        set.push(format!(
            "data.folder={:?}",
            dir.canonicalize()?.display().to_string()
        ));
    }
    let recipe = recipes::load(&args.recipe, &set)?;
    let name = args.run.clone().unwrap_or_else(|| recipe.name.clone());
    let run = Run::create(&common.root, &name, &header(&recipe, args.until.as_deref()))?;
    go(&run, &recipe, common, args.until.as_deref(), None)
}

pub(crate) fn resume(args: &ResumeArgs, common: &Common) -> Result<u8> {
    let run = Run::open(&common.root, &args.run)?;
    let header = run.recipe();
    let recipe: Recipe = serde_json::from_value(header["recipe"].clone()).with_context(|| {
        format!(
            "the recipe of run `{}` is not one that this program reads",
            args.run
        )
    })?;
    let (was, is) = (
        header["isa"].as_str().unwrap_or("unknown"),
        tensor::isa::name(),
    );
    if was != is && !args.force {
        bail!(
            "run `{}` was started on the {was} path and this machine runs {is}: its last bits would differ; resume it there, or with --force",
            args.run
        );
    }
    let checkpoint = run.newest_checkpoint()?;
    for s in checkpoint.iter().flat_map(|c| &c.skipped) {
        eprintln!(
            "forge: checkpoint {} is damaged ({}), using an older one",
            s.path.display(),
            s.fault
        );
    }
    run.rewind(checkpoint.as_ref())?;
    let until = header["until"].as_str().map(String::from);
    let bag = checkpoint.map(|c| (c.key.phase, c.bag));
    go(&run, &recipe, common, until.as_deref(), bag)
}

/// The run as far as it goes; the exit code.
fn go(
    run: &Run,
    recipe: &Recipe,
    common: &Common,
    until: Option<&str>,
    bag: Option<(String, Bag)>,
) -> Result<u8> {
    let interrupt = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second signal ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, interrupt.clone())?;
        signal_hook::flag::register(signal, interrupt.clone())?;
    }
    run.set_state(RunState::Running)?;
    match phases(run, recipe, until, bag, &interrupt) {
        Ok(End::Finished) => {
            run.set_state(RunState::Done)?;
            let report = assemble(run)?;
            store::write_file(
                &run.dir().join("reports").join("report.json"),
                "the report",
                &serde_json::to_vec_pretty(&report)?,
            )?;
            if common.json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                print!("{}", summary(run, &report));
            }
            Ok(0)
        }
        Ok(End::Stopped) => {
            run.set_state(RunState::Stopped)?;
            eprintln!("stopped as asked; go on with: forge resume {}", run.name());
            Ok(0)
        }
        Ok(End::Interrupted) => {
            run.set_state(RunState::Stopped)?;
            eprintln!(
                "interrupted, checkpoint written; go on with: forge resume {}",
                run.name()
            );
            Ok(130)
        }
        Err(fault) => {
            // A full disk may refuse this too; the first fault is the one to report.
            let _ = run.set_state(RunState::Failed);
            Err(fault.context(format!("run `{}` failed; what was written is intact, and `forge resume {}` goes on from the last checkpoint", run.name(), run.name())))
        }
    }
}

fn report_path(run: &Run, phase: &str) -> PathBuf {
    run.dir().join("reports").join(format!("{phase}.json"))
}

fn phases(
    run: &Run,
    recipe: &Recipe,
    until: Option<&str>,
    mut bag: Option<(String, Bag)>,
    interrupt: &AtomicBool,
) -> Result<End> {
    let started = Instant::now();
    let clock = || started.elapsed().as_secs_f64();
    let source = Source::prepare(
        &run.dir().join("data"),
        &recipe.data,
        recipe.model.vocab,
        &|line| eprintln!("{line}"),
    )?;
    let cx = Context {
        run,
        recipe,
        source: &source,
        clock: &clock,
    };
    for name in ORDER {
        if !report_path(run, name).is_file() {
            let begun = clock();
            let own = bag
                .take()
                .filter(|(phase, _)| phase == folder(name))
                .map(|(_, b)| b);
            let mut phase = open(name, &cx, own.as_ref())?;
            let mut progress = Progress::new(&*phase, begun);
            let end = driver::drive(
                &mut *phase,
                &cx,
                recipe.checkpoint.saving(),
                interrupt,
                &mut |p| progress.show(p, clock()),
            )?;
            progress.finish();
            if end != End::Finished {
                return Ok(end);
            }
            driver::save(&*phase, &cx, recipe.checkpoint.saving().keep)?;
            let mut section = phase.finish(&cx)?;
            if section.get("seconds").is_none() {
                section["seconds"] = json!(clock() - begun);
            }
            cx.event(
                &cx.key(folder(name), "", phase.done()),
                "phase-finished",
                &json!({ "phase": name }),
            )?;
            store::write_file(
                &report_path(run, name),
                "the report of a phase",
                &serde_json::to_vec_pretty(&section)?,
            )?;
        }
        if until == Some(name) {
            break;
        }
    }
    Ok(End::Finished)
}

fn open(name: &str, cx: &Context, bag: Option<&Bag>) -> Result<Box<dyn Phase>> {
    Ok(match name {
        "cognate" => Box::new(match bag {
            Some(b) => CognatePhase::restore(cx, b)?,
            None => CognatePhase::start(cx)?,
        }),
        "evomerge" => {
            let inputs = EvomergePhase::inputs(cx.run);
            let files: [&Path; 4] = [&inputs[0], &inputs[1], &inputs[2], &inputs[3]];
            Box::new(match bag {
                Some(b) => EvomergePhase::restore(cx, &files, b)?,
                None => EvomergePhase::start(cx, &files)?,
            })
        }
        other => bail!("phase `{other}` is not built into this program"),
    })
}

/// The report of a run, from the reports of its phases.
pub(crate) fn assemble(run: &Run) -> Result<Value> {
    let header = run.recipe();
    let mut phases = serde_json::Map::new();
    let mut seconds = 0.0;
    for name in ORDER {
        if let Ok(bytes) = std::fs::read(report_path(run, name)) {
            let section: Value = serde_json::from_slice(&bytes)
                .with_context(|| format!("report of phase {name}"))?;
            seconds += section["seconds"]
                .as_f64()
                .or_else(|| {
                    section["seconds"]
                        .as_object()
                        .map(|o| o.values().filter_map(Value::as_f64).sum())
                })
                .unwrap_or(0.0);
            phases.insert(name.into(), section);
        }
    }
    Ok(json!({
        "run": run.name(),
        "recipe": header["recipe"]["name"],
        "state": run.state()?,
        "seed": header["recipe"]["seed"],
        "revision": header["revision"],
        "isa": header["isa"],
        "threads": header["threads"],
        "seconds": seconds,
        "storage_bytes": folder_bytes(run.dir()),
        "alerts": run.journal().alerts()?,
        "phases": phases,
    }))
}

fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|e| {
            if e.path().is_dir() {
                folder_bytes(&e.path())
            } else {
                e.metadata().map_or(0, |m| m.len())
            }
        })
        .sum()
}

/// The closing table: what was made, how good it is, what to type next.
pub(crate) fn summary(run: &Run, report: &Value) -> String {
    let p = &report["phases"];
    let mut rows = Vec::new();
    let number =
        |v: &Value, digits: usize| v.as_f64().map_or("-".into(), |x| format!("{x:.digits$}"));
    let mut row = |phase: &str, m: &Value, note: String| {
        let tasks: Vec<f64> = m["tasks"]
            .as_object()
            .map(|t| t.values().filter_map(Value::as_f64).collect())
            .unwrap_or_default();
        let accuracy = if tasks.is_empty() {
            "-".into()
        } else {
            format!("{:.3}", tasks.iter().sum::<f64>() / tasks.len() as f64)
        };
        rows.push(vec![
            phase.into(),
            m["name"].as_str().unwrap_or("-").into(),
            m["params"].as_u64().map_or("-".into(), |n| n.to_string()),
            m["bytes"].as_u64().map_or("-".into(), table::bytes),
            number(&m["bits_per_byte"], 3),
            accuracy,
            number(&m["halting_steps"], 1),
            note,
        ]);
    };
    if p["cognate"].is_object() {
        row("1 cognate", &p["cognate"]["ancestor"], String::new());
        for m in p["cognate"]["models"].as_array().into_iter().flatten() {
            row("", m, String::new());
        }
    }
    if p["evomerge"].is_object() {
        let h = &p["evomerge"]["held_out"];
        row(
            "2 evomerge",
            &p["evomerge"]["champion"],
            format!(
                "fitness {} (best parent {})",
                number(&h["champion"], 3),
                number(&h["best_parent"], 3)
            ),
        );
    }
    if p["quietstar"].is_object() {
        row(
            "3 quietstar",
            &p["quietstar"]["model"],
            format!(
                "baking {}",
                number(&p["quietstar"]["baking"]["accuracy"], 3)
            ),
        );
    }
    if p["bitnet"].is_object() {
        row(
            "4 bitnet",
            &p["bitnet"]["model"],
            format!("{}x smaller", number(&p["bitnet"]["compression_fp32"], 1)),
        );
    }
    let mut out = format!(
        "\nrun `{}`: {} in {}\n\n",
        run.name(),
        report["state"].as_str().unwrap_or("done"),
        table::seconds(report["seconds"].as_f64().unwrap_or(0.0))
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
    out += &format!(
        "\nbits/byte and accuracy (mean over the tasks) are on held-out data.\nreport: {}\n",
        run.dir().join("reports").join("report.json").display()
    );
    out
}

/// A bar when a terminal watches, a line now and then when not.
struct Progress {
    bar: Option<ProgressBar>,
    begun: f64,
    done: u64,
    last: f64,
}

impl Progress {
    fn new(phase: &dyn Phase, now: f64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(phase.total()).with_position(phase.done());
            if let Ok(style) = ProgressStyle::with_template(
                "{prefix:>10} [{bar:30}] {pos}/{len} {elapsed} eta {eta} {wide_msg}",
            ) {
                bar.set_style(style);
            }
            bar.set_prefix(phase.name());
            bar
        });
        Self {
            bar,
            begun: now,
            done: phase.done(),
            last: now,
        }
    }

    fn show(&mut self, phase: &dyn Phase, now: f64) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(phase.total());
                bar.set_position(phase.done());
                bar.set_message(phase.message());
            }
            None if now - self.last >= 5.0 => {
                self.last = now;
                let rate = (now - self.begun) / (phase.done() - self.done).max(1) as f64;
                let left = rate * phase.total().saturating_sub(phase.done()) as f64;
                eprintln!(
                    "{} {}/{} ({} left) {}",
                    phase.name(),
                    phase.done(),
                    phase.total(),
                    table::seconds(left),
                    phase.message()
                );
            }
            None => {}
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
