//! Each mode of IPsec as `ip xfrm` sets it up.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::counted::Counted;
use mpsec_tests::frames::class;
use mpsec_tests::link::Offload;
use mpsec_tests::paths::Family;
use mpsec_tests::trial::trial;
use mpsec_tests::xfrm::{End, Mode, Tunnel, interface};
use mpsec_tests::{bulk, tally};

use super::line::{DECRYPTED, DEVICES, Line, Watched, inner, outer};

const LIMIT: Duration = Duration::from_secs(60);
const BULK: u64 = 2_000_000;
/// Payloads of datagrams: none, odd, and as much as fits with room for every mode.
pub(super) const SIZES: &[usize] = &[0, 1, 13, 64, 511, 1300];
pub(super) const NUMBER: u32 = 7;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in Mode::ALL {
        for family in Family::ALL {
            let name = format!("ipsec::by_hand_{}_{family}", mode.name());
            trials.push(trial(&name, LIMIT, move || each(mode, family)));
        }
    }
    for offload in [Offload::Software, Offload::Full] {
        let kind = format!("{offload:?}").to_lowercase();
        for mode in [Mode::Transport, Mode::Tunnel, Mode::UdpTunnel] {
            let name = format!("ipsec::by_hand_{}_bulk_{kind}", mode.name());
            trials.push(trial(&name, LIMIT, move || bulk_is_exact(mode, offload)));
        }
    }
    for mode in [Mode::Transport, Mode::Tunnel] {
        let name = format!("ipsec::by_hand_{}_is_lost", mode.name());
        trials.push(trial(&name, LIMIT, move || is_lost(mode)));
    }
    for mode in [Mode::Tunnel, Mode::UdpTunnel] {
        let name = format!("ipsec::by_hand_{}_in_fragments", mode.name());
        trials.push(trial(&name, LIMIT, move || in_fragments(mode)));
    }
    trials
}

/// Two hosts with IPsec between them, and what an address inside is for each.
pub(super) fn laid<'a>(line: &'a Line, mode: Mode, family: Family) -> Tunnel<'a> {
    let end = |host: usize| End {
        netns: &line.hosts[host],
        device: DEVICES[host],
        outer: outer(family, host),
        inner: if mode.has_inside() { inner(family, host) } else { outer(family, host) },
    };
    Tunnel { mode, number: NUMBER, ends: [end(0), end(1)] }
}

fn each(mode: Mode, family: Family) -> Result<()> {
    mode.needed(family)?;
    let line = Line::new(Offload::Off)?;
    let tunnel = laid(&line, mode, family);
    let _sockets = tunnel.lay()?;
    let watched = line.watched()?;
    let target = tunnel.ends[1].inner;
    bulk::datagrams(&line.hosts[0], &line.hosts[1], target, SIZES)?;
    let seen = watched.agrees()?;
    let encrypted = if mode.is_in_udp() { class::ESP_UDP } else { class::ESP };
    let count = SIZES.len() as u64;
    ensure!(tally::of(&seen[0].wire[1], encrypted).packets == count, "{:?}", seen[0].wire);
    ensure!(seen.iter().all(|seen| seen.wire.iter().flatten().count() == 1), "something else crossed the wire");
    // Inside it is a datagram as the program sent it, behind the link header that the device has.
    let sizes = SIZES.iter().map(|size| *size as u64 + 8 + family.header_bytes()).sum();
    let shown = mode.has_inside() && !mode.has_interface();
    let expected = if shown { Counted::new(count, sizes, 14) } else { Counted::default() };
    ensure!(seen[1].decrypted == expected, "decrypted {:?} instead of {expected:?}", seen[1].decrypted);
    if mode.has_interface() {
        both_ways_inside(&watched, &tunnel, family)?;
    }
    bulk::tcp(&line.hosts[0], &line.hosts[1], target, BULK)?;
    let seen = watched.agrees()?;
    ensure!(seen.iter().all(|seen| seen.clear(0).packets + seen.clear(1).packets == 0), "something leaked");
    leak_is_found(&line, &watched)
}

/// On the interface of a tunnel everything is inside, whichever way it goes.
pub(super) fn both_ways_inside(watched: &Watched<'_>, tunnel: &Tunnel<'_>, family: Family) -> Result<()> {
    let name: &'static str = Box::leak(interface(NUMBER).into_boxed_str());
    let watches = [watched.watch(0, name)?, watched.watch(1, name)?];
    let [left, right] = &tunnel.ends;
    bulk::datagrams(left.netns, right.netns, right.inner, SIZES)?;
    let count = SIZES.len() as u64;
    let sizes: u64 = SIZES.iter().map(|size| *size as u64 + 8 + family.header_bytes()).sum();
    let sent = Counted::new(count, sizes, 0);
    watches[0].equals(DECRYPTED, Counted::default(), sent)?;
    watches[1].equals(DECRYPTED, sent, Counted::default())?;
    for watch in &watches {
        watch.equals_device(count)?;
        let (rx, tx) = watch.counted()?;
        let only = |classes: &mpsec_tests::counted::Classes| classes.0.keys().all(|class| class == DECRYPTED);
        ensure!(only(&rx) && only(&tx), "{rx:?}, {tx:?}");
    }
    Ok(())
}

