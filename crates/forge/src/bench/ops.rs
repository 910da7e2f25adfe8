//! Each operation of the tape alone, at the sizes of a model of width 512: how much of what the machine can do
//! it makes use of, in arithmetic or in memory, whichever would take longer.

use crate::args::Common;
use crate::{output, table};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use tensor::ops::memory::Memorised;
use tensor::optim::{AdamW, POLAR_EXPRESS, adamw_, newton_schulz};
use tensor::random::Counted;
use tensor::{
    Attended, AttentionLayout, Grads, Ids, MemoryShape, Rotation, Segments, Tape, Tensor, Var,
};

const WIDTH: usize = 512;
const HEADS: usize = 8;
const FFN: usize = 1376;
const VOCAB: usize = 8192;
const SEQUENCE: usize = 256;
/// Keys that a query of a windowed attention sees.
const WINDOW: usize = 256;

/// The loss: its forward pass computes both gradients.
const HEAD: &str = "cross-entropy with head 8192";

#[derive(Args)]
pub(crate) struct OpsArgs {
    /// Rows (tokens) of the activations, in sequences of 256
    #[arg(long, value_name = "N", default_value_t = 2048)]
    tokens: usize,
    /// Times each operation is run; the median counts
    #[arg(long, value_name = "N", default_value_t = 7)]
    repeat: usize,
}

type Run = Box<dyn Fn(&Tape, &[Var]) -> Var>;

/// An operation with the work that it cannot do without.
struct Op {
    name: &'static str,
    /// Shapes of its inputs; gradients are taken of all.
    inputs: Vec<Vec<usize>>,
    run: Run,
    /// Floating-point operations of the forward pass; the backward pass takes twice as many.
    flops: usize,
    /// Whether the forward pass computes the gradients as well, and `flops` counts them.
    whole: bool,
    /// Elements read and written by the forward pass at least.
    elements: usize,
}

pub(super) fn run(args: &OpsArgs, common: &Common) -> Result<u8> {
    let tokens = args.tokens.max(SEQUENCE).next_multiple_of(SEQUENCE);
    let (peak, bandwidth) = (super::peak_arithmetic(), super::peak_bandwidth());
    let share = |flops: f64, bytes: f64, seconds: f64| {
        let (arithmetic, memory) = (flops / peak, bytes / bandwidth);
        let bound = if arithmetic > memory {
            "arithmetic"
        } else {
            "bandwidth"
        };
        (arithmetic.max(memory) / seconds, bound)
    };
    let mut rows: Vec<Value> = Vec::new();
    let mut note = |name: &str, pass: &str, flops: f64, bytes: f64, seconds: f64| {
        let (share, bound) = share(flops, bytes, seconds);
        rows.push(json!({
            "op": name, "pass": pass, "milliseconds": seconds * 1e3, "gflops": flops / seconds / 1e9,
            "gigabytes_per_second": bytes / seconds / 1e9, "bound": bound, "share": share,
        }));
    };
    for op in operations(tokens) {
        let inputs: Vec<Tensor> = op
            .inputs
            .iter()
            .enumerate()
            .map(|(i, dims)| Tensor::randn(dims, 0.5, &Counted::new(0, "bench/ops", i as u64)))
            .collect();
        let (mut forward, mut backward) = (Vec::new(), Vec::new());
        for _ in 0..=args.repeat.max(1) {
            let tape = Tape::new();
            let vars: Vec<Var> = inputs
                .iter()
                .enumerate()
                .map(|(slot, x)| tape.leaf(x, slot))
                .collect();
            let begun = Instant::now();
            let out = (op.run)(&tape, &vars);
            forward.push(begun.elapsed().as_secs_f64());
            let root = tape.sum(out);
            let mut grads = Grads::new(inputs.len());
            let begun = Instant::now();
            tape.backward(root, &mut grads);
            backward.push(begun.elapsed().as_secs_f64());
        }
        let (flops, bytes) = (op.flops as f64, 4.0 * op.elements as f64);
        let (forward, backward) = (
            super::median(forward[1..].to_vec()),
            super::median(backward[1..].to_vec()),
        );
        if op.whole {
            note(op.name, "both", flops, bytes, forward + backward);
        } else {
            note(op.name, "forward", flops, bytes, forward);
            note(op.name, "backward", 2.0 * flops, 2.0 * bytes, backward);
        }
    }
    for (name, flops, elements, seconds) in optimizers(args.repeat.max(1)) {
        note(name, "update", flops as f64, 4.0 * elements as f64, seconds);
    }
    let result = json!({
        "isa": tensor::isa::name(), "threads": rayon::current_num_threads(), "tokens": tokens,
        "peak_gflops": peak / 1e9, "peak_gigabytes_per_second": bandwidth / 1e9, "ops": rows,
    });
    if common.json {
        output::json(&result);
        return Ok(0);
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            let figure = |k: &str, digits| format!("{:.digits$}", r[k].as_f64().unwrap_or(0.0));
            let text = |k: &str| r[k].as_str().unwrap_or("").to_string();
            vec![
                text("op"),
                text("pass"),
                figure("milliseconds", 2),
                figure("gflops", 1),
                figure("gigabytes_per_second", 1),
                text("bound"),
                format!("{:.0}%", 100.0 * r["share"].as_f64().unwrap_or(0.0)),
            ]
        })
        .collect();
    output::text(&table::table(
        &[
            "operation",
            "pass",
            "ms",
            "GFLOP/s",
            "GB/s",
            "bound by",
            "share",
        ],
        &cells,
    ));
    output::line(&format!(
        "{}, {} threads, {tokens} tokens; measured peaks: {:.1} GFLOP/s, {:.1} GB/s",
        tensor::isa::name(),
        rayon::current_num_threads(),
        peak / 1e9,
        bandwidth / 1e9
    ));
    Ok(0)
}

