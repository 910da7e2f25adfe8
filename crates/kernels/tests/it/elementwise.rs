//! What the conformance table does not say of elementwise operations: NaN, and the order of sums over rows.

use crate::conformance::trial::normals;
use kernels::cpu::elementwise as e;
use kernels::math;

#[test]
fn not_a_number_is_never_hidden() {
    let mut x = normals(40, 1.0, "x");
    x[17] = f32::NAN;
    let mut out = vec![0.0; 40];
    for f in [math::exp, math::sigmoid, math::silu, math::tanh, math::ln] {
        e::unary(&x, &mut out, f);
        assert!(out[17].is_nan());
    }
    let mut lse = [0.0];
    e::softmax(&x, 40, &mut out, &mut lse);
    assert!(out[17].is_nan() && lse[0].is_nan());
    assert!(e::sum_sq(&x).is_nan() && e::total(&x).is_nan());
}

#[test]
fn rows_are_reduced_in_fixed_blocks() {
    // 300 rows: three blocks, whose partial sums are added in order.
    let (rows, cols) = (300, 5);
    let x = normals(rows * cols, 1.0, "x");
    let mut out = vec![1.0; cols];
    e::reduce_rows(rows, cols, &mut out, |i, acc| {
        acc.iter_mut()
            .zip(&x[i * cols..])
            .for_each(|(a, x)| *a += x)
    });
    let mut want = vec![1.0f32; cols];
    for block in x.chunks(e::ROW_BLOCK * cols) {
        for (c, w) in want.iter_mut().enumerate() {
            *w += block.chunks(cols).map(|r| r[c]).fold(0.0, |a, x| a + x);
        }
    }
    assert_eq!(out, want);
}
