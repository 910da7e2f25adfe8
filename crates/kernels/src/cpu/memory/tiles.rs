//! The memory on tiles of bf16: the arithmetic of [`super::chunk`], a strip of 32 slots at a time.
//!
//! What has an entry per row and slot stands on its side, `[S, T]`: rows are the lanes of vectors, so that what
//! leaves the vectors lies in the order in which the next product reads it, and a strip never leaves the first-level
//! cache. A chunk reads and writes one state, which is packed once.
//!
//! Legend: as in [`super::chunk`], and C columns, the T rows of a chunk filled up to whole panels.

use super::MemoryShape;
use super::chunk::{
    Arithmetic, CarriedBack, Chunk, ChunkGradient, HeadMemory, MemoryView, SlotGradients, Slots,
    carry_over, clip, clip_backward, scale_rows, weigh_back,
};
use super::scan::Coefficients;
use crate::cpu::gemm::mixed::pack::Form;
use crate::cpu::gemm::mixed::panels::{Rows, block, halves, start, strip, upright};
use crate::cpu::gemm::mixed::tile::{BLOCK, Begun, SIDE, STEPS, TILE, Unit};
use crate::cpu::gemm::mixed::vector::{paired, rounded, sigmoid};
use crate::cpu::scratch::{self, Scratch};
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of a read that are computed together.
const ROWS: usize = 64;

/// Fewest rows of a chunk from which filling up panels pays.
const LEAST: usize = 16;

/// Whether a memory can be computed this way, and is better so.
pub(super) fn suits(shape: MemoryShape) -> bool {
    let whole = |x: usize| x.is_multiple_of(BLOCK);
    whole(shape.width) && whole(shape.slots) && shape.chunk >= LEAST
}

/// One head's tiles on one thread.
pub(super) struct Tiles {
    begun: Begun,
    shape: MemoryShape,
}

/// A memory packed for products, each matrix as rows `[S, D]` and as columns `[D, S]`.
pub(super) struct Packed {
    keys: Scratch,
    values: Scratch,
    value_columns: Scratch,
    /// For gradients.
    key_columns: Option<Scratch>,
}

/// Where a strip `[32, C]` of a matrix `[S, C]` goes in bf16.
#[derive(Clone, Copy)]
struct Places {
    /// As a strip of A over the columns as steps.
    a: Option<*mut u16>,
    /// In panels of B over the slots as steps, and their distance.
    b: Option<(*mut u16, usize)>,
}

impl Places {
    /// Rows `i` and `i + 1` of a panel, two vectors each.
    ///
    /// # Safety
    /// The places have room for the strip; the CPU has AVX-512 BW and BF16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn put(&self, panel: usize, i: usize, x: [[__m512; 2]; 2]) {
        // SAFETY: promised by the caller.
        unsafe {
            if let Some(a) = self.a {
                for (row, [low, high]) in x.into_iter().enumerate() {
                    let line = i + row;
                    let at = (panel * 2 + line / SIDE) * TILE + line % SIDE * STEPS;
                    _mm512_storeu_si512(a.add(at).cast(), rounded(low, high));
                }
            }
            if let Some((b, apart)) = self.b {
                for (side, (&even, &odd)) in x[0].iter().zip(&x[1]).enumerate() {
                    let at = panel * apart + side * TILE + i * SIDE;
                    _mm512_storeu_si512(b.add(at).cast(), paired(even, odd));
                }
            }
        }
    }
}

/// Rows `i` and `i + 1` of a panel of X `[32, columns]`.
///
/// # Safety
/// They are there; the CPU has AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn pair(x: *const f32, columns: usize, panel: usize, i: usize) -> [[__m512; 2]; 2] {
    let at = i * columns + panel * BLOCK;
    // SAFETY: promised by the caller.
    let of = |at: usize| unsafe { _mm512_loadu_ps(x.add(at)) };
    [
        [of(at), of(at + SIDE)],
        [of(at + columns), of(at + columns + SIDE)],
    ]
}

