//! The flat table of merge methods, each row beside the function that runs it.
//!
//! Formulas, defaults and the order of rounding are mergekit's (0.1.5). Legend: x a model's element, b the base's, d = x - b
//! the task vector (what fine-tuning changed), w a weight, k models.
//!
//! A new method is a row of [`METHODS`] and a function below; nothing else knows methods by name. Elementwise loops
//! that matter for speed are in `loops`, the thinning of task vectors in `thin`.

use crate::elementary::{arccos, cosine, sine};
use crate::error::Error;
use crate::interpolate::angle_coefficients;
use crate::loops::{self, Agreement};
use crate::operand::{BLOCK, Operand, each_block, same_length};
use crate::rounding::Dtype;
use crate::select::cuts;
use crate::table::{Base, Inputs, Method, Parameter, Parameters, Scope};
use crate::thin::{Rule, Thinned};

const MANY: usize = usize::MAX;
const ANY: (f64, f64) = (f64::MIN, f64::MAX);
const SHARE: (f64, f64) = (0.0, 1.0);

const fn number(
    name: &'static str,
    scope: Scope,
    default: Option<f64>,
    range: (f64, f64),
) -> Parameter {
    Parameter {
        name,
        scope,
        default,
        switch: false,
        range,
    }
}

const fn switch(name: &'static str, default: bool) -> Parameter {
    Parameter {
        name,
        scope: Scope::Tensor,
        default: Some(if default { 1.0 } else { 0.0 }),
        switch: true,
        range: SHARE,
    }
}

const WEIGHT: Parameter = number("weight", Scope::Model, None, ANY);
const DENSITY: Parameter = number("density", Scope::Model, Some(1.0), SHARE);
const GAMMA: Parameter = number("gamma", Scope::Model, Some(0.01), SHARE);
const EPSILON: Parameter = number("epsilon", Scope::Model, Some(0.15), SHARE);
const LAMBDA: Parameter = number("lambda", Scope::Tensor, Some(1.0), ANY);
const T: Parameter = number("t", Scope::Tensor, None, ANY);
/// Chooses the type of mergekit's masks; ours take no memory.
const INT8_MASK: Parameter = switch("int8_mask", false);

/// The parameters of methods on sums of task vectors, with the defaults of `normalize` and `rescale`.
macro_rules! sum_parameters {
    ($normalize:expr, $rescale:expr $(, $more:expr)*) => {
        &[
            WEIGHT, DENSITY, LAMBDA, INT8_MASK,
            switch("normalize", $normalize), switch("rescale", $rescale) $(, $more)*
        ]
    };
}

