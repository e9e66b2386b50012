//! Every input that the fuzzer kept, through the function that the fuzz target calls; and the seeds that it began with.

use std::fs;
use std::path::Path;

use mpsec_common::packet::Context;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

use crate::frames::{Frame, frame};
use crate::invariants;

#[test]
fn the_corpus_keeps_the_invariants() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/classify");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        println!("{}", file.display());
        invariants::check(&fs::read(&file).unwrap());
    }
}

/// Writes valid frames into the folder that `MPSEC_FUZZ_SEEDS` names.
#[test]
#[ignore = "writes files: tests/fuzz/README.md says when"]
fn write_seeds() {
    let folder = std::env::var("MPSEC_FUZZ_SEEDS").unwrap();
    fs::create_dir_all(&folder).unwrap();
    let mut runner = TestRunner::deterministic();
    for number in 0..600 {
        let frame = frame().new_tree(&mut runner).unwrap().current();
        fs::write(Path::new(&folder).join(format!("seed-{number:03}")), seed(&frame, number)).unwrap();
    }
}

/// One in four without its Ethernet header, one in four as a super-packet.
fn seed(frame: &Frame, number: usize) -> Vec<u8> {
    let l3 = frame.l3_offset as usize;
    let context = Context { gso: number % 4 == 2, ..Context::ETHERNET };
    if number % 4 != 1 {
        return invariants::encode(&context, &frame.bytes);
    }
    let ethertype = u16::from_be_bytes([frame.bytes[l3 - 2], frame.bytes[l3 - 1]]);
    invariants::encode(&Context { ethertype: Some(ethertype), ..context }, &frame.bytes[l3..])
}
