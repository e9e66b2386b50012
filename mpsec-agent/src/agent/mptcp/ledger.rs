//! The book of subflows: what each has carried since it was last looked at goes to its path and its connection.
//!
//! Pure: it is told what the kernel's table says, and says which entries can be given back.

mod subflow;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::config::PathsConfig;
use crate::snapshot::mptcp::{DELIVERY_RATE_BOUNDS, Path, RTT_BOUNDS, Role, Totals};

use super::book::Book;
use super::paths::{PathId, Paths};
use super::sockets::Ends;
pub use subflow::{ConnectionId, Figures, Mark, Observation, Phase, Told, Tracked};
use subflow::{completed, count, reason_by_socket};

/// For how long a closed subflow keeps its entry: its last packets come by after its socket is closed, and the path manager
/// says why it was closed.
const LINGER: Duration = Duration::from_secs(2);
/// Reasons of the path manager's that tell less than who began to end a subflow: errors of its socket.
const VAGUE: [&str; 3] = ["reset", "broken_pipe", "error"];
/// For how long it is remembered why a subflow was closed.
const REMEMBERED: Duration = Duration::from_secs(10);
/// A path whose subflows send and hear nothing for so long is said to carry nothing.
const UNHEARD: Duration = Duration::from_secs(3);

/// A connection in the book.
#[derive(Clone, Debug)]
pub struct Known {
    /// When it was first seen.
    pub since: Instant,
    /// Which end this host is.
    pub role: Role,
    /// The peer answered without MPTCP.
    pub fell_back: bool,
    /// Subflows whose sockets are not closed.
    pub live: u32,
    /// Subflows that have an entry in the table.
    entries: u32,
    established: bool,
    /// Payload that was sent between the last two beats.
    pub sent_payload: u64,
}

/// The book of one network namespace.
pub struct Ledger {
    subflows: Book<Tracked>,
    connections: HashMap<ConnectionId, Known, RandomState>,
    /// Slots of subflows whose counts have changed since the last beat, or between the two before it.
    moving: Vec<u32>,
    /// Slots of subflows that are closed.
    closing: Vec<u32>,
    /// Slots of subflows whose sockets said more than packets had shown, since the table was last looked at.
    ahead: Vec<u32>,
    paths: Paths,
    totals: Totals,
    last_beat: Option<Instant>,
    /// Something has been sent again since the sockets were last asked.
    sends_again: bool,
    /// Why subflows were closed that have been told of lately.
    reasons: HashMap<Ends, (String, Instant)>,
}

impl Ledger {
    /// An empty book.
    pub fn new(settings: PathsConfig) -> Ledger {
        Ledger {
            subflows: Book::default(),
            connections: HashMap::default(),
            moving: Vec::new(),
            closing: Vec::new(),
            ahead: Vec::new(),
            paths: Paths::new(settings),
            totals: Totals::default(),
            last_beat: None,
            sends_again: false,
            reasons: HashMap::new(),
        }
    }

    /// Whether there is nothing new of a subflow: then it need not be observed.
    pub fn is_as_seen(&self, slot: u32, mark: &Mark) -> bool {
        self.subflows.get(slot).is_some_and(|tracked| {
            // What has no name yet may have one now.
            tracked.seen.mark == *mark && (mark.interface == 0 || tracked.seen.interface.is_some())
        })
    }

