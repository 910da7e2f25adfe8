//! RMS normalisation of rows, and per-head normalisation with rotary embedding.

use crate::{Tape, Tensor, Var};
use kernels::cpu::norm;
use std::sync::Arc;

/// Cosines and sines of the rotary embedding, one row per token: made once a batch, used by every layer.
#[derive(Clone, Debug)]
pub struct Rotation {
    cos: Arc<Tensor>,
    sin: Arc<Tensor>,
}

impl Rotation {
    /// Tables [N, half] for the given positions.
    pub fn new(positions: &[u32], half: usize, theta: f64) -> Self {
        let dims = [positions.len(), half];
        let (mut cos, mut sin) = (Tensor::dirty(&dims), Tensor::dirty(&dims));
        norm::rotation_table(positions, half, theta, cos.data_mut(), sin.data_mut());
        Self {
            cos: Arc::new(cos),
            sin: Arc::new(sin),
        }
    }

    /// The tables of some of the rows.
    pub fn rows(&self, ids: &[u32]) -> Self {
        let pick = |t: &Tensor| {
            let d = t.cols();
            let values = ids
                .iter()
                .flat_map(|&i| t.data()[i as usize * d..][..d].iter().copied())
                .collect();
            Arc::new(Tensor::from_vec(values, &[ids.len(), d]))
        };
        Self {
            cos: pick(&self.cos),
            sin: pick(&self.sin),
        }
    }

    fn view(&self) -> norm::Rotation<'_> {
        norm::Rotation {
            cos: self.cos.data(),
            sin: self.sin.data(),
        }
    }
}

impl Tape {
    /// x / rms(x) * weight, for each row of x [N, D].
    #[track_caller]
    pub fn rms_norm(&self, x: Var, weight: Var, eps: f32) -> Var {
        let (xv, wv) = (self.value(x), self.value(weight));
        assert_eq!(
            xv.cols(),
            wv.numel(),
            "rms_norm: x {:?}, weight {:?}",
            xv.dims(),
            wv.dims()
        );
        let mut y = Tensor::dirty(xv.dims());
        let mut rstd = vec![0.0; xv.rows()];
        norm::rms_norm(xv.data(), wv.data(), eps, y.data_mut(), &mut rstd);
        self.push(y, &[x, weight], move |dy, sink| {
            let (mut dx, beta) = sink.take(x);
            norm::rms_norm_backward(
                xv.data(),
                wv.data(),
                &rstd,
                dy.data(),
                beta != 0.0,
                dx.data_mut(),
                sink.buffer(weight).data_mut(),
            );
            sink.add(x, dx);
        })
    }

    /// For each head of x [N, H hd]: normalisation times a gain [H] (when given), then rotation (when given).
    #[track_caller]
    pub fn head_norm_rope(
        &self,
        x: Var,
        heads: usize,
        gain: Option<Var>,
        rotation: Option<&Rotation>,
    ) -> Var {
        let xv = self.value(x);
        let gv = gain.map(|g| self.value(g));
        assert_eq!(
            xv.cols() % heads,
            0,
            "head_norm_rope: x {:?}, {heads} heads",
            xv.dims()
        );
        if let Some(r) = rotation {
            assert!(
                r.cos.rows() == xv.rows() && r.cos.cols() * 2 == xv.cols() / heads,
                "head_norm_rope: x {:?}, tables {:?}",
                xv.dims(),
                r.cos.dims()
            );
        }
        let rotation = rotation.cloned();
        let mut y = Tensor::dirty(xv.dims());
        let mut rstd = vec![0.0; xv.rows() * heads];
        norm::head_norm_rope(
            xv.data(),
            heads,
            gv.as_ref().map(Tensor::data),
            rotation.as_ref().map(Rotation::view),
            y.data_mut(),
            &mut rstd,
        );
        let mut inputs = vec![x];
        inputs.extend(gain);
        self.push(y, &inputs, move |dy, sink| {
            let mut dx = Tensor::dirty(xv.dims());
            let mut dgain = gv.as_ref().map(|g| Tensor::zeros(g.dims()));
            let mut none = [];
            norm::head_norm_rope_backward(
                xv.data(),
                heads,
                gv.as_ref().map(Tensor::data),
                rotation.as_ref().map(Rotation::view),
                &rstd,
                dy.data(),
                dx.data_mut(),
                dgain.as_mut().map_or(&mut none[..], Tensor::data_mut),
            );
            sink.add(x, dx);
            if let (Some(g), Some(d)) = (gain, dgain) {
                sink.add(g, d);
            }
        })
    }
}
