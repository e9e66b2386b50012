//! The subflows of the moment, as far as they matter to [`super::Failover`].

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use mpsec_common::mptcp::{SubflowKey, SubflowState, flags};
use mpsec_common::probes::Closer;

use super::hearing::Heard;
use super::{Facts, Path};
use crate::kernel::sock_diag;
use crate::kernel::subflows::{Subflows, View};

/// What of a subflow matters here.
#[derive(Clone, Copy, Debug)]
struct Line {
    key: SubflowKey,
    token: u32,
    fell_back: bool,
    is_established: bool,
    received: u64,
    /// Packets in both directions.
    packets: u64,
    /// Payload received, in bytes.
    payload: u64,
    srtt_us: u32,
    /// Where its last packet left; 0 for none.
    leaves_by: u32,
    /// The connection's first one.
    is_first: bool,
    /// The peer opened it.
    was_accepted: bool,
}

/// The subflows of the moment.
#[derive(Debug, Default)]
pub(super) struct Book(Vec<Line>);

impl Book {
    /// Empty if the table cannot be read, which is as if the host had no connections: nothing is done then.
    pub(super) fn read(table: &mut Subflows) -> Book {
        let mut lines = Vec::new();
        if let Err(error) = table.poll(|view| lines.extend(Line::of(view))) {
            tracing::warn!(%error, "cannot read the table of subflows");
        }
        Book(lines)
    }

    pub(super) fn facts(&self, path: Path) -> Facts {
        let mut facts = Facts::default();
        let (mut here, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
        for line in &self.0 {
            let is_here = line.is_on(path);
            if is_here {
                facts.received += line.received;
                facts.connecting += usize::from(!line.is_established);
                facts.established += usize::from(line.is_established);
            }
            if line.is_established {
                facts.alone += usize::from(is_here && line.fell_back);
                if is_here { &mut here } else { &mut elsewhere }.insert(line.token);
            }
        }
        facts.alone += here.difference(&elsewhere).count();
        facts.connections = here.union(&elsewhere).count();
        facts
    }

    /// Closes each subflow between these addresses whose connection has another one.
    pub(super) fn close(&self, local: IpAddr, remote: IpAddr) {
        let on = |line: &Line| line.is_established && line.is_on(Path::Peer { local, remote });
        for line in self.0.iter().filter(|line| on(line) && !line.fell_back) {
            let other = |other: &Line| other.is_established && other.token == line.token && !on(other);
            if !self.0.iter().any(other) {
                continue;
            }
            line.close();
        }
    }

    /// Whether a connection began on the path of an endpoint's address.
    pub(super) fn has_first(&self, local: IpAddr) -> bool {
        self.0.iter().any(|line| line.is_first && line.is_on(Path::Endpoint(local)))
    }

    /// Whether one did, and no socket is connecting from there, which the kernel would abort together with identifier 0.
    pub(super) fn has_settled_first(&self, local: IpAddr) -> bool {
        let mut here = self.0.iter().filter(|line| line.is_on(Path::Endpoint(local)));
        self.has_first(local) && here.all(|line| line.is_established || !line.is_first)
    }

    /// Whether there is no connection whose subflows could be lost.
    pub(super) fn is_idle(&self) -> bool {
        !self.0.iter().any(|line| line.is_established && !line.fell_back)
    }

    /// How many subflows there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What was received on the path of an endpoint's address, and elsewhere by the same connections.
    pub(super) fn heard(&self, address: IpAddr) -> Heard {
        let path = Path::Endpoint(address);
        let carries = |line: &&Line| line.is_established && !line.fell_back;
        let mut heard = Heard::default();
        for line in self.0.iter().filter(carries).filter(|line| line.is_on(path)) {
            heard.received += line.payload;
            heard.packets += line.packets;
            heard.srtt = heard.srtt.max(Duration::from_micros(line.srtt_us.into()));
            let others = self.0.iter().filter(carries).filter(|other| other.token == line.token && !other.is_on(path));
            let elsewhere: Vec<u64> = others.map(|other| other.payload).collect();
            if !elsewhere.is_empty() {
                heard.elsewhere.insert(line.token, elsewhere.into_iter().sum());
            }
        }
        heard
    }

    /// Closes what cannot leave any more because its interface is down: the first subflows of connections that were accepted
    /// and go on by another interface. `is_managed` tells local addresses whose endpoints are taken away instead.
    pub(super) fn close_stranded(&self, interface: u32, is_managed: impl Fn(IpAddr) -> bool) -> usize {
        let is_stranded = |line: &&Line| {
            let other = |other: &Line| {
                other.is_established && other.token == line.token && ![0, interface].contains(&other.leaves_by)
            };
            line.is_established
                && line.is_first
                && line.was_accepted
                && !line.fell_back
                && line.leaves_by == interface
                && !is_managed(Ipv6Addr::from(line.key.local).to_canonical())
                && self.0.iter().any(other)
        };
        self.0.iter().filter(is_stranded).map(Line::close).count()
    }
}

impl Line {
    /// Resets it; a peer that has failed to answer may not learn of that.
    fn close(&self) {
        if let Err(error) = sock_diag::destroy(&self.key) {
            tracing::debug!(key = ?self.key, %error, "cannot close a subflow");
        }
    }

