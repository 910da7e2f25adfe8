//! The small general set that new ideas are built from: arithmetic, reductions, softmax.

use crate::{Tape, Tensor, Var};
use kernels::cpu::elementwise as e;
use kernels::math;

impl Tape {
    fn unary(&self, x: Var, f: impl e::Unary, gradient: impl e::Ternary + 'static) -> Var {
        // gradient(x, y, dy) -> dx
        let input = self.value(x);
        let mut y = Tensor::dirty(input.dims());
        e::unary(input.data(), y.data_mut(), f);
        let output = y.clone();
        self.push(y, &[x], move |dy, sink| {
            let mut dx = Tensor::dirty(dy.dims());
            e::ternary(
                input.data(),
                output.data(),
                dy.data(),
                dx.data_mut(),
                gradient,
            );
            sink.add(x, dx);
        })
    }

    #[track_caller]
    fn same(&self, op: &str, a: Var, b: Var) -> (Tensor, Tensor) {
        let (a, b) = (self.value(a), self.value(b));
        assert_eq!(
            a.dims(),
            b.dims(),
            "{op}: shapes {:?} and {:?}",
            a.dims(),
            b.dims()
        );
        (a, b)
    }

    /// a + b
    #[track_caller]
    pub fn add(&self, a: Var, b: Var) -> Var {
        let (x, y) = self.same("add", a, b);
        let mut out = Tensor::dirty(x.dims());
        e::binary(x.data(), y.data(), out.data_mut(), |a, b| a + b);
        self.push(out, &[a, b], move |dy, sink| {
            sink.add(a, dy.clone());
            sink.add(b, dy.clone());
        })
    }

    /// a - b
    #[track_caller]
    pub fn sub(&self, a: Var, b: Var) -> Var {
        let minus = self.scale(b, -1.0);
        self.add(a, minus)
    }

    /// a b, element by element
    #[track_caller]
    pub fn mul(&self, a: Var, b: Var) -> Var {
        let (x, y) = self.same("mul", a, b);
        let mut out = Tensor::dirty(x.dims());
        e::binary(x.data(), y.data(), out.data_mut(), |a, b| a * b);
        self.push(out, &[a, b], move |dy, sink| {
            for (v, other) in [(a, &y), (b, &x)] {
                if sink.wants(v) {
                    let mut d = Tensor::dirty(dy.dims());
                    e::binary(dy.data(), other.data(), d.data_mut(), |a, b| a * b);
                    sink.add(v, d);
                }
            }
        })
    }

    /// g a + (1 - g) b, element by element
    #[track_caller]
    pub fn mix(&self, g: Var, a: Var, b: Var) -> Var {
        let (x, y) = self.same("mix", a, b);
        let gate = self.value(g);
        assert_eq!(
            gate.dims(),
            x.dims(),
            "mix: gate {:?} for {:?}",
            gate.dims(),
            x.dims()
        );
        let mut out = Tensor::dirty(x.dims());
        e::ternary(
            gate.data(),
            x.data(),
            y.data(),
            out.data_mut(),
            |g, a, b| g * a + (1.0 - g) * b,
        );
        self.push(out, &[g, a, b], move |dy, sink| {
            let mut d = Tensor::dirty(dy.dims());
            e::ternary(x.data(), y.data(), dy.data(), d.data_mut(), |a, b, d| {
                (a - b) * d
            });
            sink.add(g, d);
            let mut d = Tensor::dirty(dy.dims());
            e::binary(gate.data(), dy.data(), d.data_mut(), |g, d| g * d);
            sink.add(a, d);
            let mut d = Tensor::dirty(dy.dims());
            e::binary(gate.data(), dy.data(), d.data_mut(), |g, d| (1.0 - g) * d);
            sink.add(b, d);
        })
    }

    /// f x
    pub fn scale(&self, x: Var, f: f32) -> Var {
        self.unary(x, move |x| x * f, move |_, _, d| d * f)
    }

    /// x + c
    pub fn add_scalar(&self, x: Var, c: f32) -> Var {
        self.unary(x, move |x| x + c, |_, _, d| d)
    }

    /// e^x
    pub fn exp(&self, x: Var) -> Var {
        self.unary(x, math::exp, |_, y, d| y * d)
    }

    /// ln x
    pub fn log(&self, x: Var) -> Var {
        self.unary(x, math::ln, |x, _, d| d / x)
    }

    /// 1 / (1 + e^-x)
    pub fn sigmoid(&self, x: Var) -> Var {
        self.unary(x, math::sigmoid, |_, y, d| d * y * (1.0 - y))
    }

    /// x sigmoid(x)
    pub fn silu(&self, x: Var) -> Var {
        self.unary(x, math::silu, |x, _, d| d * math::silu_derivative(x))
    }

