//! Linear maps with ternary weights: in training by straight-through estimation, and packed for inference.
//!
//! Training ([`Tape::ternary_linear`]): the forward pass uses w + lambda (W^ - w) and x + lambda (x^ - x), with
//! W^ the ternary weights of the row scale and x^ the activations in 8 bits per token; the gradient flows as if
//! neither had been rounded (Bengio et al. 2013), with the rounded operands in the products. At lambda 1 the
//! product is computed over the integer codes, exact in f32, so that it has the bits of the packed kernel.
//! lambda 0 is the plain linear map.

use crate::{Tape, Tensor, Var};
use kernels::cpu::gemm::gemm;
use kernels::cpu::ternary::{self, packed};
pub use kernels::cpu::ternary::{MOST_COLUMNS, Scale};
pub use packed::{BadByte, Packing};
use std::sync::Arc;

/// How a matrix is made ternary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TernarySettings {
    /// s: weights below 0.5 + s of their row's mean magnitude become zero.
    pub sparsity: f32,
    /// How far: 0 leaves the matrix as it is, 1 is ternary.
    pub lambda: f32,
    /// What the codes are multiplied with.
    pub scale: Scale,
}

/// Codes and row scales of a matrix [O, I].
#[derive(Clone, Debug)]
pub struct TernaryCodes {
    /// -1, 0 or 1, [O, I].
    pub codes: Vec<i8>,
    /// [O], representable in half precision.
    pub scales: Vec<f32>,
}

impl TernaryCodes {
    /// Quantises w [O, I].
    pub fn of(w: &Tensor, sparsity: f32, scale: Scale) -> Self {
        let mut made = Self {
            codes: vec![0; w.numel()],
            scales: vec![0.0; w.rows()],
        };
        ternary::quantise(
            w.data(),
            w.cols(),
            sparsity,
            scale,
            &mut made.codes,
            &mut made.scales,
        );
        made
    }

    /// The matrix that they stand for [O, I].
    pub fn dequantised(&self, cols: usize) -> Tensor {
        let values = self
            .codes
            .chunks(cols)
            .zip(&self.scales)
            .flat_map(|(row, &s)| row.iter().map(move |&c| f32::from(c) * s))
            .collect();
        Tensor::from_vec(values, &[self.scales.len(), cols])
    }

    /// Number of zeros.
    pub fn zeros(&self) -> usize {
        self.codes.iter().filter(|&&c| c == 0).count()
    }
}

/// A ternary matrix as the inference kernels read it; clones share it.
#[derive(Clone, Debug)]
pub struct PackedTernary(Arc<packed::Packed>);

