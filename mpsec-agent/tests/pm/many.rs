//! Many connections.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_agent::pm::Settings;
use mpsec_agent::pm::mode::Kind;
use mpsec_tests::crowd::{Burst, Crowd};
use mpsec_tests::paths::Family;
use mpsec_tests::trial::trial;
use mpsec_tests::wait;

use super::running::{PATIENCE, Running, all_subflows, leave_to_us, paths, settings};

const LIMIT: Duration = Duration::from_secs(120);
const CONNECTIONS: usize = 500;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("many::five_hundred_at_once", LIMIT, crowd),
        trial("many::short_ones_leave_nothing_behind", LIMIT, short),
        trial("many::those_beyond_the_cap_are_let_be", LIMIT, beyond),
    ]
}

fn crowd() -> Result<()> {
    let paths = paths(1)?;
    let manager = Running::start(&paths.client, settings(Kind::Ndiffports, 8))?;
    let start = Instant::now();
    let mut crowd = Crowd::open(&paths, Family::V4, CONNECTIONS, 8)?;
    let (took, cpu) = (start.elapsed(), manager.cpu_ns()?);
    let stats = manager.settled()?;
    println!("{CONNECTIONS} connections, 8 subflows each: {took:?}, {} ms of processor time", cpu / 1_000_000);
    ensure!((stats.managed, stats.established) == (CONNECTIONS, 8 * CONNECTIONS), "{stats:?}");
    let all = all_subflows(&paths.client)?;
    ensure!(all.len() == CONNECTIONS && all.values().all(|subflows| subflows.len() == 8), "{}", all.len());
    ensure!(stats.counters.subflows_requested == 7 * CONNECTIONS as u64 && stats.failures.is_empty(), "{stats:?}");
    let idle = manager.cpu_ns()?;
    std::thread::sleep(Duration::from_secs(1));
    println!("idle for a second: {} us of processor time", (manager.cpu_ns()? - idle) / 1000);
    let start = Instant::now();
    manager.stop()?;
    let manager = Running::start(&paths.client, settings(Kind::Ndiffports, 8))?;
    println!("taken over after {:?}", start.elapsed());
    let stats = manager.settled()?;
    ensure!((stats.managed, stats.counters.subflows_requested) == (CONNECTIONS, 0), "{stats:?}");
    crowd.shrink(100);
    wait::until(PATIENCE, || {
        let stats = manager.stats()?;
        ensure!((stats.managed, stats.established) == (100, 800), "{stats:?}");
        Ok(())
    })
}

fn short() -> Result<()> {
    let paths = paths(1)?;
    leave_to_us(&paths.server)?;
    let manager = Running::start(&paths.client, settings(Kind::Ndiffports, 4))?;
    let server = Running::start(&paths.server, settings(Kind::Server, 4))?;
    Burst { family: Family::V6, connections: 1000, per_second: 1000, bytes: 20_000 }.run(&paths)?;
    for end in [manager, server] {
        let stats = wait::until(PATIENCE, || {
            let stats = end.stats()?;
            ensure!(stats.managed == 0 && stats.counters.connections_ended == 1000, "{stats:?}");
            Ok(stats)
        })?;
        ensure!(stats.counters.connections_begun == 1000 && stats.counters.resyncs == 1, "{stats:?}");
        ensure!(stats.failures.is_empty(), "{stats:?}");
        ensure!(end.with(|daemon| daemon.book().next_due().is_none())?, "something is due of nothing");
    }
    Ok(())
}

fn beyond() -> Result<()> {
    let paths = paths(1)?;
    let few = Settings { most_connections: 10, ..settings(Kind::Ndiffports, 2) };
    let manager = Running::start(&paths.client, few.clone())?;
    let _crowd = Crowd::open(&paths, Family::V4, 10, 2)?;
    let extra = mpsec_tests::mptcp::Conversation::open(&paths, Family::V4)?;
    std::thread::sleep(Duration::from_millis(300));
    extra.joined(1)?;
    let stats = manager.settled()?;
    ensure!((stats.managed, stats.counters.connections_over_the_cap) == (10, 2), "{stats:?}");
    manager.stop()?;
    let stats = Running::start(&paths.client, few)?.stats()?;
    ensure!((stats.managed, stats.unmanaged) == (10, 1), "{stats:?}");
    Ok(())
}
