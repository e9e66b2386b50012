//! A snapshot in which everything happens that can, and a server that publishes it as the agent does, a little later each
//! time: for what no test can make a kernel do within seconds.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use mpsec_agent::metrics::MIB;
use mpsec_agent::publish::prometheus::{Dialect, render};
use mpsec_agent::snapshot::mptcp::{
    Connection, DELIVERY_RATE_BOUNDS, Endpoint, Finding, Histogram, Limits, Namespace, OTHER, Path, Probed, RTT_BOUNDS,
    Resets, Role, Subflow, SubflowCounts, SubflowTraffic, TcpDetails, TcpState, Totals,
};
use mpsec_agent::snapshot::subflow_series::Folding;
use mpsec_agent::snapshot::{Agent, Probe, Snapshot};
use mpsec_tests::agent::LISTEN;
use mpsec_tests::netns::Netns;

/// Bytes a second that each path sends.
pub(super) const SENT: [(&str, u64); 3] = [("wan0", 300_000), ("wan1", 90_000), (OTHER, 10_000)];
/// The bucket that all of a path's round-trip times are in.
pub(super) const RTT: [(&str, f64, f64); 2] = [("wan0", 0.01, 0.025), ("wan1", 0.1, 0.25)];
/// When the second path's last subflow ends: by then Prometheus has seen it.
const DOWN: Duration = Duration::from_secs(10);

/// What there is this long after the start.
pub(super) fn snapshot(since: Duration) -> Snapshot {
    let namespaces = vec![namespace("", since), namespace("blue", since)];
    let per_subflow = Folding::default().choose(&namespaces, Some(2));
    Snapshot {
        taken_at: SystemTime::now(),
        namespaces,
        host: Default::default(),
        per_subflow,
        agent: Agent { probes: vec![Probe { name: "rtt", entry: "tp_btf", error: None }], ..Agent::default() },
        ..Snapshot::empty()
    }
}

fn namespace(netns: &str, since: Duration) -> Namespace {
    let seconds = since.as_secs();
    let known = MIB.iter().flat_map(|group| group.names).copied();
    let mib = known.chain(["FromTheFuture"]).map(|name| (name.to_owned(), seconds)).collect();
    let tcp = ["TCPSACKReorder", "TCPTSReorder", "TCPOFOQueue", "TCPDSACKRecv"];
    Namespace {
        netns: netns.into(),
        connections: (1..5).map(|number| connection(number, since)).collect(),
        paths: SENT.map(|(interface, speed)| path(interface, speed, since)).into(),
        totals: Totals {
            connections_opened: seconds,
            connections_closed: seconds / 2,
            subflows_opened: seconds,
            subflows_closed: seconds / 2,
            subflows_lost: seconds,
            handshakes_lost: seconds,
            paths_folded: seconds,
            table_used: 99,
            table_capacity: 100,
        },
        mib,
        tcp_mib: tcp.map(|name| (name.to_owned(), seconds)).into(),
        endpoints: vec![Endpoint {
            id: 1,
            address: [192, 0, 2, 1].into(),
            port: None,
            interface: None,
            flags: vec!["subflow".into()],
        }],
        limits: Some(Limits { subflows: 2, add_addr_accepted: 1 }),
        sysctls: [("enabled", "1"), ("path_manager", "kernel"), ("scheduler", "default")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        blackhole: Some(true),
        probed: Probed {
            retransmissions: [("recovery", seconds), ("loss", seconds / 2)].map(|(name, n)| (name.into(), n)).into(),
            resets: [("sent", "tcp_abort_on_close"), ("received", "without_option")]
                .map(|(direction, reason)| Resets {
                    direction: direction.into(),
                    reason: reason.into(),
                    count: seconds,
                })
                .into(),
            data_timeouts: Some(seconds),
        },
        findings: vec![Finding { kind: "path_silent".into(), about: String::new(), text: String::new(), remedy: None }],
    }
}

fn path(interface: &str, bytes_a_second: u64, since: Duration) -> Path {
    let bytes = (bytes_a_second as f64 * since.as_secs_f64()) as u64;
    let (family, remote) = if interface == OTHER { ("", OTHER) } else { ("ipv4", "192.0.2.0/24") };
    let up = interface != "wan1" || since < DOWN;
    let (_, from, to) = RTT.into_iter().find(|(of, ..)| *of == interface).unwrap_or(RTT[0]);
    let observed = |bounds, value| {
        let mut histogram = Histogram::default();
        (0..since.as_secs()).for_each(|_| histogram.observe(bounds, value));
        histogram
    };
    Path {
        interface: interface.into(),
        family: family.into(),
        remote: remote.into(),
        rx: traffic(bytes / 10),
        tx: traffic(bytes),
        subflows: SubflowCounts { connecting: 1, active: up.into(), backup: 1, closing: 1 },
        opened_total: since.as_secs(),
        closed_total: BTreeMap::from([("reset".to_owned(), since.as_secs() / 2)]),
        rtt_seconds: observed(RTT_BOUNDS, (from + to) / 2.0),
        delivery_rate: observed(DELIVERY_RATE_BOUNDS, 2e6),
        silent: (interface == "wan1").then(|| "it is slow".to_owned()),
    }
}

fn traffic(bytes: u64) -> SubflowTraffic {
    SubflowTraffic { packets: bytes / 1000, bytes, payload_bytes: bytes, retransmitted_bytes: bytes / 100 }
}

fn connection(number: u16, since: Duration) -> Connection {
    let local = SocketAddr::from(([192, 0, 2, 1], number));
    let remote = SocketAddr::from(([192, 0, 2, 2], 443));
    let bytes = since.as_secs() * u64::from(number) * 1000;
    let tcp = TcpDetails {
        srtt_us: 10_000,
        cwnd_segments: 10,
        delivery_rate_bytes_per_second: Some(1_000_000),
        ..TcpDetails::default()
    };
    let subflow = Subflow {
        local,
        remote,
        local_id: None,
        remote_id: None,
        interface: Some("wan0".into()),
        state: TcpState::Established,
        joined: false,
        backup: false,
        rx: traffic(bytes),
        tx: traffic(bytes),
        rx_bytes_per_second: 0.0,
        tx_bytes_per_second: 0.0,
        scheduler_share: None,
        tcp: Some(tcp),
    };
    Connection {
        token: number.into(),
        role: Role::Client,
        local,
        remote,
        state: TcpState::Established,
        fallback: (number == 1).then(|| "the server does not speak MPTCP".to_owned()),
        age_seconds: since.as_secs_f64(),
        data: None,
        subflows: vec![subflow],
    }
}

/// A server where an agent would be, until it is dropped.
pub(super) struct Exporter {
    ends: Arc<AtomicBool>,
}

impl Exporter {
    pub(super) fn start(netns: &Netns) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind(LISTEN))?;
        listener.set_nonblocking(true)?;
        let ends = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ends);
        thread::spawn(move || {
            let start = Instant::now();
            while !end.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A scrape that is broken off is Prometheus' affair: the test asks what it got.
                    Ok((stream, _)) => drop(answer(stream, start.elapsed())),
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Ok(Self { ends })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

fn answer(mut stream: TcpStream, since: Duration) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let body = render(&snapshot(since), Dialect::OpenMetrics, 0);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let length = body.len();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    Ok(())
}
