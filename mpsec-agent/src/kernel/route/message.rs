//! Routes as messages: `struct rtmsg`, `RTA_*`, `RTAX_*` and `struct rtnexthop` (include/uapi/linux/rtnetlink.h, Linux 6.18).

use std::net::IpAddr;

use super::{Filter, Kind, NextHop, Route, Scope, State};
use crate::kernel::netlink::{Message, NetlinkError, Request, attributes, u16_at, u32_at};
use crate::kernel::rtnl::{Attribute, Family, ip, octets, prefix, table_code};

pub(super) const NEW: u16 = 24;
pub(super) const DELETE: u16 = 25;
const GET: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_CACHEINFO: u16 = 12;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_PREF: u16 = 20;
const RTA_PAD: u16 = 24;
const RTA_NH_ID: u16 = 30;
const RTAX_CC_ALGO: u16 = 16;
pub(super) const DEAD: u32 = 1;
pub(super) const ONLINK: u32 = 4;
pub(super) const LINKDOWN: u32 = 16;
/// `RTM_F_CLONED`: learnt of one destination, as its path MTU, and no setting.
const CLONED: u32 = 0x200;
/// Length of `struct rtmsg` in bytes.
const HEADER_LEN: usize = 12;
/// Length of `struct rtnexthop` in bytes.
const NEXT_HOP_LEN: usize = 8;
/// Length of `struct nlmsghdr` in bytes.
const REQUEST_HEADER_LEN: usize = 16;
/// Where `rta_expires` lies in `struct rta_cacheinfo`.
const EXPIRES_OFFSET: usize = 8;

/// The request for a list. The kernel heeds the filter only with strict checking.
pub(super) fn dump_request(family: Family, filter: Filter) -> Request {
    let mut header = [0; HEADER_LEN];
    header[0] = family.code();
    header[4] = filter.table.map_or(0, table_code);
    header[5] = filter.protocol.unwrap_or(0);
    let request = Request::new(GET, 0, &header);
    match filter.table {
        Some(table) => request.attribute(RTA_TABLE, &table.to_ne_bytes()),
        None => request,
    }
}

/// A route of a list, if it is wanted. Most that are not are passed over by their header alone.
pub(super) fn decode_wanted(
    message: &Message<'_>,
    family: Family,
    filter: &Filter,
) -> Result<Option<Route>, NetlinkError> {
    // A kernel without IPv6 answers with what families it has (rtnl_dump_all, net/core/rtnetlink.c).
    if message.kind != NEW || message.payload.first() != Some(&family.code()) {
        return Ok(None);
    }
    let header: &[u8; HEADER_LEN] = message.payload.first_chunk().ok_or(NetlinkError::Truncated)?;
    let is_wanted = filter.protocol.is_none_or(|protocol| protocol == header[5])
        && filter.table.is_none_or(|table| table_code(table) == header[4])
        && !(filter.only_defaults && header[1] != 0);
    if !is_wanted {
        return Ok(None);
    }
    let route = decode(message.payload)?;
    let is_wanted = filter.table.is_none_or(|table| table == route.table) && route.state.flags & CLONED == 0;
    Ok(is_wanted.then_some(route))
}

/// Reads a route from what follows a message's header.
pub(super) fn decode(payload: &[u8]) -> Result<Route, NetlinkError> {
    let header: &[u8; HEADER_LEN] = payload.first_chunk().ok_or(NetlinkError::Truncated)?;
    let [family, destination_len, source_len, tos, table, protocol, scope, kind, ..] = *header;
    let family = Family::from_code(family).ok_or(NetlinkError::Truncated)?;
    let flags = u32_at(header, 8).ok_or(NetlinkError::Truncated)?;
    let mut route = Route {
        tos,
        protocol,
        scope: Scope::from_code(scope),
        onlink: flags & ONLINK != 0,
        state: State { flags: flags & !ONLINK, expires_cs: None },
        metric: None,
        ..Route::blank(family.everything(), u32::from(table), Kind::from_code(kind))
    };
    let (mut destination, mut source) = (None, None);
    for (kind, value) in attributes(&payload[HEADER_LEN..]) {
        match kind {
            RTA_DST => destination = Some(value),
            RTA_SRC => source = Some(value),
            _ => route.take(kind, value)?,
        }
    }
    route.destination = prefix(family, destination, destination_len)?.unwrap_or(route.destination);
    route.source = prefix(family, source, source_len)?;
    Ok(route)
}

