//! What mergekit's own methods made of one tensor (`fixtures/peer.py`), in the three types that weights come in.

use half::{bf16, f16};
use merge::{Base, Dtype, Inputs, METHODS, Operand, Parameters, method};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f32> {
    let list = value.as_array().unwrap();
    list.iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn stored(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let bytes = |x: &f32| match dtype {
        Dtype::F32 => x.to_le_bytes().to_vec(),
        Dtype::Bf16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(bytes).collect()
}

/// How far two numbers of the type are apart: absolutely in fp32, in units of the last place otherwise.
fn apart(dtype: Dtype, a: f32, b: f32) -> f32 {
    let place = |bits: u16| {
        let size = i32::from(bits & 0x7fff);
        if bits & 0x8000 == 0 { size } else { -size }
    };
    let ulps = |a: u16, b: u16| (place(a) - place(b)).abs() as f32;
    match dtype {
        Dtype::F32 => (a - b).abs(),
        Dtype::Bf16 => ulps(bf16::from_f32(a).to_bits(), bf16::from_f32(b).to_bits()),
        Dtype::F16 => ulps(f16::from_f32(a).to_bits(), f16::from_f32(b).to_bits()),
    }
}

fn parameters(case: &Value, count: usize) -> Parameters {
    let row = method(case["method"].as_str().unwrap()).unwrap();
    let mut p = Parameters::defaults(row, count);
    for (name, value) in case["tensor"].as_object().unwrap() {
        let number = value
            .as_bool()
            .map_or_else(|| value.as_f64().unwrap(), |b| f64::from(u8::from(b)));
        p = p.with(name, number);
    }
    for (name, values) in case["models"].as_object().unwrap() {
        let values: Vec<f64> = values
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect();
        p = p.with_each(name, &values);
    }
    p
}

#[test]
fn every_deterministic_method_gives_what_mergekit_gives_in_fp32_bf16_and_f16() {
    let file: Value = serde_json::from_str(include_str!("../fixtures/mergekit.json")).unwrap();
    let shape: Vec<usize> = file["shape"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_u64().unwrap() as usize)
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    for (name, of) in file["dtypes"].as_object().unwrap() {
        let dtype = Dtype::from_name(name).unwrap();
        let base = stored(dtype, &numbers(&of["base"]));
        let models: Vec<Vec<u8>> = of["models"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| stored(dtype, &numbers(m)))
            .collect();
        let (mut exact, mut total) = (0, 0);
        for case in of["cases"].as_array().unwrap() {
            let row = method(case["method"].as_str().unwrap()).unwrap();
            seen.insert(row.name);
            let count = case["count"].as_u64().unwrap() as usize;
            let operands: Vec<Operand> = models[..count]
                .iter()
                .map(|m| Operand::stored(m, dtype, dtype))
                .collect();
            let base = case["base"]
                .as_bool()
                .unwrap()
                .then(|| Operand::stored(&base, dtype, dtype));
            assert!(base.is_some() || row.base != Base::Required);
            let inputs = Inputs {
                tensor: "w",
                shape: &shape,
                dtype,
                base,
                models: &operands,
            };
            let p = parameters(case, count);
            row.check(&p, base.is_some()).unwrap();
            let mut merged = Vec::new();
            (row.run)(&inputs, &p, &mut |block| merged.extend_from_slice(block)).unwrap();
            let expected = numbers(&case["merged"]);
            assert_eq!(merged.len(), expected.len());
            let limit = if dtype == Dtype::F32 { 1e-6 } else { 1.0 };
            for (i, (a, b)) in merged.iter().zip(&expected).enumerate() {
                assert!(
                    apart(dtype, *a, *b) <= limit,
                    "{} {} in {name}: element {i} is {a}, mergekit's {b}",
                    row.name,
                    case["tensor"]
                );
                exact += usize::from(a == b);
                total += 1;
            }
        }
        if dtype != Dtype::F32 {
            assert!(
                exact * 1000 >= total * 995,
                "{name}: {exact} of {total} bit for bit"
            );
        }
    }
    let random = ["dare_linear", "dare_ties", "della", "della_linear"];
    for row in METHODS.iter().filter(|row| !random.contains(&row.name)) {
        assert!(seen.contains(row.name), "{} is not compared", row.name);
    }
}
