//! The flat table: each merge method by name, with what it needs and the function that runs it.
//!
//! `Inputs` is one tensor of every model, `Parameters` the numbers. A method of the table takes
//! whole models and gives a whole tensor (base added back); those that work on task vectors form
//! them here. Parameters are checked once, by `Parameters::check`, before any tensor is touched.

use crate::arithmetic::{Rescale, dare, task_arithmetic, task_vector, ties};
use crate::interpolate::{linear, slerp, slerp3};

/// What a user can get wrong in a merge.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// The method is not in the table.
    #[error("unknown merge method `{name}`; the methods are {allowed}")]
    UnknownMethod {
        /// As written.
        name: String,
        /// The table's names, comma-separated.
        allowed: String,
    },
    /// Too few or too many models.
    #[error("merge method `{method}` takes {allowed} models, found {found}")]
    Models {
        /// The method's name.
        method: &'static str,
        /// The allowed number or range.
        allowed: String,
        /// How many there are.
        found: usize,
    },
    /// A method on task vectors has no base model.
    #[error(
        "merge method `{method}` works on differences from a base model; name one in `base_model`"
    )]
    NoBase {
        /// The method's name.
        method: &'static str,
    },
    /// A parameter is out of its range.
    #[error("parameter `{name}` is {found}; allowed: {allowed}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: &'static str,
    },
}

/// One tensor, flattened, from every model of a merge.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The tensor's name: keys the random masks.
    pub tensor: &'a str,
    /// The base model's tensor, for methods on task vectors.
    pub base: Option<&'a [f32]>,
    /// The models' tensors, n elements each.
    pub models: &'a [&'a [f32]],
}

/// The numbers of all methods in one struct; each method reads those that its formula names.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// Weight per model; empty means 1 for each.
    pub weights: Vec<f64>,
    /// Whether linear and TIES divide by the sum of the weights.
    pub normalize: bool,
    /// SLERP: one value for two models, two for three (nested).
    pub t: Vec<f64>,
    /// TIES: share of elements kept, in (0, 1].
    pub density: f64,
    /// DARE: probability of dropping an element, in [0, 1).
    pub drop: f64,
    /// DARE: how the loss is made up for.
    pub rescale: Rescale,
    /// Factor on the merged task vector.
    pub lambda: f64,
    /// Passthrough: factor on the tensor.
    pub scale: f64,
    /// Seed of the random masks.
    pub seed: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            weights: Vec::new(),
            normalize: true,
            t: vec![0.5],
            density: 0.5,
            drop: 0.1,
            rescale: Rescale::Paper,
            lambda: 1.0,
            scale: 1.0,
            seed: 0,
        }
    }
}

impl Parameters {
    /// Checks the parameters against a method and a number of models, before a merge starts.
    pub fn check(&self, method: &Method, models: usize, base: bool) -> Result<(), Error> {
        if !(method.models.0..=method.models.1).contains(&models) {
            let allowed = match method.models {
                (a, b) if a == b => format!("{a}"),
                (a, usize::MAX) => format!("{a} or more"),
                (a, b) => format!("{a} to {b}"),
            };
            return Err(Error::Models {
                method: method.name,
                allowed,
                found: models,
            });
        }
        if method.base && !base {
            return Err(Error::NoBase {
                method: method.name,
            });
        }
        let bad = |name, found: String, allowed| {
            Err(Error::Parameter {
                name,
                found,
                allowed,
            })
        };
        if !self.weights.is_empty() && self.weights.len() != models {
            return bad(
                "weight",
                format!("{:?}", self.weights),
                "one number per model",
            );
        }
        if self.weights.iter().any(|w| !w.is_finite()) {
            return bad("weight", format!("{:?}", self.weights), "finite numbers");
        }
        if method.name == "slerp"
            && (self.t.len() + 1 != models || self.t.iter().any(|t| !(0.0..=1.0).contains(t)))
        {
            return bad(
                "t",
                format!("{:?}", self.t),
                "numbers from 0 to 1, one fewer than models",
            );
        }
        if !(self.density > 0.0 && self.density <= 1.0) {
            return bad("density", self.density.to_string(), "above 0, at most 1");
        }
        if !(0.0..1.0).contains(&self.drop) {
            return bad("drop", self.drop.to_string(), "from 0 to below 1");
        }
        if !self.lambda.is_finite() {
            return bad("lambda", self.lambda.to_string(), "a finite number");
        }
        if !self.scale.is_finite() {
            return bad("scale", self.scale.to_string(), "a finite number");
        }
        Ok(())
    }

