//! Network interfaces through rtnetlink: a dump of all, and events as they come and go.
//!
//! Source: include/uapi/linux/rtnetlink.h and if_link.h.

use std::io;

use mpsec_common::Link;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};

use super::netlink::{Client, Message, NetlinkError, Request, attribute, messages, string, u16_at, u32_at};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTNLGRP_LINK: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
/// `IFF_UP` (include/uapi/linux/if.h).
const ENABLED: u32 = 1;
/// `IFF_UP` and `IFF_LOWER_UP`.
const UP: u32 = ENABLED | 1 << 16;
/// Frames without a link header (include/uapi/linux/if_arp.h), as cellular modems have them.
const ARPHRD_RAWIP: u16 = 519;
/// Room for thousands of events that come at once; the default holds a few hundred.
const RECEIVE_BUFFER: libc::c_int = 4 * 1024 * 1024;
/// How often interfaces are listed before a list is taken that may not be of one moment.
const LIST_ATTEMPTS: usize = 5;
/// Length of `struct ifinfomsg` in bytes.
const HEADER_LEN: usize = 16;

/// What the agent needs to know of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Index in this network namespace.
    pub index: u32,
    /// Name, which may change; other interfaces of the moment have others.
    pub name: String,
    /// Hardware type, an `ARPHRD_*` number.
    pub hardware: u16,
    /// Kind of a virtual interface (`veth`, `bridge`, ...), empty for others.
    pub kind: String,
    /// True when this host's IP layer sits on the interface itself: false for the port of a bridge, a bond or the like, whose
    /// packets come by on that one too, and for a macvlan or ipvlan device, whose packets come by on the one that it lies on.
    pub holds_ip: bool,
    /// True when it is switched on and has a carrier.
    pub is_up: bool,
    /// True when it is switched on, whether it has a carrier or not.
    pub is_enabled: bool,
    /// The longest packet that it sends, in bytes, without the link header.
    pub mtu: Option<u32>,
}

impl Interface {
    fn decode(message: &Message<'_>) -> Option<Interface> {
        // A bridge port's own message has the family AF_BRIDGE and says nothing of the interface itself.
        if message.payload.first() != Some(&(libc::AF_UNSPEC as u8)) {
            return None;
        }
        let attributes = message.payload.get(HEADER_LEN..)?;
        let flags = u32_at(message.payload, 8)?;
        let info = |which| attribute(attribute(attributes, IFLA_LINKINFO)?, which);
        let kind = info(IFLA_INFO_KIND).map(string).unwrap_or_default();
        let is_port = attribute(attributes, IFLA_MASTER).is_some()
            && info(IFLA_INFO_SLAVE_KIND).map(string).as_deref() != Some("vrf");
        let lies_here =
            attribute(attributes, IFLA_LINK).is_some() && attribute(attributes, IFLA_LINK_NETNSID).is_none();
        let is_sublayer = lies_here && matches!(kind.as_str(), "macvlan" | "macvtap" | "ipvlan" | "ipvtap");
        Some(Interface {
            index: u32_at(message.payload, 4)?,
            name: readable(attribute(attributes, IFLA_IFNAME)?),
            hardware: u16_at(message.payload, 2)?,
            // What an ifb device passes on was sent, or received, by the device that gave it to it.
            holds_ip: !is_port && !is_sublayer && kind != "ifb",
            kind,
            is_up: flags & UP == UP,
            is_enabled: flags & ENABLED != 0,
            mtu: attribute(attributes, IFLA_MTU).and_then(|value| u32_at(value, 0)),
        })
    }

    /// How frames begin where TC sees them.
    pub fn link(&self) -> Link {
        match self.hardware {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Link::Ethernet,
            // tun, WireGuard and xfrm interfaces; raw IP modems; PPP; tunnels.
            libc::ARPHRD_NONE
            | ARPHRD_RAWIP
            | libc::ARPHRD_PPP
            | libc::ARPHRD_TUNNEL
            | libc::ARPHRD_TUNNEL6
            | libc::ARPHRD_SIT => Link::Ip,
            _ => Link::Foreign,
        }
    }

    /// True when all that passes was decrypted, or will be encrypted, by IPsec: what for there is no state is not sent.
    pub fn is_inside_ipsec(&self) -> bool {
        matches!(self.kind.as_str(), "xfrm" | "vti" | "vti6")
    }

    /// Bytes of link header that the interface's own counter leaves out, received and sent: loopback takes the header off
    /// before it counts (loopback_xmit); a bridge and a VLAN device count what they receive behind the header
    /// (br_pass_frame_up, vlan_do_receive); tunnels count what they send without the inner header (iptunnel_xmit), and
    /// VXLAN and Geneve also what they receive (vxlan_rcv, geneve_rx). What is inside IPsec is known by its flag.
    pub fn uncounted(&self) -> [u8; 2] {
        match (self.hardware, self.kind.as_str()) {
            (libc::ARPHRD_LOOPBACK, _) => [14, 14],
            (libc::ARPHRD_ETHER, "bridge" | "vlan") => [14, 0],
            (libc::ARPHRD_ETHER, "vxlan" | "geneve") => [14, 14],
            (libc::ARPHRD_ETHER, "gretap" | "ip6gretap" | "erspan" | "ip6erspan") => [0, 14],
            _ => [0, 0],
        }
    }
}

/// A name as text. Bytes that are no UTF-8 are shown as `/xff`, so that names that differ still do: a slash is the one thing
/// that no name holds (dev_valid_name, net/core/dev.c).
fn readable(name: &[u8]) -> String {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    let mut text = String::new();
    for chunk in name[..end].utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("/x{byte:02x}")));
    }
    text
}

