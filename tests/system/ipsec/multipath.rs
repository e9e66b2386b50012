//! MPTCP over two paths that are each inside IPsec of their own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::charon::{Charon, Connection, Esp, Proof};
use mpsec_tests::counted::{Classes, Counted};
use mpsec_tests::frames::class;
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::paths::{Family, Host, Paths, Plan, address, device};
use mpsec_tests::sniffer;
use mpsec_tests::tally::{Sums, Tally};
use mpsec_tests::trial::trial;
use mpsec_tests::xfrm::{End, Mode, Tunnel};
use mpsec_tests::{need, ss, wait};
use serde_json::Value;

use super::line::DECRYPTED;
use crate::mptcp_view::{SHOWN, list, number, view};

pub(super) const LIMIT: Duration = Duration::from_secs(90);
pub(super) const HOSTS: [Host; 2] = [Host::Client, Host::Server];
pub(super) const UP: u64 = 2_000_000;
pub(super) const DOWN: u64 = 500_000;
pub(super) const PATHS: usize = 2;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in [Mode::Transport, Mode::Tunnel] {
        for family in Family::ALL {
            let name = format!("ipsec::multipath_{}_{family}", mode.name());
            trials.push(trial(&name, LIMIT, move || by_hand(mode, family)));
        }
        let name = format!("ipsec::multipath_strongswan_{}", mode.name());
        trials.push(trial(&name, LIMIT, move || negotiated(mode)));
    }
    trials.push(trial("ipsec::multipath_leak", LIMIT, leak));
    trials
}

/// Paths with an agent on each host, and a capture on every device.
pub(super) struct Scene {
    pub(super) paths: Paths,
    pub(super) agents: [Agent; 2],
    tallies: [Vec<Tally>; 2],
}

impl Scene {
    pub(super) fn new(paths: Paths) -> Result<Self> {
        let options = || Options { config: "[mptcp]\nsubflow_series = true\n".into(), ..Options::default() };
        let start = |host: Host| options().start(paths.netns(host));
        let watch = |host: Host| (0..PATHS).map(|path| Tally::watch(paths.netns(host), &device(host, path))).collect();
        let (agents, tallies) =
            ([start(Host::Client)?, start(Host::Server)?], [watch(Host::Client), watch(Host::Server)]);
        let [client, server] = tallies.map(|tallies: Result<Vec<_>>| tallies);
        Ok(Self { paths, agents, tallies: [client?, server?] })
    }

    /// What each host's devices have seen when nothing more comes.
    pub(super) fn seen(&self) -> Result<Vec<Vec<Sums>>> {
        let read = |tallies: &Vec<Tally>| tallies.iter().map(Tally::sums).collect::<Result<Vec<_>>>();
        sniffer::settled(|| self.tallies.iter().map(read).collect())
    }

