//! What models are measured on: the texts and choice items of three splits, tokenised once.
//!
//! A split's texts and items stand in turn by data set, so that any prefix is balanced. Options make an item cost several
//! texts, and near chance it says less, so there is one for every third text.

use super::{Accuracy, Candidate, EvaluateError, Measures, Probe, Split};
use crate::Source;
use crate::evaluate::{self, ItemScore, Spelling};
use data::{Answer, Document, Item};
use model::Batch;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

/// Rows of the sample that a model is probed on.
const PROBE_ROWS: usize = 320;
/// Most of them of one text.
const PROBE_PIECE: usize = 128;
/// Texts of one forward pass.
const TOGETHER: usize = 16;
/// Texts to one choice item.
const TEXTS_TO_ITEM: usize = 3;

/// What models are measured on, ready to be used again and again.
pub struct Material {
    splits: [Questions; 3],
    /// A small fixed sample of the fitness split.
    pub(super) probe: Batch,
    pub(super) probe_targets: Vec<u32>,
    unigram: f64,
}

/// The texts and choice items of one split.
struct Questions {
    /// Tokens of each text, behind the token that its first is predicted from.
    texts: Vec<Vec<u32>>,
    items: Vec<Item>,
    hash: String,
}

impl Material {
    /// The evaluation data of a run, texts cut to `sequence` predictions.
    pub fn new(source: &Source, sequence: usize) -> Material {
        let start = source.tokenizer.end_of_document();
        let reader: (&dyn Spelling, u32) = (&source.tokenizer, start);
        Material::read(reader, &source.texts, &source.items, sequence)
    }

    /// Texts and items, each dealt to its split, as a tokenizer spells them behind a first token.
    pub fn read(
        reader: (&dyn Spelling, u32),
        documents: &[Document],
        items: &[Item],
        sequence: usize,
    ) -> Material {
        use data::Split as Of;
        let of = |split| Questions::of(reader, documents, items, split, sequence);
        let splits = [Of::Fitness, Of::Selection, Of::HeldOut].map(of);
        let mut rows = 0;
        let pieces = splits[0].texts.iter();
        let pieces = pieces.map(|t| &t[..t.len().min(PROBE_PIECE)]);
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

    /// Hash of a split's texts and items.
    pub(super) fn hash(&self, split: Split) -> String {
        self.of(split).hash.clone()
    }

    /// Texts of a split.
    pub fn texts(&self, split: Split) -> usize {
        self.of(split).texts.len()
    }

    /// Loss per token, in nats, of a guess that knows only how often each token occurs.
    pub(super) fn unigram(&self) -> f64 {
        self.unigram
    }

    /// Measures a model on some texts of a split and the items that belong to them. `forward` gives the losses of a
    /// batch's rows and the operations that they took, `ask` scores items; `bytes` are those of the model.
    pub(super) fn measure(
        &self,
        (split, items): (Split, Range<usize>),
        mut forward: impl FnMut(&Batch, Vec<u32>) -> (Vec<f32>, u64),
        ask: impl FnOnce(&[&Item]) -> Vec<ItemScore>,
        bytes: f64,
    ) -> Result<Measures, EvaluateError> {
        let questions = self.of(split);
        let within = |r: Range<usize>, n: usize| r.start.min(n)..r.end.min(n);
        let texts = &questions.texts[within(items.clone(), questions.texts.len())];
        let asked = items.start.div_ceil(TEXTS_TO_ITEM)..items.end.div_ceil(TEXTS_TO_ITEM);
        let asked = &questions.items[within(asked, questions.items.len())];
        let (mut nats, mut tokens, mut flops, mut losses) = (0.0, 0, 0, Vec::new());
        for part in texts.chunks(TOGETHER) {
            let batch = Batch::new(part.iter().map(|t| (&t[..t.len() - 1], 0)));
            let targets = part.iter().flat_map(|t| t[1..].iter().copied()).collect();
            let (nll, operations) = forward(&batch, targets);
            for rows in batch.segments.iter() {
                let sum: f64 = nll[rows.clone()].iter().map(|&x| f64::from(x)).sum();
                losses.push((sum / rows.len() as f64) as f32);
                nats += sum;
            }
            tokens += nll.len();
            flops += operations;
        }
        if !nats.is_finite() {
            return Err(EvaluateError::Dead("its loss is not finite".into()));
        }
        let asked: Vec<&Item> = asked.iter().collect();
        let accuracies = evaluate::by_task(&asked, &ask(&asked)).into_iter();
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
            bytes,
        })
    }
}

