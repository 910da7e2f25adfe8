//! No token hears of what comes after it, in any configuration, at any depth.

use crate::sample::{Draw, distance, logits, model};
use model::{Batch, Depth};

#[test]
fn later_tokens_never_move_earlier_logits() {
    let mut moved = 0;
    for seed in 0..60 {
        let m = model(seed);
        let (c, d) = (&m.config, Draw::new(seed, "text"));
        let n = d.between(2, 3 * c.window);
        let text = d.tokens(n, c.vocab);
        let cut = d.below(n - 1) + 1;
        let mut other = text.clone();
        for t in &mut other[cut..] {
            *t = (*t + 1 + d.below(c.vocab - 1) as u32) % c.vocab as u32;
        }
        let mut depths = d.depths(n, c.passes);
        let first = depths.clone();
        depths[cut..].copy_from_slice(&d.depths(n - cut, c.passes));
        for (name, a, b, slack) in [
            ("full", Depth::Full, Depth::Full, 0.0),
            (
                "per token",
                Depth::PerToken(&first),
                Depth::PerToken(&depths),
                1e-5,
            ),
            ("halting", Depth::Halting, Depth::Halting, 1e-5),
        ] {
            let (before, ran) = logits(&m, &Batch::single(&text), a);
            let (after, ran_after) = logits(&m, &Batch::single(&other), b);
            let kept = cut * c.vocab;
            let d = distance(&before[..kept], &after[..kept]);
            assert!(
                d <= slack,
                "seed {seed}, {name}: logits before row {cut} of {n} moved by {d}; {c:?}"
            );
            assert_eq!(ran[..cut], ran_after[..cut], "seed {seed}, {name}: depths");
            moved += usize::from(distance(&before[kept..], &after[kept..]) > 1e-3);
            // A shorter text is the same text so far.
            let (short, _) = logits(&m, &Batch::single(&text[..cut]), a_of(a, cut));
            let d = distance(&before[..kept], &short);
            assert!(
                d <= 1e-5,
                "seed {seed}, {name}: cutting the text at {cut} of {n} moves logits by {d}; {c:?}"
            );
        }
    }
    assert!(
        moved > 150,
        "the changed tokens themselves moved logits in only {moved} of 180 cases"
    );
}

/// The same depth for the first `n` rows.
fn a_of(depth: Depth, n: usize) -> Depth {
    match depth {
        Depth::PerToken(d) => Depth::PerToken(&d[..n]),
        other => other,
    }
}

#[test]
fn a_fixed_depth_is_that_depth_for_every_token() {
    for seed in 0..20 {
        let m = model(seed);
        let text = Draw::new(seed, "fixed").tokens(9, m.config.vocab);
        for passes in 1..=m.config.passes {
            let (a, ran) = logits(&m, &Batch::single(&text), Depth::Fixed(passes));
            let (b, _) = logits(
                &m,
                &Batch::single(&text),
                Depth::PerToken(&[passes as u8; 9]),
            );
            assert_eq!(a, b, "seed {seed}, {passes} passes");
            assert_eq!(ran, [passes as u8; 9]);
        }
        let (full, _) = logits(&m, &Batch::single(&text), Depth::Full);
        let (fixed, _) = logits(&m, &Batch::single(&text), Depth::Fixed(m.config.passes));
        assert_eq!(full, fixed, "seed {seed}");
    }
}

#[test]
fn a_higher_threshold_halts_earlier() {
    let mut seen = [0; 4];
    for seed in 0..40 {
        let mut m = model(seed);
        let text = Draw::new(seed, "halting").tokens(24, m.config.vocab);
        let mut before = f32::INFINITY;
        for threshold in [0.0, 0.6, 0.9, 0.97, 1.0] {
            m.config.act_threshold = threshold;
            let (_, ran) = logits(&m, &Batch::single(&text), Depth::Halting);
            ran.iter().for_each(|&d| seen[d as usize] += 1);
            let first = ran.iter().filter(|&&d| d > 1).count() as f32;
            assert!(
                first <= before,
                "seed {seed}: {first} tokens went on at {threshold}, {before} below it"
            );
            before = first;
        }
        assert_eq!(before, 0.0, "no token goes on at a threshold of 1");
    }
    assert!(
        seen[0] == 0 && seen[1..].iter().all(|&n| n > 100),
        "depths seen: {seen:?}"
    );
}
