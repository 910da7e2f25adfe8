//! What the tape promises about gradients: slots, accumulation, sharing, and what is not recorded.

use crate::differences::{causal, normal};
use std::sync::Arc;
use tensor::{Attended, Grads, Rotation, Tape, Tensor, Var};

/// sum(silu(x w^T)), the gradient of which goes to slots 0 and 1.
fn backward(x: &Tensor, w: &Tensor, grads: &mut Grads) {
    let t = Tape::new();
    let (x, w) = (t.leaf(x, 0), t.leaf(w, 1));
    let y = t.linear(x, w);
    let y = t.silu(y);
    let loss = t.sum(y);
    t.backward(loss, grads);
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.to_vec().iter().map(|v| v.to_bits()).collect()
}

#[test]
fn gradients_accumulate_over_backward_passes_until_cleared() {
    let (x1, x2, w) = (
        normal(&[4, 3], 1.0, "x1"),
        normal(&[4, 3], 1.0, "x2"),
        normal(&[5, 3], 1.0, "w"),
    );
    let (mut first, mut second, mut both) = (Grads::new(2), Grads::new(2), Grads::new(2));
    backward(&x1, &w, &mut first);
    backward(&x2, &w, &mut second);
    backward(&x1, &w, &mut both);
    let kept = both.get(1).unwrap().clone();
    backward(&x2, &w, &mut both);
    assert_eq!(
        bits(&kept),
        bits(first.get(1).unwrap()),
        "a gradient that was read earlier does not change"
    );
    for slot in 0..2 {
        let (a, b, sum) = (
            first.get(slot).unwrap().to_vec(),
            second.get(slot).unwrap().to_vec(),
            both.get(slot).unwrap().to_vec(),
        );
        for ((a, b), s) in a.iter().zip(&b).zip(&sum) {
            assert!(
                (a + b - s).abs() <= 1e-6 * (a.abs() + b.abs() + 1.0),
                "slot {slot}: {a} + {b} is not {s}"
            );
        }
    }
    both.iter_mut().flatten().for_each(|g| g.scale_(0.5));
    assert_eq!(both.get(0).unwrap().to_vec().len(), 12);
    both.clear();
    assert!(both.get(0).is_none() && both.get(1).is_none());
    backward(&x1, &w, &mut both);
    assert_eq!(
        bits(both.get(1).unwrap()),
        bits(first.get(1).unwrap()),
        "after clearing"
    );
}

#[test]
fn leaves_that_share_a_slot_add_up() {
    let x = normal(&[2, 3], 1.0, "x");
    let mut grads = Grads::new(1);
    for pass in 1..=2 {
        let t = Tape::new();
        let (a, b) = (t.leaf(&x, 0), t.leaf(&x, 0));
        let (a, b) = (t.scale(a, 2.0), t.scale(b, 5.0));
        let y = t.add(a, b);
        let loss = t.sum(y);
        t.backward(loss, &mut grads);
        assert_eq!(
            grads.get(0).unwrap().to_vec(),
            vec![7.0 * pass as f32; 6],
            "pass {pass}"
        );
    }
}

#[test]
fn an_unused_leaf_keeps_what_its_slot_held() {
    let x = normal(&[3], 1.0, "x");
    let mut grads = Grads::new(2);
    for used in [true, false] {
        let t = Tape::new();
        let (a, b) = (t.leaf(&x, 0), t.leaf(&x, 1));
        let loss = t.sum(if used { a } else { b });
        t.backward(loss, &mut grads);
    }
    assert_eq!(grads.get(0).unwrap().to_vec(), vec![1.0; 3]);
    assert_eq!(grads.get(1).unwrap().to_vec(), vec![1.0; 3]);
}

#[test]
fn a_leaf_may_be_the_root() {
    let mut grads = Grads::new(1);
    for pass in 1..=2 {
        let t = Tape::new();
        let x = t.leaf(&Tensor::full(&[1], 3.0), 0);
        t.backward(x, &mut grads);
        assert_eq!(grads.get(0).unwrap().item(), pass as f32);
    }
}

