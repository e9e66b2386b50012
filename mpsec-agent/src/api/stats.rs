//! What the server counts about itself, for the metric tables.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::negotiate::Encoding;

/// The label of requests that no route matches, so that a scanner cannot make labels.
pub const OTHER_HANDLER: &str = "other";

/// The server's counters. One is shared by the server, its configuration and whoever publishes it.
#[derive(Debug, Default)]
pub struct HttpStats {
    /// By handler, then status code: both come from fixed sets, the routes' patterns and the codes that they answer.
    requests: Mutex<BTreeMap<String, BTreeMap<u16, u64>>>,
    encoded_bytes: [AtomicU64; 3],
    pub(super) open_connections: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) closed_for_room: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) accept_errors: AtomicU64,
    pub(super) tls_handshake_failures: AtomicU64,
    pub(super) auth_failures: AtomicU64,
    pub(super) config_reload_failed: AtomicBool,
}

/// One consistent reading of [`HttpStats`], in the order in which it is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpSnapshot {
    /// Requests by handler and status code, sorted by both.
    pub requests: Vec<RequestCount>,
    /// Bytes of answers to scrapes by encoding, as they left, in the order of [`Encoding::ALL`].
    pub scrape_bytes: [(Encoding, u64); 3],
    /// Connections open now.
    pub open_connections: u64,
    /// Connections accepted since the start.
    pub connections: u64,
    /// Connections closed to make room for others, or refused because there was none to make.
    pub closed_for_room: u64,
    /// Connections dropped at a time limit: slow heads, idle ones, clients that do not read their answer.
    pub timed_out: u64,
    /// Failures of accept(2), such as too many open files.
    pub accept_errors: u64,
    /// TLS handshakes that did not succeed, refused client certificates among them.
    pub tls_handshake_failures: u64,
    /// Requests with credentials that are wrong.
    pub auth_failures: u64,
    /// Whether the web configuration on disk is refused, and the one before it still in force.
    pub config_reload_failed: bool,
}

/// How many requests a handler answered with a status code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestCount {
    /// The route's pattern, or [`OTHER_HANDLER`].
    pub handler: String,
    /// The HTTP status code.
    pub code: u16,
    /// Requests since the start.
    pub count: u64,
}

impl HttpStats {
    /// Reads all counters.
    pub fn snapshot(&self) -> HttpSnapshot {
        HttpSnapshot {
            requests: self.request_counts(),
            scrape_bytes: Encoding::ALL.map(|encoding| (encoding, self.encoded_bytes[encoding as usize].load(Relaxed))),
            open_connections: self.open_connections.load(Relaxed),
            connections: self.connections.load(Relaxed),
            closed_for_room: self.closed_for_room.load(Relaxed),
            timed_out: self.timed_out.load(Relaxed),
            accept_errors: self.accept_errors.load(Relaxed),
            tls_handshake_failures: self.tls_handshake_failures.load(Relaxed),
            auth_failures: self.auth_failures.load(Relaxed),
            config_reload_failed: self.config_reload_failed.load(Relaxed),
        }
    }

    /// Counts one answered request. `handler` comes from a fixed set: a route's pattern or [`OTHER_HANDLER`].
    pub(super) fn count_request(&self, handler: &str, code: u16) {
        let mut requests = self.lock();
        if let Some(codes) = requests.get_mut(handler) {
            *codes.entry(code).or_default() += 1;
        } else {
            requests.insert(handler.to_owned(), BTreeMap::from([(code, 1)]));
        }
    }

    pub(super) fn count_scrape_bytes(&self, encoding: Encoding, bytes: usize) {
        self.encoded_bytes[encoding as usize].fetch_add(bytes as u64, Relaxed);
    }

    fn request_counts(&self) -> Vec<RequestCount> {
        let requests = self.lock();
        let rows = requests.iter().flat_map(|(handler, codes)| {
            codes.iter().map(|(&code, &count)| RequestCount { handler: handler.clone(), code, count })
        });
        rows.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, BTreeMap<u16, u64>>> {
        // Counters are valid after any panic.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_in_a_stable_order() {
        let stats = HttpStats::default();
        for (handler, code) in [("/metrics", 500), ("other", 404), ("/metrics", 200), ("/", 200), ("/metrics", 200)] {
            stats.count_request(handler, code);
        }
        let rows: Vec<_> =
            stats.snapshot().requests.into_iter().map(|row| (row.handler, row.code, row.count)).collect();
        let expected = [("/", 200, 1), ("/metrics", 200, 2), ("/metrics", 500, 1), ("other", 404, 1)];
        assert_eq!(rows, expected.map(|(handler, code, count)| (handler.to_owned(), code, count)));
    }
}
