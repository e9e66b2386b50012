//! Rows: what is shown of a connection, a subflow, a path or an interface, taken from the agent's answer once a refresh.

use serde::Serialize;

use crate::control::client::plain;
use crate::snapshot::host::HostInterface;
use crate::snapshot::json::{ClassView, InterfaceView};
use crate::snapshot::mptcp::{Connection, Histogram, Path, RTT_BOUNDS, Role, Subflow, SubflowTraffic, TcpState};

/// One row of a table. What its kind has not is `None`, and so is what is not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    /// What it is known by from one refresh to the next.
    #[serde(skip)]
    pub key: String,
    /// Everything that a filter looks at, in lower case.
    #[serde(skip)]
    pub haystack: String,
    /// Addresses, path or name. Holds no control characters, like all text here.
    pub name: String,
    /// A shorter name for where there is little room; empty where there is none.
    #[serde(skip)]
    pub short_name: String,
    /// Network namespace; empty for the agent's own.
    pub netns: String,
    /// The interface of a subflow, the number of a connection's subflows, the kind of an interface.
    pub via: String,
    /// State.
    pub state: String,
    /// Something is wrong with it.
    pub is_wrong: bool,
    /// Received, bytes per second.
    pub rx_bytes_per_second: Option<f64>,
    /// Sent, bytes per second.
    pub tx_bytes_per_second: Option<f64>,
    /// Received and sent, ever.
    pub total_bytes: u64,
    /// Round-trip time in microseconds: of a connection the least of its subflows', of a path the median.
    pub rtt_us: Option<f64>,
    /// The part of the connection's payload that is sent here, 0 to 1.
    pub scheduler_share: Option<f64>,
    /// The part of the payload that was sent again, 0 to 1.
    pub retransmitted: Option<f64>,
    /// Segments taken for lost at the moment.
    pub lost_segments: Option<u64>,
    /// Reordering in segments.
    pub reordering_segments: Option<u64>,
    /// The part of the bytes that was encrypted, 0 to 1.
    pub encrypted: Option<f64>,
    /// Token.
    pub token: Option<u32>,
    /// Which end this host is.
    pub role: Option<&'static str>,
    /// Subflows that are in use.
    pub active: Option<u64>,
    /// Subflows that wait as backup.
    pub backup: Option<u64>,
    /// Subflows that were opened.
    pub opened: Option<u64>,
    /// Subflows that ended.
    pub closed: Option<u64>,
    /// Speed of the link in bits per second.
    pub speed_bits_per_second: Option<u64>,
    /// Largest packet in bytes.
    pub mtu_bytes: Option<u32>,
    /// Whatever else there is to say.
    pub detail: String,
    /// The subflows of a connection.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Row>,
}

/// What a connection's row is known by from one snapshot to the next. One that is plain TCP from the start has no token.
fn connection_key(netns: &str, connection: &Connection) -> String {
    match connection.token {
        0 => format!("{netns}\0{}\0{}", connection.local, connection.remote),
        token => format!("{netns}\0{token:08x}"),
    }
}

impl Row {
    /// Received and sent, bytes per second.
    pub fn rate(&self) -> Option<f64> {
        Some(self.rx_bytes_per_second? + self.tx_bytes_per_second?)
    }

    /// A connection and its subflows.
    pub fn connection(netns: &str, connection: &Connection) -> Row {
        let children: Vec<Row> = connection.subflows.iter().map(|subflow| Row::subflow(netns, subflow)).collect();
        let sum = |value: fn(&Row) -> Option<u64>| children.iter().filter_map(value).reduce(u64::saturating_add);
        let traffic = |value: fn(&Subflow) -> f64| connection.subflows.iter().map(value).sum::<f64>();
        let mut tx = SubflowTraffic::default();
        connection.subflows.iter().for_each(|subflow| tx.add(&subflow.tx));
        let role = match connection.role {
            Role::Client => "client",
            Role::Server => "server",
            Role::Unknown => "-",
        };
        let fell_back = connection.fallback.is_some();
        Row {
            key: connection_key(netns, connection),
            name: format!("{} > {}", connection.local, connection.remote),
            short_name: format!(":{} > {}", connection.local.port(), connection.remote),
            netns: plain(netns),
            via: format!("{} subfl.", children.len()),
            state: if fell_back { "fallback".into() } else { short(connection.state).into() },
            is_wrong: fell_back,
            rx_bytes_per_second: Some(traffic(|subflow| subflow.rx_bytes_per_second)),
            tx_bytes_per_second: Some(traffic(|subflow| subflow.tx_bytes_per_second)),
            total_bytes: children.iter().map(|child| child.total_bytes).sum(),
            rtt_us: children.iter().filter_map(|child| child.rtt_us).reduce(f64::min),
            retransmitted: part(tx.retransmitted_bytes, tx.payload_bytes),
            lost_segments: sum(|child| child.lost_segments),
            reordering_segments: children.iter().filter_map(|child| child.reordering_segments).max(),
            token: Some(connection.token),
            role: Some(role),
            detail: plain(connection.fallback.as_deref().unwrap_or_default()),
            children,
            ..Row::default()
        }
        .with_haystack(connection.state.name())
    }

