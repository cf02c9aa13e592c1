//! bench-runner.
fn main() {}
