//! The walk, forward and backward.

use super::super::Shape;
use super::super::mixed::pack::{Element, Form, Source, pack};
use super::super::mixed::tile::{BLOCK, Begun, SIDE, STEPS, TILE, Unit};
use super::super::mixed::vector::{lowest, lowest_of_32, rounded, sigmoid, widened};
use super::super::mixed::walk::{self, ROWS, Sum, depths, part};
use super::{Ffn, Gradients, Kept, Saved};
use crate::cpu::norm;
use crate::cpu::scratch::{self, Scratch};
use crate::cpu::shared::Shared;
use rayon::prelude::*;
use std::arch::x86_64::*;
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
    input: Scratch,
    /// Two values for each row and hidden unit of a chunk, rows [`CHUNK`] apart.
    first: Scratch,
    second: Scratch,
    /// Two values for each as tiles of A.
    tiles: [Scratch; 2],
    begun: Begun,
}

impl Block {
    /// Room for some rows.
    ///
    /// # Safety
    /// The CPU has the unit.
    unsafe fn new(unit: Unit, rows: Range<usize>, width: usize) -> Self {
        let high = rows.len().next_multiple_of(SIDE);
        Self {
            width,
            input: scratch::take(high * width.next_multiple_of(STEPS) / 2),
            first: scratch::take(high * CHUNK),
            second: scratch::take(high * CHUNK),
            tiles: [(); 2].map(|()| scratch::take(high * CHUNK / 2)),
            // SAFETY: promised by the caller.
            begun: unsafe { unit.begin() },
            rows,
        }
    }

    /// Packs the rows of the input that begin `at` some row of the block: all, or whole strips.
    ///
    /// # Safety
    /// `x` has these rows, and the CPU the unit.
    unsafe fn pack(&mut self, x: &[f32], at: usize) {
        let high = self.rows.len().next_multiple_of(SIDE);
        let to: *mut u16 = self.input.as_mut_ptr().cast();
        let rows = x.len() / self.width;
        let (data, lines, steps) = (x.as_ptr(), self.width, 1);
        let from = Source { data, lines, steps };
        for steps in depths(self.width) {
            let before = high * steps.start + at * steps.len().next_multiple_of(STEPS);
            // SAFETY: promised by the caller, and there is room for the tiles.
            unsafe {
                let from = from.from(0, steps.start);
                pack(from, Form::A, rows, steps.len(), to.add(before));
            }
        }
    }

    /// Packs the normed rows of the layer's input.
    ///
    /// # Safety
    /// The CPU has the unit.
    unsafe fn norm(&mut self, o: &Ffn, rstd: Shared) {
        let w = self.width;
        scratch::with(BLOCK * w, |strip| {
            for at in (0..self.rows.len()).step_by(BLOCK) {
                let rows = BLOCK.min(self.rows.len() - at);
                for i in 0..rows {
                    let row = self.rows.start + at + i;
                    let (x, y) = (&o.x[row * w..][..w], &mut strip[i * w..][..w]);
                    // SAFETY: a row is of one task.
                    unsafe { rstd.slice(row, 1)[0] = norm::rms_row(x, o.gain, o.eps, y) };
                }
                // SAFETY: passed on from the caller.
                unsafe { self.pack(&strip[..rows * w], at) };
            }
        });
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

    /// C [rows, width] = beta C + `tiles` times the region of a chunk.
    ///
    /// # Safety
    /// The region is packed, the tiles have the size of `units`, and C is this task's alone.
    unsafe fn contract(
        &self,
        units: usize,
        tiles: &Scratch,
        region: *const u16,
        beta: f32,
        c: &mut [f32],
    ) {
        debug_assert_eq!(c.len(), self.rows.len() * self.width);
        let sum = Sum {
            rows: self.rows.len(),
            cols: self.width,
            steps: units,
            alpha: 1.0,
            beta,
            diagonal: None,
        };
        // SAFETY: promised by the caller.
        unsafe {
            let tiles = tiles.as_ptr().cast();
            sum.of(&self.begun, tiles, region, c.as_mut_ptr(), self.width);
        }
    }

    /// Where the hidden units of a row begin in tiles of A over `units`; the next 32 units lie [`Line::apart`] on.
    fn line(&self, tiles: *mut u16, row: usize, units: usize) -> Line {
        let strip = row / BLOCK * BLOCK;
        let high = BLOCK.min(self.rows.len() - strip).div_ceil(SIDE);
        let at = strip * units.next_multiple_of(STEPS) + (row - strip) / SIDE * TILE;
        Line {
            at: tiles.wrapping_add(at + row % SIDE * STEPS),
            apart: high * TILE,
        }
    }
}

/// A row in tiles of A.
#[derive(Clone, Copy)]
struct Line {
    at: *mut u16,
    apart: usize,
}

/// Writes 32 bf16, past the caches where they are whole cache lines: nobody reads them soon.
///
/// # Safety
/// The first `n` elements are there, and the CPU has AVX-512 BW.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn leave(x: __m512i, to: *mut u16, n: usize) {
    // SAFETY: promised by the caller.
    unsafe {
        if n >= STEPS && to.addr().is_multiple_of(64) {
            _mm512_stream_si512(to.cast(), x);
        } else {
            _mm512_mask_storeu_epi16(to.cast(), lowest_of_32(n), x);
        }
    }
}

