//! The laboratory of MPTCP: paths with a capture on every device, and the trials that prove it without the agent.

mod bulk;
mod life;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::link::Counters;
use mpsec_tests::mptcp::{Conversation, End, Info};
use mpsec_tests::paths::{Host, Paths, Plan, device};
use mpsec_tests::ss;
use mpsec_tests::wire::{self, Flow, Sum, Tuple, Wire};

/// Both hosts.
pub(crate) const HOSTS: [Host; 2] = [Host::Client, Host::Server];
/// As many bytes more as sent may have crossed where the kernel does not count its probes of a window of 0, each of which is one.
const UNKNOWN_PROBES: u64 = 16;

pub(crate) fn trials() -> Vec<Trial> {
    [bulk::trials(), life::trials()].into_iter().flatten().collect()
}

/// Paths, and what crosses them. It watches from before the first packet.
pub(crate) struct Lab {
    pub(crate) paths: Paths,
    wires: [Vec<Wire>; 2],
}

impl Lab {
    pub(crate) fn new(plan: Plan) -> Result<Self> {
        let paths = Paths::new(plan)?;
        let watch = |host| {
            let wires = (0..plan.paths).map(|path| Wire::watch(paths.netns(host), &device(host, path)));
            wires.collect::<Result<Vec<_>>>()
        };
        let wires = [watch(Host::Client)?, watch(Host::Server)?];
        Ok(Self { paths, wires })
    }

    /// What a host's devices have seen when nothing more comes.
    pub(crate) fn truth(&self, host: Host) -> Result<Truth> {
        let [client, server] = self.truths()?;
        Ok(if host == Host::Client { client } else { server })
    }

    /// What both hosts' devices have seen when nothing more comes to any of them.
    pub(crate) fn truths(&self) -> Result<[Truth; 2]> {
        let mut client = wire::settled(self.wires.iter().flatten())?;
        let server = client.split_off(self.paths.count());
        Ok([Truth { host: Host::Client, paths: client }, Truth { host: Host::Server, paths: server }])
    }

    /// The devices' own counters, a path after the other.
    pub(crate) fn counters(&self, host: Host) -> Result<Vec<Counters>> {
        let netns = self.paths.netns(host);
        (0..self.paths.count()).map(|path| netns.counters(&device(host, path))).collect()
    }

    /// Every device counted what its capture did, if it sees segments.
    pub(crate) fn devices_agree(&self) -> Result<()> {
        for truth in self.truths()? {
            let host = truth.host;
            for (counters, flows) in self.counters(host)?.iter().zip(&truth.paths) {
                let (rx, tx) = wire::total(flows.values());
                let captured = (rx.packets, rx.bytes, tx.packets, tx.bytes);
                let counted = (counters.rx_packets, counters.rx_bytes, counters.tx_packets, counters.tx_bytes);
                ensure!(captured == counted, "{host:?}: captured {captured:?}, the device says {counted:?}");
            }
        }
        Ok(())
    }
}

/// What crossed the devices of one host, a path after the other.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) host: Host,
    pub(crate) paths: Vec<BTreeMap<Tuple, Flow>>,
}

impl Truth {
    /// All subflows, with the path that each takes.
    pub(crate) fn flows(&self) -> impl Iterator<Item = (usize, &Tuple, &Flow)> {
        self.paths
            .iter()
            .enumerate()
            .flat_map(|(path, flows)| flows.iter().map(move |(tuple, flow)| (path, tuple, flow)))
    }

    /// Everything that crossed a path, received and sent.
    pub(crate) fn path(&self, path: usize) -> (Sum, Sum) {
        wire::total(self.paths[path].values())
    }

    /// Everything, received and sent.
    pub(crate) fn total(&self) -> (Sum, Sum) {
        wire::total(self.flows().map(|(_, _, flow)| flow))
    }

