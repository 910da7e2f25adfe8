//! Products of operands rounded to bf16, summed in fp32.
//!
//! The walk is that of fp32 products with other sizes: B is packed once and shared, a task owns a block of C, packs
//! its rows of A block of k by block of k, and lets the panels of a group, which stay in the second-level cache,
//! pass by the rows of one tile, which stay in the first-level one. A CPU without products of bf16 rounds
//! copies of the operands and multiplies those in fp32.

#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod tile;

use super::{Shape, product};
use crate::cpu::scratch;
use crate::math::{from_bf16, to_bf16};

/// Products with fewer rows, columns or steps than this are left in fp32: filling tiles up costs more than it saves.
const LEAST: usize = 12;

/// Whether rounding its operands makes a product faster.
pub(super) fn suits(s: &Shape) -> bool {
    s.m >= LEAST && s.n >= LEAST && s.k >= LEAST
}

/// The product of `s` with operands rounded to bf16.
///
/// # Safety
/// A, B and C cover what `s` addresses; m, n, k are not 0.
pub(super) unsafe fn run(s: Shape, a: *const f32, b: *const f32, c: &mut [f32], parallel: bool) {
    // SAFETY: promised by the caller; the CPU has the unit of the path in use.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if let Some(unit) = unit(crate::isa::detect()) {
            return walk::run_on(unit, s, a, b, c, parallel);
        }
        rounded(s, a, b, c, parallel);
    }
}

/// What a path multiplies bf16 with.
#[cfg(target_arch = "x86_64")]
pub(super) fn unit(isa: crate::isa::Isa) -> Option<tile::Unit> {
    use crate::isa::Isa;
    match isa {
        Isa::Amx => Some(tile::Unit::Amx),
        Isa::Avx512Bf16 => Some(tile::Unit::Pairs),
        _ => None,
    }
}

/// The product of rounded copies, in fp32.
///
/// # Safety
/// As [`run`].
pub(super) unsafe fn rounded(
    mut s: Shape,
    a: *const f32,
    b: *const f32,
    c: &mut [f32],
    parallel: bool,
) {
    let (m, n, k) = (s.m, s.n, s.k);
    scratch::with(m * k + k * n, |copies| {
        let (left, right) = copies.split_at_mut(m * k);
        let copy = |from: *const f32, rs: usize, cs: usize, width: usize, to: &mut [f32]| {
            for (i, row) in to.chunks_exact_mut(width).enumerate() {
                for (j, x) in row.iter_mut().enumerate() {
                    // SAFETY: promised by the caller.
                    *x = from_bf16(to_bf16(unsafe { *from.add(i * rs + j * cs) }));
                }
            }
        };
        copy(a, s.rsa, s.csa, k, left);
        copy(b, s.rsb, s.csb, n, right);
        (s.rsa, s.csa, s.rsb, s.csb) = (k, 1, n, 1);
        // SAFETY: C is the caller's; the copies have these sizes.
        unsafe { product::run(s, left.as_ptr(), right.as_ptr(), c, parallel) }
    });
}

#[cfg(target_arch = "x86_64")]
pub(super) mod walk {
    //! Tasks, and the walk over tiles.

    use super::pack::{Form, Source, pack};
    use super::tile::{BLOCK, SIDE, STEPS, TILE, Unit, merge};
    use crate::cpu::gemm::Shape;
    use crate::cpu::{scratch, shared::Shared};
    use rayon::prelude::*;
    use std::ops::Range;

    /// Steps of k summed in registers: a strip of rows of this depth (32 KiB) stays in the first-level cache.
    const DEPTH: usize = 512;

    /// Rows of a block of C: with [`DEPTH`] steps of A they take a quarter of a MiB.
    const ROWS: usize = 256;

    /// Panels that share the second-level cache with the rows of a block: half a MiB at most.
    const GROUP: usize = 16;

    /// Most elements of B that are packed at once.
    const MOST_PACKED: usize = 1 << 23;

    /// Tasks that a product is cut into where its blocks of rows are fewer.
    const TASKS: usize = 4;

    /// Elements of B from which packing it is cut into tasks.
    const PACK_PARALLEL_FROM: usize = 1 << 15;

    /// What all tasks of a product read.
    #[derive(Clone, Copy)]
    struct Operands {
        a: Source,
        b: Source,
        /// B packed: per block of k and panel, a strip.
        packed: *mut u16,
        c: Shared,
        s: Shape,
        unit: Unit,
    }
    // SAFETY: A and B are only read, and tasks write disjoint panels of B or blocks of C, while the borrows of
    // the caller last.
    unsafe impl Send for Operands {}
    // SAFETY: as above.
    unsafe impl Sync for Operands {}

