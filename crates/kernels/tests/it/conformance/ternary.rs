//! Ternary products and quantisers: integers, so equal bits on every path.

use super::trial::{Trial, normals, unset};
use super::{Operation, same};
use kernels::cpu::ternary::packed::{Packed, Packing};
use kernels::cpu::ternary::{self, Path, Scale};
use kernels::random::Counted;

pub(super) const TABLE: &[Operation] = &[
    same("ternary::round_half", 0.0, round_half),
    same("ternary::quantise", 8192.0, quantise),
    same("ternary::quantise_tokens", 1.0, quantise_tokens),
    same("ternary::integer_sums", 0.0, integer_sums),
    same("ternary::ternary_matmul", 4.0, ternary_matmul),
    same("ternary::packed::pack", 0.0, packings),
    same("ternary::packed::unpack", 0.0, packings),
];

/// Rows, columns (around blocks, pairs of blocks and bytes of both packings), tokens.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (3, 5, 2),
    (7, 31, 4),
    (37, 33, 9),
    (33, 32, 31),
    (150, 96, 40),
    (31, 517, 33),
    (3, 4097, 3),
    (4097, 31, 1),
];

fn codes(n: usize) -> Vec<i8> {
    let r = Counted::new(3, "codes", n as u64);
    (0..n as u64).map(|i| r.below(i, 3) as i8 - 1).collect()
}

fn floats(x: &[i8]) -> Vec<f32> {
    x.iter().map(|&x| f32::from(x)).collect()
}

/// The nearest number of ten bits behind the first, or the nearest multiple of 2^-24.
fn half(x: f64) -> f64 {
    let exponent = x.abs().log2().floor().max(-14.0);
    let unit = (exponent - 10.0).exp2();
    (x / unit).round_ties_even() * unit
}

fn round_half(t: &mut Trial) {
    let mut x = normals(4097, 1.0, "halves");
    x.extend(normals(4097, 1e-5, "small halves"));
    let want = x.iter().map(|&x| half(f64::from(x))).collect();
    t.compare("normal numbers", vec![want], || {
        vec![x.iter().map(|&x| ternary::round_half(x)).collect()]
    });
}

fn quantise(t: &mut Trial) {
    for (rows, cols, _) in SHAPES {
        let w = normals(rows * cols, 0.02, "w");
        for (sparsity, scale) in [(0.0, Scale::Absmean), (0.1, Scale::Kept)] {
            let (mut codes, mut scales) = (Vec::new(), Vec::new());
            for w in w.chunks(cols) {
                let size = |w: &f32| f64::from(w.abs());
                let gamma = w.iter().map(size).sum::<f64>() / cols as f64;
                let kept = |w: &&f32| size(w) >= gamma.max(1e-5) * (0.5 + f64::from(sparsity));
                codes.extend(
                    w.iter()
                        .map(|w| if kept(&w) { f64::from(w.signum()) } else { 0.0 }),
                );
                let count = w.iter().filter(kept).count() as f64;
                // Rounded to half precision, which is 2^-11 of it at most.
                scales.push(match scale {
                    Scale::Kept => w.iter().filter(kept).map(size).sum::<f64>() / count,
                    Scale::Absmean => gamma,
                });
            }
            t.compare(
                &format!("[{rows}, {cols}], {scale:?}"),
                vec![codes, scales],
                || {
                    let (mut codes, mut scales) = (vec![9; rows * cols], unset(rows));
                    ternary::quantise(&w, cols, sparsity, scale, &mut codes, &mut scales);
                    vec![floats(&codes), scales]
                },
            );
        }
    }
}

