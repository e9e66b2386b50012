//! What is seen of MPTCP in one network namespace, put together from sources that each may fail alone.
//!
//! ```text
//! table of subflows (sock_ops, TC) -> ledger -> paths, totals ┐
//! path manager's events -> reasons ───────────────────────────┤
//! sockets_iter, sock_diag -> lister -> sockets ───────────────┼-> snapshot::mptcp::Namespace
//! netstat -> rises -> findings ───────────────────────────────┘
//! ```

mod book;
mod findings;
mod ledger;
mod lister;
mod observe;
mod paths;
mod rises;
mod sockets;
mod view;

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::PathsConfig;
use crate::kernel::link::Overflow;
use crate::kernel::mptcp_pm::{Event, EventKind, Events, PathManager};
use crate::kernel::sockets_iter::SocketsIter;
use crate::kernel::subflows::{AdoptError, Subflows};
use crate::kernel::{mib, sysctl};
use crate::snapshot::Collector;
use crate::snapshot::mptcp::{Endpoint, Limits, Namespace, OTHER, Probed, Totals};

use super::collect::timed;
use super::interfaces::{LinkState, Links};
pub(crate) use findings::fallback_causes;
use ledger::Ledger;
use lister::Lister;
use rises::Rises;
use sockets::{Sockets, SubflowSocket};

/// How often the sockets are listed if nobody asks for subflows, so that none stays in the book for ever, and it is known
/// which are backups.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(30);
/// The same when a peer has said that it wants a subflow as a backup, or does not any more.
const BACKUPS_INTERVAL: Duration = Duration::from_secs(5);
/// A subflow whose socket is not listed for so long is gone.
const VANISHED: Duration = Duration::from_secs(5);

/// Counters of `TcpExt` that tell of reordering.
const REORDERING: &[&str] = &[
    "TCPRenoReorder",
    "TCPSACKReorder",
    "TCPTSReorder",
    "TCPOFOQueue",
    "TCPOFODrop",
    "TCPOFOMerge",
    "TCPDSACKOldSent",
    "TCPDSACKOfoSent",
    "TCPDSACKRecv",
    "TCPDSACKOfoRecv",
    "TCPSpuriousRtxHostQueues",
];

/// What the path manager has told; an error ends the subscription.
pub type PathManagerNews = std::io::Result<Result<Vec<Event>, Overflow>>;

/// What the kernel side saw and could not keep.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    /// Subflows without room in the table.
    pub subflows: u64,
    /// Subflows whose first packets were not noted down.
    pub handshakes: u64,
}

/// The sources, and what was made of them.
pub struct Mptcp {
    ledger: Ledger,
    rises: Rises,
    events: Result<Events, String>,
    manager: Result<PathManager, String>,
    lister: Lister,
    /// Names of interfaces, each in one piece of memory.
    names: HashMap<u32, Arc<str>>,
    /// Subflows whose sockets were not listed the last time, and since when.
    missing: HashMap<u32, Instant>,
    reconciled_at: Option<Instant>,
    /// A peer has changed a subflow's priority since then.
    backups_changed: bool,
    /// How often the path manager had more events than there was room for.
    pub overflows: u64,
}

impl Mptcp {
    /// Opens the sources, in the network namespace that the calling thread is in.
    pub fn open(paths: PathsConfig, sockets: Result<SocketsIter, String>) -> Mptcp {
        let events = Events::subscribe().map_err(|error| error.to_string());
        if let Err(error) = &events {
            tracing::warn!(error, "why subflows end is told by their sockets alone");
        }
        Mptcp {
            ledger: Ledger::new(paths),
            rises: Rises::default(),
            events,
            manager: PathManager::open().map_err(|error| error.to_string()),
            lister: Lister::open(sockets),
            names: HashMap::new(),
            missing: HashMap::new(),
            reconciled_at: None,
            backups_changed: false,
            overflows: 0,
        }
    }