fn operations(n: usize) -> Vec<Op> {
    let segments: Segments = (0..n / SEQUENCE)
        .map(|i| i * SEQUENCE..(i + 1) * SEQUENCE)
        .collect();
    let mut list = Vec::new();
    let mut op = |name, inputs: &[&[usize]], flops, run: Run| {
        let inputs: Vec<Vec<usize>> = inputs.iter().map(|d| d.to_vec()).collect();
        let read: usize = inputs.iter().map(|d| d.iter().product::<usize>()).sum();
        list.push(Op {
            name,
            // What comes out is taken as large as the first input.
            elements: read + inputs[0].iter().product::<usize>(),
            inputs,
            run,
            flops,
            whole: name == HEAD,
        });
    };
    op(
        "linear 512 -> 512",
        &[&[n, WIDTH], &[WIDTH, WIDTH]],
        2 * n * WIDTH * WIDTH,
        Box::new(|t, v| t.linear(v[0], v[1])),
    );
    op(
        "linear 512 -> 1376",
        &[&[n, WIDTH], &[FFN, WIDTH]],
        2 * n * WIDTH * FFN,
        Box::new(|t, v| t.linear(v[0], v[1])),
    );
    op(
        "linear 1376 -> 512",
        &[&[n, FFN], &[WIDTH, FFN]],
        2 * n * WIDTH * FFN,
        Box::new(|t, v| t.linear(v[0], v[1])),
    );
    let targets: Ids = (0..n).map(|i| (i * 31 % VOCAB) as u32).collect();
    let weights = vec![1.0 / n as f32; n];
    // Logits, and both gradients at once.
    op(
        HEAD,
        &[&[n, WIDTH], &[VOCAB, WIDTH]],
        6 * n * WIDTH * VOCAB,
        Box::new(move |t, v| t.cross_entropy_sum(v[0], v[1], targets.clone(), &weights)),
    );
    for (name, sequence) in [
        ("attention over 256", SEQUENCE),
        ("attention over all, window 256", n),
    ] {
        let ranges: Vec<_> = (0..n / sequence)
            .map(|i| i * sequence..(i + 1) * sequence)
            .collect();
        let seen: usize = (0..n).map(|i| (i % sequence + 1).min(WINDOW)).sum();
        let layout = Arc::new(AttentionLayout {
            queries: ranges.clone(),
            keys: ranges,
            last: (0..n).map(|i| (i % sequence) as u32).collect(),
            window: WINDOW,
            extra: Vec::new(),
        });
        op(
            name,
            &[&[n, WIDTH], &[n, WIDTH], &[n, WIDTH]],
            4 * seen * WIDTH,
            Box::new(move |t, v| {
                let operands = Attended {
                    q: v[0],
                    k: v[1],
                    v: v[2],
                    prefix: None,
                    extra: None,
                    heads: HEADS,
                    kv_heads: HEADS,
                    site: None,
                };
                t.attention(operands, layout.clone())
            }),
        );
    }
    let shape = MemoryShape {
        heads: HEADS,
        width: WIDTH / HEADS,
        slots: 256,
        chunk: 64,
    };
    let slots: &[usize] = &[HEADS, shape.slots, shape.width];
    let rates: &[usize] = &[n, HEADS];
    let rows: &[usize] = &[n, WIDTH];
    let pieces = segments.clone();
    // Reading takes two products with the slots, writing three and two outer products each for the slots and
    // for their momentum.
    op(
        "memory, 2048 slots",
        &[rows, rows, rows, rates, rates, rates, slots, slots],
        2 * n * shape.slots * WIDTH * 9,
        Box::new(move |t, v| {
            let unit = |x| t.head_norm_rope(x, HEADS, None, None);
            let rate = |x| t.sigmoid(x);
            let operands = Memorised {
                q: unit(v[0]),
                k: unit(v[1]),
                v: v[2],
                eta: rate(v[3]),
                theta: rate(v[4]),
                alpha: rate(v[5]),
                keys: v[6],
                values: v[7],
            };
            t.memory(operands, shape, pieces.clone())
        }),
    );
    op(
        "causal convolution, 4 wide",
        &[rows, &[WIDTH, 4]],
        8 * n * WIDTH,
        Box::new(move |t, v| t.causal_conv(v[0], v[1], segments.clone(), None)),
    );
    op(
        "RMS norm",
        &[rows, &[WIDTH]],
        4 * n * WIDTH,
        Box::new(|t, v| t.rms_norm(v[0], v[1], 1e-6)),
    );
    let positions: Vec<u32> = (0..n).map(|i| (i % SEQUENCE) as u32).collect();
    let rotation = Rotation::new(&positions, WIDTH / HEADS / 2, 1e4);
    op(
        "head norm and rotary",
        &[rows, &[HEADS]],
        8 * n * WIDTH,
        Box::new(move |t, v| t.head_norm_rope(v[0], HEADS, Some(v[1]), Some(&rotation))),
    );
    op(
        "SwiGLU",
        &[&[n, FFN], &[n, FFN]],
        5 * n * FFN,
        Box::new(|t, v| t.swiglu(v[0], v[1])),
    );
    op(
        "add",
        &[rows, rows],
        n * WIDTH,
        Box::new(|t, v| t.add(v[0], v[1])),
    );
    op(
        "gated mix",
        &[rows, rows, rows],
        3 * n * WIDTH,
        Box::new(|t, v| t.mix(v[0], v[1], v[2])),
    );
    let picked: Ids = (0..n).map(|i| (i * 17 % VOCAB) as u32).collect();
    op(
        "embedding",
        &[&[VOCAB, WIDTH]],
        n * WIDTH,
        Box::new(move |t, v| t.embedding(v[0], picked.clone())),
    );
    list
}

