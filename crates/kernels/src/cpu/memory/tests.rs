//! The memory on tiles against its fp32 arithmetic, which is tested against its definition.

use super::chunk::{Arithmetic, Plain};
use super::tiles::{Tiles, suits};
use super::{Gradients, MemoryShape, Rows, backward_with, forward_with};
use crate::cpu::gemm::mixed;
use crate::isa;
use crate::random::Counted;
use std::ops::Range;

/// Widths and slots of one strip and of several, chunks of one panel, of several and of none that is whole.
const SHAPES: [[usize; 4]; 5] = [
    [2, 32, 32, 16],
    [3, 32, 96, 64],
    [2, 64, 128, 64],
    [1, 96, 64, 40],
    [2, 32, 64, 100],
];

struct Case {
    shape: MemoryShape,
    segments: Vec<Range<usize>>,
    /// Keys and values; q, k, v; eta, theta, alpha; the gradient of the output.
    inputs: Vec<Vec<f32>>,
}

impl Case {
    /// Segments shorter than a chunk, of whole chunks and of broken ones, with rows of none between.
    fn new([heads, width, slots, chunk]: [usize; 4], draw: u64) -> Self {
        let shape = MemoryShape {
            heads,
            width,
            slots,
            chunk,
        };
        let r = Counted::new(5, "segments", draw);
        let (mut segments, mut n) = (Vec::new(), 0);
        for i in 0..6 {
            let len = match i {
                0 => chunk * 3,
                1 => 1 + chunk * 2,
                _ => r.below(i, chunk * 4),
            };
            segments.push(n..n + len);
            n += len + r.below(10 + i, 2);
        }
        let normals = |count: usize, what: &str, size: f32| -> Vec<f32> {
            let r = Counted::new(5, what, draw);
            (0..count as u64).map(|i| size * r.normal(i)).collect()
        };
        let (all, wide) = (shape.slots_len(), n * shape.row_len());
        let unit = |mut x: Vec<f32>| {
            for x in x.chunks_exact_mut(width) {
                let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt();
                x.iter_mut().for_each(|x| *x /= norm);
            }
            x
        };
        let share = |what: &str, most: f32| -> Vec<f32> {
            let r = Counted::new(5, what, draw);
            (0..(n * heads) as u64)
                .map(|i| most * r.uniform(i) as f32)
                .collect()
        };
        let inputs = vec![
            normals(all, "keys", 1.0),
            normals(all, "values", 0.4),
            unit(normals(wide, "q", 1.0)),
            unit(normals(wide, "k", 1.0)),
            // Some errors are clipped and some are not.
            normals(wide, "v", 1.0 / (width as f32).sqrt()),
            share("eta", 1.0),
            share("theta", 0.5),
            share("alpha", 0.1),
            normals(wide, "dout", 1.0),
        ];
        Self {
            shape,
            segments,
            inputs,
        }
    }

    /// Out, then the gradients in the order of the inputs.
    fn by<A: Arithmetic>(&self, begin: impl Fn() -> A + Sync) -> Vec<Vec<f32>> {
        let [keys, values, q, k, v, eta, theta, alpha, dout] = &self.inputs[..] else {
            unreachable!("nine inputs")
        };
        let rows = Rows {
            q,
            k,
            v,
            eta,
            theta,
            alpha,
        };
        let learned = [&keys[..], &values[..]];
        let mut out = vec![f32::NAN; q.len()];
        forward_with(&begin, self.shape, learned, &rows, &self.segments, &mut out);
        let mut grads: Vec<Vec<f32>> = (self.inputs[..8].iter().enumerate())
            .map(|(i, x)| vec![if i < 2 { 0.0 } else { f32::NAN }; x.len()])
            .collect();
        if let [dkeys, dvalues, dq, dk, dv, deta, dtheta, dalpha] = &mut grads[..] {
            let to = Gradients {
                slots: [dkeys, dvalues],
                wide: [dq, dk, dv],
                narrow: [deta, dtheta, dalpha],
            };
            backward_with(&begin, self.shape, learned, &rows, &self.segments, dout, to);
        }
        grads.insert(0, out);
        grads
    }
}

/// The root of the mean square of the differences, in that of what is wanted.
fn distance(found: &[f32], want: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let far: f64 = found.iter().zip(want).map(|(f, w)| square(f - w)).sum();
    (far / want.iter().map(|&w| square(w)).sum::<f64>()).sqrt()
}

#[test]
fn tiles_give_what_fp32_gives_within_the_digits_of_bf16() {
    let Some(unit) = mixed::unit(isa::detect()) else {
        println!("skipped: no products of bf16 on this path");
        return;
    };
    const NAMES: [&str; 9] = [
        "out", "keys", "values", "q", "k", "v", "eta", "theta", "alpha",
    ];
    for (draw, &sizes) in SHAPES.iter().enumerate() {
        let case = Case::new(sizes, draw as u64);
        assert!(suits(case.shape), "{sizes:?}");
        let want = case.by(|| Plain(case.shape));
        // SAFETY: the CPU has the unit, and the shape suits.
        let found = case.by(|| unsafe { Tiles::begin(unit, case.shape) });
        for ((found, want), name) in found.iter().zip(&want).zip(NAMES) {
            let far = distance(found, want);
            println!("{sizes:?} {name}: {far:.4}");
            assert!(far < 0.02, "{sizes:?}: {name} is off by {far}");
        }
    }
}
