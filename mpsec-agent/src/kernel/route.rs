//! Routes: listed, added, replaced and deleted through rtnetlink.
//!
//! Source: include/uapi/linux/rtnetlink.h, net/ipv4/fib_frontend.c, net/ipv4/fib_trie.c and net/ipv6/route.c, Linux 6.18.
//! Everybody may list; changing needs CAP_NET_ADMIN.

use std::net::IpAddr;

use ipnet::IpNet;

use super::netlink::{CREATE, Client, EXCLUSIVE, NetlinkError, REPLACE};
use super::rtnl::{self, Attribute, Family, PROTOCOL};

mod code;
mod message;
mod object;
#[cfg(test)]
mod tests;

/// What an IPv6 route gets that says nothing of its metric (IP6_RT_PRIO_USER, include/uapi/linux/ipv6_route.h).
pub const IPV6_METRIC: u32 = 1024;
/// The loopback device of every namespace (LOOPBACK_IFINDEX, include/net/flow.h).
const LOOPBACK_INDEX: u32 = 1;

/// A route. Two routes are the same setting if [`Route::is_same`] says so; `==` compares the kernel's notes on them too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// What it leads to; of length 0 for a default route. Bits behind the length are refused by IPv4 and dropped by IPv6.
    pub destination: IpNet,
    /// Only for packets from there (IPv6).
    pub source: Option<IpNet>,
    /// Only for packets of this type of service (IPv4); 0 for all.
    pub tos: u8,
    /// The table that it is in.
    pub table: u32,
    /// Who made it, an `RTPROT_*` number; [`PROTOCOL`] for MPSec.
    pub protocol: u8,
    /// How far the destination is. IPv6 knows none, and says [`Scope::Universe`].
    pub scope: Scope,
    /// What happens to the packet.
    pub kind: Kind,
    /// The router; `None` for neighbours. It may be an IPv6 router of an IPv4 route (`RTA_VIA`).
    pub gateway: Option<IpAddr>,
    /// Index of the interface. IPv6 says the loopback device where packets are refused.
    pub ifindex: Option<u32>,
    /// The router is taken to be on the interface's link, whatever the addresses say.
    pub onlink: bool,
    /// The ways to go where there are several; then `gateway` and `ifindex` are `None`.
    pub next_hops: Vec<NextHop>,
    /// Number of the next hop object (ip-nexthop(8)) that says where to go. What that is at the moment is told in `gateway`,
    /// `ifindex` and `next_hops` too; when the route is set, the number alone counts.
    pub nexthop_id: Option<u32>,
    /// The address that this host speaks from, unless a program chose one.
    pub prefsrc: Option<IpAddr>,
    /// Lower ones come first among routes to one destination. `None` is 0 with IPv4 and [`IPV6_METRIC`] with IPv6, which
    /// therefore never lists `None`.
    pub metric: Option<u32>,
    /// Congestion control of connections along it (`RTAX_CC_ALGO`).
    pub congestion_control: Option<String>,
    /// The other metrics, `RTAX_*` numbers.
    pub metrics: Vec<Attribute>,
    /// Whatever else the kernel said of it, `RTA_*` numbers.
    pub other: Vec<Attribute>,
    /// The kernel's notes, which nobody sets.
    pub state: State,
}

/// One of several ways to go (`struct rtnexthop`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// The router; `None` for neighbours.
    pub gateway: Option<IpAddr>,
    /// Index of the interface.
    pub ifindex: u32,
    /// Its share against the others': 1 and above.
    pub weight: u16,
    /// As that of a route.
    pub onlink: bool,
    /// Whatever else was said of it, `RTA_*` numbers.
    pub other: Vec<Attribute>,
    /// The kernel's notes.
    pub state: State,
}

/// What the kernel notes of a route or a next hop, which changes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// `RTNH_F_*` and `RTM_F_*` flags but `RTNH_F_ONLINK`.
    pub flags: u32,
    /// Hundredths of a second until it is gone (IPv6).
    pub expires_cs: Option<i32>,
}

impl State {
    /// It leads nowhere (RTNH_F_DEAD): its interface is switched off, or going.
    pub fn is_dead(self) -> bool {
        self.flags & message::DEAD != 0
    }

    /// Its interface has no carrier (RTNH_F_LINKDOWN).
    pub fn is_link_down(self) -> bool {
        self.flags & message::LINKDOWN != 0
    }
}

/// What happens to a packet (`RTN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It is sent there.
    Unicast,
    /// It is for this host.
    Local,
    /// It is for this host and, sent, for all of the link.
    Broadcast,
    /// It is for this host, among others.
    Anycast,
    /// It is for a group.
    Multicast,
    /// It is dropped; its sender sees EINVAL.
    Blackhole,
    /// It is answered: host unreachable.
    Unreachable,
    /// It is answered: administratively prohibited.
    Prohibit,
    /// This table does not know; the next rule is asked.
    Throw,
    /// A number without a name here.
    Other(u8),
}

/// How far a destination is (`RT_SCOPE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Anywhere.
    Universe,
    /// In this autonomous system.
    Site,
    /// On this link.
    Link,
    /// On this host.
    Host,
    /// Nowhere: it does not exist.
    Nowhere,
    /// A number without a name here.
    Other(u8),
}

