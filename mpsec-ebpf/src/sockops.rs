//! What sockets tell of themselves: MPTCP subflows are registered before their first packet leaves, or with the packet that
//! ends their handshake, and tell how they fare once a round trip.
//!
//! Callbacks: include/uapi/linux/bpf.h and net/ipv4/{tcp.c,tcp_input.c,tcp_output.c}, 6.1 to 6.18.

use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set};
use mpsec_common::maps::Event;
use mpsec_common::mptcp::{SubflowInfo, SubflowKey, SubflowState, flags, mapped_halves, ports, tag};
use mpsec_common::probes::{Closer, OPTION_REASONS};

use crate::kernel::sock::state;
use crate::kernel::socket::{Subflow, TcpSock};
use crate::policy;
use crate::record::{self, probes, subflows};

/// The network namespace whose sockets are followed; 0 for those of all.
#[unsafe(no_mangle)]
static NETNS_COOKIE: Global<u64> = Global::new(0);

/// Callbacks.
mod op {
    pub const CONNECT: u32 = 3;
    pub const ACTIVE_ESTABLISHED: u32 = 4;
    pub const PASSIVE_ESTABLISHED: u32 = 5;
    pub const TIMEOUT: u32 = 8;
    pub const RETRANSMIT: u32 = 9;
    pub const STATE: u32 = 10;
    pub const ROUND_TRIP: u32 = 12;
}

/// Those that a socket makes when it is asked to: retransmissions, states, round trips.
const CALLBACKS: u32 = 1 << 1 | 1 << 2 | 1 << 3;
const ETIMEDOUT: u32 = 110;
const AF_INET: u32 = 2;

/// Takes note of what a socket tells.
#[inline(always)]
pub fn called_back(ops: *mut bpf_sock_ops) -> Option<()> {
    // SAFETY: the context is valid for as long as the program runs.
    let op = unsafe { (*ops).op };
    if !subflows::on() {
        return None;
    }
    match op {
        op::CONNECT | op::ACTIVE_ESTABLISHED | op::PASSIVE_ESTABLISHED => {
            let tcp = TcpSock::of(ops)?;
            // A join whose SYN is answered without MP_JOIN is reset before this callback (subflow_finish_connect,
            // net/mptcp/subflow.c, 6.1 to 6.18): its socket has made its last one.
            let is_over = op == op::ACTIVE_ESTABLISHED && tcp.sock().state() == state::CLOSE;
            if tcp.is_mptcp() && is_ours(ops) && !is_over {
                let joined = tcp.subflow().is_some_and(|subflow| subflow.joined());
                policy::mpsec_policy(ops, (op == op::CONNECT).into(), joined.into());
                opened(ops, op, &tcp)?;
            }
        }
        // Those that agents of other namespaces asked for come here too, as the program hangs on the root of the cgroups.
        op::TIMEOUT | op::RETRANSMIT | op::STATE | op::ROUND_TRIP if !is_ours(ops) => {}
        // Only subflows were asked for these.
        op::RETRANSMIT | op::ROUND_TRIP => {
            let slot = find(Tuple::of(ops).tag())?;
            let (info, tcp) = (subflows::info(slot)?, TcpSock::of(ops)?);
            tell(ops, &tcp, info);
            subflows::told_interface(slot, tcp.rx_ifindex());
            if op == op::ROUND_TRIP {
                // SAFETY: the map returned a pointer to a whole value, which only this socket's callbacks write.
                unsafe { (*info).rtt_reports += 1 };
            }
        }
        op::STATE => state_changed(ops)?,
        op::TIMEOUT => {
            let Tuple { local, remote, local_port, remote_port } = Tuple::of(ops);
            policy::report(ops, [local, remote], [local_port, remote_port]);
        }
        _ => {}
    }
    Some(())
}

/// The network namespace whose sockets are followed; 0 for those of all.
#[inline(always)]
pub fn netns_cookie() -> u64 {
    NETNS_COOKIE.load()
}

#[inline(always)]
fn is_ours(ops: *mut bpf_sock_ops) -> bool {
    let wanted = netns_cookie();
    // SAFETY: the helper takes the context.
    wanted == 0 || unsafe { bpf_get_netns_cookie(ops.cast()) } == wanted
}

