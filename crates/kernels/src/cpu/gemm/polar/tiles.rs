//! Newton-Schulz iterations on tiles of bf16, a matrix to a thread.
//!
//! The identity's part of the step, a X, is taken into the polynomial's diagonal, so that an iteration ends with a
//! product that replaces X.

use super::super::mirror;
use super::super::mixed::pack::{Form, Source, pack};
use super::super::mixed::tile::{BLOCK, Begun, SIDE, STEPS, Unit};
use super::super::mixed::walk::{GROUP, Sum, depths};
use super::{Coefficients, combined};
use crate::cpu::scratch::{self, Scratch};

/// An operand whose strips are packed block of k by block of k.
struct Operand {
    tiles: Scratch,
    form: Form,
    lines: usize,
    steps: usize,
}

impl Operand {
    fn new(form: Form, lines: usize, steps: usize) -> Self {
        let elements = lines.next_multiple_of(SIDE) * steps.next_multiple_of(STEPS);
        Self {
            tiles: scratch::take(elements / 2),
            form,
            lines,
            steps,
        }
    }

    /// Packs lines from `at` on, which begins a strip; all there are, or whole strips.
    ///
    /// # Safety
    /// The source has these lines with all steps, and the CPU a unit.
    unsafe fn pack(&mut self, x: Source<f32>, at: usize, lines: usize) {
        let (form, high) = (self.form, self.lines.next_multiple_of(SIDE));
        let to: *mut u16 = self.tiles.as_mut_ptr().cast();
        for steps in depths(self.steps) {
            let before = high * steps.start + at * steps.len().next_multiple_of(STEPS);
            // SAFETY: promised by the caller; the operand has room for them.
            unsafe {
                pack(
                    x.from(0, steps.start),
                    form,
                    lines,
                    steps.len(),
                    to.add(before),
                )
            }
        }
    }

    /// The strips of a block of k, from a line on which begins one.
    fn at(&self, start: usize, deep: usize, line: usize) -> *const u16 {
        let before = self.lines.next_multiple_of(SIDE) * start;
        let tiles: *const u16 = self.tiles.as_ptr().cast();
        tiles.wrapping_add(before + line * deep.next_multiple_of(STEPS))
    }
}

/// C [lines of A, lines of B] = A B; what lies on and above the diagonal with `upper`.
///
/// # Safety
/// The operands are packed over the same steps, and C has these elements.
unsafe fn product(begun: &Begun, a: &Operand, b: &Operand, upper: bool, c: &mut [f32]) {
    let n = b.lines;
    for steps in depths(a.steps) {
        for column in (0..n).step_by(GROUP * BLOCK) {
            let cols = (GROUP * BLOCK).min(n - column);
            let sum = Sum {
                beta: if steps.start == 0 { 0.0 } else { 1.0 },
                diagonal: upper.then_some((0, column)),
                ..Sum::new(a.lines, cols, steps.len())
            };
            let [a, b] =
                [(a, 0), (b, column)].map(|(x, line)| x.at(steps.start, steps.len(), line));
            // SAFETY: promised by the caller.
            unsafe { sum.of(begun, a, b, c[column..].as_mut_ptr(), n) }
        }
    }
}

/// X Xᵀ [n, n] of `n` lines.
///
/// # Safety
/// The CPU has the unit, and the source `lines` lines of `steps` steps.
unsafe fn gram(begun: &Begun, x: Source<f32>, [lines, steps]: [usize; 2], c: &mut [f32]) {
    let mut operands = [Form::A, Form::B].map(|form| Operand::new(form, lines, steps));
    for operand in &mut operands {
        // SAFETY: promised by the caller.
        unsafe { operand.pack(x, 0, lines) }
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
    let (left, right) = if tall { (m, n) } else { (n, m) };
    let mut poly = Operand::new(if tall { Form::B } else { Form::A }, n, n);
    let mut other = Operand::new(if tall { Form::A } else { Form::B }, m, n);
    debug_assert_eq!((left, right), (r, c));
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
                poly.pack(from, at, lines);
            }
            other.pack(source((apart.1, apart.0)), 0, m);
            let (a, b) = if tall {
                (&other, &poly)
            } else {
                (&poly, &other)
            };
            product(&begun, a, b, false, x);
        }
    }
}
