//! docs/kernels.md is what the results beside it give.
use std::{env, fs, path::Path};

use xtask::vm::report;

#[test]
fn the_page_is_what_the_results_give() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let results = report::read(&root).expect("docs/kernels.json is readable");
    let (file, page) = (root.join("docs/kernels.md"), report::page(&results));
    if env::var_os("MPSEC_BLESS").is_some() {
        fs::write(&file, &page).expect("docs/kernels.md can be written");
    }
    let there = fs::read_to_string(file).expect("docs/kernels.md is there");
    assert!(
        there == page,
        "docs/kernels.md is stale: `MPSEC_BLESS=1 cargo test -p xtask --test kernels` makes it anew"
    );
}
