//! Connections as a snapshot shows them: the book, and what the sockets say. Pure.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::snapshot::mptcp::{Connection, Role, Subflow, SubflowTraffic, TcpState};

use super::findings::{why_fallen_back, why_not_asked};
use super::ledger::{ConnectionId, Ledger, Phase, Tracked};
use super::rises::Rises;
use super::sockets::{Ends, Sockets, SubflowSocket};

/// Every connection, by token, with its subflows.
pub fn connections(ledger: &Ledger, mut sockets: Sockets, rises: &Rises, now: Instant) -> Vec<Connection> {
    let mut subflows: BTreeMap<ConnectionId, Vec<Subflow>> = BTreeMap::new();
    let first = |socket: &&SubflowSocket| !socket.flags().joined();
    let roles: BTreeMap<u32, Role> =
        sockets.subflows.values().filter(first).map(|socket| (socket.token, socket.role())).collect();
    for tracked in ledger.live() {
        let socket = sockets.subflows.remove(&(tracked.seen.local, tracked.seen.remote));
        let sent = ledger.connection(tracked.seen.connection).map_or(0, |known| known.sent_payload);
        subflows.entry(tracked.seen.connection).or_default().push(counted(tracked, socket, sent));
    }
    for (ends, socket) in sockets.subflows {
        subflows.entry(ConnectionId::new(socket.token, 0)).or_default().push(uncounted(ends, socket));
    }
    for token in sockets.connections.keys() {
        subflows.entry(ConnectionId::new(*token, 0)).or_default();
    }
    let connection = |(id, mut subflows): (ConnectionId, Vec<Subflow>)| {
        subflows.sort_by_key(|subflow| (subflow.joined, subflow.local_id, subflow.local, subflow.remote));
        let (known, token) = (ledger.connection(id), id.token());
        let socket = sockets.connections.get(&token);
        let first = subflows.first().map(|subflow| (subflow.local, subflow.remote));
        let (local, remote) = socket.map(|socket| socket.ends).or(first)?;
        let at_handshake = known.is_some_and(|known| known.fell_back);
        let fell_back = at_handshake || socket.is_some_and(|socket| socket.fell_back);
        let why = || if token == 0 { why_not_asked(rises) } else { why_fallen_back(at_handshake, rises) };
        let role = known.map(|known| known.role).filter(|role| *role != Role::Unknown);
        Some(Connection {
            token,
            role: role.or_else(|| roles.get(&token).copied()).unwrap_or_default(),
            local,
            remote,
            state: socket.map(|socket| socket.state).or(subflows.first().map(|first| first.state)).unwrap_or_default(),
            fallback: fell_back.then(why),
            age_seconds: known.map_or(0.0, |known| now.saturating_duration_since(known.since).as_secs_f64()),
            data: socket.and_then(|socket| socket.data),
            subflows,
        })
    };
    subflows.into_iter().filter_map(connection).collect()
}

/// A subflow of the book.
fn counted(tracked: &Tracked, socket: Option<SubflowSocket>, connection_sent: u64) -> Subflow {
    let seen = &tracked.seen;
    let by_phase = match seen.phase {
        Phase::Connecting => TcpState::SynSent,
        Phase::Established => TcpState::Established,
        Phase::Closed => TcpState::Closed,
    };
    let [rx, tx] = seen.traffic;
    let id = |index: usize| (seen.ids[index] != u8::MAX).then_some(seen.ids[index]);
    Subflow {
        local: seen.local,
        remote: seen.remote,
        local_id: id(0),
        remote_id: id(1),
        interface: seen.interface.as_deref().map(str::to_owned),
        state: socket.as_ref().map_or(by_phase, |socket| socket.state),
        joined: seen.joined,
        backup: tracked.is_backup(),
        rx,
        tx,
        rx_bytes_per_second: tracked.rates[0],
        tx_bytes_per_second: tracked.rates[1],
        scheduler_share: (connection_sent > 0).then(|| tracked.sent_payload as f64 / connection_sent as f64),
        tcp: socket.map(|socket| socket.details),
    }
}

/// A subflow that is in no book, because packets are not counted or there was no room. TCP knows its payload and its
/// segments; what they took of the wire is not known, and shown as 0.
fn uncounted((local, remote): Ends, socket: SubflowSocket) -> Subflow {
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
        local_id: socket.info.id_local,
        remote_id: socket.info.id_remote,
        interface: None,
        state: socket.state,
        joined: socket.flags().joined(),
        backup: socket.flags().backup(),
        rx,
        tx,
        rx_bytes_per_second: 0.0,
        tx_bytes_per_second: 0.0,
        scheduler_share: None,
        tcp: Some(socket.details),
    }
}
