//! What routes and rules have in common: families, prefixes, attributes that are kept as they are, lists of one moment.
//!
//! Source: include/uapi/linux/rtnetlink.h, Linux 6.18.

use std::net::IpAddr;

use ipnet::IpNet;

use super::netlink::{Client, Message, NetlinkError, Request};

/// Protocol number (`rtm_protocol`, `FRA_PROTOCOL`) of the routes and rules that MPSec makes, which it tells its own by.
///
/// The kernel gives no meaning to numbers above `RTPROT_STATIC` (4). This one is assigned neither in rtnetlink.h (8 to 18, 42,
/// 84, 99, 186 to 189, 192) nor in iproute2's `rt_protos`, and is not among those that routing software is known to take
/// without asking: FRR 190 to 198, Calico 80, Cilium 50, systemd-networkd and NetworkManager the kernel's.
pub const PROTOCOL: u8 = 213;
/// `RT_TABLE_DEFAULT`: asked last, empty unless somebody fills it.
pub const TABLE_DEFAULT: u32 = 253;
/// `RT_TABLE_MAIN`: where routes are that name no table.
pub const TABLE_MAIN: u32 = 254;
/// `RT_TABLE_LOCAL`: this host's own addresses, kept by the kernel.
pub const TABLE_LOCAL: u32 = 255;
/// Stands in the eight bits of a header for a table that needs more; the attribute has the number.
const TABLE_COMPAT: u8 = 252;
/// How often something is listed before it is given up that it does not hold still.
const LIST_ATTEMPTS: usize = 5;

/// An address family that has routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// `AF_INET` or `AF_INET6`.
    pub fn code(self) -> u8 {
        match self {
            Family::V4 => libc::AF_INET as u8,
            Family::V6 => libc::AF_INET6 as u8,
        }
    }

    /// The family that a header names, if it is one of these.
    pub fn from_code(code: u8) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.code() == code)
    }

    /// The prefix of everything, as of a default route.
    pub fn everything(self) -> IpNet {
        let address = match self {
            Family::V4 => IpAddr::from([0; 4]),
            Family::V6 => IpAddr::from([0; 16]),
        };
        IpNet::new_assert(address, 0)
    }
}

/// An attribute that is carried as it came.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attribute {
    /// Its number among the attributes that it stands with.
    pub kind: u16,
    /// Its value, without padding.
    pub value: Vec<u8>,
}

impl Attribute {
    pub(super) fn new(kind: u16, value: &[u8]) -> Attribute {
        Attribute { kind, value: value.to_vec() }
    }
}

/// A table's number for the eight bits of a header (fib_dump_info, net/ipv4/fib_semantics.c).
pub(super) fn table_code(table: u32) -> u8 {
    u8::try_from(table).unwrap_or(TABLE_COMPAT)
}

/// An address as attributes carry it.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An address that an attribute carries.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => bytes.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

/// The prefix of a header's length and an attribute's address. Its bits behind the length are kept.
pub(super) fn prefix(family: Family, address: Option<&[u8]>, len: u8) -> Result<Option<IpNet>, NetlinkError> {
    if len == 0 && address.is_none() {
        return Ok(None);
    }
    let address = address.and_then(ip).filter(|address| Family::of(*address) == family);
    let prefix = address.and_then(|address| IpNet::new(address, len).ok());
    prefix.map(Some).ok_or(NetlinkError::Truncated)
}

/// All that `decode` makes of the answer to a dump. What it leaves out with `None` is not wanted.
///
/// # Errors
/// [`NetlinkError::Interrupted`] where it changes all the time; `decode`'s, so that a list is never short in silence.
pub(super) fn list<T>(
    client: &mut Client,
    request: &Request,
    mut decode: impl FnMut(&Message<'_>) -> Result<Option<T>, NetlinkError>,
) -> Result<Vec<T>, NetlinkError> {
    for _ in 0..LIST_ATTEMPTS {
        let (mut all, mut trouble) = (Vec::new(), None);
        let outcome = client.dump(request.clone(), |message| match decode(&message) {
            Ok(found) => all.extend(found),
            Err(error) => trouble = Some(error),
        });
        match (outcome, trouble) {
            (Err(NetlinkError::Interrupted), _) => {}
            (Err(error), _) | (Ok(()), Some(error)) => return Err(error),
            (Ok(()), None) => return Ok(all),
        }
    }
    Err(NetlinkError::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_whole_or_refused() {
        let read = |address, len| prefix(Family::V4, address, len).ok();
        assert_eq!(read(None, 0), Some(None));
        assert_eq!(read(Some(&[10, 0, 0, 1][..]), 24), Some("10.0.0.1/24".parse().ok()));
        assert_eq!(read(None, 8), None);
        assert_eq!(read(Some(&[10, 0, 0][..]), 8), None);
        assert_eq!(read(Some(&[0; 16][..]), 8), None);
        assert_eq!(read(Some(&[10, 0, 0, 1][..]), 33), None);
        assert_eq!(Family::V6.everything().to_string(), "::/0");
    }

    #[test]
    fn a_wide_table_has_a_narrow_stand_in() {
        assert_eq!([0, 254, 255, 256, 4800].map(table_code), [0, 254, 255, 252, 252]);
    }
}
