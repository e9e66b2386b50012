//! The packet classifier on arbitrary bytes: what must hold for every frame must hold for these.
#![no_main]

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../../../mpsec-common/tests/classifier/invariants.rs"]
mod invariants;

libfuzzer_sys::fuzz_target!(|input: &[u8]| invariants::check(input));
