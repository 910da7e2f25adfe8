//! Comparison of a tape's gradients with central differences.
//!
//! The output is reduced to one number by a fixed random linear functional, summed in f64. Slopes at two
//! step sizes are extrapolated (Richardson), so that the step can be large enough for f32. Small inputs
//! are tried element by element, large ones along random directions.

use std::sync::Arc;
use tensor::random::Counted;
use tensor::{AttentionLayout, Grads, Tape, Tensor, Var};

/// Error allowed, relative to the largest slope expected of the input.
const TOLERANCE: f64 = 3e-3;

/// Normal values that differ by `purpose`.
pub(crate) fn normal(dims: &[usize], std: f32, purpose: &str) -> Tensor {
    Tensor::randn(dims, std, &Counted::new(11, purpose, 0))
}

/// Each row of a segment sees itself and what comes before it, as far back as the window.
pub(crate) fn causal(lengths: &[usize], window: usize) -> AttentionLayout {
    let mut at = 0;
    let mut layout = AttentionLayout {
        window,
        ..AttentionLayout::default()
    };
    for &n in lengths {
        layout.queries.push(at..at + n);
        layout.last.extend(0..n as u32);
        at += n;
    }
    layout.keys = layout.queries.clone();
    layout
}

pub(crate) type Function<'a> = &'a dyn Fn(&Tape, &[Var]) -> Var;

/// Fails unless the gradient of every input of `f` agrees with differences.
pub(crate) fn check(name: &str, inputs: &[Tensor], f: Function) {
    let outputs = values(inputs, f).len();
    let random = Counted::new(3, name, 1);
    let functional: Arc<[f32]> = (0..outputs).map(|i| random.normal(i as u64)).collect();
    let all = gradients(inputs, &|_| true, f, &functional);
    for (i, x) in inputs.iter().enumerate() {
        let gradient = all
            .get(i)
            .unwrap_or_else(|| panic!("{name}: input {i} got no gradient"));
        assert_eq!(gradient.dims(), x.dims(), "{name}: gradient of input {i}");
        let gradient = gradient.to_vec();
        let alone = gradients(inputs, &|j| j == i, f, &functional);
        assert_eq!(
            alone.get(i).map(Tensor::to_vec).as_ref(),
            Some(&gradient),
            "{name}: input {i} as the only leaf"
        );
        let largest = gradient
            .iter()
            .fold(0.0f64, |m, g| m.max(f64::from(g.abs())));
        assert!(largest > 0.0, "{name}: the gradient of input {i} is zero");
        let length = gradient
            .iter()
            .map(|g| f64::from(*g).powi(2))
            .sum::<f64>()
            .sqrt();
        let n = gradient.len();
        let (directions, step, scale) = if n <= 128 {
            (n, 2e-2, largest)
        } else {
            (10, 2e-3, length)
        };
        for d in 0..directions {
            let direction: Vec<f32> = match n {
                ..=128 => (0..n).map(|j| f32::from(u8::from(j == d))).collect(),
                _ => (0..n)
                    .map(|j| random.normal((outputs + d * n + j) as u64))
                    .collect(),
            };
            let slope = |h: f64| {
                let at = |h: f64| {
                    let moved = x
                        .to_vec()
                        .iter()
                        .zip(&direction)
                        .map(|(x, d)| x + h as f32 * d)
                        .collect();
                    let mut inputs = inputs.to_vec();
                    inputs[i] = Tensor::from_vec(moved, x.dims());
                    let y = values(&inputs, f);
                    y.iter()
                        .zip(functional.iter())
                        .map(|(y, c)| f64::from(*y) * f64::from(*c))
                        .sum::<f64>()
                };
                (at(h) - at(-h)) / (2.0 * h)
            };
            let numeric = (4.0 * slope(step / 2.0) - slope(step)) / 3.0;
            let exact: f64 = gradient
                .iter()
                .zip(&direction)
                .map(|(g, d)| f64::from(*g) * f64::from(*d))
                .sum();
            assert!(
                (numeric - exact).abs() <= TOLERANCE * scale,
                "{name}: input {i}, direction {d}: gradient {exact}, differences {numeric}, scale {scale}"
            );
        }
    }
}

/// The output of `f` as host values.
pub(crate) fn values(inputs: &[Tensor], f: Function) -> Vec<f32> {
    let t = Tape::inference();
    let vars: Vec<Var> = inputs.iter().map(|x| t.constant(x)).collect();
    t.value(f(&t, &vars)).to_vec()
}

/// Gradients of sum(functional * f) for the inputs that are chosen as leaves.
pub(crate) fn gradients(
    inputs: &[Tensor],
    chosen: &dyn Fn(usize) -> bool,
    f: Function,
    functional: &Arc<[f32]>,
) -> Grads {
    let t = Tape::new();
    let leaf = |(i, x)| {
        if chosen(i) {
            t.leaf(x, i)
        } else {
            t.constant(x)
        }
    };
    let vars: Vec<Var> = inputs.iter().enumerate().map(leaf).collect();
    let root = t.weighted_sum(f(&t, &vars), functional.clone());
    let mut grads = Grads::new(inputs.len());
    t.backward(root, &mut grads);
    grads
}
