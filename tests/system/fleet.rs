//! The plays in fleet/, as Ansible reads them. What they do is tried by `cargo xtask fleet`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::need;
use mpsec_tests::trial::trial;

/// Four plays, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("fleet::ansible_reads_every_play", LIMIT, reads_every_play)]
}

fn reads_every_play() -> Result<()> {
    let ansible = need::command("ansible-playbook")?;
    let home = tempfile::tempdir()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fleet");
    let mut command = Command::new(ansible);
    command.args(["--syntax-check", "--inventory", "inventory.example.yml"]);
    command.args(["install.yml", "check.yml", "targets.yml", "remove.yml"]).current_dir(folder);
    // Warnings about what it does not understand in an inventory are errors, too.
    command.env("HOME", home.path()).env("LC_ALL", "C.UTF-8").env("ANSIBLE_INVENTORY_UNPARSED_FAILED", "True");
    let output = command.output().context("ansible-playbook")?;
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    ensure!(output.status.success(), "{said}");
    ensure!(said.matches("playbook: ").count() == 4 && !said.contains("WARNING"), "{said}");
    Ok(())
}
