//! Several addresses: every one to every one, announced ones, ones that go; and the cap of a server.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mpsec_agent::pm::mode::Kind;
use mpsec_agent::pm::{Local, Settings};
use mpsec_tests::mptcp::{self, Conversation, Protocol};
use mpsec_tests::paths::{Family, Host, Paths, address};
use mpsec_tests::trial::trial;
use mpsec_tests::{ss, wait};

use super::running::{PATIENCE, Running, all_subflows, has, leave_to_us, paths, settings, subflows};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::ALL {
        let name = format!("addresses::every_one_to_every_one_{family}");
        trials.push(trial(&name, LIMIT, move || mesh(family)));
        let name = format!("addresses::the_cap_holds_{family}");
        trials.push(trial(&name, LIMIT, move || cap(family)));
    }
    trials.push(trial("addresses::the_cap_holds_for_ipv4_on_a_socket_of_ipv6", LIMIT, mapped));
    trials.push(trial("addresses::the_first_one_goes", LIMIT, first_goes));
    trials.push(trial("addresses::one_becomes_a_backup", LIMIT, backup));
    trials
}

fn locals(paths: &Paths, host: Host, family: Family, numbers: &[usize]) -> Vec<Local> {
    let local = |path: &usize| Local::new(address(host, family, *path));
    let _ = paths;
    numbers.iter().map(local).collect()
}

fn tell(manager: &Running, locals: Vec<Local>) -> Result<()> {
    Ok(manager.with(|daemon| daemon.set_locals(locals))??)
}

/// The addresses that a connection's subflows have, once these are so.
fn becomes(paths: &Paths, token: u32, wanted: &[(IpAddr, IpAddr)]) -> Result<()> {
    let wanted: BTreeSet<_> = wanted.iter().copied().collect();
    wait::until(PATIENCE, || {
        let have: Vec<_> = subflows(&paths.client, token)?.into_keys().map(|e| (e.local.ip(), e.remote.ip())).collect();
        ensure!(have.len() == wanted.len() && have.iter().copied().collect::<BTreeSet<_>>() == wanted, "{have:?}");
        Ok(())
    })
}

fn mesh(family: Family) -> Result<()> {
    let paths = paths(2)?;
    leave_to_us(&paths.server)?;
    let west = Running::start(&paths.client, settings(Kind::Fullmesh, 1))?;
    let east = Running::start(&paths.server, Settings { announce: true, ..settings(Kind::Server, 1) })?;
    tell(&west, locals(&paths, Host::Client, family, &[0, 1]))?;
    tell(&east, locals(&paths, Host::Server, family, &[0, 1]))?;
    let mut talk = Conversation::open(&paths, family)?;
    let token = talk.token()?;
    let at = |host: Host| [0, 1].map(|path| address(host, family, path));
    let ([w0, w1], [e0, e1]) = (at(Host::Client), at(Host::Server));
    becomes(&paths, token, &[(w0, e0), (w0, e1), (w1, e0), (w1, e1)])?;
    talk.exchange(1_000_000, 1_000_000)?;
    // A local address goes, and comes back.
    tell(&west, locals(&paths, Host::Client, family, &[0]))?;
    becomes(&paths, token, &[(w0, e0), (w0, e1)])?;
    wait::until(PATIENCE, || {
        ensure!(ss::mib(&paths.server)?.get("RmAddr").is_some_and(|number| *number == 1), "{:?}", west.stats()?);
        Ok(())
    })?;
    tell(&west, locals(&paths, Host::Client, family, &[0, 1]))?;
    becomes(&paths, token, &[(w0, e0), (w0, e1), (w1, e0), (w1, e1)])?;
    // One of the peer goes.
    tell(&east, locals(&paths, Host::Server, family, &[0]))?;
    becomes(&paths, token, &[(w0, e0), (w1, e0)])?;
    talk.exchange(1_000_000, 1_000_000)?;
    talk.joined(2)?;
    let stats = west.settled()?;
    ensure!(stats.counters.removed == 1 && stats.counters.ended_address_gone == 2, "{stats:?}");
    ensure!(east.settled()?.counters.announced == 1, "{:?}", east.stats()?);
    Ok(())
}

