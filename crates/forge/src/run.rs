//! `forge run` and `forge resume`: the four phases in order, over one run folder.
//!
//! What is done is read off the folder: a phase whose report lies under `reports/` is finished; the newest
//! checkpoint says where the present one stands.

use crate::args::Common;
use crate::fault::usage;
use crate::progress::Progress;
use crate::report::{assemble, section_path, summary};
use crate::{output, recipes, runs};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use store::{Bag, Filter, Key, Run, RunState};
use train::driver::{self, End};
use train::phase::{ORDER, folder};
use train::phases::bitnet::BitnetPhase;
use train::phases::cognate::CognatePhase;
use train::phases::evomerge::EvomergePhase;
use train::phases::quietstar::Quietstar;
use train::{Context, Phase, Recipe, Source};

#[derive(Args, Clone)]
pub(crate) struct RunArgs {
    /// tiny, quick, small, base, plan, or a path to a TOML file
    #[arg(default_value = "quick")]
    pub(crate) recipe: String,
    /// Name of the run; the recipe's name without it
    #[arg(long, value_name = "NAME")]
    pub(crate) run: Option<String>,
    /// A folder of your own text, taken as one more data set
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Stop after this phase: cognate, evomerge, quietstar or bitnet
    #[arg(long, value_name = "PHASE", value_parser = ORDER)]
    pub(crate) until: Option<String>,
}

#[derive(Args)]
pub(crate) struct ResumeArgs {
    /// Name of the run
    run: String,
    /// Stop after this phase, or go on past the one that the run was to stop after
    #[arg(long, value_name = "PHASE", value_parser = ORDER)]
    until: Option<String>,
    /// Go on even on another instruction path, where the last bits may differ
    #[arg(long)]
    force: bool,
}

/// Which phases a run goes through.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// The first phase; those before it were done elsewhere.
    pub(crate) first: String,
    /// The last phase.
    pub(crate) last: String,
}

impl Span {
    /// The span that a run's header asks for.
    pub(crate) fn of(header: &Value) -> Self {
        let name = |v: &Value, otherwise: &str| v.as_str().unwrap_or(otherwise).to_string();
        Self {
            first: name(&header["from"]["phase"], ORDER[0]),
            last: name(&header["until"], ORDER[3]),
        }
    }

    fn phases(&self) -> impl Iterator<Item = &'static str> {
        let at = |name: &str| ORDER.iter().position(|n| *n == name);
        let (first, last) = (at(&self.first).unwrap_or(0), at(&self.last).unwrap_or(3));
        ORDER
            .into_iter()
            .skip(first)
            .take((last + 1).saturating_sub(first))
    }
}

/// What is written once beside the run: the recipe and what its bits depend on. `from` says where a run
/// that does not begin with Phase 1 took its models from.
pub(crate) fn header(recipe: &Recipe, until: Option<&str>, from: &Value) -> Value {
    let recipe = Recipe {
        precision: recipe.precision.fixed(),
        ..recipe.clone()
    };
    json!({
        "recipe": recipe,
        "isa": tensor::isa::name(),
        "revision": option_env!("FORGE_REVISION").unwrap_or(env!("CARGO_PKG_VERSION")),
        "threads": rayon::current_num_threads(),
        "until": until,
        "from": from,
    })
}

/// The recipe as typed, with `--data` and with paths that hold from any folder.
fn resolved(args: &RunArgs, common: &Common) -> Result<Recipe> {
    let mut recipe = recipes::load(&args.recipe, &common.set)?;
    if let Some(dir) = &args.data {
        if !dir.is_dir() {
            return usage(format!(
                "--data {}: no such folder; give a folder of .txt, .jsonl, .json, .csv or .parquet files",
                dir.display()
            ));
        }
        recipe.data.folder = Some(dir.clone());
    }
    for path in [&mut recipe.data.folder, &mut recipe.data.root]
        .into_iter()
        .flatten()
    {
        if let Ok(whole) = path.canonicalize() {
            *path = whole;
        }
    }
    recipe.validate()?;
    Ok(recipe)
}

pub(crate) fn run(args: &RunArgs, common: &Common) -> Result<u8> {
    let recipe = resolved(args, common)?;
    let name = args.run.clone().unwrap_or_else(|| recipe.name.clone());
    let header = header(&recipe, args.until.as_deref(), &Value::Null);
    let run = Run::create(&common.root, &name, &header)?;
    go(&run, &recipe, &Span::of(&header), None, common)
}

/// The recipe that a run was started with.
pub(crate) fn recipe_of(run: &Run) -> Result<Recipe> {
    serde_json::from_value(run.recipe()["recipe"].clone()).with_context(|| {
        format!(
            "the recipe of run `{}` is not one that this program reads; use the forge that started it, or start a new run",
            run.name()
        )
    })
}

