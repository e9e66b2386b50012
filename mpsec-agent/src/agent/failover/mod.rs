//! What to do about a path that fails: pure decisions from reports, times and what the table of subflows tells.
//!
//! ```text
//!          timeout                silent still             a while later
//! Healthy ─────────> Suspect ────────────────> Silent ─────────────────> Probing ──> Healthy
//!    │  <───────────────┘ something was received  ^                         ^  subflow established
//!    ├───────────────────── data is missed ───────┘                         │
//!    └───────────────────── link down ───────> Down ──── link up ───────────┘
//! ```
//!
//! A path is what a local address with an endpoint of the path manager leads to. To remove the endpoint closes its subflows,
//! hands what they still owed to the others, and has the peer do the same (mptcp_nl_remove_subflow_and_signal_addr,
//! net/mptcp/pm_kernel.c, Linux 6.18). While a path is probed its endpoint is there, so that the kernel itself tries to
//! connect: the path is healthy when it succeeds. An endpoint is never removed when a connection has nothing but that path.
//!
//! Where the local address has no endpoint, as on servers, a path is what leads from it to a peer's address. If it is asked
//! for, its subflows are closed one by one; it is up to the peer to make new ones.

mod book;
pub mod driver;
pub mod hearing;
mod roster;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Peers that can be suspect at once. Of more than that the kernel takes care alone.
const MAX_PEERS: usize = 1024;
/// How much longer a path that was taken for dead too soon is waited for: a power of two.
const MAX_STRIKES: u32 = 4;

/// How patient it is.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long after a timeout nothing may be received before a path is given up. Two round trips, if they take longer.
    pub silence: Duration,
    /// How long after it was given up it is probed.
    pub rest: Duration,
    /// How often the kernel is made to connect anew while it does not succeed.
    pub renew: Duration,
    /// The same in the first seconds after a link came up: it may carry nothing yet, and the kernel waits for a second after
    /// its first attempt.
    pub renew_soon: Duration,
    /// How long these first seconds are.
    pub soon: Duration,
    /// How long it is waited at most before an endpoint that the kernel refused is put back again.
    pub refused: Duration,
    /// A path that is back within this time had not failed.
    pub false_alarm: Duration,
    /// How long a false alarm is remembered; and how long a path that has stopped, of which nothing else was known, is not
    /// suspected of that again.
    pub forgive: Duration,
    /// Whether subflows that hear nothing are closed whose local address has no endpoint. What they owed goes on at once, but
    /// this host cannot make them again, and a peer without the agent does not.
    pub closes_peers: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            silence: Duration::from_millis(50),
            rest: Duration::from_millis(100),
            renew: Duration::from_secs(3),
            renew_soon: Duration::from_millis(400),
            soon: Duration::from_secs(5),
            refused: Duration::from_secs(30),
            false_alarm: Duration::from_secs(1),
            forgive: Duration::from_secs(60),
            closes_peers: false,
        }
    }
}

/// What a path is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// A local address that has an endpoint.
    Endpoint(IpAddr),
    /// A local address that has none, and a peer's.
    Peer {
        /// The local one.
        local: IpAddr,
        /// The peer's.
        remote: IpAddr,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All local addresses that have endpoints.
    Endpoints {
        /// Those that the kernel lists.
        there: Vec<IpAddr>,
        /// Those that were taken away and are to be put back.
        away: Vec<IpAddr>,
    },
    /// The interface of a local address went down or lost its carrier.
    Down(IpAddr),
    /// It is up, and the address can be used.
    Up(IpAddr),
    /// A subflow's retransmission timer has expired.
    Timeout {
        /// Its local address.
        local: IpAddr,
        /// Its remote address.
        remote: IpAddr,
        /// Its smoothed round-trip time.
        srtt: Duration,
    },
    /// What must have come by the path of a local address has not, while more came by others.
    Missed(IpAddr),
    /// Nothing has come by the path of a local address for so long, while its connections went on by others.
    Stopped {
        /// The address.
        local: IpAddr,
        /// How long.
        quiet: Duration,
    },
}

