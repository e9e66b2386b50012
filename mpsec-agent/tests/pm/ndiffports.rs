//! Several subflows between two addresses, and what they carry.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_agent::pm::Origin;
use mpsec_agent::pm::mode::Kind;
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::paths::{Family, Paths, Plan};
use mpsec_tests::trial::trial;

use super::running::{Running, has, leave_to_us, paths, settings, subflows};

const LIMIT: Duration = Duration::from_secs(60);
/// Enough for eight subflows to be needed in turn.
const BULK: u64 = 24_000_000;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::ALL {
        for number in [4, 8] {
            let name = format!("ndiffports::{number}_subflows_carry_bytes_{family}");
            trials.push(trial(&name, LIMIT, move || carry(family, number)));
        }
    }
    trials.push(trial("ndiffports::both_ends_in_user_space", LIMIT, both_ends));
    trials.push(trial("ndiffports::how_soon", LIMIT, how_soon));
    trials
}

fn carry(family: Family, number: u16) -> Result<()> {
    // Slow enough that one subflow alone is not enough.
    let paths = Paths::new(Plan::wires(1).bottleneck(200, 500_000))?;
    leave_to_us(&paths.client)?;
    let manager = Running::start(&paths.client, settings(Kind::Ndiffports, number))?;
    let mut talk = Conversation::open(&paths, family)?;
    let token = talk.token()?;
    has(&paths.client, token, number.into())?;
    talk.joined(number.into())?;
    talk.exchange(BULK, 0)?;
    let carried = subflows(&paths.client, token)?;
    let (local, remote) = (talk.client.stream.local_addr()?, talk.client.stream.peer_addr()?);
    ensure!(carried.keys().all(|ends| ends.local.ip() == local.ip() && ends.remote == remote), "{carried:?}");
    let ports: BTreeSet<u16> = carried.keys().map(|ends| ends.local.port()).collect();
    ensure!(ports.len() == usize::from(number) && ports.contains(&local.port()), "{ports:?}");
    let least = carried.values().min().copied().unwrap_or_default();
    ensure!(least > 10_000, "a subflow that carried {least} bytes: {carried:?}");
    let stats = manager.settled()?;
    ensure!(stats.established == usize::from(number) && stats.managed == 1, "{stats:?}");
    ensure!(stats.counters.subflows_requested == u64::from(number) - 1 && stats.failures.is_empty(), "{stats:?}");
    talk.close()?;
    let stats = manager.stop()?;
    ensure!(stats.counters.requests_refused == 0, "{stats:?}");
    Ok(())
}

fn both_ends() -> Result<()> {
    let paths = paths(1)?;
    leave_to_us(&paths.server)?;
    let west = Running::start(&paths.client, settings(Kind::Ndiffports, 4))?;
    let east = Running::start(&paths.server, settings(Kind::Server, 1))?;
    let mut talk = Conversation::open(&paths, Family::V6)?;
    talk.joined(4)?;
    talk.exchange(1_000_000, 1_000_000)?;
    ensure!(west.settled()?.established == 4, "{:?}", west.stats()?);
    mpsec_tests::wait::until(super::running::PATIENCE, || {
        let origins = east.with(|daemon| {
            let all = daemon.book().connections().flat_map(|connection| connection.subflows().to_vec());
            all.map(|subflow| subflow.origin).collect::<Vec<_>>()
        })?;
        ensure!(origins == [Origin::First, Origin::Peer, Origin::Peer, Origin::Peer], "{origins:?}");
        Ok(())
    })?;
    talk.close()?;
    mpsec_tests::wait::until(super::running::PATIENCE, || {
        let (west, east) = (west.stats()?, east.stats()?);
        ensure!(west.managed == 0 && east.managed == 0, "{west:?} {east:?}");
        Ok(())
    })
}

/// From the first exchange on, which is what establishes a connection.
fn how_soon() -> Result<()> {
    let paths = paths(1)?;
    let _manager = Running::start(&paths.client, settings(Kind::Ndiffports, 8))?;
    let mut times = Vec::new();
    for _ in 0..20 {
        let talk = Conversation::open(&paths, Family::V4)?;
        let (start, token) = (Instant::now(), talk.token()?);
        while subflows(&paths.client, token)?.len() < 8 {
            ensure!(start.elapsed() < Duration::from_secs(15), "not in time");
            std::thread::sleep(Duration::from_millis(1));
        }
        times.push(start.elapsed());
        talk.close()?;
    }
    times.sort_unstable();
    println!("8 subflows established after (median of 20) {:?}, at most {:?}", times[10], times[19]);
    ensure!(times[10] < Duration::from_millis(100), "{times:?}");
    Ok(())
}
