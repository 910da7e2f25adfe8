//! Products on arm64, through the `gemm` crate.
//!
//! The crate's own threading would choose shards by the number of threads, so C is cut into shards by its
//! shape alone and each runs sequentially: the same bits at any thread count. A symmetric product is computed
//! whole.

use super::Shape;
use crate::cpu::shared::Shared;
use rayon::prelude::*;

/// # Safety
/// A, B and C cover what `s` addresses.
pub(super) unsafe fn run(s: Shape, a: *const f32, b: *const f32, c: Shared, parallel: bool) {
    let (a, b) = (Source(a), Source(b));
    if !parallel {
        // SAFETY: promised by the caller.
        return unsafe { block(s, a, b, c.get()) };
    }
    let shard = |len: usize| len.div_ceil(16).next_multiple_of(32).clamp(64, 512);
    let by_rows = s.m >= s.n;
    let len = if by_rows { s.m } else { s.n };
    let step = shard(len);
    (0..len.div_ceil(step)).into_par_iter().for_each(|i| {
        let (lo, some) = (i * step, step.min(len - i * step));
        // SAFETY: rows or columns lo..lo + some of C belong to this shard alone.
        unsafe {
            if by_rows {
                let part = Shape { m: some, ..s };
                block(part, a.at(lo * s.rsa), b, c.get().add(lo * s.rsc));
            } else {
                let part = Shape { n: some, ..s };
                block(part, a, b.at(lo * s.csb), c.get().add(lo));
            }
        }
    });
}

/// One small product, sequentially: the crate has no barer loop to call.
///
/// # Safety
/// A `[m, k]`, B `[k, n]` and C `[m, n]` are there.
pub(super) unsafe fn bare(m: usize, n: usize, k: usize, a: *const f32, b: *const f32, c: *mut f32) {
    let shape = Shape {
        m,
        n,
        k,
        rsa: k,
        csa: 1,
        rsb: n,
        csb: 1,
        rsc: n,
        alpha: 1.0,
        beta: 1.0,
        upper: false,
    };
    // SAFETY: promised by the caller.
    unsafe { block(shape, Source(a), Source(b), c) }
}

/// An operand that tasks read.
#[derive(Clone, Copy)]
struct Source(*const f32);
// SAFETY: it is only read, while the caller's borrow lasts.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}

impl Source {
    /// # Safety
    /// As `pointer::add`.
    unsafe fn at(self, offset: usize) -> Self {
        // SAFETY: promised by the caller.
        Self(unsafe { self.0.add(offset) })
    }
}

/// # Safety
/// As [`run`].
unsafe fn block(s: Shape, a: Source, b: Source, c: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe {
        gemm::gemm(
            s.m,
            s.n,
            s.k,
            c,
            1,
            s.rsc as isize,
            s.beta != 0.0,
            a.0,
            s.csa as isize,
            s.rsa as isize,
            b.0,
            s.csb as isize,
            s.rsb as isize,
            s.beta,
            s.alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
