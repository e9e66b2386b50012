//! IPsec that begins amid a connection of MPTCP.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::paths::{Family, Paths, Plan};
use mpsec_tests::trial::trial;
use mpsec_tests::xfrm::Mode;
use mpsec_tests::{need, ss, wait};
use serde_json::Value;

use super::multipath::{DOWN, HOSTS, LIMIT, PATHS, Scene, UP, laid};
use crate::mptcp_view::{SHOWN, list, number, view};

pub(crate) fn trials() -> Vec<Trial> {
    let one = |family| trial(&format!("ipsec::begun_{family}"), LIMIT, move || begun(family));
    Family::ALL.map(one).into()
}

/// The payload of subflows goes on where their packets begin to hide, and what these had shown stays what it was. The policies of the
/// second path would let packets through in clear, too.
fn begun(family: Family) -> Result<()> {
    need::mptcp()?;
    Mode::Transport.needed(family)?;
    let scene = Scene::new(Paths::new(Plan::wires(PATHS))?)?;
    scene.paths.add_endpoints(family)?;
    let mut talk = Conversation::open(&scene.paths, family)?;
    talk.joined(u32::try_from(PATHS)?)?;
    talk.exchange(UP, DOWN)?;
    scene.has_gone_on(&talk)?;
    let in_clear = [scene.clear(0)?, scene.clear(1)?];
    let packets = scene.packets()?;
    for (path, level) in ["required", "use"].into_iter().enumerate() {
        laid(&scene.paths, Mode::Transport, family, path, level)?;
    }
    // Both ways, and then one: who only receives measures no round trips, and must be asked.
    for down in [DOWN, 0] {
        talk.exchange(UP, down)?;
        scene.has_gone_on(&talk)?;
    }
    ensure!([scene.clear(0)?, scene.clear(1)?] == in_clear, "IPsec did not begin: more than {in_clear:?} in clear");
    ensure!(scene.packets()? == packets, "{:?} instead of {packets:?}", scene.packets()?);
    let before = scene.path_payload()?;
    talk.close()?;
    // The FINs are no payload.
    scene.seen()?;
    let closed = |host: usize| number(&view(&scene.agents[host])?.get("totals")["subflows_closed"]);
    wait::until(SHOWN, || {
        ensure!([closed(0)?, closed(1)?] == [PATHS as u64; 2], "the subflows are still there");
        Ok(())
    })?;
    ensure!(scene.path_payload()? == before, "{:?} instead of {before:?}", scene.path_payload()?);
    Ok(())
}

impl Scene {
    /// The subflows and the paths of both hosts have received what the programs sent, each byte once, and sent what their sockets say:
    /// that may be more, because TCP counts what the host refuses to send, as when packets become too long for the way.
    fn has_gone_on(&self, talk: &Conversation) -> Result<()> {
        let (sent, known) = self.sent(talk)?;
        for host in 0..HOSTS.len() {
            let mut told = 0;
            for socket in ss::subflows(self.paths.netns(HOSTS[host]))? {
                told += socket.number("bytes_sent")? - socket.number("bytes_retrans")?;
            }
            ensure!(told >= sent[host], "{told} bytes sent instead of {}", sent[host]);
            let program = [sent[1 - host], told];
            wait::until(SHOWN, || {
                let view = view(&self.agents[host])?;
                let connection =
                    list(view.get("connections"))?.iter().find(|one| one["token"] != 0).context("no connection")?;
                for all in [list(&connection["subflows"])?, list(view.get("paths"))?] {
                    let carried = once(all)?;
                    let enough = carried.iter().zip(&program).all(|(carried, program)| carried >= program);
                    ensure!(carried == program || !known && enough, "{carried:?} instead of {program:?}: {all:#?}");
                }
                Ok(())
            })
            .with_context(|| format!("host {host}"))?;
        }
        Ok(())
    }

    /// What each host's paths say of packets, received and sent.
    fn packets(&self) -> Result<Vec<u64>> {
        self.of_paths("mpsec_path_packets_total")
    }

    /// What each host's paths say of payload, likewise.
    fn path_payload(&self) -> Result<Vec<u64>> {
        self.of_paths("mpsec_path_payload_bytes_total")
    }

    fn of_paths(&self, name: &str) -> Result<Vec<u64>> {
        let mut all = Vec::new();
        for agent in &self.agents {
            let metrics = agent.scrape()?;
            for direction in ["rx", "tx"] {
                all.push(metrics.sum(name, &[("direction", direction)])?);
            }
        }
        Ok(all)
    }
}

/// What subflows, or paths, have received and sent, each byte once.
fn once(all: &[Value]) -> Result<[u64; 2]> {
    let mut sums = [0; 2];
    for (direction, sum) in ["rx", "tx"].into_iter().zip(&mut sums) {
        for one in all {
            *sum += number(&one[direction]["payload_bytes"])? - number(&one[direction]["retransmitted_bytes"])?;
        }
    }
    Ok(sums)
}
