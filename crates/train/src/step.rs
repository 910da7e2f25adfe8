//! One pass of forward and backward over a batch of pieces: what every gradient phase is made of.

use crate::memory::Steps;
use crate::{Context, Error};
use data::{Batch as Pieces, Piece};
use model::{Batch, Bound, Cognate, Depth};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Key;
use tensor::random::Counted;
use tensor::storage::within_memory;
use tensor::{Grads, Tape};

/// What a pass gives besides gradients.
#[derive(Clone, Debug, Default)]
pub struct PassReport {
    /// Mean negative log-likelihood of the weighted predictions, in nats.
    pub nats: f64,
    /// Predictions with weight.
    pub predictions: usize,
    /// Rows computed.
    pub rows: usize,
    /// The largest attention logits by block and head.
    pub peaks: Vec<(usize, Vec<f32>)>,
    /// Floating-point operations of the forward products.
    pub flops: u64,
}

/// How deep the tokens of a training batch go.
#[derive(Clone, Copy, Debug)]
pub enum TrainDepth {
    /// The same number of passes for all; one before the loops are switched on.
    Same(usize),
    /// Uniform over 1..=passes, counted on (seed, step, row): states freeze after it, one exit a token.
    Random {
        /// Seed of the run.
        seed: u64,
        /// Step of the branch.
        step: u64,
    },
}

/// Pieces as a model's batch, the targets, and the loss weight of each row.
pub fn rows(pieces: &[Piece]) -> (Batch, Vec<u32>, Vec<f32>) {
    let batch = Batch::new(
        pieces
            .iter()
            .map(|p| (&p.tokens[..p.tokens.len() - 1], p.start)),
    );
    let targets = pieces
        .iter()
        .flat_map(|p| p.tokens[1..].iter().copied())
        .collect();
    let weights = pieces.iter().flat_map(|p| p.loss.iter().copied()).collect();
    (batch, targets, weights)
}

/// Adds the gradient of the mean loss over the whole batch to `grads`, in micro-batches of about
/// `micro_tokens` rows (0: all at once).
pub fn forward_backward(
    model: &Cognate,
    pieces: &Pieces,
    depth: TrainDepth,
    micro_tokens: usize,
    grads: &mut Grads,
) -> PassReport {
    let total: f64 = pieces
        .pieces
        .iter()
        .flat_map(|p| &p.loss)
        .map(|w| f64::from(*w))
        .sum();
    let mut report = PassReport {
        predictions: pieces
            .pieces
            .iter()
            .flat_map(|p| &p.loss)
            .filter(|w| **w != 0.0)
            .count(),
        ..Default::default()
    };
    let mut at = 0u64;
    for part in micro_batches(&pieces.pieces, micro_tokens) {
        let (batch, targets, weights) = rows(part);
        let tape = Tape::new();
        let p = Bound::new(&tape, &model.params);
        let depths: Vec<u8> = match depth {
            TrainDepth::Same(passes) => vec![passes as u8; batch.len()],
            TrainDepth::Random { seed, step } => {
                let random = Counted::new(seed, "depth", step);
                (0..batch.len() as u64)
                    .map(|i| 1 + random.below(at + i, model.config.passes) as u8)
                    .collect()
            }
        };
        at += batch.len() as u64;
        let out = model.forward(&p, &batch, Depth::PerToken(&depths), None, false);
        let scale = 1.0 / total.max(1.0) as f32;
        let weights: Vec<f32> = weights.iter().map(|w| w * scale).collect();
        let table = p.var("embed.weight");
        let loss = tape.cross_entropy_sum(out.hidden, table, targets.into(), &weights);
        report.nats += f64::from(tape.value(loss).item());
        report.rows += batch.len();
        report.flops += tape.flops();
        merge_peaks(&mut report.peaks, tape.attention_peaks());
        tape.backward(loss, grads);
    }
    report
}

/// How many rows are computed at once: what the recipe says, or less where more is predicted not to fit or did not. Part
/// of a phase's state, for sums over other micro-batches have other last bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MicroBatch {
    /// Most rows that fit where more do not.
    fits: Option<usize>,
}

