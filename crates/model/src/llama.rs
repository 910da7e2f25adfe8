//! The Llama model: so that models from elsewhere can be evaluated, sampled, merged and compressed.
//!
//! A block is pre-norm attention and pre-norm SwiGLU; rotary embedding in the half-split layout of Hugging
//! Face; grouped-query attention over the whole context; the embedding tied to the head or not. Tensors
//! carry their Hugging Face names. Source: Touvron et al. 2023 (2307.09288).
//!
//! Shapes: N rows, W width, H query heads, K key-value heads, hd head width, F feed-forward width.
//!
//! Left out on purpose: biases, scaled rotary frequencies and sliding windows; [`crate::hub_format`]
//! refuses models that have them.

use crate::batch::Batch;
use crate::generate::{Fork, LanguageModel, Stream};
use crate::params::{Bound, Params, Role};
use std::sync::Arc;
use tensor::{Attended, AttentionLayout, FeedForward, Range, Rotation, Tape, Tensor, Var};

/// What a Llama is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// V
    pub vocab: usize,
    /// W
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// H
    pub heads: usize,
    /// K
    pub kv_heads: usize,
    /// hd
    pub head_width: usize,
    /// F
    pub ffn: usize,
    /// Added inside the root of RMS norms.
    pub eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Positions that the model was trained on; later ones are computed all the same.
    pub positions: usize,
    /// Token at the start of a text.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

/// A model: configuration and tensors.
#[derive(Clone, Debug)]
pub struct Llama {
    /// Sizes and constants.
    pub config: LlamaConfig,
    /// The tensors.
    pub params: Params,
}

