//! Recovery of a student whose matrices are rounded: one step of distillation from the champion.
//!
//! loss = d KL(champion || student) + (1 - d) nll + g mean((gate - gate_champion)^2), the first over all rows,
//! the second over rows with weight. Tokens run as deep as the champion decides in even steps, and to random
//! depths in odd ones, so that no exit is forgotten. Left out: relations between attention maps.

use super::recipe::BitnetRecipe;
use crate::Error;
use crate::memory::{self, Line, Steps, Way};
use crate::optim::{Optimizer, StepReport};
use crate::step::{Halved, MicroBatch, micro_batches, rows};
use data::Batch as Pieces;
use model::{Bound, Cognate, Config, Depth};
use tensor::random::Counted;
use tensor::{Grads, Tape};

/// Matrices of rows by vocabulary that are alive together when the backward pass begins, as counted by tripling the
/// vocabulary: the champion's and the student's logits and log-probabilities, what the divergence is made of, and
/// gradients.
const DISTRIBUTIONS: u64 = 12;

/// The steps of recovery and fine-tuning, for a champion of `config`.
pub fn steps<'a>(recipe: &'a BitnetRecipe, config: &'a Config) -> Steps<'a> {
    let way = Way {
        grokfast: recipe.optim.grokfast_lambda > 0.0,
        precision: tensor::precision::in_use(),
        ternary: true,
    };
    let [params, _] = memory::held(config, way.grokfast);
    let lines = move |rows| {
        let mut lines = memory::training_step(config, rows, way);
        lines.retain(|l| l.name != "logits");
        lines.push(Line {
            name: "distributions",
            bytes: DISTRIBUTIONS * 4 * (rows * config.vocab) as u64,
            formula: format!(
                "{DISTRIBUTIONS} of {rows} rows x {} tokens x 4 bytes",
                config.vocab
            ),
        });
        lines.push(Line {
            name: "waiting",
            bytes: 2 * params,
            formula: "the champion and the student before the layer".into(),
        });
        lines
    };
    Steps {
        key: "bitnet.micro_tokens",
        micro_tokens: recipe.micro_tokens,
        rows: recipe.tokens_per_step,
        longest: recipe.sequence,
        longest_key: "bitnet.sequence",
        lines: Box::new(lines),
    }
}

/// What a step saw.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recovery {
    /// Mean divergence from the champion, in nats a row.
    pub(super) divergence: f64,
    /// Mean nll of weighted predictions.
    pub(super) nats: f64,
    /// What the optimizer did.
    pub(super) report: StepReport,
}

/// One optimizer step of `student` on `pieces`.
#[allow(clippy::too_many_arguments)]
pub(super) fn step(
    student: &mut Cognate,
    champion: &Cognate,
    pieces: &Pieces,
    recipe: &BitnetRecipe,
    micro_batch: &mut MicroBatch,
    optimizer: &mut Optimizer,
    lr_scale: f32,
    seed: u64,
    at: u64,
) -> Result<(Recovery, Option<Halved>), Error> {
    let mut grads = Grads::new(student.params.len());
    let ((mut seen, peaks), halved) = micro_batch.run(
        pieces,
        recipe.micro_tokens,
        "bitnet.sequence",
        |micro_tokens| {
            grads.clear();
            pass(
                student,
                champion,
                pieces,
                recipe,
                micro_tokens,
                seed,
                at,
                &mut grads,
            )
        },
    )?;
    seen.report = optimizer.step(&mut student.params, &mut grads, lr_scale, &peaks);
    Ok((seen, halved))
}

/// The largest attention logits by block and head.
type Peaks = Vec<(usize, Vec<f32>)>;

/// Adds the gradients of the step to `grads`, in micro-batches of about `micro_tokens` rows (0: all at once).
#[allow(clippy::too_many_arguments)]
fn pass(
    student: &Cognate,
    champion: &Cognate,
    pieces: &Pieces,
    recipe: &BitnetRecipe,
    micro_tokens: usize,
    seed: u64,
    at: u64,
    grads: &mut Grads,
) -> (Recovery, Peaks) {
    let all_rows: usize = pieces.pieces.iter().map(|p| p.loss.len()).sum();
    let weighted: f32 = pieces.pieces.iter().flat_map(|p| &p.loss).sum();
    let mut seen = Recovery::default();
    let mut peaks = Vec::new();
    let random = Counted::new(seed, "bitnet/depth", at);
    let mut row = 0u64;
    for part in micro_batches(&pieces.pieces, micro_tokens) {
        let (batch, targets, weights) = rows(part);
        let n = batch.len();
        let depths: Option<Vec<u8>> = (at % 2 == 1).then(|| {
            (0..n as u64)
                .map(|i| 1 + random.below(row + i, student.config.passes) as u8)
                .collect()
        });
        row += n as u64;

        let guide = Tape::inference();
        let p = Bound::new(&guide, &champion.params);
        let depth = depths.as_deref().map_or(Depth::Halting, Depth::PerToken);
        let wanted = champion.forward(&p, &batch, depth, None, false);
        let log_wanted = guide.value(guide.log_softmax(champion.logits(&p, wanted.hidden)));
        let gates_wanted: Vec<_> = wanted.gates.iter().map(|g| guide.value(g.1)).collect();

        let t = Tape::new();
        let p = Bound::new(&t, &student.params);
        let out = student.forward(&p, &batch, Depth::PerToken(&wanted.depths), None, false);
        let log_found = t.log_softmax(student.logits(&p, out.hidden));
        let log_wanted = t.constant(&log_wanted);
        let probabilities = t.exp(log_wanted);
        let divergence = t.sum(t.mul(probabilities, t.sub(log_wanted, log_found)));
        let nll = t.scale(
            t.weighted_sum(t.gather_cols(log_found, targets.into()), weights.into()),
            -1.0,
        );
        seen.divergence += f64::from(t.value(divergence).item()) / all_rows as f64;
        seen.nats += f64::from(t.value(nll).item() / weighted.max(1.0));
        let mut loss = t.add(
            t.scale(divergence, recipe.distill / all_rows as f32),
            t.scale(nll, (1.0 - recipe.distill) / weighted.max(1.0)),
        );
        for ((_, found), wanted) in out.gates.iter().zip(&gates_wanted) {
            let d = t.sub(*found, t.constant(wanted));
            loss = t.add(
                loss,
                t.scale(t.sum(t.mul(d, d)), recipe.gate / all_rows as f32),
            );
        }
        merge(&mut peaks, t.attention_peaks());
        t.backward(loss, grads);
    }
    (seen, peaks)
}

fn merge(all: &mut Peaks, new: Peaks) {
    for (site, peaks) in new {
        match all.iter_mut().find(|(s, _)| *s == site) {
            Some((_, old)) => old.iter_mut().zip(peaks).for_each(|(o, p)| *o = o.max(p)),
            None => all.push((site, peaks)),
        }
    }
}
