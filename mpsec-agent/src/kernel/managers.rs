//! Other programs that manage endpoints, routes or rules in the calling thread's network namespace: which of them run, and what
//! they manage, out of the files that they keep.

mod keyfile;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::process::{self, Process};
use crate::conflicts::{Connection, Manager, Managers, NetworkManager, Networkd};
use keyfile::Keyfile;

/// Where the host has it installed.
const NM_PROGRAMS: &[&str] = &["/usr/sbin/NetworkManager", "/usr/bin/NetworkManager"];
/// Where it reads its configuration, what wins last (NetworkManager.conf(5)).
const NM_CONFIGURATION: &[&str] = &["usr/lib/NetworkManager", "run/NetworkManager", "etc/NetworkManager"];
/// Where networkd reads its own, what wins first (networkd.conf(5)).
const NETWORKD_CONFIGURATION: &[&str] =
    &["etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd", "lib/systemd"];

/// How long a program may take to tell its version, which is some ten milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(2);
/// More bytes than any version has. A pipe holds as many.
const LONGEST: u64 = 4096;

/// Finds them. One whose namespace may not be looked at is taken to be here, and one whose rights may not to have them; what
/// has none and only bears the name is not looked at any closer.
#[must_use]
pub fn look() -> Managers {
    let known = [Manager::NetworkManager, Manager::Mptcpd, Manager::Networkd, Manager::Mpsec];
    let processes = process::find(&known.map(Manager::name));
    let mut managers = Managers::default();
    let may_be = |process: &&Process| process.is_here != Some(false) && process.may_manage != Some(false);
    for process in processes.iter().filter(may_be) {
        match process.name.as_str() {
            "NetworkManager" => managers.network_manager = Some(network_manager(process)),
            "mptcpd" => managers.mptcpd = true,
            "systemd-networkd" => managers.networkd = Some(networkd(&root_of(process))),
            // Nobody is told to end a process that may be another namespace's.
            _ if process.is_here == Some(true) && is_other_agent(process) => managers.agents.push(process.pid),
            _ => {}
        }
    }
    managers
}

/// Other commands of mpsec manage nothing.
fn is_other_agent(process: &Process) -> bool {
    let arguments = fs::read(process.folder().join("cmdline")).unwrap_or_default();
    process.pid != std::process::id() && arguments.split(|byte| *byte == 0).nth(1) == Some(b"run")
}

/// Where a process finds its files. Where that may not be looked at (CAP_SYS_PTRACE), it is taken to be where this one does.
fn root_of(process: &Process) -> PathBuf {
    let root = process.folder().join("root");
    if fs::read_dir(&root).is_ok() { root } else { PathBuf::from("/") }
}

fn network_manager(process: &Process) -> NetworkManager {
    let root = root_of(process);
    NetworkManager {
        version: version(process),
        default_flags: default_flags(&root),
        devices: devices(&root),
        hides_connections: hides_connections(&root),
    }
}

/// Asks the installed program, if that is the one that runs: nothing else that bears the name is run.
fn version(process: &Process) -> Option<(u32, u32)> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let running = identity(&process.folder().join("exe"))?;
    let program = NM_PROGRAMS.iter().find(|program| identity(Path::new(program)) == Some(running))?;
    let mut command = Command::new(program);
    command.arg("--version").env_clear().stdin(Stdio::null()).stderr(Stdio::null());
    parse_version(&output_in_time(command)?)
}

/// What a program says that says little; `None` if it does not end in time, as the agent has nothing else done meanwhile.
fn output_in_time(mut command: Command) -> Option<String> {
    let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
    let limit = Instant::now() + PATIENCE;
    let ended = loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < limit => thread::sleep(GLANCE),
            Ok(status) => break status,
            Err(_) => break None,
        }
    };
    if ended.is_none() {
        // It may have ended just now.
        let _ = child.kill();
        let _ = child.wait();
        return None;
    }
    let mut said = Vec::new();
    child.stdout.take()?.take(LONGEST).read_to_end(&mut said).ok()?;
    Some(String::from_utf8_lossy(&said).into_owned())
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// `connection.mptcp-flags` of all sections for connections that are not for certain devices; the last one counts.
fn default_flags(root: &Path) -> Option<u32> {
    let mut files: BTreeMap<_, PathBuf> = BTreeMap::new();
    for folder in NM_CONFIGURATION {
        files.extend(files_in(&root.join(folder).join("conf.d"), "conf"));
    }
    let main = root.join("etc/NetworkManager/NetworkManager.conf");
    // Files of conf.d are read after the main one, but those of the distribution before it; the name alone decides among them.
    let (own, shipped): (Vec<_>, Vec<_>) = files.into_values().partition(|path| path.starts_with(root.join("etc")));
    let read = shipped.into_iter().chain([main]).chain(own).filter_map(|path| Keyfile::read(&path));
    read.filter_map(|file| file.last("connection", "connection.mptcp-flags", "match-device").and_then(number))
        .next_back()
}