/// Overwrites what [`pair`] reads.
///
/// # Safety
/// As [`pair`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put_pair(to: *mut f32, columns: usize, panel: usize, i: usize, x: [[__m512; 2]; 2]) {
    for (row, x) in x.into_iter().enumerate() {
        for (side, x) in x.into_iter().enumerate() {
            // SAFETY: promised by the caller.
            unsafe {
                let at = (i + row) * columns + panel * BLOCK + side * SIDE;
                _mm512_storeu_ps(to.add(at), x);
            }
        }
    }
}

/// Each pair of rows of each panel of a strip.
fn pairs(columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..columns / BLOCK).flat_map(|panel| (0..BLOCK).step_by(2).map(move |i| (panel, i)))
}

/// active = silu(hidden), and where wanted silu' and silu'' of hidden, all `[32, columns]`.
///
/// # Safety
/// Everything is there; the CPU has AVX-512 BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn activate(
    hidden: *const f32,
    columns: usize,
    active: Places,
    slope: Option<*mut f32>,
    curvature: Option<*mut f32>,
) {
    let (one, two) = (_mm512_set1_ps(1.0), _mm512_set1_ps(2.0));
    for (panel, i) in pairs(columns) {
        // SAFETY: promised by the caller.
        unsafe {
            let h = pair(hidden, columns, panel, i);
            let mut a = h;
            let (mut first, mut second) = (h, h);
            for (row, side) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let h = h[row][side];
                let s = sigmoid(h);
                let rest = _mm512_sub_ps(one, s);
                let y = _mm512_mul_ps(h, s);
                a[row][side] = y;
                first[row][side] = _mm512_fmadd_ps(y, rest, s);
                // s (1 - s) (2 + h (1 - 2 s))
                let bend = _mm512_fmadd_ps(h, _mm512_sub_ps(rest, s), two);
                second[row][side] = _mm512_mul_ps(_mm512_mul_ps(s, rest), bend);
            }
            active.put(panel, i, a);
            if let Some(slope) = slope {
                put_pair(slope, columns, panel, i, first);
            }
            if let Some(curvature) = curvature {
                put_pair(curvature, columns, panel, i, second);
            }
        }
    }
}

/// x ∘ y, both `[32, columns]`.
///
/// # Safety
/// As [`activate`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn multiply(x: *const f32, y: *const f32, columns: usize, to: Places) {
    for (panel, i) in pairs(columns) {
        // SAFETY: promised by the caller.
        unsafe {
            let (x, y) = (pair(x, columns, panel, i), pair(y, columns, panel, i));
            to.put(panel, i, each(x, y));
        }
    }
}

/// x y
#[inline]
#[target_feature(enable = "avx512f")]
fn each(x: [[__m512; 2]; 2], y: [[__m512; 2]; 2]) -> [[__m512; 2]; 2] {
    let of = |row: usize, side: usize| _mm512_mul_ps(x[row][side], y[row][side]);
    [[of(0, 0), of(0, 1)], [of(1, 0), of(1, 1)]]
}

/// x y + z
#[inline]
#[target_feature(enable = "avx512f")]
fn each_sum(x: [[__m512; 2]; 2], y: [[__m512; 2]; 2], z: [[__m512; 2]; 2]) -> [[__m512; 2]; 2] {
    let of = |row: usize, side: usize| _mm512_fmadd_ps(x[row][side], y[row][side], z[row][side]);
    [[of(0, 0), of(0, 1)], [of(1, 0), of(1, 1)]]
}

/// What a strip holds while a write is undone, `[32, columns]` each.
struct Undone {
    pull: *const f32,
    dkey_pull: *const f32,
    slope: *const f32,
    /// silu''(hidden) before, a part of the gradient of hidden after.
    curvature: *mut f32,
    key_pull: Places,
    dpull: Places,
}

