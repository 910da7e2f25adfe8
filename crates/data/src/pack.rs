//! Documents to a [`Shard`]: encode, mark which tokens carry loss, end each document.

use std::ops::Range;
use std::panic::resume_unwind;
use std::path::Path;

use rayon::prelude::*;

use crate::adapters::each_document;
use crate::duplicates::{Duplicates, LeftOut, Repeat, sketches};
use crate::error::Error;
use crate::record::{Document, Family, Split};
use crate::shard::{Shard, ShardWriter};
use crate::tokenizer::Tokenizer;

/// Documents encoded at a time; bounds the memory that packing takes.
const CHUNK: usize = 1024;

/// Bytes of text that are read before they are handed on.
const BATCH: usize = 8 << 20;

/// Batches that may wait for being encoded.
const AHEAD: usize = 1;

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
    writer.add(documents, tokenizer)?;
    writer.finish()
}

impl ShardWriter {
    /// Encodes documents by all threads and adds them in their order.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn add(&mut self, documents: &[Document], tokenizer: &Tokenizer) -> Result<(), Error> {
        for some in documents.chunks(CHUNK) {
            let encoded: Vec<_> = some
                .par_iter()
                .map(|document| encode(document, tokenizer))
                .collect();
            for (document, (tokens, loss)) in some.iter().zip(encoded) {
                self.push(&tokens, &loss, &[&document.id, &document.text])?;
            }
        }
        Ok(())
    }
}

/// What a folder of text was packed into.
pub struct Packed {
    /// A shard for each split that has documents, training first.
    pub shards: Vec<Shard>,
    /// Documents found and not kept, of all splits.
    pub left_out: LeftOut,
    /// Bytes of the texts found.
    pub text: u64,
    /// Bytes of the files.
    pub files: u64,
    /// What of the folder was left out.
    pub note: String,
}

/// Packs a folder of the user's own text, which may be larger than the memory, as the data set `name`: `OUT/NAME.bin` for
/// training and `OUT/NAME.SPLIT.bin` for what is held out ([`crate::each_document`]). With `duplicates` given, a document
/// that repeats an earlier one, of whichever split, is left out.
///
/// A thread reads while the others encode; the shards do not depend on their number.
///
/// # Errors
/// A file of the folder is wrong, or the disk refuses.
pub fn pack_folder(
    folder: &Path,
    (out, name): (&Path, &str),
    tokenizer: &Tokenizer,
    mut duplicates: Option<&mut Duplicates>,
) -> Result<Packed, Error> {
    let mut left_out = match duplicates {
        Some(_) => LeftOut::no_repeats(),
        None => LeftOut::default(),
    };
    let (mut text, hash, vocab) = (0, tokenizer.hash(), tokenizer.vocab_size());
    let mut writers: [Option<ShardWriter>; 4] = [const { None }; 4];
    let (send, batches) = std::sync::mpsc::sync_channel::<Vec<(Document, bool)>>(AHEAD);
    let read = move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let read = each_document(folder, name, &mut |document, is_held_out| {
            bytes += document.text.len();
            batch.push((document, is_held_out));
            if bytes < BATCH {
                return Ok(true);
            }
            bytes = 0;
            // Nobody listens where writing has failed.
            Ok(send.send(std::mem::take(&mut batch)).is_ok())
        })?;
        let _ = send.send(batch);
        Ok::<_, Error>(read)
    };
    let mut write = |batch: Vec<(Document, bool)>| {
        let texts: Vec<&str> = batch.iter().map(|(d, _)| d.text.as_str()).collect();
        text += texts.iter().map(|text| text.len() as u64).sum::<u64>();
        let repeats: Vec<Option<Repeat>> = match &mut duplicates {
            Some(duplicates) => {
                let sketches = sketches(&texts).into_iter();
                sketches.map(|sketch| duplicates.take(sketch)).collect()
            }
            None => vec![None; texts.len()],
        };
        let mut kept: [Vec<Document>; 4] = Default::default();
        for ((document, is_held_out), repeat) in batch.into_iter().zip(repeats) {
            let split = match is_held_out {
                true => document.evaluation_split(),
                false => Split::Train,
            };
            match repeat {
                Some(repeat) => left_out.count(repeat),
                None => kept[split as usize].push(document),
            }
        }
        for ((split, writer), documents) in Split::ALL.into_iter().zip(&mut writers).zip(kept) {
            if documents.is_empty() {
                continue;
            }
            if writer.is_none() {
                let file = match split {
                    Split::Train => name.to_string(),
                    other => format!("{name}.{}", other.name()),
                };
                let kind = (name, Family::Language, split);
                *writer = Some(ShardWriter::create(out, &file, kind, &hash, vocab)?);
            }
            if let Some(writer) = writer {
                writer.add(&documents, tokenizer)?;
            }
        }
        Ok(())
    };
    let (files, note) = std::thread::scope(|scope| {
        let reader = scope.spawn(read);
        let written = batches.iter().try_for_each(&mut write);
        drop(batches);
        let read = reader.join().unwrap_or_else(|panic| resume_unwind(panic));
        written.and(read)
    })?;
    let mut shards = Vec::new();
    for mut writer in writers.into_iter().flatten() {
        writer.left_out(left_out);
        shards.push(writer.finish()?);
    }
    Ok(Packed {
        shards,
        left_out,
        text,
        files,
        note,
    })
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
