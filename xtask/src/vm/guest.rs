//! What the guest runs: the test programs, built so that they need nothing of its own, and the archive that they come in.
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use vm_init::plan::{self, Plan};

use super::newc::Archive;
use crate::{command, run};

/// The test programs that need a kernel, the narrowest first. What other network managers do is the same on every one.
pub const TESTS: &[&str] = &["kernel_twin", "rtnl", "mptcp", "subflows", "force", "pm", "system"];
/// Tests of the program `system` that ask most of a kernel and were seen to pass on every one that has what they need: modules,
/// and one test each of others. The rest takes longer under emulation than a gate has time for.
pub const BRIEF: &[&str] = &[
    "classes::",
    "doctor::",
    "laboratory::a_failing_path_loses_nothing_silent",
    "ipsec::by_hand_tunnel_ipv4",
    "ipsec::strongswan_tunnel_ipv4",
    "ipsec::tcpdump_agrees_tunnel_ipv4",
    "ipsec::by_hand_udp_tunnel_ipv4",
    "ways::tp_btf_reads_why_a_join_is_refused",
    "ways::fentry_reads_every_reason_of_a_reset",
    "ways::kprobe_counts_what_is_sent_again",
    "force::curl_and_a_web_server_speak_mptcp_ipv4",
    "force::a_stop_gives_tcp_back",
];
/// The longest limit that a test has in such a machine, where limits are five times as long: `flood`'s of 300 s.
pub const LONGEST: Duration = Duration::from_secs(5 * 300);
/// The longest of what is asked for in brief: that of `classes`, of 180 s.
pub const LONGEST_IN_BRIEF: Duration = Duration::from_secs(5 * 180);
/// Folders of the source tree that tests read, which the guest has under the same path.
const DATA: &[&str] = &["docs", "grafana", "tests/fuzz/corpus"];
/// A folder for them, apart from the host's own programs, which are linked otherwise.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What is not asked where only these programs (or, if there are none here, all) are asked in brief.
#[must_use]
pub fn left_out_in_brief(asked: &[String]) -> String {
    let others = TESTS.iter().filter(|test| !asked.is_empty() && asked.iter().all(|name| name != *test));
    let others: Vec<_> = others.copied().collect();
    let others = if others.is_empty() { String::new() } else { format!(", and the programs {}", others.join(", ")) };
    format!("in brief: of the program `system` only {}; left out: its other tests{others}", BRIEF.join(", "))
}

/// Programs for the guest.
#[derive(Debug)]
pub struct Programs {
    /// The guest's first program.
    pub init: PathBuf,
    /// The agent.
    pub agent: PathBuf,
    /// By name: the test programs.
    pub tests: Vec<(String, PathBuf)>,
}

/// Builds everything for the guest, linked statically.
pub fn build(root: &Path, folder: &Path) -> Result<Programs> {
    eprintln!("xtask: building the tests for the virtual machine (the first build takes minutes)");
    let mut cargo = cargo_build(root, folder);
    cargo.args(["-p", "vm-init", "-p", "mpsec-agent", "-p", "mpsec-tests", "--bins"]);
    cargo.args(TESTS.iter().flat_map(|test| ["--test", test]));
    let messages = command::stdout(&mut cargo)?;
    let find = |name: &str| run::executable(&messages, name).with_context(|| format!("cargo built no {name}"));
    let tests = TESTS.iter().map(|test| Ok(((*test).to_owned(), find(test)?)));
    Ok(Programs { init: find("vm-init")?, agent: find("mpsec")?, tests: tests.collect::<Result<_>>()? })
}

/// A `cargo build` of programs for a guest, to which is left to say of which; its messages come as JSON.
#[must_use]
pub fn cargo_build(root: &Path, folder: &Path) -> Command {
    let mut cargo = command::cargo(root);
    cargo.args(["build", "--message-format=json-render-diagnostics", "--target", TARGET]);
    cargo.arg("--target-dir").arg(folder.join("build"));
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    // Emulation is slow, and what is not carried into the guest needs no room there.
    for (name, value) in [("DEBUG", "0"), ("STRIP", "debuginfo"), ("OPT_LEVEL", "1")] {
        cargo.env(format!("CARGO_PROFILE_DEV_{name}"), value);
    }
    cargo.stdout(Stdio::piped());
    cargo
}

/// Where the guest has a program of ours.
#[must_use]
pub fn place(name: &str) -> String {
    format!("/mpsec/bin/{name}")
}

/// Writes the first file system: the archives that are kept, and one of what is to be done this time.
pub fn write_initrd(to: &Path, kept: &[&Path], root: &Path, programs: &Programs, plan: &Plan) -> Result<()> {
    let mut file = BufWriter::new(File::create(to).with_context(|| format!("creating {}", to.display()))?);
    for archive in kept {
        let mut from = File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
        std::io::copy(&mut from, &mut file)?;
    }
    let mut archive = Archive::new(file);
    archive.file("init", 0o755, &fs::read(&programs.init)?)?;
    archive.folders_to("sbin/modprobe")?;
    archive.link("sbin/modprobe", "/init")?;
    archive.folders_to("mpsec/bin/x")?;
    archive.file(plan::PATH.trim_start_matches('/'), 0o644, plan.to_string().as_bytes())?;
    let tests = programs.tests.iter().map(|(name, path)| (name.as_str(), path));
    for (name, path) in tests.chain([("mpsec", &programs.agent)]) {
        archive.file(place(name).trim_start_matches('/'), 0o755, &fs::read(path)?)?;
    }
    add_data(&mut archive, root)?;
    archive.close()?;
    Ok(())
}

/// Tests find their data by the path of their own crate, so every crate's folder is there, too.
fn add_data(archive: &mut Archive<impl Write>, root: &Path) -> Result<()> {
    let inside = root.to_string_lossy();
    let inside = inside.trim_start_matches('/');
    archive.folders_to(&format!("{inside}/x"))?;
    for folder in ["mpsec-agent", "tests"] {
        archive.folder(&format!("{inside}/{folder}"))?;
    }
    for folder in DATA {
        archive.folders_to(&format!("{inside}/{folder}/x"))?;
    }
    for file in DATA.iter().map(|folder| crate::tree::files(&root.join(folder))) {
        for path in file? {
            let name = path.to_string_lossy().trim_start_matches('/').to_owned();
            archive.folders_to(&name)?;
            archive.file(&name, 0o644, &fs::read(&path)?)?;
        }
    }
    Ok(())
}
