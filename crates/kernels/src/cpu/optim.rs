//! Fused optimizer updates: one pass over memory each.

use super::elementwise::update;
use crate::isa::multiversion;
use rayon::prelude::*;

/// Settings of one AdamW step.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay (multiplied by the learning rate).
    pub weight_decay: f32,
    /// Step number, from 1, for the bias correction.
    pub step: u32,
}

multiversion! {
    fn adamw_block(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], s: AdamW, c1: f32, c2: f32) {
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m.iter_mut()).zip(v.iter_mut()) {
            *m = s.beta1 * *m + (1.0 - s.beta1) * g;
            *v = s.beta2 * *v + (1.0 - s.beta2) * g * g;
            let u = (*m * c1) / ((*v * c2).sqrt() + s.eps);
            *p -= s.lr * (u + s.weight_decay * *p);
        }
    }
}

/// One AdamW step (Loshchilov & Hutter 2019): decay is decoupled, moments are bias-corrected.
pub fn adamw(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], s: AdamW) {
    let c1 = 1.0 / (1.0 - f64::from(s.beta1).powi(s.step as i32)) as f32;
    let c2 = 1.0 / (1.0 - f64::from(s.beta2).powi(s.step as i32)) as f32;
    const BLOCK: usize = 1 << 14;
    p.par_chunks_mut(BLOCK)
        .zip(g.par_chunks(BLOCK))
        .zip(m.par_chunks_mut(BLOCK))
        .zip(v.par_chunks_mut(BLOCK))
        .for_each(|(((p, g), m), v)| adamw_block(p, g, m, v, s, c1, c2));
}

/// y <- y + w (x - y)
pub fn lerp(y: &mut [f32], x: &[f32], w: f32) {
    update(y, x, move |y, x| y + w * (x - y));
}
