//! Byte-level BPE in Hugging Face's `tokenizer.json` form: learned here, encoded by [`encoder`] where it is of the kind
//! that is learned here, else by the `tokenizers` crate, which also reads, writes and decodes.
//!
//! Text is cut by GPT-2's pattern with every digit on its own (so that arithmetic sees places, not lumps), each piece is
//! spelled in bytes, and the most frequent neighbours are merged (Sennrich et al. 2016). Token 0 is
//! [`END_OF_DOCUMENT`], tokens 1 to 256 are the bytes, so that any string can be written and `decode(encode(x)) == x`.
//!
//! Learning is our own, because it has to give the same merges every time: the crate's trainer breaks ties between
//! equal entries of its queue by the order of a hash map. Here the next merge is the pair of highest count, and among
//! those the one of smallest ids.

mod encoder;
mod pieces;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ahash::AHashMap;
use rayon::prelude::*;
use serde_json::json;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::error::Error;
use encoder::{Encoder, spelled};
use pieces::{Classes, pieces};

/// The token that ends every document; its id is 0 in tokenizers learned here.
pub const END_OF_DOCUMENT: &str = "<|end|>";

/// What other tokenizers call the end of a text, in the order in which it is looked for.
const ENDS: [&str; 5] = [
    END_OF_DOCUMENT,
    "<|endoftext|>",
    "</s>",
    "<|end_of_text|>",
    "<|im_end|>",
];

/// A pair must occur this often to become a token.
const MIN_COUNT: u64 = 2;

/// A vocabulary with its merges.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    encoder: Option<Arc<Encoder>>,
    end: u32,
}

impl Tokenizer {
    /// Learns a vocabulary of at most `vocab` tokens (fewer where the texts hold fewer repeated pairs).
    ///
    /// # Errors
    /// `vocab` below 257: the bytes and the end of document would not fit.
    pub fn train<'a>(texts: impl Iterator<Item = &'a str>, vocab: usize) -> Result<Self, Error> {
        let alphabet: BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
        let least = 1 + alphabet.len();
        if vocab < least {
            let problem = format!(
                "a vocabulary of {vocab} tokens is too small: bytes and end of document need {least}"
            );
            return Err(Error::Tokenizer(problem));
        }
        let mut tokens: Vec<String> = vec![END_OF_DOCUMENT.to_string()];
        tokens.extend(alphabet.into_iter().map(String::from));
        let merges = learn(&word_counts(texts), &mut tokens, vocab);
        let vocabulary: serde_json::Map<_, _> = tokens
            .into_iter()
            .enumerate()
            .map(|(id, token)| (token, json!(id)))
            .collect();
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [{ "id": 0, "content": END_OF_DOCUMENT, "single_word": false, "lstrip": false,
                               "rstrip": false, "normalized": false, "special": true }],
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "Digits", "individual_digits": true },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true }] },
            "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true },
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                       "vocab": vocabulary, "merges": merges },
        });
        Self::from_bytes(file.to_string().as_bytes())
    }

    /// Reads a `tokenizer.json`, ours or another's.
    ///
    /// # Errors
    /// It is not one, or it has no token that ends a document.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| Error::Tokenizer(format!("not a tokenizer.json: {e}")))?;
        let end = ENDS
            .iter()
            .find_map(|name| inner.token_to_id(name))
            .ok_or_else(|| {
                Error::Tokenizer(format!(
                    "no token ends a document; one of {} is needed",
                    ENDS.join(" ")
                ))
            })?;
        let encoder = encoder_of(&inner);
        Ok(Self {
            inner,
            encoder,
            end,
        })
    }

    /// Reads a `tokenizer.json` from disk.
    ///
    /// # Errors
    /// As [`Tokenizer::from_bytes`], or the file cannot be read; both name the file.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Self::from_bytes(&bytes).map_err(|e| Error::content(path, None, e.to_string()))
    }

    /// The `tokenizer.json`; the same tokenizer gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.inner
            .to_string(false)
            .expect("a tokenizer that was built can be written")
            .into_bytes()
    }

    /// The tokens of a text. The name of a special token in the text becomes that token.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let encoder = self.encoder.as_ref();
        let tokens = encoder.and_then(|encoder| encoder.encode(text));
        tokens.unwrap_or_else(|| self.encode_by_crate(text))
    }

    /// [`Tokenizer::encode`] by the `tokenizers` crate alone: slower, and the yardstick of the other way.
    pub fn encode_by_crate(&self, text: &str) -> Vec<u32> {
        let encoding = self.inner.encode_fast(text, false);
        encoding
            .expect("byte-level encoding accepts any string")
            .get_ids()
            .to_vec()
    }

    /// The tokens that the tokenizer's own template puts in front of a text, such as a Llama's `<s>`; none for ours.
    pub fn opening(&self) -> Vec<u32> {
        let encoding = self.inner.encode_fast("a", true);
        let encoding = encoding.expect("byte-level encoding accepts any string");
        let special = encoding.get_special_tokens_mask().iter();
        let ids = encoding.get_ids().iter().zip(special);
        ids.take_while(|(_, special)| **special == 1)
            .map(|(id, _)| *id)
            .collect()
    }

    /// [`Tokenizer::encode`] of many texts, by all threads.
    pub fn encode_all(&self, texts: &[&str]) -> Vec<Vec<u32>> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    /// The tokens of a text, each with the bytes of the text that it spells; a character that is cut into several tokens
    /// belongs to each of them.
    pub fn encode_with_offsets(&self, text: &str) -> Vec<(u32, Range<usize>)> {
        let encoding = self.inner.encode(text, false);
        let encoding = encoding.expect("byte-level encoding accepts any string");
        let offsets = encoding
            .get_offsets()
            .iter()
            .map(|&(start, end)| start..end);
        encoding.get_ids().iter().copied().zip(offsets).collect()
    }

    /// The text of tokens, special ones included. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.inner
            .decode(tokens, false)
            .expect("byte-level decoding accepts any tokens")
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Id of a token, special or not, by its name.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Id of the token that ends every document.
    pub fn end_of_document(&self) -> u32 {
        self.end
    }

    /// Adds special tokens in this order behind the present vocabulary; those that it already has stay where they are.
    pub fn add_special(&mut self, names: &[&str]) {
        let tokens: Vec<_> = names
            .iter()
            .map(|name| tokenizers::AddedToken::from(*name, true))
            .collect();
        self.inner.add_special_tokens(&tokens);
        self.encoder = encoder_of(&self.inner);
    }

    /// Blake3 of [`Tokenizer::to_bytes`], in hex.
    pub fn hash(&self) -> String {
        blake3::hash(&self.to_bytes()).to_hex().to_string()
    }
}

