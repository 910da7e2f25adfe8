//! Measuring Cognate models on a run's evaluation data: what the search knows as `Evaluate`.
//!
//! Texts are tokenised once, as [`Material`]. A child becomes a model once: its weights over the template's configuration,
//! and one full forward pass over a small fixed sample, which standardises its exit gate and is its probe. A sample's
//! texts and choice items stand in turn by data set, so that any prefix is balanced; options make an item cost several
//! texts, and near chance it says less, so there is one for every third text.

use super::{Accuracy, Candidate, Child, Evaluate, EvaluateError, Measures, Probe, Split, Weights};
use crate::{Source, evaluate};
use data::{Answer, Item, Tokenizer};
use model::{Batch, Bound, Cognate, Depth, Params};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use tensor::{Tape, Tensor};

/// Rows of the sample that gates are standardised on, and most of one text.
const PROBE_ROWS: usize = 320;
const PROBE_PIECE: usize = 128;
/// Texts of one forward pass.
pub(super) const TOGETHER: usize = 16;
/// Texts to one choice item.
pub(super) const TEXTS_TO_ITEM: usize = 3;

/// What models are measured on, ready to be used again and again.
pub struct Material {
    splits: [Questions; 3],
    probe: Batch,
    probe_targets: Vec<u32>,
    unigram: f64,
}

/// The texts and choice items of one split.
struct Questions {
    /// Tokens of each text, the end of document first.
    texts: Vec<Vec<u32>>,
    items: Vec<Item>,
    hash: String,
}

/// Measures children on the run's evaluation data.
pub struct Judge<'a> {
    /// The data.
    pub material: &'a Material,
    /// The run's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The configuration of every child.
    pub template: &'a Cognate,
}

/// A child as a model, with what its probe found.
struct Ready<'a> {
    judge: &'a Judge<'a>,
    model: Cognate,
    probe: Probe,
}

impl Material {
    /// The evaluation data of a run, texts cut to `sequence` predictions.
    pub fn new(source: &Source, sequence: usize) -> Material {
        let splits = [Split::Fitness, Split::Selection, Split::HeldOut]
            .map(|split| Questions::of(source, split, sequence));
        let mut rows = 0;
        let pieces = splits[0]
            .texts
            .iter()
            .map(|t| &t[..t.len().min(PROBE_PIECE)]);
        let probe: Vec<&[u32]> = pieces
            .take_while(|t| {
                let fits = rows < PROBE_ROWS;
                rows += t.len();
                fits
            })
            .collect();
        Material {
            probe: Batch::new(probe.iter().map(|t| (&t[..t.len() - 1], 0))),
            probe_targets: probe.iter().flat_map(|t| t[1..].to_vec()).collect(),
            unigram: entropy(splits[0].texts.iter().flat_map(|t| &t[1..])),
            splits,
        }
    }

    fn of(&self, split: Split) -> &Questions {
        &self.splits[split as usize]
    }
}

impl Questions {
    fn of(source: &Source, split: Split, sequence: usize) -> Questions {
        let of = match split {
            Split::Fitness => data::Split::Fitness,
            Split::Selection => data::Split::Selection,
            Split::HeldOut => data::Split::HeldOut,
        };
        let tokenizer = &source.tokenizer;
        let documents = in_turn(source.texts_of(of, None), |d| d.dataset.clone());
        let choices = source.items_of(of).into_iter();
        let choices = choices.filter(|i| matches!(i.answer, Answer::Choice { .. }));
        let items = in_turn(choices.collect(), |i| i.dataset.clone());
        let mut hasher = blake3::Hasher::new();
        hasher.update(tokenizer.hash().as_bytes());
        hasher.update(&(sequence as u64).to_le_bytes());
        for text in documents
            .iter()
            .map(|d| &d.text)
            .chain(items.iter().map(|i| &i.prompt))
        {
            hasher.update(text.as_bytes());
        }
        let tokens = |text: &str| {
            let mut tokens = vec![tokenizer.end_of_document()];
            tokens.extend(tokenizer.encode(text));
            tokens.truncate(sequence + 1);
            tokens
        };
        let texts = documents.iter().map(|d| tokens(&d.text));
        Questions {
            texts: texts.filter(|t| t.len() > 1).collect(),
            items: items.into_iter().cloned().collect(),
            hash: hasher.finalize().to_hex().to_string(),
        }
    }
}

/// Entropy in nats of how often each token occurs.
pub(super) fn entropy<'a>(tokens: impl Iterator<Item = &'a u32>) -> f64 {
    let mut counts = BTreeMap::<u32, f64>::new();
    tokens.for_each(|t| *counts.entry(*t).or_default() += 1.0);
    let total: f64 = counts.values().sum();
    let part = |n: &f64| -n / total * merge::elementary::ln(n / total);
    counts.values().map(part).sum()
}

/// Round-robin over groups, keeping the order within each.
pub(super) fn in_turn<T>(list: Vec<T>, key: impl Fn(&T) -> String) -> Vec<T> {
    let mut groups: BTreeMap<String, VecDeque<T>> = BTreeMap::new();
    for x in list {
        groups.entry(key(&x)).or_default().push_back(x);
    }
    let mut out = Vec::new();
    while !groups.is_empty() {
        groups.retain(|_, g| {
            out.extend(g.pop_front());
            !g.is_empty()
        });
    }
    out
}

/// The tensors of a model as the search knows them.
pub(super) fn weights(model: &Cognate) -> Weights {
    let tensors = model.params.iter();
    tensors.map(|(n, t)| (n.to_string(), t.to_vec())).collect()
}

