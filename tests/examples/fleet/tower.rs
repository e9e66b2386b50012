//! Four hosts on a bridge, and the controller that Ansible and Prometheus run on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use mpsec_tests::netns::Netns;
use mpsec_tests::trial::Skip;
use mpsec_tests::{link, need};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::host::{Host, Parts, cgroups};
use crate::note;

/// The hosts, in the order in which plays go through them.
pub const NAMES: [&str; 4] = ["node1", "node2", "node3", "node4"];
/// The bridge between them.
const BRIDGE: &str = "lan";

/// The controller and its fleet.
pub struct Tower {
    /// The controller's network.
    pub netns: Arc<Netns>,
    /// The fleet.
    pub hosts: Vec<Host>,
    /// The controller's files: inventory, key, list of targets.
    pub home: TempDir,
    packages: PathBuf,
}

/// How a play ended.
#[derive(Debug)]
pub struct Played {
    /// Whether Ansible was content.
    pub success: bool,
    /// All that it said.
    pub text: String,
    /// The counts of its last lines, by host.
    pub recap: BTreeMap<String, BTreeMap<String, u32>>,
}

impl Tower {
    /// Boots everything. What the machine lacks for that is a [`mpsec_tests::trial::Skip`].
    pub fn new() -> Result<Self> {
        need::root()?;
        for program in ["ansible-playbook", "ssh", "ssh-keygen", "ip", "nsenter", "unshare", "setpriv"] {
            need::command(program)?;
        }
        let [system, packages] = ["MPSEC_FLEET_SYSTEM", "MPSEC_FLEET_PACKAGES"].map(|name| {
            let folder = std::env::var_os(name).map(PathBuf::from);
            folder.with_context(|| format!("{name} names no folder: `cargo xtask fleet` starts this"))
        });
        cgroups().map_err(|error| Skip::because(error.to_string()))?;
        let kinds = fs::read_to_string("/proc/filesystems")?;
        if !kinds.lines().any(|line| line.ends_with("\toverlay")) {
            return Err(Skip::because("this kernel has no file system `overlay`"));
        }
        let home = tempfile::Builder::new().prefix("fleet").tempdir()?;
        let key = make_key(home.path())?;
        let netns = Arc::new(Netns::new()?);
        netns
            .ip(&format!("link add {BRIDGE} type bridge"))
            .map_err(|error| Skip::because(format!("this kernel makes no bridge: {}", error.root_cause())))?;
        netns.ip(&format!("link set {BRIDGE} up"))?;
        link::address(&netns, BRIDGE, "192.0.2.1/24")?;
        let mut tower = Self { netns, hosts: Vec::new(), home, packages: packages? };
        let system = system?;
        for (number, name) in (11..).zip(NAMES) {
            tower.add(name, &format!("192.0.2.{number}"), &system, &key)?;
        }
        tower.hosts.iter().try_for_each(Host::wait)?;
        Ok(tower)
    }

    fn add(&mut self, name: &str, address: &str, system: &Path, key: &str) -> Result<()> {
        let inside = Netns::new()?;
        link::veth((&self.netns, name), (&inside, "eth0"))?;
        self.netns.ip(&format!("link set {name} master {BRIDGE} arp on"))?;
        inside.ip("link set eth0 arp on")?;
        link::address(&inside, "eth0", &format!("{address}/24"))?;
        let scratch = self.home.path().join("scratch").join(name);
        fs::create_dir_all(&scratch)?;
        self.hosts.push(Host::start(name, address, inside, &Parts { system, scratch: &scratch, key })?);
        Ok(())
    }

    /// A package by its revision.
    pub fn package(&self, revision: u32) -> Result<PathBuf> {
        let end = format!("-{revision}_amd64.deb");
        let entries = fs::read_dir(&self.packages).with_context(|| self.packages.display().to_string())?;
        let mut files = entries.flatten().map(|entry| entry.path());
        files.find(|file| file.to_string_lossy().ends_with(&end)).with_context(|| format!("no package {end}"))
    }

    /// The list that Prometheus is to read.
    pub fn targets(&self) -> PathBuf {
        self.home.path().join("targets/mpsec-fleet.json")
    }

