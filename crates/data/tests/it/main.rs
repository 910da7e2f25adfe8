//! Behaviour of the data crate, one module a subject.
#![allow(clippy::unwrap_used)]

mod adapters;
mod answer;
mod builtin;
mod duplicates;
mod hub;
mod loader;
mod mix;
mod overlap;
mod packing;
mod parquet_files;
mod random;
mod reading;
mod shard;
mod sixteen;
mod tokenizer;

use std::path::PathBuf;

/// The real data sets beside the checkout, or None with the word that a skipped test owes.
fn datasets() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/datasets");
    if !path.is_dir() {
        println!("skipped: no ../shared");
        return None;
    }
    Some(path)
}

/// A training document of plain text.
fn document(dataset: &str, family: data::Family, id: &str, text: &str) -> data::Document {
    data::Document {
        dataset: dataset.into(),
        family,
        id: id.into(),
        text: text.into(),
        loss: Vec::new(),
    }
}
