//! What operands of matrix products are rounded to.
//!
//! Sums are fp32 in either case, and so is everything that is no product. It is chosen once, before anything
//! is computed, like the instruction path: a run that took one precision takes the same one to its end.

use std::sync::OnceLock;

/// The precision of the operands of large products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    F32,
    /// Rounded to bf16.
    Bf16,
}

impl Precision {
    /// As recipes and runs spell it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }

    /// The faster one on the instruction path in use.
    pub fn fastest() -> Self {
        if crate::isa::detect().multiplies_bf16_faster() {
            Precision::Bf16
        } else {
            Precision::F32
        }
    }
}

static IN_USE: OnceLock<Precision> = OnceLock::new();

/// Takes this precision instead of fp32, for as long as the process lives.
///
/// # Errors
/// Another one is in use already.
pub fn select(precision: Precision) -> Result<(), String> {
    match *IN_USE.get_or_init(|| precision) {
        used if used == precision => Ok(()),
        used => Err(format!("precision {} is in use already", used.name())),
    }
}

/// The precision in use.
pub fn in_use() -> Precision {
    *IN_USE.get_or_init(|| Precision::F32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_stays_in_use() {
        assert_eq!(in_use(), Precision::F32);
        assert_eq!(select(Precision::F32), Ok(()));
        let said = select(Precision::Bf16).map_err(|e| e.contains("f32"));
        assert_eq!(said, Err(true));
    }
}
