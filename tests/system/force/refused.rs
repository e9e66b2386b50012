//! Where the kernel does not ask for a socket's protocol, or takes no program that answers.

use std::process::Command;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use mpsec_tests::trial::trial;

use super::scope::text;
use super::*;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("force::a_kernel_without_it_is_told_with_what_works_instead", LIMIT, told),
        trial("force::what_works_instead_works", LIMIT, instead),
    ]
}

/// What a command of the agent's says, which is an error where it fails.
pub(super) fn command(agent: &Agent, words: &[&str]) -> Result<String> {
    let socket = agent.folder().join("mpsec.sock");
    let output = Command::new(need::mpsec()?).args(words).arg("--control-socket").arg(socket).output()?;
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    if output.status.success() { Ok(said) } else { bail!("{said}") }
}

/// The programs work as ever, and who looks is told why they have no MPTCP.
fn told() -> Result<()> {
    if force::probe().is_ok() {
        return Err(Skip::because("this kernel has it"));
    }
    let hosts = Hosts::unsettled(Plan::wires(1), Forced::Both, "", LEN)?;
    for (host, what) in [(Host::Client, "clients"), (Host::Server, "servers")] {
        let agent = hosts.agent(host);
        wait::until(SHOWN, || {
            let table = text(agent)?;
            let is_told = ["Host: not as it is wanted", "MPTCP for TCP programs", "`mptcpize run PROGRAM`"];
            ensure!(is_told.iter().all(|word| table.contains(word)), "{table}");
            ensure!(agent.scrape()?.sum("mpsec_control_failures", &[])? == 1, "{table}");
            Ok(())
        })?;
        let control = &status(agent)?["control"];
        ensure!(control["forced_sockets"].is_null() && control["waiting"] == serde_json::json!([]), "{control}");
        let reason = control["failures"].to_string();
        let known = ["no update_socket_protocol", "refuses programs that modify a return value"];
        ensure!(known.iter().any(|word| reason.contains(word)), "{reason}");
        let refusal = command(agent, &["apply", "--set", &format!("mptcp.force.{what}=other")]);
        let refusal = refusal.err().with_context(|| "it was taken")?.to_string();
        ensure!(refusal.contains("`mptcpize run PROGRAM`"), "{refusal}");
    }
    let _server = hosts.serve(Some(hosts.servers.path()), Family::V4)?;
    let curl = hosts.held(Some(hosts.clients.path()), Family::V4, 40_001)?;
    ensure!(!is_mptcp(&hosts, 40_001)?, "this kernel has it");
    curl.finish()?;
    ensure!(hosts.handshakes()? == [0; 3], "{:?}", hosts.handshakes()?);
    Ok(())
}

/// The command that the refusal names, with iperf3 for PROGRAM, on any kernel with MPTCP.
fn instead() -> Result<()> {
    for program in ["mptcpize", "iperf3"] {
        need::command(program)?;
    }
    let lab = Lab::new(Plan::wires(1))?;
    let line = ["mptcpize", "run", "iperf3"];
    ensure!(force::INSTEAD.contains("`mptcpize run PROGRAM`"), "{}", force::INSTEAD);
    let server = Program::start(&lab.paths.server, None, &[&line[..], &["-s", "-1"]].concat())?;
    wait::until(SHOWN, || {
        let sockets = lab.paths.server.output("ss", &["-MlnHO"])?;
        ensure!(sockets.contains(":5201 "), "nobody listens: {sockets}");
        Ok(())
    })?;
    let target = address(Host::Server, Family::V4, 0).to_string();
    Program::start(&lab.paths.client, None, &[&line[..], &["-c", &target, "-n", "400K"]].concat())?.finish(PATIENCE)?;
    server.finish(PATIENCE)?;
    let mib = ss::mib(&lab.paths.server)?;
    ensure!(mib.get("MPCapableACKRX") == Some(&2), "{mib:?}");
    Ok(())
}