/// key_pull = pull ∘ slope, and back through it: dpull and the part of dhidden that comes by the slope.
///
/// # Safety
/// As [`activate`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn undo(u: &Undone, columns: usize) {
    for (panel, i) in pairs(columns) {
        // SAFETY: promised by the caller.
        unsafe {
            let of = |x: *const f32| pair(x, columns, panel, i);
            let (pull, dkey_pull, slope) = (of(u.pull), of(u.dkey_pull), of(u.slope));
            u.key_pull.put(panel, i, each(pull, slope));
            u.dpull.put(panel, i, each(dkey_pull, slope));
            let bent = each(each(dkey_pull, pull), of(u.curvature));
            put_pair(u.curvature, columns, panel, i, bent);
        }
    }
}

/// dhidden = so_far + dactive ∘ slope, all `[32, columns]`.
///
/// # Safety
/// As [`activate`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn add_product(
    dactive: *const f32,
    slope: *const f32,
    so_far: *const f32,
    columns: usize,
    to: Places,
) {
    for (panel, i) in pairs(columns) {
        // SAFETY: promised by the caller.
        unsafe {
            let of = |x: *const f32| pair(x, columns, panel, i);
            to.put(panel, i, each_sum(of(dactive), of(slope), of(so_far)));
        }
    }
}

/// The rows of a chunk, and the columns that they take.
#[derive(Clone, Copy)]
struct Taken {
    rows: usize,
    columns: usize,
}

impl Taken {
    fn by(rows: usize) -> Self {
        let columns = rows.next_multiple_of(BLOCK);
        Self { rows, columns }
    }
}

impl Tiles {
    /// # Safety
    /// The CPU has the unit; the shape is one that [`suits`].
    pub(super) unsafe fn begin(unit: Unit, shape: MemoryShape) -> Self {
        // SAFETY: promised by the caller.
        let begun = unsafe { unit.begin() };
        Self { begun, shape }
    }

    /// Slots `[S, D]` as strips of A over their columns as steps.
    fn rows(&self, x: &[f32]) -> Scratch {
        let (s, d) = (self.shape.slots, self.shape.width);
        let mut to = halves(s * d);
        // SAFETY: the rows are there, and slots and width are whole strips.
        unsafe { Rows::of(x, 0..s, d, 0).lines(Form::A, d, start(&mut to)) };
        to
    }

    /// Slots `[S, D]` as strips of A with their columns as lines.
    fn columns(&self, x: &[f32]) -> Scratch {
        let (s, d) = (self.shape.slots, self.shape.width);
        let mut to = halves(s * d);
        // SAFETY: as in `rows`.
        unsafe { Rows::of(x, 0..s, d, 0).steps(Form::A, d, start(&mut to)) };
        to
    }

    fn strips(&self) -> Range<usize> {
        0..self.shape.slots / BLOCK
    }

    /// Elements of a strip of rows `[32, D]`.
    fn strip_len(&self) -> usize {
        BLOCK * self.shape.width
    }

    /// The part of keys or values that is a strip.
    fn part(&self, at: usize) -> Range<usize> {
        at * self.strip_len()..(at + 1) * self.strip_len()
    }

    /// x `[T, D]` as panels of B: rows as columns.
    fn across(&self, x: &[f32], t: Taken) -> Scratch {
        let d = self.shape.width;
        let mut to = halves(t.columns * d);
        // SAFETY: the rows are there, and `to` holds whole panels.
        unsafe { Rows::of(x, 0..t.rows, d, 0).lines(Form::B, d, start(&mut to)) };
        to
    }

    /// x `[T, D]` as panels of B: rows as steps.
    fn along(&self, x: &[f32], t: Taken) -> Scratch {
        let d = self.shape.width;
        let mut to = halves(t.columns * d);
        // SAFETY: as in `across`.
        unsafe { Rows::of(x, 0..t.rows, d, 0).steps(Form::B, d, start(&mut to)) };
        to
    }

