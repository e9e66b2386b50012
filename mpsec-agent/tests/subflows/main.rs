//! MPTCP subflows as the kernel side registers and counts them, on real connections between two namespaces: the sums must be
//! the wire's own, from the first SYN to the last ACK.

mod cpus;
mod host;
mod signals;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Arguments;
use mpsec_agent::kernel::attach::Attacher;
use mpsec_agent::kernel::ebpf::Kernel;
use mpsec_agent::kernel::subflows::View;
use mpsec_common::maps::Event;
use mpsec_common::mptcp::{SubflowKey, SubflowState, flags};
use mpsec_common::probes::{CLOSER_FLAGS, Closer};
use mpsec_common::traffic::Counter;
use mpsec_common::{Class, Direction};
use mpsec_tests::link::{self, Offload};
use mpsec_tests::trial::{Skip, run_independent, trial};
use mpsec_tests::{mptcp_socket::Protocol, need, privilege, topology::Pair};

use host::{Host, settings};

const LIMIT: Duration = Duration::from_secs(60);
/// How long something that is about to happen may take.
const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 5001;
const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
/// Payload from the client, and back.
const UP: usize = 3_000_017;
const DOWN: usize = 2_000_003;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tests: [(&str, Body); 14] = [
        ("ipv4_segments_one_by_one", || one_connection(V4, Offload::Off)),
        ("ipv4_super_packets", || one_connection(V4, Offload::Full)),
        ("ipv6_segments_one_by_one", || one_connection(V6, Offload::Off)),
        ("a_joined_subflow_on_another_interface", joined),
        ("a_peer_without_mptcp", fallen_back),
        ("what_is_no_subflow", plain),
        ("a_socket_that_connects_to_itself", itself),
        ("segments_sent_again", sent_again),
        ("segments_sent_again_where_the_cpu_changed", cpus::sent_again_where_the_cpu_changed),
        ("the_same_addresses_and_ports_again", the_same_again),
        ("an_adopted_subflow", adopted),
        ("an_adopted_subflow_that_is_gone", adopted_and_gone),
        ("a_host_without_control_groups", without_cgroups),
        ("signals_while_loading", signals::while_loading),
    ];
    let trials = tests.map(|(name, body)| trial(name, LIMIT, body));
    run_independent(&arguments, trials.into())
}

type Body = fn() -> Result<()>;

/// Both hosts and what they say to each other.
struct Talk {
    client: Host,
    server: Host,
}

impl Talk {
    fn between(pair: &Pair, west: &[&str], east: &[&str]) -> Result<Talk> {
        Ok(Talk { client: Host::new(&pair.left, west)?, server: Host::new(&pair.right, east)? })
    }

    /// A connection: what the client does once it is there and a byte went each way, then bulk in both directions, then the
    /// end. Gives the client's address.
    fn hold(
        &mut self,
        server: (IpAddr, Protocol),
        client: Protocol,
        meanwhile: impl FnOnce(&mut Host) -> Result<()>,
    ) -> Result<SocketAddr> {
        let address = SocketAddr::new(server.0, PORT);
        // On every address: joins come to others than the first.
        let any = if server.0.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let listener = self.server.netns.run(|| server.1.listen(SocketAddr::new(any, PORT)))?;
        let answer = thread::spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(SOON))?;
            take(&mut stream, 1)?;
            stream.write_all(&[0; 1])?;
            take(&mut stream, UP - 1)?;
            stream.write_all(&vec![7; DOWN - 1])?;
            Ok(())
        });
        let mut stream = self.client.netns.run(|| client.connect(address))?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(&[0; 1])?;
        take(&mut stream, 1)?;
        meanwhile(&mut self.client)?;
        stream.write_all(&vec![7; UP - 1])?;
        take(&mut stream, DOWN - 1)?;
        ensure!(stream.read(&mut [0; 1])? == 0, "more came than was sent");
        let local = stream.local_addr()?;
        drop(stream);
        answer.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
        Ok(local)
    }

    /// The subflows of both ends, closed, and nothing on its way any more.
    fn closed(&mut self, count: usize) -> Result<[Vec<View>; 2]> {
        self.client.wait_for(count, SubflowState::Closed)?;
        self.server.wait_for(count, SubflowState::Closed)?;
        thread::sleep(Duration::from_millis(300));
        Ok([self.client.poll()?, self.server.poll()?])
    }
}