    /// The kernel's own count of every subflow that is still there. Exact, but that the server's socket does not know of
    /// the answer to the SYN, which the listener or the request sent, and, unless `lossless`, that a
    /// socket does not know what was dropped between the device and itself.
    pub(crate) fn agrees_with_ss(&self, paths: &Paths, lossless: bool) -> Result<()> {
        let sockets = ss::subflows(paths.netns(self.host))?;
        ensure!(!sockets.is_empty(), "ss shows no subflow");
        for socket in sockets {
            let tuple = (socket.local, socket.remote);
            let flow = self.flows().find(|(_, have, _)| **have == tuple).with_context(|| format!("{socket:?}"))?.2;
            let answer = u64::from(self.host == Host::Server);
            let captured = [flow.tx.payload, flow.tx.retransmitted, flow.tx.packets - answer, flow.rx.packets];
            let counted = ["bytes_sent", "bytes_retrans", "segs_out", "segs_in"].map(|key| socket.number(key));
            let counted: Vec<u64> = counted.into_iter().collect::<Result<_>>()?;
            let compared = if lossless { 4 } else { 3 };
            ensure!(captured[..compared] == counted[..compared], "{:?}: {captured:?}: {socket:?}", self.host);
        }
        Ok(())
    }

    /// What the program sent is what the subflows carried, each byte once: TCP's repetitions are taken off, and MPTCP's
    /// are known from its own counters: data that it sent again, and the last byte, which it sends again to probe a window
    /// of 0 (`mptcp_sendmsg_frag` in net/mptcp/protocol.c, Linux 6.18). Exact; a DATA_FIN has no payload. But what MPTCP
    /// takes back from a subflow that is stale or removed (`__mptcp_retransmit_pending_data`) it counts nowhere, and what it
    /// gave to such a subflow may never have left: then no more is known than that everything crossed once. A kernel without
    /// the counter of probes may have sent some bytes more.
    pub(crate) fn agrees_with(&self, paths: &Paths, end: &End, info: Option<Info>) -> Result<()> {
        let tx = self.total().1;
        let mib = ss::mib(paths.netns(self.host))?;
        // What MPTCP sent again is not known before Linux 6.5; a peer that is plain TCP did not.
        let unknown = info.is_some_and(|info| info.bytes.is_none());
        let retrans = info.and_then(|info| info.bytes).map_or(0, |bytes| bytes.retrans);
        let again = retrans + mib.get("WinProbe").unwrap_or(&0);
        let (carried, sent) = (tx.payload - tx.retransmitted, end.sent + again);
        let taken_back = ["SubflowStale", "RmSubflow"].iter().any(|key| mib.contains_key(*key));
        let probes = if ss::has_mib(paths.netns(self.host), "WinProbe")? { 0 } else { UNKNOWN_PROBES };
        ensure!(
            (sent..=sent + probes).contains(&carried) || (taken_back || unknown) && carried >= end.sent,
            "{:?}: {carried} bytes crossed, {} were sent, {again} again",
            self.host,
            end.sent
        );
        Ok(())
    }

    /// What one host sent is what the other received, for every subflow, where nothing is lost between the devices.
    pub(crate) fn mirrors(&self, other: &Self) -> Result<()> {
        for (path, (local, remote), flow) in self.flows() {
            let there = other.paths[path].get(&(*remote, *local)).context("a subflow that only one host sees")?;
            ensure!(flow.tx == there.rx && flow.rx == there.tx, "{local} - {remote}: {flow:?}, {there:?}");
        }
        ensure!(self.flows().count() == other.flows().count(), "a subflow that only one host sees");
        Ok(())
    }
}

/// All oracles agree on a conversation that is the only one and still open, and both hosts' devices saw the same packets.
/// `lossless` says that the hosts did, too.
pub(crate) fn all_agree(lab: &Lab, talk: &Conversation, lossless: bool) -> Result<[Truth; 2]> {
    let [client, server] = lab.truths()?;
    client.mirrors(&server)?;
    let info = talk.info()?;
    for (truth, end, info) in [(&client, &talk.client, info[0]), (&server, &talk.server, info[1])] {
        truth.agrees_with_ss(&lab.paths, lossless)?;
        truth.agrees_with(&lab.paths, end, info)?;
    }
    Ok([client, server])
}
