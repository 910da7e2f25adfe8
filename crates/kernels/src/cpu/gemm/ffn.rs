//! The feed-forward layer SwiGLU, y = (silu(x Gᵀ) * (x Uᵀ)) Dᵀ, on bf16 operands: its three products as one walk.
//!
//! A block of rows goes through all three while it is in the second-level cache, a few hidden units at a time, so
//! that gate, up and their product are never written to memory in fp32. For the backward pass gate and up are kept
//! in bf16; it hands their gradients to the products with the input in bf16 as well, as it would anyway.
//!
//! Legend: N rows, W width, F hidden units; x [N, W], G and U [F, W], D [W, F].

#[cfg(target_arch = "x86_64")]
use super::mixed;
use crate::isa;
use crate::precision::{self, Precision};

/// What a feed-forward layer computes with.
#[derive(Clone, Copy)]
pub struct Ffn<'a> {
    /// [N, W]
    pub x: &'a [f32],
    /// [F, W]
    pub gate: &'a [f32],
    /// [F, W]
    pub up: &'a [f32],
    /// [W, F]
    pub down: &'a [f32],
    /// W
    pub width: usize,
}

/// Gate and up as bf16, each [N, F].
pub struct Kept<'a> {
    /// x Gᵀ
    pub gate: &'a mut [u16],
    /// x Uᵀ
    pub up: &'a mut [u16],
}

/// Where gradients go, each with what its old value counts: 1 adds to it, 0 puts the gradient in its place.
pub struct Gradients<'a> {
    /// [N, W]
    pub x: Option<(&'a mut [f32], f32)>,
    /// [F, W]
    pub gate: Option<(&'a mut [f32], f32)>,
    /// [F, W]
    pub up: Option<(&'a mut [f32], f32)>,
    /// [W, F]
    pub down: Option<(&'a mut [f32], f32)>,
}

/// Bytes of bf16 in place of fp32 elements: twice as many.
pub fn halves(x: &mut [f32]) -> &mut [u16] {
    // SAFETY: any bits are a u16, and f32 is aligned more strictly.
    unsafe { x.align_to_mut::<u16>().1 }
}

/// As [`halves`], to read.
pub fn halves_of(x: &[f32]) -> &[u16] {
    // SAFETY: as above.
    unsafe { x.align_to::<u16>().1 }
}

impl Ffn<'_> {
    fn rows(&self) -> usize {
        self.x.len() / self.width
    }

    fn hidden(&self) -> usize {
        self.gate.len() / self.width
    }

    fn check(&self) {
        let (n, f, w) = (self.rows(), self.hidden(), self.width);
        assert!(
            [
                self.x.len(),
                self.gate.len(),
                self.up.len(),
                self.down.len()
            ] == [n * w, f * w, f * w, f * w],
            "ffn: x {}, gate {}, up {}, down {} elements at width {w}",
            self.x.len(),
            self.gate.len(),
            self.up.len(),
            self.down.len()
        );
    }
}

/// Whether the layer of `rows` rows is better computed here than product by product: with bf16 operands, where the
/// CPU multiplies them, and enough of everything.
pub fn suits(rows: usize, width: usize, hidden: usize) -> bool {
    const LEAST: usize = 32;
    precision::in_use() == Precision::Bf16
        && isa::detect().multiplies_bf16()
        && rows.min(width).min(hidden) >= LEAST
}

/// y [N, W]; keeps what [`backward`] wants.
///
/// # Panics
/// Where [`suits`] says no.
pub fn forward(o: &Ffn, out: &mut [f32], kept: Option<Kept>) {
    o.check();
    assert_eq!(out.len(), o.x.len(), "ffn: length of the output");
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = mixed::unit(isa::detect()) {
        return fused::forward(unit, o, out, kept);
    }
    let _ = kept;
    unreachable!("ffn: the CPU does not multiply bf16");
}

/// Gradients of [`forward`] for the output's gradient `dy` [N, W].
///
/// # Panics
/// Where [`suits`] says no.
pub fn backward(o: &Ffn, gate: &[u16], up: &[u16], dy: &[f32], grads: Gradients) {
    o.check();
    assert_eq!(dy.len(), o.x.len(), "ffn: length of the gradient");
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = mixed::unit(isa::detect()) {
        return fused::backward(unit, o, gate, up, dy, grads);
    }
    let _ = (gate, up, grads);
    unreachable!("ffn: the CPU does not multiply bf16");
}

#[cfg(target_arch = "x86_64")]
mod fused;
