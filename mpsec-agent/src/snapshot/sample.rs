//! Snapshots that tests stand on: one with everything that a type can hold, both ways.

use std::time::{Duration, SystemTime};

use super::control::Control;
use super::host::{Host, HostInterface};
use super::mptcp::{
    Connection, DataBytes, Endpoint, Finding, Histogram, Limits, Namespace, Path, Role, Subflow, SubflowCounts,
    SubflowTraffic, TcpDetails, TcpState, Totals,
};
use super::mptcp::{Probed, Resets};
use super::{Agent, Hook, Interface, InterfaceStates, Snapshot};

/// A snapshot with two namespaces; every `Option` is there once with a value and once without.
pub(crate) fn snapshot() -> Snapshot {
    let interface = |name: &str, index, error: Option<&str>, has_counters| {
        let hook = |error: Option<&str>| Hook { method: "tcx", error: error.map(str::to_owned), ahead: 0 };
        let mut traffic: [super::Classes; 2] = Default::default();
        if has_counters {
            for (class, counter) in traffic.iter_mut().flatten().take(4).enumerate() {
                (counter.packets, counter.bytes, counter.l3_bytes) = (10, 10_000 * (class as u64 + 1), 9_860);
            }
        }
        let hooks = [hook(None), hook(error)];
        Interface { netns: String::new(), name: name.into(), index, kind: "veth".into(), hooks, has_counters, traffic }
    };
    Snapshot {
        taken_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        interfaces: vec![interface("wan0", 2, None, true), interface("wan1", 3, Some("no room"), false)],
        others: vec![super::OtherInterfaces::default()],
        interface_states: InterfaceStates { counted: 1, folded: 1, excluded: 0 },
        namespaces: vec![namespace(), Namespace { netns: "guest".into(), ..Namespace::default() }],
        per_subflow: None,
        control: Control {
            desired_generation: 3,
            actual_generation: 2,
            failures: vec!["net.mptcp.enabled: 0 -> 1: Permission denied".into()],
            waiting: vec!["wan1 has no address".into()],
            owned: 2,
            ..Control::default()
        },
        host: host(),
        agent: Agent::default(),
    }
}

/// A host with one interface of which everything is known, and one of which nothing is.
pub(crate) fn host() -> Host {
    Host {
        hostname: Some("gate".into()),
        kernel_release: Some("6.18.0".into()),
        architecture: Some("x86_64".into()),
        uptime_seconds: Some(93_784.0),
        cpus: Some(4),
        cpu_use: Some(0.25),
        load_averages: Some([0.5, 0.4, 0.3]),
        memory_total_bytes: Some(8 << 30),
        memory_available_bytes: Some(6 << 30),
        tasks: Some(321),
        interfaces: vec![
            HostInterface {
                index: 2,
                name: "wan0".into(),
                mac: Some("02:00:00:00:00:01".into()),
                addresses: vec!["192.0.2.1/24".into(), "2001:db8::1/64".into()],
                speed_bits_per_second: Some(1_000_000_000),
                operstate: Some("up".into()),
                mtu_bytes: Some(1500),
            },
            HostInterface { index: 3, name: "wan1".into(), ..HostInterface::default() },
        ],
    }
}

/// A namespace with a connection over two paths, and one that fell back to TCP.
pub(crate) fn namespace() -> Namespace {
    Namespace {
        netns: String::new(),
        connections: vec![connection(0x00ab_cdef, 1), fallen_back()],
        paths: vec![path("wan0", None), path("wan1", Some("its link is down"))],
        totals: Totals { connections_opened: 12, connections_closed: 10, ..Totals::default() },
        mib: vec![("MPCapableSYNRX".into(), 3)],
        tcp_mib: vec![("TCPSACKReorder".into(), 1)],
        endpoints: vec![
            Endpoint {
                id: 1,
                address: [192, 0, 2, 1].into(),
                port: Some(443),
                interface: Some("wan0".into()),
                flags: vec!["signal".into()],
            },
            Endpoint { id: 2, address: [192, 0, 2, 2].into(), port: None, interface: None, flags: Vec::new() },
        ],
        limits: Some(Limits { subflows: 2, add_addr_accepted: 0 }),
        sysctls: [("enabled".to_owned(), "1".to_owned())].into(),
        blackhole: Some(false),
        probed: Probed {
            retransmissions: [("recovery".to_owned(), 4)].into(),
            resets: vec![Resets { direction: "received".into(), reason: "without_option".into(), count: 1 }],
            data_timeouts: Some(1),
        },
        findings: vec![
            Finding {
                kind: "fallback".into(),
                about: "192.0.2.1:40002 192.0.2.2:80".into(),
                text: "The peer does not speak MPTCP.".into(),
                remedy: Some("Turn MPTCP on at the peer.".into()),
            },
            Finding { kind: "path_silent".into(), about: "wan1".into(), text: "Link down.".into(), remedy: None },
        ],
    }
}

