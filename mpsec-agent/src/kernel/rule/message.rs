//! Rules as messages: `struct fib_rule_hdr` and `FRA_*` (include/uapi/linux/fib_rules.h, Linux 6.18).

use super::{Action, Mark, Rule};
use crate::kernel::netlink::{Message, NetlinkError, Request, attributes, u32_at};
use crate::kernel::rtnl::{Attribute, Family, octets, prefix, table_code};

pub(super) const NEW: u16 = 32;
pub(super) const DELETE: u16 = 33;
const GET: u16 = 34;
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_PAD: u16 = 18;
const FRA_PROTOCOL: u16 = 21;
/// `FIB_RULE_PERMANENT`, `_UNRESOLVED`, `_IIF_DETACHED` and `_OIF_DETACHED`.
const STATE: u32 = 1 | 4 | 8 | 0x10;
/// Length of `struct fib_rule_hdr` in bytes.
const HEADER_LEN: usize = 12;

/// The request for a list. Strict checking demands that it says nothing but the family.
pub(super) fn dump_request(family: Family) -> Request {
    let mut header = [0; HEADER_LEN];
    header[0] = family.code();
    Request::new(GET, 0, &header)
}

pub(super) fn decode_wanted(message: &Message<'_>, family: Family) -> Result<Option<Rule>, NetlinkError> {
    if message.kind != NEW || message.payload.first() != Some(&family.code()) {
        return Ok(None);
    }
    decode(message.payload).map(Some)
}

/// Reads a rule from what follows a message's header.
pub(super) fn decode(payload: &[u8]) -> Result<Rule, NetlinkError> {
    let header: &[u8; HEADER_LEN] = payload.first_chunk().ok_or(NetlinkError::Truncated)?;
    let [family, destination_len, source_len, tos, table, _, _, action, ..] = *header;
    let family = Family::from_code(family).ok_or(NetlinkError::Truncated)?;
    let flags = u32_at(header, 8).ok_or(NetlinkError::Truncated)?;
    let mut rule = Rule {
        tos,
        action: Action::from_code(action),
        protocol: 0,
        flags: flags & !STATE,
        state: flags & STATE,
        ..Rule::lookup(family, 0, u32::from(table))
    };
    let (mut destination, mut source) = (None, None);
    for (kind, value) in attributes(&payload[HEADER_LEN..]) {
        match kind {
            FRA_DST => destination = Some(value),
            FRA_SRC => source = Some(value),
            _ => rule.take(kind, value)?,
        }
    }
    rule.destination = prefix(family, destination, destination_len)?;
    rule.source = prefix(family, source, source_len)?;
    Ok(rule)
}

impl Rule {
    fn take(&mut self, kind: u16, value: &[u8]) -> Result<(), NetlinkError> {
        let number = || u32_at(value, 0).ok_or(NetlinkError::Truncated);
        // The kernel leaves out a mark of 0 with its mask, and a mask of 0 without a mark (fib_nl_fill_rule).
        let mark = |old: Option<Mark>| old.unwrap_or(Mark { value: 0, mask: u32::MAX });
        match (kind, self.action) {
            (FRA_TABLE, _) => self.table = number()?,
            (FRA_PRIORITY, _) => self.priority = number()?,
            (FRA_GOTO, Action::Goto(_)) => self.action = Action::Goto(number()?),
            (FRA_FWMARK, _) => self.fwmark = Some(Mark { value: number()?, ..mark(self.fwmark) }),
            (FRA_FWMASK, _) => self.fwmark = Some(Mark { mask: number()?, ..mark(self.fwmark) }),
            (FRA_SUPPRESS_PREFIXLEN, _) => self.suppress_prefix_len = Some(number()?).filter(|len| *len != u32::MAX),
            (FRA_PROTOCOL, _) => self.protocol = *value.first().ok_or(NetlinkError::Truncated)?,
            (FRA_IIFNAME, _) if name(value).is_some() => self.iif = name(value),
            (FRA_OIFNAME, _) if name(value).is_some() => self.oif = name(value),
            (FRA_PAD, _) => {}
            _ => self.other.push(Attribute::new(kind, value)),
        }
        Ok(())
    }
}

/// A name that is the same when it is sent back; one that is no UTF-8 stays an attribute.
fn name(value: &[u8]) -> Option<String> {
    let bytes = value.strip_suffix(&[0]).filter(|bytes| !bytes.contains(&0))?;
    String::from_utf8(bytes.to_vec()).ok()
}

/// The request that adds or deletes a rule.
pub(super) fn encode(message_type: u16, flags: u16, rule: &Rule) -> Request {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(&[
        rule.family.code(),
        rule.destination.map_or(0, |prefix| prefix.prefix_len()),
        rule.source.map_or(0, |prefix| prefix.prefix_len()),
        rule.tos,
        table_code(rule.table),
        0,
        0,
        rule.action.code(),
    ]);
    header[8..].copy_from_slice(&rule.flags.to_ne_bytes());
    let mut request = Request::new(message_type, flags, &header)
        .attribute(FRA_TABLE, &rule.table.to_ne_bytes())
        .attribute(FRA_PRIORITY, &rule.priority.to_ne_bytes())
        .attribute(FRA_PROTOCOL, &[rule.protocol]);
    for (kind, prefix) in [(FRA_DST, rule.destination), (FRA_SRC, rule.source)] {
        if let Some(prefix) = prefix {
            request = request.attribute(kind, &octets(prefix.addr()));
        }
    }
    for (kind, name) in [(FRA_IIFNAME, &rule.iif), (FRA_OIFNAME, &rule.oif)] {
        if let Some(name) = name {
            request = request.string(kind, name);
        }
    }
    if let Some(mark) = rule.fwmark {
        request = request.attribute(FRA_FWMARK, &mark.value.to_ne_bytes());
        request = request.attribute(FRA_FWMASK, &mark.mask.to_ne_bytes());
    }
    if let Action::Goto(priority) = rule.action {
        request = request.attribute(FRA_GOTO, &priority.to_ne_bytes());
    }
    if let Some(len) = rule.suppress_prefix_len {
        request = request.attribute(FRA_SUPPRESS_PREFIXLEN, &len.to_ne_bytes());
    }
    rule.other.iter().fold(request, |request, other| request.attribute(other.kind, &other.value))
}

impl Action {
    /// Its `FR_ACT_*` number.
    pub fn code(self) -> u8 {
        match self {
            Action::Lookup => 1,
            Action::Goto(_) => 2,
            Action::Nop => 3,
            Action::Blackhole => 6,
            Action::Unreachable => 7,
            Action::Prohibit => 8,
            Action::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Action {
        match code {
            1 => Action::Lookup,
            2 => Action::Goto(0),
            3 => Action::Nop,
            6 => Action::Blackhole,
            7 => Action::Unreachable,
            8 => Action::Prohibit,
            code => Action::Other(code),
        }
    }
}
