//! ARCHITECTURE.md's map against the folders and the rule of imports, and its length.
//!
//! The map is the first table after the heading `## Map`: a row names one folder in backticks in
//! its first cell, and for a crate what it may import in its last. A map that drifts from the code
//! is worse than none, so every folder has a row and every row a folder.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::{ALLOWED, allowed};
use super::{Finding, Repository};

const FILE: &str = "ARCHITECTURE.md";
const LINES: usize = 300;

struct Row<'a> {
    line: usize,
    last_cell: &'a str,
}

pub(super) fn architecture_map(repository: &Repository) -> Vec<Finding> {
    let Some((_, text)) = repository.texts().find(|(path, _)| *path == FILE) else {
        return vec![Finding::file(FILE, "is missing; it says where things are")];
    };
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > LINES {
        let message = format!(
            "{lines} lines, at most {LINES} allowed; shorten it or move detail to module docs"
        );
        findings.push(Finding::file(FILE, message));
    }
    let rows = rows(text);
    if rows.is_empty() {
        findings.push(Finding::file(
            FILE,
            "has no table of folders after a heading `## Map`",
        ));
        return findings;
    }
    let folders = folders(repository);
    for folder in folders
        .iter()
        .filter(|folder| !rows.contains_key(folder.as_str()))
    {
        findings.push(Finding::file(
            FILE,
            format!("the map has no row for {folder}; add one"),
        ));
    }
    for (folder, row) in &rows {
        if !folders.contains(*folder) {
            let message =
                format!("the map names {folder}, which holds no tracked file; remove the row");
            findings.push(Finding::at(FILE, row.line, message));
        }
        if let Some(expected) = folder.strip_prefix("crates/").and_then(allowed) {
            let written = crates_named(row.last_cell);
            if written != expected.iter().copied().collect() {
                let message = format!(
                    "the map lets {folder} import {}; xtask/src/tidy/imports.rs says {}. Make them equal",
                    list(written.into_iter()),
                    list(expected.iter().copied()),
                );
                findings.push(Finding::at(FILE, row.line, message));
            }
        }
    }
    findings
}

/// The folders that the map must name: each crate, and each other top folder that is not hidden.
fn folders(repository: &Repository) -> BTreeSet<String> {
    let mut folders = BTreeSet::new();
    for path in repository.files.keys() {
        let mut parts = path.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("crates"), Some(name), Some(_)) => folders.insert(format!("crates/{name}")),
            (Some(top), Some(_), _) if top != "crates" && !top.starts_with('.') => {
                folders.insert(top.to_owned())
            }
            _ => false,
        };
    }
    folders
}

/// The rows of the map by folder.
fn rows(text: &str) -> BTreeMap<&str, Row<'_>> {
    let mut rows = BTreeMap::new();
    let lines = text
        .lines()
        .enumerate()
        .skip_while(|(_, line)| line.trim() != "## Map")
        .skip(1);
    for (index, line) in lines.take_while(|(_, line)| !line.starts_with("## ")) {
        let Some(inner) = line
            .trim()
            .strip_prefix('|')
            .and_then(|rest| rest.strip_suffix('|'))
        else {
            continue;
        };
        let first = inner.split('|').next().unwrap_or_default().trim();
        if let Some(folder) = first
            .strip_prefix('`')
            .and_then(|name| name.strip_suffix('`'))
        {
            let last_cell = inner.rsplit('|').next().unwrap_or_default();
            rows.insert(
                folder.trim_end_matches('/'),
                Row {
                    line: index + 1,
                    last_cell,
                },
            );
        }
    }
    rows
}

fn crates_named(cell: &str) -> BTreeSet<&str> {
    let words = cell.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| ALLOWED.iter().any(|(name, _)| name == word))
        .collect()
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}
