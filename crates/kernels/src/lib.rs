//! Loops over raw slices: the numeric ground of the whole program, and the only crate with `unsafe`
//! (memory maps elsewhere aside).
//!
//! Every function takes plain `f32` slices and sizes; shapes, autograd and devices live in `tensor`.
//! Two rules hold everywhere:
//!
//! * **Same bits at any thread count.** Work is cut into shards whose borders follow from the shapes
//!   alone; a shard is computed by one thread in a fixed order; partial sums are combined in shard order.
//! * **Our own transcendental functions** ([`math`]), so that a result does not depend on the C library.
//!
//! Legend of the shape letters: N rows (tokens), D columns, H heads, K key-value heads, V vocabulary.

mod alloc;
pub mod cpu;
pub mod isa;
pub mod math;
pub mod precision;
pub mod probe;
pub mod random;
pub mod threads;

pub use alloc::{Memory, OutOfMemory};
