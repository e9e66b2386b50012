//! The source of `core`, which the kernel side is built with: found on this machine, or fetched.
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{command, rustc, tools};

/// The suites of Debian that carry compilers newer than a stable release has.
const SUITES: &[&str] = &["trixie-backports", "forky", "sid"];

/// The folder whose `library` holds `core` of exactly this compiler.
pub fn find_or_fetch(root: &Path, rustc_version: &str) -> Result<PathBuf> {
    let sysroot = command::stdout(rustc::rustc(root).args(["--print", "sysroot"]))?;
    let component = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    let number = rustc::number(rustc_version);
    let fetched = tools::tools_dir(root).join("rust-src").join(number);
    if let Some(named) = env::var_os("MPSEC_RUST_SRC").map(PathBuf::from) {
        ensure!(has_core(&named), "MPSEC_RUST_SRC is {}, which has no library/core", named.display());
        return Ok(named);
    }
    for place in [&component, &fetched] {
        if has_core(place) {
            return Ok(place.clone());
        }
    }
    let rustup = add_component(root).and_then(|()| {
        ensure!(has_core(&component), "rustup added it, and it is not there");
        Ok(component)
    });
    let Err(no_component) = rustup else {
        return rustup;
    };
    match fetch_from_debian(number, &fetched) {
        Ok(()) => Ok(fetched),
        Err(no_package) => bail!(how_to_get_it(number, &no_component, &no_package)),
    }
}

fn has_core(dir: &Path) -> bool {
    dir.join("library/core/src/lib.rs").is_file()
}

fn how_to_get_it(number: &str, rustup: &anyhow::Error, debian: &anyhow::Error) -> String {
    format!(
        "The source of Rust's core library {number} is needed to build the kernel side, and it is not here.\n\
         - `rustup component add rust-src`: {rustup:#}\n\
         - Debian's package rust-src {number}: {debian:#}\n\
         Do either by hand, or set MPSEC_RUST_SRC to a folder that holds `library` of Rust {number}.\n\
         The agent itself builds without it, from mpsec-ebpf/prebuilt."
    )
}

fn add_component(root: &Path) -> Result<()> {
    eprintln!("xtask: the source of core is not here, trying `rustup component add rust-src`");
    let (done, text) = command::quietly(
        Command::new("rustup").args(["component", "add", "rust-src"]).current_dir(root).stdin(Stdio::null()),
    )?;
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    ensure!(done, "{}", last.unwrap_or("failed without a word"));
    Ok(())
}

/// Takes the package from the archive that this Debian already trusts, without a change to its own sources.
fn fetch_from_debian(number: &str, to: &Path) -> Result<()> {
    ensure!(Path::new("/etc/debian_version").exists(), "this is not Debian");
    let archive = archive().context("no Debian archive among this machine's sources")?;
    let scratch = tempfile::tempdir()?;
    for dir in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(scratch.path().join(dir))?;
    }
    for suite in SUITES {
        eprintln!("xtask: looking for Debian's rust-src {number} in {suite}");
        let list = format!("deb {}{} {suite} main\n", archive.options, archive.uri);
        fs::write(scratch.path().join("sources.list"), list)?;
        let updated = command::quietly(apt("apt-get", scratch.path()).arg("update"))?.0;
        let known = command::stdout(apt("apt-cache", scratch.path()).args(["madison", "rust-src"]))?;
        let Some(version) = package_version(&known, number) else {
            continue;
        };
        ensure!(updated, "the lists of {suite} could not be fetched whole");
        let package = format!("rust-src={version}");
        let (done, text) =
            command::quietly(apt("apt-get", scratch.path()).args(["download", &package]).current_dir(scratch.path()))?;
        ensure!(done, "{package} could not be fetched: {text}");
        return unpack(scratch.path(), number, to);
    }
    bail!("none of the suites {} has it", SUITES.join(", "));
}

