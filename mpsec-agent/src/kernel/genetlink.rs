//! Generic netlink: its header, and families by their names.
//!
//! Source: include/uapi/linux/genetlink.h and net/netlink/genetlink.c, Linux 6.18.

use super::netlink::{Client, NetlinkError, Request, attribute, attributes, string, u16_at, u32_at};

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_VERSION: u8 = 2;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_VERSION: u16 = 3;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;

/// The header behind netlink's own (`struct genlmsghdr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// What is asked for, or what happened: the family's own number.
    pub command: u8,
    /// Version of the family that the sender speaks.
    pub version: u8,
    /// 0 so far.
    pub reserved: u16,
}

impl Header {
    /// Its length in bytes.
    pub const LEN: usize = 4;

    /// The header at the start of a message's payload, and the attributes behind it.
    pub fn split(payload: &[u8]) -> Option<(Header, &[u8])> {
        let header = Header { command: *payload.first()?, version: *payload.get(1)?, reserved: u16_at(payload, 2)? };
        Some((header, payload.get(Header::LEN..)?))
    }

    /// Its bytes.
    pub fn bytes(self) -> [u8; Header::LEN] {
        let [low, high] = self.reserved.to_ne_bytes();
        [self.command, self.version, low, high]
    }
}

/// What the kernel says of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// The message type that its messages carry, until the module is loaded anew or the host boots.
    pub id: u16,
    /// Its version.
    pub version: u8,
    /// Multicast groups: their names and the numbers to subscribe with.
    pub groups: Vec<(String, u32)>,
}

impl Family {
    /// The number of a multicast group.
    pub fn group(&self, name: &str) -> Option<u32> {
        self.groups.iter().find_map(|(known, id)| (known == name).then_some(*id))
    }

    /// What an answer to CTRL_CMD_GETFAMILY says; `None` if it names no family.
    pub fn decode(payload: &[u8]) -> Option<Family> {
        let (_, bytes) = Header::split(payload)?;
        let groups = attribute(bytes, CTRL_ATTR_MCAST_GROUPS).unwrap_or_default();
        Some(Family {
            id: u16_at(attribute(bytes, CTRL_ATTR_FAMILY_ID)?, 0)?,
            version: u8::try_from(u32_at(attribute(bytes, CTRL_ATTR_VERSION)?, 0)?).ok()?,
            groups: attributes(groups).filter_map(|(_, group)| decode_group(group)).collect(),
        })
    }
}

fn decode_group(bytes: &[u8]) -> Option<(String, u32)> {
    let name = string(attribute(bytes, CTRL_ATTR_MCAST_GRP_NAME)?);
    Some((name, u32_at(attribute(bytes, CTRL_ATTR_MCAST_GRP_ID)?, 0)?))
}

/// Asks for a family by its name; `None` if this kernel has none of that name. The kernel loads a module for it if there is
/// one and the asking process may (genl_get_cmd_both, ctrl_getfamily).
pub fn resolve(client: &mut Client, name: &str) -> Result<Option<Family>, NetlinkError> {
    let header = Header { command: CTRL_CMD_GETFAMILY, version: CTRL_VERSION, reserved: 0 };
    let request = Request::new(GENL_ID_CTRL, 0, &header.bytes()).string(CTRL_ATTR_FAMILY_NAME, name);
    let mut family = None;
    match client.ask(request, |message| family = Family::decode(message.payload)) {
        Ok(()) => family.map(Some).ok_or(NetlinkError::Truncated),
        Err(refusal) if refusal.errno() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_knows_itself() {
        let mut client = Client::open(libc::NETLINK_GENERIC as isize).expect("a netlink socket");
        let family = resolve(&mut client, "nlctrl").expect("an answer").expect("it is always there");
        assert_eq!((family.id, family.version), (GENL_ID_CTRL, 2));
        assert_eq!(family.group("notify"), Some(0x10));
        assert_eq!(family.group("no_such"), None);
    }

    #[test]
    fn a_family_that_is_not_there_is_told_from_a_failure() {
        let mut client = Client::open(libc::NETLINK_GENERIC as isize).expect("a netlink socket");
        assert_eq!(resolve(&mut client, "mpsec_no_such").expect("an answer"), None);
    }

    #[test]
    fn headers_are_read_back() {
        let header = Header { command: 3, version: 1, reserved: 0x0201 };
        assert_eq!(Header::split(&header.bytes()), Some((header, &[][..])));
        assert_eq!(Header::split(&[1, 2, 3]), None);
    }
}
