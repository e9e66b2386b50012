//! Writes what this kernel answers and tells, byte for byte, for the codecs' own tests:
//! `MPSEC_CAPTURES=FOLDER cargo test -p mpsec-agent --test mptcp captures -- --ignored`.
//!
//! A file holds the messages of one kind, a line of hexadecimal digits each: what lies behind the netlink header.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use libtest_mimic::Trial;
use mpsec_agent::kernel::genetlink::resolve;
use mpsec_agent::kernel::mptcp_pm::{Command, Endpoint, EndpointFlags, EventKind, PathManager};
use mpsec_agent::kernel::netlink::{Client, Request, messages};
use mpsec_agent::snapshot::mptcp::Limits;
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::{Family, Host, Paths, Plan, address};
use mpsec_tests::trial::{Skip, trial};
use netlink_sys::{Socket, SocketAddr};

use super::{endpoints, userspace};

const LIMIT: Duration = Duration::from_secs(60);
type Body = fn() -> Result<()>;

/// How long the kernel may take to tell what a step leads to.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) fn trials() -> Vec<Trial> {
    let all: [(&str, Body); 5] = [
        ("captures::commands", commands),
        ("captures::events", events),
        ("captures::events_of_user_space", events_of_user_space),
        ("captures::events_of_a_refusal", events_of_a_refusal),
        ("captures::sockets", sockets),
    ];
    all.map(|(name, body)| trial(name, LIMIT, body).with_ignored_flag(true)).into()
}

/// Appends messages to the file of their kind.
fn write(name: &str, payloads: &[Vec<u8>]) -> Result<()> {
    let folder = std::env::var_os("MPSEC_CAPTURES").ok_or_else(|| Skip::because("needs MPSEC_CAPTURES"))?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let version: Vec<_> = release.splitn(3, '.').take(2).collect();
    let file: PathBuf = Path::new(&folder).join(format!("{name}-{}.hex", version.join(".")));
    let mut text = std::fs::read_to_string(&file).unwrap_or_default();
    for payload in payloads {
        payload.iter().try_for_each(|byte| write!(text, "{byte:02x}"))?;
        text.push('\n');
    }
    Ok(std::fs::write(file, text)?)
}

/// A socket whose buffer gathers a namespace's events.
struct Recorder(Socket);

impl Recorder {
    fn new(netns: &Netns) -> Result<Recorder> {
        netns.run(|| {
            let mut client = Client::open(libc::NETLINK_GENERIC as isize)?;
            let family = resolve(&mut client, "mptcp_pm")?.context("no MPTCP")?;
            let mut socket = Socket::new(libc::NETLINK_GENERIC as isize)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.add_membership(family.group("mptcp_pm_events").context("no events")?)?;
            socket.set_non_blocking(true)?;
            Ok(Recorder(socket))
        })
    }

    fn write(&self) -> Result<()> {
        std::thread::sleep(PAUSE);
        let mut buffer = Vec::with_capacity(65536);
        while self.0.recv(&mut buffer, 0).is_ok() {
            for message in messages(&buffer) {
                let kind = EventKind::from_number(message.payload[0]);
                write(&format!("event-{kind}"), &[message.payload.to_vec()])?;
            }
            buffer.clear();
        }
        Ok(())
    }
}

fn commands() -> Result<()> {
    let (netns, mut manager) = endpoints::manager()?;
    netns.enable_ipv6()?;
    for address in ["192.0.2.2/32", "2001:db8::6/128"] {
        netns.ip(&format!("addr add {address} dev lo nodad"))?;
    }
    for endpoint in endpoints::every_kind(1) {
        netns.run(|| manager.add_endpoint(&endpoint))?;
        write("request-add_addr", &[Command::add_endpoint(&endpoint).encode()])?;
    }
    manager.set_limits(Limits { subflows: 5, add_addr_accepted: 3 })?;
    netns.run(|| {
        let mut client = Client::open(libc::NETLINK_GENERIC as isize)?;
        let id = resolve(&mut client, "mptcp_pm")?.context("no MPTCP")?.id;
        let mut told = Vec::new();
        let dump = Request::new(id, 0, &Command::endpoints().encode());
        client.dump(dump, |message| told.push(message.payload.to_vec()))?;
        write("answer-get_addr_dump", &told)?;
        for (name, command) in [("get_addr", Command::endpoint(2)), ("get_limits", Command::limits())] {
            told.clear();
            client.ask(Request::new(id, 0, &command.encode()), |message| told.push(message.payload.to_vec()))?;
            write(&format!("answer-{name}"), &told)?;
        }
        Ok(())
    })
}

