//! Connections as a snapshot shows them: the book, and what the sockets say. Pure.

use std::time::Instant;

use crate::snapshot::mptcp::{Connection, Role, Subflow, SubflowTraffic, TcpState};

use super::findings::{why_fallen_back, why_not_asked};
use super::ledger::{ConnectionId, Ledger, Phase, Tracked};
use super::rises::Rises;
use super::sockets::{Sockets, SubflowSocket};

/// Where a subflow of a connection is described.
#[derive(Clone, Copy)]
enum Of {
    /// In the book, in this slot.
    Slot(u32),
    /// Among the sockets alone, at this index.
    Socket(u32),
    /// Nowhere: the connection has none.
    Nothing,
}

/// A subflow and what it is ordered by.
struct Entry {
    id: ConnectionId,
    joined: bool,
    local_id: Option<u8>,
    of: Of,
}

/// Every connection, by token, with its subflows; without them, unless they are `wanted`, if its own socket tells enough.
pub fn connections(
    ledger: &Ledger,
    mut sockets: Sockets,
    wanted: bool,
    rises: &Rises,
    now: Instant,
) -> Vec<Connection> {
    let entries = entries(ledger, &sockets);
    let count = entries.chunk_by(|a, b| a.id == b.id).count();
    let mut connections = Vec::with_capacity(count);
    for group in entries.chunk_by(|a, b| a.id == b.id) {
        let told = group.first().is_some_and(|entry| sockets.connections.contains_key(&entry.id.token()));
        let shown = if wanted || !told { group.len() } else { 0 };
        connections.extend(connection(group, shown, ledger, &mut sockets, rises, now));
    }
    connections
}

/// All subflows, those of a connection together and the first one first.
fn entries(ledger: &Ledger, sockets: &Sockets) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(2 * sockets.subflows.len());
    entries.extend(ledger.live().map(|tracked| {
        let seen = &tracked.seen;
        Entry { id: seen.connection, joined: seen.joined, local_id: told(seen.ids[0]), of: Of::Slot(seen.slot) }
    }));
    entries.extend(sockets.subflows.iter().enumerate().filter(|(_, socket)| socket.slot.is_none()).map(
        |(index, socket)| {
            let (joined, local_id) = (socket.flags().joined(), socket.ids[0]);
            Entry { id: ConnectionId::new(socket.token, 0), joined, local_id, of: Of::Socket(index as u32) }
        },
    ));
    let lonely =
        |token: &u32| Entry { id: ConnectionId::new(*token, 0), joined: true, local_id: None, of: Of::Nothing };
    entries.extend(sockets.connections.keys().map(lonely));
    let ends = |entry: &Entry| match entry.of {
        Of::Slot(slot) => ledger.live_in(slot).map(|tracked| (tracked.seen.local, tracked.seen.remote)),
        Of::Socket(index) => sockets.subflows.get(index as usize).map(|socket| socket.ends),
        Of::Nothing => None,
    };
    entries.sort_unstable_by(|a, b| {
        let by = |entry: &Entry| (entry.id, entry.joined, entry.local_id);
        by(a).cmp(&by(b)).then_with(|| ends(a).cmp(&ends(b)))
    });
    entries
}

