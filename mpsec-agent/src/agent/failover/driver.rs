//! Lets [`Failover`] see the kernel, and does what it decides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use mpsec_common::mptcp::{SubflowKey, SubflowState, flags};

use super::{Action, Event, Facts, Failover, Path, Settings};
use crate::kernel::address::{self, Readiness};
use crate::kernel::link;
use crate::kernel::mptcp_pm::{Endpoint, EndpointFlags, PathManager, PathManagerError};
use crate::kernel::policy::{Policy, Timeout};
use crate::kernel::sock_diag;
use crate::kernel::subflows::{Subflows, View};

/// How often the endpoints are listed: the kernel does not tell when somebody changes them.
const LIST_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether an address can be used whose interface has come up.
const READY_INTERVAL: Duration = Duration::from_millis(50);

/// What the kernel has to set on subflows for this: a retransmission timer that expires a little later than an acknowledgement
/// may be delayed (TCP_DELACK_MIN, 40 ms, include/net/tcp.h), and one that a returning path is noticed by within a second.
/// `net.mptcp.stale_loss_cnt` should be 1 beside it, so that the kernel hands over after two such timeouts, and the default
/// of `net.ipv4.tcp_rmem` some megabytes: a receiver that fills up while a hole is open may never take what fills it.
pub fn policy() -> Policy {
    Policy { rto_min_us: Some(50_000), rto_max_ms: Some(1_000), reports_timeouts: true, ..Policy::default() }
}

/// The paths of one network namespace. All but [`Driver::next_beat`] must be called inside it.
pub struct Driver {
    core: Failover,
    manager: PathManager,
    /// As the kernel listed them last, without those that it made by itself.
    endpoints: BTreeMap<IpAddr, Endpoint>,
    /// What was taken away, and is to be put back as it was.
    taken: BTreeMap<IpAddr, Endpoint>,
    /// The interface that an endpoint's address is, or was last, on.
    homes: BTreeMap<IpAddr, u32>,
    /// Interfaces that are up.
    up: BTreeMap<u32, bool>,
    listed_at: Option<Instant>,
    /// Addresses whose interface is up and that cannot be used yet.
    unready: BTreeSet<IpAddr>,
}

impl Driver {
    /// Opens the path manager of the network namespace that the thread is in. Subscribe to events of interfaces before.
    ///
    /// # Errors
    /// Without MPTCP, or CAP_NET_ADMIN.
    pub fn open(settings: Settings) -> Result<Driver, PathManagerError> {
        let mut driver = Driver {
            core: Failover::new(settings),
            manager: PathManager::open()?,
            endpoints: BTreeMap::new(),
            taken: BTreeMap::new(),
            homes: BTreeMap::new(),
            up: BTreeMap::new(),
            listed_at: None,
            unready: BTreeSet::new(),
        };
        let now = Instant::now();
        driver.list(now)?;
        let addresses = driver.endpoints.keys().copied().collect();
        driver.core.observe(&Event::Endpoints(addresses), now, |_| Facts::default());
        for interface in link::list()? {
            driver.up.insert(interface.index, interface.is_up);
        }
        Ok(driver)
    }

    /// Takes note of news of interfaces.
    pub fn links(&mut self, events: &[link::Event], table: &mut Subflows) {
        let book = Book::read(table);
        for event in events {
            let (index, is_up) = match event {
                link::Event::Present(interface) => (interface.index, interface.is_up),
                link::Event::Gone { index } => (*index, false),
            };
            if self.up.insert(index, is_up) == Some(is_up) {
                continue;
            }
            let homes = self.homes.iter().filter(|(_, home)| **home == index);
            let addresses: Vec<IpAddr> = homes.map(|(address, _)| *address).collect();
            for address in addresses {
                if is_up {
                    self.unready.insert(address);
                } else {
                    self.unready.remove(&address);
                    self.observe(&Event::Down(address), &book);
                }
            }
        }
        self.look_for_ready(&book);
    }

    /// Takes note of reports.
    pub fn timeouts(&mut self, reports: &[Timeout], table: &mut Subflows) {
        let book = Book::read(table);
        for report in reports {
            let srtt = Duration::from_micros(report.srtt_us.into());
            self.observe(&Event::Timeout { local: report.local, remote: report.remote, srtt }, &book);
        }
    }

