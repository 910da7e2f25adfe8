//! A model as the battery examines it: held-out places, sampled thoughts, judgements by the mixture.

use super::battery::{Judgement, Thinker};
use super::chains::{Sampling, Thought, chains, judged, mix, policy, sample};
use super::reward::{coherence, probability};
use super::rl::most_likely;
use super::scene::Scene;
use model::{Bound, Cognate, Depth, Output};
use tensor::random::Counted;
use tensor::{Ids, Tape, Tensor};

/// Rows of chains judged at once, on one tape: a tape keeps every value until it is dropped.
const ROWS: usize = 2048;

/// A model with its places.
pub struct ModelThinker<'a> {
    /// The model.
    pub model: &'a Cognate,
    /// What coherence is measured by.
    pub baked: &'a Cognate,
    /// Texts and places.
    pub scene: &'a Scene,
    /// Sampling of thoughts.
    pub sampling: Sampling,
    /// Random numbers of the thoughts.
    pub random: Counted,
}

impl ModelThinker<'_> {
    /// Runs `model` over the texts.
    fn read(&self, model: &Cognate, p: &Bound) -> Output {
        model.forward(
            p,
            &self.scene.batch,
            Depth::Fixed(self.sampling.passes),
            None,
            true,
        )
    }

    /// Consecutive runs of thoughts of at most about `ROWS` rows.
    fn parts<'b>(asked: &'b [(usize, &'b [u32])]) -> Vec<&'b [(usize, &'b [u32])]> {
        let (mut parts, mut start, mut rows) = (Vec::new(), 0, 0);
        for (i, (_, t)) in asked.iter().enumerate() {
            if i > start && rows + t.len() > ROWS {
                parts.push(&asked[start..i]);
                (start, rows) = (i, 0);
            }
            rows += t.len() + 8;
        }
        parts.push(&asked[start..]);
        parts
    }

    /// Judgements from log-probabilities [R, V].
    fn verdicts(
        &self,
        log_p: &Tensor,
        target: &[u32],
        of: &[std::ops::Range<usize>],
    ) -> Vec<Judgement> {
        let values = log_p.to_vec();
        let vocab = self.model.config.vocab;
        let likeliest = most_likely(&values, vocab);
        of.iter()
            .map(|r| Judgement {
                log_p: r
                    .clone()
                    .map(|j| f64::from(values[j * vocab + target[j] as usize]))
                    .sum(),
                answer: likeliest[r.clone()].to_vec(),
                right: r.clone().filter(|&j| likeliest[j] == target[j]).count() as f64
                    / r.len().max(1) as f64,
            })
            .collect()
    }
}

impl Thinker for ModelThinker<'_> {
    fn positions(&self) -> usize {
        self.scene.places.len()
    }

    fn thoughts(&self) -> Vec<Vec<Vec<u32>>> {
        let tape = Tape::inference();
        let p = Bound::new(&tape, &self.model.params);
        let out = self.read(self.model, &p);
        let context = out.context.as_ref().expect("captured");
        let all = sample(
            self.model,
            &p,
            context,
            &self.scene.batch,
            &self.scene.places,
            self.sampling,
            &self.random,
        );
        all.chunks(self.sampling.thoughts)
            .map(|g| g.iter().map(|t| t.tokens.clone()).collect())
            .collect()
    }

    fn judge(&self, asked: &[(usize, Option<&[u32]>)]) -> Vec<Judgement> {
        let mut results = vec![Judgement::default(); asked.len()];
        let (mut silent, mut silent_rows, mut silent_target, mut silent_of) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut thinking, mut places) = (Vec::new(), Vec::new());
        for (i, &(place, thought)) in asked.iter().enumerate() {
            let Some(thought) = thought else {
                let at = &self.scene.places[place];
                let from = silent_target.len();
                for j in at.judged.clone() {
                    silent_rows
                        .push((self.scene.batch.segments[at.segment].start + at.row + j) as u32);
                    silent_target.push(at.target[j]);
                }
                silent_of.push(from..silent_target.len());
                silent.push(i);
                continue;
            };
            thinking.push(i);
            places.push((place, thought));
        }
        if !silent.is_empty() {
            let tape = Tape::inference();
            let p = Bound::new(&tape, &self.model.params);
            let out = self.read(self.model, &p);
            let ids: Ids = silent_rows.into();
            let log_p = tape.log_softmax(self.model.logits(&p, tape.gather_rows(out.hidden, ids)));
            for (i, j) in silent.into_iter().zip(self.verdicts(
                &tape.value(log_p),
                &silent_target,
                &silent_of,
            )) {
                results[i] = j;
            }
        }
        if !thinking.is_empty() {
            let mut at = thinking.into_iter();
            for part in Self::parts(&places) {
                let tape = Tape::inference();
                let p = Bound::new(&tape, &self.model.params);
                let out = self.read(self.model, &p);
                let context = out.context.as_ref().expect("captured");
                let grown = chains(&self.scene.batch, &self.scene.places, part);
                let rows = judged(&self.scene.batch, &self.scene.places, part, &grown);
                let hidden = self.model.think(&p, context, &grown, self.sampling.passes);
                let log_p = tape.value(mix(self.model, &p, out.hidden, hidden, &rows).log_p);
                for (j, i) in self
                    .verdicts(&log_p, &rows.target, &rows.of_chain)
                    .into_iter()
                    .zip(&mut at)
                {
                    results[i] = j;
                }
            }
        }
        results
    }

    fn coherence(&self, asked: &[(usize, &[u32])]) -> Vec<f64> {
        let mut probabilities = Vec::with_capacity(asked.len());
        for part in Self::parts(asked) {
            let tape = Tape::inference();
            let p = Bound::new(&tape, &self.baked.params);
            let out = self.read(self.baked, &p);
            let grown = chains(&self.scene.batch, &self.scene.places, part);
            let hidden = self.baked.think(
                &p,
                out.context.as_ref().expect("captured"),
                &grown,
                self.sampling.passes,
            );
            let thoughts: Vec<Thought> = part
                .iter()
                .map(|(_, t)| Thought {
                    tokens: t.to_vec(),
                    closed: false,
                })
                .collect();
            let told = policy(
                &p,
                hidden,
                &grown,
                &thoughts.iter().collect::<Vec<_>>(),
                None,
                1.0,
            );
            let nll = tape.value(told.nll).to_vec();
            probabilities.extend(told.of_thought.iter().map(|r| probability(&nll[r.clone()])));
        }
        coherence(&probabilities)
    }
}
