//! Tests of the training crate.
#![allow(clippy::unwrap_used)]

mod bitnet;
mod core;
mod detectors;
mod evaluate;
mod llama_children;
mod micro_batch;
mod ngram;
mod out_of_memory;
mod quietstar;
mod search_detectors;
