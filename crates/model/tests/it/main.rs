//! Tests of the model crate: what the Cognate promises over random small configurations, its numbers
//! against PyTorch, and the Llama against a published model.
#![allow(clippy::unwrap_used)]

mod bf16;
mod generation;
mod gradients;
mod leaks;
mod llama;
mod memory_slots;
mod packed;
mod pytorch;
mod sample;
mod segments;
mod sizes;
mod streaming;
mod thoughts;
mod threads;
