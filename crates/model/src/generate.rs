//! Language models as evaluation, fitness and chat see them, and sampling from them.

use crate::batch::Batch;
use crate::cognate::{Cognate, Depth, Streaming};
use crate::params::Bound;
use crate::stream::StreamState;
use tensor::random::Counted;
use tensor::{Tape, Tensor};

/// What can be evaluated and sampled.
pub trait LanguageModel: Sync {
    /// V
    fn vocab(&self) -> usize;
    /// Number of parameters.
    fn parameters(&self) -> usize;
    /// Negative log-likelihood of each row's target, in nats.
    fn nll(&self, batch: &Batch, targets: &[u32]) -> Vec<f32>;
    /// Streaming over `sequences` sequences at once.
    fn stream(&self, sequences: usize) -> Box<dyn Stream + '_>;
    /// The same where a sequence can be copied for less than computing it again. A Cognate's cannot: its memories are
    /// weights of megabytes a sequence.
    fn fork(&self, _sequences: usize) -> Option<Box<dyn Fork + '_>> {
        None
    }
}

/// Streaming generation, batched.
pub trait Stream {
    /// Appends tokens to some sequences (ascending, each at least one token) and gives the logits after the
    /// last of each: [entries, V].
    fn extend(&mut self, entries: &[(usize, &[u32])]) -> Tensor;
    /// Forgets a sequence.
    fn reset(&mut self, sequence: usize);
}

/// Streaming whose state is cheap to copy, so that several continuations share what came before.
pub trait Fork: Stream {
    /// Makes sequence `to` a copy of `from`.
    fn fork(&mut self, from: usize, to: usize);
    /// Appends tokens to some sequences, as [`Stream::extend`] does (all of them in one forward pass), and gives the negative
    /// log-likelihood of each appended row's target, in nats.
    fn nll(&mut self, entries: &[(usize, &[u32])], targets: &[u32]) -> Vec<f32>;
}

impl LanguageModel for Cognate {
    fn vocab(&self) -> usize {
        self.config.vocab
    }
    fn parameters(&self) -> usize {
        self.params.count()
    }
    fn nll(&self, batch: &Batch, targets: &[u32]) -> Vec<f32> {
        Cognate::nll(self, batch, targets, Depth::Halting).0
    }
    fn stream(&self, sequences: usize) -> Box<dyn Stream + '_> {
        Box::new(CognateStream {
            model: self,
            state: StreamState::new(self, sequences),
            steps: (0, 0),
        })
    }
}

/// A Cognate's stream.
pub struct CognateStream<'a> {
    model: &'a Cognate,
    /// What earlier rows left.
    pub state: StreamState,
    /// Passes executed, and rows.
    pub steps: (u64, u64),
}

impl Stream for CognateStream<'_> {
    fn extend(&mut self, entries: &[(usize, &[u32])]) -> Tensor {
        let v = self.model.config.vocab;
        let mut logits = Tensor::zeros(&[entries.len(), v]);
        let most = self.state.most_rows();
        let rounds = entries
            .iter()
            .map(|(_, t)| t.len().div_ceil(most))
            .max()
            .unwrap_or(0);
        for round in 0..rounds {
            // Sequences with tokens left, their tokens of this round, and whether these are the last.
            let parts: Vec<(usize, usize, &[u32], bool)> = entries
                .iter()
                .enumerate()
                .filter_map(|(e, (s, tokens))| {
                    let part = tokens.chunks(most).nth(round)?;
                    Some((e, *s, part, (round + 1) * most >= tokens.len()))
                })
                .collect();
            let sequences: Vec<usize> = parts.iter().map(|p| p.1).collect();
            let batch = Batch::new(parts.iter().map(|p| (p.2, self.state.position(p.1) as u32)));
            let tape = Tape::inference();
            let p = Bound::new(&tape, &self.model.params);
            let out = self.model.forward(
                &p,
                &batch,
                Depth::Halting,
                Some(Streaming {
                    state: &mut self.state,
                    sequences: &sequences,
                }),
                false,
            );
            self.steps.0 += out.depths.iter().map(|&d| u64::from(d)).sum::<u64>();
            self.steps.1 += batch.len() as u64;
            let ends: Vec<(usize, u32)> = parts
                .iter()
                .zip(batch.segments.iter())
                .filter(|(p, _)| p.3)
                .map(|(p, s)| (p.0, s.end as u32 - 1))
                .collect();
            if !ends.is_empty() {
                let rows = tape.gather_rows(
                    out.hidden,
                    ends.iter().map(|e| e.1).collect::<Vec<_>>().into(),
                );
                let values = tape.value(self.model.logits(&p, rows));
                for (j, (e, _)) in ends.iter().enumerate() {
                    logits.write_row(*e, &values, j);
                }
            }
        }
        logits
    }

    fn reset(&mut self, sequence: usize) {
        self.state.reset(self.model, sequence);
    }
}

