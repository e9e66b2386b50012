//! Both ends, one end, several paths, several programs.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::cgroup::Program;
use mpsec_tests::frames::class;
use mpsec_tests::paths::device;
use mpsec_tests::tally::{self, Tally};
use mpsec_tests::trial::trial;
use mpsec_tests::{need, ss, wait};

use super::*;
use crate::lab::HOSTS;
use crate::mptcp_view::{list, subflows};

const FULLMESH: &str = "[mptcp]\npath_manager = \"fullmesh\"\nendpoints = [\"west*=ipv4\"]\n";

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("force::curl_and_a_web_server_speak_mptcp_ipv4", LIMIT, || both(Family::V4)),
        trial("force::curl_and_a_web_server_speak_mptcp_ipv6", LIMIT, || both(Family::V6)),
        trial("force::curl_alone_falls_back_to_tcp", LIMIT, client_alone),
        trial("force::a_web_server_alone_takes_both", LIMIT, server_alone),
        trial("force::curl_downloads_over_two_paths", LIMIT, two_paths),
        trial("force::iperf3_speaks_mptcp_and_udp_stays_udp", LIMIT, iperf3),
    ]
}

fn both(family: Family) -> Result<()> {
    let hosts = Hosts::new(Plan::wires(1), Forced::Both)?;
    let _server = hosts.serve(Some(hosts.servers.path()), family)?;
    let curl = hosts.held(Some(hosts.clients.path()), family, 40_001)?;
    ensure!(is_mptcp(&hosts, 40_001)?, "both ends are TCP");
    for host in HOSTS {
        let netns = hosts.lab().paths.netns(host);
        let connections = ss::mptcp(netns)?;
        ensure!(connections.iter().any(|socket| socket.state == "ESTAB"), "{host:?}: {connections:?}");
        let role = if host == Host::Client { "client" } else { "server" };
        let token = connected(&hosts, host, 40_001)?.membership()?.context("TCP")?.local_token;
        wait::until(SHOWN, || {
            let view = view(hosts.agent(host))?;
            let said = view.connection(token)?;
            ensure!(said["role"] == role && said["fallback"].is_null(), "{host:?}: {said}");
            Ok(())
        })?;
    }
    curl.finish()?;
    ensure!(hosts.handshakes()? == [1; 3], "handshakes: {:?}", hosts.handshakes()?);
    for host in HOSTS {
        let mib = ss::mib(hosts.lab().paths.netns(host))?;
        let fallbacks: Vec<_> = mib.keys().filter(|name| name.contains("Fallback")).collect();
        ensure!(fallbacks.is_empty(), "{host:?}: {fallbacks:?}");
    }
    hosts.stage.says_what_is_true(family, 1)?;
    let (clients, servers) =
        (counted(hosts.agent(Host::Client), "clients")?, counted(hosts.agent(Host::Server), "servers")?);
    // One for each program: what is accepted is made by the kernel.
    ensure!((clients, servers) == (1, 1), "{clients} sockets of clients, {servers} of servers");
    let bytes = hosts.lab().truth(Host::Client)?.path(0).0.payload;
    ensure!(bytes as usize > LEN, "{bytes} bytes crossed the wire");
    Ok(())
}

/// The peer is a server without MPTCP.
fn client_alone() -> Result<()> {
    let hosts = Hosts::new(Plan::wires(1), Forced::Clients)?;
    let _server = hosts.serve(Some(hosts.servers.path()), Family::V4)?;
    let curl = hosts.held(Some(hosts.clients.path()), Family::V4, 40_001)?;
    ensure!(connected(&hosts, Host::Server, 40_001)?.membership()?.is_none(), "the server speaks MPTCP");
    wait::until(SHOWN, || {
        let view = view(hosts.agent(Host::Client))?;
        let fallen = list(view.get("connections"))?.iter().filter(|one| one["fallback"].is_string()).count();
        ensure!(fallen == 1, "{fallen} connections fell back: {}", view.get("connections"));
        Ok(())
    })?;
    curl.finish()?;
    ensure!(hosts.handshakes()? == [1, 0, 0], "handshakes: {:?}", hosts.handshakes()?);
    let mib = ss::mib(&hosts.lab().paths.client)?;
    ensure!(mib.get("MPCapableFallbackSYNACK") == Some(&1), "{mib:?}");
    ensure!(ss::mib(&hosts.lab().paths.server)?.is_empty(), "the server's kernel knows of MPTCP");
    ensure!(counted(hosts.agent(Host::Client), "clients")? == 1);
    ensure!(status(hosts.agent(Host::Server))?["control"]["forced_sockets"].is_null(), "nothing was asked for there");
    Ok(())
}

