//! The paths that subflows take, and what all subflows that ever took one have carried.
//!
//! A path outlives its subflows, so its counters never go backwards. There are at most so many of them: when there is no room,
//! the one that has been idle longest goes into [`OTHER`], and a new one too if none is idle.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::config::PathsConfig;
use crate::snapshot::mptcp::{DELIVERY_RATE_BOUNDS, Histogram, OTHER, Path, RTT_BOUNDS, SubflowCounts, SubflowTraffic};

/// A path without subflows for so long may make room for another.
const IDLE: Duration = Duration::from_secs(600);

/// Which path: an index that stays good while the path has subflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathId(usize);

/// The path of everything beyond the configured maximum.
const OTHER_ID: PathId = PathId(0);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    interface: String,
    ipv6: bool,
    remote: String,
}

/// A path and what the table needs beside it.
struct Entry {
    key: Option<Key>,
    path: Path,
    /// Subflows that are on it.
    users: u32,
    /// When its last subflow left.
    idle_since: Option<Instant>,
}

/// All paths of a network namespace.
pub struct Paths {
    settings: PathsConfig,
    entries: Vec<Entry>,
    index: HashMap<Key, usize>,
    /// Paths that were folded into [`OTHER`].
    pub folded: u64,
}

impl Paths {
    /// None yet.
    pub fn new(settings: PathsConfig) -> Paths {
        let other = Entry { key: None, path: empty(OTHER, "", OTHER), users: 0, idle_since: None };
        Paths { settings, entries: vec![other], index: HashMap::new(), folded: 0 }
    }

    /// The path that leads from an interface to an address, with one subflow more on it.
    pub fn enter(&mut self, interface: &str, remote: IpAddr, now: Instant) -> PathId {
        let key =
            Key { interface: interface.to_owned(), ipv6: remote.is_ipv6(), remote: self.settings.remote_name(remote) };
        let id = match self.index.get(&key) {
            Some(index) => PathId(*index),
            None => self.add(key, now),
        };
        self.entries[id.0].users += 1;
        self.entries[id.0].idle_since = None;
        id
    }

    /// One subflow less on a path.
    pub fn leave(&mut self, id: PathId, now: Instant) {
        let entry = &mut self.entries[id.0];
        entry.users -= 1;
        if entry.users == 0 {
            entry.idle_since = Some(now);
        }
    }

    /// The path itself.
    pub fn get_mut(&mut self, id: PathId) -> &mut Path {
        &mut self.entries[id.0].path
    }

    /// Sets the gauges of all paths to nothing, before they are counted anew.
    pub fn clear_gauges(&mut self) {
        for entry in &mut self.entries {
            entry.path.subflows = SubflowCounts::default();
            entry.path.silent = None;
        }
    }

    /// Every path, ordered by labels; [`OTHER`] only if something is in it.
    pub fn all(&self) -> Vec<Path> {
        let shown = |entry: &&Entry| entry.key.is_some() || self.folded > 0;
        let mut paths: Vec<Path> = self.entries.iter().filter(shown).map(|entry| entry.path.clone()).collect();
        paths.sort_by(|a, b| (&a.interface, &a.family, &a.remote).cmp(&(&b.interface, &b.family, &b.remote)));
        paths
    }

    fn add(&mut self, key: Key, now: Instant) -> PathId {
        let path = empty(&key.interface, if key.ipv6 { "ipv6" } else { "ipv4" }, &key.remote);
        let entry = Entry { key: Some(key.clone()), path, users: 0, idle_since: Some(now) };
        if self.entries.len() <= self.settings.max_paths as usize {
            self.entries.push(entry);
            self.index.insert(key, self.entries.len() - 1);
            return PathId(self.entries.len() - 1);
        }
        self.folded += 1;
        let Some(index) = self.idle_longest(now) else { return OTHER_ID };
        let old = std::mem::replace(&mut self.entries[index], entry);
        if let Some(key) = &old.key {
            self.index.remove(key);
        }
        fold(&mut self.entries[OTHER_ID.0].path, &old.path);
        self.index.insert(key, index);
        PathId(index)
    }

