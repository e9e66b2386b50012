//! clsact: attaching to an interface as a filter of its clsact queueing discipline, for kernels without TCX.
//!
//! Filters outlive the process that made them, so what we make carries a mark, by which a later start finds and removes what
//! a killed one left: a filter has the name of our program, a queueing discipline our `MARK`. A queueing discipline of ours
//! goes only when nobody else's filter is in it, and is ours no more once somebody replaced it, for that takes the mark away.
//! Source: include/uapi/linux/pkt_cls.h, pkt_sched.h and rtnetlink.h; net/sched/sch_api.c, 6.1 to 6.18.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use mpsec_common::Direction;
use mpsec_common::maps::{PROGRAM_EGRESS, PROGRAM_INGRESS};

use super::netlink::{CREATE, Client, ECHO, EXCLUSIVE, NetlinkError, Request, attribute, string, u32_at};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STAB: u16 = 8;
const TCA_STAB_BASE: u16 = 1;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
/// Length of `struct tcmsg` in bytes.
const TC_HEADER_LEN: usize = 20;
/// Handle of a clsact queueing discipline.
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// Where it is attached, and where one of the older kind `ingress` would be.
const CLSACT_PARENT: u32 = 0xffff_fff1;
const PARENT_INGRESS: u32 = 0xffff_fff2;
const PARENT_EGRESS: u32 = 0xffff_fff3;
/// Every EtherType (`ETH_P_ALL`), in network order, as the lower half of `tcm_info`.
const ALL_PROTOCOLS: u32 = (libc::ETH_P_ALL as u16).to_be() as u32;
/// The first priority: before every other filter.
const FIRST: u32 = 1;
/// The mark on a queueing discipline of ours: `struct tc_sizespec` with an overhead that nobody else would ask for. The
/// kernel keeps it and tells it, and never looks at it: clsact queues nothing, so no size is ever worked out.
const MARK: [u8; 24] = {
    let mut spec = [0; 24];
    let [a, b, c, d] = 0x4d50_5365_u32.to_ne_bytes();
    (spec[4], spec[5], spec[6], spec[7]) = (a, b, c, d);
    spec
};

/// Why a filter could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum ClsactError {
    /// The kernel or the socket.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// On such a queueing discipline, a filter for what is sent would be given what is received (ingress_tcf_block,
    /// net/sched/sch_ingress.c).
    #[error(
        "the interface has a queueing discipline of the kind {0}, which sees no sent packets: replace it by clsact"
    )]
    InTheWay(String),
}

impl ClsactError {
    /// The error number, where the kernel refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Netlink(error) => error.errno(),
            Self::InTheWay(_) => None,
        }
    }
}

/// One filter of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    direction: Direction,
    /// Priority in the upper half, protocol in the lower one.
    info: u32,
    handle: u32,
    /// The program's number in the kernel: handles are used again, and another agent's filter bears the same name.
    program: Option<u32>,
}

/// The clsact queueing disciplines and filters of this network namespace.
pub struct Clsact {
    client: Client,
}

impl Clsact {
    /// Opens the way to the kernel.
    pub fn open() -> io::Result<Clsact> {
        Ok(Clsact { client: Client::open(netlink_sys::protocols::NETLINK_ROUTE)? })
    }

    /// Attaches a program in front of the filters that are there, making the queueing discipline if there is none.
    pub fn attach(
        &mut self,
        program: BorrowedFd<'_>,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Filter, ClsactError> {
        self.make_qdisc(ifindex, direction)?;
        let first = self.make_filter(program, ifindex, direction, FIRST);
        match first {
            // Another classifier may hold the first priority; the kernel then chooses one behind it.
            Err(error) if error.errno() == Some(libc::EINVAL) => {
                let filter = self.make_filter(program, ifindex, direction, 0)?;
                tracing::warn!(
                    ifindex,
                    direction = direction.name(),
                    "another filter comes first; what it keeps is not counted"
                );
                Ok(filter)
            }
            first => Ok(first?),
        }
    }

    /// Removes one filter, and the queueing discipline if it is ours and empty. What is gone already is no error.
    pub fn detach(&mut self, ifindex: u32, filter: Filter) -> Result<(), NetlinkError> {
        if self.holds(ifindex, filter) {
            gone_is_fine(self.remove_filter(ifindex, filter))?;
        }
        self.remove_qdisc_if_ours(ifindex)
    }

    /// True while the filter is there. If the kernel does not answer, it is taken to be there.
    pub fn holds(&mut self, ifindex: u32, filter: Filter) -> bool {
        self.filters(ifindex, filter.direction)
            .map_or(true, |filters| filters.iter().any(|found| found.ours && found.filter == filter))
    }