    /// max(x, 0)
    pub fn relu(&self, x: Var) -> Var {
        self.unary(
            x,
            |x| if x > 0.0 { x } else { 0.0 },
            |x, _, d| if x > 0.0 { d } else { 0.0 },
        )
    }

    /// Hyperbolic tangent.
    pub fn tanh(&self, x: Var) -> Var {
        self.unary(x, math::tanh, |_, y, d| d * (1.0 - y * y))
    }

    /// x limited to [lo, hi]; no gradient outside.
    pub fn clamp(&self, x: Var, lo: f32, hi: f32) -> Var {
        self.unary(
            x,
            move |x| x.clamp(lo, hi),
            move |x, _, d| if x < lo || x > hi { 0.0 } else { d },
        )
    }

    /// The value of x, without its gradient.
    pub fn detach(&self, x: Var) -> Var {
        let value = self.value(x);
        self.constant(&value)
    }

    /// The same values under another shape.
    #[track_caller]
    pub fn reshape(&self, x: Var, dims: &[usize]) -> Var {
        let value = self.value(x).reshape(dims);
        self.push(value, &[x], move |dy, sink| sink.add(x, dy.clone()))
    }

    /// sum over all elements -> [1]
    pub fn sum(&self, x: Var) -> Var {
        let value = self.value(x);
        let total = e::total(value.data()) as f32;
        self.push(Tensor::full(&[1], total), &[x], move |dy, sink| {
            sink.add(x, Tensor::full(value.dims(), dy.item()))
        })
    }

    /// mean over all elements -> [1]
    pub fn mean(&self, x: Var) -> Var {
        let n = self.value(x).numel().max(1);
        let s = self.sum(x);
        self.scale(s, 1.0 / n as f32)
    }

    /// sum_i w_i x_i over the elements of x -> [1]
    #[track_caller]
    pub fn weighted_sum(&self, x: Var, weights: std::sync::Arc<[f32]>) -> Var {
        let value = self.value(x);
        assert_eq!(
            value.numel(),
            weights.len(),
            "weighted_sum: {:?} with {} weights",
            value.dims(),
            weights.len()
        );
        let total: f64 = value
            .data()
            .iter()
            .zip(weights.iter())
            .map(|(x, w)| f64::from(*x) * f64::from(*w))
            .sum();
        let dims = value.dims().to_vec();
        self.push(Tensor::full(&[1], total as f32), &[x], move |dy, sink| {
            let g = dy.item();
            sink.add(
                x,
                Tensor::from_vec(weights.iter().map(|w| w * g).collect(), &dims),
            );
        })
    }

    /// x [N, D] -> sums of the rows [N]
    pub fn sum_cols(&self, x: Var) -> Var {
        let value = self.value(x);
        let (n, d) = (value.rows(), value.cols());
        let out = Tensor::from_vec(value.data().chunks(d).map(math::sum).collect(), &[n]);
        self.push(out, &[x], move |dy, sink| {
            let mut dx = Tensor::dirty(value.dims());
            for (row, g) in dx.data_mut().chunks_mut(d).zip(dy.data()) {
                row.fill(*g);
            }
            sink.add(x, dx);
        })
    }

    /// x [N, D] + b [D]
    #[track_caller]
    pub fn add_bias(&self, x: Var, b: Var) -> Var {
        let (value, bias) = (self.value(x), self.value(b));
        let d = value.cols();
        assert_eq!(
            bias.numel(),
            d,
            "add_bias: {:?} and {:?}",
            value.dims(),
            bias.dims()
        );
        let mut out = Tensor::dirty(value.dims());
        for (o, x) in out.data_mut().chunks_mut(d).zip(value.data().chunks(d)) {
            for ((o, x), b) in o.iter_mut().zip(x).zip(bias.data()) {
                *o = x + b;
            }
        }
        self.push(out, &[x, b], move |dy, sink| {
            sink.add(x, dy.clone());
            if sink.wants(b) {
                e::reduce_rows(dy.rows(), d, sink.buffer(b).data_mut(), |i, acc| {
                    for (a, g) in acc.iter_mut().zip(&dy.data()[i * d..][..d]) {
                        *a += g;
                    }
                });
            }
        })
    }

