//! Maps over slices, in parallel over fixed blocks. Every element is independent, so any cut is exact.

use crate::isa::multiversion;
use crate::math;
use rayon::prelude::*;

/// Elements a task handles: large enough to hide the cost of a task, small enough to stay in L1 and L2.
const BLOCK: usize = 1 << 14;

/// A function of one number, marked so that generic loops can name it.
pub trait Unary: Fn(f32) -> f32 + Copy + Sync {}
impl<F: Fn(f32) -> f32 + Copy + Sync> Unary for F {}
/// A function of two numbers.
pub trait Binary: Fn(f32, f32) -> f32 + Copy + Sync {}
impl<F: Fn(f32, f32) -> f32 + Copy + Sync> Binary for F {}
/// A function of three numbers.
pub trait Ternary: Fn(f32, f32, f32) -> f32 + Copy + Sync {}
impl<F: Fn(f32, f32, f32) -> f32 + Copy + Sync> Ternary for F {}

multiversion! {
    /// x = silu(x).
    pub(super) fn silu_in_place(x: &mut [f32]) {
        for x in x {
            *x = math::silu(*x);
        }
    }
}

multiversion! {
    fn unary_block<F: Unary>(x: &[f32], out: &mut [f32], f: F) {
        for (o, &x) in out.iter_mut().zip(x) { *o = f(x); }
    }
}
multiversion! {
    fn binary_block<F: Binary>(a: &[f32], b: &[f32], out: &mut [f32], f: F) {
        for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) { *o = f(a, b); }
    }
}
multiversion! {
    fn ternary_block<F: Ternary>(a: &[f32], b: &[f32], c: &[f32], out: &mut [f32], f: F) {
        for (((o, &a), &b), &c) in out.iter_mut().zip(a).zip(b).zip(c) { *o = f(a, b, c); }
    }
}
multiversion! {
    fn update_block<F: Binary>(y: &mut [f32], x: &[f32], f: F) {
        for (y, &x) in y.iter_mut().zip(x) { *y = f(*y, x); }
    }
}

/// out_i = f(x_i)
pub fn unary<F: Unary>(x: &[f32], out: &mut [f32], f: F) {
    assert_eq!(x.len(), out.len(), "unary: lengths");
    out.par_chunks_mut(BLOCK)
        .zip(x.par_chunks(BLOCK))
        .for_each(|(o, x)| unary_block(x, o, f));
}

/// out_i = f(a_i, b_i)
pub fn binary<F: Binary>(a: &[f32], b: &[f32], out: &mut [f32], f: F) {
    assert!(
        a.len() == out.len() && b.len() == out.len(),
        "binary: lengths {} {} {}",
        a.len(),
        b.len(),
        out.len()
    );
    out.par_chunks_mut(BLOCK)
        .zip(a.par_chunks(BLOCK))
        .zip(b.par_chunks(BLOCK))
        .for_each(|((o, a), b)| binary_block(a, b, o, f));
}

/// out_i = f(a_i, b_i, c_i)
pub fn ternary<F: Ternary>(a: &[f32], b: &[f32], c: &[f32], out: &mut [f32], f: F) {
    assert!(
        a.len() == out.len() && b.len() == out.len() && c.len() == out.len(),
        "ternary: lengths"
    );
    out.par_chunks_mut(BLOCK)
        .zip(a.par_chunks(BLOCK))
        .zip(b.par_chunks(BLOCK))
        .zip(c.par_chunks(BLOCK))
        .for_each(|(((o, a), b), c)| ternary_block(a, b, c, o, f));
}

/// y_i = f(y_i, x_i), in place
pub fn update<F: Binary>(y: &mut [f32], x: &[f32], f: F) {
    assert_eq!(x.len(), y.len(), "update: lengths");
    y.par_chunks_mut(BLOCK)
        .zip(x.par_chunks(BLOCK))
        .for_each(|(y, x)| update_block(y, x, f));
}