fn events() -> Result<()> {
    for family in Family::ALL {
        let paths = Paths::new(Plan::wires(3))?;
        let (west, east) = (Recorder::new(&paths.client)?, Recorder::new(&paths.server)?);
        let mut server = paths.server.run(PathManager::open)?;
        paths.add_endpoint(1, family, "")?;
        let talk = Conversation::open(&paths, family)?;
        talk.joined(2)?;
        // The server takes no third subflow, and says why.
        paths.server.ip("mptcp limits set subflow 1")?;
        paths.add_endpoint(2, family, "")?;
        let near = address(Host::Server, family, 0);
        let port = Endpoint { id: 3, port: Some(7001), ..Endpoint::new(near, EndpointFlags::SIGNAL) };
        paths.server.run(|| server.add_endpoint(&port))?;
        std::thread::sleep(PAUSE);
        server.delete_endpoint(&port)?;
        paths.set_backup(1, family, true)?;
        std::thread::sleep(PAUSE);
        paths.remove_endpoint(1, family)?;
        talk.close()?;
        west.write()?;
        east.write()?;
    }
    Ok(())
}

fn events_of_user_space() -> Result<()> {
    let paths = userspace::paths()?;
    let mut manager = paths.client.run(PathManager::open)?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.exchange(1, 1)?;
    let (token, remote) = (talk.token()?, talk.client.stream.peer_addr()?);
    let near = Endpoint { id: 5, ..Endpoint::new(address(Host::Client, Family::V4, 1), EndpointFlags::default()) };
    let west = Recorder::new(&paths.client)?;
    manager.create_subflow(token, &near, remote)?;
    write("request-subflow_create", &[Command::create_subflow(token, &near, remote).encode()])?;
    // Nobody listens there.
    let nowhere = std::net::SocketAddr::new(remote.ip(), 1);
    manager.create_subflow(token, &near, nowhere)?;
    let signal = Endpoint { flags: EndpointFlags::SIGNAL, ..near };
    manager.announce(token, &signal)?;
    write("request-announce", &[Command::announce(token, &signal).encode()])?;
    std::thread::sleep(PAUSE);
    manager.remove(token, signal.id)?;
    write("request-remove", &[Command::remove(token, signal.id).encode()])?;
    west.write()
}

/// A server that takes no more subflows refuses a join, and says why.
fn events_of_a_refusal() -> Result<()> {
    let paths = userspace::paths()?;
    paths.server.ip("mptcp limits set subflow 0")?;
    let mut manager = paths.client.run(PathManager::open)?;
    let west = Recorder::new(&paths.client)?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.exchange(1, 1)?;
    let near = Endpoint { id: 5, ..Endpoint::new(address(Host::Client, Family::V4, 1), EndpointFlags::default()) };
    manager.create_subflow(talk.token()?, &near, talk.client.stream.peer_addr()?)?;
    west.write()
}

fn sockets() -> Result<()> {
    for family in Family::ALL {
        let paths = Paths::new(Plan::wires(2))?;
        paths.add_endpoint(1, family, "")?;
        let mut talk = Conversation::open(&paths, family)?;
        talk.joined(2)?;
        talk.exchange(100_000, 50_000)?;
        let number = if family == Family::V4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
        // struct inet_diag_req_v2 for all states, with everything that can be asked for.
        let mut header = [0; 56];
        header[..8].copy_from_slice(&[number, libc::IPPROTO_TCP as u8, 0xff, 0, 0xff, 0xff, 0xff, 0xff]);
        let tcp = Request::new(20, 0, &header);
        header[1] = 255;
        let mptcp = Request::new(20, 0, &header).attribute(3, &262u32.to_ne_bytes());
        for (name, request) in [("tcp", tcp), ("mptcp", mptcp)] {
            let mut told = Vec::new();
            let mut client = paths.client.run(|| Client::open(libc::NETLINK_SOCK_DIAG as isize))?;
            client.dump(request, |message| told.push(message.payload.to_vec()))?;
            write(&format!("sockets-{name}_{family}"), &told)?;
        }
    }
    Ok(())
}
