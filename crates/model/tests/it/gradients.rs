//! The gradient of the whole model against differences, for every tensor.

use crate::sample::{Draw, model, model_of};
use model::{Batch, Bound, Cognate, Config, Depth};
use tensor::random::Counted;
use tensor::{Grads, Tape, Tensor, Var};

/// Steps of the differences, and what rounding may cost at each: where the model bends sharply only the
/// smaller step can agree.
const STEPS: [(f64, f64); 2] = [(5e-3, 1e-4), (1e-3, 5e-4)];

/// The loss of one forward pass: mean likelihood, and the gates so that they matter.
fn loss(m: &Cognate, tape: &Tape, batch: &Batch, targets: &[u32], depths: &[u8]) -> Var {
    let p = Bound::new(tape, &m.params);
    let out = m.forward(&p, batch, Depth::PerToken(depths), None, false);
    let nll = tape.cross_entropy(out.hidden, p.var("embed.weight"), targets.to_vec().into());
    let mut total = tape.mean(nll);
    for (pass, (rows, logits)) in out.gates.into_iter().enumerate() {
        assert_eq!(tape.dims(logits), [rows.len(), 1]);
        let weights: Vec<f32> = rows
            .iter()
            .map(|r| 0.01 * ((r % 5) as f32 - 1.0 + pass as f32))
            .collect();
        total = tape.add(total, tape.weighted_sum(logits, weights.into()));
    }
    total
}

/// Checks every tensor of `m`: along its own gradient, and at two of its elements.
fn check(m: &mut Cognate, seed: u64) {
    let d = Draw::new(seed, "gradients");
    let texts: Vec<Vec<u32>> = (0..2)
        .map(|_| d.tokens(3 * m.config.chunk + 2, m.config.vocab))
        .collect();
    let batch = Batch::new(texts.iter().map(|t| (&t[..], 0)));
    let targets = d.tokens(batch.len(), m.config.vocab);
    let depths = d.depths(batch.len(), m.config.passes);
    let tape = Tape::new();
    let root = loss(m, &tape, &batch, &targets, &depths);
    let mut grads = Grads::new(m.params.len());
    tape.backward(root, &mut grads);
    let names = m.params.names().to_vec();
    for (slot, name) in names.iter().enumerate() {
        let block = model::params::block_of(name).map(|b| m.config.blocks[b]);
        if block.is_some_and(|b| b.scale == 0.0)
            || name.starts_with("mixing")
            || name.starts_with("thought")
        {
            assert!(
                grads.get(slot).is_none(),
                "{name}: a block that is left out has a gradient"
            );
            continue;
        }
        let gradient = grads
            .get(slot)
            .unwrap_or_else(|| panic!("seed {seed}: {name} got no gradient; {:?}", m.config))
            .to_vec();
        let start = m.params.at(slot).clone();
        let length = gradient
            .iter()
            .map(|g| f64::from(*g).powi(2))
            .sum::<f64>()
            .sqrt();
        let mut along = |direction: &[f64], step: f64| {
            let mut slope = |h: f64| {
                let mut at = |h: f64| {
                    let moved = start
                        .to_vec()
                        .iter()
                        .zip(direction)
                        .map(|(x, d)| (f64::from(*x) + h * d) as f32)
                        .collect();
                    *m.params.at_mut(slot) = Tensor::from_vec(moved, start.dims());
                    let tape = Tape::inference();
                    let value = precise(m, &tape, &batch, &targets, &depths);
                    *m.params.at_mut(slot) = start.clone();
                    value
                };
                (at(h) - at(-h)) / (2.0 * h)
            };
            (4.0 * slope(step / 2.0) - slope(step)) / 3.0
        };
        let mut agree = |direction: &[f64], exact: f64, what: &str| {
            let found = STEPS.map(|(step, slack)| (along(direction, step), slack));
            let right = found
                .iter()
                .any(|(x, slack)| (x - exact).abs() <= 1e-2 * length + slack);
            assert!(
                right,
                "seed {seed}, {name}, {what}: gradient {exact}, differences {found:?}"
            );
        };
        // The slope along the gradient is its length.
        let direction: Vec<f64> = gradient
            .iter()
            .map(|g| f64::from(*g) / length.max(1e-30))
            .collect();
        agree(&direction, length, "along the gradient");
        for _ in 0..2 {
            let at = d.below(gradient.len());
            let unit: Vec<f64> = (0..gradient.len())
                .map(|i| f64::from(u8::from(i == at)))
                .collect();
            agree(&unit, f64::from(gradient[at]), &format!("element {at}"));
        }
    }
}