    impl Operands {
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
                pack(self.b.from(start, steps.start), Form::B, wide, steps.len(), to);
            }
        }
    }

    /// # Safety
    /// As [`super::run`], and the CPU has the unit.
    pub(in crate::cpu::gemm) unsafe fn run_on(
        unit: Unit,
        s: Shape,
        a: *const f32,
        b: *const f32,
        c: &mut [f32],
        parallel: bool,
    ) {
        let source = |data, lines, steps| Source { data, lines, steps };
        let deep = s.k.next_multiple_of(STEPS);
        let whole = (MOST_PACKED / deep).max(1).next_multiple_of(BLOCK);
        let c = Shared::new(c);
        for lo in (0..s.n).step_by(whole) {
            let columns = lo..(lo + whole).min(s.n);
            let elements = columns.len().next_multiple_of(SIDE) * deep;
            scratch::with(elements / 2, |packed| {
                let o = Operands {
                    a: source(a, s.rsa, s.csa),
                    b: source(b, s.csb, s.rsb),
                    packed: packed.as_mut_ptr().cast(),
                    c,
                    s,
                    unit,
                };
                // SAFETY: promised by the caller.
                unsafe { share(&o, columns, elements, parallel) }
            });
        }
    }

    /// Packs columns of B and computes those of C.
    ///
    /// # Safety
    /// As [`run_on`], and `o.packed` has room for `elements`.
    unsafe fn share(o: &Operands, columns: Range<usize>, elements: usize, parallel: bool) {
        let o = *o;
        let panels = columns.len().div_ceil(BLOCK);
        let chunks = panels.div_ceil(GROUP);
        let fill = |t: usize| {
            let (lo, from) = (t % chunks * GROUP, t / chunks * DEPTH);
            let (group, steps) = (lo..(lo + GROUP).min(panels), from..(from + DEPTH).min(o.s.k));
            // SAFETY: promised by the caller; every panel and step is packed by one task.
            unsafe { o.pack(&columns, group, steps) }
        };
        let tasks = chunks * o.s.k.div_ceil(DEPTH);
        if parallel && elements >= PACK_PARALLEL_FROM {
            (0..tasks).into_par_iter().for_each(fill);
        } else {
            (0..tasks).for_each(fill);
        }
        // Blocks of nearly equal size, so that no thread waits long for the last one.
        let tiles = o.s.m.div_ceil(BLOCK);
        let mut down = o.s.m.div_ceil(ROWS);
        let mut across = 1;
        if parallel {
            down = down.next_multiple_of(2).min(tiles);
            across = TASKS.div_ceil(down).min(panels);
        }
        let part = |whole: usize, parts: usize, i: usize| whole * i / parts..whole * (i + 1) / parts;
        let task = |t: usize| {
            let rows = part(tiles, down, t / across);
            let rows = rows.start * BLOCK..(rows.end * BLOCK).min(o.s.m);
            // SAFETY: blocks of C are disjoint.
            unsafe { block(&o, rows, part(panels, across, t % across), &columns) }
        };
        if parallel {
            (0..down * across).into_par_iter().for_each(task);
        } else {
            (0..down * across).for_each(task);
        }
    }

    /// The blocks of k.
    fn depths(k: usize) -> impl Iterator<Item = Range<usize>> {
        (0..k).step_by(DEPTH).map(move |at| at..(at + DEPTH).min(k))
    }

    /// Where the strip of a panel lies among the packed elements of B.
    fn place(columns: usize, panel: usize, steps: &Range<usize>) -> usize {
        let before = columns.div_ceil(SIDE) * (steps.start / STEPS);
        (before + 2 * panel * steps.len().div_ceil(STEPS)) * TILE
    }

    /// Rows and panels of C.
    ///
    /// # Safety
    /// As [`run_on`]; the block belongs to this task alone.
    unsafe fn block(o: &Operands, rows: Range<usize>, panels: Range<usize>, columns: &Range<usize>) {
        let (s, kernel) = (o.s, o.unit.kernel());
        let depth = DEPTH.min(s.k.next_multiple_of(STEPS));
        // SAFETY: the CPU has the unit.
        let _begun = unsafe { o.unit.begin() };
        scratch::with(rows.len().next_multiple_of(SIDE) * depth / 2, |tiles| {
            let tiles: *mut u16 = tiles.as_mut_ptr().cast();
            for steps in depths(s.k) {
                let beta = if steps.start == 0 { s.beta } else { 1.0 };
                let deep = steps.len().div_ceil(STEPS);
                let strip_at = |row: usize| tiles.wrapping_add((row - rows.start) * deep * STEPS);
                // SAFETY: these rows and steps of A are there, and room for their tiles.
                unsafe {
                    let from = o.a.from(rows.start, steps.start);
                    pack(from, Form::A, rows.len(), steps.len(), tiles);
                }
                for group in panels.clone().step_by(GROUP) {
                    let group = group..(group + GROUP).min(panels.end);
                    for row in rows.clone().step_by(BLOCK) {
                        let high = BLOCK.min(rows.end - row);
                        for panel in group.clone() {
                            let column = columns.start + panel * BLOCK;
                            let wide = BLOCK.min(columns.end - column);
                            if s.upper && column + wide <= row {
                                continue;
                            }
                            let (h, w) = (high.div_ceil(SIDE), wide.div_ceil(SIDE));
                            // SAFETY: the strips are packed; whole tiles lie in C, others are computed aside.
                            unsafe {
                                let a = strip_at(row);
                                let b = o.packed.add(place(columns.len(), panel, &steps));
                                let c = o.c.get().add(row * s.rsc + column);
                                let whole = high.is_multiple_of(SIDE) && wide.is_multiple_of(SIDE);
                                if whole && s.alpha == 1.0 && (beta == 0.0 || beta == 1.0) {
                                    kernel(h, w, deep, a, b, beta == 1.0, c, s.rsc);
                                } else {
                                    let mut aside = [0.0; BLOCK * BLOCK];
                                    kernel(h, w, deep, a, b, false, aside.as_mut_ptr(), BLOCK);
                                    merge(&aside, BLOCK, high, wide, s.alpha, beta, c, s.rsc);
                                }
                            }
                        }
                    }
                }
            }
        });
    }
}