/// 32 elements, zero beyond the first `n`.
///
/// # Safety
/// The first `n` are there, and the CPU has AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn loaded(from: *const f32, n: usize) -> [__m512; 2] {
    // SAFETY: promised by the caller; masked elements are not read.
    unsafe {
        [
            _mm512_maskz_loadu_ps(lowest(n), from),
            _mm512_maskz_loadu_ps(lowest(n.saturating_sub(SIDE)), from.wrapping_add(SIDE)),
        ]
    }
}

/// silu(gate) * up for the `n` hidden units of a row into their line; gate and up go where they are kept.
///
/// # Safety
/// Everything is there, and the CPU has AVX-512 BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn activate(
    n: usize,
    gate: *const f32,
    up: *const f32,
    line: Line,
    kept: Option<(*mut u16, *mut u16)>,
) {
    for at in (0..n).step_by(STEPS) {
        // SAFETY: promised by the caller.
        unsafe {
            let (g, u) = (loaded(gate.add(at), n - at), loaded(up.add(at), n - at));
            let [low, high] =
                [0, 1].map(|i| _mm512_mul_ps(_mm512_mul_ps(g[i], sigmoid(g[i])), u[i]));
            let to = line.at.add(at / STEPS * line.apart);
            _mm512_store_si512(to.cast(), rounded(low, high));
            if let Some((kept_gate, kept_up)) = kept {
                leave(rounded(g[0], g[1]), kept_gate.add(at), n - at);
                leave(rounded(u[0], u[1]), kept_up.add(at), n - at);
            }
        }
    }
}

pub(super) fn forward(unit: Unit, o: &Ffn, out: &mut [f32], kept: Option<Kept>) {
    let (n, w, f) = (o.rows(), o.width(), o.hidden());
    let out = Shared::new(out);
    let mut unkept = scratch::take(if kept.is_none() { n } else { 0 });
    let (kept, rstd) = match kept {
        Some(k) => {
            let room = [k.gate.len(), k.up.len(), k.rstd.len()] == [n * f, n * f, n];
            assert!(room, "ffn: room for what is kept");
            let halves = (SharedHalves::new(k.gate), SharedHalves::new(k.up));
            (Some(halves), Shared::new(k.rstd))
        }
        None => (None, Shared::new(&mut unkept)),
    };
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
                let mut block = Block::new(unit, rows.clone(), w);
                block.norm(o, rstd);
                let out = out.slice(rows.start * w, rows.len() * w);
                out.copy_from_slice(&o.x[rows.start * w..rows.end * w]);
                for chunk in 0..f.div_ceil(CHUNK) {
                    let units = of_chunk(chunk, f);
                    let some = units.len();
                    let (g, u) = (block.first.as_mut_ptr(), block.second.as_mut_ptr());
                    block.expand(some, gate.region(chunk), g);
                    block.expand(some, up.region(chunk), u);
                    let tiles = block.tiles[0].as_mut_ptr().cast();
                    for (i, row) in rows.clone().enumerate() {
                        let at = row * f + units.start;
                        let kept = kept.map(|(gate, up)| (gate.at(at), up.at(at)));
                        let line = block.line(tiles, i, some);
                        activate(some, g.add(i * CHUNK), u.add(i * CHUNK), line, kept);
                    }
                    block.contract(some, &block.tiles[0], down.region(chunk), 1.0, out);
                }
                _mm_sfence();
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

    /// Where an element lies.
    fn at(self, at: usize) -> *mut u16 {
        self.0.wrapping_add(at)
    }
}

