//! Linear maps, products, the causal convolution, and cross-entropy fused with the head.

use crate::{DType, Ids, Segments, Tape, Tensor, Var};
use kernels::cpu::gemm::{ffn, fuses, linear};
use kernels::cpu::{conv, loss};
use std::cell::RefCell;
use std::rc::Rc;

/// The weights of a pre-norm feed-forward layer.
#[derive(Clone, Copy, Debug)]
pub struct FeedForward {
    /// Gain of the norm, [W].
    pub gain: Var,
    /// Added to the mean square of a row.
    pub eps: f32,
    /// [F, W]
    pub gate: Var,
    /// [F, W]
    pub up: Var,
    /// [W, F]
    pub down: Var,
}

/// The operands x, gain, gate, up and down of a feed-forward layer.
fn layer([x, gain, gate, up, down]: &[Tensor; 5], eps: f32) -> ffn::Ffn<'_> {
    ffn::Ffn {
        x: x.data(),
        gain: gain.data(),
        eps,
        gate: gate.data(),
        up: up.data(),
        down: down.data(),
    }
}

/// A gradient taken out of the sink, for a kernel to write.
fn gradient(t: &mut Option<(Tensor, f32)>) -> Option<(&mut [f32], f32)> {
    t.as_mut().map(|(t, beta)| (t.data_mut(), *beta))
}

/// The operands of linear maps of the same rows.
struct Maps {
    x: Tensor,
    gain: Option<(Tensor, f32)>,
    weights: Vec<Tensor>,
}

impl Maps {
    fn with(&self, f: impl FnOnce(&linear::Linear)) {
        let weights: Vec<&[f32]> = self.weights.iter().map(Tensor::data).collect();
        f(&linear::Linear {
            x: self.x.data(),
            width: self.x.cols(),
            norm: self.gain.as_ref().map(|(gain, eps)| (gain.data(), *eps)),
            weights: &weights,
        });
    }
}

impl Tape {
    /// x [N, I] times w [O, I] transposed -> [N, O]; w may be bf16 where nothing is recorded.
    #[track_caller]
    pub fn linear(&self, x: Var, w: Var) -> Var {
        let (xv, wv) = (self.value(x), self.value(w));
        let (n, i, o) = (xv.rows(), xv.cols(), wv.rows());
        assert_eq!(i, wv.cols(), "linear: x {:?}, w {:?}", xv.dims(), wv.dims());
        if let Some(outputs) = self.joined(x, None, None, &[w]) {
            return outputs[0];
        }
        let out = Tensor::matmul(&xv, &wv, false, true);
        self.count_flops(2 * n * o * i);
        self.push(out, &[x, w], move |dy, sink| {
            sink.add_product(x, dy, &wv, false, false);
            sink.add_product(w, dy, &xv, true, false);
        })
    }

    /// [`Tape::linear`] of the same x [N, I] by several w [O, I], with `norm`, a gain [I] and an epsilon, of
    /// [`Tape::rms_norm`] of x.
    ///
    /// Where products of bf16 are fast the rows are read once for all maps, and normed rows are not kept.
    #[track_caller]
    pub fn linears<const M: usize>(
        &self,
        x: Var,
        norm: Option<(Var, f32)>,
        weights: [Var; M],
    ) -> [Var; M] {
        match self.joined(x, norm, None, &weights) {
            Some(outputs) => std::array::from_fn(|i| outputs[i]),
            None => {
                let n = norm.map_or(x, |(gain, eps)| self.rms_norm(x, gain, eps));
                weights.map(|w| self.linear(n, w))
            }
        }
    }

    /// y [N, O] + x [N, I] times w [O, I] transposed.
    #[track_caller]
    pub fn add_linear(&self, y: Var, x: Var, w: Var) -> Var {
        let (rows, wide) = (self.rows(x), self.rows(w));
        assert_eq!(
            self.dims(y),
            [rows, wide],
            "add_linear: x {:?}, w {:?}",
            self.dims(x),
            self.dims(w)
        );
        match self.joined(x, None, Some(y), &[w]) {
            Some(outputs) => outputs[0],
            None => self.add(y, self.linear(x, w)),
        }
    }

