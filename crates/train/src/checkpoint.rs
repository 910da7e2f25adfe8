//! Models as bytes: arrays for checkpoints, and self-contained files for what a phase hands on.
//!
//! A final file is safetensors with the configuration and the tokenizer in its metadata, so that one file
//! is all that evaluation, chat, merging and compression need.

use crate::Error;
use data::Tokenizer;
use model::{Cognate, Config, Params};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use store::{Array, Run};
use tensor::Tensor;

/// Metadata key of the model's configuration.
pub const CONFIG: &str = "forge.config";
/// Metadata key of the tokenizer.
pub const TOKENIZER: &str = "forge.tokenizer";

/// A tensor as an array.
pub fn array(name: impl Into<String>, t: &Tensor) -> Array {
    Array::f32(name, t.dims(), &t.to_vec())
}

/// An array as a tensor.
pub fn tensor(a: &Array) -> Tensor {
    Tensor::from_vec(a.to_f32(), &a.shape)
}

/// The tensors of a model, names behind `prefix`.
pub fn arrays(model: &Cognate, prefix: &str) -> Vec<Array> {
    model
        .params
        .iter()
        .map(|(name, t)| array(format!("{prefix}{name}"), t))
        .collect()
}

/// A model from a configuration and arrays whose names begin with `prefix`.
pub fn model_from(config: Config, arrays: &[Array], prefix: &str) -> Result<Cognate, Error> {
    let fault = |fault: String| Error::ModelFile {
        path: PathBuf::from(prefix),
        fault,
    };
    config.validate()?;
    let values = named(arrays, prefix);
    let params = Params::from_named(&config, values, |_| false, 0).map_err(fault)?;
    Ok(Cognate {
        params,
        ..Cognate::empty(config)
    })
}

/// Arrays whose names begin with `prefix`, as tensors by the rest of their names.
pub fn named(arrays: &[Array], prefix: &str) -> BTreeMap<String, Tensor> {
    arrays
        .iter()
        .filter_map(|a| Some((a.name.strip_prefix(prefix)?.to_string(), tensor(a))))
        .collect()
}

/// The metadata of a self-contained model file.
pub fn metadata(config: &Config, tokenizer: &Tokenizer) -> BTreeMap<String, String> {
    BTreeMap::from([
        (
            CONFIG.to_string(),
            serde_json::to_string(config).expect("a config is plain data"),
        ),
        (
            TOKENIZER.to_string(),
            String::from_utf8_lossy(&tokenizer.to_bytes()).into_owned(),
        ),
        ("format".to_string(), "pt".to_string()),
    ])
}

/// Writes a finished model to `PHASE_DIR/final/NAME.safetensors` of the run.
pub fn save_final(
    run: &Run,
    phase_dir: &str,
    name: &str,
    model: &Cognate,
    tokenizer: &Tokenizer,
) -> Result<PathBuf, Error> {
    Ok(run.write_model(
        phase_dir,
        name,
        &arrays(model, ""),
        &metadata(&model.config, tokenizer),
    )?)
}

/// Reads a self-contained model file.
pub fn load_final(path: &Path) -> Result<(Cognate, Tokenizer), Error> {
    let (arrays, meta) = store::read_safetensors(path)?;
    let fault = |fault: String| Error::ModelFile {
        path: path.into(),
        fault,
    };
    let text = |key: &str| {
        meta.get(key)
            .ok_or_else(|| fault(format!("no `{key}` in its metadata")))
    };
    let config: Config = serde_json::from_str(text(CONFIG)?)
        .map_err(|e| fault(format!("its `{CONFIG}` is not a model config: {e}")))?;
    config.validate()?;
    let tokenizer = Tokenizer::from_bytes(text(TOKENIZER)?.as_bytes())?;
    if let Some(a) = arrays.iter().find(|a| a.dtype != store::Dtype::F32) {
        return Err(fault(format!(
            "tensor `{}` is {}, expected F32",
            a.name, a.dtype
        )));
    }
    let params = Params::from_named(&config, named(&arrays, ""), |_| false, 0).map_err(fault)?;
    if let Some((name, _)) = params.iter().find(|(_, t)| !t.is_finite()) {
        return Err(fault(format!(
            "tensor `{name}` holds a value that is not finite"
        )));
    }
    if tokenizer.vocab_size() > config.vocab {
        return Err(fault(format!(
            "its tokenizer has {} tokens, its embedding {}",
            tokenizer.vocab_size(),
            config.vocab
        )));
    }
    Ok((
        Cognate {
            params,
            ..Cognate::empty(config)
        },
        tokenizer,
    ))
}
