//! Which elements of a task vector take part in a merge.
//!
//! - largest (TIES, 2306.01708): the floor(density n) largest by magnitude, at least one
//! - between (breadcrumbs, 2312.06795): the largest but for the floor(gamma n) very largest
//! - drawn (DARE, 2311.03099): each with probability density
//! - ranked (DELLA, 2406.11617): each with a probability that grows with its rank in its row, from density - epsilon
//!   to density + epsilon
//!
//! What is left may be scaled so that the L1 norm is that of the whole (mergekit's `rescale`). Masks are counted: element
//! `i` of a tensor of a model is drawn the same whatever the tensor's length, the number of threads or the walk.

use crate::loops::l1;
use crate::operand::{BLOCK, each_block};
use crate::rounding::Dtype;
use crate::select::{Cut, cuts};
use crate::table::{Inputs, Parameters};
use crate::{loops, operand::Operand};
use kernels::random::Counted;

/// The rules that a method may thin by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    All,
    Largest,
    Between,
    Drawn,
    Ranked,
}

/// What is done to one model's task vector, block by block in order.
#[derive(Clone, Copy, Debug)]
enum Mask {
    All,
    Nothing,
    Largest(Cut),
    /// Kept by the first, not by the second.
    Between(Cut, Cut),
    /// Dropped with this probability.
    Drawn(Counted, f64),
    /// Kept with a probability from the first number to the second.
    Ranked(Counted, f64, f64),
}

/// Task vectors of all models, thinned.
pub(crate) struct Thinned<'a> {
    inputs: &'a Inputs<'a>,
    /// The base, if there is one, then the models.
    operands: Vec<Operand<'a>>,
    masks: Vec<Mask>,
    /// Factor on what is left, per model.
    factors: Vec<f64>,
    /// Elements of a block.
    size: usize,
}

impl<'a> Thinned<'a> {
    /// Walks over the tensor as often as the rule needs. Without a base the operands are task vectors already.
    pub(crate) fn new(inputs: &'a Inputs<'a>, rule: Rule, p: &Parameters, rescale: bool) -> Self {
        let mut thinned = Thinned {
            inputs,
            operands: inputs.base.iter().chain(inputs.models).copied().collect(),
            masks: vec![Mask::All; inputs.models.len()],
            factors: vec![1.0; inputs.models.len()],
            size: if rule == Rule::Ranked {
                inputs.columns()
            } else {
                BLOCK
            },
        };
        if rule != Rule::All {
            thinned.masks = thinned.choose(rule, p);
        }
        if rescale && thinned.masks.iter().any(|m| !matches!(m, Mask::All)) {
            thinned.factors = thinned.norms();
        }
        thinned
    }

    /// Calls `f(start, base, task vectors)` for every block.
    fn raw(&self, mut f: impl FnMut(usize, &[f32], &mut [Vec<f32>])) {
        let dtype = self.inputs.dtype;
        each_block(&self.operands, self.size, |start, values| {
            match self.inputs.base {
                None => f(start, &[], values),
                Some(_) => {
                    let (base, models) = values.split_first_mut().expect("the base comes first");
                    for model in models.iter_mut() {
                        loops::subtract(dtype, model, base);
                    }
                    f(start, base, models);
                }
            }
        });
    }

    fn choose(&self, rule: Rule, p: &Parameters) -> Vec<Mask> {
        let density = p.each("density");
        let n = self.operands.first().map_or(0, Operand::len);
        let drawn = |model: usize| Counted::new(p.seed, self.inputs.tensor, model as u64);
        let open = |mask: &dyn Fn(usize, f64) -> Mask| {
            let all = density.iter().enumerate();
            all.map(|(model, &density)| match density {
                d if d >= 1.0 => Mask::All,
                d if d <= 0.0 => Mask::Nothing,
                d => mask(model, d),
            })
            .collect::<Vec<_>>()
        };
        match rule {
            Rule::All => open(&|_, _| Mask::All),
            Rule::Drawn => open(&|model, d| Mask::Drawn(drawn(model), 1.0 - d)),
            Rule::Ranked => {
                let epsilon = p.each("epsilon");
                open(&|i, d| Mask::Ranked(drawn(i), d - epsilon[i], d + epsilon[i]))
            }
            Rule::Largest => {
                let keep: Vec<usize> = density
                    .iter()
                    .map(|d| share(*d, n).clamp(1, n.max(1)))
                    .collect();
                let cuts = self.cuts(&keep);
                open(&|model, _| Mask::Largest(cuts[model]))
            }
            Rule::Between => {
                let gamma = p.each("gamma");
                // The outliers to drop are fewer where the density would not be reached otherwise.
                let bounds: Vec<[usize; 2]> = density
                    .iter()
                    .zip(&gamma)
                    .map(|(d, g)| {
                        let (target, top) = (share(*d, n), share(*g, n));
                        let below = n.saturating_sub(target + top);
                        [n - below, n - below - target.min(n - below)]
                    })
                    .collect();
                let kept = self.cuts(&bounds.iter().map(|b| b[0]).collect::<Vec<_>>());
                let dropped = self.cuts(&bounds.iter().map(|b| b[1]).collect::<Vec<_>>());
                open(&|i, _| match bounds[i][1] {
                    0 => Mask::Largest(kept[i]),
                    _ => Mask::Between(kept[i], dropped[i]),
                })
            }
        }
    }

