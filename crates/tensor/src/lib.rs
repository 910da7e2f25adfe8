//! Tensors and a tape of coarse operations with hand-written gradients.
//!
//! The contract, fixed early because everything above depends on it:
//!
//! * **Storage is opaque.** Nothing outside this crate sees a host slice; data enters by
//!   [`Tensor::from_vec`] and leaves by [`Tensor::to_vec`], so that a GPU fits behind the same type.
//! * **Rows, not batches.** An activation is [N, D]: N tokens of several *segments* (document pieces or
//!   streaming sequences) after one another. Operations that look along a sequence take the segments.
//! * **Buffers are reused** ([`storage`]): the steady state of a training loop allocates next to nothing.
//! * **Training is fp32 today**; weights of models that only compute forward may be bf16 ([`DType`]).
//!
//! An operation is one method on [`Tape`] in `ops/`, forward and backward side by side. Shape errors are
//! programmer's mistakes and panic with the operation and both shapes: configurations are validated
//! before any tensor exists.

#![forbid(unsafe_code)]

pub mod ops;
pub mod optim;
pub mod storage;
mod tape;
#[allow(clippy::module_inception)]
mod tensor;

pub use kernels::isa;
pub use kernels::precision;
pub use kernels::probe;
pub use kernels::random;
pub use kernels::threads;
pub use ops::attention::{Attended, AttentionLayout};
pub use ops::layers::FeedForward;
pub use ops::memory::{MemoryShape, MemoryState};
pub use ops::norm::Rotation;
pub use tape::{Grads, Tape, Var};
pub use tensor::{DType, Device, Shape, Tensor};

pub use std::ops::Range;
/// Row numbers, shared between an operation and its gradient.
pub type Ids = std::sync::Arc<[u32]>;
/// Row ranges of the segments of a batch, shared between operations.
pub type Segments = std::sync::Arc<[Range<usize>]>;
