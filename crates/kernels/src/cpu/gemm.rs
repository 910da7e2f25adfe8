//! Matrix products: C = beta C + alpha A B, strided operands, fp32; and y = x Wᵀ with W in bf16.
//!
//! The scheme is Goto's (Goto & van de Geijn 2008), cut down to what training needs. Steps of k are taken
//! block by block. A block of B is packed in panels of as many columns as a tile has ([`pack`]) and shared by
//! all tasks; a task owns a block of C, packs its rows of A (unless few panels use them) and walks it in tiles
//! that live in registers ([`tile`]).
//!
//! Every element of C is summed over k in one fixed order, in blocks of fixed depth, whoever computes it: the
//! cut into tasks never shows in the bits. Products of few rows skip the packing, which would cost more than
//! it saves (`few`, `sums`); which way a product goes follows from its shape alone.
//!
//! arm64 goes through the `gemm` crate, sequentially over shards that follow from the shape.

#[cfg(target_arch = "x86_64")]
mod columns;
mod few;
pub mod ffn;
pub mod linear;
pub(in crate::cpu) mod mixed;
#[cfg(target_arch = "x86_64")]
mod operand;
#[cfg(not(target_arch = "aarch64"))]
mod pack;
pub mod polar;
#[cfg(target_arch = "x86_64")]
pub(crate) mod ready;
#[cfg(target_arch = "x86_64")]
mod rows;
#[cfg(not(target_arch = "aarch64"))]
mod sums;
#[cfg(not(target_arch = "aarch64"))]
mod tile;

#[cfg(target_arch = "aarch64")]
#[path = "gemm/neon.rs"]
mod product;
#[cfg(not(target_arch = "aarch64"))]
#[path = "gemm/product.rs"]
mod product;

use super::scratch;
use super::shared::Shared;
use crate::isa::{self, multiversion};
use crate::math::from_bf16;
use crate::precision::{self, Precision};
use rayon::prelude::*;

/// Products below this many multiplications run on the calling thread: waking a pool costs more.
const PARALLEL_FROM: usize = 1 << 18;

/// Shapes and strides of one product: A [m, k], B [k, n], C [m, n] with contiguous rows `rsc` apart.
#[derive(Clone, Copy, Debug)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    rsa: usize,
    csa: usize,
    rsb: usize,
    csb: usize,
    rsc: usize,
    alpha: f32,
    beta: f32,
    /// Only what lies on and above the diagonal is needed; the `gemm` crate computes all of it.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code))]
    upper: bool,
}

/// Whether operations with these extents are better computed by [`ffn`] and [`linear`] than product by product: with
/// bf16 operands, where the CPU multiplies them, and enough of everything.
pub fn fuses(extents: impl IntoIterator<Item = usize>) -> bool {
    const LEAST: usize = 32;
    precision::in_use() == Precision::Bf16
        && isa::detect().multiplies_bf16()
        && extents.into_iter().all(|x| x >= LEAST)
}

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
    check(m, n, rsc, 1, c.len(), "C");
    let (c, at) = (Shared::new(c), 0);
    // SAFETY: C has just been checked, and is exclusively borrowed.
    unsafe { gemm_shared(m, n, k, alpha, a, rsa, csa, b, rsb, csb, beta, c, at, rsc) }
}

/// As [`gemm_seq`], in parallel over blocks of C where the product is large enough.
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
    check(m, n, rsc, 1, c.len(), "C");
    let (c, parallel) = (Shared::new(c), m * n * k >= PARALLEL_FROM);
    // SAFETY: C has just been checked, and is exclusively borrowed.
    unsafe {
        start(
            m, n, k, alpha, a, rsa, csa, b, rsb, csb, beta, c, rsc, parallel, false,
        );
    }
}

/// Elements of bf16 weights that are widened to fp32 at once.
const MOST_WIDENED: usize = 1 << 19;

/// C [m, n] = A Bᵀ, contiguous: A [m, k] fp32, B [n, k] bf16, sums in fp32. Where the CPU multiplies bf16 and that
/// precision is in use, A is rounded. Few rows read B as it is; for more it is packed, or else widened, a block at a time.
pub fn gemm_bf16(m: usize, n: usize, k: usize, a: &[f32], b: &[u16], c: &mut [f32]) {
    assert!(
        a.len() == m * k && b.len() == n * k && c.len() == m * n,
        "gemm_bf16: A [{m}, {k}], B [{n}, {k}], C [{m}, {n}] of {}, {} and {} elements",
        a.len(),
        b.len(),
        c.len()
    );
    if m == 0 || n == 0 || k == 0 {
        return c.fill(0.0);
    }
    let shape = Shape {
        m,
        n,
        k,
        rsa: k,
        csa: 1,
        rsb: 1,
        csb: k,
        rsc: n,
        alpha: 1.0,
        beta: 0.0,
        upper: false,
    };
    let (parallel, some) = (m * n * k >= PARALLEL_FROM, m <= few::MOST_ROWS);
    #[cfg(target_arch = "x86_64")]
    if precision::in_use() == Precision::Bf16
        && let Some(unit) = mixed::unit(isa::detect())
        && (!some || mixed::streamed::suits(&shape))
    {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), Shared::new(c));
        // SAFETY: the assertion above bounds every element; C is exclusively borrowed; the CPU has the path in use.
        return unsafe {
            match some {
                true => mixed::streamed::run_on(unit, shape, a, b, c, parallel),
                false => mixed::walk::run_on(unit, shape, a, b, c, parallel),
            }
        };
    }
    if some {
        // SAFETY: as above.
        return unsafe { few::run(shape, a.as_ptr(), b.as_ptr(), Shared::new(c), parallel) };
    }
    let rows = (MOST_WIDENED / k).max(1);
    scratch::with(rows.min(n) * k, |wide| {
        for lo in (0..n).step_by(rows) {
            let some = rows.min(n - lo);
            let wide = &mut wide[..some * k];
            wide.par_chunks_mut(k)
                .zip(b[lo * k..].par_chunks(k))
                .for_each(|(to, from)| widen(from, to));
            gemm(m, some, k, 1.0, a, k, 1, wide, 1, k, 0.0, &mut c[lo..], n);
        }
    });
}

