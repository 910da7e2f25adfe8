//! Every operation of the tape against central differences, for every input that has a gradient.

use crate::differences::{causal, check, normal};
use std::borrow::Borrow;
use std::sync::Arc;
use tensor::ops::memory::Memorised;
use tensor::random::Counted;
use tensor::{
    Attended, AttentionLayout, FeedForward, MemoryShape, Rotation, Segments, Tape, Tensor, Var,
};

type Operation = Box<dyn Fn(&Tape, &[Var]) -> Var>;

/// Name (the operation, then what is special about the case), inputs, and the graph.
struct Case {
    name: String,
    inputs: Vec<Tensor>,
    f: Operation,
}

fn case<T: Borrow<Tensor>>(
    name: &str,
    inputs: impl IntoIterator<Item = T>,
    f: impl Fn(&Tape, &[Var]) -> Var + 'static,
) -> Case {
    let inputs = inputs.into_iter().map(|x| x.borrow().clone()).collect();
    Case {
        name: name.into(),
        inputs,
        f: Box::new(f),
    }
}

fn x(dims: &[usize]) -> Tensor {
    normal(dims, 1.0, "x")
}

fn y(dims: &[usize]) -> Tensor {
    normal(dims, 1.0, "y")
}

/// Values at least 0.2 away from every multiple of one half that is odd: kinks lie there.
fn off_kinks(dims: &[usize]) -> Tensor {
    let r = Counted::new(5, "off kinks", 0);
    let value = |i| r.below(2 * i, 5) as f32 - 2.0 + 0.5 * (r.uniform(2 * i + 1) as f32 - 0.5);
    Tensor::from_vec(
        (0..dims.iter().product::<usize>() as u64)
            .map(value)
            .collect(),
        dims,
    )
}

fn positive(dims: &[usize]) -> Tensor {
    let r = Counted::new(5, "positive", 0);
    Tensor::from_vec(
        (0..dims.iter().product::<usize>() as u64)
            .map(|i| 0.5 + 2.0 * r.uniform(i) as f32)
            .collect(),
        dims,
    )
}

fn elementwise() -> Vec<Case> {
    let d = [3, 7];
    let (a, b) = (x(&d), y(&d));
    vec![
        case("add", [&a, &b], |t, v| t.add(v[0], v[1])),
        case("add: of a value to itself", [&a], |t, v| t.add(v[0], v[0])),
        case("sub", [&a, &b], |t, v| t.sub(v[0], v[1])),
        case("mul", [&a, &b], |t, v| t.mul(v[0], v[1])),
        case("mul: square", [&a], |t, v| t.mul(v[0], v[0])),
        case(
            "mix",
            [normal(&d, 1.0, "g"), a.clone(), b.clone()],
            |t, v| t.mix(v[0], v[1], v[2]),
        ),
        case("scale", [&a], |t, v| t.scale(v[0], -1.7)),
        case("add_scalar", [&a], |t, v| t.add_scalar(v[0], 0.3)),
        case("exp", [&a], |t, v| t.exp(v[0])),
        case("log", [positive(&d)], |t, v| t.log(v[0])),
        case("sigmoid", [&a], |t, v| t.sigmoid(v[0])),
        case("silu", [&a], |t, v| t.silu(v[0])),
        case("tanh", [&a], |t, v| t.tanh(v[0])),
        case("relu", [off_kinks(&d)], |t, v| {
            let moved = t.add_scalar(v[0], 0.5);
            t.relu(moved)
        }),
        case("clamp", [off_kinks(&d)], |t, v| t.clamp(v[0], -0.5, 1.5)),
        case("reshape", [&a], |t, v| {
            let r = t.reshape(v[0], &[7, 3]);
            t.softmax(r)
        }),
        case("swiglu", [a, b], |t, v| t.swiglu(v[0], v[1])),
        case(
            "swiglu: more elements than a block",
            [x(&[131, 150]), y(&[131, 150])],
            |t, v| t.swiglu(v[0], v[1]),
        ),
        case(
            "linears",
            [x(&[5, 6]), y(&[6]), y(&[4, 6]), x(&[3, 6])],
            |t, v| {
                let [a, b] = t.linears(v[0], Some((v[1], 1e-3)), [v[2], v[3]]);
                t.concat_cols(&[a, b])
            },
        ),
        case(
            "add_linear",
            [x(&[5, 4]), y(&[5, 6]), x(&[4, 6])],
            |t, v| t.add_linear(v[0], v[1], v[2]),
        ),
        case(
            "feed_forward",
            [x(&[5, 6]), y(&[6]), y(&[9, 6]), x(&[9, 6]), y(&[6, 9])],
            |t, v| {
                let layer = FeedForward {
                    gain: v[1],
                    eps: 1e-3,
                    gate: v[2],
                    up: v[3],
                    down: v[4],
                };
                t.feed_forward(v[0], layer)
            },
        ),
    ]
}

