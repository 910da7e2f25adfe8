//! Measuring Llama models from elsewhere: what the search knows as `Evaluate` when no run of ours made the parents.
//!
//! A child is an ordinary checkpoint: the scale of a layer is multiplied into the two matrices that write to the residual
//! stream, which is the same, and a layer that does not run is left out, so that what was measured is what is written.
//! Work is counted as two operations a parameter that a token meets.

use super::judge::{TEXTS_TO_ITEM, TOGETHER, entropy, in_turn};
use super::{Accuracy, Candidate, Child, Evaluate, EvaluateError, Measures, Parents, Probe, Split};
use crate::evaluate::{self, Subject};
use data::{Answer, Document, Item};
use model::llama::{Llama, LlamaConfig, block_of};
use model::{Batch, Bound, LanguageModel, Params};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use tensor::{Tape, Tensor};

/// Rows that a child is probed on.
const PROBE_ROWS: usize = 320;
/// Most of them of one text.
const PROBE_PIECE: usize = 128;
/// What writes a layer's result to the residual stream.
const WRITERS: [&str; 2] = ["self_attn.o_proj.weight", "mlp.down_proj.weight"];

/// The parents of a search over Llama models; a threshold to halt by they have none.
pub fn llama_parents(base: &Llama, models: &[Llama; 3]) -> Parents {
    let weights = |model: &Llama| {
        let tensors = model.params.iter();
        Arc::new(tensors.map(|(n, t)| (n.to_string(), t.to_vec())).collect())
    };
    Parents {
        ancestor: weights(base),
        models: [0, 1, 2].map(|i| weights(&models[i])),
        block_of,
        blocks: base.config.layers,
        thresholds: [1.0; 3],
    }
}

/// A child as an ordinary Llama.
///
/// # Panics
/// A tensor of the configuration is missing.
pub fn llama_of(child: &Child, config: &LlamaConfig) -> Llama {
    let mut kept = 0;
    let places: Vec<Option<usize>> = (child.scales.iter())
        .map(|&scale| {
            let place = (scale != 0.0).then_some(kept);
            kept += usize::from(scale != 0.0);
            place
        })
        .collect();
    let mut values: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (name, tensor) in &child.weights {
        let Some(block) = block_of(name) else {
            values.insert(name.clone(), tensor.clone());
            continue;
        };
        let Some(place) = places[block] else {
            continue;
        };
        let scale = match WRITERS.iter().any(|w| name.ends_with(w)) {
            true => child.scales[block],
            false => 1.0,
        };
        let of_block = format!("model.layers.{block}.");
        let name = name.replacen(&of_block, &format!("model.layers.{place}."), 1);
        values.insert(name, tensor.iter().map(|x| x * scale).collect());
    }
    let config = LlamaConfig {
        layers: kept,
        ..config.clone()
    };
    let parts = config
        .specification()
        .into_iter()
        .map(|(name, dims, role)| {
            let values = values
                .remove(&name)
                .expect("a child has its parents' tensors");
            (name, role, Tensor::from_vec(values, &dims))
        });
    let params = Params::from_tensors(parts.collect());
    Llama { config, params }
}

/// What Llama models are measured on, ready to be used again and again.
pub struct LlamaMaterial {
    splits: [Questions; 3],
    probe: Batch,
    probe_targets: Vec<u32>,
    unigram: f64,
}

struct Questions {
    /// Tokens of each text, behind the token that its first is predicted from.
    texts: Vec<Vec<u32>>,
    items: Vec<Item>,
    hash: String,
}

impl LlamaMaterial {
    /// Texts, cut to `sequence` predictions, and items, each dealt to its split; only choices are asked.
    pub fn new(
        reader: &Subject,
        documents: &[Document],
        items: &[Item],
        sequence: usize,
    ) -> LlamaMaterial {
        use data::Split as Of;
        let of = |split| Questions::of(reader, documents, items, split, sequence);
        let splits = [Of::Fitness, Of::Selection, Of::HeldOut].map(of);
        let mut rows = 0;
        let probe = splits[0]
            .texts
            .iter()
            .map(|t| &t[..t.len().min(PROBE_PIECE)]);
        let probe: Vec<&[u32]> = probe
            .take_while(|t| {
                let fits = rows < PROBE_ROWS;
                rows += t.len();
                fits
            })
            .collect();
        LlamaMaterial {
            probe: Batch::new(probe.iter().map(|t| (&t[..t.len() - 1], 0))),
            probe_targets: probe.iter().flat_map(|t| t[1..].to_vec()).collect(),
            unigram: entropy(splits[0].texts.iter().flat_map(|t| &t[1..])),
            splits,
        }
    }

    /// Texts and choice items of a split.
    pub fn sizes(&self, split: Split) -> (usize, usize) {
        let of = &self.splits[split as usize];
        (of.texts.len(), of.items.len())
    }
}

