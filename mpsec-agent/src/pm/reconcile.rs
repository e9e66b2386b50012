//! What is missing between what a connection has and what it is to have.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::locals::{Local, Locals};
use super::mode::{Plan, Wanted};
use super::request::{Request, Why};
use super::subflow::{Attempt, Ends, GOOD_AFTER, Origin, PairState, Remote};

/// Between two announcements of one connection: by then the first has left, if anything was sent at all.
pub const ANNOUNCE_PAUSE: Duration = Duration::from_millis(200);

/// Makes the requests that bring a connection nearer to the plan, and notes them as made. When to look again is noted, too.
pub fn reconcile(
    connection: &mut Connection,
    plan: &Plan,
    locals: &Locals,
    most_subflows: usize,
    now: Instant,
) -> Vec<Request> {
    connection.due = None;
    if connection.foreign || !connection.established {
        return Vec::new();
    }
    let mut step = Step { locals, most: most_subflows.max(1), now, requests: Vec::new(), connection };
    step.take_over(plan);
    if step.control_is_free() {
        step.take_back();
        step.end();
        step.announce(plan);
        step.prioritise();
    }
    step.create();
    step.requests
}

struct Step<'a> {
    connection: &'a mut Connection,
    locals: &'a Locals,
    most: usize,
    now: Instant,
    requests: Vec<Request>,
}

