//! Attention with window, persistent prefix and extra keys per query.

use crate::{Tape, Tensor, Var};
use kernels::cpu::attention as kernel;
use std::sync::Arc;

/// Which keys each query sees; see [`kernels::cpu::attention::Layout`].
pub type AttentionLayout = kernel::Layout;

/// The operands of [`Tape::attention`].
#[derive(Clone, Copy, Debug)]
pub struct Attended {
    /// Queries [Nq, H hd].
    pub q: Var,
    /// Keys [Nk, K hd].
    pub k: Var,
    /// Values [Nk, K hd].
    pub v: Var,
    /// Persistent keys and values [P, K hd], seen by every query.
    pub prefix: Option<(Var, Var)>,
    /// Extra keys and values [E, K hd]; the layout says which rows a query sees.
    pub extra: Option<(Var, Var)>,
    /// H, query heads.
    pub heads: usize,
    /// K, key-value heads.
    pub kv_heads: usize,
    /// When given, the largest score of each head is noted under this number (for QK-clip).
    pub site: Option<usize>,
}

/// The values of the operands, as the gradient keeps them.
struct Held {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix: Option<(Tensor, Tensor)>,
    extra: Option<(Tensor, Tensor)>,
    heads: usize,
    kv_heads: usize,
}

impl Held {
    fn operands(&self) -> kernel::Operands<'_> {
        let width = self.q.cols() / self.heads;
        kernel::Operands {
            q: self.q.data(),
            k: self.k.data(),
            v: self.v.data(),
            prefix: self.prefix.as_ref().map(|(k, v)| (k.data(), v.data())),
            extra: self.extra.as_ref().map(|(k, v)| (k.data(), v.data())),
            heads: self.heads,
            kv_heads: self.kv_heads,
            width,
            scale: 1.0 / (width as f32).sqrt(),
        }
    }
}

impl Tape {
    /// softmax(q k^T / sqrt(hd)) v over the keys that the layout shows -> [Nq, H hd]
    #[track_caller]
    pub fn attention(&self, a: Attended, layout: Arc<AttentionLayout>) -> Var {
        let (q, k, v) = (self.value(a.q), self.value(a.k), self.value(a.v));
        assert!(
            q.cols() % a.heads == 0 && a.heads.is_multiple_of(a.kv_heads),
            "attention: q {:?}, {} heads over {}",
            q.dims(),
            a.heads,
            a.kv_heads
        );
        let width = q.cols() / a.heads;
        assert!(
            k.cols() == a.kv_heads * width && v.dims() == k.dims(),
            "attention: q {:?}, k {:?}, v {:?}",
            q.dims(),
            k.dims(),
            v.dims()
        );
        let pair = |p: Option<(Var, Var)>| p.map(|(k, v)| (self.value(k), self.value(v)));
        let x = Held {
            q,
            k,
            v,
            prefix: pair(a.prefix),
            extra: pair(a.extra),
            heads: a.heads,
            kv_heads: a.kv_heads,
        };
        let mut out = Tensor::dirty(x.q.dims());
        let mut lse = vec![0.0; x.q.rows() * a.heads];
        let mut peaks = vec![0.0; a.heads];
        kernel::forward(&x.operands(), &layout, out.data_mut(), &mut lse, &mut peaks);
        let seen: usize = layout
            .last
            .iter()
            .map(|&l| {
                if layout.window == 0 {
                    l as usize + 1
                } else {
                    (l as usize + 1).min(layout.window)
                }
            })
            .sum();
        self.count_flops(4 * seen * a.heads * width);
        if let Some(site) = a.site {
            self.note_peaks(site, peaks);
        }
        let mut inputs = vec![a.q, a.k, a.v];
        for (x, y) in a.prefix.iter().chain(&a.extra) {
            inputs.extend([*x, *y]);
        }
        let saved = out.clone();
        self.push(out, &inputs, move |dy, sink| {
            let like = |p: &Option<(Tensor, Tensor)>| {
                p.as_ref()
                    .map(|(k, v)| (Tensor::dirty(k.dims()), Tensor::dirty(v.dims())))
            };
            let (mut dq, mut dk, mut dv) = (
                Tensor::dirty(x.q.dims()),
                Tensor::dirty(x.k.dims()),
                Tensor::dirty(x.v.dims()),
            );
            let (mut dp, mut de) = (like(&x.prefix), like(&x.extra));
            let grads = kernel::Gradients {
                q: dq.data_mut(),
                k: dk.data_mut(),
                v: dv.data_mut(),
                prefix: dp.as_mut().map(|(k, v)| (k.data_mut(), v.data_mut())),
                extra: de.as_mut().map(|(k, v)| (k.data_mut(), v.data_mut())),
            };
            kernel::backward(&x.operands(), &layout, saved.data(), &lse, dy.data(), grads);
            sink.add(a.q, dq);
            sink.add(a.k, dk);
            sink.add(a.v, dv);
            for (vars, grads) in [(a.prefix, dp), (a.extra, de)] {
                if let (Some((k, v)), Some((dk, dv))) = (vars, grads) {
                    sink.add(k, dk);
                    sink.add(v, dv);
                }
            }
        })
    }

    fn note_peaks(&self, site: usize, peaks: Vec<f32>) {
        let mut all = self.peaks.borrow_mut();
        match all.iter_mut().find(|(s, _)| *s == site) {
            Some((_, old)) => {
                for (o, p) in old.iter_mut().zip(peaks) {
                    *o = if p > *o { p } else { *o };
                }
            }
            None => all.push((site, peaks)),
        }
    }
}
