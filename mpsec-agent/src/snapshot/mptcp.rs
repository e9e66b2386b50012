//! MPTCP as a snapshot shows it: connections, their subflows, and the paths that subflows take.
//!
//! These types are also the JSON that the API and `mpsec status --json` answer with, and what `mpsec top` reads back.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The label value under which subflows and paths beyond the configured maximum are published.
pub const OTHER: &str = "_other";

/// Everything that is known of MPTCP in one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Namespace {
    /// The configured name; empty for the agent's own namespace.
    pub netns: String,
    /// Connections, by token. A client's connection that fell back to TCP is among them.
    pub connections: Vec<Connection>,
    /// Paths, by interface, address family and remote. Their counters never go backwards.
    pub paths: Vec<Path>,
    /// Connections and subflows that came and went, and what was lost sight of.
    pub totals: Totals,
    /// `MPTcpExt` of /proc/net/netstat by name, in the kernel's order; empty where it cannot be read.
    pub mib: Vec<(String, u64)>,
    /// Counters of `TcpExt` that tell of reordering, by name.
    pub tcp_mib: Vec<(String, u64)>,
    /// The in-kernel path manager's endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Its limits; `None` where they cannot be read.
    pub limits: Option<Limits>,
    /// `net.mptcp.*`, by the name behind that; what this kernel lacks is not there.
    pub sysctls: BTreeMap<String, String>,
    /// Whether connections are being made as plain TCP because an earlier one's MP_CAPABLE was dropped on its way
    /// (`mptcp_active_should_disable`, net/mptcp/ctrl.c, Linux 6.12); `None` where that cannot be told.
    pub blackhole: Option<bool>,
    /// What the probes have counted.
    #[serde(default)]
    pub probed: Probed,
    /// What is wrong, most important first, in words for the operator.
    pub findings: Vec<Finding>,
}

/// What probes of the kernel's functions have counted; of a probe that could not be attached there is nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Probed {
    /// TCP segments of subflows that were sent again, by the state of congestion control: `open`, `disorder`, `cwr`,
    /// `recovery` or `loss`.
    pub retransmissions: BTreeMap<String, u64>,
    /// Resets of subflows.
    pub resets: Vec<Resets>,
    /// How often MPTCP's own timer ran out while data was not acknowledged.
    pub data_timeouts: Option<u64>,
}

/// Resets of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Resets {
    /// `sent` or `received`.
    pub direction: String,
    /// The reason that MP_TCPRST gives (RFC 8684 section 3.6), or the kernel's own.
    pub reason: String,
    /// How many.
    pub count: u64,
}

impl Probed {
    /// Adds resets, to those of the same kind if there are any.
    pub fn add_reset(&mut self, direction: &str, reason: &str, count: u64) {
        let same = |resets: &&mut Resets| resets.direction == direction && resets.reason == reason;
        match self.resets.iter_mut().find(same) {
            Some(resets) => resets.count += count,
            None if count > 0 => {
                self.resets.push(Resets { direction: direction.to_owned(), reason: reason.to_owned(), count });
            }
            None => {}
        }
    }
}

/// One MPTCP connection (RFC 8684).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Connection {
    /// The local token, which identifies it on this host; 0 of one that this host made without asking for MPTCP, as in a
    /// blackhole: that is told by its addresses.
    pub token: u32,
    /// Which end this host is.
    pub role: Role,
    /// Local address and port of the first subflow.
    pub local: SocketAddr,
    /// Remote address and port of the first subflow.
    pub remote: SocketAddr,
    /// State of the MPTCP-level socket.
    pub state: TcpState,
    /// Why it is plain TCP; `None` while it is not.
    pub fallback: Option<String>,
    /// Seconds since it was first seen.
    pub age_seconds: f64,
    /// MPTCP-level byte counts; `None` where this kernel does not tell them (before 6.5).
    pub data: Option<DataBytes>,
    /// Subflows, the first one first.
    pub subflows: Vec<Subflow>,
}

/// Which end of a connection this host is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It made the connection.
    Client,
    /// It accepted the connection.
    Server,
    /// Neither the agent nor the first subflow, which may be gone, tells.
    #[default]
    Unknown,
}

/// MPTCP-level payload bytes (`struct mptcp_info`, include/uapi/linux/mptcp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DataBytes {
    /// Sent, each byte once.
    pub sent_bytes: u64,
    /// Acknowledged by the peer's MPTCP.
    pub acked_bytes: u64,
    /// Received in order.
    pub received_bytes: u64,
    /// Sent again at the MPTCP level, on another subflow.
    pub retransmitted_bytes: u64,
}