/// All methods.
pub const METHODS: &[Method] = &[
    Method {
        name: "linear",
        models: (1, MANY),
        base: Base::Unknown,
        parameters: &[WEIGHT, switch("normalize", true)],
        run: linear,
    },
    Method {
        name: "slerp",
        models: (1, 1),
        base: Base::Required,
        parameters: &[T],
        run: slerp,
    },
    Method {
        name: "nuslerp",
        models: (2, 2),
        base: Base::Optional,
        parameters: &[
            WEIGHT,
            switch("nuslerp_row_wise", false),
            switch("nuslerp_flatten", true),
        ],
        run: nuslerp,
    },
    Method {
        name: "multislerp",
        models: (1, MANY),
        base: Base::Optional,
        parameters: &[
            WEIGHT,
            switch("normalize_weights", true),
            number("eps", Scope::Tensor, Some(1e-8), (0.0, f64::MAX)),
        ],
        run: multislerp,
    },
    Method {
        name: "karcher",
        models: (1, MANY),
        base: Base::Unknown,
        parameters: &[
            number("max_iter", Scope::Tensor, Some(10.0), (0.0, 1e6)),
            number("tol", Scope::Tensor, Some(1e-5), (0.0, f64::MAX)),
        ],
        run: karcher,
    },
    Method {
        name: "task_arithmetic",
        models: (0, MANY),
        base: Base::Required,
        parameters: sum_parameters!(false, false),
        run: |x, p, out| sum_task_vectors(x, p, (Rule::All, false), out),
    },
    Method {
        name: "ties",
        models: (0, MANY),
        base: Base::Required,
        parameters: sum_parameters!(true, false),
        run: |x, p, out| sum_task_vectors(x, p, (Rule::Largest, true), out),
    },
    Method {
        name: "dare_linear",
        models: (0, MANY),
        base: Base::Required,
        parameters: sum_parameters!(false, true),
        run: |x, p, out| sum_task_vectors(x, p, (Rule::Drawn, false), out),
    },
    Method {
        name: "dare_ties",
        models: (0, MANY),
        base: Base::Required,
        parameters: sum_parameters!(false, true),
        run: |x, p, out| sum_task_vectors(x, p, (Rule::Drawn, true), out),
    },
    Method {
        name: "della",
        models: (0, MANY),
        base: Base::Required,
        parameters: sum_parameters!(true, true, EPSILON),
        run: |x, p, out| sum_task_vectors(x, p, (Rule::Ranked, true), out),
    },
    Method {
        name: "della_linear",
        models: (0, MANY),
        base: Base::Required,
        parameters: sum_parameters!(false, true, EPSILON),
        run: |x, p, out| sum_task_vectors(x, p, (Rule::Ranked, false), out),
    },
    Method {
        name: "breadcrumbs",
        models: (0, MANY),
        base: Base::Required,
        parameters: sum_parameters!(false, false, GAMMA),
        run: |x, p, out| sum_task_vectors(x, p, (Rule::Between, false), out),
    },
    Method {
        name: "breadcrumbs_ties",
        models: (0, MANY),
        base: Base::Required,
        parameters: sum_parameters!(false, false, GAMMA),
        run: |x, p, out| sum_task_vectors(x, p, (Rule::Between, true), out),
    },
    Method {
        name: "sce",
        models: (0, MANY),
        base: Base::Required,
        parameters: &[
            number("select_topk", Scope::Tensor, Some(1.0), SHARE),
            INT8_MASK,
        ],
        run: sce,
    },
    Method {
        name: "model_stock",
        models: (2, MANY),
        base: Base::Required,
        parameters: &[switch("filter_wise", false)],
        run: model_stock,
    },
    Method {
        name: "nearswap",
        models: (1, 1),
        base: Base::Required,
        parameters: &[T],
        run: nearswap,
    },
    Method {
        name: "passthrough",
        models: (1, 1),
        base: Base::Unknown,
        parameters: &[number("scale", Scope::Model, Some(1.0), ANY)],
        run: passthrough,
    },
];

type Out<'a> = &'a mut dyn FnMut(&[f32]);
/// What is done with a block of the base and of the task vectors.
type OnDeltas<'a> = Box<dyn FnMut(&[f32], &mut [Vec<f32>]) + 'a>;

/// The base's tensor; that there is one was checked.
#[track_caller]
fn base<'a>(inputs: &Inputs<'a>) -> Operand<'a> {
    let Some(base) = inputs.base else {
        panic!("tensor {} has no base", inputs.tensor)
    };
    base
}

/// sum w x / sum w, or the sum alone; rounded once, as mergekit sums in fp32.
pub(crate) fn linear(inputs: &Inputs, p: &Parameters, out: Out) -> Result<(), Error> {
    let weights = p.each("weight");
    let total: f64 = weights.iter().sum();
    let divisor = if p.switch("normalize") && total.abs() >= 1e-8 {
        total
    } else {
        1.0
    };
    let mut sum = [0.0; BLOCK];
    each_block(inputs.models, BLOCK, |_, models| {
        let sum = &mut sum[..models[0].len()];
        sum.fill(-0.0);
        for (model, &weight) in models.iter().zip(&weights) {
            loops::add_weighted(Dtype::F32, model, weight, sum);
        }
        loops::mean(inputs.dtype, sum, divisor, &mut models[0]);
        out(&models[0]);
    });
    Ok(())
}

