//! Agents beside the scenarios: `mpsec run` on a host of the laboratory, with a configuration, a control socket and a state
//! folder of its own, all in that host's `/run`, which goes with it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::topology::{Host, Topology};
use crate::control::client;
use crate::kernel::netns::private::Guarded;
use crate::snapshot::control::Control;

const CONFIG: &str = "/run/mpsec.toml";
const LOG: &str = "/run/mpsec.log";
const SOCKET: &str = "/run/mpsec.sock";
/// How long the start may take: loading programs takes seconds on a busy machine, and half a minute on an emulated one.
const START: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(20);
/// Lines of its log that are told when it does not start.
const TOLD: usize = 3;

/// Why there is no agent: it ended instead of starting, with what it said last.
#[derive(Debug, thiserror::Error)]
#[error("the agent did not start: {0}")]
pub struct Refused(pub String);

// ---------------------------------------------------------------------------------------------------------------------
// What the agents are told beside their socket and folders. This is the place to put in the keys of [mptcp] that a
// scenario is about.

/// The configuration of the agents that help when a path fails, one on each host. The client's makes an endpoint of each path,
/// with which failover is on unless it is said; the server has nothing to join by.
#[must_use]
pub fn failover_config(host: Host) -> String {
    match host {
        Host::Client => "[mptcp]\npath_manager = \"fullmesh\"\nendpoints = [\"west*=ipv4\"]\n".to_owned(),
        Host::Server => "[mptcp]\nfailover = true\n".to_owned(),
    }
}

/// The configuration of the client's agent that makes `subflows` subflows on one pair of addresses.
#[must_use]
pub fn ndiffports_config(subflows: usize) -> String {
    format!("[mptcp]\npath_manager = \"ndiffports\"\nndiffports = {subflows}\n")
}
// ---------------------------------------------------------------------------------------------------------------------

/// A running agent, killed when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Guarded,
}

impl Agent {
    /// Starts an agent on a host and waits until it answers, and what it is told is so on that host. Where that does not come
    /// to be, the scenario shows what is.
    ///
    /// # Errors
    /// [`Refused`] where it ends instead.
    pub fn start(topology: &Topology, host: Host, config: &str) -> Result<Agent> {
        let netns = topology.netns(host);
        let log =
            netns.run(|| fs::write(CONFIG, config).and_then(|()| File::create(LOG))).context("the agent's files")?;
        let mut command = Command::new(env::current_exe()?);
        command.args(["run", "--config", CONFIG, "--control-socket", SOCKET, "--listen", ""]);
        // Whatever the environment says to other agents of this machine is not for this one.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MPSEC_")) {
            command.env_remove(name);
        }
        command.env("MPSEC_STATE_DIR", "/run/mpsec").env("MPSEC_LOG_FORMAT", "text").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut agent = Agent { process: netns.spawn(command).context("start the agent")? };
        let limit = Instant::now() + START;
        loop {
            let (answer, is_late) = (control(topology, host), Instant::now() > limit);
            if answer.as_ref().is_some_and(|control| is_late || control.desired_generation == control.actual_generation)
            {
                return Ok(agent);
            }
            if let Some(status) = agent.process.child.try_wait()? {
                bail!(Refused(format!("{status}: {}", last_words(topology, host))));
            }
            if is_late {
                bail!(Refused(format!("no answer after {} s: {}", START.as_secs(), last_words(topology, host))));
            }
            thread::sleep(GLANCE);
        }
    }

    /// Starts the agents that help when a path fails.
    ///
    /// # Errors
    /// [`Refused`] where one ends instead.
    pub fn both(topology: &Topology) -> Result<[Agent; 2]> {
        let start = |host| Agent::start(topology, host, &failover_config(host));
        Ok([start(Host::Client)?, start(Host::Server)?])
    }
}

/// Of an agent's status what matters here.
#[derive(Debug, Deserialize)]
struct Answer {
    control: Control,
}

/// How what is wanted and what is compare, if the agent answers.
fn control(topology: &Topology, host: Host) -> Option<Control> {
    let ask = || client::ask::<Answer>(Path::new(SOCKET)).map_err(io::Error::other);
    topology.netns(host).run(ask).ok().map(|answer| answer.control)
}

fn last_words(topology: &Topology, host: Host) -> String {
    let log = topology.netns(host).run(|| fs::read_to_string(LOG)).unwrap_or_default();
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TOLD)..].join("; ")
}
