//! Matrix products: C = beta C + alpha A B, strided operands, through the `gemm` crate.
//!
//! The crate's own threading would choose shards by the number of threads, so [`gemm`] cuts C into shards
//! by its shape alone and runs each sequentially ([`gemm_seq`]): the same bits at any thread count.

use super::shared::Shared;
use rayon::prelude::*;

/// Products below this many multiplications run on the calling thread: waking a pool costs more.
const PARALLEL_FROM: usize = 1 << 18;

fn check(rows: usize, cols: usize, rs: usize, cs: usize, len: usize, name: &str) {
    if rows > 0 && cols > 0 {
        let last = (rows - 1) * rs + (cols - 1) * cs;
        assert!(
            last < len,
            "gemm: {name} [{rows}, {cols}] with strides ({rs}, {cs}) needs {} elements, has {len}",
            last + 1
        );
    }
}

/// One sequential product: C [m, n] row-major with row stride `rsc`; A [m, k] and B [k, n] with element
/// strides. With `beta` 0 the old C is not read.
#[allow(clippy::too_many_arguments)]
pub fn gemm_seq(
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: &[f32],
    rsa: usize,
    csa: usize,
    b: &[f32],
    rsb: usize,
    csb: usize,
    beta: f32,
    c: &mut [f32],
    rsc: usize,
) {
    check(m, k, rsa, csa, a.len(), "A");
    check(k, n, rsb, csb, b.len(), "B");
    check(m, n, rsc, 1, c.len(), "C");
    // SAFETY: the three checks bound every element that the product touches; C is exclusively borrowed.
    unsafe {
        raw(
            m,
            n,
            k,
            alpha,
            a.as_ptr(),
            rsa,
            csa,
            b.as_ptr(),
            rsb,
            csb,
            beta,
            c.as_mut_ptr(),
            rsc,
        )
    }
}

/// # Safety
/// The operands must cover the addressed elements and C must not overlap A or B.
#[allow(clippy::too_many_arguments)]
unsafe fn raw(
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: *const f32,
    rsa: usize,
    csa: usize,
    b: *const f32,
    rsb: usize,
    csb: usize,
    beta: f32,
    c: *mut f32,
    rsc: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: passed on from the caller.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            1,
            rsc as isize,
            beta != 0.0,
            a,
            csa as isize,
            rsa as isize,
            b,
            csb as isize,
            rsb as isize,
            beta,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// As [`gemm_seq`], in parallel over shards of the longer side of C.
#[allow(clippy::too_many_arguments)]
pub fn gemm(
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: &[f32],
    rsa: usize,
    csa: usize,
    b: &[f32],
    rsb: usize,
    csb: usize,
    beta: f32,
    c: &mut [f32],
    rsc: usize,
) {
    check(m, k, rsa, csa, a.len(), "A");
    check(k, n, rsb, csb, b.len(), "B");
    check(m, n, rsc, 1, c.len(), "C");
    if m * n * k < PARALLEL_FROM {
        return gemm_seq(m, n, k, alpha, a, rsa, csa, b, rsb, csb, beta, c, rsc);
    }
    let shard = |len: usize| len.div_ceil(16).next_multiple_of(32).clamp(64, 512);
    let c = Shared::new(c);
    if m >= n {
        let step = shard(m);
        (0..m.div_ceil(step)).into_par_iter().for_each(|s| {
            let lo = s * step;
            let rows = step.min(m - lo);
            // SAFETY: rows lo..lo+rows of C belong to this shard alone; bounds were checked above.
            unsafe {
                raw(
                    rows,
                    n,
                    k,
                    alpha,
                    a.as_ptr().add(lo * rsa),
                    rsa,
                    csa,
                    b.as_ptr(),
                    rsb,
                    csb,
                    beta,
                    c.get().add(lo * rsc),
                    rsc,
                )
            }
        });
    } else {
        let step = shard(n);
        (0..n.div_ceil(step)).into_par_iter().for_each(|s| {
            let lo = s * step;
            let cols = step.min(n - lo);
            // SAFETY: columns lo..lo+cols of C belong to this shard alone; bounds were checked above.
            unsafe {
                raw(
                    m,
                    cols,
                    k,
                    alpha,
                    a.as_ptr(),
                    rsa,
                    csa,
                    b.as_ptr().add(lo * csb),
                    rsb,
                    csb,
                    beta,
                    c.get().add(lo),
                    rsc,
                )
            }
        });
    }
}