/// Interfaces by index, with their connections: NetworkManager keeps a file for each (nm-config.h: NMCONFIG_DEVICE_STATE_DIR).
fn devices(root: &Path) -> BTreeMap<u32, Option<Connection>> {
    let flags = connection_flags(root);
    let device = |(name, path): (String, PathBuf)| {
        let file = Keyfile::read(&path)?;
        if file.get("device", "managed") != Some("true") {
            return None;
        }
        // It ends up in a command that an administrator is told.
        let is_plain = |uuid: &&str| uuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let uuid = file.get("device", "connection-uuid").filter(is_plain).map(str::to_owned);
        let connection = uuid.map(|uuid| Connection { flags: flags.get(&uuid).copied(), uuid });
        Some((name.parse().ok()?, connection))
    };
    files_in(&root.join("run/NetworkManager/devices"), "").filter_map(device).collect()
}

/// Files of its connections; they are root's alone.
fn connection_files(root: &Path) -> impl Iterator<Item = PathBuf> {
    let folders = NM_CONFIGURATION.iter().map(|folder| root.join(folder).join("system-connections"));
    folders.flat_map(|folder| files_in(&folder, "nmconnection").collect::<Vec<_>>()).map(|(_, path)| path)
}

fn hides_connections(root: &Path) -> bool {
    connection_files(root).any(|path| fs::File::open(path).is_err())
}

/// `connection.mptcp-flags` by UUID, of connections that say it.
fn connection_flags(root: &Path) -> BTreeMap<String, u32> {
    let connection = |path: PathBuf| {
        let file = Keyfile::read(&path)?;
        let flags = file.get("connection", "mptcp-flags").and_then(number)?;
        Some((file.get("connection", "uuid")?.to_owned(), flags))
    };
    connection_files(root).filter_map(connection).collect()
}

/// As GLib reads it: decimal, or hexadecimal behind `0x`.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn networkd(root: &Path) -> Networkd {
    let files = networkd_files(root);
    let on = |key| {
        let mut said = files.iter().filter_map(|file| file.get("Network", key)).filter_map(boolean);
        // Both are on unless something else is said.
        said.next_back().unwrap_or(true)
    };
    Networkd {
        links: links(root),
        removes_rules: on("ManageForeignRoutingPolicyRules"),
        removes_routes: on("ManageForeignRoutes"),
    }
}

/// The first main file that there is, then the files beside it in the order of their names, of which the first folder's count.
fn networkd_files(root: &Path) -> Vec<Keyfile> {
    let mut beside = BTreeMap::new();
    for folder in NETWORKD_CONFIGURATION.iter().rev() {
        beside.extend(files_in(&root.join(folder).join("networkd.conf.d"), "conf"));
    }
    let main = NETWORKD_CONFIGURATION.iter().map(|folder| root.join(folder).join("networkd.conf"));
    main.filter_map(|path| Keyfile::read(&path))
        .take(1)
        .chain(beside.values().filter_map(|path| Keyfile::read(path)))
        .collect()
}

/// Links that it configures or has configured (networkd keeps a file of assignments for each, sd_network_link_get_setup_state).
fn links(root: &Path) -> BTreeSet<u32> {
    let link = |(name, path): (String, PathBuf)| {
        let state = Keyfile::read(&path)?;
        let is_managed = !matches!(state.get("", "ADMIN_STATE")?, "unmanaged" | "pending" | "initialized" | "linger");
        is_managed.then(|| name.parse().ok())?
    };
    files_in(&root.join("run/systemd/netif/links"), "").filter_map(link).collect()
}

/// As systemd reads it (parse_boolean).
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

/// Files of a folder that end so, by name; all for an empty ending.
fn files_in(folder: &Path, ending: &str) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    let dotted = if ending.is_empty() { String::new() } else { format!(".{ending}") };
    named.filter(move |(name, _)| name.ends_with(&dotted))
}

#[cfg(test)]
mod tests;