/// A subflow is about to send its SYN, or its handshake is done.
#[inline(always)]
fn opened(ops: *mut bpf_sock_ops, op: u32, tcp: &TcpSock) -> Option<()> {
    let subflow = tcp.subflow()?;
    let tuple = Tuple::of(ops);
    let tag = tuple.tag();
    let (slot, is_new) = match known(&tuple, tag, op) {
        Known::Same(slot) => (slot, false),
        Known::Other => return lost(op, Event::SubflowTagTaken),
        Known::None => match subflows::slot(subflows::mpsec_subflow_take_slot()) {
            Some(slot) => (slot, true),
            None => return full(op),
        },
    };
    let info = subflows::info(slot)?;
    if is_new {
        begin(info, &tuple);
        if subflows::mpsec_subflow_enter(tag, slot) == 0 {
            subflows::give_slot_back(slot)?;
            return full(op);
        }
        subflows::change_ports(tuple.ports(), 1);
    }
    let mut marks = marks(op, &subflow);
    let unseen = match op {
        op::PASSIVE_ESTABLISHED => is_new && !subflows::take_handshake(tag, slot),
        op::ACTIVE_ESTABLISHED => is_new,
        _ => false,
    };
    if unseen {
        marks |= flags::HANDSHAKE_UNSEEN;
        record::event(Event::HandshakeUnseen);
    }
    describe(info, op, &subflow, marks);
    // SAFETY: the helper takes the context.
    unsafe { bpf_sock_ops_cb_flags_set(ops, ((*ops).bpf_sock_ops_cb_flags | CALLBACKS) as i32) };
    Some(())
}

/// Tells of a subflow that cannot be counted, once: one that this host opens was told of before its handshake was done.
#[inline(always)]
fn lost(op: u32, event: Event) -> Option<()> {
    if op != op::ACTIVE_ESTABLISHED {
        record::event(event);
    }
    None
}

/// [`lost`] for want of room.
#[inline(always)]
fn full(op: u32) -> Option<()> {
    lost(op, Event::SubflowTableFull)
}

/// The slot of a tag.
#[inline(always)]
fn find(tag: u64) -> Option<u32> {
    subflows::slot(subflows::mpsec_subflow_find(tag))
}

/// Whether a tag is taken.
enum Known {
    None,
    /// By this subflow.
    Same(u32),
    /// By another one that is still there, or is being filled.
    Other,
}

/// Looks a subflow up. A socket that connects, or that a handshake has just made, is always new: another one that had the
/// same addresses and ports has ended, told of it or not, and makes room.
#[inline(always)]
fn known(tuple: &Tuple, tag: u64, op: u32) -> Known {
    let Some(slot) = find(tag) else { return Known::None };
    let Some(info) = subflows::info(slot) else { return Known::Other };
    // SAFETY: the map returned a pointer to a whole value; volatile, because others write it.
    let state = unsafe { (&raw const (*info).state).read_volatile() };
    if !tuple.is_key_of(info) || state == SubflowState::Free as u8 {
        return Known::Other;
    }
    let is_closed = state == SubflowState::Closed as u8;
    // When both ends connect at once, a socket that connects ends up as one that was connected to.
    let at_once = op == op::PASSIVE_ESTABLISHED && state == SubflowState::Connecting as u8;
    if at_once || (op == op::ACTIVE_ESTABLISHED && !is_closed) {
        return Known::Same(slot);
    }
    subflows::mpsec_subflow_leave(tag, slot);
    if !is_closed {
        close(info, 0);
    }
    Known::None
}

#[inline(always)]
fn close(info: *mut SubflowInfo, last_tcp_state: u8) {
    // SAFETY: the map returned a pointer to a whole value, which only its socket's callbacks write, and those of another one
    // that has the same addresses and ports when it is gone.
    unsafe {
        (*info).last_tcp_state = last_tcp_state;
        (*info).closed_ns = bpf_ktime_get_ns();
        (&raw mut (*info).state).write_volatile(SubflowState::Closed as u8);
    }
}

/// Bits of [`flags`] that the socket tells.
#[inline(always)]
fn marks(op: u32, subflow: &Subflow) -> u16 {
    let mut marks = 0;
    if subflow.joined() {
        marks |= flags::JOINED;
    } else if op == op::ACTIVE_ESTABLISHED && !subflow.is_capable() {
        marks |= flags::FELL_BACK;
    }
    if subflow.is_backup() {
        marks |= flags::BACKUP;
    }
    if op != op::PASSIVE_ESTABLISHED {
        marks |= flags::ACTIVE_OPEN;
    }
    marks
}