pub(crate) fn resume(args: &ResumeArgs, common: &Common) -> Result<u8> {
    // What decides the result is fixed once a run has begun.
    if let Some(change) = common.set.iter().find(|c| !c.starts_with("checkpoint.")) {
        return usage(format!(
            "--set {change}: the recipe of a run is fixed when it starts; only checkpoint.* may be changed on resume, start another run for the rest"
        ));
    }
    let run = runs::named(&common.root, &args.run, Run::open(&common.root, &args.run))?;
    let header = run.recipe();
    let recipe = recipes::change(&recipe_of(&run)?, &common.set)?;
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
    let mut span = Span::of(&header);
    if let Some(until) = &args.until {
        span.last.clone_from(until);
    }
    if span.phases().all(|p| section_path(&run, p).is_file()) {
        eprintln!("run `{}` is finished; nothing is left to do", args.run);
        return finished(&run, common);
    }
    let checkpoint = run.newest_checkpoint()?;
    match &checkpoint {
        Some(c) => {
            for s in &c.skipped {
                eprintln!(
                    "checkpoint {} is damaged ({}), using an older one",
                    s.path.display(),
                    s.fault
                );
            }
            eprintln!(
                "going on from checkpoint {} ({} unit {})",
                c.path.file_name().unwrap_or_default().display(),
                c.key.phase,
                c.key.step
            );
        }
        None => eprintln!("no checkpoint yet, starting from the beginning"),
    }
    run.rewind(checkpoint.as_ref())?;
    let bag = checkpoint.map(|c| (c.key.phase, c.bag));
    go(&run, &recipe, &span, bag, common)
}

/// The run as far as it goes; the exit code.
pub(crate) fn go(
    run: &Run,
    recipe: &Recipe,
    span: &Span,
    bag: Option<(String, Bag)>,
    common: &Common,
) -> Result<u8> {
    let interrupt = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second signal ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, interrupt.clone())?;
        signal_hook::flag::register(signal, interrupt.clone())?;
    }
    run.set_state(RunState::Running)?;
    let end =
        prepare(run, recipe).and_then(|source| phases(run, recipe, &source, span, bag, &interrupt));
    let name = run.name();
    match end {
        Ok(End::Finished) => {
            run.set_state(RunState::Done)?;
            finished(run, common)
        }
        Ok(End::Stopped) => {
            run.set_state(RunState::Stopped)?;
            eprintln!("stopped as asked; go on with: forge resume {name}");
            Ok(0)
        }
        Ok(End::Interrupted) => {
            run.set_state(RunState::Stopped)?;
            eprintln!("interrupted, checkpoint written; go on with: forge resume {name}");
            Ok(130)
        }
        // Nothing was computed yet: the name stays free for the mended command.
        Err(fault) if run.attempt() == 1 && !frozen(run).is_file() => {
            std::fs::remove_dir_all(run.dir()).context("removing the run that could not start")?;
            Err(fault)
        }
        Err(fault) => {
            // A full disk may refuse this too; the first fault is the one to report.
            let state = match fault.downcast_ref() {
                Some(train::Error::Stopped { .. }) => RunState::Stopped,
                _ => RunState::Failed,
            };
            let _ = run.set_state(state);
            Err(fault.context(format!(
                "run `{name}` failed; what was written is intact, and `forge resume {name}` goes on from the last checkpoint"
            )))
        }
    }
}

/// Runs a span from its beginning without showing a report; for a second run beside a first.
pub(crate) fn go_quietly(run: &Run, recipe: &Recipe, span: &Span) -> Result<()> {
    let source = prepare(run, recipe)?;
    let never = AtomicBool::new(false);
    phases(run, recipe, &source, span, None, &never)?;
    Ok(run.set_state(RunState::Done)?)
}

/// Writes and shows the report of a finished run.
fn finished(run: &Run, common: &Common) -> Result<u8> {
    let report = assemble(run)?;
    store::write_file(
        &run.dir().join("reports").join("report.json"),
        "the report",
        &serde_json::to_vec_pretty(&report)?,
    )?;
    if common.json {
        output::json(&report);
    } else {
        output::text(&summary(run, &report));
    }
    Ok(0)
}

/// The file whose presence says that a run's data are complete.
fn frozen(run: &Run) -> PathBuf {
    run.dir().join("data").join("frozen.json")
}

/// The data of a run, read and frozen at its first start; the precision of its products from here on.
fn prepare(run: &Run, recipe: &Recipe) -> Result<Source> {
    tensor::precision::select(recipe.precision.resolved()).map_err(anyhow::Error::msg)?;
    let folder = run.dir().join("data");
    let source = Source::prepare(
        &folder,
        &crate::hub::with_cache(&recipe.data),
        recipe.model.vocab,
        &|line| {
            eprintln!("{line}");
        },
    )?;
    // Once, also where a kill came between freezing the data and saying so.
    if run.journal().events()?.iter().all(|e| e.kind != "data") {
        let key = Key {
            attempt: run.attempt(),
            phase: "data".into(),
            branch: String::new(),
            step: 0,
        };
        unavailable(run, &key, &source)?;
        run.journal().event(&key, "data", &json!(source.summary))?;
    }
    Ok(source)
}

