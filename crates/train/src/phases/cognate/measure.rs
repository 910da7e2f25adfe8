//! What tells the three specialists apart, and whether they still merge.

use data::{Document, Tokenizer};
use model::{Batch, Bound, Cognate, Depth};
use serde::{Deserialize, Serialize};
use std::time::Instant;
use tensor::Tape;
use tensor::random::Counted;

/// Held-out rows for measurements: tokens, targets, segments.
pub struct Sample {
    /// The rows.
    pub batch: Batch,
    /// The token after each row.
    pub targets: Vec<u32>,
}

impl Sample {
    /// About `rows` rows from the documents, taken in turn from each family, pieces of at most `sequence`.
    pub fn new(
        tokenizer: &Tokenizer,
        documents: &[&Document],
        rows: usize,
        sequence: usize,
    ) -> Self {
        let mut families: Vec<_> = documents.iter().map(|d| d.family).collect();
        families.sort();
        families.dedup();
        let mut queues: Vec<_> = families
            .iter()
            .map(|f| documents.iter().filter(move |d| d.family == *f))
            .collect();
        let (mut pieces, mut total) = (Vec::new(), 0);
        'fill: loop {
            let mut any = false;
            for q in &mut queues {
                let Some(d) = q.next() else { continue };
                any = true;
                let mut tokens = vec![tokenizer.end_of_document()];
                tokens.extend(tokenizer.encode(&d.text));
                tokens.truncate(sequence + 1);
                if tokens.len() > 1 {
                    total += tokens.len() - 1;
                    pieces.push(tokens);
                }
                if total >= rows {
                    break 'fill;
                }
            }
            if !any {
                break;
            }
        }
        Self {
            batch: Batch::new(pieces.iter().map(|t| (&t[..t.len() - 1], 0))),
            targets: pieces.iter().flat_map(|t| t[1..].iter().copied()).collect(),
        }
    }

    /// Mean nats of a model on the sample.
    pub fn nats(&self, model: &Cognate, depth: Depth) -> f64 {
        mean(&model.nll(&self.batch, &self.targets, depth).0)
    }
}

fn mean(x: &[f32]) -> f64 {
    x.iter().map(|v| f64::from(*v)).sum::<f64>() / x.len().max(1) as f64
}

/// How a model behaves on held-out text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Behaviour {
    /// Mean core layers evaluated for a token.
    pub halting_steps: f64,
    /// Loss with its own halting decisions.
    pub loss: f64,
    /// Loss with the same decisions dealt to random tokens.
    pub loss_random_halting: f64,
    /// Loss at full depth.
    pub loss_full: f64,
    /// Tokens that ran 1, 2, .. passes.
    pub passes: Vec<usize>,
    /// Effective slots read, exp(entropy of the reads), over the largest memory.
    pub memory_use: f64,
    /// Loss without writes to memory minus loss with them.
    pub memory_worth: f64,
    /// Counted floating-point operations a token.
    pub flops_per_token: f64,
    /// Milliseconds of a forward pass over the sample's rows per 256 rows.
    pub forward_ms: f64,
}

/// Measures a model; `largest` is the largest memory among its siblings.
pub fn behaviour(model: &Cognate, sample: &Sample, largest: usize, seed: u64) -> Behaviour {
    let start = Instant::now();
    let tape = Tape::inference();
    let p = Bound::new(&tape, &model.params);
    let out = model.forward(&p, &sample.batch, Depth::Halting, None, true);
    let forward_ms = start.elapsed().as_secs_f64() * 1e3 * 256.0 / sample.batch.len() as f64;
    let flops = tape.flops() as f64 / sample.batch.len() as f64;
    let nll = tape.cross_entropy(
        out.hidden,
        p.var("embed.weight"),
        sample.targets.clone().into(),
    );
    let loss = mean(&tape.value(nll).to_vec());
    let memory_use = memory_use(model, &tape, &out, largest);
    let order = Counted::new(seed, "random halting", 0).permutation(out.depths.len());
    let shuffled: Vec<u8> = order.iter().map(|&i| out.depths[i as usize]).collect();
    let mut passes = vec![0; model.config.passes];
    for &d in &out.depths {
        passes[d as usize - 1] += 1;
    }
    let mean_depth =
        out.depths.iter().map(|&d| f64::from(d)).sum::<f64>() / out.depths.len() as f64;
    let mut silent = model.clone();
    silent.config.theta_max = 0.0;
    Behaviour {
        halting_steps: mean_depth * model.config.core_blocks() as f64,
        loss,
        loss_random_halting: sample.nats(model, Depth::PerToken(&shuffled)),
        loss_full: sample.nats(model, Depth::Full),
        passes,
        memory_use,
        memory_worth: sample.nats(&silent, Depth::PerToken(&out.depths)) - loss,
        flops_per_token: flops,
        forward_ms,
    }
}

/// exp(entropy) of the share of reads of each slot, over all memory layers, divided by `largest`.
fn memory_use(model: &Cognate, tape: &Tape, out: &model::Output, largest: usize) -> f64 {
    let Some(context) = &out.context else {
        return 0.0;
    };
    let mut total = 0.0;
    for m in &context.memories {
        let reads = tape
            .memory_slot_reads(m.operands.q, m.operands.keys, model.memory_shape())
            .to_vec();
        let sum: f64 = reads.iter().map(|&x| f64::from(x)).sum();
        let entropy: f64 = reads
            .iter()
            .map(|&x| f64::from(x) / sum)
            .filter(|&p| p > 0.0)
            .map(|p| -p * p.ln())
            .sum();
        total += entropy.exp();
    }
    total / context.memories.len().max(1) as f64 / largest as f64
}

/// The loss barrier between two models: the largest excess, over mixes of their weights, of the loss above
/// the linear mix of their losses; full depth, in nats. Memories of different size are padded first.
pub fn barrier(a: &Cognate, b: &Cognate, sample: &Sample) -> f64 {
    let slots = a.config.slots.max(b.config.slots);
    let (a, b) = (a.with_slots(slots), b.with_slots(slots));
    let (la, lb) = (sample.nats(&a, Depth::Full), sample.nats(&b, Depth::Full));
    [0.25f32, 0.5, 0.75]
        .into_iter()
        .map(|share| {
            let mut mix = a.clone();
            for i in 0..mix.params.len() {
                mix.params.at_mut(i).lerp_(b.params.at(i), share);
            }
            let share = f64::from(share);
            sample.nats(&mix, Depth::Full) - ((1.0 - share) * la + share * lb)
        })
        .fold(f64::NEG_INFINITY, f64::max)
}
