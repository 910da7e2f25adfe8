//! `forge data fetch`, and what the environment says of the Hugging Face hub: its address, its cache, a token, a proxy.
//!
//! The variables are those of Hugging Face's own programs, so that whoever has set them up has set this up as well.

use crate::args::Common;
use crate::fault::{nearest, usage};
use crate::{output, recipes, table};
use anyhow::Result;
use clap::Args;
use data::Places;
use data::hub::{Event, Fetched, Settings, World};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use train::recipe::DataRecipe;

#[derive(Args)]
pub(crate) struct FetchArgs {
    /// Recipes or data sets, by name
    #[arg(required = true, value_name = "RECIPE|SET")]
    names: Vec<String>,
    /// Another address that serves the hub, asked in turn with HF_ENDPOINT (repeatable)
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,
    /// Use no network: say what the cache has, as with HF_HUB_OFFLINE=1
    #[arg(long)]
    offline: bool,
    /// Say what would be fetched, and fetch nothing
    #[arg(long)]
    dry_run: bool,
    /// Failures in a row after which a file is given up
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tries: u32,
    /// Seconds of silence after which a connection counts as lost
    #[arg(long, default_value_t = 60, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    stall: u64,
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The folder of the hub's cache; None where there is not even a home folder.
pub(crate) fn cache() -> Option<PathBuf> {
    let direct = variable("HF_HUB_CACHE").map(PathBuf::from);
    let home = || variable("HF_HOME").map(|home| Path::new(&home).join("hub"));
    let general = || {
        let user = variable("HOME").or_else(|| variable("USERPROFILE"));
        let caches = variable("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(&user?).join(".cache")));
        caches.map(|caches| caches.join("huggingface").join("hub"))
    };
    direct.or_else(home).or_else(general)
}

/// Where data sets are looked for: the data root, if one is set, and the cache.
pub(crate) fn places(root: Option<PathBuf>) -> Places {
    Places {
        root,
        cache: cache(),
    }
}

/// A recipe's data with the cache of this machine.
pub(crate) fn with_cache(data: &DataRecipe) -> DataRecipe {
    DataRecipe {
        cache: cache(),
        ..data.clone()
    }
}

/// Whether a variable says yes, as Hugging Face's programs read it.
fn says_yes(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())
}

/// The proxy for an endpoint, unless NO_PROXY names its host.
fn proxy(endpoint: &str) -> Option<String> {
    let names = match endpoint.starts_with("https:") {
        true => ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        false => ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    let host = endpoint.split("://").nth(1)?.split(['/', ':']).next()?;
    let spared = ["NO_PROXY", "no_proxy"].into_iter().find_map(variable);
    let spares = |entry: &str| {
        let entry = entry.trim().trim_start_matches('.');
        entry == "*"
            || (!entry.is_empty() && (host == entry || host.ends_with(&format!(".{entry}"))))
    };
    match spared.is_some_and(|spared| spared.split(',').any(spares)) {
        true => None,
        false => names.into_iter().find_map(variable),
    }
}

fn settings(args: &FetchArgs) -> Result<Settings> {
    let Some(cache) = cache() else {
        return usage(
            "HF_HOME is not set and there is no home folder; set HF_HOME to the folder that is to hold the hub's cache",
        );
    };
    let first = variable("HF_ENDPOINT").unwrap_or_else(|| data::hub::ENDPOINT.to_string());
    let proxy = proxy(&first);
    let endpoints = std::iter::once(first).chain(args.mirror.iter().cloned());
    let offline = variable("HF_HUB_OFFLINE").is_some_and(|value| says_yes(&value));
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = since.map_or(0, |time| time.as_nanos() as u64) ^ u64::from(std::process::id());
    Ok(Settings {
        endpoints: endpoints.collect(),
        cache,
        token: variable("HF_TOKEN")
            .map(|token| token.trim().to_string())
            .filter(|token| !token.is_empty()),
        proxy,
        offline: offline || args.offline,
        tries: args.tries,
        stall: Duration::from_secs(args.stall),
        seed,
        ..Settings::default()
    })
}

/// The data sets that the names stand for, each once, with those that are not on the hub apart.
fn sets(names: &[String], common: &Common) -> Result<(Vec<String>, Vec<String>)> {
    let (mut sets, mut elsewhere) = (Vec::new(), Vec::new());
    for name in names {
        let ids = match data::dataset(name) {
            Some(_) => vec![name.clone()],
            None if recipes::names().contains(&name.as_str()) || name.ends_with(".toml") => {
                let recipe = recipes::load(name, &common.set)?;
                let ids: Vec<&str> = recipe.data.sets.iter().map(String::as_str).collect();
                data::expand(&ids)
            }
            None => {
                let known: Vec<&str> = data::DATASETS.iter().map(|d| d.id).collect();
                let all = known.iter().copied().chain(recipes::names());
                return usage(format!(
                    "{name} is neither a data set ({}) nor a recipe ({}){}",
                    known.join(", "),
                    recipes::names().join(", "),
                    nearest(name, all)
                ));
            }
        };
        for id in ids {
            let into = match data::dataset(&id).is_some_and(|row| row.hub.is_empty()) {
                true => &mut elsewhere,
                false => &mut sets,
            };
            if !into.contains(&id) {
                into.push(id);
            }
        }
    }
    Ok((sets, elsewhere))
}

pub(crate) fn fetch(args: &FetchArgs, common: &Common) -> Result<u8> {
    let settings = settings(args)?;
    let (sets, elsewhere) = sets(&args.names, common)?;
    for row in elsewhere.iter().filter_map(|id| data::dataset(id)) {
        let how = match row.folders.is_empty() {
            true => "built in, nothing to fetch".to_string(),
            false => format!("not on the hub; {}", row.remedy()),
        };
        eprintln!("{}: {how}", row.id);
    }
    let display = Display::default();
    let free = |path: &Path| match store::disk_free(path) {
        // The system does not say; a disk that is full will.
        0 => u64::MAX,
        free => free,
    };
    let world = World {
        sleep: &std::thread::sleep,
        free: &free,
        tell: &|event| display.show(&event),
    };
    let (mut rows, mut failed) = (Vec::new(), 0);
    for id in &sets {
        eprintln!("{id}");
        let outcome = match args.dry_run {
            true => data::hub::ask(id, &settings, &world),
            false => data::hub::fetch(id, &settings, &world),
        };
        display.finish();
        match outcome {
            Ok(fetched) => rows.extend(fetched.into_iter().map(|f| (id, Ok(f)))),
            Err(error) => {
                failed += 1;
                eprintln!("{id}: {error}");
                rows.push((id, Err(error.to_string())));
            }
        }
    }
    if common.json {
        let rows: Vec<Value> = rows.iter().map(|(id, row)| as_json(id, row)).collect();
        output::json(&json!({ "cache": settings.cache, "dry_run": args.dry_run, "sets": rows }));
    } else if !rows.is_empty() {
        let cells: Vec<Vec<String>> = rows.iter().map(|(id, row)| cells(id, row)).collect();
        let now = if args.dry_run { "to fetch" } else { "fetched" };
        let header = ["data set", "repository", "commit", "files", "bytes", now];
        output::text(&table::table(&header, &cells));
        output::line(&format!("cache: {}", settings.cache.display()));
    }
    if failed > 0 {
        eprintln!(
            "{failed} of {} data sets failed; the lines above say why",
            sets.len()
        );
    }
    Ok(u8::from(failed > 0))
}

fn as_json(id: &str, row: &Result<Fetched, String>) -> Value {
    match row {
        Ok(f) => {
            json!({ "dataset": id, "repository": f.repository, "commit": f.commit, "folder": f.folder,
                         "files": f.files, "bytes": f.bytes, "fetched": f.missing, "error": null })
        }
        Err(error) => json!({ "dataset": id, "error": error }),
    }
}

fn cells(id: &str, row: &Result<Fetched, String>) -> Vec<String> {
    match row {
        Ok(f) => vec![
            id.into(),
            f.repository.clone(),
            format!("{:.7}", f.commit),
            f.files.len().to_string(),
            table::bytes(f.bytes),
            table::bytes(f.missing),
        ],
        Err(_) => [id, "failed", "-", "-", "-", "-"]
            .map(String::from)
            .to_vec(),
    }
}

/// A bar for the file that comes when a terminal watches, a line for each file when not.
#[derive(Default)]
struct Display {
    bar: RefCell<Option<ProgressBar>>,
}

impl Display {
    fn show(&self, event: &Event) {
        match event {
            Event::Begin { file, have, size } => self.begin(file, *have, *size),
            Event::Progress { have, .. } => {
                if let Some(bar) = &*self.bar.borrow() {
                    bar.set_position(*have);
                }
            }
            Event::Waiting { file } => {
                self.say(&format!("  {file}: another process fetches it, waiting"))
            }
            Event::Retry { problem, pause } => self.say(&format!(
                "  {problem}; trying again in {}",
                table::seconds(pause.as_secs_f64())
            )),
            Event::Landed { file } => {
                self.finish();
                eprintln!("  {file}");
            }
        }
    }

    fn begin(&self, file: &str, have: u64, size: u64) {
        if !std::io::stderr().is_terminal() {
            let had = match have {
                0 => String::new(),
                have => format!(", {} of them here from before", table::bytes(have)),
            };
            eprintln!("  {file}: {}{had}", table::bytes(size));
            return;
        }
        let bar = ProgressBar::new(size).with_position(have);
        if let Ok(style) = ProgressStyle::with_template(
            "  {wide_msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
        ) {
            bar.set_style(style);
        }
        bar.set_message(file.to_string());
        *self.bar.borrow_mut() = Some(bar);
    }

    fn say(&self, line: &str) {
        match &*self.bar.borrow() {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}
