//! Merge methods for weights: one flat table, each method one pure function over slices.
//!
//! A method sees one tensor at a time, flattened: the same tensor of each model (`&[f32]`), where
//! it needs one the base's, and numbers (`Parameters`). It knows nothing of files, layers, models
//! or search: a genome or a configuration file decodes into calls of this table, so the search over
//! merges and the merging stay apart.
//!
//! Formulas are mergekit's (`reference/merging.md`), with the DARE paper's rescaling beside
//! mergekit's. Every sum is taken in the order of the models, per element, in f64, so results do not
//! depend on threads. Random masks are counted: element `i` of a named tensor always draws the same
//! number for a seed. The few transcendental functions are our own (`elementary`), not the
//! platform's, so bits do not move between systems.
//!
//! Left out on purpose: reading and writing checkpoints, YAML, tokenizers.

pub mod arithmetic;
pub mod elementary;
pub mod interpolate;
mod table;

pub use arithmetic::{Rescale, dare, task_arithmetic, task_vector, ties};
pub use interpolate::{linear, slerp, slerp3};
pub use kernels::random;
pub use table::{Error, Inputs, METHODS, Method, Parameters, method};