impl Route {
    fn take(&mut self, kind: u16, value: &[u8]) -> Result<(), NetlinkError> {
        let number = || u32_at(value, 0).ok_or(NetlinkError::Truncated);
        match kind {
            RTA_TABLE => self.table = number()?,
            RTA_OIF => self.ifindex = Some(number()?),
            RTA_PRIORITY => self.metric = Some(number()?),
            RTA_NH_ID => self.nexthop_id = Some(number()?),
            RTA_GATEWAY => self.gateway = Some(ip(value).ok_or(NetlinkError::Truncated)?),
            RTA_VIA => match via(value) {
                Some(gateway) => self.gateway = Some(gateway),
                None => self.other.push(Attribute::new(kind, value)),
            },
            RTA_PREFSRC => self.prefsrc = Some(ip(value).ok_or(NetlinkError::Truncated)?),
            RTA_METRICS => self.take_metrics(value),
            RTA_MULTIPATH => self.next_hops = next_hops(value)?,
            RTA_CACHEINFO => {
                let expires = u32_at(value, EXPIRES_OFFSET).map(u32::cast_signed);
                self.state.expires_cs = expires.filter(|expires| *expires != 0);
            }
            // A router of medium preference (RFC 4191) is what every IPv6 route is that says nothing of it.
            RTA_PREF if value == [0] => {}
            RTA_PAD => {}
            _ => self.other.push(Attribute::new(kind, value)),
        }
        Ok(())
    }

    fn take_metrics(&mut self, value: &[u8]) {
        for (kind, value) in attributes(value) {
            match (kind, text(value)) {
                (RTAX_CC_ALGO, Some(name)) => self.congestion_control = Some(name),
                _ => self.metrics.push(Attribute::new(kind, value)),
            }
        }
    }
}

/// A string that is the same when it is sent back.
fn text(value: &[u8]) -> Option<String> {
    let bytes = value.strip_suffix(&[0]).filter(|bytes| !bytes.contains(&0))?;
    String::from_utf8(bytes.to_vec()).ok()
}

/// The address in a `struct rtvia`, if it is of IP.
fn via(value: &[u8]) -> Option<IpAddr> {
    let family = Family::from_code(u8::try_from(u16_at(value, 0)?).ok()?)?;
    ip(&value[2..]).filter(|address| Family::of(*address) == family)
}

fn next_hops(mut bytes: &[u8]) -> Result<Vec<NextHop>, NetlinkError> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let len = usize::from(u16_at(bytes, 0).ok_or(NetlinkError::Truncated)?);
        let hop = bytes.get(..len).ok_or(NetlinkError::Truncated)?;
        all.push(next_hop(hop).ok_or(NetlinkError::Truncated)?);
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(all)
}

fn next_hop(bytes: &[u8]) -> Option<NextHop> {
    let [_, _, flags, hops] = *bytes.first_chunk()?;
    let flags = u32::from(flags);
    let mut hop = NextHop {
        gateway: None,
        ifindex: u32_at(bytes, 4)?,
        weight: u16::from(hops) + 1,
        onlink: flags & ONLINK != 0,
        other: Vec::new(),
        state: State { flags: flags & !ONLINK, expires_cs: None },
    };
    for (kind, value) in attributes(bytes.get(NEXT_HOP_LEN..)?) {
        let gateway = match kind {
            RTA_GATEWAY => ip(value),
            RTA_VIA => via(value),
            _ => None,
        };
        match gateway {
            Some(gateway) => hop.gateway = Some(gateway),
            None => hop.other.push(Attribute::new(kind, value)),
        }
    }
    Some(hop)
}

