//! Local addresses that subflows can be made from.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

/// Addresses that are remembered as gone, and so how many there can be connections from that do not know it yet.
const MOST_GONE: usize = 256;

/// A local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The address.
    pub address: IpAddr,
    /// Index of the interface that subflows from it are bound to; `None` for none in particular.
    pub ifindex: Option<u32>,
    /// Address identifier (RFC 8684 section 3.4.1). 0 lets one be chosen.
    pub id: u8,
    /// Whether its subflows are used only when nothing else is left.
    pub backup: bool,
}

impl Local {
    /// An address, and nothing else said.
    pub fn new(address: IpAddr) -> Local {
        Local { address, ifindex: None, id: 0, backup: false }
    }
}

/// Why local addresses were not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalsError {
    /// An address is there twice.
    #[error("local address {0} is there twice")]
    Twice(IpAddr),
    /// An id is there twice, or belongs to another address.
    #[error("address id {id} of {address} belongs to {other}")]
    IdTaken {
        /// The address.
        address: IpAddr,
        /// Its id.
        id: u8,
        /// The address that has it.
        other: IpAddr,
    },
    /// An address had another id before: peers know it by that.
    #[error("address id of {address} was {before}, and cannot become {id}")]
    IdChanged {
        /// The address.
        address: IpAddr,
        /// The id that it has.
        before: u8,
        /// The id that it was to have.
        id: u8,
    },
    /// There are only 255 ids.
    #[error("more than 255 local addresses")]
    TooMany,
}

/// The local addresses of the moment, those that were there before, and the id of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locals {
    list: Vec<Local>,
    ids: BTreeMap<IpAddr, u8>,
    gone: VecDeque<IpAddr>,
}

impl Locals {
    /// Takes over the addresses that there are from now on. An address keeps its id, also when it went and comes back, unless
    /// another one needed it meanwhile. On an error nothing changes.
    pub fn set(&mut self, wanted: Vec<Local>) -> Result<(), LocalsError> {
        let mut next = self.clone();
        next.list.clear();
        let addresses: BTreeSet<IpAddr> = wanted.iter().map(|local| local.address).collect();
        // Those that say which id they want come first, so that nobody is given it.
        let (said, unsaid): (Vec<Local>, Vec<Local>) = wanted.iter().partition(|local| local.id != 0);
        for local in said.into_iter().chain(unsaid) {
            let id = next.id_for(local, &addresses)?;
            next.ids.insert(local.address, id);
            next.list.push(Local { id, ..local });
        }
        next.list.sort_by_key(|local| wanted.iter().position(|each| each.address == local.address));
        next.note_gone(&self.list);
        *self = next;
        Ok(())
    }

    fn id_for(&mut self, local: Local, addresses: &BTreeSet<IpAddr>) -> Result<u8, LocalsError> {
        let address = local.address;
        if self.list.iter().any(|other| other.address == address) {
            return Err(LocalsError::Twice(address));
        }
        match (self.ids.get(&address).copied(), local.id) {
            (Some(before), id) if id == 0 || id == before => return Ok(before),
            (Some(before), id) => return Err(LocalsError::IdChanged { address, before, id }),
            (None, 0) => {}
            (None, id) => match self.owner(id) {
                Some(other) if addresses.contains(&other) => return Err(LocalsError::IdTaken { address, id, other }),
                // Its owner is gone.
                Some(other) => {
                    self.ids.remove(&other);
                    return Ok(id);
                }
                None => return Ok(id),
            },
        }
        let free = (1..=u8::MAX).find(|id| self.owner(*id).is_none());
        if let Some(id) = free {
            return Ok(id);
        }
        let (other, id) = self
            .ids
            .iter()
            .map(|(a, id)| (*a, *id))
            .find(|(a, _)| !addresses.contains(a))
            .ok_or(LocalsError::TooMany)?;
        self.ids.remove(&other);
        Ok(id)
    }

    fn owner(&self, id: u8) -> Option<IpAddr> {
        self.ids.iter().find_map(|(address, other)| (*other == id).then_some(*address))
    }

    fn note_gone(&mut self, before: &[Local]) {
        let list = &self.list;
        self.gone.retain(|address| !list.iter().any(|local| local.address == *address));
        let went = before.iter().filter(|local| !list.iter().any(|now| now.address == local.address));
        self.gone.extend(went.map(|local| local.address));
        while self.gone.len() > MOST_GONE {
            self.gone.pop_front();
        }
    }

    /// The addresses, in the order in which they were given.
    pub fn list(&self) -> &[Local] {
        &self.list
    }

    /// The address, if it is there.
    pub fn get(&self, address: IpAddr) -> Option<&Local> {
        self.list.iter().find(|local| local.address == address)
    }

    /// Whether it was there and is no more. Of an address that was never told nothing is known, and it is not gone.
    pub fn is_gone(&self, address: IpAddr) -> bool {
        self.gone.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(last: u8, id: u8) -> Local {
        Local { id, ..Local::new([10, 0, 0, last].into()) }
    }

    fn ids(locals: &Locals) -> Vec<u8> {
        locals.list().iter().map(|local| local.id).collect()
    }

    #[test]
    fn ids_are_unique_and_stay() {
        let mut locals = Locals::default();
        locals.set(vec![local(1, 0), local(2, 1), local(3, 0)]).expect("no conflict");
        assert_eq!(ids(&locals), [2, 1, 3]);
        locals.set(vec![local(3, 0)]).expect("no conflict");
        assert!(locals.is_gone([10, 0, 0, 1].into()) && !locals.is_gone([10, 0, 0, 3].into()));
        locals.set(vec![local(4, 0), local(3, 3), local(1, 0)]).expect("no conflict");
        assert_eq!(ids(&locals), [4, 3, 2]);
        assert!(!locals.is_gone([10, 0, 0, 1].into()) && locals.is_gone([10, 0, 0, 2].into()));
    }

    #[test]
    fn conflicts_change_nothing() {
        let mut locals = Locals::default();
        locals.set(vec![local(1, 7)]).expect("no conflict");
        let before = locals.clone();
        let address = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(locals.set(vec![local(1, 0), local(1, 0)]), Err(LocalsError::Twice(address)));
        assert_eq!(locals.set(vec![local(1, 8)]), Err(LocalsError::IdChanged { address, before: 7, id: 8 }));
        let taken = LocalsError::IdTaken { address: [10, 0, 0, 2].into(), id: 7, other: address };
        assert_eq!(locals.set(vec![local(1, 0), local(2, 7)]), Err(taken));
        let many = (0..=255).map(|last| Local::new([10, 0, 1, last].into())).collect();
        assert_eq!(locals.set(many), Err(LocalsError::TooMany));
        assert_eq!(locals, before);
    }

    #[test]
    fn an_id_of_an_address_that_is_gone_can_be_used_again() {
        let mut locals = Locals::default();
        for round in 0..4u8 {
            let all = (1..=200).map(|last| Local::new([10, 0, round, last].into())).collect();
            locals.set(all).expect("at most 255 at a time");
            let mut ids = ids(&locals);
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 200);
        }
        locals.set(vec![local(1, 9)]).expect("whoever had it is gone");
        assert_eq!(ids(&locals), [9]);
        assert!(locals.ids.len() <= 255 && locals.gone.len() <= MOST_GONE);
    }
}
