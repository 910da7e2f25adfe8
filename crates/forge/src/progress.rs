//! How far a phase is: a bar when a terminal watches, a line now and then when not.

use crate::table;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
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