/// The request that adds, replaces or deletes a route.
pub(super) fn encode(message_type: u16, flags: u16, route: &Route) -> Request {
    let family = route.family();
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(&[
        family.code(),
        route.destination.prefix_len(),
        route.source.map_or(0, |source| source.prefix_len()),
        route.tos,
        table_code(route.table),
        route.protocol,
        route.scope.code(),
        route.kind.code(),
    ]);
    let onlink = if route.onlink { ONLINK } else { 0 };
    header[8..].copy_from_slice(&onlink.to_ne_bytes());
    let mut request = Request::new(message_type, flags, &header).attribute(RTA_TABLE, &route.table.to_ne_bytes());
    if route.destination.prefix_len() > 0 {
        request = request.attribute(RTA_DST, &octets(route.destination.addr()));
    }
    if let Some(source) = route.source {
        request = request.attribute(RTA_SRC, &octets(source.addr()));
    }
    request = encode_ways(request, family, route);
    if let Some(prefsrc) = route.prefsrc {
        request = request.attribute(RTA_PREFSRC, &octets(prefsrc));
    }
    if let Some(metric) = route.metric {
        request = request.attribute(RTA_PRIORITY, &metric.to_ne_bytes());
    }
    route
        .other
        .iter()
        .fold(encode_metrics(request, route), |request, other| request.attribute(other.kind, &other.value))
}

/// Where it goes: a next hop object's number, or what that would say, but not both (rtm_to_fib_config).
fn encode_ways(mut request: Request, family: Family, route: &Route) -> Request {
    if let Some(id) = route.nexthop_id {
        return request.attribute(RTA_NH_ID, &id.to_ne_bytes());
    }
    if let Some(ifindex) = route.ifindex {
        request = request.attribute(RTA_OIF, &ifindex.to_ne_bytes());
    }
    if let Some(gateway) = route.gateway {
        request = encode_gateway(request, family, gateway);
    }
    if route.next_hops.is_empty() {
        return request;
    }
    request.nested(RTA_MULTIPATH, |request| route.next_hops.iter().fold(request, |r, hop| encode_hop(r, family, hop)))
}

fn encode_gateway(request: Request, family: Family, gateway: IpAddr) -> Request {
    if Family::of(gateway) == family {
        return request.attribute(RTA_GATEWAY, &octets(gateway));
    }
    let mut via = u16::from(Family::of(gateway).code()).to_ne_bytes().to_vec();
    via.extend(octets(gateway));
    request.attribute(RTA_VIA, &via)
}

fn encode_hop(request: Request, family: Family, hop: &NextHop) -> Request {
    let hops = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
    let flags = if hop.onlink { ONLINK as u8 } else { 0 };
    let mut body = Request::new(0, 0, &hop.ifindex.to_ne_bytes());
    if let Some(gateway) = hop.gateway {
        body = encode_gateway(body, family, gateway);
    }
    let body = hop.other.iter().fold(body, |body, other| body.attribute(other.kind, &other.value)).finish(0);
    // A `struct rtnexthop` begins as an attribute does: its length, then two bytes where that has its kind.
    request.attribute(u16::from_ne_bytes([flags, hops]), &body[REQUEST_HEADER_LEN..])
}

fn encode_metrics(request: Request, route: &Route) -> Request {
    if route.metrics.is_empty() && route.congestion_control.is_none() {
        return request;
    }
    request.nested(RTA_METRICS, |mut request| {
        if let Some(name) = &route.congestion_control {
            request = request.string(RTAX_CC_ALGO, name);
        }
        route.metrics.iter().fold(request, |request, metric| request.attribute(metric.kind, &metric.value))
    })
}