fn reductions() -> Vec<Case> {
    let a = x(&[5, 19]);
    vec![
        case("sum", [&a], |t, v| t.sum(v[0])),
        case("mean", [&a], |t, v| t.mean(v[0])),
        case("weighted_sum", [&a], |t, v| {
            t.weighted_sum(v[0], (0..95).map(|i| i as f32 * 0.02 - 1.0).collect())
        }),
        case("sum_cols", [&a], |t, v| t.sum_cols(v[0])),
        case("softmax", [&a], |t, v| t.softmax(v[0])),
        case("log_softmax", [&a], |t, v| t.log_softmax(v[0])),
        case("add_bias", [a.clone(), y(&[19])], |t, v| {
            t.add_bias(v[0], v[1])
        }),
        case(
            "add_bias: blocks of rows",
            [x(&[300, 3]), y(&[3])],
            |t, v| t.add_bias(v[0], v[1]),
        ),
        case("mul_cols", [a.clone(), y(&[19])], |t, v| {
            t.mul_cols(v[0], v[1])
        }),
        case(
            "mul_cols: blocks of rows",
            [x(&[300, 3]), y(&[3])],
            |t, v| t.mul_cols(v[0], v[1]),
        ),
        case("mul_rows", [a, y(&[5])], |t, v| t.mul_rows(v[0], v[1])),
    ]
}

fn movement() -> Vec<Case> {
    let a = x(&[5, 4]);
    vec![
        case("gather_rows: repeated and missing rows", [&a], |t, v| {
            t.gather_rows(v[0], Arc::new([3, 0, 3, 4]))
        }),
        case("embedding", [&a], |t, v| {
            t.embedding(v[0], Arc::new([1, 1, 2]))
        }),
        case("replace_rows", [a.clone(), y(&[2, 4])], |t, v| {
            t.replace_rows(v[0], v[1], Arc::new([4, 1]))
        }),
        case(
            "concat_rows: one input twice",
            [a.clone(), y(&[2, 4])],
            |t, v| t.concat_rows(&[v[0], v[1], v[0]]),
        ),
        case("concat_cols", [a.clone(), y(&[5, 3])], |t, v| {
            t.concat_cols(&[v[1], v[0]])
        }),
        case(
            "concat_cols_of: some rows",
            [a.clone(), y(&[5, 3])],
            |t, v| t.concat_cols_of(&[v[1], v[0]], Some(Arc::new([4, 0, 3]))),
        ),
        case("slice_cols: overlapping", [&a], |t, v| {
            let (l, r) = (t.slice_cols(v[0], 0..3), t.slice_cols(v[0], 1..4));
            t.mul(l, r)
        }),
        case("gather_cols", [a], |t, v| {
            t.gather_cols(v[0], Arc::new([3, 0, 3, 1, 2]))
        }),
    ]
}

