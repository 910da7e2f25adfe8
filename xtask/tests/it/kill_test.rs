//! Kill-test against a small shell program that counts, saves its count, and ends with a file.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use xtask::Error;
use xtask::kill_test::{Outcome, Plan, compare, run};

/// Counts to 40, about 30 ms each, with a checkpoint every 5. `FINAL` is what it writes at the end.
const COUNTER: &str = r#"#!/bin/sh
set -eu
command=$1
while [ "$1" != --root ]; do shift; done
run="$2/runs/kill-test"
save="$run/checkpoints/count"
mkdir -p "$run/checkpoints" "$run/phase1-count/final"
[ "$command" = resume ] && echo resumed >> "$run/resumed"
i=0
if [ -f "$save" ]; then i=$(cat "$save"); fi
while [ "$i" -lt 40 ]; do
  i=$((i + 1)); sleep 0.03
  if [ $((i % 5)) = 0 ]; then echo "$i" > "$save.new"; mv "$save.new" "$save"; fi
done
FINAL
"#;

/// Its moments for three kills lie early in their spans, so that they land on a busy machine too,
/// where the killed run may be faster than the one that was timed.
const SEED: u64 = 279;

fn counter(folder: &Path, last_line: &str) -> PathBuf {
    let path = folder.join("counter");
    std::fs::write(&path, COUNTER.replace("FINAL", last_line)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn kill(last_line: &str, times: usize) -> Result<Outcome, Error> {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        recipe: "count".into(),
        times,
        binary: counter(folder.path(), last_line),
        root: Some(folder.path().join("root")),
        seed: SEED,
        set: vec![],
        flags: vec![],
    };
    run(&plan, &mut |_| ())
}

#[test]
fn a_run_that_goes_on_from_its_checkpoints_passes() {
    let outcome = kill(r#"echo "$i" > "$run/phase1-count/final/model""#, 3).unwrap();
    assert_eq!(outcome.kills.len(), 3, "{outcome}");
    assert!(outcome.passed(), "{outcome}");
    let moments: Vec<f64> = outcome.kills.iter().map(|kill| kill.moment).collect();
    assert!(moments.is_sorted(), "one moment a span: {moments:?}");
    assert!(
        moments[2] > 0.6 * outcome.reference_seconds,
        "the last span is late: {moments:?}"
    );
    let from = outcome.kills[2].from;
    assert!(from > 0.0 && from < outcome.reference_seconds, "{outcome}");
}

#[test]
fn a_run_that_remembers_its_kills_fails() {
    let outcome = kill(
        r#"cat "$run/resumed" > "$run/phase1-count/final/model" 2>&- || :"#,
        2,
    )
    .unwrap();
    assert!(!outcome.passed(), "{outcome}");
    assert_eq!(outcome.files[0].differs_at, Some(0));
}

#[test]
fn a_run_that_leaves_nothing_fails() {
    let outcome = kill(":", 1).unwrap();
    assert!(!outcome.passed());
    assert!(outcome.to_string().contains("nothing was compared"));
}

#[test]
fn a_failing_run_is_an_error_that_names_the_log() {
    let message = kill("exit 7", 1).err().unwrap().to_string();
    assert!(
        message.contains("exit status: 7") && message.contains("attempt-00.log"),
        "{message}"
    );
}

#[test]
fn a_missing_binary_says_how_to_build_it() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        recipe: "count".into(),
        times: 1,
        binary: folder.path().join("none"),
        root: Some(folder.path().to_owned()),
        seed: 1,
        set: vec![],
        flags: vec![],
    };
    let message = run(&plan, &mut |_| ()).err().unwrap().to_string();
    assert!(
        message.contains("cargo build --release -p forge"),
        "{message}"
    );
}

#[test]
fn an_older_run_in_the_root_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("killed/runs/kill-test")).unwrap();
    let plan = Plan {
        recipe: "count".into(),
        times: 1,
        binary: "none".into(),
        root: Some(folder.path().to_owned()),
        seed: 1,
        set: vec![],
        flags: vec![],
    };
    let message = run(&plan, &mut |_| ()).err().unwrap().to_string();
    assert!(
        message.contains("--root") && message.contains("older"),
        "{message}"
    );
}

#[test]
fn comparison_tells_lost_longer_and_changed_files() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for (path, text) in [
        ("equal", "abc"),
        ("changed", "abc"),
        ("longer", "abc"),
        ("deep/lost", "abc"),
    ] {
        write(&format!("a/phase1/final/{path}"), text);
    }
    write("a/phase1/report.json", "not compared");
    for (path, text) in [
        ("equal", "abc"),
        ("changed", "abX"),
        ("longer", "abcd"),
        ("new", ""),
    ] {
        write(&format!("b/phase1/final/{path}"), text);
    }
    let found = compare(&folder.path().join("a"), &folder.path().join("b")).unwrap();
    let lines: Vec<String> = found
        .iter()
        .map(|file| {
            file.to_string()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    let expected = [
        "3 differs at 2 phase1/final/changed",
        "3 lost when killed phase1/final/deep/lost",
        "3 equal phase1/final/equal",
        "3 differs at 3 phase1/final/longer",
        "0 only when killed phase1/final/new",
    ];
    assert_eq!(lines, expected);
    assert_eq!(found.iter().filter(|file| file.equal()).count(), 1);
}
