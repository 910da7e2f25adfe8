//! A whole product: packing, tasks, and the walk over tiles.

use super::tile::{MOST_ELEMENTS, Path, path};
use super::{Shape, few, pack, sums};
use crate::cpu::{scratch, shared::Shared};
use crate::isa::vectors;
use rayon::prelude::*;
use std::ops::Range;

/// Steps of k summed before they are added to C: the packed rows of a tile of this depth (18 KiB at most) stay in
/// the first-level cache.
const DEPTH: usize = 384;

/// Rows of a block of C: with [`DEPTH`] steps of A they stay in the second-level cache.
const ROWS: usize = 144;

/// Most elements of B that are packed at once.
const MOST_PACKED: usize = 1 << 20;

/// Products of fewer rows read B where it lies.
const PACK_FROM: usize = 8;

/// Contiguous rows of A are read where they lie by so many panels at most.
const PACK_FROM_PANELS: usize = 4;

/// So are transposed ones.
const PACK_TRANSPOSED_FROM_PANELS: usize = 2;

/// Panels that share the second-level cache with the rows of a block.
const GROUP: usize = 8;

/// Tasks that a product is cut into where its blocks of rows are fewer.
const TASKS: usize = 4;

/// What all tasks of a product read.
#[derive(Clone, Copy)]
struct Operands {
    a: *const f32,
    b: *const f32,
    c: Shared,
    s: Shape,
    path: Path,
}
// SAFETY: A and B are only read, and tasks write disjoint blocks of C, while the caller's borrows last.
unsafe impl Send for Operands {}
// SAFETY: as above.
unsafe impl Sync for Operands {}

impl Operands {
    /// # Safety
    /// A has an element there.
    unsafe fn a(&self, at: usize) -> *const f32 {
        // SAFETY: promised by the caller.
        unsafe { self.a.add(at) }
    }

    /// # Safety
    /// B has an element there.
    unsafe fn b(&self, at: usize) -> *const f32 {
        // SAFETY: promised by the caller.
        unsafe { self.b.add(at) }
    }
}

/// # Safety
/// A, B and C cover what `s` addresses; m, n, k are not 0.
pub(super) unsafe fn run(s: Shape, a: *const f32, b: *const f32, c: Shared, parallel: bool) {
    // SAFETY: promised by the caller; the CPU has the path that was detected.
    unsafe {
        if sums::suits(&s) {
            sums::run(s, a, b, c, parallel);
        } else if few::suits(&s) {
            few::run(s, a, b, c, parallel);
        } else {
            run_on(path(vectors()), s, a, b, c, parallel);
        }
    }
}

/// The tiles of a product whose operands are taken as packed: panels of B, and rows of A in tiles.
///
/// # Safety
/// A `[m, k]`, B `[k, n]` and C `[m, n]` are there; `m` and `n` are whole numbers of tiles.
pub(super) unsafe fn bare(m: usize, n: usize, k: usize, a: *const f32, b: *const f32, c: *mut f32) {
    let path = path(vectors());
    let (rows, cols) = (path.rows, path.cols);
    for column in (0..n).step_by(cols) {
        for row in (0..m).step_by(rows) {
            // SAFETY: a tile of C, a panel of B, and packed rows of A; the CPU has the path that was detected.
            unsafe {
                let (a, b) = (a.add(row * k), b.add(column * k));
                let c = c.add(row * n + column);
                (path.tile)(rows, k, a, 1, rows, b, cols, 1.0, 1.0, c, n);
            }
        }
    }
}

/// As [`run`], on the kernels given.
///
/// # Safety
/// As [`run`], and the CPU has the path's features.
pub(super) unsafe fn run_on(
    path: Path,
    s: Shape,
    a: *const f32,
    b: *const f32,
    c: Shared,
    parallel: bool,
) {
    let o = Operands { a, b, c, s, path };
    let whole = (MOST_PACKED / DEPTH.min(s.k) / path.cols).max(1) * path.cols;
    for lo in (0..s.n).step_by(whole) {
        for from in (0..s.k).step_by(DEPTH) {
            let steps = from..(from + DEPTH).min(s.k);
            // SAFETY: promised by the caller.
            unsafe { columns(&o, lo..(lo + whole).min(s.n), steps, parallel) }
        }
    }
}

