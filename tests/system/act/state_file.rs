//! The state file: what it is good for after a crash, what is given back although it cannot be written, and what an old one
//! does not make MPSec's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mpsec_tests::agent::Agent;
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::{Paths, Plan};
use mpsec_tests::{need, wait};
use serde_json::{Value, json};

use super::{BY_ITSELF, FULLMESH, SOON, endpoints, mpsec, start_with_state, state, until_endpoints};

pub(super) fn crash() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let before = state(&paths.client)?;
    let folder = tempfile::tempdir()?;
    let config = format!("{FULLMESH}reordering = 9\nsysctls = [\"stale_loss_cnt=2\"]\n");
    let mut agent = start_with_state(&paths.client, &config, folder.path())?;
    let wanted = ["10.0.0.1 subflow fullmesh dev west0", "10.0.1.1 subflow fullmesh dev west1"];
    until_endpoints(&agent, &paths.client, SOON, &wanted)?;
    agent.stop(libc::SIGKILL)?;
    until_endpoints(&agent, &paths.client, SOON, &wanted).context("a crash took them away")?;
    let agent = start_with_state(&paths.client, "", folder.path())?;
    wait::until(SOON, || {
        let now = state(&paths.client)?;
        ensure!(now == before, "not given back:\n{now}\ninstead of\n{before}\n{}", agent.stderr());
        Ok(())
    })
}

pub(super) fn cut_short() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let folder = tempfile::tempdir()?;
    let mut agent = start_with_state(&paths.client, FULLMESH, folder.path())?;
    until_endpoints(
        &agent,
        &paths.client,
        SOON,
        &["10.0.0.1 subflow fullmesh dev west0", "10.0.1.1 subflow fullmesh dev west1"],
    )?;
    agent.stop(libc::SIGTERM)?;
    // As if it had been killed behind the first endpoint: what was begun is written down, what is ours is not.
    let file = folder.path().join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let made = state["owned"]["endpoints"].take();
    let begun = made.as_array().context("endpoints")?.iter().map(|endpoint| {
        let mut change = endpoint.clone();
        change["change"] = "add_endpoint".into();
        change
    });
    state["begun"] = begun.collect();
    state["owned"]["endpoints"] = Value::Array(Vec::new());
    fs::write(&file, state.to_string())?;
    paths.client.ip("mptcp endpoint delete id 2")?;
    let agent = start_with_state(&paths.client, "", folder.path())?;
    until_endpoints(&agent, &paths.client, SOON, &[])?;
    ensure!(agent.stderr().contains("changes were begun and not ended"), "{}", agent.stderr());
    Ok(())
}

/// The state in a folder.
struct StateFile {
    folder: tempfile::TempDir,
}

impl StateFile {
    fn new() -> Result<StateFile> {
        Ok(StateFile { folder: tempfile::tempdir()? })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state.json")
    }

    fn read(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.path())?)?)
    }

    /// Takes away the place where the next version of it is written, as root may write everywhere else.
    fn block(&self) -> Result<()> {
        Ok(fs::create_dir(self.folder.path().join("state.json.new"))?)
    }

    fn unblock(&self) -> Result<()> {
        Ok(fs::remove_dir(self.folder.path().join("state.json.new"))?)
    }

    /// Waits until it is as wanted, and nothing is begun and not ended.
    fn until(&self, agent: &Agent, is_wanted: impl Fn(&Value) -> bool) -> Result<()> {
        wait::until(BY_ITSELF, || {
            let now = self.read()?;
            ensure!(now["begun"].is_null() && is_wanted(&now), "{now:#}; {}", agent.stderr());
            Ok(())
        })
    }
}

pub(super) fn stopped_without_room() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(1))?;
    let setting = "/proc/sys/net/mptcp/path_manager";
    paths.client.run(|| need::file(setting))?;
    let manager = || -> Result<String> { Ok(paths.client.read(setting)?.trim().to_owned()) };
    let file = StateFile::new()?;
    let config = "[mptcp]\npath_manager = \"ndiffports\"\n";
    let mut agent = start_with_state(&paths.client, config, file.folder.path())?;
    file.until(&agent, |now| now["owned"]["sysctls"]["net.mptcp.path_manager"].is_object())?;
    ensure!(manager()? == "userspace", "{}", manager()?);
    file.block()?;
    agent.stop(libc::SIGTERM)?;
    ensure!(manager()? == "kernel", "sockets are left to nobody: {}; {}", manager()?, agent.stderr());
    ensure!(agent.stderr().contains("it cannot be kept what was changed"), "it is not told: {}", agent.stderr());
    // The next one reads what is not so any more, and leaves everything alone.
    file.unblock()?;
    let agent = start_with_state(&paths.client, "", file.folder.path())?;
    file.until(&agent, |now| now["owned"]["sysctls"].as_object().is_some_and(serde_json::Map::is_empty))?;
    ensure!(manager()? == "kernel", "{}", manager()?);
    Ok(())
}

