//! From the kernel's words to those of the book.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use mpsec_common::mptcp::{SubflowCounter, SubflowInfo, SubflowKey, SubflowState, flags};
use mpsec_common::probes::Closer;

use crate::kernel::mptcp_pm::Event;
use crate::kernel::subflows::View;
use crate::snapshot::mptcp::{Role, SubflowTraffic, TcpState};

use super::ledger::{ConnectionId, Figures, Mark, Observation, Phase};
use super::sockets::Ends;

/// By what it is known whether a slot says anything new.
pub fn mark(view: &View) -> Mark {
    let info = &view.info;
    Mark {
        incarnation: info.incarnation,
        token: info.token,
        state: (info.state, info.last_tcp_state, [info.local_id, info.remote_id], info.flags),
        opened: info.established_ns != 0,
        rtt_reports: info.rtt_reports,
        interface: interface(view),
        packets: [view.rx.packets, view.tx.packets],
        retransmitted_bytes: info.bytes_retrans,
        payload_bytes: [info.bytes_received, info.bytes_sent],
    }
}

/// Index of the interface that its packets take; 0 for none.
fn interface(view: &View) -> u32 {
    if view.tx_ifindex != 0 { view.tx_ifindex } else { view.rx_ifindex }
}

/// What a slot says; `None` for one that is being filled.
pub fn observation(view: &View, name: &mut impl FnMut(u32) -> Option<Arc<str>>) -> Option<Observation> {
    let info = &view.info;
    let phase = match info.state() {
        SubflowState::Free => return None,
        SubflowState::Connecting => Phase::Connecting,
        SubflowState::Established => Phase::Established,
        SubflowState::Closed => Phase::Closed,
    };
    let [rx, mut tx] = [traffic(&view.rx), traffic(&view.tx)];
    // The socket's own count knows what was sent again on whatever CPU.
    tx.retransmitted_bytes = view.tx.retransmitted_bytes;
    Some(Observation {
        slot: view.slot,
        mark: mark(view),
        incarnation: info.incarnation,
        connection: ConnectionId::new(info.token, view.slot),
        local: end(&info.key.local, info.key.local_port),
        remote: end(&info.key.remote, info.key.remote_port),
        ids: [info.local_id, info.remote_id],
        phase,
        opened: info.established_ns != 0,
        adopted_after: info.has(flags::ADOPTED).then_some(info.bytes_retrans),
        joined: info.has(flags::JOINED),
        backup: info.has(flags::BACKUP),
        fell_back: info.has(flags::FELL_BACK),
        role: role(info),
        interface: Some(interface(view)).filter(|index| *index != 0).and_then(name),
        traffic: [rx, tx],
        figures: figures(info),
        srtt_us: (info.srtt_us, info.rtt_reports),
        delivery_rate: info.delivery_rate_bytes_per_second(),
        closer: Closer::of(info.flags).map(Closer::name),
        last_state: TcpState::from_number(info.last_tcp_state).unwrap_or_default(),
    })
}

fn role(info: &SubflowInfo) -> Role {
    match (info.has(flags::ADOPTED), info.has(flags::ACTIVE_OPEN)) {
        (true, _) => Role::Unknown,
        (false, true) => Role::Client,
        (false, false) => Role::Server,
    }
}

/// What the socket has counted, if the kernel side asks it.
fn figures(info: &SubflowInfo) -> Option<Figures> {
    if !info.has(flags::HAS_FIGURES) || info.has(flags::ADOPTED) {
        return None;
    }
    // The kernel counts a FIN that was received for a byte (tcp_rcv_nxt_update, net/ipv4/tcp_input.c, 6.18). Only of sockets that
    // were closed in these states it is known that none was: in FIN_WAIT2 one may have come or not.
    let last_state = TcpState::from_number(info.last_tcp_state);
    let has_no_fin = matches!(last_state, Some(TcpState::Established | TcpState::FinWait1));
    Some(Figures {
        received_bytes: info.bytes_received.saturating_sub(u64::from(!has_no_fin)),
        sent_bytes: info.bytes_sent,
        acked_bytes: info.bytes_acked,
    })
}

fn traffic(counter: &SubflowCounter) -> SubflowTraffic {
    SubflowTraffic {
        packets: counter.packets,
        bytes: counter.bytes,
        payload_bytes: counter.payload_bytes,
        retransmitted_bytes: counter.retransmitted_bytes,
    }
}

fn end(address: &[u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(*address).to_canonical(), port)
}

/// The key of a subflow by its ends.
pub fn key((local, remote): Ends) -> SubflowKey {
    let octets = |end: SocketAddr| match end.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    SubflowKey { local: octets(local), remote: octets(remote), local_port: local.port(), remote_port: remote.port() }
}

/// Why a subflow was closed, if an event says so: the peer's reason of RFC 8684 section 3.6, else the socket's error.
pub fn reason(event: &Event) -> Option<String> {
    if let Some(reason) = event.reset_reason() {
        return Some(reason.label());
    }
    let name = match event.error().filter(|error| *error != 0)? {
        libc::ETIMEDOUT => "timed_out",
        libc::ECONNREFUSED => "refused",
        libc::ECONNRESET => "reset",
        libc::ENETUNREACH | libc::EHOSTUNREACH => "unreachable",
        libc::ENETDOWN => "network_down",
        libc::EPIPE => "broken_pipe",
        _ => "error",
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fin_is_no_payload() {
        let figures = |flags, last_tcp_state| {
            let info =
                SubflowInfo { flags, last_tcp_state, bytes_received: 501, bytes_sent: 9, ..SubflowInfo::default() };
            figures(&info).map(|figures| (figures.received_bytes, figures.sent_bytes))
        };
        let told = |last_state: TcpState| figures(flags::HAS_FIGURES, last_state as u8 + 1);
        for ended in [TcpState::FinWait2, TcpState::CloseWait, TcpState::LastAck, TcpState::Closing] {
            assert_eq!(told(ended), Some((500, 9)), "{}", ended.name());
        }
        assert_eq!(told(TcpState::Established), Some((501, 9)), "it was reset");
        assert_eq!(figures(flags::HAS_FIGURES, 0), Some((500, 9)), "its socket is there, and a FIN may have come");
        assert_eq!(figures(0, 0), None);
        assert_eq!(figures(flags::HAS_FIGURES | flags::ADOPTED, 0), None, "nobody asks it");
    }

    #[test]
    fn ends_are_found_again_by_their_key() {
        for ends in [("192.0.2.1:5", "198.51.100.2:443"), ("[2001:db8::1]:5", "[2001:db8::2]:443")] {
            let ends: Ends = (ends.0.parse().unwrap(), ends.1.parse().unwrap());
            let key = key(ends);
            assert_eq!((end(&key.local, key.local_port), end(&key.remote, key.remote_port)), ends);
        }
    }
}