impl Judge<'_> {
    /// A child as a model: weights, layer scales and threshold over the template's configuration; the exit gate is
    /// standardised anew.
    pub fn model(&self, child: &Child) -> Cognate {
        self.build(child).0
    }

    fn build(&self, child: &Child) -> (Cognate, Probe) {
        let mut config = self.template.config.clone();
        for (block, &scale) in config.blocks.iter_mut().zip(&child.scales) {
            block.scale = scale;
        }
        config.act_threshold = child.threshold as f32;
        let tensor = |(name, values): (&String, &Vec<f32>)| {
            let dims = self.template.params.get(name).dims();
            (name.clone(), Tensor::from_vec(values.clone(), dims))
        };
        let values: BTreeMap<String, Tensor> = child.weights.iter().map(tensor).collect();
        let params = Params::from_named(&config, values, |_| false, 0)
            .expect("a child has its parents' tensors");
        let mut model = Cognate {
            params,
            ..Cognate::empty(config)
        };
        let (gates, probe) = self.probed(&model);
        model.standardise_gate_to(gates);
        (model, probe)
    }

    /// One forward pass at full depth: the gates' logits, and what it tells of the model.
    fn probed(&self, model: &Cognate) -> (Vec<Vec<f32>>, Probe) {
        let tape = Tape::inference();
        let p = Bound::new(&tape, &model.params);
        let out = model.forward(&p, &self.material.probe, Depth::Full, None, false);
        let gates = out.gates.iter().map(|(_, l)| tape.value(*l).to_vec());
        let gates = gates.collect();
        let logits = tape.value(model.logits(&p, out.hidden)).to_vec();
        let targets = self.material.probe_targets.clone();
        let nll = tape.cross_entropy(out.hidden, p.var("embed.weight"), targets.into());
        let nll = tape.value(nll).to_vec();
        let likeliest = logits.chunks(model.config.vocab).map(|row| {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            best.map_or(0, |(token, _)| token)
        });
        let probe = Probe {
            nats: nll.iter().map(|&x| f64::from(x)).sum::<f64>() / nll.len().max(1) as f64,
            different: likeliest.collect::<BTreeSet<_>>().len(),
        };
        (gates, probe)
    }

    /// Measures any model of the run's tokenizer on some items of a split.
    ///
    /// # Errors
    /// [`EvaluateError::Dead`] when its loss is not finite.
    pub fn measure(
        &self,
        model: &Cognate,
        split: Split,
        items: Range<usize>,
    ) -> Result<Measures, EvaluateError> {
        let questions = self.material.of(split);
        let within = |r: Range<usize>, n: usize| r.start.min(n)..r.end.min(n);
        let texts = &questions.texts[within(items.clone(), questions.texts.len())];
        let asked = items.start.div_ceil(TEXTS_TO_ITEM)..items.end.div_ceil(TEXTS_TO_ITEM);
        let asked = &questions.items[within(asked, questions.items.len())];
        let (mut nats, mut tokens, mut flops, mut losses) = (0.0, 0, 0, Vec::new());
        for part in texts.chunks(TOGETHER) {
            let batch = Batch::new(part.iter().map(|t| (&t[..t.len() - 1], 0)));
            let targets: Vec<u32> = part.iter().flat_map(|t| t[1..].iter().copied()).collect();
            let tape = Tape::inference();
            let p = Bound::new(&tape, &model.params);
            let out = model.forward(&p, &batch, Depth::Halting, None, false);
            let nll = tape.cross_entropy(out.hidden, p.var("embed.weight"), targets.into());
            let nll = tape.value(nll).to_vec();
            for rows in batch.segments.iter() {
                let sum: f64 = nll[rows.clone()].iter().map(|&x| f64::from(x)).sum();
                losses.push((sum / rows.len() as f64) as f32);
                nats += sum;
            }
            tokens += nll.len();
            flops += tape.flops();
        }
        if !nats.is_finite() {
            return Err(EvaluateError::Dead("its loss is not finite".into()));
        }
        let asked: Vec<&Item> = asked.iter().collect();
        let scores = evaluate::items(model, self.tokenizer, &asked, 1);
        let accuracies = evaluate::by_task(&asked, &scores).into_iter();
        let accuracy = |(task, s): (String, evaluate::TaskScore)| Accuracy {
            task,
            correct: (s.accuracy * s.items as f64).round(),
            n: s.items as u64,
            chance: s.chance,
        };
        Ok(Measures {
            nats: nats / tokens.max(1) as f64,
            tokens: tokens as u64,
            losses,
            accuracies: accuracies.map(accuracy).collect(),
            counted_flops: flops as f64,
            bytes: bytes(model),
        })
    }
}

/// Bytes of the tensors of the blocks that run.
fn bytes(model: &Cognate) -> f64 {
    let runs = |name: &str| {
        model::params::block_of(name).is_none_or(|b| model.config.blocks[b].scale != 0.0)
    };
    let tensors = model.params.iter().filter(|(n, _)| runs(n));
    tensors.map(|(_, t)| t.numel() * 4).sum::<usize>() as f64
}

impl Evaluate for Judge<'_> {
    fn set_hash(&self, split: Split) -> String {
        self.material.of(split).hash.clone()
    }

    fn items(&self, split: Split) -> usize {
        self.material.of(split).texts.len()
    }

    fn unigram(&self) -> f64 {
        self.material.unigram
    }

    fn ready<'a>(&'a self, child: Child) -> Box<dyn Candidate + 'a> {
        let (model, probe) = self.build(&child);
        Box::new(Ready {
            judge: self,
            model,
            probe,
        })
    }
}

impl Candidate for Ready<'_> {
    fn probe(&self) -> Result<Probe, EvaluateError> {
        Ok(self.probe)
    }

    fn evaluate(&self, split: Split, items: Range<usize>) -> Result<Measures, EvaluateError> {
        self.judge.measure(&self.model, split, items)
    }
}