    /// Linear maps of the same rows as one operation; none where they are better computed one by one.
    #[track_caller]
    fn joined(
        &self,
        x: Var,
        norm: Option<(Var, f32)>,
        add: Option<Var>,
        weights: &[Var],
    ) -> Option<Vec<Var>> {
        let xv = self.value(x);
        let wv: Vec<Tensor> = weights.iter().map(|&w| self.value(w)).collect();
        let (n, i) = (xv.rows(), xv.cols());
        let gain = norm.map(|(gain, eps)| (self.value(gain), eps));
        for w in &wv {
            assert_eq!(w.cols(), i, "linear: x {:?}, w {:?}", xv.dims(), w.dims());
        }
        let halves = wv.iter().any(|w| w.dtype() != DType::F32);
        if halves || !fuses(wv.iter().map(Tensor::rows).chain([n, i])) {
            return None;
        }
        let mut outputs: Vec<Tensor> = wv.iter().map(|w| Tensor::dirty(&[n, w.rows()])).collect();
        let mut rstd = vec![0.0; if norm.is_some() { n } else { 0 }];
        let held = Maps {
            x: xv,
            gain,
            weights: wv,
        };
        {
            let added = add.map(|y| self.value(y));
            let mut slices: Vec<_> = outputs.iter_mut().map(Tensor::data_mut).collect();
            let added = added.as_ref().map(Tensor::data);
            held.with(|o| linear::forward(o, added, &mut slices, &mut rstd));
        }
        let outs: usize = outputs.iter().map(Tensor::cols).sum();
        self.count_flops(2 * n * i * outs);

        // The gradients of the outputs come one by one, before that of this value, which stands for all of them.
        let arrived = Rc::new(RefCell::new(vec![None; weights.len()]));
        let (gain, mut inputs) = (norm.map(|(gain, _)| gain), vec![x]);
        inputs.extend(gain);
        inputs.extend(weights);
        let (dys, targets) = (arrived.clone(), weights.to_vec());
        let all = self.push(Tensor::zeros(&[1]), &inputs, move |_, sink| {
            let dys = dys.take();
            let dys: Vec<Option<&[f32]>> = dys
                .iter()
                .map(|dy: &Option<Tensor>| dy.as_ref().map(Tensor::data))
                .collect();
            let mut take = |v: Var| sink.wants(v).then(|| sink.take(v));
            let mut gx = take(x);
            let mut ggain = gain.and_then(&mut take);
            // Nothing reaches the weights of an output that nothing came of.
            let reached = targets.iter().zip(&dys);
            let mut gw: Vec<_> = reached.map(|(&w, dy)| dy.and_then(|_| take(w))).collect();
            let grads = linear::Gradients {
                x: gradient(&mut gx),
                gain: gradient(&mut ggain),
                weights: gw.iter_mut().map(gradient).collect(),
            };
            held.with(|o| linear::backward(o, &rstd, &dys, grads));
            let back = [(Some(x), gx), (gain, ggain)].into_iter();
            let back = back.chain(targets.iter().map(|&w| Some(w)).zip(gw));
            for (v, target) in back {
                if let (Some(v), Some((gradient, _))) = (v, target) {
                    sink.add(v, gradient);
                }
            }
        });
        let mut vars = Vec::with_capacity(weights.len());
        for (at, value) in outputs.into_iter().enumerate() {
            let arrived = arrived.clone();
            let mut inputs = vec![all];
            inputs.extend(add);
            vars.push(self.push(value, &inputs, move |dy, sink| {
                arrived.borrow_mut()[at] = Some(dy.clone());
                sink.add(all, Tensor::full(&[1], 1.0));
                if let Some(add) = add {
                    sink.add(add, dy.clone());
                }
            }));
        }
        Some(vars)
    }

    /// a [M, K] times b [K, N] -> [M, N]
    #[track_caller]
    pub fn matmul(&self, a: Var, b: Var) -> Var {
        let (av, bv) = (self.value(a), self.value(b));
        let (m, k, n) = (av.rows(), av.cols(), bv.cols());
        assert_eq!(k, bv.rows(), "matmul: {:?} by {:?}", av.dims(), bv.dims());
        let out = Tensor::matmul(&av, &bv, false, false);
        self.count_flops(2 * m * n * k);
        self.push(out, &[a, b], move |dy, sink| {
            sink.add_product(a, dy, &bv, false, true);
            sink.add_product(b, &av, dy, true, false);
        })
    }

