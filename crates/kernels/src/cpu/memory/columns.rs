//! One head's columns of a matrix `[N, H*D]` whose rows hold all heads side by side.
//!
//! Tasks work on one head each, in contiguous copies; [`gather`] takes a head's columns out of an
//! input, [`Columns`] lets many tasks put theirs back into one output at the same time. D is the
//! width of a head, or 1 for what has one number per row and head.

use crate::cpu::scratch::{self, Scratch};
use std::marker::PhantomData;
use std::ops::Range;

/// The columns of `head` in some rows of x `[N, heads*width]`, as `[T, width]`.
pub(super) fn gather(
    x: &[f32],
    heads: usize,
    width: usize,
    head: usize,
    rows: Range<usize>,
) -> Scratch {
    let mut out = scratch::take(rows.len() * width);
    let x = &x[rows.start * heads * width..rows.end * heads * width];
    for (out, row) in out
        .chunks_exact_mut(width)
        .zip(x.chunks_exact(heads * width))
    {
        out.copy_from_slice(&row[head * width..(head + 1) * width]);
    }
    out
}

/// An output `[N, heads*width]` that tasks fill together, each its own heads and rows.
pub(super) struct Columns<'a> {
    start: *mut f32,
    len: usize,
    heads: usize,
    width: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: `put` is the only access, and its callers promise that no two calls touch one element at
// the same time.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    pub(super) fn new(x: &'a mut [f32], heads: usize, width: usize) -> Self {
        Self {
            start: x.as_mut_ptr(),
            len: x.len(),
            heads,
            width,
            borrow: PhantomData,
        }
    }

    /// The same, after setting all of it to zero.
    pub(super) fn zeroed(x: &'a mut [f32], heads: usize, width: usize) -> Self {
        x.fill(0.0);
        Self::new(x, heads, width)
    }

    /// Writes `x` `[T, width]` to the columns of `head`, from row `at` on.
    ///
    /// # Safety
    /// No other call may write the same head of the same rows at the same time.
    pub(super) unsafe fn put(&self, at: usize, head: usize, x: &[f32]) {
        for (i, row) in x.chunks_exact(self.width).enumerate() {
            let offset = ((at + i) * self.heads + head) * self.width;
            assert!(
                head < self.heads && offset + self.width <= self.len,
                "memory: row {at} + {i}"
            );
            // SAFETY: the range lies in the slice, which is borrowed mutably for 'a; by the
            // contract above nobody else touches it now, and `row` is another allocation.
            unsafe {
                std::ptr::copy_nonoverlapping(row.as_ptr(), self.start.add(offset), self.width);
            }
        }
    }
}
