//! Running the program: folders of runs, what a process said, runs in the background, final files.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program under test.
pub(crate) const FORGE: &str = env!("CARGO_BIN_EXE_forge");

/// Recipe `tiny`, shrunk until all phases take a few seconds.
const MICRO: &[&str] = &[
    "data.builtin_documents=120",
    "data.items_per_set=4",
    "data.texts_per_set=3",
    "data.tokenizer_bytes=40000",
    "model.vocab=320",
    "model.width=32",
    "model.ffn=64",
    "model.slots_small=16",
    "model.slots_large=32",
    "model.passes=2",
    "cognate.ancestor_steps=4",
    "cognate.epochs=[2,2,1]",
    "cognate.tokens_per_step=128",
    "cognate.sequence=64",
    "cognate.gate_steps=2",
    "cognate.gate_tokens=128",
    "cognate.measure_tokens=128",
    "evomerge.generations=1",
    "evomerge.rounds=[2]",
    "evomerge.finalists=1",
    "evomerge.comparison_items=2",
    "evomerge.sweep=[0.4]",
    "evomerge.random_search=false",
    "quietstar.mixing=8",
    "quietstar.baking.epochs=2",
    "quietstar.baking.easy_epochs=1",
    "quietstar.baking.traces=2",
    "quietstar.baking.held_out=1",
    "quietstar.baking.held_out_between=1",
    "quietstar.baking.most_new=6",
    "quietstar.baking.max_len=320",
    "quietstar.rl.steps=2",
    "quietstar.rl.length=3",
    "quietstar.rl.text_tokens=32",
    "quietstar.battery.samples=2",
    "quietstar.battery.resamples=10",
    "bitnet.finetune_steps=2",
    "bitnet.items=2",
    "bitnet.calibration_samples=4",
    "bitnet.decision_tokens=128",
    "bitnet.tokens_per_step=128",
];

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "out: {}\nerr: {}",
            self.out,
            self.err
        );
        self
    }

    /// Asserts that the faults name all of these.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.err.contains(part), "`{part}` is not in: {}", self.err);
        }
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e} in: {}", self.out))
    }
}

/// A folder of runs.
pub(crate) struct Root {
    pub(crate) dir: TempDir,
}

impl Root {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs the program to its end.
    pub(crate) fn forge(&self, args: &[&str]) -> Done {
        forge(self.path(), args)
    }

    /// `forge run tiny --run NAME`, shrunk, to its end.
    pub(crate) fn run(&self, name: &str, more: &[&str]) -> Done {
        let mut args = micro(name);
        args.extend(more.iter().map(ToString::to_string));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.forge(&args)
    }

    /// The same in the background.
    pub(crate) fn start(&self, name: &str, more: &[&str]) -> Child {
        let mut args = micro(name);
        args.extend(more.iter().map(ToString::to_string));
        spawn(self.path(), &args)
    }

    pub(crate) fn resume_in_background(&self, name: &str) -> Child {
        spawn(self.path(), &["resume".into(), name.into()])
    }

    pub(crate) fn run_dir(&self, name: &str) -> PathBuf {
        self.path().join("runs").join(name)
    }

    /// The final files of a run.
    pub(crate) fn finals(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        finals(&self.run_dir(name))
    }

    /// Waits for the first checkpoint of a phase and gives its number.
    pub(crate) fn wait_for_phase(&self, name: &str, phase: &str, child: &mut Child) -> u32 {
        loop {
            let newest = self.newest_checkpoint(name);
            let found = checkpoints(&self.run_dir(name)).pop();
            if found.is_some_and(|p| p.display().to_string().ends_with(phase)) {
                return newest.max(1);
            }
            self.wait_for_checkpoint(name, newest + 1, child);
        }
    }

