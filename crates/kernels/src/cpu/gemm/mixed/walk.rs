//! A whole product: packing, tasks, and the walk over tiles.

use super::pack::{Element, Form, Source, pack};
use super::tile::{BLOCK, Begun, Block, Kernel, SIDE, STEPS, Unit, merge};
use crate::cpu::gemm::Shape;
use crate::cpu::{scratch, shared::Shared};
use rayon::prelude::*;
use std::ops::Range;

/// Steps of k summed in registers: a strip of rows of this depth (32 KiB) stays in the first-level cache.
pub(in crate::cpu::gemm) const DEPTH: usize = 512;

/// Rows of a block of C: with [`DEPTH`] steps of A they take a quarter of a MiB.
pub(in crate::cpu::gemm) const ROWS: usize = 256;

/// Panels that share the second-level cache with the rows of a block: half a MiB at most.
pub(in crate::cpu::gemm) const GROUP: usize = 16;

/// Most elements of B that are packed at once.
const MOST_PACKED: usize = 1 << 23;

/// Tasks that a product is cut into where its blocks of rows are fewer.
const TASKS: usize = 4;

/// Elements of B from which packing it is cut into tasks.
const PACK_PARALLEL_FROM: usize = 1 << 15;

/// What all tasks of a product read.
struct Operands<A, B> {
    a: Source<A>,
    b: Source<B>,
    /// B packed: per block of k and panel, a strip.
    packed: *mut u16,
    c: Shared,
    s: Shape,
    unit: Unit,
}
// SAFETY: A and B are only read, and tasks write disjoint panels of B or blocks of C, while the borrows of the
// caller last.
unsafe impl<A, B> Send for Operands<A, B> {}
// SAFETY: as above.
unsafe impl<A, B> Sync for Operands<A, B> {}

impl<A, B: Element> Operands<A, B> {
    /// Packs panels of B over some steps.
    ///
    /// # Safety
    /// As [`run_on`], and their strips are this task's alone.
    unsafe fn pack(&self, columns: &Range<usize>, panels: Range<usize>, steps: Range<usize>) {
        let start = columns.start + panels.start * BLOCK;
        let wide = (panels.len() * BLOCK).min(columns.end - start);
        // SAFETY: these columns and steps are there, and room for their tiles.
        unsafe {
            let to = self.packed.add(place(columns.len(), panels.start, &steps));
            pack(
                self.b.from(start, steps.start),
                Form::B,
                wide,
                steps.len(),
                to,
            );
        }
    }
}

/// # Safety
/// As [`super::run`], and the CPU has the unit.
pub(in crate::cpu::gemm) unsafe fn run_on<A: Element, B: Element>(
    unit: Unit,
    s: Shape,
    a: *const A,
    b: *const B,
    c: Shared,
    parallel: bool,
) {
    let deep = s.k.next_multiple_of(STEPS);
    let whole = (MOST_PACKED / deep).max(1).next_multiple_of(BLOCK);
    for lo in (0..s.n).step_by(whole) {
        let columns = lo..(lo + whole).min(s.n);
        let elements = columns.len().next_multiple_of(SIDE) * deep;
        scratch::with(elements / 2, |packed| {
            let o = Operands {
                a: Source {
                    data: a,
                    lines: s.rsa,
                    steps: s.csa,
                },
                b: Source {
                    data: b,
                    lines: s.csb,
                    steps: s.rsb,
                },
                packed: packed.as_mut_ptr().cast(),
                c,
                s,
                unit,
            };
            // SAFETY: promised by the caller.
            unsafe { share(&o, &columns, elements, parallel) }
        });
    }
}

/// Packs columns of B and computes those of C.
///
/// # Safety
/// As [`run_on`], and `o.packed` has room for `elements`.
unsafe fn share<A: Element, B: Element>(
    o: &Operands<A, B>,
    columns: &Range<usize>,
    elements: usize,
    parallel: bool,
) {
    let panels = columns.len().div_ceil(BLOCK);
    let chunks = panels.div_ceil(GROUP);
    let fill = |t: usize| {
        let (lo, from) = (t % chunks * GROUP, t / chunks * DEPTH);
        let (group, steps) = (
            lo..(lo + GROUP).min(panels),
            from..(from + DEPTH).min(o.s.k),
        );
        // SAFETY: promised by the caller; every panel and step is packed by one task.
        unsafe { o.pack(columns, group, steps) }
    };
    let tasks = chunks * o.s.k.div_ceil(DEPTH);
    if parallel && elements >= PACK_PARALLEL_FROM {
        (0..tasks).into_par_iter().for_each(fill);
    } else {
        (0..tasks).for_each(fill);
    }
    let mut down = o.s.m.div_ceil(ROWS);
    let mut across = 1;
    if parallel {
        down = down.next_multiple_of(2).min(o.s.m.div_ceil(BLOCK));
        across = TASKS.div_ceil(down).min(panels);
    }
    let task = |t: usize| {
        let panels = panels * (t % across) / across..panels * (t % across + 1) / across;
        // SAFETY: blocks of C are disjoint.
        unsafe { part_of_c(o, part(o.s.m, down, t / across), panels, columns) }
    };
    if parallel {
        (0..down * across).into_par_iter().for_each(task);
    } else {
        (0..down * across).for_each(task);
    }
}