    fn subflow(netns: &str, subflow: &Subflow) -> Row {
        let tcp = subflow.tcp.as_ref();
        let backup = if subflow.backup { " bk" } else { "" };
        let congestion_control = tcp.map(|tcp| plain(&tcp.congestion_control)).unwrap_or_default();
        Row {
            name: format!("{} > {}", subflow.local, subflow.remote),
            short_name: format!(":{} > {}", subflow.local.port(), subflow.remote),
            netns: plain(netns),
            via: plain(subflow.interface.as_deref().unwrap_or("?")),
            state: format!("{}{backup}", short(subflow.state)),
            rx_bytes_per_second: Some(subflow.rx_bytes_per_second),
            tx_bytes_per_second: Some(subflow.tx_bytes_per_second),
            total_bytes: subflow.rx.carried_bytes() + subflow.tx.carried_bytes(),
            rtt_us: tcp.map(|tcp| f64::from(tcp.srtt_us)),
            scheduler_share: subflow.scheduler_share,
            retransmitted: part(subflow.tx.retransmitted_bytes, subflow.tx.payload_bytes),
            lost_segments: tcp.map(|tcp| u64::from(tcp.lost_segments)),
            reordering_segments: tcp.map(|tcp| u64::from(tcp.reordering_segments)),
            detail: [if subflow.backup { "backup" } else { "" }, &congestion_control].join(" ").trim().to_owned(),
            ..Row::default()
        }
        .with_haystack(subflow.state.name())
    }

    /// A path; `before` is what it was, and how many seconds ago.
    pub fn path(netns: &str, path: &Path, before: Option<(&Path, f64)>) -> Row {
        let (rx, tx) = rates(carried(path), before.map(|(before, seconds)| (carried(before), seconds)));
        let name = format!("{} {} {}", path.interface, path.family, path.remote);
        let counts = path.subflows;
        let state = match (&path.silent, counts.active + counts.backup + counts.connecting) {
            (Some(_), _) => "silent",
            (None, 0) => "idle",
            (None, _) => "ok",
        };
        Row {
            key: path_key(netns, path),
            name: plain(name.trim_end()),
            netns: plain(netns),
            state: state.into(),
            is_wrong: path.silent.is_some(),
            rx_bytes_per_second: rx,
            tx_bytes_per_second: tx,
            total_bytes: path.rx.carried_bytes() + path.tx.carried_bytes(),
            rtt_us: median(&path.rtt_seconds, RTT_BOUNDS).map(|seconds| seconds * 1e6),
            retransmitted: part(path.tx.retransmitted_bytes, path.tx.payload_bytes),
            active: Some(counts.active),
            backup: Some(counts.backup),
            opened: Some(path.opened_total),
            closed: Some(path.closed_total.values().sum()),
            detail: plain(path.silent.as_deref().unwrap_or_default()),
            ..Row::default()
        }
        .with_haystack("")
    }

    /// An interface and what the host says of it; `before` is what it was, and how many seconds ago.
    pub fn interface(view: &InterfaceView, host: Option<&HostInterface>, before: Option<(&InterfaceView, f64)>) -> Row {
        let now = (bytes(view, "rx", |_| true), bytes(view, "tx", |_| true));
        let was = before.map(|(view, span)| ((bytes(view, "rx", |_| true), bytes(view, "tx", |_| true)), span));
        let (rx, tx) = rates(now, was);
        let is_encrypted = |class: &ClassView| class.protection == "encrypted";
        let encrypted = bytes(view, "rx", is_encrypted) + bytes(view, "tx", is_encrypted);
        let error = view.hooks.values().find_map(|hook| hook.error.as_deref());
        let folded = view.counted_as.as_ref().is_some_and(|counted_as| *counted_as != view.name);
        let detail = match (error, host) {
            (Some(error), _) => format!("not attached: {error}"),
            (None, _) if folded => "counted as _other".into(),
            (None, Some(host)) => host.addresses.join(" "),
            (None, None) => String::new(),
        };
        Row {
            key: view.name.clone(),
            name: plain(&view.name),
            via: plain(view.kind.as_deref().unwrap_or_default()),
            state: plain(host.and_then(|host| host.operstate.as_deref()).unwrap_or("-")),
            is_wrong: error.is_some(),
            rx_bytes_per_second: rx.filter(|_| !folded),
            tx_bytes_per_second: tx.filter(|_| !folded),
            total_bytes: now.0 + now.1,
            encrypted: part(encrypted, now.0 + now.1),
            speed_bits_per_second: host.and_then(|host| host.speed_bits_per_second),
            mtu_bytes: host.and_then(|host| host.mtu_bytes),
            detail: plain(&detail),
            ..Row::default()
        }
        .with_haystack(host.and_then(|host| host.mac.as_deref()).unwrap_or_default())
    }

