//! The commands of the userspace path manager, each to a real connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::mptcp_pm::{Endpoint, EndpointFlags, EventKind, PathManager, PathManagerError};
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::paths::{Family, Host, Paths, Plan, address};
use mpsec_tests::trial::trial;

use super::watcher::Watcher;

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::ALL {
        let name = format!("userspace::subflows_are_made_changed_and_ended_{family}");
        trials.push(trial(&name, LIMIT, move || subflows(family)));
    }
    trials.push(trial("userspace::addresses_are_announced_and_removed", LIMIT, addresses));
    trials
}

/// Two paths whose client leaves everything to a path manager in user space.
pub(crate) fn paths() -> Result<Paths> {
    let paths = Paths::new(Plan::wires(2))?;
    paths.client.sysctl("net/mptcp/pm_type", "1")?;
    Ok(paths)
}

fn subflows(family: Family) -> Result<()> {
    let paths = paths()?;
    let mut manager = paths.client.run(PathManager::open)?;
    let (west, east) = (Watcher::new(&paths.client)?, Watcher::new(&paths.server)?);
    let mut talk = Conversation::open(&paths, family)?;
    talk.exchange(1, 1)?;
    let (token, remote) = (talk.token()?, talk.client.stream.peer_addr()?);
    let near = Endpoint { id: 5, ..Endpoint::new(address(Host::Client, family, 1), EndpointFlags::default()) };
    manager.create_subflow(token, &near, remote)?;
    let joined = west.wait_for(EventKind::SubflowEstablished, |event| event.token() == Some(token))?;
    let local = joined.local().context("no local address")?;
    ensure!(local.ip() == near.address && joined.local_id() == Some(5), "{joined:?}");
    ensure!(joined.remote() == Some(remote), "{joined:?}");
    talk.joined(2)?;
    let backup = Endpoint { port: Some(local.port()), flags: EndpointFlags::BACKUP, ..near };
    manager.set_subflow_flags(token, &backup, remote)?;
    let changed = east.wait_for(EventKind::SubflowPriority, |event| event.remote() == Some(local))?;
    ensure!(changed.backup() == Some(true) && changed.local() == Some(remote), "{changed:?}");
    manager.destroy_subflow(token, local, remote)?;
    let closed = west.wait_for(EventKind::SubflowClosed, |event| event.token() == Some(token))?;
    ensure!(closed.local() == Some(local), "{closed:?}");
    match manager.destroy_subflow(token, local, remote) {
        Err(PathManagerError::Netlink(error)) if error.errno() == Some(libc::ESRCH) => Ok(()),
        other => bail!("destroyed twice: {other:?}"),
    }
}

fn addresses() -> Result<()> {
    let paths = paths()?;
    let mut manager = paths.client.run(PathManager::open)?;
    let east = Watcher::new(&paths.server)?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.exchange(1, 1)?;
    let token = talk.token()?;
    let told = Endpoint { id: 6, ..Endpoint::new(address(Host::Client, Family::V4, 1), EndpointFlags::SIGNAL) };
    manager.announce(token, &told)?;
    let announced = east.wait_for(EventKind::Announced, |_| true)?;
    ensure!(announced.remote_ip() == Some(told.address) && announced.remote_id() == Some(6), "{announced:?}");
    manager.remove(token, 6)?;
    let removed = east.wait_for(EventKind::Removed, |_| true)?;
    ensure!(removed.remote_id() == Some(6) && removed.token() == announced.token(), "{removed:?}");
    let nowhere = SocketAddr::new(told.address, 1);
    let refusal = manager.create_subflow(token ^ 1, &told, nowhere).err().context("a token that nobody has")?;
    ensure!(refusal.to_string().contains("invalid token"), "{refusal}");
    Ok(())
}