/// State of a TCP or MPTCP socket (include/net/tcp_states.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they are the states of RFC 9293")]
pub enum TcpState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    #[default]
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl TcpState {
    /// Every state, in the order of the kernel's numbers, the first of which is 1.
    pub const ALL: [TcpState; 11] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Closed,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
    ];

    /// The state with the kernel's number.
    pub fn from_number(number: u8) -> Option<TcpState> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The name in labels and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::TimeWait => "time_wait",
            Self::Closed => "closed",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
        }
    }
}

/// One subflow: a TCP connection that carries a part of an MPTCP connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Subflow {
    /// Local address and port.
    pub local: SocketAddr,
    /// Remote address and port.
    pub remote: SocketAddr,
    /// Local address identifier.
    pub local_id: Option<u8>,
    /// Remote address identifier.
    pub remote_id: Option<u8>,
    /// The interface that its packets take; `None` until one was seen.
    pub interface: Option<Arc<str>>,
    /// State of its TCP socket.
    pub state: TcpState,
    /// True for one that joined by MP_JOIN, false for the one that began by MP_CAPABLE.
    pub joined: bool,
    /// Used only when nothing else is left (RFC 8684 section 3.3.8).
    pub backup: bool,
    /// Received.
    pub rx: SubflowTraffic,
    /// Sent.
    pub tx: SubflowTraffic,
    /// Bytes on the wire per second, received, over the last interval between polls.
    pub rx_bytes_per_second: f64,
    /// The same, sent.
    pub tx_bytes_per_second: f64,
    /// The part of the connection's sent payload that the scheduler gave to this subflow over the last interval, 0 to 1;
    /// `None` while nothing is sent.
    pub scheduler_share: Option<f64>,
    /// What TCP says of it; `None` when its socket was not found.
    pub tcp: Option<TcpDetails>,
}

/// What was counted of a subflow or a path in one direction. Only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SubflowTraffic {
    /// Packets on the wire; a super-packet counts as the segments that it stands for. Absent where none was seen: encryption
    /// hides of some what they are part of.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub packets: u64,
    /// Bytes on the wire, link header included; absent likewise.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// TCP payload bytes, retransmissions included; by the socket where that knows of more than was seen.
    pub payload_bytes: u64,
    /// TCP payload bytes that had been sent before.
    pub retransmitted_bytes: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl SubflowTraffic {
    /// Bytes on the wire; payload where no packet was seen.
    pub const fn carried_bytes(&self) -> u64 {
        if self.packets > 0 { self.bytes } else { self.payload_bytes }
    }

    /// Takes the socket's word for payload of which less was seen.
    pub const fn at_least(&mut self, payload_bytes: u64) {
        if self.payload_bytes < payload_bytes {
            self.payload_bytes = payload_bytes;
        }
    }

    /// Adds `other`.
    pub const fn add(&mut self, other: &SubflowTraffic) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.payload_bytes += other.payload_bytes;
        self.retransmitted_bytes += other.retransmitted_bytes;
    }

    /// What came since `base`; 0 for what went backwards.
    pub const fn since(&self, base: &SubflowTraffic) -> SubflowTraffic {
        SubflowTraffic {
            packets: self.packets.saturating_sub(base.packets),
            bytes: self.bytes.saturating_sub(base.bytes),
            payload_bytes: self.payload_bytes.saturating_sub(base.payload_bytes),
            retransmitted_bytes: self.retransmitted_bytes.saturating_sub(base.retransmitted_bytes),
        }
    }
}

/// What TCP says of a subflow (`struct tcp_info`, include/uapi/linux/tcp.h). What this kernel does not tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TcpDetails {
    /// Smoothed round-trip time in microseconds.
    pub srtt_us: u32,
    /// Its mean deviation in microseconds.
    pub rttvar_us: u32,
    /// Least round-trip time seen lately, in microseconds.
    pub min_rtt_us: Option<u32>,
    /// Congestion window in segments.
    pub cwnd_segments: u32,
    /// Sender's maximum segment size in bytes.
    pub mss_bytes: u32,
    /// Segments sent and not yet acknowledged.
    pub unacked_segments: u32,
    /// Segments taken for lost at the moment.
    pub lost_segments: u32,
    /// Segments sent again, ever.
    pub retransmitted_segments: u32,
    /// Payload bytes sent, retransmissions included.
    pub sent_bytes: Option<u64>,
    /// Payload bytes acknowledged by the peer.
    pub acked_bytes: Option<u64>,
    /// Payload bytes received in order.
    pub received_bytes: Option<u64>,
    /// Payload bytes sent again.
    pub retransmitted_bytes: Option<u64>,
    /// Payload bytes that wait to be sent for the first time.
    pub unsent_bytes: Option<u32>,
    /// Delivery rate in bytes per second.
    pub delivery_rate_bytes_per_second: Option<u64>,
    /// Pacing rate in bytes per second.
    pub pacing_rate_bytes_per_second: Option<u64>,
    /// Current reordering metric in segments.
    pub reordering_segments: u32,
    /// Reordering events seen.
    pub reordering_seen: Option<u32>,
    /// Segments received out of order.
    pub out_of_order_segments: Option<u32>,
    /// Duplicate selective acknowledgements received: retransmissions that were not needed.
    pub dsack_duplicates: Option<u32>,
    /// Congestion control algorithm; empty if not told.
    pub congestion_control: Cow<'static, str>,
}

