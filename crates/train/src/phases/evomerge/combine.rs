//! From a genome and the parents to a child: interpolation, task arithmetic, selection over layers.
//!
//! All three work on task vectors d_i = parent_i - ancestor, one named tensor at a time:
//! 1. I = ancestor + mean or nested SLERP of the d_i;
//! 2. A = ancestor + lambda * sum of the d_i thinned by DARE, or lambda * 3 * their TIES merge (a
//!    disjoint *mean*; times 3, one range of lambda suits both);
//! 3. each layer takes I, A or a parent; under DFS it may also be scaled or left out.
//!
//! The search stays on the parents' own grid of layers, so a child has the same tensors as a parent
//! and always merges again. A tensor's source alone is computed, never the other results.

use super::{Error, Genome, Source};
use merge::{Rescale, arithmetic, interpolate};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A model as named flat arrays; dimensions are known elsewhere.
pub type Weights = BTreeMap<String, Vec<f32>>;

/// What a search merges: three branches of one ancestor.
#[derive(Clone, Debug)]
pub struct Parents {
    /// The base of every task vector.
    pub ancestor: Arc<Weights>,
    /// The three branches, same tensors as the ancestor.
    pub models: [Arc<Weights>; 3],
    /// Layer of a tensor; None for those outside the layers (embedding, final norm).
    pub block_of: fn(&str) -> Option<usize>,
    /// Number of layers.
    pub blocks: usize,
    /// ACT threshold of each branch.
    pub thresholds: [f64; 3],
}

/// A decoded genome.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// All tensors, those of excluded layers included.
    pub weights: Weights,
    /// Factor on each layer's output; 0 for an excluded layer, which need not be run.
    pub scales: Vec<f32>,
    /// ACT threshold.
    pub threshold: f64,
}

impl Parents {
    /// Checks that all four models have the same tensors and that layers are in range.
    pub fn check(&self) -> Result<(), Error> {
        let differ = |tensor: &str, found: String| {
            Err(Error::ParentsDiffer {
                tensor: tensor.to_owned(),
                found,
            })
        };
        for (index, model) in self.models.iter().enumerate() {
            for (name, tensor) in self.ancestor.iter() {
                match model.get(name) {
                    None => return differ(name, format!("is missing in parent {index}")),
                    Some(own) if own.len() != tensor.len() => {
                        let (own, base) = (own.len(), tensor.len());
                        return differ(
                            name,
                            format!("has {own} elements in parent {index}, {base} in the ancestor"),
                        );
                    }
                    Some(_) => {}
                }
            }
            if let Some(extra) = model.keys().find(|name| !self.ancestor.contains_key(*name)) {
                return differ(
                    extra,
                    format!("of parent {index} is missing in the ancestor"),
                );
            }
        }
        for name in self.ancestor.keys() {
            if let Some(block) = (self.block_of)(name)
                && block >= self.blocks
            {
                return differ(name, format!("belongs to layer {block} of {}", self.blocks));
            }
        }
        Ok(())
    }

    /// Size of one model in fp32 megabytes (10^6 bytes), which picks the fitness weights.
    pub fn size_mb(&self) -> f64 {
        self.ancestor
            .values()
            .map(|t| t.len() as f64 * 4.0)
            .sum::<f64>()
            / 1e6
    }

    /// Hash of the ancestor's and the parents' weights and thresholds.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hash_weights(&mut hasher, &self.ancestor);
        for (model, threshold) in self.models.iter().zip(self.thresholds) {
            hash_weights(&mut hasher, model);
            hasher.update(&threshold.to_bits().to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    fn task_vectors(&self, name: &str) -> [Vec<f32>; 3] {
        let base = &self.ancestor[name];
        std::array::from_fn(|i| arithmetic::task_vector(&self.models[i][name], base))
    }
}

impl Child {
    /// Hash of everything that decides what the child computes.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hash_weights(&mut hasher, &self.weights);
        for scale in &self.scales {
            hasher.update(&scale.to_bits().to_le_bytes());
        }
        hasher.update(&self.threshold.to_bits().to_le_bytes());
        hasher.finalize().to_hex().to_string()
    }
}

/// Feeds names, lengths and little-endian bits, through a small buffer rather than a copy.
fn hash_weights(hasher: &mut blake3::Hasher, weights: &Weights) {
    let mut bytes = Vec::with_capacity(4 * 4096);
    for (name, tensor) in weights {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&(tensor.len() as u64).to_le_bytes());
        for part in tensor.chunks(4096) {
            bytes.clear();
            bytes.extend(part.iter().flat_map(|x| x.to_bits().to_le_bytes()));
            hasher.update(&bytes);
        }
    }
}

