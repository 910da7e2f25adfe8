//! llama2.c's files: the legacy (version 0) fp32 model and the vocabulary beside it.
//!
//! A model file is seven little-endian i32 (width, feed-forward width, layers, heads, key-value heads,
//! vocabulary, positions; a negative vocabulary means that the head is not tied), then the tensors, each
//! kind for all layers together, then two unused tables of rotary numbers, then the head when it is not
//! tied. Its rotary embedding turns neighbouring pairs (2i, 2i + 1); ours turns (i, i + hd/2), so the rows
//! of the query and key matrices are reordered once, on reading.
//!
//! A vocabulary file is an i32 (longest token), then for each token an f32 score, an i32 length and its
//! bytes. Text is encoded as llama2.c does: one space in front, code points looked up (bytes where there
//! is none), then the adjacent pair whose union scores highest is joined until none is left.
//!
//! Left out on purpose: the quantised versions 1 and 2.

use crate::hub_format::{LoadError, MOST_LAYERS, read};
use crate::llama::{Llama, LlamaConfig};
use crate::params::Params;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::path::Path;
use tensor::Tensor;

/// Start of a text.
pub const BOS: u32 = 1;
/// End of a text.
pub const EOS: u32 = 2;
/// The token of byte 0.
const FIRST_BYTE: u32 = 3;
/// First word of a version 1 or 2 file: "ak42".
const MAGIC: i32 = 0x616b_3432;

/// Reads a model file.
pub fn load(path: &Path) -> Result<Llama, LoadError> {
    let bytes = read(path)?;
    let fail = |found: String, remedy| {
        Err(LoadError::File {
            path: path.into(),
            found,
            remedy,
        })
    };
    let header: Vec<i32> = bytes
        .chunks_exact(4)
        .take(7)
        .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    if header.first() == Some(&MAGIC) {
        return fail(
            "found a llama2.c file of version 1 or 2".into(),
            "only version 0 is read: export it with `--version 0`",
        );
    }
    let &[width, ffn, layers, heads, kv_heads, vocab, positions] = &header[..] else {
        return fail(
            format!("{} bytes are too few for a header", bytes.len()),
            "fetch the file again",
        );
    };
    let sizes = [
        width,
        ffn,
        layers,
        heads,
        kv_heads,
        vocab.saturating_abs(),
        positions,
    ];
    let sane = sizes.iter().all(|&n| n > 0 && n < 1 << 24)
        && layers as usize <= MOST_LAYERS
        && width % heads == 0
        && heads % kv_heads == 0
        && (width / heads) % 2 == 0;
    if !sane {
        return fail(
            format!("the header {header:?} is no model's"),
            "this is no llama2.c file of version 0",
        );
    }
    let [width, ffn, layers, heads, kv_heads, vocab_size, positions] = sizes.map(|n| n as usize);
    let config = LlamaConfig {
        vocab: vocab_size,
        width,
        layers,
        heads,
        kv_heads,
        head_width: width / heads,
        ffn,
        eps: 1e-5,
        rope_theta: 10_000.0,
        tied: vocab > 0,
        positions,
        bos: Some(BOS),
        eos: vec![EOS],
    };
    let rotary = positions as u128 * (width / heads) as u128;
    let elements: u128 = config
        .specification()
        .iter()
        .map(|(_, d, _)| d.iter().map(|&n| n as u128).product::<u128>())
        .sum();
    let expected = 28 + 4 * (elements + rotary);
    if bytes.len() as u128 != expected {
        return fail(
            format!("{} bytes, the header asks for {expected}", bytes.len()),
            "the file is cut short or of another version: fetch it again",
        );
    }
    Ok(Llama {
        params: read_tensors(&config, &bytes[28..], rotary as usize),
        config,
    })
}

/// The tensors of a file whose length has been checked.
fn read_tensors(c: &LlamaConfig, bytes: &[u8], rotary: usize) -> Params {
    let mut values = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let mut take = |n: usize| values.by_ref().take(n).collect::<Vec<f32>>();
    let specification = c.specification();
    let numel = |name: &str| {
        specification
            .iter()
            .find(|s| s.0 == name)
            .map_or(0, |s| s.1.iter().product())
    };
    let mut found: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let embedding = "model.embed_tokens.weight".to_string();
    found.insert(embedding.clone(), take(numel(&embedding)));
    let order = [
        "input_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.down_proj",
        "mlp.up_proj",
    ];
    for kind in order {
        for i in 0..c.layers {
            let name = format!("model.layers.{i}.{kind}.weight");
            let mut data = take(numel(&name));
            if kind.ends_with("q_proj") || kind.ends_with("k_proj") {
                data = split_halves(&data, c.width, c.head_width);
            }
            found.insert(name, data);
        }
    }
    found.insert("model.norm.weight".into(), take(c.width));
    take(rotary);
    if !c.tied {
        found.insert("lm_head.weight".into(), take(c.vocab * c.width));
    }
    let parts = specification.into_iter().map(|(name, dims, role)| {
        let data = found
            .remove(&name)
            .expect("every kind of tensor was read above");
        (name, role, Tensor::from_vec(data, &dims))
    });
    Params::from_tensors(parts.collect())
}

