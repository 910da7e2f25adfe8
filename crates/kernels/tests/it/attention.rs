//! Attention over random layouts against its definition in f64, forward and backward.

use crate::paths::normals;
use kernels::cpu::attention::{Gradients, Layout, Operands, backward, forward};
use kernels::random::Counted;

const WIDTH: usize = 5;

struct Problem {
    layout: Layout,
    heads: usize,
    kv_heads: usize,
    prefix: usize,
    extra: usize,
}

/// Segments of 1 to 150 rows, some with keys before their first query, some queries that share a position.
fn problem(draw: u64) -> Problem {
    let r = Counted::new(8, "layout", draw);
    let (heads, kv_heads) = [(1, 1), (2, 2), (4, 2), (3, 1)][r.below(0, 4)];
    let mut layout = Layout {
        window: [0, 1, 5, 90][r.below(1, 4)],
        ..Layout::default()
    };
    let (mut q, mut k, mut extra) = (0, 0, 0);
    let with_extra = r.below(2, 2) == 1;
    for s in 0..1 + r.below(3, 3) as u64 {
        let n = 1 + r.below(10 + s, [150, 6, 2][s as usize]);
        let past = r.below(20 + s, 9);
        layout.queries.push(q..q + n);
        layout.keys.push(k..k + past + n);
        for i in 0..n {
            // Out of order on purpose: nothing asks for positions that rise.
            let jump = r.below(100 * (s + 1) + i as u64, 3);
            layout.last.push((past + i).saturating_sub(jump) as u32);
            if with_extra {
                let own = r.below(1000 * (s + 1) + i as u64, 3) as u32;
                layout.extra.push(extra..extra + own);
                extra += own;
            }
        }
        (q, k) = (q + n, k + past + n);
    }
    if with_extra {
        extra += 1;
    }
    Problem {
        layout,
        heads,
        kv_heads,
        prefix: r.below(4, 3),
        extra: extra as usize,
    }
}

struct Values {
    q: Vec<f32>,
    /// Key and value rows: prefix, then the segments', then extra.
    k: Vec<f32>,
    v: Vec<f32>,
    dy: Vec<f32>,
}

/// The definition: output, and gradients of q, k and v, each in f64; the largest score of each head.
fn definition(p: &Problem, x: &Values, scale: f64) -> ([Vec<f64>; 4], Vec<f64>) {
    let (qs, ks) = (p.heads * WIDTH, p.kv_heads * WIDTH);
    let keys = p.layout.keys.last().unwrap().end;
    let (mut out, mut dq) = (vec![0.0; x.q.len()], vec![0.0; x.q.len()]);
    let (mut dk, mut dv) = (vec![0.0; x.k.len()], vec![0.0; x.k.len()]);
    let mut top = vec![f64::NEG_INFINITY; p.heads];
    for i in 0..p.layout.last.len() {
        let s = p
            .layout
            .queries
            .iter()
            .position(|r| r.contains(&i))
            .unwrap();
        let last = p.layout.last[i] as usize;
        let mut seen: Vec<usize> = (0..p.prefix).collect();
        seen.extend(
            (0..=last)
                .filter(|j| p.layout.window == 0 || j + p.layout.window > last)
                .map(|j| p.prefix + p.layout.keys[s].start + j),
        );
        if let Some(own) = p.layout.extra.get(i) {
            seen.extend(own.clone().map(|j| p.prefix + keys + j as usize));
        }
        for (h, top) in top.iter_mut().enumerate() {
            let (qa, ka) = (i * qs + h * WIDTH, h * p.kv_heads / p.heads * WIDTH);
            let at = |m: &[f32], j: usize, c: usize| f64::from(m[j * ks + ka + c]);
            let q = |c: usize| f64::from(x.q[qa + c]);
            let dy = |c: usize| f64::from(x.dy[qa + c]);
            let scores: Vec<f64> = seen
                .iter()
                .map(|&j| (0..WIDTH).map(|c| q(c) * at(&x.k, j, c)).sum::<f64>() * scale)
                .collect();
            *top = scores.iter().copied().fold(*top, f64::max);
            let total: f64 = scores.iter().map(|s| s.exp()).sum();
            let weights: Vec<f64> = scores.iter().map(|s| s.exp() / total).collect();
            let dp: Vec<f64> = seen
                .iter()
                .map(|&j| (0..WIDTH).map(|c| dy(c) * at(&x.v, j, c)).sum())
                .collect();
            let mean: f64 = weights.iter().zip(&dp).map(|(w, d)| w * d).sum();
            for ((&j, w), d) in seen.iter().zip(&weights).zip(&dp) {
                let ds = w * (d - mean) * scale;
                for c in 0..WIDTH {
                    out[qa + c] += w * at(&x.v, j, c);
                    dq[qa + c] += ds * at(&x.k, j, c);
                    dk[j * ks + ka + c] += ds * q(c);
                    dv[j * ks + ka + c] += w * dy(c);
                }
            }
        }
    }
    ([out, dq, dk, dv], top)
}

