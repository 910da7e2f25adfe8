//! Experiment: modular addition (Power et al. 2022): when does a network that has memorised its part of the table of
//! a + b mod 97 generalise to the rest, under Muon and AdamW, with and without Grokfast?
//!
//! `cargo run --release -p train --example grokking -- [SEEDS] [STEPS]` prints, for each optimizer and seed, the
//! first step (checked every 25) at which 99% of the training pairs and 95% of the held-out pairs are right.

use model::Params;
use model::params::Role;
use tensor::optim::{AdamW, adamw_};
use tensor::random::Counted;
use tensor::{Grads, Tape, Tensor, Var};
use train::optim::{OptimConfig, Optimizer};

const MODULUS: usize = 97;
const WIDTH: usize = 128;
const BATCH: usize = 512;
/// Share of all pairs that is trained on.
const SHARE: f64 = 0.4;
const CHECK: usize = 25;

/// What changes the weights.
#[derive(Clone, Copy)]
enum Rule {
    /// The product's optimizer: Muon for the hidden matrices, AdamW for embedding and head.
    Muon { decay: f32 },
    /// AdamW for all.
    Adam { decay: f32 },
}

fn parameters(seed: u64) -> Params {
    let tensor = |name: &str, dims: [usize; 2], role: Role| {
        let deviation = (1.0 / dims[1] as f32).sqrt();
        let random = Counted::new(seed, name, 0);
        (
            name.to_string(),
            role,
            Tensor::randn(&dims, deviation, &random),
        )
    };
    Params::from_tensors(vec![
        tensor("embed.weight", [MODULUS, WIDTH], Role::Other),
        tensor("one.weight", [2 * WIDTH, 2 * WIDTH], Role::Matrix),
        tensor("two.weight", [WIDTH, 2 * WIDTH], Role::Matrix),
        tensor("head.weight", [MODULUS, WIDTH], Role::Other),
    ])
}

/// The last hidden state of each pair, and the head.
fn forward(tape: &Tape, params: &Params, pairs: &[(u32, u32)]) -> (Var, Var) {
    let leaf: Vec<Var> = (0..params.len())
        .map(|i| tape.leaf(params.at(i), i))
        .collect();
    let a = tape.embedding(leaf[0], pairs.iter().map(|p| p.0).collect());
    let b = tape.embedding(leaf[0], pairs.iter().map(|p| p.1).collect());
    let h = tape.relu(tape.linear(tape.concat_cols(&[a, b]), leaf[1]));
    (tape.relu(tape.linear(h, leaf[2])), leaf[3])
}

fn sum(pair: &(u32, u32)) -> u32 {
    (pair.0 + pair.1) % MODULUS as u32
}

fn accuracy(params: &Params, pairs: &[(u32, u32)]) -> f64 {
    let tape = Tape::inference();
    let (h, head) = forward(&tape, params, pairs);
    let logits = tape.value(tape.linear(h, head)).to_vec();
    let best = |row: &[f32]| (0..MODULUS).max_by(|&i, &j| row[i].total_cmp(&row[j]));
    let right = |(row, pair): (&[f32], &(u32, u32))| best(row) == Some(sum(pair) as usize);
    let rows = logits.chunks(MODULUS).zip(pairs);
    rows.filter(|&x| right(x)).count() as f64 / pairs.len() as f64
}

/// First steps with 99% of the training and 95% of the held-out pairs right, and the last held-out accuracy.
fn run(rule: Rule, lambda: f32, seed: u64, steps: usize) -> (Option<usize>, Option<usize>, f64) {
    let all = MODULUS * MODULUS;
    let pairs: Vec<(u32, u32)> = Counted::new(seed, "split", 0)
        .permutation(all)
        .into_iter()
        .map(|i| ((i as usize / MODULUS) as u32, (i as usize % MODULUS) as u32))
        .collect();
    let (train, held_out) = pairs.split_at((all as f64 * SHARE) as usize);
    let mut params = parameters(seed);
    let decay = match rule {
        Rule::Muon { decay } | Rule::Adam { decay } => decay,
    };
    let config = OptimConfig {
        muon_lr: 3e-3,
        adam_lr: 3e-3,
        weight_decay: decay,
        grokfast_lambda: lambda,
        ..OptimConfig::default()
    };
    let mut optimizer = Optimizer::new(&params, config);
    let zeros = |params: &Params| -> Vec<Tensor> {
        (0..params.len())
            .map(|i| Tensor::zeros(params.at(i).dims()))
            .collect()
    };
    let (mut first, mut second, mut slow) = (zeros(&params), zeros(&params), zeros(&params));
    let (mut memorised, mut generalised, mut last) = (None, None, 0.0);
    for step in 1..=steps {
        let random = Counted::new(seed, "batch", step as u64);
        let batch: Vec<(u32, u32)> = (0..BATCH as u64)
            .map(|i| train[random.below(i, train.len())])
            .collect();
        let mut grads = Grads::new(params.len());
        let tape = Tape::new();
        let (h, head) = forward(&tape, &params, &batch);
        let nll = tape.cross_entropy(h, head, batch.iter().map(sum).collect());
        tape.backward(tape.mean(nll), &mut grads);
        match rule {
            Rule::Muon { .. } => {
                optimizer.step(&mut params, &mut grads, 1.0, &[]);
            }
            Rule::Adam { decay } => {
                for i in 0..params.len() {
                    let Some(g) = grads.get_mut(i) else { continue };
                    slow[i].lerp_(g, 1.0 - 0.98);
                    g.add_scaled_(&slow[i], lambda);
                    let settings = AdamW {
                        lr: 3e-3,
                        beta1: 0.9,
                        beta2: 0.98,
                        eps: 1e-8,
                        weight_decay: decay,
                        step: step as u32,
                    };
                    adamw_(params.at_mut(i), g, &mut first[i], &mut second[i], settings);
                }
            }
        }
        if step.is_multiple_of(CHECK) {
            if memorised.is_none() && accuracy(&params, train) >= 0.99 {
                memorised = Some(step);
            }
            last = accuracy(&params, held_out);
            if last >= 0.95 {
                generalised = Some(step);
                break;
            }
        }
    }
    (memorised, generalised, last)
}

fn main() {
    let number = |i: usize, default: u64| {
        let text = std::env::args().nth(i);
        text.map_or(default, |t| {
            t.parse().expect("SEEDS and STEPS are whole numbers")
        })
    };
    let (seeds, steps) = (number(1, 3), number(2, 4000) as usize);
    println!("optimizer            decay  lambda  seed  99% train  95% held-out  last");
    for (name, rule, decay) in [
        ("Muon", Rule::Muon { decay: 0.1 }, 0.1),
        ("Muon", Rule::Muon { decay: 1.0 }, 1.0),
        ("AdamW", Rule::Adam { decay: 1.0 }, 1.0),
    ] {
        for lambda in [0.0, 0.3, 2.0] {
            for seed in 0..seeds {
                let (memorised, generalised, last) = run(rule, lambda, seed, steps);
                let step = |s: Option<usize>| s.map_or("never".into(), |s| s.to_string());
                println!(
                    "{name:<20} {decay:>5}  {lambda:>6}  {seed:>4}  {:>9}  {:>12}  {last:.3}",
                    step(memorised),
                    step(generalised)
                );
            }
        }
    }
}