    /// C `[32, columns]` = (C +) a strip of rows `[32, D]` by what [`Tiles::across`] gave.
    ///
    /// # Safety
    /// C has these elements, `a` the strip.
    unsafe fn scores(&self, a: *const u16, x: &Scratch, t: Taken, c: *mut f32, add: bool) {
        let (steps, b) = (self.shape.width / STEPS, x.as_ptr().cast());
        // SAFETY: promised by the caller.
        unsafe {
            let first = block(steps, a, b, c, t.columns, add);
            strip(&self.begun, first, self.strip_len(), t.columns);
        }
    }

    /// x `[32, D]` += a strip over the rows of a chunk by what [`Tiles::along`] gave.
    ///
    /// # Safety
    /// `a` has the strip.
    unsafe fn spread(&self, a: *const u16, by: &Scratch, t: Taken, x: &mut [f32]) {
        let d = self.shape.width;
        assert_eq!(x.len(), self.strip_len(), "memory: a strip");
        let (steps, b) = (t.columns / STEPS, by.as_ptr().cast());
        // SAFETY: promised by the caller, and the length has been checked.
        unsafe {
            let first = block(steps, a, b, x.as_mut_ptr(), d, true);
            strip(&self.begun, first, BLOCK * t.columns, d);
        }
    }

    /// `[T, D]` = the columns of packed slots `[D, S]` times panels over the slots.
    fn answers(&self, columns: &Scratch, panels: &Scratch, t: Taken) -> Scratch {
        let (s, d) = (self.shape.slots, self.shape.width);
        let mut aside = scratch::take(d * t.columns);
        let mut out = scratch::take(t.rows * d);
        // SAFETY: both operands are packed over all slots; `aside` and `out` have these elements.
        unsafe {
            for high in 0..d / BLOCK {
                let a = columns.as_ptr().cast::<u16>().add(high * BLOCK * s);
                let c = aside.as_mut_ptr().add(high * BLOCK * t.columns);
                let first = block(s / STEPS, a, panels.as_ptr().cast(), c, t.columns, false);
                strip(&self.begun, first, BLOCK * s, t.columns);
            }
            upright(
                aside.as_ptr(),
                d,
                t.columns,
                None,
                t.rows,
                out.as_mut_ptr(),
                d,
            );
        }
        out
    }

    /// Where strip `at` goes in panels over the slots.
    fn in_panels(&self, panels: &mut Scratch, at: usize) -> Option<(*mut u16, usize)> {
        let apart = BLOCK * self.shape.slots;
        // SAFETY: panels hold all strips.
        Some((unsafe { start(panels).add(at * BLOCK * STEPS) }, apart))
    }

    /// A strip of packed rows.
    fn row_strip(&self, rows: &Scratch, at: usize) -> *const u16 {
        rows.as_ptr()
            .cast::<u16>()
            .wrapping_add(at * self.strip_len())
    }

    /// What the rows of a chunk find wrong with the memory at its start.
    fn look(&self, memory: &Packed, chunk: &Chunk, backward: bool) -> Found {
        let (s, t) = (self.shape.slots, Taken::by(chunk.eta.len()));
        let mut hidden = scratch::take(BLOCK * t.columns);
        let (mut active, mut panels) = (halves(s * t.columns), halves(s * t.columns));
        let mut slope = scratch::take(s * t.columns);
        let mut curvature = scratch::take(if backward { s * t.columns } else { 0 });
        let k = self.across(chunk.k, t);
        for at in self.strips() {
            let place = at * BLOCK * t.columns;
            let places = Places {
                a: Some(start(&mut active).wrapping_add(place)),
                b: self.in_panels(&mut panels, at),
            };
            let hidden = hidden.as_mut_ptr();
            let slope = slope[place..].as_mut_ptr();
            let curvature = backward.then(|| curvature[place..].as_mut_ptr());
            // SAFETY: strips of the packed keys and of the buffers are there.
            unsafe {
                self.scores(self.row_strip(&memory.keys, at), &k, t, hidden, false);
                activate(hidden, t.columns, places, Some(slope), curvature);
            }
        }
        let mut error = self.answers(&memory.value_columns, &panels, t);
        let norm = clip(&mut error, chunk.v, self.shape.width);
        Found {
            t,
            active,
            panels,
            slope,
            curvature,
            error,
            norm,
        }
    }
}

