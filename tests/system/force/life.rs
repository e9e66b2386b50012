//! It ends with the agent, however that ends, and when it is not asked for any more; connections go on.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::netns::Netns;
use mpsec_tests::trial::trial;

use super::*;

/// The agent looks every second, and publishes what it sees as often.
const NOTICED: Duration = Duration::from_secs(4);

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("force::a_stop_gives_tcp_back", LIMIT, || ends(libc::SIGTERM)),
        trial("force::a_kill_gives_tcp_back", LIMIT, || ends(libc::SIGKILL)),
        trial("force::a_server_keeps_its_socket", LIMIT, server),
        trial("force::a_reload_gives_and_takes", LIMIT, reload),
        trial("force::a_release_takes_and_an_apply_gives", LIMIT, release),
        trial("force::a_host_without_mptcp_gets_tcp", LIMIT, switched_off),
    ]
}

/// Our programs that are in the kernel.
fn programs(netns: &Netns) -> Result<usize> {
    Ok(netns.output("bpftool", &["prog", "show"])?.lines().filter(|line| line.contains("mpsec_mptcpify")).count())
}

fn ends(signal: i32) -> Result<()> {
    need::command("bpftool")?;
    let mut hosts = Hosts::new(Plan::wires(1), Forced::Both)?;
    let clients = hosts.clients.path().to_owned();
    let _server = hosts.serve(Some(hosts.servers.path()), Family::V4)?;
    let before = programs(&hosts.lab().paths.client)?;
    ensure!(before >= 2, "{before} programs, with two agents");
    let mut stopped = None;
    for round in 0..2 {
        let port = 40_001 + round * 4;
        ensure!(hosts.fetches_by_mptcp(Some(&clients), port)?, "while the agent is there");
        let live = hosts.held(Some(&clients), Family::V4, port + 1)?;
        ensure!(is_mptcp(&hosts, port + 1)?, "while the agent is there");
        let (program, file) = (live.program, live.file);
        hosts.stage.agents[0].stop(signal)?;
        // The kernel takes a program down some time after its last descriptor is closed.
        wait::until(SHOWN, || {
            let now = programs(&hosts.lab().paths.client)?;
            ensure!(now == before - 1, "{now} programs, {before} before");
            Ok(())
        })?;
        ensure!(!hosts.fetches_by_mptcp(Some(&clients), port + 2)?, "the agent is gone");
        ensure!(is_mptcp(&hosts, port + 1)?, "a connection that was there did not stay what it was");
        Download { program, file, content: &hosts.content }.finish()?;
        let config = listing("clients", &hosts.clients.name());
        let agent = Options { config, ..Options::default() }.start(&hosts.lab().paths.client)?;
        settled(&agent)?;
        stopped.replace(std::mem::replace(&mut hosts.stage.agents[0], agent));
    }
    Ok(())
}

/// What listens goes on as it is; what is started after is TCP.
fn server() -> Result<()> {
    let mut hosts = Hosts::new(Plan::wires(1), Forced::Both)?;
    let (clients, servers) = (hosts.clients.path().to_owned(), hosts.servers.path().to_owned());
    // One that was there before is not changed by anything.
    let early = hosts.serve(None, Family::V4)?;
    ensure!(curl_by_mptcp_to_tcp(&hosts, &clients, 40_001)?, "a server outside");
    drop(early);
    let server = hosts.serve(Some(&servers), Family::V4)?;
    hosts.stage.agents[1].stop(libc::SIGTERM)?;
    ensure!(hosts.fetches_by_mptcp(Some(&clients), 40_002)?, "the server's socket changed");
    drop(server);
    let _server = hosts.serve(Some(&servers), Family::V4)?;
    ensure!(curl_by_mptcp_to_tcp(&hosts, &clients, 40_003)?, "a server that was started after");
    Ok(())
}

/// Whether a client asks for MPTCP, and the server answers by TCP.
fn curl_by_mptcp_to_tcp(hosts: &Hosts, clients: &Path, port: u16) -> Result<bool> {
    let before = hosts.handshakes()?;
    hosts.curl(Some(clients), Family::V4, port, false)?.finish()?;
    let now = hosts.handshakes()?;
    Ok([0, 1, 2].map(|at| now[at] - before[at]) == [1, 0, 0])
}

