//! The loop around a phase: units, checkpoints, requests of people, and an orderly end.
//!
//! The clock decides only when a checkpoint is written. Requests apply between units, are journaled
//! before they act, and those that change a result (`set`, `answer`) are replayed at the same unit when a
//! run resumes from before it.

use crate::phase::folder;
use crate::{Context, Error, Phase};
use std::sync::atomic::{AtomicBool, Ordering};
use store::{Action, Keep, Request, RunState};

/// When checkpoints are written and how many are kept.
#[derive(Clone, Copy, Debug)]
pub struct Saving {
    /// Seconds between checkpoints.
    pub seconds: f64,
    /// Units between checkpoints.
    pub units: u64,
    /// Which are kept.
    pub keep: Keep,
}

/// How driving a phase ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// All units done.
    Finished,
    /// A person asked to stop, or Ctrl-C; a checkpoint was written.
    Stopped,
    /// The process was interrupted; a checkpoint was written.
    Interrupted,
}

/// Shows how far a phase is.
pub type Show<'a> = dyn FnMut(&dyn Phase) + 'a;

/// Runs a phase to its end, or to an interruption.
pub fn drive(
    phase: &mut dyn Phase,
    cx: &Context,
    saving: Saving,
    interrupt: &AtomicBool,
    show: &mut Show,
) -> Result<End, Error> {
    let (mut saved_at, mut saved_done) = ((cx.clock)(), phase.done());
    while !phase.finished() {
        match requests(phase, cx, saving, interrupt)? {
            Some(end) => return Ok(end),
            None if interrupt.load(Ordering::Relaxed) => {
                save(phase, cx, saving.keep)?;
                return Ok(End::Interrupted);
            }
            None => {}
        }
        tensor::threads::hot(|| phase.unit(cx))?;
        show(phase);
        let now = (cx.clock)();
        if now - saved_at >= saving.seconds || phase.done() - saved_done >= saving.units {
            save(phase, cx, saving.keep)?;
            (saved_at, saved_done) = ((cx.clock)(), phase.done());
        }
    }
    Ok(End::Finished)
}

/// Writes a checkpoint of the phase.
pub fn save(phase: &dyn Phase, cx: &Context, keep: Keep) -> Result<(), Error> {
    cx.run.journal().flush()?;
    let key = cx.key(folder(phase.name()), "", phase.done());
    cx.run
        .save_checkpoint(phase.name(), &key, &phase.save(), keep)?;
    Ok(())
}

/// Applies what people asked for; gives an end when they asked to stop.
fn requests(
    phase: &mut dyn Phase,
    cx: &Context,
    saving: Saving,
    interrupt: &AtomicBool,
) -> Result<Option<End>, Error> {
    let key = cx.key(folder(phase.name()), "", phase.done());
    let (mut paused, mut asked) = (false, None);
    loop {
        for r in cx.run.requests().pending()? {
            if r.at.as_ref().is_some_and(|at| !key.same_point(at)) {
                continue;
            }
            let (outcome, act) = judge(&r, phase);
            cx.run.requests().apply(r.id, &key, &outcome)?;
            match act {
                Act::None => {}
                Act::Answer { alert, choice } => {
                    cx.run.journal().settle_alert(alert, choice, &r.author)?;
                    phase.answer(cx, choice)?;
                }
                Act::Checkpoint => save(phase, cx, saving.keep)?,
                Act::Pause => {
                    save(phase, cx, saving.keep)?;
                    cx.run.set_state(RunState::Paused)?;
                    paused = true;
                }
                Act::Resume => paused = false,
                Act::Stop => {
                    save(phase, cx, saving.keep)?;
                    return Ok(Some(End::Stopped));
                }
            }
        }
        if phase.question().is_some() {
            let since = *asked.get_or_insert((cx.clock)());
            let waits = cx.recipe.detectors.ask_seconds;
            if (cx.clock)() - since >= waits {
                save(phase, cx, saving.keep)?;
                return Err(unanswered(phase, cx, waits));
            }
        } else if !paused {
            if cx.run.state()? == RunState::Paused {
                cx.run.set_state(RunState::Running)?;
            }
            return Ok(None);
        }
        if interrupt.load(Ordering::Relaxed) {
            save(phase, cx, saving.keep)?;
            return Ok(Some(End::Interrupted));
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// What a run says that stops because nobody answered.
fn unanswered(phase: &dyn Phase, cx: &Context, seconds: f64) -> Error {
    let (name, q) = (cx.run.name(), phase.question());
    let (alert, detector) = q.map_or((0, ""), |q| (q.alert, &q.detector));
    let choices = q.map_or(String::new(), |q| q.choices().join(", "));
    Error::Stopped {
        reason: format!(
            "alert {alert} (`{detector}`) had no answer within {seconds} seconds; a checkpoint was written"
        ),
        remedy: format!(
            "go on with `forge resume {name}`, then answer with `forge intervene {name} answer {alert} CHOICE` ({choices}); or set detectors.*.policy to automatic in a new run"
        ),
    }
}

enum Act {
    None,
    Answer { alert: u64, choice: &'static str },
    Checkpoint,
    Pause,
    Resume,
    Stop,
}

fn judge(r: &Request, phase: &mut dyn Phase) -> (String, Act) {
    let at = format!("{} unit {}", phase.name(), phase.done());
    match r.action {
        Action::Pause => (format!("paused at {at}"), Act::Pause),
        Action::Resume => (format!("went on at {at}"), Act::Resume),
        Action::Checkpoint => (format!("checkpoint at {at}"), Act::Checkpoint),
        Action::Stop => (format!("stopped at {at}"), Act::Stop),
        Action::Answer => answer(r, phase),
        Action::Set => (phase.set(&r.arguments), Act::None),
    }
}

/// What comes of an answer to an alert.
fn answer(r: &Request, phase: &dyn Phase) -> (String, Act) {
    let Some(q) = phase.question() else {
        return ("no alert is waiting for an answer".into(), Act::None);
    };
    if r.arguments["alert"].as_u64() != Some(q.alert) {
        return (
            format!("alert {} is the one that waits", q.alert),
            Act::None,
        );
    }
    let asked = r.arguments["choice"].as_str().unwrap_or_default();
    match q.choices().iter().find(|c| **c == asked) {
        Some(choice) => (
            format!("alert {}: {choice}", q.alert),
            Act::Answer {
                alert: q.alert,
                choice,
            },
        ),
        None => (
            format!(
                "`{asked}` is no choice of alert {}: {}",
                q.alert,
                q.choices().join(", ")
            ),
            Act::None,
        ),
    }
}
