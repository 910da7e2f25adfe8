//! What a run on disk promises: nothing written is lost, nothing damaged is trusted, a resume is
//! exact, and every message says what to do.
#![allow(clippy::unwrap_used)]

mod checkpoints;
mod child;
mod disk;
mod journal;
mod kill;
mod model_files;
mod requests;
mod runs;
mod sample;
