//! Step 2: one step of reinforcement learning of silent thoughts (Quiet-STaR, Zelikman et al. 2024).
//!
//! loss = NLL of ordinary text + NLL of the mixture at judged rows
//!      + sum over thoughts of advantage x NLL of the thought's tokens / thoughts     (REINFORCE)
//!      + kl x KL(baked || mixture) at judged rows
//!
//! All thoughts of a step are sampled in parallel from the model as it stands and used once, so the policy
//! term needs no importance ratio and no clipping. The mixing head and the two thought embeddings have a
//! learning rate of their own, by plain Adam; everything else goes through Muon x Grokfast.

use super::chains::{Judged, Sampling, Thought, chains, entropies, judged, mix, policy, sample};
use super::reward::{Quantities, advantages, coherence, diversity, probability, reward};
use super::scene::Scene;
use crate::Error;
use crate::checkpoint::{array, named};
use crate::optim::Optimizer;
use model::thoughts::Chains;
use model::{Bound, Cognate, Depth, Params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::Array;
use tensor::optim::{AdamW, adamw_};
use tensor::random::Counted;
use tensor::{Grads, Tape, Tensor};

/// What changes over the steps of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// Weight of the divergence from the baked model.
    pub kl: f32,
    /// Strictness of the reward.
    pub strictness: f64,
}

/// What one step saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RlReport {
    /// Mean reward.
    pub reward: f64,
    /// Mean log-likelihood gained by a thought over its place's judged tokens.
    pub gain: f64,
    /// Mean KL from the baked model at judged rows, in nats.
    pub kl: f64,
    /// Mean nats of ordinary text.
    pub nats: f64,
    /// Mean weight of the thoughts.
    pub weight: f64,
    /// Mean tokens of a thought.
    pub thought_length: f64,
    /// Mean probability of thought tokens under the baked model.
    pub coherence: f64,
    /// Thoughts.
    pub thoughts: u64,
    /// Whether the step was skipped for a gradient that is not finite.
    pub skipped: bool,
}

/// How a step samples and where.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Sampling of thoughts.
    pub sampling: Sampling,
    /// Places in ordinary text.
    pub in_text: usize,
    /// Tokens judged there.
    pub n_true: usize,
    /// Learning rate of the heads.
    pub head_lr: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the step.
    pub step: u64,
}

/// Adam for the mixing head and the thought embeddings.
#[derive(Debug, Default)]
pub struct Heads {
    step: u32,
    moments: BTreeMap<String, (Tensor, Tensor)>,
}

fn is_head(name: &str) -> bool {
    name.starts_with("mixing.") || name.starts_with("thought.")
}

impl Heads {
    /// Takes the gradients of the heads out of `grads` (they become zero there).
    fn take(params: &Params, grads: &mut Grads) -> Vec<(usize, Tensor)> {
        let slots = (0..params.len()).filter(|&s| is_head(&params.names()[s]));
        slots
            .filter_map(|s| {
                let g = grads.get_mut(s)?;
                let taken = g.clone();
                g.fill_(0.0);
                Some((s, taken))
            })
            .collect()
    }

    fn step(&mut self, params: &mut Params, grads: &[(usize, Tensor)], lr: f32) {
        self.step += 1;
        for (slot, g) in grads {
            let zeros = || Tensor::zeros(g.dims());
            let (m, v) = self
                .moments
                .entry(params.names()[*slot].clone())
                .or_insert_with(|| (zeros(), zeros()));
            adamw_(
                params.at_mut(*slot),
                g,
                m,
                v,
                AdamW {
                    lr,
                    beta1: 0.9,
                    beta2: 0.95,
                    eps: 1e-8,
                    weight_decay: 0.0,
                    step: self.step,
                },
            );
        }
    }

    /// The state as arrays behind `prefix`, and the number of steps.
    pub fn state(&self, prefix: &str) -> (Vec<Array>, u32) {
        let arrays = self
            .moments
            .iter()
            .flat_map(|(n, (m, v))| {
                [
                    array(format!("{prefix}m/{n}"), m),
                    array(format!("{prefix}v/{n}"), v),
                ]
            })
            .collect();
        (arrays, self.step)
    }

