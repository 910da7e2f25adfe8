//! A genome: three bits and every continuous gene. A child is reproducible from its genome and the
//! parents' weights alone.
//!
//! The bits, written as the plan does ("100" = SLERP + DARE + FrankenMerge): first linear | SLERP,
//! second DARE | TIES, third FrankenMerge | DFS. Genes that a combination does not read are carried
//! silently; a mutation of such a gene gives the same weights and so costs a cache look-up only.
//!
//! Merging three genomes averages their continuous genes, takes the majority of their bits and
//! inclusions and, per layer, the source of one of them. Merging *genes* rather than weights keeps a
//! child of any generation rebuildable from one flat genome; as linear and task-arithmetic merges
//! are linear in their weights, it is close to merging the weights there.

use super::Parents;
use merge::random::Counted;
use serde::{Deserialize, Serialize};

/// Where a layer's weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Result of the interpolation step.
    Interpolation,
    /// Result of the task-arithmetic step.
    Arithmetic,
    /// A parent as it is: 0, 1 or 2.
    Parent(u8),
}

pub(super) const SOURCES: [Source; 5] = [
    Source::Interpolation,
    Source::Arithmetic,
    Source::Parent(0),
    Source::Parent(1),
    Source::Parent(2),
];

/// Ranges of the continuous genes; a mutation's step is in units of the range.
pub(super) const WEIGHT: (f64, f64) = (0.05, 1.5);
pub(super) const T: (f64, f64) = (0.0, 1.0);
pub(super) const DENSITY: (f64, f64) = (0.1, 1.0);
pub(super) const DROP: (f64, f64) = (0.0, 0.9);
pub(super) const LAMBDA: (f64, f64) = (0.1, 0.8);
pub(super) const SCALE: (f64, f64) = (0.8, 1.2);

/// A recipe of one child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Genome {
    /// The combination, 0..8: 4 = SLERP, 2 = TIES, 1 = DFS.
    pub bits: u8,
    /// Weight per parent, for linear interpolation (divided by their sum) and for DARE and TIES
    /// (times 3 / sum, so that `lambda` alone sets the size).
    pub weights: [f64; 3],
    /// Nested SLERP: from parent 0 to 1, from there to 2.
    pub t: [f64; 2],
    /// TIES: share of elements kept.
    pub density: f64,
    /// DARE: share of elements dropped.
    pub drop: f64,
    /// Size of the merged task vector, as a factor on the *sum* of three.
    pub lambda: f64,
    /// Source per layer.
    pub sources: Vec<Source>,
    /// Source of the tensors outside the layers (embedding, final norm).
    pub shared: Source,
    /// DFS: whether a layer runs; an excluded one passes the residual on.
    pub included: Vec<bool>,
    /// DFS: factor on a layer's output.
    pub scales: Vec<f64>,
    /// The child's ACT threshold.
    pub threshold: f64,
    /// Seed of the DARE masks.
    pub seed: u64,
}

/// The size of the search space, read off the parents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Space {
    /// Number of layers.
    pub blocks: usize,
    /// Range of the ACT threshold: what the parents span, a little widened.
    pub threshold: (f64, f64),
    /// Mean of the parents' thresholds.
    pub threshold_mean: f64,
}

impl Space {
    /// The space of merges of these parents.
    pub fn of(parents: &Parents) -> Space {
        let [a, b, c] = parents.thresholds;
        let (low, high) = (a.min(b).min(c), a.max(b).max(c));
        let widened = ((low - 0.05).max(0.0), (high + 0.005).min(high.max(0.999)));
        Space {
            blocks: parents.blocks,
            threshold: widened,
            threshold_mean: (a + b + c) / 3.0,
        }
    }
}

/// The plan's name of a combination: "000" to "111".
pub fn combination_name(bits: u8) -> String {
    format!("{bits:03b}")
}

/// Draws of one genome operation: counted, numbered in the order of the genes.
pub(super) struct Draws {
    counted: Counted,
    next: u64,
}

impl Draws {
    pub(super) fn new(seed: u64, purpose: &str, generation: u64, slot: usize) -> Draws {
        let counted = Counted::new(seed, purpose, generation * 64 + slot as u64);
        Draws { counted, next: 0 }
    }