impl Arithmetic for Tiles {
    type Packed = Packed;

    fn pack(&self, memory: Slots, backward: bool) -> Packed {
        Packed {
            keys: self.rows(memory.keys),
            values: self.rows(memory.values),
            value_columns: self.columns(memory.values),
            key_columns: backward.then(|| self.columns(memory.keys)),
        }
    }

    fn read(&self, _: Slots, memory: &Packed, q: &[f32]) -> Scratch {
        let d = self.shape.width;
        let mut out = scratch::take(q.len());
        for (q, out) in q.chunks(ROWS * d).zip(out.chunks_mut(ROWS * d)) {
            let t = Taken::by(q.len() / d);
            let mut hidden = scratch::take(BLOCK * t.columns);
            let mut panels = halves(self.shape.slots * t.columns);
            let q = self.across(q, t);
            for at in self.strips() {
                let b = self.in_panels(&mut panels, at);
                let hidden = hidden.as_mut_ptr();
                // SAFETY: strips of packed keys, of the panels and of `hidden` are there.
                unsafe {
                    self.scores(self.row_strip(&memory.keys, at), &q, t, hidden, false);
                    activate(hidden, t.columns, Places { a: None, b }, None, None);
                }
            }
            out.copy_from_slice(&self.answers(&memory.value_columns, &panels, t));
        }
        out
    }

    fn read_backward(
        &self,
        (_, memory): (Slots, &Packed),
        q: &[f32],
        dout: &[f32],
        [dkeys, dvalues]: [&mut [f32]; 2],
    ) -> Scratch {
        let d = self.shape.width;
        let mut dq = scratch::take(q.len());
        let rows = q.chunks(ROWS * d).zip(dout.chunks(ROWS * d));
        for ((q, dout), dq) in rows.zip(dq.chunks_mut(ROWS * d)) {
            let t = Taken::by(q.len() / d);
            let mut strips = scratch::take(3 * BLOCK * t.columns);
            let mut tiles = halves(2 * BLOCK * t.columns);
            let mut panels = halves(self.shape.slots * t.columns);
            let (q_across, q_along) = (self.across(q, t), self.along(q, t));
            let (y_across, y_along) = (self.across(dout, t), self.along(dout, t));
            for at in self.strips() {
                let [hidden, slope, dactive] = std::array::from_fn(|i| {
                    strips.as_mut_ptr().wrapping_add(i * BLOCK * t.columns)
                });
                let active = start(&mut tiles);
                let dhidden = active.wrapping_add(BLOCK * t.columns);
                let b = self.in_panels(&mut panels, at);
                // SAFETY: strips of the packed memory, the panels and the buffers are there.
                unsafe {
                    self.scores(
                        self.row_strip(&memory.keys, at),
                        &q_across,
                        t,
                        hidden,
                        false,
                    );
                    self.scores(
                        self.row_strip(&memory.values, at),
                        &y_across,
                        t,
                        dactive,
                        false,
                    );
                    let places = Places {
                        a: Some(active),
                        b: None,
                    };
                    activate(hidden, t.columns, places, Some(slope), None);
                    let places = Places {
                        a: Some(dhidden),
                        b,
                    };
                    multiply(dactive, slope, t.columns, places);
                    self.spread(active, &y_along, t, &mut dvalues[self.part(at)]);
                    self.spread(dhidden, &q_along, t, &mut dkeys[self.part(at)]);
                }
            }
            dq.copy_from_slice(&self.answers(memory.key_columns(), &panels, t));
        }
        dq
    }