    /// Waits until a checkpoint of at least this number is there; panics when the run ends before.
    pub(crate) fn wait_for_checkpoint(&self, name: &str, number: u32, child: &mut Child) {
        let begun = Instant::now();
        while self.newest_checkpoint(name) < number {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the run ended ({status}) before checkpoint {number}");
            }
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "no checkpoint {number} within two minutes"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn newest_checkpoint(&self, name: &str) -> u32 {
        checkpoints(&self.run_dir(name))
            .last()
            .map_or(0, |p| number(p))
    }
}

fn number(path: &Path) -> u32 {
    path.file_name().unwrap().to_str().unwrap()[..6]
        .parse()
        .unwrap()
}

/// The checkpoints of a run, the oldest first.
pub(crate) fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(run.join("checkpoints")) else {
        return Vec::new();
    };
    let plain = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with('0');
    let mut list: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(plain).collect();
    list.sort();
    list
}

/// Every file below a `final` folder, by its path in the run.
pub(crate) fn finals(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for phase in std::fs::read_dir(run).unwrap().flatten() {
        let Ok(entries) = std::fs::read_dir(phase.path().join("final")) else {
            continue;
        };
        for file in entries.flatten() {
            let name = file.path().strip_prefix(run).unwrap().display().to_string();
            files.insert(name, std::fs::read(file.path()).unwrap());
        }
    }
    files
}

/// Asserts that two runs handed on the same bytes; names the files that differ.
#[track_caller]
pub(crate) fn assert_same(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) {
    assert!(!a.is_empty(), "there are no final files");
    let names = |m: &BTreeMap<String, Vec<u8>>| m.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(a), names(b));
    let differ: Vec<&String> = a.keys().filter(|k| a[*k] != b[*k]).collect();
    assert!(differ.is_empty(), "these files differ: {differ:?}");
}

/// Runs the program to its end on one or more arguments.
pub(crate) fn forge(root: &Path, args: &[&str]) -> Done {
    end(own(root).arg("--root").arg(root).args(args))
}

/// The program with no cache of the hub but one of the test's own, and no way to the hub.
pub(crate) fn own(root: &Path) -> Command {
    let mut command = Command::new(FORGE);
    for name in [
        "HF_HUB_CACHE",
        "HF_TOKEN",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        command.env_remove(name);
    }
    command
        .env("HF_HOME", root.join("huggingface"))
        .env("HF_HUB_OFFLINE", "1");
    command
}

/// The same on a given instruction path.
pub(crate) fn forge_on(isa: &str, root: &Path, args: &[&str]) -> Done {
    let mut command = own(root);
    end(command
        .env("FORGE_ISA", isa)
        .arg("--root")
        .arg(root)
        .args(args))
}

/// The same with an address space of at most so many KiB.
#[cfg(target_os = "linux")]
pub(crate) fn forge_within(kib: u64, root: &Path, args: &[&str]) -> Done {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "ulimit -v \"$0\" && exec \"$@\"",
        &kib.to_string(),
        FORGE,
        "--root",
    ]);
    end(command.arg(root).args(args))
}

pub(crate) fn end(command: &mut Command) -> Done {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Done {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The arguments of a shrunk run of `tiny`.
pub(crate) fn micro(name: &str) -> Vec<String> {
    let mut args: Vec<String> = ["run", "tiny", "--run", name].map(String::from).into();
    for change in MICRO {
        args.extend(["--set".into(), (*change).into()]);
    }
    args
}

fn spawn(root: &Path, args: &[String]) -> Child {
    own(root)
        .arg("--root")
        .arg(root)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for a process and takes what it said.
pub(crate) fn wait(child: Child) -> Done {
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A folder with an undisturbed run `whole`, made once for all tests at this number of threads.
pub(crate) fn undisturbed(threads: usize) -> PathBuf {
    static MADE: Mutex<BTreeMap<usize, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(threads)
        .or_insert_with(|| {
            let root =
                Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("undisturbed-{threads}"));
            let _ = std::fs::remove_dir_all(&root);
            let mut args = micro("whole");
            args.extend(["--threads".into(), threads.to_string()]);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            forge(&root, &args).ended(0);
            root
        })
        .clone()
}
