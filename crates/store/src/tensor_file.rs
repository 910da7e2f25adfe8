//! Safetensors files, written with a fixed order of bytes.
//!
//! The format: eight bytes of header length (little-endian), a JSON header padded with spaces to a
//! multiple of eight, then the tensors. Tensors lie widest element first, then by name, and the
//! metadata is sorted, so identical input gives identical files (the `safetensors` crate writes its
//! metadata in the order of a hash map, hence our own writer). Reading checks the header through
//! that crate, and takes any file that follows the format, whatever its order. The data is copied
//! tensor by tensor, so that reading needs no second copy of the file; lazy reading by memory map
//! is `merge`'s business.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use safetensors::tensor::Metadata;
use serde_json::{Map, Value, json};

use crate::array::{Array, Dtype};
use crate::durable::write_with;
use crate::error::{Error, Result};

/// Longer headers are refused, as the format's own library does.
const HEADER_LIMIT: u64 = 100_000_000;

/// Writes `arrays` and `metadata` to `path`, whole or not at all. Panics when two arrays share a
/// name or an array's bytes do not fill its shape.
#[track_caller]
pub fn write_safetensors(
    path: impl AsRef<Path>,
    arrays: &[Array],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    write_with(path.as_ref(), "a model file", |out| {
        write_arrays(out, arrays, metadata)
    })
}

/// Reads every tensor, in the order of names, and the file's metadata.
pub fn read_safetensors(path: impl AsRef<Path>) -> Result<(Vec<Array>, BTreeMap<String, String>)> {
    let path = path.as_ref();
    let open = || -> io::Result<(File, u64)> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    };
    let (mut file, length) =
        open().map_err(|source| Error::read("the model file", path, source))?;
    read_arrays(&mut file, length, path)
}

/// The bytes of a safetensors file, into `out`.
#[track_caller]
pub(crate) fn write_arrays(
    out: &mut dyn Write,
    arrays: &[Array],
    metadata: &BTreeMap<String, String>,
) -> io::Result<()> {
    let mut ordered: Vec<&Array> = arrays.iter().collect();
    ordered.sort_by(|a, b| {
        b.dtype
            .size()
            .cmp(&a.dtype.size())
            .then(a.name.cmp(&b.name))
    });
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut offset = 0;
    for array in &ordered {
        array.check();
        let end = offset + array.bytes.len();
        let entry = json!({
            "dtype": array.dtype.name(),
            "shape": array.shape,
            "data_offsets": [offset, end],
        });
        let twin = header.insert(array.name.clone(), entry);
        assert!(twin.is_none(), "two arrays are called `{}`", array.name);
        offset = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    ordered
        .iter()
        .try_for_each(|array| out.write_all(&array.bytes))
}

/// Reads a safetensors file of `length` bytes from its start; `path` is for messages.
pub(crate) fn read_arrays(
    file: &mut impl Read,
    length: u64,
    path: &Path,
) -> Result<(Vec<Array>, BTreeMap<String, String>)> {
    let failed = |source| Error::read("the tensors of", path, source);
    let mut size = [0; 8];
    if length < 8 {
        return Err(Error::damaged(
            path,
            format!("{length} bytes are too few for a safetensors header"),
        ));
    }
    file.read_exact(&mut size).map_err(failed)?;
    let size = u64::from_le_bytes(size);
    if size > HEADER_LIMIT || size > length - 8 {
        return Err(Error::damaged(
            path,
            format!(
                "the header claims {size} bytes, the file has {length} (not a safetensors file, or truncated)"
            ),
        ));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(failed)?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|fault| {
        Error::damaged(path, format!("its safetensors header is wrong: {fault}"))
    })?;
    let expected = 8 + size + header.data_len() as u64;
    if expected != length {
        return Err(Error::damaged(
            path,
            format!("its header asks for {expected} bytes, the file has {length} (truncated?)"),
        ));
    }
    let mut arrays = Vec::new();
    for name in header.offset_keys() {
        let info = header
            .info(&name)
            .expect("offset_keys lists the names of the header");
        let dtype = Dtype::from_safetensors(info.dtype).ok_or_else(|| {
            Error::damaged(
                path,
                format!(
                    "tensor `{name}` has dtype {:?}, which is not supported",
                    info.dtype
                ),
            )
        })?;
        let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
        file.read_exact(&mut bytes).map_err(failed)?;
        arrays.push(Array {
            name,
            dtype,
            shape: info.shape.clone(),
            bytes,
        });
    }
    arrays.sort_by(|a, b| a.name.cmp(&b.name));
    let metadata = header
        .metadata()
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    Ok((arrays, metadata))
}
