//! `forge intervene`: what a person asks of a run. The run reads it at its next safe point.

use crate::args::Common;
use crate::fault::usage;
use crate::{output, recipes, runs};
use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use store::{Action, Run};

#[derive(Args)]
pub(crate) struct InterveneArgs {
    /// Name of the run
    run: String,
    #[command(subcommand)]
    action: Ask,
    /// Who asks, for the journal
    #[arg(long, global = true, value_name = "NAME", default_value = "person")]
    by: String,
    /// Wait at most so long for the run to answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 0.0)]
    wait: f64,
}

#[derive(Subcommand)]
enum Ask {
    /// Write a checkpoint and wait until `resume`
    Pause,
    /// Go on after `pause`
    Resume,
    /// Write a checkpoint now
    Checkpoint,
    /// Write a checkpoint and end; `forge resume` goes on from it
    Stop,
    /// Answer an alert that waits
    Answer {
        /// Its number, as `forge status` shows it
        alert: u64,
        /// One of the choices that the alert offers
        choice: String,
    },
    /// Change a setting of the phase that runs
    Set {
        /// Such as optim.muon_lr=1e-3
        #[arg(value_name = "KEY=VALUE")]
        change: String,
    },
}

impl Ask {
    fn request(&self) -> Result<(Action, Value)> {
        Ok(match self {
            Ask::Pause => (Action::Pause, json!({})),
            Ask::Resume => (Action::Resume, json!({})),
            Ask::Checkpoint => (Action::Checkpoint, json!({})),
            Ask::Stop => (Action::Stop, json!({})),
            Ask::Answer { alert, choice } => {
                (Action::Answer, json!({ "alert": alert, "choice": choice }))
            }
            Ask::Set { change } => match change.split_once('=') {
                Some((key, value)) => (
                    Action::Set,
                    json!({ "key": key, "value": recipes::value(value) }),
                ),
                None => return usage(format!("set {change}: expected KEY=VALUE")),
            },
        })
    }
}

pub(crate) fn intervene(args: &InterveneArgs, common: &Common) -> Result<u8> {
    let (action, arguments) = args.action.request()?;
    let run = runs::read(&common.root, &args.run)?;
    if let Ask::Answer { alert, .. } = &args.action {
        let alerts = run.journal().alerts()?;
        if !alerts.iter().any(|a| a.id == *alert && a.action.is_none()) {
            return usage(format!(
                "alert {alert} of run `{}` does not exist or is settled; `forge status {}` shows the open ones",
                args.run, args.run
            ));
        }
    }
    let live = Run::list(&common.root)?
        .iter()
        .any(|r| r.name == args.run && r.live);
    if !live {
        return usage(format!(
            "no process works on run `{}` now, so nobody would read the request; go on with: forge resume {}",
            args.run, args.run
        ));
    }
    let id = run.requests().submit(action, &arguments, &args.by)?;
    let outcome = wait(&run, id, args.wait)?;
    if common.json {
        output::json(
            &json!({ "id": id, "action": action.name(), "arguments": arguments, "outcome": outcome }),
        );
    } else {
        output::line(&match outcome {
            Some(o) => format!("request {id} ({action}): {o}"),
            None => format!(
                "request {id} ({action}) handed in; run `{}` reads it at its next safe point (see: forge status {})",
                args.run, args.run
            ),
        });
    }
    Ok(0)
}

fn wait(run: &Run, id: u64, seconds: f64) -> Result<Option<String>> {
    let begun = Instant::now();
    loop {
        let applied = run.requests().applied()?;
        if let Some(r) = applied.into_iter().find(|r| r.id == id) {
            return Ok(r.outcome);
        }
        if begun.elapsed().as_secs_f64() >= seconds {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
