//! Lets [`Failover`] see the kernel, and does what it decides.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::book::Book;
use super::hearing::{ByToken, Doubt, Hearing};
use super::roster::Roster;
use super::{Action, Event, Facts, Failover, Settings};
use crate::control::away::{Away, Suspended};
use crate::control::live::endpoint;
use crate::kernel::address::{self, Address};
use crate::kernel::link;
use crate::kernel::mptcp_pm::{Endpoint, EndpointFlags, PathManager, PathManagerError};
use crate::kernel::netlink::Client;
use crate::kernel::policy::{Policy, Timeout};
use crate::kernel::sock_diag::{Extensions, SockDiag, States};
use crate::kernel::subflows::Subflows;

/// How often the endpoints are listed: the kernel does not tell when somebody changes them.
const LIST_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether an address can be used whose interface has come up.
const READY_INTERVAL: Duration = Duration::from_millis(50);
/// How often paths are listened to while data comes on several.
const LISTEN_INTERVAL: Duration = Duration::from_millis(20);
/// With more subflows than that, to listen would cost too much: about 1 ms each time.
const MOST_LISTENED: usize = 256;
/// Of so many addresses it is remembered at most that a first subflow was closed.
const MOST_ORPHANED: usize = 256;

/// What the kernel has to set on subflows for this: a retransmission timer that expires a little later than an acknowledgement
/// may be delayed (TCP_DELACK_MIN, 40 ms, include/net/tcp.h), and one that a returning path is noticed by within a second.
/// `net.mptcp.stale_loss_cnt` should be 1 beside it, so that the kernel hands over after two such timeouts, and the default
/// of `net.ipv4.tcp_rmem` some megabytes: a receiver that fills up while a hole is open may never take what fills it.
///
/// Before Linux 6.15 there is no bound for how long the timer may become: a path that was silent for long is noticed later.
pub fn policy() -> Policy {
    let is_bounded = Path::new("/proc/sys/net/ipv4/tcp_rto_max_ms").exists();
    Policy {
        rto_min_us: Some(50_000),
        rto_max_ms: is_bounded.then_some(1_000),
        reports_timeouts: true,
        ..Policy::default()
    }
}

/// The paths of one network namespace. All but [`Driver::next_beat`] must be called inside it.
pub struct Driver {
    core: Failover,
    manager: PathManager,
    roster: Roster,
    /// Addresses of first subflows that were closed.
    orphaned: BTreeSet<IpAddr>,
    listed_at: Option<Instant>,
    /// When it was looked whether addresses can be used.
    looked_at: Option<Instant>,
    hearing: Hearing,
    listened_at: Option<Instant>,
    /// Tells where connections stand.
    diag: SockDiag,
    /// Tells whether interfaces are up.
    route: Client,
    tells_twice: bool,
    /// Where it is written down what is away.
    away: Option<Away>,
}