/// A connection, by what there is of it: one entry at the least. Only so many of them are shown.
fn connection(
    group: &[Entry],
    shown: usize,
    ledger: &Ledger,
    sockets: &mut Sockets,
    rises: &Rises,
    now: Instant,
) -> Option<Connection> {
    let id = group.first()?.id;
    let (known, token) = (ledger.connection(id), id.token());
    let sent = known.map_or(0, |known| known.sent_payload);
    let mut role = known.map(|known| known.role).filter(|role| *role != Role::Unknown);
    let shown = &group[..shown];
    let count = shown.iter().filter(|entry| !matches!(entry.of, Of::Nothing)).count();
    let mut subflows = Vec::with_capacity(count);
    for entry in shown {
        match entry.of {
            Of::Slot(slot) => {
                let Some(tracked) = ledger.live_in(slot) else { continue };
                let socket = sockets.in_slot_mut(slot);
                if let (false, Some(socket)) = (entry.joined, &socket) {
                    role = role.or(Some(socket.role()));
                }
                subflows.push(counted(tracked, socket, sent));
            }
            Of::Socket(index) => {
                let Some(socket) = sockets.subflows.get_mut(index as usize) else { continue };
                if !entry.joined {
                    role = role.or(Some(socket.role()));
                }
                subflows.push(uncounted(socket));
            }
            Of::Nothing => {}
        }
    }
    let socket = sockets.connections.get(&token);
    let first = subflows.first();
    let (local, remote) = socket.map(|socket| socket.ends).or(first.map(|first| (first.local, first.remote)))?;
    let at_handshake = known.is_some_and(|known| known.fell_back);
    let fell_back = at_handshake || socket.is_some_and(|socket| socket.fell_back);
    let why = || if token == 0 { why_not_asked(rises) } else { why_fallen_back(at_handshake, rises) };
    Some(Connection {
        token,
        role: role.unwrap_or_default(),
        local,
        remote,
        state: socket.map(|socket| socket.state).or(first.map(|first| first.state)).unwrap_or_default(),
        fallback: fell_back.then(why),
        age_seconds: known.map_or(0.0, |known| now.saturating_duration_since(known.since).as_secs_f64()),
        data: socket.and_then(|socket| socket.data),
        subflows,
    })
}

/// An address identifier, if the kernel has one.
fn told(id: u8) -> Option<u8> {
    (id != u8::MAX).then_some(id)
}

/// A subflow of the book.
fn counted(tracked: &Tracked, socket: Option<&mut SubflowSocket>, connection_sent: u64) -> Subflow {
    let seen = &tracked.seen;
    let by_phase = match seen.phase {
        Phase::Connecting => TcpState::SynSent,
        Phase::Established => TcpState::Established,
        Phase::Closed => TcpState::Closed,
    };
    let [rx, tx] = seen.traffic;
    Subflow {
        local: seen.local,
        remote: seen.remote,
        local_id: told(seen.ids[0]),
        remote_id: told(seen.ids[1]),
        interface: seen.interface.clone(),
        state: socket.as_ref().map_or(by_phase, |socket| socket.state),
        joined: seen.joined,
        backup: tracked.is_backup(),
        rx,
        tx,
        rx_bytes_per_second: tracked.rates[0],
        tx_bytes_per_second: tracked.rates[1],
        scheduler_share: (connection_sent > 0).then(|| tracked.sent_payload as f64 / connection_sent as f64),
        tcp: socket.map(|socket| std::mem::take(&mut socket.details)),
    }
}

