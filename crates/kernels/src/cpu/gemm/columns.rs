//! Gradients of weights, C = Aᵀ B over rows, from operands that are packed where they arise: while the rows of a block
//! are in the caches anyway, so that they are neither written as they are nor read again.

use super::mixed::pack::{Element, Form, Source, pack_part};
use super::mixed::tile::{BLOCK, SIDE, STEPS, Unit};
use super::mixed::walk::{DEPTH, GROUP, ROWS, Sum, part};
use super::rows::SharedHalves;
use crate::cpu::scratch::{self, Scratch};
use crate::cpu::shared::Shared;
use rayon::prelude::*;
use std::ops::Range;

/// Columns of rows as the lines of an operand, whose steps are the rows.
pub(super) struct Columns {
    tiles: Scratch,
    form: Form,
    lines: usize,
    rows: usize,
}

impl Columns {
    /// Room for `lines` columns of all rows.
    pub(super) fn new(form: Form, lines: usize, rows: usize) -> Self {
        let elements = lines.next_multiple_of(SIDE) * rows.next_multiple_of(STEPS);
        Self {
            tiles: scratch::take(elements / 2),
            form,
            lines,
            rows,
        }
    }

    /// Where tasks pack their rows.
    pub(super) fn place(&mut self) -> Place {
        Place {
            tiles: SharedHalves::new(super::ffn::halves(&mut self.tiles)),
            form: self.form,
            lines: self.lines,
            rows: self.rows,
        }
    }

    fn start(&self) -> *const u16 {
        self.tiles.as_ptr().cast()
    }
}

/// Where rows of [`Columns`] are packed.
#[derive(Clone, Copy)]
pub(super) struct Place {
    tiles: SharedHalves,
    form: Form,
    lines: usize,
    rows: usize,
}

/// The steps of the block of k that begins at `start`.
fn depth(start: usize, rows: usize) -> usize {
    DEPTH.min(rows - start).next_multiple_of(STEPS)
}

impl Place {
    /// Packs `rows`, at most a tile's steps of which the first begins a tile, from `x`: their columns `lines`, which
    /// begin a strip. Rows lie `apart`.
    ///
    /// # Safety
    /// They are there, nobody else packs them, and the CPU has a unit.
    pub(super) unsafe fn pack<T: Element>(
        self,
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
        let start = rows.start / DEPTH * DEPTH;
        let deep = depth(start, self.rows);
        let at = self.lines.next_multiple_of(SIDE) * start + lines.start * deep;
        let (size, place) = ([lines.len(), rows.len()], [rows.start - start, deep]);
        // SAFETY: promised by the caller.
        unsafe { pack_part(from, self.form, size, place, self.tiles.at(at)) }
    }
}

/// C [lines of A, lines of B] = beta C + A B.
pub(super) struct Product<'a> {
    /// Of form A.
    pub(super) a: &'a Columns,
    /// Of form B, over the same rows.
    pub(super) b: &'a Columns,
    /// What the old C counts, 0 or 1.
    pub(super) beta: f32,
    pub(super) c: &'a mut [f32],
}

/// Products with fewer blocks of rows are cut in two over k as well: a task then reads half of both operands instead
/// of half of one and all of the other.
const FEW: usize = 4;

/// A block of C over some steps.
struct Task<'a> {
    a: &'a Columns,
    b: &'a Columns,
    lines: Range<usize>,
    /// They begin a block of k.
    steps: Range<usize>,
    c: Shared,
    beta: f32,
}

/// Computes products.
pub(super) fn products(unit: Unit, products: Vec<Product>) {
    let mut asides = Vec::new();
    let mut tasks = Vec::new();
    let mut outputs = Vec::new();
    for p in products {
        let (m, n, rows) = (p.a.lines, p.b.lines, p.a.rows);
        assert!(
            p.c.len() == m * n && p.b.rows == rows && (p.a.form, p.b.form) == (Form::A, Form::B),
            "a gradient [{m}, {n}] over {rows} rows"
        );
        let parts = m.div_ceil(ROWS);
        let middle = match parts < FEW {
            true => (rows.div_ceil(DEPTH) / 2 * DEPTH).min(rows),
            false => 0,
        };
        let c = Shared::new(p.c);
        let mut add = |steps: Range<usize>, c, beta| {
            tasks.extend((0..parts).map(|i| Task {
                a: p.a,
                b: p.b,
                lines: part(m, parts, i),
                steps: steps.clone(),
                c,
                beta,
            }));
        };
        add(middle..rows, c, p.beta);
        if middle > 0 {
            let mut aside = scratch::take(m * n);
            let first = Shared::new(&mut aside);
            add(0..middle, first, 0.0);
            asides.push(aside);
            outputs.push((c, first, m, n));
        }
    }
    tasks.into_par_iter().for_each(|t| {
        // SAFETY: the CPU has the unit; the operands are packed, and blocks of C are disjoint.
        unsafe { t.run(unit) }
    });
    for (c, first, m, n) in outputs {
        (0..m).into_par_iter().with_min_len(BLOCK).for_each(|i| {
            // SAFETY: rows of C are disjoint, and nobody writes what stands aside.
            let (c, first) = unsafe { (c.slice(i * n, n), first.slice(i * n, n)) };
            c.iter_mut().zip(first).for_each(|(c, x)| *c += *x);
        });
    }
}

impl Task<'_> {
    /// # Safety
    /// The CPU has the unit, the operands are packed, and the block of C is this task's alone.
    unsafe fn run(&self, unit: Unit) {
        let (rows, n) = (self.a.rows, self.b.lines);
        // SAFETY: promised by the caller.
        unsafe {
            let begun = unit.begin();
            for start in self.steps.clone().step_by(DEPTH) {
                let deep = depth(start, rows);
                let strips = |x: &Columns, line: usize| {
                    let before = x.lines.next_multiple_of(SIDE) * start;
                    x.start().add(before + line * deep)
                };
                for column in (0..n).step_by(GROUP * BLOCK) {
                    let cols = (GROUP * BLOCK).min(n - column);
                    let first = start == self.steps.start;
                    let sum = Sum {
                        beta: if first { self.beta } else { 1.0 },
                        ..Sum::new(self.lines.len(), cols, deep)
                    };
                    let (a, b) = (strips(self.a, self.lines.start), strips(self.b, column));
                    let c = self.c.get().add(self.lines.start * n + column);
                    sum.of(&begun, a, b, c, n);
                }
            }
        }
    }
}
