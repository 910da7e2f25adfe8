//! The walk, forward and backward.

use super::super::Shape;
use super::super::mixed::pack::{Element, Form, Source, pack};
use super::super::mixed::tile::{BLOCK, Begun, SIDE, STEPS, Unit};
use super::super::mixed::walk::{self, ROWS, Sum, depths, part};
use super::{Ffn, Gradients, Kept};
use crate::cpu::scratch;
use crate::cpu::shared::Shared;
use crate::isa::multiversion;
use crate::math::{from_bf16, sigmoid, to_bf16};
use rayon::prelude::*;
use std::ops::Range;

/// Hidden units at a time: gate and up of a block of rows take a quarter of a MiB.
const CHUNK: usize = 128;

/// A weight packed as B, in regions for each chunk of hidden units.
struct Packed {
    data: *mut u16,
    /// Elements of the region of a whole chunk.
    region: usize,
}
// SAFETY: regions are written by one task each, then only read.
unsafe impl Send for Packed {}
// SAFETY: as above.
unsafe impl Sync for Packed {}

impl Packed {
    fn region(&self, chunk: usize) -> *mut u16 {
        self.data.wrapping_add(chunk * self.region)
    }
}

/// Which side of a weight the hidden units are on.
#[derive(Clone, Copy)]
enum Hidden {
    /// They are its columns: the sum runs over the width.
    Columns,
    /// The sum runs over them.
    Summed,
}

/// Runs `f` with weights packed chunk by chunk. With each weight stand the distances of its elements: from one
/// hidden unit to the next, and along the width.
fn with_packed<R, const N: usize>(
    hidden: usize,
    width: usize,
    weights: [(&[f32], [usize; 2], Hidden); N],
    f: impl FnOnce([Packed; N]) -> R,
) -> R {
    let chunks = hidden.div_ceil(CHUNK);
    let region = CHUNK * width.next_multiple_of(STEPS);
    scratch::with(N * chunks * region / 2, |room| {
        let start: *mut u16 = room.as_mut_ptr().cast();
        let packed: [Packed; N] = std::array::from_fn(|i| Packed {
            data: start.wrapping_add(i * chunks * region),
            region,
        });
        (0..N * chunks).into_par_iter().for_each(|t| {
            let (which, chunk) = (t / chunks, t % chunks);
            let (weight, [unit_apart, apart], side) = weights[which];
            let units = of_chunk(chunk, hidden);
            let to = packed[which].region(chunk);
            let data = weight.as_ptr();
            // SAFETY: these units are there, and the region is this task's alone.
            unsafe {
                match side {
                    Hidden::Columns => {
                        let (lines, steps) = (unit_apart, apart);
                        let x = Source { data, lines, steps };
                        for steps in depths(width) {
                            let at = units.len().next_multiple_of(SIDE) * steps.start;
                            let from = x.from(units.start, steps.start);
                            pack(from, Form::B, units.len(), steps.len(), to.add(at));
                        }
                    }
                    Hidden::Summed => {
                        let (lines, steps) = (apart, unit_apart);
                        let x = Source { data, lines, steps };
                        pack(x.from(0, units.start), Form::B, width, units.len(), to);
                    }
                }
            }
        });
        f(packed)
    })
}

fn of_chunk(chunk: usize, hidden: usize) -> Range<usize> {
    chunk * CHUNK..((chunk + 1) * CHUNK).min(hidden)
}

/// Blocks of rows, a task each: an even number of nearly equal ones.
fn blocks(rows: usize) -> impl IndexedParallelIterator<Item = Range<usize>> {
    let parts = rows.div_ceil(ROWS).next_multiple_of(2);
    let parts = parts.min(rows.div_ceil(BLOCK));
    (0..parts)
        .into_par_iter()
        .map(move |i| part(rows, parts, i))
}

