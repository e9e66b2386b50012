//! The tests' own tools, proven without the agent.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::own_open_files;
use mpsec_tests::bpf::{self, Hook};
use mpsec_tests::capture::Capture;
use mpsec_tests::frames;
use mpsec_tests::hooks::{self, Way};
use mpsec_tests::link::{self, Offload};
use mpsec_tests::netns::Netns;
use mpsec_tests::send::{Buffer, Sender};
use mpsec_tests::topology::Pair;
use mpsec_tests::trial::trial;
use mpsec_tests::tuntap::{Kind, TunTap};
use mpsec_tests::{bulk, need, wait};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("harness::a_namespace_is_silent_and_vanishes", LIMIT, namespace),
        trial("harness::frames_arrive_as_built_linear", LIMIT, || frames_arrive(Buffer::Linear)),
        trial("harness::frames_arrive_as_built_paged", LIMIT, || frames_arrive(Buffer::Paged)),
        trial("harness::the_ring_makes_paged_buffers", LIMIT, ring_is_paged),
        trial("harness::tun_and_tap_deliver", LIMIT, tun_and_tap),
        trial("harness::what_is_attached_is_seen", LIMIT, hooks_seen),
        trial("harness::tcp_sums_equal_the_devices", LIMIT, tcp_sums),
        trial("harness::udp_segments_equal_the_devices", LIMIT, udp_sums),
    ]
}

fn namespace() -> Result<()> {
    need::root()?;
    let before = own_open_files()?;
    let netns = Netns::new()?;
    let path = netns.path();
    ensure!(netns.devices()?.iter().any(|device| device == "lo"), "{:?}", netns.devices()?);
    link::veth((&netns, "west"), (&netns, "east"))?;
    ensure!(netns.run(|| fs::exists("/sys/class/net/west"))?, "/sys shows another namespace");
    ensure!(!fs::exists("/sys/class/net/west")?, "the namespace's device shows outside");
    ensure!(netns.run(|| fs::exists("/sys/kernel/btf/vmlinux"))? == fs::exists("/sys/kernel/btf/vmlinux")?, "BTF");
    wait::throughout(Duration::from_millis(500), || {
        ensure!(netns.counters("west")?.tx_packets == 0, "somebody sends: {:?}", netns.counters("west")?);
        Ok(())
    })?;
    drop(netns);
    ensure!(!fs::exists(path)?, "the namespace is still open");
    ensure!(own_open_files()? == before, "open files: {before} before, {} after", own_open_files()?);
    Ok(())
}

fn frames_arrive(buffer: Buffer) -> Result<()> {
    let Pair { left, right } = Pair::bare()?;
    let capture = Capture::new(&right, "east")?;
    let mut sender = Sender::new(&left, "west", buffer)?;
    let (mut packets, mut bytes) = (0, 0);
    for case in frames::all() {
        sender.send(&case.bytes).with_context(|| case.name.clone())?;
        let got = capture.next(Duration::from_secs(1))?.with_context(|| format!("{} did not arrive", case.name))?;
        ensure!(got == case.bytes, "{}: sent {:02x?}, got {got:02x?}", case.name, case.bytes);
        packets += 1;
        bytes += case.wire_bytes();
    }
    let (sent, received) = (left.counters("west")?, right.counters("east")?);
    ensure!((sent.tx_packets, sent.tx_bytes) == (packets, bytes), "{packets}, {bytes}: {sent:?}");
    ensure!((received.rx_packets, received.rx_bytes) == (packets, bytes), "{packets}, {bytes}: {received:?}");
    ensure!(received.tx_packets == 0, "the receiver answered: {received:?}");
    Ok(())
}

fn ring_is_paged() -> Result<()> {
    need::tcx()?;
    let Pair { left, right } = Pair::bare()?;
    let judge = bpf::Program::drop_paged("judge")?;
    let index = left.ifindex("west")?;
    let _link = left.run(|| judge.attach_tcx(index, Hook::Egress))?;
    let capture = Capture::new(&right, "east")?;
    let frame = &frames::all()[0].bytes;
    Sender::new(&left, "west", Buffer::Linear)?.send(frame)?;
    ensure!(capture.next(Duration::from_secs(1))?.is_some(), "a plain send makes a paged buffer");
    // A drop at the sender's own hook comes back as an error, which is as good a proof.
    let _ = Sender::new(&left, "west", Buffer::Paged)?.send(frame);
    ensure!(capture.next(Duration::from_millis(200))?.is_none(), "the ring makes a linear buffer");
    Ok(())
}

