//! Attention over a sliding window, a persistent prefix and extra keys per query, forward and backward.
//!
//! Queries and keys are grouped in segments. A query sees, in this order: the prefix; the keys of its
//! segment at positions (last - window, last]; and its extra keys, a range of rows of a second pair of
//! key and value matrices (a thought's own chain). Scores never exist for more than a block of queries:
//! the backward pass recomputes them from the saved log-sum-exp (Dao et al. 2022).
//!
//! Tasks are pairs of (segment, key-value head), so that each adds to its own rows of dK and dV in a fixed
//! order; the prefix gradient is summed over segments in order afterwards.
//!
//! Where the CPU multiplies tiles of bf16 and nothing asks for more, [`tiles`] computes a task.

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;

use super::elementwise::dot;
use super::gemm::{gemm_seq, gemm_shared};
use super::scratch;
use super::shared::Shared;
#[cfg(target_arch = "x86_64")]
use crate::cpu::gemm::mixed::{self, tile::Unit};
use crate::isa::multiversion;
use crate::math;
#[cfg(target_arch = "x86_64")]
use crate::{
    isa,
    precision::{self, Precision},
};
use rayon::prelude::*;
#[cfg(not(target_arch = "x86_64"))]
use std::convert::Infallible as Unit;
use std::ops::Range;

/// Which keys each query sees. Rows of queries are contiguous per segment; so are rows of keys.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Rows of q that belong to each segment.
    pub queries: Vec<Range<usize>>,
    /// Rows of k and v that belong to each segment.
    pub keys: Vec<Range<usize>>,
    /// For each row of q, its last visible key, counted from the start of the segment's keys.
    pub last: Vec<u32>,
    /// How many keys back a query sees, itself included; 0 for all.
    pub window: usize,
    /// For each row of q, the rows of the extra keys that it sees; empty when there are none.
    pub extra: Vec<Range<u32>>,
}

impl Layout {
    /// Visible keys of query row `i`, counted from the start of its segment's keys.
    fn visible(&self, i: usize) -> Range<usize> {
        let end = self.last[i] as usize + 1;
        let start = if self.window == 0 {
            0
        } else {
            end.saturating_sub(self.window)
        };
        start..end
    }
}

/// Operands of one attention.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// [Nq, H hd]
    pub q: &'a [f32],
    /// [Nk, K hd]
    pub k: &'a [f32],
    /// [Nk, K hd]
    pub v: &'a [f32],
    /// Persistent keys and values, each [P, K hd].
    pub prefix: Option<(&'a [f32], &'a [f32])>,
    /// Extra keys and values, each [E, K hd].
    pub extra: Option<(&'a [f32], &'a [f32])>,
    /// H
    pub heads: usize,
    /// K; query head h reads key-value head h K / H.
    pub kv_heads: usize,
    /// hd
    pub width: usize,
    /// Factor of the scores.
    pub scale: f32,
}

/// Query rows handled at once.
const BLOCK: usize = 64;

multiversion! {
    fn softmax_in_place(x: &mut [f32]) -> (f32, f32) {
        let m = math::max(x);
        for x in x.iter_mut() { *x = math::exp_or_zero(*x - m); }
        let s = math::sum(x);
        let inv = 1.0 / s;
        for x in x.iter_mut() { *x *= inv; }
        (m + math::ln(s), m)
    }
}

multiversion! {
    fn probabilities(x: &mut [f32], lse: f32) {
        for x in x.iter_mut() { *x = math::exp_or_zero(*x - lse); }
    }
}

multiversion! {
    fn score_gradient(p: &mut [f32], dp: &[f32], delta: f32) {
        for (p, &d) in p.iter_mut().zip(dp) { *p *= d - delta; }
    }
}

multiversion! {
    fn axpy(y: &mut [f32], x: &[f32], a: f32) {
        for (y, &x) in y.iter_mut().zip(x) { *y += a * x; }
    }
}

/// The columns of the score block of some query rows: prefix, then keys `lo..hi` of the segment, then
/// each row's extra keys, filled up to whole vectors; what a row does not see is masked.
struct Block {
    rows: Range<usize>,
    lo: usize,
    hi: usize,
    prefix: usize,
    columns: usize,
}

