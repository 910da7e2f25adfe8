//! Distances between members of a population: cosine distance of their task vectors.
//!
//! Raw weights of siblings have cosines near 1, so everything is measured on differences from the
//! ancestor. A layer's difference counts times its scale (an excluded layer as zero), so that
//! children of another depth are apart. Tensors are decoded one at a time for all members, so memory
//! holds members x the largest tensor per thread, never a population of models.

use super::{Genome, Parents, decode_tensor};
use rayon::prelude::*;

/// The matrix of cosine distances (1 - cosine); 0 between members that equal the ancestor, 1 between
/// such a member and another.
pub fn distances(genomes: &[&Genome], parents: &Parents) -> Vec<Vec<f64>> {
    let names: Vec<&String> = parents.ancestor.keys().collect();
    let products: Vec<Vec<Vec<f64>>> = names
        .par_iter()
        .map(|name| inner_products(genomes, parents, name))
        .collect();
    let n = genomes.len();
    let mut gram = vec![vec![0.0; n]; n];
    // Tensors are added in the order of their names, whoever computed them.
    for product in &products {
        for (row, add) in gram.iter_mut().zip(product) {
            row.iter_mut().zip(add).for_each(|(sum, x)| *sum += x);
        }
    }
    let distance = |i: usize, j: usize| {
        let (a, b) = (f64::sqrt(gram[i][i]), f64::sqrt(gram[j][j]));
        match (a > 0.0, b > 0.0) {
            (true, true) if i != j => (1.0 - gram[i][j] / a / b).max(0.0),
            (a, b) => f64::from(u8::from(a != b)),
        }
    };
    (0..n)
        .map(|i| (0..n).map(|j| distance(i, j)).collect())
        .collect()
}

/// How far each pair of parents is apart, in the order 0-1, 0-2, 1-2: the norm of their difference over the larger norm of
/// their task vectors; 0 for equal weights.
pub fn apart(parents: &Parents) -> [f64; 3] {
    let square = |a: &[f32], b: &[f32]| -> f64 {
        let difference = a.iter().zip(b).map(|(x, y)| f64::from(x - y));
        difference.map(|d| d * d).sum()
    };
    let between = |a: &super::Weights, b: &super::Weights| -> f64 {
        a.iter()
            .map(|(name, x)| square(x, &b[name]))
            .sum::<f64>()
            .sqrt()
    };
    let moved = parents
        .models
        .each_ref()
        .map(|m| between(m, &parents.ancestor));
    [(0, 1), (0, 2), (1, 2)].map(|(i, j)| {
        let apart = between(&parents.models[i], &parents.models[j]);
        if apart == 0.0 {
            0.0
        } else {
            apart / moved[i].max(moved[j])
        }
    })
}

/// Mean over all pairs; 0 for fewer than two members.
pub fn mean_distance(distances: &[Vec<f64>]) -> f64 {
    let n = distances.len();
    let sum: f64 = (0..n)
        .flat_map(|i| (0..i).map(move |j| (i, j)))
        .map(|(i, j)| distances[i][j])
        .sum();
    sum / (n * n.saturating_sub(1) / 2).max(1) as f64
}

fn inner_products(genomes: &[&Genome], parents: &Parents, name: &str) -> Vec<Vec<f64>> {
    let base = &parents.ancestor[name];
    let block = (parents.block_of)(name);
    let deltas: Vec<Vec<f32>> = genomes
        .iter()
        .map(|genome| {
            let scale = block.map_or(1.0, |block| genome.scale(block));
            let tensor = decode_tensor(genome, parents, name);
            tensor
                .iter()
                .zip(base)
                .map(|(x, b)| scale * (x - b))
                .collect()
        })
        .collect();
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(&x, &y)| f64::from(x) * f64::from(y))
            .sum()
    };
    let n = genomes.len();
    let mut products = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in 0..=i {
            products[i][j] = dot(&deltas[i], &deltas[j]);
            products[j][i] = products[i][j];
        }
    }
    products
}