pub(super) fn released_without_room() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let before = state(&paths.client)?;
    let file = StateFile::new()?;
    let agent = start_with_state(&paths.client, FULLMESH, file.folder.path())?;
    let is_owned = |now: &Value, count| now["owned"]["endpoints"].as_array().is_some_and(|all| all.len() == count);
    file.until(&agent, |now| is_owned(now, 2))?;
    file.block()?;
    let (code, text) = mpsec(&agent, &["apply", "--set", "mptcp.reordering=9"])?;
    ensure!(code == 1 && text.contains("nothing is changed, as it cannot be kept what"), "{code}: {text}");
    let (code, text) = mpsec(&agent, &["release"])?;
    ensure!(code == 1 && text.contains("it cannot be kept"), "{code}: {text}");
    let now = state(&paths.client)?;
    ensure!(now == before, "not given back:\n{now}\ninstead of\n{before}\n{text}");
    // It is written as soon as it can be, and holds.
    file.unblock()?;
    file.until(&agent, |now| is_owned(now, 0) && now["released"] == true)?;
    agent.signal(libc::SIGHUP)?;
    wait::throughout(Duration::from_secs(2), || {
        ensure!(endpoints(&paths.client)?.is_empty(), "{:?}", endpoints(&paths.client)?);
        Ok(())
    })
}

/// A command without an agent, with the state in `folder`: its exit code, and what it prints.
fn alone(netns: &Netns, folder: &Path, words: &[&str]) -> Result<(i32, String)> {
    let mut command = Command::new(need::mpsec()?);
    command.args(words).arg("--control-socket").arg(folder.join("socket"));
    command.arg("--state-dir").arg(folder.join("state"));
    let output = netns.run(|| command.output())?;
    let text = String::from_utf8([output.stdout, output.stderr].concat())?;
    Ok((output.status.code().context("a signal ended it")?, text))
}

fn reordering(netns: &Netns) -> Result<String> {
    Ok(netns.read("/proc/sys/net/ipv4/tcp_reordering")?.trim().to_owned())
}

pub(super) fn read_only() -> Result<()> {
    need::mpsec()?;
    need::command("mount")?;
    let paths = Paths::new(Plan::wires(1))?;
    let client = &paths.client;
    let folder = tempfile::tempdir()?;
    let place = folder.path().display().to_string();
    let before = reordering(client)?;
    // The namespace has mounts of its own.
    client.output("mount", &["-t", "tmpfs", "tmpfs", &place])?;
    let (code, text) = alone(client, folder.path(), &["apply", "--set", "mptcp.reordering=9"])?;
    ensure!(code == 0 && reordering(client)? == "9", "{code}: {text}");
    client.output("mount", &["-o", "remount,ro", &place])?;
    let (code, text) = alone(client, folder.path(), &["apply", "--set", "mptcp.reordering=8"])?;
    ensure!(code == 1 && text.contains("Read-only") && reordering(client)? == "9", "{code}: {text}");
    let (code, text) = alone(client, folder.path(), &["release"])?;
    ensure!(code == 1 && text.contains("Read-only"), "{code}: {text}");
    ensure!(reordering(client)? == before, "not given back: {}; {text}", reordering(client)?);
    Ok(())
}

pub(super) fn somebody_elses() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(1))?;
    let client = &paths.client;
    let folder = tempfile::tempdir()?;
    let says = |words: &[&str]| -> Result<()> {
        let (code, text) = alone(client, folder.path(), words)?;
        ensure!(code == 0, "{words:?}: {code}: {text}");
        Ok(())
    };
    says(&["apply", "--set", "mptcp.reordering=9"])?;
    says(&["apply", "--unset", "mptcp.reordering"])?;
    // As if it had been killed before it made an endpoint, or after it took that back.
    let file = folder.path().join("state/state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let index = client.ifindex("west0")?;
    state["begun"] = json!([{"change": "add_endpoint", "id": 0, "address": "10.0.0.1", "port": null, "flags": ["subflow"],
                             "interface": index}]);
    fs::write(&file, state.to_string())?;
    says(&["apply"])?;
    client.ip("mptcp endpoint add 10.0.0.1 subflow dev west0")?;
    says(&["apply"])?;
    says(&["release"])?;
    ensure!(endpoints(client)? == ["10.0.0.1 subflow dev west0"], "somebody else's: {:?}", endpoints(client)?);
    Ok(())
}

/// Endpoints that somebody else made, and that failover had taken away: neither the next agent nor a release without one leaves
/// them away.
pub(super) fn killed_while_away() -> Result<()> {
    need::mpsec()?;
    let program = need::mpsec()?.display().to_string();
    let paths = Paths::new(Plan::wires(2))?;
    let client = &paths.client;
    for path in 0..2 {
        client.ip(&format!("mptcp endpoint add 10.0.{path}.1 subflow dev west{path}"))?;
    }
    let whole = endpoints(client)?;
    for is_released in [false, true] {
        let folder = tempfile::tempdir()?;
        let notes = || -> Result<usize> {
            let names =
                fs::read_dir(folder.path())?.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
            Ok(names.collect::<Result<Vec<_>>>()?.iter().filter(|name| name.starts_with("away-")).count())
        };
        let mut agent = start_with_state(client, "[mptcp]\nfailover = \"on\"\n", folder.path())?;
        client.ip("link set dev west1 down")?;
        until_endpoints(&agent, client, BY_ITSELF, &["10.0.0.1 subflow dev west0"])?;
        ensure!(notes()? == 1, "it is not written down what is away");
        agent.stop(libc::SIGKILL)?;
        client.ip("link set dev west1 up")?;
        ensure!(endpoints(client)? != whole, "it came back by itself: this shows nothing");
        if is_released {
            let (socket, state) = (folder.path().join("socket"), folder.path().display().to_string());
            let socket = socket.display().to_string();
            client.output(&program, &["release", "--control-socket", &socket, "--state-dir", &state])?;
        } else {
            agent = start_with_state(client, "", folder.path())?;
        }
        until_endpoints(&agent, client, SOON, &whole.iter().map(String::as_str).collect::<Vec<_>>())?;
        ensure!(notes()? == 0, "it is still taken for away");
    }
    Ok(())
}
