//! Checks that hold for files of any kind: size, names, and what must not be written into them.

use super::{Finding, Repository};

const LINES: usize = 1000;
const BYTES: usize = 1 << 20;
/// Files that people write line by line. Data, lock files and prose have no such limit.
const WRITTEN: &[&str] = &[".rs", ".py", ".sh", ".toml", ".css", ".js", ".ts", ".html"];
/// Names that would fit any module, and so say nothing.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "manager", "managers", "helper", "helpers",
];
/// Folders that stand at the root of one machine or another, never in a repository.
const MACHINE_FOLDERS: &[&str] = &["work", "farm", "root", "home"];

pub(super) fn file_lengths(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repository.texts() {
        let lines = text.lines().count();
        if lines > LINES && WRITTEN.iter().any(|ending| path.ends_with(ending)) {
            let message =
                format!("{lines} lines, at most {LINES} allowed; split it by what it holds");
            findings.push(Finding::file(path, message));
        }
    }
    findings
}

pub(super) fn file_bytes(repository: &Repository) -> Vec<Finding> {
    let large = repository
        .files
        .iter()
        .filter(|(_, bytes)| bytes.len() > BYTES);
    large
        .map(|(path, bytes)| {
            let message = format!(
                "{} bytes, at most {BYTES} (1 MiB) allowed in the repository; generate it, or make it smaller",
                bytes.len()
            );
            Finding::file(path, message)
        })
        .collect()
}

pub(super) fn machine_paths(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repository
        .texts()
        .filter(|(path, _)| !path.ends_with(".lock"))
    {
        for (index, line) in text.lines().enumerate() {
            if let Some(found) = machine_path(line) {
                let message = format!(
                    "{found} is a path of one machine; write it relative to the repository, or take it as an argument"
                );
                findings.push(Finding::at(path, index + 1, message));
            }
        }
    }
    findings
}

/// The start of an absolute machine path in `line`: a folder of [`MACHINE_FOLDERS`] between two
/// slashes, a letter after it, and before it neither a letter, digit, underscore nor dot (which
/// would make it a relative path, or a part of an address).
fn machine_path(line: &str) -> Option<String> {
    for folder in MACHINE_FOLDERS {
        let root = format!("/{folder}/");
        for (at, _) in line.match_indices(&root) {
            let before = line[..at].chars().next_back();
            let after = line[at + root.len()..].chars().next();
            let relative =
                before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
            if !relative && after.is_some_and(|c| c.is_ascii_alphabetic()) {
                return Some(root);
            }
        }
    }
    None
}

pub(super) fn npm_addresses(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    let locks = [
        "package-lock.json",
        "npm-shrinkwrap.json",
        "yarn.lock",
        "pnpm-lock.yaml",
    ];
    for (path, text) in repository.texts() {
        if !path
            .rsplit('/')
            .next()
            .is_some_and(|name| locks.contains(&name))
        {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            let key = line.trim_start();
            let yaml =
                key.starts_with("resolved ") || (key.contains("tarball:") && key.contains("://"));
            if line.contains("\"resolved\"") || yaml {
                let message = "names the address of a registry; npm's omit-lockfile-registry-resolved=true leaves it out";
                findings.push(Finding::at(path, index + 1, message));
            }
        }
    }
    findings
}

pub(super) fn module_names(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repository.sources() {
        let mut parts = path.strip_suffix(".rs").unwrap_or(path).split('/');
        if let Some(part) = parts.find(|part| EMPTY_NAMES.contains(part)) {
            findings.push(Finding::file(path, refused_name(part)));
        }
        for (index, line) in super::code_only(text).lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let named = words
                .by_ref()
                .find(|word| *word == "mod")
                .and_then(|_| words.next());
            // `mod name;` is found by the file of that name; here only `mod name { .. }`.
            if let Some(name) =
                named.filter(|name| EMPTY_NAMES.contains(name) && line.contains('{'))
            {
                findings.push(Finding::at(path, index + 1, refused_name(name)));
            }
        }
    }
    findings
}

fn refused_name(name: &str) -> String {
    format!("a module called `{name}` says nothing of what it holds; name it for that")
}
