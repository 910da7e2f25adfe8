//! Random small models, so that no test leans on one configuration.

use model::config::{Block, Config, ExitScale, Part};
use model::params::{Init, specification};
use model::{Batch, Bound, Cognate, Depth};
use std::cell::Cell;
use tensor::random::Counted;
use tensor::{Tape, Tensor};

/// Counted random numbers, one after another.
pub(crate) struct Draw {
    random: Counted,
    at: Cell<u64>,
}

impl Draw {
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        Self {
            random: Counted::new(seed, purpose, 0),
            at: Cell::new(0),
        }
    }

    fn next(&self) -> u64 {
        self.at.replace(self.at.get() + 1)
    }

    /// Uniform in 0..n.
    pub(crate) fn below(&self, n: usize) -> usize {
        self.random.below(self.next(), n)
    }

    /// Uniform in a..=b.
    pub(crate) fn between(&self, a: usize, b: usize) -> usize {
        a + self.below(b - a + 1)
    }

    pub(crate) fn choose<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(crate) fn tokens(&self, n: usize, vocab: usize) -> Vec<u32> {
        (0..n).map(|_| self.below(vocab) as u32).collect()
    }

    /// Passes of each of `n` tokens.
    pub(crate) fn depths(&self, n: usize, passes: usize) -> Vec<u8> {
        (0..n).map(|_| self.between(1, passes) as u8).collect()
    }
}

/// A random configuration: every size, the block list and the scales vary.
pub(crate) fn config(seed: u64) -> Config {
    let d = Draw::new(seed, "config");
    let heads = d.choose(&[1, 2, 3]);
    let width = heads * d.choose(&[2, 4, 6, 8]);
    let passes = d.between(1, 3);
    let mut c = Config::new(
        d.between(5, 23),
        width,
        heads,
        d.between(3, 17),
        heads * d.between(1, 5),
        passes,
    );
    c.window = d.between(3, 11);
    c.prefix = d.below(4);
    c.chunk = d.choose(&[3, 4, 8]);
    c.theta_max = d.choose(&[1.0 / 32.0, 0.3]);
    c.act_threshold = d.choose(&[0.9, 0.95, 0.97]);
    c.exit = (1..passes)
        .map(|i| ExitScale {
            median: 0.2 * i as f32 - 0.3,
            deviation: 0.8 + 0.2 * i as f32,
        })
        .collect();
    let scale = || d.choose(&[1.0, 1.0, 1.0, 0.5, -0.7, 0.0]);
    let block = |part, memory| Block {
        part,
        memory,
        scale: scale(),
    };
    c.blocks.clear();
    for _ in 0..d.below(3) {
        c.blocks.push(block(Part::Stem, d.below(3) > 0));
    }
    for _ in 0..d.between(1, 3) {
        c.blocks.push(block(Part::Core, false));
    }
    for _ in 0..d.below(3) {
        c.blocks.push(block(Part::Tail, d.below(3) > 0));
    }
    c.validate().unwrap();
    c
}

/// A model in which every tensor matters: what starts at zero is random, the rest is stirred.
pub(crate) fn model_of(config: Config, seed: u64) -> Cognate {
    let mut model = Cognate::new(config, seed);
    for spec in specification(&model.config) {
        let random = Counted::new(seed, &format!("stir/{}", spec.name), 0);
        let mut t = model.params.get(&spec.name).clone();
        let spread = match spec.init {
            Init::Constant(0.0) => 1.0 / (t.cols() as f32).sqrt(),
            _ => 0.1,
        };
        t.add_scaled_(&Tensor::randn(&spec.dims, spread, &random), 1.0);
        model.params.set(&spec.name, t);
    }
    model
}

/// A random model.
pub(crate) fn model(seed: u64) -> Cognate {
    model_of(config(seed), seed)
}

/// Logits of all rows, and the passes that each ran.
pub(crate) fn logits(model: &Cognate, batch: &Batch, depth: Depth) -> (Vec<f32>, Vec<u8>) {
    let tape = Tape::inference();
    let p = Bound::new(&tape, &model.params);
    let out = model.forward(&p, batch, depth, None, false);
    (
        tape.value(model.logits(&p, out.hidden)).to_vec(),
        out.depths,
    )
}

/// The largest difference of two lists.
#[track_caller]
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "lengths differ");
    assert!(a.iter().chain(b).all(|x| x.is_finite()), "not finite");
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}