/// A name of a congestion control, which takes no memory of its own if it is one of the kernel's.
pub fn congestion_control(name: &str) -> Cow<'static, str> {
    const KERNEL: &str =
        "cubic reno bbr dctcp vegas westwood htcp hybla highspeed illinois veno yeah scalable lp nv cdg bic";
    let known = KERNEL.split(' ').find(|known| *known == name);
    known.map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed)
}

/// A path: the interface and address family that subflows leave by, and where they lead to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Path {
    /// Name of the interface, or [`OTHER`].
    pub interface: String,
    /// `ipv4` or `ipv6`; empty for [`OTHER`].
    pub family: String,
    /// The remote prefix, or the name that the configuration gives to the peer.
    pub remote: String,
    /// Received, by all subflows that ever took this path.
    pub rx: SubflowTraffic,
    /// Sent.
    pub tx: SubflowTraffic,
    /// Subflows of the moment.
    pub subflows: SubflowCounts,
    /// Subflows that were established.
    pub opened_total: u64,
    /// Subflows that ended, by reason.
    pub closed_total: BTreeMap<String, u64>,
    /// Round-trip times: every subflow's smoothed one, once a second while it is measured anew.
    pub rtt_seconds: Histogram,
    /// Delivery rates in bytes per second, sampled likewise.
    pub delivery_rate: Histogram,
    /// Why it carries nothing although it should; `None` when nothing is wrong.
    pub silent: Option<String>,
}

/// Subflows of a path by what they are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SubflowCounts {
    /// Not established yet.
    pub connecting: u64,
    /// Established, and not backup.
    pub active: u64,
    /// Established, and backup.
    pub backup: u64,
    /// On their way to the end.
    pub closing: u64,
}

/// A histogram in the manner of Prometheus; the bounds are the table's that it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Histogram {
    /// Observations in each bucket, not cumulated; the last one is beyond all bounds.
    pub counts: Vec<u64>,
    /// Sum of all observations.
    pub sum: f64,
}

/// Upper bounds of the buckets of [`Path::rtt_seconds`].
pub const RTT_BOUNDS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
/// Upper bounds of the buckets of [`Path::delivery_rate`], in bytes per second: 80 kbit/s to 80 Gbit/s.
pub const DELIVERY_RATE_BOUNDS: &[f64] = &[1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9, 3e9, 1e10];

impl Histogram {
    /// Takes an observation, against the bounds of the table that it belongs to.
    pub fn observe(&mut self, bounds: &[f64], value: f64) {
        self.counts.resize(bounds.len() + 1, 0);
        self.counts[bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }

    /// All observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Connections and subflows that came and went since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Totals {
    /// Connections that were established.
    pub connections_opened: u64,
    /// Connections that ended.
    pub connections_closed: u64,
    /// Subflows that were established, on all paths.
    pub subflows_opened: u64,
    /// Subflows that ended, on all paths.
    pub subflows_closed: u64,
    /// Subflows that found no room in the kernel's table: neither they nor their bytes are counted.
    pub subflows_lost: u64,
    /// Subflows whose first packets came by before there was a record of them.
    pub handshakes_lost: u64,
    /// Paths that were folded into [`OTHER`].
    pub paths_folded: u64,
    /// Entries of the kernel's table that are in use.
    pub table_used: u64,
    /// Entries that it has.
    pub table_capacity: u64,
}

/// An endpoint of the in-kernel path manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Endpoint {
    /// Identifier.
    pub id: u8,
    /// Address.
    pub address: std::net::IpAddr,
    /// Port, if it has one of its own.
    pub port: Option<u16>,
    /// Interface that its subflows are bound to, if any.
    pub interface: Option<String>,
    /// `signal`, `subflow`, `backup`, `fullmesh`, `implicit`, `laminar`, or a number that has no name yet.
    pub flags: Vec<String>,
}

/// Limits of the in-kernel path manager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Limits {
    /// Subflows that a connection may have beside its first one.
    pub subflows: u32,
    /// Addresses that it may take from its peer.
    pub add_addr_accepted: u32,
}

/// Something that is wrong, or worth knowing, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Finding {
    /// A stable name, for labels and scripts: `fallback`, `join_refused`, `path_silent`, `blackhole`, ...
    pub kind: String,
    /// What it is about: a connection's addresses, a path, or nothing in particular.
    pub about: String,
    /// One sentence that says what is wrong and why.
    pub text: String,
    /// What mends it, if that is known.
    pub remedy: Option<String>,
}