/// Name, floating-point operations, elements moved, and median seconds.
fn optimizers(repeat: usize) -> Vec<(&'static str, usize, usize, f64)> {
    let random = |i| Counted::new(1, "bench/ops", i);
    let (r, c) = (WIDTH, FFN);
    let g = Tensor::randn(&[c, r], 1.0, &random(0));
    let mut p = Tensor::randn(&[c, r], 1.0, &random(1));
    let (mut m, mut v) = (Tensor::zeros(&[c, r]), Tensor::zeros(&[c, r]));
    let settings = AdamW {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 1,
    };
    let time = |f: &mut dyn FnMut()| {
        let seconds = (0..=repeat).map(|_| {
            let begun = Instant::now();
            f();
            begun.elapsed().as_secs_f64()
        });
        super::median(seconds.skip(1).collect())
    };
    let adam = time(&mut || adamw_(&mut p, &g, &mut m, &mut v, settings));
    let newton = time(&mut || drop(newton_schulz(&g, &POLAR_EXPRESS, 1.01)));
    // Five times X^T X and its square, both symmetric, and X times that.
    let products = 5 * (r * r * c + r * r * r + 2 * r * r * c);
    vec![
        ("AdamW, 1376 x 512", 12 * r * c, 7 * r * c, adam),
        ("Newton-Schulz, 1376 x 512", products, 5 * 4 * r * c, newton),
    ]
}
