//! A whole product: packing, tasks, and the walk over tiles.

use super::tile::{MOST_ELEMENTS, Path, path};
use super::{Shape, few, pack};
use crate::cpu::{scratch, shared::Shared};
use crate::isa::detect;
use rayon::prelude::*;
use std::ops::Range;

/// Steps of k summed before they are added to C: a panel of B of this depth stays in the first-level cache.
const DEPTH: usize = 256;

/// Rows of a block of C: with [`DEPTH`] steps of A they stay in the second-level cache.
const ROWS: usize = 96;

/// Most elements of B that are packed at once.
const MOST_PACKED: usize = 1 << 20;

/// Products of fewer rows read B where it lies.
const PACK_FROM: usize = 8;

/// Rows of a transposed A are read where they lie by so many panels at most.
const PACK_ROWS_FROM: usize = 2;

/// Tasks that a product is cut into where its blocks of rows are fewer.
const TASKS: usize = 8;

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
pub(super) unsafe fn run(s: Shape, a: *const f32, b: *const f32, c: &mut [f32], parallel: bool) {
    // SAFETY: promised by the caller; the CPU has the path that was detected.
    unsafe {
        if few::suits(&s) {
            few::run(s, a, b, c, parallel);
        } else {
            run_on(path(detect()), s, a, b, c, parallel);
        }
    }
}

/// The tiles of a product whose operands are taken as packed: panels of B, and rows of A in tiles.
///
/// # Safety
/// A `[m, k]`, B `[k, n]` and C `[m, n]` are there; `m` and `n` are whole numbers of tiles.
pub(super) unsafe fn bare(m: usize, n: usize, k: usize, a: *const f32, b: *const f32, c: *mut f32) {
    let path = path(detect());
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
    c: &mut [f32],
    parallel: bool,
) {
    let o = Operands {
        a,
        b,
        c: Shared::new(c),
        s,
        path,
    };
    // SAFETY: promised by the caller.
    unsafe {
        let whole = (MOST_PACKED / s.k / o.path.cols).max(1) * o.path.cols;
        for lo in (0..s.n).step_by(whole) {
            columns(&o, lo..(lo + whole).min(s.n), parallel);
        }
    }
}

/// Columns `range` of C.
///
/// # Safety
/// As [`run`].
unsafe fn columns(o: &Operands, range: Range<usize>, parallel: bool) {
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
    let size = s.k * cols;
    scratch::with((panels - first) * size, |packed| {
        let fill = |(p, to): (usize, &mut [f32])| {
            let lo = range.start + (first + p) * cols;
            let some = cols.min(range.end - lo);
            // SAFETY: columns lo..lo + some of B are there.
            unsafe { pack::panel(o.b(lo * s.csb), s.rsb, s.csb, s.k, some, cols, to) }
        };
        if parallel && packed.len() > 1 << 15 {
            packed.par_chunks_mut(size).enumerate().for_each(fill);
        } else {
            packed.chunks_mut(size).enumerate().for_each(fill);
        }
        let blocks = s.m.div_ceil(ROWS);
        let wide = if parallel {
            panels.div_ceil(TASKS.div_ceil(blocks))
        } else {
            panels
        };
        let across = panels.div_ceil(wide);
        let packed = &*packed;
        let task = |t: usize| {
            let (row, column) = (t / across * ROWS, t % across * wide);
            let block = Block {
                rows: row..(row + ROWS).min(s.m),
                panels: column..(column + wide).min(panels),
                start: range.start,
                end: range.end,
                first,
                packed,
            };
            // SAFETY: blocks of C are disjoint.
            unsafe { walk(o, &block) }
        };
        if parallel {
            (0..blocks * across).into_par_iter().for_each(task);
        } else {
            (0..blocks * across).for_each(task);
        }
    });
}

/// A block of C: rows, and panels counted from column `start`.
struct Block<'a> {
    rows: Range<usize>,
    panels: Range<usize>,
    start: usize,
    end: usize,
    /// Panels from this one on lie in `packed`, those before it in B.
    first: usize,
    packed: &'a [f32],
}

/// Computes a block, one depth of k at a time.
///
/// # Safety
/// As [`run`], and the block belongs to this task alone.
unsafe fn walk(o: &Operands, block: &Block) {
    let (s, path) = (o.s, o.path);
    // Transposed rows are packed where enough panels use them again.
    let in_place = s.csa == 1 || s.rsa == 1 && block.panels.len() <= PACK_ROWS_FROM;
    let buffer = if in_place {
        0
    } else {
        block.rows.len() * DEPTH.min(s.k)
    };
    scratch::with(buffer, |tiles| {
        for from in (0..s.k).step_by(DEPTH) {
            let depth = DEPTH.min(s.k - from);
            let beta = if from == 0 { s.beta } else { 1.0 };
            let each = || block.rows.clone().step_by(path.rows);
            let some = |row: usize| path.rows.min(block.rows.end - row);
            if !in_place {
                for row in each() {
                    let to = &mut tiles[(row - block.rows.start) * depth..][..some(row) * depth];
                    // SAFETY: these rows of A and steps of k are there.
                    unsafe {
                        let a = o.a(row * s.rsa + from * s.csa);
                        pack::rows(a, s.rsa, s.csa, depth, some(row), to);
                    }
                }
            }
            for panel in block.panels.clone() {
                let column = block.start + panel * path.cols;
                let width = path.cols.min(block.end - column);
                // SAFETY: a panel in B is whole, so that all its columns are there.
                let (b, rsb) = if panel < block.first {
                    (unsafe { o.b(from * s.rsb + column) }, s.rsb)
                } else {
                    let at = ((panel - block.first) * s.k + from) * path.cols;
                    (block.packed[at..].as_ptr(), path.cols)
                };
                for row in each() {
                    if s.upper && column + width <= row {
                        break;
                    }
                    let rows = some(row);
                    // SAFETY: the tile's rows of A and C are there; a tile that reaches beyond the last
                    // column is computed aside.
                    unsafe {
                        let (a, rsa, csa) = if in_place {
                            (o.a(row * s.rsa + from * s.csa), s.rsa, s.csa)
                        } else {
                            let at = (row - block.rows.start) * depth;
                            (tiles[at..].as_ptr(), 1, rows)
                        };
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