fn take(stream: &mut TcpStream, mut len: usize) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    while len > 0 {
        let most = len.min(buffer.len());
        let taken = match stream.read(&mut buffer[..most]) {
            // An MPTCP socket with a limit may say so without a signal.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            taken => taken?,
        };
        ensure!(taken > 0, "{len} bytes are missing");
        len -= taken;
    }
    Ok(())
}

fn one_connection(address: IpAddr, offload: Offload) -> Result<()> {
    let pair = Pair::addressed()?;
    for (netns, device) in pair.ends() {
        offload.set(netns, device)?;
    }
    let mut talk = Talk::between(&pair, &[Pair::WEST], &[Pair::EAST])?;
    let before = [pair.left.counters(Pair::WEST)?, pair.right.counters(Pair::EAST)?];
    let local = talk.hold((address, Protocol::Mptcp), Protocol::Mptcp, |client| {
        client.wait_for(1, SubflowState::Established).map(drop)
    })?;
    let [client, server] = talk.closed(1)?.map(|views| views[0]);
    let wire = [pair.left.counters(Pair::WEST)? - before[0], pair.right.counters(Pair::EAST)? - before[1]];
    for ((host, view), wire) in [(&talk.client, client), (&talk.server, server)].into_iter().zip(wire) {
        host.has_all(1, &view)?;
        if offload == Offload::Off {
            let counted = (view.rx.packets, view.rx.bytes, view.tx.packets, view.tx.bytes);
            ensure!(counted == (wire.rx_packets, wire.rx_bytes, wire.tx_packets, wire.tx_bytes), "{view:?} {wire:?}");
        }
        ensure!(host.event(Event::HandshakeUnseen)? == 0);
        let ifindex = host.netns.ifindex(if std::ptr::eq(host, &talk.client) { Pair::WEST } else { Pair::EAST })?;
        ensure!([view.rx_ifindex, view.tx_ifindex] == [ifindex; 2], "{view:?}");
    }
    let key = key_of(local.ip(), address, local.port(), PORT);
    ensure!(client.info.key == key, "{:?} is not {key:?}", client.info.key);
    is_whole(&client, UP, DOWN)?;
    is_whole(&server, DOWN, UP)?;
    ensure!(client.info.flags & (flags::ACTIVE_OPEN | flags::FELL_BACK) == flags::ACTIVE_OPEN, "{client:?}");
    ensure!(server.info.flags & !(flags::HAS_FIGURES | CLOSER_FLAGS) == 0, "{server:?}");
    for view in [&client, &server] {
        let closer = Closer::of(view.info.flags);
        ensure!(matches!(closer, Some(Closer::Application | Closer::Peer)), "{closer:?}: {view:?}");
    }
    ensure!(client.info.token != 0 && server.info.token != 0 && client.info.token != server.info.token);
    slots_are_given_back(&mut talk)
}

/// Payload is what TCP says, and no less than what the programs sent: MPTCP may send some of it anew, which is new to TCP.
/// The figures of the end are there.
fn is_whole(view: &View, sent: usize, received: usize) -> Result<()> {
    let info = &view.info;
    let new = view.tx.payload_bytes - view.tx.retransmitted_bytes;
    ensure!(new >= sent as u64, "{sent} bytes were sent: {view:?}");
    ensure!(view.rx.payload_bytes >= received as u64, "{received} received: {view:?}");
    agrees_with_tcp(view)?;
    ensure!(info.srtt_us > 0 && info.rtt_reports > 0 && info.mss > 0, "{view:?}");
    ensure!(info.delivery_rate_bytes_per_second().is_some_and(|rate| rate > 0), "{view:?}");
    Ok(())
}

