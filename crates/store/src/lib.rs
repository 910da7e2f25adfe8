//! Runs on disk: checkpoints, the journal, requests from people, and the model files that phases
//! hand on. Bytes and numbers only; a tensor is an [`Array`] of raw bytes with a name and a shape.
//!
//! A run is the folder `ROOT/runs/NAME`:
//!
//! ```text
//! recipe.json              the resolved recipe, written once
//! state.json               running, paused, done, stopped or failed, and the attempt's number
//! lock                     held by the one process that writes the run
//! journal.sqlite           metrics, events, alerts, requests, cache (WAL, readable at any time)
//! checkpoints/000007-evomerge/{state.safetensors, state.json, FILES.., manifest.json}
//! phase1-cognate/final/NAME.safetensors    what a phase hands on
//! ```
//!
//! **Nothing already written is ever lost.** Every file appears by a rename after its bytes are
//! synced, and every checkpoint is a folder renamed into place after its manifest; a process killed
//! at any moment leaves the state before or the state after. Identical input gives identical bytes.
//!
//! **Exact resume.** Journal rows carry one running number; saving a checkpoint marks that number,
//! and a resume from it supersedes the rows behind the mark and hands back the requests that were
//! applied behind it, with the point at which they were applied.
//!
//! Left out on purpose: what a bag means (that is the phase's business), trackers, and the clock,
//! which callers pass in; only the database stamps requests, events and alerts with its own time.

mod alert;
mod array;
mod cache;
mod checkpoint;
mod durable;
mod error;
mod journal;
mod journal_file;
mod request;
mod run;
mod tensor_file;

pub use alert::Alert;
pub use array::{Array, Bag, Dtype};
pub use cache::Cached;
pub use checkpoint::{Checkpoint, Keep, Skipped};
pub use durable::{disk_free, write_file};
pub use error::{Error, Result};
pub use journal::{Event, Filter, Journal, Key, Row};
pub use request::{Action, Request, Requests};
pub use run::{Run, RunInfo, RunState};
pub use tensor_file::{read_safetensors, write_safetensors};
