//! Llama-shaped models in Hugging Face's layout: `config.json`, `model.safetensors` (one file, or shards
//! behind `model.safetensors.index.json`) in fp32, fp16 or bf16, and `tokenizer.json`.
//!
//! Everything that would change the numbers and is not computed here (biases, scaled rotary frequencies,
//! other activations, quantised weights) is refused by the key that asks for it. The tokenizer stays bytes:
//! reading it is the business of whoever encodes text.

use crate::llama::{Llama, LlamaConfig};
use crate::params::Params;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tensor::Tensor;

/// A model from elsewhere that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file system said no.
    #[error("cannot read `{}`: {source}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// A file that is not what its name says, or is damaged.
    #[error("`{}`: {found}; {remedy}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A key of a configuration that no model here can have.
    #[error("`{}`: key `{key}` is {found}; {allowed}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What was found.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A tensor that the configuration asks for is not there.
    #[error("`{}`: tensor `{tensor}` {expected:?} is missing; the files belong to another config, or are incomplete: fetch them again", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape by the configuration.
        expected: Vec<usize>,
    },
    /// A tensor of another shape.
    #[error("`{}`: tensor `{tensor}` has shape {found:?}, config.json asks for {expected:?}; use the config that belongs to these weights", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// Its shape by the configuration.
        expected: Vec<usize>,
    },
    /// A tensor of a type that is not read.
    #[error("`{}`: tensor `{tensor}` is of type {found}; F32, F16 and BF16 are read: export the model in one of these", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// A file or folder that cannot be written.
    #[error("`{}` cannot be written: {source}; free some space or choose another folder", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A tensor that the model has no place for.
    #[error("`{}`: tensor `{tensor}` has no place in a Llama of this config; only plain Llama models are read", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
}

/// More layers than any model has: a damaged number must not become a list of that length.
pub(crate) const MOST_LAYERS: usize = 4096;

/// A model with its tokenizer.
pub struct HubModel {
    /// The model.
    pub model: Llama,
    /// Contents of `tokenizer.json`, when there is one.
    pub tokenizer: Option<Vec<u8>>,
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::Read {
        path: path.into(),
        source,
    })
}

/// Reads a model folder.
pub fn load(folder: &Path) -> Result<HubModel, LoadError> {
    let config = read_config(&folder.join("config.json"))?;
    let specification = config.specification();
    let wanted: BTreeMap<&str, &[usize]> = specification
        .iter()
        .map(|(n, d, _)| (&n[..], &d[..]))
        .collect();
    let mut tensors = BTreeMap::new();
    for file in weight_files(folder)? {
        read_weights(&file, &wanted, config.tied, &mut tensors)?;
    }
    let mut parts = Vec::with_capacity(specification.len());
    for (name, dims, role) in &specification {
        let t = tensors.remove(name).ok_or_else(|| LoadError::Missing {
            path: folder.into(),
            tensor: name.clone(),
            expected: dims.clone(),
        })?;
        parts.push((name.clone(), *role, t));
    }
    let tokenizer = folder.join("tokenizer.json");
    let tokenizer = if tokenizer.exists() {
        Some(read(&tokenizer)?)
    } else {
        None
    };
    Ok(HubModel {
        model: Llama {
            config,
            params: Params::from_tensors(parts),
        },
        tokenizer,
    })
}

/// The files that hold the weights of a folder.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let single = folder.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        return Err(LoadError::File {
            path: folder.into(),
            found: "found neither model.safetensors nor model.safetensors.index.json".into(),
            remedy: "a model in another format (.bin, .pt) is converted first: save it with safe_serialization=True",
        });
    }
    let json = parse(&index)?;
    let map = json
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| LoadError::File {
            path: index.clone(),
            found: "no `weight_map` from tensors to files".into(),
            remedy: "fetch the file again",
        })?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    if let Some(name) = names
        .iter()
        .find(|n| Path::new(n).components().count() != 1 || n.starts_with('.'))
    {
        return Err(LoadError::File {
            path: index,
            found: format!("shard `{name}` lies outside the folder"),
            remedy: "fetch the file from where you trust it",
        });
    }
    Ok(names.into_iter().map(|n| folder.join(n)).collect())
}

