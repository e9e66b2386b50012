//! Which endpoints there are and which were taken away, what interfaces their addresses are on, and which of these can be used.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::kernel::address::{Address, Readiness};
use crate::kernel::mptcp_pm::{Endpoint, EndpointFlags};

/// For so long after its interface came up it is looked often whether an address can be used: duplicate address detection takes
/// some seconds, and so does a lease.
const SOON: Duration = Duration::from_secs(10);

/// What the kernel tells endpoints apart by: one address can have several, with ports of their own.
type Key = (IpAddr, Option<u16>);

/// The endpoints, and where their addresses are.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// As the kernel listed them last, without those that it made by itself.
    there: BTreeMap<Key, Endpoint>,
    /// What was taken away, and is to be put back as it was.
    taken: BTreeMap<Key, Endpoint>,
    /// What is there again without [`EndpointFlags::FULLMESH`], as it is to be when no connection is left. The first subflow of
    /// a connection keeps its identifiers when it is closed, and so the kernel makes no other one for a full mesh where it
    /// was; without the flag it does (fill_remote_addresses_vec, net/mptcp/pm_kernel.c, Linux 6.18).
    reduced: BTreeMap<Key, Endpoint>,
    /// The interface that an endpoint's address is, or was last, on; `None` when that is gone.
    homes: BTreeMap<IpAddr, Option<u32>>,
    /// Interfaces, and whether they are up.
    links: BTreeMap<u32, bool>,
    /// Addresses whose interface is up and that could not be used yet, and since when it is up.
    unready: BTreeMap<IpAddr, Instant>,
}

impl Roster {
    /// Takes note of what the kernel lists.
    pub(super) fn refresh(&mut self, endpoints: Vec<Endpoint>, addresses: &[Address]) {
        let made = endpoints.into_iter().filter(|one| !one.flags.contains(EndpointFlags::IMPLICIT));
        self.there = made.map(|one| (key(&one), one)).collect();
        let (there, taken) = (&self.there, &mut self.taken);
        // What somebody else put back is theirs.
        taken.retain(|key, _| !there.contains_key(key));
        let lacks = |one: &Endpoint| !one.flags.contains(EndpointFlags::FULLMESH);
        self.reduced.retain(|key, _| there.get(key).is_some_and(lacks));
        for Address { address, ifindex, .. } in addresses {
            // One that is bound to an interface that is gone could do nothing: it stays away.
            let is_free = |one: &Endpoint| one.interface.is_none_or(|bound| u32::try_from(bound) == Ok(*ifindex));
            if has(there, *address) || at(taken, *address).any(is_free) {
                self.homes.insert(*address, Some(*ifindex));
            }
        }
        let is_known = |address: &IpAddr| has(there, *address) || has(taken, *address);
        self.homes.retain(|address, _| is_known(address));
        self.unready.retain(|address, _| is_known(address));
    }

    /// Addresses of endpoints that are there.
    pub(super) fn there(&self) -> Vec<IpAddr> {
        addresses(&self.there)
    }

    /// Addresses of endpoints that were taken away.
    pub(super) fn away(&self) -> Vec<IpAddr> {
        addresses(&self.taken)
    }

    /// Whether all endpoints of an address were taken away.
    pub(super) fn is_away(&self, address: IpAddr) -> bool {
        has(&self.taken, address) && !has(&self.there, address)
    }

    /// The endpoints of an address that are there.
    pub(super) fn there_at(&self, address: IpAddr) -> Vec<Endpoint> {
        at(&self.there, address).cloned().collect()
    }

    /// The endpoints of an address that were taken away.
    pub(super) fn away_at(&self, address: IpAddr) -> Vec<Endpoint> {
        at(&self.taken, address).cloned().collect()
    }

    /// What was taken away, as it was; and what it was that lacks a flag for now.
    pub(super) fn suspended(&self) -> impl Iterator<Item = &Endpoint> {
        self.gone().chain(self.reduced())
    }

    /// What was taken away, as it was.
    pub(super) fn gone(&self) -> impl Iterator<Item = &Endpoint> {
        self.taken.values()
    }

    /// What lacks a flag for now, as it was.
    pub(super) fn reduced(&self) -> impl Iterator<Item = &Endpoint> {
        self.reduced.values()
    }

    /// An endpoint as it is to be: with the flag that it lacks, if it does.
    pub(super) fn whole<'a>(&'a self, endpoint: &'a Endpoint) -> &'a Endpoint {
        self.reduced.get(&key(endpoint)).unwrap_or(endpoint)
    }

    /// An endpoint was taken away.
    pub(super) fn take(&mut self, endpoint: Endpoint) {
        let key = key(&endpoint);
        self.there.remove(&key);
        self.taken.insert(key, self.reduced.remove(&key).unwrap_or(endpoint));
    }

