//! How far a phase or an evaluation is: a bar when a terminal watches, a line now and then when not.

use crate::table;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Instant;
use train::Phase;

/// Seconds between lines when no terminal watches.
const EVERY: f64 = 5.0;

/// The display of one phase.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    begun: f64,
    done: u64,
    last: f64,
}

impl Progress {
    pub(crate) fn new(phase: &dyn Phase, now: f64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(phase.total()).with_position(phase.done());
            if let Ok(style) = ProgressStyle::with_template(
                "{prefix:>10} [{bar:30}] {pos}/{len} {elapsed} eta {eta} {wide_msg}",
            ) {
                bar.set_style(style);
            }
            bar.set_prefix(phase.name());
            bar
        });
        Self {
            bar,
            begun: now,
            done: phase.done(),
            last: now,
        }
    }

    /// Shows the phase as it stands.
    pub(crate) fn show(&mut self, phase: &dyn Phase, now: f64) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(phase.total());
                bar.set_position(phase.done());
                bar.set_message(phase.message());
            }
            None if now - self.last >= EVERY => {
                self.last = now;
                let rate = (now - self.begun) / (phase.done() - self.done).max(1) as f64;
                let left = rate * phase.total().saturating_sub(phase.done()) as f64;
                eprintln!(
                    "{} {}/{} ({} left) {}",
                    phase.name(),
                    phase.done(),
                    phase.total(),
                    table::seconds(left),
                    phase.message()
                );
            }
            None => {}
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The display of work that is counted in items.
pub(crate) struct Count {
    what: String,
    total: usize,
    done: usize,
    bar: Option<ProgressBar>,
    begun: Instant,
    last: f64,
}

impl Count {
    pub(crate) fn new(what: &str, total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            let style = "{prefix:>14} [{bar:30}] {pos}/{len} {per_sec} {elapsed} eta {eta}";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar.set_prefix(what.to_string());
            bar
        });
        Self {
            what: what.to_string(),
            total,
            done: 0,
            bar,
            begun: Instant::now(),
            last: 0.0,
        }
    }

    /// Takes note of `more` items done.
    pub(crate) fn add(&mut self, more: usize) {
        self.done += more;
        let now = self.begun.elapsed().as_secs_f64();
        match &self.bar {
            Some(bar) => bar.set_position(self.done as u64),
            None if now - self.last >= EVERY => {
                self.last = now;
                let left = now / self.done.max(1) as f64 * (self.total - self.done) as f64;
                eprintln!(
                    "{} {}/{} ({} left)",
                    self.what,
                    self.done,
                    self.total,
                    table::seconds(left)
                );
            }
            None => {}
        }
    }

    /// Takes the bar away; seconds since the beginning.
    pub(crate) fn finish(&self) -> f64 {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.begun.elapsed().as_secs_f64()
    }
}
