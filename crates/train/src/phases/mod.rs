//! The four phases. They never import each other: they meet through finished models in the run's folder.

pub mod bitnet;
pub mod cognate;
pub mod evomerge;
pub mod quietstar;

/// Name of a branch of Phase 1 by its index.
pub(crate) fn cognate_branch(index: usize) -> &'static str {
    ["reasoning", "memory", "speed"][index]
}
