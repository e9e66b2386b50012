//! docs/kernels.md is what the results beside it give.
use std::{fs, path::Path};

use xtask::vm::report;

#[test]
fn the_page_is_what_the_results_give() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let results = report::read(&root).expect("docs/kernels.json is readable");
    let page = fs::read_to_string(root.join("docs/kernels.md")).expect("docs/kernels.md is there");
    assert!(page == report::page(&results), "docs/kernels.md is stale: `cargo xtask vm --report` makes it anew");
}
