//! What goes wrong: joins that are refused, subflows that are lost, events that are lost, a manager that starts late.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::mptcp_pm::PathManager;
use mpsec_agent::pm::mode::Kind;
use mpsec_agent::pm::{Settings, Stats};
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::paths::{Family, Paths, Plan};
use mpsec_tests::trial::trial;
use mpsec_tests::wait;

use super::running::{PATIENCE, ROOM, Running, all_subflows, has, leave_to_us, paths, settings, subflows};

const LIMIT: Duration = Duration::from_secs(60);
/// As little as there can be: the kernel gives two kilobytes and something.
const NO_ROOM: i32 = 1;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::ALL {
        let name = format!("trouble::a_lost_subflow_is_replaced_{family}");
        trials.push(trial(&name, LIMIT, move || lost(family)));
    }
    trials.push(trial("trouble::a_subflow_that_the_peer_ends_is_replaced", LIMIT, ended_by_peer));
    trials.push(trial("trouble::refused_joins_are_tried_ever_more_seldom", LIMIT, refused));
    trials.push(trial("trouble::joins_are_made_when_the_peer_takes_them", LIMIT, taken_later));
    trials.push(trial("trouble::a_restart_doubles_nothing", LIMIT, restart));
    trials.push(trial("trouble::a_restart_finds_what_was_lost_meanwhile", LIMIT, lost_meanwhile));
    trials.push(trial("trouble::lost_events_are_made_up_for", LIMIT, overflow));
    trials.push(trial("trouble::connections_of_the_kernels_path_manager_are_let_be", LIMIT, foreign));
    trials
}

fn four() -> Settings {
    settings(Kind::Ndiffports, 4)
}

/// Has the kernel end a subflow as if its peer had reset it.
fn kill(paths: &Paths, local: SocketAddr) -> Result<()> {
    paths.client.output("ss", &["-K", "-t", "sport", "=", &format!(":{}", local.port())]).map(drop)
}

fn lost(family: Family) -> Result<()> {
    let paths = paths(1)?;
    let manager = Running::start(&paths.client, four())?;
    let mut talk = Conversation::open(&paths, family)?;
    let (token, first) = (talk.token()?, talk.client.stream.local_addr()?);
    let before = has(&paths.client, token, 4)?;
    let victim = before.keys().map(|ends| ends.local).find(|local| *local != first).context("only the first")?;
    kill(&paths, victim)?;
    let after = wait::until(PATIENCE, || {
        let after = subflows(&paths.client, token)?;
        ensure!(after.len() == 4 && after.keys().all(|ends| ends.local != victim), "{after:?}");
        Ok(after)
    })?;
    ensure!(after.keys().filter(|ends| before.contains_key(ends)).count() == 3, "{before:?} {after:?}");
    // The one that it began with is replaced as well.
    kill(&paths, first)?;
    wait::until(PATIENCE, || {
        let after = subflows(&paths.client, token)?;
        ensure!(after.len() == 4 && after.keys().all(|ends| ends.local != first), "{after:?}");
        Ok(())
    })?;
    talk.exchange(1_000_000, 1_000_000)?;
    let stats = manager.settled()?;
    ensure!(stats.counters.subflows_ended == 2 && stats.counters.subflows_requested == 5, "{stats:?}");
    Ok(())
}

fn ended_by_peer() -> Result<()> {
    let paths = paths(1)?;
    leave_to_us(&paths.server)?;
    let west = Running::start(&paths.client, four())?;
    let east = Running::start(&paths.server, settings(Kind::Server, 1))?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.joined(4)?;
    let theirs = all_subflows(&paths.server)?.into_iter().next().context("no connection")?;
    let victim =
        *theirs.1.keys().find(|ends| Some(ends.remote) != talk.client.stream.local_addr().ok()).context("none")?;
    paths.server.run(PathManager::open)?.destroy_subflow(theirs.0, victim.local, victim.remote)?;
    wait::until(PATIENCE, || {
        let stats = east.stats()?;
        ensure!(stats.counters.subflows_joined == 4 && stats.established == 4, "{stats:?}");
        Ok(())
    })?;
    talk.joined(4)?;
    talk.exchange(100_000, 100_000)?;
    ensure!(west.settled()?.counters.subflows_ended == 1, "{:?}", west.stats()?);
    Ok(())
}

fn refused() -> Result<()> {
    let paths = paths(1)?;
    paths.server.ip("mptcp limits set subflow 0 add_addr_accepted 0")?;
    let manager = Running::start(&paths.client, four())?;
    let talk = Conversation::open(&paths, Family::V4)?;
    thread::sleep(Duration::from_secs(3));
    // Between two pauses it is about to ask, or waits for the answer.
    let stats = wait::until(PATIENCE, || {
        let stats = manager.stats()?;
        ensure!(stats.requested == 0 && stats.backoffs_pending == 1 && stats.established == 1, "{stats:?}");
        Ok(stats)
    })?;
    let cpu = manager.cpu_ns()?;
    let requests = stats.counters.subflows_requested;
    println!("{requests} requests in 3 s, {} us of processor time", cpu / 1000);
    // Three at once, then one after about 100, 200, 400, 800 and 1600 ms.
    ensure!((6..=10).contains(&requests), "{stats:?}");
    let ended = stats.counters.subflows_failed + stats.counters.subflows_short_lived;
    ensure!(ended == requests && !stats.last_failures.is_empty(), "{stats:?}");
    ensure!(stats.failures.values().sum::<u64>() == ended, "{:?}", stats.failures);
    talk.joined(1)
}

