//! A subflow in the book: what is told of it, and what is kept.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::agent::mptcp::paths::PathId;
use crate::snapshot::mptcp::{Role, SubflowCounts, SubflowTraffic, TcpState};

/// What a subflow is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its SYN is on the way.
    Connecting,
    /// It carries, or could.
    Established,
    /// Its socket is closed.
    Closed,
}

/// What changes whenever anything that the kernel's table says of a subflow does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Which occupant of its place it is.
    pub incarnation: u32,
    /// Token of its connection.
    pub token: u32,
    /// State, the one before it was closed, identifiers, and flags.
    pub state: (u8, u8, [u8; 2], u16),
    /// It was established.
    pub opened: bool,
    /// How often the round-trip time was measured.
    pub rtt_reports: u32,
    /// Index of the interface that its packets take; 0 for none.
    pub interface: u32,
    /// Packets received and sent.
    pub packets: [u64; 2],
    /// Bytes sent again, which the socket counts.
    pub retransmitted_bytes: u64,
    /// Payload received and sent, likewise.
    pub payload_bytes: [u64; 2],
}

/// What tells a connection from the others in the book: its token; or, of one that was plain TCP before it had any, the place
/// of its only subflow. Those with tokens come first, by token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// That of a subflow with this token, 0 for none, in this slot.
    pub fn new(token: u32, slot: u32) -> ConnectionId {
        ConnectionId(if token == 0 { 1 << 32 | u64::from(slot) } else { token.into() })
    }

    /// The token; 0 where there is none.
    pub fn token(self) -> u32 {
        u32::try_from(self.0).unwrap_or(0)
    }
}

/// Bytes that a socket has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Payload received in order.
    pub received_bytes: u64,
    /// Payload sent, what was sent again included.
    pub sent_bytes: u64,
    /// What the peer has acknowledged: payload, and for one byte each the SYN and the FIN.
    pub acked_bytes: u64,
}

impl Figures {
    /// What was counted since `before`.
    const fn since(&self, before: &Figures) -> Figures {
        Figures {
            received_bytes: self.received_bytes.saturating_sub(before.received_bytes),
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
            acked_bytes: self.acked_bytes.saturating_sub(before.acked_bytes),
        }
    }
}

/// A SYN and a FIN, as [`Figures::acked_bytes`] counts them.
const SYN_AND_FIN_BYTES: u64 = 2;

/// What the kernel's table says of one subflow.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Where it is in the table.
    pub slot: u32,
    /// By what it is known that nothing has changed.
    pub mark: Mark,
    /// Which occupant of that place it is.
    pub incarnation: u32,
    /// Its connection.
    pub connection: ConnectionId,
    /// Local address and port.
    pub local: SocketAddr,
    /// Remote address and port.
    pub remote: SocketAddr,
    /// Local and remote address identifiers.
    pub ids: [u8; 2],
    /// What it is doing.
    pub phase: Phase,
    /// It was established, whatever it is doing now.
    pub opened: bool,
    /// It is older than the agent, so that packets of before are missing; and so many payload bytes had been sent again then.
    pub adopted_after: Option<u64>,
    /// It came by MP_JOIN.
    pub joined: bool,
    /// It is for when nothing else is left.
    pub backup: bool,
    /// The peer answered without MPTCP.
    pub fell_back: bool,
    /// Which end of the connection this host is, as far as this subflow tells.
    pub role: Role,
    /// Name of the interface that its packets take, once one was seen.
    pub interface: Option<std::sync::Arc<str>>,
    /// Received and sent since it began, as its packets showed it.
    pub traffic: [SubflowTraffic; 2],
    /// What its socket had counted when the kernel side last asked it, which was before the packets were counted.
    pub figures: Option<Figures>,
    /// Smoothed round-trip time in microseconds, and how often it was measured.
    pub srtt_us: (u32, u32),
    /// Delivery rate in bytes per second, if there is one.
    pub delivery_rate: Option<u64>,
    /// Who began to end it, if that was seen.
    pub closer: Option<&'static str>,
    /// State of its socket before it was closed.
    pub last_state: TcpState,
}

