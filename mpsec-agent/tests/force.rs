//! MPTCP for programs that do not ask for it, on the kernel that is here: what the sockets of an ordinary program are, in listed
//! control groups and outside of them.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Arguments;
use mpsec_agent::kernel::cgroup::netns_cookie;
use mpsec_agent::kernel::force::{Force, ForceError, Sockets};
use mpsec_agent::kernel::mib;
use mpsec_common::force::flags;
use mpsec_tests::cgroup::{self, Group};
use mpsec_tests::mptcp_socket::{Protocol, ipv4_socket, protocol_of};
use mpsec_tests::need;
use mpsec_tests::netns::Netns;
use mpsec_tests::trial::{Skip, run_independent, trial};

/// Set for the ordinary program, which is this one: it makes sockets and prints what they are.
const ORDINARY: &str = "MPSEC_TEST_ORDINARY";
const TCP: i32 = libc::IPPROTO_TCP;
const MPTCP: i32 = libc::IPPROTO_MPTCP;

fn main() -> ExitCode {
    if env::var_os(ORDINARY).is_some() {
        ordinary().expect("an ordinary program works");
        return ExitCode::SUCCESS;
    }
    let trials = vec![
        trial("force::scope", Duration::from_secs(60), scope),
        trial("force::foreign", Duration::from_secs(60), foreign),
        trial("force::revert", Duration::from_secs(60), revert),
        trial("force::anew", Duration::from_secs(60), anew),
        trial("force::pause", Duration::from_secs(60), pause),
    ];
    run_independent(&Arguments::from_args(), trials)
}

/// Listens, connects, accepts, as the standard library does it.
fn ordinary() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    let ipv6 = Protocol::Tcp.socket(Ipv6Addr::LOCALHOST.into())?;
    let datagrams = UdpSocket::bind("127.0.0.1:0")?;
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("mpsec-test-{}", std::process::id()))?;
    let local = UnixListener::bind_addr(&name)?;
    println!("listener {}\nclient {}", protocol_of(&listener)?, protocol_of(&client)?);
    println!("accepted {}\nipv6 {}", protocol_of(&accepted)?, protocol_of(&ipv6)?);
    println!("datagrams {}\nlocal {}", protocol_of(&datagrams)?, protocol_of(&local)?);
    for (name, kind, protocol) in [("raw", libc::SOCK_RAW, TCP), ("sctp", libc::SOCK_STREAM, libc::IPPROTO_SCTP)] {
        // Not every kernel has all of them.
        if let Ok(socket) = ipv4_socket(kind, protocol) {
            println!("{name} {}", protocol_of(&socket)?);
        }
    }
    Ok(())
}

/// What the sockets of an ordinary program are that is started in a control group of a namespace.
fn sockets_in(netns: &Netns, group: Option<&Path>) -> Result<BTreeMap<String, i32>> {
    let this = env::current_exe()?;
    let mut program = cgroup::command(group, &[this.to_str().context("a path that is text")?]);
    program.env(ORDINARY, "1");
    let output = netns.run(move || program.output())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let line = |line: &str| Some((line.split_once(' ')?.0.to_owned(), line.split_once(' ')?.1.parse().ok()?));
    let sockets: BTreeMap<String, i32> = text.lines().filter_map(line).collect();
    let others = ["datagrams", "local"].map(|name| sockets.get(name).copied());
    ensure!(others == [Some(libc::IPPROTO_UDP), Some(0)], "{sockets:?}");
    ensure!(sockets.get("raw") == Some(&TCP), "{sockets:?}");
    ensure!(sockets.get("sctp").is_none_or(|protocol| *protocol == libc::IPPROTO_SCTP), "{sockets:?}");
    Ok(sockets)
}

/// That every TCP socket of such a program is of one protocol.
fn expect(netns: &Netns, group: Option<&Path>, protocol: i32, case: &str) -> Result<()> {
    let sockets = sockets_in(netns, group).with_context(|| case.to_owned())?;
    let tcp = ["listener", "client", "accepted", "ipv6"].map(|name| sockets.get(name).copied());
    ensure!(tcp == [Some(protocol); 4], "{case}: {sockets:?}, not {protocol}");
    Ok(())
}

