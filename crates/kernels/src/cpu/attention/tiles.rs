//! Attention on tiles of bf16, forward and backward, for layouts without extra keys.
//!
//! A task packs its keys and values once. A block of queries then goes along the keys that any of them sees,
//! 32 at a time, with scores as `[keys, queries]`: queries are the lanes of vectors, so that a softmax needs no sums
//! across lanes, and weights leave the vectors in the order in which the next product reads them. Scores
//! of a block of queries stay in the second-level cache, in the backward pass in the first.
//!
//! Legend: hd width of a head, Q queries of a block; S scores, P weights, O outputs, each gradient with a d.

use super::{Layout, Operands, task};
use crate::cpu::gemm::mixed::pack::Form;
use crate::cpu::gemm::mixed::panels::{Rows, block, halves, start, strip, upright};
use crate::cpu::gemm::mixed::tile::{BLOCK, Begun, SIDE, STEPS, TILE, Unit};
use crate::cpu::gemm::mixed::vector::{LOG2_E, exp2, paired, rounded};
use crate::cpu::scratch::{self, Scratch};
use crate::cpu::shared::Shared;
use crate::math;
use std::arch::x86_64::*;
use std::ops::Range;

/// Queries of a block.
const QUERIES: usize = 64;

/// Fewest queries a segment, on average, from which filling up strips pays.
const LEAST: usize = 16;

/// Whether the layout can be computed this way, and is better so.
pub(super) fn suits(o: &Operands, layout: &Layout) -> bool {
    let many = layout.last.len() >= LEAST * layout.queries.len();
    o.extra.is_none() && o.width.is_multiple_of(BLOCK) && many
}

/// Some keys with their values: the prefix, or those of a segment.
struct Set {
    keys: usize,
    /// Keys as rows, `[keys, hd]` as A.
    k: Scratch,
    /// Values: as columns for the forward pass, `[hd, keys]` as A; as rows for the backward pass.
    v: Scratch,
    /// Keys as columns, and the gradients of both `[keys, hd]`: for the backward pass.
    back: Option<(Scratch, Scratch, Scratch)>,
}

impl Set {
    /// # Safety
    /// As [`Rows::lines`].
    unsafe fn new(k: Rows, v: Rows, width: usize, backward: bool) -> Self {
        let keys = k.rows;
        let elements = keys.next_multiple_of(BLOCK) * width;
        let (mut rows, mut values) = (halves(elements), halves(elements));
        // SAFETY: promised by the caller, and the rooms are those of whole strips.
        unsafe {
            k.lines(Form::A, width, start(&mut rows));
            let back = backward.then(|| {
                let mut columns = halves(elements);
                k.steps(Form::A, width, start(&mut columns));
                (columns, scratch::zeros(elements), scratch::zeros(elements))
            });
            if backward {
                v.lines(Form::A, width, start(&mut values));
            } else {
                v.steps(Form::A, width, start(&mut values));
            }
            Self {
                keys,
                k: rows,
                v: values,
                back,
            }
        }
    }
}

/// The sets of a task: the prefix, then the keys of segment `s`, for key-value head `kv`.
///
/// # Safety
/// As [`Rows::lines`].
unsafe fn sets(o: &Operands, layout: &Layout, s: usize, kv: usize, backward: bool) -> [Set; 2] {
    let (hd, ks) = (o.width, o.kv_heads * o.width);
    let rows = layout.keys[s].clone();
    let (pk, pv) = o.prefix.unwrap_or((&[], &[]));
    let prefix = 0..pk.len() / ks;
    // SAFETY: the layout has been checked against the operands.
    unsafe {
        let of = |x, rows: &Range<usize>| Rows::of(x, rows.clone(), ks, kv * hd);
        [
            Set::new(of(pk, &prefix), of(pv, &prefix), hd, backward),
            Set::new(of(o.k, &rows), of(o.v, &rows), hd, backward),
        ]
    }
}

