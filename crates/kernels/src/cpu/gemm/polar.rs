//! The polar factor of a matrix by Newton-Schulz iterations: X <- a X + (b A + c A²) X with A = X Xᵀ, which drives
//! the singular values of X towards 1 (Björck & Bowie 1971; the triples are Muon's, Jordan et al. 2024).
//!
//! All products of an iteration run over the shorter side: a matrix [R, C] with more rows than columns takes
//! X <- a X + X (b A + c A²) with A = Xᵀ X. A and its square are symmetric, so one half of each is computed.

use super::{gemm, gemm_symmetric};
use crate::cpu::scratch;
#[cfg(target_arch = "x86_64")]
use crate::isa;
use crate::isa::multiversion;

/// Coefficients (a, b, c) of one iteration.
pub type Coefficients = (f32, f32, f32);

/// Iterates on x [R, C], whose singular values are at most 1, once for each of the coefficients.
pub fn polar(x: &mut [f32], [r, c]: [usize; 2], coefficients: &[Coefficients]) {
    assert_eq!(x.len(), r * c, "polar: [{r}, {c}]");
    #[cfg(target_arch = "x86_64")]
    if super::fuses([r, c])
        && let Some(unit) = super::mixed::unit(isa::detect())
    {
        return tiles::polar(unit, x, [r, c], coefficients);
    }
    product_by_product(x, [r, c], coefficients);
}

fn product_by_product(x: &mut [f32], [r, c]: [usize; 2], coefficients: &[Coefficients]) {
    let (n, tall) = (r.min(c), r > c);
    let mut room = scratch::take(3 * n * n + r * c);
    let (gram, rest) = room.split_at_mut(n * n);
    let (square, rest) = rest.split_at_mut(n * n);
    let (poly, old) = rest.split_at_mut(n * n);
    let (rows, cols) = if tall { (1, c) } else { (c, 1) };
    for &(a, by_gram, by_square) in coefficients {
        gemm_symmetric(n, r.max(c), 1.0, x, rows, cols, 0.0, gram);
        gemm_symmetric(n, n, 1.0, gram, n, 1, 0.0, square);
        combined(gram, square, by_gram, by_square, poly);
        old.copy_from_slice(x);
        if tall {
            gemm(r, c, c, 1.0, old, c, 1, poly, n, 1, a, x, c);
        } else {
            gemm(r, c, r, 1.0, poly, n, 1, old, c, 1, a, x, c);
        }
    }
}

multiversion! {
    /// to = b gram + c square
    fn combined(gram: &[f32], square: &[f32], b: f32, c: f32, to: &mut [f32]) {
        for ((to, &gram), &square) in to.iter_mut().zip(gram).zip(square) {
            *to = b * gram + c * square;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod tiles;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Counted;

    /// Muon's quintic.
    const QUINTIC: [Coefficients; 5] = [(3.4445, -4.7750, 2.0315); 5];

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn on_tiles_it_is_the_same_but_for_rounded_operands() {
        use super::super::mixed::tile::Unit;
        let units = [
            (isa::Isa::Amx, Unit::Amx),
            (isa::Isa::Avx512Bf16, Unit::Pairs),
        ];
        for (_, unit) in units.into_iter().filter(|(isa, _)| isa.available()) {
            for size @ [r, c] in [
                [32, 32],
                [33, 65],
                [65, 33],
                [70, 600],
                [600, 70],
                [40, 544],
            ] {
                let random = Counted::new(3, "polar", 0);
                let mut x: Vec<f32> = (0..(r * c) as u64).map(|i| random.normal(i)).collect();
                let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt();
                x.iter_mut().for_each(|x| *x /= norm);
                let mut want = x.clone();
                tiles::polar(unit, &mut x, size, &QUINTIC);
                product_by_product(&mut want, size, &QUINTIC);
                // The rows or columns of the factor have about unit length.
                let off = x
                    .iter()
                    .zip(&want)
                    .map(|(x, y)| (x - y).powi(2))
                    .sum::<f32>();
                let off = (off / r.min(c) as f32).sqrt();
                assert!(off < 5e-2, "{unit:?} {size:?}: {off}");
                assert!(off > 0.0, "{unit:?} {size:?}: nothing was rounded");
            }
        }
    }
}
