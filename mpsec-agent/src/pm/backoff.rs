//! How long to leave alone what has failed.

use std::time::{Duration, Instant};

/// Pause after the first failure; each one after it doubles the pause.
pub const FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
pub const LONGEST: Duration = Duration::from_secs(30);

/// Failures in a row, and until when nothing is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    last: Option<Instant>,
    until: Option<Instant>,
}

impl Backoff {
    /// Notes a failure. `salt` spreads those that fail at the same time: the pause is between three and five quarters of what
    /// it would be without, and the same for the same salt.
    pub fn fail(&mut self, salt: u64, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.last = Some(now);
        self.until = now.checked_add(pause(self.failures, salt));
    }

    /// Forgets all failures.
    pub fn succeed(&mut self) {
        *self = Backoff::default();
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When it failed last.
    pub fn last(&self) -> Option<Instant> {
        self.last
    }

    /// Until when nothing is tried, if that is later than `now`.
    pub fn pending(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

fn pause(failures: u32, salt: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let plain = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    // A per mille between 750 and 1250.
    let share = 750 + mix(salt ^ u64::from(failures)) % 501;
    (plain * share as u32 / 1000).min(LONGEST)
}

/// The finishing steps of a multiplicative hash: neighbouring numbers come out far apart.
pub fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end_at_the_longest() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.pending(now), None);
        let mut plain = FIRST;
        for failures in 1..40 {
            backoff.fail(7, now);
            assert_eq!(backoff.failures(), failures);
            let pause = backoff.pending(now).expect("a pause") - now;
            assert!(pause >= plain * 3 / 4 && pause <= (plain * 5 / 4).min(LONGEST), "{pause:?} after {failures}");
            plain = (plain * 2).min(LONGEST);
        }
        backoff.succeed();
        assert_eq!(backoff, Backoff::default());
    }

    #[test]
    fn the_salt_spreads_and_repeats() {
        let pauses: std::collections::BTreeSet<_> = (0..100).map(|salt| pause(3, salt)).collect();
        assert!(pauses.len() > 50, "{}", pauses.len());
        assert_eq!(pause(3, 99), pause(3, 99));
    }
}