/// The block of a tensor by its name; None for those outside of the blocks.
pub fn block_of(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("model.layers.")?;
    rest.split_once('.')?.0.parse().ok()
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

impl LlamaConfig {
    /// Every tensor in a fixed order: name, shape and role.
    pub fn specification(&self) -> Vec<(String, Vec<usize>, Role)> {
        let (w, q, kv) = (
            self.width,
            self.heads * self.head_width,
            self.kv_heads * self.head_width,
        );
        let mut list = vec![(EMBEDDING.to_string(), vec![self.vocab, w], Role::Other)];
        for i in 0..self.layers {
            let mut add = |s: &str, dims: &[usize], role| {
                list.push((format!("model.layers.{i}.{s}.weight"), dims.to_vec(), role))
            };
            add("input_layernorm", &[w], Role::Other);
            add("self_attn.q_proj", &[q, w], Role::Matrix);
            add("self_attn.k_proj", &[kv, w], Role::Matrix);
            add("self_attn.v_proj", &[kv, w], Role::Matrix);
            add("self_attn.o_proj", &[w, q], Role::Matrix);
            add("post_attention_layernorm", &[w], Role::Other);
            add("mlp.gate_proj", &[self.ffn, w], Role::Matrix);
            add("mlp.up_proj", &[self.ffn, w], Role::Matrix);
            add("mlp.down_proj", &[w, self.ffn], Role::Matrix);
        }
        list.push(("model.norm.weight".to_string(), vec![w], Role::Other));
        if !self.tied {
            list.push((HEAD.to_string(), vec![self.vocab, w], Role::Other));
        }
        list
    }
}

/// Keys and values of a number of sequences: `capacity` rows a sequence in one tensor a layer.
#[derive(Clone, Debug)]
struct Cache {
    capacity: usize,
    /// Rows so far of each sequence.
    seen: Vec<usize>,
    /// Keys and values of each layer, [sequences capacity, K hd].
    kv: Vec<(Tensor, Tensor)>,
}

impl Cache {
    fn new(config: &LlamaConfig, sequences: usize) -> Self {
        let capacity = 64;
        let zeros = || Tensor::zeros(&[sequences * capacity, config.kv_heads * config.head_width]);
        Self {
            capacity,
            seen: vec![0; sequences],
            kv: (0..config.layers).map(|_| (zeros(), zeros())).collect(),
        }
    }

    /// Makes room for `rows` rows a sequence, doubling as needed.
    fn reserve(&mut self, rows: usize) {
        if rows <= self.capacity {
            return;
        }
        let capacity = rows.max(2 * self.capacity);
        for t in self.kv.iter_mut().flat_map(|(k, v)| [k, v]) {
            let mut wider = Tensor::zeros(&[self.seen.len() * capacity, t.cols()]);
            for (s, &n) in self.seen.iter().enumerate() {
                wider.write_rows(
                    s * capacity,
                    &t.slice_rows(s * self.capacity..s * self.capacity + n),
                );
            }
            *t = wider;
        }
        self.capacity = capacity;
    }

    /// Writes the new rows of a layer behind the old ones; returns all of the layer.
    fn append(
        &mut self,
        layer: usize,
        sequences: &[usize],
        segments: &[Range<usize>],
        k: &Tensor,
        v: &Tensor,
    ) -> (Tensor, Tensor) {
        let (ks, vs) = &mut self.kv[layer];
        for (&s, rows) in sequences.iter().zip(segments) {
            for (j, row) in rows.clone().enumerate() {
                ks.write_row(s * self.capacity + self.seen[s] + j, k, row);
                vs.write_row(s * self.capacity + self.seen[s] + j, v, row);
            }
        }
        (ks.clone(), vs.clone())
    }
}

impl Llama {
    /// Turns the matrices into bf16, for generation and evaluation: half the memory, and half of it read a token.
    pub fn narrow(&mut self) {
        self.params.narrow(&[EMBEDDING, HEAD]);
    }

    /// Logits [N, V] of hidden rows.
    pub fn logits(&self, p: &Bound, hidden: Var) -> Var {
        p.tape.linear(hidden, self.head(p))
    }

    /// The matrix [V, W] that turns hidden rows into logits.
    pub fn head(&self, p: &Bound) -> Var {
        p.var(if self.config.tied { EMBEDDING } else { HEAD })
    }

    /// Normalised hidden states [N, W] of a batch.
    pub fn forward(&self, p: &Bound, batch: &Batch) -> Var {
        self.run(p, batch, None)
    }

    fn run(&self, p: &Bound, batch: &Batch, mut streaming: Option<(&mut Cache, &[usize])>) -> Var {
        let (t, c) = (p.tape, &self.config);
        let rotation = Rotation::new(&batch.positions, c.head_width / 2, c.rope_theta);
        let layout = Arc::new(layout(batch, &mut streaming));
        let begin = t.mark();
        let mut h = t.embedding(p.var(EMBEDDING), batch.tokens.clone());
        for i in 0..c.layers {
            let w = |s: &str| p.var(&format!("model.layers.{i}.{s}.weight"));
            let norm = (w("input_layernorm"), c.eps);
            let maps = ["q_proj", "k_proj", "v_proj"].map(|s| w(&format!("self_attn.{s}")));
            let [q, k, mut v] = t.linears(h, Some(norm), maps);
            let q = t.head_norm_rope(q, c.heads, None, Some(&rotation));
            let mut k = t.head_norm_rope(k, c.kv_heads, None, Some(&rotation));
            if let Some((cache, sequences)) = &mut streaming {
                let (keys, values) =
                    cache.append(i, sequences, &batch.segments, &t.value(k), &t.value(v));
                (k, v) = (t.constant(&keys), t.constant(&values));
            }
            let a = Attended {
                q,
                k,
                v,
                prefix: None,
                extra: None,
                heads: c.heads,
                kv_heads: c.kv_heads,
                site: None,
            };
            h = t.add_linear(h, t.attention(a, layout.clone()), w("self_attn.o_proj"));
            let layer = FeedForward {
                gain: w("post_attention_layernorm"),
                eps: c.eps,
                gate: w("mlp.gate_proj"),
                up: w("mlp.up_proj"),
                down: w("mlp.down_proj"),
            };
            h = t.feed_forward(h, layer);
            t.forget(begin, &[h]);
        }
        if let Some((cache, sequences)) = streaming {
            for (&s, rows) in sequences.iter().zip(batch.segments.iter()) {
                cache.seen[s] += rows.len();
            }
        }
        t.rms_norm(h, p.var("model.norm.weight"), c.eps)
    }
}

/// Which keys the rows see: all of their segment so far, and before it those of its sequence.
fn layout(batch: &Batch, streaming: &mut Option<(&mut Cache, &[usize])>) -> AttentionLayout {
    let segments = &batch.segments;
    let (keys, before): (Vec<Range<usize>>, Vec<usize>) = match streaming {
        None => (segments.to_vec(), vec![0; segments.len()]),
        Some((cache, sequences)) => {
            let most = sequences
                .iter()
                .zip(segments.iter())
                .map(|(&s, rows)| cache.seen[s] + rows.len())
                .max()
                .unwrap_or(0);
            cache.reserve(most);
            let of = |(&s, rows): (&usize, &Range<usize>)| {
                (
                    s * cache.capacity..s * cache.capacity + cache.seen[s] + rows.len(),
                    cache.seen[s],
                )
            };
            sequences.iter().zip(segments.iter()).map(of).unzip()
        }
    };
    let last = segments
        .iter()
        .zip(before)
        .flat_map(|(rows, b)| (0..rows.len()).map(move |j| (b + j) as u32))
        .collect();
    AttentionLayout {
        queries: segments.to_vec(),
        keys,
        last,
        window: 0,
        extra: Vec::new(),
    }
}

impl LanguageModel for Llama {
    fn vocab(&self) -> usize {
        self.config.vocab
    }

    fn parameters(&self) -> usize {
        self.params.count()
    }

    fn nll(&self, batch: &Batch, targets: &[u32]) -> Vec<f32> {
        let tape = Tape::inference();
        let p = Bound::new(&tape, &self.params);
        let hidden = self.forward(&p, batch);
        tape.value(tape.cross_entropy(hidden, self.head(&p), targets.to_vec().into()))
            .to_vec()
    }

    fn stream(&self, sequences: usize) -> Box<dyn Stream + '_> {
        Box::new(LlamaStream {
            model: self,
            cache: Cache::new(&self.config, sequences),
        })
    }

    fn fork(&self, sequences: usize) -> Option<Box<dyn Fork + '_>> {
        Some(Box::new(LlamaStream {
            model: self,
            cache: Cache::new(&self.config, sequences),
        }))
    }
}