/// One of `parts` parts of some rows, in whole blocks and of nearly equal size, so that no thread waits long for
/// the last one.
pub(in crate::cpu::gemm) fn part(rows: usize, parts: usize, i: usize) -> Range<usize> {
    let tiles = rows.div_ceil(BLOCK);
    tiles * i / parts * BLOCK..(tiles * (i + 1) / parts * BLOCK).min(rows)
}

/// The blocks of k.
pub(in crate::cpu::gemm) fn depths(k: usize) -> impl Iterator<Item = Range<usize>> {
    (0..k).step_by(DEPTH).map(move |at| at..(at + DEPTH).min(k))
}

/// Where the strip of a panel lies among the packed elements of B.
fn place(columns: usize, panel: usize, steps: &Range<usize>) -> usize {
    columns.next_multiple_of(SIDE) * steps.start
        + panel * BLOCK * steps.len().next_multiple_of(STEPS)
}

/// Rows and panels of C.
///
/// # Safety
/// As [`run_on`]; the block belongs to this task alone.
unsafe fn part_of_c<A: Element, B: Element>(
    o: &Operands<A, B>,
    rows: Range<usize>,
    panels: Range<usize>,
    columns: &Range<usize>,
) {
    let s = o.s;
    let depth = DEPTH.min(s.k.next_multiple_of(STEPS));
    // SAFETY: the CPU has the unit.
    let begun = unsafe { o.unit.begin() };
    scratch::with(rows.len().next_multiple_of(SIDE) * depth / 2, |tiles| {
        let tiles: *mut u16 = tiles.as_mut_ptr().cast();
        for steps in depths(s.k) {
            // SAFETY: these rows and steps of A are there, and room for their tiles.
            unsafe {
                pack(
                    o.a.from(rows.start, steps.start),
                    Form::A,
                    rows.len(),
                    steps.len(),
                    tiles,
                )
            };
            for group in panels.clone().step_by(GROUP) {
                let column = columns.start + group * BLOCK;
                let end = columns.start + (group + GROUP).min(panels.end) * BLOCK;
                let cols = end.min(columns.end) - column;
                let sum = Sum {
                    alpha: s.alpha,
                    beta: if steps.start == 0 { s.beta } else { 1.0 },
                    diagonal: s.upper.then_some((rows.start, column)),
                    ..Sum::new(rows.len(), cols, steps.len())
                };
                // SAFETY: the strips are packed, and C has these elements.
                unsafe {
                    let b = o.packed.add(place(columns.len(), group, &steps));
                    let c = o.c.get().add(rows.start * s.rsc + column);
                    sum.of(&begun, tiles, b, c, s.rsc);
                }
            }
        }
    });
}

/// C `[rows, cols]` = beta C + alpha A B over packed strips.
pub(in crate::cpu::gemm) struct Sum {
    pub(in crate::cpu::gemm) rows: usize,
    pub(in crate::cpu::gemm) cols: usize,
    pub(in crate::cpu::gemm) steps: usize,
    pub(in crate::cpu::gemm) alpha: f32,
    pub(in crate::cpu::gemm) beta: f32,
    /// The row and the column where C begins in a matrix of which only what lies on and above the diagonal counts.
    pub(in crate::cpu::gemm) diagonal: Option<(usize, usize)>,
}

impl Sum {
    /// In place of the old C.
    pub(in crate::cpu::gemm) fn new(rows: usize, cols: usize, steps: usize) -> Self {
        Self {
            rows,
            cols,
            steps,
            alpha: 1.0,
            beta: 0.0,
            diagonal: None,
        }
    }

    /// Runs along the panels of B for each strip of A, so that the strip stays in the first-level cache.
    ///
    /// # Safety
    /// A and B hold strips of these lines and steps, and C these elements, rows `rsc` apart.
    pub(in crate::cpu::gemm) unsafe fn of(
        &self,
        begun: &Begun,
        a: *const u16,
        b: *const u16,
        c: *mut f32,
        rsc: usize,
    ) {
        let kernel: Kernel = begun.kernel();
        let (deep, beta) = (self.steps.div_ceil(STEPS), self.beta);
        for row in (0..self.rows).step_by(BLOCK) {
            let high = BLOCK.min(self.rows - row);
            for column in (0..self.cols).step_by(BLOCK) {
                let wide = BLOCK.min(self.cols - column);
                if self
                    .diagonal
                    .is_some_and(|(i, j)| j + column + wide <= i + row)
                {
                    continue;
                }
                // SAFETY: promised by the caller; whole tiles lie in C, others are computed aside.
                unsafe {
                    let c = c.add(row * rsc + column);
                    let tiles = [high.div_ceil(SIDE), wide.div_ceil(SIDE), deep];
                    let a = a.add(row * deep * STEPS);
                    let b = b.add(column * deep * STEPS);
                    let mut block = Block {
                        add: beta == 1.0,
                        ..Block::packed(tiles, a, b, c, rsc)
                    };
                    let whole = high.is_multiple_of(SIDE) && wide.is_multiple_of(SIDE);
                    if whole && self.alpha == 1.0 && (beta == 0.0 || beta == 1.0) {
                        kernel(&block);
                    } else {
                        let mut aside = [0.0; BLOCK * BLOCK];
                        (block.add, block.c, block.rsc) = (false, aside.as_mut_ptr(), BLOCK);
                        kernel(&block);
                        merge(&aside, BLOCK, high, wide, self.alpha, beta, c, rsc);
                    }
                }
            }
        }
    }
}