/// All interfaces of this network namespace. Where interfaces come and go all the time, the last of a few attempts has to
/// do: it is complete from Linux 6.10 on, which lists by index (rtnl_dump_ifinfo, net/core/rtnetlink.c).
pub fn list() -> Result<Vec<Interface>, NetlinkError> {
    let mut client = Client::open(netlink_sys::protocols::NETLINK_ROUTE)?;
    let mut interfaces = Vec::new();
    for _ in 0..LIST_ATTEMPTS {
        interfaces.clear();
        let outcome = client.dump(Request::new(RTM_GETLINK, 0, &[0; HEADER_LEN]), |message| {
            if message.kind == RTM_NEWLINK {
                interfaces.extend(Interface::decode(&message));
            }
        });
        if !matches!(outcome, Err(NetlinkError::Interrupted)) {
            outcome?;
            break;
        }
    }
    Ok(interfaces)
}

/// An interface as it is at the moment, of which events may tell later.
///
/// # Errors
/// `ENODEV` if there is none with this index.
pub fn look(client: &mut Client, index: u32) -> Result<Option<Interface>, NetlinkError> {
    let mut header = [0; HEADER_LEN];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut found = None;
    client.ask(Request::new(RTM_GETLINK, 0, &header), |message| {
        if message.kind == RTM_NEWLINK {
            found = Interface::decode(&message);
        }
    })?;
    Ok(found)
}

/// Switches an interface on or off, and changes nothing else about it. Switching it off takes its routes, and its IPv6
/// addresses unless net.ipv6.conf.*.keep_addr_on_down keeps them (addrconf_ifdown, net/ipv6/addrconf.c, Linux 6.18).
///
/// # Errors
/// `ENODEV` if there is no such interface; `EPERM` without CAP_NET_ADMIN; what its driver says.
pub fn set_up(client: &mut Client, index: u32, up: bool) -> Result<(), NetlinkError> {
    let mut header = [0; HEADER_LEN];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&if up { ENABLED } else { 0 }.to_ne_bytes());
    // `ifi_change`: no other flag is touched.
    header[12..].copy_from_slice(&ENABLED.to_ne_bytes());
    client.execute(Request::new(RTM_SETLINK, 0, &header))
}

/// What happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is new, or something about it changed.
    Present(Interface),
    /// It is gone from this network namespace.
    Gone {
        /// Its index.
        index: u32,
    },
}

/// The kernel had more events than the socket could hold: list anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// A subscription to interface events.
pub struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Events {
    /// Subscribes. What happens from now on is told; subscribe first and list then, and nothing is missed.
    pub fn subscribe() -> io::Result<Events> {
        let mut socket = TokioSocket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
        let inner = socket.socket_mut();
        super::force_receive_buffer(inner, RECEIVE_BUFFER)?;
        inner.bind(&SocketAddr::new(0, 0))?;
        inner.add_membership(RTNLGRP_LINK)?;
        Ok(Events { socket, buffer: Vec::with_capacity(64 * 1024) })
    }

    /// The events of the next message. Cancelling it loses nothing.
    pub async fn next(&mut self) -> io::Result<Result<Vec<Event>, Overflow>> {
        self.buffer.clear();
        let outcome = self.socket.recv(&mut self.buffer).await;
        self.events(outcome)
    }

    /// The events of a message that is there already; `None` if there is none. The kernel is asked, not the runtime, which
    /// knows of a message only when epoll_wait(2) has told of it: that of a process that was stopped tells nothing at first.
    pub fn next_if_there(&mut self) -> io::Result<Option<Result<Vec<Event>, Overflow>>> {
        self.buffer.clear();
        match self.socket.socket_mut().recv(&mut self.buffer, libc::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            outcome => self.events(outcome.map(drop)).map(Some),
        }
    }

    fn events(&mut self, received: io::Result<()>) -> io::Result<Result<Vec<Event>, Overflow>> {
        match received {
            Ok(()) => Ok(Ok(messages(&self.buffer).filter_map(|message| decode(&message)).collect())),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                super::hear_again(self.socket.socket_mut())?;
                Ok(Err(Overflow))
            }
            Err(error) => Err(error),
        }
    }
}

fn decode(message: &Message<'_>) -> Option<Event> {
    let interface = Interface::decode(message)?;
    match message.kind {
        RTM_NEWLINK => Some(Event::Present(interface)),
        RTM_DELLINK => Some(Event::Gone { index: interface.index }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_listed() {
        let interfaces = list().expect("rtnetlink answers everybody");
        let lo = interfaces.iter().find(|interface| interface.name == "lo").expect("every namespace has a loopback");
        assert_eq!((lo.index, lo.link(), lo.uncounted()), (1, Link::Ethernet, [14, 14]));
    }

    #[test]
    fn names_that_differ_stay_different() {
        assert_eq!(readable(b"eth0\0"), "eth0");
        assert_eq!(readable("ü0".as_bytes()), "ü0");
        assert_eq!(readable(b"x\xff\xc3\0y"), "x/xff/xc3");
    }

    #[test]
    fn a_bridge_ports_own_message_is_not_an_interface() {
        let mut header = [0u8; HEADER_LEN];
        header[4] = 7;
        let own = Request::new(RTM_DELLINK, 0, &header).string(IFLA_IFNAME, "veth0").finish(0);
        assert_eq!(messages(&own).find_map(|message| decode(&message)), Some(Event::Gone { index: 7 }));
        header[0] = libc::AF_BRIDGE as u8;
        let port = Request::new(RTM_DELLINK, 0, &header).string(IFLA_IFNAME, "veth0").finish(0);
        assert_eq!(messages(&port).find_map(|message| decode(&message)), None);
    }
}