    fn weights_for(&self, models: usize) -> Vec<f64> {
        if self.weights.is_empty() {
            vec![1.0; models]
        } else {
            self.weights.clone()
        }
    }
}

/// One row of the table.
#[derive(Debug)]
pub struct Method {
    /// As written in configurations.
    pub name: &'static str,
    /// Fewest and most models.
    pub models: (usize, usize),
    /// Whether it needs a base model.
    pub base: bool,
    /// Merges one tensor. Panics where `Parameters::check` would have refused.
    pub run: fn(&Inputs, &Parameters) -> Vec<f32>,
}

/// All methods.
pub const METHODS: &[Method] = &[
    Method {
        name: "linear",
        models: (1, usize::MAX),
        base: false,
        run: run_linear,
    },
    Method {
        name: "slerp",
        models: (2, 3),
        base: false,
        run: run_slerp,
    },
    Method {
        name: "task_arithmetic",
        models: (1, usize::MAX),
        base: true,
        run: run_task_arithmetic,
    },
    Method {
        name: "dare",
        models: (1, usize::MAX),
        base: true,
        run: run_dare,
    },
    Method {
        name: "ties",
        models: (1, usize::MAX),
        base: true,
        run: run_ties,
    },
    Method {
        name: "passthrough",
        models: (1, 1),
        base: false,
        run: run_passthrough,
    },
];

/// The method of that name.
pub fn method(name: &str) -> Result<&'static Method, Error> {
    METHODS
        .iter()
        .find(|m| m.name == name)
        .ok_or_else(|| Error::UnknownMethod {
            name: name.to_owned(),
            allowed: METHODS
                .iter()
                .map(|m| m.name)
                .collect::<Vec<_>>()
                .join(", "),
        })
}

fn run_linear(inputs: &Inputs, p: &Parameters) -> Vec<f32> {
    linear(
        inputs.models,
        &p.weights_for(inputs.models.len()),
        p.normalize,
    )
}

fn run_slerp(inputs: &Inputs, p: &Parameters) -> Vec<f32> {
    match *inputs.models {
        [a, b] => slerp(p.t[0], a, b),
        [a, b, c] => slerp3([p.t[0], p.t[1]], [a, b, c]),
        _ => panic!("slerp: 2 or 3 models, not {}", inputs.models.len()),
    }
}

fn run_task_arithmetic(inputs: &Inputs, p: &Parameters) -> Vec<f32> {
    on_task_vectors("task_arithmetic", inputs, |deltas| {
        task_arithmetic(deltas, &p.weights_for(deltas.len()), p.lambda)
    })
}

fn run_dare(inputs: &Inputs, p: &Parameters) -> Vec<f32> {
    on_task_vectors("dare", inputs, |deltas| {
        let dropped: Vec<Vec<f32>> = deltas
            .iter()
            .enumerate()
            .map(|(i, d)| dare(d, p.drop, p.rescale, p.seed, inputs.tensor, i))
            .collect();
        let slices: Vec<&[f32]> = dropped.iter().map(Vec::as_slice).collect();
        task_arithmetic(&slices, &p.weights_for(deltas.len()), p.lambda)
    })
}

fn run_ties(inputs: &Inputs, p: &Parameters) -> Vec<f32> {
    on_task_vectors("ties", inputs, |deltas| {
        ties(
            deltas,
            &p.weights_for(deltas.len()),
            p.density,
            p.lambda,
            p.normalize,
        )
    })
}

fn run_passthrough(inputs: &Inputs, p: &Parameters) -> Vec<f32> {
    inputs.models[0]
        .iter()
        .map(|&x| (p.scale * f64::from(x)) as f32)
        .collect()
}

/// Forms the task vectors, merges them, adds the base.
#[track_caller]
fn on_task_vectors(
    name: &str,
    inputs: &Inputs,
    merge: impl FnOnce(&[&[f32]]) -> Vec<f32>,
) -> Vec<f32> {
    let Some(base) = inputs.base else {
        panic!("{name}: tensor {} has no base", inputs.tensor)
    };
    let deltas: Vec<Vec<f32>> = inputs.models.iter().map(|m| task_vector(m, base)).collect();
    let slices: Vec<&[f32]> = deltas.iter().map(Vec::as_slice).collect();
    merge(&slices)
        .iter()
        .zip(base)
        .map(|(d, b)| b + d)
        .collect()
}
