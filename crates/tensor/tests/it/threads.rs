//! The same bits at any number of threads, forward and backward, over every coarse operation.

use crate::differences::{causal, normal};
use std::sync::Arc;
use tensor::ops::memory::Memorised;
use tensor::optim::{AdamW, POLAR_EXPRESS, adamw_, newton_schulz};
use tensor::{
    Attended, AttentionLayout, Grads, Ids, MemoryShape, Rotation, Segments, Tape, Tensor, Var,
};

const ROWS: usize = 300;
const WIDTH: usize = 64;
const VOCABULARY: usize = 700;

/// A transformer block with everything on it, large enough that every kernel cuts its work into shards.
fn forward(t: &Tape, p: &[Var]) -> Var {
    let random = tensor::random::Counted::new(2, "tokens", 0);
    let tokens: Ids = (0..ROWS as u64)
        .map(|i| random.below(i, VOCABULARY) as u32)
        .collect();
    let segments: Segments = Arc::new([0..170, 170..171, 171..ROWS]);
    let mut layout: AttentionLayout = causal(&[170, 1, 129], 50);
    layout.extra = (0..ROWS as u32).map(|i| i..i + i % 2).collect();
    let positions: Vec<u32> = layout.last.clone();
    let rotation = Rotation::new(&positions, 8, 10_000.0);

    let x = t.embedding(p[0], tokens.clone());
    let h = t.rms_norm(x, p[1], 1e-5);
    let h = t.causal_conv(h, p[2], segments.clone(), Some(p[3]));
    let q = t.linear(h, p[4]);
    let k = t.linear(h, p[5]);
    let v = t.linear(h, p[6]);
    let q = t.head_norm_rope(q, 4, Some(p[7]), Some(&rotation));
    let k = t.head_norm_rope(k, 2, Some(p[8]), Some(&rotation));
    let a = Attended {
        q,
        k,
        v,
        prefix: Some((p[9], p[10])),
        extra: Some((v, k)),
        heads: 4,
        kv_heads: 2,
        site: Some(0),
    };
    let a = t.attention(a, Arc::new(layout));
    let rates = t.slice_cols(h, 0..4);
    let rates = t.sigmoid(rates);
    let qn = t.scale(q, 0.25);
    let m = Memorised {
        q: qn,
        k: qn,
        v: a,
        eta: rates,
        theta: rates,
        alpha: rates,
        keys: p[13],
        values: p[14],
    };
    let shape = MemoryShape {
        heads: 4,
        width: 16,
        slots: 24,
        chunk: 32,
    };
    let m = t.memory(m, shape, segments);
    let a = t.add(a, m);
    let gate = t.sigmoid(a);
    let x = t.mix(gate, x, a);
    let up = t.linear(x, p[11]);
    let x = t.swiglu(up, up);
    let x = t.linear(x, p[12]);
    let x = t.add_bias(x, p[1]);
    let x = t.mul_cols(x, p[1]);
    let w = t.softmax(x);
    let w = t.sum_cols(w);
    let x = t.mul_rows(x, w);
    let some: Ids = (0..40).map(|i| i * 7).collect();
    let rows = t.gather_rows(x, some.clone());
    let x = t.replace_rows(x, rows, some);
    let nll = t.cross_entropy(x, p[0], tokens.clone());
    let weights: Vec<f32> = (0..ROWS).map(|i| (i % 5) as f32 * 0.01).collect();
    let sum = t.cross_entropy_sum(x, p[0], tokens, &weights);
    t.add(sum, t.weighted_sum(nll, weights.into()))
}

fn parameters() -> Vec<Tensor> {
    let half = WIDTH / 2;
    let shapes: [&[usize]; 15] = [
        &[VOCABULARY, WIDTH],
        &[WIDTH],
        &[WIDTH, 4],
        &[9, WIDTH],
        &[WIDTH, WIDTH],
        &[half, WIDTH],
        &[half, WIDTH],
        &[4],
        &[2],
        &[5, half],
        &[5, half],
        &[3 * WIDTH, WIDTH],
        &[WIDTH, 3 * WIDTH],
        &[4, 24, 16],
        &[4, 24, 16],
    ];
    shapes
        .iter()
        .enumerate()
        .map(|(i, s)| normal(s, 0.3, &format!("parameter {i}")))
        .collect()
}

/// The bits of the loss, of the attention peaks, of every gradient and of parameters after a step.
fn step(threads: usize) -> Vec<Vec<u32>> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    pool.install(|| {
        let mut values = parameters();
        let t = Tape::new();
        let vars: Vec<Var> = values
            .iter()
            .enumerate()
            .map(|(i, x)| t.leaf(x, i))
            .collect();
        let loss = forward(&t, &vars);
        let mut found = vec![t.value(loss).to_vec(), t.attention_peaks()[0].1.clone()];
        let mut grads = Grads::new(values.len());
        t.backward(loss, &mut grads);
        for (i, p) in values.iter_mut().enumerate() {
            let g = grads
                .get(i)
                .unwrap_or_else(|| panic!("parameter {i} got no gradient"));
            assert!(g.is_finite() && g.max_abs() > 0.0, "parameter {i}");
            found.push(g.to_vec());
            found.push(vec![g.sum_sq() as f32]);
            if p.rows() > 1 {
                found.push(newton_schulz(g, &POLAR_EXPRESS, 1.01).to_vec());
            }
            let (mut m, mut v) = (Tensor::zeros(p.dims()), Tensor::zeros(p.dims()));
            let settings = AdamW {
                lr: 0.01,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.1,
                step: 1,
            };
            adamw_(p, g, &mut m, &mut v, settings);
            found.push(p.to_vec());
        }
        found
            .iter()
            .map(|x| x.iter().map(|v| v.to_bits()).collect())
            .collect()
    })
}

#[test]
fn forward_backward_and_update_have_the_same_bits_at_any_thread_count() {
    let one = step(1);
    for threads in [2, 3] {
        for (i, (a, b)) in one.iter().zip(step(threads)).enumerate() {
            assert!(*a == b, "part {i} differs between 1 and {threads} threads");
        }
    }
}