    /// Does what is due.
    pub fn beat(&mut self, table: &mut Subflows) {
        let (now, book) = (Instant::now(), Book::read(table));
        if self.listed_at.is_none_or(|at| now.saturating_duration_since(at) >= LIST_INTERVAL) {
            match self.list(now) {
                Ok(()) => {
                    let addresses = self.endpoints.keys().copied().collect();
                    self.observe(&Event::Endpoints(addresses), &book);
                    self.look_for_down(&book);
                }
                Err(error) => tracing::warn!(%error, "cannot list the endpoints"),
            }
        }
        self.look_for_ready(&book);
        let actions = self.core.beat(now, |path| book.facts(path));
        self.act(&actions, &book);
    }

    /// When [`Driver::beat`] is to be called at the latest.
    pub fn next_beat(&self) -> Instant {
        let now = Instant::now();
        let list = self.listed_at.map_or(now, |at| at + LIST_INTERVAL);
        let ready = (!self.unready.is_empty()).then(|| now + READY_INTERVAL);
        self.core.next_beat().into_iter().chain(ready).fold(list, Instant::min)
    }

    /// What was taken away, and is to be put back.
    pub fn taken(&self) -> impl Iterator<Item = &Endpoint> {
        self.taken.values()
    }

    /// An endpoint is wanted no more: it is not put back. False if it was not taken away.
    pub fn forget(&mut self, address: IpAddr) -> bool {
        self.taken.remove(&address).is_some()
    }

    /// Somebody has changed endpoints: they are listed with the next beat, which is now.
    pub fn look_anew(&mut self) {
        self.listed_at = None;
    }

    /// Puts back what was taken away.
    pub fn release(&mut self) {
        let actions = self.core.release();
        self.act(&actions, &Book::default());
    }

    fn observe(&mut self, event: &Event, book: &Book) {
        let actions = self.core.observe(event, Instant::now(), |path| book.facts(path));
        self.act(&actions, book);
    }

    fn list(&mut self, now: Instant) -> Result<(), PathManagerError> {
        self.listed_at = Some(now);
        let made = self.manager.endpoints()?.into_iter().filter(|one| !one.flags.contains(EndpointFlags::IMPLICIT));
        self.endpoints = made.map(|endpoint| (endpoint.address, endpoint)).collect();
        // What somebody else put back is theirs.
        self.taken.retain(|address, _| !self.endpoints.contains_key(address));
        for address in address::list()? {
            if self.endpoints.contains_key(&address.address) {
                self.homes.insert(address.address, address.ifindex);
            }
        }
        let (endpoints, taken) = (&self.endpoints, &self.taken);
        self.homes.retain(|address, _| endpoints.contains_key(address) || taken.contains_key(address));
        Ok(())
    }

    /// An endpoint may be made for an address whose interface is down already.
    fn look_for_down(&mut self, book: &Book) {
        let down = self.homes.iter().filter(|(_, home)| self.up.get(home) == Some(&false));
        let addresses: Vec<IpAddr> = down.map(|(address, _)| *address).collect();
        for address in addresses {
            self.observe(&Event::Down(address), book);
        }
    }

    fn look_for_ready(&mut self, book: &Book) {
        if self.unready.is_empty() {
            return;
        }
        let Ok(list) = address::list() else { return };
        let ready: Vec<IpAddr> = list
            .into_iter()
            .filter(|one| one.readiness == Readiness::Ready && self.unready.remove(&one.address))
            .map(|one| one.address)
            .collect();
        for address in ready {
            self.observe(&Event::Up(address), book);
        }
    }

    fn act(&mut self, actions: &[Action], book: &Book) {
        for action in actions {
            let result = match action {
                Action::Remove(address) => self.remove(*address),
                Action::Restore(address) => self.restore(*address),
                Action::Close { local, remote } => {
                    book.close(*local, *remote);
                    Ok(())
                }
            };
            match result {
                Ok(()) => tracing::info!(?action, "failover"),
                Err(error) => tracing::warn!(?action, %error, "failover"),
            }
        }
    }

    fn remove(&mut self, address: IpAddr) -> Result<(), PathManagerError> {
        let Some(endpoint) = self.endpoints.remove(&address) else { return Ok(()) };
        self.manager.delete_endpoint(&endpoint)?;
        self.taken.insert(address, endpoint);
        Ok(())
    }

