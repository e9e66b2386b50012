//! The codecs on what a kernel and ip(8) really sent, and on what nobody sends.
//!
//! A file in `captures` holds messages of one kind, a line of hexadecimal digits each: what lies behind the netlink header.
//! Its name says what they are and the kernel. `request-*` are ours, which that kernel took, `ip-*` those of ip(8).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::*;
use crate::kernel::genetlink::Header;
use crate::snapshot::mptcp::Limits;

/// The messages of all files whose name begins so, by what is between that and the kernel's version.
fn captures(prefix: &str) -> BTreeMap<String, Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernel/mptcp_pm/captures");
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("the folder is in the tree") {
        let path = entry.expect("it is readable").path();
        let name = path.file_stem().expect("it has a name").to_string_lossy().into_owned();
        let Some((kind, _version)) = name.strip_prefix(prefix).and_then(|rest| rest.rsplit_once('-')) else { continue };
        let text = std::fs::read_to_string(&path).expect("it is text");
        all.insert(kind.to_owned(), text.lines().map(bytes).collect());
    }
    assert!(!all.is_empty(), "no capture begins with {prefix}");
    all
}

fn bytes(line: &str) -> Vec<u8> {
    let digits: Vec<_> = line.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII")).collect();
    digits.into_iter().map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect()
}

fn one(prefix: &str, kind: &str) -> Command {
    Command::decode(&captures(prefix)[kind][0]).expect("it holds together")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn captured_commands_encode_to_their_bytes() {
    for prefix in ["request-", "answer-", "ip-"] {
        for (kind, messages) in captures(prefix) {
            for bytes in messages {
                let command = Command::decode(&bytes).expect("it holds together");
                assert_eq!(command.encode(), bytes, "{kind}: {command:?}");
                assert!(kind.starts_with(&command.kind().to_string()), "{kind}: {command:?}");
                let unknown = |attribute: &CommandAttribute| format!("{attribute:?}").contains("Other");
                assert!(!command.attributes.iter().any(unknown), "{command:?}");
            }
        }
    }
}

#[test]
fn captured_events_encode_to_their_bytes() {
    let captures = captures("event-");
    for (kind, messages) in &captures {
        for bytes in messages {
            let event = Event::decode(bytes).expect("it holds together");
            assert_eq!(&event.encode(), bytes, "{kind}: {event:?}");
            assert_eq!(kind, &event.kind().to_string());
            let unknown = |attribute: &EventAttribute| matches!(attribute, EventAttribute::Other { .. });
            assert!(!event.attributes.iter().any(unknown), "{event:?}");
        }
    }
    let kinds: BTreeSet<_> = captures.into_keys().collect();
    assert_eq!(kinds, EventKind::ALL.iter().map(EventKind::to_string).collect());
}

#[test]
fn endpoints_are_what_the_kernel_says() {
    let endpoints: Vec<_> = captures("answer-")["get_addr_dump"]
        .iter()
        .map(|bytes| Command::decode(bytes).ok().and_then(|command| command.address()).expect("an endpoint"))
        .collect();
    let device = Endpoint { id: 1, interface: Some(1), ..Endpoint::new(ip("192.0.2.1"), EndpointFlags::SUBFLOW) };
    assert_eq!(endpoints[0], device);
    let port = Endpoint { id: 6, port: Some(7000), ..Endpoint::new(ip("2001:db8::6"), EndpointFlags::SIGNAL) };
    assert_eq!(endpoints[5], port);
    assert_eq!(endpoints[3].flags.names(), ["subflow", "fullmesh"]);
    assert_eq!(one("answer-", "get_limits").told_limits(), Some(Limits { subflows: 5, add_addr_accepted: 3 }));
    // The bytes of a request are the same whichever way it was made, but for the order of attributes.
    let command = Command::add_endpoint(&endpoints[0]);
    assert_eq!(Command::decode(&command.encode()).ok().and_then(|command| command.address()), Some(device));
}

#[test]
fn requests_say_what_ip_says() {
    let flags = EndpointFlags::SUBFLOW | EndpointFlags::BACKUP;
    let wanted = [
        Endpoint::new(ip("2001:db8::1"), EndpointFlags::SIGNAL),
        Endpoint { id: 7, interface: Some(1), ..Endpoint::new(ip("192.0.2.1"), flags) },
        Endpoint::new(ip("192.0.2.9"), EndpointFlags::SUBFLOW | EndpointFlags::FULLMESH),
    ];
    for (bytes, endpoint) in captures("ip-")["add_addr"].iter().zip(wanted) {
        let command = Command::decode(bytes).expect("it holds together");
        assert_eq!(command.address().as_ref(), Some(&endpoint));
        assert_eq!(sorted(&command), sorted(&Command::add_endpoint(&endpoint)));
    }
    assert_eq!(one("ip-", "get_addr"), Command::endpoint(7));
    assert_eq!(one("ip-", "get_addr_dump"), Command::endpoints());
    assert_eq!(one("ip-", "get_limits"), Command::limits());
    assert_eq!(one("ip-", "flush_addrs"), Command::flush_endpoints());
    assert_eq!(one("ip-", "set_limits"), Command::set_limits(Limits { subflows: 4, add_addr_accepted: 2 }));
}

/// A command's address attributes in the order of their text.
fn sorted(command: &Command) -> Vec<String> {
    let mut all: Vec<_> = command
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            CommandAttribute::Address(address) => address.iter().map(|part| format!("{part:?}")).collect(),
            other => vec![format!("{other:?}")],
        })
        .collect();
    all.sort();
    all
}