impl Questions {
    fn of(
        reader: &Subject,
        documents: &[Document],
        items: &[Item],
        split: data::Split,
        sequence: usize,
    ) -> Questions {
        let texts = documents.iter().filter(|d| d.evaluation_split() == split);
        let texts = in_turn(texts.collect(), |d| d.dataset.clone());
        let items = items.iter().filter(|i| i.split == split);
        let items = items.filter(|i| matches!(i.answer, Answer::Choice { .. }));
        let items = in_turn(items.collect(), |i: &&Item| i.dataset.clone());
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(sequence as u64).to_le_bytes());
        let tokens: Vec<Vec<u32>> = texts
            .into_iter()
            .map(|d| {
                let mut tokens = vec![reader.start];
                tokens.extend(reader.spelling.encode(&d.text));
                tokens.truncate(sequence + 1);
                tokens
            })
            .filter(|t| t.len() > 1)
            .collect();
        for token in tokens.iter().flatten() {
            hasher.update(&token.to_le_bytes());
        }
        for item in &items {
            hasher.update(format!("{item:?}").as_bytes());
        }
        Questions {
            texts: tokens,
            items: items.into_iter().cloned().collect(),
            hash: hasher.finalize().to_hex().to_string(),
        }
    }
}

/// Measures children on texts and items.
pub struct LlamaJudge<'a> {
    /// The data.
    pub material: &'a LlamaMaterial,
    /// How the models read; which model it names does not matter.
    pub reader: &'a Subject<'a>,
    /// The configuration of the parents.
    pub config: &'a LlamaConfig,
}

/// A child as a model, with what its probe found.
struct Ready<'a> {
    judge: &'a LlamaJudge<'a>,
    model: Llama,
    probe: Probe,
}

impl LlamaJudge<'_> {
    fn probed(&self, model: &Llama) -> Probe {
        let tape = Tape::inference();
        let p = Bound::new(&tape, &model.params);
        let hidden = model.forward(&p, &self.material.probe);
        let logits = tape.value(model.logits(&p, hidden)).to_vec();
        let targets = self.material.probe_targets.clone();
        let nll = tape.cross_entropy(hidden, model.head(&p), targets.into());
        let nll = tape.value(nll).to_vec();
        let likeliest = logits.chunks(model.config.vocab).map(|row| {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            best.map_or(0, |(token, _)| token)
        });
        Probe {
            nats: nll.iter().map(|&x| f64::from(x)).sum::<f64>() / nll.len().max(1) as f64,
            different: likeliest.collect::<BTreeSet<_>>().len(),
        }
    }

    fn measure(
        &self,
        model: &Llama,
        split: Split,
        items: Range<usize>,
    ) -> Result<Measures, EvaluateError> {
        let questions = &self.material.splits[split as usize];
        let within = |r: Range<usize>, n: usize| r.start.min(n)..r.end.min(n);
        let texts = &questions.texts[within(items.clone(), questions.texts.len())];
        let asked = items.start.div_ceil(TEXTS_TO_ITEM)..items.end.div_ceil(TEXTS_TO_ITEM);
        let asked = &questions.items[within(asked, questions.items.len())];
        let (mut nats, mut tokens, mut losses) = (0.0, 0, Vec::new());
        for part in texts.chunks(TOGETHER) {
            let batch = Batch::new(part.iter().map(|t| (&t[..t.len() - 1], 0)));
            let targets: Vec<u32> = part.iter().flat_map(|t| t[1..].iter().copied()).collect();
            let nll = model.nll(&batch, &targets);
            for rows in batch.segments.iter() {
                let sum: f64 = nll[rows.clone()].iter().map(|&x| f64::from(x)).sum();
                losses.push((sum / rows.len() as f64) as f32);
                nats += sum;
            }
            tokens += nll.len();
        }
        if !nats.is_finite() {
            return Err(EvaluateError::Dead("its loss is not finite".into()));
        }
        let asked: Vec<&Item> = asked.iter().collect();
        let subject = Subject {
            model,
            ..self.reader.clone()
        };
        let answered = evaluate::answers(&subject, &asked, 0);
        let scores = asked.iter().zip(&answered);
        let scores: Vec<_> = scores.map(|(i, a)| evaluate::judge(i, a)).collect();
        let accuracies = evaluate::by_task(&asked, &scores).into_iter();
        let accuracy = |(task, s): (String, evaluate::TaskScore)| Accuracy {
            task,
            correct: (s.accuracy * s.items as f64).round(),
            n: s.items as u64,
            chance: s.chance,
        };
        let parameters = model.params.count();
        let looked_up = match model.config.tied {
            true => 0,
            false => model.config.vocab * model.config.width,
        };
        Ok(Measures {
            nats: nats / tokens.max(1) as f64,
            tokens: tokens as u64,
            losses,
            accuracies: accuracies.map(accuracy).collect(),
            counted_flops: 2.0 * (parameters - looked_up) as f64 * tokens as f64,
            bytes: parameters as f64 * 4.0,
        })
    }
}

impl Evaluate for LlamaJudge<'_> {
    fn set_hash(&self, split: Split) -> String {
        self.material.splits[split as usize].hash.clone()
    }

    fn items(&self, split: Split) -> usize {
        self.material.splits[split as usize].texts.len()
    }

    fn unigram(&self) -> f64 {
        self.material.unigram
    }

    fn ready<'a>(&'a self, child: Child) -> Box<dyn Candidate + 'a> {
        let model = llama_of(&child, self.config);
        let probe = self.probed(&model);
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
