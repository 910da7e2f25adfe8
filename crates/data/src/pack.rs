//! Documents to a [`Shard`]: encode, mark which tokens carry loss, end each document.

use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use crate::error::Error;
use crate::record::{Document, Family, Split};
use crate::shard::{Shard, ShardWriter};
use crate::tokenizer::Tokenizer;

/// Documents encoded at a time; bounds the memory that packing takes.
const CHUNK: usize = 1024;

/// Packs the documents of one data set and split as `DIR/NAME.bin` and `.json`.
///
/// # Errors
/// The disk refuses.
///
/// # Panics
/// The documents are of several data sets or families: one shard holds one.
#[track_caller]
pub fn pack(
    dir: &Path,
    name: &str,
    documents: &[Document],
    split: Split,
    tokenizer: &Tokenizer,
) -> Result<Shard, Error> {
    let (dataset, family) = only(documents);
    let writer = ShardWriter::create(
        dir,
        name,
        (dataset, family, split),
        &tokenizer.hash(),
        tokenizer.vocab_size(),
    )?;
    fill(writer, documents, tokenizer)
}

/// Packs the documents of one data set and split without touching the disk.
///
/// # Panics
/// As [`pack`].
#[track_caller]
pub fn pack_in_memory(documents: &[Document], split: Split, tokenizer: &Tokenizer) -> Shard {
    let (dataset, family) = only(documents);
    let writer = ShardWriter::in_memory(
        (dataset, family, split),
        &tokenizer.hash(),
        tokenizer.vocab_size(),
    );
    fill(writer, documents, tokenizer).expect("memory does not refuse")
}

#[track_caller]
fn only(documents: &[Document]) -> (&str, Family) {
    let first = documents
        .first()
        .expect("a shard needs at least one document");
    for document in documents {
        assert!(
            document.dataset == first.dataset && document.family == first.family,
            "one shard holds one data set: `{}` ({}) beside `{}` ({})",
            first.dataset,
            first.family.name(),
            document.dataset,
            document.family.name()
        );
    }
    (&first.dataset, first.family)
}

fn fill(
    mut writer: ShardWriter,
    documents: &[Document],
    tokenizer: &Tokenizer,
) -> Result<Shard, Error> {
    for some in documents.chunks(CHUNK) {
        let encoded: Vec<_> = some
            .par_iter()
            .map(|document| encode(document, tokenizer))
            .collect();
        for (document, (tokens, loss)) in some.iter().zip(encoded) {
            writer.push(&tokens, &loss, &[&document.id, &document.text])?;
        }
    }
    writer.finish()
}

/// The tokens of a document with its end, and the ranges of them that carry loss (empty = all).
fn encode(document: &Document, tokenizer: &Tokenizer) -> (Vec<u32>, Vec<Range<u32>>) {
    let end = tokenizer.end_of_document();
    if document.loss.is_empty() {
        let mut tokens = tokenizer.encode(&document.text);
        tokens.push(end);
        return (tokens, Vec::new());
    }
    let (mut tokens, mut loss) = (Vec::new(), Vec::new());
    for (token, bytes) in tokenizer.encode_with_offsets(&document.text) {
        // A token that reaches into a range belongs to it: an answer's first token may begin with its space.
        let hit = |range: &Range<usize>| range.start < bytes.end && bytes.start < range.end;
        if document.loss.iter().any(hit) {
            extend(&mut loss, tokens.len() as u32);
        }
        tokens.push(token);
    }
    // The end is always learned, or a model trained on answers alone would never stop.
    extend(&mut loss, tokens.len() as u32);
    tokens.push(end);
    (tokens, loss)
}

/// Adds index `at`, larger than all before, to ascending ranges.
fn extend(ranges: &mut Vec<Range<u32>>, at: u32) {
    match ranges.last_mut() {
        Some(last) if last.end == at => last.end += 1,
        _ => ranges.push(at..at + 1),
    }
}