/// Reads the wanted tensors of one file as fp32.
fn read_weights(
    path: &Path,
    wanted: &BTreeMap<&str, &[usize]>,
    tied: bool,
    into: &mut BTreeMap<String, Tensor>,
) -> Result<(), LoadError> {
    let bytes = read(path)?;
    let damaged = |e: safetensors::SafeTensorError| LoadError::File {
        path: path.into(),
        found: format!("not a whole safetensors file ({e:?})"),
        remedy: "fetch it again",
    };
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    for (name, view) in file.tensors() {
        let Some(dims) = wanted.get(&name[..]) else {
            // Some exports carry a copy of the tied head, and the rotary frequencies.
            if (tied && name == "lm_head.weight") || name.ends_with("rotary_emb.inv_freq") {
                continue;
            }
            return Err(LoadError::Unknown {
                path: path.into(),
                tensor: name,
            });
        };
        if view.shape() != *dims {
            return Err(LoadError::Shape {
                path: path.into(),
                tensor: name,
                found: view.shape().to_vec(),
                expected: dims.to_vec(),
            });
        }
        let values = to_f32(&view).ok_or_else(|| LoadError::Type {
            path: path.into(),
            tensor: name.clone(),
            found: format!("{:?}", view.dtype()),
        })?;
        into.insert(name, Tensor::from_vec(values, dims));
    }
    Ok(())
}

/// The values of a tensor; none when its type is not read.
fn to_f32(view: &TensorView) -> Option<Vec<f32>> {
    let pairs = || view.data().chunks_exact(2).map(|b| [b[0], b[1]]);
    Some(match view.dtype() {
        Dtype::F32 => view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        Dtype::F16 => pairs()
            .map(|b| half::f16::from_le_bytes(b).to_f32())
            .collect(),
        Dtype::BF16 => pairs()
            .map(|b| half::bf16::from_le_bytes(b).to_f32())
            .collect(),
        _ => return None,
    })
}

fn parse(path: &Path) -> Result<Value, LoadError> {
    serde_json::from_slice(&read(path)?).map_err(|e| LoadError::File {
        path: path.into(),
        found: format!("not JSON ({e})"),
        remedy: "fetch it again",
    })
}

/// Reads `config.json`.
fn read_config(path: &Path) -> Result<LlamaConfig, LoadError> {
    let json = parse(path)?;
    let wrong = |key, found: &Value, allowed| LoadError::Config {
        path: path.into(),
        key,
        found: found.to_string(),
        allowed,
    };
    let get = |key: &str| json.get(key).unwrap_or(&Value::Null);
    if get("model_type") != "llama" {
        return Err(wrong(
            "model_type",
            get("model_type"),
            "only `llama` is read",
        ));
    }
    if !get("hidden_act").is_null() && get("hidden_act") != "silu" {
        return Err(wrong(
            "hidden_act",
            get("hidden_act"),
            "only `silu` is computed",
        ));
    }
    for key in ["attention_bias", "mlp_bias"] {
        if get(key) == true {
            return Err(wrong(key, get(key), "only models without biases are read"));
        }
    }
    for key in ["rope_scaling", "quantization_config"] {
        let plain = get(key)
            .get("rope_type")
            .or(get(key).get("type"))
            .is_some_and(|t| t == "default");
        if !get(key).is_null() && !plain {
            return Err(wrong(key, get(key), "only models without it are read"));
        }
    }
    // Newer files keep the rotary settings in one place.
    let rotary = get("rope_parameters");
    if rotary.get("rope_type").is_some_and(|t| t != "default") {
        return Err(wrong(
            "rope_parameters",
            rotary,
            "only the type `default` is computed",
        ));
    }
    let optional = |key: &'static str, default: Option<usize>| match (get(key), default) {
        (Value::Null, Some(d)) => Ok(d),
        (v, _) => match v
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|&n| n > 0 && n < 1_000_000_000)
        {
            Some(n) => Ok(n),
            None => Err(wrong(
                key,
                v,
                "it must be a whole number above 0 (and below a billion)",
            )),
        },
    };
    let size = |key| optional(key, None);
    let real = |key, v: &Value, default: f64| match v.as_f64() {
        Some(x) if x > 0.0 => Ok(x),
        None if v.is_null() => Ok(default),
        _ => Err(wrong(key, v, "it must be a number above 0")),
    };
    let token = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let (width, heads) = (size("hidden_size")?, size("num_attention_heads")?);
    let kv_heads = optional("num_key_value_heads", Some(heads))?;
    let head_width = optional("head_dim", Some((width / heads).max(1)))?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(wrong(
            "num_key_value_heads",
            get("num_key_value_heads"),
            "it must divide num_attention_heads",
        ));
    }
    if !head_width.is_multiple_of(2) || (get("head_dim").is_null() && !width.is_multiple_of(heads))
    {
        return Err(wrong(
            "num_attention_heads",
            get("num_attention_heads"),
            "hidden_size / num_attention_heads must be a whole even number",
        ));
    }
    let layers = size("num_hidden_layers")?;
    if layers > MOST_LAYERS {
        return Err(wrong(
            "num_hidden_layers",
            get("num_hidden_layers"),
            "it must be at most 4096",
        ));
    }
    Ok(LlamaConfig {
        vocab: size("vocab_size")?,
        width,
        layers,
        heads,
        kv_heads,
        head_width,
        ffn: size("intermediate_size")?,
        eps: real("rms_norm_eps", get("rms_norm_eps"), 1e-6)? as f32,
        rope_theta: real(
            "rope_theta",
            if rotary.is_null() {
                get("rope_theta")
            } else {
                rotary.get("rope_theta").unwrap_or(&Value::Null)
            },
            10_000.0,
        )?,
        tied: get("tie_word_embeddings") == true,
        positions: optional("max_position_embeddings", Some(2048))?,
        bos: token(get("bos_token_id")),
        eos: match get("eos_token_id") {
            Value::Array(all) => all.iter().filter_map(token).collect(),
            one => token(one).into_iter().collect(),
        },
    })
}