#[test]
fn every_command_is_read_back() {
    let address = Endpoint { id: 4, port: Some(99), ..Endpoint::new(ip("2001:db8::4"), EndpointFlags::SIGNAL) };
    let (local, remote): (SocketAddr, SocketAddr) = ((address.address, 99).into(), (ip("2001:db8::5"), 443).into());
    let limits = Limits { subflows: 1, add_addr_accepted: 2 };
    let commands = [
        Command::add_endpoint(&address),
        Command::delete_endpoint(&address),
        Command::endpoint(4),
        Command::flush_endpoints(),
        Command::set_limits(limits),
        Command::limits(),
        Command::set_endpoint_flags(&address),
        Command::announce(77, &address),
        Command::remove(77, 4),
        Command::create_subflow(77, &address, remote),
        Command::destroy_subflow(77, local, remote),
    ];
    for (command, kind) in commands.iter().zip(CommandKind::ALL) {
        assert_eq!(command.kind(), *kind);
        assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(command));
    }
    assert_eq!(commands[0].address(), Some(address.clone()));
    assert_eq!(commands[4].told_limits(), Some(limits));
    let of_user_space = [&commands[7], &commands[8], &commands[9], &commands[10]];
    assert!(of_user_space.iter().all(|command| command.token() == Some(77)));
    let told = commands[9].remote().expect("a remote address");
    assert_eq!((told.address, told.port), (remote.ip(), Some(443)));
    let priority = Command::set_subflow_flags(77, &address, remote);
    assert_eq!((priority.kind(), priority.token()), (CommandKind::SetFlags, Some(77)));
    assert_eq!(priority.address(), Some(address));
}

#[test]
fn events_tell_who_and_why() {
    let captures = captures("event-");
    let events = |kind: &str| -> Vec<Event> {
        captures[kind].iter().map(|bytes| Event::decode(bytes).expect("it holds together")).collect()
    };
    let created = &events("created")[0];
    assert_eq!(created.local().map(|local| local.ip()), Some(ip("10.0.0.1")));
    assert_eq!(created.remote().map(|remote| remote.ip()), Some(ip("10.0.0.2")));
    assert!(created.token().is_some() && created.server_side() != Some(true));
    assert!(events("created").iter().any(|event| event.server_side() == Some(true)));
    assert!(events("established").iter().any(|event| event.local_ip() == Some(ip("2001:db8::1"))));
    assert_eq!(events("announced")[0].remote_id(), Some(3));
    let errors: Vec<_> = events("sub_closed").iter().filter_map(Event::error).collect();
    assert!(errors.contains(&libc::ECONNREFUSED), "{errors:?}");
    assert_eq!(events("sub_priority")[0].backup(), Some(true));
    let listeners = events("listener_created");
    assert!(listeners.iter().any(|event| event.local() == Some((ip("10.0.0.2"), 7001).into())), "{listeners:?}");
    assert!(listeners.iter().all(|event| event.token().is_none()));
}

/// Made by hand after mptcp_event_sub_closed (net/mptcp/pm_netlink.c), because no reset carried a reason here.
#[test]
fn resets_have_their_reasons() {
    let mut event = Event::decode(&captures("event-")["sub_closed"][0]).expect("it holds together");
    assert_eq!((event.reset_reason(), event.reset_is_transient()), (None, None));
    event.attributes.extend([EventAttribute::ResetReason(3), EventAttribute::ResetFlags(1)]);
    let event = Event::decode(&event.encode()).expect("it holds together");
    assert_eq!(event.reset_reason(), Some(ResetReason::AdministrativelyProhibited));
    assert_eq!(event.reset_is_transient(), Some(true));
    let names: BTreeSet<_> = (0..8).map(|number| ResetReason::from_number(number).to_string()).collect();
    assert_eq!(names.len(), 8);
    assert_eq!(ResetReason::from_number(7).to_string(), "7");
}

