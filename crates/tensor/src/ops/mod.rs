//! The operations of the tape, each with its forward and its gradient side by side.
//!
//! Legend: N rows, D columns, W model width, H heads, hd head width, V vocabulary.

pub mod attention;
pub mod basic;
pub mod layers;
pub mod memory;
pub mod norm;
pub mod rows;
pub mod ternary;
