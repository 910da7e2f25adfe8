//! The CPU kernels, one module per family of operations.

pub mod attention;
pub mod conv;
pub mod elementwise;
pub mod gemm;
pub mod loss;
pub mod memory;
pub mod memory_read;
pub mod norm;
pub mod optim;
mod scratch;
mod shared;
pub mod ternary;