/// Whether this kernel sends the RM_ADDR by a connection's first subflow even where that is the one to be removed, so that the
/// peer never hears of it (mptcp_pm_addr_send_ack, net/mptcp/pm.c): those before March 2026 (6.12.77, 6.18.17, 6.19.7). Others
/// of these series say it twice then. Before 6.12 some miscount what is closed already (mptcp_pm_nl_rm_addr_or_subflow, mended in
/// August 2024 only), and are left alone.
fn tells_twice(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    ((6, 12)..(7, 0)).contains(&version)
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
            roster: Roster::default(),
            orphaned: BTreeSet::new(),
            listed_at: None,
            looked_at: None,
            hearing: Hearing::default(),
            listened_at: None,
            diag: SockDiag::open()?,
            route: Client::open(netlink_sys::protocols::NETLINK_ROUTE)?,
            tells_twice: fs::read_to_string("/proc/sys/kernel/osrelease")
                .is_ok_and(|release| tells_twice(release.trim())),
            away: None,
        };
        let now = Instant::now();
        for interface in link::list()? {
            driver.roster.set_link(interface.index, interface.is_up, now);
        }
        driver.list(now)?;
        let event = driver.endpoints();
        driver.core.observe(&event, now, |_| Facts::default());
        Ok(driver)
    }

    /// Has it written down what is away for as long as it is: if the agent is killed, the next one puts it back.
    pub fn write_down_in(&mut self, away: Option<Away>) {
        self.away = away;
        self.write_down(&[]);
    }

    /// Writes down what is away, and what is about to be.
    fn write_down(&mut self, leaving: &[Endpoint]) {
        let Some(away) = &mut self.away else { return };
        let whole = |one| endpoint(self.roster.whole(one));
        let gone = self.roster.gone().map(endpoint).chain(leaving.iter().map(whole)).collect();
        let suspended = Suspended { gone, reduced: self.roster.reduced().map(endpoint).collect() };
        if let Err(error) = away.write(suspended) {
            tracing::warn!(%error, "what failover takes away is written down nowhere: if the agent is killed, it stays away");
        }
    }

    /// Takes note of news of interfaces.
    pub fn links(&mut self, events: &[link::Event], table: &mut Subflows) {
        let book = Book::read(table);
        for event in events {
            match event {
                link::Event::Present(interface) => self.link(interface.index, interface.is_up, &book),
                link::Event::Gone { index } => {
                    self.link(*index, false, &book);
                    self.roster.lose_link(*index);
                }
            }
        }
        let now = Instant::now();
        if self.roster.is_waiting(now) {
            self.look_for_ready(now, &book);
        }
    }

    fn link(&mut self, index: u32, is_up: bool, book: &Book) {
        let Some(addresses) = self.roster.set_link(index, is_up, Instant::now()) else { return };
        if is_up {
            return;
        }
        for address in addresses {
            self.observe(&Event::Down(address), book);
        }
        let count = book.close_stranded(index, |address| self.roster.has_home(address));
        if count > 0 {
            tracing::info!(interface = index, count, "failover: closed subflows that cannot leave any more");
        }
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
                Ok(addresses) => self.compare(&addresses, now, &book),
                Err(error) => tracing::warn!(%error, "cannot list the endpoints"),
            }
        }
        if self.next_look(now).is_some_and(|at| at <= now) {
            self.look_for_ready(now, &book);
        }
        self.listen(now, &book);
        let actions = self.core.beat(now, |path| facts(&self.roster, &book, path));
        self.act(&actions, &book);
        // An endpoint may be made for an address whose interface is down already, and what was kept for want of another path
        // may be dispensable by now.
        for address in self.roster.down() {
            self.observe(&Event::Down(address), &book);
        }
    }

    /// What the list means for paths.
    fn compare(&mut self, addresses: &[Address], now: Instant, book: &Book) {
        let event = self.endpoints();
        self.observe(&event, book);
        self.roster.look_for_up(now, |address| self.core.is_down(address));
        self.take_ready(addresses, book);
        self.restore_rest();
        if book.is_idle() {
            self.complete();
        }
    }

    /// Hears what a receiver can, and looks whether a carrier is lost: the kernel tells at once of one, and up to a second
    /// later of the next one of the host (linkwatch_schedule_work, net/core/link_watch.c, Linux 6.18).
    fn listen(&mut self, now: Instant, book: &Book) {
        let since = self.listened_at.map(|at| now.saturating_duration_since(at));
        if since.is_some_and(|time| time < LISTEN_INTERVAL) {
            return;
        }
        self.listened_at = Some(now);
        if book.len() > MOST_LISTENED {
            self.hearing = Hearing::default();
            return;
        }
        if self.hearing.is_keen(now) {
            self.look_for_carriers(book);
        }
        let heard = self.core.carrying().map(|address| (address, book.heard(address))).collect();
        let (core, diag) = (&self.core, &mut self.diag);
        let doubts = self.hearing.listen(now, &heard, |address| core.patience(address, now), || edges(diag));
        for (local, doubt) in doubts {
            let event = match doubt {
                Doubt::Hole => Event::Missed(local),
                Doubt::Stopped { quiet } => Event::Stopped { local, quiet },
            };
            tracing::debug!(?event, "failover");
            self.observe(&event, book);
        }
    }

    fn look_for_carriers(&mut self, book: &Book) {
        for home in self.roster.links_up() {
            if let Ok(Some(interface)) = link::look(&mut self.route, home)
                && !interface.is_up
            {
                self.link(home, false, book);
            }
        }
    }

    /// When [`Driver::beat`] is to be called at the latest.
    pub fn next_beat(&self) -> Instant {
        let now = Instant::now();
        let list = self.listed_at.map_or(now, |at| at + LIST_INTERVAL);
        let ready = self.next_look(now);
        let listen = self.hearing.is_keen(now).then(|| self.listened_at.map_or(now, |at| at + LISTEN_INTERVAL));
        let count = self.hearing.first_count_at();
        self.core.next_beat().into_iter().chain(ready).chain(listen).chain(count).fold(list, Instant::min)
    }

    /// When it is to be looked whether addresses can be used, if any is waited for.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        self.roster.is_waiting(now).then(|| self.looked_at.map_or(now, |at| at + READY_INTERVAL))
    }

    /// What was taken away, and is to be put back, as it was; and what it was that lacks a flag for now.
    pub fn taken(&self) -> impl Iterator<Item = &Endpoint> {
        self.roster.suspended()
    }

    /// An endpoint is wanted no more, or with other flags: it is not put back. False if it was not taken away.
    pub fn forget(&mut self, endpoint: &Endpoint) -> bool {
        let was_taken = self.roster.forget(endpoint);
        if was_taken && !self.roster.knows(endpoint.address) {
            self.core.forget(endpoint.address);
        }
        self.write_down(&[]);
        self.look_anew();
        was_taken
    }

    /// Somebody has changed endpoints: they are listed with the next beat, which is now.
    pub fn look_anew(&mut self) {
        self.listed_at = None;
    }

    /// Puts back what was taken away.
    pub fn release(&mut self) {
        self.core.clear();
        let actions: Vec<Action> = self.roster.away().into_iter().map(Action::Restore).collect();
        self.act(&actions, &Book::default());
        self.complete();
    }

    /// Gives endpoints back the flag that they lack.
    fn complete(&mut self) {
        self.orphaned.clear();
        for endpoint in self.roster.complete() {
            match self.manager.set_endpoint_flags(&endpoint) {
                Ok(()) => self.roster.put(endpoint),
                Err(error) => {
                    tracing::warn!(address = %endpoint.address, %error, "the endpoint is of no full mesh any more");
                }
            }
        }
        self.write_down(&[]);
    }

    fn observe(&mut self, event: &Event, book: &Book) {
        let actions = self.core.observe(event, Instant::now(), |path| facts(&self.roster, book, path));
        self.act(&actions, book);
    }

    fn endpoints(&self) -> Event {
        Event::Endpoints { there: self.roster.there(), away: self.roster.away() }
    }

    /// Returns the addresses of this host.
    fn list(&mut self, now: Instant) -> Result<Vec<Address>, PathManagerError> {
        self.listed_at = Some(now);
        let (endpoints, addresses) = (self.manager.endpoints()?, address::list()?);
        self.roster.refresh(endpoints, &addresses);
        self.write_down(&[]);
        Ok(addresses)
    }

    fn look_for_ready(&mut self, now: Instant, book: &Book) {
        self.looked_at = Some(now);
        if let Ok(addresses) = address::list() {
            self.take_ready(&addresses, book);
        }
    }

    fn take_ready(&mut self, addresses: &[Address], book: &Book) {
        for address in self.roster.ready(addresses) {
            self.observe(&Event::Up(address), book);
        }
    }

    /// What is away although its path carries something: one of several endpoints of an address was refused, or somebody else
    /// has put back the others.
    fn restore_rest(&mut self) {
        let carrying: BTreeSet<IpAddr> = self.core.carrying().collect();
        for address in self.roster.away().into_iter().filter(|address| carrying.contains(address)) {
            match self.restore(address) {
                Ok(()) => tracing::info!(%address, "failover: put back the last of its endpoints"),
                Err(error) => tracing::debug!(%address, %error, "failover: an endpoint stays away"),
            }
        }
    }

    fn act(&mut self, actions: &[Action], book: &Book) {
        for action in actions {
            let result = match action {
                Action::Remove(address) => self.remove(*address, book),
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
        self.write_down(&[]);
    }

    fn remove(&mut self, address: IpAddr, book: &Book) -> Result<(), PathManagerError> {
        let endpoints = self.roster.there_at(address);
        if endpoints.is_empty() {
            return Ok(());
        }
        if book.has_first(address) && self.orphaned.len() < MOST_ORPHANED {
            self.orphaned.insert(address);
        }
        self.write_down(&endpoints);
        let mut outcome = Ok(());
        for endpoint in endpoints {
            match self.manager.delete_endpoint(&endpoint) {
                Ok(()) => self.roster.take(endpoint),
                Err(error) => outcome = Err(error),
            }
        }
        if outcome.is_ok() && self.tells_twice && book.has_settled_first(address) {
            self.tell_by_another(address);
        }
        outcome
    }

    /// Has the peers told again that the path is away, by another subflow than the first one ([`tells_twice`]). That is closed
    /// by now, and to remove identifier 0, which is its address, sends an RM_ADDR by what is left.
    fn tell_by_another(&mut self, address: IpAddr) {
        let first = Endpoint::new(address, EndpointFlags::default());
        if let Err(error) = self.manager.delete_endpoint(&first) {
            tracing::debug!(%address, %error, "the peers may not know that the path is away");
        }
    }

    fn restore(&mut self, address: IpAddr) -> Result<(), PathManagerError> {
        let is_orphaned = self.orphaned.contains(&address);
        let mut outcome = Ok(());
        for mut endpoint in self.roster.away_at(address) {
            if is_orphaned {
                endpoint.flags.0 &= !EndpointFlags::FULLMESH.0;
            }
            match self.manager.add_endpoint(&endpoint) {
                Ok(()) => self.roster.put(endpoint),
                // It stays with those that are away, and is tried again.
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.release();
    }
}

/// What is known of a path.
fn facts(roster: &Roster, book: &Book, path: super::Path) -> Facts {
    let is_away = matches!(path, super::Path::Endpoint(address) if roster.is_away(address));
    Facts { is_away, ..book.facts(path) }
}

/// The next byte that each connection expects; nothing where the kernel does not tell.
fn edges(diag: &mut SockDiag) -> ByToken {
    let mut edges = ByToken::new();
    let outcome = diag.visit_mptcp(States::CONNECTIONS, Extensions::INFO, |socket| {
        edges.extend(socket.mptcp_info().and_then(|info| info.token().zip(info.rcv_nxt())));
    });
    if let Err(error) = outcome {
        tracing::debug!(%error, "cannot tell where connections stand");
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_may_tell_by_a_dead_subflow_are_known_by_their_release() {
        for release in ["6.12.40-cloud", "6.12-rc1", "6.18.15+deb13-cloud-amd64", "6.19"] {
            assert!(tells_twice(release), "{release}");
        }
        for release in ["6.1.0-57-cloud-amd64", "6.11.9", "7.0.0", "7.3.4+deb13-cloud-amd64", "", "6"] {
            assert!(!tells_twice(release), "{release}");
        }
    }
}
