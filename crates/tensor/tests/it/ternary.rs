//! Ternary linear maps: the training-time product is the packed one, and gradients pass straight through.

use crate::differences::{check, normal};
use tensor::ops::ternary::{PackedTernary, Scale, TernaryCodes, TernarySettings};
use tensor::{Grads, Tape, Tensor};

fn settings(lambda: f32, scale: Scale) -> TernarySettings {
    TernarySettings {
        sparsity: 0.05,
        lambda,
        scale,
    }
}

#[test]
fn the_training_time_product_has_the_bits_of_the_packed_one() {
    for (n, i, o) in [(1, 5, 3), (7, 64, 48), (40, 156, 130)] {
        for scale in [Scale::Absmean, Scale::Kept] {
            let (x, w) = (normal(&[n, i], 2.0, "x"), normal(&[o, i], 0.05, "w"));
            let t = Tape::inference();
            let (xv, wv) = (t.constant(&x), t.constant(&w));
            let trained = t
                .value(t.ternary_linear(xv, wv, settings(1.0, scale)))
                .to_vec();
            let packed = PackedTernary::new(&TernaryCodes::of(&w, 0.05, scale), i);
            assert_eq!(
                trained,
                t.value(t.packed_linear(xv, &packed)).to_vec(),
                "[{n}, {i}] by [{o}, {i}], {scale:?}"
            );
        }
    }
}

#[test]
fn lambda_leads_from_the_plain_map_to_the_ternary_one() {
    let (x, w) = (normal(&[9, 40], 1.0, "x"), normal(&[12, 40], 0.1, "w"));
    let t = Tape::inference();
    let (xv, wv) = (t.constant(&x), t.constant(&w));
    let at = |lambda| t.value(t.ternary_linear(xv, wv, settings(lambda, Scale::Kept)));
    let distance = |a: &Tensor, b: &Tensor| {
        let mut d = a.clone();
        d.add_scaled_(b, -1.0);
        d.sum_sq().sqrt() / b.sum_sq().sqrt()
    };
    let plain = t.value(t.linear(xv, wv));
    assert_eq!(at(0.0).to_vec(), plain.to_vec());
    assert!(distance(&at(0.999_999), &at(1.0)) < 1e-4);
    let far: Vec<f64> = [0.25, 0.5, 0.75, 1.0]
        .map(|l| distance(&at(l), &plain))
        .into();
    assert!(far.is_sorted() && far[3] > 0.1, "{far:?}");
}

#[test]
fn the_gradient_is_that_of_a_linear_map_between_the_rounded_operands() {
    let (n, i, o) = (6, 20, 8);
    let (x, w) = (normal(&[n, i], 1.0, "x"), normal(&[o, i], 0.1, "w"));
    let codes = TernaryCodes::of(&w, 0.05, Scale::Absmean);
    let pull: std::sync::Arc<[f32]> = normal(&[n * o], 1.0, "pull").to_vec().into();
    let t = Tape::new();
    let (xv, wv) = (t.leaf(&x, 0), t.leaf(&w, 1));
    let y = t.ternary_linear(xv, wv, settings(1.0, Scale::Absmean));
    let mut grads = Grads::new(2);
    t.backward(t.weighted_sum(y, pull.clone()), &mut grads);

    // Activations rounded by hand.
    let rounded: Vec<f32> = x
        .to_vec()
        .chunks(i)
        .flat_map(|row| {
            let step = row.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
            row.iter()
                .map(|v| (v / step).round() * step)
                .collect::<Vec<_>>()
        })
        .collect();
    let dy = Tensor::from_vec(pull.to_vec(), &[n, o]);
    let dx = Tensor::matmul(&dy, &codes.dequantised(i), false, false);
    let dw = Tensor::matmul(&dy, &Tensor::from_vec(rounded, &[n, i]), true, false);
    for (slot, wanted) in [dx, dw].iter().enumerate() {
        let found = grads.get(slot).unwrap().to_vec();
        for (f, w) in found.iter().zip(wanted.to_vec()) {
            assert!((f - w).abs() < 1e-5, "slot {slot}: {f} wants {w}");
        }
    }
}

#[test]
fn without_rounding_the_gradient_agrees_with_differences() {
    let inputs = [normal(&[5, 6], 1.0, "x"), normal(&[7, 6], 1.0, "w")];
    check("ternary_linear at lambda 0", &inputs, &|t, v| {
        t.ternary_linear(v[0], v[1], settings(0.0, Scale::Absmean))
    });
}

#[test]
#[should_panic(expected = "packed weights are for inference")]
fn packed_weights_refuse_to_be_trained_through() {
    let t = Tape::new();
    let x = t.leaf(&normal(&[2, 5], 1.0, "x"), 0);
    let w = normal(&[3, 5], 1.0, "w");
    t.packed_linear(
        x,
        &PackedTernary::new(&TernaryCodes::of(&w, 0.0, Scale::Absmean), 5),
    );
}
