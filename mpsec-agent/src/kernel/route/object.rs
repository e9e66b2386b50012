//! Next hop objects (ip-nexthop(8)), which many routes can share, and what they say.
//!
//! Source: include/uapi/linux/nexthop.h and net/ipv4/nexthop.c, Linux 6.18. Since Linux 5.3.

use std::collections::BTreeMap;

use super::{NextHop, Route, State};
use crate::kernel::netlink::{Client, Message, NetlinkError, Request, attributes, u32_at};
use crate::kernel::rtnl::{self, ip};

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_GETNEXTHOP: u16 = 106;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
/// Length of `struct nhmsg` in bytes.
const HEADER_LEN: usize = 8;
/// Length of `struct nexthop_grp` in bytes.
const MEMBER_LEN: usize = 8;

/// A next hop object: one way, or a group of others with their weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Object {
    id: u32,
    way: Option<NextHop>,
    members: Vec<(u32, u16)>,
}

/// Tells of routes that only name an object where they go. The kernel does that itself, unless the setting
/// net.ipv4.nexthop_compat_mode is off (fib_dump_info, rt6_fill_node).
pub(super) fn resolve(client: &mut Client, routes: &mut [Route]) -> Result<(), NetlinkError> {
    let is_open = |route: &Route| route.nexthop_id.is_some() && route.ways().next().is_none();
    if !routes.iter().any(is_open) {
        return Ok(());
    }
    let found = rtnl::list(client, &Request::new(RTM_GETNEXTHOP, 0, &[0; HEADER_LEN]), decode)?;
    let objects: BTreeMap<u32, Object> = found.into_iter().map(|object| (object.id, object)).collect();
    for route in routes.iter_mut().filter(|route| is_open(route)) {
        if let Some(object) = route.nexthop_id.and_then(|id| objects.get(&id)) {
            apply(route, object, &objects);
        }
    }
    Ok(())
}

fn apply(route: &mut Route, object: &Object, objects: &BTreeMap<u32, Object>) {
    if let Some(way) = &object.way {
        (route.ifindex, route.gateway, route.onlink) = (Some(way.ifindex), way.gateway, way.onlink);
    }
    let member = |(id, weight): &(u32, u16)| Some(NextHop { weight: *weight, ..objects.get(id)?.way.clone()? });
    route.next_hops = object.members.iter().filter_map(member).collect();
}

fn decode(message: &Message<'_>) -> Result<Option<Object>, NetlinkError> {
    if message.kind != RTM_NEWNEXTHOP {
        return Ok(None);
    }
    let flags = u32_at(message.payload, 4).ok_or(NetlinkError::Truncated)?;
    let (mut object, mut ifindex, mut gateway) = (Object::default(), None, None);
    for (kind, value) in attributes(&message.payload[HEADER_LEN..]) {
        match kind {
            NHA_ID => object.id = u32_at(value, 0).ok_or(NetlinkError::Truncated)?,
            NHA_OIF => ifindex = u32_at(value, 0),
            NHA_GATEWAY => gateway = ip(value),
            NHA_GROUP => object.members = value.chunks_exact(MEMBER_LEN).filter_map(member).collect(),
            _ => {}
        }
    }
    object.way = ifindex.map(|ifindex| NextHop {
        gateway,
        ifindex,
        weight: 1,
        onlink: flags & super::message::ONLINK != 0,
        other: Vec::new(),
        state: State { flags: flags & !super::message::ONLINK, expires_cs: None },
    });
    Ok(Some(object))
}

/// A member's id and weight; the upper eight bits of the latter since Linux 6.12.
fn member(bytes: &[u8]) -> Option<(u32, u16)> {
    Some((u32_at(bytes, 0)?, u16::from_le_bytes([bytes[4], bytes[5]]).saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::messages;

    fn read(request: Request) -> Object {
        let bytes = request.finish(0);
        decode(&messages(&bytes).next().unwrap()).unwrap().unwrap()
    }

    #[test]
    fn a_group_is_the_ways_of_its_members() {
        let number = |n: u32| n.to_ne_bytes();
        let new = || Request::new(RTM_NEWNEXTHOP, 0, &[2, 0, 0, 0, 0, 0, 0, 0]);
        let one = read(new().attribute(NHA_ID, &number(1)).attribute(NHA_OIF, &number(7)));
        let two = new().attribute(NHA_ID, &number(2)).attribute(NHA_OIF, &number(8));
        let two = read(two.attribute(NHA_GATEWAY, &[192, 0, 2, 9]));
        let members = [number(1), [0; 4], number(2), [9, 0, 0, 0], number(77), [0; 4]].concat();
        let group = read(new().attribute(NHA_ID, &number(3)).attribute(NHA_GROUP, &members));
        let objects = [one, two, group.clone()].map(|object| (object.id, object)).into();
        let mut route = Route::nowhere("0.0.0.0/0".parse().unwrap(), 254, super::super::Kind::Unicast);
        apply(&mut route, &group, &objects);
        let gateway = Some("192.0.2.9".parse().unwrap());
        assert_eq!(route.ways().collect::<Vec<_>>(), [(7, None), (8, gateway)]);
        assert_eq!(route.next_hops.iter().map(|hop| hop.weight).collect::<Vec<_>>(), [1, 10]);
        apply(&mut route, &objects[&2], &objects);
        assert_eq!(route.ways().collect::<Vec<_>>(), [(8, gateway)]);
    }
}
