//! Which crate of the workspace may import which, read from each `Cargo.toml`.
//!
//! A crate cannot use what its manifest does not name, so the manifests are enough. Dependencies
//! of tests and build scripts count too: a test that needs another crate belongs above both.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::{Finding, Repository};

/// The rule: a crate and all that it may import. ARCHITECTURE.md repeats it, and the check of the
/// map keeps the two equal.
pub(super) const ALLOWED: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("tensor", &["kernels"]),
    ("model", &["tensor"]),
    ("data", &[]),
    ("merge", &["kernels"]),
    ("store", &[]),
    ("train", &["model", "merge", "tensor", "data", "store"]),
    ("web", &["store", "model", "data"]),
    (
        "forge",
        &[
            "kernels", "tensor", "model", "data", "merge", "store", "train", "web",
        ],
    ),
    ("xtask", &[]),
];

/// What `name` may import, if the rule knows it.
pub(super) fn allowed(name: &str) -> Option<&'static [&'static str]> {
    ALLOWED
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, imports)| *imports)
}

pub(super) fn allowed_imports(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repository.texts() {
        let Some(folder) = crate_folder(path) else {
            continue;
        };
        match text.parse::<Table>() {
            Ok(manifest) => one_crate(path, folder, &manifest, &mut findings),
            Err(error) => {
                let reason = error.message();
                findings.push(Finding::file(path, format!("is not valid TOML: {reason}")));
            }
        }
    }
    findings
}

/// `data` for `crates/data/Cargo.toml`, `xtask` for `xtask/Cargo.toml`, nothing for the root and for the programs
/// of others that `bench` measures us against: no crate of ours can import them.
fn crate_folder(path: &str) -> Option<&str> {
    if path.starts_with("bench/") {
        return None;
    }
    path.strip_suffix("/Cargo.toml")?.rsplit('/').next()
}

fn one_crate(path: &str, folder: &str, manifest: &Table, findings: &mut Vec<Finding>) {
    let name = manifest
        .get("package")
        .and_then(|package| package.get("name")?.as_str());
    if name != Some(folder) {
        let name = name.unwrap_or("nothing");
        let message =
            format!("package is named {name}; a crate has the name of its folder, {folder}");
        findings.push(Finding::file(path, message));
    }
    let Some(allowed) = allowed(folder) else {
        let message = format!(
            "crate {folder} is not in the table of allowed imports; name the rule that it enforces \
             in ARCHITECTURE.md and add it to xtask/src/tidy/imports.rs"
        );
        findings.push(Finding::file(path, message));
        return;
    };
    for import in imports(manifest) {
        if self::allowed(&import).is_some() && !allowed.contains(&import.as_str()) {
            let may = if allowed.is_empty() {
                "no crate of ours".to_owned()
            } else {
                allowed.join(", ")
            };
            let message = format!(
                "{folder} imports {import}; it may import {may}. Move the code to a crate above both, \
                 or pass what it needs as an argument"
            );
            findings.push(Finding::file(path, message));
        }
    }
}

/// All packages that the manifest depends on, under their real names, for any target and purpose.
fn imports(manifest: &Table) -> BTreeSet<String> {
    let mut tables = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(Value::as_table) {
        tables.extend(targets.values().filter_map(Value::as_table));
    }
    let mut names = BTreeSet::new();
    for table in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = table.get(kind).and_then(Value::as_table) else {
                continue;
            };
            for (key, value) in dependencies {
                let renamed = value.get("package").and_then(Value::as_str);
                names.insert(renamed.unwrap_or(key).to_owned());
            }
        }
    }
    names
}