/// What the table of subflows tells of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Packets that its subflows have received, ever.
    pub received: u64,
    /// Established subflows of it.
    pub established: usize,
    /// Subflows of it that wait for an answer to their SYN.
    pub connecting: usize,
    /// Connections that have no established subflow elsewhere.
    pub alone: usize,
    /// Connections of the host.
    pub connections: usize,
    /// Its endpoint is not there, and is to be put back.
    pub is_away: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take the endpoints of this address away, and close the subflows from it.
    Remove(IpAddr),
    /// Put them back as they were.
    Restore(IpAddr),
    /// Close each subflow between these addresses whose connection has another one.
    Close {
        /// The local one.
        local: IpAddr,
        /// The peer's.
        remote: IpAddr,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Healthy,
    /// A timeout was reported when so much had been received.
    Suspect {
        received: u64,
        judge_at: Instant,
    },
    /// Given up; the endpoint is away.
    Silent {
        since: Instant,
    },
    /// Without a link. The endpoint is away, unless a connection has nothing else.
    Down {
        removed: bool,
    },
    /// The endpoint is there again, unless the kernel refused it, and no subflow established yet.
    Probing {
        /// When it was given up as silent; `None` if its link was down.
        silent_since: Option<Instant>,
        began_at: Instant,
        renewed_at: Instant,
        look_at: Instant,
    },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    strikes: u32,
    struck_at: Option<Instant>,
    /// When it was probed because it had stopped.
    stopped_at: Option<Instant>,
}

impl Entry {
    const NEW: Entry = Entry { state: State::Healthy, strikes: 0, struck_at: None, stopped_at: None };

    /// Whether connections can use it, as far as is known.
    fn carries(&self) -> bool {
        matches!(self.state, State::Healthy | State::Suspect { .. })
    }

    /// How often it was taken for dead too soon, as far as that is not forgotten.
    fn strikes_at(&self, now: Instant, forgive: Duration) -> u32 {
        let is_forgotten = self.struck_at.is_none_or(|at| now.saturating_duration_since(at) > forgive);
        if is_forgotten { 0 } else { self.strikes }
    }
}

/// The paths and how they fare.
#[derive(Debug)]
pub struct Failover {
    settings: Settings,
    paths: BTreeMap<Path, Entry>,
}

impl Failover {
    /// Knows no path yet.
    pub fn new(settings: Settings) -> Failover {
        Failover { settings, paths: BTreeMap::new() }
    }

    /// Takes note of an event. `facts` are asked for when they are needed.
    pub fn observe(&mut self, event: &Event, now: Instant, facts: impl FnMut(Path) -> Facts) -> Vec<Action> {
        match event {
            Event::Endpoints { there, away } => self.list(there, away),
            Event::Down(address) => return self.down(*address, facts),
            Event::Up(address) => return self.up(*address, now),
            Event::Timeout { local, remote, srtt } => self.suspect(*local, *remote, *srtt, now, facts),
            Event::Missed(address) => return self.give_up(*address, now, now, facts),
            Event::Stopped { local, quiet } => return self.stopped(*local, *quiet, now, facts),
        }
        Vec::new()
    }

    /// The endpoints' addresses that lead to paths which are not known to have failed.
    pub fn carrying(&self) -> impl Iterator<Item = IpAddr> {
        self.paths.iter().filter(|(_, entry)| entry.carries()).filter_map(|(path, _)| match path {
            Path::Endpoint(address) => Some(*address),
            Path::Peer { .. } => None,
        })
    }

    /// How many times as long as usual an endpoint's path is waited for, because it was taken for dead too soon.
    pub fn patience(&self, address: IpAddr, now: Instant) -> u32 {
        let entry = self.paths.get(&Path::Endpoint(address));
        entry.map_or(1, |entry| 1 << entry.strikes_at(now, self.settings.forgive))
    }

    /// Does what is due. To be called at [`Failover::next_beat`], or more often.
    pub fn beat(&mut self, now: Instant, mut facts: impl FnMut(Path) -> Facts) -> Vec<Action> {
        let is_due = |entry: &Entry| self.due(entry).is_some_and(|at| at <= now);
        let due: Vec<Path> = self.paths.iter().filter(|(_, entry)| is_due(entry)).map(|(path, _)| *path).collect();
        due.into_iter().flat_map(|path| self.turn(path, now, facts(path))).collect()
    }

    /// When something is due, if anything is.
    pub fn next_beat(&self) -> Option<Instant> {
        self.paths.values().filter_map(|entry| self.due(entry)).min()
    }

    /// Whether the interface of an endpoint's address is known to be down.
    pub fn is_down(&self, address: IpAddr) -> bool {
        let entry = self.paths.get(&Path::Endpoint(address));
        entry.is_some_and(|entry| matches!(entry.state, State::Down { .. }))
    }

