//! Numbers from `fixtures/generate.py` (numpy, f64); a result may differ by f32 rounding only.

use merge::arithmetic::make_up;
use merge::{Rescale, linear, slerp, slerp3, task_arithmetic, task_vector, ties};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap() as f32)
        .collect()
}

#[track_caller]
fn close(ours: &[f32], expected: &Value) {
    let expected = numbers(expected);
    assert_eq!(ours.len(), expected.len());
    for (i, (a, b)) in ours.iter().zip(&expected).enumerate() {
        assert!(
            (a - b).abs() <= 1e-7 * b.abs().max(0.1),
            "element {i}: {a} against numpy's {b}"
        );
    }
}

#[test]
fn every_method_agrees_with_numpy() {
    let file: Value = serde_json::from_str(include_str!("../fixtures/reference.json")).unwrap();
    let base = numbers(&file["base"]);
    let models: Vec<Vec<f32>> = file["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(numbers)
        .collect();
    let weights: Vec<f64> = file["weights"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| w.as_f64().unwrap())
        .collect();
    let slices: Vec<&[f32]> = models.iter().map(Vec::as_slice).collect();
    let deltas: Vec<Vec<f32>> = models.iter().map(|m| task_vector(m, &base)).collect();
    let d: Vec<&[f32]> = deltas.iter().map(Vec::as_slice).collect();

    close(&linear(&slices, &weights, true), &file["linear"]);
    for t in ["0.0", "0.3", "0.5", "1.0"] {
        close(&slerp(t.parse().unwrap(), d[0], d[1]), &file["slerp"][t]);
    }
    close(
        &slerp(0.3, slices[0], &numbers(&file["near"])),
        &file["slerp_near"],
    );
    close(&slerp3([0.6, 0.35], [d[0], d[1], d[2]]), &file["slerp3"]);
    close(
        &task_arithmetic(&d, &weights, 0.4),
        &file["task_arithmetic"],
    );
    close(&ties(&d, &weights, 0.3, 0.9, true), &file["ties"]);
    close(&ties(&d, &weights, 0.7, 1.0, false), &file["ties_sum"]);
    close(
        &ties(&d, &[1.0, -0.5, 0.8], 1.0, 1.0, true),
        &file["ties_negative"],
    );
    let mask: Vec<bool> = file["mask"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m.as_bool().unwrap())
        .collect();
    let dropped: Vec<f32> = d[0]
        .iter()
        .zip(&mask)
        .map(|(x, kept)| if *kept { *x } else { 0.0 })
        .collect();
    for (rescale, expected) in [
        (Rescale::Paper, "dare_paper"),
        (Rescale::Mergekit, "dare_mergekit"),
    ] {
        let mut kept = dropped.clone();
        make_up(d[0], &mut kept, 0.4, rescale);
        close(&kept, &file[expected]);
    }
}
