//! What operations share that take blocks of rows through several products at once, on bf16 operands: weights packed
//! beforehand, rows packed as A with a norm on the way, and gradients over rows.

use super::mixed::pack::{Form, Source, pack};
use super::mixed::tile::{BLOCK, Begun, SIDE, STEPS};
use super::mixed::vector::{loaded, lowest_of_32, rounded};
use super::mixed::walk::{ROWS, Sum, depths, part};
use crate::cpu::norm;
use crate::cpu::scratch::{self, Scratch};
use crate::cpu::shared::Shared;
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::ops::Range;

/// A root mean square norm of rows.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    /// Factor of each column.
    pub(super) gain: &'a [f32],
    /// Added to the mean square.
    pub(super) eps: f32,
}

/// Which side of a weight its units are on.
#[derive(Clone, Copy)]
pub(super) enum Side {
    /// They are its columns: the sum runs over the width.
    Columns,
    /// The sum runs over them.
    Summed,
}

/// A weight between rows of some width and some units.
#[derive(Clone, Copy)]
pub(super) struct Weight<'a> {
    pub(super) data: &'a [f32],
    pub(super) units: usize,
    /// Elements from one unit to the next.
    pub(super) unit_apart: usize,
    /// Elements from one column of the rows to the next.
    pub(super) apart: usize,
    pub(super) side: Side,
}

/// A weight packed as B, in regions for each chunk of units.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    data: *mut u16,
    /// Elements of the region of a whole chunk.
    region: usize,
}
// SAFETY: regions are written by one task each, then only read.
unsafe impl Send for Packed {}
// SAFETY: as above.
unsafe impl Sync for Packed {}

impl Packed {
    pub(super) fn region(&self, chunk: usize) -> *mut u16 {
        self.data.wrapping_add(chunk * self.region)
    }
}

/// The units of a chunk.
pub(super) fn of_chunk(chunk: usize, size: usize, units: usize) -> Range<usize> {
    chunk * size..((chunk + 1) * size).min(units)
}

/// Runs `f` with weights packed in chunks of `size` units.
pub(super) fn with_packed<R>(
    size: usize,
    width: usize,
    weights: &[Weight],
    f: impl FnOnce(&[Packed]) -> R,
) -> R {
    let region = size * width.next_multiple_of(STEPS);
    let chunks = |w: &Weight| w.units.div_ceil(size);
    let all: usize = weights.iter().map(chunks).sum();
    scratch::with(all * region / 2, |room| {
        let mut data: *mut u16 = room.as_mut_ptr().cast();
        let (mut packed, mut tasks) = (Vec::new(), Vec::with_capacity(all));
        for weight in weights {
            let here = Packed { data, region };
            tasks.extend((0..chunks(weight)).map(|chunk| (*weight, here, chunk)));
            data = here.region(chunks(weight));
            packed.push(here);
        }
        tasks.into_par_iter().for_each(|(weight, packed, chunk)| {
            let units = of_chunk(chunk, size, weight.units);
            let to = packed.region(chunk);
            let data = weight.data.as_ptr();
            // SAFETY: these units are there, and the region is this task's alone.
            unsafe {
                match weight.side {
                    Side::Columns => {
                        let (lines, steps) = (weight.unit_apart, weight.apart);
                        let x = Source { data, lines, steps };
                        for steps in depths(width) {
                            let at = units.len().next_multiple_of(SIDE) * steps.start;
                            let from = x.from(units.start, steps.start);
                            pack(from, Form::B, units.len(), steps.len(), to.add(at));
                        }
                    }
                    Side::Summed => {
                        let (lines, steps) = (weight.apart, weight.unit_apart);
                        let x = Source { data, lines, steps };
                        pack(x.from(0, units.start), Form::B, width, units.len(), to);
                    }
                }
            }
        });
        f(&packed)
    })
}

/// Blocks of rows, a task each: an even number of nearly equal ones.
pub(super) fn blocks(rows: usize) -> impl IndexedParallelIterator<Item = Range<usize>> {
    let parts = rows.div_ceil(ROWS).next_multiple_of(2);
    let parts = parts.min(rows.div_ceil(BLOCK));
    (0..parts)
        .into_par_iter()
        .map(move |i| part(rows, parts, i))
}