    /// An endpoint is not to be put back. One that comes later with its address is a path of which nothing is known.
    pub fn forget(&mut self, address: IpAddr) {
        self.paths.remove(&Path::Endpoint(address));
    }

    /// Forgets all paths.
    pub fn clear(&mut self) {
        self.paths.clear();
    }

    /// An endpoint that was taken away is not in the kernel's list; one that somebody else put back is.
    fn list(&mut self, there: &[IpAddr], away: &[IpAddr]) {
        self.paths.retain(|path, _| match path {
            Path::Endpoint(address) => there.contains(address) || away.contains(address),
            Path::Peer { .. } => true,
        });
        for address in there {
            let entry = self.paths.entry(Path::Endpoint(*address)).or_insert(Entry::NEW);
            match entry.state {
                State::Silent { .. } => entry.state = State::Healthy,
                State::Down { .. } => entry.state = State::Down { removed: false },
                _ => {}
            }
        }
    }

    /// Told as long as it is so: what could not be done without may be dispensable later, as when another path has come back.
    fn down(&mut self, address: IpAddr, mut facts: impl FnMut(Path) -> Facts) -> Vec<Action> {
        let path = Path::Endpoint(address);
        let may = facts(path).alone == 0 && self.is_dispensable(path);
        let Some(entry) = self.paths.get_mut(&path) else { return Vec::new() };
        match entry.state {
            State::Down { removed: true } => Vec::new(),
            State::Silent { .. } => {
                entry.state = State::Down { removed: true };
                Vec::new()
            }
            _ => {
                entry.state = State::Down { removed: may };
                if may { vec![Action::Remove(address)] } else { Vec::new() }
            }
        }
    }

    fn up(&mut self, address: IpAddr, now: Instant) -> Vec<Action> {
        let look_at = now + self.settings.rest;
        let Some(entry) = self.paths.get_mut(&Path::Endpoint(address)) else { return Vec::new() };
        let State::Down { removed } = entry.state else { return Vec::new() };
        if !removed {
            entry.state = State::Healthy;
            return Vec::new();
        }
        entry.state = State::Probing { silent_since: None, began_at: now, renewed_at: now, look_at };
        vec![Action::Restore(address)]
    }

    /// Gives an endpoint's path up that has been silent since then, if connections can do without it.
    fn give_up(
        &mut self,
        address: IpAddr,
        since: Instant,
        now: Instant,
        mut facts: impl FnMut(Path) -> Facts,
    ) -> Vec<Action> {
        let path = Path::Endpoint(address);
        if facts(path).alone > 0 || !self.is_dispensable(path) {
            return Vec::new();
        }
        let forgive = self.settings.forgive;
        let Some(entry) = self.paths.get_mut(&path).filter(|entry| entry.carries()) else { return Vec::new() };
        entry.strikes = entry.strikes_at(now, forgive);
        entry.state = State::Silent { since };
        vec![Action::Remove(address)]
    }

    /// The sender may just not need the path: that is found out by connecting anew, once in a while.
    fn stopped(
        &mut self,
        address: IpAddr,
        quiet: Duration,
        now: Instant,
        facts: impl FnMut(Path) -> Facts,
    ) -> Vec<Action> {
        let Some(entry) = self.paths.get_mut(&Path::Endpoint(address)) else { return Vec::new() };
        let is_recent = |at: Instant| now.saturating_duration_since(at) <= self.settings.forgive;
        if entry.stopped_at.is_some_and(is_recent) {
            return Vec::new();
        }
        entry.stopped_at = Some(now);
        let since = now.checked_sub(quiet.max(self.settings.false_alarm)).unwrap_or(now);
        self.give_up(address, since, now, facts)
    }

    fn suspect(
        &mut self,
        local: IpAddr,
        remote: IpAddr,
        srtt: Duration,
        now: Instant,
        mut facts: impl FnMut(Path) -> Facts,
    ) {
        let mut path = Path::Endpoint(local);
        if !self.paths.contains_key(&path) {
            path = Path::Peer { local, remote };
            let peers = self.paths.keys().filter(|path| matches!(path, Path::Peer { .. })).count();
            let has_room = peers < MAX_PEERS || self.paths.contains_key(&path);
            if !self.settings.closes_peers || !has_room {
                return;
            }
        }
        let Settings { silence, forgive, .. } = self.settings;
        let entry = self.paths.entry(path).or_insert(Entry::NEW);
        if entry.state != State::Healthy {
            return;
        }
        entry.strikes = entry.strikes_at(now, forgive);
        let patience = silence.max(2 * srtt) * (1 << entry.strikes);
        entry.state = State::Suspect { received: facts(path).received, judge_at: now + patience };
    }