/// How the next token is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Only the most likely `top_k` tokens; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that make up this probability; 1 for all.
    pub top_p: f32,
    /// Seed of the counted random numbers.
    pub seed: u64,
}

impl Sampler {
    /// The most likely token, always.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        seed: 0,
    };

    /// The next token of sequence `sequence` at its step `step`.
    pub fn choose(&self, logits: &[f32], sequence: u64, step: u64) -> u32 {
        let best = |x: &[f32]| {
            x.iter()
                .enumerate()
                .fold(
                    (0, f32::NEG_INFINITY),
                    |b, (i, &v)| if v > b.1 { (i, v) } else { b },
                )
                .0
        };
        if self.temperature <= 0.0 {
            return best(logits) as u32;
        }
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| {
            logits[b as usize]
                .total_cmp(&logits[a as usize])
                .then(a.cmp(&b))
        });
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let top = f64::from(logits[order[0] as usize]);
        let mut p: Vec<f64> = order
            .iter()
            .map(|&i| ((f64::from(logits[i as usize]) - top) / f64::from(self.temperature)).exp())
            .collect();
        let total: f64 = p.iter().sum();
        if self.top_p < 1.0 {
            let mut sum = 0.0;
            let keep = p
                .iter()
                .position(|x| {
                    sum += x / total;
                    sum >= f64::from(self.top_p)
                })
                .map_or(p.len(), |i| i + 1);
            p.truncate(keep);
        }
        let total: f64 = p.iter().sum();
        let mut u = Counted::new(self.seed, "sample", sequence).uniform(step) * total;
        for (x, &token) in p.iter().zip(&order) {
            u -= x;
            if u < 0.0 {
                return token;
            }
        }
        order[p.len() - 1]
    }
}

/// Continues every prompt until a stop token (not included) or `most` new tokens, `width` sequences at a
/// time. An empty prompt is a caller's mistake.
pub fn generate(
    model: &dyn LanguageModel,
    prompts: &[Vec<u32>],
    most: usize,
    stop: &[u32],
    sampler: Sampler,
    width: usize,
) -> Vec<Vec<u32>> {
    let mut results: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    let width = width.clamp(1, prompts.len().max(1));
    tensor::threads::hot(|| {
        for (group, chunk) in prompts.chunks(width).enumerate() {
            let mut stream = model.stream(chunk.len());
            let first: Vec<(usize, &[u32])> =
                chunk.iter().enumerate().map(|(i, p)| (i, &p[..])).collect();
            let mut live: Vec<usize> = (0..chunk.len()).collect();
            let mut logits = stream.extend(&first).to_vec();
            let v = model.vocab();
            for step in 0..most {
                let mut next = Vec::new();
                for (row, &s) in live.iter().enumerate() {
                    let at = group * width + s;
                    let token = sampler.choose(&logits[row * v..][..v], at as u64, step as u64);
                    if !stop.contains(&token) {
                        results[at].push(token);
                        next.push((s, token));
                    }
                }
                if next.is_empty() || step + 1 == most {
                    break;
                }
                live = next.iter().map(|n| n.0).collect();
                let tokens: Vec<[u32; 1]> = next.iter().map(|n| [n.1]).collect();
                let entries: Vec<(usize, &[u32])> = next
                    .iter()
                    .zip(&tokens)
                    .map(|(n, t)| (n.0, &t[..]))
                    .collect();
                logits = stream.extend(&entries).to_vec();
            }
        }
    });
    results
}
