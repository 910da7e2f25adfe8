//! Seeded generators of small but real tasks, and the reasoning traces made from them.