/// The fast encoder of a tokenizer, where it is of that kind.
fn encoder_of(inner: &tokenizers::Tokenizer) -> Option<Arc<Encoder>> {
    let file = serde_json::to_value(inner).expect("a tokenizer that was built can be written");
    Encoder::of(&file).map(Arc::new)
}

/// How often each piece of text occurs, in the order of the pieces.
fn word_counts<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let classes = Classes::new(true);
    let texts: Vec<&str> = texts.collect();
    let count = |mut counts: AHashMap<&'a str, u64>, text: &&'a str| {
        for piece in pieces(text, &classes) {
            *counts.entry(&text[piece]).or_default() += 1;
        }
        counts
    };
    // Sums of whole numbers: the same in whatever order the threads come back.
    let counts = texts.par_iter().fold(AHashMap::new, count);
    let counts = counts.reduce(AHashMap::new, |mut all, some| {
        for (piece, count) in some {
            *all.entry(piece).or_default() += count;
        }
        all
    });
    let counts = counts.into_iter();
    counts
        .map(|(piece, count)| (spelled(piece), count))
        .collect()
}

/// Adds merged tokens to `tokens` until there are `vocab` of them or no pair is frequent; returns the merges in order.
fn learn(
    counts: &BTreeMap<String, u64>,
    tokens: &mut Vec<String>,
    vocab: usize,
) -> Vec<(String, String)> {
    type Pair = (u32, u32);
    let mut ids: HashMap<String, u32> = tokens
        .iter()
        .enumerate()
        .map(|(id, t)| (t.clone(), id as u32))
        .collect();
    let spell = |word: &str| {
        word.chars()
            .map(|c| ids[c.encode_utf8(&mut [0; 4]) as &str])
            .collect::<Vec<u32>>()
    };
    let mut words: Vec<(Vec<u32>, u64)> = counts
        .iter()
        .map(|(word, &count)| (spell(word), count))
        .collect();

    // Invariant: `totals` is the exact count of every pair, and `places` holds at least the words where it occurs.
    let mut totals: HashMap<Pair, u64> = HashMap::new();
    let mut places: HashMap<Pair, BTreeSet<usize>> = HashMap::new();
    for (at, (word, count)) in words.iter().enumerate() {
        for pair in word.windows(2).map(|w| (w[0], w[1])) {
            *totals.entry(pair).or_default() += count;
            places.entry(pair).or_default().insert(at);
        }
    }
    let mut queue: BinaryHeap<(u64, Reverse<Pair>)> = totals
        .iter()
        .map(|(&pair, &n)| (n, Reverse(pair)))
        .collect();
    let mut merges = Vec::new();
    while tokens.len() < vocab {
        let Some((queued, Reverse(pair))) = queue.pop() else {
            break;
        };
        let total = totals.get(&pair).copied().unwrap_or(0);
        if queued != total {
            // Counts only fall behind the queue's back; what grows is queued again below.
            if total > 0 && total < queued {
                queue.push((total, Reverse(pair)));
            }
            continue;
        }
        if total < MIN_COUNT {
            break;
        }
        let (left, right) = (
            tokens[pair.0 as usize].clone(),
            tokens[pair.1 as usize].clone(),
        );
        let name = format!("{left}{right}");
        let new = *ids.entry(name.clone()).or_insert(tokens.len() as u32);
        if new as usize == tokens.len() {
            tokens.push(name);
        }
        merges.push((left, right));
        let mut grown: BTreeSet<Pair> = BTreeSet::new();
        for at in places.remove(&pair).unwrap_or_default() {
            let (word, count) = &mut words[at];
            for old in word.windows(2).map(|w| (w[0], w[1])) {
                *totals
                    .get_mut(&old)
                    .expect("every pair of a word is counted") -= *count;
            }
            merge(word, pair, new);
            for now in word.windows(2).map(|w| (w[0], w[1])) {
                *totals.entry(now).or_default() += *count;
                if now.0 == new || now.1 == new {
                    places.entry(now).or_default().insert(at);
                    grown.insert(now);
                }
            }
        }
        queue.extend(grown.into_iter().map(|pair| (totals[&pair], Reverse(pair))));
    }
    merges
}

/// Replaces every occurrence of `pair`, from the left, by `new`.
fn merge(word: &mut Vec<u32>, pair: (u32, u32), new: u32) {
    let (mut read, mut write) = (0, 0);
    while read < word.len() {
        let hit = read + 1 < word.len() && (word[read], word[read + 1]) == pair;
        word[write] = if hit { new } else { word[read] };
        read += if hit { 2 } else { 1 };
        write += 1;
    }
    word.truncate(write);
}