fn layers() -> Vec<Case> {
    let rotation = Rotation::new(&[0, 1, 2, 0, 7], 3, 100.0);
    let (r1, r2) = (rotation.clone(), rotation);
    vec![
        case("linear", [x(&[5, 6]), y(&[7, 6])], |t, v| {
            t.linear(v[0], v[1])
        }),
        case("linear: shards", [x(&[130, 40]), y(&[70, 40])], |t, v| {
            t.linear(v[0], v[1])
        }),
        case("matmul", [x(&[5, 6]), y(&[6, 7])], |t, v| {
            t.matmul(v[0], v[1])
        }),
        case("rms_norm", [x(&[5, 19]), y(&[19])], |t, v| {
            t.rms_norm(v[0], v[1], 1e-5)
        }),
        case(
            "rms_norm: blocks of rows, large eps",
            [x(&[270, 4]), y(&[4])],
            |t, v| t.rms_norm(v[0], v[1], 0.5),
        ),
        case(
            "head_norm_rope: gain and rotation",
            [x(&[5, 12]), y(&[2])],
            move |t, v| t.head_norm_rope(v[0], 2, Some(v[1]), Some(&r1)),
        ),
        case("head_norm_rope: gain", [x(&[5, 12]), y(&[3])], |t, v| {
            t.head_norm_rope(v[0], 3, Some(v[1]), None)
        }),
        case("head_norm_rope: rotation", [x(&[5, 12])], move |t, v| {
            t.head_norm_rope(v[0], 2, None, Some(&r2))
        }),
        case("head_norm_rope: neither", [x(&[5, 12])], |t, v| {
            t.head_norm_rope(v[0], 2, None, None)
        }),
    ]
}

fn convolutions() -> Vec<Case> {
    // Segments longer than, as long as and shorter than the filter.
    let segments: Segments = Arc::new([0..5, 5..6, 6..9, 9..11]);
    let long: Segments = Arc::new([0..140, 140..150]);
    let (s1, s2) = (segments.clone(), segments);
    vec![
        case("causal_conv", [x(&[11, 3]), y(&[3, 4])], move |t, v| {
            t.causal_conv(v[0], v[1], s1.clone(), None)
        }),
        case(
            "causal_conv: left context",
            [x(&[11, 3]), y(&[3, 4]), normal(&[12, 3], 1.0, "left")],
            move |t, v| t.causal_conv(v[0], v[1], s2.clone(), Some(v[2])),
        ),
        case(
            "causal_conv: blocks of rows",
            [x(&[150, 2]), y(&[2, 3])],
            move |t, v| t.causal_conv(v[0], v[1], long.clone(), None),
        ),
    ]
}

fn losses() -> Vec<Case> {
    let targets =
        |n: usize, v: usize| -> Arc<[u32]> { (0..n).map(|i| ((i * 7 + 3) % v) as u32).collect() };
    let (t1, t2, t3) = (targets(6, 21), targets(6, 21), targets(1100, 9));
    let t4 = t2.clone();
    vec![
        case("cross_entropy", [x(&[6, 5]), y(&[21, 5])], move |t, v| {
            t.cross_entropy(v[0], v[1], t1.clone())
        }),
        case(
            "cross_entropy: rows of weight zero",
            [x(&[6, 5]), y(&[21, 5])],
            move |t, v| {
                let nll = t.cross_entropy(v[0], v[1], t2.clone());
                t.weighted_sum(nll, Arc::new([0.0, 1.0, 0.5, 0.0, 2.0, 0.0]))
            },
        ),
        case(
            "cross_entropy: blocks of rows, some of weight zero",
            [x(&[1100, 4]), y(&[9, 4])],
            move |t, v| {
                let nll = t.cross_entropy(v[0], v[1], t3.clone());
                t.weighted_sum(nll, (0..1100).map(|i| (i % 4) as f32 * 0.1).collect())
            },
        ),
        case(
            "cross_entropy_sum: rows of weight zero, used twice",
            [x(&[6, 5]), y(&[21, 5])],
            move |t, v| {
                let weights = [0.0, 1.0, 0.5, 0.0, 2.0, 0.0];
                let a = t.cross_entropy_sum(v[0], v[1], t4.clone(), &weights);
                let b = t.cross_entropy_sum(t.tanh(v[0]), v[1], t4.clone(), &weights);
                t.add(t.scale(a, 0.3), b)
            },
        ),
    ]
}