    fn with_haystack(mut self, more: &str) -> Row {
        let token = self.token.map(|token| format!("{token:08x}")).unwrap_or_default();
        let words = [&self.name, &self.netns, &self.via, &self.state, &self.detail, more, &token];
        self.haystack = words.join(" ").to_lowercase();
        for child in &self.children {
            self.haystack.push(' ');
            self.haystack.push_str(&child.haystack);
        }
        self
    }
}

/// What a path is known by.
pub fn path_key(netns: &str, path: &Path) -> String {
    [netns, &path.interface, &path.family, &path.remote].join("\0")
}

/// Bytes of the classes that are wanted, in one direction.
pub fn bytes(view: &InterfaceView, direction: &str, is_wanted: impl Fn(&ClassView) -> bool) -> u64 {
    let classes = view.traffic.get(direction).into_iter().flatten();
    classes.filter(|(_, class)| is_wanted(class)).map(|(_, class)| class.bytes).sum()
}

/// What came since, received and sent, per second; unknown where a counter went back.
fn rates(now: (u64, u64), before: Option<((u64, u64), f64)>) -> (Option<f64>, Option<f64>) {
    let Some((then, seconds)) = before.filter(|(_, seconds)| *seconds > 0.0) else { return (None, None) };
    let rate = |now: u64, then: u64| now.checked_sub(then).map(|bytes| bytes as f64 / seconds);
    (rate(now.0, then.0), rate(now.1, then.1))
}

fn part(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The states in the words of `ss`, which are shorter.
fn short(state: TcpState) -> &'static str {
    match state {
        TcpState::Established => "estab",
        TcpState::SynSent => "syn-sent",
        TcpState::SynRecv => "syn-recv",
        TcpState::FinWait1 => "fin-w1",
        TcpState::FinWait2 => "fin-w2",
        TcpState::TimeWait => "time-w",
        TcpState::Closed => "closed",
        TcpState::CloseWait => "close-w",
        TcpState::LastAck => "last-ack",
        TcpState::Listen => "listen",
        TcpState::Closing => "closing",
    }
}

/// The middle of all observations, as if those of a bucket were spread evenly over it.
fn median(histogram: &Histogram, bounds: &[f64]) -> Option<f64> {
    let half = histogram.count() as f64 / 2.0;
    let mut below = 0.0;
    for (bucket, count) in histogram.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let count = *count as f64;
        if below + count >= half {
            let lower = bucket.checked_sub(1).and_then(|b| bounds.get(b)).copied().unwrap_or(0.0);
            // Nothing is known of what lies beyond all bounds but that.
            let upper = bounds.get(bucket).copied().unwrap_or(lower);
            return Some(lower + (upper - lower) * (half - below) / count);
        }
        below += count;
    }
    None
}

/// What a path has received and sent.
fn carried(path: &Path) -> (u64, u64) {
    (path.rx.carried_bytes(), path.tx.carried_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::sample;

    #[test]
    fn a_connection_is_the_sum_of_its_subflows() {
        let row = Row::connection("guest", &sample::connection(0xabc, 1));
        assert_eq!((row.rx_bytes_per_second, row.tx_bytes_per_second), (Some(2_500.0), Some(250_000.0)));
        assert_eq!((row.total_bytes, row.rtt_us, row.retransmitted), (2_100_000, Some(12_300.0), Some(0.005)));
        assert_eq!((row.children.len(), row.children[1].state.as_str()), (2, "estab bk"));
        for word in ["192.0.2.1:40001", "192.0.2.102:443", "wan1", "established", "guest", "00000abc", "backup"] {
            assert!(row.haystack.contains(word), "{word}: {}", row.haystack);
        }
    }

    #[test]
    fn rates_need_two_looks_and_counters_that_rise() {
        assert_eq!(rates((5, 6), None), (None, None));
        assert_eq!(rates((5, 6), Some(((5, 6), 0.0))), (None, None));
        assert_eq!(rates((9, 6), Some(((5, 8), 2.0))), (Some(2.0), None));
    }

    #[test]
    fn the_median_lies_in_its_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(median(&histogram, RTT_BOUNDS), None);
        [0.012, 0.02, 0.2].iter().for_each(|value| histogram.observe(RTT_BOUNDS, *value));
        let median = |histogram: &Histogram| super::median(histogram, RTT_BOUNDS).unwrap();
        assert!((0.01..0.025).contains(&median(&histogram)));
        (0..9).for_each(|_| histogram.observe(RTT_BOUNDS, 60.0));
        assert_eq!(median(&histogram), 2.5);
    }

    #[test]
    fn names_do_nothing_to_a_terminal() {
        let view = InterfaceView { name: "\u{1b}[2J".into(), ..InterfaceView::default() };
        assert_eq!(Row::interface(&view, None, None).name, "\\u{1b}[2J");
    }
}