/// A subflow that is in no book, because packets are not counted or there was no room. TCP knows its payload and its
/// segments; what they took of the wire is not known.
fn uncounted(socket: &mut SubflowSocket) -> Subflow {
    let (local, remote) = socket.ends;
    let details = &socket.details;
    let rx = SubflowTraffic { payload_bytes: details.received_bytes.unwrap_or(0), ..SubflowTraffic::default() };
    let tx = SubflowTraffic {
        payload_bytes: details.sent_bytes.unwrap_or(0),
        retransmitted_bytes: details.retransmitted_bytes.unwrap_or(0),
        ..SubflowTraffic::default()
    };
    Subflow {
        local,
        remote,
        local_id: socket.ids[0],
        remote_id: socket.ids[1],
        interface: None,
        state: socket.state,
        joined: socket.flags().joined(),
        backup: socket.flags().backup(),
        rx,
        tx,
        rx_bytes_per_second: 0.0,
        tx_bytes_per_second: 0.0,
        scheduler_share: None,
        tcp: Some(std::mem::take(&mut socket.details)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use mpsec_common::mptcp::{SubflowInfo, SubflowKey, SubflowState};

    use super::*;
    use crate::agent::mptcp::observe::observation;
    use crate::agent::mptcp::sockets::{ConnectionSocket, Ends};
    use crate::config::PathsConfig;
    use crate::kernel::sock_diag::SubflowFlags;
    use crate::kernel::subflows::View;
    use crate::snapshot::mptcp::TcpDetails;

    /// A subflow of the kernel's table: by its number a port, the slot, and the connection's token.
    fn in_table(number: u16, joined: bool) -> View {
        let mut info = SubflowInfo {
            key: SubflowKey::v4([192, 0, 2, 1], [192, 0, 2, 2], number, 80),
            token: if joined { 1 } else { number.into() },
            state: SubflowState::Established as u8,
            ..SubflowInfo::default()
        };
        info.flags |= if joined { mpsec_common::mptcp::flags::JOINED } else { 0 };
        let slot = u32::from(number);
        View { slot, info, rx: Default::default(), tx: Default::default(), rx_ifindex: 0, tx_ifindex: 0 }
    }

    fn ends(port: u16) -> Ends {
        (SocketAddr::from(([192, 0, 2, 1], port)), SocketAddr::from(([192, 0, 2, 2], 80)))
    }

    fn listed(port: u16, token: u32) -> SubflowSocket {
        let details = TcpDetails { cwnd_segments: port.into(), ..TcpDetails::default() };
        let told_flags = Some(SubflowFlags::CAPABLE_LOCAL);
        SubflowSocket {
            ends: ends(port),
            slot: None,
            token,
            state: TcpState::FinWait1,
            told_flags,
            ids: [None; 2],
            details,
        }
    }

    #[test]
    fn what_is_known_of_a_connection_is_put_together() {
        let (mut ledger, now) = (Ledger::new(PathsConfig::default()), Instant::now());
        // Connection 1 has two subflows in the book, 2 one, 3 none but a socket, 4 nothing but itself.
        for view in [in_table(9, true), in_table(1, false), in_table(2, false)] {
            ledger.observe(observation(&view, &mut |_| None).unwrap(), now);
        }
        let sockets = || {
            let mut sockets = Sockets::default();
            sockets.subflows = vec![listed(3, 3), listed(9, 1), listed(1, 1)];
            sockets.find(|(local, _)| ledger.live_in(local.port().into()).map(|tracked| tracked.seen.slot));
            for token in [1, 4] {
                let (ends, state) = (ends(token as u16), TcpState::CloseWait);
                sockets.connections.insert(token, ConnectionSocket { ends, state, fell_back: false, data: None });
            }
            sockets
        };
        let shown = |wanted| {
            let all = connections(&ledger, sockets(), wanted, &Rises::default(), now);
            let ports = |one: &Connection| one.subflows.iter().map(|subflow| subflow.local.port()).collect::<Vec<_>>();
            all.iter().map(|one| (one.token, one.state, one.role, ports(one))).collect::<Vec<_>>()
        };
        let (close_wait, server) = (TcpState::CloseWait, Role::Server);
        let rest = |first| {
            vec![
                (1, close_wait, server, first),
                (2, TcpState::Established, server, vec![2]),
                (3, TcpState::FinWait1, Role::Client, vec![3]),
                (4, close_wait, Role::Unknown, vec![]),
            ]
        };
        assert_eq!(shown(true), rest(vec![1, 9]), "the first subflow comes first");
        assert_eq!(shown(false), rest(vec![]), "the socket tells enough of connection 1");
        let all = connections(&ledger, sockets(), true, &Rises::default(), now);
        let windows = |subflow: &Subflow| subflow.tcp.as_ref().map(|tcp| tcp.cwnd_segments);
        assert_eq!(all[0].subflows.iter().map(windows).collect::<Vec<_>>(), [Some(1), Some(9)]);
        assert_eq!(all[1].subflows.iter().map(windows).collect::<Vec<_>>(), [None], "its socket was not listed");
    }
}