/// The working memory of a block of rows.
struct Block {
    rows: Range<usize>,
    width: usize,
    /// The rows of an input, packed as A over its whole width, block of k after block of k.
    input: scratch::Scratch,
    /// Two values for each row and hidden unit of a chunk, rows [`CHUNK`] apart.
    first: scratch::Scratch,
    second: scratch::Scratch,
    /// Either of them packed as A.
    tiles: scratch::Scratch,
    begun: Begun,
}

impl Block {
    /// The rows of `x` [N, width].
    ///
    /// # Safety
    /// The CPU has the unit, and the rows are there.
    unsafe fn new(unit: Unit, rows: Range<usize>, x: &[f32], width: usize) -> Self {
        let high = rows.len().next_multiple_of(SIDE);
        let mut input = scratch::take(high * width.next_multiple_of(STEPS) / 2);
        let to: *mut u16 = input.as_mut_ptr().cast();
        let (data, lines, steps) = (x.as_ptr(), width, 1);
        let from = Source { data, lines, steps };
        for steps in depths(width) {
            // SAFETY: promised by the caller, and there is room for the tiles.
            unsafe {
                let from = from.from(rows.start, steps.start);
                let to = to.add(high * steps.start);
                pack(from, Form::A, rows.len(), steps.len(), to);
            }
        }
        Self {
            width,
            input,
            first: scratch::take(high * CHUNK),
            second: scratch::take(high * CHUNK),
            tiles: scratch::take(high * CHUNK / 2),
            // SAFETY: promised by the caller.
            begun: unsafe { unit.begin() },
            rows,
        }
    }

    /// The input times the region of a chunk of `units` into `to`, which is `first` or `second`.
    ///
    /// # Safety
    /// The region is packed, and `to` has their size.
    unsafe fn expand(&self, units: usize, region: *const u16, to: *mut f32) {
        let high = self.rows.len().next_multiple_of(SIDE);
        let input: *const u16 = self.input.as_ptr().cast();
        for steps in depths(self.width) {
            let sum = Sum {
                rows: self.rows.len(),
                cols: units,
                steps: steps.len(),
                alpha: 1.0,
                beta: if steps.start == 0 { 0.0 } else { 1.0 },
                diagonal: None,
            };
            // SAFETY: promised by the caller.
            unsafe {
                let a = input.add(high * steps.start);
                let b = region.add(units.next_multiple_of(SIDE) * steps.start);
                sum.of(&self.begun, a, b, to, CHUNK);
            }
        }
    }

    /// These rows of C [N, width] = beta C + `hidden`, which is `first` or `second`, times the region of its chunk.
    ///
    /// # Safety
    /// The region is packed, `hidden` has their size, and these rows of C are this task's alone.
    unsafe fn contract(
        &mut self,
        units: usize,
        hidden: *const f32,
        region: *const u16,
        beta: f32,
        c: Shared,
    ) {
        let sum = Sum {
            rows: self.rows.len(),
            cols: self.width,
            steps: units,
            alpha: 1.0,
            beta,
            diagonal: None,
        };
        let (data, lines, steps) = (hidden, CHUNK, 1);
        let tiles: *mut u16 = self.tiles.as_mut_ptr().cast();
        // SAFETY: promised by the caller.
        unsafe {
            let from = Source { data, lines, steps };
            pack(from, Form::A, self.rows.len(), units, tiles);
            let c = c.get().add(self.rows.start * self.width);
            sum.of(&self.begun, tiles, region, c, self.width);
        }
    }
}

multiversion! {
    /// gate becomes silu(gate) * up; both are kept.
    fn activate_and_keep(gate: &mut [f32], up: &[f32], kept_gate: &mut [u16], kept_up: &mut [u16]) {
        for (((g, &u), kg), ku) in gate.iter_mut().zip(up).zip(kept_gate).zip(kept_up) {
            (*kg, *ku) = (to_bf16(*g), to_bf16(u));
            *g = *g * sigmoid(*g) * u;
        }
    }
}

multiversion! {
    fn activate(gate: &mut [f32], up: &[f32]) {
        for (g, &u) in gate.iter_mut().zip(up) { *g = *g * sigmoid(*g) * u; }
    }
}