/// A subflow in the book.
pub struct Tracked {
    /// What was last said of it; the traffic is by its socket where that knows of more.
    pub seen: Observation,
    /// Payload received and sent, as its packets showed it.
    pub(super) visible_bytes: [u64; 2],
    /// IPsec hides some of its packets, or all: its socket knew of payload that none had shown.
    pub(super) hides: bool,
    /// What its socket had counted before its packets were: of one that is older than the agent, once that is known.
    pub(super) before: Option<Figures>,
    /// What its socket said beyond what packets had shown up to then. Those that came by meanwhile are not counted yet.
    pub(super) ahead: Option<Figures>,
    pub(super) path: Option<PathId>,
    pub(super) counted_on_path: bool,
    pub(super) closed_since: Option<Instant>,
    /// Its socket went without a word.
    pub(super) vanished: bool,
    /// It is among those that [`Ledger::beat`] looks at.
    pub(super) moving: bool,
    /// What it had carried at the last beat, received and sent.
    pub(super) base: [SubflowTraffic; 2],
    /// How often the round-trip time had been measured at the last beat.
    pub(super) base_reports: u32,
    /// Bytes on the wire per second between the last two beats, received and sent.
    pub rates: [f64; 2],
    /// Payload sent between the last two beats.
    pub sent_payload: u64,
    /// Since when it has sent and nothing has come back.
    pub(super) unheard_since: Option<Instant>,
    /// Whether it is a backup by now, as its socket says: that may change while it lives.
    pub(super) backup_now: Option<bool>,
    /// What its peer had acknowledged, and since when it has not acknowledged more although there is more.
    pub(super) stuck: Option<(u64, Instant)>,
}

/// What the socket of a subflow says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// It is for when nothing else is left; `None` where that is not told.
    pub backup: Option<bool>,
    /// Payload bytes that its peer has acknowledged.
    pub acked_bytes: u64,
    /// Something that was sent is not acknowledged yet.
    pub waits: bool,
    /// Payload bytes received and sent, while no end of the peer's is counted among them.
    pub payload_bytes: Option<[u64; 2]>,
    /// Payload bytes sent again; `None` where that is not told.
    pub retransmitted_bytes: Option<u64>,
}

impl Tracked {
    /// Whether it is for when nothing else is left.
    pub fn is_backup(&self) -> bool {
        self.backup_now.unwrap_or(self.seen.backup)
    }

    /// Whether it is established and its packets do not tell what it carries: IPsec hides them.
    pub(super) fn is_hidden(&self) -> bool {
        let is_unseen =
            self.seen.adopted_after.is_none() && self.seen.traffic.iter().all(|traffic| traffic.packets == 0);
        self.seen.phase == Phase::Established && (self.hides || is_unseen)
    }

    /// Whether its socket has counted what no packet that was seen can have carried. That it has sent more proves nothing: TCP
    /// counts what it sends while a device is down, too, and what was sent twice hides as much that was sent once.
    pub(super) fn is_exceeded_by(&self, figures: &Figures) -> bool {
        let [received, sent] = self.visible_bytes;
        figures.received_bytes > received || figures.acked_bytes > sent + SYN_AND_FIN_BYTES
    }

    /// Puts right what packets say of a subflow that hides some of them, or all.
    pub(super) fn complete(&mut self, seen: &mut Observation) {
        self.visible_bytes = seen.traffic.map(|traffic| traffic.payload_bytes);
        let Some(figures) = seen.figures else { return };
        self.hides |= self.is_exceeded_by(&figures);
        let is_unseen = seen.traffic.iter().all(|traffic| traffic.packets == 0);
        if self.hides || is_unseen {
            seen.traffic = completed(seen.traffic, &figures);
        }
    }

