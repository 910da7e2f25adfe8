//! Behaviour of the data crate, one module a subject.
#![allow(clippy::unwrap_used)]

mod builtin;
