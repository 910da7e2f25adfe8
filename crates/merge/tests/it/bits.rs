//! Bits that the evolution's results hang on: a change of any of them changes every run that was ever recorded.

use merge::random::{Counted, hash};
use merge::{Rescale, arithmetic, dare, linear, slerp, slerp3, task_arithmetic, ties};

const N: usize = 10_007;

/// Three task vectors; one in eight elements is shared by the first two, so that magnitudes tie.
fn deltas() -> [Vec<f32>; 3] {
    let draws: [Counted; 3] = std::array::from_fn(|i| Counted::new(11, "deltas", i as u64));
    std::array::from_fn(|i| {
        (0..N as u64)
            .map(|at| {
                let from = if at % 8 == 0 { 0 } else { i };
                let scale = if at % 5 == 0 { 0.25 } else { 0.02 };
                (draws[from].uniform(at) as f32 - 0.5) * scale
            })
            .map(|x| {
                if x.abs() < 0.004 {
                    (x * 512.0).round() / 512.0
                } else {
                    x
                }
            })
            .collect()
    })
}

fn bits(values: &[f32]) -> u64 {
    values
        .iter()
        .fold(0, |h, x| hash(h, 0, 0, u64::from(x.to_bits())))
}

#[test]
fn what_the_evolution_merges_with_keeps_its_bits() {
    let [a, b, c] = deltas();
    let all: [&[f32]; 3] = [&a, &b, &c];
    let w = [0.5, 1.25, 0.75];
    let got = [
        bits(&linear(&all, &w, true)),
        bits(&linear(&all, &w, false)),
        bits(&slerp(0.3, &a, &b)),
        bits(&slerp3([0.5, 1.0 / 3.0], all)),
        bits(&task_arithmetic(&all, &w, 0.4)),
        bits(&ties(&all, &w, 0.3, 0.9, true)),
        bits(&ties(&all, &w, 0.71, 1.2, false)),
        bits(&ties(&all, &[1.0, -0.5, 0.8], 1.0, 1.0, true)),
        bits(&dare(&a, 0.7, Rescale::Paper, 3, "x.weight", 1)),
        bits(&arithmetic::trim(&a, 0.45)),
        bits(&arithmetic::task_vector(&a, &b)),
    ];
    assert_eq!(got, FROZEN, "{got:#x?}");
}

const FROZEN: [u64; 11] = [
    0x9887_e9be_a160_9009,
    0x72fb_b222_34c8_c397,
    0x9550_7ed8_f760_bab1,
    0x29a0_7ec7_3b54_9a68,
    0x9887_e9be_a160_9009,
    0x4f06_b7cf_1124_0e78,
    0x8c28_c917_1af3_4ff1,
    0x5eca_4bb9_ec57_4872,
    0xd5d5_54ad_b808_0a52,
    0x5dce_d5fe_97a1_42e1,
    0x3c16_b578_ed3f_ea48,
];
