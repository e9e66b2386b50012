//! The committed objects: built from the committed sources, and fit to be loaded. Needs no toolchain.
use std::fs;

use xtask::{object, tree};

fn objects() -> Vec<(String, Vec<u8>)> {
    let root = tree::root().expect("run by cargo");
    tree::files(&root.join(object::PREBUILT))
        .expect("there is a folder of objects")
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "o"))
        .map(|path| (path.display().to_string(), fs::read(&path).expect("a file")))
        .collect()
}

#[test]
fn are_built_from_the_committed_sources() {
    let root = tree::root().expect("run by cargo");
    let stale = object::stale(&root).expect("record and sources can be read");
    assert!(stale.is_empty(), "run `cargo xtask ebpf`:\n{}", stale.join("\n"));
}

#[test]
fn have_nothing_that_a_kernel_would_refuse() {
    assert!(!objects().is_empty());
    for (path, bytes) in objects() {
        assert_eq!(object::problems(&bytes).expect("an object"), [""; 0], "{path}");
    }
}

#[test]
fn are_already_stripped() {
    for (path, bytes) in objects() {
        let again = object::strip(&bytes).expect("an object");
        assert_eq!(object::first_difference(&bytes, &again).expect("objects"), None, "{path}");
    }
}

#[test]
fn differences_name_the_section() {
    let (_, bytes) = objects().remove(0);
    let license = b"Dual MIT/GPL\0";
    let at = bytes.windows(license.len()).position(|window| window == license);
    let mut other = bytes.clone();
    other[at.expect("a licence")] = b'd';
    let difference = object::first_difference(&bytes, &other).expect("objects");
    let difference = difference.expect("one byte differs");
    assert!(difference.contains("section license") && difference.ends_with("offset 0x0"), "{difference}");
}

#[test]
fn what_is_no_object_is_refused_and_not_misread() {
    assert!(object::problems(b"not an object").is_err());
    assert!(object::strip(&[]).is_err());
    assert!(object::inventory(&fs::read("/proc/self/exe").expect("this program")).is_err());
}
