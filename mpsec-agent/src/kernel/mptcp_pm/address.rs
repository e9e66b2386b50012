//! Addresses of the path manager: their attributes, their flags, and endpoints.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::attribute::{Host, Network, attributes};
use crate::snapshot::mptcp as snapshot;

attributes! {
    /// What an address consists of (`MPTCP_PM_ADDR_ATTR_*`, include/uapi/linux/mptcp_pm.h, Linux 6.18).
    AddressAttribute {
        /// Address family, `AF_INET` or `AF_INET6`.
        Family(u16) = 1, Host;
        /// Address identifier (RFC 8684 section 3.4.1).
        Id(u8) = 2, Host;
        /// IPv4 address.
        Address4(Ipv4Addr) = 3, Network;
        /// IPv6 address.
        Address6(Ipv6Addr) = 4, Network;
        /// Port. It lies in host order, unlike in events (mptcp_pm_parse_pm_addr_attr, net/mptcp/pm_netlink.c).
        Port(u16) = 5, Host;
        /// Flags, as in [`EndpointFlags`].
        Flags(u32) = 6, Host;
        /// Index of the interface that subflows from this address are bound to.
        Interface(i32) = 7, Host;
    }
}

/// Flags of an endpoint (`MPTCP_PM_ADDR_FLAG_*`, include/uapi/linux/mptcp.h, Linux 6.18), known and unknown ones.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointFlags(pub u32);

impl EndpointFlags {
    /// It is announced to the peer.
    pub const SIGNAL: EndpointFlags = EndpointFlags(1);
    /// Subflows are made from it.
    pub const SUBFLOW: EndpointFlags = EndpointFlags(2);
    /// Its subflows are used when nothing else is left.
    pub const BACKUP: EndpointFlags = EndpointFlags(4);
    /// A subflow is made from it to each address of the peer.
    pub const FULLMESH: EndpointFlags = EndpointFlags(8);
    /// The kernel made it for an address that a connection uses.
    pub const IMPLICIT: EndpointFlags = EndpointFlags(16);
    /// It is used for subflows to addresses that the peer announces, from Linux 6.18 on.
    pub const LAMINAR: EndpointFlags = EndpointFlags(32);

    const NAMES: [(&'static str, EndpointFlags); 6] = [
        ("signal", Self::SIGNAL),
        ("subflow", Self::SUBFLOW),
        ("backup", Self::BACKUP),
        ("fullmesh", Self::FULLMESH),
        ("implicit", Self::IMPLICIT),
        ("laminar", Self::LAMINAR),
    ];

    /// Whether all of `other` are among them.
    pub const fn contains(self, other: EndpointFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Their names in the order of the bits; of a bit that has none, its value as a number.
    pub fn names(self) -> Vec<String> {
        let bits = (0..u32::BITS).map(|bit| EndpointFlags(1 << bit)).filter(|flag| self.contains(*flag));
        bits.map(|flag| match Self::NAMES.iter().find(|(_, known)| *known == flag) {
            Some((name, _)) => (*name).to_owned(),
            None => flag.0.to_string(),
        })
        .collect()
    }

    /// The flag with this name, or with this value if it is a number.
    pub fn from_name(name: &str) -> Option<EndpointFlags> {
        let known = Self::NAMES.iter().find_map(|(known, flag)| (*known == name).then_some(*flag));
        known.or_else(|| name.parse().ok().map(EndpointFlags))
    }
}

impl std::ops::BitOr for EndpointFlags {
    type Output = EndpointFlags;

    fn bitor(self, other: EndpointFlags) -> EndpointFlags {
        EndpointFlags(self.0 | other.0)
    }
}

impl fmt::Display for EndpointFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

impl fmt::Debug for EndpointFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointFlags({self})")
    }
}

/// An address that the path manager knows, or is to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address identifier. 0 in a request lets the kernel choose, or says nothing; 0 of a connection is the address that it
    /// began with.
    pub id: u8,
    /// Address.
    pub address: IpAddr,
    /// Port of its own; `None` for that of the connection.
    pub port: Option<u16>,
    /// Flags.
    pub flags: EndpointFlags,
    /// Index of the interface that its subflows are bound to; `None` for no interface in particular.
    pub interface: Option<i32>,
    /// Attributes that have no name here.
    pub other: Vec<AddressAttribute>,
}

impl Endpoint {
    /// An endpoint with nothing but an address and flags.
    pub fn new(address: IpAddr, flags: EndpointFlags) -> Endpoint {
        Endpoint { id: 0, address, port: None, flags, interface: None, other: Vec::new() }
    }

    /// What an address' attributes say; `None` if there is no address among them.
    pub fn from_attributes(attributes: &[AddressAttribute]) -> Option<Endpoint> {
        let mut endpoint = Endpoint::new(address_of(attributes)?, EndpointFlags::default());
        for attribute in attributes {
            match attribute {
                AddressAttribute::Family(_) | AddressAttribute::Address4(_) | AddressAttribute::Address6(_) => {}
                AddressAttribute::Id(id) => endpoint.id = *id,
                // 0 is how the kernel says that there is none (mptcp_nl_fill_addr).
                AddressAttribute::Port(port) => endpoint.port = (*port != 0).then_some(*port),
                AddressAttribute::Flags(flags) => endpoint.flags = EndpointFlags(*flags),
                AddressAttribute::Interface(index) => endpoint.interface = (*index != 0).then_some(*index),
                other @ AddressAttribute::Other { .. } => endpoint.other.push(other.clone()),
            }
        }
        Some(endpoint)
    }

    /// The attributes that say it in a request. What is none, or 0, is left out.
    pub fn to_attributes(&self) -> Vec<AddressAttribute> {
        let mut attributes = address_attributes(self.address);
        attributes.extend((self.id != 0).then_some(AddressAttribute::Id(self.id)));
        attributes.extend(self.port.map(AddressAttribute::Port));
        attributes.extend((self.flags.0 != 0).then_some(AddressAttribute::Flags(self.flags.0)));
        attributes.extend(self.interface.map(AddressAttribute::Interface));
        attributes.extend(self.other.iter().cloned());
        attributes
    }

    /// As a snapshot shows it. `interface_name` tells the name of an index; without one, the number stands for it.
    pub fn to_snapshot(&self, interface_name: impl Fn(i32) -> Option<String>) -> snapshot::Endpoint {
        snapshot::Endpoint {
            id: self.id,
            address: self.address,
            port: self.port,
            interface: self.interface.map(|index| interface_name(index).unwrap_or_else(|| index.to_string())),
            flags: self.flags.names(),
        }
    }
}

/// The attributes of a peer's address and port.
pub(super) fn socket_attributes(address: SocketAddr) -> Vec<AddressAttribute> {
    let mut attributes = address_attributes(address.ip());
    attributes.push(AddressAttribute::Port(address.port()));
    attributes
}

fn address_attributes(address: IpAddr) -> Vec<AddressAttribute> {
    match address {
        IpAddr::V4(v4) => vec![AddressAttribute::Family(libc::AF_INET as u16), AddressAttribute::Address4(v4)],
        IpAddr::V6(v6) => vec![AddressAttribute::Family(libc::AF_INET6 as u16), AddressAttribute::Address6(v6)],
    }
}

fn address_of(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address4(v4) => Some(IpAddr::V4(*v4)),
        AddressAttribute::Address6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}