    /// Whether there is another endpoint whose path is not known to have failed. A peer's path is closed where there is.
    fn is_dispensable(&self, path: Path) -> bool {
        let others = |other: &Path| *other != path && matches!(other, Path::Endpoint(_));
        matches!(path, Path::Peer { .. }) || self.paths.iter().any(|(other, entry)| others(other) && entry.carries())
    }

    fn due(&self, entry: &Entry) -> Option<Instant> {
        match entry.state {
            State::Healthy | State::Down { .. } => None,
            State::Suspect { judge_at, .. } => Some(judge_at),
            State::Silent { since } => Some(since + self.settings.rest),
            State::Probing { look_at, .. } => Some(look_at),
        }
    }

    /// What is due for a path.
    fn turn(&mut self, path: Path, now: Instant, facts: Facts) -> Vec<Action> {
        let dispensable = self.is_dispensable(path);
        let settings = self.settings;
        let Some(entry) = self.paths.get_mut(&path) else { return Vec::new() };
        match (entry.state, path) {
            (State::Suspect { received, .. }, Path::Peer { local, remote }) => {
                self.paths.remove(&path);
                return if facts.received == received { vec![Action::Close { local, remote }] } else { Vec::new() };
            }
            (State::Suspect { received, .. }, _) if facts.received != received => entry.state = State::Healthy,
            (State::Suspect { .. }, Path::Endpoint(address)) => {
                if facts.alone == 0 && dispensable {
                    entry.state = State::Silent { since: now };
                    return vec![Action::Remove(address)];
                }
                // The kernel's own means are all that is left; the next timeout comes later.
                entry.state = State::Healthy;
            }
            (State::Silent { since }, Path::Endpoint(address)) => {
                let look_at = now + settings.rest;
                entry.state = State::Probing { silent_since: Some(since), began_at: now, renewed_at: now, look_at };
                return vec![Action::Restore(address)];
            }
            (State::Probing { silent_since, began_at, renewed_at, .. }, Path::Endpoint(address)) => {
                return entry.probe(address, silent_since, [began_at, renewed_at], now, facts, settings);
            }
            (State::Healthy | State::Down { .. }, _) | (_, Path::Peer { .. }) => {}
        }
        Vec::new()
    }
}

impl Entry {
    /// Looks whether the kernel has succeeded. If it does not even try, it could not, as without a route; if it has tried
    /// for long, it waits for longer and longer between two attempts. Without the endpoint it cannot try.
    fn probe(
        &mut self,
        address: IpAddr,
        silent_since: Option<Instant>,
        [began_at, renewed_at]: [Instant; 2],
        now: Instant,
        facts: Facts,
        settings: Settings,
    ) -> Vec<Action> {
        let passed = |since: Instant| now.saturating_duration_since(since);
        if facts.established > 0 || (facts.connections == 0 && !facts.is_away) {
            if silent_since.is_some_and(|since| passed(since) < settings.false_alarm) {
                self.strikes = (self.strikes + 1).min(MAX_STRIKES);
                self.struck_at = Some(now);
            }
            self.state = State::Healthy;
            return Vec::new();
        }
        let is_soon = silent_since.is_none() && passed(began_at) < settings.soon;
        // A peer that refuses each attempt is not to be asked three times a second.
        let so_far = renewed_at.saturating_duration_since(began_at);
        let patience = match facts.connecting {
            _ if facts.is_away => so_far.clamp(3 * settings.rest, settings.refused),
            0 if silent_since.is_some() => so_far.clamp(3 * settings.rest, settings.renew),
            0 => 3 * settings.rest,
            _ if is_soon => settings.renew_soon,
            _ => settings.renew,
        };
        let renews = passed(renewed_at) >= patience;
        let renewed_at = if renews { now } else { renewed_at };
        let look_at = match facts.is_away && !renews {
            true => (renewed_at + patience).min(now + settings.renew),
            false => now + settings.rest,
        };
        self.state = State::Probing { silent_since, began_at, renewed_at, look_at };
        match (renews, facts.is_away) {
            (false, _) => Vec::new(),
            (true, true) => vec![Action::Restore(address)],
            (true, false) => vec![Action::Remove(address), Action::Restore(address)],
        }
    }
}
