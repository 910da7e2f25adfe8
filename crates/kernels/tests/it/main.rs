//! Tests of the kernels: every path against plain loops, same bits at any thread count.
#![allow(clippy::unwrap_used)]

mod attention;
mod ffn;
mod gemm;
mod linear;
mod memory;
mod paths;
mod random;
mod ternary;
