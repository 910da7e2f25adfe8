//! Tests of the chores: each convention on a bad example, and kill-test on a stand-in for forge.
#![allow(clippy::unwrap_used)]

#[cfg(unix)]
mod kill_test;
mod tidy;