/// An attention of `layout`; inputs are q, k, v, then the prefix pair, then the extra pair, when present.
fn attention(
    name: &str,
    heads: usize,
    kv_heads: usize,
    width: usize,
    layout: AttentionLayout,
    prefix: usize,
) -> Case {
    let (nq, nk) = (
        layout.last.len(),
        layout.keys.iter().map(|k| k.end).max().unwrap_or(0),
    );
    let extra = layout.extra.iter().map(|r| r.end).max();
    let kv = |n: usize, purpose: &str| normal(&[n, kv_heads * width], 1.0, purpose);
    let mut inputs = vec![x(&[nq, heads * width]), kv(nk, "k"), kv(nk, "v")];
    if prefix > 0 {
        inputs.extend([kv(prefix, "pk"), kv(prefix, "pv")]);
    }
    if let Some(rows) = extra {
        inputs.extend([kv(rows as usize, "ek"), kv(rows as usize, "ev")]);
    }
    let layout = Arc::new(layout);
    case(&format!("attention: {name}"), &inputs, move |t, v| {
        let mut pairs = v[3..].chunks_exact(2).map(|p| (p[0], p[1]));
        let a = Attended {
            q: v[0],
            k: v[1],
            v: v[2],
            prefix: if prefix > 0 { pairs.next() } else { None },
            extra: pairs.next(),
            heads,
            kv_heads,
            site: None,
        };
        t.attention(a, layout.clone())
    })
}

fn attentions() -> Vec<Case> {
    let streaming = AttentionLayout {
        queries: vec![0..2, 2..3, 3..8],
        keys: vec![0..6, 6..7, 7..13],
        last: vec![4, 5, 0, 1, 2, 3, 4, 5],
        window: 3,
        extra: vec![],
    };
    // Chains that see what an anchor sees, and themselves; a row without extra keys among them.
    let chains = AttentionLayout {
        queries: vec![0..5, 5..8],
        keys: vec![0..6, 6..10],
        last: vec![2, 2, 5, 5, 5, 0, 3, 3],
        window: 3,
        extra: vec![0..1, 0..2, 2..3, 2..4, 2..5, 5..5, 5..6, 6..8],
    };
    let shared = Arc::new(causal(&[4, 3], 0));
    let mut cases = vec![
        attention("causal", 2, 2, 3, causal(&[6], 0), 0),
        attention("one row", 2, 1, 4, causal(&[1], 0), 2),
        attention(
            "several segments, window",
            2,
            2,
            3,
            causal(&[5, 1, 4], 2),
            0,
        ),
        attention("prefix", 1, 1, 4, causal(&[5], 0), 3),
        attention(
            "grouped heads, prefix, window, segments",
            4,
            2,
            3,
            causal(&[5, 4], 3),
            2,
        ),
        attention("continued sequences", 4, 1, 3, streaming, 2),
        attention("extra keys", 2, 1, 4, chains.clone(), 0),
        attention("extra keys, prefix, grouped heads", 4, 2, 3, chains, 2),
        attention("blocks of rows", 4, 2, 5, causal(&[130, 3, 66], 70), 3),
    ];
    cases.push(case(
        "attention: one value as queries, keys and values",
        [x(&[7, 4])],
        move |t, v| {
            t.attention(
                Attended {
                    q: v[0],
                    k: v[0],
                    v: v[0],
                    prefix: None,
                    extra: None,
                    heads: 2,
                    kv_heads: 2,
                    site: None,
                },
                shared.clone(),
            )
        },
    ));
    cases
}

/// Rows of unit length per head.
fn unit(dims: &[usize], width: usize, purpose: &str) -> Tensor {
    let rows = normal(dims, 1.0, purpose).to_vec();
    let norm = |h: &[f32]| h.iter().map(|v| v * v).sum::<f32>().sqrt();
    Tensor::from_vec(
        rows.chunks(width)
            .flat_map(|h| h.iter().map(|v| v / norm(h)).collect::<Vec<_>>())
            .collect(),
        dims,
    )
}

fn rates(dims: &[usize], low: f32, high: f32, purpose: &str) -> Tensor {
    let r = Counted::new(6, purpose, 0);
    let value = |i| low + (high - low) * r.uniform(i) as f32;
    Tensor::from_vec(
        (0..dims.iter().product::<usize>() as u64)
            .map(value)
            .collect(),
        dims,
    )
}

