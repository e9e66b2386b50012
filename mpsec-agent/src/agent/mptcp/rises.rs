//! Which of the kernel's MPTCP counters have risen lately: what went wrong, rather than what ever did.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// For how long a rise is worth telling.
const LATELY: Duration = Duration::from_secs(300);

/// The counters at the last look, and when each last rose.
#[derive(Default)]
pub struct Rises {
    last: HashMap<String, u64>,
    risen: HashMap<String, Rise>,
    blackhole: Option<bool>,
}

#[derive(Clone, Copy)]
struct Rise {
    /// By how much, since it had last been quiet.
    by: u64,
    at: Instant,
}

impl Rises {
    /// Takes note of the counters as they are now. The first look is what later ones are compared with.
    pub fn look(&mut self, mib: &[(String, u64)], now: Instant) {
        let first = self.last.is_empty();
        self.risen.retain(|_, rise| now.saturating_duration_since(rise.at) < LATELY);
        let mut risen_now = HashMap::new();
        for (name, value) in mib {
            let before = self.last.insert(name.clone(), *value).unwrap_or(if first { *value } else { 0 });
            let by = value.saturating_sub(before);
            if by > 0 {
                let rise = self.risen.entry(name.clone()).or_insert(Rise { by: 0, at: now });
                *rise = Rise { by: rise.by + by, at: now };
                risen_now.insert(name.as_str(), by);
            }
        }
        self.judge_blackhole(|name| risen_now.contains_key(name));
    }

    /// By how much a counter has risen lately; `None` if it has not.
    pub fn lately(&self, name: &str) -> Option<u64> {
        self.risen.get(name).map(|rise| rise.by)
    }

    /// Whether new connections skip MPTCP because earlier ones were swallowed (net/mptcp/ctrl.c, mptcp_active_should_disable,
    /// 6.12 and later). The kernel does not say so; its counters do: connections that ask for MPTCP and are not let, until
    /// one is let again. `None` until either has been seen.
    pub fn blackhole(&self) -> Option<bool> {
        self.blackhole
    }

    fn judge_blackhole(&mut self, rose: impl Fn(&str) -> bool) {
        if rose("MPCapableSYNTXDisabled") || rose("Blackhole") {
            self.blackhole = Some(true);
        } else if rose("MPCapableSYNTX") {
            self.blackhole = Some(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mib(values: &[(&str, u64)]) -> Vec<(String, u64)> {
        values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn only_what_rose_lately_is_told() {
        let (mut rises, now) = (Rises::default(), Instant::now());
        rises.look(&mib(&[("MPFailRx", 5), ("RmAddr", 1)]), now);
        assert_eq!(rises.lately("MPFailRx"), None, "what was before the agent is not news");
        rises.look(&mib(&[("MPFailRx", 7), ("RmAddr", 1)]), now + Duration::from_secs(1));
        rises.look(&mib(&[("MPFailRx", 8), ("RmAddr", 1), ("New", 2)]), now + Duration::from_secs(2));
        assert_eq!((rises.lately("MPFailRx"), rises.lately("RmAddr")), (Some(3), None));
        assert_eq!(rises.lately("New"), Some(2), "all zeros until the first socket, and absent before");
        rises.look(&mib(&[("MPFailRx", 8)]), now + Duration::from_secs(2) + LATELY);
        assert_eq!(rises.lately("MPFailRx"), None);
    }

    #[test]
    fn a_blackhole_ends_when_a_connection_may_ask_again() {
        let (mut rises, now) = (Rises::default(), Instant::now());
        let mut look = |disabled, sent| {
            rises.look(&mib(&[("MPCapableSYNTX", sent), ("MPCapableSYNTXDisabled", disabled)]), now);
            rises.blackhole()
        };
        assert_eq!(look(4, 1), None);
        assert_eq!(look(4, 2), Some(false));
        assert_eq!(look(5, 2), Some(true));
        assert_eq!(look(5, 2), Some(true));
        assert_eq!(look(5, 3), Some(false));
    }
}