impl MicroBatch {
    /// Chosen before the first step of a phase, so that it is predicted to fit; journals a choice of fewer rows than
    /// the recipe asks for.
    ///
    /// # Errors
    /// [`Error::NothingFits`], and what a journal may say.
    pub fn plan(cx: &Context, key: &Key, steps: &Steps) -> Result<Self, Error> {
        let chosen = steps.choose(cx.memory)?;
        if !chosen.lowered() {
            return Ok(Self::default());
        }
        let why = json!({
            "key": steps.key, "rows": chosen.rows, "predicted_bytes": chosen.bytes, "asked": chosen.asked,
            "asked_bytes": chosen.asked_bytes, "limit_bytes": cx.memory.bytes, "limit_from": cx.memory.from,
        });
        cx.event(key, "micro-batch", &why)?;
        Ok(Self {
            fits: Some(chosen.rows),
        })
    }

    /// Rows at once, where the recipe says `micro_tokens` (0: the whole batch).
    pub fn tokens(self, micro_tokens: usize) -> usize {
        match self.fits {
            Some(fits) if micro_tokens == 0 || fits < micro_tokens => fits,
            _ => micro_tokens,
        }
    }

    /// Runs `pass(micro_tokens)`, which adds up gradients of `pieces`, and again from the start with half the rows
    /// at once for as long as memory does not suffice. Gives what it gave, and from how many rows it came down to
    /// how many.
    ///
    /// # Errors
    /// [`Error::Memory`] naming `key`, the length of pieces, when a single piece does not fit.
    pub fn run<R>(
        &mut self,
        pieces: &Pieces,
        micro_tokens: usize,
        key: &'static str,
        mut pass: impl FnMut(usize) -> R,
    ) -> Result<(R, Option<Halved>), Error> {
        let mut halved: Option<Halved> = None;
        loop {
            let tokens = self.tokens(micro_tokens);
            let refused = match within_memory(|| pass(tokens)) {
                Ok(result) => return Ok((result, halved)),
                Err(refused) => refused,
            };
            let len = |part: &[Piece]| part.iter().map(|p| p.loss.len()).sum::<usize>();
            let parts = micro_batches(&pieces.pieces, tokens);
            let rows = parts.into_iter().map(len).max().unwrap_or(0);
            let longest = pieces
                .pieces
                .iter()
                .map(|p| p.loss.len())
                .max()
                .unwrap_or(0);
            if rows <= longest {
                return Err(Error::Memory {
                    bytes: refused.bytes,
                    rows: longest,
                    key,
                });
            }
            let to = (rows / 2).max(longest);
            self.fits = Some(to);
            let from = halved.map_or(rows, |h| h.from);
            halved = Some(Halved { from, to });
        }
    }
}

/// A micro-batch that had to become smaller, in rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halved {
    /// What did not fit.
    pub from: usize,
    /// What did.
    pub to: usize,
}

impl Halved {
    /// Journals it as an alert that was answered.
    pub fn journal(self, cx: &Context, key: &Key) -> Result<(), Error> {
        let journal = cx.run.journal();
        let id = journal.alert(key, "out-of-memory", self.from as f64, self.to as f64)?;
        Ok(journal.settle_alert(id, "halve-micro-batch", "automatic")?)
    }
}

/// Cuts pieces into runs of about `tokens` rows.
pub fn micro_batches(pieces: &[Piece], tokens: usize) -> Vec<&[Piece]> {
    if tokens == 0 {
        return vec![pieces];
    }
    let (mut parts, mut start, mut sum) = (Vec::new(), 0, 0);
    for (i, p) in pieces.iter().enumerate() {
        if i > start && sum + p.loss.len() > tokens {
            parts.push(&pieces[start..i]);
            (start, sum) = (i, 0);
        }
        sum += p.loss.len();
    }
    parts.push(&pieces[start..]);
    parts
}

fn merge_peaks(all: &mut Vec<(usize, Vec<f32>)>, new: Vec<(usize, Vec<f32>)>) {
    for (site, peaks) in new {
        match all.iter_mut().find(|(s, _)| *s == site) {
            Some((_, old)) => old.iter_mut().zip(peaks).for_each(|(o, p)| *o = o.max(p)),
            None => all.push((site, peaks)),
        }
    }
}