#[test]
fn constants_and_tapes_for_inference_get_no_gradient() {
    let x = normal(&[2, 3], 1.0, "x");
    let mut grads = Grads::new(1);
    let t = Tape::inference();
    let v = t.leaf(&x, 0);
    let loss = t.sum(v);
    t.backward(loss, &mut grads);
    let t = Tape::new();
    let v = t.constant(&x);
    let loss = t.sum(v);
    t.backward(loss, &mut grads);
    assert!(grads.get(0).is_none());
}

#[test]
fn a_clone_does_not_see_changes_in_place() {
    let a = normal(&[2, 2], 1.0, "a");
    let mut b = a.clone();
    let before = bits(&a);
    b.scale_(2.0);
    b.reshape(&[4]).fill_(1.0);
    assert_eq!(bits(&a), before);
    assert_ne!(bits(&b), before);
    let t = Tape::new();
    let v = t.leaf(&b, 0);
    b.fill_(0.0);
    assert!(
        t.value(v).max_abs() > 0.0,
        "a tape keeps the value that it was given"
    );
}

#[test]
fn no_rows_go_through_every_coarse_operation() {
    // A step without thoughts, or a micro-batch whose rows were all filtered away.
    let t = Tape::new();
    let empty = |d: usize| t.constant(&Tensor::zeros(&[0, d]));
    let weight = |dims: &[usize], slot| t.leaf(&normal(dims, 1.0, "w"), slot);
    let x = empty(8);
    let w = weight(&[8, 8], 0);
    let gain = weight(&[2], 1);
    let x = t.linear(x, w);
    let x = t.rms_norm(x, weight(&[8], 2), 1e-5);
    let x = t.head_norm_rope(x, 2, Some(gain), Some(&Rotation::new(&[], 2, 100.0)));
    let x = t.causal_conv(x, weight(&[8, 4], 3), Arc::new([]), None);
    let a = Attended {
        q: x,
        k: x,
        v: x,
        prefix: Some((w, w)),
        extra: Some((x, x)),
        heads: 2,
        kv_heads: 2,
        site: None,
    };
    let x = t.attention(a, Arc::new(causal(&[], 4)));
    let x = t.swiglu(x, x);
    let x = t.softmax(x);
    let x = t.add_bias(x, weight(&[8], 4));
    let x = t.mul_rows(x, t.constant(&Tensor::zeros(&[0])));
    let x = t.matmul(x, w);
    let base = weight(&[3, 8], 5);
    let base = t.replace_rows(base, x, Arc::new([]));
    let x = t.concat_rows(&[base, x]);
    let x = t.gather_rows(x, Arc::new([]));
    let nll = t.cross_entropy(x, w, Arc::new([]));
    assert_eq!(t.dims(nll), [0]);
    let sum = t.cross_entropy_sum(x, w, Arc::new([]), &[]);
    let loss = t.add(t.sum(nll), sum);
    let mut grads = Grads::new(6);
    t.backward(loss, &mut grads);
    assert!((0..6).all(|i| grads.get(i).is_none_or(|g| g.max_abs() == 0.0)));
}

/// One form takes the gradient along in the forward pass, the other comes back for it.
#[test]
fn both_forms_of_cross_entropy_give_the_same_sum_and_gradients() {
    let (h, table) = (
        normal(&[2300, 24], 1.0, "h"),
        normal(&[90, 24], 1.0, "table"),
    );
    let targets: tensor::Ids = (0..2300).map(|i| i * 11 % 90).collect();
    let weights: Vec<f32> = (0..2300).map(|i| (i % 3) as f32 * 0.01).collect();
    let run = |whole: bool| {
        let t = Tape::new();
        let (h, table) = (t.leaf(&h, 0), t.leaf(&table, 1));
        let loss = if whole {
            t.cross_entropy_sum(h, table, targets.clone(), &weights)
        } else {
            t.weighted_sum(
                t.cross_entropy(h, table, targets.clone()),
                weights.clone().into(),
            )
        };
        let value = t.value(loss).item();
        let mut grads = Grads::new(2);
        t.backward(loss, &mut grads);
        (value, [0, 1].map(|slot| grads.get(slot).unwrap().to_vec()))
    };
    let (a, b) = (run(true), run(false));
    assert!((a.0 - b.0).abs() < 1e-5 * b.0.abs(), "{} and {}", a.0, b.0);
    for (name, (a, b)) in ["h", "table"].into_iter().zip(a.1.into_iter().zip(b.1)) {
        let off = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
        let off = off.fold(0.0, f32::max);
        assert!(off < 1e-6, "the gradients of {name} are {off} apart");
    }
}

