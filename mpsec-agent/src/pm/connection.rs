//! A connection as the book knows it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use super::backoff::Backoff;
use super::locals::Local;
use super::subflow::{Attempt, Ends, Origin, Pair, PairState, Remote, Subflow};

/// Addresses of one peer that are remembered.
pub const MOST_REMOTES: usize = 64;
/// Subflows that ended by this host's doing, or while nobody listened, and whose end may yet be told.
const MOST_GONE: usize = 32;

/// Ids of a connection's own, of which there are 255; the others are left to subflows.
const MOST_OWN_IDS: usize = 192;

/// Which end of a connection this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It connected.
    Client,
    /// It accepted.
    Server,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub(super) token: u32,
    pub(super) role: Role,
    pub(super) first: Ends,
    pub(super) ipv6_socket: bool,
    pub(super) ifindex: Option<u32>,
    pub(super) denies_first: bool,
    /// The kernel takes no id 0 for the address that the connection began with.
    pub(super) first_needs_id: bool,
    pub(super) established: bool,
    pub(super) foreign: bool,
    pub(super) subflows: Vec<Subflow>,
    pub(super) pairs: Vec<PairState>,
    pub(super) remotes: Vec<Remote>,
    /// Addresses that the peer was told of.
    pub(super) announced: Vec<IpAddr>,
    /// The one that it is being told of.
    pub(super) announcing: Option<IpAddr>,
    /// Addresses that the peer was told are gone.
    pub(super) taken_back: Vec<IpAddr>,
    /// Ids that addresses have in this connection and nowhere else.
    pub(super) own_ids: Vec<(IpAddr, u8)>,
    /// Requests other than for subflows: failures, and until when there is none.
    pub(super) control: Backoff,
    /// No other announcement before this: the kernel has room for one that is on its way
    /// (mptcp_pm_announce_addr, net/mptcp/pm.c, Linux 6.18).
    pub(super) announce_after: Option<Instant>,
    pub(super) gone: VecDeque<Ends>,
    pub(super) due: Option<Instant>,
}

impl Connection {
    /// A connection with its first subflow, which may end before the connection does.
    pub(super) fn new(token: u32, role: Role, first: Ends, ipv6_socket: bool) -> Connection {
        Connection {
            token,
            role,
            first,
            ipv6_socket,
            ifindex: None,
            denies_first: false,
            first_needs_id: false,
            established: false,
            foreign: false,
            subflows: Vec::new(),
            pairs: Vec::new(),
            remotes: Vec::new(),
            announced: Vec::new(),
            announcing: None,
            taken_back: Vec::new(),
            own_ids: Vec::new(),
            control: Backoff::default(),
            announce_after: None,
            gone: VecDeque::new(),
            due: None,
        }
    }

    /// Local token.
    pub fn token(&self) -> u32 {
        self.token
    }

    /// Which end this host is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Addresses and ports of the first subflow, whether or not it is still there.
    pub fn first(&self) -> Ends {
        self.first
    }

    /// Index of the interface that the first subflow was bound to.
    pub fn ifindex(&self) -> Option<u32> {
        self.ifindex
    }

    /// Whether the peer refuses joins to the address that the connection began with. Of a connection that was taken over from
    /// a list it is not known, and taken for false.
    pub fn denies_first(&self) -> bool {
        self.denies_first
    }

    /// Whether it can have more subflows.
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// Whether it has another path manager, which it keeps.
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// Established subflows.
    pub fn subflows(&self) -> &[Subflow] {
        &self.subflows
    }

    /// What the mode wants, and what became of it.
    pub fn pairs(&self) -> &[PairState] {
        &self.pairs
    }

    /// Addresses that the peer announced and has not taken back.
    pub fn remotes(&self) -> &[Remote] {
        &self.remotes
    }

    /// Whether a subflow can be made between these: they are of one family, which the connection's socket can have, and of
    /// one scope.
    pub fn can_join(&self, local: IpAddr, remote: IpAddr) -> bool {
        self.has_room_for(local)
            && local.is_ipv4() == remote.is_ipv4()
            && local.is_loopback() == remote.is_loopback()
            && is_link_local(local) == is_link_local(remote)
    }