/// An apt that reads and writes in `scratch` only.
fn apt(program: &str, scratch: &Path) -> Command {
    let mut command = Command::new(program);
    for (option, value) in [
        ("Dir::Etc::sourcelist", "sources.list"),
        ("Dir::Etc::sourceparts", "none"),
        ("Dir::State::lists", "lists"),
        ("Dir::Cache", "cache"),
    ] {
        let value = scratch.join(value);
        command.arg(format!("-o{option}={}", value.display()));
    }
    // The scratch folder is this user's; apt's own user could not read it.
    command.args(["-oAPT::Sandbox::User=root", "-qq"]);
    command.stdin(Stdio::null());
    command
}

/// From `apt-cache madison`: the first package version that carries this version of Rust.
fn package_version<'a>(madison: &'a str, number: &str) -> Option<&'a str> {
    madison
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find(|version| version.split(['+', '-']).next() == Some(number))
}

fn unpack(scratch: &Path, number: &str, to: &Path) -> Result<()> {
    let package = fs::read_dir(scratch)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt fetched no package")?;
    // Whole or not at all: a half of it would look like all of it the next time.
    let part = to.with_added_extension("part");
    fs::create_dir_all(&part)?;
    let mut reader = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let archive = reader.stdout.take().context("dpkg-deb has no output")?;
    command::run(
        Command::new("tar")
            .args(["-x", "--strip-components=4"])
            .arg("-C")
            .arg(&part)
            .arg(format!("./usr/src/rustc-{number}/library"))
            .stdin(archive),
    )?;
    ensure!(reader.wait()?.success(), "dpkg-deb failed");
    ensure!(has_core(&part), "the package has no library/core");
    fs::rename(&part, to).context("moving the source of core to its place")
}

/// A Debian archive: its address, and the options that apt needs to trust it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Archive {
    pub(crate) uri: String,
    pub(crate) options: String,
}

pub(crate) fn archive() -> Option<Archive> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| archive_in_deb822(&text).or_else(|| archive_in_list(&text)))
}

fn archive_in_deb822(text: &str) -> Option<Archive> {
    text.split("\n\n").find_map(|stanza| {
        let field =
            |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let uri = field("URIs")?.split_whitespace().find(|uri| is_main_archive(uri))?;
        let options = field("Signed-By")
            .filter(|keyring| keyring.starts_with('/'))
            .map(|keyring| format!("[signed-by={keyring}] "));
        Some(Archive { uri: uri.to_owned(), options: options.unwrap_or_default() })
    })
}

fn archive_in_list(text: &str) -> Option<Archive> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (format!("[{options}] "), rest),
            None => (String::new(), rest),
        };
        let uri = rest.split_whitespace().next().filter(|uri| is_main_archive(uri))?;
        Some(Archive { uri: uri.to_owned(), options })
    })
}

/// Tells the archive itself from the one of security updates, which has no backports.
fn is_main_archive(uri: &str) -> bool {
    uri.trim_end_matches('/').ends_with("/debian")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_found_in_both_formats() {
        let expected = Archive {
            uri: "http://archive.example/debian".to_owned(),
            options: "[signed-by=/usr/share/keyrings/debian.gpg] ".to_owned(),
        };
        let deb822 = "Types: deb\nURIs: http://archive.example/debian-security\nSuites: a\n\n\
                      Types: deb\nURIs: http://archive.example/debian\nSuites: b\n\
                      Signed-By: /usr/share/keyrings/debian.gpg\n";
        assert_eq!(archive_in_deb822(deb822).as_ref(), Some(&expected));
        let list = "# deb http://archive.example/debian old main\n\
                    deb [signed-by=/usr/share/keyrings/debian.gpg] http://archive.example/debian b main\n";
        assert_eq!(archive_in_list(list).as_ref(), Some(&expected));
        assert_eq!(archive_in_list("deb http://archive.example/ubuntu b main"), None);
    }

    #[test]
    fn only_the_compilers_own_version_will_do() {
        let madison = " rust-src | 1.96.1+dfsg1-2 | http://archive.example/debian b/main\n \
                       rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://archive.example/debian b/main\n";
        assert_eq!(package_version(madison, "1.95.0"), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(package_version(madison, "1.9"), None);
    }
}
