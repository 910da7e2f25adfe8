//! The packed model: what each tensor becomes in the file, and back to a model that runs straight from it.
//!
//! | tensor | stored as |
//! |---|---|
//! | matrices chosen to be ternary | `NAME.trits` (5 codes a byte) or `NAME.bits` (4 a byte), `NAME.scale` F16 a row |
//! | initial memory (keys, values), and the embedding where asked | `NAME.int8`, `NAME.step` F16 a row of the last axis |
//! | other matrices: embedding, memory gates, rates, convolutions, prefix | `NAME` F16 |
//! | vectors (norms, gains, biases), the exit gate | `NAME` F32 |
//!
//! [`snap`] gives the model with every kept tensor at the value that its file form has: it is what the packed
//! model computes, still trainable. Entries are plain bytes; the caller writes and reads the file, so that
//! this crate needs no file format. Left out: training through packed weights.

use crate::cognate::Cognate;
use crate::config::{Config, ConfigError};
use crate::params::{Params, Role, specification};
use half::f16;
use std::collections::BTreeMap;
use tensor::Tensor;
use tensor::ops::ternary::{PackedTernary, Packing, TernaryCodes};

/// How the embedding is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Embedding {
    /// Half precision.
    Half,
    /// 8 bits with a step a row: the answer to a low compression ratio.
    Eight,
}

/// What a tensor becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Codes in {-1, 0, 1} and a scale a row.
    Ternary,
    /// 8 bits and a step a row.
    Eight,
    /// Half precision.
    Half,
    /// As it is.
    Single,
}

/// Element type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Packed codes.
    U8,
    /// Integers of 8 bits.
    I8,
    /// Half precision.
    F16,
    /// Single precision.
    F32,
}

/// A named array of the file, little-endian.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub kind: Kind,
    /// Extents.
    pub shape: Vec<usize>,
    /// Row-major.
    pub bytes: Vec<u8>,
}

/// A packed file that no model can be made of.
#[derive(Debug, thiserror::Error)]
pub enum PackedError {
    /// The configuration is none.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tensor is missing, or has the wrong form.
    #[error(
        "packed tensor `{name}`: {fault}; the file is damaged or of another version, compress the model again"
    )]
    Tensor {
        /// Name in the model or in the file.
        name: String,
        /// What is wrong.
        fault: String,
    },
}

/// What a tensor becomes, given the names of the ternary ones.
pub fn stored(name: &str, dims: &[usize], ternary: bool, embedding: Embedding) -> Stored {
    let rows: usize = dims[..dims.len() - 1].iter().product();
    if ternary {
        Stored::Ternary
    } else if name.ends_with("memory.keys") || name.ends_with("memory.values") {
        Stored::Eight
    } else if name == "embed.weight" {
        match embedding {
            Embedding::Half => Stored::Half,
            Embedding::Eight => Stored::Eight,
        }
    } else if rows <= 1 || name.starts_with("exit.") {
        Stored::Single
    } else {
        Stored::Half
    }
}

/// Whether a tensor may become ternary: a hidden matrix that is no gate.
pub fn may_be_ternary(params: &Params, name: &str) -> bool {
    params
        .slot(name)
        .is_some_and(|slot| params.role(slot) == Role::Matrix)
        && !name.contains("gate.weight")
        || name.ends_with("ffn.gate.weight")
}

/// Integers and steps of 8-bit rows.
fn eight(t: &Tensor) -> (Vec<i8>, Vec<f16>) {
    let cols = t.cols();
    let mut steps = Vec::new();
    let mut q = Vec::new();
    for row in t.to_vec().chunks(cols) {
        let most = row.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        // Never zero: a row too small for half precision becomes zero by its integers.
        let step = f16::from_f32((most / 127.0).max(6e-8));
        q.extend(
            row.iter()
                .map(|v| (v / step.to_f32()).round_ties_even().clamp(-127.0, 127.0) as i8),
        );
        steps.push(step);
    }
    (q, steps)
}

fn from_eight(q: &[i8], steps: &[f16], dims: &[usize]) -> Tensor {
    let cols = dims[dims.len() - 1];
    let values = q
        .chunks(cols)
        .zip(steps)
        .flat_map(|(row, s)| row.iter().map(|&q| f32::from(q) * s.to_f32()))
        .collect();
    Tensor::from_vec(values, dims)
}