    /// x [N, D], each column times w [D]
    #[track_caller]
    pub fn mul_cols(&self, x: Var, w: Var) -> Var {
        let (value, weight) = (self.value(x), self.value(w));
        let d = value.cols();
        assert_eq!(
            weight.numel(),
            d,
            "mul_cols: {:?} and {:?}",
            value.dims(),
            weight.dims()
        );
        let apply = move |x: &Tensor, w: &Tensor| {
            let mut out = Tensor::dirty(x.dims());
            for (o, x) in out.data_mut().chunks_mut(d).zip(x.data().chunks(d)) {
                for ((o, x), w) in o.iter_mut().zip(x).zip(w.data()) {
                    *o = x * w;
                }
            }
            out
        };
        self.push(apply(&value, &weight), &[x, w], move |dy, sink| {
            if sink.wants(x) {
                sink.add(x, apply(dy, &weight));
            }
            if sink.wants(w) {
                e::reduce_rows(dy.rows(), d, sink.buffer(w).data_mut(), |i, acc| {
                    for ((a, g), x) in acc
                        .iter_mut()
                        .zip(&dy.data()[i * d..][..d])
                        .zip(&value.data()[i * d..][..d])
                    {
                        *a += g * x;
                    }
                });
            }
        })
    }

    /// x [N, D], each row times w [N]
    #[track_caller]
    pub fn mul_rows(&self, x: Var, w: Var) -> Var {
        let (value, weight) = (self.value(x), self.value(w));
        let d = value.cols();
        assert_eq!(
            weight.numel(),
            value.rows(),
            "mul_rows: {:?} and {:?}",
            value.dims(),
            weight.dims()
        );
        let apply = move |x: &Tensor, w: &Tensor| {
            let mut out = Tensor::dirty(x.dims());
            for ((o, x), w) in out
                .data_mut()
                .chunks_mut(d)
                .zip(x.data().chunks(d))
                .zip(w.data())
            {
                for (o, x) in o.iter_mut().zip(x) {
                    *o = x * w;
                }
            }
            out
        };
        self.push(apply(&value, &weight), &[x, w], move |dy, sink| {
            if sink.wants(x) {
                sink.add(x, apply(dy, &weight));
            }
            if sink.wants(w) {
                let g = dy
                    .data()
                    .chunks(d)
                    .zip(value.data().chunks(d))
                    .map(|(a, b)| math::dot(a, b))
                    .collect();
                sink.add(w, Tensor::from_vec(g, weight.dims()));
            }
        })
    }

    /// Softmax of each row of x [N, D].
    pub fn softmax(&self, x: Var) -> Var {
        let value = self.value(x);
        let d = value.cols();
        let mut p = Tensor::dirty(value.dims());
        let mut lse = vec![0.0; value.rows()];
        e::softmax(value.data(), d, p.data_mut(), &mut lse);
        let saved = p.clone();
        self.push(p, &[x], move |dy, sink| {
            let mut dx = Tensor::dirty(dy.dims());
            for ((o, p), g) in dx
                .data_mut()
                .chunks_mut(d)
                .zip(saved.data().chunks(d))
                .zip(dy.data().chunks(d))
            {
                e::softmax_backward_row(p, g, o);
            }
            sink.add(x, dx);
        })
    }

    /// Log of the softmax of each row of x [N, D].
    pub fn log_softmax(&self, x: Var) -> Var {
        let value = self.value(x);
        let d = value.cols();
        let mut p = Tensor::dirty(value.dims());
        let mut lse = vec![0.0; value.rows()];
        e::softmax(value.data(), d, p.data_mut(), &mut lse);
        let mut out = Tensor::dirty(value.dims());
        for ((o, x), l) in out
            .data_mut()
            .chunks_mut(d)
            .zip(value.data().chunks(d))
            .zip(&lse)
        {
            for (o, x) in o.iter_mut().zip(x) {
                *o = x - l;
            }
        }
        self.push(out, &[x], move |dy, sink| {
            // dx = dy - softmax * sum(dy)
            let mut dx = Tensor::dirty(dy.dims());
            for ((o, p), g) in dx
                .data_mut()
                .chunks_mut(d)
                .zip(p.data().chunks(d))
                .zip(dy.data().chunks(d))
            {
                let s = math::sum(g);
                for ((o, p), g) in o.iter_mut().zip(p).zip(g) {
                    *o = g - p * s;
                }
            }
            sink.add(x, dx);
        })
    }

    /// SiLU(gate) * up
    #[track_caller]
    pub fn swiglu(&self, gate: Var, up: Var) -> Var {
        let (g, u) = self.same("swiglu", gate, up);
        let mut out = Tensor::dirty(g.dims());
        e::swiglu(g.data(), u.data(), out.data_mut());
        self.push(out, &[gate, up], move |dy, sink| {
            let (mut dg, mut du) = (Tensor::dirty(g.dims()), Tensor::dirty(g.dims()));
            e::swiglu_backward(g.data(), u.data(), dy.data(), dg.data_mut(), du.data_mut());
            sink.add(gate, dg);
            sink.add(up, du);
        })
    }
}