impl Block {
    fn new(layout: &Layout, rows: Range<usize>, prefix: usize) -> Self {
        let lo = rows
            .clone()
            .map(|i| layout.visible(i).start)
            .min()
            .unwrap_or(0);
        let hi = rows
            .clone()
            .map(|i| layout.visible(i).end)
            .max()
            .unwrap_or(0);
        let extra = if layout.extra.is_empty() {
            0
        } else {
            rows.clone()
                .map(|i| layout.extra[i].len())
                .max()
                .unwrap_or(0)
        };
        Self {
            columns: (prefix + hi - lo + extra).next_multiple_of(math::LANES),
            rows,
            lo,
            hi,
            prefix,
        }
    }
    fn len(&self) -> usize {
        self.rows.len()
    }
    fn extra_at(&self) -> usize {
        self.prefix + self.hi - self.lo
    }
    /// Sets the columns that row `i` does not see to `value`.
    fn mask(&self, layout: &Layout, i: usize, row: &mut [f32], value: f32) {
        let visible = layout.visible(i);
        row[self.prefix..self.prefix + visible.start - self.lo].fill(value);
        let extra = self.extra_at();
        row[self.prefix + visible.end - self.lo..extra].fill(value);
        let own = if layout.extra.is_empty() {
            0
        } else {
            layout.extra[i].len()
        };
        row[extra + own..].fill(value);
    }
}

/// rows x columns scores of a block: `x` [Nq, stride] against prefix, keys and extra keys.
#[allow(clippy::too_many_arguments)]
fn products(
    o: &Operands,
    layout: &Layout,
    b: &Block,
    x: &[f32],
    stride: usize,
    head: usize,
    kv: usize,
    key0: usize,
    which: Which,
    scale: f32,
    out: &mut [f32],
) {
    let (hd, ks) = (o.width, o.kv_heads * o.width);
    let keys = match which {
        Which::Keys => o.k,
        Which::Values => o.v,
    };
    let a = &x[b.rows.start * stride + head * hd..];
    let side = |pair: Option<(&'_ [f32], &'_ [f32])>, f: &mut dyn FnMut(&[f32])| {
        if let Some((k, v)) = pair {
            f(match which {
                Which::Keys => k,
                Which::Values => v,
            });
        }
    };
    side(o.prefix, &mut |p| {
        gemm_seq(
            b.len(),
            b.prefix,
            hd,
            scale,
            a,
            stride,
            1,
            &p[kv * hd..],
            1,
            ks,
            0.0,
            out,
            b.columns,
        );
    });
    let seen = b.hi - b.lo;
    let first = &keys[(key0 + b.lo) * ks + kv * hd..];
    gemm_seq(
        b.len(),
        seen,
        hd,
        scale,
        a,
        stride,
        1,
        first,
        1,
        ks,
        0.0,
        &mut out[b.prefix..],
        b.columns,
    );
    side(o.extra, &mut |e| {
        for (r, i) in b.rows.clone().enumerate() {
            let row = &a[r * stride..][..hd];
            for (c, j) in layout.extra[i].clone().enumerate() {
                out[r * b.columns + b.extra_at() + c] =
                    scale * dot(row, &e[j as usize * ks + kv * hd..][..hd]);
            }
        }
    });
}

#[derive(Clone, Copy, PartialEq)]
enum Which {
    Keys,
    Values,
}

fn task(layout: &Layout, kv_heads: usize, t: usize) -> (usize, usize) {
    debug_assert!(t < layout.queries.len() * kv_heads);
    (t / kv_heads, t % kv_heads)
}

fn blocks(range: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let range = range.clone();
    range
        .clone()
        .step_by(BLOCK)
        .map(move |lo| lo..(lo + BLOCK).min(range.end))
}