    /// Whether the connection's socket can have subflows of this address' family (mptcp_pm_addr_families_match,
    /// net/mptcp/pm.c, Linux 6.18).
    pub fn has_room_for(&self, address: IpAddr) -> bool {
        self.ipv6_socket || address.is_ipv4()
    }

    /// The id of a local address in this connection: 0 of the one that it began with if the kernel takes that, else the one that it has had here, else
    /// its own unless another address has that here.
    pub(super) fn local_id(&mut self, local: Local) -> u8 {
        let address = local.address;
        if address == self.first.local.ip() && !self.first_needs_id {
            return 0;
        }
        let in_use = self.subflows.iter().find(|subflow| subflow.ends.local.ip() == address && subflow.local_id != 0);
        let own = self.own_ids.iter().find_map(|(known, id)| (*known == address).then_some(*id));
        if let Some(id) = in_use.map(|subflow| subflow.local_id).or(own) {
            return id;
        }
        if self.own_ids.len() >= MOST_OWN_IDS {
            // Of a connection that lives through more addresses than there are ids, the one of the oldest is used again.
            self.own_ids.remove(0);
        }
        let taken = |id: u8| {
            let here = self.subflows.iter().any(|subflow| subflow.origin != Origin::Peer && subflow.local_id == id);
            here || self.own_ids.iter().any(|(_, other)| *other == id)
        };
        let id = match local.id {
            0 => (1..=u8::MAX).find(|id| !taken(*id)).unwrap_or(u8::MAX),
            id if !taken(id) => id,
            _ => (1..=u8::MAX).rev().find(|id| !taken(*id)).unwrap_or(local.id),
        };
        self.own_ids.push((address, id));
        id
    }

    pub(super) fn pair_state(&mut self, pair: Pair) -> Option<&mut PairState> {
        self.pairs.iter_mut().find(|state| state.pair() == pair)
    }

    /// Subflows that count against the cap: those that are there and those that are asked for.
    pub(super) fn all(&self) -> usize {
        self.living() + self.pairs.iter().map(|state| state.attempts.len()).sum::<usize>()
    }

    /// Established subflows that nobody is about to end.
    pub(super) fn living(&self) -> usize {
        self.subflows.iter().filter(|subflow| !subflow.ending).count()
    }

    /// Takes a subflow out, and notes that its end may yet be told.
    pub(super) fn bury(&mut self, ends: Ends) -> Option<Subflow> {
        let at = self.subflows.iter().position(|subflow| subflow.ends == ends)?;
        self.note_gone(ends);
        Some(self.subflows.remove(at))
    }

    /// Notes that the end of this subflow may yet be told, and says nothing new.
    pub(super) fn note_gone(&mut self, ends: Ends) {
        self.gone.push_back(ends);
        while self.gone.len() > MOST_GONE {
            self.gone.pop_front();
        }
    }

    /// Whether the end of this subflow was to be expected; it is so once.
    pub(super) fn was_buried(&mut self, ends: Ends) -> bool {
        let at = self.gone.iter().position(|gone| *gone == ends);
        at.and_then(|at| self.gone.remove(at)).is_some()
    }

    /// Takes out the attempt that events about these ends are about.
    pub(super) fn take_attempt(&mut self, ends: Ends) -> bool {
        let Some(state) = self.pair_state(ends.pair()) else { return false };
        let with = |port: Option<u16>| move |attempt: &Attempt| attempt.taken && attempt.port == port;
        let exactly = state.attempts.iter().position(with(Some(ends.local.port())));
        let at = exactly.or_else(|| state.attempts.iter().position(with(None)));
        at.map(|at| state.attempts.remove(at)).is_some()
    }

    /// A number that spreads the pauses of different connections.
    pub(super) fn salt(&self, salt: u64) -> u64 {
        super::backoff::mix(salt ^ u64::from(self.token))
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
