//! The notices of the crates that the program is made of: their licences ask for no more than to be handed out with it.
use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use super::program::TARGET;
use crate::command;

/// What files with licences and notices are called, in capitals, at their beginning.
const NAMES: &[&str] = &["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// Name, version, licence and the texts of each crate that is linked in, by name.
pub fn collect(root: &Path) -> Result<String> {
    let mut tree = command::cargo(root);
    tree.args(["tree", "--locked", "--package", "mpsec-agent", "--edges", "normal", "--target", TARGET]);
    tree.args(["--prefix", "none", "--format", "{p}"]);
    let linked = names(&command::stdout(&mut tree)?);
    let mut metadata = command::cargo(root);
    metadata.args(["metadata", "--locked", "--format-version=1", "--filter-platform", TARGET]);
    let metadata: Value = serde_json::from_str(&command::stdout(&mut metadata)?).context("cargo's metadata")?;
    let packages = metadata["packages"].as_array().context("cargo's metadata have no packages")?;
    let mut notices = BTreeMap::new();
    for package in packages.iter().filter(|package| !package["source"].is_null()) {
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        let name = format!("{} v{}", field("name"), field("version"));
        if linked.contains(&name) {
            let folder = Path::new(field("manifest_path")).parent().context("a manifest lies in a folder")?;
            notices.insert(format!("{name} ({})", field("license")), texts(folder)?);
        }
    }
    let mut all = String::new();
    for (name, text) in notices {
        writeln!(all, "==== {name}\n\n{text}")?;
    }
    Ok(all)
}

/// From `cargo tree`: name and version of each crate, once.
fn names(tree: &str) -> Vec<String> {
    let mut names: Vec<_> =
        tree.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect();
    names.sort();
    names.dedup();
    names
}

/// What a crate's own files say, the files in the order of their names.
fn texts(folder: &Path) -> Result<String> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    let is_notice = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        path.is_file() && NAMES.iter().any(|start| name.starts_with(start))
    };
    let texts = files
        .iter()
        .filter(|path| is_notice(path))
        .map(|path| Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned()));
    Ok(texts.collect::<Result<Vec<_>>>()?.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crate_is_named_once() {
        let tree = "mpsec-agent v0.1.0 (/tree/mpsec-agent)\nanyhow v1.0.1\nclap v4.6.7\nanyhow v1.0.1 (*)\n\n";
        assert_eq!(names(tree), ["", "anyhow v1.0.1", "clap v4.6.7", "mpsec-agent v0.1.0"]);
    }

    #[test]
    fn licences_and_notices_are_found_by_their_names() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in
            [("LICENSE-MIT", "mit"), ("license.txt", "other"), ("README.md", "no"), ("NOTICE", "notice")]
        {
            fs::write(folder.path().join(name), text).expect("a file");
        }
        assert_eq!(texts(folder.path()).expect("texts"), "mit\nnotice\nother");
    }
}
