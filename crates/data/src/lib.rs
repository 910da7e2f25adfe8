//! Text on disk becomes batches of tokens, and questions with answers become evaluation items.

mod answer;
pub mod builtin;
mod error;
pub mod random;
mod record;

pub use answer::{extract_answer, same_answer};
pub use error::{Error, Place};
pub use record::{Answer, Document, Family, Item, Loaded, Split, Worked};
