//! Rules of this project that no other tool checks: length, place of `unsafe`, left-overs, a doc line first.
use std::{fs, path::Path};

use anyhow::Result;

use crate::tree;

/// Beyond this a file has more than one subject.
const MAX_LINES: usize = 500;
/// A file of tables or of generated code says why it may be longer: the mark, then the reason.
const LONG_MARK: &str = "// tidy: long: ";
/// The only places that may hold `unsafe`.
const UNSAFE_PLACES: &[&str] = &[
    "bench/",
    "mpsec-agent/src/kernel",
    "mpsec-common/src/lib.rs",
    "mpsec-common/src/packet/slice.rs",
    "mpsec-ebpf/",
    "tests/",
    "vm-init/",
    "xtask/",
];
/// What a file may be called to be read as text.
const TEXT: &[&str] = &["rs", "toml", "md", "sh", "yml", "yaml", "json", "service", "html", "js", "css", "run", "txt"];
/// Words that mark work left undone.
const LEFT_OVERS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];
/// Beginnings of paths that exist on one person's machine only.
const MACHINE_PATHS: &[&str] =
    &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];

/// Everything untidy below `root`, as `path:line: what`. Empty is good.
pub fn untidy(root: &Path) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for file in tree::files(root)? {
        let path = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        let extension = path.rsplit(['.', '/']).next().unwrap_or_default();
        if !TEXT.contains(&extension) {
            continue;
        }
        // Bytes that are not text are somebody's test data.
        let Ok(text) = String::from_utf8(fs::read(&file)?) else {
            continue;
        };
        all.extend(untidy_in(&path, &text).into_iter().map(|what| format!("{path}:{what}")));
    }
    Ok(all)
}

/// The rules for one file, by its path from the root of the tree.
fn untidy_in(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for word in LEFT_OVERS.iter().filter(|word| has_word(line, word)) {
            found.push(format!("{number}: {word} left"));
        }
        for path in MACHINE_PATHS.iter().filter(|path| begins_a_path(line, path)) {
            found.push(format!("{number}: path of one machine: {path}"));
        }
    }
    if !path.ends_with(".rs") {
        return found;
    }
    if !text.starts_with("//!") {
        found.push("1: the first line is no `//!` line that says what the file is for".to_owned());
    }
    let lines = text.lines().count();
    if lines > MAX_LINES && !text.lines().any(|line| line.starts_with(LONG_MARK)) {
        found.push(format!("{lines}: longer than {MAX_LINES} lines: split it by subject"));
    }
    if !UNSAFE_PLACES.iter().any(|place| path.starts_with(place)) {
        let lines = (1..).zip(text.lines());
        let unsafe_lines = lines.filter(|(_, line)| has_unsafe(code(line)));
        found.extend(unsafe_lines.map(|(number, _)| format!("{number}: `unsafe` where it does not belong")));
    }
    found
}

/// Whether the keyword is there, in a place where the language has it: in a message it is a word like any other.
fn has_unsafe(code: &str) -> bool {
    let begins = |rest: &str| ["{", "fn ", "impl", "trait ", "extern ", "("].iter().any(|next| rest.starts_with(next));
    code.match_indices("unsafe").any(|(at, word)| {
        let rest = &code[at + word.len()..];
        has_word(&code[at..], word) && begins(rest.trim_start())
    })
}

/// The line without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

/// Whether the word stands alone: neither part of a longer name, such as `unsafe_code`, nor of another word.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_name) && !line[at + word.len()..].starts_with(is_name))
}

/// Whether the line names such a path from the root on: `docs/home/x` and `https://host/work/` are none.
fn begins_a_path(line: &str, path: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || "._-/*}".contains(c);
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tidy_file_passes() {
        let text = "//! What it is for.\n#![deny(unsafe_code)]\n// unsafe would be wrong here\nfn f() {}\n";
        assert_eq!(untidy_in("mpsec-agent/src/control/plan.rs", text), [""; 0]);
    }

    #[test]
    fn unsafe_has_its_places() {
        let text = "//! x\nfn f() {\n    unsafe { g() }\n}\n";
        assert_eq!(untidy_in("mpsec-agent/src/kernel/btf.rs", text), [""; 0]);
        let message = "//! x\nconst X: &str = \"unsafe to remove\";\n";
        assert_eq!(untidy_in("mpsec-agent/src/api/mod.rs", message), [""; 0]);
        let found = untidy_in("mpsec-agent/src/api/mod.rs", text);
        assert_eq!(found, ["3: `unsafe` where it does not belong"]);
    }

    #[test]
    fn long_files_need_a_reason() {
        let long = "//! x\n".to_owned() + &"\n".repeat(MAX_LINES);
        assert_eq!(untidy_in("a.rs", &long).len(), 1);
        let excused = long + LONG_MARK + "a table of counters\n";
        assert_eq!(untidy_in("a.rs", &excused), [""; 0]);
    }

    #[test]
    fn left_overs_and_machine_paths_are_found_in_any_text() {
        let text = format!("a {} b\nsee {}me/x\n", LEFT_OVERS[0], MACHINE_PATHS[0]);
        let found = untidy_in("docs/a.md", &text);
        assert_eq!(found.len(), 2, "{found:?}");
        let harmless = format!("https://example.org{}a\nMY_{}\n", MACHINE_PATHS[0], LEFT_OVERS[0]);
        assert_eq!(untidy_in("docs/a.md", &harmless), [""; 0]);
    }

    #[test]
    fn rust_files_say_what_they_are_for() {
        assert_eq!(untidy_in("a.rs", "fn f() {}\n").len(), 1);
    }
}
