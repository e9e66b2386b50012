//! Which subflows have series of their own: the largest, up to a cap, and what all others carried together.
//!
//! A counter must not go backwards, while subflows come, go and change places. So what all others carried is not the sum
//! of those that are left over at the moment, but of every byte that was counted while its subflow had no series.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use serde::Serialize;

use super::mptcp::{Connection, Namespace, Subflow, SubflowTraffic};

/// What is published of single subflows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PerSubflow {
    /// The chosen ones, the largest first.
    pub chosen: Vec<Series>,
    /// For each namespace what subflows carried while they were not chosen; never less than before.
    pub other: Vec<Others>,
    /// How often a subflow was left without a series of its own, or lost the one that it had.
    pub folded_total: u64,
}

/// A subflow with series of its own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// Name of the network namespace.
    pub netns: String,
    /// The connection's local token, in hexadecimal as `ss` shows it.
    pub token: String,
    /// Local address and port.
    pub local: String,
    /// Remote address and port.
    pub remote: String,
    /// The interface that it takes; empty until that is known.
    pub interface: String,
    /// Received.
    pub rx: SubflowTraffic,
    /// Sent.
    pub tx: SubflowTraffic,
    /// Smoothed round-trip time in seconds, if its socket was found.
    pub srtt_seconds: Option<f64>,
    /// Congestion window in segments, likewise.
    pub cwnd_segments: Option<u32>,
    /// Delivery rate in bytes per second, likewise.
    pub delivery_rate_bytes_per_second: Option<u64>,
}

/// What the subflows of a namespace carried while they had no series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Others {
    /// Name of the network namespace.
    pub netns: String,
    /// Received.
    pub rx: SubflowTraffic,
    /// Sent.
    pub tx: SubflowTraffic,
}

/// What must be remembered from one snapshot to the next for [`Others`] to be right.
#[derive(Clone, Debug, Default)]
pub struct Folding {
    namespaces: BTreeMap<String, Folded>,
    folded_total: u64,
}

/// The same of one namespace.
#[derive(Clone, Debug, Default)]
struct Folded {
    rx: SubflowTraffic,
    tx: SubflowTraffic,
    live: HashMap<Key, Seen>,
}

type Key = (u32, SocketAddr, SocketAddr);

/// A subflow, as the last snapshot had it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    rx: SubflowTraffic,
    tx: SubflowTraffic,
    chosen: bool,
}

/// A subflow of this snapshot.
struct Candidate<'a> {
    netns: &'a str,
    connection: &'a Connection,
    subflow: &'a Subflow,
    was_chosen: bool,
}

impl Folding {
    /// Chooses at most `cap` subflows, the largest of all namespaces by bytes, and adds up what the others carried since the
    /// last call. Between equals the one that had series before keeps them. Without a cap none are wanted: what was
    /// remembered is forgotten.
    ///
    /// What a subflow carries between the last call that saw it and its end is not in here; the paths have it.
    pub fn choose(&mut self, namespaces: &[Namespace], cap: Option<usize>) -> Option<PerSubflow> {
        let Some(cap) = cap else {
            *self = Self::default();
            return None;
        };
        let mut candidates = self.candidates(namespaces);
        candidates.sort_by_key(|candidate| {
            (std::cmp::Reverse(candidate.bytes()), !candidate.was_chosen, candidate.netns, candidate.key())
        });
        let mut live: HashMap<&str, HashMap<Key, Seen>> = HashMap::new();
        for (rank, candidate) in candidates.iter().enumerate() {
            let seen = self.count(candidate, rank < cap);
            live.entry(candidate.netns).or_default().insert(candidate.key(), seen);
        }
        // Subflows that are gone are forgotten; what they carried stays in the sums.
        for (netns, folded) in &mut self.namespaces {
            folded.live = live.remove(netns.as_str()).unwrap_or_default();
        }
        let chosen = candidates.iter().take(cap).map(Candidate::series).collect();
        Some(PerSubflow { chosen, other: self.others(), folded_total: self.folded_total })
    }

    fn candidates<'a>(&self, namespaces: &'a [Namespace]) -> Vec<Candidate<'a>> {
        let mut candidates = Vec::new();
        for namespace in namespaces {
            for connection in &namespace.connections {
                // What is not in the book, and so on no interface, has no series: one that is counted later would begin below
                // what TCP says of it now.
                let counted =
                    |subflow: &&Subflow| subflow.rx.packets + subflow.tx.packets > 0 || subflow.interface.is_some();
                for subflow in connection.subflows.iter().filter(counted) {
                    let mut candidate = Candidate { netns: &namespace.netns, connection, subflow, was_chosen: false };
                    candidate.was_chosen = self.seen(&candidate).is_some_and(|seen| seen.chosen);
                    candidates.push(candidate);
                }
            }
        }
        candidates
    }

    /// What the last snapshot had of this subflow. A smaller count means that the addresses and the token are those of
    /// another one that is new.
    fn seen(&self, candidate: &Candidate<'_>) -> Option<Seen> {
        let seen = self.namespaces.get(candidate.netns)?.live.get(&candidate.key())?;
        let grown = |before: &SubflowTraffic, now: &SubflowTraffic| {
            before.bytes <= now.bytes && before.payload_bytes <= now.payload_bytes
        };
        let continues = grown(&seen.rx, &candidate.subflow.rx) && grown(&seen.tx, &candidate.subflow.tx);
        continues.then_some(*seen)
    }

    fn count(&mut self, candidate: &Candidate<'_>, chosen: bool) -> Seen {
        let before = self.seen(candidate);
        let now = Seen { rx: candidate.subflow.rx, tx: candidate.subflow.tx, chosen };
        if !self.namespaces.contains_key(candidate.netns) {
            self.namespaces.insert(candidate.netns.to_owned(), Folded::default());
        }
        if !chosen && let Some(folded) = self.namespaces.get_mut(candidate.netns) {
            let base = before.map(|before| (before.rx, before.tx)).unwrap_or_default();
            folded.rx.add(&now.rx.since(&base.0));
            folded.tx.add(&now.tx.since(&base.1));
            if before.is_none_or(|before| before.chosen) {
                self.folded_total += 1;
            }
        }
        now
    }

    fn others(&self) -> Vec<Others> {
        let others = self.namespaces.iter();
        others.map(|(netns, folded)| Others { netns: netns.clone(), rx: folded.rx, tx: folded.tx }).collect()
    }
}

impl Candidate<'_> {
    fn key(&self) -> Key {
        (self.connection.token, self.subflow.local, self.subflow.remote)
    }

    fn bytes(&self) -> u64 {
        self.subflow.rx.carried_bytes() + self.subflow.tx.carried_bytes()
    }

    fn series(&self) -> Series {
        let (subflow, tcp) = (self.subflow, self.subflow.tcp.as_ref());
        Series {
            netns: self.netns.to_owned(),
            token: format!("{:08x}", self.connection.token),
            local: subflow.local.to_string(),
            remote: subflow.remote.to_string(),
            interface: subflow.interface.as_deref().unwrap_or_default().to_owned(),
            rx: subflow.rx,
            tx: subflow.tx,
            srtt_seconds: tcp.map(|tcp| f64::from(tcp.srtt_us) / 1e6),
            cwnd_segments: tcp.map(|tcp| tcp.cwnd_segments),
            delivery_rate_bytes_per_second: tcp.and_then(|tcp| tcp.delivery_rate_bytes_per_second),
        }
    }
}

#[cfg(test)]
mod tests;
