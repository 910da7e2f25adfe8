//! Sampling and batched generation.

use crate::sample::{Draw, logits, model};
use model::generate::{Sampler, generate};
use model::{Batch, Depth, LanguageModel};

#[test]
fn greedy_generation_takes_the_likeliest_token_each_time() {
    for seed in 0..10 {
        let m = model(seed);
        let prompt = Draw::new(seed, "prompt").tokens(5, m.config.vocab);
        let written = generate(
            &m,
            std::slice::from_ref(&prompt),
            8,
            &[],
            Sampler::GREEDY,
            1,
        );
        let mut text = prompt.clone();
        for &token in &written[0] {
            let (all, _) = logits(&m, &Batch::single(&text), Depth::Halting);
            let last = &all[all.len() - m.config.vocab..];
            assert!(
                last[token as usize] >= last.iter().fold(f32::MIN, |a, &b| a.max(b)) - 1e-4,
                "seed {seed}"
            );
            text.push(token);
        }
        assert_eq!(text.len(), 13);
    }
}

#[test]
fn prompts_side_by_side_are_continued_as_alone() {
    let sampler = Sampler {
        temperature: 0.9,
        top_k: 0,
        top_p: 0.9,
        seed: 3,
    };
    for seed in 0..10 {
        let m = model(seed);
        let d = Draw::new(seed, "side by side");
        let prompts: Vec<Vec<u32>> = (0..5)
            .map(|_| d.tokens(d.between(1, 20), m.config.vocab))
            .collect();
        let one = generate(&m, &prompts, 10, &[0, 1], sampler, 1);
        for width in [2, 3, 5, 9] {
            assert_eq!(
                generate(&m, &prompts, 10, &[0, 1], sampler, width),
                one,
                "seed {seed}, {width} at a time"
            );
        }
        assert!(
            one.iter().flatten().all(|t| *t > 1),
            "a stop token is not part of the text"
        );
    }
}

#[test]
fn sampling_follows_the_distribution_and_its_limits() {
    let logits = [0.0f32, 2.0, 1.0, -1.0, 1.5];
    let plain = Sampler {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        seed: 8,
    };
    let counts = |s: Sampler| {
        let mut n = [0usize; 5];
        (0..20_000).for_each(|step| n[s.choose(&logits, 0, step) as usize] += 1);
        n
    };
    let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
    for (n, x) in counts(plain).iter().zip(logits) {
        let expected = f64::from(x).exp() / total;
        assert!(
            (*n as f64 / 20_000.0 - expected).abs() < 0.015,
            "{n} of 20000, expected {expected}"
        );
    }
    assert_eq!(counts(Sampler::GREEDY), [0, 20_000, 0, 0, 0]);
    assert_eq!(counts(Sampler { top_k: 1, ..plain }), [0, 20_000, 0, 0, 0]);
    assert_eq!(
        counts(Sampler {
            top_p: 0.01,
            ..plain
        }),
        [0, 20_000, 0, 0, 0]
    );
    let two = counts(Sampler { top_k: 2, ..plain });
    assert!(
        two[1] > two[4] && two[4] > 0 && two[0] + two[2] + two[3] == 0,
        "{two:?}"
    );
    // The two likeliest hold 0.73 of the mass: a nucleus of 0.7 is those two.
    let nucleus = counts(Sampler {
        top_p: 0.7,
        ..plain
    });
    assert!(
        nucleus[4] > 0 && nucleus[0] + nucleus[2] + nucleus[3] == 0,
        "{nucleus:?}"
    );
    assert_ne!(
        (0..50)
            .map(|i| plain.choose(&logits, 0, i))
            .collect::<Vec<_>>(),
        (0..50)
            .map(|i| plain.choose(&logits, 1, i))
            .collect::<Vec<_>>(),
        "sequences draw numbers of their own"
    );
}

#[test]
fn evaluation_runs_at_the_models_own_depth() {
    let m = model(7);
    let text = Draw::new(7, "own depth").tokens(12, m.config.vocab);
    let batch = Batch::single(&text);
    assert_eq!(
        LanguageModel::nll(&m, &batch, &text),
        m.nll(&batch, &text, Depth::Halting).0
    );
    assert_eq!(
        (LanguageModel::vocab(&m), LanguageModel::parameters(&m)),
        (m.config.vocab, m.config.parameters())
    );
}
