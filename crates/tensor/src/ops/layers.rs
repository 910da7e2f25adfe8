//! Linear maps, products, the causal convolution, and cross-entropy fused with the head.

use crate::{Ids, Segments, Tape, Tensor, Var};
use kernels::cpu::{conv, loss};

impl Tape {
    /// x [N, I] times w [O, I] transposed -> [N, O]; w may be bf16 where nothing is recorded.
    #[track_caller]
    pub fn linear(&self, x: Var, w: Var) -> Var {
        let (xv, wv) = (self.value(x), self.value(w));
        let (n, i, o) = (xv.rows(), xv.cols(), wv.rows());
        assert_eq!(i, wv.cols(), "linear: x {:?}, w {:?}", xv.dims(), wv.dims());
        let out = Tensor::matmul(&xv, &wv, false, true);
        self.count_flops(2 * n * o * i);
        self.push(out, &[x, w], move |dy, sink| {
            sink.add_product(x, dy, &wv, false, false);
            sink.add_product(w, dy, &xv, true, false);
        })
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