fn check(o: &Operands, layout: &Layout) {
    let nq = o.q.len() / (o.heads * o.width);
    let nk = o.k.len() / (o.kv_heads * o.width);
    assert_eq!(layout.last.len(), nq, "attention: one `last` per query row");
    assert_eq!(
        layout.queries.len(),
        layout.keys.len(),
        "attention: segments of queries and keys"
    );
    assert!(
        layout.extra.is_empty() || layout.extra.len() == nq,
        "attention: one extra range per query row"
    );
    assert!(
        nq == 0 || layout.extra.is_empty() == o.extra.is_none(),
        "attention: extra keys and their ranges come together"
    );
    let whole =
        |k: &[f32], v: &[f32]| k.len() == v.len() && k.len().is_multiple_of(o.kv_heads * o.width);
    let pairs = o.prefix.iter().chain(&o.extra);
    assert!(
        whole(o.k, o.v) && pairs.into_iter().all(|(k, v)| whole(k, v)),
        "attention: keys and values come in pairs of whole rows"
    );
    let mut at = 0;
    for (q, k) in layout.queries.iter().zip(&layout.keys) {
        assert!(
            q.start == at && q.end <= nq && k.end <= nk,
            "attention: segment {q:?} / {k:?} of {nq} / {nk} rows"
        );
        assert!(
            q.clone().all(|i| (layout.last[i] as usize) < k.len()),
            "attention: last key outside segment {k:?}"
        );
        at = q.end;
    }
    assert_eq!(at, nq, "attention: segments cover the queries");
    assert_eq!(
        o.heads % o.kv_heads,
        0,
        "attention: {} heads over {}",
        o.heads,
        o.kv_heads
    );
}

/// Tasks write the gradients of their segment's keys and extra keys without a lock: no row may have two.
fn check_disjoint(layout: &Layout) {
    let mut keys = layout.keys.clone();
    keys.sort_by_key(|k| (k.start, k.end));
    assert!(
        keys.windows(2).all(|k| k[0].end <= k[1].start),
        "attention: segments share key rows: {:?}",
        layout.keys
    );
    if layout.extra.is_empty() {
        return;
    }
    let rows = layout.extra.iter().map(|r| r.end).max().unwrap_or(0);
    let mut owner = vec![usize::MAX; rows as usize];
    for (s, queries) in layout.queries.iter().enumerate() {
        for j in queries.clone().flat_map(|i| layout.extra[i].clone()) {
            let owner = &mut owner[j as usize];
            assert!(
                *owner == usize::MAX || *owner == s,
                "attention: segments {owner} and {s} share extra row {j}"
            );
            *owner = s;
        }
    }
}

/// What multiplies bf16, where attention is to go that way.
fn unit(o: &Operands, layout: &Layout) -> Option<Unit> {
    #[cfg(target_arch = "x86_64")]
    if precision::in_use() == Precision::Bf16 && tiles::suits(o, layout) {
        return mixed::unit(isa::detect());
    }
    let _ = (o, layout);
    None
}

/// out [Nq, H hd]; lse [Nq, H] for the backward pass; max [H] the largest score of each head.
pub fn forward(o: &Operands, layout: &Layout, out: &mut [f32], lse: &mut [f32], max: &mut [f32]) {
    check(o, layout);
    forward_on(unit(o, layout), o, layout, out, lse, max);
}

