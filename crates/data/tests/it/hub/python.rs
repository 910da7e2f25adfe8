//! The cache as PyPI's `huggingface-hub` sees it, in a virtual environment that is made for it once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Scene, TRAIN, gsm8k};

/// The version that the layout was compared with.
const PACKAGE: &str = "huggingface-hub==2.4.0";

/// Reads one file by its name, the whole snapshot, and a scan of the cache, without the network.
const PROGRAM: &str = r#"
import sys
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download
cache, revision, name = sys.argv[1:]
path = hf_hub_download("openai/gsm8k", name, repo_type="dataset", revision=revision, cache_dir=cache, local_files_only=True)
folder = snapshot_download("openai/gsm8k", repo_type="dataset", revision=revision, cache_dir=cache, local_files_only=True)
scan = scan_cache_dir(cache)
repo, = scan.repos
print(len(open(path).readlines()), path.startswith(folder), repo.repo_id, repo.repo_type, repo.nb_files, len(scan.warnings))
"#;

/// A Python with the package, or None with the word that a skipped test owes.
fn python() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("huggingface-hub");
    let python = folder.join("bin/python");
    let run = |command: &mut Command| {
        command
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|done| done.status.success())
    };
    let there = |python: &Path| run(Command::new(python).args(["-c", "import huggingface_hub"]));
    if there(&python) {
        return Some(python);
    }
    let made = run(Command::new("python3").args(["-m", "venv"]).arg(&folder))
        && run(Command::new(&python).args(["-m", "pip", "install", "--quiet", PACKAGE]));
    if !made || !there(&python) {
        println!("skipped: no Python with {PACKAGE} could be had");
        return None;
    }
    Some(python)
}

#[test]
fn huggingface_hub_reads_the_cache_without_the_network() {
    let Some(python) = python() else {
        return;
    };
    let (hub, scene) = (gsm8k(), Scene::new());
    let settings = scene.settings(&[&hub]);
    let fetched = scene.fetch(&settings).unwrap();
    let done = Command::new(python)
        .args(["-c", PROGRAM])
        .arg(&settings.cache)
        .args([&fetched[0].commit, TRAIN])
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("HF_HOME", scene.cache.path().join("home"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert_eq!(said.trim(), "3000 True openai/gsm8k dataset 2 0");
}