    fn write(&self, base: Slots, memory: MemoryView, packed: &Packed, chunk: &Chunk) {
        let mut found = self.look(packed, chunk, false);
        let t = found.t;
        let c = Coefficients::of(chunk.eta, chunk.theta, chunk.alpha);
        let error = self.across(&found.error, t);
        let weighted =
            |x: &[f32]| [&c.to_memory, &c.to_momentum].map(|w| self.along(&scale_rows(x, w), t));
        let (k, e) = (weighted(chunk.k), weighted(&found.error));
        let mut pull = scratch::take(BLOCK * t.columns);
        let mut key_pull = halves(BLOCK * t.columns);
        for at in self.strips() {
            let (part, place) = (self.part(at), at * BLOCK * t.columns);
            let pull = pull.as_mut_ptr();
            let key_pull = start(&mut key_pull);
            let a = Some(key_pull);
            // SAFETY: strips of the packed values and of the buffers are there.
            unsafe {
                let slope = found.slope[place..].as_ptr();
                self.scores(self.row_strip(&packed.values, at), &error, t, pull, false);
                multiply(pull, slope, t.columns, Places { a, b: None });
                let active = start(&mut found.active).wrapping_add(place);
                let halves = [
                    (
                        &mut *memory.keys,
                        &mut *memory.momentum_keys,
                        base.keys,
                        key_pull,
                        &k,
                    ),
                    (
                        &mut *memory.values,
                        &mut *memory.momentum_values,
                        base.values,
                        active,
                        &e,
                    ),
                ];
                for (fast, momentum, learned, a, by) in halves {
                    let (fast, momentum) = (&mut fast[part.clone()], &mut momentum[part.clone()]);
                    carry_over(
                        fast,
                        momentum,
                        &learned[part.clone()],
                        c.keep,
                        c.carry,
                        c.decay,
                    );
                    self.spread(a, &by[0], t, fast);
                    self.spread(a, &by[1], t, momentum);
                }
            }
        }
    }