/// TCP counts the same bytes. What it received in order may have a FIN in it; what came below the highest sequence number was
/// sent again, or overtaken on the way from one CPU to another, and then it is new.
fn agrees_with_tcp(view: &View) -> Result<()> {
    let info = &view.info;
    ensure!(view.tx.payload_bytes == info.bytes_sent, "{view:?}");
    ensure!(view.tx.retransmitted_bytes == info.bytes_retrans, "{view:?}");
    let all = view.rx.payload_bytes;
    let new = all - view.rx.retransmitted_bytes..=all + 1;
    ensure!(new.contains(&info.bytes_received), "{view:?}");
    ensure!(info.has(flags::HAS_FIGURES) && info.closed_ns >= info.established_ns, "{view:?}");
    ensure!(info.established_ns >= info.opened_ns && info.opened_ns > 0, "{view:?}");
    Ok(())
}

fn slots_are_given_back(talk: &mut Talk) -> Result<()> {
    for host in [&mut talk.client, &mut talk.server] {
        let slots: Vec<u32> = host.poll()?.iter().map(|view| view.slot).collect();
        let subflows = host.kernel.subflows.as_mut().map_err(|reason| anyhow::anyhow!("{reason}"))?;
        slots.into_iter().try_for_each(|slot| subflows.release(slot))?;
        ensure!(host.poll()?.is_empty());
    }
    Ok(())
}

fn key_of(local: IpAddr, remote: IpAddr, local_port: u16, remote_port: u16) -> SubflowKey {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    SubflowKey { local: octets(local), remote: octets(remote), local_port, remote_port }
}

fn joined() -> Result<()> {
    let pair = Pair::addressed()?;
    link::veth((&pair.left, "west2"), (&pair.right, "east2"))?;
    link::address(&pair.left, "west2", "198.51.100.1/24")?;
    link::address(&pair.right, "east2", "198.51.100.2/24")?;
    link::neighbours((&pair.left, "west2", "198.51.100.1"), (&pair.right, "east2", "198.51.100.2"))?;
    pair.left.ip("mptcp limits set subflow 2 add_addr_accepted 2")?;
    pair.right.ip("mptcp limits set subflow 2 add_addr_accepted 2")?;
    pair.right.ip("mptcp endpoint add 198.51.100.2 dev east2 signal")?;
    let mut talk = Talk::between(&pair, &[Pair::WEST, "west2"], &[Pair::EAST, "east2"])?;
    talk.hold((V4, Protocol::Mptcp), Protocol::Mptcp, |client| {
        client.wait_for(2, SubflowState::Established).map(drop)
    })?;
    for (host, views) in [&talk.client.netns.clone(), &talk.server.netns.clone()].into_iter().zip(talk.closed(2)?) {
        let host = if Arc::ptr_eq(host, &talk.client.netns) { &talk.client } else { &talk.server };
        ensure!(views[0].info.token == views[1].info.token, "{views:?}");
        let (joins, firsts): (Vec<&View>, Vec<&View>) = views.iter().partition(|view| view.info.has(flags::JOINED));
        ensure!(joins.len() == 1 && firsts.len() == 1, "{views:?}");
        host.has_all(1, firsts[0])?;
        host.has_all(2, joins[0])?;
        ensure!(host.netns.fd() != talk.client.netns.fd() || joins[0].info.remote_id == 1, "{views:?}");
        views.iter().try_for_each(agrees_with_tcp)?;
        let payload: u64 = views.iter().map(|view| view.tx.payload_bytes).sum();
        ensure!(payload >= UP.min(DOWN) as u64, "{views:?}");
        ensure!(host.event(Event::HandshakeUnseen)? == 0);
    }
    Ok(())
}

