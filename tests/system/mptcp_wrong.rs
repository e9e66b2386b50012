//! What goes wrong with MPTCP, told with its cause.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::mptcp::{Conversation, Protocol, connect, listen};
use mpsec_tests::need;
use mpsec_tests::paths::{Family, Host, Plan, address};
use mpsec_tests::trial::trial;
use mpsec_tests::wait;

use crate::mptcp_view::{SHOWN, Stage, view};

const LIMIT: Duration = Duration::from_secs(90);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mptcp_wrong::a_refused_join_is_named", LIMIT, join),
        trial("mptcp_wrong::a_blackhole_is_in_force_until_it_is_repaired", LIMIT, blackhole),
        trial("mptcp_wrong::a_path_that_nothing_comes_back_from_is_silent", LIMIT, silent),
    ]
}

/// The server takes no second subflow; the client's endpoint asks for one.
fn join() -> Result<()> {
    need::mptcp_counter("MPJoinRejected")?;
    let stage = Stage::new(Plan::wires(2))?;
    let paths = &stage.lab.paths;
    paths.server.ip("mptcp limits set subflows 0")?;
    paths.add_endpoint(1, Family::V4, "")?;
    // The second look is what the first is compared with.
    view(stage.agent(Host::Server))?;
    let mut talk = Conversation::open(paths, Family::V4)?;
    talk.exchange(100_000, 100_000)?;
    let agent = stage.agent(Host::Server);
    wait::until(SHOWN, || {
        let view = view(agent)?;
        ensure!(view.findings("join_refused")? == 1, "{:#}", view.get("findings"));
        let metrics = agent.scrape()?;
        let refused = metrics.sum("mpsec_mptcp_join_failures_total", &[("cause", "rejected")])?;
        ensure!(refused > 0, "refused {refused}");
        Ok(())
    })?;
    talk.close()
}

/// SYNs with MPTCP are swallowed: the connection becomes plain TCP, later ones do not even ask; the repair lets them.
fn blackhole() -> Result<()> {
    need::file("/proc/sys/net/mptcp/blackhole_timeout")?;
    let stage = Stage::new(Plan::wires(1))?;
    let (paths, agent) = (&stage.lab.paths, stage.agent(Host::Client));
    let in_force = || agent.scrape()?.sum("mpsec_mptcp_blackhole", &[]);
    let (listener, port) = listen(&paths.server, Family::V4, Protocol::Mptcp)?;
    let to = (address(Host::Server, Family::V4, 0), port).into();
    let mut kept = Vec::new();
    let mut talk = || -> Result<()> {
        kept.push(paths.client.run(|| connect(address(Host::Client, Family::V4, 0), to, Protocol::Mptcp))?);
        kept.push(listener.accept()?.0);
        Ok(())
    };
    talk()?;
    wait::until(SHOWN, || {
        ensure!(in_force()? == 0, "in force before anything happened");
        Ok(())
    })?;
    paths.drop_arriving(Host::Server, 0, "tcp option mptcp exists tcp flags syn")?;
    talk()?;
    talk()?;
    wait::until(SHOWN, || {
        let view = view(agent)?;
        ensure!(in_force()? == 1 && view.findings("blackhole")? == 1, "{:#}", view.get("findings"));
        let fallen = agent.scrape()?.sum("mpsec_mptcp_fallbacks_total", &[])?;
        ensure!(fallen > 0 && view.findings("fallback")? > 0, "{:#}", view.get("findings"));
        Ok(())
    })?;
    talk()?;
    // The first one asked and got no answer; the others did not ask, and none of them has a token.
    wait::until(SHOWN, || {
        let fallen = agent.scrape()?.sum("mpsec_mptcp_connections", &[("fallback", "yes")])?;
        let opened = agent.scrape()?.sum("mpsec_mptcp_connections_opened_total", &[])?;
        ensure!(fallen == 3 && opened == 4, "{fallen} fallen back, {opened} opened");
        let told = view(agent)?.get("findings").to_string();
        ensure!(told.contains("did not ask for it") && told.contains("so that it was tried without"), "{told}");
        Ok(())
    })?;
    paths.let_through(Host::Server, 0)?;
    talk()?;
    ensure!(in_force()? == 1, "the kernel tries again on its own?");
    // What the finding says.
    paths.client.sysctl("net/mptcp/blackhole_timeout", "3600")?;
    talk()?;
    wait::until(SHOWN, || {
        let view = view(agent)?;
        ensure!(in_force()? == 0 && view.findings("blackhole")? == 0, "{:#}", view.get("findings"));
        Ok(())
    })
}

/// What the client sends by its second path does not arrive, while the server goes on sending by it.
fn silent() -> Result<()> {
    let stage = Stage::new(Plan::wires(2))?;
    let (paths, agent) = (&stage.lab.paths, stage.agent(Host::Client));
    paths.add_endpoints(Family::V4)?;
    let mut talk = Conversation::open(paths, Family::V4)?;
    talk.joined(2)?;
    talk.exchange(500_000, 500_000)?;
    let silent = |device: &str| agent.scrape()?.sum("mpsec_path_silent", &[("interface", device)]);
    ensure!(silent("west0")? == 0 && silent("west1")? == 0, "silent before anything happened");
    paths.drop_arriving(Host::Server, 1, "meta l4proto tcp")?;
    talk.exchange(2_000_000, 100_000)?;
    wait::until(3 * SHOWN, || {
        ensure!(silent("west1")? == 1 && silent("west0")? == 0, "{:#}", view(agent)?.get("findings"));
        ensure!(view(agent)?.findings("path_silent")? == 1, "no word of it");
        Ok(())
    })?;
    paths.let_through(Host::Server, 1)?;
    wait::until(6 * SHOWN, || {
        ensure!(silent("west1")? == 0, "{:#}", view(agent)?.get("findings"));
        Ok(())
    })?;
    // Nothing has to be said any more, and nothing is.
    std::thread::sleep(Duration::from_secs(4));
    ensure!(silent("west0")? == 0 && silent("west1")? == 0, "{:#}", view(agent)?.get("findings"));
    talk.close()
}
