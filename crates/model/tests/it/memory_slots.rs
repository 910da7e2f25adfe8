//! Slots whose key and value are zero change nothing, writes included: branches of different memory merge
//! after padding.

use crate::sample::{Draw, distance, logits, model};
use model::{Batch, Cognate, Depth};
use tensor::Tensor;

/// The model with `more` zero slots a head in every memory.
fn padded(m: &Cognate, more: usize) -> Cognate {
    m.with_slots(m.config.slots + m.config.heads * more)
}

#[test]
fn padded_slots_are_zero_and_truncation_takes_them_away() {
    for seed in 0..20 {
        let m = model(seed);
        let wide = padded(&m, 2);
        wide.config.validate().unwrap();
        let per_head = wide.config.slots_per_head() * wide.config.head_width();
        for (name, t) in wide.params.iter() {
            if name.ends_with("memory.keys") || name.ends_with("memory.values") {
                let tail = 2 * wide.config.head_width();
                assert!(
                    t.to_vec()
                        .chunks(per_head)
                        .all(|head| head[per_head - tail..].iter().all(|&x| x == 0.0)),
                    "{name}"
                );
            }
        }
        let again = wide.with_slots(m.config.slots);
        assert_eq!(again.config, m.config);
        assert!(
            m.params
                .iter()
                .zip(again.params.iter())
                .all(|(a, b)| a.0 == b.0 && a.1.to_vec() == b.1.to_vec())
        );
        assert_eq!(wide.params.count(), wide.config.parameters());
    }
}

#[test]
fn zero_slots_change_nothing() {
    let (mut memories, mut noticed) = (0, 0);
    for seed in 0..40 {
        let m = model(seed);
        let live = m
            .config
            .blocks
            .iter()
            .filter(|b| b.memory && b.scale != 0.0)
            .count();
        memories += live;
        let text = Draw::new(seed, "padding").tokens(4 * m.config.chunk + 1, m.config.vocab);
        let batch = Batch::single(&text);
        let (a, ran) = logits(&m, &batch, Depth::Halting);
        let (b, ran_wide) = logits(&padded(&m, 3), &batch, Depth::Halting);
        assert!(distance(&a, &b) < 1e-5, "seed {seed}: {}", distance(&a, &b));
        assert_eq!(ran, ran_wide);

        // A padded slot with a key of its own takes part in the writes: both parts must be zero.
        let mut keyed = padded(&m, 1);
        keyed.config.theta_max = 0.3;
        let mut same = m.clone();
        same.config.theta_max = 0.3;
        let names: Vec<String> = keyed
            .params
            .names()
            .iter()
            .filter(|n| n.ends_with("memory.keys"))
            .cloned()
            .collect();
        for name in names {
            let mut keys = keyed.params.get(&name).clone();
            let zeros: Vec<bool> = keys.to_vec().iter().map(|&x| x == 0.0).collect();
            keys = Tensor::from_vec(
                keys.to_vec()
                    .iter()
                    .zip(zeros)
                    .map(|(&x, z)| if z { 1.0 } else { x })
                    .collect(),
                keys.dims(),
            );
            keyed.params.set(&name, keys);
        }
        let (c, _) = logits(&keyed, &batch, Depth::Full);
        let (a, _) = logits(&same, &batch, Depth::Full);
        noticed += usize::from(distance(&a, &c) > 1e-5);
    }
    assert!(
        memories > 30,
        "only {memories} memories among the random models"
    );
    assert!(
        noticed > 15,
        "slots with keys of their own changed only {noticed} models"
    );
}

#[test]
fn writes_reach_later_chunks() {
    // With forgetting at one and writes at zero the memory stays as learned; otherwise it does not.
    let mut seen = 0;
    for seed in 0..40 {
        let mut m = model(seed);
        if !m.config.blocks.iter().any(|b| b.memory && b.scale != 0.0) {
            continue;
        }
        m.config.theta_max = 0.3;
        let n = 3 * m.config.chunk;
        let text = Draw::new(seed, "writes").tokens(n, m.config.vocab);
        let (on, _) = logits(&m, &Batch::single(&text), Depth::Full);
        m.config.theta_max = 0.0;
        let (off, _) = logits(&m, &Batch::single(&text), Depth::Full);
        let first = m.config.chunk * m.config.vocab;
        assert_eq!(
            on[..first],
            off[..first],
            "seed {seed}: reads of the first chunk see the learned slots"
        );
        assert!(
            distance(&on[first..], &off[first..]) > 1e-6,
            "seed {seed}: writes never reach a reader"
        );
        seen += 1;
    }
    assert!(seen > 10);
}
