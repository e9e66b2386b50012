//! A socket filter that has the kernel drop what is said of routes in tables that are not watched, before it wakes anybody.
//!
//! Classic BPF (Documentation/networking/filter.rst, Linux 6.18), which needs no privilege. It only saves work: what it lets
//! through is looked at again.

use std::io;
use std::ops::RangeInclusive;

use netlink_sys::Socket;

use super::{ROUTE_HEADER_LEN, RTA_TABLE, RTM_DELROUTE, RTM_NEWROUTE};
use crate::kernel::rtnl::{TABLE_DEFAULT, TABLE_MAIN};
use crate::kernel::set_option;

/// Length of `struct nlmsghdr` in bytes.
const HEADER_LEN: u32 = 16;
/// Where `rtm_table` lies in a message.
const TABLE_OFFSET: u32 = HEADER_LEN + 4;
/// What `rtm_table` says of a table above 255 (RT_TABLE_COMPAT).
const COMPAT: u32 = 252;

// Instructions: A and X are the registers, M a word of memory, k the constant (include/uapi/linux/bpf_common.h and filter.h).
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_BYTE_AT_X: u16 = 0x50;
const SET_A: u16 = 0x00;
const SET_X: u16 = 0x01;
const STORE_A: u16 = 0x02;
const LOAD_X: u16 = 0x61;
const A_TO_X: u16 = 0x07;
const SHIFT_LEFT: u16 = 0x64;
const OR_X: u16 = 0x4c;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Where `bpf_skb_get_nlattr` stands among what can be loaded: the offset of attribute X behind offset A, or 0.
const FIND_ATTRIBUTE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR).cast_unsigned();

/// Has `socket` hear of routes of the tables main, default and `tables` alone. Does nothing on a big-endian machine.
pub(super) fn attach(socket: &Socket, tables: &RangeInclusive<u32>) -> io::Result<()> {
    // The program puts a number together from its bytes, the lowest first.
    if cfg!(target_endian = "big") {
        return Ok(());
    }
    let mut program = program(tables);
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the option takes a `sock_fprog`, whose pointer and length describe instructions that outlive the call; the kernel
    // copies and checks them.
    unsafe { set_option(socket, libc::SO_ATTACH_FILTER, &program) }
}