fn fallen_back() -> Result<()> {
    let pair = Pair::addressed()?;
    let mut talk = Talk::between(&pair, &[Pair::WEST], &[Pair::EAST])?;
    talk.hold((V4, Protocol::Tcp), Protocol::Mptcp, |_| Ok(()))?;
    let views = talk.client.wait_for(1, SubflowState::Closed)?;
    thread::sleep(Duration::from_millis(300));
    let view = talk.client.poll()?[0];
    ensure!(views[0].info.has(flags::FELL_BACK), "{views:?}");
    talk.client.has_all(1, &view)?;
    is_whole(&view, UP, DOWN)?;
    ensure!(talk.server.poll()?.is_empty(), "the server's end is plain TCP");
    Ok(())
}

fn plain() -> Result<()> {
    let pair = Pair::addressed()?;
    let mut talk = Talk::between(&pair, &[Pair::WEST], &[Pair::EAST])?;
    for server in [Protocol::Tcp, Protocol::Mptcp] {
        talk.hold((V4, server), Protocol::Tcp, |_| Ok(()))?;
    }
    ensure!(talk.client.poll()?.is_empty() && talk.server.poll()?.is_empty());
    Ok(())
}

/// Both ends connect at once, and are one: the kernel ends it as a connection that was accepted.
fn itself() -> Result<()> {
    let pair = Pair::addressed()?;
    let mut host = Host::new(&pair.left, &["lo"])?;
    let own = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let _stream = pair.left.run(|| Protocol::Mptcp.connect_from(Some(own), own))?;
    let views = host.wait_for(1, SubflowState::Established)?;
    ensure!(host.poll()?.len() == 1 && !views[0].info.has(flags::HANDSHAKE_UNSEEN), "{views:?}");
    ensure!(views[0].info.has(flags::ACTIVE_OPEN) && host.event(Event::HandshakeUnseen)? == 0, "{views:?}");
    Ok(())
}

/// What is received is dropped now and then, behind the programs: each end then sees all that the other one sends, twice
/// where it is sent again.
fn sent_again() -> Result<()> {
    need::command("nft")?;
    let pair = Pair::addressed()?;
    for (netns, device) in pair.ends() {
        Offload::Off.set(netns, device)?;
        for rule in [
            "add table ip lossy",
            "add chain ip lossy input { type filter hook input priority 0; }",
            "add rule ip lossy input ip length > 500 numgen random mod 50 == 0 drop",
        ] {
            let done = netns.output("nft", &[rule]);
            done.map_err(|error| Skip::because(format!("needs nftables with numgen: {error:#}")))?;
        }
    }
    let mut talk = Talk::between(&pair, &[Pair::WEST], &[Pair::EAST])?;
    talk.hold((V4, Protocol::Mptcp), Protocol::Mptcp, |_| Ok(()))?;
    let [client, server] = talk.closed(1)?.map(|views| views[0]);
    ensure!(client.info.total_retrans > 0 && client.tx.retransmitted_bytes > 0, "nothing was sent again: {client:?}");
    for (sender, receiver) in [(&client, &server), (&server, &client)] {
        agrees_with_tcp(sender)?;
        let told = |view: &View| format!("{sender:?} {view:?}");
        ensure!(sender.tx.payload_bytes == receiver.rx.payload_bytes, "{}", told(receiver));
        // Some packets may be overtaken beside.
        let (sent, seen) = (sender.tx.retransmitted_bytes, receiver.rx.retransmitted_bytes);
        ensure!((sent..=sent + receiver.rx.payload_bytes / 10).contains(&seen), "{}", told(receiver));
    }
    talk.client.has_all(1, &client)?;
    talk.server.has_all(1, &server)
}

