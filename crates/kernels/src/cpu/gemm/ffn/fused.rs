//! The walk, forward and backward.

use super::super::columns::{self, Product, products};
use super::super::mixed::pack::Form;
use super::super::mixed::tile::{BLOCK, Begun, SIDE, STEPS, TILE, Unit};
use super::super::mixed::vector::{loaded, lowest_of_32, rounded, sigmoid, widened};
use super::super::operand::Operand;
use super::super::rows::{
    self, Input, Normed, SharedHalves, Side, Weight, add_parts, blocks, high, of_chunk, strips,
    sum_into, with_packed,
};
use super::{Ffn, Gradients, Kept, Saved};
use crate::cpu::scratch::{self, Scratch};
use crate::cpu::shared::Shared;
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::ops::Range;

/// Hidden units at a time: gate and up of a block of rows take a quarter of a MiB.
const CHUNK: usize = 128;

/// The working memory of a block of rows.
struct Block {
    input: Input,
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
        let high = high(&rows);
        Self {
            input: Input::new(rows, width),
            first: scratch::take(high * CHUNK),
            second: scratch::take(high * CHUNK),
            tiles: [(); 2].map(|()| scratch::take(high * CHUNK / 2)),
            // SAFETY: promised by the caller.
            begun: unsafe { unit.begin() },
        }
    }

    /// The input times the region of a chunk of `units` into `to`, which is `first` or `second`.
    ///
    /// # Safety
    /// The region is packed, and `to` has their size.
    unsafe fn expand(&self, units: usize, region: *const u16, to: *mut f32) {
        let input = &self.input;
        // SAFETY: promised by the caller.
        unsafe { input.times(&self.begun, units, region, to, CHUNK, 0.0) }
    }

    /// C [rows, width] = beta C + `tiles` times the region of a chunk.
    ///
    /// # Safety
    /// The region is packed, and the tiles have the size of `units`.
    unsafe fn contract(
        &self,
        units: usize,
        tiles: &Scratch,
        region: *const u16,
        beta: f32,
        c: &mut [f32],
    ) {
        let (tiles, width) = (tiles.as_ptr().cast(), c.len() / self.input.rows.len());
        // SAFETY: promised by the caller.
        unsafe { rows::contract(&self.begun, units, tiles, region, width, c, beta) }
    }

    /// Where the hidden units of a row begin in tiles of A over `units`; the next 32 units lie [`Line::apart`] on.
    fn line(&self, tiles: *mut u16, row: usize, units: usize) -> Line {
        let strip = row / BLOCK * BLOCK;
        let high = BLOCK.min(self.input.rows.len() - strip).div_ceil(SIDE);
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
            let low = _mm512_mul_ps(_mm512_mul_ps(g[0], sigmoid(g[0])), u[0]);
            let high = _mm512_mul_ps(_mm512_mul_ps(g[1], sigmoid(g[1])), u[1]);
            let to = line.at.add(at / STEPS * line.apart);
            _mm512_store_si512(to.cast(), rounded(low, high));
            if let Some((kept_gate, kept_up)) = kept {
                leave(rounded(g[0], g[1]), kept_gate.add(at), n - at);
                leave(rounded(u[0], u[1]), kept_up.add(at), n - at);
            }
        }
    }
}

/// Gate, up and down for [`with_packed`].
fn weights<'a>(o: &Ffn<'a>, sides: [Side; 3]) -> [Weight<'a>; 3] {
    let (w, f) = (o.width(), o.hidden());
    let of = |data, [unit_apart, apart]: [usize; 2], side| Weight {
        data,
        units: f,
        unit_apart,
        apart,
        side,
    };
    [
        of(o.gate, [w, 1], sides[0]),
        of(o.up, [w, 1], sides[1]),
        of(o.down, [1, f], sides[2]),
    ]
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
    let (norm, sides) = (o.norm(), [Side::Columns, Side::Columns, Side::Summed]);
    with_packed(CHUNK, w, &weights(o, sides), |packed| {
        blocks(n).for_each(|rows| {
            // SAFETY: the CPU has the unit; the weights are packed, and these rows of the outputs are this task's
            // alone.
            unsafe {
                let mut block = Block::new(unit, rows.clone(), w);
                block.input.norm(o.x, norm, rstd);
                let out = out.slice(rows.start * w, rows.len() * w);
                out.copy_from_slice(&o.x[rows.start * w..rows.end * w]);
                for chunk in 0..f.div_ceil(CHUNK) {
                    let units = of_chunk(chunk, CHUNK, f);
                    let [gate, up, down] = std::array::from_fn(|i| packed[i].region(chunk));
                    let some = units.len();
                    let (g, u) = (block.first.as_mut_ptr(), block.second.as_mut_ptr());
                    block.expand(some, gate, g);
                    block.expand(some, up, u);
                    let tiles = block.tiles[0].as_mut_ptr().cast();
                    for (i, row) in rows.clone().enumerate() {
                        let at = row * f + units.start;
                        let kept = kept.map(|(gate, up)| (gate.at(at), up.at(at)));
                        let line = block.line(tiles, i, some);
                        activate(some, g.add(i * CHUNK), u.add(i * CHUNK), line, kept);
                    }
                    block.contract(some, &block.tiles[0], down, 1.0, out);
                }
                _mm_sfence();
            }
        });
    });
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
            let g = widened(_mm512_maskz_loadu_epi16(some, row.gate.add(at).cast()));
            let u = widened(_mm512_maskz_loadu_epi16(some, row.up.add(at).cast()));
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
            let [h, dg, du] = out;
            let halves = [
                rounded(h[0], h[1]),
                rounded(dg[0], dg[1]),
                rounded(du[0], du[1]),
            ];
            for (line, half) in row.lines.iter().zip(&halves[1..]) {
                _mm512_store_si512(line.at.add(at / STEPS * line.apart).cast(), *half);
            }
            for (to, half) in row.rows.iter().zip(halves) {
                _mm512_store_si512(to.add(at).cast(), half);
            }
        }
    }
}

