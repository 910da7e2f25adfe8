//! Encoding with tokenizers of the kind that is learned here, many times faster than the `tokenizers` crate and to the
//! same tokens (a test compares them on every data set).
//!
//! The crate cuts a text by a general regular expression, copies each piece into a string of other characters, and asks
//! one cache that all threads share. Here GPT-2's pattern is a walk over classes of characters, a piece stays a slice of
//! the text, and each thread has a cache of its own. What it does not know (another pattern, special tokens inside a
//! text, pieces of hundreds of bytes, for which merging is quadratic) is left to the crate.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use ahash::AHashMap;
use serde_json::{Value, json};

use super::pieces::{Classes, pieces};

/// The longest piece that is merged here, in bytes.
const LONGEST: usize = 256;

/// Pieces that a cache holds at most; later ones are merged anew each time.
const REMEMBERED: usize = 1 << 16;

/// Merges of a vocabulary with byte-level spelling.
pub(super) struct Encoder {
    classes: Classes,
    /// The token of each byte.
    bytes: [u32; 256],
    /// Neighbours that become one token: the rank of the merge (lower goes first) and the token.
    merges: AHashMap<(u32, u32), (u32, u32)>,
    /// Names of tokens that are found in a text before it is cut.
    special: Vec<String>,
    /// Caches that no thread uses now.
    idle: Mutex<Vec<Cache>>,
}

/// Tokens of the pieces that were met before.
#[derive(Default)]
struct Cache {
    /// By [`key`], how many tokens a piece has, and the token where it is one, else where in `tokens` they begin.
    known: AHashMap<u128, (u32, u32)>,
    tokens: Vec<u32>,
    /// The piece being merged: each token with the rank of its merge with the next one.
    work: Vec<(u32, u32)>,
}

/// No merge.
const NEVER: u32 = u32::MAX;

