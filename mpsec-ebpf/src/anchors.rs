//! What `cargo xtask bench` measures MPSec's programs beside, in the same run: the least that a program can cost, the
//! least that a counter can cost, and what keeping a hash map of flows costs. No part of the agent.
#![no_std]
#![no_main]

use aya_ebpf::bindings::{__sk_buff, TC_ACT_UNSPEC};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{HashMap, PerCpuArray, ProgramArray};
use aya_ebpf::programs::TcContext;

/// Packets and bytes.
#[derive(Clone, Copy)]
#[repr(C)]
struct Count {
    packets: u64,
    bytes: u64,
}

/// The five-tuple of an IPv4 packet; all zero for what is none.
#[derive(Clone, Copy)]
#[repr(C)]
struct Flow {
    /// Source and destination.
    addresses: [u32; 2],
    /// Source and destination, as they lie in the packet.
    ports: u32,
    protocol: u32,
}

#[map]
static TOTAL: PerCpuArray<Count> = PerCpuArray::with_max_entries(1, 0);
#[map]
static FLOWS: HashMap<Flow, Count> = HashMap::with_max_entries(1 << 17, 0);

/// Where a CPU's walk over flows stands.
#[derive(Clone, Copy)]
#[repr(C)]
struct Walk {
    /// How many flows there are.
    flows: u32,
    /// The number of the next one.
    next: u32,
    /// Sequence number of the next segment of each.
    sequence: u32,
    /// Payload bytes of a segment.
    payload: u32,
}

#[map]
static WALK: PerCpuArray<Walk> = PerCpuArray::with_max_entries(1, 0);
/// What runs on the frame behind a step of the walk.
#[map]
static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Makes the frame, of TCP over IPv4, the next segment of the next flow, and goes on with the program in [`NEXT`]: a test run
/// takes a single frame and runs it over and over.
#[classifier]
pub fn walk_flows(context: TcContext) -> i32 {
    if let Some(walk) = WALK.get_ptr_mut(0) {
        step(walk, &context);
    }
    // SAFETY: the program in the map takes the same context; if there is none, the call does nothing.
    unsafe { NEXT.tail_call(&context, 0) };
    TC_ACT_UNSPEC
}

#[inline(always)]
fn step(walk: *mut Walk, context: &TcContext) {
    // SAFETY: the map returned a pointer to a whole value, and the context is valid for as long as the program runs.
    let (walk, buffer) = unsafe { (&mut *walk, &*context.skb.skb) };
    let (start, end) = (buffer.data as usize, buffer.data_end as usize);
    if start + 42 > end {
        return;
    }
    let flow = walk.next;
    // SAFETY: the first 42 bytes are there, as just checked: the lower half of the source address, the source port and the
    // sequence number are among them.
    unsafe {
        *((start + 28) as *mut u16) = ((flow >> 13) as u16).to_be();
        *((start + 34) as *mut u16) = (1024 + (flow & 0x1fff) as u16).to_be();
        *((start + 38) as *mut u32) = walk.sequence.to_be();
    }
    walk.next = flow + 1;
    if walk.next >= walk.flows {
        walk.next = 0;
        walk.sequence += walk.payload;
    }
}

/// Does nothing.
#[classifier]
pub fn anchor_empty(_context: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Counts packets and bytes, all in one counter a CPU.
#[classifier]
pub fn anchor_percpu(context: TcContext) -> i32 {
    if let Some(count) = TOTAL.get_ptr_mut(0) {
        add(count, &context);
    }
    TC_ACT_UNSPEC
}

/// Counts packets and bytes of each flow in a hash map.
#[classifier]
pub fn anchor_hash(context: TcContext) -> i32 {
    let flow = flow(&context).unwrap_or(Flow { addresses: [0; 2], ports: 0, protocol: 0 });
    match FLOWS.get_ptr_mut(flow) {
        Some(count) => add(count, &context),
        // A full map counts no new flows: an anchor has no overflow.
        None => drop(FLOWS.insert(flow, Count { packets: 1, bytes: u64::from(context.len()) }, 0)),
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn add(count: *mut Count, context: &TcContext) {
    // SAFETY: the map returned a pointer to a whole value.
    unsafe {
        (*count).packets += 1;
        (*count).bytes += u64::from(context.len());
    }
}

/// The flow of an IPv4 packet without IP options behind a plain Ethernet header.
#[inline(always)]
fn flow(context: &TcContext) -> Option<Flow> {
    // SAFETY: the context of a TC program is valid for as long as the program runs.
    let buffer: &__sk_buff = unsafe { &*context.skb.skb };
    let (start, end) = (buffer.data as usize, buffer.data_end as usize);
    if start + 38 > end {
        return None;
    }
    // SAFETY: the first 38 bytes are there, as just checked; the kernel aligns the IP header to four bytes.
    unsafe {
        if *((start + 12) as *const u16) != 0x0800u16.to_be() || *((start + 14) as *const u8) != 0x45 {
            return None;
        }
        Some(Flow {
            addresses: [*((start + 26) as *const u32), *((start + 30) as *const u32)],
            ports: *((start + 34) as *const u32),
            protocol: u32::from(*((start + 23) as *const u8)),
        })
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The object check proves that nothing leads here.
    loop {}
}

/// As the agent's own object.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