    fn cuts(&self, keep: &[usize]) -> Vec<Cut> {
        cuts(keep, self.inputs.dtype == Dtype::Bf16, |count| {
            self.raw(|_, _, deltas| {
                for (i, delta) in deltas.iter().enumerate() {
                    count(i, delta);
                }
            });
        })
    }

    /// The factors that restore the L1 norms.
    fn norms(&self) -> Vec<f64> {
        let mut masks = self.masks.clone();
        let mut sums = vec![(0.0, 0.0); masks.len()];
        self.raw(|start, _, deltas| {
            for ((delta, mask), sums) in deltas.iter_mut().zip(&mut masks).zip(&mut sums) {
                sums.0 += l1(delta);
                mask.apply(start, delta);
                sums.1 += l1(delta);
            }
        });
        let factor = |(before, after): &(f64, f64)| l1_factor(self.inputs.dtype, *before, *after);
        sums.iter().map(factor).collect()
    }

    /// Calls `f(start, base, task vectors)` for every block, thinned; the base is empty where there is none.
    pub(crate) fn each(&self, mut f: impl FnMut(usize, &[f32], &mut [Vec<f32>])) {
        let mut masks = self.masks.clone();
        self.raw(|start, base, deltas| {
            for ((delta, mask), &factor) in deltas.iter_mut().zip(&mut masks).zip(&self.factors) {
                mask.apply(start, delta);
                if factor != 1.0 {
                    loops::scale(self.inputs.dtype, delta, factor);
                }
            }
            f(start, base, deltas);
        });
    }
}

/// floor(share n)
fn share(share: f64, n: usize) -> usize {
    (share * n as f64) as usize
}

/// The factor that turns the L1 norm `after` into `before`; 1 where there is (nearly) nothing to restore.
pub(crate) fn l1_factor(dtype: Dtype, before: f64, after: f64) -> f64 {
    let (before, after) = (dtype.round(before), dtype.round(after));
    if before < 1e-7 || after < 1e-7 {
        return 1.0;
    }
    dtype.round(before / after)
}

impl Mask {
    fn apply(&mut self, start: usize, values: &mut [f32]) {
        match self {
            Mask::All => {}
            Mask::Nothing => values.fill(0.0),
            Mask::Largest(cut) => cut.apply(values),
            Mask::Between(kept, dropped) => {
                let mut outliers = values.to_vec();
                dropped.apply(&mut outliers);
                kept.apply(values);
                for (x, outlier) in values.iter_mut().zip(&outliers) {
                    *x = if *outlier == 0.0 { *x } else { 0.0 };
                }
            }
            Mask::Drawn(draws, drop) => draws.drop_below(*drop, start as u64, values),
            Mask::Ranked(draws, from, to) => by_rank(draws, (*from, *to), start, values),
        }
    }
}

/// Keeps the element of rank r (0 the smallest) of m with probability from + r / (m - 1) (to - from).
fn by_rank(draws: &Counted, (from, to): (f64, f64), start: usize, row: &mut [f32]) {
    let key = |(i, x): (usize, &f32)| u64::from(x.abs().to_bits()) << 32 | i as u64;
    let mut order: Vec<u64> = row.iter().enumerate().map(key).collect();
    order.sort_unstable();
    let step = (to - from) / (row.len().max(2) - 1) as f64;
    for (rank, key) in order.iter().enumerate() {
        let i = *key as u32 as usize;
        if draws.uniform((start + i) as u64) >= from + step * rank as f64 {
            row[i] = 0.0;
        }
    }
}