fn halves(values: &[f16]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn to_halves(bytes: &[u8]) -> Vec<f16> {
    bytes
        .chunks_exact(2)
        .map(|b| f16::from_le_bytes([b[0], b[1]]))
        .collect()
}

/// The model with its kept tensors at the values that the file will hold. Ternary matrices keep their
/// full-precision weights, from which codes and scales follow, and are set to run fully ternary.
pub fn snap(model: &Cognate, embedding: Embedding) -> Cognate {
    let mut snapped = model.clone();
    for settings in snapped.ternary.values_mut() {
        settings.lambda = 1.0;
    }
    for (name, t) in model.params.iter() {
        let dims = t.dims();
        match stored(name, dims, model.ternary.contains_key(name), embedding) {
            Stored::Ternary | Stored::Single => {}
            Stored::Half => {
                let values = t
                    .to_vec()
                    .into_iter()
                    .map(|v| f16::from_f32(v).to_f32())
                    .collect();
                snapped.params.set(name, Tensor::from_vec(values, dims));
            }
            Stored::Eight => {
                let (q, steps) = eight(t);
                snapped.params.set(name, from_eight(&q, &steps, dims));
            }
        }
    }
    snapped
}

/// Counts over a packed model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Weights in ternary form.
    pub ternary: usize,
    /// Those of them that are zero.
    pub zeros: usize,
    /// Parameters in any other form.
    pub kept: usize,
}

/// The entries of a model's packed file, and what it holds.
pub fn pack(model: &Cognate, packing: Packing, embedding: Embedding) -> (Vec<Entry>, Census) {
    let mut entries = Vec::new();
    let mut census = Census::default();
    let mut add = |name: String, kind, shape: &[usize], bytes| {
        entries.push(Entry {
            name,
            kind,
            shape: shape.to_vec(),
            bytes,
        })
    };
    for (name, t) in model.params.iter() {
        let dims = t.dims();
        let rows = t.rows();
        match (
            stored(name, dims, model.ternary.contains_key(name), embedding),
            model.ternary.get(name),
        ) {
            (Stored::Ternary, Some(settings)) => {
                let codes = TernaryCodes::of(t, settings.sparsity, settings.scale);
                census.ternary += t.numel();
                census.zeros += codes.zeros();
                let bytes = packing.pack(&codes.codes, t.cols());
                add(
                    format!("{name}.{}", suffix(packing)),
                    Kind::U8,
                    &[rows, packing.row_bytes(t.cols())],
                    bytes,
                );
                let scales: Vec<f16> = codes.scales.iter().map(|&s| f16::from_f32(s)).collect();
                add(format!("{name}.scale"), Kind::F16, &[rows], halves(&scales));
                continue;
            }
            (Stored::Eight, _) => {
                let (q, steps) = eight(t);
                add(
                    format!("{name}.int8"),
                    Kind::I8,
                    dims,
                    q.into_iter().map(|v| v as u8).collect(),
                );
                add(format!("{name}.step"), Kind::F16, &[rows], halves(&steps));
            }
            (Stored::Half, _) => {
                let values: Vec<f16> = t.to_vec().into_iter().map(f16::from_f32).collect();
                add(name.to_string(), Kind::F16, dims, halves(&values));
            }
            _ => add(
                name.to_string(),
                Kind::F32,
                dims,
                t.to_vec().iter().flat_map(|v| v.to_le_bytes()).collect(),
            ),
        }
        census.kept += t.numel();
    }
    (entries, census)
}

fn suffix(packing: Packing) -> &'static str {
    match packing {
        Packing::Base3 => "trits",
        Packing::TwoBit => "bits",
    }
}

