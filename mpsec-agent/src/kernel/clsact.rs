//! clsact: attaching to an interface as a filter of its clsact queueing discipline, for kernels without TCX.
//!
//! Filters outlive the process that made them, so ours carry the name of our program: that is how a later start finds and
//! removes what a killed one left. A queueing discipline carries no name; which ones we made is kept in a file below
//! /run, and one of them is removed only when nobody else's filter is in it. Source: include/uapi/linux/pkt_cls.h,
//! include/uapi/linux/rtnetlink.h.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::PathBuf;

use mpsec_common::Direction;
use mpsec_common::maps::{PROGRAM_EGRESS, PROGRAM_INGRESS};

use super::netlink::{CREATE, Client, EXCLUSIVE, NetlinkError, Request, attribute, string, u32_at};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
/// Handle of a clsact queueing discipline.
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// Where it is attached.
const CLSACT_PARENT: u32 = 0xffff_fff1;
const PARENT_INGRESS: u32 = 0xffff_fff2;
const PARENT_EGRESS: u32 = 0xffff_fff3;
/// Every EtherType (`ETH_P_ALL`), in network order, as the lower half of `tcm_info`.
const ALL_PROTOCOLS: u32 = (libc::ETH_P_ALL as u16).to_be() as u32;
/// The first priority: before every other filter.
const FIRST: u32 = 1;

/// One filter of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    direction: Direction,
    /// Priority in the upper half, protocol in the lower one.
    info: u32,
    handle: u32,
}

/// The clsact queueing disciplines and filters of this network namespace.
pub struct Clsact {
    client: Client,
    owned: Owned,
}

impl Clsact {
    /// Opens the way to the kernel, and the list of queueing disciplines that an earlier start made.
    pub fn open(list: PathBuf) -> io::Result<Clsact> {
        Ok(Clsact { client: Client::open(netlink_sys::protocols::NETLINK_ROUTE)?, owned: Owned::load(list)? })
    }

    /// Attaches a program in front of the filters that are there, making the queueing discipline if there is none.
    pub fn attach(
        &mut self,
        program: BorrowedFd<'_>,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Filter, NetlinkError> {
        self.make_qdisc(ifindex)?;
        // Another classifier may hold the first priority; the kernel then chooses one behind all that are there.
        self.make_filter(program, ifindex, direction, FIRST)
            .or_else(|_| self.make_filter(program, ifindex, direction, 0))?;
        self.filters(ifindex, direction)?
            .into_iter()
            .find_map(|found| found.ours.then_some(found.filter))
            .ok_or(NetlinkError::Truncated)
    }

    /// Removes one filter, and the queueing discipline if it is ours and empty.
    pub fn detach(&mut self, ifindex: u32, filter: Filter) -> Result<(), NetlinkError> {
        self.remove_filter(ifindex, filter)?;
        self.remove_qdisc_if_ours(ifindex)
    }

    /// True while the filter is there. If the kernel does not answer, it is taken to be there.
    pub fn holds(&mut self, ifindex: u32, filter: Filter) -> bool {
        self.filters(ifindex, filter.direction)
            .map_or(true, |filters| filters.iter().any(|found| found.ours && found.filter == filter))
    }

    /// Removes what an earlier start left on an interface; true when there was something.
    pub fn remove_stale(&mut self, ifindex: u32) -> Result<bool, NetlinkError> {
        let mut any = false;
        for direction in Direction::ALL {
            for found in self.filters(ifindex, direction)?.into_iter().filter(|found| found.ours) {
                self.remove_filter(ifindex, found.filter)?;
                any = true;
            }
        }
        any |= self.owned.holds(ifindex);
        self.remove_qdisc_if_ours(ifindex)?;
        Ok(any)
    }

    /// Forgets an interface that is gone, and with it everything that was attached to it.
    pub fn forget(&mut self, ifindex: u32) {
        self.owned.remove(ifindex);
    }

