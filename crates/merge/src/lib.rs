//! Merging models: one flat table of methods, and the files of checkpoints around it.
//!
//! A method (`methods`) is one function over the same tensor of every model, with numbers beside it. It knows nothing of
//! files, layers or search: a genome or a configuration file decodes into rows of the table, so the search over
//! merges and the merging stay apart.
//!
//! Formulas and defaults are mergekit's, with the DARE paper's rescaling beside mergekit's. Sums over models run in the
//! order of the models, per element, in f64, so results do not depend on threads. Random masks are counted: element `i`
//! of a named tensor always draws the same number for a seed. The few transcendental functions are our own
//! (`elementary`), not the platform's, so bits do not move between systems.

pub mod arithmetic;
mod checkpoint;
pub mod config;
pub mod elementary;
mod error;
pub mod interpolate;
mod layout;
mod loops;
mod methods;
mod operand;
mod plan;
mod rounding;
mod select;
mod table;
mod thin;
mod vocabulary;
mod write;
mod yaml;

pub use arithmetic::{Rescale, dare, task_arithmetic, task_vector, ties};
pub use config::Config;
pub use error::Error;
pub use interpolate::{linear, slerp, slerp3};
pub use kernels::random;
pub use operand::{Operand, Row, Rows};
pub use plan::{Options, Part, Plan, Planned};
pub use rounding::Dtype;
pub use table::{
    Base, Inputs, METHODS, Method, Numbers, Parameter, Parameters, Run, Scope, method,
};
pub use write::Target;
