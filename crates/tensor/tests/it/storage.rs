//! Buffers return when a tape is dropped, and a second step needs no more than the first.
//!
//! The counters are process-wide, so the measurement runs alone: each test starts this binary again for
//! itself only.

use crate::differences::{causal, normal};
use std::sync::Arc;
use tensor::storage::{live_bytes, peak_bytes, reset_peak};
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