    fn index(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn chance(&mut self, probability: f64) -> bool {
        let i = self.index();
        self.counted.uniform(i) < probability
    }

    fn below(&mut self, n: usize) -> usize {
        let i = self.index();
        self.counted.below(i, n)
    }

    fn within(&mut self, (low, high): (f64, f64)) -> f64 {
        let i = self.index();
        low + self.counted.uniform(i) * (high - low)
    }

    pub(super) fn normal(&mut self) -> f64 {
        let i = self.index();
        f64::from(self.counted.normal(i))
    }

    pub(super) fn bits(&mut self) -> u64 {
        let i = self.index();
        self.counted.bits(i)
    }

    /// With probability 1/2 a normal step of standard deviation `sigma` ranges, kept in the range.
    fn step(&mut self, gene: &mut f64, (low, high): (f64, f64), sigma: f64) {
        let moved = self.chance(0.5);
        let normal = self.normal();
        if moved {
            let step = sigma * (high - low) * normal;
            *gene = (*gene + step).clamp(low, high);
        }
    }
}

impl Genome {
    /// A combination with neutral genes: equal shares, the prototype's lambda on the sum, all
    /// layers run unscaled.
    ///
    /// Where nothing is known about layers, FrankenMerge alternates the two results and DFS takes
    /// the first half from the interpolation and the second from the arithmetic, so that the eight
    /// combinations are eight different models.
    pub fn neutral(bits: u8, space: Space, seed: u64) -> Genome {
        let first_half = |block: usize| block < space.blocks.div_ceil(2);
        let interpolated = |block| {
            if bits & 1 == 0 {
                block % 2 == 0
            } else {
                first_half(block)
            }
        };
        let source = |block| {
            if interpolated(block) {
                Source::Interpolation
            } else {
                Source::Arithmetic
            }
        };
        Genome {
            bits,
            weights: [1.0; 3],
            t: [0.5, 1.0 / 3.0],
            density: 0.5,
            drop: 0.1,
            lambda: 0.4,
            sources: (0..space.blocks).map(source).collect(),
            shared: Source::Interpolation,
            included: vec![true; space.blocks],
            scales: vec![1.0; space.blocks],
            threshold: space.threshold_mean,
            seed,
        }
    }

    /// Every tensor from one source, all layers run unscaled.
    fn uniform(source: Source, space: Space) -> Genome {
        let mut genome = Genome::neutral(0, space, 0);
        genome.sources = vec![source; space.blocks];
        genome.shared = source;
        genome
    }

    /// The plain linear merge with the given weights: what a degenerate child is replaced by.
    pub fn linear(weights: [f64; 3], space: Space) -> Genome {
        Genome {
            weights,
            ..Genome::uniform(Source::Interpolation, space)
        }
    }

    /// Plain task arithmetic: ancestor + lambda * sum of the task vectors (DARE that drops nothing).
    pub fn arithmetic(lambda: f64, space: Space) -> Genome {
        Genome {
            drop: 0.0,
            lambda,
            ..Genome::uniform(Source::Arithmetic, space)
        }
    }

    /// Parent 0, 1 or 2 as it is, so that parents are measured on the same path as children.
    pub fn parent(index: usize, parents: &Parents) -> Genome {
        let uniform = Genome::uniform(Source::Parent(index as u8), Space::of(parents));
        Genome {
            threshold: parents.thresholds[index],
            ..uniform
        }
    }

    /// A uniformly drawn genome of a combination (layers are included with probability 0.9).
    pub(super) fn random(bits: u8, space: Space, draws: &mut Draws) -> Genome {
        Genome {
            bits,
            weights: std::array::from_fn(|_| draws.within(WEIGHT)),
            t: std::array::from_fn(|_| draws.within(T)),
            density: draws.within(DENSITY),
            drop: draws.within(DROP),
            lambda: draws.within(LAMBDA),
            sources: (0..space.blocks)
                .map(|_| SOURCES[draws.below(SOURCES.len())])
                .collect(),
            shared: SOURCES[draws.below(2)],
            included: (0..space.blocks).map(|_| draws.chance(0.9)).collect(),
            scales: (0..space.blocks).map(|_| draws.within(SCALE)).collect(),
            threshold: draws.within(space.threshold),
            seed: draws.bits(),
        }
        .with_a_layer()
    }

