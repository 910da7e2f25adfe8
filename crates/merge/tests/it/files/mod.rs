//! Merges of checkpoints on disk, from the configuration to the folder.

mod errors;
mod folders;
mod tokens;

use merge::random::Counted;
use merge::{Config, Error, Options, Plan, Target};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder of small models.
pub(crate) struct Scene {
    top: TempDir,
}

/// Tensors by name, as fp32.
pub(crate) type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A Llama of this many layers, width and tokens.
pub(crate) fn llama(seed: u64, layers: usize, width: usize, tokens: usize) -> Weights {
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![tokens, width]),
        ("model.norm.weight".to_owned(), vec![width]),
        ("lm_head.weight".to_owned(), vec![tokens, width]),
    ];
    for layer in 0..layers {
        for (name, shape) in [
            ("self_attn.q_proj", vec![width, width]),
            ("mlp.up_proj", vec![2 * width, width]),
            ("input_layernorm", vec![width]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let values = |name: &str, n: usize| {
        let draws = Counted::new(seed, name, 0);
        (0..n as u64)
            .map(|i| (draws.uniform(i) - 0.5) as f32)
            .collect()
    };
    shapes
        .into_iter()
        .map(|(name, shape)| {
            let n = shape.iter().product();
            let values = values(&name, n);
            (name, (shape, values))
        })
        .collect()
}

impl Scene {
    pub(crate) fn new() -> Scene {
        Scene {
            top: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    /// A model with these weights, in one file of bf16 or fp32.
    pub(crate) fn model(&self, name: &str, weights: &Weights, dtype: Dtype) -> PathBuf {
        let folder = self.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        let layers = weights
            .keys()
            .filter(|n| n.ends_with("q_proj.weight"))
            .count();
        self.json(name, "config.json", &json!({
            "architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers, "torch_dtype": "float32",
            "vocab_size": weights["model.embed_tokens.weight"].0[0], "tie_word_embeddings": false,
        }));
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = weights
            .iter()
            .map(|(name, (shape, values))| {
                let each = |x: &f32| match dtype {
                    Dtype::BF16 => half::bf16::from_f32(*x).to_le_bytes().to_vec(),
                    _ => x.to_le_bytes().to_vec(),
                };
                (
                    name.clone(),
                    shape.clone(),
                    values.iter().flat_map(each).collect(),
                )
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            (
                name.as_str(),
                TensorView::new(dtype, shape.clone(), bytes).unwrap(),
            )
        });
        let file = safetensors::serialize(views, None).unwrap();
        std::fs::write(folder.join("model.safetensors"), file).unwrap();
        folder
    }

    pub(crate) fn json(&self, model: &str, file: &str, value: &Value) {
        std::fs::write(self.path(model).join(file), value.to_string()).unwrap();
    }

    /// Plans a merge; models are named by their folder's name.
    pub(crate) fn plan(&self, config: &str) -> Result<Plan, Error> {
        let resolve = |name: &str| Some(self.path(name)).filter(|path| path.is_dir());
        let options = Options {
            resolve: &resolve,
            seed: 0,
            allow_crimes: false,
        };
        Plan::new(&Config::parse(config)?, &options)
    }

    /// Merges into a folder `out`.
    pub(crate) fn merge(&self, config: &str, shard_bytes: u64) -> PathBuf {
        let folder = self.path("out");
        let target = Target {
            folder: &folder,
            shard_bytes,
            source: config,
        };
        let plan = self.plan(config).unwrap();
        let done = std::sync::atomic::AtomicU64::new(0);
        let add = |bytes| {
            done.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        };
        plan.write(&target, &add).unwrap();
        assert_eq!(done.into_inner(), plan.bytes());
        folder
    }
}

/// All tensors of a folder, with the type they are stored in.
pub(crate) fn read(folder: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<f32>)> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let values = match view.dtype() {
                Dtype::BF16 => view
                    .data()
                    .chunks(2)
                    .map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())
                    .collect(),
                Dtype::F16 => view
                    .data()
                    .chunks(2)
                    .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
                    .collect(),
                _ => view
                    .data()
                    .chunks(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
            };
            assert!(
                all.insert(name, (view.dtype(), view.shape().to_vec(), values))
                    .is_none()
            );
        }
    }
    all
}

pub(crate) fn config(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}
