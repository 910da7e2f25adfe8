//! Models: the Cognate (TRM x Titans-MAG) and a Llama, with training forward passes and streaming
//! generation that give the same logits.
//!
//! Reading order: [`config`] says what a Cognate is made of; [`params`] names and initialises its
//! tensors; [`cognate`] is the forward pass, one code path for training and streaming; [`stream`] keeps
//! what streaming remembers; [`thoughts`] runs parallel thoughts beside the text; [`generate`] samples.
//! Beside it [`llama`] with its two file formats, [`hub_format`] and [`llama2c`].
//!
//! Legend: N rows (tokens), W width, H heads, hd head width, V vocabulary, P passes of the core.

#![forbid(unsafe_code)]

pub mod batch;
pub mod cognate;
pub mod config;
pub mod generate;
pub mod hub_format;
pub mod llama;
pub mod llama2c;
pub mod packed;
pub mod params;
pub mod slots;
pub mod stream;
pub mod thoughts;

pub use batch::Batch;
pub use cognate::{Cognate, Depth, Output};
pub use config::{Block, Config, ConfigError, Part};
pub use generate::{Fork, LanguageModel, Sampler, Stream};
pub use hub_format::LoadError;
pub use llama::{Llama, LlamaConfig};
pub use params::{Bound, Params};