    fn of(view: &View) -> Option<Line> {
        let info = &view.info;
        // One that waits for the acknowledgement of its end is of no use any more.
        if Closer::of(info.flags).is_some() {
            return None;
        }
        let is_established = match info.state() {
            SubflowState::Established => true,
            SubflowState::Connecting => false,
            SubflowState::Free | SubflowState::Closed => return None,
        };
        // What was acknowledged tells as well, on an interface whose packets are not counted.
        let received = view.rx.packets + u64::from(info.rtt_reports);
        Some(Line {
            key: info.key,
            token: info.token,
            fell_back: info.has(flags::FELL_BACK),
            is_established,
            received,
            packets: view.rx.packets + view.tx.packets,
            payload: view.rx.payload_bytes,
            srtt_us: info.srtt_us,
            leaves_by: view.tx_ifindex,
            is_first: !info.has(flags::JOINED),
            was_accepted: !info.has(flags::ACTIVE_OPEN),
        })
    }

    fn is_on(&self, path: Path) -> bool {
        let is = |bytes: [u8; 16], address: IpAddr| Ipv6Addr::from(bytes).to_canonical() == address;
        match path {
            Path::Endpoint(address) => is(self.key.local, address),
            Path::Peer { local, remote } => is(self.key.local, local) && is(self.key.remote, remote),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: u8, token: u32, is_established: bool) -> Line {
        let key = SubflowKey::v4([10, 0, path, 1], [10, 0, 0, 2], 40_000, 443);
        Line {
            key,
            token,
            fell_back: false,
            is_established,
            received: 10,
            packets: 30,
            payload: 1000,
            srtt_us: 10_000,
            leaves_by: 1 + u32::from(path),
            is_first: path == 0,
            was_accepted: true,
        }
    }

    #[test]
    fn a_connection_is_alone_when_nothing_else_carries_it() {
        let path = Path::Endpoint([10, 0, 1, 1].into());
        let book = Book(vec![line(0, 1, true), line(1, 1, true), line(1, 2, true), line(0, 2, false)]);
        let wanted = Facts { received: 20, established: 2, alone: 1, connections: 2, ..Facts::default() };
        assert_eq!(book.facts(path), wanted);
        assert_eq!(book.facts(Path::Endpoint([10, 0, 0, 1].into())).alone, 0);
        let pair = |path| Path::Peer { local: [10, 0, path, 1].into(), remote: [10, 0, 0, 2].into() };
        assert_eq!((book.facts(pair(1)).alone, book.facts(pair(2))), (1, Facts { connections: 2, ..Facts::default() }));
    }

    #[test]
    fn what_is_heard_elsewhere_is_of_the_same_connection() {
        let book =
            Book(vec![line(0, 1, true), line(1, 1, true), line(1, 2, true), line(0, 3, true), line(0, 2, false)]);
        let heard = book.heard([10, 0, 1, 1].into());
        let wanted =
            Heard { received: 2000, packets: 60, elsewhere: [(1, 1000)].into(), srtt: Duration::from_millis(10) };
        assert_eq!(heard, wanted);
        assert_eq!(book.heard([10, 0, 9, 1].into()), Heard::default());
    }

    #[test]
    fn only_accepted_first_subflows_that_are_not_alone_are_stranded() {
        // The addresses are nobody's here: to close them fails, which does no harm.
        let book =
            Book(vec![line(0, 1, true), line(1, 1, true), line(0, 2, true), line(1, 3, true), line(0, 3, false)]);
        assert_eq!(book.close_stranded(1, |_| false), 1, "the first connection's");
        assert_eq!(book.close_stranded(1, |_| true), 0, "its endpoint is taken away");
        assert_eq!(book.close_stranded(2, |_| false), 0, "joined");
    }

    #[test]
    fn first_subflows_are_settled_unless_one_connects() {
        let here = [10, 0, 0, 1].into();
        let has = |lines: Vec<Line>| Book(lines).has_settled_first(here);
        assert!(has(vec![line(0, 1, true), line(0, 2, true), line(1, 3, false)]));
        assert!(has(vec![line(0, 1, true), Line { is_first: false, ..line(0, 2, false) }]), "it joins");
        assert!(!has(vec![line(0, 1, true), line(0, 2, false)]));
        assert!(!has(vec![line(1, 1, true)]));
    }

    #[test]
    fn what_fell_back_is_alone() {
        let book = Book(vec![line(0, 0, true), Line { fell_back: true, ..line(1, 0, true) }]);
        assert_eq!(book.facts(Path::Endpoint([10, 0, 1, 1].into())).alone, 1);
    }
}