/// Columns `range` of C, over `steps` of k.
///
/// # Safety
/// As [`run`].
unsafe fn columns(o: &Operands, range: Range<usize>, steps: Range<usize>, parallel: bool) {
    let (s, cols) = (o.s, o.path.cols);
    let panels = range.len().div_ceil(cols);
    // Few rows read whole panels where they lie; only a ragged last one is packed.
    let direct = s.m < PACK_FROM && s.csb == 1;
    let ragged = !range.len().is_multiple_of(cols);
    let first = if direct {
        panels - usize::from(ragged)
    } else {
        0
    };
    let size = steps.len() * cols;
    scratch::with((panels - first) * size, |packed| {
        let fill = |(p, to): (usize, &mut [f32])| {
            let lo = range.start + (first + p) * cols;
            let some = cols.min(range.end - lo);
            // SAFETY: columns lo..lo + some of B are there, and these steps.
            unsafe {
                let b = o.b(steps.start * s.rsb + lo * s.csb);
                pack::panel(b, s.rsb, s.csb, steps.len(), some, cols, to);
            }
        };
        if parallel && packed.len() > 1 << 15 {
            packed.par_chunks_mut(size).enumerate().for_each(fill);
        } else {
            packed.chunks_mut(size).enumerate().for_each(fill);
        }
        // Blocks of nearly equal size, so that no thread waits long for the last one.
        let tiles = s.m.div_ceil(o.path.rows);
        let down = s.m.div_ceil(ROWS);
        let down = if parallel {
            down.next_multiple_of(2).min(tiles)
        } else {
            down
        };
        let across = if parallel {
            TASKS.div_ceil(down).min(panels)
        } else {
            1
        };
        let part =
            |whole: usize, parts: usize, i: usize| whole * i / parts..whole * (i + 1) / parts;
        let packed = &*packed;
        let task = |t: usize| {
            let rows = part(tiles, down, t / across);
            let block = Block {
                rows: rows.start * o.path.rows..(rows.end * o.path.rows).min(s.m),
                panels: part(panels, across, t % across),
                columns: range.clone(),
                steps: steps.clone(),
                first,
                packed,
            };
            // SAFETY: blocks of C are disjoint.
            unsafe { walk(o, &block) }
        };
        if parallel {
            (0..down * across).into_par_iter().for_each(task);
        } else {
            (0..down * across).for_each(task);
        }
    });
}

/// A block of C: rows, and panels counted from the first of `columns`; and steps of k.
struct Block<'a> {
    rows: Range<usize>,
    panels: Range<usize>,
    columns: Range<usize>,
    steps: Range<usize>,
    /// Panels from this one on lie in `packed`, those before it in B.
    first: usize,
    packed: &'a [f32],
}

/// Adds what the steps of a block contribute to it.
///
/// The packed rows of one tile stay in the first-level cache while the panels of a group, which stay in the
/// second-level one, pass by.
///
/// # Safety
/// As [`run`], and the block belongs to this task alone.
unsafe fn walk(o: &Operands, block: &Block) {
    let (s, path) = (o.s, o.path);
    let (from, depth) = (block.steps.start, block.steps.len());
    let beta = if from == 0 { s.beta } else { 1.0 };
    // Rows are packed where enough panels use them again.
    let panels = block.panels.len();
    let in_place = s.csa == 1 && panels <= PACK_FROM_PANELS
        || s.rsa == 1 && panels <= PACK_TRANSPOSED_FROM_PANELS;
    let buffer = if in_place {
        0
    } else {
        block.rows.len() * depth
    };
    scratch::with(buffer, |tiles| {
        if !in_place {
            // SAFETY: these rows of A and steps of k are there.
            unsafe {
                let a = o.a(block.rows.start * s.rsa + from * s.csa);
                pack::rows(a, s.rsa, s.csa, depth, block.rows.len(), path.rows, tiles);
            }
        }
        for group in block.panels.clone().step_by(GROUP) {
            let group = group..(group + GROUP).min(block.panels.end);
            for row in block.rows.clone().step_by(path.rows) {
                let rows = path.rows.min(block.rows.end - row);
                let (a, rsa, csa) = if in_place {
                    // SAFETY: rows and steps of A that are there.
                    (unsafe { o.a(row * s.rsa + from * s.csa) }, s.rsa, s.csa)
                } else {
                    let at = (row - block.rows.start) * depth;
                    (tiles[at..].as_ptr(), 1, rows)
                };
                for panel in group.clone() {
                    let column = block.columns.start + panel * path.cols;
                    let width = path.cols.min(block.columns.end - column);
                    if s.upper && column + width <= row {
                        continue;
                    }
                    let (b, rsb) = if panel < block.first {
                        // SAFETY: a panel in B is whole, so that all its columns are there.
                        (unsafe { o.b(from * s.rsb + column) }, s.rsb)
                    } else {
                        let at = (panel - block.first) * depth * path.cols;
                        (block.packed[at..].as_ptr(), path.cols)
                    };
                    // SAFETY: the tile's rows of A and C are there; a tile that reaches beyond the last
                    // column is computed aside.
                    unsafe {
                        let at = row * s.rsc + column;
                        if width == path.cols {
                            let c = o.c.get().add(at);
                            (path.tile)(rows, depth, a, rsa, csa, b, rsb, s.alpha, beta, c, s.rsc);
                        } else {
                            let mut aside = [0.0f32; MOST_ELEMENTS];
                            let to = aside.as_mut_ptr();
                            (path.tile)(
                                rows, depth, a, rsa, csa, b, rsb, s.alpha, 0.0, to, path.cols,
                            );
                            for i in 0..rows {
                                let new = &aside[i * path.cols..][..width];
                                let c = o.c.slice(at + i * s.rsc, width);
                                for (c, new) in c.iter_mut().zip(new) {
                                    *c = if beta == 0.0 { 0.0 } else { beta * *c } + new;
                                }
                            }
                        }
                    }
                }
            }
        }
    });
}
