//! The book of connections: what the kernel tells goes in, what is to be asked of it comes out. No input or output.

mod outcome;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::connection::Connection;
use super::happening::Happening;
use super::locals::{Local, Locals, LocalsError};
use super::mode::Mode;
use super::reconcile::reconcile;
use super::request::{Request, Why};
use super::resync::{ListedConnection, Listing};
use super::settings::Settings;
use super::stats::{Counters, Failures, Stats};
use super::subflow::{Ends, PairState, Subflow};

/// Why a subflow ended of which no event told.
const GONE: &str = "no longer listed";

/// What is known of all connections of a network namespace.
///
/// Whatever requests a function returns are noted as made: they are to be made, in this order, and [`Book::told`] wants to
/// know of each what came of it.
pub struct Book {
    settings: Settings,
    mode: Box<dyn Mode + Send>,
    locals: Locals,
    connections: BTreeMap<u32, Connection>,
    /// When to look at which connection again.
    due: BTreeSet<(Instant, u32)>,
    /// Something is amiss that only a list can tell.
    wants_listing: bool,
    /// Connections of the last list that there was no room for.
    left_out: usize,
    counters: Counters,
    failures: Failures,
}

impl Book {
    /// An empty book.
    pub fn new(settings: Settings) -> Book {
        Book {
            mode: settings.mode.make(&settings),
            settings,
            locals: Locals::default(),
            connections: BTreeMap::new(),
            due: BTreeSet::new(),
            wants_listing: false,
            left_out: 0,
            counters: Counters::default(),
            failures: Failures::default(),
        }
    }

