//! IPsec that strongSwan negotiates.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::charon::{Authority, Charon, Connection, Esp, Proof};
use mpsec_tests::counted::Counted;
use mpsec_tests::frames::class;
use mpsec_tests::link::Offload;
use mpsec_tests::paths::Family;
use mpsec_tests::trial::trial;
use mpsec_tests::xfrm::Mode;
use mpsec_tests::{bulk, need, tally};

use super::by_hand::{NUMBER, SIZES, laid};
use super::line::{Line, Watched};

const LIMIT: Duration = Duration::from_secs(60);
const BULK: u64 = 1_000_000;
pub(super) const NAME: &str = "between";
pub(super) const MODES: [Mode; 5] =
    [Mode::Transport, Mode::Tunnel, Mode::UdpTransport, Mode::UdpTunnel, Mode::Interface];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in MODES {
        for family in Family::ALL {
            let name = format!("ipsec::strongswan_{}_{family}", mode.name());
            trials.push(trial(&name, LIMIT, move || negotiated(mode, family, &Proof::Secret)));
        }
    }
    let name = "ipsec::strongswan_with_certificates";
    trials.push(trial(name, LIMIT, || {
        // Keys on elliptic curves are this plugin's.
        need::file("/usr/lib/ipsec/plugins/libstrongswan-openssl.so")?;
        negotiated(Mode::Tunnel, Family::V4, &Proof::Certificates(Arc::new(Authority::new()?)))
    }));
    trials.push(trial("ipsec::strongswan_without_the_kernels_esp", LIMIT, in_a_program));
    trials
}

/// A charon on each host, with a connection of this mode that is not up yet.
pub(super) fn start(line: &Line, mode: Mode, family: Family) -> Result<[Charon; 2]> {
    start_with(line, mode, family, &Proof::Secret)
}

fn start_with(line: &Line, mode: Mode, family: Family, proof: &Proof) -> Result<[Charon; 2]> {
    Esp::Kernel.needed()?;
    mode.needed(family)?;
    let tunnel = laid(line, mode, family);
    tunnel.addresses()?;
    let connection = Connection {
        name: NAME.into(),
        mode: if mode.has_inside() { "tunnel" } else { "transport" },
        in_udp: mode.is_in_udp(),
        if_id: (mode == Mode::Interface).then_some(NUMBER),
        outer: tunnel.ends.map(|end| end.outer),
        inner: tunnel.ends.map(|end| end.inner),
    };
    let start = |host: usize| {
        let connections = std::slice::from_ref(&connection);
        Charon::start(&line.hosts[host], Esp::Kernel, host, connections, proof)
    };
    Ok([start(0)?, start(1)?])
}

fn negotiated(mode: Mode, family: Family, proof: &Proof) -> Result<()> {
    let line = Line::new(Offload::Off)?;
    let charons = start_with(&line, mode, family, proof)?;
    let tunnel = laid(&line, mode, family);
    let watched = line.watched()?;
    charons[0].initiate(NAME)?;
    let seen = watched.agrees()?;
    ensure!(seen[0].wire.iter().all(|wire| wire.keys().eq([&class::IKE])), "{:?}", seen[0].wire);
    let encrypted = if mode.is_in_udp() { class::ESP_UDP } else { class::ESP };
    let target = tunnel.ends[1].inner;
    for round in 1..=2 {
        bulk::datagrams(&line.hosts[0], &line.hosts[1], target, SIZES)?;
        let seen = watched.agrees()?;
        let count = round * SIZES.len() as u64;
        ensure!(tally::of(&seen[0].wire[1], encrypted).packets == count, "{:?}", seen[0].wire);
        let sizes: u64 = SIZES.iter().map(|size| *size as u64 + 8 + family.header_bytes()).sum();
        let shown = mode.has_inside() && !mode.has_interface();
        let expected = if shown { Counted::new(count, round * sizes, 14) } else { Counted::default() };
        ensure!(seen[1].decrypted == expected, "decrypted {:?} instead of {expected:?}", seen[1].decrypted);
        // New keys and new states change nothing of that.
        charons[0].rekey(NAME)?;
    }
    bulk::tcp(&line.hosts[0], &line.hosts[1], target, BULK)?;
    nothing_in_clear(&watched)
}

fn nothing_in_clear(watched: &Watched<'_>) -> Result<()> {
    let seen = watched.agrees()?;
    ensure!(seen.iter().all(|seen| seen.clear(0).packets + seen.clear(1).packets == 0), "{:?}", seen[0].wire);
    Ok(())
}

/// charon does ESP itself, in UDP; what is inside comes out of a TUN device, where it is what it is.
fn in_a_program() -> Result<()> {
    Esp::Program.needed()?;
    let line = Line::new(Offload::Off)?;
    let tunnel = laid(&line, Mode::UdpTunnel, Family::V4);
    tunnel.addresses()?;
    let connection = Connection {
        name: NAME.into(),
        mode: "tunnel",
        in_udp: true,
        if_id: None,
        outer: tunnel.ends.map(|end| end.outer),
        inner: tunnel.ends.map(|end| end.inner),
    };
    let start = |host: usize| {
        let connections = std::slice::from_ref(&connection);
        Charon::start(&line.hosts[host], Esp::Program, host, connections, &Proof::Secret)
    };
    let charons = [start(0)?, start(1)?];
    let watched = line.watched()?;
    charons[0].initiate(NAME)?;
    // charon makes its device when it starts.
    let inside = [watched.watch(0, "ipsec0")?, watched.watch(1, "ipsec0")?];
    bulk::datagrams(&line.hosts[0], &line.hosts[1], tunnel.ends[1].inner, SIZES)?;
    let seen = watched.agrees()?;
    let count = SIZES.len() as u64;
    ensure!(tally::of(&seen[0].wire[1], class::ESP_UDP).packets == count, "{:?}", seen[0].wire);
    ensure!(seen.iter().all(|seen| seen.decrypted == Counted::default()), "decrypted by nobody");
    let sent = Counted::new(count, SIZES.iter().map(|size| *size as u64 + 28).sum(), 0);
    inside[0].equals(class::UDP, Counted::default(), sent)?;
    inside[1].equals(class::UDP, sent, Counted::default())?;
    nothing_in_clear(&watched)
}