    /// A mutant. `rate` is the variance of a continuous gene's step in units of its range (0.01: a
    /// standard deviation of a tenth; each gene moves with probability 1/2). Bits, sources and the
    /// mask seed are redrawn with probability sqrt(rate) each, inclusions, which cost most when
    /// wrong, with probability `rate`.
    pub(super) fn mutated(&self, rate: f64, space: Space, draws: &mut Draws) -> Genome {
        let sigma = rate.sqrt();
        let mut child = self.clone();
        for bit in [4, 2, 1] {
            if draws.chance(sigma) {
                child.bits ^= bit;
            }
        }
        child
            .weights
            .iter_mut()
            .for_each(|w| draws.step(w, WEIGHT, sigma));
        child.t.iter_mut().for_each(|t| draws.step(t, T, sigma));
        draws.step(&mut child.density, DENSITY, sigma);
        draws.step(&mut child.drop, DROP, sigma);
        draws.step(&mut child.lambda, LAMBDA, sigma);
        draws.step(&mut child.threshold, space.threshold, sigma);
        child
            .scales
            .iter_mut()
            .for_each(|s| draws.step(s, SCALE, sigma));
        for source in &mut child.sources {
            if draws.chance(sigma) {
                *source = SOURCES[draws.below(SOURCES.len())];
            }
        }
        if draws.chance(sigma) {
            child.shared = SOURCES[draws.below(2)];
        }
        for included in &mut child.included {
            *included ^= draws.chance(rate);
        }
        if draws.chance(sigma) {
            child.seed = draws.bits();
        }
        child.with_a_layer()
    }

    /// The merge of three genomes (see the head of this file).
    pub(super) fn merged(of: [&Genome; 3], draws: &mut Draws) -> Genome {
        let mean = |gene: fn(&Genome) -> f64| of.iter().map(|g| gene(g)).sum::<f64>() / 3.0;
        let majority = |bit: u8| {
            if of.iter().filter(|g| g.bits & bit != 0).count() >= 2 {
                bit
            } else {
                0
            }
        };
        let blocks = of[0].sources.len();
        Genome {
            bits: majority(4) | majority(2) | majority(1),
            weights: std::array::from_fn(|i| of.iter().map(|g| g.weights[i]).sum::<f64>() / 3.0),
            t: std::array::from_fn(|i| of.iter().map(|g| g.t[i]).sum::<f64>() / 3.0),
            density: mean(|g| g.density),
            drop: mean(|g| g.drop),
            lambda: mean(|g| g.lambda),
            sources: (0..blocks).map(|b| of[draws.below(3)].sources[b]).collect(),
            shared: of[draws.below(3)].shared,
            included: (0..blocks)
                .map(|b| of.iter().filter(|g| g.included[b]).count() >= 2)
                .collect(),
            scales: (0..blocks)
                .map(|b| of.iter().map(|g| g.scales[b]).sum::<f64>() / 3.0)
                .collect(),
            threshold: mean(|g| g.threshold),
            seed: of[draws.below(3)].seed,
        }
        .with_a_layer()
    }

    /// A model of no layers is none: the first one stays.
    pub(super) fn with_a_layer(mut self) -> Genome {
        if !self.included.is_empty() && !self.included.contains(&true) {
            self.included[0] = true;
        }
        self
    }

    /// Whether the interpolation is SLERP rather than linear.
    pub fn slerp(&self) -> bool {
        self.bits & 4 != 0
    }

    /// Whether the task arithmetic is TIES rather than DARE.
    pub fn ties(&self) -> bool {
        self.bits & 2 != 0
    }

    /// Whether the selection is DFS (inclusion and scale are read) rather than FrankenMerge.
    pub fn dfs(&self) -> bool {
        self.bits & 1 != 0
    }

    /// Factor on a layer's output: 1 under FrankenMerge, 0 for an excluded layer under DFS.
    pub fn scale(&self, block: usize) -> f32 {
        match (self.dfs(), self.included[block]) {
            (false, _) => 1.0,
            (true, true) => self.scales[block] as f32,
            (true, false) => 0.0,
        }
    }
}
