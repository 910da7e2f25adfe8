//! A model as it lies in a Hugging Face folder: configuration, and tensors in memory maps.
//!
//! Opening reads headers only. `model.safetensors`, or the shards that `model.safetensors.index.json` names; fp32, f16 and
//! bf16 are merged, tensors of other types (counters, masks) can only be taken over.

use crate::error::Error;
use crate::rounding::Dtype;
use memmap2::{Advice, Mmap};
use safetensors::tensor::Metadata;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Longer headers are refused, as the format's own library does.
const HEADER_LIMIT: usize = 100_000_000;

/// A model's folder, opened.
pub(crate) struct Checkpoint {
    /// As the merge configuration names it.
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    /// `config.json`.
    pub(crate) config: Map<String, Value>,
    pub(crate) tensors: BTreeMap<String, Stored>,
    files: Vec<Mmap>,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) shape: Vec<usize>,
    /// The format's name of the type, such as `BF16`.
    pub(crate) kind: String,
    /// The type, if it is one that is merged.
    pub(crate) dtype: Option<Dtype>,
    file: usize,
    range: (usize, usize),
}

impl Checkpoint {
    /// Opens a folder.
    pub(crate) fn open(name: &str, folder: &Path) -> Result<Checkpoint, Error> {
        let config = json(&folder.join("config.json"))?;
        let mut checkpoint = Checkpoint {
            name: name.to_owned(),
            folder: folder.to_owned(),
            config,
            tensors: BTreeMap::new(),
            files: Vec::new(),
        };
        for path in weight_files(folder)? {
            checkpoint.map(&path)?;
        }
        Ok(checkpoint)
    }

    /// The bytes of a tensor.
    pub(crate) fn bytes(&self, tensor: &Stored) -> &[u8] {
        &self.files[tensor.file][tensor.range.0..tensor.range.1]
    }

    /// A number of `config.json`, also where a model of several parts keeps that of its text.
    pub(crate) fn number(&self, keys: &[&str]) -> Option<usize> {
        let text = self.config.get("text_config").and_then(Value::as_object);
        let maps = [Some(&self.config), text];
        let mut found = keys
            .iter()
            .flat_map(|key| maps.iter().flatten().filter_map(|m| m.get(*key)));
        found.find_map(Value::as_u64).map(|n| n as usize)
    }

    /// Adds the tensors of one file.
    fn map(&mut self, path: &Path) -> Result<(), Error> {
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        // SAFETY: the map is read-only. A file that another process shortens while it is mapped would fault; whoever
        // fetches or writes models replaces files by renaming, which leaves the mapped file alone.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::read(path, e))?;
        // Only a hint: where the system takes none, pages come in one by one.
        let _ = map.advise(Advice::Sequential);
        let damaged = |found: String| Error::file(path, found, "fetch or save the file again");
        let size = map
            .first_chunk::<8>()
            .map(|b| u64::from_le_bytes(*b) as usize);
        let header = size
            .filter(|s| *s <= HEADER_LIMIT)
            .and_then(|size| map.get(8..8 + size));
        let header = header
            .ok_or_else(|| damaged(format!("{} bytes, but no safetensors header", map.len())))?;
        let begin = 8 + header.len();
        let header: Metadata = serde_json::from_slice(header)
            .map_err(|e| damaged(format!("its safetensors header is wrong: {e}")))?;
        let expected = begin + header.data_len();
        if expected != map.len() {
            let found = format!(
                "its header asks for {expected} bytes, the file has {}",
                map.len()
            );
            return Err(damaged(found));
        }
        for (name, info) in header.tensors() {
            let kind = format!("{:?}", info.dtype);
            let stored = Stored {
                shape: info.shape.clone(),
                dtype: match info.dtype {
                    safetensors::Dtype::F32 => Some(Dtype::F32),
                    safetensors::Dtype::F16 => Some(Dtype::F16),
                    safetensors::Dtype::BF16 => Some(Dtype::Bf16),
                    _ => None,
                },
                kind,
                file: self.files.len(),
                range: (begin + info.data_offsets.0, begin + info.data_offsets.1),
            };
            self.tensors.insert(name, stored);
        }
        self.files.push(map);
        Ok(())
    }
}

/// Reads a JSON object.
pub(crate) fn json(path: &Path) -> Result<Map<String, Value>, Error> {
    let bytes = std::fs::read(path).map_err(|e| Error::read(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Error::file(
            path,
            format!("not a JSON object: {e}"),
            "fetch or save the file again",
        )
    })
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let single = folder.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        return Err(Error::file(
            folder,
            "found neither model.safetensors nor model.safetensors.index.json",
            "a model in another format (.bin, .pt) is converted first: save it with safe_serialization=True",
        ));
    }
    let map = json(&index)?;
    let Some(map) = map.get("weight_map").and_then(Value::as_object) else {
        let found = "no `weight_map` from tensors to files";
        return Err(Error::file(&index, found, "fetch or save the file again"));
    };
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let outside = |n: &&&str| Path::new(n).components().count() != 1 || n.starts_with('.');
    if let Some(name) = names.iter().find(outside) {
        let found = format!("shard `{name}` lies outside the folder");
        return Err(Error::file(
            &index,
            found,
            "fetch the file from where you trust it",
        ));
    }
    Ok(names.into_iter().map(|n| folder.join(n)).collect())
}