    fn make_qdisc(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        let flags = CREATE | EXCLUSIVE;
        let header = tc_header(ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0);
        match self.client.execute(Request::new(RTM_NEWQDISC, flags, &header).string(TCA_KIND, "clsact")) {
            Ok(()) => {
                self.owned.add(ifindex);
                Ok(())
            }
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn make_filter(
        &mut self,
        program: BorrowedFd<'_>,
        ifindex: u32,
        direction: Direction,
        priority: u32,
    ) -> Result<(), NetlinkError> {
        let flags = CREATE | EXCLUSIVE;
        let header = tc_header(ifindex, 0, parent(direction), (priority << 16) | ALL_PROTOCOLS);
        let request = Request::new(RTM_NEWTFILTER, flags, &header).string(TCA_KIND, "bpf").nested(TCA_OPTIONS, |r| {
            r.attribute(TCA_BPF_FD, &(program.as_raw_fd() as u32).to_ne_bytes())
                .string(TCA_BPF_NAME, name(direction))
                .attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes())
        });
        self.client.execute(request)
    }

    fn remove_filter(&mut self, ifindex: u32, filter: Filter) -> Result<(), NetlinkError> {
        let header = tc_header(ifindex, filter.handle, parent(filter.direction), filter.info);
        self.client.execute(Request::new(RTM_DELTFILTER, 0, &header).string(TCA_KIND, "bpf"))
    }

    fn remove_qdisc_if_ours(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        if !self.owned.holds(ifindex) {
            return Ok(());
        }
        for direction in Direction::ALL {
            if !self.filters(ifindex, direction)?.is_empty() {
                return Ok(());
            }
        }
        let header = tc_header(ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0);
        let removed = self.client.execute(Request::new(RTM_DELQDISC, 0, &header));
        match removed {
            Err(error) if !matches!(error.errno(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => Err(error),
            _ => {
                self.owned.remove(ifindex);
                Ok(())
            }
        }
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
        match outcome {
            // No queueing discipline, or no such interface any more: no filters.
            Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENODEV | libc::ENOENT)) => Ok(Vec::new()),
            outcome => outcome.map(|()| found),
        }
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
        let attributes = payload.get(20..)?;
        let ours = attribute(attributes, TCA_KIND).map(string).as_deref() == Some("bpf")
            && attribute(attributes, TCA_OPTIONS)
                .and_then(|options| attribute(options, TCA_BPF_NAME))
                .map(string)
                .as_deref()
                == Some(name(direction));
        Some(Found { filter: Filter { direction, info, handle }, ours })
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
fn tc_header(ifindex: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut header = [0; 20];
    for (slot, value) in header[4..].chunks_exact_mut(4).zip([ifindex, handle, parent, info]) {
        slot.copy_from_slice(&value.to_ne_bytes());
    }
    header
}

/// The interfaces whose clsact queueing discipline we made, kept in a file so that it survives us.
struct Owned {
    file: PathBuf,
    ifindexes: BTreeSet<u32>,
}

impl Owned {
    fn load(file: PathBuf) -> io::Result<Owned> {
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        Ok(Owned { file, ifindexes: text.lines().filter_map(|line| line.parse().ok()).collect() })
    }

    fn holds(&self, ifindex: u32) -> bool {
        self.ifindexes.contains(&ifindex)
    }

    fn add(&mut self, ifindex: u32) {
        self.ifindexes.insert(ifindex);
        self.store();
    }

    fn remove(&mut self, ifindex: u32) {
        if self.ifindexes.remove(&ifindex) {
            self.store();
        }
    }

    fn store(&self) {
        let text: String = self.ifindexes.iter().map(|ifindex| format!("{ifindex}\n")).collect();
        let written = match text.as_str() {
            "" => std::fs::remove_file(&self.file),
            text => {
                let next = self.file.with_extension("new");
                std::fs::write(&next, text).and_then(|()| std::fs::rename(&next, &self.file))
            }
        };
        if let Err(error) = written {
            tracing::warn!(file = %self.file.display(), %error, "cannot keep the list of clsact queueing disciplines that we made");
        }
    }
}