pub(super) fn forward(unit: Unit, o: &Ffn, out: &mut [f32], kept: Option<Kept>) {
    let (n, w, f) = (o.rows(), o.width, o.hidden());
    let out = Shared::new(out);
    let kept = kept.map(|k| {
        let room = k.gate.len() == n * f && k.up.len() == n * f;
        assert!(room, "ffn: room for what is kept");
        (SharedHalves::new(k.gate), SharedHalves::new(k.up))
    });
    let weights = [
        (o.gate, [w, 1], Hidden::Columns),
        (o.up, [w, 1], Hidden::Columns),
        (o.down, [1, f], Hidden::Summed),
    ];
    with_packed(f, w, weights, |[gate, up, down]| {
        blocks(n).for_each(|rows| {
            // SAFETY: the CPU has the unit; the weights are packed, and these rows of the outputs are this task's
            // alone.
            unsafe {
                let mut block = Block::new(unit, rows.clone(), o.x, w);
                for chunk in 0..f.div_ceil(CHUNK) {
                    let units = of_chunk(chunk, f);
                    let some = units.len();
                    let (g, u) = (block.first.as_mut_ptr(), block.second.as_mut_ptr());
                    block.expand(some, gate.region(chunk), g);
                    block.expand(some, up.region(chunk), u);
                    for (i, row) in rows.clone().enumerate() {
                        let g = &mut block.first[i * CHUNK..][..some];
                        let u = &block.second[i * CHUNK..][..some];
                        match kept {
                            None => activate(g, u),
                            Some((gate, up)) => {
                                let at = row * f + units.start;
                                activate_and_keep(g, u, gate.slice(at, some), up.slice(at, some));
                            }
                        }
                    }
                    let beta = if chunk == 0 { 0.0 } else { 1.0 };
                    block.contract(some, g, down.region(chunk), beta, out);
                }
            }
        });
    });
}

/// bf16 that tasks write in disjoint parts.
#[derive(Clone, Copy)]
struct SharedHalves(*mut u16);
// SAFETY: as `Shared`.
unsafe impl Send for SharedHalves {}
// SAFETY: as above.
unsafe impl Sync for SharedHalves {}

impl SharedHalves {
    fn new(x: &mut [u16]) -> Self {
        Self(x.as_mut_ptr())
    }

    /// # Safety
    /// As [`Shared::slice`].
    unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a mut [u16] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

/// Rows between what is computed and what is on its way from memory.
const AHEAD: usize = 8;

/// Has some elements brought near: pieces of rows that lie apart, which no prefetcher of the CPU foresees.
fn soon(from: *const u16, len: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for at in (0..len).step_by(32) {
        // SAFETY: prefetching follows no pointer.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(at).cast()) };
    }
}

/// The hidden units of a row in the backward pass.
struct Row<'a> {
    gate: &'a [u16],
    up: &'a [u16],
    /// The gradient of silu(gate) * up, then that of gate.
    dh: &'a mut [f32],
    du: &'a mut [f32],
    /// silu(gate) * up and the gradients, as operands of the products with the input.
    h: &'a mut [u16],
    dg_half: &'a mut [u16],
    du_half: &'a mut [u16],
}

multiversion! {
    fn gradients(row: Row) {
        let n = row.gate.len();
        let (gate, up, dh, du) = (&row.gate[..n], &row.up[..n], &mut row.dh[..n], &mut row.du[..n]);
        let (h, dg_half, du_half) = (&mut row.h[..n], &mut row.dg_half[..n], &mut row.du_half[..n]);
        for i in 0..n {
            let (g, u, d) = (from_bf16(gate[i]), from_bf16(up[i]), dh[i]);
            let s = sigmoid(g);
            let silu = g * s;
            let (dg, dup) = (d * u * (s * (1.0 + g * (1.0 - s))), d * silu);
            (dh[i], du[i]) = (dg, dup);
            (h[i], dg_half[i], du_half[i]) = (to_bf16(silu * u), to_bf16(dg), to_bf16(dup));
        }
    }
}

