//! Kills a run at random moments, resumes it each time, and compares what it hands on, byte for
//! byte, with the same run left alone.
//!
//! The undisturbed run is timed first. Kill i of n then falls at a random moment within the i-th
//! of n equal spans of that time, counted in *progress*: what a killed attempt did after its last
//! checkpoint is lost, so how far an attempt really came is read off the time of the newest folder
//! under `checkpoints/`. Progress so counted is an estimate, good enough to spread the kills; that
//! the final files are equal is exact. Runs are known by their command line and their folder only;
//! both have the same name, in two roots, so that a name in a file does not tell them apart.

mod compare;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::Error;

pub use compare::{Comparison, compare};

const RUN: &str = "kill-test";
/// Kills fall within this share of the undisturbed run's time: before it there is nothing to
/// resume, after it a run that is a little faster this time may have ended.
const SPREAD: (f64, f64) = (0.02, 0.95);

/// What to run and how often to kill it.
pub struct Plan {
    /// Recipe for `forge run`.
    pub recipe: String,
    /// Number of kills, at least 1.
    pub times: usize,
    /// The forge binary.
    pub binary: PathBuf,
    /// Folder for both runs; a temporary one when absent.
    pub root: Option<PathBuf>,
    /// Seed of the moments.
    pub seed: u64,
    /// Values for `--set`.
    pub set: Vec<String>,
    /// More flags of `forge run` and `forge resume`.
    pub flags: Vec<String>,
}

/// One attempt that was killed.
pub struct Kill {
    /// When it was to be killed, in seconds of progress.
    pub moment: f64,
    /// Progress at its start, in seconds: the estimate for the checkpoint it went on from.
    pub from: f64,
    /// How long it lived, in seconds.
    pub lived: f64,
}

/// What came of it.
pub struct Outcome {
    /// Seconds of the undisturbed run.
    pub reference_seconds: f64,
    /// The attempts that were killed, in order.
    pub kills: Vec<Kill>,
    /// The number of kills asked for.
    pub asked: usize,
    /// The final files of both runs.
    pub files: Vec<Comparison>,
    /// Where the runs lie, if they were kept.
    pub kept: Option<PathBuf>,
}

impl Outcome {
    /// Whether every kill landed, there are final files, and all of them are equal.
    pub fn passed(&self) -> bool {
        self.kills.len() == self.asked
            && !self.files.is_empty()
            && self.files.iter().all(Comparison::equal)
    }
}

/// Runs the whole test; `say` gets a line of progress now and then.
pub fn run(plan: &Plan, say: &mut dyn FnMut(String)) -> Result<Outcome, Error> {
    if plan.times == 0 {
        return Err(Error::Flag {
            flag: "--times",
            found: "0".into(),
            allowed: "1 or more",
        });
    }
    let (top, temporary) = match &plan.root {
        Some(root) => (root.clone(), None),
        None => {
            let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
            (folder.path().to_owned(), Some(folder))
        }
    };
    let outcome = run_in(plan, &top, say);
    // What a failure leaves behind is needed to find its cause.
    let passed = outcome.as_ref().is_ok_and(Outcome::passed);
    let kept = match temporary {
        Some(folder) if passed => folder.close().map(|()| None).map_err(Error::io(&top))?,
        Some(folder) => Some(folder.keep()),
        None => Some(top),
    };
    if let (Err(_), Some(kept)) = (&outcome, &kept) {
        say(format!("runs and logs are kept in {}", kept.display()));
    }
    Ok(Outcome { kept, ..outcome? })
}

fn run_in(plan: &Plan, top: &Path, say: &mut dyn FnMut(String)) -> Result<Outcome, Error> {
    let reference = Side::new(plan, top.join("reference"))?;
    let killed = Side::new(plan, top.join("killed"))?;
    say(format!(
        "recipe {}, {} kills, seed {}",
        plan.recipe, plan.times, plan.seed
    ));

    let mut attempt = reference.start(0)?;
    attempt.wait_for_success(None)?;
    let reference_seconds = attempt.seconds();
    say(format!("undisturbed run: {reference_seconds:.1} s"));

    // A resumed run may be slower, never by this much.
    let limit = Duration::from_secs_f64(60.0 + 5.0 * reference_seconds);
    let mut kills = Vec::new();
    let mut progress = 0.0;
    let mut ended = false;
    for moment in moments(plan.times, plan.seed, reference_seconds) {
        let mut attempt = killed.start(kills.len())?;
        let from = progress;
        if attempt.ends_within(Duration::from_secs_f64((moment - from).max(0.0)))? {
            ended = true;
            break;
        }
        let lived = attempt.kill()?;
        progress = killed.progress(&attempt, from);
        say(format!(
            "kill {}: {lived:.1} s after its start from {from:.1} s; kept up to {progress:.1} s",
            kills.len() + 1
        ));
        kills.push(Kill {
            moment,
            from,
            lived,
        });
    }
    if !ended {
        killed.start(kills.len())?.wait_for_success(Some(limit))?;
    }
    let files = compare(&reference.run_folder(), &killed.run_folder())?;
    Ok(Outcome {
        reference_seconds,
        kills,
        asked: plan.times,
        files,
        kept: None,
    })
}

/// One moment in each of `times` equal spans of the run's time, in seconds.
fn moments(times: usize, seed: u64, seconds: f64) -> Vec<f64> {
    let (first, last) = SPREAD;
    let span = (last - first) / times as f64;
    (0..times)
        .map(|i| seconds * (first + span * (i as f64 + uniform(seed, i as u64))))
        .collect()
}