    /// What its socket has counted since its packets are, while it says.
    pub(super) fn figures(&mut self, told: &Told) -> Option<Figures> {
        let [received_bytes, sent_bytes] = told.payload_bytes?;
        let figures = Figures { received_bytes, sent_bytes, acked_bytes: told.acked_bytes };
        if self.seen.adopted_after.is_none() {
            return Some(figures);
        }
        // What had been sent, each byte once, may be acknowledged later.
        let sent_once = sent_bytes.saturating_sub(told.retransmitted_bytes.unwrap_or(0)) + SYN_AND_FIN_BYTES;
        let before = self.before.get_or_insert(Figures { acked_bytes: sent_once, ..figures });
        // Packets that came by since the table was looked at make this too much; the least is the nearest.
        let [visible_received, visible_sent] = self.visible_bytes;
        before.received_bytes = before.received_bytes.min(received_bytes.saturating_sub(visible_received));
        before.sent_bytes = before.sent_bytes.min(sent_bytes.saturating_sub(visible_sent));
        Some(figures.since(before))
    }

    /// What was received and sent, if the socket knows of more: of payload where packets hide, and of what was sent again where
    /// the kernel's table does not follow the socket.
    pub(super) fn known_by_socket(&self, told: &Told, figures: Option<Figures>) -> Option<[SubflowTraffic; 2]> {
        let mut traffic = self.seen.traffic;
        if let (true, Some(figures)) = (self.is_hidden(), figures) {
            traffic = completed(traffic, &figures);
        }
        if let (Some(before), Some(bytes)) = (self.seen.adopted_after, told.retransmitted_bytes) {
            let known = &mut traffic[1].retransmitted_bytes;
            *known = bytes.saturating_sub(before).max(*known);
        }
        (traffic != self.seen.traffic).then_some(traffic)
    }

    /// Takes note of whether what it sends is answered. A bare acknowledgement is not, and need not be.
    pub(super) fn listen(&mut self, seen: &Observation, now: Instant) {
        let [rx, tx] = [0, 1].map(|i| seen.traffic[i].since(&self.seen.traffic[i]));
        // Where no packet can be told, the socket hears: round trips are measured by what comes back.
        if rx.packets > 0 || rx.payload_bytes > 0 || seen.srtt_us.1 != self.seen.srtt_us.1 {
            self.unheard_since = None;
        } else if tx.payload_bytes > 0 || (tx.packets > 0 && seen.phase == Phase::Connecting) {
            self.unheard_since.get_or_insert(now);
        }
    }

    /// For how long nothing has come of what it sent: no packet, or none that acknowledges more.
    pub(super) fn unanswered(&self, now: Instant) -> Duration {
        let since = [self.unheard_since, self.stuck.map(|(_, since)| since)].into_iter().flatten().min();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// Traffic of which packets did not show everything, with the payload that the socket knows of. What was received twice the socket
/// has counted once.
pub(super) fn completed([mut rx, mut tx]: [SubflowTraffic; 2], figures: &Figures) -> [SubflowTraffic; 2] {
    rx.at_least(figures.received_bytes + rx.retransmitted_bytes);
    tx.at_least(figures.sent_bytes);
    [rx, tx]
}

/// Counts a subflow by what it is doing.
pub(super) fn count(counts: &mut SubflowCounts, tracked: &Tracked) {
    match (tracked.seen.phase, tracked.is_backup()) {
        (Phase::Connecting, _) => counts.connecting += 1,
        (Phase::Established, false) => counts.active += 1,
        (Phase::Established, true) => counts.backup += 1,
        (Phase::Closed, _) => counts.closing += 1,
    }
}

/// Why a subflow ended, by who began to end it, else by the state that its socket was in before.
pub(super) fn reason_by_socket(tracked: &Tracked) -> &'static str {
    match (tracked.seen.last_state, tracked.seen.closer) {
        _ if tracked.vanished => return "vanished",
        _ if !tracked.seen.opened => return "not_established",
        (TcpState::FinWait1, _) => return "fin_unanswered",
        (_, Some(closer)) => return closer,
        (_, None) => {}
    }
    match tracked.seen.last_state {
        // The peer's FIN had come, or ours was acknowledged: an orderly end.
        TcpState::TimeWait | TcpState::LastAck | TcpState::FinWait2 | TcpState::Closing | TcpState::CloseWait => "fin",
        _ => "reset",
    }
}
