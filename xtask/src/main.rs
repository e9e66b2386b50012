//! `cargo xtask`: MPSec's build, test and measurement commands.
fn main() {}