/// Which keys of a set each column sees.
#[derive(Clone, Copy)]
struct Seen {
    from: [i32; QUERIES],
    to: [i32; QUERIES],
}

/// The queries of a block, a column each.
struct Queries {
    rows: Range<usize>,
    /// Columns, filled up to whole panels; those beyond the rows see nothing.
    columns: usize,
    seen: [Seen; 2],
    /// Strips of each set that some query sees.
    strips: [Range<usize>; 2],
}

impl Queries {
    fn new(layout: &Layout, rows: Range<usize>, prefix: usize) -> Self {
        let nothing = Seen {
            from: [0; QUERIES],
            to: [0; QUERIES],
        };
        let mut seen = [nothing; 2];
        let mut all = layout.visible(rows.start);
        for (column, i) in rows.clone().enumerate() {
            let visible = layout.visible(i);
            seen[0].to[column] = prefix as i32;
            (seen[1].from[column], seen[1].to[column]) = (visible.start as i32, visible.end as i32);
            all = all.start.min(visible.start)..all.end.max(visible.end);
        }
        Self {
            columns: rows.len().next_multiple_of(BLOCK),
            rows,
            seen,
            strips: [
                0..prefix.div_ceil(BLOCK),
                all.start / BLOCK..all.end.div_ceil(BLOCK),
            ],
        }
    }

    /// Strips of both sets.
    fn deep(&self) -> usize {
        self.strips.iter().map(|s| s.len()).sum()
    }

    /// Each strip: its place among all, its set, and its number there.
    fn strips(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let of = |set: usize| self.strips[set].clone().map(move |strip| (set, strip));
        let both = of(0).chain(of(1)).enumerate();
        both.map(|(place, (set, strip))| (place, set, strip))
    }

    /// Their rows of `x`, for one head.
    ///
    /// # Safety
    /// As [`Rows::of`].
    unsafe fn of(&self, x: &[f32], apart: usize, column: usize) -> Rows {
        // SAFETY: promised by the caller.
        unsafe { Rows::of(x, self.rows.clone(), apart, column) }
    }
}

fn blocks(range: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let range = range.clone();
    let starts = range.clone().step_by(QUERIES);
    starts.map(move |lo| lo..(lo + QUERIES).min(range.end))
}

/// X `[hd, columns]` = the columns of `of` times `weights`, whose panels hold both sets one after the other.
///
/// # Safety
/// Everything is packed, and `x` has these elements.
unsafe fn summed(
    begun: &Begun,
    queries: &Queries,
    of: [&Scratch; 2],
    keys: [usize; 2],
    width: usize,
    weights: *const u16,
    x: *mut f32,
) {
    let panel = queries.deep() * BLOCK * BLOCK;
    for high in 0..width / BLOCK {
        let mut before = 0;
        for set in 0..2 {
            let strips = &queries.strips[set];
            if strips.is_empty() {
                continue;
            }
            let deep = keys[set].next_multiple_of(BLOCK);
            // SAFETY: promised by the caller.
            unsafe {
                let a = of[set].as_ptr().cast::<u16>();
                let a = a.add(high * BLOCK * deep + strips.start * BLOCK * STEPS);
                let b = weights.add(before * BLOCK * STEPS);
                let c = x.add(high * BLOCK * queries.columns);
                let (columns, add) = (queries.columns, before > 0);
                strip(
                    begun,
                    block(strips.len(), a, b, c, columns, add),
                    panel,
                    columns,
                );
            }
            before += strips.len();
        }
    }
}

/// The columns that see a key of a set.
#[derive(Clone, Copy)]
struct Sight {
    from: __m512i,
    to: __m512i,
}

