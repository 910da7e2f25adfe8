//! Keys, bags and runs that the tests share.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use store::{Array, Bag, Dtype, Key, Run};

pub(crate) fn key(phase: &str, step: u64) -> Key {
    Key {
        attempt: 1,
        phase: phase.into(),
        branch: "reasoning".into(),
        step,
    }
}

/// A bag whose every part depends on `step`.
pub(crate) fn bag(step: u64) -> Bag {
    let weights: Vec<f32> = (0..12).map(|i| (step as f32 + i as f32) * 0.1).collect();
    Bag {
        version: 3,
        json: json!({"step": step, "lr": 0.1, "nested": {"z": 1, "a": [1, 2.5e-9]}}),
        arrays: vec![
            Array::f32("weight", &[3, 4], &weights),
            Array {
                name: "mask".into(),
                dtype: Dtype::U8,
                shape: vec![5],
                bytes: vec![1, 0, 1, 0, 1],
            },
            Array {
                name: "rng".into(),
                dtype: Dtype::U64,
                shape: vec![],
                bytes: step.to_le_bytes().into(),
            },
            Array {
                name: "empty".into(),
                dtype: Dtype::BF16,
                shape: vec![0, 7],
                bytes: vec![],
            },
        ],
        files: BTreeMap::from([
            ("config.json".to_string(), b"{\"width\": 64}".to_vec()),
            (
                "tokenizer.json".to_string(),
                vec![b't'; 100 + step as usize],
            ),
        ]),
    }
}

/// A bag of `bytes` bytes.
pub(crate) fn big_bag(step: u64, bytes: usize) -> Bag {
    let array = Array {
        name: "big".into(),
        dtype: Dtype::U8,
        shape: vec![bytes],
        bytes: vec![7; bytes],
    };
    Bag {
        arrays: vec![array],
        ..bag(step)
    }
}

/// The bag as it comes back: its arrays in the order of names.
pub(crate) fn sorted(mut bag: Bag) -> Bag {
    bag.arrays.sort_by(|a, b| a.name.cmp(&b.name));
    bag
}

pub(crate) fn new_run(root: &Path) -> Run {
    Run::create(root, "first", &json!({"recipe": "tiny", "seed": 42})).unwrap()
}

/// Every file under `folder` by relative path, with its bytes.
pub(crate) fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            files.extend(
                contents(&path)
                    .into_iter()
                    .map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)),
            );
        } else {
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
    files
}