fn program(tables: &RangeInclusive<u32>) -> Vec<libc::sock_filter> {
    const ROUTE: u8 = 3;
    const WIDE: u8 = 7;
    const COMPARE: u8 = 31;
    const TAKE: u8 = 33;
    const DROP: u8 = 34;
    // Words of memory: what of the number is put together, and where the attribute is.
    const NUMBER: u32 = 0;
    const PLACE: u32 = 1;
    // Loads are in network order, types in host order.
    let kind = |kind: u16| u32::from(kind.to_be());
    let (first, last) = (*tables.start(), *tables.end());
    let steps: [(u16, u32, u8, u8); 35] = [
        (LOAD_HALF, 4, 0, 0),
        (IF_EQUAL, kind(RTM_NEWROUTE), ROUTE, 2),
        (IF_EQUAL, kind(RTM_DELROUTE), ROUTE, TAKE),
        (LOAD_BYTE, TABLE_OFFSET, 0, 0),
        (IF_EQUAL, TABLE_DEFAULT, TAKE, 5),
        (IF_EQUAL, TABLE_MAIN, TAKE, 6),
        (IF_EQUAL, COMPAT, WIDE, COMPARE),
        // Step 7, WIDE: the table is in an attribute.
        (SET_X, u32::from(RTA_TABLE), 0, 0),
        (SET_A, HEADER_LEN + ROUTE_HEADER_LEN as u32, 0, 0),
        (LOAD_WORD, FIND_ATTRIBUTE, 0, 0),
        (IF_EQUAL, 0, TAKE, 11),
        (STORE_A, PLACE, 0, 0),
        (A_TO_X, 0, 0, 0),
        // Its four bytes, the highest first: OR takes its other side from X, which the place has to go out of each time.
        (LOAD_BYTE_AT_X, 7, 0, 0),
        (SHIFT_LEFT, 24, 0, 0),
        (STORE_A, NUMBER, 0, 0),
        (LOAD_BYTE_AT_X, 6, 0, 0),
        (SHIFT_LEFT, 16, 0, 0),
        (LOAD_X, NUMBER, 0, 0),
        (OR_X, 0, 0, 0),
        (STORE_A, NUMBER, 0, 0),
        (LOAD_X, PLACE, 0, 0),
        (LOAD_BYTE_AT_X, 5, 0, 0),
        (SHIFT_LEFT, 8, 0, 0),
        (LOAD_X, NUMBER, 0, 0),
        (OR_X, 0, 0, 0),
        (STORE_A, NUMBER, 0, 0),
        (LOAD_X, PLACE, 0, 0),
        (LOAD_BYTE_AT_X, 4, 0, 0),
        (LOAD_X, NUMBER, 0, 0),
        (OR_X, 0, 0, 0),
        // Step 31, COMPARE: its number is in A.
        (IF_AT_LEAST, first, 32, DROP),
        (IF_GREATER, last, DROP, TAKE),
        // Steps 33 and 34, TAKE and DROP.
        (RETURN, u32::MAX, 0, 0),
        (RETURN, 0, 0, 0),
    ];
    // Jumps are written as the step that they lead to, and encoded as how many they pass over.
    let distance = |to: u8, from: usize| to.saturating_sub(from as u8 + 1);
    let instruction = |(at, (code, k, yes, no)): (usize, (u16, u32, u8, u8))| libc::sock_filter {
        code,
        jt: distance(yes, at),
        jf: distance(no, at),
        k,
    };
    steps.into_iter().enumerate().map(instruction).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::{FromRawFd as _, IntoRawFd as _};
    use std::os::unix::net::UnixDatagram;

    use super::super::is_watched;
    use super::*;
    use crate::kernel::netlink::{Request, messages};
    use crate::kernel::rtnl::table_code;

    const TABLES: [u32; 19] = [
        0,
        200,
        252,
        253,
        254,
        255,
        256,
        4799,
        4800,
        4899,
        4900,
        0xffff,
        0x1_0000,
        70_335,
        70_336,
        0x0100_12c0,
        0x0102_0304,
        0x8000_12c0,
        u32::MAX,
    ];

    /// What the kernel says of a route, as far as it matters.
    fn told(kind: u16, table: u32) -> Vec<u8> {
        let header = [2, 0, 0, 0, table_code(table), 0, 0, 0, 0, 0, 0, 0];
        let request = Request::new(kind, 0, &header).attribute(1, &[192, 0, 2, 1]);
        request.attribute(RTA_TABLE, &table.to_ne_bytes()).finish(0)
    }

    /// The kernel asks a filter on every kind of socket, and everybody may send to one that is not netlink's.
    #[test]
    fn the_kernel_lets_through_what_is_watched() {
        for tables in [4800..=4899, 4800..=70_335, 4800..=0x8000_12bf, 200..=300, 0x0102_0304..=0x0102_0304] {
            let (near, far) = UnixDatagram::pair().unwrap();
            // SAFETY: the descriptor is open, and nobody else has it.
            let socket = unsafe { Socket::from_raw_fd(far.into_raw_fd()) };
            attach(&socket, &tables).unwrap();
            for (table, kind) in TABLES.iter().flat_map(|table| [(*table, RTM_NEWROUTE), (*table, RTM_DELROUTE)]) {
                let bytes = told(kind, table);
                let is_wanted = messages(&bytes).any(|message| is_watched(message.payload, &tables));
                near.send(&bytes).unwrap();
                let mut read: Vec<u8> = Vec::with_capacity(bytes.len());
                let is_heard = socket.recv(&mut read, libc::MSG_DONTWAIT).is_ok();
                assert_eq!(is_heard, is_wanted, "table {table} among {tables:?}");
            }
            // What is no route is heard whatever it says.
            near.send(&told(super::super::RTM_NEWRULE, 200)).unwrap();
            assert!(socket.recv(&mut Vec::<u8>::with_capacity(64), libc::MSG_DONTWAIT).is_ok());
        }
    }
}