/// From the base (t = 0) to the model (t = 1) along the arc between the whole tensors.
pub(crate) fn slerp(inputs: &Inputs, p: &Parameters, out: Out) -> Result<(), Error> {
    let pair = [base(inputs), inputs.models[0]];
    same_length("slerp", &pair);
    // One accumulator each: the evolution's results hang on this order.
    let (mut aa, mut bb, mut ab) = (0.0f64, 0.0f64, 0.0f64);
    each_block(&pair, BLOCK, |_, values| {
        for (&x, &y) in values[0].iter().zip(&values[1]) {
            let (x, y) = (f64::from(x), f64::from(y));
            aa += x * x;
            bb += y * y;
            ab += x * y;
        }
    });
    let (from, to) = angle_coefficients(p.number("t"), aa, bb, ab);
    each_block(&pair, BLOCK, |_, values| {
        let (a, b) = values.split_at_mut(1);
        loops::mix(inputs.dtype, &mut a[0], &b[0], from, to);
        out(&a[0]);
    });
    Ok(())
}

/// b + lambda sum w d / (sum of the weights), where d may be thinned, and with `elect` only elements take part that agree
/// with the sign of the sum. Without a base the models are task vectors already, and none is added.
pub(crate) fn sum_task_vectors(
    inputs: &Inputs,
    p: &Parameters,
    (rule, elect): (Rule, bool),
    out: Out,
) -> Result<(), Error> {
    if rule == Rule::Ranked {
        for (d, e) in p.each("density").iter().zip(p.each("epsilon")) {
            if *d > 0.0 && *d < 1.0 && (d - e <= 0.0 || d + e >= 1.0) {
                return Err(Error::Value {
                    key: format!("density -+ epsilon of tensor {}", inputs.tensor),
                    found: format!("{} to {}", d - e, d + e),
                    allowed: "between 0 and 1; choose a smaller `epsilon`".to_owned(),
                });
            }
        }
    }
    let dtype = inputs.dtype;
    let (normalize, lambda) = (p.switch("normalize"), p.number("lambda"));
    let weights: Vec<f64> = p.each("weight").iter().map(|w| dtype.round(*w)).collect();
    let total: f64 = weights.iter().sum();
    let thinned = Thinned::new(inputs, rule, p, p.switch("rescale"));
    let (mut elected, mut sum, mut share) = (Vec::new(), Vec::new(), Vec::new());
    let mut merged = Vec::new();
    thinned.each(|_, base, deltas| {
        let n = deltas.first().map_or(base.len(), Vec::len);
        for buffer in [&mut elected, &mut sum, &mut share] {
            buffer.resize(n, 0.0);
        }
        merged.resize(n, 0.0);
        elected.fill(-0.0);
        for (delta, &weight) in deltas.iter().zip(&weights) {
            loops::add_weighted(dtype, delta, weight, &mut elected);
        }
        share.fill(if normalize && !elect { total } else { 0.0 });
        if elect {
            sum.fill(0.0);
            for (delta, &weight) in deltas.iter().zip(&weights) {
                let into = Agreement {
                    elected: &elected,
                    sum: &mut sum,
                    share: &mut share,
                };
                loops::add_agreeing(dtype, delta, weight, into);
            }
            if !normalize {
                share.fill(1.0);
            }
        }
        let sum = if elect { &sum } else { &elected };
        loops::quotient(dtype, sum, &share, lambda, &mut merged);
        if !base.is_empty() {
            loops::add(dtype, &mut merged, base);
        }
        out(&merged);
    });
    Ok(())
}

