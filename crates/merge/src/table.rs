//! What a merge method is: a row of [`METHODS`], with the numbers it takes and the function that runs it on one tensor.
//!
//! A method sees the same tensor of every model and of the base, flattened, and writes the merged tensor front to
//! back. Which model is the base, and how a configuration file comes to the numbers, is decided before: a search and a
//! file merge use the same rows. The rows stand in `methods`, each beside its function.

use crate::error::Error;
use crate::operand::Operand;
use crate::rounding::Dtype;

pub use crate::methods::METHODS;

/// What a base model is to a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// There must be one; it is not among the models that are merged.
    Required,
    /// It is used when there is one.
    Optional,
    /// The method knows no base: one that is named is merged as any other model.
    Unknown,
}

/// Whose a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One value for the tensor.
    Tensor,
    /// One value for each merged model.
    Model,
}

/// One number that a method takes; a switch is 0 or 1.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// As written in configurations.
    pub name: &'static str,
    /// Whose it is.
    pub scope: Scope,
    /// Its value where a configuration says nothing; `None` where it must say something.
    pub default: Option<f64>,
    /// Whether it is a switch (`true` or `false`).
    pub switch: bool,
    /// The least and the greatest value.
    pub range: (f64, f64),
}

/// One row of the table.
#[derive(Debug)]
pub struct Method {
    /// As written in configurations.
    pub name: &'static str,
    /// Fewest and most merged models, without the base where the method knows one.
    pub models: (usize, usize),
    /// What a base is to it.
    pub base: Base,
    /// The numbers it takes.
    pub parameters: &'static [Parameter],
    /// Merges one tensor. Panics where [`Method::check`] would have refused.
    pub run: Run,
}

/// Merges one tensor: hands the merged values, in order, to the last argument.
pub type Run = fn(&Inputs, &Parameters, &mut dyn FnMut(&[f32])) -> Result<(), Error>;

/// One tensor of every model of a merge.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The tensor's name: keys the random masks, and is named in errors.
    pub tensor: &'a str,
    /// Its shape; the product is the number of elements of every operand.
    pub shape: &'a [usize],
    /// The type that the merge is done in.
    pub dtype: Dtype,
    /// The base model's tensor.
    pub base: Option<Operand<'a>>,
    /// The merged models' tensors.
    pub models: &'a [Operand<'a>],
}

impl Inputs<'_> {
    /// Elements of a row: the last axis.
    pub(crate) fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1).max(1)
    }
}

/// Numbers by name.
pub type Numbers = Vec<(&'static str, f64)>;

/// The numbers of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    /// Those of the tensor.
    pub tensor: Numbers,
    /// Those of each merged model.
    pub models: Vec<Numbers>,
    /// Seed of the random masks.
    pub seed: u64,
}

impl Parameters {
    /// The defaults of a method for so many models; what has no default is 1 for each.
    pub fn defaults(method: &Method, models: usize) -> Parameters {
        let of = |scope| {
            let all = method.parameters.iter().filter(move |p| p.scope == scope);
            all.map(|p| (p.name, p.default.unwrap_or(1.0))).collect()
        };
        Parameters {
            tensor: of(Scope::Tensor),
            models: vec![of(Scope::Model); models],
            seed: 0,
        }
    }

    /// The same with another number for the tensor, or for all models.
    #[track_caller]
    pub fn with(mut self, name: &str, value: f64) -> Parameters {
        let numbers = self.models.iter_mut().flatten().chain(&mut self.tensor);
        let mut found = false;
        for (_, old) in numbers.filter(|(known, _)| *known == name) {
            *old = value;
            found = true;
        }
        assert!(found, "with: no parameter `{name}`");
        self
    }

    /// The same with a number for each model.
    #[track_caller]
    pub fn with_each(mut self, name: &str, values: &[f64]) -> Parameters {
        assert_eq!(
            values.len(),
            self.models.len(),
            "with_each: one number per model"
        );
        for (numbers, value) in self.models.iter_mut().zip(values) {
            let place = numbers.iter_mut().find(|(known, _)| *known == name);
            place.expect("the method has the parameter").1 = *value;
        }
        self
    }

    /// A number of the tensor.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> f64 {
        named(&self.tensor, name)
    }

    /// A switch of the tensor.
    #[track_caller]
    pub(crate) fn switch(&self, name: &str) -> bool {
        self.number(name) != 0.0
    }

    /// A number of each model.
    #[track_caller]
    pub(crate) fn each(&self, name: &str) -> Vec<f64> {
        self.models
            .iter()
            .map(|numbers| named(numbers, name))
            .collect()
    }
}

#[track_caller]
fn named(numbers: &Numbers, name: &str) -> f64 {
    let found = numbers.iter().find(|(known, _)| *known == name);
    found
        .unwrap_or_else(|| panic!("parameter `{name}` was not resolved"))
        .1
}

/// The method of that name.
pub fn method(name: &str) -> Result<&'static Method, Error> {
    METHODS
        .iter()
        .find(|m| m.name == name)
        .ok_or_else(|| Error::unknown("merge_method", name, METHODS.iter().map(|m| m.name)))
}

impl Method {
    /// Checks the number of models, the base and the ranges of all numbers, before any tensor is touched.
    pub fn check(&self, parameters: &Parameters, base: bool) -> Result<(), Error> {
        self.check_models(parameters.models.len(), base)?;
        let numbers = parameters.models.iter().flatten().chain(&parameters.tensor);
        for &(name, value) in numbers {
            self.check_number(name, value)?;
        }
        Ok(())
    }

    /// Checks the number of merged models and the base.
    pub fn check_models(&self, models: usize, base: bool) -> Result<(), Error> {
        if !(self.models.0..=self.models.1).contains(&models) {
            let allowed = match self.models {
                (a, b) if a == b => format!("{a}"),
                (a, usize::MAX) => format!("{a} or more"),
                (a, b) => format!("{a} to {b}"),
            };
            return Err(Error::Models {
                method: self.name,
                allowed,
                beside: if self.base == Base::Unknown {
                    ""
                } else {
                    " beside the base"
                },
                found: models,
            });
        }
        if self.base == Base::Required && !base {
            return Err(Error::NoBase { method: self.name });
        }
        Ok(())
    }

    /// The parameter of that name.
    pub fn parameter(&self, name: &str) -> Option<&'static Parameter> {
        self.parameters.iter().find(|p| p.name == name)
    }

    /// Checks one number against its range.
    pub fn check_number(&self, name: &str, value: f64) -> Result<(), Error> {
        let Some(parameter) = self.parameter(name) else {
            return Ok(());
        };
        let (least, most) = parameter.range;
        if value.is_finite() && (least..=most).contains(&value) {
            return Ok(());
        }
        let allowed = match (least, most) {
            (f64::MIN, f64::MAX) => "a finite number".to_owned(),
            (least, f64::MAX) => format!("a finite number from {least} on"),
            (least, most) => format!("from {least} to {most}"),
        };
        Err(Error::Value {
            key: name.to_owned(),
            found: value.to_string(),
            allowed,
        })
    }
}
