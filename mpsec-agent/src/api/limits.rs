//! The bounds of the server, and when a connection has used up its time.

use std::time::Duration;

use tokio::time::Instant;

/// Bounds on what clients can take. The defaults suit a host's agent; tests shorten the times.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once. One more closes the one that has been idle longest.
    pub max_connections: usize,
    /// Bytes of a request's head; more is answered with 431.
    pub max_header_bytes: usize,
    /// Bytes of a request's body; more is answered with 413.
    pub max_body_bytes: usize,
    /// Bytes of answers that wait for clients to read them. More closes the client that has been stuck longest.
    pub max_pending_bytes: u64,
    /// For the TLS handshake, from the connection on.
    pub handshake_timeout: Duration,
    /// For a request's head, from the connection or its first byte on.
    pub header_timeout: Duration,
    /// Between two requests.
    pub idle_timeout: Duration,
    /// For a whole exchange, from the request's head to the last byte of the answer. For a [`Streaming`] answer: how long
    /// the client may leave what is written to it unread.
    pub response_timeout: Duration,
    /// For the client to take note that the connection closes.
    pub linger_timeout: Duration,
    /// For exchanges in progress when the server stops.
    pub shutdown_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: 512,
            max_header_bytes: 16 * 1024,
            max_body_bytes: 64 * 1024,
            max_pending_bytes: 256 * 1024 * 1024,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            response_timeout: Duration::from_secs(30),
            linger_timeout: Duration::from_secs(1),
            shutdown_timeout: Duration::from_secs(3),
        }
    }
}

/// An extension of a response that goes on for as long as the client listens, such as server-sent events: it ends when the
/// client leaves what is written unread, not at a deadline.
#[derive(Clone, Copy, Debug)]
pub struct Streaming;

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepted; nothing or a part of the TLS handshake arrived.
    Opening,
    /// A request's head is due, or partly here.
    Head,
    /// Between two requests.
    Idle,
    /// From a request's head to the last byte of its answer.
    Busy,
    /// As `Busy`, with an answer that has no end.
    Streaming,
    /// All is said; waiting for the client to close as well.
    Closing,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) phase: Phase,
    pub(super) since: Instant,
    /// Since when the client takes nothing of what is ready for it.
    pub(super) blocked_since: Option<Instant>,
    /// Bytes of the answer that is under way.
    pub(super) pending_bytes: u64,
}

impl Progress {
    /// When this connection must be dropped unless it moves on.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Instant> {
        let (from, timeout) = match self.phase {
            Phase::Opening => (self.since, limits.handshake_timeout),
            Phase::Head => (self.since, limits.header_timeout),
            Phase::Idle => (self.since, limits.idle_timeout),
            Phase::Busy => (self.since, limits.response_timeout),
            Phase::Streaming => (self.blocked_since?, limits.response_timeout),
            Phase::Closing => (self.since, limits.linger_timeout),
        };
        Some(from + timeout)
    }

    pub(super) fn in_request(&self) -> bool {
        matches!(self.phase, Phase::Busy | Phase::Streaming)
    }
}

/// Which connection to close for another: the one without a request that has been so longest; failing that, of those whose
/// client takes nothing, the one with the oldest request; failing that, the oldest that has no end.
pub(super) fn victim<K: Copy>(connections: impl Iterator<Item = (K, Progress)> + Clone) -> Option<K> {
    let oldest = |spare: fn(&Progress) -> bool| {
        let candidates = connections.clone().filter(|(_, progress)| spare(progress));
        candidates.min_by_key(|(_, progress)| progress.since).map(|(key, _)| key)
    };
    oldest(|progress| !progress.in_request())
        .or_else(|| oldest(|progress| progress.blocked_since.is_some()))
        .or_else(|| oldest(|progress| progress.phase == Phase::Streaming))
}

