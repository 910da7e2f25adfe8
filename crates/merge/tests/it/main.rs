//! Tests of the merge methods: by hand, against numpy, and for the properties they must keep.
#![allow(clippy::unwrap_used)]

mod bits;
mod by_hand;
mod files;
mod mergekit;
mod reference;
mod table;