pub(super) fn backward(
    unit: Unit,
    o: &Ffn,
    gate: &[u16],
    up: &[u16],
    dy: &[f32],
    grads: Gradients,
) {
    let (n, w, f) = (o.rows(), o.width, o.hidden());
    assert!(
        gate.len() == n * f && up.len() == n * f,
        "ffn: what was kept"
    );
    let dx = grads.x.map(|(x, beta)| {
        assert_eq!(x.len(), n * w, "ffn: gradient of x");
        (Shared::new(x), beta)
    });
    // silu(gate) * up and the gradients of gate and up, [N, F] each.
    let mut room = scratch::take((3 * n * f).div_ceil(2));
    let (h, rest) = super::halves(&mut room).split_at_mut(n * f);
    let (dg, du) = rest.split_at_mut(n * f);
    let du = &mut du[..n * f];
    let weights = [
        (o.down, [1, f], Hidden::Columns),
        (o.gate, [w, 1], Hidden::Summed),
        (o.up, [w, 1], Hidden::Summed),
    ];
    let outputs = [&mut *h, &mut *dg, &mut *du].map(SharedHalves::new);
    with_packed(f, w, weights, |[down, by_gate, by_up]| {
        blocks(n).for_each(|rows| {
            // SAFETY: as in the forward pass.
            unsafe {
                let mut block = Block::new(unit, rows.clone(), dy, w);
                for chunk in 0..f.div_ceil(CHUNK) {
                    let units = of_chunk(chunk, f);
                    let some = units.len();
                    let (g, u) = (block.first.as_mut_ptr(), block.second.as_mut_ptr());
                    block.expand(some, down.region(chunk), g);
                    for (i, row) in rows.clone().enumerate() {
                        let at = row * f + units.start;
                        let next = at + AHEAD * f;
                        soon(gate.as_ptr().wrapping_add(next), some);
                        soon(up.as_ptr().wrapping_add(next), some);
                        let [h, dg_half, du_half] = outputs.map(|x| x.slice(at, some));
                        gradients(Row {
                            gate: &gate[at..at + some],
                            up: &up[at..at + some],
                            dh: &mut block.first[i * CHUNK..][..some],
                            du: &mut block.second[i * CHUNK..][..some],
                            h,
                            dg_half,
                            du_half,
                        });
                    }
                    if let Some((dx, beta)) = dx {
                        let beta = if chunk == 0 { beta } else { 1.0 };
                        block.contract(some, g, by_gate.region(chunk), beta, dx);
                        block.contract(some, u, by_up.region(chunk), 1.0, dx);
                    }
                }
            }
        });
    });
    for (gradient, d) in [(grads.gate, &*dg), (grads.up, &*du)] {
        if let Some((c, beta)) = gradient {
            summed_over_rows(unit, [f, w, n], d, o.x, beta, c);
        }
    }
    if let Some((c, beta)) = grads.down {
        summed_over_rows(unit, [w, f, n], dy, &*h, beta, c);
    }
}

/// C [m, n] = beta C + Aᵀ B, for A [k, m] and B [k, n].
fn summed_over_rows<A: Element, B: Element>(
    unit: Unit,
    [m, n, k]: [usize; 3],
    a: &[A],
    b: &[B],
    beta: f32,
    c: &mut [f32],
) {
    assert!(
        a.len() == k * m && b.len() == k * n && c.len() == m * n,
        "ffn: a gradient [{m}, {n}] over {k} rows"
    );
    let s = Shape {
        m,
        n,
        k,
        rsa: 1,
        csa: m,
        rsb: n,
        csb: 1,
        rsc: n,
        alpha: 1.0,
        beta,
        upper: false,
    };
    // SAFETY: the operands have just been checked; the CPU has the unit.
    unsafe { walk::run_on(unit, s, a.as_ptr(), b.as_ptr(), Shared::new(c), true) }
}
