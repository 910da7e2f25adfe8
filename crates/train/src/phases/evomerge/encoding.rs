//! A genome as a point of the unit cube, for searches that know points only.
//!
//! Continuous genes are scaled from their ranges: three weights, two t, density, drop, lambda, threshold, a scale per
//! layer. Discrete ones are continuous coordinates that are cut: a bit is set from 1/2 on; a source is one of five equal
//! parts of its coordinate, that of the tensors outside the layers one of two; a layer runs from 1/10 on, because one left
//! out costs most. The seed of the masks is fixed: it has no neighbours, so there is nothing to follow.

use super::genome::{DENSITY, DROP, LAMBDA, SCALE, SOURCES, T, WEIGHT};
use super::{Genome, Space};

/// Coordinate from which on a layer runs.
const RUNS: f64 = 0.1;

/// Coordinates of the three bits.
const BITS: std::ops::Range<usize> = 9..12;

/// Coordinates of a genome: 9 continuous genes, 3 bits and 1 source, and 3 a layer.
pub(super) fn dimensions(space: Space) -> usize {
    13 + 3 * space.blocks
}

/// Where a search without knowledge begins: the neutral genes, every bit and source undecided, every layer running.
pub(super) fn centre(space: Space) -> Vec<f64> {
    let neutral = Genome::neutral(0, space, 0);
    let at = |value: f64, (low, high): (f64, f64)| match high > low {
        true => (value - low) / (high - low),
        false => 0.5,
    };
    let mut point: Vec<f64> = neutral.weights.iter().map(|&w| at(w, WEIGHT)).collect();
    point.extend(neutral.t.map(|t| at(t, T)));
    point.extend([
        at(neutral.density, DENSITY),
        at(neutral.drop, DROP),
        at(neutral.lambda, LAMBDA),
        at(neutral.threshold, space.threshold),
    ]);
    point.extend([0.5; 4]);
    // Between interpolation and arithmetic, the first two of five sources.
    point.extend(vec![1.0 / SOURCES.len() as f64; space.blocks]);
    point.extend(vec![0.5; space.blocks]);
    point.extend(neutral.scales.iter().map(|&s| at(s, SCALE)));
    point
}

/// Moves a point to a combination, half way between undecided and certain.
pub(super) fn combine(point: &mut [f64], bits: u8) {
    for (coordinate, bit) in point[BITS].iter_mut().zip([4, 2, 1]) {
        *coordinate = if bits & bit == 0 { 0.25 } else { 0.75 };
    }
}

/// The genome of a point. Panics on another number of coordinates.
#[track_caller]
pub(super) fn genome(point: &[f64], space: Space, seed: u64) -> Genome {
    assert_eq!(point.len(), dimensions(space), "genome: coordinates");
    let within = |x: f64, (low, high): (f64, f64)| low + x * (high - low);
    let part = |x: f64, parts: usize| ((x * parts as f64) as usize).min(parts - 1);
    let (genes, layers) = point.split_at(13);
    let (sources, layers) = layers.split_at(space.blocks);
    let (included, scales) = layers.split_at(space.blocks);
    let bits = [4, 2, 1].iter().zip(&genes[BITS]);
    Genome {
        bits: bits.map(|(bit, x)| bit * u8::from(*x >= 0.5)).sum(),
        weights: std::array::from_fn(|i| within(genes[i], WEIGHT)),
        t: std::array::from_fn(|i| within(genes[3 + i], T)),
        density: within(genes[5], DENSITY),
        drop: within(genes[6], DROP),
        lambda: within(genes[7], LAMBDA),
        threshold: within(genes[8], space.threshold),
        shared: SOURCES[part(genes[12], 2)],
        sources: sources
            .iter()
            .map(|x| SOURCES[part(*x, SOURCES.len())])
            .collect(),
        included: included.iter().map(|x| *x >= RUNS).collect(),
        scales: scales.iter().map(|x| within(*x, SCALE)).collect(),
        seed,
    }
    .with_a_layer()
}