fn reload() -> Result<()> {
    let hosts = Hosts::new(Plan::wires(1), Forced::Both)?;
    let clients = hosts.clients.path();
    let others = Group::make("others")?;
    let _server = hosts.serve(Some(hosts.servers.path()), Family::V4)?;
    let live = hosts.held(Some(clients), Family::V4, 40_001)?;
    ensure!(is_mptcp(&hosts, 40_001)?, "before");
    let agent = hosts.agent(Host::Client);
    configure(agent, "")?;
    ensure!(!hosts.fetches_by_mptcp(Some(clients), 40_002)?, "nothing is asked for");
    ensure!(is_mptcp(&hosts, 40_001)?, "a connection that was there did not stay what it was");
    live.finish()?;
    ensure!(counted(agent, "clients")? == 1, "what was counted is forgotten");
    configure(agent, &listing("clients", &others.name()))?;
    ensure!(hosts.fetches_by_mptcp(Some(others.path()), 40_003)?, "another control group is asked for");
    ensure!(!hosts.fetches_by_mptcp(Some(clients), 40_004)?, "another control group is asked for");
    // In both lists.
    let name = hosts.clients.name();
    configure(agent, &format!("{}servers = [\"{}\"]\n", listing("clients", &name), name.display()))?;
    ensure!(hosts.fetches_by_mptcp(Some(clients), 40_005)?, "it is asked for again");
    let counts = (counted(agent, "clients")?, counted(agent, "servers")?, counted(agent, "both")?);
    ensure!(counts == (2, 0, 1), "{counts:?}");
    Ok(())
}

/// Reads another file.
fn configure(agent: &Agent, config: &str) -> Result<()> {
    let generation = || -> Result<u64> { number(&status(agent)?["control"]["desired_generation"]) };
    let before = generation()?;
    fs::write(agent.folder().join("mpsec.toml"), config)?;
    agent.signal(libc::SIGHUP)?;
    wait::until(SHOWN, || {
        ensure!(generation()? > before, "the file was not read: {}", agent.stderr());
        Ok(())
    })?;
    settled(agent)
}

fn release() -> Result<()> {
    let hosts = Hosts::new(Plan::wires(1), Forced::Both)?;
    let clients = hosts.clients.path();
    let _server = hosts.serve(Some(hosts.servers.path()), Family::V4)?;
    let agent = hosts.agent(Host::Client);
    ensure!(hosts.fetches_by_mptcp(Some(clients), 40_001)?, "before");
    refused::command(agent, &["release"])?;
    ensure!(!hosts.fetches_by_mptcp(Some(clients), 40_002)?, "it is given back");
    refused::command(agent, &["apply"])?;
    ensure!(hosts.fetches_by_mptcp(Some(clients), 40_003)?, "it is asked for again");
    let said = refused::command(agent, &["apply", "--set", "mptcp.force.clients=other"])?;
    ensure!(said.contains("MPTCP for TCP programs") && said.contains("control group other: it is not there"), "{said}");
    ensure!(!hosts.fetches_by_mptcp(Some(clients), 40_004)?, "another one is listed");
    Ok(())
}

/// Where MPTCP is switched off a listed program would get no socket at all.
fn switched_off() -> Result<()> {
    let hosts = Hosts::new(Plan::wires(1), Forced::Both)?;
    let clients = hosts.clients.path();
    let (agent, netns) = (hosts.agent(Host::Client), &hosts.lab().paths.client);
    let _server = hosts.serve(Some(hosts.servers.path()), Family::V4)?;
    let paused = || Ok::<_, anyhow::Error>(status(agent)?.to_string().contains("MPTCP for TCP programs pauses"));
    for round in 0..2 {
        let port = 40_001 + round * 2;
        ensure!(hosts.fetches_by_mptcp(Some(clients), port)?, "MPTCP is on");
        netns.sysctl("net/mptcp/enabled", "0")?;
        wait::until(NOTICED, || {
            ensure!(paused()?, "it is not told");
            Ok(())
        })?;
        ensure!(!hosts.fetches_by_mptcp(Some(clients), port + 1)?, "MPTCP is off");
        netns.sysctl("net/mptcp/enabled", "1")?;
        wait::until(NOTICED, || {
            ensure!(!paused()?, "it is told for ever");
            Ok(())
        })?;
    }
    Ok(())
}