/// Sets back what the slot's last owner left.
#[inline(always)]
fn begin(info: *mut SubflowInfo, tuple: &Tuple) {
    // SAFETY: the map returned a pointer to a whole value, which nobody looks at before its state is set.
    unsafe {
        let key = (&raw mut (*info).key).cast::<u64>();
        key.write_volatile(tuple.local[0]);
        key.add(1).write_volatile(tuple.local[1]);
        key.add(2).write_volatile(tuple.remote[0]);
        key.add(3).write_volatile(tuple.remote[1]);
        (*info).key.local_port = tuple.local_port;
        (*info).key.remote_port = tuple.remote_port;
        (*info).last_tcp_state = 0;
        (*info).flags = 0;
        (*info).mss = 0;
        (*info).incarnation += 1;
        (*info).total_retrans = 0;
        (*info).opened_ns = bpf_ktime_get_ns();
        (*info).established_ns = 0;
        (*info).closed_ns = 0;
        let figures = (&raw mut (*info).bytes_sent).cast::<u64>();
        for index in 0..6 {
            figures.add(index).write_volatile(0);
        }
    }
}

/// Writes down what the socket is; its state last.
#[inline(always)]
fn describe(info: *mut SubflowInfo, op: u32, subflow: &Subflow, marks: u16) {
    let (token, [local_id, remote_id]) = (subflow.token(), subflow.ids());
    let state = if op == op::CONNECT { SubflowState::Connecting } else { SubflowState::Established };
    // SAFETY: the map returned a pointer to a whole value, which only this socket's callbacks write.
    unsafe {
        (*info).token = token;
        (*info).local_id = local_id;
        (*info).remote_id = remote_id;
        (*info).flags |= marks;
        if op != op::CONNECT {
            (*info).established_ns = bpf_ktime_get_ns();
        }
        (&raw mut (*info).state).write_volatile(state as u8);
    }
}

#[inline(always)]
fn state_changed(ops: *mut bpf_sock_ops) -> Option<()> {
    // SAFETY: the context is valid for as long as the program runs; the arguments are the old state and the new one.
    let [old, new, ..] = unsafe { (*ops).__bindgen_anon_1.args };
    let new = new as u8;
    if !matches!(new, state::CLOSE | state::FIN_WAIT1 | state::CLOSE_WAIT) {
        return None;
    }
    let slot = find(Tuple::of(ops).tag())?;
    let (info, tcp) = (subflows::info(slot)?, TcpSock::of(ops)?);
    subflows::told_interface(slot, tcp.rx_ifindex());
    ending(&tcp, new, info);
    if new != state::CLOSE {
        return None;
    }
    tell(ops, &tcp, info);
    close(info, old as u8);
    Some(())
}

/// Writes down who begins to end a subflow whose socket is about to be in this state, and what a reset said.
#[inline(always)]
fn ending(tcp: &TcpSock, new: u8, info: *mut SubflowInfo) {
    match new {
        state::FIN_WAIT1 => {
            // MPTCP closes the sockets of subflows when the connection is closed, and those that it is told to meanwhile
            // (__mptcp_close_ssk and mptcp_close_ssk, net/mptcp/protocol.c, 6.1 to 6.18).
            let connection = tcp.subflow().and_then(|subflow| subflow.connection());
            let goes_on = connection.is_some_and(|connection| connection.state() == state::ESTABLISHED);
            probes::closed_by(info, if goes_on { Closer::PathManager } else { Closer::Application });
        }
        state::CLOSE_WAIT => probes::closed_by(info, Closer::Peer),
        _ => {
            if tcp.sock().error() == ETIMEDOUT {
                probes::closed_by(info, Closer::Timeout);
            }
            // One of a subflow that is older than the agent was counted when it came.
            if probes::marks(info) & (flags::RESET_RECEIVED | flags::ADOPTED) == flags::RESET_RECEIVED
                && let Some(subflow) = tcp.subflow()
            {
                count_received_reset(&subflow, info);
            }
        }
    }
}

