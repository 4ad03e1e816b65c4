//! The `atlas-node` program.

fn main() {}
