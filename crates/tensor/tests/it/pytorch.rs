//! Forward values and gradients against numbers computed by PyTorch in double precision
//! (`fixtures/generate.py` writes them).

use serde_json::Value;
use std::sync::Arc;
use tensor::optim::{AdamW, adamw_, newton_schulz};
use tensor::{Attended, AttentionLayout, Grads, Ids, Range, Rotation, Tape, Tensor, Var};

fn read(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list(v: &Value) -> &[Value] {
    v.as_array().unwrap()
}

fn size(v: &Value) -> usize {
    v.as_u64().unwrap() as usize
}

fn number(v: &Value) -> f32 {
    v.as_f64().unwrap() as f32
}

fn ids(v: &Value) -> Vec<u32> {
    list(v).iter().map(|x| size(x) as u32).collect()
}

fn ranges(v: &Value) -> Vec<Range<usize>> {
    list(v).iter().map(|r| size(&r[0])..size(&r[1])).collect()
}

fn tensor(v: &Value) -> Tensor {
    let dims: Vec<usize> = list(&v["dims"]).iter().map(size).collect();
    Tensor::from_vec(list(&v["values"]).iter().map(number).collect(), &dims)
}

#[track_caller]
fn close(what: &str, found: &Tensor, wanted: &Value, tolerance: f32) {
    let wanted = tensor(wanted);
    assert_eq!(
        found.numel(),
        wanted.numel(),
        "{what}: {:?} for {:?}",
        found.dims(),
        wanted.dims()
    );
    let scale = wanted.max_abs().max(1e-3);
    for (i, (f, w)) in found.to_vec().iter().zip(wanted.to_vec()).enumerate() {
        assert!(
            (f - w).abs() <= tolerance * scale,
            "{what}: element {i} is {f}, PyTorch has {w} (scale {scale})"
        );
    }
}

/// Runs `f` on the inputs of a case, in the order of `names`, and compares its value and all gradients.
fn compare(name: &str, case: &Value, names: &[&str], f: impl Fn(&Tape, &[Var]) -> Var) {
    let t = Tape::new();
    let vars: Vec<Var> = names
        .iter()
        .enumerate()
        .map(|(i, n)| t.leaf(&tensor(&case["inputs"][n]), i))
        .collect();
    assert_eq!(
        vars.len(),
        case["inputs"].as_object().unwrap().len(),
        "{name}: all inputs are used"
    );
    let out = f(&t, &vars);
    close(name, &t.value(out), &case["output"], 2e-6);
    let upstream: Arc<[f32]> = tensor(&case["upstream"]).to_vec().into();
    let root = t.weighted_sum(out, upstream);
    let mut grads = Grads::new(names.len());
    t.backward(root, &mut grads);
    for (i, n) in names.iter().enumerate() {
        close(
            &format!("{name}: gradient of {n}"),
            grads.get(i).unwrap(),
            &case["gradients"][n],
            5e-6,
        );
    }
}

#[test]
fn attention_with_window_prefix_and_extra_keys_matches_pytorch() {
    for (name, case) in read("attention").as_object().unwrap() {
        let l = &case["layout"];
        let layout = Arc::new(AttentionLayout {
            queries: ranges(&l["queries"]),
            keys: ranges(&l["keys"]),
            last: ids(&l["last"]),
            window: size(&l["window"]),
            extra: ranges(&l["extra"])
                .iter()
                .map(|r| r.start as u32..r.end as u32)
                .collect(),
        });
        let has = |n: &str| case["inputs"].get(n).is_some();
        let mut names = vec!["q", "k", "v"];
        names.extend(
            ["prefix_k", "prefix_v", "extra_k", "extra_v"]
                .into_iter()
                .filter(|n| has(n)),
        );
        let at = |n: &str| names.iter().position(|m| *m == n);
        compare(name, case, &names, |t, v| {
            let pair = |k: &str, w: &str| at(k).zip(at(w)).map(|(k, w)| (v[k], v[w]));
            let (prefix, extra) = (pair("prefix_k", "prefix_v"), pair("extra_k", "extra_v"));
            let (heads, kv_heads) = (size(&case["heads"]), size(&case["kv_heads"]));
            t.attention(
                Attended {
                    q: v[0],
                    k: v[1],
                    v: v[2],
                    prefix,
                    extra,
                    heads,
                    kv_heads,
                    site: None,
                },
                layout.clone(),
            )
        });
    }
}

#[test]
fn normalisation_and_rotation_match_pytorch() {
    for (name, case) in read("norms").as_object().unwrap() {
        if name == "rms_norm" {
            compare(name, case, &["x", "weight"], |t, v| {
                t.rms_norm(v[0], v[1], number(&case["eps"]))
            });
            continue;
        }
        let heads = size(&case["heads"]);
        let half = size(&case["inputs"]["x"]["dims"][1]) / heads / 2;
        let positions = ids(&case["positions"]);
        let rotation = Rotation::new(&positions, half, case["theta"].as_f64().unwrap());
        let rotation = (!positions.is_empty()).then_some(&rotation);
        let names = if case["inputs"].get("gain").is_some() {
            vec!["x", "gain"]
        } else {
            vec!["x"]
        };
        compare(name, case, &names, |t, v| {
            t.head_norm_rope(v[0], heads, v.get(1).copied(), rotation)
        });
    }
}

#[test]
fn cross_entropy_with_the_head_and_swiglu_match_pytorch() {
    let losses = read("losses");
    let case = &losses["cross_entropy"];
    let targets: Ids = ids(&case["targets"]).into();
    compare("cross_entropy", case, &["h", "table"], |t, v| {
        t.cross_entropy(v[0], v[1], targets.clone())
    });
    compare("swiglu", &losses["swiglu"], &["gate", "up"], |t, v| {
        t.swiglu(v[0], v[1])
    });
}

#[test]
fn adamw_steps_match_pytorch() {
    for run in list(&read("optimizers")["adamw"]) {
        let mut p = tensor(&run["start"]);
        let (mut m, mut v) = (Tensor::zeros(p.dims()), Tensor::zeros(p.dims()));
        for (i, (g, want)) in list(&run["gradients"])
            .iter()
            .zip(list(&run["values"]))
            .enumerate()
        {
            let settings = AdamW {
                lr: number(&run["lr"]),
                beta1: number(&run["betas"][0]),
                beta2: number(&run["betas"][1]),
                eps: number(&run["eps"]),
                weight_decay: number(&run["weight_decay"]),
                step: i as u32 + 1,
            };
            adamw_(&mut p, &tensor(g), &mut m, &mut v, settings);
            close(&format!("adamw step {}", i + 1), &p, want, 1e-6);
        }
    }
}

#[test]
fn newton_schulz_matches_pytorch_for_wide_tall_and_square() {
    for (i, run) in list(&read("optimizers")["newton_schulz"])
        .iter()
        .enumerate()
    {
        let coefficients: Vec<_> = list(&run["coefficients"])
            .iter()
            .map(|c| (number(&c[0]), number(&c[1]), number(&c[2])))
            .collect();
        let found = newton_schulz(&tensor(&run["g"]), &coefficients, number(&run["factor"]));
        close(
            &format!("newton_schulz {i}"),
            &found,
            &run["orthogonal"],
            2e-5,
        );
    }
}
