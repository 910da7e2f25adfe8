//! Process tests of the `forge` program: what a person sees, and what a killed run loses (nothing).

#![allow(clippy::unwrap_used)]

mod bad_data;
mod commands;
mod damage;
mod eval;
mod evolving;
mod fetch;
mod interrupt;
mod kill;
mod merging;
mod process;
mod recipe;
mod report;
mod requests;
mod root;
