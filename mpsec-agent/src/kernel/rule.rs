//! Rules of policy routing: which packets look into which table. Listed, added and deleted through rtnetlink.
//!
//! Source: include/uapi/linux/fib_rules.h, net/core/fib_rules.c, net/ipv4/fib_rules.c and net/ipv6/fib6_rules.c, Linux 6.18.
//! Everybody may list; changing needs CAP_NET_ADMIN.

use ipnet::IpNet;

use super::netlink::{CREATE, Client, EXCLUSIVE, NetlinkError};
use super::rtnl::{self, Attribute, Family, PROTOCOL};

mod message;
#[cfg(test)]
mod tests;

/// A rule. Two rules are the same setting if [`Rule::is_same`] says so; `==` compares the kernel's notes on them too.
///
/// What a rule asks for and no field here names is in `other`, so a rule that asks for more never equals one that does not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Which family's packets.
    pub family: Family,
    /// Lower ones are asked first; among equals the older one.
    pub priority: u32,
    /// Packets from there; `None` for all.
    pub source: Option<IpNet>,
    /// Packets to there; `None` for all.
    pub destination: Option<IpNet>,
    /// Packets of this type of service; 0 for all.
    pub tos: u8,
    /// Packets that came in by the interface of this name. Those that this host sends come in by `lo`.
    pub iif: Option<String>,
    /// Packets of sockets that are bound to the interface of this name.
    pub oif: Option<String>,
    /// Packets with this mark.
    pub fwmark: Option<Mark>,
    /// What is done with them.
    pub action: Action,
    /// The table that is looked into; 0 for none.
    pub table: u32,
    /// Who made it, an `RTPROT_*` number; [`PROTOCOL`] for MPSec. 0 before Linux 4.17, which keeps none.
    pub protocol: u8,
    /// What the table says is passed over if its prefix is of this length or shorter: 0 passes over default routes.
    pub suppress_prefix_len: Option<u32>,
    /// `FIB_RULE_*` flags that are settings: invert, find source address.
    pub flags: u32,
    /// Whatever else it asks for, `FRA_*` numbers: ports, users, tunnels, what is yet to come.
    pub other: Vec<Attribute>,
    /// `FIB_RULE_*` flags that are the kernel's notes: permanent, its interface or its target is not there.
    pub state: u32,
}

/// A mark and the bits of it that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The bits as they must be.
    pub value: u32,
    /// The bits that are looked at.
    pub mask: u32,
}

/// What is done with a packet (`FR_ACT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Its route is looked up in the rule's table.
    Lookup,
    /// The rules go on from this priority.
    Goto(u32),
    /// Nothing; the rules go on.
    Nop,
    /// It is dropped.
    Blackhole,
    /// It is answered: network unreachable.
    Unreachable,
    /// It is answered: administratively prohibited.
    Prohibit,
    /// A number without a name here.
    Other(u8),
}

impl Rule {
    /// A rule of MPSec's for all packets of a family, to be narrowed down by the caller.
    pub fn lookup(family: Family, priority: u32, table: u32) -> Rule {
        Rule {
            family,
            priority,
            source: None,
            destination: None,
            tos: 0,
            iif: None,
            oif: None,
            fwmark: None,
            action: Action::Lookup,
            table,
            protocol: PROTOCOL,
            suppress_prefix_len: None,
            flags: 0,
            other: Vec::new(),
            state: 0,
        }
    }

    /// Equal but for what the kernel notes on them, such as an interface that is not there now.
    pub fn is_same(&self, other: &Rule) -> bool {
        let (state, mut noted) = (self.state, other.clone());
        noted.state = state;
        *self == noted
    }

    /// Whether [`delete`] with this rule fits `candidate`, as the kernel compares them: what this one leaves open fits all, and
    /// flags and the target of a goto are not looked at.
    pub fn delete_fits(&self, candidate: &Rule) -> bool {
        fn fits<T: PartialEq>(wanted: &Option<T>, has: &Option<T>) -> bool {
            wanted.is_none() || wanted == has
        }
        let number = |wanted: u32, has: u32| wanted == 0 || wanted == has;
        let mark = |rule: &Rule| rule.fwmark.map_or((0, 0), |mark| (mark.value, mark.mask));
        let ((value, mask), (has_value, has_mask)) = (mark(self), mark(candidate));
        (self.family, self.priority) == (candidate.family, candidate.priority)
            && number(self.action.code().into(), candidate.action.code().into())
            && number(self.table, candidate.table)
            && number(self.protocol.into(), candidate.protocol.into())
            && number(self.tos.into(), candidate.tos.into())
            && number(value, has_value)
            && number(mask, has_mask)
            && fits(&self.source, &candidate.source)
            && fits(&self.destination, &candidate.destination)
            && fits(&self.iif, &candidate.iif)
            && fits(&self.oif, &candidate.oif)
            && fits(&self.suppress_prefix_len, &candidate.suppress_prefix_len)
            && self.other.iter().all(|wanted| candidate.other.contains(wanted))
    }
}

/// All rules of both families, in the order in which the kernel asks them within a family.
///
/// # Errors
/// [`NetlinkError::Interrupted`] when they change all the time; the list is never short in silence.
pub fn list(client: &mut Client) -> Result<Vec<Rule>, NetlinkError> {
    let mut rules = Vec::new();
    for family in Family::ALL {
        match rtnl::list(client, &message::dump_request(family), |message| message::decode_wanted(message, family)) {
            Ok(found) => rules.extend(found),
            // This kernel has no rules for the family (fib_nl_dumprule).
            Err(error) if matches!(error.errno(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rules)
}

/// Adds a rule, behind those of its priority.
///
/// # Errors
/// `EEXIST` if there is one that asks for the same, of the same protocol; also if that one asks for a source, a destination or
/// a type of service beside, which the new one does not name (rule_exists): then the wider one has to be added first, or with
/// a priority of its own.
pub fn add(client: &mut Client, rule: &Rule) -> Result<(), NetlinkError> {
    client.execute(message::encode(message::NEW, CREATE | EXCLUSIVE, rule))
}

/// Deletes a rule. The kernel compares what the rule asks for, and its priority, action, table and protocol, and takes the
/// first that fits, which may ask for more (rule_find, net/core/fib_rules.c): of rules of one protocol and priority the
/// narrower may go in place of the wider. [`Rule::delete_fits`] tells beforehand.
///
/// # Errors
/// `ENOENT` if none fits.
pub fn delete(client: &mut Client, rule: &Rule) -> Result<(), NetlinkError> {
    client.execute(message::encode(message::DELETE, 0, rule))
}
