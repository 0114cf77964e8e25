//! The `skipstone` command.
fn main() {}