    /// Takes note of one subflow, at a look at the whole table.
    pub fn observe(&mut self, mut seen: Observation, now: Instant) {
        let slot = seen.slot;
        if self.subflows.get(slot).is_none_or(|tracked| tracked.seen.incarnation != seen.incarnation) {
            self.close_entry(slot, now);
            self.open_entry(&seen, now);
        }
        let Some(tracked) = self.subflows.get_mut(slot) else { return };
        if !std::mem::replace(&mut tracked.moving, true) {
            self.moving.push(slot);
        }
        tracked.complete(&mut seen);
        for (seen, known) in seen.traffic.iter_mut().zip(&tracked.seen.traffic) {
            // Its socket may have told more already.
            seen.at_least(known.payload_bytes);
            seen.retransmitted_bytes = seen.retransmitted_bytes.max(known.retransmitted_bytes);
        }
        tracked.listen(&seen, now);
        self.sends_again |= seen.traffic[1].retransmitted_bytes > tracked.seen.traffic[1].retransmitted_bytes;
        let path = enter_path(&mut self.paths, tracked, &seen, now);
        if let Some(path) = path {
            credit(path, tracked, &seen);
        }
        self.totals.subflows_opened += u64::from(seen.opened && !tracked.seen.opened);
        if let Some(known) = self.connections.get_mut(&seen.connection) {
            known.fell_back |= seen.fell_back && !seen.joined;
            if seen.opened && !known.established {
                known.established = true;
                self.totals.connections_opened += 1;
            }
            if seen.phase == Phase::Closed && tracked.closed_since.is_none() {
                known.live -= 1;
            }
        }
        if seen.phase == Phase::Closed && tracked.closed_since.is_none() {
            tracked.closed_since = Some(now);
            self.closing.push(slot);
        }
        let before = tracked.seen.traffic;
        tracked.seen = seen;
        if tracked.path.is_none() {
            // What no path has been given yet is left for the one that it will take.
            tracked.seen.traffic = before;
        }
    }

    /// Takes note of why a subflow was closed; it may not be in the book yet.
    pub fn note_reason(&mut self, ends: Ends, reason: String, now: Instant) {
        self.reasons.insert(ends, (reason, now));
    }

    /// Takes note of what the sockets of subflows say, by their slots.
    pub fn note_sockets(&mut self, told: impl Fn(u32) -> Option<Told>, now: Instant) {
        for tracked in self.subflows.values_mut().filter(|tracked| tracked.seen.phase != Phase::Closed) {
            let Some(told) = told(tracked.seen.slot) else { continue };
            tracked.backup_now = told.backup.or(tracked.backup_now);
            let figures = tracked.figures(&told);
            tracked.ahead = figures.filter(|figures| !tracked.hides && tracked.is_exceeded_by(figures));
            if tracked.ahead.is_some() {
                self.ahead.push(tracked.seen.slot);
            }
            if let (Some(traffic), Some(id)) = (tracked.known_by_socket(&told, figures), tracked.path) {
                let seen = Observation { traffic, ..tracked.seen.clone() };
                credit(self.paths.get_mut(id), tracked, &seen);
                tracked.seen = seen;
            }
            tracked.stuck = match (told.waits, tracked.stuck) {
                (false, _) => None,
                (true, Some((acked, since))) if acked == told.acked_bytes => Some((acked, since)),
                (true, _) => Some((told.acked_bytes, now)),
            };
        }
        self.sends_again = false;
    }

    /// Finds the subflows whose sockets said more than packets have shown by now. Called when the whole table was looked at: what
    /// came by before the sockets were asked is counted then.
    pub fn find_hidden(&mut self) {
        for slot in std::mem::take(&mut self.ahead) {
            let Some(tracked) = self.subflows.get_mut(slot) else { continue };
            let (Some(figures), Some(id)) = (tracked.ahead.take(), tracked.path) else { continue };
            if tracked.is_exceeded_by(&figures) {
                tracked.hides = true;
                let seen = Observation { traffic: completed(tracked.seen.traffic, &figures), ..tracked.seen.clone() };
                credit(self.paths.get_mut(id), tracked, &seen);
                tracked.seen = seen;
            }
        }
    }

    /// Whether something that was sent may not arrive: then it is worth while to ask the sockets.
    pub fn has_suspects(&self) -> bool {
        self.sends_again || self.live().any(|tracked| tracked.stuck.is_some() || tracked.unheard_since.is_some())
    }

    /// Whether there are subflows of which the sockets alone know how much they carry.
    pub fn has_hidden(&self) -> bool {
        self.live().any(Tracked::is_hidden)
    }

    /// Takes a subflow for closed whose socket went without a word.
    pub fn vanish(&mut self, slot: u32, now: Instant) {
        let Some(tracked) = self.subflows.get_mut(slot).filter(|tracked| tracked.closed_since.is_none()) else {
            return;
        };
        self.closing.push(slot);
        tracked.closed_since = Some(now);
        tracked.vanished = true;
        if let Some(known) = self.connections.get_mut(&tracked.seen.connection) {
            known.live -= 1;
        }
    }