impl Encoder {
    /// The encoder for a `tokenizer.json`, or None for one of another kind.
    pub(super) fn of(tokenizer: &Value) -> Option<Self> {
        let digits = digits_apart(tokenizer)?;
        let model = &tokenizer["model"];
        let plain = ["dropout", "unk_token"]
            .into_iter()
            .all(|key| model[key].is_null())
            && ["continuing_subword_prefix", "end_of_word_suffix"]
                .into_iter()
                .all(|key| model[key].as_str().is_none_or(str::is_empty))
            && ["fuse_unk", "byte_fallback", "ignore_merges"]
                .into_iter()
                .all(|key| model[key] != json!(true));
        if !plain || model["type"] != "BPE" {
            return None;
        }
        let vocabulary = model["vocab"].as_object()?;
        let id = |name: &str| u32::try_from(vocabulary.get(name)?.as_u64()?).ok();
        let mut bytes = [0; 256];
        for (byte, token) in bytes.iter_mut().enumerate() {
            *token = id(SPELLING[byte].encode_utf8(&mut [0; 4]))?;
        }
        let mut merges = AHashMap::new();
        for (rank, merge) in model["merges"].as_array()?.iter().enumerate() {
            let (left, right) = match merge {
                Value::String(pair) => pair.split_once(' ')?,
                pair => (pair[0].as_str()?, pair[1].as_str()?),
            };
            let merged = (rank as u32, id(&format!("{left}{right}"))?);
            merges.insert((id(left)?, id(right)?), merged);
        }
        let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
        let special = added.map(|token| Some(token["content"].as_str()?.to_string()));
        Some(Self {
            classes: Classes::new(digits),
            bytes,
            merges,
            special: special.collect::<Option<_>>()?,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// The tokens of a text; None where the crate must be asked.
    pub(super) fn encode(&self, text: &str) -> Option<Vec<u32>> {
        if self.special.iter().any(|name| text.contains(name.as_str())) {
            return None;
        }
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cache = idle().pop().unwrap_or_default();
        let mut tokens = Vec::with_capacity(text.len() / 3);
        let short = pieces(text, &self.classes).all(|piece| {
            let short = piece.len() <= LONGEST;
            if short {
                self.encode_piece(text.as_bytes(), piece, &mut cache, &mut tokens);
            }
            short
        });
        idle().push(cache);
        short.then_some(tokens)
    }

    fn encode_piece(
        &self,
        text: &[u8],
        piece: Range<usize>,
        cache: &mut Cache,
        tokens: &mut Vec<u32>,
    ) {
        let key = key(text, &piece);
        match key.and_then(|key| cache.known.get(&key)) {
            Some(&(1, token)) => tokens.push(token),
            Some(&(count, begin)) => {
                let known = &cache.tokens[begin as usize..(begin + count) as usize];
                // Few, so that a loop is faster than a call that copies.
                known.iter().for_each(|&token| tokens.push(token));
            }
            None => {
                self.merge(&text[piece], &mut cache.work);
                tokens.extend(cache.work.iter().map(|(token, _)| token));
                if let Some(key) = key.filter(|_| cache.known.len() < REMEMBERED) {
                    cache.remember(key);
                }
            }
        }
    }

    /// Merges the bytes of a piece: always the pair of lowest rank, the leftmost of equals.
    fn merge(&self, piece: &[u8], work: &mut Vec<(u32, u32)>) {
        let rank = |left: u32, right: u32| self.merges.get(&(left, right)).map_or(NEVER, |m| m.0);
        work.clear();
        work.extend(piece.iter().map(|&b| (self.bytes[usize::from(b)], NEVER)));
        for i in 1..work.len() {
            work[i - 1].1 = rank(work[i - 1].0, work[i].0);
        }
        while let Some((at, _)) = work
            .iter()
            .enumerate()
            .filter(|(_, (_, rank))| *rank != NEVER)
            .min_by_key(|(_, (_, rank))| *rank)
        {
            let (left, right) = (work[at].0, work[at + 1].0);
            let (_, token) = self.merges[&(left, right)];
            work.remove(at + 1);
            let next = work.get(at + 1).map(|next| next.0);
            work[at] = (token, next.map_or(NEVER, |next| rank(token, next)));
            if at > 0 {
                work[at - 1].1 = rank(work[at - 1].0, token);
            }
        }
    }
}

impl Cache {
    /// Keeps the tokens of the piece that was merged last.
    fn remember(&mut self, key: u128) {
        let entry = match self.work.as_slice() {
            [(token, _)] => (1, *token),
            several => (several.len() as u32, self.tokens.len() as u32),
        };
        if entry.0 > 1 {
            let several = self.work.iter().map(|(token, _)| token);
            self.tokens.extend(several);
        }
        self.known.insert(key, entry);
    }
}

/// A piece of at most 15 bytes as a number, its length in the highest byte.
fn key(text: &[u8], piece: &Range<usize>) -> Option<u128> {
    let length = piece.len();
    if length > 15 {
        return None;
    }
    let bytes = match text.get(piece.start..piece.start + 16) {
        Some(bytes) => u128::from_le_bytes(bytes.try_into().expect("16 bytes")),
        // The end of the text.
        None => {
            let rest = text[piece.clone()].iter().rev();
            rest.fold(0, |all, &byte| all << 8 | u128::from(byte))
        }
    };
    let mask = (1 << (8 * length)) - 1;
    Some(bytes & mask | (length as u128) << 120)
}

/// Whether digits are cut apart first; None where the text is cut or changed in another way than GPT-2's.
fn digits_apart(tokenizer: &Value) -> Option<bool> {
    let untouched = ["normalizer", "truncation", "padding"]
        .into_iter()
        .all(|key| tokenizer[key].is_null());
    let after = &tokenizer["post_processor"];
    if !untouched || !(after.is_null() || after["type"] == "ByteLevel") {
        return None;
    }
    let byte_level = |cut: &Value| {
        cut["type"] == "ByteLevel"
            && cut["add_prefix_space"] == false
            && cut["use_regex"] != json!(false)
    };
    let cut = &tokenizer["pre_tokenizer"];
    if byte_level(cut) {
        return Some(false);
    }
    let steps = cut["pretokenizers"].as_array()?;
    let digits = |cut: &Value| cut["type"] == "Digits" && cut["individual_digits"] == true;
    match steps.as_slice() {
        [first, second] if digits(first) && byte_level(second) => Some(true),
        _ => None,
    }
}

/// The character that spells each byte in a byte-level vocabulary: itself where it can be seen, else one from U+0100 on.
const SPELLING: [char; 256] = {
    let (mut all, mut byte, mut unseen) = (['\0'; 256], 0, 0);
    while byte < 256 {
        let seen = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if seen { byte } else { 0x100 + unseen };
        unseen += !seen as u32;
        all[byte as usize] = match char::from_u32(code) {
            Some(c) => c,
            None => unreachable!(),
        };
        byte += 1;
    }
    all
};

/// A piece of text as a byte-level vocabulary spells it.
pub(super) fn spelled(piece: &str) -> String {
    let bytes = piece.bytes().map(usize::from);
    bytes.map(|byte| SPELLING[byte]).collect()
}
