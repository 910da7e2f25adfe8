//! Nothing reaches a row that it must not see: keys outside its layout, other segments, later rows.

use crate::differences::{gradients, normal, values};
use std::sync::Arc;
use tensor::random::Counted;
use tensor::{Attended, AttentionLayout, Segments, Tape, Tensor, Var};

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const WIDTH: usize = 3;

/// A random layout: segments of several lengths, some continuing longer keys, a window, extra keys.
fn layout(draw: u64) -> AttentionLayout {
    let r = Counted::new(9, "layout", draw);
    let mut l = AttentionLayout {
        window: r.below(0, 3) * (1 + r.below(1, 20)),
        ..AttentionLayout::default()
    };
    let (mut q, mut k, mut e) = (0, 0, 0u32);
    let with_extra = r.below(2, 2) == 1;
    for s in 0..1 + r.below(3, 4) as u64 {
        let n = 1 + r.below(10 + s, if s == 0 { 90 } else { 9 });
        let past = r.below(20 + s, 2) * r.below(30 + s, 6);
        l.queries.push(q..q + n);
        l.keys.push(k..k + past + n);
        l.last.extend((0..n).map(|i| (past + i) as u32));
        if with_extra {
            for i in 0..n as u64 {
                let own = r.below(1000 * (s + 1) + i, 4) as u32;
                l.extra.push(e..e + own);
                // Half of the rows share their extra keys with the next one.
                e += if i % 2 == 0 { own } else { 0 };
            }
            e += 4;
        }
        (q, k) = (q + n, k + past + n);
    }
    l
}

/// For each query row, the rows of k that it sees, found by definition.
fn visible(l: &AttentionLayout, i: usize) -> Vec<usize> {
    let s = l.queries.iter().position(|r| r.contains(&i)).unwrap();
    let last = l.last[i] as usize;
    let seen = |j: usize| j <= last && (l.window == 0 || j + l.window > last);
    (0..l.keys[s].len())
        .filter(|&j| seen(j))
        .map(|j| l.keys[s].start + j)
        .collect()
}

fn inputs(l: &AttentionLayout) -> Vec<Tensor> {
    let (nq, nk) = (l.last.len(), l.keys.last().unwrap().end);
    let mut x = vec![normal(&[nq, HEADS * WIDTH], 1.0, "q")];
    for (n, purpose) in [(nk, "k"), (nk, "v"), (2, "pk"), (2, "pv")] {
        x.push(normal(&[n, KV_HEADS * WIDTH], 1.0, purpose));
    }
    if let Some(rows) = l.extra.iter().map(|r| r.end as usize).max() {
        x.push(normal(&[rows.max(1), KV_HEADS * WIDTH], 1.0, "ek"));
        x.push(normal(&[rows.max(1), KV_HEADS * WIDTH], 1.0, "ev"));
    }
    x
}

fn attend(t: &Tape, v: &[Var], l: &Arc<AttentionLayout>) -> Var {
    let extra = v.get(5).copied().zip(v.get(6).copied());
    let a = Attended {
        q: v[0],
        k: v[1],
        v: v[2],
        prefix: Some((v[3], v[4])),
        extra,
        heads: HEADS,
        kv_heads: KV_HEADS,
        site: None,
    };
    t.attention(a, l.clone())
}

/// `x` with other values in the chosen rows.
fn changed(x: &Tensor, rows: impl Fn(usize) -> bool) -> Tensor {
    let (d, other) = (x.cols(), normal(x.dims(), 30.0, "other").to_vec());
    let mix = |(i, x): (usize, &f32)| if rows(i / d) { other[i] } else { *x };
    Tensor::from_vec(x.to_vec().iter().enumerate().map(mix).collect(), x.dims())
}

fn row(values: &[f32], d: usize, i: usize) -> Vec<u32> {
    values[i * d..][..d].iter().map(|v| v.to_bits()).collect()
}