/// A connection that ends without TIME_WAIT, and the next one with the same addresses and ports: each has its own counts.
fn the_same_again() -> Result<()> {
    let pair = Pair::addressed()?;
    let mut talk = Talk::between(&pair, &[Pair::WEST], &[Pair::EAST])?;
    let (from, address) = (SocketAddr::new("192.0.2.1".parse()?, 40_001), SocketAddr::new(V4, PORT));
    let listener = pair.right.run(|| Protocol::Mptcp.listen(address))?;
    let mut wire = Counter::default();
    for number in 0..3 {
        let mut stream = pair.left.run(|| Protocol::Mptcp.connect_from(Some(from), address))?;
        let (mut accepted, _) = listener.accept()?;
        stream.write_all(&[0; 1000])?;
        take(&mut accepted, 1000)?;
        accepted.write_all(&[0; 500])?;
        take(&mut stream, 499)?;
        // A byte that nobody reads makes the end abrupt.
        drop(stream);
        talk.client.wait_for(number + 1, SubflowState::Closed)?;
        drop(accepted);
        let views = talk.server.wait_for(number + 1, SubflowState::Closed)?;
        ensure!(views.iter().all(|view| view.info.key.remote_port == 40_001 && view.info.incarnation == 1));
        thread::sleep(Duration::from_millis(100));
        let all = talk.client.tcp(1, Direction::Tx);
        let own = talk.client.poll()?.iter().map(|view| view.tx.packets).max().unwrap_or(0);
        ensure!(all.since(&wire).packets <= own, "{:?} of {all:?}", talk.client.poll()?);
        wire = all;
        let packets: u64 = talk.client.poll()?.iter().map(|view| view.tx.packets).sum();
        ensure!(packets == all.packets, "{packets} of {all:?}");
    }
    for view in talk.client.poll()? {
        ensure!(view.tx.payload_bytes == 1000 && view.rx.payload_bytes == 500, "{view:?}");
    }
    slots_are_given_back(&mut talk)?;
    let stream = pair.left.run(|| Protocol::Mptcp.connect_from(Some(from), address))?;
    let view = talk.client.wait_for(1, SubflowState::Established)?[0];
    ensure!(view.info.incarnation == 2 && view.tx.payload_bytes == 0, "the slot is not given out again: {view:?}");
    drop(stream);
    Ok(())
}

fn adopted() -> Result<()> {
    let pair = Pair::addressed()?;
    let mut talk = Talk::between(&pair, &[Pair::WEST], &[Pair::EAST])?;
    let listener = pair.right.run(|| Protocol::Tcp.listen(SocketAddr::new(V4, PORT)))?;
    let mut stream = pair.left.run(|| Protocol::Tcp.connect(SocketAddr::new(V4, PORT)))?;
    let key = key_of(stream.local_addr()?.ip(), V4, stream.local_addr()?.port(), PORT);
    let subflows = talk.client.kernel.subflows.as_mut().map_err(|reason| anyhow::anyhow!("{reason}"))?;
    let slot = subflows.adopt(&key, 7, [1, 2], [true, false], 0)?;
    ensure!(subflows.adopt(&key, 7, [1, 2], [true, false], 0)? == slot, "it has two slots");
    let before = talk.client.tcp(1, Direction::Tx);
    stream.write_all(&[0; 1000])?;
    let (mut accepted, _) = listener.accept()?;
    take(&mut accepted, 1000)?;
    let view = talk.client.poll()?[0];
    let sent = talk.client.tcp(1, Direction::Tx).since(&before);
    ensure!((view.tx.packets, view.tx.bytes) == (sent.packets, sent.bytes), "{view:?} {sent:?}");
    ensure!(view.tx.payload_bytes == 1000 && view.info.has(flags::ADOPTED | flags::JOINED), "{view:?}");
    let subflows = talk.client.kernel.subflows.as_mut().map_err(|reason| anyhow::anyhow!("{reason}"))?;
    subflows.release(slot)?;
    stream.write_all(&[0; 1000])?;
    take(&mut accepted, 1000)?;
    let subflows = talk.client.kernel.subflows.as_mut().map_err(|reason| anyhow::anyhow!("{reason}"))?;
    ensure!(subflows.adopt(&key, 7, [1, 2], [true, false], 0)? == slot, "the slot is not given out again");
    let view = talk.client.poll()?[0];
    ensure!(view.tx.packets == 0 && view.rx.packets == 0, "it has what was counted for others: {view:?}");
    Ok(())
}