    /// How many filters see a packet before this one: the kernel lists them in the order in which it asks them (tc_chain_tp_walk
    /// and cls_bpf_walk, net/sched, 6.18). 0 where it is not there.
    ///
    /// # Errors
    /// What the kernel says to the list.
    pub fn ahead(&mut self, ifindex: u32, filter: Filter) -> Result<u32, NetlinkError> {
        let all = self.filters(ifindex, filter.direction)?;
        Ok(all.iter().position(|found| found.filter == filter).unwrap_or(0) as u32)
    }

    /// Removes what an earlier start left on an interface; true when there was something.
    pub fn remove_stale(&mut self, ifindex: u32) -> Result<bool, NetlinkError> {
        let mut any = false;
        for direction in Direction::ALL {
            for found in self.filters(ifindex, direction)?.into_iter().filter(|found| found.ours) {
                gone_is_fine(self.remove_filter(ifindex, found.filter))?;
                any = true;
            }
        }
        any |= self.qdisc(ifindex)?.is_some_and(|qdisc| qdisc.ours);
        self.remove_qdisc_if_ours(ifindex)?;
        Ok(any)
    }

    fn make_qdisc(&mut self, ifindex: u32, direction: Direction) -> Result<(), ClsactError> {
        let flags = CREATE | EXCLUSIVE;
        let header = tc_header(ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0);
        let request = Request::new(RTM_NEWQDISC, flags, &header)
            .string(TCA_KIND, "clsact")
            .nested(TCA_STAB, |request| request.attribute(TCA_STAB_BASE, &MARK));
        match self.client.execute(request) {
            Err(error) if error.errno() == Some(libc::EEXIST) => match self.qdisc(ifindex)? {
                Some(qdisc) if qdisc.kind != "clsact" && direction == Direction::Tx => {
                    Err(ClsactError::InTheWay(qdisc.kind))
                }
                _ => Ok(()),
            },
            result => Ok(result?),
        }
    }

    fn make_filter(
        &mut self,
        program: BorrowedFd<'_>,
        ifindex: u32,
        direction: Direction,
        priority: u32,
    ) -> Result<Filter, NetlinkError> {
        let flags = CREATE | EXCLUSIVE | ECHO;
        let header = tc_header(ifindex, 0, parent(direction), (priority << 16) | ALL_PROTOCOLS);
        let request = Request::new(RTM_NEWTFILTER, flags, &header).string(TCA_KIND, "bpf").nested(TCA_OPTIONS, |r| {
            r.attribute(TCA_BPF_FD, &(program.as_raw_fd() as u32).to_ne_bytes())
                .string(TCA_BPF_NAME, name(direction))
                .attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes())
        });
        let mut made = None;
        self.client.ask(request, |message| {
            if message.kind == RTM_NEWTFILTER {
                made = Found::decode(message.payload, direction);
            }
        })?;
        made.map(|found| found.filter).ok_or(NetlinkError::Truncated)
    }

    fn remove_filter(&mut self, ifindex: u32, filter: Filter) -> Result<(), NetlinkError> {
        let header = tc_header(ifindex, filter.handle, parent(filter.direction), filter.info);
        self.client.execute(Request::new(RTM_DELTFILTER, 0, &header).string(TCA_KIND, "bpf"))
    }

    fn remove_qdisc_if_ours(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        if !self.qdisc(ifindex)?.is_some_and(|qdisc| qdisc.ours) {
            return Ok(());
        }
        for direction in Direction::ALL {
            if !self.filters(ifindex, direction)?.is_empty() {
                return Ok(());
            }
        }
        let header = tc_header(ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0);
        gone_is_fine(self.client.execute(Request::new(RTM_DELQDISC, 0, &header)))
    }

    /// The queueing discipline where filters are, of either kind.
    fn qdisc(&mut self, ifindex: u32) -> Result<Option<Qdisc>, NetlinkError> {
        let mut found = None;
        let header = tc_header(ifindex, 0, CLSACT_PARENT, 0);
        let outcome = self.client.ask(Request::new(RTM_GETQDISC, ECHO, &header), |message| {
            if message.kind == RTM_NEWQDISC {
                found = Qdisc::decode(message.payload);
            }
        });
        gone_is_fine(outcome).map(|()| found)
    }

    /// Every filter of a direction, whoever made it.
    fn filters(&mut self, ifindex: u32, direction: Direction) -> Result<Vec<Found>, NetlinkError> {
        let mut found = Vec::new();
        let header = tc_header(ifindex, 0, parent(direction), 0);
        let outcome = self.client.dump(Request::new(RTM_GETTFILTER, 0, &header), |message| {
            if message.kind == RTM_NEWTFILTER {
                found.extend(Found::decode(message.payload, direction));
            }
        });
        gone_is_fine(outcome).map(|()| found)
    }
}

/// No such filter, no queueing discipline, or no such interface any more.
fn gone_is_fine(outcome: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match outcome {
        Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENODEV | libc::ENOENT)) => Ok(()),
        outcome => outcome,
    }
}

