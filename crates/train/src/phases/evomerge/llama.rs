//! Measuring Llama models from elsewhere: what the search knows as `Evaluate` when no run of ours made the parents.
//!
//! A child is an ordinary checkpoint: the scale of a layer is multiplied into the two matrices that write to the residual
//! stream, which is the same, and a layer that does not run is left out, so that what was measured is what is written.
//! Work is counted as two operations a parameter that a token meets.

use super::material::{Ready, probe_of};
use super::{Candidate, Child, Evaluate, EvaluateError, Material, Measures, Parents, Probe, Split};
use crate::evaluate::{self, Subject};
use model::llama::{Llama, LlamaConfig, block_of};
use model::{Batch, Bound, LanguageModel, Params};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tensor::{Tape, Tensor};

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

/// Measures children on texts and items.
pub struct LlamaJudge<'a> {
    /// The data.
    pub material: &'a Material,
    /// How the models read; which model it names does not matter.
    pub reader: &'a Subject<'a>,
    /// The configuration of the parents.
    pub config: &'a LlamaConfig,
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
        probe_of(&nll, &logits, model.config.vocab)
    }

    fn measure(
        &self,
        model: &Llama,
        split: Split,
        items: Range<usize>,
    ) -> Result<Measures, EvaluateError> {
        let parameters = model.params.count();
        let looked_up = match model.config.tied {
            true => 0,
            false => model.config.vocab * model.config.width,
        };
        let forward = |batch: &Batch, targets: Vec<u32>| {
            let nll = model.nll(batch, &targets);
            let operations = 2 * (parameters - looked_up) * nll.len();
            (nll, operations as u64)
        };
        let ask = |asked: &[&_]| {
            let subject = Subject {
                model,
                ..self.reader.clone()
            };
            let answered = evaluate::answers(&subject, asked, 0);
            let answered = asked.iter().zip(&answered);
            answered.map(|(i, a)| evaluate::judge(i, a)).collect()
        };
        let bytes = parameters as f64 * 4.0;
        self.material.measure((split, items), forward, ask, bytes)
    }
}

impl Evaluate for LlamaJudge<'_> {
    fn set_hash(&self, split: Split) -> String {
        self.material.hash(split)
    }

    fn items(&self, split: Split) -> usize {
        self.material.texts(split)
    }

    fn unigram(&self) -> f64 {
        self.material.unigram()
    }

    fn ready<'a>(&'a self, child: Child) -> Box<dyn Candidate + 'a> {
        let model = llama_of(&child, self.config);
        let probe = self.probed(&model);
        let measure = move |split, items| self.measure(&model, split, items);
        Box::new(Ready { probe, measure })
    }
}
