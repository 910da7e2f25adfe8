//! Matrix products at degenerate sizes, in wider matrices, and the bits of symmetric ones.

use crate::conformance::trial::normals;
use kernels::cpu::gemm::{gemm, gemm_symmetric};

/// Element strides of an [r, c] operand, stored as it is or transposed.
fn strides(r: usize, c: usize, transposed: bool) -> (usize, usize) {
    if transposed { (1, r) } else { (c, 1) }
}

#[test]
fn a_product_over_nothing_is_zero_or_the_old_values() {
    let mut c = vec![f32::NAN; 6];
    gemm(2, 3, 0, 1.0, &[], 0, 1, &[], 3, 1, 0.0, &mut c, 3);
    assert_eq!(c, [0.0; 6]);
    c.fill(4.0);
    gemm(2, 3, 0, 1.0, &[], 0, 1, &[], 3, 1, 1.0, &mut c, 3);
    assert_eq!(c, [4.0; 6]);
    gemm(0, 3, 2, 1.0, &[], 2, 1, &[0.0; 6], 3, 1, 0.0, &mut [], 3);
}

#[test]
fn rows_of_a_wider_matrix_are_written_without_touching_the_rest() {
    let mut c = [9.0; 4 * 10];
    let (a, b) = (normals(4 * 3, 1.0, "a"), normals(3 * 6, 1.0, "b"));
    gemm(4, 6, 3, 1.0, &a, 3, 1, &b, 6, 1, 0.0, &mut c[2..], 10);
    for (i, v) in c.iter().enumerate() {
        assert_eq!((2..8).contains(&(i % 10)), *v != 9.0, "element {i}");
    }
}

#[test]
#[should_panic(expected = "gemm: B [3, 6]")]
fn an_operand_that_is_too_short_is_refused() {
    gemm(
        4,
        6,
        3,
        1.0,
        &[0.0; 12],
        3,
        1,
        &[0.0; 17],
        6,
        1,
        0.0,
        &mut [0.0; 24],
        6,
    );
}

/// Half the work must not show in any bit.
#[test]
fn symmetric_products_are_whole_products_bit_for_bit() {
    for (n, k) in [(1, 3), (5, 2), (31, 33), (97, 40), (200, 300), (330, 17)] {
        for transposed in [false, true] {
            let a = normals(n * k, 1.0, "a");
            let (rs, cs) = strides(n, k, transposed);
            let mut start = vec![0.0; n * n];
            gemm(n, n, k, 0.5, &a, rs, cs, &a, cs, rs, 0.0, &mut start, n);
            for (alpha, beta) in [(1.0, 0.0), (-0.5, 2.0)] {
                let (mut half, mut whole) = (start.clone(), start.clone());
                gemm_symmetric(n, k, alpha, &a, rs, cs, beta, &mut half);
                gemm(n, n, k, alpha, &a, rs, cs, &a, cs, rs, beta, &mut whole, n);
                assert!(half == whole, "n {n}, k {k}, transposed {transposed}");
            }
        }
    }
}
