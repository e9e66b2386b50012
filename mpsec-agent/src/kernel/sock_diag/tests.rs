//! Lists of sockets as a kernel gave them, cut to what older kernels give, and on what nobody gives.
//!
//! A file in `captures` holds the sockets of one dump, a line of hexadecimal digits each: what lies behind the netlink header.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use super::*;
use crate::kernel::btf::KernelBtf;
use crate::snapshot::mptcp::TcpState;

/// Lengths of `struct mptcp_info` in Linux 6.1, 6.5, 6.8 and 6.10.
const MPTCP_LENGTHS: [usize; 4] = [48, 80, 88, 96];
/// Lengths of `struct tcp_info` in Linux 6.1, 6.2, 6.7 and 6.18.
const TCP_LENGTHS: [usize; 4] = [232, 240, 248, 280];

fn capture(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernel/sock_diag/captures");
    let text = std::fs::read_to_string(folder.join(format!("sockets-{name}-6.18.hex"))).expect("it is in the tree");
    text.lines().map(bytes).collect()
}

fn bytes(line: &str) -> Vec<u8> {
    let digits: Vec<_> = line.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII")).collect();
    digits.into_iter().map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect()
}

#[test]
fn mptcp_sockets_are_read_whole() {
    for (name, family, local) in [("mptcp_ipv4", 2, "10.0.0.1"), ("mptcp_ipv6", 10, "2001:db8::1")] {
        let [message] = &capture(name)[..] else { panic!("one connection was there") };
        let socket = Socket::decode(message).expect("a socket");
        assert_eq!((socket.family(), socket.local().ip().to_string().as_str()), (family, local));
        assert_eq!((socket.state(), socket.interface()), (Some(TcpState::Established), 0));
        assert!(!socket.is_subflow() && socket.inode() != 0 && socket.cookie() != 0);
        let info = socket.mptcp_info().expect("it was asked for");
        assert_eq!(info.0.len(), 96);
        assert_eq!((info.fell_back(), info.remote_key_received()), (Some(false), Some(true)));
        assert_eq!((info.subflows(), info.subflows_total()), (Some(1), Some(2)));
        let data = info.data_bytes().expect("from 6.5 on");
        assert_eq!((data.sent_bytes, data.received_bytes), (100_001, 50_001));
        assert_eq!(info.csum_enabled(), Some(0));
        assert!(info.last_ack_recv().is_some_and(|milliseconds| milliseconds < 60_000));
    }
}

#[test]
fn subflows_are_read_whole() {
    for name in ["ipv4", "ipv6"] {
        let token = Socket::decode(&capture(&format!("mptcp_{name}"))[0])
            .and_then(|socket| socket.mptcp_info()?.token())
            .expect("a token");
        let messages = capture(&format!("tcp_{name}"));
        let sockets: Vec<_> = messages.iter().map(|message| Socket::decode(message).expect("a socket")).collect();
        let subflows: Vec<_> = sockets.iter().map(|socket| socket.subflow().expect("a subflow")).collect();
        assert!(subflows.iter().all(|subflow| subflow.token_local == Some(token)));
        let mut joined: Vec<_> = subflows
            .iter()
            .map(|subflow| (subflow.id_local != Some(0), subflow.flags.expect("flags").joined()))
            .collect();
        joined.sort();
        assert_eq!(joined, [(false, false), (true, true)]);
        let complete = subflows.iter().all(|subflow| subflow.map_seq.is_some() && subflow.map_data_len.is_some());
        assert!(complete, "{subflows:?}");
        for socket in sockets {
            let info = socket.tcp_info().expect("it was asked for");
            assert_eq!((info.0.len(), info.state()), (280, Some(1)));
            assert_eq!(socket.congestion_control(), Some("reno"));
            let memory = socket.memory().expect("it was asked for");
            assert!(memory.receive_limit > 0 && memory.drops == Some(0));
            let details = info.details(socket.congestion_control()).expect("all of it");
            assert!(details.mss_bytes >= 500 && details.cwnd_segments >= 2, "{details:?}");
            assert_eq!(details.retransmitted_bytes, Some(0));
        }
    }
}

#[test]
fn older_kernels_tell_less_of_mptcp() {
    let message = capture("mptcp_ipv4").remove(0);
    let whole = Socket::decode(&message).and_then(|socket| socket.mptcp_info()).expect("it was asked for").0;
    // What is first told by the structure of each length, and not by any shorter one.
    let told = MPTCP_LENGTHS.map(|len| {
        let info = MptcpInfo(&whole[..len]);
        [
            info.csum_enabled().is_some(),
            info.retransmits().is_some() && info.data_bytes().is_some(),
            info.subflows_total().is_some(),
            info.last_data_sent().is_some() && info.last_ack_recv().is_some(),
        ]
    });
    let wanted = [1, 2, 3, 4].map(|count| [0, 1, 2, 3].map(|field| field < count));
    assert_eq!(told, wanted);
    // Padding of the shorter structures is no field.
    assert_eq!(MptcpInfo(&whole[..48]).retransmits(), None);
    assert_eq!(MptcpInfo(&whole[..88]).last_data_sent(), None);
    assert_eq!(MptcpInfo(&whole[..8]).token(), None);
}