fn quantise_tokens(t: &mut Trial) {
    for (_, cols, tokens) in SHAPES {
        let (x, stride) = (normals(tokens * cols, 3.0, "x"), cols.next_multiple_of(32));
        let (mut q, mut steps) = (vec![0.0; tokens * stride], Vec::new());
        for (x, q) in x.chunks(cols).zip(q.chunks_mut(stride)) {
            let most = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            steps.push(f64::from(most) / 127.0);
            // In fp32, as an integer cannot be nearly right.
            q.iter_mut()
                .zip(x)
                .for_each(|(q, x)| *q = f64::from((x * (127.0 / most)).round_ties_even()));
        }
        t.compare(&format!("[{tokens}, {cols}]"), vec![q, steps], || {
            let (mut q, mut steps) = (vec![9; tokens * stride], unset(tokens));
            ternary::quantise_tokens(&x, cols, &mut q, stride, &mut steps);
            vec![floats(&q), steps]
        });
    }
}

fn integer_sums(t: &mut Trial) {
    for (rows, cols, tokens) in SHAPES {
        let c = codes(rows * cols);
        let w = Packed::new(&c, vec![1.0; rows], cols);
        let stride = w.padded_cols();
        let r = Counted::new(3, "activations", cols as u64);
        // The first token holds the extremes that would overflow a narrow sum.
        let any = |i: usize| {
            if i < stride {
                -128
            } else {
                r.below(i as u64, 256) as u8 as i8
            }
        };
        let q: Vec<i8> = (0..tokens * stride)
            .map(|i| if i % stride < cols { any(i) } else { 0 })
            .collect();
        let sum = |token: usize, row: usize| -> i32 {
            let at = |i: usize| i32::from(c[row * cols + i]) * i32::from(q[token * stride + i]);
            (0..cols).map(at).sum()
        };
        let want: Vec<f64> = (0..tokens * rows)
            .map(|i| f64::from(sum(i / rows, i % rows)))
            .collect();
        // Each column of the table has its own best path.
        let case = format!("[{rows}, {cols}], {tokens} tokens");
        t.compare(&case, vec![want], || {
            let mut out = vec![0; tokens * rows];
            ternary::integer_sums(Path::best(), &w, &q, &mut out);
            // Below 2^24, so exact.
            vec![out.iter().map(|&x| x as f32).collect()]
        });
    }
}

fn ternary_matmul(t: &mut Trial) {
    for (rows, cols, tokens) in SHAPES {
        let (c, x) = (codes(rows * cols), normals(tokens * cols, 3.0, "x"));
        let scales: Vec<f32> = normals(rows, 0.01, "scales")
            .iter()
            .map(|x| x.abs() + 0.01)
            .collect();
        let (mut q, mut steps) = (vec![0; tokens * cols], vec![0.0; tokens]);
        ternary::quantise_tokens(&x, cols, &mut q, cols, &mut steps);
        let one = |i: usize| {
            let (token, row) = (i / rows, i % rows);
            let at = |i: usize| f64::from(c[row * cols + i]) * f64::from(q[token * cols + i]);
            (0..cols).map(at).sum::<f64>() * f64::from(scales[row]) * f64::from(steps[token])
        };
        let packed = Packed::new(&c, scales.clone(), cols);
        t.compare(
            &format!("[{rows}, {cols}], {tokens} tokens"),
            vec![(0..tokens * rows).map(one).collect()],
            || {
                let mut out = unset(tokens * rows);
                ternary::ternary_matmul(&packed, &x, &mut out);
                vec![out]
            },
        );
    }
}

fn packings(t: &mut Trial) {
    for (rows, cols, _) in SHAPES {
        let c = codes(rows * cols);
        let want: Vec<f64> = c.iter().map(|&c| f64::from(c)).collect();
        for packing in [Packing::Base3, Packing::TwoBit] {
            t.compare(
                &format!("[{rows}, {cols}], {packing:?}"),
                vec![want.clone(); 2],
                || {
                    let bytes = packing.pack(&c, cols);
                    assert_eq!(bytes.len(), rows * packing.row_bytes(cols));
                    let there = Packed::new(&c, vec![1.0; rows], cols).codes();
                    vec![
                        floats(&packing.unpack(&bytes, cols).unwrap()),
                        floats(&there),
                    ]
                },
            );
        }
    }
}
