//! Events of real connections: each comes, with the right token and addresses.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::link::Overflow;
use mpsec_agent::kernel::mptcp_pm::{Endpoint, EndpointFlags, Event, EventKind, Events, PathManager};
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::need;
use mpsec_tests::paths::{Family, Host, Paths, Plan, address};
use mpsec_tests::trial::trial;

use super::watcher::Watcher;

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::ALL {
        let name = format!("events::a_connection_from_its_start_to_its_end_{family}");
        trials.push(trial(&name, LIMIT, move || from_start_to_end(family)));
    }
    trials.push(trial("events::announcements_come_and_go", LIMIT, announcements));
    trials.push(trial("events::an_overflow_is_told_once", LIMIT, overflow));
    trials.push(trial("events::listeners_come_and_go", LIMIT, listeners));
    trials
}

fn from_start_to_end(family: Family) -> Result<()> {
    let paths = Paths::new(Plan::wires(2))?;
    paths.add_endpoint(1, family, "")?;
    let (west, east) = (Watcher::new(&paths.client)?, Watcher::new(&paths.server)?);
    let talk = Conversation::open(&paths, family)?;
    talk.joined(2)?;
    let token = talk.token()?;
    let ends = (talk.client.stream.local_addr()?, talk.client.stream.peer_addr()?);
    for kind in [EventKind::Created, EventKind::Established] {
        let event = west.wait_for(kind, |event| event.token() == Some(token))?;
        ensure!(event.local().zip(event.remote()) == Some(ends), "{event:?} of {ends:?}");
        ensure!(event.server_side() != Some(true), "{event:?}");
        let other = east.wait_for(kind, |event| event.remote() == Some(ends.0))?;
        ensure!(other.server_side() == Some(true) && other.local() == Some(ends.1), "{other:?}");
    }
    let near = address(Host::Client, family, 1);
    let of_path_1 = |event: &Event| {
        event.token() == Some(token) && event.local_ip() == Some(near) && event.remote() == Some(ends.1)
    };
    let joined = west.wait_for(EventKind::SubflowEstablished, of_path_1)?;
    ensure!(joined.backup() == Some(false) && joined.local_id().is_some_and(|id| id > 0), "{joined:?}");
    ensure!(joined.remote_id() == Some(0) && joined.error().is_none(), "{joined:?}");
    paths.set_backup(1, family, true)?;
    // It is the peer who is told of that.
    let priority = east.wait_for(EventKind::SubflowPriority, |event| event.remote() == joined.local())?;
    ensure!(priority.backup() == Some(true) && priority.local() == Some(ends.1), "{priority:?}");
    paths.remove_endpoint(1, family)?;
    let closed = west.wait_for(EventKind::SubflowClosed, of_path_1)?;
    ensure!(closed.local() == joined.local(), "{closed:?}");
    talk.close()?;
    west.wait_for(EventKind::Closed, |event| event.token() == Some(token))?;
    let all = west.finish()?;
    ensure!(all.iter().all(|event| event.token() == Some(token)), "{all:?}");
    Ok(())
}

fn overflow() -> Result<()> {
    let paths = Paths::new(Plan::wires(1))?;
    let client = std::sync::Arc::clone(&paths.client);
    client.run(|| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            // The kernel gives more than one byte, but no room for the events of many connections.
            let mut events = Events::subscribe_with(1)?;
            for _ in 0..20 {
                Conversation::open(&paths, Family::V4)?.close()?;
            }
            let (mut told, mut overflows) = (0, 0);
            while let Ok(next) = tokio::time::timeout(Duration::from_millis(200), events.next()).await {
                match next? {
                    Ok(events) => told += events.len(),
                    Err(Overflow) => overflows += 1,
                }
            }
            ensure!(overflows == 1 && told < 60, "{overflows} overflows, {told} events");
            // It goes on.
            let talk = Conversation::open(&paths, Family::V4)?;
            let next = tokio::time::timeout(Duration::from_secs(5), events.next()).await??;
            let Ok(next) = next else { bail!("it overflows for ever") };
            ensure!(next.iter().any(|event| event.token() == talk.token().ok()), "{next:?}");
            Ok(())
        })
    })
}

fn announcements() -> Result<()> {
    let paths = Paths::new(Plan::wires(2))?;
    let mut server = paths.server.run(PathManager::open)?;
    let west = Watcher::new(&paths.client)?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.exchange(1, 1)?;
    let token = talk.token()?;
    let signal = Endpoint { id: 9, ..Endpoint::new(address(Host::Server, Family::V4, 1), EndpointFlags::SIGNAL) };
    server.add_endpoint(&signal)?;
    let announced = west.wait_for(EventKind::Announced, |event| event.token() == Some(token))?;
    ensure!(announced.remote_ip() == Some(signal.address) && announced.remote_id() == Some(9), "{announced:?}");
    server.delete_endpoint(&signal)?;
    let removed = west.wait_for(EventKind::Removed, |event| event.token() == Some(token))?;
    ensure!(removed.remote_id() == Some(9), "{removed:?}");
    Ok(())
}

fn listeners() -> Result<()> {
    need::linux(6, 2, "listeners of the path manager are told of")?;
    let paths = Paths::new(Plan::wires(1))?;
    let mut server = paths.server.run(PathManager::open)?;
    let east = Watcher::new(&paths.server)?;
    let address = address(Host::Server, Family::V6, 0);
    let endpoint = Endpoint { id: 3, port: Some(7001), ..Endpoint::new(address, EndpointFlags::SIGNAL) };
    // The kernel makes the listening socket in the namespace of the thread that asks.
    paths.server.run(|| server.add_endpoint(&endpoint))?;
    let created = east.wait_for(EventKind::ListenerCreated, |_| true)?;
    ensure!(created.local() == Some((address, 7001).into()) && created.token().is_none(), "{created:?}");
    server.delete_endpoint(&endpoint)?;
    let closed = east.wait_for(EventKind::ListenerClosed, |_| true)?;
    ensure!(closed.local() == created.local(), "{closed:?}");
    Ok(())
}