    fn write_backward(
        &self,
        base: Slots,
        (before, packed): (&HeadMemory, &Packed),
        chunk: &Chunk,
        last: bool,
        grad: &mut HeadMemory,
        dbase: &mut SlotGradients,
    ) -> ChunkGradient {
        let (s, d) = (self.shape.slots, self.shape.width);
        let mut found = self.look(packed, chunk, true);
        let t = found.t;
        let c = Coefficients::of(chunk.eta, chunk.theta, chunk.alpha);
        // The momentum after the last chunk that is written is never used: its gradient is zero.
        let used = if last { 1 } else { 2 };
        let weights = [&c.to_memory, &c.to_momentum];

        // Through the weighted outer products to what they multiply, which is the same for both weights: left factors
        // by strips below, right ones from these columns.
        let key_columns = [&grad.keys, &grad.momentum_keys].map(|x| self.columns(x));
        let value_columns = [&grad.values, &grad.momentum_values].map(|x| self.columns(x));
        let weighted = |x: &[f32]| weights.map(|w| self.across(&scale_rows(x, w), t));
        let (k, e) = (weighted(chunk.k), weighted(&found.error));
        let (error, error_along) = (self.across(&found.error, t), self.along(&found.error, t));

        let mut dactive = scratch::take(s * t.columns);
        let (mut pulls, mut dpulls) = (halves(s * t.columns), halves(s * t.columns));
        let mut strips = scratch::take(2 * BLOCK * t.columns);
        let mut tiles = halves(BLOCK * t.columns);
        let mut rows = halves(self.strip_len());
        let mut carried = CarriedBack::default();
        for at in self.strips() {
            let (part, place) = (self.part(at), at * BLOCK * t.columns);
            let pull = strips.as_mut_ptr();
            let dkey_pull = pull.wrapping_add(BLOCK * t.columns);
            let dpull = start(&mut tiles);
            let undone = Undone {
                pull,
                dkey_pull,
                slope: found.slope[place..].as_ptr(),
                curvature: found.curvature[place..].as_mut_ptr(),
                key_pull: Places {
                    a: None,
                    b: self.in_panels(&mut pulls, at),
                },
                dpull: Places {
                    a: Some(dpull),
                    b: self.in_panels(&mut dpulls, at),
                },
            };
            // SAFETY: strips of the packed memory and of the buffers are there.
            unsafe {
                self.scores(self.row_strip(&packed.values, at), &error, t, pull, false);
                let mut through = |x: &[f32], by: &Scratch, to, add| {
                    let x = Rows::of(&x[part.clone()], 0..BLOCK, d, 0);
                    x.lines(Form::A, d, start(&mut rows));
                    self.scores(start(&mut rows), by, t, to, add);
                };
                let dactive = dactive[place..].as_mut_ptr();
                let keys = [&grad.keys, &grad.momentum_keys];
                let values = [&grad.values, &grad.momentum_values];
                for i in 0..used {
                    through(keys[i], &k[i], dkey_pull, i > 0);
                    through(values[i], &e[i], dactive, i > 0);
                }
                undo(&undone, t.columns);
                carried.strip(&c, base, before, grad, dbase, part.clone());
                self.spread(dpull, &error_along, t, &mut grad.values[part]);
            }
        }

        // The right factors, the weights, and the error.
        let (mut dk, mut derror) = (scratch::zeros(t.rows * d), scratch::zeros(t.rows * d));
        let mut dweights = [vec![0.0; t.rows], vec![0.0; t.rows]];
        for i in 0..used {
            let seen = self.answers(&key_columns[i], &pulls, t);
            weigh_back(chunk.k, &seen, weights[i], &mut dk, &mut dweights[i]);
            let seen = self.answers(&value_columns[i], &found.panels, t);
            weigh_back(
                &found.error,
                &seen,
                weights[i],
                &mut derror,
                &mut dweights[i],
            );
        }
        add(
            &mut derror,
            &self.answers(&packed.value_columns, &dpulls, t),
        );
        clip_backward(&mut derror, &found.error, &found.norm, d);

        // Through the error's own look at the memory, and through hidden.
        let (error, error_along) = (self.across(&derror, t), self.along(&derror, t));
        let k_along = self.along(chunk.k, t);
        for at in self.strips() {
            let (part, place) = (self.part(at), at * BLOCK * t.columns);
            let dactive = dactive[place..].as_mut_ptr();
            let dhidden = start(&mut tiles);
            let places = Places {
                a: Some(dhidden),
                b: self.in_panels(&mut dpulls, at),
            };
            // SAFETY: as above.
            unsafe {
                self.scores(self.row_strip(&packed.values, at), &error, t, dactive, true);
                let (slope, bent) = (
                    found.slope[place..].as_ptr(),
                    found.curvature[place..].as_ptr(),
                );
                add_product(dactive, slope, bent, t.columns, places);
                let active = start(&mut found.active).wrapping_add(place);
                self.spread(active, &error_along, t, &mut grad.values[part.clone()]);
                self.spread(dhidden, &k_along, t, &mut grad.keys[part]);
            }
        }
        add(&mut dk, &self.answers(packed.key_columns(), &dpulls, t));
        derror.iter_mut().for_each(|g| *g = -*g);
        c.chunk_gradient(chunk, dk, derror, &dweights, &carried)
    }
}

impl Packed {
    fn key_columns(&self) -> &Scratch {
        let columns = self.key_columns.as_ref();
        columns.expect("memory: packed for gradients")
    }
}

/// As the fields of the same names in [`super::chunk`], on tiles.
struct Found {
    t: Taken,
    /// As strips of A over the rows as steps.
    active: Scratch,
    /// As panels of B over the slots as steps.
    panels: Scratch,
    /// silu'(hidden), `[S, C]`.
    slope: Scratch,
    /// silu''(hidden), `[S, C]`; empty unless it is for gradients.
    curvature: Scratch,
    /// Clipped, `[T, D]`.
    error: Scratch,
    /// Before the clip, `[T]`.
    norm: Scratch,
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
