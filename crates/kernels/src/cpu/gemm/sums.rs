//! Products of few rows by rows that are contiguous: weighted sums of rows of B, as attention of one query over many
//! values needs them.
//!
//! B is read once, where it lies, and nothing is packed. Every sum is taken over k in its order.

use super::Shape;
use crate::cpu::shared::Shared;
use crate::isa::multiversion;
use rayon::prelude::*;
use std::ops::Range;

/// Packing pays for more rows than these.
const MOST_ROWS: usize = 2;

/// Columns summed in registers.
const COLS: usize = 64;

/// Columns of a task where many are parallel.
const TASK: usize = 8 * COLS;

/// Whether a product is better done here than by packing.
pub(super) fn suits(s: &Shape) -> bool {
    s.csb == 1 && s.m <= MOST_ROWS && !s.upper
}

/// The product of `s`.
///
/// # Safety
/// A, B and C cover what `s` addresses, and it [`suits`]; m, n, k are not 0.
pub(super) unsafe fn run(s: Shape, a: *const f32, b: *const f32, c: Shared, parallel: bool) {
    // SAFETY: promised by the caller: these are the last elements that the shape addresses.
    let (a, b) = unsafe {
        let (rows, steps) = (s.m - 1, s.k - 1);
        (
            std::slice::from_raw_parts(a, rows * s.rsa + steps * s.csa + 1),
            std::slice::from_raw_parts(b, steps * s.rsb + s.n),
        )
    };
    let columns = |range: Range<usize>| {
        let mut sums = [0.0; COLS];
        for row in 0..s.m {
            for at in range.clone().step_by(COLS) {
                let sums = &mut sums[..COLS.min(range.end - at)];
                add_up(s.k, &a[row * s.rsa..], s.csa, &b[at..], s.rsb, sums);
                // SAFETY: these columns of C are there, and this task's alone.
                let c = unsafe { c.slice(row * s.rsc + at, sums.len()) };
                for (c, sum) in c.iter_mut().zip(sums) {
                    let old = if s.beta == 0.0 { 0.0 } else { s.beta * *c };
                    *c = old + s.alpha * *sum;
                }
            }
        }
    };
    if !parallel || s.n <= TASK {
        return columns(0..s.n);
    }
    (0..s.n.div_ceil(TASK))
        .into_par_iter()
        .for_each(|t| columns(t * TASK..((t + 1) * TASK).min(s.n)));
}

multiversion! {
    /// The sum over `k` steps of a number, `csa` apart, times as many columns as there are sums of a row, `rsb` apart.
    fn add_up(k: usize, a: &[f32], csa: usize, b: &[f32], rsb: usize, sums: &mut [f32]) {
        if sums.len() == COLS {
            let mut all = [0.0f32; COLS];
            for p in 0..k {
                let (x, row) = (a[p * csa], &b[p * rsb..][..COLS]);
                for (sum, y) in all.iter_mut().zip(row) { *sum += x * y; }
            }
            sums.copy_from_slice(&all);
            return;
        }
        sums.fill(0.0);
        for p in 0..k {
            let (x, row) = (a[p * csa], &b[p * rsb..][..sums.len()]);
            for (sum, y) in sums.iter_mut().zip(row) { *sum += x * y; }
        }
    }
}
