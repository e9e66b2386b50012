//! Ties the committed objects to the sources that they were built from, by hash.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::hex;
use crate::tree;

/// Where the committed objects lie, from the root of the tree.
pub const PREBUILT: &str = "mpsec-ebpf/prebuilt";
/// The file that says what they were built from.
pub const RECORD: &str = "SOURCES.sha256";
/// What an object is built from: files, and folders with everything below them.
const INPUTS: &[&str] = &[
    "mpsec-common/Cargo.toml",
    "mpsec-common/src",
    "mpsec-ebpf/Cargo.toml",
    "mpsec-ebpf/Cargo.lock",
    "mpsec-ebpf/src",
];

/// What objects are built from: tools, and a hash for each source file.
#[derive(Debug, PartialEq, Eq)]
pub struct Sources {
    /// `rustc --version`.
    pub rustc: String,
    /// The version of bpf-linker.
    pub bpf_linker: String,
    /// SHA-256 by path.
    pub files: BTreeMap<String, String>,
}

/// The record as it is committed: comments, then lines for `sha256sum --check` at the root of the tree.
impl fmt::Display for Sources {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "# What the objects here were built from; `cargo xtask ebpf` writes this file.")?;
        writeln!(out, "# rustc: {}", self.rustc)?;
        writeln!(out, "# bpf-linker: {}", self.bpf_linker)?;
        for (path, hash) in &self.files {
            writeln!(out, "{hash}  {path}")?;
        }
        Ok(())
    }
}

impl Sources {
    /// Reads a record back.
    pub fn parse(text: &str) -> Result<Self> {
        let comment = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix("# ")?.strip_prefix(name)?.strip_prefix(": "))
                .map(str::to_owned)
                .with_context(|| format!("{RECORD} does not name its {name}"))
        };
        let files = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once("  "))
            .map(|(hash, path)| (path.to_owned(), hash.to_owned()))
            .collect();
        Ok(Self { rustc: comment("rustc")?, bpf_linker: comment("bpf-linker")?, files })
    }
}

/// The hash of each source file below `root`, by its path with `/`.
pub fn hashes(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    for input in INPUTS {
        let input = root.join(input);
        let files = if input.is_dir() { tree::files(&input)? } else { vec![input] };
        for file in files {
            let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            let path = file.strip_prefix(root).context("a source outside the tree")?;
            hashes.insert(path.to_string_lossy().replace('\\', "/"), hash(&bytes));
        }
    }
    Ok(hashes)
}

/// One hash over all source files below `root`.
pub fn source_hash(root: &Path) -> Result<String> {
    let lines: String = hashes(root)?.iter().map(|(path, hash)| format!("{hash}  {path}\n")).collect();
    Ok(hash(lines.as_bytes()))
}

/// Why the committed objects are not those of the sources below `root`. Empty is good. Needs no toolchain.
pub fn stale(root: &Path) -> Result<Vec<String>> {
    let prebuilt = root.join(PREBUILT);
    let record = fs::read_to_string(prebuilt.join(RECORD)).with_context(|| format!("reading {PREBUILT}/{RECORD}"))?;
    let (recorded, now) = (Sources::parse(&record)?.files, hashes(root)?);
    let paths: BTreeSet<_> = recorded.keys().chain(now.keys()).collect();
    let mut stale: Vec<String> = paths
        .into_iter()
        .filter(|path| recorded.get(*path) != now.get(*path))
        .map(|path| format!("{path} is not what the objects were built from"))
        .collect();
    for file in tree::files(&prebuilt)? {
        let sum = file.with_added_extension("sha256");
        if file.extension().is_none_or(|extension| extension != "o") {
            continue;
        }
        let sum = fs::read_to_string(&sum).with_context(|| format!("reading {}", sum.display()))?;
        if sum.split_whitespace().next() != Some(&hex(&Sha256::digest(fs::read(&file)?))) {
            stale.push(format!("{} is not the file that was built", file.display()));
        }
    }
    Ok(stale)
}

/// The same for a checkout with either line ending.
fn hash(bytes: &[u8]) -> String {
    let mut digest = Sha256::new();
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\r\n") {
            Some(line) => {
                digest.update(line);
                digest.update(b"\n");
            }
            None => digest.update(line),
        }
    }
    hex(&digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_endings_do_not_matter_and_everything_else_does() {
        assert_eq!(hash(b"a\nb\n"), hash(b"a\r\nb\r\n"));
        assert_ne!(hash(b"a\nb\n"), hash(b"a\nb"));
        assert_ne!(hash(b"a\rb"), hash(b"ab"));
        // What `sha256sum` says, so that the record can be checked without this program.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash(b"abc"), abc);
    }

    #[test]
    fn a_record_survives_writing_and_reading() {
        let sources = Sources {
            rustc: "rustc 1.95.0 (0123abcd 2026-04-14)".to_owned(),
            bpf_linker: "0.10.4".to_owned(),
            files: [("a/b.rs".to_owned(), hash(b"abc"))].into(),
        };
        let back = Sources::parse(&sources.to_string()).expect("just written");
        assert_eq!(back, sources);
        assert!(Sources::parse("# rustc: 1\n").is_err());
    }

    #[test]
    fn the_hash_follows_names_and_contents() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("has a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        for path in ["mpsec-common/Cargo.toml", "mpsec-ebpf/Cargo.toml", "mpsec-ebpf/Cargo.lock"] {
            write(path, "");
        }
        write("mpsec-common/src/lib.rs", "x");
        write("mpsec-ebpf/src/main.rs", "x");
        let before = source_hash(dir.path()).expect("hashed");
        write("mpsec-ebpf/src/deep/er.rs", "");
        let more = source_hash(dir.path()).expect("hashed");
        write("mpsec-ebpf/src/deep/er.rs", "y");
        let other = source_hash(dir.path()).expect("hashed");
        assert!(before != more && more != other);
        write("mpsec-ebpf/README.md", "not a source");
        assert_eq!(source_hash(dir.path()).expect("hashed"), other);
    }
}