#[track_caller]
fn close(what: &str, found: &[f32], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let scale = wanted.iter().fold(1.0f64, |m, w| m.max(w.abs()));
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!(
            (f64::from(*f) - w).abs() < 1e-5 * scale,
            "{what}: element {i} is {f}, not {w}"
        );
    }
}

#[test]
fn random_layouts_agree_with_the_definition() {
    for draw in 0..60 {
        let p = problem(draw);
        let (nq, nk) = (p.layout.last.len(), p.layout.keys.last().unwrap().end);
        let (qs, ks) = (p.heads * WIDTH, p.kv_heads * WIDTH);
        let rows = p.prefix + nk + p.extra;
        let x = Values {
            q: normals(nq * qs, 1.0, "q"),
            k: normals(rows * ks, 1.0, "k"),
            v: normals(rows * ks, 1.0, "v"),
            dy: normals(nq * qs, 1.0, "dy"),
        };
        let (own, extra) = (p.prefix * ks, (p.prefix + nk) * ks);
        let o = Operands {
            q: &x.q,
            k: &x.k[own..extra],
            v: &x.v[own..extra],
            prefix: (p.prefix > 0).then_some((&x.k[..own], &x.v[..own])),
            extra: (p.extra > 0).then_some((&x.k[extra..], &x.v[extra..])),
            heads: p.heads,
            kv_heads: p.kv_heads,
            width: WIDTH,
            scale: 0.4,
        };
        let ([out, dq, dk, dv], top) = definition(&p, &x, f64::from(0.4f32));
        let (mut y, mut lse, mut peaks) = (
            vec![f32::NAN; nq * qs],
            vec![f32::NAN; nq * p.heads],
            vec![0.0; p.heads],
        );
        forward(&o, &p.layout, &mut y, &mut lse, &mut peaks);
        close(&format!("layout {draw}: output"), &y, &out);
        close(&format!("layout {draw}: largest scores"), &peaks, &top);
        // What is there is overwritten.
        let (mut gq, mut gk, mut gv) = (
            vec![f32::NAN; x.q.len()],
            vec![f32::NAN; x.k.len()],
            vec![f32::NAN; x.k.len()],
        );
        {
            let (pk, rest) = gk.split_at_mut(own);
            let (k, ek) = rest.split_at_mut(extra - own);
            let (pv, rest) = gv.split_at_mut(own);
            let (v, ev) = rest.split_at_mut(extra - own);
            let grads = Gradients {
                q: &mut gq,
                k,
                v,
                prefix: (p.prefix > 0).then_some((pk, pv)),
                extra: (p.extra > 0).then_some((ek, ev)),
            };
            backward(&o, &p.layout, &y, &lse, &x.dy, grads);
        }
        for (name, found, wanted) in [("queries", gq, dq), ("keys", gk, dk), ("values", gv, dv)] {
            close(
                &format!("layout {draw}: gradient of {name}"),
                &found,
                &wanted,
            );
        }
    }
}

/// Two segments of one row each, over the given keys.
fn shared(keys: [std::ops::Range<usize>; 2], extra: Vec<std::ops::Range<u32>>) {
    let x = [1.0; 4];
    let layout = Layout {
        queries: vec![0..1, 1..2],
        keys: keys.to_vec(),
        last: vec![0, 0],
        window: 0,
        extra,
    };
    let pair = (!layout.extra.is_empty()).then_some((&x[..], &x[..]));
    let o = Operands {
        q: &x,
        k: &x,
        v: &x,
        prefix: None,
        extra: pair,
        heads: 1,
        kv_heads: 1,
        width: 2,
        scale: 1.0,
    };
    let (mut y, mut lse, mut peaks) = ([0.0; 4], [0.0; 2], [0.0]);
    forward(&o, &layout, &mut y, &mut lse, &mut peaks);
    let (mut q, mut k, mut v, mut ek, mut ev) = ([0.0; 4], [0.0; 4], [0.0; 4], [0.0; 4], [0.0; 4]);
    let extra = pair.is_some().then_some((&mut ek[..], &mut ev[..]));
    backward(
        &o,
        &layout,
        &y,
        &lse,
        &x,
        Gradients {
            q: &mut q,
            k: &mut k,
            v: &mut v,
            prefix: None,
            extra,
        },
    );
}

#[test]
#[should_panic(expected = "share key rows")]
fn segments_that_share_key_rows_have_no_gradient() {
    shared([0..1, 0..2], vec![]);
}

#[test]
#[should_panic(expected = "share extra row")]
fn segments_that_share_extra_rows_have_no_gradient() {
    shared([0..1, 1..2], vec![0..1, 0..2]);
}
