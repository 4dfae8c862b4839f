//! The `tfguard` binary.

fn main() {}
