//! Every way that a product can go, on every path of this CPU, against plain loops in f64.

use super::tile::{Path, path, scalar};
use super::{Shape, few, gemm_bf16, mixed, product};
use crate::cpu::shared::Shared;
use crate::isa;
use crate::math::{from_bf16, to_bf16};
use crate::random::Counted;

/// Rows around a tile and a block of rows, columns around a panel and beyond what is packed at once, steps
/// around a vector and a depth, and the most rows that are taken without packing: (m, n, k).
const SHAPES: [(usize, usize, usize); 15] = [
    (1, 5, 31),
    (1, 97, 140),
    (4, 97, 64),
    (7, 64, 300),
    (13, 33, 8),
    (97, 31, 257),
    (193, 65, 31),
    (9, 4097, 260),
    (31, 33, 129),
    (48, 17, 200),
    (49, 17, 200),
    (31, 15, 513),
    (300, 545, 33),
    (64, 64, 1100),
    (17, 1, 1),
];

fn normals(n: usize, purpose: &str) -> Vec<f32> {
    let random = Counted::new(9, purpose, 0);
    (0..n as u64).map(|i| random.normal(i)).collect()
}

/// The tiles of every path that this CPU has, and plain loops at the sizes of the AVX-512 tile.
fn tiles() -> Vec<(&'static str, Path)> {
    let wide = Path {
        rows: 12,
        cols: 32,
        tile: scalar::<12, 32>,
    };
    let mut paths = vec![("12 x 32", wide)];
    paths.extend(isa::available().map(|isa| (isa.name(), path(isa))));
    paths
}

/// C in f64.
fn wanted(s: &Shape, a: &[f32], b: &[f32], old: &[f32]) -> Vec<f64> {
    let mut want = vec![0.0f64; s.m * s.n];
    for (i, row) in want.chunks_exact_mut(s.n).enumerate() {
        for p in 0..s.k {
            let x = f64::from(a[i * s.rsa + p * s.csa]);
            for (j, w) in row.iter_mut().enumerate() {
                *w += x * f64::from(b[p * s.rsb + j * s.csb]);
            }
        }
        for (w, old) in row.iter_mut().zip(&old[i * s.n..]) {
            let old = if s.beta == 0.0 { 0.0 } else { f64::from(*old) };
            *w = f64::from(s.alpha) * *w + f64::from(s.beta) * old;
        }
    }
    want
}

/// Runs a product alone and in parallel: the same bits, and near to what is wanted.
fn check(name: &str, s: &Shape, want: &[f64], old: &[f32], run: &dyn Fn(&mut [f32], bool)) {
    let start = if s.beta == 0.0 {
        // Old values must not be read.
        vec![f32::NAN; old.len()]
    } else {
        old.to_vec()
    };
    let (mut alone, mut parallel) = (start.clone(), start);
    run(&mut alone, false);
    run(&mut parallel, true);
    assert!(alone == parallel, "{name} {s:?}: the cut into tasks shows");
    let bound = 4e-5 * (s.k as f64).sqrt();
    for (i, (found, want)) in alone.iter().zip(want).enumerate() {
        assert!(
            (f64::from(*found) - want).abs() < bound,
            "{name} {s:?}: element {i} is {found}, not {want}"
        );
    }
}

#[test]
fn every_path_gives_the_sums_of_plain_loops_alone_and_in_parallel() {
    for (m, n, k) in SHAPES {
        let (a, b, old) = (
            normals(m * k, "a"),
            normals(k * n, "b"),
            normals(m * n, "c"),
        );
        for (ta, tb, alpha, beta) in [
            (false, false, 1.0, 0.0),
            (true, false, 0.5, 1.0),
            (false, true, -1.0, 0.0),
            (false, true, 0.5, -1.5),
            (true, true, 2.0, -1.5),
        ] {
            let (rsa, csa) = if ta { (1, m) } else { (k, 1) };
            let (rsb, csb) = if tb { (1, k) } else { (n, 1) };
            let s = Shape {
                m,
                n,
                k,
                rsa,
                csa,
                rsb,
                csb,
                rsc: n,
                alpha,
                beta,
                upper: false,
            };
            let want = wanted(&s, &a, &b, &old);
            for (name, path) in tiles() {
                check(name, &s, &want, &old, &|c, parallel| {
                    // SAFETY: the operands have the sizes of the shape; the CPU has these paths.
                    unsafe {
                        product::run_on(path, s, a.as_ptr(), b.as_ptr(), Shared::new(c), parallel)
                    }
                });
            }
            let near = |x: &[f32]| x.iter().map(|&x| from_bf16(to_bf16(x))).collect::<Vec<_>>();
            let want_mixed = wanted(&s, &near(&a), &near(&b), &old);
            check("rounded", &s, &want_mixed, &old, &|c, parallel| {
                // SAFETY: as above.
                unsafe { mixed::rounded(s, a.as_ptr(), b.as_ptr(), Shared::new(c), parallel) }
            });
            #[cfg(target_arch = "x86_64")]
            for isa in isa::available() {
                if let Some(unit) = mixed::unit(isa) {
                    check(isa.name(), &s, &want_mixed, &old, &|c, parallel| {
                        // SAFETY: as above; the CPU has the unit of an available path.
                        unsafe {
                            mixed::walk::run_on(
                                unit,
                                s,
                                a.as_ptr(),
                                b.as_ptr(),
                                Shared::new(c),
                                parallel,
                            )
                        }
                    });
                }
            }
            if csa == 1 && rsb == 1 {
                let narrow: Vec<u16> = b.iter().map(|&x| to_bf16(x)).collect();
                let rounded: Vec<f32> = narrow.iter().map(|&x| from_bf16(x)).collect();
                let want_narrow = wanted(&s, &a, &rounded, &old);
                for isa in isa::available() {
                    check(isa.name(), &s, &want, &old, &|c, parallel| {
                        // SAFETY: as above.
                        unsafe {
                            few::run_on(isa, s, a.as_ptr(), b.as_ptr(), Shared::new(c), parallel)
                        }
                    });
                    check(isa.name(), &s, &want_narrow, &old, &|c, parallel| {
                        // SAFETY: as above.
                        unsafe {
                            few::run_on(
                                isa,
                                s,
                                a.as_ptr(),
                                narrow.as_ptr(),
                                Shared::new(c),
                                parallel,
                            )
                        }
                    });
                }
                if (alpha, beta) == (-1.0, 0.0) {
                    check("bf16", &s, &want_narrow, &old, &|c, _| {
                        gemm_bf16(m, n, k, &a, &narrow, c);
                        c.iter_mut().for_each(|x| *x = -*x);
                    });
                }
            }
        }
    }
}

#[test]
fn bf16_rounds_to_nearest_and_ties_to_even() {
    let cases = [
        (1.0, 1.0),
        (1.0 + 1.0 / 256.0, 1.0),
        (1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
        (1.0 + 1.1 / 256.0, 1.0 + 2.0 / 256.0),
        (-0.0, -0.0),
        (f32::MAX, f32::INFINITY),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
        (1e-40, from_bf16(1)),
    ];
    for (x, want) in cases {
        let found: f32 = from_bf16(to_bf16(x));
        assert_eq!(found.to_bits(), want.to_bits(), "{x}: {found}");
    }
    assert!(from_bf16(to_bf16(f32::NAN)).is_nan());
}