/// The value of `loss`, summed in f64: the sums of the tape round too coarsely for differences.
fn precise(m: &Cognate, tape: &Tape, batch: &Batch, targets: &[u32], depths: &[u8]) -> f64 {
    let p = Bound::new(tape, &m.params);
    let out = m.forward(&p, batch, Depth::PerToken(depths), None, false);
    let nll = tape
        .value(tape.cross_entropy(out.hidden, p.var("embed.weight"), targets.to_vec().into()))
        .to_vec();
    let mut total = nll.iter().map(|x| f64::from(*x)).sum::<f64>() / nll.len() as f64;
    for (pass, (rows, logits)) in out.gates.into_iter().enumerate() {
        let values = tape.value(logits).to_vec();
        total += rows
            .iter()
            .zip(values)
            .map(|(r, x)| f64::from(0.01 * ((r % 5) as f32 - 1.0 + pass as f32)) * f64::from(x))
            .sum::<f64>();
    }
    total
}

#[test]
fn the_gradient_of_the_whole_model_is_right() {
    let mut c = Config::new(13, 8, 2, 10, 6, 3);
    (c.window, c.chunk, c.prefix, c.theta_max) = (5, 4, 2, 0.3);
    check(&mut model_of(c, 1), 1);
}

#[test]
fn gradients_are_right_in_random_configurations() {
    for seed in [3, 8, 14, 21, 30, 42] {
        let mut m = model(seed);
        m.config.theta_max = 0.3;
        check(&mut m, seed);
    }
}

#[test]
fn frozen_tensors_get_no_gradient_and_leave_the_others_alone() {
    let m = model(8);
    let text = Draw::new(8, "frozen").tokens(12, m.config.vocab);
    let run = |trainable: &dyn Fn(&str) -> bool| {
        let tape = Tape::new();
        let p = Bound::partly(&tape, &m.params, trainable);
        let out = m.forward(&p, &Batch::single(&text), Depth::Full, None, false);
        let nll = tape.cross_entropy(out.hidden, p.var("embed.weight"), text.clone().into());
        let mut grads = Grads::new(m.params.len());
        tape.backward(tape.mean(nll), &mut grads);
        grads
    };
    let all = run(&|_| true);
    let some = run(&|name| name.starts_with("core."));
    for (slot, name) in m.params.names().iter().enumerate() {
        let expected = if name.starts_with("core.") {
            all.get(slot).map(Tensor::to_vec)
        } else {
            None
        };
        assert_eq!(some.get(slot).map(Tensor::to_vec), expected, "{name}");
    }
}

#[test]
fn gradients_of_two_micro_batches_add_up() {
    let m = model(14);
    let random = Counted::new(1, "micro", 0);
    let texts: Vec<Vec<u32>> = (0..2)
        .map(|i| {
            (0..10)
                .map(|j| random.below(i * 10 + j, m.config.vocab) as u32)
                .collect()
        })
        .collect();
    let backward = |batch: &Batch, grads: &mut Grads| {
        let tape = Tape::new();
        let p = Bound::new(&tape, &m.params);
        let out = m.forward(&p, batch, Depth::Full, None, false);
        let nll = tape.cross_entropy(out.hidden, p.var("embed.weight"), batch.tokens.clone());
        tape.backward(tape.sum(nll), grads);
    };
    let mut parts = Grads::new(m.params.len());
    texts
        .iter()
        .for_each(|t| backward(&Batch::single(t), &mut parts));
    let mut whole = Grads::new(m.params.len());
    backward(&Batch::new(texts.iter().map(|t| (&t[..], 0))), &mut whole);
    for (slot, name) in m.params.names().iter().enumerate() {
        if let Some(w) = whole.get(slot) {
            let mut difference = parts.get(slot).unwrap().clone();
            difference.add_scaled_(w, -1.0);
            assert!(
                difference.max_abs() <= 1e-4 * (1.0 + w.max_abs()),
                "{name}: {}",
                difference.max_abs()
            );
        }
    }
}
