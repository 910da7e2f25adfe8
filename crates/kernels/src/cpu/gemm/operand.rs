//! An operand that is packed as a whole before products read it, and the product of two of them.

use super::mixed::pack::{Element, Form, Source, pack_part};
use super::mixed::tile::{BLOCK, Begun, SIDE, STEPS};
use super::mixed::walk::{DEPTH, GROUP, Sum, depths};
use super::rows::SharedHalves;
use crate::cpu::scratch::{self, Scratch};
use std::ops::Range;

/// Lines over steps of k in strips, block of k after block of k.
pub(super) struct Operand {
    tiles: Scratch,
    form: Form,
    lines: usize,
    steps: usize,
}

/// Where the strips of an operand are packed, by several tasks if need be.
#[derive(Clone, Copy)]
pub(super) struct Place {
    tiles: SharedHalves,
    form: Form,
    lines: usize,
    steps: usize,
}

/// The elements before a line, which begins a strip, in the block of k that begins at step `start`.
fn before([all_lines, all_steps]: [usize; 2], line: usize, start: usize) -> usize {
    let deep = DEPTH.min(all_steps - start).next_multiple_of(STEPS);
    all_lines.next_multiple_of(SIDE) * start + line * deep
}

impl Operand {
    /// Room for all of it.
    pub(super) fn new(form: Form, lines: usize, steps: usize) -> Self {
        let elements = lines.next_multiple_of(SIDE) * steps.next_multiple_of(STEPS);
        Self {
            tiles: scratch::take(elements / 2),
            form,
            lines,
            steps,
        }
    }

    /// Lines and steps.
    pub(super) fn size(&self) -> [usize; 2] {
        [self.lines, self.steps]
    }

    pub(super) fn place(&mut self) -> Place {
        Place {
            tiles: SharedHalves::new(super::ffn::halves(&mut self.tiles)),
            form: self.form,
            lines: self.lines,
            steps: self.steps,
        }
    }

    fn at(&self, line: usize, start: usize) -> *const u16 {
        let tiles: *const u16 = self.tiles.as_ptr().cast();
        tiles.wrapping_add(before(self.size(), line, start))
    }
}

impl Place {
    /// Packs `lines`, of which the first begins a strip and the last ends one or is the last of all, over `steps`, of
    /// which the first begins a tile. The source begins with their first element.
    ///
    /// # Safety
    /// The source has them, nobody else packs them, and the CPU has a unit.
    pub(super) unsafe fn pack<T: Element>(
        self,
        x: Source<T>,
        lines: Range<usize>,
        steps: Range<usize>,
    ) {
        let mut at = steps.start;
        while at < steps.end {
            let start = at / DEPTH * DEPTH;
            let end = steps.end.min(start + DEPTH);
            let to = self
                .tiles
                .at(before([self.lines, self.steps], lines.start, start));
            let place = [at - start, DEPTH.min(self.steps - start)];
            // SAFETY: promised by the caller; the operand has room for them.
            unsafe {
                let from = x.from(0, at - steps.start);
                pack_part(from, self.form, [lines.len(), end - at], place, to);
            }
            at = end;
        }
    }
}

/// Lines and steps of a product of operands.
pub(super) struct Part {
    /// Of A; they begin a strip.
    pub(super) lines: Range<usize>,
    /// They begin a block of k, and end one or are the last.
    pub(super) steps: Range<usize>,
    /// What the old C counts, 0 or 1.
    pub(super) beta: f32,
    /// Whether only what lies on and above the diagonal is needed.
    pub(super) upper: bool,
}

impl Part {
    /// The lines of C [lines of A, lines of B] = beta C + A B, summed over the steps.
    ///
    /// # Safety
    /// A and B are packed, C has all its elements, and these lines of it belong to this task alone.
    pub(super) unsafe fn product(&self, begun: &Begun, a: &Operand, b: &Operand, c: *mut f32) {
        debug_assert!((a.form, b.form) == (Form::A, Form::B) && a.steps == b.steps);
        let n = b.lines;
        for steps in depths(self.steps.end).filter(|steps| steps.start >= self.steps.start) {
            for column in (0..n).step_by(GROUP * BLOCK) {
                let cols = (GROUP * BLOCK).min(n - column);
                let first = steps.start == self.steps.start;
                let sum = Sum {
                    beta: if first { self.beta } else { 1.0 },
                    diagonal: self.upper.then_some((self.lines.start, column)),
                    ..Sum::new(self.lines.len(), cols, steps.len())
                };
                let a = a.at(self.lines.start, steps.start);
                let b = b.at(column, steps.start);
                // SAFETY: promised by the caller.
                unsafe { sum.of(begun, a, b, c.add(self.lines.start * n + column), n) }
            }
        }
    }
}