/// One that asks for MPTCP gets it, one that does not is spoken to by TCP.
fn server_alone() -> Result<()> {
    let hosts = Hosts::new(Plan::wires(1), Forced::Servers)?;
    let _server = hosts.serve(Some(hosts.servers.path()), Family::V4)?;
    let listening = hosts.lab().paths.server.output("ss", &["-MlnHO"])?;
    ensure!(listening.contains(&format!(":{PORT} ")), "no MPTCP socket listens: {listening:?}");
    let curl = hosts.held(Some(hosts.clients.path()), Family::V4, 40_001)?;
    ensure!(!is_mptcp(&hosts, 40_001)?, "nobody asked for MPTCP");
    curl.finish()?;
    ensure!(hosts.handshakes()? == [0; 3], "handshakes: {:?}", hosts.handshakes()?);
    ensure!(counted(hosts.agent(Host::Server), "servers")? == 1);
    // What `mptcpize run` does to a program by itself.
    let url = format!("http://{}:{PORT}/file", address(Host::Server, Family::V4, 0));
    let to = hosts.folder.path().join("asked").display().to_string();
    need::command("mptcpize")?;
    hosts.lab().paths.client.output("mptcpize", &["run", "curl", "-sS", "--noproxy", "*", "-o", &to, &url])?;
    ensure!(fs::read(&to)? == hosts.content, "other bytes came");
    ensure!(hosts.handshakes()? == [1; 3], "handshakes: {:?}", hosts.handshakes()?);
    Ok(())
}

/// The agent's path manager adds a subflow to the connection of a program that knows nothing of it.
fn two_paths() -> Result<()> {
    let hosts = Hosts::with(Plan::wires(2).bottleneck(2, 60_000), Forced::Both, FULLMESH, 6_000_000)?;
    wait::until(SHOWN, || {
        let endpoints = hosts.lab().paths.client.ip("mptcp endpoint show")?;
        ensure!(endpoints.lines().count() == 2, "{endpoints}");
        Ok(())
    })?;
    let _server = hosts.serve(Some(hosts.servers.path()), Family::V4)?;
    let curl = hosts.curl(Some(hosts.clients.path()), Family::V4, 40_001, false)?;
    for host in HOSTS {
        wait::until(SHOWN, || {
            let sockets = ss::subflows(hosts.lab().paths.netns(host))?;
            ensure!(sockets.iter().filter(|socket| socket.state == "ESTAB").count() == 2, "{host:?}: {sockets:?}");
            Ok(())
        })?;
    }
    let token = connected(&hosts, Host::Client, 40_001)?.membership()?.context("TCP")?.local_token;
    wait::until(SHOWN, || {
        let view = view(hosts.agent(Host::Client))?;
        let carried = subflows(view.connection(token)?)?;
        let rx = |one: &&serde_json::Value| number(&one["rx"]["payload_bytes"]);
        let bytes: Vec<u64> = carried.values().map(rx).collect::<Result<_>>()?;
        ensure!(bytes.len() == 2 && bytes.iter().all(|bytes| *bytes > 10_000), "by subflow: {bytes:?}");
        Ok(())
    })?;
    curl.finish()?;
    let truth = hosts.lab().truth(Host::Client)?;
    let carried = [0, 1].map(|path| truth.path(path).0.payload);
    ensure!(carried.iter().all(|bytes| *bytes as usize > hosts.content.len() / 10), "payload by path: {carried:?}");
    ensure!(truth.paths[1].values().all(|flow| flow.joined), "{truth:?}");
    hosts.stage.says_what_is_true(Family::V4, 2)
}

/// A connection for control and two for data; then data by UDP.
fn iperf3() -> Result<()> {
    need::command("iperf3")?;
    let hosts = Hosts::new(Plan::wires(1), Forced::Both)?;
    let paths = &hosts.lab().paths;
    let tally = Tally::watch(&paths.client, &device(Host::Client, 0))?;
    let target = address(Host::Server, Family::V4, 0).to_string();
    let cases: [(&[&str], [u64; 3]); 2] =
        [(&["-n", "400K", "-P", "2"], [3; 3]), (&["-u", "-b", "2M", "-n", "400K"], [4; 3])];
    for (how, handshakes) in cases {
        let server = Program::start(&paths.server, Some(hosts.servers.path()), &["iperf3", "-s", "-1"])?;
        wait::until(SHOWN, || {
            let sockets = paths.server.output("ss", &["-tlnHO"])?;
            ensure!(sockets.contains(":5201 "), "nobody listens: {sockets}");
            Ok(())
        })?;
        let line = [&["iperf3", "-c", &target][..], how].concat();
        Program::start(&paths.client, Some(hosts.clients.path()), &line)?.finish(PATIENCE)?;
        server.finish(PATIENCE)?;
        ensure!(hosts.handshakes()? == handshakes, "{how:?}: {:?}", hosts.handshakes()?);
    }
    let sent = &tally.sums()?[1];
    let udp = tally::of(sent, class::UDP);
    ensure!(udp.bytes > 400 << 10, "{udp:?} by UDP: {sent:?}");
    Ok(())
}