    /// Waits for news of the path manager; for ever if it cannot be heard. Nothing is lost when it is given up.
    pub async fn news(&mut self) -> PathManagerNews {
        match &mut self.events {
            Ok(events) => events.next().await,
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes note of news.
    pub fn observe(&mut self, news: PathManagerNews) {
        match news {
            Ok(Ok(events)) => {
                self.backups_changed |= events.iter().any(|event| event.kind() == EventKind::SubflowPriority);
                for event in events.iter().filter(|event| event.kind() == EventKind::SubflowClosed) {
                    if let (Some(local), Some(remote)) = (event.local(), event.remote())
                        && let Some(reason) = observe::reason(event)
                    {
                        self.ledger.note_reason((local, remote), reason, Instant::now());
                    }
                }
            }
            Ok(Err(Overflow)) => {
                tracing::warn!("events of MPTCP were lost; what became of subflows is told by their sockets");
                self.overflows += 1;
            }
            Err(error) => {
                tracing::warn!(%error, "the path manager is heard no more");
                self.events = Err(error.to_string());
            }
        }
    }

    /// Looks at the kernel's table, and gives back what is settled. `name` knows the interfaces of the moment.
    pub fn poll(&mut self, table: &mut Subflows, name: impl Fn(u32) -> Option<String>) -> std::io::Result<()> {
        let now = Instant::now();
        let names_before = self.names.len();
        self.names.retain(|index, known| name(*index).as_deref() == Some(known));
        let same_names = self.names.len() == names_before;
        let names = &mut self.names;
        let mut called = |index: u32| {
            if let Some(known) = names.get(&index) {
                return Some(known.clone());
            }
            let new: Arc<str> = Arc::from(name(index)?);
            names.insert(index, new.clone());
            Some(new)
        };
        let ledger = &mut self.ledger;
        table.poll(|view| {
            if same_names && ledger.is_as_seen(view.slot, &observe::mark(view)) {
                return;
            }
            if let Some(seen) = observe::observation(view, &mut called) {
                ledger.observe(seen, now);
            }
        })?;
        self.ledger.find_hidden();
        for slot in self.ledger.settle(now) {
            table.release(slot)?;
        }
        Ok(())
    }

    /// Once a second: rates, and what rose. Now and then: whether the book agrees with the sockets.
    pub fn beat(&mut self, table: Option<&mut Subflows>) {
        let now = Instant::now();
        self.ledger.beat(now);
        if let Ok(mib) = mib::read() {
            self.rises.look(&mib.mptcp, now);
        }
        let interval = if self.backups_changed { BACKUPS_INTERVAL } else { RECONCILE_INTERVAL };
        let due = self.reconciled_at.is_none_or(|at| now.saturating_duration_since(at) >= interval);
        if let (true, Some(table)) = (due, table)
            && let Ok(sockets) = self.list_subflows(Some(table))
        {
            self.reconcile(&sockets, table, now);
        }
    }

    /// Lists subflows, and finds those of the book by the kernel's table.
    fn list_subflows(&mut self, table: Option<&mut Subflows>) -> Result<Sockets, String> {
        let mut sockets = self.lister.subflows()?;
        let Some(table) = table else { return Ok(sockets) };
        let ledger = &self.ledger;
        sockets.find(|ends| {
            let slot = table.find(&observe::key(ends)).ok()??;
            let seen = &ledger.live_in(slot)?.seen;
            ((seen.local, seen.remote) == ends).then_some(slot)
        });
        Ok(sockets)
    }

    /// Takes note of what is a backup by now. Takes in subflows that the table does not have, because they are older than it or
    /// there was no room, and lets go of those whose sockets are gone without a word.
    fn reconcile(&mut self, sockets: &Sockets, table: &mut Subflows, now: Instant) {
        self.reconciled_at = Some(now);
        self.backups_changed = false;
        self.ledger.note_sockets(|slot| sockets.in_slot(slot).map(SubflowSocket::told), now);
        for socket in sockets.subflows.iter().filter(|socket| socket.slot.is_none()) {
            match table.adopt(
                &observe::key(socket.ends),
                socket.token,
                socket.ids.map(|id| id.unwrap_or(0)),
                [socket.flags().joined(), socket.flags().backup()],
                socket.details.retransmitted_bytes.unwrap_or(0),
            ) {
                Ok(_) | Err(AdoptError::Full) => {}
                Err(error) => tracing::debug!(%error, "cannot take in a subflow"),
            }
        }
        // A connection that fell back is no subflow to the kernel any more.
        let unlisted = self.ledger.live().filter(|tracked| {
            let established = tracked.seen.phase == ledger::Phase::Established && !tracked.seen.fell_back;
            established && sockets.in_slot(tracked.seen.slot).is_none()
        });
        let since = |slot| self.missing.get(&slot).copied().unwrap_or(now);
        self.missing = unlisted.map(|tracked| (tracked.seen.slot, since(tracked.seen.slot))).collect();
        for (slot, since) in &self.missing {
            if now.saturating_duration_since(*since) >= VANISHED {
                self.ledger.vanish(*slot, now);
            }
        }
    }

    /// Everything that is known, and how each source fared. Without `subflows` those of most connections are left out.
    pub fn snapshot(
        &mut self,
        netns: &str,
        mut table: Option<&mut Subflows>,
        lost: Lost,
        subflows: bool,
        links: &Links,
        reports: &mut Vec<Collector>,
    ) -> Namespace {
        let now = Instant::now();
        let listed = subflows || self.ledger.has_suspects() || self.ledger.has_hidden();
        let mib = timed(reports, "mptcp_mib", mib::read).unwrap_or_default();
        let established = mib.mptcp.iter().find(|(name, _)| name == lister::ESTABLISHED).map(|(_, count)| *count);
        let mut sockets = None;
        timed(reports, "sockets", || {
            let list = if listed { self.list_subflows(table.as_deref_mut())? } else { Sockets::default() };
            self.lister.connections(sockets.insert(list), established)
        });
        let (table_used, table_capacity) =
            table.as_ref().map_or((0, 0), |table| (u64::from(table.used()), u64::from(table.capacity())));
        if let (true, Some(sockets), Some(table)) = (listed, &sockets, table) {
            self.reconcile(sockets, table, now);
        }
        self.rises.look(&mib.mptcp, now);
        let sysctls = timed(reports, "mptcp_sysctl", sysctl::read_mptcp).unwrap_or_default();
        let (endpoints, limits) = self.path_manager(links, reports);
        let mut namespace = Namespace {
            netns: netns.to_owned(),
            connections: view::connections(&self.ledger, sockets.unwrap_or_default(), subflows, &self.rises, now),
            paths: self.ledger.paths(|name| outage(links, name), now),
            totals: Totals {
                table_used,
                table_capacity,
                subflows_lost: lost.subflows,
                handshakes_lost: lost.handshakes,
                ..self.ledger.totals()
            },
            tcp_mib: mib.tcp.iter().filter(|(name, _)| REORDERING.contains(&name.as_str())).cloned().collect(),
            mib: mib.mptcp,
            endpoints,
            limits,
            sysctls,
            blackhole: self.rises.blackhole(),
            probed: Probed::default(),
            findings: Vec::new(),
        };
        namespace.findings = findings::findings(&namespace, &self.rises);
        namespace
    }

    fn path_manager(&mut self, links: &Links, reports: &mut Vec<Collector>) -> (Vec<Endpoint>, Option<Limits>) {
        let manager = self.manager.as_mut().map_err(|error| error.clone());
        let told = timed(reports, "mptcp_pm", || {
            let manager = manager?;
            let endpoints = manager.endpoints().map_err(text)?;
            Ok::<_, String>((endpoints, manager.limits().map_err(text)?))
        });
        let Some((endpoints, limits)) = told else { return Default::default() };
        let name = |index: i32| {
            let is_it = |(_, link): &(&String, &LinkState)| i64::from(link.index) == i64::from(index);
            links.iter().find(is_it).map(|(name, _)| name.clone())
        };
        (endpoints.iter().map(|endpoint| endpoint.to_snapshot(name)).collect(), Some(limits))
    }
}

/// What keeps an interface from carrying anything. [`OTHER`] stands for many.
fn outage(links: &Links, name: &str) -> Option<&'static str> {
    match links.get(name) {
        _ if name == OTHER => None,
        Some(link) if link.is_up => None,
        Some(_) => Some("down"),
        None => Some("gone"),
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_no_more_carries_nothing() {
        let up = |index, is_up| LinkState { index, is_up };
        let links = Links::from([("wan0".to_owned(), up(2, true)), ("wan1".to_owned(), up(3, false))]);
        let outages = ["wan0", "wan1", "wwan0", OTHER].map(|name| outage(&links, name));
        assert_eq!(outages, [None, Some("down"), Some("gone"), None]);
    }
}