#[test]
fn rows_after_a_position_never_change_attention_before_it() {
    for draw in 0..40 {
        let l = Arc::new(layout(draw));
        let r = Counted::new(9, "position", draw);
        let x = inputs(&l);
        let f = |t: &Tape, v: &[Var]| attend(t, v, &l);
        let before = values(&x, &f);
        for (s, (q, k)) in l.queries.iter().zip(&l.keys).enumerate() {
            // Everything after row `at` of this segment, and all of the other segments.
            let at = r.below(s as u64, q.len());
            let end = k.start + l.last[q.start + at] as usize;
            let query = |i: usize| !(q.start..=q.start + at).contains(&i);
            let key = |j: usize| !(k.start..=end).contains(&j);
            let mut y = x.clone();
            y[0] = changed(&x[0], query);
            y[1] = changed(&x[1], key);
            y[2] = changed(&x[2], key);
            let after = values(&y, &f);
            for i in q.start..=q.start + at {
                let d = HEADS * WIDTH;
                assert_eq!(
                    row(&before, d, i),
                    row(&after, d, i),
                    "layout {draw}, segment {s}, row {i} of position {at}"
                );
            }
        }
    }
}

#[test]
fn a_row_depends_on_exactly_the_keys_that_it_sees() {
    for draw in 0..12 {
        let l = Arc::new(layout(draw));
        let r = Counted::new(9, "row", draw);
        let x = inputs(&l);
        let f = |t: &Tape, v: &[Var]| attend(t, v, &l);
        let before = values(&x, &f);
        let d = HEADS * WIDTH;
        for trial in 0..4 {
            let i = r.below(trial, l.last.len());
            let seen = visible(&l, i);
            let extra = l.extra.get(i).cloned().unwrap_or(0..0);
            let mut y = x.clone();
            for side in [1, 2] {
                y[side] = changed(&x[side], |j| !seen.contains(&j));
            }
            for side in 5..x.len() {
                y[side] = changed(&x[side], |j| !extra.contains(&(j as u32)));
            }
            assert_eq!(
                row(&before, d, i),
                row(&values(&y, &f), d, i),
                "layout {draw}: row {i} saw what it must not"
            );
            // Gradients name the same rows.
            let mut functional = vec![0.0; before.len()];
            functional[i * d..][..d].fill(1.0);
            let functional = functional.into();
            let g = gradients(&x, &|_| true, &f, &functional);
            let touched = |side: usize| -> Vec<usize> {
                let g = g.get(side).unwrap();
                let c = g.cols();
                (0..g.rows())
                    .filter(|&j| g.to_vec()[j * c..][..c].iter().any(|v| *v != 0.0))
                    .collect()
            };
            assert_eq!(touched(2), seen, "layout {draw}: values that row {i} sees");
            if x.len() > 5 {
                assert_eq!(
                    touched(6),
                    extra.map(|j| j as usize).collect::<Vec<_>>(),
                    "layout {draw}: extra values of row {i}"
                );
            }
            assert!(
                touched(1).iter().all(|j| seen.contains(j)),
                "layout {draw}: keys of row {i}"
            );
            assert!(
                touched(0).iter().all(|&j| j == i),
                "layout {draw}: queries of row {i}"
            );
        }
    }
}

#[test]
fn rows_after_a_position_never_change_a_causal_convolution_before_it() {
    let segments: Segments = Arc::new([0..20, 20..23, 23..60]);
    let x = [
        normal(&[60, 5], 1.0, "x"),
        normal(&[5, 4], 1.0, "w"),
        normal(&[9, 5], 1.0, "left"),
    ];
    let f = |t: &Tape, v: &[Var]| t.causal_conv(v[0], v[1], segments.clone(), Some(v[2]));
    let before = values(&x, &f);
    for i in 0..60 {
        let s = segments.iter().position(|s| s.contains(&i)).unwrap();
        let seen = segments[s].start.max(i.saturating_sub(3))..i + 1;
        let y = [
            changed(&x[0], |j| !seen.contains(&j)),
            x[1].clone(),
            changed(&x[2], |j| j / 3 != s),
        ];
        assert_eq!(row(&before, 5, i), row(&values(&y, &f), 5, i), "row {i}");
    }
}