/// A server that takes no joins, and then does.
fn taken_later() -> Result<()> {
    let paths = paths(1)?;
    leave_to_us(&paths.server)?;
    let west = Running::start(&paths.client, four())?;
    let alone = Settings { most_subflows: 1, ..settings(Kind::Server, 1) };
    let east = Running::start(&paths.server, alone.clone())?;
    let mut talk = Conversation::open(&paths, Family::V6)?;
    wait::until(PATIENCE, || {
        let stats = west.stats()?;
        ensure!(stats.counters.subflows_requested > 4 && stats.established == 1, "{stats:?}");
        Ok(())
    })?;
    east.with(move |daemon| daemon.set_settings(Settings { most_subflows: 8, ..alone }))?;
    talk.joined(4)?;
    talk.exchange(100_000, 100_000)?;
    west.settled()?;
    wait::until(PATIENCE, || {
        let stats = east.stats()?;
        ensure!(stats.established == 4, "{stats:?}");
        Ok(())
    })
}

fn restart() -> Result<()> {
    let paths = paths(1)?;
    let manager = Running::start(&paths.client, four())?;
    let talks: Vec<_> = (0..10).map(|_| Conversation::open(&paths, Family::V4)).collect::<Result<_>>()?;
    talks.iter().try_for_each(|talk| talk.joined(4))?;
    manager.settled()?;
    manager.stop()?;
    let manager = Running::start(&paths.client, four())?;
    let stats = manager.stats()?;
    ensure!((stats.managed, stats.established, stats.wanted) == (10, 40, 0), "{stats:?}");
    ensure!(stats.counters.connections_adopted == 10, "{stats:?}");
    wait::throughout(Duration::from_millis(500), || talks.iter().try_for_each(|talk| talk.joined(4)))?;
    ensure!(manager.stats()?.counters.subflows_requested == 0, "{:?}", manager.stats()?);
    kill(&paths, talks[3].client.stream.local_addr()?)?;
    wait::until(PATIENCE, || {
        let stats = manager.stats()?;
        ensure!(stats.counters.subflows_joined == 1 && stats.established == 40, "{stats:?}");
        Ok(())
    })?;
    // Linux 6.1 keeps the first socket on the list of the connection when it is closed, and counts it.
    has(&paths.client, talks[3].token()?, 4).map(drop)
}

fn lost_meanwhile() -> Result<()> {
    let paths = paths(1)?;
    let manager = Running::start(&paths.client, four())?;
    let mut talk = Conversation::open(&paths, Family::V6)?;
    talk.joined(4)?;
    manager.stop()?;
    kill(&paths, talk.client.stream.local_addr()?)?;
    let mut late = Conversation::open(&paths, Family::V4)?;
    let manager = Running::start(&paths.client, four())?;
    talk.joined(4)?;
    late.joined(4)?;
    manager.settled()?;
    talk.exchange(100_000, 100_000)?;
    late.exchange(100_000, 100_000)
}

/// It is held up while much happens.
fn overflow() -> Result<()> {
    let paths = paths(1)?;
    let manager = Running::start_with(&paths.client, four(), NO_ROOM)?;
    let early = Conversation::open(&paths, Family::V4)?;
    early.joined(4)?;
    let talks = thread::scope(|scope| -> Result<Vec<Conversation>> {
        let held = scope.spawn(|| manager.with(|_| thread::sleep(Duration::from_millis(1500))));
        thread::sleep(Duration::from_millis(50));
        let token = early.token()?;
        let victim = *subflows(&paths.client, token)?.keys().next_back().context("none")?;
        kill(&paths, victim.local)?;
        let closed: Vec<_> = (0..20).map(|_| Conversation::open(&paths, Family::V6)).collect::<Result<_>>()?;
        closed.into_iter().try_for_each(Conversation::close)?;
        let talks = (0..30).map(|_| Conversation::open(&paths, Family::V4)).collect::<Result<Vec<_>>>()?;
        held.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        Ok(talks)
    })?;
    talks.iter().chain([&early]).try_for_each(|talk| talk.joined(4))?;
    let stats = wait::until(PATIENCE, || {
        let stats = manager.stats()?;
        ensure!(stats.managed == 31 && stats.established == 124 && stats.requested == 0, "{stats:?}");
        Ok(stats)
    })?;
    ensure!(stats.counters.overflows > 0 && stats.counters.resyncs > 1, "{stats:?}");
    agrees(&paths, &stats)?;
    wait::throughout(Duration::from_millis(500), || talks.iter().try_for_each(|talk| talk.joined(4)))
}

/// The kernel has what the book has.
fn agrees(paths: &Paths, stats: &Stats) -> Result<()> {
    let all = all_subflows(&paths.client)?;
    let number: usize = all.values().map(|subflows| subflows.len()).sum();
    ensure!((all.len(), number) == (stats.managed, stats.established), "{} {number} {stats:?}", all.len());
    Ok(())
}

fn foreign() -> Result<()> {
    let paths = Paths::new(Plan::wires(1))?;
    let before = Conversation::open(&paths, Family::V4)?;
    leave_to_us(&paths.client)?;
    let manager = Running::start_with(&paths.client, four(), ROOM)?;
    let ours = Conversation::open(&paths, Family::V4)?;
    ours.joined(4)?;
    thread::sleep(Duration::from_millis(300));
    before.joined(1)?;
    let stats = manager.settled()?;
    ensure!((stats.managed, stats.unmanaged, stats.counters.connections_foreign) == (1, 1, 1), "{stats:?}");
    // One refusal for each request that was under way, and none after it.
    ensure!(stats.counters.requests_refused <= 3, "{stats:?}");
    Ok(())
}