/// Which connections to close so that `more` bytes can wait beside what already does: those stuck longest, and only those
/// that have been for a second, as a slow link is not a dead client. `None` where that is not enough.
pub(super) fn victims_for_bytes<K: Copy>(
    connections: impl Iterator<Item = (K, Progress)> + Clone,
    more: u64,
    limits: &Limits,
    now: Instant,
) -> Option<Vec<K>> {
    let pending: u64 = connections.clone().map(|(_, progress)| progress.pending_bytes).sum();
    // One answer always has room, whatever its size.
    if pending == 0 || pending + more <= limits.max_pending_bytes {
        return Some(Vec::new());
    }
    let mut excess = pending + more - limits.max_pending_bytes;
    let stuck_for = |progress: &Progress| progress.blocked_since.map_or(Duration::ZERO, |since| now - since);
    let mut stuck: Vec<_> = connections.filter(|(_, progress)| stuck_for(progress) >= Duration::from_secs(1)).collect();
    stuck.sort_by_key(|(_, progress)| progress.blocked_since);
    let mut victims = Vec::new();
    for (key, progress) in stuck {
        victims.push(key);
        excess = excess.saturating_sub(progress.pending_bytes);
        if excess == 0 {
            return Some(victims);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(phase: Phase, since: Instant, blocked_since: Option<Instant>, pending_bytes: u64) -> Progress {
        Progress { phase, since, blocked_since, pending_bytes }
    }

    #[test]
    fn the_longest_idle_makes_room_then_the_stuck_and_never_the_working() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let idle = ('i', progress(Phase::Idle, at(3), None, 0));
        let slow_head = ('h', progress(Phase::Head, at(2), None, 0));
        let working = ('w', progress(Phase::Busy, at(0), None, 9));
        let stuck = ('s', progress(Phase::Busy, at(1), Some(at(4)), 9));
        let pick = |list: &[(char, Progress)]| victim(list.iter().copied());
        assert_eq!(pick(&[working, stuck, idle, slow_head]), Some('h'));
        assert_eq!(pick(&[working, stuck, idle]), Some('i'));
        let stream = ('e', progress(Phase::Streaming, at(0), None, 0));
        assert_eq!(pick(&[working, stuck, stream]), Some('s'));
        assert_eq!(pick(&[working, stream]), Some('e'));
        assert_eq!(pick(&[working]), None);
        assert_eq!(pick(&[]), None);
    }

    #[test]
    fn stuck_clients_make_room_for_bytes() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let limits = Limits { max_pending_bytes: 100, ..Limits::default() };
        let first = ('1', progress(Phase::Busy, at(0), Some(at(2)), 40));
        let second = ('2', progress(Phase::Busy, at(0), Some(at(1)), 40));
        let moving = ('m', progress(Phase::Busy, at(0), Some(at(5)), 20));
        let pick = |more| victims_for_bytes([first, second, moving].into_iter(), more, &limits, at(5));
        assert_eq!(pick(0), Some(vec![]));
        assert_eq!(pick(30), Some(vec!['2']));
        assert_eq!(pick(80), Some(vec!['2', '1']));
        assert_eq!(pick(81), None);
        let alone = [('a', progress(Phase::Busy, at(0), None, 0))];
        assert_eq!(victims_for_bytes(alone.into_iter(), 1000, &limits, at(5)), Some(vec![]));
    }

    #[test]
    fn deadlines_follow_the_phase() {
        let limits = Limits::default();
        let now = Instant::now();
        let left = |phase, blocked| progress(phase, now, blocked, 0).deadline(&limits).map(|due| (due - now).as_secs());
        assert_eq!(left(Phase::Opening, None), Some(10));
        assert_eq!(left(Phase::Head, None), Some(10));
        assert_eq!(left(Phase::Idle, None), Some(60));
        assert_eq!(left(Phase::Busy, None), Some(30));
        assert_eq!(left(Phase::Streaming, None), None);
        assert_eq!(left(Phase::Streaming, Some(now)), Some(30));
    }
}