/// A queueing discipline that is there.
struct Qdisc {
    kind: String,
    ours: bool,
}

impl Qdisc {
    fn decode(payload: &[u8]) -> Option<Qdisc> {
        let attributes = payload.get(TC_HEADER_LEN..)?;
        let mark = attribute(attributes, TCA_STAB).and_then(|table| attribute(table, TCA_STAB_BASE));
        let kind = string(attribute(attributes, TCA_KIND)?);
        Some(Qdisc { ours: kind == "clsact" && mark == Some(&MARK[..]), kind })
    }
}

/// A filter that is there.
struct Found {
    filter: Filter,
    ours: bool,
}

impl Found {
    /// `None` for the kernel's entry of a whole priority, which has no handle.
    fn decode(payload: &[u8], direction: Direction) -> Option<Found> {
        let (handle, info) = (u32_at(payload, 8)?, u32_at(payload, 16)?);
        if handle == 0 {
            return None;
        }
        let attributes = payload.get(TC_HEADER_LEN..)?;
        let is_bpf = attribute(attributes, TCA_KIND).map(string).as_deref() == Some("bpf");
        // Other kinds use the same numbers for something else.
        let option = |kind| attribute(attributes, TCA_OPTIONS).and_then(|options| attribute(options, kind));
        let ours = is_bpf && option(TCA_BPF_NAME).map(string).as_deref() == Some(name(direction));
        let program = option(TCA_BPF_ID).filter(|_| is_bpf).and_then(|id| u32_at(id, 0));
        Some(Found { filter: Filter { direction, info, handle, program }, ours })
    }
}

fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Rx => PROGRAM_INGRESS,
        Direction::Tx => PROGRAM_EGRESS,
    }
}

fn parent(direction: Direction) -> u32 {
    match direction {
        Direction::Rx => PARENT_INGRESS,
        Direction::Tx => PARENT_EGRESS,
    }
}

/// `struct tcmsg`.
fn tc_header(ifindex: u32, handle: u32, parent: u32, info: u32) -> [u8; TC_HEADER_LEN] {
    let mut header = [0; TC_HEADER_LEN];
    for (slot, value) in header[4..].chunks_exact_mut(4).zip([ifindex, handle, parent, info]) {
        slot.copy_from_slice(&value.to_ne_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::messages;

    fn decoded(kind: &str, mark: &[u8]) -> Qdisc {
        let bytes = Request::new(RTM_NEWQDISC, 0, &tc_header(7, CLSACT_HANDLE, CLSACT_PARENT, 1))
            .string(TCA_KIND, kind)
            .nested(TCA_STAB, |request| request.attribute(TCA_STAB_BASE, mark))
            .finish(1);
        messages(&bytes).find_map(|message| Qdisc::decode(message.payload)).expect("it has a kind")
    }

    #[test]
    fn only_a_marked_clsact_is_ours() {
        assert!(decoded("clsact", &MARK).ours);
        assert!(!decoded("ingress", &MARK).ours);
        assert!(!decoded("clsact", &[0; 24]).ours);
        assert!(!decoded("clsact", &MARK[..20]).ours);
    }

    #[test]
    fn only_what_bears_our_name_is_our_filter() {
        let filter = |kind: &str, called: &str, direction| {
            let bytes = Request::new(RTM_NEWTFILTER, 0, &tc_header(7, 1, parent(direction), (1 << 16) | ALL_PROTOCOLS))
                .string(TCA_KIND, kind)
                .nested(TCA_OPTIONS, |request| request.string(TCA_BPF_NAME, called))
                .finish(1);
            messages(&bytes).find_map(|message| Found::decode(message.payload, direction)).expect("it has a handle")
        };
        assert!(filter("bpf", PROGRAM_INGRESS, Direction::Rx).ours);
        assert!(!filter("bpf", PROGRAM_INGRESS, Direction::Tx).ours);
        assert!(!filter("bpf", "mpsec_ingress:[*fsobj]", Direction::Rx).ours);
        assert!(!filter("u32", PROGRAM_INGRESS, Direction::Rx).ours);
    }

    #[test]
    fn the_same_handle_with_another_program_is_another_filter() {
        let filter = |program: u32| {
            let bytes = Request::new(RTM_NEWTFILTER, 0, &tc_header(7, 1, PARENT_INGRESS, (1 << 16) | ALL_PROTOCOLS))
                .string(TCA_KIND, "bpf")
                .nested(TCA_OPTIONS, |request| request.attribute(TCA_BPF_ID, &program.to_ne_bytes()))
                .finish(1);
            messages(&bytes).find_map(|message| Found::decode(message.payload, Direction::Rx)).expect("a handle").filter
        };
        assert_eq!(filter(5), filter(5));
        assert_ne!(filter(5), filter(6));
    }
}