    /// Entries of the kernel's table that have been closed for long enough: they are out of the book, and to be given back.
    pub fn settle(&mut self, now: Instant) -> Vec<u32> {
        let closed_since = |slot: &u32| self.subflows.get(*slot)?.closed_since;
        // A slot that has another occupant by now has been let go of already.
        self.closing.retain(|slot| closed_since(slot).is_some());
        let over = |slot: &mut u32| closed_since(slot).is_some_and(|since| now - since >= LINGER);
        let mut slots: Vec<u32> = self.closing.extract_if(.., over).collect();
        slots.sort_unstable();
        slots.dedup();
        for slot in &slots {
            self.close_entry(*slot, now);
        }
        slots
    }

    /// Works out rates and shares since the last beat. Called at even intervals.
    pub fn beat(&mut self, now: Instant) {
        let seconds = self.last_beat.map_or(0.0, |last| (now - last).as_secs_f64());
        self.last_beat = Some(now);
        // Here rather than where subflows are let go of: the path manager speaks where there is no table, too.
        self.reasons.retain(|_, (_, at)| now.saturating_duration_since(*at) < REMEMBERED);
        self.connections.values_mut().for_each(|known| known.sent_payload = 0);
        let mut moving = std::mem::take(&mut self.moving);
        moving.sort_unstable();
        moving.dedup();
        moving.retain(|slot| self.beat_one(*slot, seconds));
        self.moving = moving;
    }

    /// The same for one subflow. False if it has come to rest, and the next beat need not look at it.
    fn beat_one(&mut self, slot: u32, seconds: f64) -> bool {
        let Some(tracked) = self.subflows.get_mut(slot) else { return false };
        let moved = [0, 1].map(|i| tracked.seen.traffic[i].since(&tracked.base[i]));
        let bytes = moved.map(|moved| if tracked.hides { moved.payload_bytes } else { moved.carried_bytes() });
        let rates = if seconds > 0.0 { bytes.map(|bytes| bytes as f64 / seconds) } else { [0.0; 2] };
        tracked.moving = bytes != [0; 2] || rates != [0.0; 2];
        tracked.rates = rates;
        tracked.sent_payload = moved[1].payload_bytes;
        tracked.base = tracked.seen.traffic;
        sample(&mut self.paths, tracked);
        if let (1.., Some(known)) = (tracked.sent_payload, self.connections.get_mut(&tracked.seen.connection)) {
            known.sent_payload += tracked.sent_payload;
        }
        tracked.moving
    }

    /// The subflow in a slot, if its socket is not closed.
    pub fn live_in(&self, slot: u32) -> Option<&Tracked> {
        self.subflows.get(slot).filter(|tracked| tracked.seen.phase != Phase::Closed)
    }

    /// Every subflow in the book whose socket is not closed.
    pub fn live(&self) -> impl Iterator<Item = &Tracked> {
        self.subflows.values().filter(|tracked| tracked.seen.phase != Phase::Closed)
    }

    /// What is known of a connection.
    pub fn connection(&self, id: ConnectionId) -> Option<&Known> {
        self.connections.get(&id)
    }

    /// Counts of what came and went.
    pub fn totals(&self) -> Totals {
        Totals { paths_folded: self.paths.folded, ..self.totals.clone() }
    }

    /// Every path, with the subflows of the moment, ordered by labels. `outage` knows which interfaces are down, or gone.
    pub fn paths(&mut self, outage: impl Fn(&str) -> Option<&'static str>, now: Instant) -> Vec<Path> {
        self.paths.clear_gauges();
        for tracked in self.subflows.values() {
            if let Some(id) = tracked.path {
                count(&mut self.paths.get_mut(id).subflows, tracked);
            }
        }
        self.find_silent(outage, now);
        self.paths.all()
    }

    /// Marks the paths on which every subflow sends and is not answered, and those whose interface is down or gone.
    fn find_silent(&mut self, outage: impl Fn(&str) -> Option<&'static str>, now: Instant) {
        // For how long at least nothing came of what was sent, by path; 0 where something did.
        let mut unheard: HashMap<PathId, Duration> = HashMap::new();
        for tracked in self.subflows.values().filter(|tracked| tracked.seen.phase != Phase::Closed) {
            let Some(id) = tracked.path else { continue };
            let long = tracked.unanswered(now);
            unheard.entry(id).and_modify(|least| *least = (*least).min(long)).or_insert(long);
        }
        for (id, long) in unheard {
            let path = self.paths.get_mut(id);
            path.silent = match outage(&path.interface) {
                Some(outage) => Some(format!("the interface {} is {outage}", path.interface)),
                None if long >= UNHEARD => {
                    Some(format!("nothing that was sent on it has been acknowledged for {} s", long.as_secs()))
                }
                None => None,
            };
        }
    }

