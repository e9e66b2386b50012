//! The book compared with the kernel's list of sockets, which is the truth at the time when it was made.

use std::collections::BTreeMap;
use std::time::Instant;

use super::connection::{Connection, Role};
use super::locals::Local;
use super::mode::Wanted;
use super::subflow::{Attempt, Ends, Origin, Pair, PairState, Remote, Subflow};

/// The MPTCP connections of a network namespace and their subflows. Those that fell back to TCP are not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// By their local tokens.
    pub connections: BTreeMap<u32, ListedConnection>,
}

/// A connection, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedConnection {
    /// Addresses and ports that it began with.
    pub ends: Ends,
    /// Whether its socket is one of IPv6.
    pub ipv6_socket: bool,
    /// Index of the interface that it is bound to.
    pub ifindex: Option<u32>,
    /// Whether its state is ESTABLISHED: no end was announced.
    pub open: bool,
    /// Its subflows.
    pub subflows: Vec<ListedSubflow>,
}

/// A subflow, as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedSubflow {
    /// Addresses and ports.
    pub ends: Ends,
    /// Identifier of the local address.
    pub local_id: u8,
    /// Identifier of the remote address.
    pub remote_id: u8,
    /// Whether its socket is one of IPv6.
    pub ipv6_socket: bool,
    /// Whether it joined the connection, rather than began it.
    pub joined: bool,
    /// Whether this host made it.
    pub by_us: bool,
    /// Whether this host wants it as a backup.
    pub backup: bool,
    /// Whether it waits for the answer to its SYN.
    pub connecting: bool,
    /// Whether it is fully established (RFC 8684 section 3.1).
    pub fully_established: bool,
}

impl ListedConnection {
    /// Which end this host is, if a subflow tells it: clients make subflows, servers do only in odd cases.
    fn role(&self) -> Option<Role> {
        let first = self.subflows.iter().find(|subflow| !subflow.joined);
        let by_us = first.or(self.subflows.first())?.by_us;
        Some(if by_us { Role::Client } else { Role::Server })
    }

    fn is_established(&self) -> bool {
        self.open && self.subflows.iter().any(|subflow| subflow.fully_established)
    }

    /// The connection as a new one of the book; `None` if it is not known which end this host is, or if it is only beginning
    /// or ending.
    pub(super) fn adopt(&self, token: u32, now: Instant) -> Option<Connection> {
        let role = self.role().filter(|_| self.open)?;
        let mut connection =
            Connection { ifindex: self.ifindex, ..Connection::new(token, role, self.ends, self.ipv6_socket) };
        connection.take_listed(self, now);
        Some(connection)
    }
}

/// What a comparison has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Subflows that joined and were not known.
    pub joined: usize,
    /// Subflows that were known and are no more.
    pub vanished: Vec<Subflow>,
    /// Where subflows were asked for that are not there.
    pub failed: Vec<Pair>,
}

impl Connection {
    /// Has the connection be as it is listed.
    pub(super) fn take_listed(&mut self, listed: &ListedConnection, now: Instant) -> Found {
        // That it was established is never taken back: of a connection whose subflows are all gone the list says nothing.
        self.established = listed.open && (self.established || listed.is_established());
        let there: Vec<&ListedSubflow> = listed.subflows.iter().filter(|subflow| !subflow.connecting).collect();
        let known: Vec<Ends> = self.subflows.iter().map(|subflow| subflow.ends).collect();
        let gone = known.iter().filter(|ends| there.iter().all(|subflow| subflow.ends != **ends));
        let vanished = gone.filter_map(|ends| self.bury(*ends)).collect();
        let new: Vec<&ListedSubflow> = there.into_iter().filter(|subflow| !known.contains(&subflow.ends)).collect();
        self.subflows.extend(new.iter().map(|subflow| subflow.established(now)));
        let joined = new.iter().filter(|subflow| subflow.joined).count();
        Found { joined, vanished, failed: self.take_connecting(listed, &new) }
    }

    /// Replaces attempts that the kernel took by those that are listed. One that is neither listed nor joined has failed.
    fn take_connecting(&mut self, listed: &ListedConnection, new: &[&ListedSubflow]) -> Vec<Pair> {
        let mut before = Vec::new();
        for state in &mut self.pairs {
            let count = state.attempts.len();
            state.attempts.retain(|attempt| !attempt.taken);
            before.push((state.pair(), count - state.attempts.len()));
        }
        for subflow in listed.subflows.iter().filter(|subflow| subflow.connecting) {
            let attempt = Attempt { taken: true, port: Some(subflow.ends.local.port()) };
            self.pair_or_unwanted(subflow).attempts.push(attempt);
        }
        let lost = |(pair, count): &(Pair, usize)| {
            let is_on = |subflow: &&&ListedSubflow| subflow.ends.pair() == *pair;
            let connecting = listed.subflows.iter().filter(|subflow| subflow.connecting);
            new.iter().filter(is_on).count() + connecting.filter(|subflow| subflow.ends.pair() == *pair).count()
                < *count
        };
        before.into_iter().filter(lost).map(|(pair, _)| pair).collect()
    }

    fn pair_or_unwanted(&mut self, subflow: &ListedSubflow) -> &mut PairState {
        let pair = subflow.ends.pair();
        let at = self.pairs.iter().position(|state| state.pair() == pair).unwrap_or_else(|| {
            let remote = Remote { id: subflow.remote_id, address: pair.remote };
            self.pairs.push(PairState::new(Wanted { local: Local::new(pair.local), remote, subflows: 0 }));
            self.pairs.len() - 1
        });
        &mut self.pairs[at]
    }
}

impl ListedSubflow {
    fn established(&self, now: Instant) -> Subflow {
        let origin = match (self.joined, self.by_us) {
            (false, _) => Origin::First,
            (true, true) => Origin::Ours,
            (true, false) => Origin::Peer,
        };
        Subflow {
            ends: self.ends,
            local_id: self.local_id,
            remote_id: self.remote_id,
            origin,
            mapped: self.ipv6_socket && self.ends.local.is_ipv4(),
            backup: self.backup,
            since: now,
            ending: false,
            changing: false,
        }
    }
}