/// A model that runs straight from the entries of its packed file.
pub fn unpack(config: Config, entries: Vec<Entry>) -> Result<Cognate, PackedError> {
    config.validate()?;
    let mut entries: BTreeMap<String, Entry> =
        entries.into_iter().map(|e| (e.name.clone(), e)).collect();
    let mut packed = BTreeMap::new();
    let mut values = BTreeMap::new();
    for spec in specification(&config) {
        let (name, dims) = (&spec.name, &spec.dims[..]);
        let cols = dims[dims.len() - 1];
        let rows = dims.iter().product::<usize>() / cols.max(1);
        let mut take =
            |name: String, kind: Kind, shape: &[usize]| -> Result<Option<Vec<u8>>, PackedError> {
                let Some(e) = entries.remove(&name) else {
                    return Ok(None);
                };
                let size = match kind {
                    Kind::U8 | Kind::I8 => 1,
                    Kind::F16 => 2,
                    Kind::F32 => 4,
                };
                if e.kind != kind
                    || e.shape != shape
                    || e.bytes.len() != shape.iter().product::<usize>() * size
                {
                    return fault(
                        &name,
                        format!(
                            "found {:?} {:?} in {} bytes, expected {kind:?} {shape:?}",
                            e.kind,
                            e.shape,
                            e.bytes.len()
                        ),
                    );
                }
                Ok(Some(e.bytes))
            };
        let mut ternary = None;
        for packing in [Packing::Base3, Packing::TwoBit] {
            if let Some(bytes) = take(
                format!("{name}.{}", suffix(packing)),
                Kind::U8,
                &[rows, packing.row_bytes(cols)],
            )? {
                ternary = Some((packing, bytes));
            }
        }
        if let Some((packing, bytes)) = ternary {
            let codes = packing.unpack(&bytes, cols).or_else(|bad| {
                fault(
                    name,
                    format!("byte {} at {} stands for no weights", bad.byte, bad.at),
                )
            })?;
            let Some(scales) = take(format!("{name}.scale"), Kind::F16, &[rows])? else {
                return fault(name, "its scales are missing".into());
            };
            let scales: Vec<f32> = to_halves(&scales).into_iter().map(f16::to_f32).collect();
            if spec.role != Role::Matrix || scales.iter().any(|s| !s.is_finite()) {
                return fault(name, "it is no hidden matrix with finite scales".into());
            }
            packed.insert(
                name.clone(),
                PackedTernary::new(&TernaryCodes { codes, scales }, cols),
            );
            continue;
        }
        let t = if let Some(q) = take(format!("{name}.int8"), Kind::I8, dims)? {
            let Some(steps) = take(format!("{name}.step"), Kind::F16, &[rows])? else {
                return fault(name, "its steps are missing".into());
            };
            from_eight(
                &q.into_iter().map(|v| v as i8).collect::<Vec<_>>(),
                &to_halves(&steps),
                dims,
            )
        } else if entries.get(name).is_some_and(|e| e.kind == Kind::F16) {
            let bytes = read(&mut entries, name, Kind::F16, dims, 2)?;
            Tensor::from_vec(
                to_halves(&bytes).into_iter().map(f16::to_f32).collect(),
                dims,
            )
        } else {
            let bytes = read(&mut entries, name, Kind::F32, dims, 4)?;
            Tensor::from_vec(
                bytes
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
                dims,
            )
        };
        if !t.is_finite() {
            return fault(name, "it holds a value that is not finite".into());
        }
        values.insert(name.clone(), t);
    }
    if let Some(name) = entries.keys().next() {
        return fault(
            name,
            "it is in the file but not in the model of its config".into(),
        );
    }
    let params = Params::from_named_without(
        &config,
        values,
        |_| false,
        |name| packed.contains_key(name),
        0,
    )
    .or_else(|f| fault("config", f))?;
    Ok(Cognate {
        params,
        packed,
        ..Cognate::empty(config)
    })
}

fn fault<T>(name: &str, fault: String) -> Result<T, PackedError> {
    Err(PackedError::Tensor {
        name: name.into(),
        fault,
    })
}

fn read(
    entries: &mut BTreeMap<String, Entry>,
    name: &str,
    kind: Kind,
    shape: &[usize],
    size: usize,
) -> Result<Vec<u8>, PackedError> {
    match entries.remove(name) {
        Some(e)
            if e.kind == kind
                && e.shape == shape
                && e.bytes.len() == shape.iter().product::<usize>() * size =>
        {
            Ok(e.bytes)
        }
        Some(e) => fault(
            name,
            format!(
                "found {:?} {:?} in {} bytes, expected {kind:?} {shape:?}",
                e.kind,
                e.shape,
                e.bytes.len()
            ),
        ),
        None => fault(name, "it is missing".into()),
    }
}