/// A child as a model, by what its probe found and by what measures it.
pub(super) struct Ready<F> {
    pub(super) probe: Probe,
    pub(super) measure: F,
}

impl<F> Candidate for Ready<F>
where
    F: Fn(Split, Range<usize>) -> Result<Measures, EvaluateError> + Send + Sync,
{
    fn probe(&self) -> Result<Probe, EvaluateError> {
        Ok(self.probe)
    }

    fn evaluate(&self, split: Split, items: Range<usize>) -> Result<Measures, EvaluateError> {
        (self.measure)(split, items)
    }
}

/// What the losses and logits [rows, vocab] of the probe's rows tell of a model.
pub(super) fn probe_of(nll: &[f32], logits: &[f32], vocab: usize) -> Probe {
    let likeliest = logits.chunks(vocab).map(|row| {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.map_or(0, |(token, _)| token)
    });
    Probe {
        nats: nll.iter().map(|&x| f64::from(x)).sum::<f64>() / nll.len().max(1) as f64,
        different: likeliest.collect::<BTreeSet<_>>().len(),
    }
}

impl Questions {
    fn of(
        (spelling, start): (&dyn Spelling, u32),
        documents: &[Document],
        items: &[Item],
        split: data::Split,
        sequence: usize,
    ) -> Questions {
        let documents = documents.iter().filter(|d| d.evaluation_split() == split);
        let documents = in_turn(documents.collect(), |d: &&Document| d.dataset.clone());
        let choices = items.iter().filter(|i| i.split == split);
        let choices = choices.filter(|i| matches!(i.answer, Answer::Choice { .. }));
        let items = in_turn(choices.collect(), |i: &&Item| i.dataset.clone());
        let tokens = |d: &Document| {
            let mut tokens = vec![start];
            tokens.extend(spelling.encode(&d.text));
            tokens.truncate(sequence + 1);
            tokens
        };
        let texts = documents.into_iter().map(tokens);
        let texts: Vec<Vec<u32>> = texts.filter(|t| t.len() > 1).collect();
        let mut hasher = blake3::Hasher::new();
        for text in &texts {
            hasher.update(&(text.len() as u64).to_le_bytes());
            text.iter().for_each(|t| {
                hasher.update(&t.to_le_bytes());
            });
        }
        for item in &items {
            hasher.update(format!("{item:?}").as_bytes());
            hasher.update(format!("{:?}", spelling.encode(&item.prompt)).as_bytes());
        }
        Questions {
            texts,
            items: items.into_iter().cloned().collect(),
            hash: hasher.finalize().to_hex().to_string(),
        }
    }
}

/// Entropy in nats of how often each token occurs.
fn entropy<'a>(tokens: impl Iterator<Item = &'a u32>) -> f64 {
    let mut counts = BTreeMap::<u32, f64>::new();
    tokens.for_each(|t| *counts.entry(*t).or_default() += 1.0);
    let total: f64 = counts.values().sum();
    let part = |n: &f64| -n / total * merge::elementary::ln(n / total);
    counts.values().map(part).sum()
}

/// Round-robin over groups, keeping the order within each.
fn in_turn<T>(list: Vec<T>, key: impl Fn(&T) -> String) -> Vec<T> {
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