impl Sight {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(seen: &Seen, column: usize) -> Self {
        // SAFETY: a block has a whole number of 16 columns.
        unsafe {
            Self {
                from: _mm512_loadu_si512(seen.from[column..column + SIDE].as_ptr().cast()),
                to: _mm512_loadu_si512(seen.to[column..column + SIDE].as_ptr().cast()),
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of(self, key: usize) -> __mmask16 {
        let key = _mm512_set1_epi32(key as i32);
        _mm512_cmple_epi32_mask(self.from, key) & _mm512_cmpgt_epi32_mask(self.to, key)
    }
}

/// Log-sum-exp, largest score and inverse sum of each column.
struct Softmax {
    lse: [f32; QUERIES],
    top: [f32; QUERIES],
    inverse: [f32; QUERIES],
}

/// Weights, not yet divided by their sum, of scores `[keys, columns]` times `scale`, as panels of B.
///
/// # Safety
/// Both have room for all strips of the queries, and the CPU AVX-512 BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn softmax(queries: &Queries, scores: *const f32, scale: f32, weights: *mut u16) -> Softmax {
    let mut out = Softmax {
        lse: [0.0; QUERIES],
        top: [0.0; QUERIES],
        inverse: [0.0; QUERIES],
    };
    let columns = queries.columns;
    let panel = queries.deep() * BLOCK * BLOCK;
    let times = _mm512_set1_ps(scale * LOG2_E);
    for column in (0..columns).step_by(SIDE) {
        let sights = [
            Sight::new(&queries.seen[0], column),
            Sight::new(&queries.seen[1], column),
        ];
        // SAFETY: the caller's scores are there.
        let score = |key: usize| unsafe { _mm512_loadu_ps(scores.add(key * columns + column)) };
        let mut top = _mm512_set1_ps(f32::NEG_INFINITY);
        for (place, set, strip) in queries.strips() {
            for i in 0..BLOCK {
                let there = sights[set].of(strip * BLOCK + i);
                // In this order a NaN is passed on until a number follows, which then has its own sum.
                top = _mm512_mask_max_ps(top, there, top, score(place * BLOCK + i));
            }
        }
        let shift = _mm512_mul_ps(top, times);
        let mut sum = _mm512_setzero_ps();
        for (place, set, strip) in queries.strips() {
            let to = column / BLOCK * panel + (place * 2 + column % BLOCK / SIDE) * TILE;
            for i in (0..BLOCK).step_by(2) {
                let weight = |i: usize| {
                    let there = sights[set].of(strip * BLOCK + i);
                    let x = _mm512_fmsub_ps(score(place * BLOCK + i), times, shift);
                    _mm512_maskz_mov_ps(there, exp2(x))
                };
                let (even, odd) = (weight(i), weight(i + 1));
                sum = _mm512_add_ps(sum, _mm512_add_ps(even, odd));
                // SAFETY: the caller's panels have this tile.
                unsafe {
                    _mm512_storeu_si512(weights.add(to + i * SIDE).cast(), paired(even, odd))
                };
            }
        }
        let (mut sums, mut tops) = ([0.0; SIDE], [0.0; SIDE]);
        // SAFETY: 16 elements each.
        unsafe {
            _mm512_storeu_ps(sums.as_mut_ptr(), sum);
            _mm512_storeu_ps(tops.as_mut_ptr(), _mm512_mul_ps(top, _mm512_set1_ps(scale)));
        }
        for (i, (&sum, &top)) in sums.iter().zip(&tops).enumerate() {
            out.top[column + i] = top;
            out.lse[column + i] = top + math::ln(sum);
            out.inverse[column + i] = 1.0 / sum;
        }
    }
    out
}

/// As [`super::forward`].
pub(super) fn forward(
    unit: Unit,
    o: &Operands,
    layout: &Layout,
    out: Shared,
    lse: Shared,
    t: usize,
) -> Vec<f32> {
    let (hd, qs, group) = (o.width, o.heads * o.width, o.heads / o.kv_heads);
    let (s, kv) = task(layout, o.kv_heads, t);
    let mut tops = vec![f32::NEG_INFINITY; group];
    // SAFETY: the CPU has the unit; the layout has been checked, and this head's columns of the segment's rows of the
    // outputs belong to this task.
    unsafe {
        let begun = unit.begin();
        let sets = sets(o, layout, s, kv, false);
        let keys = [sets[0].keys, sets[1].keys];
        for rows in blocks(&layout.queries[s]) {
            let queries = Queries::new(layout, rows.clone(), keys[0]);
            let (deep, columns) = (queries.deep(), queries.columns);
            let mut scores = scratch::take(deep * BLOCK * columns);
            let mut weights = halves(deep * BLOCK * columns);
            let mut q = halves(hd * columns);
            let mut sums = scratch::take(hd * columns);
            for (g, top) in tops.iter_mut().enumerate() {
                let head = kv * group + g;
                queries
                    .of(o.q, qs, head * hd)
                    .lines(Form::B, hd, start(&mut q));
                for (place, set, at) in queries.strips() {
                    let k = sets[set].k.as_ptr().cast::<u16>().add(at * BLOCK * hd);
                    let c = scores.as_mut_ptr().add(place * BLOCK * columns);
                    let q = q.as_ptr().cast();
                    let panel = BLOCK * hd;
                    strip(
                        &begun,
                        block(hd / STEPS, k, q, c, columns, false),
                        panel,
                        columns,
                    );
                }
                let weights = start(&mut weights);
                let soft = softmax(&queries, scores.as_ptr(), o.scale, weights);
                let values = [&sets[0].v, &sets[1].v];
                let sums = sums.as_mut_ptr();
                summed(&begun, &queries, values, keys, hd, weights, sums);
                let to = out.get().add(rows.start * qs + head * hd);
                upright(sums, hd, columns, Some(&soft.inverse), rows.len(), to, qs);
                for (column, i) in rows.clone().enumerate() {
                    lse.slice(i * o.heads + head, 1)[0] = soft.lse[column];
                    let m = soft.top[column];
                    *top = if m > *top { m } else { *top };
                }
            }
        }
    }
    tops
}

/// What the gradients of a strip of keys are made of, for the queries of a block.
struct Strip {
    /// S and dP, `[32, columns]`.
    scores: *const f32,
    weights_gradient: *const f32,
    /// Number of the first key in its set, and the columns that see it.
    key: usize,
    seen: Seen,
    columns: usize,
    /// Where P and dS go, as strips of A over the queries.
    weights: *mut u16,
    scores_gradient: *mut u16,
    /// Where dS goes in panels of B, and their distance.
    panels: *mut u16,
    panel: usize,
}

/// P = 2^(S times - lse), dS = P (dP - delta).
///
/// # Safety
/// Everything is there; the CPU has AVX-512 BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn strip_gradients(s: &Strip, times: f32, lse: &[f32; QUERIES], delta: &[f32; QUERIES]) {
    let times = _mm512_set1_ps(times);
    for panel in 0..s.columns / BLOCK {
        let columns = [panel * BLOCK, panel * BLOCK + SIDE];
        let sights = [
            Sight::new(&s.seen, columns[0]),
            Sight::new(&s.seen, columns[1]),
        ];
        // SAFETY: a block has a whole number of 16 columns.
        let of = |x: &[f32; QUERIES], c: usize| unsafe { _mm512_loadu_ps(x[c..c + SIDE].as_ptr()) };
        let lse = [of(lse, columns[0]), of(lse, columns[1])];
        let delta = [of(delta, columns[0]), of(delta, columns[1])];
        for i in (0..BLOCK).step_by(2) {
            // SAFETY: the caller's strips are there.
            unsafe {
                let mut p = [[_mm512_setzero_ps(); 2]; 2];
                let mut ds = p;
                for (row, side) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let at = (i + row) * s.columns + columns[side];
                    let there = sights[side].of(s.key + i + row);
                    let x = _mm512_loadu_ps(s.scores.add(at));
                    let x = exp2(_mm512_fmsub_ps(x, times, lse[side]));
                    let dp = _mm512_loadu_ps(s.weights_gradient.add(at));
                    let x = _mm512_maskz_mov_ps(there, x);
                    p[row][side] = x;
                    ds[row][side] = _mm512_mul_ps(x, _mm512_sub_ps(dp, delta[side]));
                }
                for row in 0..2 {
                    let line = i + row;
                    let at = (panel * 2 + line / SIDE) * TILE + line % SIDE * STEPS;
                    let [low, high] = p[row];
                    _mm512_storeu_si512(s.weights.add(at).cast(), rounded(low, high));
                    let [low, high] = ds[row];
                    _mm512_storeu_si512(s.scores_gradient.add(at).cast(), rounded(low, high));
                }
                for (side, (&even, &odd)) in ds[0].iter().zip(&ds[1]).enumerate() {
                    let at = panel * s.panel + side * TILE + i * SIDE;
                    let pairs = paired(even, odd);
                    _mm512_storeu_si512(s.panels.add(at).cast(), pairs);
                }
            }
        }
    }
}