#[test]
fn attention_peaks_hold_the_largest_score_of_each_head() {
    let (q, k) = (normal(&[5, 8], 2.0, "q"), normal(&[5, 4], 2.0, "k"));
    let t = Tape::inference();
    let (qv, kv) = (t.constant(&q), t.constant(&k));
    let a = Attended {
        q: qv,
        k: kv,
        v: kv,
        prefix: None,
        extra: None,
        heads: 2,
        kv_heads: 1,
        site: Some(3),
    };
    t.attention(a, Arc::new(causal(&[5], 2)));
    let mut want = [f32::NEG_INFINITY; 2];
    for (h, want) in want.iter_mut().enumerate() {
        for i in 0..5usize {
            for j in i.saturating_sub(1)..=i {
                let dot: f32 = (0..4)
                    .map(|c| q.to_vec()[i * 8 + h * 4 + c] * k.to_vec()[j * 4 + c])
                    .sum();
                *want = want.max(dot * 0.5);
            }
        }
    }
    let peaks = t.attention_peaks();
    assert_eq!(peaks.len(), 1);
    assert_eq!(peaks[0].0, 3);
    assert!(
        peaks[0]
            .1
            .iter()
            .zip(want)
            .all(|(p, w)| (p - w).abs() < 1e-4),
        "{:?} for {want:?}",
        peaks[0].1
    );
}

fn panics(f: impl FnOnce(&Tape, Var) -> Var + std::panic::UnwindSafe) -> String {
    let result = std::panic::catch_unwind(|| {
        let t = Tape::new();
        let x = t.constant(&normal(&[3, 4], 1.0, "x"));
        f(&t, x);
    });
    *result.unwrap_err().downcast::<String>().unwrap()
}

#[test]
fn wrong_shapes_panic_with_the_operation_and_both_shapes() {
    let other = |t: &Tape, dims: &[usize]| t.constant(&Tensor::zeros(dims));
    let message = panics(move |t, x| t.linear(x, other(t, &[5, 3])));
    assert!(
        message.contains("linear") && message.contains("[3, 4]") && message.contains("[5, 3]"),
        "{message}"
    );
    let message = panics(move |t, x| t.add(x, other(t, &[4, 3])));
    assert!(
        message.contains("add") && message.contains("[3, 4]") && message.contains("[4, 3]"),
        "{message}"
    );
    let message = panics(|t, x| t.gather_rows(x, Arc::new([3])));
    assert!(
        message.contains("gather_rows") && message.contains("[3, 4]"),
        "{message}"
    );
    // Rows that no segment holds would be computed as the start of the first.
    let message =
        panics(move |t, x| t.causal_conv(x, other(t, &[4, 2]), Arc::new([0..1, 1..2]), None));
    assert!(message.contains("causal_conv"), "{message}");
    // Three heads over two key-value heads: which reads which?
    let message = panics(move |t, _| {
        let (q, k) = (other(t, &[3, 6]), other(t, &[3, 4]));
        t.attention(
            Attended {
                q,
                k,
                v: k,
                prefix: None,
                extra: None,
                heads: 3,
                kv_heads: 2,
                site: None,
            },
            Arc::new(causal(&[3], 0)),
        )
    });
    assert!(message.contains("attention"), "{message}");
}