/// In a namespace, for it.
fn load(netns: &Netns, cgroups: &[(PathBuf, u32)]) -> Result<Force> {
    let loaded = netns.run(|| Force::load(netns_cookie().map_err(ForceError::NoCgroup2)?, cgroups));
    loaded.map_err(|error| match error {
        ForceError::NoHook | ForceError::NoBtf(_) | ForceError::Program(_) => {
            Skip::because(format!("{error}; instead: {}", error.remedy()))
        }
        error => error.into(),
    })
}

fn scope() -> Result<()> {
    need::mptcp()?;
    let (netns, other) = (Netns::new()?, Netns::new()?);
    let (servers, clients) = (Group::make("servers")?, Group::make("clients")?);
    let (deep, spared) = (servers.below("deep")?, servers.below("spared")?);
    let force = load(
        &netns,
        &[(servers.name(), flags::SERVERS), (clients.name(), flags::CLIENTS), (servers.name().join("spared"), 0)],
    )?;
    expect(&netns, None, TCP, "outside")?;
    expect(&netns, Some(clients.path()), MPTCP, "a listed control group")?;
    expect(&netns, Some(&deep), MPTCP, "below a listed control group")?;
    expect(&netns, Some(&spared), TCP, "one that is spared, below a listed one")?;
    expect(&other, Some(clients.path()), TCP, "another network namespace")?;
    // What is accepted is made by the kernel.
    let counted = force.sockets()?;
    ensure!(counted == Sockets { clients: 3, servers: 3, both: 0 }, "{counted:?}");
    Ok(())
}

/// Somebody else's program as the server and as the client; the kernel counts the handshakes of MPTCP.
fn foreign() -> Result<()> {
    need::mptcp()?;
    need::command("busybox")?;
    let netns = Netns::new()?;
    let group = Group::make("foreign")?;
    let _force = load(&netns, &[(group.name(), flags::ALL)])?;
    let script = "busybox nc -l -p 5000 >/dev/null </dev/null &
        until echo x | busybox nc -w 5 127.0.0.1 5000; do sleep 0.2; done; wait";
    let inside = format!("echo 0 >{}/cgroup.procs\n{script}", group.path().display());
    for (script, handshakes, case) in [(script, 0, "outside"), (&inside, 1, "inside")] {
        netns.output("busybox", &["sh", "-c", script])?;
        let mib = netns.run(mib::read)?.mptcp;
        let counted = mib.iter().find(|(name, _)| *name == "MPCapableACKRX").map_or(0, |(_, count)| *count);
        ensure!(counted == handshakes, "{case}: {counted} handshakes of MPTCP");
    }
    Ok(())
}

fn revert() -> Result<()> {
    need::mptcp()?;
    let netns = Netns::new()?;
    let group = Group::make("revert")?;
    for _ in 0..2 {
        let force = load(&netns, &[(group.name(), flags::ALL)])?;
        expect(&netns, Some(group.path()), MPTCP, "while it is there")?;
        drop(force);
        expect(&netns, Some(group.path()), TCP, "afterwards")?;
    }
    Ok(())
}

/// As a service's is at each start.
fn anew() -> Result<()> {
    need::mptcp()?;
    let netns = Netns::new()?;
    let group = Group::make("anew")?;
    let mut force = load(&netns, &[(group.name().join("service"), flags::SERVERS)])?;
    ensure!(force.missing().count() == 1);
    for round in 0..2 {
        let service = group.below("service")?;
        netns.run(|| force.refresh())?;
        ensure!(force.missing().count() == 0);
        expect(&netns, Some(&service), MPTCP, &format!("start {round}"))?;
        fs::remove_dir(service)?;
    }
    Ok(())
}

fn pause() -> Result<()> {
    need::mptcp()?;
    let netns = Netns::new()?;
    let group = Group::make("pause")?;
    let mut force = load(&netns, &[(group.name(), flags::ALL)])?;
    netns.sysctl("net/mptcp/enabled", "0")?;
    ensure!(sockets_in(&netns, Some(group.path())).is_err(), "the kernel makes no MPTCP sockets, and there are some");
    netns.run(|| force.refresh())?;
    ensure!(force.paused().is_some());
    expect(&netns, Some(group.path()), TCP, "MPTCP is switched off")?;
    netns.sysctl("net/mptcp/enabled", "1")?;
    netns.run(|| force.refresh())?;
    expect(&netns, Some(group.path()), MPTCP, "MPTCP is switched on again")
}
