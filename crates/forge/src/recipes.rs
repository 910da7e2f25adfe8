//! Recipes: TOML with at most one `base` (which may have one itself), changed by `--set`, turned into a resolved [`Recipe`].
//!
//! The recipes of the project are built into the program; a path to a TOML file works as well. An unknown
//! key is refused with the nearest known one.

use crate::fault::{nearest, usage};
use anyhow::{Context as _, Result};
use std::path::Path;
use toml::{Table, Value};
use train::Recipe;

/// The recipes that come with the program.
const BUILT_IN: [(&str, &str); 5] = [
    ("tiny", include_str!("../../../recipes/tiny.toml")),
    ("quick", include_str!("../../../recipes/quick.toml")),
    ("small", include_str!("../../../recipes/small.toml")),
    ("base", include_str!("../../../recipes/base.toml")),
    ("plan", include_str!("../../../recipes/plan.toml")),
];

/// Names of the built-in recipes.
pub(crate) fn names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(n, _)| *n).collect()
}

/// Reads a recipe by name or path and applies `--set` changes.
pub(crate) fn load(name: &str, set: &[String]) -> Result<Recipe> {
    changed(table(name, 0)?, set)
}

/// A recipe that is resolved already, with `--set` changes.
pub(crate) fn change(recipe: &Recipe, set: &[String]) -> Result<Recipe> {
    changed(
        Table::try_from(recipe).context("a recipe is plain data")?,
        set,
    )
}

/// A value of `--set` as JSON.
pub(crate) fn value(text: &str) -> serde_json::Value {
    serde_json::to_value(parse(text)).unwrap_or_default()
}

fn changed(mut table: Table, set: &[String]) -> Result<Recipe> {
    let known = table.clone();
    for change in set {
        let Some((key, text)) = change.split_once('=') else {
            return usage(format!(
                "--set {change}: expected KEY=VALUE, such as --set seed=7"
            ));
        };
        apply(&mut table, &known, key, parse(text))?;
    }
    resolve(table)
}

fn resolve(table: Table) -> Result<Recipe> {
    let text = toml::to_string(&table).context("a recipe is plain data")?;
    let recipe: Recipe = match toml::from_str(&text) {
        Ok(r) => r,
        Err(e) => {
            let key = e.span().map_or(String::new(), |s| key_at(&text, s.start));
            let hint = suggestion(e.message());
            return usage(format!("recipe{key}: {}{hint}", e.message()));
        }
    };
    recipe.validate()?;
    Ok(recipe)
}

/// The key whose line holds byte `at` of a TOML text, with its table.
fn key_at(text: &str, at: usize) -> String {
    let before = &text[..text[at..].find('\n').map_or(text.len(), |n| at + n)];
    let line = before.lines().last().unwrap_or_default();
    let table = before
        .lines()
        .rev()
        .find_map(|l| l.strip_prefix('[')?.strip_suffix(']'));
    match (table, line.split_once(" = ")) {
        (Some(t), Some((key, _))) => format!(" key `{t}.{key}`"),
        (None, Some((key, _))) => format!(" key `{key}`"),
        (Some(t), None) => format!(" table `{t}`"),
        (None, None) => String::new(),
    }
}

/// "unknown field `x`, expected one of `a`, `b`": the nearest of those.
fn suggestion(message: &str) -> String {
    let words: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match words.split_first() {
        Some((found, known)) if message.starts_with("unknown field") => {
            nearest(found, known.iter().copied())
        }
        _ => String::new(),
    }
}

fn table(name: &str, depth: usize) -> Result<Table> {
    let text = match BUILT_IN.iter().find(|(n, _)| *n == name) {
        Some((_, text)) => (*text).to_string(),
        None if Path::new(name).extension().is_some_and(|e| e == "toml") => {
            match std::fs::read_to_string(name) {
                Ok(text) => text,
                Err(e) => {
                    return usage(format!(
                        "recipe file {name}: {e}; give a TOML file or one of {}",
                        names().join(", ")
                    ));
                }
            }
        }
        None => {
            return usage(format!(
                "no recipe `{name}`; there are {} (or give a path ending in .toml){}",
                names().join(", "),
                nearest(name, names().into_iter())
            ));
        }
    };
    let mut own: Table = match toml::from_str(&text) {
        Ok(t) => t,
        Err(e) => return usage(format!("recipe {name}: {e}")),
    };
    match own.remove("base") {
        None => Ok(own),
        Some(Value::String(base)) if depth < 4 => {
            let mut merged = table(&base, depth + 1)?;
            overlay(&mut merged, own);
            Ok(merged)
        }
        Some(Value::String(base)) => usage(format!(
            "recipe {name}: its chain of bases goes on with `{base}`; four are allowed; look for one that builds on itself"
        )),
        Some(other) => usage(format!(
            "recipe {name}: `base` is {other}, expected the name of a recipe"
        )),
    }
}

fn overlay(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(u)), Value::Table(o)) => overlay(u, o),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// A value as TOML, or else as a plain string: --set data.root=../text needs no quotes.
fn parse(text: &str) -> Value {
    toml::from_str::<Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(text.into()))
}

/// Keys that a recipe may leave out.
const OPTIONAL: [&str; 2] = ["data.root", "data.folder"];

fn apply(table: &mut Table, known: &Table, key: &str, value: Value) -> Result<()> {
    let all = paths(known, "");
    if !all.iter().any(|k| k == key) && !OPTIONAL.contains(&key) {
        let candidates = all.iter().map(String::as_str).chain(OPTIONAL);
        return usage(format!(
            "--set {key}: no such recipe key{}",
            nearest(key, candidates)
        ));
    }
    let mut at = table;
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or(key);
    for part in parts {
        let next = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(t) = next else {
            return usage(format!("--set {key}: `{part}` is not a table"));
        };
        at = t;
    }
    // An integer is welcome where a number with a fraction stands.
    let value = match (at.get(last), value) {
        (Some(Value::Float(_)), Value::Integer(i)) => Value::Float(i as f64),
        (_, v) => v,
    };
    at.insert(last.to_string(), value);
    Ok(())
}

fn paths(table: &Table, prefix: &str) -> Vec<String> {
    table
        .iter()
        .flat_map(|(k, v)| {
            let path = if prefix.is_empty() {
                k.clone()
            } else {
                format!("{prefix}.{k}")
            };
            match v {
                Value::Table(t) => paths(t, &path),
                _ => vec![path],
            }
        })
        .collect()
}
