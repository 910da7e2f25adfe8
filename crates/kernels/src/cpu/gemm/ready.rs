//! A product whose operands have been packed: what is left of it when weights are packed once and activations by whoever
//! makes them. For [`crate::probe`].

use super::mixed::{self, pack::Form, pack::Source, tile::Unit};
use super::operand::{Operand, Part};
use super::rows::blocks;
use crate::cpu::shared::Shared;
use crate::isa;
use rayon::prelude::*;

/// C [m, n] = A B with both packed as bf16.
pub(crate) struct Ready {
    a: Operand,
    b: Operand,
    unit: Unit,
}

impl Ready {
    /// Packs A [m, k] and B [n, k], row-major; None where the CPU has no products of bf16.
    pub(crate) fn new([m, n, k]: [usize; 3], a: &[f32], b: &[f32]) -> Option<Ready> {
        let sizes = a.len() == m * k && b.len() == n * k;
        assert!(sizes, "ready: A [{m}, {k}], B [{n}, {k}]");
        let unit = mixed::unit(isa::detect())?;
        let packed = |form, data: &[f32], lines| {
            let mut operand = Operand::new(form, lines, k);
            let from = Source {
                data: data.as_ptr(),
                lines: k,
                steps: 1,
            };
            // SAFETY: the sizes have just been checked, and the CPU has the unit.
            unsafe { operand.place().pack(from, 0..lines, 0..k) };
            operand
        };
        let (a, b) = (packed(Form::A, a, m), packed(Form::B, b, n));
        Some(Ready { a, b, unit })
    }

    /// Computes C [m, n], on every thread of the pool.
    pub(crate) fn product(&self, c: &mut [f32]) {
        let ([m, k], [n, _]) = (self.a.size(), self.b.size());
        assert_eq!(c.len(), m * n, "ready: C [{m}, {n}]");
        let c = Shared::new(c);
        blocks(m).for_each(|lines| {
            let part = Part {
                lines,
                steps: 0..k,
                beta: 0.0,
                upper: false,
            };
            // SAFETY: both are packed, C has its elements, and blocks of lines are disjoint.
            unsafe { part.product(&self.unit.begin(), &self.a, &self.b, c.get()) }
        });
    }
}
