//! Measuring Cognate models on a run's evaluation data: what the search knows as `Evaluate`.
//!
//! A child becomes a model once: its weights over the template's configuration, and one full forward pass over the probe's
//! sample, which standardises its exit gate too.

use super::material::{Ready, probe_of};
use super::{Candidate, Child, Evaluate, EvaluateError, Material, Measures, Probe, Split, Weights};
use crate::evaluate;
use data::Tokenizer;
use model::{Batch, Bound, Cognate, Depth, Params};
use std::collections::BTreeMap;
use std::ops::Range;
use tensor::{Tape, Tensor};

/// Measures children on the run's evaluation data.
pub struct Judge<'a> {
    /// The data.
    pub material: &'a Material,
    /// The run's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The configuration of every child.
    pub template: &'a Cognate,
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
        let probe = probe_of(&nll, &logits, model.config.vocab);
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
        let forward = |batch: &Batch, targets: Vec<u32>| {
            let tape = Tape::inference();
            let p = Bound::new(&tape, &model.params);
            let out = model.forward(&p, batch, Depth::Halting, None, false);
            let nll = tape.cross_entropy(out.hidden, p.var("embed.weight"), targets.into());
            (tape.value(nll).to_vec(), tape.flops())
        };
        let ask = |asked: &[&_]| evaluate::items(model, self.tokenizer, asked, 1);
        let sample = (split, items);
        self.material.measure(sample, forward, ask, bytes(model))
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
        self.material.hash(split)
    }

    fn items(&self, split: Split) -> usize {
        self.material.texts(split)
    }

    fn unigram(&self) -> f64 {
        self.material.unigram()
    }

    fn ready<'a>(&'a self, child: Child) -> Box<dyn Candidate + 'a> {
        let (model, probe) = self.build(&child);
        let measure = move |split, items| self.measure(&model, split, items);
        Box::new(Ready { probe, measure })
    }
}