/// b + sum w d / sum w over what agrees with the sign of sum d, where w is a model's share of the squares of all task
/// vectors, and only the elements with the greatest variance between the models take part (2408.07990).
fn sce(inputs: &Inputs, p: &Parameters, out: Out) -> Result<(), Error> {
    let dtype = inputs.dtype;
    let r = |x: f64| dtype.round(x);
    let n = base(inputs).len();
    let thinned = Thinned::new(inputs, Rule::All, p, false);
    let (topk, k) = (p.number("select_topk"), inputs.models.len() as f64);
    let variances = |deltas: &[Vec<f32>], into: &mut Vec<f32>| {
        into.clear();
        into.extend((0..deltas[0].len()).map(|i| {
            let mean = deltas.iter().map(|d| f64::from(d[i])).sum::<f64>() / k;
            let squares = deltas.iter().map(|d| (f64::from(d[i]) - mean).powi(2));
            r(squares.sum::<f64>() / k) as f32
        }));
    };
    let mut spread = Vec::new();
    let mut cut = None;
    if topk < 1.0 && !inputs.models.is_empty() {
        let mut varied = 0;
        thinned.each(|_, _, deltas| {
            variances(deltas, &mut spread);
            varied += spread.iter().filter(|v| **v != 0.0).count();
        });
        let keep = (varied as f64 * topk) as usize;
        let walk = |count: &mut dyn FnMut(usize, &[f32])| {
            thinned.each(|_, _, deltas| {
                variances(deltas, &mut spread);
                count(0, &spread);
            });
        };
        cut = Some((keep > 0).then(|| cuts(&[keep], dtype == Dtype::Bf16, walk)[0]));
    }
    let mut select = |mut f: OnDeltas<'_>| {
        let mut cut = cut;
        thinned.each(|_, base, deltas| {
            if let Some(cut) = &mut cut {
                variances(deltas, &mut spread);
                match cut {
                    Some(cut) => cut.apply(&mut spread),
                    None => spread.fill(0.0),
                }
                for (x, v) in deltas.iter_mut().flat_map(|d| d.iter_mut().zip(&spread)) {
                    *x = if *v == 0.0 { 0.0 } else { *x };
                }
            }
            f(base, deltas);
        });
    };
    let mut squares = vec![0.0; inputs.models.len()];
    select(Box::new(|_, deltas| {
        for (total, delta) in squares.iter_mut().zip(deltas) {
            *total += delta
                .iter()
                .map(|x| r(f64::from(*x) * f64::from(*x)))
                .sum::<f64>();
        }
    }));
    let means: Vec<f64> = squares.iter().map(|s| r(s / n as f64)).collect();
    let all = r(means.iter().sum());
    let share_of = |mean: &f64| {
        if all.abs() < 1e-6 {
            r(1.0 / k)
        } else {
            r(mean / all)
        }
    };
    let weights: Vec<f64> = means.iter().map(share_of).collect();
    let (mut elected, mut sum, mut share, mut merged) = (vec![], vec![], vec![], vec![]);
    select(Box::new(|base, deltas| {
        for buffer in [&mut elected, &mut sum, &mut share] {
            buffer.clear();
            buffer.resize(base.len(), 0.0);
        }
        merged.resize(base.len(), 0.0);
        for delta in deltas.iter() {
            loops::add_weighted(dtype, delta, 1.0, &mut elected);
        }
        for (delta, &weight) in deltas.iter().zip(&weights) {
            let into = Agreement {
                elected: &elected,
                sum: &mut sum,
                share: &mut share,
            };
            loops::add_agreeing(dtype, delta, weight, into);
        }
        share.iter_mut().for_each(|s| *s = s.max(1e-6));
        loops::quotient(dtype, &sum, &share, 1.0, &mut merged);
        loops::add(dtype, &mut merged, base);
        out(&merged);
    }));
    Ok(())
}

/// b + w (x - b) with w = t / |x - b|, between 0 and 1: near elements are taken over, far ones are moved by t.
fn nearswap(inputs: &Inputs, p: &Parameters, out: Out) -> Result<(), Error> {
    let dtype = inputs.dtype;
    let r = |x: f64| dtype.round(x);
    let t = p.number("t");
    each_block(&[base(inputs), inputs.models[0]], BLOCK, |_, values| {
        let (a, b) = values.split_at_mut(1);
        for (a, b) in a[0].iter_mut().zip(&b[0]) {
            let (x, y) = (f64::from(*a), f64::from(*b));
            let apart = r((x - y).abs()).max(r(1e-6));
            let w = r(r(1.0 / apart) * t).clamp(0.0, 1.0);
            *a = r(r(w * y) + r(r(1.0 - w) * x)) as f32;
        }
        out(&a[0]);
    });
    Ok(())
}