    /// What [`Heads::state`] gave.
    pub fn restore(arrays: &[Array], prefix: &str, step: u32) -> Result<Self, Error> {
        let mut second = named(arrays, &format!("{prefix}v/"));
        let moments = named(arrays, &format!("{prefix}m/"))
            .into_iter()
            .map(|(n, m)| {
                let v = second.remove(&n).ok_or_else(|| {
                    Error::bag(
                        "quietstar",
                        format!("the second moment of `{n}` is missing"),
                    )
                })?;
                Ok((n, (m, v)))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self { step, moments })
    }
}

/// One step on a scene whose tasks are placed already.
pub fn step(
    model: &mut Cognate,
    baked: &Cognate,
    optimizer: &mut Optimizer,
    heads: &mut Heads,
    scene: &mut Scene,
    plan: Plan,
    pressure: Pressure,
) -> RlReport {
    let s = plan.sampling;
    let depth = Depth::Fixed(s.passes);
    let tape = Tape::new();
    let p = Bound::new(&tape, &model.params);
    let out = model.forward(&p, &scene.batch, depth, None, true);
    let context = out.context.as_ref().expect("captured");
    if plan.in_text > 0 {
        let entropy = entropies(model, &tape.value(out.hidden));
        scene.place_in_text(
            &entropy,
            plan.in_text,
            plan.n_true,
            &Counted::new(plan.seed, "quietstar/place", plan.step),
        );
    }
    let places = &scene.places[..];
    if places.is_empty() {
        return RlReport {
            skipped: true,
            ..RlReport::default()
        };
    }
    let thoughts = sample(
        model,
        &p,
        context,
        &scene.batch,
        places,
        s,
        &Counted::new(plan.seed, "quietstar/thought", plan.step),
    );
    let asked: Vec<(usize, &[u32])> = thoughts
        .iter()
        .enumerate()
        .map(|(i, t)| (i / s.thoughts, &t.tokens[..]))
        .collect();
    let grown = chains(&scene.batch, places, &asked);
    let rows = judged(&scene.batch, places, &asked, &grown);

    let own: Vec<&Thought> = thoughts.iter().collect();
    let (probabilities, reference) = baked_view(baked, scene, &grown, &rows, &own, s.passes);

    // The model's view.
    let hidden = model.think(&p, context, &grown, s.passes);
    let mixed = mix(model, &p, out.hidden, hidden, &rows);
    let log_p = tape.gather_cols(mixed.log_p, rows.target.clone());
    let base_log = tape.log_softmax(mixed.base);
    let (with, without) = (
        tape.value(log_p).to_vec(),
        tape.value(tape.gather_cols(base_log, rows.target.clone()))
            .to_vec(),
    );
    let vocab = model.config.vocab;
    let likeliest = most_likely(&tape.value(mixed.log_p).to_vec(), vocab);
    let ranked = coherence(&probabilities);
    let spread: Vec<f64> = thoughts
        .chunks(s.thoughts)
        .flat_map(|g| diversity(&g.iter().map(|t| &t.tokens[..]).collect::<Vec<_>>()))
        .collect();
    let quantities: Vec<Quantities> = rows
        .of_chain
        .iter()
        .enumerate()
        .map(|(i, r)| Quantities {
            gain: r
                .clone()
                .map(|j| f64::from(with[j]) - f64::from(without[j]))
                .sum(),
            correct: r.clone().all(|j| likeliest[j] == rows.target[j]),
            length: thoughts[i].tokens.len(),
            diversity: spread[i],
            coherence: ranked[i],
        })
        .collect();
    let rewards: Vec<f64> = quantities
        .iter()
        .map(|q| reward(q, pressure.strictness))
        .collect();
    let advantage = advantages(&rewards, s.thoughts);

    // The four terms.
    let n = rows.target.len();
    let mut loss = tape.weighted_sum(log_p, vec![-1.0 / n.max(1) as f32; n].into());
    let acted = policy(&p, hidden, &grown, &own, Some(s.close), s.temperature);
    if acted.of_thought.iter().any(|r| !r.is_empty()) {
        loss = tape.add(loss, reinforce(&tape, &acted, &advantage));
    }
    // KL(baked || mixture) = sum p (ln p - ln q); the first term has no gradient.
    let cross = tape.mul(mixed.log_p, tape.constant(&reference));
    let cross = tape.scale(tape.sum(cross), -1.0 / n.max(1) as f32);
    let entropy: f64 = reference
        .to_vec()
        .iter()
        .map(|&p| f64::from(p) * f64::from(p.max(f32::MIN_POSITIVE)).ln())
        .sum();
    let kl = f64::from(tape.value(cross).item()) + entropy / n.max(1) as f64;
    loss = tape.add(loss, tape.scale(cross, pressure.kl));
    let mut nats = 0.0;
    let total: f32 = scene.ordinary.iter().map(|o| o.2).sum();
    if total > 0.0 {
        let text = tape.gather_rows(
            out.hidden,
            scene
                .ordinary
                .iter()
                .map(|o| o.0)
                .collect::<Vec<_>>()
                .into(),
        );
        let targets: Vec<u32> = scene.ordinary.iter().map(|o| o.1).collect();
        let weights: Vec<f32> = scene.ordinary.iter().map(|o| o.2 / total).collect();
        let term = tape.cross_entropy_sum(text, p.var("embed.weight"), targets.into(), &weights);
        nats = f64::from(tape.value(term).item());
        loss = tape.add(loss, term);
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let weights: Vec<f64> = tape
        .value(mixed.weight)
        .to_vec()
        .iter()
        .map(|&w| f64::from(w))
        .collect();
    let mut report = RlReport {
        reward: mean(&rewards),
        gain: mean(&quantities.iter().map(|q| q.gain).collect::<Vec<_>>()),
        kl,
        nats,
        weight: mean(&weights),
        thought_length: mean(
            &thoughts
                .iter()
                .map(|t| t.tokens.len() as f64)
                .collect::<Vec<_>>(),
        ),
        coherence: mean(&probabilities),
        thoughts: thoughts.len() as u64,
        skipped: false,
    };
    let peaks = tape.attention_peaks();
    let mut grads = Grads::new(model.params.len());
    tape.backward(loss, &mut grads);
    drop(p);
    let taken = Heads::take(&model.params, &mut grads);
    report.skipped = taken.iter().any(|(_, g)| !g.is_finite())
        || optimizer
            .step(&mut model.params, &mut grads, 1.0, &peaks)
            .skipped;
    if !report.skipped {
        heads.step(&mut model.params, &taken, plan.head_lr);
    }
    report
}

/// The baked model's view of a step, on a tape that is dropped before the gradient pass: the mean
/// probability of each thought, and the predictions without thoughts at judged rows [R, V].
fn baked_view(
    baked: &Cognate,
    scene: &Scene,
    grown: &Chains,
    rows: &Judged,
    thoughts: &[&Thought],
    passes: usize,
) -> (Vec<f64>, Tensor) {
    let tape = Tape::inference();
    let p = Bound::new(&tape, &baked.params);
    let out = baked.forward(&p, &scene.batch, Depth::Fixed(passes), None, true);
    let hidden = baked.think(&p, out.context.as_ref().expect("captured"), grown, passes);
    let told = policy(&p, hidden, grown, thoughts, None, 1.0);
    let nll = tape.value(told.nll).to_vec();
    let probabilities = told
        .of_thought
        .iter()
        .map(|r| probability(&nll[r.clone()]))
        .collect();
    let base = baked.logits(&p, tape.gather_rows(out.hidden, rows.base.clone()));
    (probabilities, tape.value(tape.softmax(base)))
}

/// The most likely token of each row of log-probabilities.
pub fn most_likely(log_p: &[f32], vocab: usize) -> Vec<u32> {
    let best = |row: &[f32]| {
        row.iter()
            .enumerate()
            .fold(
                (0, f32::NEG_INFINITY),
                |b, (i, &x)| if x > b.1 { (i, x) } else { b },
            )
            .0
    };
    log_p.chunks(vocab).map(|row| best(row) as u32).collect()
}

/// sum over thoughts of advantage x NLL of its tokens, over the number of thoughts.
pub fn reinforce(tape: &Tape, policy: &super::chains::Policy, advantage: &[f64]) -> tensor::Var {
    let scale = 1.0 / advantage.len().max(1) as f64;
    let weights: Arc<[f32]> = policy
        .of_thought
        .iter()
        .zip(advantage)
        .flat_map(|(r, a)| std::iter::repeat_n((a * scale) as f32, r.len()))
        .collect::<Vec<_>>()
        .into();
    tape.weighted_sum(policy.nll, weights)
}