impl Route {
    /// A route of MPSec's, out of an interface and through a router if there is one.
    pub fn new(destination: IpNet, table: u32, ifindex: u32, gateway: Option<IpAddr>) -> Route {
        let is_neighbour = gateway.is_none() && destination.addr().is_ipv4();
        let scope = if is_neighbour { Scope::Link } else { Scope::Universe };
        Route { scope, gateway, ifindex: Some(ifindex), ..Route::blank(destination, table, Kind::Unicast) }
    }

    /// A route of MPSec's that leads nowhere: of the kinds blackhole, unreachable, prohibit and throw.
    pub fn nowhere(destination: IpNet, table: u32, kind: Kind) -> Route {
        // IPv6 gives these to the loopback device (ip6_route_info_create_nh, net/ipv6/route.c) and lists them with it.
        let ifindex = destination.addr().is_ipv6().then_some(LOOPBACK_INDEX);
        Route { ifindex, ..Route::blank(destination, table, kind) }
    }

    fn blank(destination: IpNet, table: u32, kind: Kind) -> Route {
        Route {
            destination,
            source: None,
            tos: 0,
            table,
            protocol: PROTOCOL,
            scope: Scope::Universe,
            kind,
            gateway: None,
            ifindex: None,
            onlink: false,
            next_hops: Vec::new(),
            nexthop_id: None,
            prefsrc: None,
            metric: destination.addr().is_ipv6().then_some(IPV6_METRIC),
            congestion_control: None,
            metrics: Vec::new(),
            other: Vec::new(),
            state: State::default(),
        }
    }

    /// The family of its destination.
    pub fn family(&self) -> Family {
        Family::of(self.destination.addr())
    }

    /// It leads to everything that no other route leads to.
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0 && self.kind == Kind::Unicast
    }

    /// All ways that it goes: interface and router.
    pub fn ways(&self) -> impl Iterator<Item = (u32, Option<IpAddr>)> + '_ {
        let single = self.ifindex.map(|ifindex| (ifindex, self.gateway));
        single.into_iter().chain(self.next_hops.iter().map(|hop| (hop.ifindex, hop.gateway)))
    }

    /// Equal but for what the kernel notes on them, such as a carrier that is gone.
    pub fn is_same(&self, other: &Route) -> bool {
        (self.table, self.destination) == (other.table, other.destination) && self.setting() == other.setting()
    }

    /// Without the kernel's notes.
    fn setting(&self) -> Route {
        let mut setting = Route { state: State::default(), ..self.clone() };
        setting.next_hops.iter_mut().for_each(|hop| hop.state = State::default());
        setting
    }
}

/// Which routes to list. The default is all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this family.
    pub family: Option<Family>,
    /// In this table.
    pub table: Option<u32>,
    /// Made by this protocol.
    pub protocol: Option<u8>,
    /// To destinations of length 0.
    pub only_defaults: bool,
}

/// All routes of all tables, but for those that the kernel learnt of single destinations (`RTM_F_CLONED`).
///
/// # Errors
/// [`NetlinkError::Interrupted`] when they change all the time; the list is never short in silence.
pub fn list(client: &mut Client) -> Result<Vec<Route>, NetlinkError> {
    list_filtered(client, &Filter::default())
}

/// The routes that `filter` lets through. From Linux 4.20 on the kernel leaves out what another table or protocol has.
///
/// # Errors
/// As [`list`]. A table that there is not is an empty one.
pub fn list_filtered(client: &mut Client, filter: &Filter) -> Result<Vec<Route>, NetlinkError> {
    let is_narrow = filter.table.is_some() || filter.protocol.is_some();
    // Without strict checking the kernel looks at nothing but the family, and `decode` filters.
    let is_strict = is_narrow && client.set_strict(true).is_ok();
    let mut routes = Vec::new();
    let families = Family::ALL.into_iter().filter(|family| filter.family.is_none_or(|wanted| wanted == *family));
    let outcome = families.into_iter().try_for_each(|family| {
        let request = message::dump_request(family, if is_strict { *filter } else { Filter::default() });
        match rtnl::list(client, &request, |message| message::decode_wanted(message, family, filter)) {
            Ok(found) => routes.extend(found),
            // Of a table that nothing was ever put into (inet_dump_fib, inet6_dump_fib), or without IPv6.
            Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    });
    if is_strict {
        client.set_strict(false)?;
    }
    outcome?;
    object::resolve(client, &mut routes)?;
    Ok(routes)
}

/// Adds a route.
///
/// # Errors
/// `EEXIST` if there is one to the same destination with the same metric (and type of service) in the table, whoever made it.
pub fn add(client: &mut Client, route: &Route) -> Result<(), NetlinkError> {
    client.execute(message::encode(message::NEW, CREATE | EXCLUSIVE, route))
}

/// Adds a route, in place of the one to the same destination with the same metric in the table, if there is one. It does not
/// matter who made that: look first. No packet finds the table without either.
pub fn replace(client: &mut Client, route: &Route) -> Result<(), NetlinkError> {
    client.execute(message::encode(message::NEW, CREATE | REPLACE, route))
}

/// Deletes a route. The kernel compares what the route says and passes over what it does not say: a metric of `None`, and an
/// absent router or preferred source fit every route (fib_table_delete, ip6_route_del). Its protocol is always compared.
///
/// # Errors
/// `ESRCH` if there is none such.
pub fn delete(client: &mut Client, route: &Route) -> Result<(), NetlinkError> {
    client.execute(message::encode(message::DELETE, 0, route))
}