/// Counts a reset of which nothing but the socket is at hand, by what the kernel has read of it.
#[inline(always)]
fn count_received_reset(subflow: &Subflow, info: *mut SubflowInfo) {
    if subflow.reset_seen() {
        let reason = subflow.reset_reason() as usize & (OPTION_REASONS - 1);
        // SAFETY: the index is masked to the array's length.
        probes::add(1, |counts| unsafe { (&raw mut (*counts).received_resets).cast::<u64>().add(reason) });
    } else if subflow.is_fully_established() || probes::marks(info) & flags::FELL_BACK != 0 {
        // SAFETY: the pointer is to a whole value.
        probes::add(1, |counts| unsafe { &raw mut (*counts).received_resets_without_option });
    } else {
        // SAFETY: as above.
        probes::add(1, |counts| unsafe { &raw mut (*counts).received_resets_unknown });
    }
}

/// Writes down TCP's own figures.
#[inline(always)]
fn tell(ops: *mut bpf_sock_ops, tcp: &TcpSock, info: *mut SubflowInfo) {
    // SAFETY: the context is valid for as long as the program runs; the map returned a pointer to a whole value, which only
    // this socket's callbacks write.
    unsafe {
        (*info).srtt_us = (*ops).srtt_us >> 3;
        (*info).mss = (*ops).mss_cache as u16;
        (*info).rate_delivered = (*ops).rate_delivered;
        (*info).rate_interval_us = (*ops).rate_interval_us;
        (*info).total_retrans = (*ops).total_retrans;
        (*info).bytes_acked = (*ops).bytes_acked;
        (*info).bytes_received = (*ops).bytes_received;
        (*info).bytes_sent = tcp.bytes_sent();
        // Of one that was adopted it is what was sent again before. An agent of before may have asked its socket for callbacks,
        // which no agent can take back.
        if (*info).flags & flags::ADOPTED == 0 {
            (*info).bytes_retrans = tcp.bytes_retrans();
        }
        (*info).flags |= flags::HAS_FIGURES;
    }
}

/// Whose socket it is: addresses as [`tag`] takes them, ports in host order.
pub struct Tuple {
    pub local: [u64; 2],
    remote: [u64; 2],
    local_port: u16,
    remote_port: u16,
}

impl Tuple {
    #[inline(always)]
    pub fn of(ops: *mut bpf_sock_ops) -> Tuple {
        // SAFETY: the context is valid for as long as the program runs. Volatile, so that each field is loaded on its own: the
        // verifier accepts no address that is worked out first.
        let word = |field: *const u32| unsafe { field.read_volatile() } as u64;
        let half = |address: *const u32, index: usize| {
            let address = address.wrapping_add(2 * index);
            word(address) | word(address.wrapping_add(1)) << 32
        };
        // SAFETY: as above; only addresses are taken.
        let (local4, remote4, local6, remote6, ports, family) = unsafe {
            (
                word(&raw const (*ops).local_ip4),
                word(&raw const (*ops).remote_ip4),
                (&raw const (*ops).local_ip6).cast::<u32>(),
                (&raw const (*ops).remote_ip6).cast::<u32>(),
                [word(&raw const (*ops).local_port), word(&raw const (*ops).remote_port)],
                word(&raw const (*ops).family) as u32,
            )
        };
        let local6 = [half(local6, 0), half(local6, 1)];
        let remote6 = [half(remote6, 0), half(remote6, 1)];
        let (local, remote) = if family == AF_INET {
            (mapped_halves(local4 as u32), mapped_halves(remote4 as u32))
        } else {
            (local6, remote6)
        };
        // The one is in host order, the other in network order (include/uapi/linux/bpf.h).
        Tuple { local, remote, local_port: ports[0] as u16, remote_port: u32::from_be(ports[1] as u32) as u16 }
    }

    #[inline(always)]
    fn ports(&self) -> u32 {
        ports(self.local_port, self.remote_port)
    }

    #[inline(always)]
    fn tag(&self) -> u64 {
        tag(subflows::seed(), self.local, self.remote, self.ports())
    }

    #[inline(always)]
    fn is_key_of(&self, info: *mut SubflowInfo) -> bool {
        // SAFETY: the map returned a pointer to a whole value, whose key begins with the addresses.
        unsafe {
            let key: *const SubflowKey = &raw const (*info).key;
            let words = key.cast::<u64>();
            words.read_volatile() == self.local[0]
                && words.add(1).read_volatile() == self.local[1]
                && words.add(2).read_volatile() == self.remote[0]
                && words.add(3).read_volatile() == self.remote[1]
                && (*key).local_port == self.local_port
                && (*key).remote_port == self.remote_port
        }
    }
}
