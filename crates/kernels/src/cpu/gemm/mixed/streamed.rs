//! Few rows by weights in bf16 that are read once, where they lie: y = x Wᵀ for W [n, k], as generation of several
//! sequences at once needs it.
//!
//! Rows of W are in the order of a tile of A already, so they are not packed; the rows of x are, as B. Blocks of y
//! then come transposed, which is mended in registers. The rows of W that follow come near meanwhile.

use super::pack::{Form, Source, pack};
use super::panels::upright;
use super::tile::{BLOCK, Begun, Block, SIDE, STEPS, Unit};
use crate::cpu::gemm::Shape;
use crate::cpu::{scratch, shared::Shared};
use rayon::prelude::*;

/// Fewer rows are better off without tiles, which cost the same for one row as for sixteen.
const LEAST_ROWS: usize = 5;

/// Elements of W of a task at least.
const TASK: usize = 1 << 15;

/// Whether a product of few rows goes this way; steps of k fill whole tiles, or the next row would be read as their rest.
pub(in crate::cpu::gemm) fn suits(s: &Shape) -> bool {
    s.m >= LEAST_ROWS && s.n >= BLOCK && s.k.is_multiple_of(STEPS)
}

/// What all tasks read.
#[derive(Clone, Copy)]
struct Operands {
    w: *const u16,
    /// The rows of x as B.
    x: *const u16,
    y: Shared,
    s: Shape,
}
// SAFETY: W and x are only read, and tasks write disjoint columns of y, while the borrows of the caller last.
unsafe impl Send for Operands {}
// SAFETY: as above.
unsafe impl Sync for Operands {}

/// The product of `s`: rows of A and columns of B contiguous, `alpha` 1, `beta` 0.
///
/// # Safety
/// A, B and C cover what `s` addresses, it [`suits`], and the CPU has the unit.
pub(in crate::cpu::gemm) unsafe fn run_on(
    unit: Unit,
    s: Shape,
    x: *const f32,
    w: *const u16,
    y: Shared,
    parallel: bool,
) {
    debug_assert!(suits(&s) && s.csa == 1 && s.rsb == 1 && s.alpha == 1.0 && s.beta == 0.0);
    scratch::with(s.m.next_multiple_of(SIDE) * s.k / 2, |packed| {
        let packed: *mut u16 = packed.as_mut_ptr().cast();
        let x = Source {
            data: x,
            lines: s.rsa,
            steps: 1,
        };
        // SAFETY: the rows are there, and room for their tiles.
        unsafe { pack(x, Form::B, s.m, s.k, packed) };
        let o = Operands { w, x: packed, y, s };
        let blocks = s.n.div_ceil(BLOCK);
        let each = TASK.div_ceil(BLOCK * s.k);
        let task = |t: usize| {
            // SAFETY: passed on from the caller.
            unsafe {
                let begun = unit.begin();
                for block in t * each..((t + 1) * each).min(blocks) {
                    o.columns(&begun, block * BLOCK);
                }
            }
        };
        let tasks = blocks.div_ceil(each);
        if parallel {
            (0..tasks).into_par_iter().for_each(task);
        } else {
            (0..tasks).for_each(task);
        }
    });
}

impl Operands {
    /// The columns of y from `column` on, a block of them or what is left.
    ///
    /// # Safety
    /// As [`run_on`]; they belong to this task alone.
    unsafe fn columns(self, begun: &Begun, column: usize) {
        let (s, cols) = (self.s, BLOCK.min(self.s.n - column));
        let w = self.w.wrapping_add(column * s.csb);
        if cols == BLOCK {
            // SAFETY: passed on from the caller.
            return unsafe { self.block(begun, w, s.csb, column, cols) };
        }
        scratch::with(BLOCK * s.k / 2, |rest| {
            let rest: *mut u16 = rest.as_mut_ptr().cast();
            for i in 0..BLOCK {
                // Rows beyond the last one are copies of it: what they give is not written.
                let from = w.wrapping_add(i.min(cols - 1) * s.csb);
                // SAFETY: the row is there, and room for it.
                unsafe { std::ptr::copy_nonoverlapping(from, rest.add(i * s.k), s.k) };
            }
            // SAFETY: passed on from the caller.
            unsafe { self.block(begun, rest, s.k, column, cols) };
        });
    }

    /// `cols` columns of y by the [`BLOCK`] rows of W at `w`, which are `apart`.
    ///
    /// # Safety
    /// As [`Operands::columns`].
    unsafe fn block(self, begun: &Begun, w: *const u16, apart: usize, column: usize, cols: usize) {
        let s = self.s;
        let mut aside = [0.0f32; BLOCK * BLOCK];
        for row in (0..s.m).step_by(BLOCK) {
            let rows = BLOCK.min(s.m - row);
            let block = Block {
                a_row: apart,
                a_step: STEPS,
                next: w.wrapping_add(BLOCK * apart).cast(),
                ..Block::packed(
                    [2, rows.div_ceil(SIDE), s.k / STEPS],
                    w,
                    self.x.wrapping_add(row * s.k),
                    aside.as_mut_ptr(),
                    BLOCK,
                )
            };
            // SAFETY: passed on from the caller.
            unsafe {
                begun.kernel()(&block);
                let y = self.y.get().add(row * s.rsc + column);
                upright(aside.as_ptr(), cols, BLOCK, None, rows, y, s.rsc);
            }
        }
    }
}