/// Rows between what is computed and what is on its way from memory.
const AHEAD: usize = 8;

/// Has some elements brought near: pieces of rows that lie apart, which no prefetcher of the CPU foresees.
fn soon(from: *const u16, len: usize) {
    for at in (0..len).step_by(32) {
        // SAFETY: prefetching follows no pointer.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(at).cast()) };
    }
}

/// Hidden units of a row in the backward pass.
struct Row {
    gate: *const u16,
    up: *const u16,
    /// The gradient of silu(gate) * up.
    dh: *const f32,
    /// Where the gradients of gate and up go as A.
    lines: [Line; 2],
    /// Where silu(gate) * up and both gradients go for the products with the input.
    rows: [*mut u16; 3],
}

/// Gradients of the `n` hidden units of a row.
///
/// # Safety
/// As [`activate`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn gradients(n: usize, row: &Row) {
    let one = _mm512_set1_ps(1.0);
    for at in (0..n).step_by(STEPS) {
        // SAFETY: promised by the caller.
        unsafe {
            let some = lowest_of_32(n - at);
            let [g, u] = [row.gate, row.up]
                .map(|x| widened(_mm512_maskz_loadu_epi16(some, x.add(at).cast())));
            let d = loaded(row.dh.add(at), n - at);
            let mut out = [[_mm512_setzero_ps(); 2]; 3];
            for i in 0..2 {
                let s = sigmoid(g[i]);
                let silu = _mm512_mul_ps(g[i], s);
                // s (1 + g (1 - s)) = s + silu (1 - s)
                let slope = _mm512_fmadd_ps(silu, _mm512_sub_ps(one, s), s);
                out[0][i] = _mm512_mul_ps(silu, u[i]);
                out[1][i] = _mm512_mul_ps(_mm512_mul_ps(d[i], u[i]), slope);
                out[2][i] = _mm512_mul_ps(d[i], silu);
            }
            let halves = out.map(|[low, high]| rounded(low, high));
            for (line, half) in row.lines.iter().zip(&halves[1..]) {
                _mm512_store_si512(line.at.add(at / STEPS * line.apart).cast(), *half);
            }
            for (to, half) in row.rows.iter().zip(halves) {
                leave(half, to.add(at), n - at);
            }
        }
    }
}

/// The normed rows of the layer's input once more, as bf16: `to` [rows, W].
///
/// # Safety
/// The CPU has AVX-512 BW and BF16, and `to` the room.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn normed(o: &Ffn, rows: Range<usize>, rstd: &[f32], to: *mut u16) {
    let w = o.width();
    for (i, row) in rows.enumerate() {
        let (x, r) = (&o.x[row * w..][..w], _mm512_set1_ps(rstd[row]));
        for at in (0..w).step_by(STEPS) {
            // SAFETY: promised by the caller.
            unsafe {
                let x = loaded(x.as_ptr().add(at), w - at);
                let gain = loaded(o.gain.as_ptr().add(at), w - at);
                let [low, high] = [0, 1].map(|i| _mm512_mul_ps(_mm512_mul_ps(x[i], r), gain[i]));
                let some = lowest_of_32(w - at);
                _mm512_mask_storeu_epi16(to.add(i * w + at).cast(), some, rounded(low, high));
            }
        }
    }
}