/// Of an adopted subflow nobody tells the end; a new socket with its addresses and ports does.
fn adopted_and_gone() -> Result<()> {
    let pair = Pair::addressed()?;
    let mut talk = Talk::between(&pair, &[Pair::WEST], &[Pair::EAST])?;
    let (from, address) = (SocketAddr::new("192.0.2.1".parse()?, 40_002), SocketAddr::new(V4, PORT));
    let key = key_of(from.ip(), V4, from.port(), PORT);
    let subflows = talk.client.kernel.subflows.as_mut().map_err(|reason| anyhow::anyhow!("{reason}"))?;
    let slot = subflows.adopt(&key, 7, [0, 0], [false; 2], 0)?;
    ensure!(subflows.sharing_ports(&key)? == 1, "packets with its ports are not looked at");
    subflows.release(slot)?;
    ensure!(subflows.sharing_ports(&key)? == 0, "packets with its ports are still looked at");
    let slot = subflows.adopt(&key, 7, [0, 0], [false; 2], 0)?;
    let _listener = pair.right.run(|| Protocol::Mptcp.listen(address))?;
    let _stream = pair.left.run(|| Protocol::Mptcp.connect_from(Some(from), address))?;
    let views = talk.client.poll()?;
    ensure!(views.len() == 2 && views.iter().all(|view| view.info.key == key), "{views:?}");
    let (old, new): (Vec<View>, Vec<View>) = views.iter().partition(|view| view.slot == slot);
    ensure!(old[0].info.state() == SubflowState::Closed && old[0].tx.packets == 0, "{views:?}");
    ensure!(new[0].info.state() == SubflowState::Established && new[0].tx.packets > 1, "{views:?}");
    Ok(())
}

/// Where the control groups are not mounted, who may mount them does; who may not counts packets for the interface as ever.
fn without_cgroups() -> Result<()> {
    let pair = Pair::addressed()?;
    let mounts = pair.left.read("/proc/thread-self/mountinfo")?;
    for point in mounts.lines().filter(|line| line.contains(" - cgroup2 ")).filter_map(|line| line.split(' ').nth(4)) {
        // One that lies under another mount cannot be had anyway.
        let _ = pair.left.output("umount", &["-l", point]);
    }
    pair.left.run(|| Kernel::load(&settings()?)?.subflows.map(drop).map_err(anyhow::Error::msg))?;
    let west = pair.left.ifindex(Pair::WEST)?;
    let (kernel, _attached) = pair.left.run(|| {
        privilege::drop_capability(privilege::SYS_ADMIN)?;
        let kernel = Kernel::load(&settings()?)?;
        let mut attacher = Attacher::new(None, kernel.program(Direction::Rx))?;
        let attached = attacher.attach(kernel.program(Direction::Tx), west, Direction::Tx)?;
        anyhow::Ok((kernel, attached))
    })?;
    let reason = kernel.subflows.as_ref().err().context("sockets are followed without control groups")?;
    ensure!(reason.contains("cgroup2"), "{reason}");
    let _listener = pair.right.run(|| Protocol::Mptcp.listen(SocketAddr::new(V4, PORT)))?;
    let _stream = pair.left.run(|| Protocol::Mptcp.connect(SocketAddr::new(V4, PORT)))?;
    let counted = kernel.counters.sum(0, Direction::Tx)[Class::Mptcp as usize];
    ensure!(counted.packets >= 2, "{counted:?}");
    Ok(())
}