/// Files that a model goes on with beside its weights and configuration.
const COMPANIONS: [&str; 10] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "merges.txt",
    "vocab.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Writes a model made from the one in the folder `like` as a folder that other programs read: weights in one file and of
/// the type of the original's, the original's configuration with the model's number of layers, its tokenizer beside it.
/// The folder is written beside its place and renamed into it, so it is there whole or not at all.
///
/// # Errors
/// The original cannot be read, or the disk refuses.
pub fn save(folder: &Path, model: &Llama, like: &Path) -> Result<(), LoadError> {
    let refused = |path: &Path| {
        let path = path.to_path_buf();
        move |source| LoadError::Write { path, source }
    };
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let beside = parent.join(format!(".writing-{name}"));
    if beside.exists() {
        std::fs::remove_dir_all(&beside).map_err(refused(&beside))?;
    }
    std::fs::create_dir_all(&beside).map_err(refused(&beside))?;
    let mut config = parse(&like.join("config.json"))?;
    config["num_hidden_layers"] = model.config.layers.into();
    let dtype = dtype_of(like)?;
    let parts: Vec<(String, Vec<usize>, Vec<u8>)> = model
        .params
        .iter()
        .map(|(n, t)| (n.to_string(), t.dims().to_vec(), encode(&t.to_vec(), dtype)))
        .collect();
    let views = parts.iter().map(|(name, dims, bytes)| {
        let view = TensorView::new(dtype, dims.clone(), bytes);
        (name, view.expect("bytes of these dimensions"))
    });
    let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    let weights = safetensors::serialize(views, Some(metadata)).expect("views of whole tensors");
    let mut files = vec![
        ("model.safetensors", weights),
        ("config.json", format!("{config:#}\n").into_bytes()),
    ];
    for name in COMPANIONS {
        let path = like.join(name);
        if path.is_file() {
            files.push((name, read(&path)?));
        }
    }
    for (name, bytes) in files {
        let path = beside.join(name);
        let written = std::fs::File::create(&path).and_then(|mut file| {
            std::io::Write::write_all(&mut file, &bytes)?;
            file.sync_all()
        });
        written.map_err(refused(&path))?;
    }
    std::fs::rename(&beside, folder).map_err(refused(folder))
}

/// The type of the weights in a folder: that of the first tensor.
fn dtype_of(folder: &Path) -> Result<Dtype, LoadError> {
    let files = weight_files(folder)?;
    let first = files.first().map(|path| read(path)).transpose()?;
    let header = first
        .as_deref()
        .and_then(|b| SafeTensors::read_metadata(b).ok());
    let found =
        header.and_then(|(_, m)| m.offset_keys().first().map(|k| m.info(k).map(|i| i.dtype)));
    Ok(found.flatten().unwrap_or(Dtype::F32))
}

/// Values as bytes of a type: the inverse of [`to_f32`].
fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    let half =
        |bits: &dyn Fn(f32) -> u16| values.iter().flat_map(|&x| bits(x).to_le_bytes()).collect();
    match dtype {
        Dtype::F16 => half(&|x| half::f16::from_f32(x).to_bits()),
        Dtype::BF16 => half(&|x| half::bf16::from_f32(x).to_bits()),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}