    fn idle_longest(&self, now: Instant) -> Option<usize> {
        let idle = |(index, entry): (usize, &Entry)| {
            let since = entry.idle_since.filter(|since| now.saturating_duration_since(*since) >= IDLE)?;
            entry.key.as_ref().map(|_| (since, index))
        };
        self.entries.iter().enumerate().filter_map(idle).min().map(|(_, index)| index)
    }
}

fn empty(interface: &str, family: &str, remote: &str) -> Path {
    let histogram = |bounds: &[f64]| Histogram { counts: vec![0; bounds.len() + 1], sum: 0.0 };
    Path {
        interface: interface.to_owned(),
        family: family.to_owned(),
        remote: remote.to_owned(),
        rx: SubflowTraffic::default(),
        tx: SubflowTraffic::default(),
        subflows: SubflowCounts::default(),
        opened_total: 0,
        closed_total: Default::default(),
        rtt_seconds: histogram(RTT_BOUNDS),
        delivery_rate: histogram(DELIVERY_RATE_BOUNDS),
        silent: None,
    }
}

/// Adds what `from` has counted to `into`.
fn fold(into: &mut Path, from: &Path) {
    into.rx.add(&from.rx);
    into.tx.add(&from.tx);
    into.opened_total += from.opened_total;
    for (reason, count) in &from.closed_total {
        *into.closed_total.entry(reason.clone()).or_default() += count;
    }
    for (into, from) in [(&mut into.rtt_seconds, &from.rtt_seconds), (&mut into.delivery_rate, &from.delivery_rate)] {
        into.sum += from.sum;
        into.counts.iter_mut().zip(&from.counts).for_each(|(into, from)| *into += from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(max_paths: u32) -> Paths {
        Paths::new(PathsConfig { max_paths, ..PathsConfig::default() })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_of_one_prefix_share_a_path() {
        let (mut paths, now) = (paths(8), Instant::now());
        let first = paths.enter("wan0", address("192.0.2.1"), now);
        assert_eq!(paths.enter("wan0", address("192.0.2.200"), now), first);
        assert_ne!(paths.enter("wan1", address("192.0.2.1"), now), first);
        assert_ne!(paths.enter("wan0", address("192.0.3.1"), now), first);
        let all = paths.all();
        let names: Vec<_> = all.iter().map(|path| (path.interface.as_str(), path.remote.as_str())).collect();
        assert_eq!(names, [("wan0", "192.0.2.0/24"), ("wan0", "192.0.3.0/24"), ("wan1", "192.0.2.0/24")]);
    }

    #[test]
    fn without_room_a_path_is_folded_and_nothing_is_lost() {
        let (mut paths, now) = (paths(2), Instant::now());
        let first = paths.enter("a", address("192.0.2.1"), now);
        paths.get_mut(first).rx.bytes = 5;
        let second = paths.enter("b", address("192.0.2.1"), now);
        paths.get_mut(second).rx.bytes = 7;
        assert_eq!(paths.enter("c", address("192.0.2.1"), now), OTHER_ID, "both are in use");
        paths.leave(second, now);
        assert_eq!(paths.enter("d", address("192.0.2.1"), now), OTHER_ID, "not idle for long");
        let later = now + IDLE;
        let third = paths.enter("e", address("192.0.2.1"), later);
        assert_eq!(third, second, "its place was taken");
        let all = paths.all();
        let names: Vec<_> = all.iter().map(|path| (path.interface.as_str(), path.rx.bytes)).collect();
        assert_eq!(names, [("_other", 7), ("a", 5), ("e", 0)]);
        assert_eq!(paths.folded, 3);
        let again = paths.enter("b", address("192.0.2.1"), later);
        assert_eq!(again, OTHER_ID);
    }
}
