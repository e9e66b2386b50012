//! What the path manager has done, as plain data.

use std::collections::{BTreeMap, VecDeque};

/// Texts of failures that are told apart.
const MOST_TEXTS: usize = 32;
/// Failures that are remembered one by one.
const MOST_LAST: usize = 16;
/// What further texts are counted as.
const OTHER: &str = "other";

/// Declares the counters, and how two sets of them are compared.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What was counted since the path manager was opened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Hands the name and value of each to `take`.
            pub fn each(&self, mut take: impl FnMut(&'static str, u64)) {
                $(take(stringify!($name), self.$name);)*
            }
        }
    };
}

counters! {
    /// Requests for a subflow that were made.
    subflows_requested,
    /// Subflows that joined, whoever made them.
    subflows_joined,
    /// Subflows that were asked for and failed: refused by the kernel, or by the peer, or never answered.
    subflows_failed,
    /// Subflows that ended within a second.
    subflows_short_lived,
    /// Subflows that ended by themselves.
    subflows_ended,
    /// Requests to end a subflow because the connection has too many.
    ended_over_the_cap,
    /// Requests to end a subflow because its local address is gone.
    ended_address_gone,
    /// Requests to end a subflow that the mode does not want.
    ended_unwanted,
    /// Addresses that peers were told of.
    announced,
    /// Addresses that peers were told are gone.
    removed,
    /// Changes of a subflow's priority.
    priorities_changed,
    /// Requests of any kind that the kernel refused.
    requests_refused,
    /// Requests for a subflow that came too late, or too early: the connection was not open both ways.
    requests_too_late,
    /// Pauses that were begun after a failure.
    backed_off,
    /// Connections that began.
    connections_begun,
    /// Connections that ended.
    connections_ended,
    /// Connections that were there before this was opened, or that began while events were lost.
    connections_adopted,
    /// Connections that were let be because there are too many.
    connections_over_the_cap,
    /// Connections that have another path manager.
    connections_foreign,
    /// Addresses of peers that were not taken note of because one peer announced too many.
    remotes_over_the_cap,
    /// Events about a connection or a subflow that is not known.
    events_stray,
    /// How often events were lost for lack of room.
    overflows,
    /// How often the book was compared with the kernel's list.
    resyncs,
    /// How often the list could not be had.
    resyncs_failed,
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Local token of the connection.
    pub token: u32,
    /// What failed.
    pub what: String,
    /// The kernel's or the peer's reason.
    pub why: String,
}

/// Where the path manager stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Name of the mode.
    pub mode: &'static str,
    /// Connections that are managed.
    pub managed: usize,
    /// Connections that are not: they have another path manager, or were too many when they were last listed.
    pub unmanaged: usize,
    /// Subflows that the modes want on the managed connections and that are not there, those that wait included.
    pub wanted: usize,
    /// Subflows that are asked for and of which nothing has been heard.
    pub requested: usize,
    /// Established subflows of managed connections.
    pub established: usize,
    /// Pauses after a failure that are not over.
    pub backoffs_pending: usize,
    /// Failures by their reason; beyond 32 reasons as `other`.
    pub failures: BTreeMap<String, u64>,
    /// The latest failures, the newest last.
    pub last_failures: Vec<Failure>,
    /// What was counted.
    pub counters: Counters,
}

/// Failures by reason, and the latest of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures {
    pub(super) by_reason: BTreeMap<String, u64>,
    pub(super) last: VecDeque<Failure>,
}

impl Failures {
    pub(super) fn note(&mut self, failure: Failure) {
        let known = self.by_reason.len() < MOST_TEXTS || self.by_reason.contains_key(&failure.why);
        let reason = if known { failure.why.clone() } else { OTHER.to_owned() };
        *self.by_reason.entry(reason).or_default() += 1;
        self.last.push_back(failure);
        while self.last.len() > MOST_LAST {
            self.last.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_bounded_and_none_is_lost() {
        let mut failures = Failures::default();
        for number in 0..100 {
            failures.note(Failure { token: 1, what: "subflow".to_owned(), why: format!("reason {}", number % 50) });
        }
        assert_eq!(failures.by_reason.len(), MOST_TEXTS + 1);
        assert_eq!(failures.by_reason.values().sum::<u64>(), 100);
        assert_eq!(failures.last.len(), MOST_LAST);
        assert_eq!(failures.last.back().map(|failure| failure.why.as_str()), Some("reason 49"));
    }
}
