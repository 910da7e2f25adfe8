//! A pre-norm feed-forward layer, y = x + (silu(n Gᵀ) * (n Uᵀ)) Dᵀ with n = N(x) an RMS norm, on bf16 operands: norm,
//! three products and sum as one walk.
//!
//! A block of rows goes through all of it while it is in the second-level cache, a few hidden units at a time, so
//! that the normed rows, gate, up and their product are never written to memory in fp32. For the backward pass
//! gate and up are kept in bf16, and one number a row of the norm; it hands gradients and normed rows to the products
//! over rows in bf16 as well, as those would round them anyway.
//!
//! Legend: N rows, W width, F hidden units; x [N, W], G and U [F, W], D [W, F].

#[cfg(target_arch = "x86_64")]
use super::{mixed, rows};
#[cfg(target_arch = "x86_64")]
use crate::isa;

/// What a feed-forward layer computes with.
#[derive(Clone, Copy)]
pub struct Ffn<'a> {
    /// [N, W]
    pub x: &'a [f32],
    /// Gain of the norm, [W].
    pub gain: &'a [f32],
    /// Added to the mean square of a row.
    pub eps: f32,
    /// [F, W]
    pub gate: &'a [f32],
    /// [F, W]
    pub up: &'a [f32],
    /// [W, F]
    pub down: &'a [f32],
}

/// What the backward pass wants.
pub struct Kept<'a> {
    /// n Gᵀ as bf16, [N, F].
    pub gate: &'a mut [u16],
    /// n Uᵀ as bf16, [N, F].
    pub up: &'a mut [u16],
    /// Reciprocal root mean square of each row, [N].
    pub rstd: &'a mut [f32],
}

/// What [`Kept`] holds, to read.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    /// As [`Kept::gate`].
    pub gate: &'a [u16],
    /// As [`Kept::up`].
    pub up: &'a [u16],
    /// As [`Kept::rstd`].
    pub rstd: &'a [f32],
}

/// Where gradients go, each with what its old value counts: 1 adds to it, 0 puts the gradient in its place.
pub struct Gradients<'a> {
    /// [N, W]
    pub x: Option<(&'a mut [f32], f32)>,
    /// [W]
    pub gain: Option<(&'a mut [f32], f32)>,
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
    fn width(&self) -> usize {
        self.gain.len()
    }

    #[cfg(target_arch = "x86_64")]
    fn norm(&self) -> rows::Norm<'_> {
        let (gain, eps) = (self.gain, self.eps);
        rows::Norm { gain, eps }
    }

    fn rows(&self) -> usize {
        self.x.len() / self.width()
    }

    fn hidden(&self) -> usize {
        self.gate.len() / self.width()
    }

    fn check(&self) {
        let (n, f, w) = (self.rows(), self.hidden(), self.width());
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

/// y [N, W]; keeps what [`backward`] wants.
///
/// # Panics
/// Where [`super::fuses`] says no.
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
/// Where [`super::fuses`] says no.
pub fn backward(o: &Ffn, saved: Saved, dy: &[f32], grads: Gradients) {
    o.check();
    assert_eq!(dy.len(), o.x.len(), "ffn: length of the gradient");
    let (hidden, rows) = (o.rows() * o.hidden(), o.rows());
    assert!(
        [saved.gate.len(), saved.up.len(), saved.rstd.len()] == [hidden, hidden, rows],
        "ffn: what was kept"
    );
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = mixed::unit(isa::detect()) {
        return fused::backward(unit, o, saved, dy, grads);
    }
    let _ = (saved, grads);
    unreachable!("ffn: the CPU does not multiply bf16");
}

#[cfg(target_arch = "x86_64")]
mod fused;