    /// An endpoint is there like this, perhaps with fewer flags than it is to have.
    pub(super) fn put(&mut self, endpoint: Endpoint) {
        let key = key(&endpoint);
        if let Some(whole) = self.taken.remove(&key)
            && whole.flags != endpoint.flags
        {
            self.reduced.insert(key, whole);
        }
        self.there.insert(key, endpoint);
    }

    /// Endpoints that lack a flag, as they are to be; they are not known for that from now on.
    pub(super) fn complete(&mut self) -> Vec<Endpoint> {
        std::mem::take(&mut self.reduced).into_values().collect()
    }

    /// An endpoint is not to be put back. False if it was not taken away.
    pub(super) fn forget(&mut self, endpoint: &Endpoint) -> bool {
        let key = key(endpoint);
        self.reduced.remove(&key);
        self.taken.remove(&key).is_some()
    }

    /// Whether an address has an endpoint, be it there or not.
    pub(super) fn knows(&self, address: IpAddr) -> bool {
        has(&self.there, address) || has(&self.taken, address)
    }

    /// Takes note of an interface. Returns the addresses on it, if that is news.
    pub(super) fn set_link(&mut self, index: u32, is_up: bool, now: Instant) -> Option<Vec<IpAddr>> {
        if self.links.insert(index, is_up) == Some(is_up) {
            return None;
        }
        let homes = self.homes.iter().filter(|(_, home)| **home == Some(index));
        let addresses: Vec<IpAddr> = homes.map(|(address, _)| *address).collect();
        for address in &addresses {
            match is_up {
                true => self.unready.insert(*address, now),
                false => self.unready.remove(address),
            };
        }
        Some(addresses)
    }

    /// An interface is gone for good: another one may have its addresses.
    pub(super) fn lose_link(&mut self, index: u32) {
        self.links.remove(&index);
        self.homes.values_mut().filter(|home| **home == Some(index)).for_each(|home| *home = None);
    }

    /// Whether an interface is known that an address is, or was, on.
    pub(super) fn has_home(&self, address: IpAddr) -> bool {
        self.homes.contains_key(&address)
    }

    /// Interfaces of endpoints' addresses that are up.
    pub(super) fn links_up(&self) -> BTreeSet<u32> {
        self.homes.values().flatten().copied().filter(|index| self.links.get(index) == Some(&true)).collect()
    }

    /// Addresses whose interface is down or gone.
    pub(super) fn down(&self) -> Vec<IpAddr> {
        let down = self.homes.iter().filter(|(_, home)| self.is_up(**home) == Some(false));
        down.map(|(address, _)| *address).collect()
    }

    /// What is taken for down although its interface is up is to be looked at: the address may have come back, or moved, later
    /// than the interface came up.
    pub(super) fn look_for_up(&mut self, now: Instant, is_down: impl Fn(IpAddr) -> bool) {
        let up = self.homes.iter().filter(|(_, home)| self.is_up(**home) == Some(true));
        let up: Vec<IpAddr> = up.map(|(address, _)| *address).filter(|address| is_down(*address)).collect();
        for address in up {
            self.unready.entry(address).or_insert(now);
        }
    }

    fn is_up(&self, home: Option<u32>) -> Option<bool> {
        home.map_or(Some(false), |index| self.links.get(&index).copied())
    }

    /// Whether an address is waited for that should come any moment.
    pub(super) fn is_waiting(&self, now: Instant) -> bool {
        self.unready.values().any(|since| now.saturating_duration_since(*since) < SOON)
    }

    /// Those of the addresses that were waited for and can be used; they are not waited for any more.
    pub(super) fn ready(&mut self, addresses: &[Address]) -> Vec<IpAddr> {
        let ready = addresses.iter().filter(|one| one.readiness == Readiness::Ready).map(|one| one.address);
        ready.filter(|address| self.unready.remove(address).is_some()).collect()
    }
}

fn key(endpoint: &Endpoint) -> Key {
    (endpoint.address, endpoint.port)
}

/// The endpoints of an address.
fn at(endpoints: &BTreeMap<Key, Endpoint>, address: IpAddr) -> impl Iterator<Item = &Endpoint> {
    endpoints.range((address, None)..=(address, Some(u16::MAX))).map(|(_, endpoint)| endpoint)
}

fn has(endpoints: &BTreeMap<Key, Endpoint>, address: IpAddr) -> bool {
    at(endpoints, address).next().is_some()
}

/// Each address once.
fn addresses(endpoints: &BTreeMap<Key, Endpoint>) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = endpoints.keys().map(|(address, _)| *address).collect();
    all.dedup();
    all
}

#[cfg(test)]
mod tests;