/// scale x
fn passthrough(inputs: &Inputs, p: &Parameters, out: Out) -> Result<(), Error> {
    let scale = p.each("scale")[0];
    each_block(inputs.models, BLOCK, |_, models| {
        if scale != 1.0 {
            loops::scale(inputs.dtype, &mut models[0], scale);
        }
        out(&models[0]);
    });
    Ok(())
}

/// Which elements are measured together: the whole tensor, a row (the last axis), or all that share their place but for
/// the first axis.
#[derive(Clone, Copy)]
enum Groups {
    Whole,
    Rows(usize),
    Columns(usize),
}

impl Groups {
    fn count(self, n: usize) -> usize {
        match self {
            Groups::Whole => 1,
            Groups::Rows(columns) => n.div_ceil(columns),
            Groups::Columns(columns) => columns,
        }
    }

    fn of(self, i: usize) -> usize {
        match self {
            Groups::Whole => 0,
            Groups::Rows(columns) => i / columns,
            Groups::Columns(columns) => i % columns,
        }
    }
}

/// SLERP of two models (of their task vectors, where there is a base) at t = w_2 / (w_1 + w_2); the arc is that of the whole
/// tensors, of rows, or of columns.
fn nuslerp(inputs: &Inputs, p: &Parameters, out: Out) -> Result<(), Error> {
    let dtype = inputs.dtype;
    let r = |x: f64| dtype.round(x);
    let n = same_length("nuslerp", inputs.models);
    let weights = p.each("weight");
    let total = weights[0] + weights[1];
    let t = if total.abs() < 1e-6 {
        0.5
    } else {
        weights[1] / total
    };
    let groups = match (p.switch("nuslerp_flatten"), p.switch("nuslerp_row_wise")) {
        (true, _) => Groups::Whole,
        (false, true) if inputs.shape.len() > 1 => Groups::Columns(n / inputs.shape[0].max(1)),
        (false, _) => Groups::Rows(inputs.columns()),
    };
    let thinned = Thinned::new(inputs, Rule::All, p, false);
    let mut norms = vec![[0.0f64; 2]; groups.count(n)];
    thinned.each(|start, _, v| {
        for (i, (a, b)) in v[0].iter().zip(&v[1]).enumerate() {
            let norm = &mut norms[groups.of(start + i)];
            norm[0] += f64::from(*a) * f64::from(*a);
            norm[1] += f64::from(*b) * f64::from(*b);
        }
    });
    let norms: Vec<[f64; 2]> = norms
        .iter()
        .map(|n| n.map(|x| r(x.sqrt()).max(1e-7)))
        .collect();
    let mut cosines = vec![0.0; norms.len()];
    thinned.each(|start, _, v| {
        for (i, (a, b)) in v[0].iter().zip(&v[1]).enumerate() {
            let group = groups.of(start + i);
            let [na, nb] = norms[group];
            cosines[group] += r(r(f64::from(*a) / na) * r(f64::from(*b) / nb));
        }
    });
    // Factors of the two, and what the sum is divided by.
    let coefficients: Vec<[f64; 3]> = cosines
        .iter()
        .map(|cosine| {
            let cosine = r(*cosine).clamp(-1.0, 1.0);
            if r(1.0 - r(cosine * cosine)) <= 1e-16 {
                return [1.0 - t, t, 1.0];
            }
            let angle = r(arccos(cosine));
            [
                r(sine(r((1.0 - t) * angle))),
                r(sine(r(t * angle))),
                r(sine(angle)),
            ]
        })
        .collect();
    thinned.each(|start, base, v| {
        let (a, b) = v.split_at_mut(1);
        for (i, (a, b)) in a[0].iter_mut().zip(&b[0]).enumerate() {
            let [from, to, divisor] = coefficients[groups.of(start + i)];
            let sum = r(r(from * f64::from(*a)) + r(to * f64::from(*b)));
            *a = r(sum / divisor) as f32;
        }
        if !base.is_empty() {
            loops::add(dtype, &mut a[0], base);
        }
        out(&a[0]);
    });
    Ok(())
}

