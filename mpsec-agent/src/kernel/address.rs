//! Addresses of interfaces, and where a packet from one of them would go: rtnetlink.
//!
//! Source: include/uapi/linux/if_addr.h and rtnetlink.h (Linux 6.18). Everybody may ask.

use std::net::IpAddr;

use super::netlink::{Client, Message, NetlinkError, Request, attribute, attributes, u32_at};
use super::rtnl::{self, ip, octets};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_DEPRECATED: u32 = 0x20;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_TEMPORARY: u32 = 0x01;
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// Length of `struct ifaddrmsg` in bytes.
const ADDRESS_HEADER_LEN: usize = 8;
/// Length of `struct rtmsg` in bytes.
const ROUTE_HEADER_LEN: usize = 12;

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the interface.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix in bits.
    pub prefix_len: u8,
    /// Link-local, host-local or narrower: of no use beyond the link.
    pub is_local: bool,
    /// Whether it can be used.
    pub readiness: Readiness,
    /// The address of the other end, on a point-to-point link that has one.
    pub peer: Option<IpAddr>,
    /// All that the kernel notes of it: `IFA_F_*` flags.
    pub flags: u32,
}

impl Address {
    /// An address that somebody gave to the interface for good, and that can be used.
    pub fn new(ifindex: u32, address: IpAddr, prefix_len: u8) -> Address {
        let readiness = Readiness::Ready;
        Address { ifindex, address, prefix_len, is_local: false, readiness, peer: None, flags: IFA_F_PERMANENT }
    }

    /// It stays until somebody takes it away. False for one with a lifetime, from DHCP or a router's advertisement, even if
    /// that lifetime has no end (inet_fill_ifaddr, net/ipv4/devinet.c; addrconf_prefix_rcv, net/ipv6/addrconf.c).
    pub fn is_permanent(&self) -> bool {
        self.flags & IFA_F_PERMANENT != 0
    }

    /// The kernel made no route to its prefix (`noprefixroute`): whoever set the address sees to routes.
    pub fn is_without_prefix_route(&self) -> bool {
        self.flags & IFA_F_NOPREFIXROUTE != 0
    }

    /// An IPv6 address that is replaced by another before long, for privacy (RFC 8981). With IPv4 the flag stands for a second
    /// address of the same prefix, which is no such thing.
    pub fn is_temporary(&self) -> bool {
        self.address.is_ipv6() && self.flags & IFA_F_TEMPORARY != 0
    }
}

/// Whether an address can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// Duplicate address detection (RFC 4862) has not ended.
    Tentative,
    /// Somebody else has it.
    Duplicate,
    /// Not for new connections (RFC 4862 section 5.5.4).
    Deprecated,
}

/// Where a packet would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index of the interface that it would leave by.
    pub ifindex: u32,
    /// The router that it would be given to; `None` for a neighbour.
    pub gateway: Option<IpAddr>,
}

/// All addresses of this network namespace, as they were at one moment.
///
/// # Errors
/// [`NetlinkError::Interrupted`] when they change all the time.
pub fn list() -> Result<Vec<Address>, NetlinkError> {
    let mut client = Client::open(netlink_sys::protocols::NETLINK_ROUTE)?;
    let request = Request::new(RTM_GETADDR, 0, &[0; ADDRESS_HEADER_LEN]);
    rtnl::list(&mut client, &request, |message| {
        Ok((message.kind == RTM_NEWADDR).then(|| decode_address(message)).flatten())
    })
}

/// Where a packet from `source` to `destination` would go, by all rules and tables, if it is of a socket that is bound to
/// `interface`, by index; `None` for one that is bound to none.
///
/// # Errors
/// `ENETUNREACH` where there is no route; `EINVAL` for a source that is no address of this host.
pub fn route(
    client: &mut Client,
    source: IpAddr,
    destination: IpAddr,
    interface: Option<u32>,
) -> Result<Route, NetlinkError> {
    let (family, bits) = match destination {
        IpAddr::V4(_) => (libc::AF_INET as u8, 32),
        IpAddr::V6(_) => (libc::AF_INET6 as u8, 128),
    };
    let mut header = [0; ROUTE_HEADER_LEN];
    header[..3].copy_from_slice(&[family, bits, bits]);
    let request = Request::new(RTM_GETROUTE, 0, &header)
        .attribute(RTA_DST, &octets(destination))
        .attribute(RTA_SRC, &octets(source));
    let request = match interface {
        Some(index) => request.attribute(RTA_OIF, &index.to_ne_bytes()),
        None => request,
    };
    let mut found = None;
    client.ask(request, |message| {
        if message.kind == RTM_NEWROUTE {
            found = decode_route(&message);
        }
    })?;
    found.ok_or(NetlinkError::Truncated)
}

fn decode_address(message: &Message<'_>) -> Option<Address> {
    /// Narrower than the link (include/uapi/linux/rtnetlink.h, `rt_scope_t`).
    const SCOPE_LINK: u8 = 253;
    let [_family, prefix_len, flags, scope] = *message.payload.first_chunk()?;
    let rest = message.payload.get(ADDRESS_HEADER_LEN..)?;
    // On a point-to-point link the plain attribute is the other end's.
    let (local, plain) = (attribute(rest, IFA_LOCAL).and_then(ip), attribute(rest, IFA_ADDRESS).and_then(ip));
    let address = local.or(plain)?;
    let flags = attribute(rest, IFA_FLAGS).and_then(|value| u32_at(value, 0)).unwrap_or(u32::from(flags));
    let readiness = match flags {
        f if f & IFA_F_DADFAILED != 0 => Readiness::Duplicate,
        f if f & IFA_F_TENTATIVE != 0 => Readiness::Tentative,
        f if f & IFA_F_DEPRECATED != 0 => Readiness::Deprecated,
        _ => Readiness::Ready,
    };
    Some(Address {
        ifindex: u32_at(message.payload, 4)?,
        address,
        prefix_len,
        is_local: scope >= SCOPE_LINK,
        readiness,
        peer: plain.filter(|plain| *plain != address),
        flags,
    })
}

fn decode_route(message: &Message<'_>) -> Option<Route> {
    let (mut ifindex, mut gateway) = (None, None);
    for (kind, value) in attributes(message.payload.get(ROUTE_HEADER_LEN..)?) {
        match kind {
            RTA_OIF => ifindex = u32_at(value, 0),
            RTA_GATEWAY => gateway = ip(value),
            _ => {}
        }
    }
    Some(Route { ifindex: ifindex?, gateway })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_its_address_and_its_route() {
        let lo = list().expect("rtnetlink answers everybody");
        let lo = lo.iter().find(|address| address.address == IpAddr::from([127, 0, 0, 1])).expect("127.0.0.1");
        assert_eq!((lo.ifindex, lo.prefix_len, lo.is_local, lo.readiness), (1, 8, true, Readiness::Ready));
        assert!(lo.is_permanent() && !lo.is_temporary() && lo.peer.is_none(), "{lo:?}");
        let mut client = Client::open(netlink_sys::protocols::NETLINK_ROUTE).expect("a netlink socket");
        let found = route(&mut client, lo.address, lo.address, None).expect("a route to oneself");
        assert_eq!(found, Route { ifindex: 1, gateway: None });
        let foreign = route(&mut client, IpAddr::from([192, 0, 2, 77]), lo.address, None).expect_err("not our address");
        // By rules of the host, which may also be that there is no such route.
        assert!(matches!(foreign.errno(), Some(libc::EINVAL | libc::ENETUNREACH)), "{foreign}");
    }
}