impl Step<'_> {
    /// Notes what is wanted. A pair that is no longer wanted is forgotten as soon as nothing is asked for on it.
    fn take_over(&mut self, plan: &Plan) {
        let mut before = std::mem::take(&mut self.connection.pairs);
        for wanted in &plan.subflows {
            let same = |state: &PairState| {
                state.wanted.local.address == wanted.local.address
                    && state.wanted.remote.address == wanted.remote.address
            };
            let state = match before.iter().position(same) {
                Some(at) => PairState { wanted: *wanted, ..before.swap_remove(at) },
                None => PairState::new(*wanted),
            };
            self.connection.pairs.push(state);
        }
        let unwanted = before.into_iter().filter(|state| !state.attempts.is_empty());
        self.connection.pairs.extend(unwanted.map(|mut state| {
            state.wanted.subflows = 0;
            state
        }));
    }

    fn control_is_free(&mut self) -> bool {
        let pending = self.connection.control.pending(self.now);
        self.look_again(pending);
        pending.is_none()
    }

    /// Whether there is a subflow from an address that is not gone. Without one, those from addresses that are gone stay: the
    /// address may come back, and without any subflow the kernel ends the connection.
    fn stands_elsewhere(&self) -> bool {
        let mut living = self.connection.subflows.iter().filter(|subflow| !subflow.ending);
        living.any(|subflow| !self.locals.is_gone(subflow.ends.local.ip()))
    }

    /// Tells the peer of addresses that are gone. The kernel forgets an address with the first of its subflows that is ended
    /// (mptcp_pm_nl_subflow_destroy_doit, net/mptcp/pm_userspace.c, Linux 6.18), so this comes before that.
    fn take_back(&mut self) {
        if !self.stands_elsewhere() {
            return;
        }
        self.connection.taken_back.retain(|address| self.locals.is_gone(*address));
        let used = self.connection.subflows.iter().map(|subflow| subflow.ends.local.ip());
        let mut gone: Vec<IpAddr> = used.chain(self.connection.announced.iter().copied()).collect();
        gone.sort_unstable();
        gone.dedup();
        gone.retain(|address| self.locals.is_gone(*address) && !self.connection.taken_back.contains(address));
        for address in gone {
            let id = self.connection.local_id(Local::new(address));
            self.connection.taken_back.push(address);
            self.connection.announced.retain(|announced| *announced != address);
            self.requests.push(Request::Remove { token: self.connection.token, address, id });
        }
    }

    /// Ends subflows that are not to be, the newest first. The last one stays.
    fn end(&mut self) {
        let stands_elsewhere = self.stands_elsewhere();
        for at in (0..self.connection.subflows.len()).rev() {
            let living = self.connection.living();
            let subflow = self.connection.subflows[at];
            let why = match subflow.origin {
                _ if subflow.ending || living <= 1 => None,
                _ if self.locals.is_gone(subflow.ends.local.ip()) => stands_elsewhere.then_some(Why::AddressGone),
                Origin::First => None,
                Origin::Ours if self.is_surplus(subflow.ends) => Some(Why::Unwanted),
                _ => (living > self.most).then_some(Why::OverTheCap),
            };
            if let Some(why) = why {
                self.connection.subflows[at].ending = true;
                let (token, ends, mapped) = (self.connection.token, subflow.ends, subflow.mapped);
                self.requests.push(Request::DestroySubflow { token, ends, mapped, why });
            }
        }
    }

    fn is_surplus(&mut self, ends: Ends) -> bool {
        let have = self.have(ends);
        self.connection.pair_state(ends.pair()).is_none_or(|state| have > usize::from(state.wanted.subflows))
    }

    /// Subflows on the pair of these ends that nobody is about to end.
    fn have(&self, ends: Ends) -> usize {
        let living = self.connection.subflows.iter().filter(|subflow| !subflow.ending);
        living.filter(|subflow| subflow.ends.pair() == ends.pair()).count()
    }

    fn announce(&mut self, plan: &Plan) {
        let connection = &mut *self.connection;
        let untold = |local: &&Local| !connection.announced.contains(&local.address);
        let Some(local) = plan.announced.iter().find(untold).copied() else { return };
        if connection.announcing.is_some() {
            return;
        }
        match connection.announce_after.filter(|after| *after > self.now) {
            Some(after) => self.look_again(Some(after)),
            None => {
                connection.announcing = Some(local.address);
                let local = Local { id: connection.local_id(local), ..local };
                self.requests.push(Request::Announce { token: connection.token, local });
            }
        }
    }

    /// Has subflows of this host be backups, or not, as their local addresses are.
    fn prioritise(&mut self) {
        for subflow in &mut self.connection.subflows {
            let Some(local) = self.locals.get(subflow.ends.local.ip()) else { continue };
            if subflow.origin == Origin::Ours && !subflow.ending && !subflow.changing && subflow.backup != local.backup
            {
                subflow.changing = true;
                let (token, ends, mapped) = (self.connection.token, subflow.ends, subflow.mapped);
                self.requests.push(Request::SetFlags { token, ends, mapped, backup: local.backup });
            }
        }
    }

    /// Asks for what is missing, as far as there is room.
    fn create(&mut self) {
        let mut room = self.most.saturating_sub(self.connection.all());
        for at in 0..self.connection.pairs.len() {
            let Wanted { local, remote, subflows } = self.connection.pairs[at].wanted;
            let have = self.have(Ends { local: (local.address, 0).into(), remote: remote.address });
            let state = &self.connection.pairs[at];
            let missing = usize::from(subflows).saturating_sub(have + state.attempts.len()).min(room);
            if missing == 0 || state.impossible {
                continue;
            }
            let number = self.allowed(at).min(missing);
            let attempts = std::iter::repeat_n(Attempt { taken: false, port: None }, number);
            self.connection.pairs[at].attempts.extend(attempts);
            room -= number;
            self.ask_for(number, local, remote);
        }
    }

    /// How many subflows may be asked for on a pair. After a failure it is one, when the pause is over, and any number again
    /// once that has shown to be good: some peers refuse what they have no room for after the handshake.
    fn allowed(&mut self, at: usize) -> usize {
        let state = &self.connection.pairs[at];
        let (backoff, pair) = (state.backoff, state.pair());
        let Some(failed) = backoff.last() else { return usize::MAX };
        if let Some(until) = backoff.pending(self.now) {
            self.look_again(Some(until));
            return 0;
        }
        let living = self.connection.subflows.iter().filter(|subflow| !subflow.ending && subflow.ends.pair() == pair);
        match living.map(|subflow| subflow.since).filter(|since| *since > failed).min() {
            None => 1_usize.saturating_sub(state.attempts.len()),
            Some(since) if self.now >= since + GOOD_AFTER => {
                self.connection.pairs[at].backoff.succeed();
                usize::MAX
            }
            Some(since) => {
                self.look_again(Some(since + GOOD_AFTER));
                0
            }
        }
    }

    fn ask_for(&mut self, number: usize, local: Local, remote: Remote) {
        let local = Local { id: self.connection.local_id(local), ..local };
        let request = Request::CreateSubflow { token: self.connection.token, local, remote };
        self.requests.extend(std::iter::repeat_n(request, number));
    }

    fn look_again(&mut self, at: Option<Instant>) {
        let due = self.connection.due;
        self.connection.due = due.into_iter().chain(at).min();
    }
}
