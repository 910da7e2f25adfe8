//! Tests of the tensor crate: gradients, reference numbers, and the promises that the engine makes.
#![allow(clippy::unwrap_used)]

mod differences;
mod fused;
mod gradients;
mod leaks;
mod memory;
mod newton_schulz;
mod pytorch;
mod storage;
mod tape;
mod ternary;
mod threads;
