//! The `walrelay` program.

fn main() {}