/// The strips of some rows.
pub(super) fn strips(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(BLOCK).map(move |at| at..(at + BLOCK).min(end))
}

/// The rows of a block, packed as A over their whole width, block of k after block of k.
pub(super) struct Input {
    pub(super) rows: Range<usize>,
    width: usize,
    tiles: Scratch,
}

impl Input {
    /// Room for some rows.
    pub(super) fn new(rows: Range<usize>, width: usize) -> Self {
        Self {
            tiles: scratch::take(self::high(&rows) * width.next_multiple_of(STEPS) / 2),
            rows,
            width,
        }
    }

    /// Packs the rows that begin `at` some row of the block: all, or whole strips.
    ///
    /// # Safety
    /// The CPU has a unit.
    pub(super) unsafe fn pack(&mut self, x: &[f32], at: usize) {
        let high = high(&self.rows);
        let to: *mut u16 = self.tiles.as_mut_ptr().cast();
        let rows = x.len() / self.width;
        debug_assert!(at + rows <= self.rows.len());
        let (data, lines, steps) = (x.as_ptr(), self.width, 1);
        let from = Source { data, lines, steps };
        for steps in depths(self.width) {
            let before = high * steps.start + at * steps.len().next_multiple_of(STEPS);
            // SAFETY: the rows are there, and room for their tiles.
            unsafe {
                let from = from.from(0, steps.start);
                pack(from, Form::A, rows, steps.len(), to.add(before));
            }
        }
    }

    /// Packs the rows of `x` [N, width], normed; their reciprocal root mean squares go to `rstd` [N].
    ///
    /// # Safety
    /// The CPU has a unit, and the rows belong to this task alone.
    pub(super) unsafe fn norm(&mut self, x: &[f32], by: Norm, rstd: Shared) {
        let w = self.width;
        scratch::with(BLOCK * w, |strip| {
            for at in (0..self.rows.len()).step_by(BLOCK) {
                let rows = BLOCK.min(self.rows.len() - at);
                for i in 0..rows {
                    let row = self.rows.start + at + i;
                    let (x, y) = (&x[row * w..][..w], &mut strip[i * w..][..w]);
                    // SAFETY: promised by the caller.
                    unsafe { rstd.slice(row, 1)[0] = norm::rms_row(x, by.gain, by.eps, y) };
                }
                // SAFETY: passed on from the caller.
                unsafe { self.pack(&strip[..rows * w], at) };
            }
        });
    }

    /// The rows times the region of a chunk of `units` columns: C [rows, units], rows `apart`.
    ///
    /// # Safety
    /// The region is packed, and C has these elements.
    pub(super) unsafe fn times(
        &self,
        begun: &Begun,
        units: usize,
        region: *const u16,
        c: *mut f32,
        apart: usize,
        beta: f32,
    ) {
        for steps in depths(self.width) {
            let sum = Sum {
                beta: if steps.start == 0 { beta } else { 1.0 },
                ..Sum::new(self.rows.len(), units, steps.len())
            };
            // SAFETY: promised by the caller.
            unsafe {
                let b = region.add(units.next_multiple_of(SIDE) * steps.start);
                sum.of(begun, self.at(steps.start), b, c, apart);
            }
        }
    }

    /// The tiles from a block of k on.
    pub(super) fn at(&self, step: usize) -> *const u16 {
        let tiles: *const u16 = self.tiles.as_ptr().cast();
        tiles.wrapping_add(high(&self.rows) * step)
    }
}

/// Rows of the tiles of a block.
pub(super) fn high(rows: &Range<usize>) -> usize {
    rows.len().next_multiple_of(SIDE)
}