#[test]
fn older_kernels_tell_less_of_tcp() {
    let messages = capture("tcp_ipv4");
    let whole = Socket::decode(&messages[0]).and_then(|socket| socket.tcp_info()).expect("it was asked for");
    let told = TCP_LENGTHS.map(|len| {
        let info = TcpInfo(&whole.0[..len]);
        assert_eq!(info.details(None), whole.details(None), "a snapshot needs no more than Linux 6.1 tells");
        [info.snd_wnd(), info.rcv_wnd(), info.total_rto_time(), info.accecn()].map(|field| field.is_some())
    });
    let wanted = [1, 2, 3, 4].map(|count| [0, 1, 2, 3].map(|field| field < count));
    assert_eq!(told, wanted);
    assert_eq!(TcpInfo(&whole.0[..100]).details(None), None);
    let mut fields = Vec::new();
    whole.each(|name, value| fields.push((name, value)));
    assert_eq!((fields.len(), fields[0]), (67, ("state", 1)));
    assert!(format!("{whole:?}").contains("snd_cwnd"));
}

/// The running kernel's own description: its fields lie here, and what it has, we have.
#[test]
fn fields_lie_where_this_kernel_has_them() {
    let Ok(btf) = KernelBtf::load() else { return };
    let structures = [("tcp_info", "tcpi_", TcpInfo::PLACES), ("mptcp_info", "mptcpi_", MptcpInfo::PLACES)];
    for (structure, prefix, places) in structures {
        let mut found = 0;
        for (field, offset, size) in places {
            // What is made of bit fields has a name of ours, and what newer kernels have is not here.
            let Ok(member) = btf.offset_of(structure, &format!("{prefix}{field}")) else { continue };
            assert_eq!((member.byte_offset(), member.byte_size()), (*offset, *size), "{structure}.{field}");
            found += 1;
        }
        assert!(found >= 15, "{found} fields of {structure}");
        let end = places.iter().map(|(_, offset, size)| offset + size).max();
        let size = btf.size_of(structure).expect("it has one");
        assert!(Some(size) <= end, "{structure} of this kernel has {size} bytes");
    }
}

#[test]
fn sockets_that_are_cut_or_foreign_are_refused() {
    let message = &capture("tcp_ipv4")[0];
    assert!(Socket::decode(&message[..71]).is_none());
    let bare = Socket::decode(&message[..72]).expect("a socket about which nothing else is told");
    assert!(bare.tcp_info().is_none() && bare.subflow().is_none() && bare.congestion_control().is_none());
    let mut foreign = message.clone();
    foreign[0] = libc::AF_UNIX as u8;
    assert!(Socket::decode(&foreign).is_none());
}

#[test]
fn ipv4_addresses_of_ipv6_sockets_are_ipv4_addresses() {
    let mut message = capture("tcp_ipv6")[0].clone();
    message[8..24].copy_from_slice(&std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets());
    let socket = Socket::decode(&message).expect("a socket");
    assert_eq!((socket.family(), socket.local().ip().to_string().as_str()), (10, "192.0.2.1"));
}

#[test]
fn connections_are_neither_listeners_nor_leftovers() {
    let asked = (1..=11).filter(|state| States::CONNECTIONS.0 & 1 << state != 0).filter_map(TcpState::from_number);
    let left_out = [TcpState::TimeWait, TcpState::Closed, TcpState::Listen];
    assert_eq!(
        asked.collect::<Vec<_>>(),
        TcpState::ALL.into_iter().filter(|state| !left_out.contains(state)).collect::<Vec<_>>()
    );
}

/// Looks at everything.
fn read_all(bytes: &[u8]) {
    if let Some(socket) = Socket::decode(bytes) {
        let _ = (socket.local(), socket.remote(), socket.state(), socket.cookie(), socket.subflow(), socket.memory());
        let _ = socket.tcp_info().and_then(|info| info.details(socket.congestion_control()));
        let _ = format!("{:?} {:?}", socket.tcp_info(), socket.mptcp_info());
    }
}

proptest! {
    #[test]
    fn no_bytes_are_a_surprise(bytes in vec(any::<u8>(), 0..600)) {
        read_all(&bytes);
        let mut socket = bytes;
        if let Some(family) = socket.first_mut() {
            *family = 2;
        }
        read_all(&socket);
    }

    #[test]
    fn no_damage_is_a_surprise(at in 0usize..800, byte in any::<u8>(), end in 0usize..800) {
        for name in ["tcp_ipv4", "mptcp_ipv6"] {
            let mut message = capture(name).remove(0);
            if let Some(place) = message.get_mut(at) {
                *place = byte;
            }
            read_all(message.get(..end).unwrap_or(&message));
        }
    }
}