fn forward_on(
    unit: Option<Unit>,
    o: &Operands,
    layout: &Layout,
    out: &mut [f32],
    lse: &mut [f32],
    max: &mut [f32],
) {
    #[cfg(not(target_arch = "x86_64"))]
    let _ = unit; // There is none.
    assert!(
        out.len() == o.q.len() && lse.len() * o.width == o.q.len() && max.len() == o.heads,
        "attention: lengths of the outputs"
    );
    let (ks, qs) = (o.kv_heads * o.width, o.heads * o.width);
    let group = o.heads / o.kv_heads;
    let prefix = o.prefix.map_or(0, |(k, _)| k.len() / ks);
    let tasks = layout.queries.len() * o.kv_heads;
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    let tops: Vec<Vec<f32>> = (0..tasks)
        .into_par_iter()
        .map(|t| {
            #[cfg(target_arch = "x86_64")]
            if let Some(unit) = unit {
                return tiles::forward(unit, o, layout, out, lse, t);
            }
            let (s, kv) = task(layout, o.kv_heads, t);
            let key0 = layout.keys[s].start;
            let mut tops = vec![f32::NEG_INFINITY; group];
            for rows in blocks(&layout.queries[s]) {
                let b = Block::new(layout, rows, prefix);
                scratch::with(b.len() * b.columns, |scores| {
                    for (g, top) in tops.iter_mut().enumerate() {
                        let head = kv * group + g;
                        products(
                            o,
                            layout,
                            &b,
                            o.q,
                            qs,
                            head,
                            kv,
                            key0,
                            Which::Keys,
                            o.scale,
                            scores,
                        );
                        for (r, i) in b.rows.clone().enumerate() {
                            let row = &mut scores[r * b.columns..][..b.columns];
                            b.mask(layout, i, row, f32::NEG_INFINITY);
                            let (l, m) = softmax_in_place(row);
                            *top = if m > *top { m } else { *top };
                            // SAFETY: element (row, head) belongs to this task.
                            unsafe { lse.slice(i * o.heads + head, 1)[0] = l };
                        }
                        // SAFETY: this head's columns of these rows belong to this task.
                        unsafe { weighted(o, layout, &b, scores, kv, key0, out, head) };
                    }
                });
            }
            tops
        })
        .collect();
    max.fill(f32::NEG_INFINITY);
    for (t, top) in tops.iter().enumerate() {
        let kv = t % o.kv_heads;
        for (g, &m) in top.iter().enumerate() {
            let slot = &mut max[kv * group + g];
            *slot = if m > *slot { m } else { *slot };
        }
    }
}

/// The weighted sums of the values of a block's rows, for one head.
///
/// # Safety
/// The head's columns of these rows of `out` belong to this task.
#[allow(clippy::too_many_arguments)]
unsafe fn weighted(
    o: &Operands,
    layout: &Layout,
    b: &Block,
    p: &[f32],
    kv: usize,
    key0: usize,
    out: Shared,
    head: usize,
) {
    let (hd, ks, qs) = (o.width, o.kv_heads * o.width, o.heads * o.width);
    let seen = b.hi - b.lo;
    let values = &o.v[(key0 + b.lo) * ks + kv * hd..];
    let scores = &p[b.prefix..];
    let at = b.rows.start * qs + head * hd;
    // SAFETY: promised by the caller.
    unsafe {
        gemm_shared(
            b.len(),
            hd,
            seen,
            1.0,
            scores,
            b.columns,
            1,
            values,
            ks,
            1,
            0.0,
            out,
            at,
            qs,
        );
    }
    for (r, i) in b.rows.clone().enumerate() {
        // SAFETY: as above.
        let out = unsafe { out.slice(i * qs + head * hd, hd) };
        if let Some((_, v)) = o.prefix {
            for j in 0..b.prefix {
                axpy(out, &v[j * ks + kv * hd..][..hd], p[r * b.columns + j]);
            }
        }
        if let Some((_, v)) = o.extra {
            for (c, j) in layout.extra[i].clone().enumerate() {
                axpy(
                    out,
                    &v[j as usize * ks + kv * hd..][..hd],
                    p[r * b.columns + b.extra_at() + c],
                );
            }
        }
    }
}

/// Gradients of [`forward`]. All are overwritten.
pub struct Gradients<'a> {
    /// [Nq, H hd]
    pub q: &'a mut [f32],
    /// [Nk, K hd]
    pub k: &'a mut [f32],
    /// [Nk, K hd]
    pub v: &'a mut [f32],
    /// Each [P, K hd].
    pub prefix: Option<(&'a mut [f32], &'a mut [f32])>,
    /// Each [E, K hd]. Extra rows seen from several segments are not supported.
    pub extra: Option<(&'a mut [f32], &'a mut [f32])>,
}

/// Backward pass; segments must not share key rows.
pub fn backward(
    o: &Operands,
    layout: &Layout,
    out: &[f32],
    lse: &[f32],
    dy: &[f32],
    grads: Gradients,
) {
    check(o, layout);
    check_disjoint(layout);
    assert!(
        dy.len() == o.q.len() && out.len() == o.q.len() && lse.len() * o.width == o.q.len(),
        "attention: lengths of the outputs and their gradient"
    );
    backward_on(unit(o, layout), o, layout, out, lse, dy, grads);
}