    /// x + (SiLU(n gate^T) * (n up^T)) down^T with n = x / rms(x) * gain, for x [N, W] -> [N, W]
    ///
    /// Where products of bf16 are fast all of it stays together, so that what is between is never in memory in
    /// fp32; else it is made of the operations.
    #[track_caller]
    pub fn feed_forward(&self, x: Var, layer_of: FeedForward) -> Var {
        let FeedForward {
            gain,
            eps,
            gate,
            up,
            down,
        } = layer_of;
        let inputs = [x, gain, gate, up, down];
        let held = inputs.map(|v| self.value(v));
        let [xv, gv, g, u, d] = &held;
        let (n, w, f) = (xv.rows(), xv.cols(), g.rows());
        assert!(
            gv.numel() == w
                && g.cols() == w
                && u.dims() == g.dims()
                && d.rows() == w
                && d.cols() == f,
            "feed_forward: x {:?}, gain {:?}, gate {:?}, up {:?}, down {:?}",
            xv.dims(),
            gv.dims(),
            g.dims(),
            u.dims(),
            d.dims()
        );
        let halves = [g, u, d].iter().any(|v| v.dtype() != DType::F32);
        if halves || !fuses([n, w, f]) {
            let n = self.rms_norm(x, gain, eps);
            let hidden = self.swiglu(self.linear(n, gate), self.linear(n, up));
            return self.add(x, self.linear(hidden, down));
        }
        self.count_flops(6 * n * w * f);
        let mut out = Tensor::dirty(&[n, w]);
        let kept = inputs.iter().any(|&v| self.needs_grad(v));
        // Gate and up in bf16, in the place of one of them in fp32.
        let mut room = Tensor::dirty(&[if kept { n * f } else { 0 }]);
        let mut rstd = vec![0.0; if kept { n } else { 0 }];
        let operands = layer(&held, eps);
        if kept {
            let (gate, up) = ffn::halves(room.data_mut()).split_at_mut(n * f);
            let rstd = &mut rstd;
            ffn::forward(
                &operands,
                out.data_mut(),
                Some(ffn::Kept { gate, up, rstd }),
            );
        } else {
            ffn::forward(&operands, out.data_mut(), None);
        }
        self.push(out, &inputs, move |dy, sink| {
            let (gate, up) = ffn::halves_of(room.data()).split_at(n * f);
            let mut targets = inputs.map(|v| sink.wants(v).then(|| sink.take(v)));
            let [x, gain, g, u, d] = &mut targets;
            let grads = ffn::Gradients {
                x: gradient(x),
                gain: gradient(gain),
                gate: gradient(g),
                up: gradient(u),
                down: gradient(d),
            };
            let rstd = &rstd;
            let saved = ffn::Saved { gate, up, rstd };
            ffn::backward(&layer(&held, eps), saved, dy.data(), grads);
            for (v, target) in inputs.into_iter().zip(targets) {
                if let Some((gradient, _)) = target {
                    sink.add(v, gradient);
                }
            }
        })
    }

    /// Depthwise causal convolution of x [N, D] with w [D, width] over each segment; `left`
    /// [segments (width - 1), D] holds the rows before each segment (zero without it).
    #[track_caller]
    pub fn causal_conv(&self, x: Var, w: Var, segments: Segments, left: Option<Var>) -> Var {
        let (xv, wv) = (self.value(x), self.value(w));
        let width = wv.cols();
        assert_eq!(
            xv.cols(),
            wv.rows(),
            "causal_conv: x {:?}, w {:?}",
            xv.dims(),
            wv.dims()
        );
        let lv = left.map(|l| self.value(l));
        if let Some(l) = &lv {
            assert_eq!(
                l.rows(),
                segments.len() * (width - 1),
                "causal_conv: context {:?} of {} segments",
                l.dims(),
                segments.len()
            );
        }
        let mut out = Tensor::dirty(xv.dims());
        conv::causal_conv(
            xv.data(),
            wv.data(),
            width,
            &segments,
            lv.as_ref().map(Tensor::data),
            out.data_mut(),
        );
        let mut inputs = vec![x, w];
        inputs.extend(left);
        self.push(out, &inputs, move |dy, sink| {
            let mut dx = Tensor::dirty(xv.dims());
            let mut dw = Tensor::zeros(wv.dims());
            let mut dl = lv.as_ref().map(|l| Tensor::zeros(l.dims()));
            conv::causal_conv_backward(
                xv.data(),
                wv.data(),
                width,
                &segments,
                lv.as_ref().map(Tensor::data),
                dy.data(),
                dx.data_mut(),
                dw.data_mut(),
                dl.as_mut().map(Tensor::data_mut),
            );
            sink.add(x, dx);
            sink.add(w, dw);
            if let (Some(l), Some(g)) = (left, dl) {
                sink.add(l, g);
            }
        })
    }

