//! Products of a few strips whose operands are packed and near: what attention and the memory are made of.
//!
//! Both compute their matrices upright and on their side: what has a row per key or slot and a column per query or
//! token, so that queries or tokens are the lanes of vectors.

use super::pack::{Form, Source, pack, transposed};
use super::tile::{BLOCK, Begun, Block, SIDE};
use super::vector::lowest;
use crate::cpu::scratch::{self, Scratch};
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of a matrix with some columns of each.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Rows {
    data: *const f32,
    apart: usize,
    pub(in crate::cpu) rows: usize,
}

impl Rows {
    /// # Safety
    /// The rows are there, each with `width` columns.
    pub(in crate::cpu) unsafe fn of(
        x: &[f32],
        rows: Range<usize>,
        apart: usize,
        column: usize,
    ) -> Self {
        let at = rows.start * apart + column;
        Self {
            data: x[at.min(x.len())..].as_ptr(),
            apart,
            rows: rows.len(),
        }
    }

    /// The columns of row `i`.
    pub(in crate::cpu) fn row(self, i: usize) -> *const f32 {
        self.data.wrapping_add(i * self.apart)
    }

    /// Packs the rows as lines of `width` steps, filled up with zeros to whole strips.
    ///
    /// # Safety
    /// The rows are there, `to` has room for whole strips, and the CPU has a unit.
    pub(in crate::cpu) unsafe fn lines(self, form: Form, width: usize, to: *mut u16) {
        let whole = self.rows / BLOCK * BLOCK;
        let source = |data, lines| Source {
            data,
            lines,
            steps: 1,
        };
        // SAFETY: promised by the caller; the copy has a whole strip.
        unsafe {
            pack(source(self.data, self.apart), form, whole, width, to);
            if whole < self.rows {
                let mut strip = scratch::zeros(BLOCK * width);
                for (i, row) in strip
                    .chunks_exact_mut(width)
                    .enumerate()
                    .take(self.rows - whole)
                {
                    let from = self.data.add((whole + i) * self.apart);
                    row.copy_from_slice(std::slice::from_raw_parts(from, width));
                }
                let to = to.add(whole * width);
                pack(source(strip.as_ptr(), width), form, BLOCK, width, to);
            }
        }
    }

    /// Packs the columns as lines over the rows as steps, filled up with zeros to whole tiles.
    ///
    /// # Safety
    /// As [`Rows::lines`].
    pub(in crate::cpu) unsafe fn steps(self, form: Form, width: usize, to: *mut u16) {
        let source = Source {
            data: self.data,
            lines: 1,
            steps: self.apart,
        };
        // SAFETY: promised by the caller.
        unsafe { pack(source, form, width, self.rows, to) }
    }
}

/// Memory for bf16.
pub(in crate::cpu) fn halves(elements: usize) -> Scratch {
    scratch::take(elements / 2)
}

pub(in crate::cpu) fn start(x: &mut Scratch) -> *mut u16 {
    x.as_mut_ptr().cast()
}

/// A block over `steps` tiles, whole in both directions.
pub(in crate::cpu) fn block(
    steps: usize,
    a: *const u16,
    b: *const u16,
    c: *mut f32,
    rsc: usize,
    add: bool,
) -> Block {
    Block {
        add,
        ..Block::packed([2, 2, steps], a, b, c, rsc)
    }
}

/// C `[32, columns]` by the strip of A and the panels of B of which the first ones are given; panels lie `panel`
/// elements apart.
///
/// # Safety
/// The operands are packed and C has these elements.
pub(in crate::cpu) unsafe fn strip(begun: &Begun, first: Block, panel: usize, columns: usize) {
    for i in 0..columns / BLOCK {
        // SAFETY: promised by the caller.
        unsafe {
            let (b, c) = (first.b.add(i * panel), first.c.add(i * BLOCK));
            begun.kernel()(&block(first.steps, first.a, b, c, first.rsc, first.add));
        }
    }
}

/// Writes X `[width, columns]`, each column times its factor (1 without), as rows of the output.
///
/// # Safety
/// X is there in whole tiles, a factor for each column, and the rows of the output belong to this task; the CPU has AVX-512.
#[target_feature(enable = "avx512f")]
pub(in crate::cpu) unsafe fn upright(
    x: *const f32,
    width: usize,
    columns: usize,
    factors: Option<&[f32]>,
    rows: usize,
    to: *mut f32,
    apart: usize,
) {
    for column in (0..rows).step_by(SIDE) {
        // SAFETY: promised by the caller.
        unsafe {
            let times = match factors {
                Some(f) => _mm512_loadu_ps(f[column..column + SIDE].as_ptr()),
                None => _mm512_set1_ps(1.0),
            };
            for line in (0..width).step_by(SIDE) {
                let mut block = [_mm512_setzero_si512(); SIDE];
                for (i, block) in block.iter_mut().enumerate() {
                    let x = _mm512_loadu_ps(x.add((line + i) * columns + column));
                    *block = _mm512_castps_si512(_mm512_mul_ps(x, times));
                }
                let (block, some) = (transposed(block), lowest(width - line));
                for (i, row) in block.into_iter().enumerate().take(rows - column) {
                    let to = to.add((column + i) * apart + line).cast();
                    _mm512_mask_storeu_epi32(to, some, row);
                }
            }
        }
    }
}