fn tun_and_tap() -> Result<()> {
    need::root()?;
    need::file("/dev/net/tun")?;
    let netns = Netns::new()?;
    let (mut tun, mut tap) = (TunTap::new(&netns, "tun", Kind::Tun)?, TunTap::new(&netns, "tap", Kind::Tap)?);
    let mut expected: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for case in frames::all() {
        tap.inject(&case.bytes).with_context(|| case.name.clone())?;
        let sum = expected.entry("tap").or_default();
        *sum = (sum.0 + 1, sum.1 + case.wire_bytes());
        if case.fits_tun() {
            tun.inject(case.l3()).with_context(|| case.name.clone())?;
            let sum = expected.entry("tun").or_default();
            *sum = (sum.0 + 1, sum.1 + case.l3_bytes());
        }
    }
    for (device, (packets, bytes)) in expected {
        let have = netns.counters(device)?;
        ensure!((have.rx_packets, have.rx_bytes) == (packets, bytes), "{device}: {packets}, {bytes}: {have:?}");
    }
    let frame = &frames::all()[0].bytes;
    Sender::new(&netns, "tap", Buffer::Linear)?.send(frame)?;
    ensure!(tap.take()? == *frame, "the tap gives another frame");
    Ok(())
}

fn hooks_seen() -> Result<()> {
    need::tcx()?;
    need::command("tc")?;
    let Pair { left, right: _right } = Pair::bare()?;
    ensure!(hooks::attached_anywhere(&left, "west")?.is_empty(), "a new device has something attached");
    let program = bpf::Program::pass("foreign")?;
    let index = left.ifindex("west")?;
    let link = left.run(|| program.attach_tcx(index, Hook::Ingress))?;
    left.tc("qdisc add dev west clsact")?;
    left.tc("filter add dev west egress protocol all u32 match u32 0 0 classid 1:1")?;
    left.run(|| program.pin("/sys/fs/bpf/foreign"))?;
    left.tc("filter add dev west ingress bpf direct-action object-pinned /sys/fs/bpf/foreign")?;
    let ingress = hooks::attached(&left, "west", Hook::Ingress)?;
    let ways: Vec<_> = ingress.iter().map(|one| (one.way, one.kind.as_str(), one.id)).collect();
    let id = Some(program.id()?);
    ensure!(ways == [(Way::Tcx, "bpf", id), (Way::Clsact, "bpf", id)], "{ingress:?}");
    ensure!(ingress[0].name == "foreign", "{ingress:?}");
    let egress = hooks::attached(&left, "west", Hook::Egress)?;
    ensure!(egress.len() == 1 && egress[0].kind == "u32", "{egress:?}");
    drop(link);
    ensure!(hooks::attached(&left, "west", Hook::Ingress)?.len() == 1, "the link outlives its guard");
    Ok(())
}

fn tcp_sums() -> Result<()> {
    need::command("ethtool")?;
    for offload in [Offload::Off, Offload::Software] {
        for (address, ip_len) in [("192.0.2.2", 20), ("2001:db8::2", 40)] {
            let Pair { left, right } = Pair::addressed()?;
            for (netns, device) in [(&left, "west"), (&right, "east")] {
                bulk::plain_tcp(netns)?;
                offload.set(netns, device)?;
            }
            let before = left.counters("west")?;
            let transfer = bulk::tcp(&left, &right, address.parse()?, 3_000_000)?;
            let device = left.counters("west")? - before;
            let bytes = |sent: bulk::Sent| sent.l3_bytes(ip_len) + transfer.options + 14 * sent.segments;
            let sums = (transfer.up.segments, bytes(transfer.up), transfer.down.segments, bytes(transfer.down));
            let device_sums = (device.tx_packets, device.tx_bytes, device.rx_packets, device.rx_bytes);
            ensure!(sums == device_sums, "{offload:?}, {address}: {transfer:?}: {device:?}");
        }
    }
    Ok(())
}

fn udp_sums() -> Result<()> {
    need::command("ethtool")?;
    let Pair { left, right } = Pair::addressed()?;
    Offload::Software.set(&left, "west")?;
    for (address, headers) in [("192.0.2.2", 14 + 20 + 8), ("2001:db8::2", 14 + 40 + 8)] {
        let before = left.counters("west")?;
        let (packets, payload) = bulk::udp_segments(&left, &right, address.parse()?, 1200, 40, 20)?;
        let device = left.counters("west")? - before;
        let sums = (packets, payload + packets * headers);
        ensure!(sums == (device.tx_packets, device.tx_bytes), "{address}: {sums:?}: {device:?}");
    }
    Ok(())
}