    /// Takes note of what happened to the connection with this token.
    pub fn observe(&mut self, token: u32, happening: &Happening, now: Instant) -> Vec<Request> {
        match *happening {
            Happening::Began { ends, role, ipv6_socket, ifindex, denies_first, established } => {
                let begun = || Connection { ifindex, ..Connection::new(token, role, ends, ipv6_socket) };
                let Some(connection) = self.begin(token, begun, ends, now) else { return Vec::new() };
                connection.denies_first |= denies_first;
                connection.established |= established;
            }
            Happening::Ended => {
                self.counters.connections_ended += u64::from(self.forget(token));
                return Vec::new();
            }
            _ if !self.connections.contains_key(&token) => {
                self.counters.events_stray += 1;
                // A connection that began while events were lost; where there is no room, nothing would come of a list.
                self.wants_listing |= matches!(happening, Happening::Joined { .. }) && self.has_room();
                return Vec::new();
            }
            Happening::Joined { .. } => self.joined(token, happening, now),
            Happening::Left { ends, error, reason } => self.left(token, ends, error, reason, now),
            Happening::Announced { remote } => self.learn(token, remote),
            Happening::Removed { id } => {
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.remotes.retain(|remote| remote.id != id);
                }
            }
        }
        self.look_at(token, now)
    }

    /// Compares the book with a list of what there is. Events that came before it was made should have been observed.
    pub fn resync(&mut self, listing: &Listing, now: Instant) -> Vec<Request> {
        self.counters.resyncs += 1;
        self.wants_listing = false;
        let ended: Vec<u32> =
            self.connections.keys().copied().filter(|token| !listing.connections.contains_key(token)).collect();
        for token in ended {
            self.forget(token);
            self.counters.connections_ended += 1;
        }
        self.left_out = 0;
        let mut requests = Vec::new();
        for (token, listed) in &listing.connections {
            self.take_listed(*token, listed, now);
            requests.extend(self.look_at(*token, now));
        }
        requests
    }

    /// What is due by now, as after a pause.
    pub fn beat(&mut self, now: Instant) -> Vec<Request> {
        let mut requests = Vec::new();
        while let Some((at, token)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, token));
            if let Some(connection) = self.connections.get_mut(&token) {
                connection.due = None;
            }
            requests.extend(self.look_at(token, now));
        }
        requests
    }

    /// When [`Book::beat`] has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whether something is amiss that only a list can tell: [`Book::resync`].
    pub fn wants_listing(&self) -> bool {
        self.wants_listing
    }

    /// Takes over the local addresses of the moment. Of those that are gone, peers are told and subflows ended.
    pub fn set_locals(&mut self, locals: Vec<Local>, now: Instant) -> Result<Vec<Request>, LocalsError> {
        self.locals.set(locals)?;
        Ok(self.look_at_all(now))
    }

    /// Takes over other settings.
    pub fn set_settings(&mut self, settings: Settings, now: Instant) -> Vec<Request> {
        self.mode = settings.mode.make(&settings);
        self.settings = settings;
        self.look_at_all(now)
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The connections, in the order of their tokens.
    pub fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.connections.values()
    }

    /// The connection with this token.
    pub fn connection(&self, token: u32) -> Option<&Connection> {
        self.connections.get(&token)
    }

    /// Counters, for those who open and list.
    pub(super) fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Where it stands.
    pub fn stats(&self, now: Instant) -> Stats {
        let managed = || self.connections.values().filter(|connection| !connection.foreign);
        let pairs = || managed().flat_map(|connection| connection.pairs.iter().map(move |pair| (connection, pair)));
        let missing = |(connection, pair): (&Connection, &PairState)| {
            let on_it = connection.subflows.iter().filter(|subflow| subflow.ends.pair() == pair.pair());
            usize::from(pair.wanted.subflows).saturating_sub(on_it.count() + pair.attempts.len())
        };
        let pauses = pairs().filter(|(_, pair)| pair.backoff.pending(now).is_some()).count();
        let control = managed().filter(|connection| connection.control.pending(now).is_some()).count();
        Stats {
            mode: self.settings.mode.name(),
            managed: managed().count(),
            unmanaged: self.connections.len() - managed().count() + self.left_out,
            wanted: pairs().map(missing).sum(),
            requested: pairs().map(|(_, pair)| pair.attempts.len()).sum(),
            established: managed().map(|connection| connection.subflows.len()).sum(),
            backoffs_pending: pauses + control,
            failures: self.failures.by_reason.clone(),
            last_failures: self.failures.last.iter().cloned().collect(),
            counters: self.counters,
        }
    }

    fn has_room(&self) -> bool {
        self.connections.len() < self.settings.most_connections
    }

    /// The connection, which is made if it is new and there is room; then its first subflow is there.
    fn begin(
        &mut self,
        token: u32,
        begun: impl FnOnce() -> Connection,
        ends: Ends,
        now: Instant,
    ) -> Option<&mut Connection> {
        if !self.connections.contains_key(&token) {
            if !self.has_room() {
                self.counters.connections_over_the_cap += 1;
                return None;
            }
            let mut connection = begun();
            connection.subflows.push(Subflow::first(ends, connection.ipv6_socket, now));
            self.connections.insert(token, connection);
            self.counters.connections_begun += 1;
        }
        self.connections.get_mut(&token)
    }

    fn take_listed(&mut self, token: u32, listed: &ListedConnection, now: Instant) {
        let Some(connection) = self.connections.get_mut(&token) else {
            match listed.adopt(token, now) {
                Some(connection) if self.has_room() => {
                    self.connections.insert(token, connection);
                    self.counters.connections_adopted += 1;
                }
                Some(_) => self.left_out += 1,
                None => {}
            }
            return;
        };
        let found = connection.take_listed(listed, now);
        self.counters.subflows_joined += found.joined as u64;
        for subflow in found.vanished {
            self.ended(token, subflow, GONE, now);
        }
        for pair in found.failed {
            self.failed(token, pair, GONE, now);
        }
    }

    fn forget(&mut self, token: u32) -> bool {
        let Some(connection) = self.connections.remove(&token) else { return false };
        if let Some(due) = connection.due {
            self.due.remove(&(due, token));
        }
        true
    }

    fn look_at_all(&mut self, now: Instant) -> Vec<Request> {
        let tokens: Vec<u32> = self.connections.keys().copied().collect();
        tokens.into_iter().flat_map(|token| self.look_at(token, now)).collect()
    }

    /// What a connection lacks.
    fn look_at(&mut self, token: u32, now: Instant) -> Vec<Request> {
        let Some(connection) = self.connections.get_mut(&token) else { return Vec::new() };
        if let Some(due) = connection.due {
            self.due.remove(&(due, token));
        }
        let plan = self.mode.plan(connection, &self.locals);
        let requests = reconcile(connection, &plan, &self.locals, self.settings.most_subflows.into(), now);
        self.due.extend(connection.due.map(|due| (due, token)));
        requests.iter().for_each(|request| self.count(request));
        requests
    }

    fn count(&mut self, request: &Request) {
        let counters = &mut self.counters;
        let counter = match request {
            Request::CreateSubflow { .. } => &mut counters.subflows_requested,
            Request::DestroySubflow { why: Why::OverTheCap, .. } => &mut counters.ended_over_the_cap,
            Request::DestroySubflow { why: Why::AddressGone, .. } => &mut counters.ended_address_gone,
            Request::DestroySubflow { why: Why::Unwanted, .. } => &mut counters.ended_unwanted,
            // These are counted when they are done.
            Request::Announce { .. } | Request::Remove { .. } | Request::SetFlags { .. } => return,
        };
        *counter += 1;
    }
}
