//! The packed model as a file: safetensors with packed arrays, the configuration and the tokenizer.

use crate::Error;
use crate::checkpoint::{CONFIG, TOKENIZER, metadata};
use crate::phase::folder;
use data::Tokenizer;
use model::packed::{Census, Embedding, Entry, Kind, pack, unpack};
use model::{Cognate, Config};
use std::path::{Path, PathBuf};
use store::{Array, Dtype, Run};
use tensor::ops::ternary::Packing;

/// Metadata key that tells a packed file from a plain one; its value is the version of the form.
pub const PACKED: &str = "forge.packed";
const VERSION: &str = "1";
/// Name of the final file, without its ending.
const NAME: &str = "model.packed";

fn dtype(kind: Kind) -> Dtype {
    match kind {
        Kind::U8 => Dtype::U8,
        Kind::I8 => Dtype::I8,
        Kind::F16 => Dtype::F16,
        Kind::F32 => Dtype::F32,
    }
}

fn arrays(entries: Vec<Entry>) -> Vec<Array> {
    entries
        .into_iter()
        .map(|e| Array {
            name: e.name,
            dtype: dtype(e.kind),
            shape: e.shape,
            bytes: e.bytes,
        })
        .collect()
}

/// Bytes that the arrays of a model take in a packed file, and what it holds.
pub(super) fn packed_size(
    model: &Cognate,
    packing: Packing,
    embedding: Embedding,
) -> (u64, Census) {
    let (entries, census) = pack(model, packing, embedding);
    (entries.iter().map(|e| e.bytes.len() as u64).sum(), census)
}

/// Writes the run's packed model and returns where.
pub fn save_packed(
    run: &Run,
    model: &Cognate,
    tokenizer: &Tokenizer,
    packing: Packing,
    embedding: Embedding,
) -> Result<PathBuf, Error> {
    let mut meta = metadata(&model.config, tokenizer);
    meta.insert(PACKED.into(), VERSION.into());
    Ok(run.write_model(
        folder("bitnet"),
        NAME,
        &arrays(pack(model, packing, embedding).0),
        &meta,
    )?)
}

/// Whether a model file is a packed one.
pub fn is_packed(path: &Path) -> Result<bool, Error> {
    Ok(store::read_safetensors(path)?.1.contains_key(PACKED))
}

/// Reads a packed model: it runs straight from its packed weights, for inference only.
pub fn load_packed(path: &Path) -> Result<(Cognate, Tokenizer), Error> {
    let (arrays, meta) = store::read_safetensors(path)?;
    let fault = |fault: String| Error::ModelFile {
        path: path.into(),
        fault,
    };
    let text = |key: &str| {
        meta.get(key)
            .ok_or_else(|| fault(format!("no `{key}` in its metadata")))
    };
    if text(PACKED)? != VERSION {
        return Err(fault(format!(
            "its packed form has version {}, this program reads {VERSION}",
            text(PACKED)?
        )));
    }
    let config: Config = serde_json::from_str(text(CONFIG)?)
        .map_err(|e| fault(format!("its `{CONFIG}` is not a model config: {e}")))?;
    let tokenizer = Tokenizer::from_bytes(text(TOKENIZER)?.as_bytes())?;
    let mut entries = Vec::new();
    for a in arrays {
        let kind = [Kind::U8, Kind::I8, Kind::F16, Kind::F32]
            .into_iter()
            .find(|k| dtype(*k) == a.dtype);
        let kind = kind.ok_or_else(|| {
            fault(format!(
                "tensor `{}` is {}, expected U8, I8, F16 or F32",
                a.name, a.dtype
            ))
        })?;
        entries.push(Entry {
            name: a.name,
            kind,
            shape: a.shape,
            bytes: a.bytes,
        });
    }
    if tokenizer.vocab_size() > config.vocab {
        return Err(fault(format!(
            "its tokenizer has {} tokens, its embedding {}",
            tokenizer.vocab_size(),
            config.vocab
        )));
    }
    let model = unpack(config, entries).map_err(|e| fault(e.to_string()))?;
    Ok((model, tokenizer))
}
