//! The open connections: how far each one is, and which one closes when there are too many.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::limits::{Limits, Phase, Progress, victim, victims_for_bytes};
use super::stats::{HttpStats, count};

/// All open connections.
#[derive(Debug)]
pub(super) struct Registry {
    limits: Limits,
    stats: Arc<HttpStats>,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    next_id: u64,
    open: BTreeMap<u64, Arc<Connection>>,
}

/// One connection, as its task and whoever needs its place see it.
#[derive(Debug)]
pub(super) struct Connection {
    progress: Mutex<Tracked>,
    evicted: Notify,
}

#[derive(Debug)]
struct Tracked {
    progress: Progress,
    /// Whether hyper has taken the whole answer; it may still wait in buffers.
    answer_taken: bool,
}

/// A place among the open connections, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    registry: Arc<Registry>,
    id: u64,
    pub(super) connection: Arc<Connection>,
}

impl Registry {
    pub(super) fn new(limits: Limits, stats: Arc<HttpStats>) -> Self {
        Registry { limits, stats, connections: Mutex::default() }
    }

    /// Takes a place, if need be that of the connection that can best be spared; `None` when all are at work.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let full = self.lock().open.len() >= self.limits.max_connections;
        if full && !self.make_room() {
            count(&self.stats.closed_for_room);
            return None;
        }
        let mut connections = self.lock();
        let id = connections.next_id;
        connections.next_id += 1;
        let connection = Arc::new(Connection::new());
        connections.open.insert(id, connection.clone());
        count(&self.stats.connections);
        count(&self.stats.open_connections);
        drop(connections);
        Some(Place { registry: self.clone(), id, connection })
    }

    /// Closes the connection that can best be spared.
    pub(super) fn make_room(&self) -> bool {
        let mut connections = self.lock();
        let victim = victim(connections.snapshot());
        victim.is_some_and(|id| {
            self.evict(&mut connections, id);
            true
        })
    }

    /// Whether an answer of this size can wait for its client, if need be in the place of clients that are stuck.
    pub(super) fn make_room_for_bytes(&self, bytes: u64) -> bool {
        let mut connections = self.lock();
        let victims = victims_for_bytes(connections.snapshot(), bytes, &self.limits, Instant::now());
        let enough = victims.is_some();
        for id in victims.into_iter().flatten() {
            self.evict(&mut connections, id);
        }
        enough
    }

    fn evict(&self, connections: &mut Connections, id: u64) {
        if let Some(connection) = connections.open.remove(&id) {
            count(&self.stats.closed_for_room);
            connection.evicted.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        // Insertions and removals are whole after any panic.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    fn snapshot(&self) -> impl Iterator<Item = (u64, Progress)> + Clone {
        self.open.iter().map(|(&id, connection)| (id, connection.progress()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.lock().open.remove(&self.id);
        self.registry.stats.open_connections.fetch_sub(1, Relaxed);
    }
}

impl Connection {
    fn new() -> Self {
        let progress = Progress { phase: Phase::Opening, since: Instant::now(), blocked_since: None, pending_bytes: 0 };
        Connection { progress: Mutex::new(Tracked { progress, answer_taken: false }), evicted: Notify::new() }
    }

    pub(super) fn progress(&self) -> Progress {
        self.lock().progress
    }

    /// Ends when another connection takes the place of this one.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// The transport is up; a request's head is due.
    pub(super) fn opened(&self) {
        self.lock().enter(Phase::Head);
    }

    /// Bytes came from the client.
    pub(super) fn received(&self) {
        let mut tracked = self.lock();
        if tracked.progress.phase == Phase::Idle {
            tracked.enter(Phase::Head);
        }
    }

    /// A request's head is complete.
    pub(super) fn request_began(&self) {
        let mut tracked = self.lock();
        tracked.enter(Phase::Busy);
        tracked.answer_taken = false;
    }

    /// The answer is known and will take this much memory until it is read.
    pub(super) fn answer_began(&self, bytes: u64, streaming: bool) {
        let mut tracked = self.lock();
        tracked.progress.pending_bytes = bytes;
        if streaming {
            tracked.enter(Phase::Streaming);
        }
    }

    /// All of the answer is in the connection's buffers.
    pub(super) fn answer_taken(&self) {
        self.lock().answer_taken = true;
    }

    /// A write got through, or did not.
    pub(super) fn wrote(&self, progressed: bool) {
        let blocked_since = &mut self.lock().progress.blocked_since;
        if progressed {
            *blocked_since = None;
        } else {
            blocked_since.get_or_insert_with(Instant::now);
        }
    }

    /// The connection's buffers are empty.
    pub(super) fn flushed(&self) {
        let mut tracked = self.lock();
        if tracked.answer_taken && tracked.progress.in_request() {
            tracked.progress.pending_bytes = 0;
            tracked.enter(Phase::Idle);
        }
    }

    /// The server has closed its side.
    pub(super) fn closing(&self) {
        let mut tracked = self.lock();
        if tracked.progress.phase != Phase::Closing {
            tracked.enter(Phase::Closing);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tracked> {
        // Each change is a plain assignment.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracked {
    fn enter(&mut self, phase: Phase) {
        self.progress.phase = phase;
        self.progress.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(max_connections: usize) -> (Arc<Registry>, Arc<HttpStats>) {
        let stats = Arc::new(HttpStats::default());
        let limits = Limits { max_connections, ..Limits::default() };
        (Arc::new(Registry::new(limits, stats.clone())), stats)
    }

    #[tokio::test]
    async fn a_newcomer_takes_the_place_of_the_longest_idle() {
        let (registry, stats) = registry(2);
        let working = registry.enter().unwrap();
        working.connection.request_began();
        let idle = registry.enter().unwrap();
        let third = registry.enter().unwrap();
        idle.connection.evicted().await;
        third.connection.request_began();
        assert!(registry.enter().is_none(), "both are at work");
        drop(working);
        assert!(registry.enter().is_some());
        assert_eq!(stats.snapshot().closed_for_room, 2);
        drop((idle, third));
        assert_eq!(stats.snapshot().open_connections, 0);
    }

    #[tokio::test]
    async fn an_exchange_ends_when_its_answer_has_left_the_buffers() {
        let (registry, _) = registry(1);
        let place = registry.enter().unwrap();
        let connection = &place.connection;
        connection.opened();
        connection.request_began();
        connection.answer_began(10, false);
        connection.flushed();
        assert_eq!(connection.progress().phase, Phase::Busy, "a flush before the end of the answer");
        connection.answer_taken();
        connection.flushed();
        assert_eq!(connection.progress().phase, Phase::Idle);
        assert_eq!(connection.progress().pending_bytes, 0);
        connection.received();
        assert_eq!(connection.progress().phase, Phase::Head);
    }
}