pub(super) fn backward(unit: Unit, o: &Ffn, saved: Saved, dy: &[f32], grads: Gradients) {
    let (n, w, f) = (o.rows(), o.width(), o.hidden());
    let beta = grads.x.as_ref().map_or(0.0, |(_, beta)| *beta);
    let dx = grads.x.map(|(x, _)| {
        assert_eq!(x.len(), n * w, "ffn: gradient of x");
        Shared::new(x)
    });
    let through = dx.is_some() || grads.gain.is_some();
    // What the gradients of weights sum over rows: those of gate and up with the normed rows, those of the output
    // with silu(gate) * up.
    let mut dg = Operand::new(Form::A, f, n);
    let mut du = Operand::new(Form::A, f, n);
    let mut h = Operand::new(Form::B, f, n);
    let mut input = Operand::new(Form::B, w, n);
    let mut out = Operand::new(Form::A, w, n);
    let (hidden, input_place, out_place) = (
        [h.place(), dg.place(), du.place()],
        input.place(),
        out.place(),
    );
    let (x, gain, rstd) = (o.x, o.gain, saved.rstd);
    let norm = Normed { x, gain, rstd };
    let sides = [Side::Summed, Side::Summed, Side::Columns];
    let mut parts: Vec<Vec<f32>> = Vec::new();
    with_packed(CHUNK, w, &weights(o, sides), |packed| {
        let task = |rows: Range<usize>| {
            // SAFETY: as in the forward pass.
            unsafe {
                let here = rows.start * w..rows.end * w;
                let mut block = Block::new(unit, rows.clone(), w);
                let mut strip_room = scratch::take(BLOCK * w.max(3 * CHUNK) / 2);
                let strip_room: *mut u16 = strip_room.as_mut_ptr().cast();
                for strip in strips(rows.clone()) {
                    let dy = &dy[strip.start * w..strip.end * w];
                    block.input.pack(dy, strip.start - rows.start);
                    columns::pack(out_place, dy.as_ptr(), w, strip.clone(), 0..w);
                    norm.again(strip.clone(), strip_room);
                    columns::pack(input_place, strip_room.cast_const(), w, strip, 0..w);
                }
                let mut dn = scratch::take(here.len());
                for chunk in 0..f.div_ceil(CHUNK) {
                    let units = of_chunk(chunk, CHUNK, f);
                    let [gate, up, down] = std::array::from_fn(|i| packed[i].region(chunk));
                    let some = units.len();
                    let dh = block.first.as_mut_ptr();
                    block.expand(some, down, dh);
                    let tiles = block.tiles.each_mut().map(|x| x.as_mut_ptr().cast());
                    for strip in strips(rows.clone()) {
                        for row in strip.clone() {
                            let (i, at) = (row - rows.start, row * f + units.start);
                            let next = at + AHEAD * f;
                            soon(saved.gate.as_ptr().wrapping_add(next), some);
                            soon(saved.up.as_ptr().wrapping_add(next), some);
                            let in_strip = (row - strip.start) * CHUNK;
                            let row = Row {
                                gate: saved.gate.as_ptr().add(at),
                                up: saved.up.as_ptr().add(at),
                                dh: dh.add(i * CHUNK),
                                lines: tiles.map(|x| block.line(x, i, some)),
                                rows: [0, 1, 2]
                                    .map(|k| strip_room.add(k * BLOCK * CHUNK + in_strip)),
                            };
                            gradients(some, &row);
                        }
                        for (k, place) in hidden.iter().enumerate() {
                            let from = strip_room.add(k * BLOCK * CHUNK).cast_const();
                            columns::pack(*place, from, CHUNK, strip.clone(), units.clone());
                        }
                    }
                    if through {
                        let beta = if chunk == 0 { 0.0 } else { 1.0 };
                        block.contract(some, &block.tiles[0], gate, beta, &mut dn);
                        block.contract(some, &block.tiles[1], up, 1.0, &mut dn);
                    }
                }
                let mut part = vec![0.0; w];
                if through {
                    let start = |row: usize, to: &mut [f32]| {
                        sum_into(to, beta, &dy[row * w..][..w]);
                    };
                    norm.through(rows, &dn, dx, start, &mut part);
                }
                part
            }
        };
        parts = blocks(n).map(task).collect();
    });
    if let Some((gain, beta)) = grads.gain {
        assert_eq!(gain.len(), w, "ffn: gradient of the gain");
        add_parts(gain, beta, &parts);
    }
    let of = |gradient: Option<(_, f32)>, a, b| gradient.map(|(c, beta)| Product { a, b, beta, c });
    let sums = [
        of(grads.gate, &dg, &input),
        of(grads.up, &du, &input),
        of(grads.down, &out, &h),
    ];
    products(unit, sums.into_iter().flatten().collect());
}
