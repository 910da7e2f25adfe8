//! Ternary codes: packings there and back, the quantisers, and what is not finite.

use crate::conformance::trial::normals;
use kernels::cpu::ternary::packed::{BadByte, Packed, Packing};
use kernels::cpu::ternary::{Scale, quantise, round_half, ternary_matmul};
use kernels::random::Counted;

/// Columns around blocks, pairs of blocks and bytes of both packings.
const COLUMNS: [usize; 10] = [1, 5, 31, 32, 33, 64, 96, 100, 156, 517];

fn codes(n: usize) -> Vec<i8> {
    let r = Counted::new(3, "codes", n as u64);
    (0..n as u64).map(|i| r.below(i, 3) as i8 - 1).collect()
}

#[test]
fn a_token_that_is_not_finite_gives_results_that_are_not_finite() {
    let w = Packed::new(&codes(8), vec![1.0; 2], 4);
    for fault in [f32::NAN, f32::INFINITY] {
        let mut out = [0.0; 4];
        ternary_matmul(&w, &[1.0, 2.0, 3.0, 4.0, 1.0, fault, 3.0, 4.0], &mut out);
        assert!(
            out[..2].iter().all(|v| v.is_finite()) && out[2..].iter().all(|v| v.is_nan()),
            "{out:?}"
        );
    }
}

#[test]
fn packings_return_their_codes_and_refuse_bytes_that_hold_none() {
    for cols in COLUMNS {
        let c = codes(11 * cols);
        for packing in [Packing::Base3, Packing::TwoBit] {
            let bytes = packing.pack(&c, cols);
            assert_eq!(bytes.len(), 11 * packing.row_bytes(cols));
            assert_eq!(
                packing.unpack(&bytes, cols),
                Ok(c.clone()),
                "{packing:?} with {cols} columns"
            );
        }
        assert_eq!(Packed::new(&c, vec![0.5; 11], cols).codes(), c);
    }
    let valid = |p: Packing| {
        (0..=255u8)
            .filter(|&b| p.unpack(&[b], p.codes_per_byte()).is_ok())
            .count()
    };
    assert_eq!(valid(Packing::Base3), 243);
    assert_eq!(valid(Packing::TwoBit), 81);
    let mut bytes = Packing::Base3.pack(&codes(60), 20);
    bytes[7] = 1;
    assert_eq!(
        Packing::Base3.unpack(&bytes, 20),
        Err(BadByte { at: 7, byte: 1 })
    );
    // A row of two codes: digits behind its end are the digit of zero, anything else is damage.
    assert!(Packing::TwoBit.unpack(&[0b0000_0101], 2).is_err());
}

#[test]
fn sparsity_moves_the_share_of_zeros_as_it_does_on_gaussian_weights() {
    let (rows, cols) = (64, 1024);
    let w = normals(rows * cols, 0.02, "gaussian");
    for (s, share) in [
        (0.0, 0.31),
        (0.05, 0.34),
        (0.1, 0.37),
        (0.15, 0.40),
        (0.2, 0.42),
    ] {
        let (mut c, mut scales) = (vec![0; rows * cols], vec![0.0; rows]);
        quantise(&w, cols, s, Scale::Absmean, &mut c, &mut scales);
        let zeros = c.iter().filter(|&&c| c == 0).count() as f64 / c.len() as f64;
        assert!(
            (zeros - share).abs() < 0.007,
            "s = {s}: {zeros:.3} zeros, {share} expected"
        );
        for (row, &scale) in w.chunks(cols).zip(&scales) {
            let mean = row.iter().map(|v| f64::from(v.abs())).sum::<f64>() / cols as f64;
            assert!(
                (f64::from(scale) / mean - 1.0).abs() < 6e-4,
                "scale {scale} for a mean of {mean}"
            );
        }
    }
}

#[test]
fn the_scale_of_kept_weights_is_least_squares_for_the_codes() {
    let w = normals(256, 1.0, "row");
    let (mut c, mut scale) = (vec![0; 256], vec![0.0]);
    quantise(&w, 256, 0.1, Scale::Kept, &mut c, &mut scale);
    let error = |a: f32| {
        w.iter()
            .zip(&c)
            .map(|(w, &c)| f64::from(w - a * f32::from(c)).powi(2))
            .sum::<f64>()
    };
    assert!(error(scale[0]) < error(scale[0] * 1.01) && error(scale[0]) < error(scale[0] * 0.99));
}

#[test]
fn a_row_of_zeros_stays_zero_and_halves_round_to_even() {
    let (mut c, mut scale) = (vec![1; 8], vec![0.0]);
    quantise(&[0.0; 8], 8, 0.0, Scale::Kept, &mut c, &mut scale);
    assert_eq!(c, [0; 8]);
    assert!(scale[0] > 0.0 && scale[0] < 1e-4);
    for (x, wanted) in [
        (1.0, 1.0),
        (1.0 + 1.0 / 2048.0, 1.0),
        (1.0 + 3.0 / 2048.0, 1.0 + 2.0 / 1024.0),
        (-0.1, -0.099_975_586),
        (6e-8, 5.960_464_5e-8),
        (2.0e-5, 2.002_716e-5),
    ] {
        assert_eq!(round_half(x), wanted, "{x:e}");
    }
}