    /// Negative log-likelihood of each row's target under softmax(h table^T): h [N, W], table [V, W] -> [N].
    /// The N x V logits never exist as a whole.
    #[track_caller]
    pub fn cross_entropy(&self, h: Var, table: Var, targets: Ids) -> Var {
        let (hv, tv) = self.scored(h, table, &targets);
        let (n, w) = (hv.rows(), hv.cols());
        let mut nll = Tensor::dirty(&[n]);
        let mut lse = vec![0.0; n];
        loss::cross_entropy(hv.data(), tv.data(), w, &targets, nll.data_mut(), &mut lse);
        self.count_flops(2 * n * w * tv.rows());
        self.push(nll, &[h, table], move |dy, sink| {
            let mut dh = Tensor::zeros(hv.dims());
            let (dtable, beta) = sink.target(table);
            let grads = loss::Gradients {
                h: dh.data_mut(),
                table: dtable.data_mut(),
                beta,
            };
            let (rows, lse) = (hv.data(), Some(&lse[..]));
            loss::cross_entropy_backward(rows, tv.data(), w, &targets, lse, dy.data(), grads);
            sink.add(h, dh);
        })
    }

    /// sum_i w_i nll_i of [`Tape::cross_entropy`] -> [1], for weights that are known beforehand: the logits are
    /// computed once, for the forward and the backward pass together, and only of rows that carry weight.
    #[track_caller]
    pub fn cross_entropy_sum(&self, h: Var, table: Var, targets: Ids, weights: &[f32]) -> Var {
        if !self.recording() {
            return self.weighted_sum(self.cross_entropy(h, table, targets), weights.into());
        }
        let (hv, tv) = self.scored(h, table, &targets);
        let w = hv.cols();
        assert_eq!(
            targets.len(),
            weights.len(),
            "cross_entropy_sum: {} targets, {} weights",
            targets.len(),
            weights.len()
        );
        let live = weights.iter().filter(|w| **w != 0.0).count();
        self.count_flops(2 * live * w * tv.rows());
        let (mut dh, mut dtable) = (Tensor::zeros(hv.dims()), Tensor::dirty(tv.dims()));
        let grads = loss::Gradients {
            h: dh.data_mut(),
            table: dtable.data_mut(),
            beta: 0.0,
        };
        let sum =
            loss::cross_entropy_backward(hv.data(), tv.data(), w, &targets, None, weights, grads);
        self.push(
            Tensor::full(&[1], sum as f32),
            &[h, table],
            move |dy, sink| {
                let factor = dy.item();
                for (x, mut d) in [(h, dh), (table, dtable)] {
                    if factor != 1.0 {
                        d.scale_(factor);
                    }
                    sink.add(x, d);
                }
            },
        )
    }

    /// Hidden rows and table of a cross-entropy, checked.
    #[track_caller]
    fn scored(&self, h: Var, table: Var, targets: &Ids) -> (Tensor, Tensor) {
        let (hv, tv) = (self.value(h), self.value(table).to_f32());
        assert!(
            hv.rows() == targets.len() && hv.cols() == tv.cols(),
            "cross_entropy: h {:?}, table {:?}, {} targets",
            hv.dims(),
            tv.dims(),
            targets.len()
        );
        assert!(
            targets.iter().all(|&t| (t as usize) < tv.rows()),
            "cross_entropy: target outside {:?}",
            tv.dims()
        );
        (hv, tv)
    }
}