/// t mean(x) + (1 - t) b with t = k c / (1 + (k - 1) c), where c is the mean cosine between task vectors (2403.19522).
fn model_stock(inputs: &Inputs, p: &Parameters, out: Out) -> Result<(), Error> {
    let dtype = inputs.dtype;
    let r = |x: f64| dtype.round(x);
    let (n, k) = (base(inputs).len(), inputs.models.len());
    let groups = if p.switch("filter_wise") {
        Groups::Rows(inputs.columns())
    } else {
        Groups::Whole
    };
    let thinned = Thinned::new(inputs, Rule::All, p, false);
    // Sums of products of each pair, i <= j, by group.
    let pairs: Vec<(usize, usize)> = (0..k).flat_map(|i| (i..k).map(move |j| (i, j))).collect();
    let mut products = vec![vec![0.0; pairs.len()]; groups.count(n)];
    thinned.each(|start, _, deltas| {
        for (pair, &(a, b)) in pairs.iter().enumerate() {
            for (i, (x, y)) in deltas[a].iter().zip(&deltas[b]).enumerate() {
                let product = f64::from(*x) * f64::from(*y);
                products[groups.of(start + i)][pair] += if a == b { product } else { r(product) };
            }
        }
    });
    let ratio = |products: &Vec<f64>| {
        let of = |a, b| {
            let place = pairs.iter().position(|pair| *pair == (a, b));
            products[place.expect("every pair is there")]
        };
        let norms: Vec<f64> = (0..k).map(|i| r(of(i, i).sqrt())).collect();
        let apart = pairs.iter().filter(|(a, b)| a != b);
        let cosines = apart.map(|&(a, b)| {
            let norm = r(norms[a] * norms[b]).max(1e-6);
            r(r(of(a, b)) / norm).clamp(-1.0, 1.0)
        });
        let mean = r(cosines.sum::<f64>() / (pairs.len() - k) as f64);
        let below = r(1.0 + r((k as f64 - 1.0) * mean));
        // Where the estimate is infinite the base is kept.
        if below.abs() < 1e-6 {
            0.0
        } else {
            r(r(k as f64 * mean) / below)
        }
    };
    let ratios: Vec<f64> = products.iter().map(ratio).collect();
    let operands: Vec<Operand> = [base(inputs)]
        .iter()
        .chain(inputs.models)
        .copied()
        .collect();
    each_block(&operands, BLOCK, |start, values| {
        let (base, models) = values.split_at_mut(1);
        for (i, b) in base[0].iter_mut().enumerate() {
            let t = ratios[groups.of(start + i)];
            let sum = models.iter().fold(0.0, |sum, m| r(sum + f64::from(m[i])));
            let mean = r(sum / k as f64);
            *b = r(r(t * mean) + r(r(1.0 - t) * f64::from(*b))) as f32;
        }
        out(&base[0]);
    });
    Ok(())
}