/// Rows of each head from neighbouring pairs to half-split pairs: 0 2 4 .. 1 3 5 ..
fn split_halves(rows: &[f32], width: usize, head_width: usize) -> Vec<f32> {
    let order = (0..head_width).step_by(2).chain((1..head_width).step_by(2));
    rows.chunks(head_width * width)
        .flat_map(|head| {
            order
                .clone()
                .flat_map(|r| head[r * width..][..width].to_vec())
        })
        .collect()
}

/// Two neighbours that can be joined.
struct Candidate {
    score: f32,
    /// Place of the left one.
    at: usize,
    /// What both were when this was found.
    pair: (u32, u32),
    /// Their union.
    id: u32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then(other.at.cmp(&self.at))
    }
}
impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Candidate {}

/// The tokens of a llama2.c model.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    tokens: Vec<(Vec<u8>, f32)>,
    ids: BTreeMap<Vec<u8>, u32>,
}

impl Vocabulary {
    /// Reads a vocabulary file.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let bytes = read(path)?;
        let cut = || LoadError::File {
            path: path.into(),
            found: "not a whole llama2.c vocabulary".into(),
            remedy: "fetch the file again",
        };
        let word = |at: usize| {
            bytes
                .get(at..at + 4)
                .map(|b| [b[0], b[1], b[2], b[3]])
                .ok_or_else(cut)
        };
        let longest = i32::from_le_bytes(word(0)?);
        let (mut tokens, mut at) = (Vec::new(), 4);
        while at < bytes.len() {
            let score = f32::from_le_bytes(word(at)?);
            let len = i32::from_le_bytes(word(at + 4)?);
            if len < 0 || len > longest.max(0) + 16 {
                return Err(cut());
            }
            at += 8;
            tokens.push((
                bytes.get(at..at + len as usize).ok_or_else(cut)?.to_vec(),
                score,
            ));
            at += len as usize;
        }
        if tokens.len() < FIRST_BYTE as usize + 256 {
            return Err(cut());
        }
        let mut ids = BTreeMap::new();
        for (i, (text, _)) in tokens.iter().enumerate() {
            ids.entry(text.clone()).or_insert(i as u32);
        }
        Ok(Self { tokens, ids })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens of a text, with the start token in front when asked for.
    pub fn encode(&self, text: &str, bos: bool) -> Vec<u32> {
        let mut tokens: Vec<u32> = Vec::new();
        if !text.is_empty() {
            tokens.extend(self.ids.get(&b" "[..]));
        }
        for c in text.chars() {
            let mut buffer = [0; 4];
            let utf8 = c.encode_utf8(&mut buffer).as_bytes();
            match self.ids.get(utf8) {
                Some(&id) => tokens.push(id),
                None => tokens.extend(utf8.iter().map(|&b| FIRST_BYTE + u32::from(b))),
            }
        }
        let mut tokens = self.joined(tokens);
        if bos {
            tokens.insert(0, BOS);
        }
        tokens
    }

    /// Joins neighbours whose union is a token, highest score first and of equal ones the leftmost, until none is left.
    fn joined(&self, mut tokens: Vec<u32>) -> Vec<u32> {
        // The tokens as a list linked both ways; a candidate is stale when one of its two has changed since.
        let n = tokens.len();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut before: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
        let mut gone = vec![false; n];
        let union = |left: u32, right: u32| {
            let parts = [left, right].map(|token| &self.tokens[token as usize].0[..]);
            let id = *self.ids.get(&parts.concat())?;
            Some((self.tokens[id as usize].1, id))
        };
        let mut queue: BinaryHeap<Candidate> = BinaryHeap::new();
        let candidate = |tokens: &[u32], at: usize, right: usize| {
            let pair = (tokens[at], tokens[right]);
            // Adding 0 makes -0 and 0 equal.
            union(pair.0, pair.1).map(|(score, id)| Candidate {
                score: score + 0.0,
                at,
                pair,
                id,
            })
        };
        for at in 1..n {
            queue.extend(candidate(&tokens, at - 1, at));
        }
        while let Some(Candidate { at, pair, id, .. }) = queue.pop() {
            let right = next[at];
            if gone[at] || right >= n || (tokens[at], tokens[right]) != pair {
                continue;
            }
            tokens[at] = id;
            gone[right] = true;
            next[at] = next[right];
            if next[at] < n {
                before[next[at]] = at;
                queue.extend(candidate(&tokens, at, next[at]));
            }
            if before[at] < n {
                queue.extend(candidate(&tokens, before[at], at));
            }
        }
        let kept = tokens.into_iter().zip(gone);
        kept.filter(|(_, gone)| !gone)
            .map(|(token, _)| token)
            .collect()
    }

    /// The text of tokens, from the start of a text; unknown numbers and the marks of start and end give
    /// nothing.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::new();
        for &id in tokens.iter().filter(|&&t| t != BOS && t != EOS) {
            let Some((text, _)) = self.tokens.get(id as usize) else {
                continue;
            };
            match id
                .checked_sub(FIRST_BYTE)
                .and_then(|b| u8::try_from(b).ok())
            {
                Some(b) if text.starts_with(b"<0x") => bytes.push(b),
                _ => bytes.extend(text),
            }
        }
        // The space that encoding puts in front.
        let text = bytes.strip_prefix(b" ").unwrap_or(&bytes);
        String::from_utf8_lossy(text).into_owned()
    }
}
