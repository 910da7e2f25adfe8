//! Newton-Schulz iterations on tiles of bf16, a matrix to a thread.
//!
//! The identity's part of the step, a X, is taken into the polynomial's diagonal, so that an iteration ends with a
//! product that replaces X.

use super::super::mirror;
use super::super::mixed::pack::{Form, Source};
use super::super::mixed::tile::{BLOCK, Begun, Unit};
use super::super::operand::{Operand, Part};
use super::{Coefficients, combined};
use crate::cpu::scratch;

/// C = A B; what lies on and above the diagonal with `upper`.
///
/// # Safety
/// The operands are packed over the same steps.
unsafe fn product(begun: &Begun, a: &Operand, b: &Operand, upper: bool, c: &mut [f32]) {
    let ([m, steps], [n, _]) = (a.size(), b.size());
    assert_eq!(c.len(), m * n, "polar: [{m}, {n}]");
    let all = Part {
        lines: 0..m,
        steps: 0..steps,
        beta: 0.0,
        upper,
    };
    // SAFETY: promised by the caller.
    unsafe { all.product(begun, a, b, c.as_mut_ptr()) }
}

/// X Xᵀ [lines, lines].
///
/// # Safety
/// The CPU has the unit, and the source `lines` lines of `steps` steps.
unsafe fn gram(begun: &Begun, x: Source<f32>, [lines, steps]: [usize; 2], c: &mut [f32]) {
    let mut operands = [Form::A, Form::B].map(|form| Operand::new(form, lines, steps));
    for operand in &mut operands {
        // SAFETY: promised by the caller.
        unsafe { operand.place().pack(x, 0..lines, 0..steps) }
    }
    // SAFETY: both are packed.
    unsafe { product(begun, &operands[0], &operands[1], true, c) }
    mirror(lines, c);
}

pub(super) fn polar(unit: Unit, x: &mut [f32], [r, c]: [usize; 2], coefficients: &[Coefficients]) {
    let (n, m, tall) = (r.min(c), r.max(c), r > c);
    let mut room = scratch::take(2 * n * n + BLOCK * n);
    let (first, rest) = room.split_at_mut(n * n);
    let (square, strip) = rest.split_at_mut(n * n);
    // The polynomial stands on the left of X, or of a tall one on the right.
    let mut poly = Operand::new(if tall { Form::B } else { Form::A }, n, n);
    let mut other = Operand::new(if tall { Form::A } else { Form::B }, m, n);
    // SAFETY: the CPU has the unit; all sources are the slices above.
    unsafe {
        let begun = unit.begin();
        for &(a, by_gram, by_square) in coefficients {
            let (data, apart) = (x.as_ptr(), if tall { (1, c) } else { (c, 1) });
            let source = |(lines, steps)| Source { data, lines, steps };
            gram(&begun, source(apart), [n, m], first);
            let of_first = Source {
                data: first.as_ptr(),
                lines: n,
                steps: 1,
            };
            gram(&begun, of_first, [n, n], square);
            for at in (0..n).step_by(BLOCK) {
                let lines = BLOCK.min(n - at);
                let (here, strip) = (at * n..(at + lines) * n, &mut strip[..lines * n]);
                combined(
                    &first[here.clone()],
                    &square[here],
                    by_gram,
                    by_square,
                    strip,
                );
                for line in 0..lines {
                    strip[line * n + at + line] += a;
                }
                let from = Source {
                    data: strip.as_ptr(),
                    ..of_first
                };
                poly.place().pack(from, at..at + lines, 0..n);
            }
            let turned = source((apart.1, apart.0));
            other.place().pack(turned, 0..m, 0..n);
            let (a, b) = if tall {
                (&other, &poly)
            } else {
                (&poly, &other)
            };
            product(&begun, a, b, false, x);
        }
    }
}
