//! docs/kernels.md, and the readme's table, are what the results in docs/kernels.json give.
use std::{env, fs, path::Path};

use xtask::vm::report;

#[test]
fn the_pages_are_what_the_results_give() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let results = report::read(&root).expect("docs/kernels.json is readable");
    for (name, text) in report::pages(&root, &results).expect("the pages can be made") {
        let file = root.join(name);
        if env::var_os("MPSEC_BLESS").is_some() {
            fs::write(&file, &text).expect("a page can be written");
        }
        let there = fs::read_to_string(file).expect("the page is there");
        assert!(there == text, "{name} is stale: `MPSEC_BLESS=1 cargo test -p xtask --test kernels` makes it anew");
    }
}