/// y += alpha x
pub fn add_scaled(y: &mut [f32], x: &[f32], alpha: f32) {
    update(y, x, move |y, x| y + alpha * x);
}

/// silu(gate) * up
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    binary(gate, up, out, |g, u| math::silu(g) * u);
}

multiversion! {
    fn swiglu_gradient(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for ((((&g, &u), &d), dg), du) in gate.iter().zip(up).zip(dy).zip(dgate).zip(dup) {
            let s = math::sigmoid(g);
            *dg = d * u * (s * (1.0 + g * (1.0 - s)));
            *du = d * (g * s);
        }
    }
}

/// Gradients of [`swiglu`] with respect to gate and up.
pub fn swiglu_backward(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let n = gate.len();
    assert!(
        [up.len(), dy.len(), dgate.len(), dup.len()] == [n; 4],
        "swiglu_backward: lengths"
    );
    dgate
        .par_chunks_mut(BLOCK)
        .zip(dup.par_chunks_mut(BLOCK))
        .enumerate()
        .for_each(|(i, (dg, du))| {
            let at = i * BLOCK..i * BLOCK + dg.len();
            swiglu_gradient(&gate[at.clone()], &up[at.clone()], &dy[at], dg, du);
        });
}

/// Rows a reduction over rows takes at a time; partial sums are combined in row-block order.
pub const ROW_BLOCK: usize = 128;

/// out[j] += sum over rows of f(row)[j], where `f` adds one row's part into its argument. Fixed blocks of
/// rows are summed in parallel and combined in order.
pub fn reduce_rows(
    rows: usize,
    cols: usize,
    out: &mut [f32],
    f: impl Fn(usize, &mut [f32]) + Sync,
) {
    let parts: Vec<Vec<f32>> = (0..rows.div_ceil(ROW_BLOCK))
        .into_par_iter()
        .map(|b| {
            let mut acc = vec![0.0; cols];
            for row in b * ROW_BLOCK..((b + 1) * ROW_BLOCK).min(rows) {
                f(row, &mut acc);
            }
            acc
        })
        .collect();
    for part in parts {
        for (o, p) in out.iter_mut().zip(part) {
            *o += p;
        }
    }
}

/// Sum of squares in f64, over fixed blocks.
pub fn sum_sq(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x
        .par_chunks(BLOCK)
        .map(|c| c.chunks(1024).map(|c| f64::from(dot(c, c))).sum())
        .collect();
    parts.into_iter().sum()
}

/// Sum in f64, over fixed blocks.
pub fn total(x: &[f32]) -> f64 {
    x.iter().map(|v| f64::from(*v)).sum()
}

multiversion! {
    /// sum a_i b_i on the best path.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 { math::dot(a, b) }
}

multiversion! {
    fn softmax_row(x: &[f32], out: &mut [f32]) -> f32 {
        let m = math::max(x);
        for (o, &x) in out.iter_mut().zip(x) { *o = math::exp(x - m); }
        let s = math::sum(out);
        let inv = 1.0 / s;
        for o in out.iter_mut() { *o *= inv; }
        m + math::ln(s)
    }
}

/// Row-wise softmax of x [N, D]; `lse` [N] receives the log-sum-exp of each row.
pub fn softmax(x: &[f32], cols: usize, out: &mut [f32], lse: &mut [f32]) {
    out.par_chunks_mut(cols)
        .zip(x.par_chunks(cols))
        .zip(lse.par_iter_mut())
        .for_each(|((o, x), l)| *l = softmax_row(x, o));
}

multiversion! {
    /// out = p * (dy - sum(p * dy)), the gradient of softmax for one row
    pub fn softmax_backward_row(p: &[f32], dy: &[f32], out: &mut [f32]) {
        let s = math::dot(p, dy);
        for ((o, &p), &d) in out.iter_mut().zip(p).zip(dy) { *o = p * (d - s); }
    }
}