/// The barycentre of the models' directions, taken in the tangent space at their weighted mean, at the weighted mean of their
/// norms. With a base, of their task vectors.
fn multislerp(inputs: &Inputs, p: &Parameters, out: Out) -> Result<(), Error> {
    if let [only] = inputs.models {
        each_block(&[*only], BLOCK, |_, values| out(&values[0]));
        return Ok(());
    }
    let dtype = inputs.dtype;
    let r = |x: f64| dtype.round(x);
    let eps = p.number("eps");
    let mut weights: Vec<f64> = p.each("weight").iter().map(|w| r(*w)).collect();
    if p.switch("normalize_weights") {
        let total = r(weights.iter().sum());
        weights.iter_mut().for_each(|w| *w = r(*w / total));
    }
    let thinned = Thinned::new(inputs, Rule::All, p, false);
    let k = weights.len();
    let mut squares = vec![0.0; k];
    thinned.each(|_, _, v| {
        squares
            .iter_mut()
            .zip(v)
            .for_each(|(s, v)| *s += loops::dot(v, v));
    });
    let norms: Vec<f64> = squares.iter().map(|s| r(s.sqrt())).collect();
    let lengths: Vec<f64> = norms.iter().map(|n| r(n + eps)).collect();
    let unit = |v: &[Vec<f32>], model: usize, i: usize| r(f64::from(v[model][i]) / lengths[model]);
    let centre = |v: &[Vec<f32>], i: usize| r((0..k).map(|m| r(unit(v, m, i) * weights[m])).sum());
    let mut square = 0.0;
    thinned.each(|_, _, v| {
        square += (0..v[0].len()).map(|i| centre(v, i).powi(2)).sum::<f64>();
    });
    let length = r(square.sqrt());
    if length < eps {
        if k > 2 {
            return Err(Error::Undefined {
                tensor: inputs.tensor.to_owned(),
                reason: "the models' weighted directions cancel, so multislerp has no centre; use other weights",
            });
        }
        thinned.each(|_, base, v| {
            let mixed: Vec<f32> = (0..v[0].len())
                .map(|i| {
                    let parts = [0, 1].map(|m| r(f64::from(v[m][i]) * weights[m]));
                    r(parts[0] + parts[1]) as f32
                })
                .collect();
            finish(dtype, mixed, base, out);
        });
        return Ok(());
    }
    let mut dots = vec![0.0; k];
    thinned.each(|_, _, v| {
        for i in 0..v[0].len() {
            let mean = r(centre(v, i) / length);
            for (m, dot) in dots.iter_mut().enumerate() {
                *dot += r(unit(v, m, i) * mean);
            }
        }
    });
    dots.iter_mut().for_each(|d| *d = r(*d));
    // (mean, weighted tangent) of one element.
    let tangent = |v: &[Vec<f32>], i: usize| {
        let mean = r(centre(v, i) / length);
        let parts = (0..k).map(|m| r(r(unit(v, m, i) - r(dots[m] * mean)) * weights[m]));
        (mean, r(parts.sum()))
    };
    let mut square = 0.0;
    thinned.each(|_, _, v| {
        square += (0..v[0].len())
            .map(|i| tangent(v, i).1.powi(2))
            .sum::<f64>();
    });
    let angle = r(r(square.sqrt()) + eps);
    let (along, across) = (r(cosine(angle)), r(r(sine(angle)) / angle));
    let norm = r(norms.iter().zip(&weights).map(|(n, w)| r(n * w)).sum());
    thinned.each(|_, base, v| {
        let merged: Vec<f32> = (0..v[0].len())
            .map(|i| {
                let (mean, tangent) = tangent(v, i);
                r(r(r(mean * along) + r(tangent * across)) * norm) as f32
            })
            .collect();
        finish(dtype, merged, base, out);
    });
    Ok(())
}

/// Adds the base, if there is one, and hands the block on.
fn finish(dtype: Dtype, mut merged: Vec<f32>, base: &[f32], out: Out) {
    if !base.is_empty() {
        loops::add(dtype, &mut merged, base);
    }
    out(&merged);
}