/// What is put on the wire beside the tunnel, both ways, is counted as what it is, to the byte.
fn leak_is_found(line: &Line, watched: &Watched<'_>) -> Result<()> {
    let before = watched.seen()?;
    let expected = line.leak(1)?;
    let after = watched.seen()?;
    for (host, (before, after)) in before.iter().zip(&after).enumerate() {
        ensure!(before.decrypted == after.decrypted, "a leak was decrypted");
        let metrics = watched.agents[host].scrape()?;
        for direction in ["rx", "tx"] {
            let counted = mpsec_tests::counted::Classes::read(&metrics, DEVICES[host], direction)?;
            let clear = [class::TCP, class::UDP].map(|class| counted.get(class));
            ensure!(clear[0] + clear[1] == expected, "{direction} of {host}: {clear:?} instead of {expected:?}");
        }
    }
    Ok(())
}

fn bulk_is_exact(mode: Mode, offload: Offload) -> Result<()> {
    mode.needed(Family::V4)?;
    let line = Line::new(offload)?;
    line.hosts.iter().try_for_each(|host| bulk::plain_tcp(host))?;
    let tunnel = laid(&line, mode, Family::V4);
    let _sockets = tunnel.lay()?;
    let watched = line.watched()?;
    let transfer = bulk::tcp(&line.hosts[0], &line.hosts[1], tunnel.ends[1].inner, BULK)?;
    let seen = watched.agrees()?;
    if mode.has_inside() {
        let up = Counted::new(transfer.up.segments, transfer.up.l3_bytes(20) + transfer.options, 14);
        ensure!(seen[1].decrypted == up, "decrypted {:?} instead of {up:?}", seen[1].decrypted);
    }
    ensure!(seen.iter().all(|seen| seen.clear(0).packets + seen.clear(1).packets == 0), "something leaked");
    Ok(())
}

/// States are lost whose policies let packets through without, or policies, without which there is no tunnel: what is then sent
/// in clear is found, to the byte, and nothing more once they are there again.
fn is_lost(mode: Mode) -> Result<()> {
    mode.needed(Family::V4)?;
    let line = Line::new(Offload::Off)?;
    let tunnel = laid(&line, mode, Family::V4);
    let [left, right] = &tunnel.ends;
    let policies = || {
        // Of what leaves in a tunnel, no kernel may be told that it can do without.
        let level = if mode.has_inside() { "required" } else { "use" };
        tunnel.policies(left, right, level).and_then(|()| tunnel.policies(right, left, level))
    };
    let states = || tunnel.ends.iter().try_for_each(|end| tunnel.states(end.netns));
    states()?;
    policies()?;
    tunnel.addresses()?;
    let watched = line.watched()?;
    let talk = || bulk::datagrams(left.netns, right.netns, right.inner, SIZES);
    let count = SIZES.len() as u64;
    let once = Counted::new(count, SIZES.iter().map(|size| *size as u64 + 28).sum(), 14);
    let agrees = |encrypted: u64, clear: Counted| -> Result<()> {
        let seen = watched.agrees()?;
        let wire = &seen[0].wire[1];
        ensure!(tally::of(wire, class::ESP).packets == encrypted && seen[0].clear(1) == clear, "{wire:?}");
        let again = if mode.has_inside() { encrypted } else { 0 };
        ensure!(seen[1].decrypted.packets == again, "decrypted {:?}", seen[1].decrypted);
        Ok(())
    };
    talk()?;
    agrees(count, Counted::default())?;
    for end in &tunnel.ends {
        if mode.has_inside() {
            end.netns.ip("xfrm policy deleteall")?;
        } else {
            [0, 1].into_iter().try_for_each(|from| tunnel.delete_state(end.netns, from))?;
        }
    }
    talk()?;
    agrees(count, once)?;
    if mode.has_inside() { policies() } else { states() }?;
    talk()?;
    agrees(2 * count, once)
}

/// What is too long for the wire crosses it in pieces, of which only the first shows the ports of UDP. What comes out is one
/// packet.
fn in_fragments(mode: Mode) -> Result<()> {
    const SIZE: usize = 3000;
    const PIECES: u64 = 3;
    mode.needed(Family::V4)?;
    let line = Line::new(Offload::Off)?;
    let tunnel = laid(&line, mode, Family::V4);
    let _sockets = tunnel.lay()?;
    let watched = line.watched()?;
    bulk::datagrams(&line.hosts[0], &line.hosts[1], tunnel.ends[1].inner, &[SIZE])?;
    let seen = watched.agrees()?;
    let wire = &seen[0].wire[1];
    let packets = [class::ESP, class::ESP_UDP, class::UDP].map(|class| tally::of(wire, class).packets);
    ensure!(packets == if mode.is_in_udp() { [0, 1, PIECES - 1] } else { [PIECES, 0, 0] }, "{wire:?}");
    let expected = Counted::new(1, SIZE as u64 + 28, 14);
    ensure!(seen[1].decrypted == expected, "decrypted {:?} instead of {expected:?}", seen[1].decrypted);
    Ok(())
}