pub(super) fn backward(unit: Unit, o: &Ffn, saved: Saved, dy: &[f32], grads: Gradients) {
    let (n, w, f) = (o.rows(), o.width(), o.hidden());
    let dx = grads.x.map(|(x, beta)| {
        assert_eq!(x.len(), n * w, "ffn: gradient of x");
        (Shared::new(x), beta)
    });
    let through = dx.is_some() || grads.gain.is_some();
    // silu(gate) * up and the gradients of gate and up, [N, F] each; normed rows, [N, W].
    let mut room = scratch::take((3 * n * f + n * w).div_ceil(2));
    let (h, rest) = super::halves(&mut room).split_at_mut(n * f);
    let (dg, rest) = rest.split_at_mut(n * f);
    let (du, rest) = rest.split_at_mut(n * f);
    let input = &mut rest[..n * w];
    let weights = [
        (o.down, [1, f], Hidden::Columns),
        (o.gate, [w, 1], Hidden::Summed),
        (o.up, [w, 1], Hidden::Summed),
    ];
    let outputs = [&mut *h, &mut *dg, &mut *du].map(SharedHalves::new);
    let rows_out = SharedHalves::new(input);
    let mut parts: Vec<Vec<f32>> = Vec::new();
    with_packed(f, w, weights, |[down, by_gate, by_up]| {
        let task = |rows: Range<usize>| {
            // SAFETY: as in the forward pass.
            unsafe {
                let here = rows.start * w..rows.end * w;
                let mut block = Block::new(unit, rows.clone(), w);
                block.pack(&dy[here.clone()], 0);
                normed(o, rows.clone(), saved.rstd, rows_out.at(here.start));
                let mut dn = scratch::take(here.len());
                for chunk in 0..f.div_ceil(CHUNK) {
                    let units = of_chunk(chunk, f);
                    let some = units.len();
                    let dh = block.first.as_mut_ptr();
                    block.expand(some, down.region(chunk), dh);
                    let tiles = block.tiles.each_mut().map(|x| x.as_mut_ptr().cast());
                    for (i, row) in rows.clone().enumerate() {
                        let at = row * f + units.start;
                        let next = at + AHEAD * f;
                        soon(saved.gate.as_ptr().wrapping_add(next), some);
                        soon(saved.up.as_ptr().wrapping_add(next), some);
                        let row = Row {
                            gate: saved.gate.as_ptr().add(at),
                            up: saved.up.as_ptr().add(at),
                            dh: dh.add(i * CHUNK),
                            lines: tiles.map(|x| block.line(x, i, some)),
                            rows: outputs.map(|x| x.at(at)),
                        };
                        gradients(some, &row);
                    }
                    if through {
                        let beta = if chunk == 0 { 0.0 } else { 1.0 };
                        let [by_g, by_u] = [by_gate.region(chunk), by_up.region(chunk)];
                        block.contract(some, &block.tiles[0], by_g, beta, &mut dn);
                        block.contract(some, &block.tiles[1], by_u, 1.0, &mut dn);
                    }
                }
                _mm_sfence();
                let mut part = vec![0.0; w];
                if through {
                    let mut aside = scratch::take(if dx.is_none() { w } else { 0 });
                    for (i, row) in rows.enumerate() {
                        let at = row * w;
                        let to = match dx {
                            Some((dx, beta)) => {
                                let to = dx.slice(at, w);
                                sum_into(to, beta, &dy[at..at + w]);
                                to
                            }
                            None => &mut aside[..],
                        };
                        let (x, dn) = (&o.x[at..at + w], &dn[i * w..][..w]);
                        let r = saved.rstd[row];
                        norm::rms_backward_row(x, o.gain, r, dn, true, to, &mut part);
                    }
                }
                part
            }
        };
        parts = blocks(n).map(task).collect();
    });
    if let Some((gain, beta)) = grads.gain {
        assert_eq!(gain.len(), w, "ffn: gradient of the gain");
        for (i, gain) in gain.iter_mut().enumerate() {
            let old = if beta == 0.0 { 0.0 } else { beta * *gain };
            *gain = parts.iter().fold(old, |sum, part| sum + part[i]);
        }
    }
    for (gradient, d) in [(grads.gate, &*dg), (grads.up, &*du)] {
        if let Some((c, beta)) = gradient {
            summed_over_rows(unit, [f, w, n], d, &*input, beta, c);
        }
    }
    if let Some((c, beta)) = grads.down {
        summed_over_rows(unit, [w, f, n], dy, &*h, beta, c);
    }
}

/// y = beta y + x
fn sum_into(y: &mut [f32], beta: f32, x: &[f32]) {
    if beta == 0.0 {
        y.copy_from_slice(x);
    } else {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = beta * *y + x);
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
