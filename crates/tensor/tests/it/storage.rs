//! Buffers return when a tape is dropped, and a second step needs no more than the first.
//!
//! The counters are process-wide, so the measurement runs alone: each test starts this binary again for
//! itself only.

use crate::differences::{causal, normal};
use std::sync::Arc;
use tensor::storage::{allow, live_bytes, peak_bytes, pooled_bytes, reset_peak};
use tensor::{Attended, Grads, Tape, Tensor};

const ALONE: &str = "TENSOR_TEST_ALONE";

/// Runs `body` in a process in which no other test runs.
fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let path = format!("storage::{test}");
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &path])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&run.stderr)
    );
}

/// One training step on `parameters`; the gradients are dropped with the tape.
fn step(parameters: &[Tensor]) -> f32 {
    let t = Tape::new();
    let v: Vec<_> = parameters
        .iter()
        .enumerate()
        .map(|(i, p)| t.leaf(p, i))
        .collect();
    let h = t.linear(v[0], v[1]);
    let a = t.attention(
        Attended {
            q: h,
            k: h,
            v: h,
            prefix: None,
            extra: None,
            heads: 2,
            kv_heads: 2,
            site: None,
        },
        Arc::new(causal(&[150, 50], 20)),
    );
    let x = t.rms_norm(a, v[2], 1e-5);
    let x = t.swiglu(x, h);
    let nll = t.cross_entropy(x, v[1], (0..200).map(|i| i % 40).collect());
    let loss = t.mean(nll);
    let value = t.value(loss).item();
    let mut grads = Grads::new(parameters.len());
    t.backward(loss, &mut grads);
    value
}

fn parameters() -> Vec<Tensor> {
    vec![
        normal(&[200, 40], 1.0, "x"),
        normal(&[40, 40], 0.2, "w"),
        Tensor::full(&[40], 1.0),
    ]
}

#[test]
fn live_bytes_return_to_the_start_after_a_step() {
    alone("live_bytes_return_to_the_start_after_a_step", || {
        let before = live_bytes();
        let p = parameters();
        let held = live_bytes();
        assert!(
            held >= before + 4 * (200 * 40 + 40 * 40),
            "{held} bytes with parameters"
        );
        let first = step(&p);
        assert_eq!(live_bytes(), held, "after a step");
        assert!(peak_bytes() > held, "activations were counted");
        // Reused buffers hold old values: they must not show.
        assert_eq!(
            step(&p).to_bits(),
            first.to_bits(),
            "a second step with reused buffers"
        );
        drop(p);
        assert_eq!(live_bytes(), before, "after all is dropped");
    });
}

#[test]
fn an_abandoned_tape_and_a_tape_for_inference_return_their_buffers() {
    alone(
        "an_abandoned_tape_and_a_tape_for_inference_return_their_buffers",
        || {
            let x = normal(&[100, 30], 1.0, "x");
            let held = live_bytes();
            for t in [Tape::new(), Tape::inference()] {
                let v = t.leaf(&x, 0);
                let y = t.softmax(v);
                let z = t.mul(y, v);
                assert!(live_bytes() > held && t.value(z).is_finite());
                drop(t);
                assert_eq!(live_bytes(), held);
            }
        },
    );
}

#[test]
fn a_second_identical_step_does_not_raise_the_peak() {
    alone("a_second_identical_step_does_not_raise_the_peak", || {
        let p = parameters();
        reset_peak();
        step(&p);
        let peak = peak_bytes();
        for _ in 0..3 {
            step(&p);
        }
        assert_eq!(peak_bytes(), peak);
        reset_peak();
        assert_eq!(peak_bytes(), live_bytes());
    });
}

#[test]
fn forgotten_values_return_and_gradients_stay() {
    alone("forgotten_values_return_and_gradients_stay", || {
        let p = parameters();
        let gradients = |forget: bool| {
            let t = Tape::new();
            let mut grads = Grads::new(2);
            let (x, w) = (t.leaf(&p[0], 0), t.leaf(&p[1], 1));
            let begin = t.mark();
            let h = t.add(t.linear(x, w), x);
            let y = t.softmax(h);
            let before = live_bytes();
            if forget {
                t.forget(begin, &[y]);
                // The product and the sum go: softmax goes back from its output, the product from its inputs.
                let (freed, two) = (before - live_bytes(), 2 * 4 * 200 * 40);
                assert!((two..two * 9 / 8).contains(&freed), "{freed} bytes");
            }
            assert_eq!(t.dims(h), [200, 40]);
            assert_eq!((t.rows(h), t.cols(h)), (200, 40));
            let loss = t.mean(t.mul(y, y));
            t.backward(loss, &mut grads);
            [0, 1].map(|i| grads.get(i).expect("reached").to_vec())
        };
        assert_eq!(gradients(true), gradients(false));
    });
}

#[test]
#[should_panic(expected = "a value that was forgotten is read")]
fn a_forgotten_value_cannot_be_read() {
    let t = Tape::inference();
    let begin = t.mark();
    let y = t.scale(t.constant(&Tensor::full(&[3], 1.0)), 2.0);
    t.forget(begin, &[]);
    t.value(y);
}

#[test]
fn the_pool_keeps_no_more_than_was_in_use_together() {
    alone("the_pool_keeps_no_more_than_was_in_use_together", || {
        for step in 1..200 {
            // Sizes that never come again: 4 MB to 24 MB.
            drop(Tensor::zeros(&[1 << 20 | step << 12]));
        }
        let most = (16 << 20).max(peak_bytes());
        assert!(
            pooled_bytes() > 0 && pooled_bytes() <= most,
            "{}",
            pooled_bytes()
        );
    });
}

#[test]
fn freed_buffers_make_room_where_a_limit_is_set() {
    alone("freed_buffers_make_room_where_a_limit_is_set", || {
        let mib = |n: usize| Tensor::zeros(&[n, 1 << 18]);
        drop([mib(8), mib(4), mib(2)]);
        assert_eq!(pooled_bytes(), 14 << 20);
        // No buffer that waits has a size for this one: the oldest goes, the others may stay.
        allow(12 << 20);
        let six = mib(6);
        assert_eq!((live_bytes(), pooled_bytes()), (6 << 20, 6 << 20));
        // What is wanted comes, whatever the limit.
        let more = mib(16);
        assert_eq!((live_bytes(), pooled_bytes()), (22 << 20, 0));
        drop((six, more));
        assert_eq!(pooled_bytes(), 22 << 20);
    });
}