/// A Llama's stream: keys and values of everything seen.
struct LlamaStream<'a> {
    model: &'a Llama,
    cache: Cache,
}

/// Rows of a sequence that one forward pass takes, so that a long prompt does not need memory at once.
const MOST_ROWS: usize = 512;

impl Stream for LlamaStream<'_> {
    fn extend(&mut self, entries: &[(usize, &[u32])]) -> Tensor {
        assert!(
            entries.is_sorted_by(|a, b| a.0 < b.0),
            "stream: sequences must ascend"
        );
        let mut logits = Tensor::zeros(&[entries.len(), self.model.config.vocab]);
        let rounds = entries
            .iter()
            .map(|(_, t)| t.len().div_ceil(MOST_ROWS))
            .max()
            .unwrap_or(0);
        for round in 0..rounds {
            let parts: Vec<(usize, usize, &[u32])> = entries
                .iter()
                .enumerate()
                .filter_map(|(e, (s, tokens))| Some((e, *s, tokens.chunks(MOST_ROWS).nth(round)?)))
                .collect();
            let sequences: Vec<usize> = parts.iter().map(|p| p.1).collect();
            let batch = Batch::new(parts.iter().map(|p| (p.2, self.cache.seen[p.1] as u32)));
            let tape = Tape::inference();
            let p = Bound::new(&tape, &self.model.params);
            let hidden = self
                .model
                .run(&p, &batch, Some((&mut self.cache, &sequences)));
            // Earlier rounds of a long prompt write logits that later ones overwrite.
            let ends: Vec<u32> = batch.segments.iter().map(|s| s.end as u32 - 1).collect();
            let values = tape.value(self.model.logits(&p, tape.gather_rows(hidden, ends.into())));
            for (row, part) in parts.iter().enumerate() {
                logits.write_row(part.0, &values, row);
            }
        }
        logits
    }

    fn reset(&mut self, sequence: usize) {
        self.cache.seen[sequence] = 0;
    }
}

impl Fork for LlamaStream<'_> {
    fn fork(&mut self, from: usize, to: usize) {
        let cache = &mut self.cache;
        let (rows, capacity) = (cache.seen[from], cache.capacity);
        for t in cache.kv.iter_mut().flat_map(|(k, v)| [k, v]) {
            t.copy_rows_within(from * capacity, to * capacity, rows);
        }
        cache.seen[to] = rows;
    }

    fn nll(&mut self, entries: &[(usize, &[u32])], targets: &[u32]) -> Vec<f32> {
        let sequences: Vec<usize> = entries.iter().map(|e| e.0).collect();
        let batch = Batch::new(entries.iter().map(|e| (e.1, self.cache.seen[e.0] as u32)));
        let tape = Tape::inference();
        let p = Bound::new(&tape, &self.model.params);
        let hidden = self
            .model
            .run(&p, &batch, Some((&mut self.cache, &sequences)));
        let nll = tape.cross_entropy(hidden, self.model.head(&p), targets.to_vec().into());
        tape.value(nll).to_vec()
    }
}
