//! Segments of a batch do not hear of each other.

use crate::sample::{Draw, distance, logits, model};
use model::{Batch, Depth};

#[test]
fn a_batch_of_segments_equals_each_alone() {
    for seed in 0..60 {
        let m = model(seed);
        let (c, d) = (&m.config, Draw::new(seed, "segments"));
        let pieces: Vec<(Vec<u32>, u32)> = (0..d.between(2, 5))
            .map(|_| {
                (
                    d.tokens(d.between(1, 2 * c.window), c.vocab),
                    d.below(50) as u32,
                )
            })
            .collect();
        let batch = Batch::new(pieces.iter().map(|(t, start)| (&t[..], *start)));
        let depths = d.depths(batch.len(), c.passes);
        for halting in [false, true] {
            let depth = if halting {
                Depth::Halting
            } else {
                Depth::PerToken(&depths)
            };
            let (all, ran) = logits(&m, &batch, depth);
            for ((text, start), rows) in pieces.iter().zip(batch.segments.iter()) {
                let depth = if halting {
                    Depth::Halting
                } else {
                    Depth::PerToken(&depths[rows.clone()])
                };
                let (alone, alone_ran) = logits(&m, &Batch::new([(&text[..], *start)]), depth);
                let x = distance(&all[rows.start * c.vocab..rows.end * c.vocab], &alone);
                assert!(
                    x < 3e-5, // products of few rows sum in another order
                    "seed {seed}, halting {halting}, rows {rows:?}: {x}; {c:?}"
                );
                assert_eq!(ran[rows.clone()], alone_ran, "seed {seed}: depths");
            }
        }
    }
}

#[test]
fn positions_are_relative() {
    // Rotary embedding sees differences of positions only, so a piece may start anywhere.
    for seed in 0..20 {
        let m = model(seed);
        let text = Draw::new(seed, "shift").tokens(2 * m.config.window, m.config.vocab);
        let (a, _) = logits(&m, &Batch::single(&text), Depth::Full);
        let (b, _) = logits(&m, &Batch::new([(&text[..], 37)]), Depth::Full);
        let shifted = distance(&a, &b);
        if m.config.prefix == 0 {
            assert!(shifted < 1e-4, "seed {seed}: {shifted}");
        }
    }
}

#[test]
fn likelihood_is_that_of_the_logits() {
    for seed in 0..20 {
        let m = model(seed);
        let (v, d) = (m.config.vocab, Draw::new(seed, "nll"));
        let (text, targets) = (d.tokens(17, v), d.tokens(17, v));
        let batch = Batch::single(&text);
        let (nll, ran) = m.nll(&batch, &targets, Depth::Halting);
        let (all, depths) = logits(&m, &batch, Depth::Halting);
        let expected: Vec<f32> = all
            .chunks(v)
            .zip(&targets)
            .map(|(row, &t)| {
                (row.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln()
                    - f64::from(row[t as usize])) as f32
            })
            .collect();
        assert!(distance(&nll, &expected) < 1e-5, "seed {seed}");
        assert_eq!(ran, depths);
    }
}