/// A number in [0, 1) counted from seed and index (the finaliser of SplitMix64, twice).
fn uniform(seed: u64, index: u64) -> f64 {
    let mix = |mut z: u64| {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (mix(mix(seed) ^ index) >> 11) as f64 / (1u64 << 53) as f64
}

/// One of the two runs: its root and how to start it.
struct Side<'a> {
    plan: &'a Plan,
    root: PathBuf,
}

impl<'a> Side<'a> {
    fn new(plan: &'a Plan, root: PathBuf) -> Result<Self, Error> {
        // An older run there would be resumed, and compared, in place of a new one.
        if root.join("runs").join(RUN).exists() {
            let found = format!("{} holds an older kill-test", root.display());
            return Err(Error::Flag {
                flag: "--root",
                found,
                allowed: "a folder without one",
            });
        }
        std::fs::create_dir_all(&root).map_err(Error::io(&root))?;
        Ok(Self { plan, root })
    }

    fn run_folder(&self) -> PathBuf {
        self.root.join("runs").join(RUN)
    }

    /// Starts the run, or resumes it if there is one by now. Its output goes to a log per attempt.
    fn start(&self, attempt: usize) -> Result<Attempt, Error> {
        let log = self.root.join(format!("attempt-{attempt:02}.log"));
        let out = File::create(&log).map_err(Error::io(&log))?;
        let err = out.try_clone().map_err(Error::io(&log))?;
        let mut command = Command::new(&self.plan.binary);
        if self.run_folder().exists() {
            command.args(["resume", RUN]);
        } else {
            command.args(["run", &self.plan.recipe, "--run", RUN]);
            for value in &self.plan.set {
                command.args(["--set", value]);
            }
        }
        command
            .args(&self.plan.flags)
            .arg("--root")
            .arg(&self.root)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        let what = format!("{command:?}");
        let child = command.spawn().map_err(|source| Error::Start {
            program: what.clone(),
            source,
            remedy: "build it with `cargo build --release -p forge`, or name another with --binary",
        })?;
        Ok(Attempt {
            child,
            what,
            log,
            begun: Instant::now(),
            begun_at: SystemTime::now(),
        })
    }

    /// Progress that outlives `attempt`, which began at progress `from`.
    fn progress(&self, attempt: &Attempt, from: f64) -> f64 {
        let newest = newest_entry(&self.run_folder().join("checkpoints"));
        let since_start = newest.and_then(|time| time.duration_since(attempt.begun_at).ok());
        since_start.map_or(from, |gained| from + gained.as_secs_f64())
    }
}

/// When the newest entry of `folder` was last changed; none if there is no entry.
fn newest_entry(folder: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(folder).ok()?;
    entries
        .filter_map(|entry| entry.ok()?.metadata().ok()?.modified().ok())
        .max()
}

/// A running process. Dropping it ends the process, so that an error leaves none behind.
struct Attempt {
    child: Child,
    what: String,
    log: PathBuf,
    begun: Instant,
    begun_at: SystemTime,
}

impl Attempt {
    fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Waits until the process has ended or has lived for `time`; `true` if it ended, well.
    fn ends_within(&mut self, time: Duration) -> Result<bool, Error> {
        loop {
            if let Some(status) = self.child.try_wait().map_err(Error::io(&self.log))? {
                return self.judge(status).map(|()| true);
            }
            let left = time.saturating_sub(self.begun.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    fn wait_for_success(&mut self, limit: Option<Duration>) -> Result<(), Error> {
        let limit = limit.unwrap_or(Duration::MAX);
        if self.ends_within(limit)? {
            return Ok(());
        }
        Err(Error::TooLong {
            what: self.what.clone(),
            seconds: limit.as_secs_f64(),
            remedy: format!("see {}", self.log.display()),
        })
    }

    fn judge(&self, status: ExitStatus) -> Result<(), Error> {
        if status.success() {
            return Ok(());
        }
        Err(Error::Ended {
            what: self.what.clone(),
            status: status.to_string(),
            remedy: format!("see {}", self.log.display()),
        })
    }

    /// SIGKILL, and the seconds that the process lived.
    fn kill(&mut self) -> Result<f64, Error> {
        let lived = self.seconds();
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .map_err(Error::io(&self.log))?;
        Ok(lived)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // Fails only for a process that has ended, which is what is wanted.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:>6} {:>12} {:>12} {:>9}",
            "kill", "planned at", "began at", "lived"
        )?;
        for (
            index,
            Kill {
                moment,
                from,
                lived,
            },
        ) in self.kills.iter().enumerate()
        {
            writeln!(
                f,
                "{:>6} {moment:>10.1} s {from:>10.1} s {lived:>7.1} s",
                index + 1
            )?;
        }
        writeln!(f, "\n{:>12}  {:<20} final file", "bytes", "")?;
        for file in &self.files {
            writeln!(f, "{file}")?;
        }
        let equal = self.files.iter().filter(|file| file.equal()).count();
        writeln!(
            f,
            "\n{} of {} kills landed, {equal} of {} final files are equal; the undisturbed run took {:.1} s",
            self.kills.len(),
            self.asked,
            self.files.len(),
            self.reference_seconds
        )?;
        if self.files.is_empty() {
            writeln!(
                f,
                "neither run left a file under phase*/final: nothing was compared"
            )?;
        }
        if self.kills.len() < self.asked {
            writeln!(
                f,
                "the killed run ended before the last kill; try another --seed or fewer --times"
            )?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "runs and logs are kept in {}", kept.display())?;
        }
        Ok(())
    }
}