    /// Runs a play over the fleet, with these variables of the group and of single hosts, and more words.
    pub fn play(&self, name: &str, vars: &Value, own: &[(&str, Value)], words: &[&str]) -> Result<Played> {
        let inventory = self.home.path().join("inventory.json");
        fs::write(&inventory, self.inventory(vars, own)?.to_string())?;
        let mut command = Command::new(need::command("ansible-playbook")?);
        command.arg("--inventory").arg(&inventory).args(words).arg(format!("{name}.yml"));
        command.current_dir(plays()).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C.UTF-8");
        for (variable, folder) in [("HOME", ""), ("ANSIBLE_HOME", "ansible"), ("ANSIBLE_LOCAL_TEMP", "ansible/tmp")] {
            command.env(variable, self.home.path().join(folder));
        }
        command.env("ANSIBLE_SSH_CONTROL_PATH_DIR", self.home.path().join("cp"));
        for (setting, value) in [
            ("PIPELINING", "True"),
            ("HOST_KEY_CHECKING", "False"),
            ("NOCOLOR", "True"),
            ("DEPRECATION_WARNINGS", "False"),
            // A login waits for processor time.
            ("TIMEOUT", "60"),
        ] {
            command.env(format!("ANSIBLE_{setting}"), value);
        }
        let start = std::time::Instant::now();
        // The thread that starts it is in the controller's network.
        let inside = Arc::clone(&self.netns);
        let output = std::thread::scope(|scope| {
            let run = || -> Result<_> {
                inside.enter()?;
                command.current_dir(plays()).output().context("ansible-playbook")
            };
            scope.spawn(run).join().expect("it only starts a program")
        })?;
        let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
        let recap = recap(&text);
        note(format!("{name} {}: {:.0} s", words.join(" "), start.elapsed().as_secs_f64()));
        text.lines().filter(|line| line.contains(" ok=")).for_each(|line| note(format!("    {line}")));
        Ok(Played { success: output.status.success(), text, recap })
    }

    fn inventory(&self, vars: &Value, own: &[(&str, Value)]) -> Result<Value> {
        let mut hosts = Map::new();
        for host in &self.hosts {
            let mut one = json!({ "ansible_host": host.address, "mpsec_labels": { "site": "test" } });
            for (_, more) in own.iter().filter(|(name, _)| *name == host.name) {
                lay_over(&mut one, more)?;
            }
            hosts.insert(host.name.clone(), one);
        }
        let mut all = json!({
            "ansible_user": "root",
            "ansible_ssh_private_key_file": self.home.path().join("key"),
            "ansible_ssh_common_args": "-o UserKnownHostsFile=/dev/null -o ControlPersist=20s",
            "ansible_python_interpreter": "/usr/bin/python3",
            "mpsec_package": self.package(1)?,
            "mpsec_plain_http": true,
            "mpsec_targets_file": self.targets(),
        });
        lay_over(&mut all, vars)?;
        Ok(json!({ "mpsec": { "hosts": hosts, "vars": all } }))
    }
}

impl Played {
    /// The play must have been content, with so many changes on each host of the fleet, or any number.
    pub fn well(&self, changes: Option<u32>) -> Result<()> {
        ensure!(self.success, "the play failed:\n{}", self.text);
        for host in NAMES {
            let changed = self.count(host, "changed")?;
            ensure!(changes.is_none_or(|wanted| wanted == changed), "{host}: {changed} changes:\n{}", self.text);
        }
        Ok(())
    }

    /// A count of the recap.
    pub fn count(&self, host: &str, what: &str) -> Result<u32> {
        let counts = self.recap.get(host).with_context(|| format!("{host} is not in the recap:\n{}", self.text))?;
        counts.get(what).copied().with_context(|| format!("no `{what}` of {host}"))
    }
}

/// The folder with the plays.
pub fn plays() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fleet")
}

/// `node1 : ok=3 changed=0 ...`
fn recap(text: &str) -> BTreeMap<String, BTreeMap<String, u32>> {
    let lines = text.lines().filter_map(|line| line.split_once(" : ")).filter(|(_, counts)| counts.contains("ok="));
    let count =
        |word: &str| word.split_once('=').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
    lines
        .map(|(host, counts)| (host.trim().to_owned(), counts.split_whitespace().filter_map(count).collect()))
        .collect()
}

fn lay_over(base: &mut Value, over: &Value) -> Result<()> {
    let (Some(base), Some(over)) = (base.as_object_mut(), over.as_object()) else { bail!("not a map: {over}") };
    base.extend(over.clone());
    Ok(())
}

/// A key to log in with. Gives the public half.
fn make_key(home: &Path) -> Result<String> {
    let key = home.join("key");
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
    ensure!(command.status().context("ssh-keygen")?.success(), "ssh-keygen made no key");
    Ok(fs::read_to_string(key.with_extension("pub"))?.trim().to_owned())
}
