//! The whole Cognate against PyTorch: `tests/fixtures/cognate.py` writes configuration, weights, logits,
//! gate logits and gradients.

use crate::sample::distance;
use model::{Batch, Bound, Cognate, Config, Depth, Params};
use serde_json::Value;
use std::collections::BTreeMap;
use tensor::{Grads, Tape, Tensor};

pub(crate) fn numbers(v: &Value) -> Vec<f32> {
    v.as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap() as f32)
        .collect()
}

pub(crate) fn whole(v: &Value) -> Vec<u32> {
    v.as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_u64().unwrap() as u32)
        .collect()
}

pub(crate) fn tensors(v: &Value) -> BTreeMap<String, Tensor> {
    let one = |t: &Value| {
        let dims: Vec<usize> = whole(&t["dims"]).iter().map(|&d| d as usize).collect();
        Tensor::from_vec(numbers(&t["values"]), &dims)
    };
    v.as_object()
        .unwrap()
        .iter()
        .map(|(n, t)| (n.clone(), one(t)))
        .collect()
}

fn reference() -> (Value, Cognate, Batch) {
    let json: Value = serde_json::from_str(include_str!("../fixtures/cognate.json")).unwrap();
    let config: Config = serde_json::from_value(json["config"].clone()).unwrap();
    config.validate().unwrap();
    let params = Params::from_named(&config, tensors(&json["weights"]), |_| false, 0).unwrap();
    let texts: Vec<Vec<u32>> = json["texts"]
        .as_array()
        .unwrap()
        .iter()
        .map(whole)
        .collect();
    let starts = whole(&json["starts"]);
    let batch = Batch::new(texts.iter().zip(starts).map(|(t, s)| (&t[..], s)));
    (
        json,
        Cognate {
            params,
            ..Cognate::empty(config)
        },
        batch,
    )
}

#[test]
fn logits_and_gates_are_those_of_pytorch() {
    let (json, m, batch) = reference();
    let depths: Vec<u8> = whole(&json["depths"]).iter().map(|&d| d as u8).collect();
    for (name, depth) in [
        ("full", Depth::Full),
        ("per_token", Depth::PerToken(&depths)),
    ] {
        let tape = Tape::inference();
        let p = Bound::new(&tape, &m.params);
        let out = m.forward(&p, &batch, depth, None, false);
        let logits = tape.value(m.logits(&p, out.hidden)).to_vec();
        let x = distance(&logits, &numbers(&json[name]["logits"]));
        assert!(x < 1e-4, "{name}: logits differ by {x}");
        for (pass, (_, gate)) in out.gates.into_iter().enumerate() {
            let x = distance(
                &tape.value(gate).to_vec(),
                &numbers(&json[name]["gates"][pass]),
            );
            assert!(x < 1e-4, "{name}: gates after pass {pass} differ by {x}");
        }
    }
}

#[test]
fn halting_decides_as_pytorch_does() {
    let (json, m, batch) = reference();
    let (_, ran) = crate::sample::logits(&m, &batch, Depth::Halting);
    assert_eq!(
        ran.iter().map(|&d| u32::from(d)).collect::<Vec<_>>(),
        whole(&json["halting"])
    );
}

#[test]
fn gradients_are_those_of_pytorch() {
    let (json, m, batch) = reference();
    let depths: Vec<u8> = whole(&json["depths"]).iter().map(|&d| d as u8).collect();
    let tape = Tape::new();
    let p = Bound::new(&tape, &m.params);
    let out = m.forward(&p, &batch, Depth::PerToken(&depths), None, false);
    let nll = tape.cross_entropy(
        out.hidden,
        p.var("embed.weight"),
        whole(&json["targets"]).into(),
    );
    let mut loss = tape.mean(nll);
    for (_, gate) in out.gates {
        loss = tape.add(loss, tape.scale(tape.sum(gate), 0.01));
    }
    assert!((f64::from(tape.value(loss).item()) - json["loss"].as_f64().unwrap()).abs() < 1e-5);
    let mut grads = Grads::new(m.params.len());
    tape.backward(loss, &mut grads);
    for (slot, name) in m.params.names().iter().enumerate() {
        let expected = numbers(&json["gradients"][name]);
        let got = grads
            .get(slot)
            .unwrap_or_else(|| panic!("{name}: no gradient"))
            .to_vec();
        let scale = expected.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
        let x = distance(&got, &expected);
        assert!(
            x < 2e-4 * scale,
            "{name}: gradients differ by {x}, the largest is {scale}"
        );
    }
}