/// x · y for each row of a block, over `width` columns.
///
/// # Safety
/// The rows are there, with whole vectors; the CPU has AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn products_of_rows(x: Rows, y: Rows, width: usize) -> [f32; QUERIES] {
    let mut sums = [0.0; QUERIES];
    for (i, to) in sums.iter_mut().enumerate().take(x.rows) {
        let mut sum = _mm512_setzero_ps();
        for at in (0..width).step_by(SIDE) {
            // SAFETY: promised by the caller.
            unsafe {
                let (x, y) = (x.row(i).add(at), y.row(i).add(at));
                sum = _mm512_fmadd_ps(_mm512_loadu_ps(x), _mm512_loadu_ps(y), sum);
            }
        }
        *to = _mm512_reduce_add_ps(sum);
    }
    sums
}

/// What the backward pass gets: the outputs of the forward pass, and the gradient of the first.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a> {
    pub(super) out: &'a [f32],
    pub(super) lse: &'a [f32],
    pub(super) dy: &'a [f32],
}

/// Gradients of queries, keys and values, all overwritten by the tasks that own their rows.
#[derive(Clone, Copy)]
pub(super) struct Targets {
    pub(super) q: Shared,
    pub(super) k: Shared,
    pub(super) v: Shared,
}

/// As [`super::backward`]; gives the prefix gradients of the task: keys, then values, each `[P, hd]`.
pub(super) fn backward(
    unit: Unit,
    o: &Operands,
    layout: &Layout,
    saved: Saved,
    to: Targets,
    t: usize,
) -> Vec<f32> {
    let Saved { out, lse, dy } = saved;
    let (hd, ks, qs) = (o.width, o.kv_heads * o.width, o.heads * o.width);
    let group = o.heads / o.kv_heads;
    let (s, kv) = task(layout, o.kv_heads, t);
    // SAFETY: as in the forward pass; key rows of the segment, columns of this head, belong to this task too.
    unsafe {
        let begun = unit.begin();
        let mut sets = sets(o, layout, s, kv, true);
        let keys = [sets[0].keys, sets[1].keys];
        for rows in blocks(&layout.queries[s]) {
            let queries = Queries::new(layout, rows.clone(), keys[0]);
            let (deep, columns) = (queries.deep(), queries.columns);
            let mut strips = scratch::take(2 * BLOCK * columns);
            let mut tiles = halves(2 * BLOCK * columns);
            let mut panels = halves(deep * BLOCK * columns);
            let mut packed = halves(4 * hd * columns);
            let mut sums = scratch::take(hd * columns);
            for g in 0..group {
                let head = kv * group + g;
                let (q, y) = (
                    queries.of(o.q, qs, head * hd),
                    queries.of(dy, qs, head * hd),
                );
                let packed = start(&mut packed);
                let [q_lines, y_lines, q_steps, y_steps] =
                    std::array::from_fn(|i| packed.add(i * hd * columns));
                q.lines(Form::B, hd, q_lines);
                y.lines(Form::B, hd, y_lines);
                q.steps(Form::B, hd, q_steps);
                y.steps(Form::B, hd, y_steps);
                let mut logs = [0.0; QUERIES];
                for (log, i) in logs.iter_mut().zip(rows.clone()) {
                    *log = lse[i * o.heads + head] * LOG2_E;
                }
                let delta = products_of_rows(y, queries.of(out, qs, head * hd), hd);
                let (scores, weights_gradient) = {
                    let start = strips.as_mut_ptr();
                    (start, start.add(BLOCK * columns))
                };
                let weights = start(&mut tiles);
                let scores_gradient = weights.add(BLOCK * columns);
                let panel = deep * BLOCK * BLOCK;
                for (place, set, at) in queries.strips() {
                    let Set { k, v, back, .. } = &mut sets[set];
                    let [k, v] = [k, v].map(|x| x.as_ptr().cast::<u16>().add(at * BLOCK * hd));
                    let (n, across) = (hd / STEPS, BLOCK * hd);
                    strip(
                        &begun,
                        block(n, k, q_lines, scores, columns, false),
                        across,
                        columns,
                    );
                    strip(
                        &begun,
                        block(n, v, y_lines, weights_gradient, columns, false),
                        across,
                        columns,
                    );
                    let made = Strip {
                        scores,
                        weights_gradient,
                        key: at * BLOCK,
                        seen: queries.seen[set],
                        columns,
                        weights,
                        scores_gradient,
                        panels: start(&mut panels).add(place * BLOCK * STEPS),
                        panel,
                    };
                    strip_gradients(&made, o.scale * LOG2_E, &logs, &delta);
                    if let Some((_, dk, dv)) = back {
                        let [dk, dv] = [dk, dv].map(|x| x.as_mut_ptr().add(at * BLOCK * hd));
                        let (n, across) = (columns / STEPS, BLOCK * columns);
                        strip(&begun, block(n, weights, y_steps, dv, hd, true), across, hd);
                        strip(
                            &begun,
                            block(n, scores_gradient, q_steps, dk, hd, true),
                            across,
                            hd,
                        );
                    }
                }
                let [prefix, own] = &sets;
                if let (Some((pk, ..)), Some((k, ..))) = (&prefix.back, &own.back) {
                    let sums = sums.as_mut_ptr();
                    summed(
                        &begun,
                        &queries,
                        [pk, k],
                        keys,
                        hd,
                        start(&mut panels),
                        sums,
                    );
                    let to = to.q.get().add(rows.start * qs + head * hd);
                    upright(
                        sums,
                        hd,
                        columns,
                        Some(&[o.scale; QUERIES]),
                        rows.len(),
                        to,
                        qs,
                    );
                }
            }
        }
        let [prefix, own] = sets;
        if let Some((_, dk, dv)) = own.back {
            for (i, row) in layout.keys[s].clone().enumerate() {
                let (at, from) = (row * ks + kv * hd, i * hd..(i + 1) * hd);
                let k = to.k.slice(at, hd);
                k.copy_from_slice(&dk[from.clone()]);
                k.iter_mut().for_each(|x| *x *= o.scale);
                to.v.slice(at, hd).copy_from_slice(&dv[from]);
            }
        }
        let mut part = Vec::with_capacity(2 * keys[0] * hd);
        if let Some((_, dk, dv)) = prefix.back {
            part.extend(dk[..keys[0] * hd].iter().map(|x| x * o.scale));
            part.extend_from_slice(&dv[..keys[0] * hd]);
        }
        part
    }
}