fn cap(family: Family) -> Result<()> {
    let paths = paths(1)?;
    leave_to_us(&paths.server)?;
    let west = Running::start(&paths.client, settings(Kind::Ndiffports, 8))?;
    let east = Running::start(&paths.server, Settings { most_subflows: 3, ..settings(Kind::Server, 1) })?;
    let mut talk = Conversation::open(&paths, family)?;
    let token = talk.token()?;
    capped(&paths, &west, &east)?;
    talk.exchange(1_000_000, 1_000_000)?;
    ensure!(subflows(&paths.client, token)?.len() <= 4, "{:?}", subflows(&paths.client, token)?);
    // What the client wants beyond it is not tried again and again.
    thread::sleep(Duration::from_secs(2));
    let stats = west.stats()?;
    ensure!(stats.counters.subflows_requested < 7 + 12, "{stats:?}");
    Ok(())
}

/// The server ends what is beyond three subflows.
fn capped(paths: &Paths, west: &Running, east: &Running) -> Result<()> {
    wait::until(PATIENCE, || {
        let theirs = all_subflows(&paths.server)?.into_values().next().context("no connection")?;
        let stats = east.stats()?;
        ensure!(theirs.len() == 3 && stats.counters.ended_over_the_cap >= 5, "{theirs:?} {stats:?}");
        ensure!(stats.counters.requests_refused == 0, "{stats:?}");
        Ok(())
    })?;
    ensure!(west.stats()?.managed == 1, "{:?}", west.stats()?);
    Ok(())
}

fn mapped() -> Result<()> {
    let paths = paths(1)?;
    leave_to_us(&paths.server)?;
    let west = Running::start(&paths.client, settings(Kind::Ndiffports, 8))?;
    let east = Running::start(&paths.server, Settings { most_subflows: 3, ..settings(Kind::Server, 1) })?;
    let (listener, port) = mptcp::listen(&paths.server, Family::V6, Protocol::Mptcp)?;
    let to = (address(Host::Server, Family::V4, 0), port).into();
    let from = address(Host::Client, Family::V4, 0);
    let mut near = paths.client.run(|| mptcp::connect(from, to, Protocol::Mptcp))?;
    let (mut far, _) = listener.accept()?;
    for byte in [1, 2] {
        std::io::Write::write_all(&mut near, &[byte])?;
        std::io::Read::read_exact(&mut far, &mut [0])?;
        std::io::Write::write_all(&mut far, &[byte])?;
        std::io::Read::read_exact(&mut near, &mut [0])?;
    }
    capped(&paths, &west, &east)
}

fn first_goes() -> Result<()> {
    let paths = paths(2)?;
    let west = Running::start(&paths.client, settings(Kind::Fullmesh, 1))?;
    tell(&west, locals(&paths, Host::Client, Family::V4, &[0, 1]))?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    let token = talk.token()?;
    has(&paths.client, token, 2)?;
    tell(&west, locals(&paths, Host::Client, Family::V4, &[1]))?;
    let (w1, e0) = (address(Host::Client, Family::V4, 1), address(Host::Server, Family::V4, 0));
    becomes(&paths, token, &[(w1, e0)])?;
    talk.exchange(1_000_000, 1_000_000)?;
    // The last one stays, though its address is gone.
    tell(&west, Vec::new())?;
    thread::sleep(Duration::from_millis(300));
    becomes(&paths, token, &[(w1, e0)])?;
    talk.exchange(1_000_000, 1_000_000)
}

fn backup() -> Result<()> {
    let paths = paths(2)?;
    let west = Running::start(&paths.client, settings(Kind::Fullmesh, 1))?;
    let both = locals(&paths, Host::Client, Family::V4, &[0, 1]);
    tell(&west, both.clone())?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    let token = talk.token()?;
    has(&paths.client, token, 2)?;
    tell(&west, vec![both[0], Local { backup: true, ..both[1] }])?;
    wait::until(PATIENCE, || {
        ensure!(ss::mib(&paths.server)?.get("MPPrioRx") == Some(&1), "{:?}", west.stats()?);
        Ok(())
    })?;
    let near = address(Host::Client, Family::V4, 1);
    let carried = |paths: &Paths| -> Result<u64> {
        let all = subflows(&paths.client, token)?;
        Ok(all.iter().find(|(ends, _)| ends.local.ip() == near).context("no such subflow")?.1.to_owned())
    };
    let before = carried(&paths)?;
    talk.exchange(5_000_000, 0)?;
    ensure!(carried(&paths)? - before < 500_000, "{} bytes on the backup", carried(&paths)? - before);
    ensure!(west.settled()?.counters.priorities_changed == 1, "{:?}", west.stats()?);
    Ok(())
}