/// Alerts about text that a run does without: optional data sets that were not there, and families of which there is no
/// training text, whose share of the mixes goes to the others.
fn unavailable(run: &Run, key: &Key, source: &Source) -> Result<()> {
    let absent = source.summary.iter().filter(|used| used.absent);
    let absent = absent.map(|used| ("dataset-unavailable", used.dataset.clone()));
    let families = source.available();
    let without = |family: &data::Family| families.iter().all(|(_, f, _)| f != family);
    let empty = data::Family::ALL.into_iter().filter(without);
    let empty = empty.map(|family| ("family-without-text", family.name().to_string()));
    let known = run.journal().alerts()?;
    for (detector, what) in absent.chain(empty) {
        // A kill may have come after some of them.
        if (known.iter()).any(|a| a.detector == detector && a.branch == what) {
            continue;
        }
        let key = Key {
            branch: what,
            ..key.clone()
        };
        let alert = run.journal().alert(&key, detector, 0.0, 1.0)?;
        run.journal().settle_alert(alert, "go-on", "automatic")?;
    }
    Ok(())
}

/// Drives the phases of a span that are not finished yet.
fn phases(
    run: &Run,
    recipe: &Recipe,
    source: &Source,
    span: &Span,
    mut bag: Option<(String, Bag)>,
    interrupt: &AtomicBool,
) -> Result<End> {
    let started = Instant::now();
    let clock = || started.elapsed().as_secs_f64();
    let memory = train::memory::limit();
    // The same tenth that a micro-batch leaves over.
    tensor::storage::allow((memory.bytes - memory.bytes / 10) as usize);
    let cx = Context {
        run,
        recipe,
        source,
        memory,
        clock: &clock,
    };
    for name in span.phases() {
        if section_path(run, name).is_file() {
            continue;
        }
        let (begun, before) = (clock(), earlier_seconds(run, folder(name))?);
        let own = bag
            .take()
            .filter(|(phase, _)| phase == folder(name))
            .map(|(_, b)| b);
        let mut phase = open(name, &cx, own.as_ref())?;
        let saving = recipe.checkpoint.saving();
        let mut progress = Progress::new(&*phase, begun);
        let end = driver::drive(&mut *phase, &cx, saving, interrupt, &mut |p| {
            progress.show(p, clock());
        })?;
        progress.finish();
        if end != End::Finished {
            return Ok(end);
        }
        driver::save(&*phase, &cx, saving.keep)?;
        let mut section = phase.finish(&cx)?;
        if section.get("seconds").is_none() {
            section["seconds"] = json!(before + clock() - begun);
        }
        let key = cx.key(folder(name), "", phase.done());
        cx.event(&key, "phase-finished", &json!({ "phase": name }))?;
        store::write_file(
            &section_path(run, name),
            "the report of a phase",
            &serde_json::to_vec_pretty(&section)?,
        )?;
    }
    Ok(End::Finished)
}

/// Seconds that earlier attempts spent on a phase, between the first and the last row that each journaled.
fn earlier_seconds(run: &Run, phase: &str) -> Result<f64> {
    let rows = run.journal().metrics(&Filter {
        phase: Some(phase.into()),
        superseded: true,
        ..Filter::default()
    })?;
    let mut spans: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for row in rows.iter().filter(|r| r.key.attempt < run.attempt()) {
        let span = spans.entry(row.key.attempt).or_insert((row.wall, row.wall));
        *span = (span.0.min(row.wall), span.1.max(row.wall));
    }
    Ok(spans.values().map(|(from, to)| to - from).sum())
}

/// A model that an earlier phase left in the run.
fn handed_on(run: &Run, phase: &str, name: &str) -> PathBuf {
    let finals = run.dir().join(folder(phase)).join("final");
    finals.join(format!("{name}.safetensors"))
}

/// A phase at its beginning, or as a checkpoint left it.
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
        "quietstar" => Box::new(match bag {
            Some(b) => Quietstar::restore(cx, b)?,
            None => {
                let champion = handed_on(cx.run, "evomerge", "champion");
                let (model, tokenizer) = train::checkpoint::load_final(&champion)?;
                Quietstar::start(cx, &model, &tokenizer)?
            }
        }),
        "bitnet" => {
            let champion = handed_on(cx.run, "quietstar", "quietstar");
            Box::new(match bag {
                Some(b) => BitnetPhase::restore(cx, b)?,
                None => BitnetPhase::start(cx, &champion)?,
            })
        }
        other => bail!("phase `{other}` is not built into this program"),
    })
}
