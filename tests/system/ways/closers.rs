//! Who closed a subflow, as it is told by agents that count its packets: by the socket's callbacks and the probes of each way.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::mptcp_pm::{Endpoint, EndpointFlags, PathManager};
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::paths::{Family, Host, Paths, Plan, address, device};
use mpsec_tests::resets::Resets;
use mpsec_tests::{ss, wait};

use super::ends::unless_never_reset;
use super::{WAYS, for_each_way, need_probes};
use crate::lab::HOSTS;
use crate::mptcp_view::{SHOWN, view};

pub(super) fn trials() -> Vec<Trial> {
    [
        for_each_way(&WAYS, "tells_that_the_path_manager_closed", removed),
        for_each_way(&WAYS, "tells_that_a_subflow_was_destroyed", destroyed),
        for_each_way(&WAYS, "tells_that_the_program_closed", closed),
        for_each_way(&WAYS, "tells_that_the_program_gave_up", given_up),
        for_each_way(&WAYS, "tells_that_somebody_reset", reset_on_the_way),
        for_each_way(&WAYS, "tells_that_an_administrator_closed", killed),
        for_each_way(&WAYS, "tells_that_nothing_was_heard", unheard),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A conversation over two paths, and an agent on each host.
struct Scene {
    paths: Paths,
    agents: [Agent; 2],
    talk: Conversation,
    wire: Resets,
}

impl Scene {
    /// With path 1 joined, by the kernel's path manager if it is told to.
    fn new(way: &str, by_kernel: bool) -> Result<Scene> {
        let paths = Paths::new(Plan::wires(2))?;
        if by_kernel {
            paths.add_endpoints(Family::V4)?;
        } else {
            paths.client.sysctl("net/mptcp/pm_type", "1")?;
        }
        let wire = Resets::watch(&paths.client, &device(Host::Client, 1))?;
        let start = |host| -> Result<Agent> {
            let agent = Options::default().with(&format!("--probes {way}")).start(paths.netns(host))?;
            need_probes(&agent, &["reset_sent", "reset_received"])?;
            Ok(agent)
        };
        let agents = [start(Host::Client)?, start(Host::Server)?];
        let mut talk = Conversation::open(&paths, Family::V4)?;
        if by_kernel {
            talk.joined(2)?;
        }
        talk.exchange(100_000, 100_000)?;
        Ok(Scene { paths, agents, talk, wire })
    }

    /// Waits until the client and the server say of a path's only subflow that it was closed by one of these.
    fn told(&self, path: usize, closers: [&[&str]; 2]) -> Result<()> {
        told(&self.agents, path, closers)
    }
}

fn told(agents: &[Agent; 2], path: usize, closers: [&[&str]; 2]) -> Result<()> {
    wait::until(2 * SHOWN, || {
        for (host, closers) in HOSTS.into_iter().zip(closers) {
            let view = view(&agents[usize::from(host == Host::Server)])?;
            let closed = view.path(&device(host, path), Family::V4)?.closed;
            let one_of_them = |closer: &&str| closed == BTreeMap::from([((*closer).to_owned(), 1)]);
            ensure!(closers.is_empty() || closers.iter().any(one_of_them), "{host:?}: {closed:?}, not {closers:?}");
        }
        Ok(())
    })
}

/// An endpoint is taken away. The peer, which is told so, may be the quicker: on Linux 6.1 it is.
fn removed(way: &str) -> Result<()> {
    let scene = Scene::new(way, true)?;
    scene.paths.remove_endpoint(1, Family::V4)?;
    let either: &[&str] = &["path_manager", "peer"];
    scene.told(1, [either, either])?;
    let by_manager = |host| -> Result<bool> {
        let view = view(&scene.agents[usize::from(host == Host::Server)])?;
        Ok(view.path(&device(host, 1), Family::V4)?.closed.contains_key("path_manager"))
    };
    ensure!(by_manager(Host::Client)? || by_manager(Host::Server)?, "nobody's path manager began");
    Ok(())
}

/// A path manager in user space makes a subflow and ends it.
fn destroyed(way: &str) -> Result<()> {
    let scene = Scene::new(way, false)?;
    let (local, remote) = (address(Host::Client, Family::V4, 1), scene.talk.client.stream.peer_addr()?);
    let near = Endpoint { id: 2, ..Endpoint::new(local, EndpointFlags::default()) };
    let mut manager = scene.paths.client.run(PathManager::open)?;
    manager.create_subflow(scene.talk.token()?, &near, remote)?;
    scene.talk.joined(2)?;
    let sockets = ss::subflows(&scene.paths.client)?;
    let made = sockets.iter().find(|socket| socket.local.ip() == local).context("no such subflow")?;
    manager.destroy_subflow(scene.talk.token()?, made.local, made.remote)?;
    scene.told(1, [&["path_manager"], &["peer"]])
}

/// The client's program is done first, and its peer then.
fn closed(way: &str) -> Result<()> {
    let Scene { agents, talk, .. } = Scene::new(way, true)?;
    talk.close()?;
    told(&agents, 0, [&["application"], &["peer", "application"]])?;
    told(&agents, 1, [&["application"], &["peer", "application"]])
}

/// The server's program gives the connection up.
fn given_up(way: &str) -> Result<()> {
    let Scene { agents, talk, .. } = Scene::new(way, true)?;
    let _kept = talk.reset_by_server()?;
    told(&agents, 0, [&["reset_received", "unspecified"], &["reset_sent"]]).map_err(unless_never_reset)
}

/// Somebody on the way resets the second path.
fn reset_on_the_way(way: &str) -> Result<()> {
    let scene = Scene::new(way, true)?;
    scene.wire.inject(&scene.paths.server, None)?;
    scene.told(1, [&["reset_received"], &[]])
}

/// An administrator ends the client's socket of the second path.
fn killed(way: &str) -> Result<()> {
    let scene = Scene::new(way, true)?;
    let from = address(Host::Client, Family::V4, 1).to_string();
    scene.paths.client.output("ss", &["-K", "src", &from])?;
    scene.told(1, [&["reset_sent"], &["reset_received", "unspecified"]])
}

/// The second path falls silent for longer than TCP waits.
fn unheard(way: &str) -> Result<()> {
    let mut scene = Scene::new(way, true)?;
    scene.paths.client.sysctl("net/ipv4/tcp_retries2", "3")?;
    for host in HOSTS {
        scene.paths.drop_arriving(host, 1, "")?;
    }
    scene.talk.exchange(4_000_000, 0)?;
    scene.told(1, [&["timed_out"], &[]])
}
