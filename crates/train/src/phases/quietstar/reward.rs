//! What a thought earns: pure functions over measured quantities.
//!
//! The reward of a thought is what it adds to the log-likelihood of the tokens ahead, and the plan's
//! shaping: 1 when every judged token is then the most likely one, up to 0.2 for length (10 tokens), up to
//! 0.2 for diversity (mean edit distance 5 to the other thoughts at the position), -0.5 when its coherence
//! is below 0.5. The advantage is the reward minus the mean of the group, without division by its deviation
//! or by the length (Liu et al. 2025 on GRPO); a group of equal rewards teaches nothing.
//!
//! *Coherence* is defined here and nowhere else: the mean probability of the thought's tokens under the
//! baked model, mapped to 0..1 by rank within the batch.

/// Levenshtein distance.
pub fn edit_distance<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// For each thought of a group, its mean edit distance to the others; 0 when alone.
pub fn diversity(group: &[&[u32]]) -> Vec<f64> {
    let n = group.len();
    let mut sums = vec![0.0; n];
    for i in 0..n {
        for j in i + 1..n {
            let d = edit_distance(group[i], group[j]) as f64;
            sums[i] += d;
            sums[j] += d;
        }
    }
    sums.iter().map(|s| s / (n.max(2) - 1) as f64).collect()
}

/// Ranks mapped to 0..=1; equal values share their mean rank. A single value is 1.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    if values.len() < 2 {
        return vec![1.0; values.len()];
    }
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]).then(a.cmp(&b)));
    let mut ranks = vec![0.0; values.len()];
    let mut at = 0;
    while at < order.len() {
        let same = order[at..]
            .iter()
            .take_while(|&&i| values[i] == values[order[at]])
            .count();
        for &i in &order[at..at + same] {
            ranks[i] = (at as f64 + (same - 1) as f64 / 2.0) / (values.len() - 1) as f64;
        }
        at += same;
    }
    ranks
}

/// Mean probability of a thought's tokens from their negative log-likelihoods; 0 without tokens.
pub fn probability(nll: &[f32]) -> f64 {
    if nll.is_empty() {
        0.0
    } else {
        nll.iter().map(|n| f64::from(-n).exp()).sum::<f64>() / nll.len() as f64
    }
}

/// Coherence of each thought of a batch, from the [`probability`] of each under the baked model.
pub fn coherence(probabilities: &[f64]) -> Vec<f64> {
    ranks(probabilities)
}

/// Pearson's correlation; 0 when either side does not vary.
pub fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().max(1) as f64;
    let (ma, mb) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - ma) * (y - mb);
        aa += (x - ma) * (x - ma);
        bb += (y - mb) * (y - mb);
    }
    if aa <= 0.0 || bb <= 0.0 {
        0.0
    } else {
        ab / (aa * bb).sqrt()
    }
}

/// What is known of a thought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantities {
    /// Log-likelihood of the tokens ahead with the thought, minus without.
    pub gain: f64,
    /// Whether every judged token is the most likely one.
    pub correct: bool,
    /// Tokens.
    pub length: usize,
    /// Mean edit distance to the others of its group.
    pub diversity: f64,
    /// See the head of the module.
    pub coherence: f64,
}

/// The reward of a thought. `strictness` starts at 1 and grows after a failed battery: bonuses then ask for
/// longer and more diverse thoughts, and incoherence costs more.
pub fn reward(q: &Quantities, strictness: f64) -> f64 {
    let base = f64::from(u8::from(q.correct));
    let length = (q.length as f64 / (10.0 * strictness)).min(1.0) * 0.2;
    let diversity = (q.diversity / (5.0 * strictness)).min(1.0) * 0.2;
    let penalty = if q.coherence < 0.5 {
        -0.5 * strictness
    } else {
        0.0
    };
    q.gain + base + length + diversity + penalty
}

/// Rewards minus the mean of their group of `size`.
pub fn advantages(rewards: &[f64], size: usize) -> Vec<f64> {
    rewards
        .chunks(size.max(1))
        .flat_map(|group| {
            let mean = group.iter().sum::<f64>() / group.len() as f64;
            let equal = group.iter().all(|r| (r - group[0]).abs() < 1e-9);
            group
                .iter()
                .map(move |r| if equal { 0.0 } else { r - mean })
                .collect::<Vec<_>>()
        })
        .collect()
}