/// The Karcher mean of the models' directions on the sphere, at the mean of their norms. Iterative: it holds the mean,
/// one tensor in fp32.
fn karcher(inputs: &Inputs, p: &Parameters, out: Out) -> Result<(), Error> {
    let dtype = inputs.dtype;
    let r = |x: f64| dtype.round(x);
    let (tol, k) = (p.number("tol"), inputs.models.len());
    let n = same_length("karcher", inputs.models);
    if k == 1 {
        each_block(inputs.models, BLOCK, |_, values| out(&values[0]));
        return Ok(());
    }
    let mut squares = vec![0.0; k];
    each_block(inputs.models, BLOCK, |_, v| {
        squares
            .iter_mut()
            .zip(v.iter())
            .for_each(|(s, v)| *s += loops::dot(v, v));
    });
    let norms: Vec<f64> = squares.iter().map(|s| s.sqrt()).collect();
    let (valid, lengths): (Vec<Operand>, Vec<f64>) = inputs
        .models
        .iter()
        .zip(&norms)
        .filter(|(_, norm)| **norm > tol)
        .map(|(model, norm)| (*model, *norm))
        .unzip();
    let mut mean = vec![0.0f32; n];
    if valid.is_empty() {
        out(&mean);
        return Ok(());
    }
    let alpha = 1.0 / valid.len() as f64;
    let units = |v: &[Vec<f32>], i: usize, m: usize| r(f64::from(v[m][i]) / lengths[m]);
    each_block(&valid, BLOCK, |start, v| {
        for (i, mean) in mean[start..start + v[0].len()].iter_mut().enumerate() {
            *mean = (0..v.len()).fold(0.0, |s, m| r(s + r(alpha * units(v, i, m)))) as f32;
        }
    });
    let length = loops::dot(&mean, &mean).sqrt();
    if length < tol {
        each_block(&valid[..1], BLOCK, |start, v| {
            for (i, mean) in mean[start..start + v[0].len()].iter_mut().enumerate() {
                *mean = units(v, i, 0) as f32;
            }
        });
    } else {
        mean.iter_mut()
            .for_each(|m| *m = r(f64::from(*m) / length) as f32);
    }
    for _ in 0..p.number("max_iter") as usize {
        let mut dots = vec![0.0; valid.len()];
        each_block(&valid, BLOCK, |start, v| {
            for (m, dot) in dots.iter_mut().enumerate() {
                let means = mean[start..].iter().enumerate().take(v[m].len());
                *dot += means
                    .map(|(i, x)| units(v, i, m) * f64::from(*x))
                    .sum::<f64>();
            }
        });
        dots.iter_mut().for_each(|d| *d = r(*d).clamp(-1.0, 1.0));
        let pulls: Vec<f64> = dots
            .iter()
            .map(|dot| match r(arccos(*dot)) {
                angle if angle < tol => 0.0,
                angle => r(alpha * r(angle / r(sine(angle)))),
            })
            .collect();
        let tangent = |v: &[Vec<f32>], i: usize, mean: f64| {
            let active = (0..v.len()).filter(|m| pulls[*m] != 0.0);
            active.fold(0.0, |s, m| {
                r(s + r(pulls[m] * r(units(v, i, m) - r(dots[m] * mean))))
            })
        };
        let mut square = 0.0;
        each_block(&valid, BLOCK, |start, v| {
            let means = mean[start..].iter().enumerate().take(v[0].len());
            square += means
                .map(|(i, x)| tangent(v, i, f64::from(*x)).powi(2))
                .sum::<f64>();
        });
        let angle = square.sqrt();
        if angle < tol {
            break;
        }
        let (along, across) = (r(cosine(angle)), r(sine(angle)));
        each_block(&valid, BLOCK, |start, v| {
            for (i, x) in mean[start..].iter_mut().enumerate().take(v[0].len()) {
                let old = f64::from(*x);
                let moved = r(r(along * old) + r(across * r(tangent(v, i, old) / angle)));
                *x = moved as f32;
            }
        });
        let length = loops::dot(&mean, &mean).sqrt();
        if length > tol {
            mean.iter_mut()
                .for_each(|m| *m = r(f64::from(*m) / length) as f32);
        }
    }
    let norm = r(norms.iter().sum::<f64>() / k as f64);
    for part in mean.chunks_mut(BLOCK) {
        loops::scale(dtype, part, norm);
        out(part);
    }
    Ok(())
}