impl PackedTernary {
    /// From codes and scales of a matrix with `cols` columns.
    #[track_caller]
    pub fn new(codes: &TernaryCodes, cols: usize) -> Self {
        Self(Arc::new(packed::Packed::new(
            &codes.codes,
            codes.scales.clone(),
            cols,
        )))
    }
    /// O
    pub fn rows(&self) -> usize {
        self.0.rows()
    }
    /// I
    pub fn cols(&self) -> usize {
        self.0.cols()
    }
    /// Codes and scales.
    pub fn codes(&self) -> TernaryCodes {
        TernaryCodes {
            codes: self.0.codes(),
            scales: self.0.scales().to_vec(),
        }
    }
    /// Bytes that one product reads.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// Operands of a straight-through product, kept for its gradient.
enum Rounded {
    /// lambda 1: codes as floats with their scales, for weights and tokens.
    Whole {
        t: Tensor,
        scales: Vec<f32>,
        q: Tensor,
        steps: Vec<f32>,
    },
    /// lambda below 1: the mixed operands themselves.
    Mixed { w: Tensor, x: Tensor },
}

fn floats(codes: &[i8], dims: &[usize]) -> Tensor {
    let mut t = Tensor::dirty(dims);
    for (o, &c) in t.data_mut().iter_mut().zip(codes) {
        *o = f32::from(c);
    }
    t
}

/// x += lambda (codes scale - x), row by row.
fn towards(x: &Tensor, codes: &[i8], scales: &[f32], lambda: f32) -> Tensor {
    let d = x.cols();
    let mut out = x.clone();
    for ((row, codes), &s) in out
        .data_mut()
        .chunks_mut(d)
        .zip(codes.chunks(d))
        .zip(scales)
    {
        for (v, &c) in row.iter_mut().zip(codes) {
            *v += lambda * (f32::from(c) * s - *v);
        }
    }
    out
}

impl Tape {
    /// x [N, I] times the ternary form of w [O, I] transposed -> [N, O].
    #[track_caller]
    pub fn ternary_linear(&self, x: Var, w: Var, settings: TernarySettings) -> Var {
        let TernarySettings {
            sparsity,
            lambda,
            scale,
        } = settings;
        let (xv, wv) = (self.value(x), self.value(w));
        let (n, i, o) = (xv.rows(), xv.cols(), wv.rows());
        assert_eq!(
            i,
            wv.cols(),
            "ternary_linear: x {:?}, w {:?}",
            xv.dims(),
            wv.dims()
        );
        assert!(
            i <= MOST_COLUMNS,
            "ternary_linear: {i} columns, sums are exact up to {MOST_COLUMNS}"
        );
        let TernaryCodes { codes, scales } = TernaryCodes::of(&wv, sparsity, scale);
        let (mut q, mut steps) = (vec![0; n * i], vec![0.0; n]);
        ternary::quantise_tokens(xv.data(), i, &mut q, i, &mut steps);
        let mut out = Tensor::dirty(&[n, o]);
        let rounded = if lambda == 1.0 {
            let (t, q) = (floats(&codes, &[o, i]), floats(&q, &[n, i]));
            gemm(
                n,
                o,
                i,
                1.0,
                q.data(),
                i,
                1,
                t.data(),
                1,
                i,
                0.0,
                out.data_mut(),
                o,
            );
            for (row, &step) in out.data_mut().chunks_mut(o).zip(&steps) {
                for (v, &s) in row.iter_mut().zip(&scales) {
                    *v *= s * step;
                }
            }
            Rounded::Whole {
                t,
                scales,
                q,
                steps,
            }
        } else {
            let (w, x) = (
                towards(&wv, &codes, &scales, lambda),
                towards(&xv, &q, &steps, lambda),
            );
            gemm(
                n,
                o,
                i,
                1.0,
                x.data(),
                i,
                1,
                w.data(),
                1,
                i,
                0.0,
                out.data_mut(),
                o,
            );
            Rounded::Mixed { w, x }
        };
        self.count_flops(2 * n * o * i);
        self.push(out, &[x, w], move |dy, sink| match &rounded {
            Rounded::Mixed { w: wm, x: xm } => {
                sink.add_product(x, dy, wm, false, false);
                sink.add_product(w, dy, xm, true, false);
            }
            Rounded::Whole {
                t,
                scales,
                q,
                steps,
            } => {
                if sink.wants(x) {
                    let mut d = dy.clone();
                    for row in d.data_mut().chunks_mut(o) {
                        row.iter_mut().zip(scales).for_each(|(v, s)| *v *= s);
                    }
                    sink.add_product(x, &d, t, false, false);
                }
                if sink.wants(w) {
                    let mut d = dy.clone();
                    for (row, s) in d.data_mut().chunks_mut(o).zip(steps) {
                        row.iter_mut().for_each(|v| *v *= s);
                    }
                    sink.add_product(w, &d, q, true, false);
                }
            }
        })
    }

    /// x [N, I] times a packed matrix [O, I] transposed -> [N, O], on the integer kernels. No gradient.
    #[track_caller]
    pub fn packed_linear(&self, x: Var, w: &PackedTernary) -> Var {
        let xv = self.value(x);
        assert_eq!(
            xv.cols(),
            w.cols(),
            "packed_linear: x {:?}, w [{}, {}]",
            xv.dims(),
            w.rows(),
            w.cols()
        );
        assert!(
            !self.needs_grad(x),
            "packed_linear: packed weights are for inference, x wants a gradient"
        );
        let mut out = Tensor::dirty(&[xv.rows(), w.rows()]);
        ternary::ternary_matmul(&w.0, xv.data(), out.data_mut());
        self.count_flops(2 * xv.rows() * w.rows() * w.cols());
        self.constant(&out)
    }
}
