//! Products of operands rounded to bf16, summed in fp32.
//!
//! The walk is that of fp32 products with other sizes: B is packed once and shared, a task owns a block of C, packs
//! its rows of A block of k by block of k, and lets the panels of a group, which stay in the second-level cache,
//! pass by the rows of one tile, which stay in the first-level one. A CPU without products of bf16 rounds
//! copies of the operands and multiplies those in fp32.

#[cfg(target_arch = "x86_64")]
pub(in crate::cpu) mod pack;
#[cfg(target_arch = "x86_64")]
pub(in crate::cpu) mod panels;
#[cfg(target_arch = "x86_64")]
pub(in crate::cpu::gemm) mod streamed;
#[cfg(target_arch = "x86_64")]
pub(in crate::cpu) mod tile;
#[cfg(target_arch = "x86_64")]
pub(in crate::cpu) mod vector;
#[cfg(target_arch = "x86_64")]
pub(in crate::cpu::gemm) mod walk;

use super::{Shape, product};
use crate::cpu::{scratch, shared::Shared};
use crate::math::{from_bf16, to_bf16};

/// Products with fewer rows, columns or steps than this are left in fp32: filling tiles up costs more than it saves.
const LEAST: usize = 12;

/// Whether rounding its operands makes a product faster.
pub(super) fn suits(s: &Shape) -> bool {
    s.m >= LEAST && s.n >= LEAST && s.k >= LEAST
}

/// The product of `s` with operands rounded to bf16.
///
/// # Safety
/// A, B and C cover what `s` addresses; m, n, k are not 0.
pub(super) unsafe fn run(s: Shape, a: *const f32, b: *const f32, c: Shared, parallel: bool) {
    // SAFETY: promised by the caller; the CPU has the unit of the path in use.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if let Some(unit) = unit(crate::isa::detect()) {
            return walk::run_on(unit, s, a, b, c, parallel);
        }
        rounded(s, a, b, c, parallel);
    }
}

/// What a path multiplies bf16 with.
#[cfg(target_arch = "x86_64")]
pub(in crate::cpu) fn unit(isa: crate::isa::Isa) -> Option<tile::Unit> {
    use crate::isa::Isa;
    match isa {
        Isa::Amx => Some(tile::Unit::Amx),
        Isa::Avx512Bf16 => Some(tile::Unit::Pairs),
        _ => None,
    }
}

/// The product of rounded copies, in fp32.
///
/// # Safety
/// As [`run`].
pub(super) unsafe fn rounded(
    mut s: Shape,
    a: *const f32,
    b: *const f32,
    c: Shared,
    parallel: bool,
) {
    let (m, n, k) = (s.m, s.n, s.k);
    scratch::with(m * k + k * n, |copies| {
        let (left, right) = copies.split_at_mut(m * k);
        let copy = |from: *const f32, rs: usize, cs: usize, width: usize, to: &mut [f32]| {
            for (i, row) in to.chunks_exact_mut(width).enumerate() {
                for (j, x) in row.iter_mut().enumerate() {
                    // SAFETY: promised by the caller.
                    *x = from_bf16(to_bf16(unsafe { *from.add(i * rs + j * cs) }));
                }
            }
        };
        copy(a, s.rsa, s.csa, k, left);
        copy(b, s.rsb, s.csb, n, right);
        (s.rsa, s.csa, s.rsb, s.csb) = (k, 1, n, 1);
        // SAFETY: C is the caller's; the copies have these sizes.
        unsafe { product::run(s, left.as_ptr(), right.as_ptr(), c, parallel) }
    });
}
