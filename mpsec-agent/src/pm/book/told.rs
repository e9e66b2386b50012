//! What came of requests.

use std::time::{Duration, Instant};

use super::Book;
use crate::pm::reconcile::ANNOUNCE_PAUSE;
use crate::pm::request::{Refusal, Request};
use crate::pm::stats::Failure;
use crate::pm::subflow::Ends;

/// An id that does not fit may be a connection that ends, and such a one is gone by then.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

impl Book {
    /// Takes note of what came of a request, before any event that came after it is observed.
    pub fn told(&mut self, request: &Request, outcome: Result<(), Refusal>, now: Instant) -> Vec<Request> {
        let token = request.token();
        if let Err(refusal) = &outcome {
            self.counters.requests_refused += 1;
            if refusal.connection_is_gone() {
                self.await_end(token);
                return Vec::new();
            }
            if refusal.other_manager() {
                self.leave_to_other_manager(token);
                return Vec::new();
            }
        }
        match request {
            Request::CreateSubflow { local, remote, .. } => {
                let ends = Ends { local: (local.address, 0).into(), remote: remote.address };
                self.told_create(token, ends, local.id, outcome, now);
            }
            Request::DestroySubflow { ends, .. } => self.told_destroy(token, *ends, outcome, request, now),
            _ => self.told_control(token, request, outcome, now),
        }
        self.look_at(token, now)
    }

    fn told_create(&mut self, token: u32, ends: Ends, id: u8, outcome: Result<(), Refusal>, now: Instant) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let lacks_id = id == 0 && outcome.as_ref().is_err_and(Refusal::wants_id);
        connection.first_needs_id |= lacks_id;
        let Some(state) = connection.pair_state(ends.pair()) else { return };
        let Some(at) = state.attempts.iter().position(|attempt| !attempt.taken) else { return };
        match outcome {
            Ok(()) => {
                state.attempts[at].taken = true;
                state.other_id_since = None;
            }
            Err(refusal) => {
                state.attempts.remove(at);
                // mptcp_pm_nl_subflow_create_doit, net/mptcp/pm_userspace.c, Linux 6.18.
                state.impossible |= refusal.text.contains("families mismatch");
                let may_be_ending = refusal.other_id()
                    && now.saturating_duration_since(*state.other_id_since.get_or_insert(now)) < ENDS_WITHIN;
                if lacks_id {
                    // It is asked for again at once, with an id.
                } else if refusal.too_late() || may_be_ending {
                    self.counters.requests_too_late += 1;
                    self.pause(token, ends.pair(), false, now);
                } else {
                    self.failed(token, ends.pair(), &refusal.text, now);
                }
            }
        }
    }

    fn told_destroy(&mut self, token: u32, ends: Ends, outcome: Result<(), Refusal>, request: &Request, now: Instant) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match outcome {
            Err(refusal) if !refusal.no_such_subflow() => {
                if let Some(subflow) = connection.subflows.iter_mut().find(|subflow| subflow.ends == ends) {
                    subflow.ending = false;
                }
                self.refused(token, request, refusal, now);
            }
            // The kernel has closed it by now; the event of that may or may not come.
            _ => {
                connection.bury(ends);
            }
        }
    }

    fn told_control(&mut self, token: u32, request: &Request, outcome: Result<(), Refusal>, now: Instant) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let done = outcome.is_ok();
        match request {
            Request::Announce { local, .. } => {
                connection.announcing = None;
                if done {
                    connection.announced.push(local.address);
                    connection.announce_after = now.checked_add(ANNOUNCE_PAUSE);
                    self.counters.announced += 1;
                }
            }
            // Whether or not the kernel could tell the peer: the address is gone.
            Request::Remove { .. } => self.counters.removed += u64::from(done),
            Request::SetFlags { ends, backup, .. } => {
                if let Some(subflow) = connection.subflows.iter_mut().find(|subflow| subflow.ends == *ends) {
                    subflow.changing = false;
                    if done {
                        subflow.backup = *backup;
                    }
                }
                self.counters.priorities_changed += u64::from(done);
            }
            Request::CreateSubflow { .. } | Request::DestroySubflow { .. } => {}
        }
        match outcome {
            Ok(()) => self.connections.get_mut(&token).into_iter().for_each(|connection| connection.control.succeed()),
            Err(refusal) => self.refused(token, request, refusal, now),
        }
    }

    /// A request other than for a subflow was refused.
    fn refused(&mut self, token: u32, request: &Request, refusal: Refusal, now: Instant) {
        self.failures.note(Failure { token, what: request.to_string(), why: refusal.text });
        let salt = self.settings.salt;
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let salt = connection.salt(salt);
        // The end of an address waits for nothing: nobody tells it again, and its subflows are ended next.
        if !matches!(request, Request::Remove { .. }) && connection.control.pending(now).is_none() {
            connection.control.fail(salt, now);
            self.counters.backed_off += 1;
        }
    }

    /// The connection is over, which is about to be told, or else shows in the next list.
    fn await_end(&mut self, token: u32) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.established = false;
        connection.pairs.clear();
        if let Some(due) = connection.due.take() {
            self.due.remove(&(due, token));
        }
    }

    fn leave_to_other_manager(&mut self, token: u32) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if !connection.foreign {
            connection.foreign = true;
            connection.pairs.clear();
            self.counters.connections_foreign += 1;
        }
        if let Some(due) = connection.due.take() {
            self.due.remove(&(due, token));
        }
    }
}
