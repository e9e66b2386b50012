//! Network interfaces as a person describes them: link-layer address, addresses, speed, state.
//!
//! Source: include/uapi/linux/rtnetlink.h, if_link.h and if_addr.h.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::netlink::{Client, Message, NetlinkError, Request, attribute, string, u32_at};
use crate::snapshot::host::HostInterface;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_EXT_MASK: u16 = 29;
/// Leaves the counters out of the answer, which are most of it (include/uapi/linux/rtnetlink.h, since 4.4).
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Length of `struct ifinfomsg` in bytes.
const LINK_HEADER: usize = 16;
/// Length of `struct ifaddrmsg` in bytes.
const ADDRESS_HEADER: usize = 8;
/// Names of `IF_OPER_*`, by number (include/uapi/linux/if.h).
const STATES: [&str; 7] = ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"];

/// All interfaces of this network namespace, by index.
///
/// # Errors
/// The kernel's refusal. A list that changed while it was read is taken as it is: the next one is a moment away.
pub(super) fn list() -> Result<Vec<HostInterface>, NetlinkError> {
    let mut client = Client::open(netlink_sys::protocols::NETLINK_ROUTE)?;
    let mut found = BTreeMap::new();
    let mask = RTEXT_FILTER_SKIP_STATS.to_ne_bytes();
    let request = Request::new(RTM_GETLINK, 0, &[0; LINK_HEADER]).attribute(IFLA_EXT_MASK, &mask);
    let links = client.dump(request, |message| {
        if let Some((interface, has_speed)) = link(&message) {
            found.insert(interface.index, (interface, has_speed));
        }
    });
    let addresses = client.dump(Request::new(RTM_GETADDR, 0, &[0; ADDRESS_HEADER]), |message| {
        if let Some((index, text)) = address(&message)
            && let Some((interface, _)) = found.get_mut(&index)
        {
            interface.addresses.push(text);
        }
    });
    for outcome in [links, addresses] {
        outcome.or_else(|error| if matches!(error, NetlinkError::Interrupted) { Ok(()) } else { Err(error) })?;
    }
    let complete = |(mut interface, has_speed): (HostInterface, bool)| {
        interface.speed_bits_per_second = if has_speed { speed(&interface.name) } else { None };
        interface
    };
    Ok(found.into_values().map(complete).collect())
}

/// An interface, and whether its speed can mean anything: a veth says 10 Gbit/s whatever it does, and each question takes
/// the lock that changes to interfaces wait for (speed_show, net/core/net-sysfs.c, 6.18).
fn link(message: &Message<'_>) -> Option<(HostInterface, bool)> {
    // A bridge port's own message has the family AF_BRIDGE and says nothing of the interface itself.
    if message.kind != RTM_NEWLINK || message.payload.first() != Some(&(libc::AF_UNSPEC as u8)) {
        return None;
    }
    let attributes = message.payload.get(LINK_HEADER..)?;
    let state = attribute(attributes, IFLA_OPERSTATE).and_then(|value| value.first().copied());
    let kind = attribute(attributes, IFLA_LINKINFO).and_then(|info| attribute(info, IFLA_INFO_KIND)).map(string);
    let has_speed = matches!(kind.as_deref(), None | Some("bond" | "team"));
    let interface = HostInterface {
        index: u32_at(message.payload, 4)?,
        name: string(attribute(attributes, IFLA_IFNAME)?),
        mac: attribute(attributes, IFLA_ADDRESS).filter(|bytes| !bytes.is_empty()).map(hexadecimal),
        mtu_bytes: attribute(attributes, IFLA_MTU).and_then(|value| u32_at(value, 0)),
        operstate: state.map(|n| STATES.get(usize::from(n)).map_or_else(|| n.to_string(), |name| (*name).to_owned())),
        ..HostInterface::default()
    };
    Some((interface, has_speed))
}

/// Index of the interface, and the address. That of a point-to-point link's own end is `IFA_LOCAL`.
fn address(message: &Message<'_>) -> Option<(u32, String)> {
    if message.kind != RTM_NEWADDR {
        return None;
    }
    let (prefix, index) = (*message.payload.get(1)?, u32_at(message.payload, 4)?);
    let attributes = message.payload.get(ADDRESS_HEADER..)?;
    let bytes = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some((index, format!("{address}/{prefix}")))
}

fn hexadecimal(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

/// Megabits per second in sysfs: an error while the link is down, -1 where the device does not know (speed_show,
/// net/core/net-sysfs.c, 6.18).
fn speed(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/speed")).ok()?;
    text.trim().parse::<u64>().ok().filter(|megabits| *megabits > 0).map(|megabits| megabits * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::super::super::netlink::messages;
    use super::*;

    #[test]
    fn an_interface_and_its_address_are_read() {
        let mut header = [0u8; LINK_HEADER];
        header[4] = 7;
        let bytes = Request::new(RTM_NEWLINK, 0, &header)
            .string(IFLA_IFNAME, "wan0")
            .attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 0xab])
            .attribute(IFLA_MTU, &1400u32.to_ne_bytes())
            .attribute(IFLA_OPERSTATE, &[6])
            .nested(IFLA_LINKINFO, |info| info.string(IFLA_INFO_KIND, "veth"))
            .finish(0);
        let (found, has_speed) = messages(&bytes).find_map(|message| link(&message)).expect("a link");
        assert!(!has_speed);
        assert_eq!((found.index, found.name.as_str(), found.mtu_bytes), (7, "wan0", Some(1400)));
        assert_eq!((found.mac.as_deref(), found.operstate.as_deref()), (Some("02:00:00:00:00:ab"), Some("up")));
        let header = [libc::AF_INET as u8, 24, 0, 0, 7, 0, 0, 0];
        let bytes = Request::new(RTM_NEWADDR, 0, &header)
            .attribute(IFA_ADDRESS, &[192, 0, 2, 9])
            .attribute(IFA_LOCAL, &[192, 0, 2, 1])
            .finish(0);
        let found = messages(&bytes).find_map(|message| address(&message));
        assert_eq!(found, Some((7, "192.0.2.1/24".to_owned())));
    }

    #[test]
    fn a_state_without_a_name_stays_a_number() {
        let bytes =
            Request::new(RTM_NEWLINK, 0, &[0; LINK_HEADER]).string(IFLA_IFNAME, "x").attribute(IFLA_OPERSTATE, &[9]);
        let bytes = bytes.finish(0);
        let (found, has_speed) = messages(&bytes).find_map(|message| link(&message)).expect("a link");
        assert!(has_speed);
        assert_eq!((found.operstate.as_deref(), found.mac, found.mtu_bytes), (Some("9"), None, None));
    }
}
