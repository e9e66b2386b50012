//! What both agents count, against what tcpdump has of the same wire, sorted by its own filters.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::bulk;
use mpsec_tests::counted::Counted;
use mpsec_tests::frames::class;
use mpsec_tests::link::Offload;
use mpsec_tests::paths::Family;
use mpsec_tests::tcpdump::Dump;
use mpsec_tests::trial::trial;
use mpsec_tests::xfrm::Mode;

use super::by_hand::{SIZES, laid};
use super::line::{DECRYPTED, DEVICES, Line, Watched};
use super::strongswan;

const LIMIT: Duration = Duration::from_secs(90);
const BULK: u64 = 200_000;
/// One of so many frames is sent past the tunnel: that each is counted as what it is, other trials show.
const ONE_OF: usize = 9;
/// Classes, and what they are in tcpdump's words. Behind IPv6 it knows no fields of UDP by name.
const FILTERS: &[(&str, &str)] = &[
    (class::ESP, "ip proto 50 or ip6 proto 50"),
    (class::ESP_UDP, "udp port 4500 and ((udp[4:2] >= 16 and udp[8:4] != 0) or (ip6[44:2] >= 16 and ip6[48:4] != 0))"),
    (
        class::IKE,
        "udp port 500 or (udp port 4500 and ((udp[4:2] >= 12 and udp[8:4] = 0) or (ip6[44:2] >= 12 and ip6[48:4] = 0)))",
    ),
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in strongswan::MODES {
        for family in Family::ALL {
            let name = format!("ipsec::tcpdump_agrees_{}_{family}", mode.name());
            trials.push(trial(&name, LIMIT, move || by_hand(mode, family)));
        }
    }
    for (mode, family) in [(Mode::Transport, Family::V6), (Mode::Tunnel, Family::V4), (Mode::UdpTunnel, Family::V4)] {
        let name = format!("ipsec::tcpdump_agrees_strongswan_{}_{family}", mode.name());
        trials.push(trial(&name, LIMIT, move || by_strongswan(mode, family)));
    }
    trials
}

fn by_hand(mode: Mode, family: Family) -> Result<()> {
    mode.needed(family)?;
    let line = Line::new(Offload::Off)?;
    let tunnel = laid(&line, mode, family);
    let _sockets = tunnel.lay()?;
    agrees(&line, &line.watched()?, mode, family, || Ok(()))
}

fn by_strongswan(mode: Mode, family: Family) -> Result<()> {
    let line = Line::new(Offload::Off)?;
    let charons = strongswan::start(&line, mode, family)?;
    agrees(&line, &line.watched()?, mode, family, || charons[0].initiate(strongswan::NAME))
}

/// Talks through the tunnel and past it, and compares everything that crossed the wire in the meantime.
fn agrees(
    line: &Line,
    watched: &Watched<'_>,
    mode: Mode,
    family: Family,
    bring_up: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let dumps = line.tcpdumps()?;
    bring_up()?;
    let target = laid(line, mode, family).ends[1].inner;
    bulk::datagrams(&line.hosts[0], &line.hosts[1], target, SIZES)?;
    bulk::tcp(&line.hosts[0], &line.hosts[1], target, BULK)?;
    let leaked = line.leak(ONE_OF)?;
    // Nothing is on its way any more.
    watched.seen()?;
    let [west, east] = dumps;
    let sent = [sorted(&west.stop()?)?, sorted(&east.stop()?)?];
    for (host, device) in DEVICES.iter().enumerate() {
        for (direction, expected) in [("tx", &sent[host]), ("rx", &sent[1 - host])] {
            ensure!(expected.clear == leaked, "tcpdump has {:?} in clear, and {leaked:?} was sent", expected.clear);
            watched.shows(host, direction, |counted| {
                let classes = FILTERS.iter().map(|(class, _)| counted.get(class)).collect::<Vec<_>>();
                let all = classes.iter().fold(Counted::default(), |all, one| all + *one);
                let clear = counted.total() - counted.get(DECRYPTED) - all;
                ensure!(
                    classes == expected.classes && clear == expected.clear,
                    "{device} {direction}: {classes:?} and {clear:?} in clear, tcpdump has {expected:?}"
                );
                Ok(())
            })?;
        }
    }
    let encrypted = if mode.is_in_udp() { 1 } else { 0 };
    let crossed = sent[0].classes[encrypted];
    ensure!(crossed.packets > SIZES.len() as u64, "what the tunnel carried was not encrypted: {crossed:?}");
    Ok(())
}

/// What a tcpdump has by [`FILTERS`], and what passes none of them.
#[derive(Debug)]
struct Sorted {
    classes: Vec<Counted>,
    clear: Counted,
}

fn sorted(dump: &Dump) -> Result<Sorted> {
    let classes = FILTERS.iter().map(|(_, filter)| dump.counted(filter)).collect::<Result<Vec<_>>>()?;
    let clear = classes.iter().fold(dump.total()?, |rest, class| rest - *class);
    Ok(Sorted { classes, clear })
}
