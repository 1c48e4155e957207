//! The proxypair binary.
fn main() {}
