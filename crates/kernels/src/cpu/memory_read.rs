//! Reads from frozen memories, forward and backward: what parallel thoughts do.
//!
//! Row i reads the memory `of_row[i]`: out = sum over slots j of silu(key_j . q) value_j, per head. Rows
//! of one memory stand together, so that a read is two products a run of rows and head. The gradient
//! reaches the query only; the memory is a constant here.

use super::elementwise::silu_in_place;
use super::gemm::gemm_seq;
use super::memory::{MemoryShape, State};
use super::scratch;
use crate::isa::multiversion;
use crate::math;
use rayon::prelude::*;
use std::ops::Range;

multiversion! {
    /// gradient *= silu'(x).
    fn through_silu(gradient: &mut [f32], x: &[f32]) {
        for (g, &x) in gradient.iter_mut().zip(x) {
            *g *= math::silu_derivative(x);
        }
    }
}

/// Runs of neighbouring rows that read the same memory, cut to at most 64 rows.
fn runs(of_row: &[u32]) -> Vec<(usize, Range<usize>)> {
    let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
    for (i, &m) in of_row.iter().enumerate() {
        match runs.last_mut() {
            Some((last, rows)) if *last == m as usize && rows.len() < 64 => rows.end = i + 1,
            _ => runs.push((m as usize, i..i + 1)),
        }
    }
    runs
}

/// Applies `f(state, rows, q of the rows, out of the rows)` to every run, in parallel.
fn for_each_run(
    shape: MemoryShape,
    of_row: &[u32],
    out: &mut [f32],
    f: impl Fn(usize, Range<usize>, &mut [f32]) + Sync,
) {
    let d = shape.row_len();
    assert_eq!(
        out.len(),
        of_row.len() * d,
        "memory read: {} rows",
        of_row.len()
    );
    let mut rest = out;
    let mut tasks = Vec::new();
    for (state, rows) in runs(of_row) {
        let (front, back) = rest.split_at_mut(rows.len() * d);
        tasks.push((state, rows, front));
        rest = back;
    }
    tasks
        .into_par_iter()
        .for_each(|(state, rows, out)| f(state, rows, out));
}

/// out [N, H hd], for q [N, H hd].
pub fn read_rows(shape: MemoryShape, states: &[State], of_row: &[u32], q: &[f32], out: &mut [f32]) {
    let (d, hd, slots) = (shape.row_len(), shape.width, shape.slots);
    for_each_run(shape, of_row, out, |state, rows, out| {
        let mut a = scratch::take(rows.len() * slots);
        for h in 0..shape.heads {
            let (keys, values) = (
                &states[state].keys[h * slots * hd..],
                &states[state].values[h * slots * hd..],
            );
            gemm_seq(
                rows.len(),
                slots,
                hd,
                1.0,
                &q[rows.start * d + h * hd..],
                d,
                1,
                keys,
                1,
                hd,
                0.0,
                &mut a,
                slots,
            );
            silu_in_place(&mut a);
            gemm_seq(
                rows.len(),
                hd,
                slots,
                1.0,
                &a,
                slots,
                1,
                values,
                hd,
                1,
                0.0,
                &mut out[h * hd..],
                d,
            );
        }
    });
}

/// dq [N, H hd] is overwritten.
pub fn read_rows_backward(
    shape: MemoryShape,
    states: &[State],
    of_row: &[u32],
    q: &[f32],
    dout: &[f32],
    dq: &mut [f32],
) {
    let (d, hd, slots) = (shape.row_len(), shape.width, shape.slots);
    for_each_run(shape, of_row, dq, |state, rows, dq| {
        let [mut a, mut g] = [(); 2].map(|()| scratch::take(rows.len() * slots));
        for h in 0..shape.heads {
            let (keys, values) = (
                &states[state].keys[h * slots * hd..],
                &states[state].values[h * slots * hd..],
            );
            let at = rows.start * d + h * hd;
            gemm_seq(
                rows.len(),
                slots,
                hd,
                1.0,
                &q[at..],
                d,
                1,
                keys,
                1,
                hd,
                0.0,
                &mut a,
                slots,
            );
            gemm_seq(
                rows.len(),
                slots,
                hd,
                1.0,
                &dout[at..],
                d,
                1,
                values,
                1,
                hd,
                0.0,
                &mut g,
                slots,
            );
            through_silu(&mut g, &a);
            gemm_seq(
                rows.len(),
                hd,
                slots,
                1.0,
                &g,
                slots,
                1,
                keys,
                hd,
                1,
                0.0,
                &mut dq[h * hd..],
                d,
            );
        }
    });
}
