//! The same bits at any number of threads, forward, backward and streaming.

use crate::sample::{Draw, model_of};
use model::generate::{Sampler, generate};
use model::{Batch, Bound, Cognate, Config, Depth};
use tensor::{Grads, Tape};

fn everything(m: &Cognate) -> Vec<Vec<f32>> {
    let d = Draw::new(1, "threads");
    let texts: Vec<Vec<u32>> = [150, 1, 90]
        .iter()
        .map(|&n| d.tokens(n, m.config.vocab))
        .collect();
    let batch = Batch::new(texts.iter().map(|t| (&t[..], 0)));
    let targets = d.tokens(batch.len(), m.config.vocab);
    let depths = d.depths(batch.len(), m.config.passes);
    let tape = Tape::new();
    let p = Bound::new(&tape, &m.params);
    let out = m.forward(&p, &batch, Depth::PerToken(&depths), None, false);
    let nll = tape.cross_entropy(out.hidden, p.var("embed.weight"), targets.into());
    let mut all = vec![tape.value(nll).to_vec()];
    let loss = tape.mean(nll);
    let mut grads = Grads::new(m.params.len());
    tape.backward(loss, &mut grads);
    all.extend(
        (0..m.params.len())
            .filter_map(|i| grads.get(i))
            .map(|g| g.to_vec()),
    );
    let sampler = Sampler {
        temperature: 1.0,
        top_k: 0,
        top_p: 0.95,
        seed: 4,
    };
    let written = generate(m, &texts, 12, &[], sampler, 2);
    all.extend(
        written
            .into_iter()
            .map(|t| t.into_iter().map(|t| t as f32).collect()),
    );
    all
}

#[test]
fn one_thread_and_two_give_the_same_bits() {
    let mut c = Config::new(300, 64, 4, 96, 32, 2);
    (c.window, c.chunk, c.theta_max) = (40, 16, 0.2);
    let m = model_of(c, 2);
    let at = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| everything(&m))
    };
    let one = at(1);
    for threads in [2, 3] {
        for (i, (a, b)) in one.iter().zip(at(threads)).enumerate() {
            assert!(
                a.iter()
                    .map(|x| x.to_bits())
                    .eq(b.iter().map(|x| x.to_bits())),
                "{threads} threads: part {i} differs"
            );
        }
    }
}
