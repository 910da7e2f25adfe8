//! Gradients of weights, C = Aᵀ B over rows, from operands that are packed where they arise: while the rows of a block
//! are in the caches anyway, so that they are neither written as they are nor read again. The lines of such an operand
//! are columns of the rows, its steps the rows.

use super::mixed::pack::{Element, Source};
use super::mixed::tile::{BLOCK, Unit};
use super::mixed::walk::{DEPTH, ROWS, part};
use super::operand::{Operand, Part, Place};
use crate::cpu::scratch;
use crate::cpu::shared::Shared;
use rayon::prelude::*;
use std::ops::Range;

/// Packs `rows`, of which the first begins a tile, from `x`: their columns `lines`, which begin a strip. Rows lie
/// `apart`.
///
/// # Safety
/// They are there, nobody else packs them, and the CPU has a unit.
pub(super) unsafe fn pack<T: Element>(
    place: Place,
    x: *const T,
    apart: usize,
    rows: Range<usize>,
    lines: Range<usize>,
) {
    let from = Source {
        data: x,
        lines: 1,
        steps: apart,
    };
    // SAFETY: promised by the caller.
    unsafe { place.pack(from, lines, rows) }
}

/// C [lines of A, lines of B] = beta C + A B.
pub(super) struct Product<'a> {
    /// Of form A.
    pub(super) a: &'a Operand,
    /// Of form B, over the same rows.
    pub(super) b: &'a Operand,
    /// What the old C counts, 0 or 1.
    pub(super) beta: f32,
    pub(super) c: &'a mut [f32],
}

/// Products with fewer blocks of rows are cut in two over k as well: a task then reads half of both operands instead
/// of half of one and all of the other.
const FEW: usize = 4;

/// Computes products.
pub(super) fn products(unit: Unit, products: Vec<Product>) {
    let mut tasks = Vec::new();
    // Sums over the first half of the rows, and where they belong.
    let mut asides = Vec::new();
    for p in products {
        let ([m, rows], [n, rows_of_b]) = (p.a.size(), p.b.size());
        assert!(
            p.c.len() == m * n && rows_of_b == rows,
            "a gradient [{m}, {n}] over {rows} rows"
        );
        let parts = m.div_ceil(ROWS);
        let middle = match parts < FEW {
            true => rows.div_ceil(DEPTH) / 2 * DEPTH,
            false => 0,
        };
        let mut add = |steps: Range<usize>, c, beta| {
            tasks.extend((0..parts).map(|i| {
                let (lines, steps, upper) = (part(m, parts, i), steps.clone(), false);
                let part = Part {
                    lines,
                    steps,
                    beta,
                    upper,
                };
                (part, p.a, p.b, c)
            }));
        };
        let c = Shared::new(p.c);
        add(middle..rows, c, p.beta);
        if middle > 0 {
            let mut aside = scratch::take(m * n);
            add(0..middle, Shared::new(&mut aside), 0.0);
            asides.push((c, aside, n));
        }
    }
    tasks.into_par_iter().for_each(|(part, a, b, c)| {
        // SAFETY: the CPU has the unit; the operands are packed, and parts of C are disjoint.
        unsafe { part.product(&unit.begin(), a, b, c.get()) }
    });
    for (c, aside, n) in asides {
        aside.par_chunks(BLOCK * n).enumerate().for_each(|(i, x)| {
            // SAFETY: blocks of rows of C are disjoint.
            let c = unsafe { c.slice(i * BLOCK * n, x.len()) };
            c.iter_mut().zip(x).for_each(|(c, x)| *c += *x);
        });
    }
}
