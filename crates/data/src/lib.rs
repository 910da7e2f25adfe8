//! Text on disk becomes batches of tokens, and questions with answers become evaluation items.
//!
//! The way of a record: an adapter (`load`, `load_folder`, `builtin`) turns it into a [`Document`] to train on or, from
//! an evaluation split, into an [`Item`] and a held-out text; [`Tokenizer`] learns a byte-level BPE on the documents;
//! [`pack`] writes one [`Shard`] of tokens a data set; [`weights`] says how much of each data set a curriculum stage
//! wants; a [`Loader`] draws [`Batch`]es, and its whole state is a few integers.
//!
//! Files come from folders of the user's or from the cache that [`hub`] fills, which is the only part that touches the
//! network, and only when it is asked to. Nothing here knows a model or a tensor, reads a clock or the environment, or
//! draws from a shared random stream.

mod adapters;
mod answer;
pub mod builtin;
mod catalogue;
mod duplicates;
mod error;
mod files;
pub mod hub;
mod loader;
mod mix;
mod overlap;
mod pack;
pub mod random;
mod reading;
mod record;
mod shard;
mod tokenizer;
mod words;

pub use adapters::text::{Page, wikitext_pages};
pub use adapters::{each_document, load_folder};
pub use answer::{extract_answer, extract_program, extract_span, same_answer};
pub use catalogue::{
    Check, DATASETS, Dataset, Found, Hub, Official, Places, check, check_present, dataset, expand,
    load,
};
pub use duplicates::{Duplicates, LeftOut, Repeat, Sketch, sketch, sketches};
pub use error::{Error, Place};
pub use loader::{Batch, Loader, LoaderState, MAX_EPOCHS, Mix, Piece, PieceAt};
pub use mix::{Blend, LANGUAGE_FLOOR, Mixture, Stage, stage_at, weights, weights_with_replay};
pub use overlap::{Evaluation, Overlap, Pair, Screen};
pub use pack::{Packed, pack, pack_folder, pack_in_memory};
pub use reading::{ReadingScore, reading_score};
pub use record::{Answer, Comparison, Document, Family, Item, Loaded, Split, Worked};
pub use shard::{Manifest, Shard, ShardWriter};
pub use tokenizer::{END_OF_DOCUMENT, Tokenizer};