    fn open_entry(&mut self, seen: &Observation, now: Instant) {
        let known = self.connections.entry(seen.connection).or_insert(Known {
            since: now,
            role: Role::Unknown,
            fell_back: false,
            live: 0,
            entries: 0,
            established: false,
            sent_payload: 0,
        });
        known.live += 1;
        known.entries += 1;
        if !seen.joined {
            known.role = seen.role;
        }
        let tracked = Tracked {
            seen: Observation { opened: false, traffic: Default::default(), ..seen.clone() },
            visible_bytes: [0; 2],
            hides: false,
            before: None,
            ahead: None,
            path: None,
            counted_on_path: false,
            closed_since: None,
            vanished: false,
            moving: false,
            base: Default::default(),
            base_reports: 0,
            rates: [0.0; 2],
            sent_payload: 0,
            unheard_since: None,
            backup_now: None,
            stuck: None,
        };
        self.subflows.insert(seen.slot, tracked);
    }

    fn close_entry(&mut self, slot: u32, now: Instant) {
        let Some(tracked) = self.subflows.remove(slot) else { return };
        self.totals.subflows_closed += u64::from(tracked.seen.opened);
        if let Some(id) = tracked.path {
            let told = self.reasons.remove(&(tracked.seen.local, tracked.seen.remote)).map(|(reason, _)| reason);
            let told = told.filter(|told| tracked.seen.closer.is_none() || !VAGUE.contains(&told.as_str()));
            let reason = told.unwrap_or_else(|| reason_by_socket(&tracked).to_owned());
            *self.paths.get_mut(id).closed_total.entry(reason).or_default() += 1;
            self.paths.leave(id, now);
        }
        let Some(known) = self.connections.get_mut(&tracked.seen.connection) else { return };
        known.entries -= 1;
        if tracked.closed_since.is_none() {
            known.live -= 1;
        }
        if known.entries == 0 {
            self.totals.connections_closed += u64::from(known.established);
            self.connections.remove(&tracked.seen.connection);
        }
    }
}

/// The path of a subflow. One whose packets take another interface than before has moved to another path.
fn enter_path<'a>(
    paths: &'a mut Paths,
    tracked: &mut Tracked,
    seen: &Observation,
    now: Instant,
) -> Option<&'a mut Path> {
    let moved = tracked.path.is_none() || tracked.seen.interface != seen.interface;
    if let (true, Some(interface)) = (moved, &seen.interface) {
        if let Some(old) = tracked.path.take() {
            paths.leave(old, now);
        }
        tracked.path = Some(paths.enter(interface, seen.remote.ip(), now));
    }
    tracked.path.map(|id| paths.get_mut(id))
}

/// Adds what came since the last look to the path.
fn credit(path: &mut Path, tracked: &mut Tracked, seen: &Observation) {
    path.rx.add(&seen.traffic[0].since(&tracked.seen.traffic[0]));
    path.tx.add(&seen.traffic[1].since(&tracked.seen.traffic[1]));
    if seen.opened && !tracked.counted_on_path {
        tracked.counted_on_path = true;
        path.opened_total += 1;
    }
}

/// Puts what was measured anew since the last beat into the histograms of the path.
fn sample(paths: &mut Paths, tracked: &mut Tracked) {
    let (srtt_us, reports) = tracked.seen.srtt_us;
    let anew = reports != std::mem::replace(&mut tracked.base_reports, reports);
    let (true, true, Some(id)) = (anew, srtt_us > 0, tracked.path) else { return };
    let path = paths.get_mut(id);
    path.rtt_seconds.observe(RTT_BOUNDS, f64::from(srtt_us) / 1e6);
    if let Some(rate) = tracked.seen.delivery_rate {
        path.delivery_rate.observe(DELIVERY_RATE_BOUNDS, rate as f64);
    }
}
