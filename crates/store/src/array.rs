//! Named arrays of bytes, and the bag of state that a phase checkpoints.
//!
//! Layout is that of safetensors: row-major, little-endian, no padding between elements.

use std::collections::BTreeMap;
use std::fmt;

/// The element type of an [`Array`], named as in safetensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dtype {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned 8 bits.
    U8,
    /// Signed 8 bits.
    I8,
    /// Signed 16 bits.
    I16,
    /// Unsigned 16 bits.
    U16,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// Signed 32 bits.
    I32,
    /// Unsigned 32 bits.
    U32,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// Signed 64 bits.
    I64,
    /// Unsigned 64 bits.
    U64,
}

impl Dtype {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::I8 => 1,
            Dtype::I16 | Dtype::U16 | Dtype::F16 | Dtype::BF16 => 2,
            Dtype::I32 | Dtype::U32 | Dtype::F32 => 4,
            Dtype::F64 | Dtype::I64 | Dtype::U64 => 8,
        }
    }

    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Bool => "BOOL",
            Dtype::U8 => "U8",
            Dtype::I8 => "I8",
            Dtype::I16 => "I16",
            Dtype::U16 => "U16",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::I32 => "I32",
            Dtype::U32 => "U32",
            Dtype::F32 => "F32",
            Dtype::F64 => "F64",
            Dtype::I64 => "I64",
            Dtype::U64 => "U64",
        }
    }

    pub(crate) fn from_safetensors(dtype: safetensors::Dtype) -> Option<Dtype> {
        use safetensors::Dtype as S;
        Some(match dtype {
            S::BOOL => Dtype::Bool,
            S::U8 => Dtype::U8,
            S::I8 => Dtype::I8,
            S::I16 => Dtype::I16,
            S::U16 => Dtype::U16,
            S::F16 => Dtype::F16,
            S::BF16 => Dtype::BF16,
            S::I32 => Dtype::I32,
            S::U32 => Dtype::U32,
            S::F32 => Dtype::F32,
            S::F64 => Dtype::F64,
            S::I64 => Dtype::I64,
            S::U64 => Dtype::U64,
            _ => return None,
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One named tensor as raw bytes: `bytes.len() == product(shape) * dtype.size()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// Unique within its bag or file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Sizes from the slowest to the fastest axis; empty for a scalar.
    pub shape: Vec<usize>,
    /// Row-major, little-endian.
    pub bytes: Vec<u8>,
}

impl Array {
    /// An `F32` array of `shape` from `values`; panics when their number differs from the shape's.
    #[track_caller]
    pub fn f32(name: impl Into<String>, shape: &[usize], values: &[f32]) -> Array {
        let array = Array {
            name: name.into(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        array.check();
        array
    }

    /// The values of an `F32` array; panics for another dtype.
    #[track_caller]
    pub fn to_f32(&self) -> Vec<f32> {
        assert_eq!(
            self.dtype,
            Dtype::F32,
            "to_f32 of `{}`, which is {}",
            self.name,
            self.dtype
        );
        let (values, rest) = self.bytes.as_chunks::<4>();
        assert!(
            rest.is_empty(),
            "to_f32 of `{}`: {} stray bytes",
            self.name,
            rest.len()
        );
        values.iter().map(|x| f32::from_le_bytes(*x)).collect()
    }

    /// Panics unless the bytes fill the shape.
    #[track_caller]
    pub(crate) fn check(&self) {
        let expected = self.shape.iter().product::<usize>() * self.dtype.size();
        assert_eq!(
            self.bytes.len(),
            expected,
            "array `{}`: {} {:?} takes {expected} bytes, got {}",
            self.name,
            self.dtype,
            self.shape,
            self.bytes.len()
        );
    }
}

/// The versioned bag of state of a phase: exactly what a checkpoint holds.
///
/// Self-contained: `files` carries the tokenizer and the model's configuration, so that a
/// checkpoint needs nothing beside it. After a round trip through the disk, `arrays` is in the
/// order of names. `json` holds no NaN (JSON has none); put such numbers into an array.
#[derive(Clone, Debug, PartialEq)]
pub struct Bag {
    /// The phase's own version of what it puts in here; the phase refuses one it does not know.
    pub version: u32,
    /// Counters, loader and random state, settings.
    pub json: serde_json::Value,
    /// Named tensors; names are unique.
    pub arrays: Vec<Array>,
    /// Whole files by plain name, such as `tokenizer.json` and `config.json`.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Bag {
    /// The array called `name`.
    pub fn array(&self, name: &str) -> Option<&Array> {
        self.arrays.iter().find(|array| array.name == name)
    }
}