fn backward_on(
    unit: Option<Unit>,
    o: &Operands,
    layout: &Layout,
    out: &[f32],
    lse: &[f32],
    dy: &[f32],
    grads: Gradients,
) {
    assert!(
        grads.q.len() == o.q.len() && grads.k.len() == o.k.len() && grads.v.len() == o.v.len(),
        "attention: lengths of the gradients"
    );
    if let (Some((dk, dv)), Some((k, v))) = (&grads.extra, o.extra) {
        assert!(
            dk.len() == k.len() && dv.len() == v.len(),
            "attention: lengths of the extra gradients"
        );
    }
    let (hd, ks, qs) = (o.width, o.kv_heads * o.width, o.heads * o.width);
    let group = o.heads / o.kv_heads;
    let prefix = o.prefix.map_or(0, |(k, _)| k.len() / ks);
    let tasks = layout.queries.len() * o.kv_heads;
    // On tiles the rows of a segment are written, not added to; rows of no segment are nobody's.
    let covered = layout.keys.iter().map(Range::len).sum::<usize>() * ks == o.k.len();
    if unit.is_none() {
        grads.q.fill(0.0);
    }
    if unit.is_none() || !covered {
        grads.k.fill(0.0);
        grads.v.fill(0.0);
    }
    let (dq, dk, dv) = (
        Shared::new(grads.q),
        Shared::new(grads.k),
        Shared::new(grads.v),
    );
    let extra = grads.extra.map(|(k, v)| {
        k.fill(0.0);
        v.fill(0.0);
        (Shared::new(k), Shared::new(v))
    });
    let parts: Vec<Vec<f32>> = (0..tasks)
        .into_par_iter()
        .map(|t| {
            #[cfg(target_arch = "x86_64")]
            if let Some(unit) = unit {
                let (q, k, v) = (dq, dk, dv);
                let (to, saved) = (tiles::Targets { q, k, v }, tiles::Saved { out, lse, dy });
                return tiles::backward(unit, o, layout, saved, to, t);
            }
            let (s, kv) = task(layout, o.kv_heads, t);
            let key0 = layout.keys[s].start;
            // Prefix gradients of this task: keys, then values, each [P, hd].
            let mut part = vec![0.0; 2 * prefix * hd];
            for rows in blocks(&layout.queries[s]) {
                let b = Block::new(layout, rows, prefix);
                let (n, seen) = (b.len(), b.hi - b.lo);
                scratch::with(2 * n * b.columns, |scratch| {
                    let (p, dp) = scratch.split_at_mut(n * b.columns);
                    for g in 0..group {
                        let head = kv * group + g;
                        products(
                            o,
                            layout,
                            &b,
                            o.q,
                            qs,
                            head,
                            kv,
                            key0,
                            Which::Keys,
                            o.scale,
                            p,
                        );
                        products(
                            o,
                            layout,
                            &b,
                            dy,
                            qs,
                            head,
                            kv,
                            key0,
                            Which::Values,
                            1.0,
                            dp,
                        );
                        for (r, i) in b.rows.clone().enumerate() {
                            let row = &mut p[r * b.columns..][..b.columns];
                            b.mask(layout, i, row, f32::NEG_INFINITY);
                            probabilities(row, lse[i * o.heads + head]);
                        }
                        let dy_block = &dy[b.rows.start * qs + head * hd..];
                        // dV += P^T dY over the window, the prefix and the extra keys
                        // SAFETY: key rows of segment s, columns of head kv: this task alone.
                        unsafe {
                            gemm_shared(
                                seen,
                                hd,
                                n,
                                1.0,
                                &p[b.prefix..],
                                1,
                                b.columns,
                                dy_block,
                                qs,
                                1,
                                1.0,
                                dv,
                                (key0 + b.lo) * ks + kv * hd,
                                ks,
                            );
                        }
                        let (part_k, part_v) = part.split_at_mut(prefix * hd);
                        if prefix > 0 {
                            gemm_seq(
                                prefix, hd, n, 1.0, p, 1, b.columns, dy_block, qs, 1, 1.0, part_v,
                                hd,
                            );
                        }
                        if let Some((_, ev)) = extra {
                            for (r, i) in b.rows.clone().enumerate() {
                                for (c, j) in layout.extra[i].clone().enumerate() {
                                    // SAFETY: extra rows belong to one segment, columns to this head.
                                    axpy(
                                        unsafe { ev.slice(j as usize * ks + kv * hd, hd) },
                                        &dy_block[r * qs..][..hd],
                                        p[r * b.columns + b.extra_at() + c],
                                    );
                                }
                            }
                        }
                        // dS = P (dP - delta), delta = dY . Y
                        for (r, i) in b.rows.clone().enumerate() {
                            let delta =
                                dot(&dy_block[r * qs..][..hd], &out[i * qs + head * hd..][..hd]);
                            let row = &mut dp[r * b.columns..][..b.columns];
                            b.mask(layout, i, row, 0.0);
                            score_gradient(&mut p[r * b.columns..][..b.columns], row, delta);
                        }
                        let q_block = &o.q[b.rows.start * qs + head * hd..];
                        let to_q = b.rows.start * qs + head * hd;
                        // SAFETY: as for dv; query rows of segment s, columns of this head: this task alone.
                        unsafe {
                            gemm_shared(
                                seen,
                                hd,
                                n,
                                o.scale,
                                &p[b.prefix..],
                                1,
                                b.columns,
                                q_block,
                                qs,
                                1,
                                1.0,
                                dk,
                                (key0 + b.lo) * ks + kv * hd,
                                ks,
                            );
                            gemm_shared(
                                n,
                                hd,
                                seen,
                                o.scale,
                                &p[b.prefix..],
                                b.columns,
                                1,
                                &o.k[(key0 + b.lo) * ks + kv * hd..],
                                ks,
                                1,
                                1.0,
                                dq,
                                to_q,
                                qs,
                            );
                        }
                        if prefix > 0 {
                            gemm_seq(
                                prefix, hd, n, o.scale, p, 1, b.columns, q_block, qs, 1, 1.0,
                                part_k, hd,
                            );
                            let (pk, _) = o.prefix.expect("prefix rows were counted from it");
                            // SAFETY: as above.
                            unsafe {
                                gemm_shared(
                                    n,
                                    hd,
                                    prefix,
                                    o.scale,
                                    p,
                                    b.columns,
                                    1,
                                    &pk[kv * hd..],
                                    ks,
                                    1,
                                    1.0,
                                    dq,
                                    to_q,
                                    qs,
                                );
                            }
                        }
                        let (Some((ek, _)), Some((keys, _))) = (extra, o.extra) else {
                            continue;
                        };
                        for (r, i) in b.rows.clone().enumerate() {
                            // SAFETY: query rows of segment s, columns of this head: this task alone.
                            let dq = unsafe { dq.slice(i * qs + head * hd, hd) };
                            for (c, j) in layout.extra[i].clone().enumerate() {
                                let ds = p[r * b.columns + b.extra_at() + c] * o.scale;
                                let at = j as usize * ks + kv * hd;
                                axpy(dq, &keys[at..][..hd], ds);
                                // SAFETY: as for the extra values.
                                axpy(unsafe { ek.slice(at, hd) }, &q_block[r * qs..][..hd], ds);
                            }
                        }
                    }
                });
            }
            part
        })
        .collect();
    if let Some((pk, pv)) = grads.prefix {
        pk.fill(0.0);
        pv.fill(0.0);
        for (t, part) in parts.iter().enumerate() {
            let kv = t % o.kv_heads;
            for j in 0..prefix {
                axpy(
                    &mut pk[j * ks + kv * hd..][..hd],
                    &part[j * hd..][..hd],
                    1.0,
                );
                axpy(
                    &mut pv[j * ks + kv * hd..][..hd],
                    &part[(prefix + j) * hd..][..hd],
                    1.0,
                );
            }
        }
    }
}
