//! The plain decoder that engines are compared on: 8 layers, width 512, 8 heads, SwiGLU 1376, RMSNorm, no
//! rotary embedding, vocabulary 8192 untied (33.7M parameters), AdamW.
//!
//! Legend: N rows (tokens), W width, V vocabulary. Left out on purpose: everything that makes a Cognate.

use model::Params;
use model::llama::{Llama, LlamaConfig};
use std::sync::Arc;
use tensor::optim::{AdamW, adamw_};
use tensor::random::Counted;
use tensor::{Attended, AttentionLayout, FeedForward, Grads, Tape, Tensor, Var};

const LAYERS: usize = 8;
const WIDTH: usize = 512;
const HEADS: usize = 8;
const FFN: usize = 1376;
pub(super) const VOCAB: usize = 8192;
const EPS: f32 = 1e-6;

/// Tensors of one layer: norm, q, k, v, o, norm, gate, up, down.
const PER_LAYER: usize = 9;

/// A Llama of the same sizes with random weights, for generation.
pub(super) fn llama() -> Llama {
    let config = LlamaConfig {
        vocab: VOCAB,
        width: WIDTH,
        layers: LAYERS,
        heads: HEADS,
        kv_heads: HEADS,
        head_width: WIDTH / HEADS,
        ffn: FFN,
        eps: EPS,
        rope_theta: 1e4,
        tied: false,
        positions: 4096,
        bos: None,
        eos: Vec::new(),
    };
    let parts = config.specification().into_iter().enumerate();
    let parts = parts.map(|(i, (name, dims, role))| {
        let random = Counted::new(1, "bench/decoder", i as u64);
        let tensor = if dims.len() == 1 {
            Tensor::full(&dims, 1.0)
        } else {
            Tensor::randn(&dims, 0.02, &random)
        };
        (name, role, tensor)
    });
    Llama {
        params: Params::from_tensors(parts.collect()),
        config,
    }
}

/// The decoder with its optimizer state.
pub(super) struct Decoder {
    params: Vec<Tensor>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    grads: Grads,
    step: u32,
}

impl Decoder {
    pub(super) fn new() -> Self {
        let (w, f, v) = (WIDTH, FFN, VOCAB);
        let mut params: Vec<Tensor> = Vec::new();
        let matrix = |params: &mut Vec<Tensor>, dims: &[usize]| {
            let random = Counted::new(1, "bench/decoder", params.len() as u64);
            params.push(Tensor::randn(dims, 0.02, &random));
        };
        matrix(&mut params, &[v, w]);
        for _ in 0..LAYERS {
            params.push(Tensor::full(&[w], 1.0));
            for _ in 0..4 {
                matrix(&mut params, &[w, w]);
            }
            params.push(Tensor::full(&[w], 1.0));
            matrix(&mut params, &[f, w]);
            matrix(&mut params, &[f, w]);
            matrix(&mut params, &[w, f]);
        }
        params.push(Tensor::full(&[w], 1.0));
        matrix(&mut params, &[v, w]);
        let zeros = || params.iter().map(|p| Tensor::zeros(p.dims())).collect();
        Self {
            first: zeros(),
            second: zeros(),
            grads: Grads::new(params.len()),
            params,
            step: 0,
        }
    }

    pub(super) fn parameters(&self) -> usize {
        self.params.iter().map(Tensor::numel).sum()
    }

    /// One training step on `batch` sequences of `sequence` tokens; gives the loss and the floating-point
    /// operations of the forward products.
    pub(super) fn train_step(
        &mut self,
        tokens: &[u32],
        targets: &[u32],
        sequence: usize,
    ) -> (f32, u64) {
        let tape = Tape::new();
        let vars: Vec<Var> = self
            .params
            .iter()
            .enumerate()
            .map(|(slot, p)| tape.leaf(p, slot))
            .collect();
        let rows = tokens.len();
        let segments: Vec<_> = (0..rows / sequence)
            .map(|i| i * sequence..(i + 1) * sequence)
            .collect();
        let layout = Arc::new(AttentionLayout {
            queries: segments.clone(),
            keys: segments,
            last: (0..rows).map(|i| (i % sequence) as u32).collect(),
            window: 0,
            extra: Vec::new(),
        });
        let mut h = tape.embedding(vars[0], tokens.to_vec().into());
        for layer in 0..LAYERS {
            let p = &vars[1 + layer * PER_LAYER..][..PER_LAYER];
            let [q, k, v] = tape.linears(h, Some((p[0], EPS)), [p[1], p[2], p[3]]);
            let attended = Attended {
                q,
                k,
                v,
                prefix: None,
                extra: None,
                heads: HEADS,
                kv_heads: HEADS,
                site: None,
            };
            let a = tape.attention(attended, layout.clone());
            h = tape.add_linear(h, a, p[4]);
            let layer = FeedForward {
                gain: p[5],
                eps: EPS,
                gate: p[6],
                up: p[7],
                down: p[8],
            };
            h = tape.feed_forward(h, layer);
        }
        let last = 1 + LAYERS * PER_LAYER;
        let h = tape.rms_norm(h, vars[last], EPS);
        let weights = vec![1.0 / rows as f32; rows];
        let loss = tape.cross_entropy_sum(h, vars[last + 1], targets.to_vec().into(), &weights);
        let value = tape.value(loss).item();
        let flops = tape.flops();
        tape.backward(loss, &mut self.grads);
        drop(tape);
        self.step += 1;
        let settings = AdamW {
            lr: 3e-4,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            step: self.step,
        };
        for (slot, p) in self.params.iter_mut().enumerate() {
            if let Some(g) = self.grads.get(slot) {
                adamw_(
                    p,
                    g,
                    &mut self.first[slot],
                    &mut self.second[slot],
                    settings,
                );
            }
        }
        self.grads.clear();
        (value, flops)
    }
}