/// C [rows, width] = beta C + A times the region of a chunk, over its `units`; A as [`Input::at`] or packed
/// by hand.
///
/// # Safety
/// Everything is packed.
pub(super) unsafe fn contract(
    begun: &Begun,
    units: usize,
    tiles: *const u16,
    region: *const u16,
    width: usize,
    c: &mut [f32],
    beta: f32,
) {
    let sum = Sum {
        beta,
        ..Sum::new(c.len() / width, width, units)
    };
    // SAFETY: promised by the caller.
    unsafe { sum.of(begun, tiles, region, c.as_mut_ptr(), width) }
}

/// bf16 that tasks write in disjoint parts.
#[derive(Clone, Copy)]
pub(super) struct SharedHalves(*mut u16);
// SAFETY: as `Shared`.
unsafe impl Send for SharedHalves {}
// SAFETY: as above.
unsafe impl Sync for SharedHalves {}

impl SharedHalves {
    pub(super) fn new(x: &mut [u16]) -> Self {
        Self(x.as_mut_ptr())
    }

    /// Where an element lies.
    pub(super) fn at(self, at: usize) -> *mut u16 {
        self.0.wrapping_add(at)
    }
}

/// A norm that has been computed, for the backward pass.
#[derive(Clone, Copy)]
pub(super) struct Normed<'a> {
    /// [N, W]
    pub(super) x: &'a [f32],
    pub(super) gain: &'a [f32],
    /// Reciprocal root mean square of each row, [N].
    pub(super) rstd: &'a [f32],
}

impl Normed<'_> {
    /// The normed rows once more, as bf16: `to` [rows, W].
    ///
    /// # Safety
    /// The CPU has AVX-512 BW and BF16, and `to` the room.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn again(&self, rows: Range<usize>, to: *mut u16) {
        let w = self.gain.len();
        for (i, row) in rows.enumerate() {
            let (x, r) = (&self.x[row * w..][..w], _mm512_set1_ps(self.rstd[row]));
            for at in (0..w).step_by(STEPS) {
                // SAFETY: promised by the caller.
                unsafe {
                    let x = loaded(x.as_ptr().add(at), w - at);
                    let gain = loaded(self.gain.as_ptr().add(at), w - at);
                    let low = _mm512_mul_ps(_mm512_mul_ps(x[0], r), gain[0]);
                    let high = _mm512_mul_ps(_mm512_mul_ps(x[1], r), gain[1]);
                    let some = lowest_of_32(w - at);
                    _mm512_mask_storeu_epi16(to.add(i * w + at).cast(), some, rounded(low, high));
                }
            }
        }
    }

    /// The gradient `dn` of normed rows on its way to the rows: added to `dx` [N, W] where that is wanted, after
    /// `start` has prepared the row, and to `part` for the gain.
    ///
    /// # Safety
    /// The rows of dx belong to this task alone.
    pub(super) unsafe fn through(
        &self,
        rows: Range<usize>,
        dn: &[f32],
        dx: Option<Shared>,
        start: impl Fn(usize, &mut [f32]),
        part: &mut [f32],
    ) {
        let w = self.gain.len();
        let mut aside = scratch::take(if dx.is_none() { w } else { 0 });
        for (i, row) in rows.enumerate() {
            let to = match dx {
                // SAFETY: promised by the caller.
                Some(dx) => unsafe { dx.slice(row * w, w) },
                None => &mut aside[..],
            };
            start(row, to);
            let (x, dn) = (&self.x[row * w..][..w], &dn[i * w..][..w]);
            norm::rms_backward_row(x, self.gain, self.rstd[row], dn, true, to, part);
        }
    }
}

/// y = beta y + the sum of the parts of tasks, in their order.
pub(super) fn add_parts(y: &mut [f32], beta: f32, parts: &[Vec<f32>]) {
    for (i, y) in y.iter_mut().enumerate() {
        let old = if beta == 0.0 { 0.0 } else { beta * *y };
        *y = parts.iter().fold(old, |sum, part| sum + part[i]);
    }
}

/// y = beta y + x
pub(super) fn sum_into(y: &mut [f32], beta: f32, x: &[f32]) {
    if beta == 0.0 {
        y.copy_from_slice(x);
    } else {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = beta * *y + x);
    }
}
