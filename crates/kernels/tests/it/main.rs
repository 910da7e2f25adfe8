//! Tests of the kernels: the conformance table, and what it does not say.
#![allow(clippy::unwrap_used)]

mod attention;
mod conformance;
mod elementwise;
mod gemm;
mod memory;
mod random;
mod ternary;