/// q, k, v, eta, theta, alpha, keys, values of a memory over `n` rows.
pub(crate) fn memory_inputs(n: usize, shape: MemoryShape) -> Vec<Tensor> {
    let (h, d) = (shape.heads, shape.heads * shape.width);
    let slots = [h, shape.slots, shape.width];
    vec![
        unit(&[n, d], shape.width, "q"),
        unit(&[n, d], shape.width, "k"),
        normal(&[n, d], 0.3, "v"),
        rates(&[n, h], 0.2, 0.8, "eta"),
        rates(&[n, h], 0.05, 0.5, "theta"),
        rates(&[n, h], 0.01, 0.2, "alpha"),
        normal(&slots, 0.5, "keys"),
        normal(&slots, 0.5, "values"),
    ]
}

pub(crate) fn memorised(v: &[Var]) -> Memorised {
    Memorised {
        q: v[0],
        k: v[1],
        v: v[2],
        eta: v[3],
        theta: v[4],
        alpha: v[5],
        keys: v[6],
        values: v[7],
    }
}

fn memories() -> Vec<Case> {
    let shape = MemoryShape {
        heads: 2,
        width: 4,
        slots: 3,
        chunk: 4,
    };
    let segments: Segments = Arc::new([0..10, 10..12, 12..17]);
    let inputs = memory_inputs(17, shape);
    // Frozen states of the middle of a sequence, read in no particular order.
    let t = Tape::inference();
    let v: Vec<Var> = inputs.iter().map(|x| t.constant(x)).collect();
    let states: Arc<[_]> = t
        .memory_states(memorised(&v), shape, &segments, &[(0, 1), (0, 2), (2, 1)])
        .into();
    vec![
        case("memory", inputs, move |t, v| {
            t.memory(memorised(v), shape, segments.clone())
        }),
        case("memory_read", [unit(&[6, 8], 4, "reads")], move |t, v| {
            t.memory_read(v[0], shape, states.clone(), Arc::new([2, 0, 0, 1, 1, 0]))
        }),
    ]
}

fn all() -> Vec<Case> {
    [
        elementwise(),
        reductions(),
        movement(),
        layers(),
        convolutions(),
        losses(),
        attentions(),
        memories(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn agree(cases: Vec<Case>) {
    for c in cases {
        check(&c.name, &c.inputs, &*c.f);
    }
}

#[test]
fn elementwise_operations_agree_with_differences() {
    agree(elementwise());
}

#[test]
fn reductions_agree_with_differences() {
    agree(reductions());
}

#[test]
fn row_and_column_movements_agree_with_differences() {
    agree(movement());
}

#[test]
fn layers_agree_with_differences() {
    agree(layers());
}

#[test]
fn causal_convolutions_agree_with_differences() {
    agree(convolutions());
}

#[test]
fn fused_cross_entropy_agrees_with_differences() {
    agree(losses());
}

#[test]
fn attention_agrees_with_differences_in_every_kind_of_layout() {
    agree(attentions());
}

#[test]
fn memory_agrees_with_differences() {
    agree(memories());
}

#[test]
fn detach_passes_the_value_and_stops_the_gradient() {
    // d/dx of x * detach(x) is x, not 2 x.
    let value = x(&[2, 3]);
    let f = |t: &Tape, v: &[Var]| {
        let d = t.detach(v[0]);
        t.mul(v[0], d)
    };
    let g = crate::differences::gradients(
        std::slice::from_ref(&value),
        &|_| true,
        &f,
        &vec![1.0; 6].into(),
    );
    assert_eq!(g.get(0).map(Tensor::to_vec), Some(value.to_vec()));
}

#[test]
fn every_operation_of_the_tape_is_in_the_table() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops");
    let names: Vec<String> = all().into_iter().map(|c| c.name).collect();
    for file in ["attention", "basic", "layers", "memory", "norm", "rows"] {
        let text = std::fs::read_to_string(format!("{folder}/{file}.rs")).unwrap();
        let tape = text.split_once("impl Tape {").unwrap().1;
        for line in tape.lines().filter(|l| l.contains("-> Var")) {
            let Some(rest) = line.trim().strip_prefix("pub fn ") else {
                continue;
            };
            let name = rest.split('(').next().unwrap();
            // These two give constants.
            let covered = ["detach", "memory_stream"].contains(&name)
                || names.iter().any(|n| n.split(':').next() == Some(name));
            assert!(covered, "ops/{file}.rs: `{name}` has no case");
        }
    }
}
