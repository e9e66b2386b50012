//! `mpsec`: parse, log, run, exit code.
fn main() {}
