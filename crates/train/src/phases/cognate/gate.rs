//! The exit gate: fitted with the model frozen, then standardised.
//!
//! After pass t the gate should say whether another pass would lower this token's loss. Its target is
//! sigmoid(50 (max(0, L_(t-1) - L_t) - 0.005)) (Ouro), with L_t the token's loss when every token stops
//! after pass t. Calibrated probabilities lie far below ACT thresholds of 0.9 and more, so the logits are
//! standardised on held-out text: the median goes to logit(0.95), the deviation to 1.

use crate::step::rows;
use data::Piece;
use model::{Batch, Bound, Cognate, Depth};
use tensor::optim::{AdamW, adamw_};
use tensor::{Grads, Tape, Tensor};

/// Loss of each row when every token stops after pass 1, 2, ..: [passes][rows].
pub(super) fn losses_by_depth(model: &Cognate, batch: &Batch, targets: &[u32]) -> Vec<Vec<f32>> {
    (1..=model.config.passes)
        .map(|d| model.nll(batch, targets, Depth::Fixed(d)).0)
        .collect()
}

/// Fits the gate by AdamW over the given batches of pieces, one step each.
pub(super) fn fit(model: &mut Cognate, batches: &[Vec<Piece>], lr: f32) {
    let gates = model.config.passes - 1;
    if gates == 0 {
        return;
    }
    let slots = ["exit.weight", "exit.bias"]
        .map(|n| model.params.slot(n).expect("a looped model has a gate"));
    let mut moments = slots.map(|s| {
        (
            Tensor::zeros(model.params.at(s).dims()),
            Tensor::zeros(model.params.at(s).dims()),
        )
    });
    for (step, pieces) in batches.iter().enumerate() {
        let (batch, targets, _) = rows(pieces);
        let losses = losses_by_depth(model, &batch, &targets);
        let mut grads = Grads::new(model.params.len());
        {
            let tape = Tape::new();
            let only_gate = |name: &str| name.starts_with("exit.");
            let p = Bound::partly(&tape, &model.params, &only_gate);
            let out = model.forward(&p, &batch, Depth::Full, None, false);
            let mut total = None;
            for (pass, (_, logits)) in out.gates.iter().enumerate() {
                let want: Vec<f32> = losses[pass]
                    .iter()
                    .zip(&losses[pass + 1])
                    .map(|(a, b)| 1.0 / (1.0 + (-50.0 * ((a - b).max(0.0) - 0.005)).exp()))
                    .collect();
                let n = want.len();
                // -(y ln p + (1 - y) ln(1 - p)), with ln(1 - p) = ln p - logit
                let prob = tape.clamp(tape.sigmoid(*logits), 1e-6, 1.0 - 1e-6);
                let log_p = tape.log(prob);
                let flat = tape.reshape(*logits, &[n]);
                let first =
                    tape.weighted_sum(tape.reshape(log_p, &[n]), vec![-1.0 / n as f32; n].into());
                let second = tape.weighted_sum(
                    flat,
                    want.iter()
                        .map(|y| (1.0 - y) / n as f32)
                        .collect::<Vec<_>>()
                        .into(),
                );
                let loss = tape.add(first, second);
                total = Some(total.map_or(loss, |t| tape.add(t, loss)));
            }
            if let Some(loss) = total {
                tape.backward(loss, &mut grads);
            }
        }
        for (slot, (m, v)) in slots.iter().zip(&mut moments) {
            if let Some(g) = grads.get(*slot).cloned() {
                adamw_(
                    model.params.at_mut(*slot),
                    &g,
                    m,
                    v,
                    AdamW {
                        lr,
                        beta1: 0.9,
                        beta2: 0.95,
                        eps: 1e-8,
                        weight_decay: 0.0,
                        step: step as u32 + 1,
                    },
                );
            }
        }
    }
}