multiversion! {
    fn widen(from: &[u16], to: &mut [f32]) {
        for (to, &from) in to.iter_mut().zip(from) { *to = from_bf16(from); }
    }
}

/// C [n, n] = beta C + alpha A Aᵀ, for A [n, k] with element strides and a C that is symmetric already: about
/// half the work of [`gemm`], and the same bits.
#[allow(clippy::too_many_arguments)]
pub fn gemm_symmetric(
    n: usize,
    k: usize,
    alpha: f32,
    a: &[f32],
    rsa: usize,
    csa: usize,
    beta: f32,
    c: &mut [f32],
) {
    check(n, n, n, 1, c.len(), "C");
    let (shared, parallel) = (Shared::new(c), n * n * k / 2 >= PARALLEL_FROM);
    // SAFETY: C has just been checked, and is exclusively borrowed.
    unsafe {
        start(
            n, n, k, alpha, a, rsa, csa, a, csa, rsa, beta, shared, n, parallel, true,
        );
    }
    mirror(n, c);
}

/// Copies what lies above the diagonal of C [n, n] below it.
fn mirror(n: usize, c: &mut [f32]) {
    // Blocks, so that neither side is walked down its columns for long.
    const BLOCK: usize = 16;
    for rows in (0..n).step_by(BLOCK) {
        for cols in (0..=rows).step_by(BLOCK) {
            #[cfg(target_arch = "x86_64")]
            if rows + BLOCK <= n && isa::vectors() == isa::Isa::Avx512 {
                // SAFETY: both blocks lie in C, and the CPU has AVX-512.
                unsafe { mixed::pack::mirror_block(c.as_mut_ptr(), n, rows, cols) };
                continue;
            }
            for i in rows..(rows + BLOCK).min(n) {
                for j in cols..(cols + BLOCK).min(i) {
                    c[i * n + j] = c[j * n + i];
                }
            }
        }
    }
}

/// C [m, n] += A [m, k] B [k, n], contiguous, by the tile loop alone: A and B count as packed. For
/// [`crate::probe`]; `m` and `n` are multiples of every path's tile.
pub(crate) fn gemm_bare(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32]) {
    assert!(
        a.len() == m * k && b.len() == k * n && c.len() == m * n,
        "gemm_bare: sizes"
    );
    assert!(
        m.is_multiple_of(12) && n.is_multiple_of(32),
        "gemm_bare: [{m}, {n}] in whole tiles"
    );
    // SAFETY: just checked.
    unsafe { product::bare(m, n, k, a.as_ptr(), b.as_ptr(), c.as_mut_ptr()) }
}

/// As [`gemm_seq`] into part of an output that tasks share: C begins at element `at`.
///
/// # Safety
/// The elements of C lie in the output and belong to the calling task alone.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn gemm_shared(
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
    c: Shared,
    at: usize,
    rsc: usize,
) {
    // SAFETY: promised by the caller.
    unsafe {
        let c = c.from(at);
        start(
            m, n, k, alpha, a, rsa, csa, b, rsb, csb, beta, c, rsc, false, false,
        );
    }
}

/// C [32, 32] += `times` A B by the instructions of bf16 tiles alone: A [32, 32] and B [32, 32] count as packed. For
/// [`crate::probe`]; false, and nothing done, where the CPU has no products of bf16.
pub(crate) fn gemm_bare_bf16(times: usize, a: &[u16], b: &[u16], c: &mut [f32]) -> bool {
    let sizes = [a.len(), b.len(), c.len()] == [32 * 32; 3];
    assert!(sizes, "gemm_bare_bf16: sizes");
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = mixed::unit(isa::detect()) {
        // SAFETY: the CPU has the unit; the sizes have just been checked.
        unsafe { unit.bare(times, a, b, c) };
        return true;
    }
    let _ = times;
    false
}

/// # Safety
/// C has all the elements that the product touches, and they belong to the calling task alone.
#[allow(clippy::too_many_arguments)]
unsafe fn start(
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
    c: Shared,
    rsc: usize,
    parallel: bool,
    upper: bool,
) {
    check(m, k, rsa, csa, a.len(), "A");
    check(k, n, rsb, csb, b.len(), "B");
    let s = Shape {
        m,
        n,
        k,
        rsa,
        csa,
        rsb,
        csb,
        rsc,
        alpha,
        beta,
        upper,
    };
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: A and B have just been checked; the caller promises C.
    unsafe {
        if k == 0 {
            for row in 0..s.m {
                for x in c.slice(row * s.rsc, s.n) {
                    *x = if s.beta == 0.0 { 0.0 } else { s.beta * *x };
                }
            }
        } else if precision::in_use() == Precision::Bf16 && mixed::suits(&s) {
            mixed::run(s, a.as_ptr(), b.as_ptr(), c, parallel);
        } else {
            product::run(s, a.as_ptr(), b.as_ptr(), c, parallel);
        }
    }
}

#[cfg(all(test, not(target_arch = "aarch64")))]
mod tests;