#[test]
fn flags_have_names_and_unknown_ones_numbers() {
    let flags = EndpointFlags::SIGNAL | EndpointFlags::LAMINAR | EndpointFlags(1 << 6 | 1 << 31);
    assert_eq!(flags.names(), ["signal", "laminar", "64", "2147483648"]);
    let back = flags.names().into_iter().map(|name| EndpointFlags::from_name(&name).expect("it is a flag"));
    assert_eq!(back.fold(EndpointFlags::default(), |all, flag| all | flag), flags);
    assert_eq!(EndpointFlags::from_name("no_such"), None);
}

/// The running kernel's own numbers.
#[test]
fn events_have_this_kernels_numbers() {
    let Ok(btf) = crate::kernel::btf::KernelBtf::load() else { return };
    for kind in EventKind::ALL {
        let name = format!("MPTCP_EVENT_{}", kind.to_string().to_uppercase());
        let number = btf.enum_value("mptcp_event_type", &name).expect("kernels have had them all since 6.1");
        assert_eq!(number, i64::from(kind.number()), "{name}");
    }
    // One attribute of each kind from the first to the last.
    let numbers: Vec<_> = ["TOKEN", "SADDR4", "DADDR6", "DPORT", "IF_IDX", "RESET_FLAGS", "SERVER_SIDE"]
        .map(|name| btf.enum_value("mptcp_event_attr", &format!("MPTCP_ATTR_{name}")).ok())
        .into();
    assert_eq!(numbers, [1, 5, 8, 10, 15, 17, 18].map(Some));
}

#[test]
fn what_is_unknown_survives() {
    let kind = CommandKind::from_number(200);
    assert_eq!((kind, kind.number(), kind.to_string().as_str()), (CommandKind::Other(200), 200, "200"));
    // An attribute of tomorrow, a token of three bytes, an address without the flag of a nest.
    let odd = [(900, vec![1, 2, 3]), (4, vec![0; 3]), (1, vec![0; 8])];
    let attributes = odd.map(|(kind, bytes)| CommandAttribute::Other { kind, bytes }).to_vec();
    let command = Command { header: Header { command: 200, version: 9, reserved: 5 }, attributes };
    assert_eq!(Command::decode(&command.encode()), Ok(command));
}

#[test]
fn what_does_not_hold_together_is_refused() {
    let good = captures("event-")["created"][0].clone();
    assert_eq!(Event::decode(&good[..3]), Err(Malformed));
    assert_eq!(Event::decode(&good[..good.len() - 1]), Err(Malformed));
    let mut long = good.clone();
    long[4..6].copy_from_slice(&u16::MAX.to_ne_bytes());
    assert_eq!(Event::decode(&long), Err(Malformed));
    let mut short = good;
    short[4..6].copy_from_slice(&3u16.to_ne_bytes());
    assert_eq!(Event::decode(&short), Err(Malformed));
    assert_eq!(Event::decode(&[1, 1, 0, 0, 5, 0, 3, 0, 7, 0, 0, 1]), Err(Malformed), "padding");
}

proptest! {
    #[test]
    fn any_attributes_encode_to_their_bytes(
        header in any::<[u8; 4]>(),
        attributes in vec((any::<u16>(), vec(any::<u8>(), 0..40)), 0..8),
        small in vec((0u16..24, vec(any::<u8>(), 0..20)), 0..8),
    ) {
        let mut bytes = header.to_vec();
        for (kind, value) in attributes.iter().chain(&small) {
            attribute::put(&mut bytes, *kind, |bytes| bytes.extend_from_slice(value));
        }
        let command = Command::decode(&bytes).map(|command| command.encode());
        prop_assert_eq!(command.as_ref(), Ok(&bytes));
        prop_assert_eq!(Event::decode(&bytes).map(|event| event.encode()), Ok(bytes));
    }

    #[test]
    fn whatever_is_decoded_encodes_to_its_bytes(bytes in vec(any::<u8>(), 0..200), nested in any::<bool>()) {
        let mut message = vec![7, 1, 0, 0];
        attribute::put(&mut message, if nested { 0x8001 } else { 3 }, |value| value.extend_from_slice(&bytes));
        for bytes in [&bytes, &message] {
            if let Ok(command) = Command::decode(bytes) {
                let _ = (command.address(), command.remote(), command.told_limits());
                prop_assert_eq!(&command.encode(), bytes);
            }
            if let Ok(event) = Event::decode(bytes) {
                let _ = (event.local(), event.remote(), event.server_side(), event.reset_reason());
                prop_assert_eq!(&event.encode(), bytes);
            }
        }
        prop_assert!(Command::decode(&message).is_ok());
    }
}
