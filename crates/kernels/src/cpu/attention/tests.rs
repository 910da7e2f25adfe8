//! Attention on tiles against the fp32 way, which is tested against its definition, over random layouts.

use super::{Gradients, Layout, Operands, backward_on, forward_on, tiles};
use crate::cpu::gemm::mixed;
use crate::isa;
use crate::random::Counted;

fn normals(n: usize, purpose: &str, draw: u64) -> Vec<f32> {
    let random = Counted::new(11, purpose, draw);
    (0..n as u64).map(|i| random.normal(i)).collect()
}

/// Segments around blocks of queries and strips of keys, some with keys before their first query, positions out
/// of order, and key rows of no segment.
fn layout(draw: u64) -> Layout {
    let r = Counted::new(11, "layout", draw);
    let mut layout = Layout {
        window: [0, 2, 40, 90][r.below(1, 4)],
        ..Layout::default()
    };
    let (mut q, mut k) = (0, 0);
    for s in 0..1 + r.below(3, 3) as u64 {
        let n = 16 + r.below(10 + s, 180);
        let past = r.below(20 + s, 40);
        layout.queries.push(q..q + n);
        layout.keys.push(k..k + past + n);
        for i in 0..n {
            let jump = r.below(100 * (s + 1) + i as u64, 3);
            layout.last.push((past + i).saturating_sub(jump) as u32);
        }
        (q, k) = (q + n, k + past + n + r.below(30 + s, 2));
    }
    layout
}

/// Within two hundredths of the largest: operands carry eight bits.
fn near(name: &str, found: &[f32], want: &[f32]) {
    let top = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    for (i, (&f, &w)) in found.iter().zip(want).enumerate() {
        assert!(
            (f - w).abs() <= 0.02 * top,
            "{name}: element {i} is {f}, not {w} (largest {top})"
        );
    }
}

/// Everything that both passes give: out, lse, largest scores; gradients of q, k, v, prefix keys and values.
fn run(
    unit: Option<super::Unit>,
    o: &Operands,
    layout: &Layout,
    dy: &[f32],
    keys: usize,
) -> Vec<(&'static str, Vec<f32>)> {
    let nan = |n: usize| vec![f32::NAN; n];
    let (mut out, mut lse) = (nan(o.q.len()), nan(layout.last.len() * o.heads));
    let mut max = nan(o.heads);
    forward_on(unit, o, layout, &mut out, &mut lse, &mut max);
    let (mut dq, mut dk, mut dv) = (nan(o.q.len()), nan(o.k.len()), nan(o.k.len()));
    let prefix = o.prefix.map_or(0, |(k, _)| k.len());
    let (mut pk, mut pv) = (nan(prefix), nan(prefix));
    let grads = Gradients {
        q: &mut dq,
        k: &mut dk,
        v: &mut dv,
        prefix: o.prefix.map(|_| (&mut pk[..], &mut pv[..])),
        extra: None,
    };
    backward_on(unit, o, layout, &out, &lse, dy, grads);
    assert_eq!(dk.len(), keys);
    vec![
        ("out", out),
        ("lse", lse),
        ("max", max),
        ("dq", dq),
        ("dk", dk),
        ("dv", dv),
        ("dk of the prefix", pk),
        ("dv of the prefix", pv),
    ]
}

#[test]
fn tiles_agree_with_the_other_way() {
    let units = isa::available().filter_map(mixed::unit).collect::<Vec<_>>();
    if units.is_empty() {
        println!("skipped: {} has no products of bf16", isa::name());
    }
    for draw in 0..40 {
        let r = Counted::new(11, "sizes", draw);
        let layout = layout(draw);
        let (heads, kv_heads) = [(1, 1), (2, 2), (4, 2), (3, 1)][r.below(0, 4)];
        let width = [32, 64, 96][r.below(1, 3)];
        let prefix = [0, 0, 3, 33][r.below(2, 4)];
        let (qs, ks) = (heads * width, kv_heads * width);
        let nq = layout.last.len();
        let nk = layout.keys.last().map_or(0, |k| k.end) + 1;
        let (q, dy) = (normals(nq * qs, "q", draw), normals(nq * qs, "dy", draw));
        let (k, v) = (normals(nk * ks, "k", draw), normals(nk * ks, "v", draw));
        let pk = normals(prefix * ks, "pk", draw);
        let pv = normals(prefix * ks, "pv", draw);
        let o = Operands {
            q: &q,
            k: &k,
            v: &v,
            prefix: (prefix > 0).then_some((&pk, &pv)),
            extra: None,
            heads,
            kv_heads,
            width,
            scale: 1.0 / (width as f32).sqrt(),
        };
        assert!(tiles::suits(&o, &layout));
        let want = run(None, &o, &layout, &dy, nk * ks);
        for &unit in &units {
            let found = run(Some(unit), &o, &layout, &dy, nk * ks);
            for ((name, found), (_, want)) in found.iter().zip(&want) {
                near(&format!("{unit:?}, layout {draw}: {name}"), found, want);
            }
        }
    }
}

#[test]
fn a_score_that_is_not_a_number_reaches_the_output() {
    let Some(unit) = isa::available().filter_map(mixed::unit).last() else {
        return;
    };
    let layout = Layout {
        queries: vec![0..30, 30..64],
        keys: vec![0..64, 64..128],
        last: (0..30).chain(0..34).collect(),
        ..Layout::default()
    };
    let mut q = normals(64 * 32, "q", 0);
    q[40 * 32 + 5] = f32::NAN;
    let (k, v) = (normals(128 * 32, "k", 0), normals(128 * 32, "v", 0));
    let o = Operands {
        q: &q,
        k: &k,
        v: &v,
        prefix: None,
        extra: None,
        heads: 1,
        kv_heads: 1,
        width: 32,
        scale: 0.2,
    };
    let (mut out, mut lse, mut max) = ([0.0; 64 * 32], [0.0; 64], [0.0]);
    forward_on(Some(unit), &o, &layout, &mut out, &mut lse, &mut max);
    for (i, row) in out.chunks_exact(32).enumerate() {
        assert_eq!(row.iter().all(|x| x.is_nan()), i == 40, "row {i}");
        assert_eq!(lse[i].is_nan(), i == 40, "lse of row {i}");
    }
}