/// The child that a genome describes. Panics when the genome has another number of layers.
#[track_caller]
pub fn decode(genome: &Genome, parents: &Parents) -> Child {
    let genes = [
        genome.sources.len(),
        genome.included.len(),
        genome.scales.len(),
    ];
    assert_eq!(
        genes, [parents.blocks; 3],
        "decode: a genome's genes per layer against the layers"
    );
    Child {
        weights: parents
            .ancestor
            .keys()
            .map(|name| (name.clone(), decode_tensor(genome, parents, name)))
            .collect(),
        scales: (0..parents.blocks)
            .map(|block| genome.scale(block))
            .collect(),
        threshold: genome.threshold,
    }
}

/// One tensor of the child.
pub fn decode_tensor(genome: &Genome, parents: &Parents, name: &str) -> Vec<f32> {
    let source = (parents.block_of)(name).map_or(genome.shared, |block| genome.sources[block]);
    let delta = match source {
        Source::Parent(index) => return parents.models[index as usize][name].clone(),
        Source::Interpolation => interpolated(genome, &parents.task_vectors(name)),
        Source::Arithmetic => summed(genome, &parents.task_vectors(name), name),
    };
    parents.ancestor[name]
        .iter()
        .zip(&delta)
        .map(|(base, d)| base + d)
        .collect()
}

fn interpolated(genome: &Genome, [a, b, c]: &[Vec<f32>; 3]) -> Vec<f32> {
    if genome.slerp() {
        interpolate::slerp3(genome.t, [a, b, c])
    } else {
        interpolate::linear(&[a, b, c], &genome.weights, true)
    }
}

fn summed(genome: &Genome, deltas: &[Vec<f32>; 3], name: &str) -> Vec<f32> {
    let total: f64 = genome.weights.iter().sum();
    let weights = genome.weights.map(|w| 3.0 * w / total);
    if genome.ties() {
        let [a, b, c] = deltas;
        return arithmetic::ties(
            &[a, b, c],
            &weights,
            genome.density,
            3.0 * genome.lambda,
            true,
        );
    }
    let thinned: [Vec<f32>; 3] = std::array::from_fn(|i| {
        arithmetic::dare(
            &deltas[i],
            genome.drop,
            Rescale::Paper,
            genome.seed,
            name,
            i,
        )
    });
    let [a, b, c] = &thinned;
    arithmetic::task_arithmetic(&[a, b, c], &weights, genome.lambda)
}

/// Why a child is not worth a forward pass: a value that is not finite, or a tensor that became
/// constant although it varies in every parent. None for a sound child.
pub fn degenerate(child: &Child, parents: &Parents) -> Option<String> {
    if !child.threshold.is_finite() || child.scales.iter().any(|s| !s.is_finite()) {
        return Some("a layer scale or the threshold is not finite".to_owned());
    }
    for (name, tensor) in &child.weights {
        if let Some(i) = tensor.iter().position(|x| !x.is_finite()) {
            return Some(format!("{name}[{i}] is {}", tensor[i]));
        }
        let telling = tensor.len() >= LEAST_TELLING;
        if telling && constant(tensor) && parents.models.iter().all(|m| !constant(&m[name])) {
            return Some(format!("{name} has lost its variance"));
        }
    }
    None
}

/// Elements below which a tensor, such as one gain a head, may come out constant by chance.
const LEAST_TELLING: usize = 16;

/// Variance at most 1e-8 of the mean square: free of the tensor's scale, true for all zeros.
fn constant(tensor: &[f32]) -> bool {
    let n = tensor.len() as f64;
    let mean = tensor.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let square = tensor
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        / n;
    let variance = tensor
        .iter()
        .map(|&x| (f64::from(x) - mean).powi(2))
        .sum::<f64>()
        / n;
    variance <= 1e-8 * square
}
