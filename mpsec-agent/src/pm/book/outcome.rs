//! How subflows join, end and fail.

use std::io;
use std::time::Instant;

use super::Book;
use crate::kernel::mptcp_pm::ResetReason;
use crate::pm::connection::{MOST_REMOTES, Role};
use crate::pm::happening::Happening;
use crate::pm::stats::Failure;
use crate::pm::subflow::{Ends, GOOD_AFTER, Origin, Pair, Remote, Subflow};

impl Book {
    /// Takes note of a subflow that joined, or failed to.
    pub(super) fn joined(&mut self, token: u32, happening: &Happening, now: Instant) {
        let Happening::Joined { ends, local_id, remote_id, ipv6_socket, error } = *happening else { return };
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.subflows.iter().any(|subflow| subflow.ends == ends) {
            return;
        }
        let asked_for = connection.take_attempt(ends);
        if let Some(error) = error {
            // That it ends is told as well.
            connection.note_gone(ends);
            self.failed(token, ends.pair(), &reason(Some(error), None), now);
            return;
        }
        connection.was_buried(ends);
        let by_peer = connection.role == Role::Server || ends.local.port() == connection.first.local.port();
        let backup = connection.pair_state(ends.pair()).is_some_and(|state| state.wanted.local.backup);
        connection.subflows.push(Subflow {
            ends,
            local_id,
            remote_id,
            origin: if by_peer && !asked_for { Origin::Peer } else { Origin::Ours },
            mapped: ipv6_socket && ends.local.is_ipv4(),
            backup,
            since: now,
            ending: false,
            changing: false,
        });
        self.counters.subflows_joined += 1;
    }

    /// Takes note of an address that the peer announced.
    pub(super) fn learn(&mut self, token: u32, remote: Remote) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let mut address = remote.address;
        if address.port() == 0 {
            address.set_port(connection.first.remote.port());
        }
        let known = connection.remotes.iter().position(|known| known.id == remote.id);
        match known {
            Some(at) => connection.remotes[at].address = address,
            None if connection.remotes.len() < MOST_REMOTES => {
                connection.remotes.push(Remote { id: remote.id, address })
            }
            None => self.counters.remotes_over_the_cap += 1,
        }
    }

    /// Takes note of a subflow's end, or of that of one that never was.
    pub(super) fn left(
        &mut self,
        token: u32,
        ends: Ends,
        error: Option<i32>,
        reset: Option<ResetReason>,
        now: Instant,
    ) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        // Told twice, it must not be taken for the end of another that is asked for: `bury` and `note_gone` see to that.
        if let Some(subflow) = connection.bury(ends) {
            self.ended(token, subflow, &reason(error, reset), now);
        } else if connection.was_buried(ends) {
            // It is known already.
        } else if connection.take_attempt(ends) {
            connection.note_gone(ends);
            self.failed(token, ends.pair(), &reason(error, reset), now);
        } else {
            self.counters.events_stray += 1;
        }
    }

    /// A subflow is no more. What replaces it waits: if it lived long, only as long as after a first failure, which is time
    /// enough for the connection's own end to be told.
    pub(super) fn ended(&mut self, token: u32, subflow: Subflow, why: &str, now: Instant) {
        if subflow.ending {
            return;
        }
        let good = now.saturating_duration_since(subflow.since) >= GOOD_AFTER;
        self.counters.subflows_ended += 1;
        let pair = subflow.ends.pair();
        if !good {
            self.counters.subflows_short_lived += 1;
            let what = format!("subflow {} > {} after its handshake", pair.local, pair.remote);
            self.failures.note(Failure { token, what, why: why.to_owned() });
        }
        self.pause(token, pair, good, now);
    }

    /// A subflow that was asked for will not be.
    pub(super) fn failed(&mut self, token: u32, pair: Pair, why: &str, now: Instant) {
        self.counters.subflows_failed += 1;
        let what = format!("subflow {} > {}", pair.local, pair.remote);
        self.failures.note(Failure { token, what, why: why.to_owned() });
        self.pause(token, pair, false, now);
    }

    /// Nothing is asked for on this pair for a while.
    pub(super) fn pause(&mut self, token: u32, pair: Pair, afresh: bool, now: Instant) {
        let salt = self.settings.salt;
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let salt = connection.salt(salt);
        let Some(state) = connection.pair_state(pair) else { return };
        let over = state.backoff.pending(now).is_none();
        if afresh && over {
            state.backoff.succeed();
        }
        // Several that fail together are one failure.
        if over {
            state.backoff.fail(salt, now);
            self.counters.backed_off += 1;
        }
    }
}

/// Why a subflow failed, in words.
pub(super) fn reason(error: Option<i32>, reset: Option<ResetReason>) -> String {
    let error = error.map(|number| io::Error::from_raw_os_error(number).to_string());
    match (error, reset) {
        (Some(error), Some(reset)) => format!("{error}, {reset}"),
        (Some(error), None) => error,
        (None, Some(reset)) => reset.to_string(),
        (None, None) => "closed by the peer".to_owned(),
    }
}