    /// The agents have counted, path by path, what the captures of the devices have: what a device receives in clear came out of ESP
    /// unless the peer's device sent it so.
    pub(super) fn agrees(&self) -> Result<()> {
        let seen = self.seen()?;
        for (host, path) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let sent_by_peer = &seen[1 - host][path][1];
            let mut rx = Classes(sent_by_peer.iter().map(|(class, sum)| ((*class).to_owned(), *sum)).collect());
            let decrypted = total(&seen[host][path][0]) - total(sent_by_peer);
            if decrypted != Counted::default() {
                rx.0.insert(DECRYPTED.to_owned(), decrypted);
            }
            let tx = Classes(seen[host][path][1].iter().map(|(class, sum)| ((*class).to_owned(), *sum)).collect());
            let device = device(HOSTS[host], path);
            wait::until(SHOWN, || {
                let metrics = self.agents[host].scrape()?;
                for (direction, expected) in [("rx", &rx), ("tx", &tx)] {
                    let counted = Classes::read(&metrics, &device, direction)?;
                    ensure!(counted == *expected, "{device} {direction}: {counted:?} instead of {expected:?}");
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Cleartext on a path, sent by both hosts, by the captures.
    pub(super) fn clear(&self, path: usize) -> Result<Counted> {
        let seen = self.seen()?;
        let is_clear = |class: &&str| ![class::ESP, class::ESP_UDP, class::IKE].contains(class);
        let of = |host: usize| seen[host][path][1].iter().filter(|(class, _)| is_clear(class)).map(|(_, sum)| *sum);
        Ok(of(0).chain(of(1)).fold(Counted::default(), |all, one| all + one))
    }

    /// A conversation over both paths, whose figures are right although no packet shows its ports.
    fn talk(&self, family: Family) -> Result<Conversation> {
        self.paths.add_endpoints(family)?;
        let mut talk = Conversation::open(&self.paths, family)?;
        talk.joined(u32::try_from(PATHS)?)?;
        talk.exchange(UP, DOWN)?;
        let (sent, known) = self.sent(&talk)?;
        for host in 0..HOSTS.len() {
            wait::until(SHOWN, || self.carried(host, [sent[1 - host], sent[host]], known))
                .with_context(|| format!("host {host}"))?;
        }
        Ok(talk)
    }

    /// What the subflows of each host have sent when all of it is acknowledged, each byte once, and whether that is all that is to
    /// be known of it: before Linux 6.5 nobody knows how much MPTCP sent twice.
    pub(super) fn sent(&self, talk: &Conversation) -> Result<([u64; 2], bool)> {
        // What MPTCP sends again on another subflow, each end tells of itself; the last byte again, to probe a window of 0, it
        // counts for the namespace.
        HOSTS.iter().try_for_each(|host| ss::wait_acknowledged(self.paths.netns(*host)))?;
        let mut sent = [talk.client.sent, talk.server.sent];
        let mut known = true;
        for ((host, sent), info) in HOSTS.into_iter().zip(&mut sent).zip(talk.info()?) {
            let probes = ss::mib(self.paths.netns(host))?;
            let bytes = info.and_then(|info| info.bytes);
            known &= bytes.is_some();
            *sent += bytes.map_or(0, |bytes| bytes.retrans);
            *sent += probes.get("WinProbe").unwrap_or(&0);
        }
        Ok((sent, known))
    }

    /// A conversation from its first packet to its last, of which no path shows anything.
    fn hides_a_talk(&self, family: Family) -> Result<()> {
        self.talk(family)?.close()?;
        self.agrees()?;
        for path in 0..PATHS {
            let clear = self.clear(path)?;
            ensure!(clear == Counted::default(), "{clear:?} in clear on path {path}");
        }
        Ok(())
    }

    /// The subflows of a host carried what its program sent and received, as their sockets say, and not less where it is not
    /// `known` what was sent twice; of packets nothing is said.
    fn carried(&self, host: usize, program: [u64; 2], known: bool) -> Result<()> {
        let view = view(&self.agents[host])?;
        let connections = list(view.get("connections"))?;
        let connection = connections.iter().find(|one| one["token"] != 0).context("no connection")?;
        let subflows = list(&connection["subflows"])?;
        ensure!(subflows.len() == PATHS, "{subflows:#?}");
        let (mut sum, mut again) = ([0; 2], 0);
        for subflow in subflows {
            for (direction, sum) in ["rx", "tx"].into_iter().zip(&mut sum) {
                *sum += number(&subflow[direction]["payload_bytes"])?;
                let said: &Value = &subflow[direction];
                ensure!(said["packets"].is_null() && said["bytes"].is_null(), "packets that nobody saw: {said}");
            }
            again += number(&subflow["tx"]["retransmitted_bytes"])?;
        }
        let carried = [sum[0], sum[1] - again];
        let enough = carried.iter().zip(&program).all(|(carried, program)| carried >= program);
        ensure!(carried == program || !known && enough, "{sum:?}, {again} again: {program:?}");
        let devices: Vec<_> = subflows.iter().map(|one| one["interface"].as_str().unwrap_or_default()).collect();
        let mut expected: Vec<_> = (0..PATHS).map(|path| device(HOSTS[host], path)).collect();
        expected.sort_unstable();
        let mut sorted = devices.clone();
        sorted.sort_unstable();
        ensure!(sorted == expected, "{devices:?}");
        let metrics = self.agents[host].scrape()?;
        for (direction, expected) in ["rx", "tx"].into_iter().zip(sum) {
            let labels = [("direction", direction)];
            for name in ["mpsec_path_payload_bytes_total", "mpsec_subflow_payload_bytes_total"] {
                let said = metrics.sum(name, &labels)?;
                ensure!(said == expected, "{name} of {direction} is {said} instead of {expected}");
            }
            for name in ["mpsec_path_packets_total", "mpsec_path_bytes_total"] {
                ensure!(metrics.select(name, &labels).next().is_none(), "{name} of what nobody saw");
            }
        }
        Ok(())
    }
}

fn total(sums: &std::collections::BTreeMap<&'static str, Counted>) -> Counted {
    sums.values().copied().fold(Counted::default(), |all, one| all + one)
}

/// The client's subflow on a path has the address of that path, and the server always its first one.
fn tunnel(paths: &Paths, mode: Mode, family: Family, path: usize) -> Tunnel<'_> {
    let devices = HOSTS.map(|host| &*Box::leak(device(host, path).into_boxed_str()));
    let end = |host: usize| {
        let inner = address(HOSTS[host], family, if host == 0 { path } else { 0 });
        let outer = if mode == Mode::Tunnel { address(HOSTS[host], family, path) } else { inner };
        End { netns: paths.netns(HOSTS[host]), device: devices[host], outer, inner }
    };
    Tunnel { mode, number: 1 + path as u32, ends: [end(0), end(1)] }
}

/// The states and the policies of a path on both hosts.
pub(super) fn laid(paths: &Paths, mode: Mode, family: Family, path: usize, level: &str) -> Result<()> {
    let tunnel = tunnel(paths, mode, family, path);
    let [left, right] = &tunnel.ends;
    for (here, there) in [(left, right), (right, left)] {
        tunnel.states(here.netns)?;
        tunnel.policies(here, there, level)?;
    }
    Ok(())
}

fn by_hand(mode: Mode, family: Family) -> Result<()> {
    need::mptcp()?;
    mode.needed(family)?;
    let paths = Paths::new(Plan::wires(PATHS))?;
    (0..PATHS).try_for_each(|path| laid(&paths, mode, family, path, "required"))?;
    Scene::new(paths)?.hides_a_talk(family)
}

fn negotiated(mode: Mode) -> Result<()> {
    need::mptcp()?;
    Esp::Kernel.needed()?;
    let paths = Paths::new(Plan::wires(PATHS))?;
    let connection = |path: usize| {
        let tunnel = tunnel(&paths, mode, Family::V4, path);
        Connection {
            name: format!("path{path}"),
            mode: mode.name(),
            in_udp: false,
            if_id: None,
            outer: tunnel.ends.map(|end| end.outer),
            inner: tunnel.ends.map(|end| end.inner),
        }
    };
    let connections: Vec<_> = (0..PATHS).map(connection).collect();
    let start = |host: usize| Charon::start(paths.netns(HOSTS[host]), Esp::Kernel, host, &connections, &Proof::Secret);
    let charons = [start(0)?, start(1)?];
    let scene = Scene::new(paths)?;
    connections.iter().try_for_each(|connection| charons[0].initiate(&connection.name))?;
    scene.hides_a_talk(Family::V4)
}

/// A state that is missing on the second path, where the policy lets packets through without: found there, to the byte, and not
/// on the first.
fn leak() -> Result<()> {
    need::mptcp()?;
    Mode::Transport.needed(Family::V4)?;
    let paths = Paths::new(Plan::wires(PATHS))?;
    laid(&paths, Mode::Transport, Family::V4, 0, "required")?;
    let second = tunnel(&paths, Mode::Transport, Family::V4, 1);
    let [left, right] = &second.ends;
    for (here, there) in [(left, right), (right, left)] {
        second.policies(here, there, "use")?;
    }
    let scene = Scene::new(paths)?;
    scene.paths.add_endpoints(Family::V4)?;
    let mut talk = Conversation::open(&scene.paths, Family::V4)?;
    talk.joined(u32::try_from(PATHS)?)?;
    talk.exchange(UP, DOWN)?;
    scene.agrees()?;
    let clear = [scene.clear(0)?, scene.clear(1)?];
    ensure!(clear[0] == Counted::default() && clear[1].packets > 0, "in clear: {clear:?}");
    for (host, agent) in scene.agents.iter().enumerate() {
        let metrics = agent.scrape()?;
        for (path, clear) in clear.iter().enumerate() {
            let device = device(HOSTS[host], path);
            let mut said = Counted::default();
            for direction in ["rx", "tx"] {
                let classes = Classes::read(&metrics, &device, direction)?;
                said += classes.get(class::MPTCP) + classes.get(class::TCP);
            }
            ensure!(said == *clear, "{device}: {said:?} instead of {clear:?}");
        }
    }
    talk.close()
}
