//! A token bucket.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Allows one request an interval, and a burst of them after a pause.
pub(super) struct Bucket {
    interval: Duration,
    burst: u32,
    /// When the bucket was, or will be, empty: each request moves it on by an interval.
    empty_at: Mutex<Option<Instant>>,
}

impl Bucket {
    pub(super) fn new(interval: Duration, burst: u32) -> Self {
        Bucket { interval, burst, empty_at: Mutex::new(None) }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&self, now: Instant) -> bool {
        let full = self.interval.saturating_mul(self.burst);
        let mut empty_at = self.empty_at.lock().unwrap_or_else(PoisonError::into_inner);
        let held = empty_at.map_or(full, |empty_at| now.saturating_duration_since(empty_at).min(full));
        let Some(left) = held.checked_sub(self.interval) else {
            return false;
        };
        *empty_at = now.checked_sub(left);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_an_interval() {
        let bucket = Bucket::new(Duration::from_secs(1), 2);
        let start = Instant::now() + Duration::from_secs(1000);
        let at = |ms| bucket.take(start + Duration::from_millis(ms));
        let table = [(0, true), (0, true), (0, false), (900, false), (1000, true), (1500, false), (9000, true)];
        for (ms, allowed) in table {
            assert_eq!(at(ms), allowed, "{ms}");
        }
        assert!(at(9000));
        assert!(!at(9000));
    }
}
