//! A kernel that is not there: connections, what became of requests, and what would be told of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::{began, first, joined, left, with_port};
use crate::pm::mode::Kind;
use crate::pm::{
    Book, Ends, Happening, ListedConnection, ListedSubflow, Listing, Origin, Refusal, Request, Role, Settings,
};

/// What can happen, with numbers that choose whom it happens to.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Begin { server: bool },
    End(usize),
    Perform,
    Refuse,
    Establish(usize),
    Reject(usize),
    Kill(usize),
    PeerJoins(usize),
    Deliver,
    DeliverTwice,
    DeliverLater,
    Lose,
    Wait(u64),
}

struct Truth {
    role: Role,
    first: Ends,
    subflows: Vec<(Ends, Origin)>,
    connecting: Vec<Ends>,
}

/// The truth, the book and what is on its way between them.
pub struct World {
    pub book: Book,
    pub wanted: usize,
    pub most: usize,
    /// Whether servers make subflows, which none is known to do.
    pub servers_join: bool,
    now: Instant,
    connections: BTreeMap<u32, Truth>,
    events: VecDeque<(u32, Happening)>,
    requests: VecDeque<Request>,
    next: u16,
}

impl World {
    pub fn new(wanted: u16, most: u16) -> World {
        let settings =
            Settings { mode: Kind::Ndiffports, subflows: wanted, most_subflows: most, ..Settings::default() };
        World {
            book: Book::new(settings),
            wanted: usize::from(wanted.min(most)).max(1),
            most: most.into(),
            servers_join: false,
            now: Instant::now(),
            connections: BTreeMap::new(),
            events: VecDeque::new(),
            requests: VecDeque::new(),
            next: 1,
        }
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Begin { server } => self.begin(if server { Role::Server } else { Role::Client }),
            Step::End(which) => {
                if let Some(token) = self.pick(which) {
                    self.connections.remove(&token);
                    self.events.push_back((token, Happening::Ended));
                }
            }
            Step::Perform => self.perform(false),
            Step::Refuse => self.perform(true),
            Step::Establish(which) => self.answer(which, true),
            Step::Reject(which) => self.answer(which, false),
            Step::Kill(which) => self.kill(which),
            Step::PeerJoins(which) => self.peer_joins(which),
            Step::Deliver => self.deliver(),
            Step::DeliverTwice => {
                self.events.front().copied().into_iter().for_each(|event| self.events.push_front(event));
                self.deliver();
                self.deliver();
            }
            Step::DeliverLater => self.events.rotate_left(self.events.len().min(1)),
            Step::Lose => drop(self.events.pop_front()),
            Step::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                let requests = self.book.beat(self.now);
                self.requests.extend(requests);
            }
        }
    }

    /// Lets everything go well until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            while !self.requests.is_empty() || !self.events.is_empty() {
                self.step(Step::Perform);
                self.step(Step::Deliver);
            }
            while self.connections.values().any(|truth| !truth.connecting.is_empty()) {
                self.step(Step::Establish(0));
            }
            self.step(Step::Wait(31_000));
        }
    }

    pub fn deliver_all(&mut self) {
        while !self.events.is_empty() {
            self.deliver();
        }
    }

    /// Replaces the book by an empty one, which takes over what there is.
    pub fn restart(&mut self) {
        self.book = Book::new(self.book.settings().clone());
        self.events.clear();
        self.requests.clear();
        self.resync();
    }

    pub fn resync(&mut self) {
        let listing = self.listing();
        let requests = self.book.resync(&listing, self.now);
        self.requests.extend(requests);
    }

    /// No request is made twice at a time, and of subflows none beyond what is wanted.
    pub fn check_requests(&self) {
        for (at, request) in self.requests.iter().enumerate() {
            if !matches!(request, Request::CreateSubflow { .. }) {
                assert!(!self.requests.iter().skip(at + 1).any(|other| other == request), "twice: {request:?}");
            }
        }
        for connection in self.book.connections() {
            let asked: usize = connection.pairs().iter().map(|state| state.attempts.len()).sum();
            assert!(asked <= self.wanted, "{asked} asked for: {connection:?}");
        }
    }

    /// No connection has more subflows of its own than wanted, those that are on their way included.
    pub fn check_truth(&self) {
        for (token, truth) in &self.connections {
            let ours = truth.subflows.iter().filter(|(_, origin)| *origin == Origin::Ours).count();
            let open = self
                .requests
                .iter()
                .filter(|request| matches!(request, Request::CreateSubflow { token: of, .. } if of == token));
            let all = 1 + ours + truth.connecting.len() + open.count();
            assert!(all <= self.wanted + 1, "{all} subflows");
        }
    }

    /// The book has what there is.
    pub fn check_equal(&self) {
        let tokens: Vec<u32> = self.book.connections().map(|connection| connection.token()).collect();
        assert_eq!(tokens, self.connections.keys().copied().collect::<Vec<_>>());
        for (connection, truth) in self.book.connections().zip(self.connections.values()) {
            let mut have: Vec<Ends> = connection.subflows().iter().map(|subflow| subflow.ends).collect();
            let mut wanted: Vec<Ends> = truth.subflows.iter().map(|(ends, _)| *ends).collect();
            have.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(have, wanted);
            let asked = connection.pairs().iter().flat_map(|state| &state.attempts);
            assert_eq!(asked.filter(|attempt| attempt.taken).count(), truth.connecting.len());
        }
    }

    /// Every client has as many subflows as wanted, and nobody more than may be.
    pub fn check_settled(&self) {
        for truth in self.connections.values() {
            assert!(truth.subflows.len() <= self.most, "{:?}", truth.subflows);
            let to_first = truth.subflows.iter().filter(|(ends, _)| ends.pair() == truth.first.pair()).count();
            let peers = truth.subflows.len() - to_first;
            if truth.role == Role::Client {
                assert_eq!(to_first, self.wanted.min(self.most - peers.min(self.most)), "{:?}", truth.subflows);
            }
        }
    }

    fn begin(&mut self, role: Role) {
        let (ends, token) = (first(self.port()), u32::from(self.next));
        self.connections
            .insert(token, Truth { role, first: ends, subflows: vec![(ends, Origin::First)], connecting: Vec::new() });
        let port = ends.local.port();
        self.events.push_back((token, began(port, role)));
    }

    fn perform(&mut self, refuse: bool) {
        let Some(request) = self.requests.pop_front() else { return };
        let token = request.token();
        let outcome = match self.connections.get_mut(&token) {
            None => Err((libc::EINVAL, "invalid token")),
            _ if refuse => Err((libc::EADDRNOTAVAIL, "connect error: -99")),
            Some(truth) => match &request {
                Request::CreateSubflow { .. } => {
                    self.next += 1;
                    truth.connecting.push(with_port(truth.first, self.next));
                    Ok(())
                }
                Request::DestroySubflow { ends, .. } => {
                    let at = truth.subflows.iter().position(|(known, _)| known == ends);
                    at.map(|at| truth.subflows.remove(at)).map(|_| ()).ok_or((libc::ESRCH, "subflow not found"))
                }
                _ => Ok(()),
            },
        };
        if let (Request::DestroySubflow { ends, .. }, Ok(())) = (&request, &outcome) {
            self.events.push_back((token, left(*ends)));
        }
        let outcome = outcome.map_err(|(errno, text)| Refusal { errno: Some(errno), text: text.to_owned() });
        let requests = self.book.told(&request, outcome, self.now);
        self.requests.extend(requests);
    }

    fn answer(&mut self, which: usize, yes: bool) {
        let tokens: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, truth)| !truth.connecting.is_empty())
            .map(|(token, _)| *token)
            .collect();
        let Some(token) = tokens.get(which % tokens.len().max(1)) else { return };
        let Some(truth) = self.connections.get_mut(token) else { return };
        let ends = truth.connecting.remove(which % truth.connecting.len());
        if yes {
            truth.subflows.push((ends, Origin::Ours));
        }
        self.events.push_back((*token, if yes { joined(ends) } else { left(ends) }));
    }

    /// Ends a subflow, but never the last one.
    fn kill(&mut self, which: usize) {
        let Some(token) = self.pick(which) else { return };
        let Some(truth) = self.connections.get_mut(&token).filter(|truth| truth.subflows.len() > 1) else { return };
        let (ends, _) = truth.subflows.remove(which % truth.subflows.len());
        self.events.push_back((token, left(ends)));
    }

    fn peer_joins(&mut self, which: usize) {
        let (Some(token), port) = (self.pick(which), self.port()) else { return };
        let odd = self.servers_join;
        let Some(truth) = self.connections.get_mut(&token).filter(|truth| odd || truth.role == Role::Server) else {
            return;
        };
        let mut ends = truth.first;
        ends.remote.set_port(port);
        truth.subflows.push((ends, Origin::Peer));
        self.events.push_back((token, joined(ends)));
    }

    fn deliver(&mut self) {
        let Some((token, happening)) = self.events.pop_front() else { return };
        let requests = self.book.observe(token, &happening, self.now);
        self.requests.extend(requests);
    }

    fn listing(&self) -> Listing {
        let listed = |truth: &Truth| {
            let there = truth.subflows.iter().map(|(ends, origin)| (*ends, *origin, false));
            let coming = truth.connecting.iter().map(|ends| (*ends, Origin::Ours, true));
            let subflows = there.chain(coming).map(|(ends, origin, connecting)| ListedSubflow {
                ends,
                local_id: 0,
                remote_id: 0,
                ipv6_socket: false,
                joined: origin != Origin::First,
                by_us: origin == Origin::Ours || (origin == Origin::First && truth.role == Role::Client),
                backup: false,
                connecting,
                fully_established: !connecting,
            });
            ListedConnection {
                ends: truth.first,
                ipv6_socket: false,
                ifindex: None,
                open: true,
                subflows: subflows.collect(),
            }
        };
        Listing { connections: self.connections.iter().map(|(token, truth)| (*token, listed(truth))).collect() }
    }

    fn pick(&self, which: usize) -> Option<u32> {
        self.connections.keys().nth(which % self.connections.len().max(1)).copied()
    }

    fn port(&mut self) -> u16 {
        self.next += 1;
        self.next
    }
}