/// A connection with two subflows, the second of which is a backup. Its ports and rates depend on `number`.
pub(crate) fn connection(token: u32, number: u16) -> Connection {
    let (a, b) = (subflow("wan0", number, false), subflow("wan1", number, true));
    Connection {
        token,
        role: Role::Client,
        local: a.local,
        remote: a.remote,
        state: TcpState::Established,
        fallback: None,
        age_seconds: 12.5,
        data: Some(DataBytes { sent_bytes: 1_000_000, ..DataBytes::default() }),
        subflows: vec![a, b],
    }
}

fn fallen_back() -> Connection {
    let mut connection = connection(7, 2);
    connection.subflows.truncate(1);
    connection.fallback = Some("the peer answered without MP_CAPABLE".into());
    connection.data = None;
    connection.role = Role::Unknown;
    for subflow in &mut connection.subflows {
        (subflow.interface, subflow.local_id, subflow.remote_id) = (None, None, None);
        (subflow.tcp, subflow.scheduler_share) = (None, None);
    }
    connection
}

fn subflow(interface: &str, number: u16, joined: bool) -> Subflow {
    let net = if joined { 100 } else { 0 };
    let traffic =
        |bytes| SubflowTraffic { packets: 700, bytes, payload_bytes: bytes, retransmitted_bytes: bytes / 200 };
    Subflow {
        local: ([192, 0, 2, 1 + net], 40_000 + number).into(),
        remote: ([192, 0, 2, 2 + net], 443).into(),
        local_id: Some(u8::from(joined)),
        remote_id: Some(0),
        interface: Some(interface.into()),
        state: TcpState::Established,
        joined,
        backup: joined,
        rx: traffic(50_000),
        tx: traffic(1_000_000),
        rx_bytes_per_second: 1_250.0 * f64::from(number),
        tx_bytes_per_second: 125_000.0 * f64::from(number),
        scheduler_share: Some(if joined { 0.25 } else { 0.75 }),
        tcp: Some(details(joined)),
    }
}

/// What an old kernel and a new one tell.
fn details(is_new: bool) -> TcpDetails {
    let (small, big) = (is_new.then_some(7), is_new.then_some(70_000));
    TcpDetails {
        srtt_us: if is_new { 52_000 } else { 12_300 },
        rttvar_us: 900,
        min_rtt_us: small,
        cwnd_segments: 10,
        mss_bytes: 1448,
        lost_segments: u32::from(is_new),
        retransmitted_segments: 3,
        sent_bytes: big,
        acked_bytes: big,
        received_bytes: big,
        retransmitted_bytes: big,
        unsent_bytes: small,
        delivery_rate_bytes_per_second: big,
        pacing_rate_bytes_per_second: big,
        reordering_segments: 3,
        reordering_seen: small,
        out_of_order_segments: small,
        dsack_duplicates: small,
        congestion_control: "cubic".into(),
        ..TcpDetails::default()
    }
}

fn path(interface: &str, silent: Option<&str>) -> Path {
    let mut rtt = Histogram::default();
    (0..9).for_each(|_| rtt.observe(super::mptcp::RTT_BOUNDS, 0.012));
    let traffic = SubflowTraffic { packets: 9, bytes: 90_000, payload_bytes: 80_000, retransmitted_bytes: 400 };
    Path {
        interface: interface.into(),
        family: "ipv4".into(),
        remote: "192.0.2.0/24".into(),
        rx: traffic,
        tx: traffic,
        subflows: SubflowCounts { active: 1, backup: 1, ..SubflowCounts::default() },
        opened_total: 5,
        closed_total: [("fin".to_owned(), 3)].into(),
        rtt_seconds: rtt,
        delivery_rate: Histogram::default(),
        silent: silent.map(str::to_owned),
    }
}