    fn restore(&mut self, address: IpAddr) -> Result<(), PathManagerError> {
        let Some(endpoint) = self.taken.get(&address) else { return Ok(()) };
        // Kept if it is refused: it is tried again with the next probe.
        self.manager.add_endpoint(endpoint)?;
        self.endpoints.extend(self.taken.remove_entry(&address));
        Ok(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.release();
    }
}

/// What of a subflow matters here.
#[derive(Clone, Copy, Debug)]
struct Line {
    key: SubflowKey,
    token: u32,
    fell_back: bool,
    is_established: bool,
    received: u64,
}

/// The subflows of the moment.
#[derive(Debug, Default)]
struct Book(Vec<Line>);

impl Book {
    /// Empty if the table cannot be read, which is as if the host had no connections: nothing is done then.
    fn read(table: &mut Subflows) -> Book {
        let mut lines = Vec::new();
        if let Err(error) = table.poll(|view| lines.extend(Line::of(view))) {
            tracing::warn!(%error, "cannot read the table of subflows");
        }
        Book(lines)
    }

    fn facts(&self, path: Path) -> Facts {
        let mut facts = Facts::default();
        let (mut here, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
        for line in &self.0 {
            let is_here = line.is_on(path);
            if is_here {
                facts.received += line.received;
                facts.connecting += usize::from(!line.is_established);
                facts.established += usize::from(line.is_established);
            }
            if line.is_established {
                facts.alone += usize::from(is_here && line.fell_back);
                if is_here { &mut here } else { &mut elsewhere }.insert(line.token);
            }
        }
        facts.alone += here.difference(&elsewhere).count();
        facts.connections = here.union(&elsewhere).count();
        facts
    }

    /// Closes each subflow between these addresses whose connection has another one.
    fn close(&self, local: IpAddr, remote: IpAddr) {
        let on = |line: &Line| line.is_established && line.is_on(Path::Peer { local, remote });
        for line in self.0.iter().filter(|line| on(line) && !line.fell_back) {
            let other = |other: &Line| other.is_established && other.token == line.token && !on(other);
            if !self.0.iter().any(other) {
                continue;
            }
            if let Err(error) = sock_diag::destroy(&line.key) {
                tracing::debug!(%remote, %error, "cannot close a subflow");
            }
        }
    }
}

impl Line {
    fn of(view: &View) -> Option<Line> {
        let info = &view.info;
        let is_established = match info.state() {
            SubflowState::Established => true,
            SubflowState::Connecting => false,
            SubflowState::Free | SubflowState::Closed => return None,
        };
        // What was acknowledged tells as well, on an interface whose packets are not counted.
        let received = view.rx.packets + u64::from(info.rtt_reports);
        Some(Line { key: info.key, token: info.token, fell_back: info.has(flags::FELL_BACK), is_established, received })
    }

    fn is_on(&self, path: Path) -> bool {
        let is = |bytes: [u8; 16], address: IpAddr| Ipv6Addr::from(bytes).to_canonical() == address;
        match path {
            Path::Endpoint(address) => is(self.key.local, address),
            Path::Peer { local, remote } => is(self.key.local, local) && is(self.key.remote, remote),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: u8, token: u32, is_established: bool) -> Line {
        let key = SubflowKey::v4([10, 0, path, 1], [10, 0, 0, 2], 40_000, 443);
        Line { key, token, fell_back: false, is_established, received: 10 }
    }

    #[test]
    fn a_connection_is_alone_when_nothing_else_carries_it() {
        let path = Path::Endpoint([10, 0, 1, 1].into());
        let book = Book(vec![line(0, 1, true), line(1, 1, true), line(1, 2, true), line(0, 2, false)]);
        let wanted = Facts { received: 20, established: 2, connecting: 0, alone: 1, connections: 2 };
        assert_eq!(book.facts(path), wanted);
        assert_eq!(book.facts(Path::Endpoint([10, 0, 0, 1].into())).alone, 0);
        let pair = |path| Path::Peer { local: [10, 0, path, 1].into(), remote: [10, 0, 0, 2].into() };
        assert_eq!((book.facts(pair(1)).alone, book.facts(pair(2))), (1, Facts { connections: 2, ..Facts::default() }));
    }

    #[test]
    fn what_fell_back_is_alone() {
        let book = Book(vec![line(0, 0, true), Line { fell_back: true, ..line(1, 0, true) }]);
        assert_eq!(book.facts(Path::Endpoint([10, 0, 1, 1].into())).alone, 1);
    }
}
