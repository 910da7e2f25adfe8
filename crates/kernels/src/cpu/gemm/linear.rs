//! Linear maps of the same rows, y_i = n W_iᵀ, on bf16 operands, with what stands around them: n is x or its RMS norm,
//! and rows may be added to the map.
//!
//! Rows are packed once for all maps, and backward their gradient is one sum over all maps that stays in the
//! second-level cache until the norm's gradient has been taken from it.
//!
//! Legend: N rows, W width, O_i outputs of map i; x [N, W], W_i [O_i, W].

#[cfg(target_arch = "x86_64")]
use super::mixed;
#[cfg(target_arch = "x86_64")]
use crate::isa;

/// What linear maps compute with.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// [N, W]
    pub x: &'a [f32],
    /// W
    pub width: usize,
    /// Gain [W] and epsilon of the norm, where the rows are normed.
    pub norm: Option<(&'a [f32], f32)>,
    /// [O_i, W] each.
    pub weights: &'a [&'a [f32]],
}

/// Where gradients go, each with what its old value counts: 1 adds to it, 0 puts the gradient in its place.
pub struct Gradients<'a> {
    /// [N, W]
    pub x: Option<(&'a mut [f32], f32)>,
    /// [W]
    pub gain: Option<(&'a mut [f32], f32)>,
    /// [O_i, W] each.
    pub weights: Vec<Option<(&'a mut [f32], f32)>>,
}

impl Linear<'_> {
    fn rows(&self) -> usize {
        self.x.len() / self.width
    }

    /// O_i
    fn outputs(&self, i: usize) -> usize {
        self.weights[i].len() / self.width
    }

    fn check<'a>(&self, outputs: impl Iterator<Item = Option<&'a [f32]>>) {
        let (n, w) = (self.rows(), self.width);
        let whole = |x: &[f32]| x.len().is_multiple_of(w);
        let gain = self.norm.is_none_or(|(gain, _)| gain.len() == w);
        let some = n > 0 && self.weights.iter().all(|x| !x.is_empty());
        assert!(
            some && whole(self.x) && gain && self.weights.iter().all(|x| whole(x)),
            "linear: x {}, weights {:?} elements at width {w}",
            self.x.len(),
            self.weights.iter().map(|x| x.len()).collect::<Vec<_>>()
        );
        let mut maps = 0;
        for (i, y) in outputs.enumerate() {
            let fits = i < self.weights.len() && y.is_none_or(|y| y.len() == n * self.outputs(i));
            assert!(fits, "linear: output {i} of {n} rows");
            maps += 1;
        }
        assert_eq!(maps, self.weights.len(), "linear: one output a map");
    }
}

/// y_i [N, O_i]. With `add` [N, O_0], which goes with a single map, the sum of it and the map. Of a norm the
/// reciprocal root mean squares [N] are kept in `rstd`.
///
/// # Panics
/// Where [`super::fuses`] says no.
pub fn forward(o: &Linear, add: Option<&[f32]>, outputs: &mut [&mut [f32]], rstd: &mut [f32]) {
    o.check(outputs.iter().map(|y| Some(&**y)));
    if let Some(add) = add {
        assert!(
            outputs.len() == 1 && add.len() == outputs[0].len(),
            "linear: {} elements added to {} maps",
            add.len(),
            outputs.len()
        );
    }
    if o.norm.is_some() {
        assert_eq!(rstd.len(), o.rows(), "linear: one number of the norm a row");
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = mixed::unit(isa::detect()) {
        return fused::forward(unit, o, add, outputs, rstd);
    }
    unreachable!("linear: the CPU does not multiply bf16");
}

/// Gradients of [`forward`] for those of its outputs; none where nothing came of an output.
///
/// # Panics
/// Where [`super::fuses`] says no.
pub fn backward(o: &Linear, rstd: &[f32], dy: &[Option<&[f32]>], grads: Gradients) {
    o.check(dy.iter().copied());
    assert_eq!(grads.weights.len(), o.weights.len(), "linear: gradients");
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = mixed::unit(isa::detect()) {
        return fused::backward(unit, o, rstd, dy, grads);
    }
    let _ = rstd;
    unreachable!("linear: the CPU does not multiply bf16");
}

#[cfg(target_arch = "x86_64")]
mod fused;
