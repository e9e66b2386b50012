//! MPTCP subflows: what the kernel side registers and counts of each, and how one is found by its addresses and ports.
//!
//! A subflow has a *slot*, in which lies what is known of it ([`SubflowInfo`]) and what is counted ([`SubflowCounters`]).
//! Slots are given out from the first one on, and those given back first of all, so that what is in use lies close together.
//! A packet's slot is found by a *tag*, a seeded hash of addresses and ports: [`set_of`] gives the two sets of eight entries
//! that it may lie in, one cache line each.

use crate::{Direction, shared};

mod filter;
pub use filter::{PORT_ENTRIES, PORTS_BATCH, PORTS_HEAD, PortsChange, port_entry};

shared! {
    /// Which subflow: addresses and ports, as this host sees them.
    pub struct SubflowKey {
        /// Local address in network order; an IPv4 address as `::ffff:a.b.c.d`, whatever the family of the socket.
        pub local: [u8; 16],
        /// Remote address, likewise.
        pub remote: [u8; 16],
        /// Local port in host order.
        pub local_port: u16,
        /// Remote port in host order.
        pub remote_port: u16,
    }
}

/// The first twelve bytes of an IPv4 address as it stands in a [`SubflowKey`] (RFC 4291 section 2.5.5.2).
pub const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl SubflowKey {
    /// The key of a TCP connection over IPv4; addresses in network order, ports in host order.
    pub const fn v4(local: [u8; 4], remote: [u8; 4], local_port: u16, remote_port: u16) -> SubflowKey {
        SubflowKey { local: mapped(local), remote: mapped(remote), local_port, remote_port }
    }

    /// Both ports as they lie in a packet that is received, read in this machine's byte order.
    #[inline(always)]
    pub const fn ports(&self) -> u32 {
        ports(self.local_port, self.remote_port)
    }

    /// The tag, with the seed that the kernel side was loaded with.
    pub const fn tag(&self, seed: u64) -> u64 {
        tag(seed, halves(&self.local), halves(&self.remote), self.ports())
    }
}

const fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The lower half of what [`SubflowKey`] makes of an IPv4 address, as [`halves`] gives it; the upper half is the address.
const MAPPED: u32 = 0xffff_0000;

/// An IPv4 address, as it lies in a packet and read in this machine's byte order, as [`tag`] takes it.
#[inline(always)]
pub const fn mapped_halves(address: u32) -> [u64; 2] {
    [0, (address as u64) << 32 | MAPPED as u64]
}

/// The words of an address in little-endian order, as all machines that the agent runs on have it.
const fn halves(a: &[u8; 16]) -> [u64; 2] {
    [
        u64::from_le_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_le_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    ]
}

/// Ports, in host order, as [`SubflowKey::ports`] gives them.
#[inline(always)]
pub const fn ports(local: u16, remote: u16) -> u32 {
    remote.to_be() as u32 | (local.to_be() as u32) << 16
}

/// An entry of a set that is free.
pub const ENTRY_FREE: u64 = 0;
/// Set in every tag, so that no entry in use is [`ENTRY_FREE`].
const TAG_USED: u64 = 1 << 20;
/// 1 for an entry in use, 0 for a free one: without a comparison, of which the verifier would follow both outcomes.
#[inline(always)]
pub const fn used(entry: u64) -> u32 {
    (entry / TAG_USED) as u32 & 1
}

/// The bits of an entry that hold the slot; they are 0 in a tag. The others tell a subflow from all the rest, but for one in
/// 2^43, and for that one by its key when it is registered.
const SLOT_BITS: u64 = (MAX_SLOTS - 1) as u64;
const _: () = assert!(TAG_USED > SLOT_BITS);

/// A tag of all that a hash tells.
#[inline(always)]
const fn tag_of(hash: u64) -> u64 {
    (hash & !SLOT_BITS) | TAG_USED
}

/// The entry for a tag and its slot.
#[inline(always)]
pub const fn entry_of(tag: u64, slot: u32) -> u64 {
    tag | (slot as u64 & SLOT_BITS)
}

/// The slot in an entry, if its tag is this one.
#[inline(always)]
pub const fn slot_in(entry: u64, tag: u64) -> Option<u32> {
    let differs = entry ^ tag;
    if differs <= SLOT_BITS { Some(differs as u32) } else { None }
}

/// Ports that count up, which is how they come, differ in few bits of the word's one half: this brings them to both.
#[inline(always)]
const fn fold(ports: u32) -> u64 {
    (ports as u64).wrapping_mul(0x1_0001)
}

/// One round, which maps no two numbers to the same one.
#[inline(always)]
const fn mix(word: u64) -> u64 {
    let word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word ^ (word >> 32)
}

/// The tag of a subflow of either family, by the words of the addresses in its [`SubflowKey`] and [`SubflowKey::ports`].
#[inline(always)]
pub const fn tag(seed: u64, local: [u64; 2], remote: [u64; 2], ports: u32) -> u64 {
    let mapped = local[0] == 0 && remote[0] == 0 && local[1] as u32 == MAPPED && remote[1] as u32 == MAPPED;
    if mapped {
        tag_v4(seed, remote[1] >> 32 | local[1] >> 32 << 32, ports)
    } else {
        tag_v6(seed, local, remote, ports)
    }
}

/// The tag of an IPv4 subflow: both addresses as they lie in a packet that is received, read in this machine's byte order, and
/// [`SubflowKey::ports`].
#[inline(always)]
pub const fn tag_v4(seed: u64, addresses: u64, ports: u32) -> u64 {
    tag_of(mix(mix(seed ^ addresses) ^ fold(ports)))
}

/// The tag of an IPv6 subflow, by the words of each address.
#[inline(always)]
pub const fn tag_v6(seed: u64, local: [u64; 2], remote: [u64; 2], ports: u32) -> u64 {
    let local = mix(mix(seed ^ local[0]) ^ local[1]);
    tag_of(mix(mix(mix(local ^ remote[0]) ^ remote[1]) ^ fold(ports)))
}

/// Entries of a set.
pub const WAYS: usize = 8;
/// The entries of a set: one cache line.
pub type TagSet = [u64; WAYS];

/// Sets for so many slots, a power of two: twice as many entries as there are slots, so that those run out first.
pub const fn sets_for(slots: u32) -> u32 {
    slots * 2 / WAYS as u32
}

/// Sets that a subflow may lie in.
pub const CHOICES: u32 = 2;

/// The set of a tag, for `choice` in `0..CHOICES`; the number of sets is a power of two, and `mask` one less.
#[inline(always)]
pub const fn set_of(tag: u64, choice: u32, mask: u32) -> u32 {
    // From where multiplication has brought the most bits together, and none that is the same in all.
    (tag >> (21 * (CHOICES - choice))) as u32 & mask
}

/// Which of a subflow's sets takes it, by how many of their entries are in use. The first one as long as it is half empty, so
/// that a packet's subflow is found in one cache line, and then the emptier one, so that the table can be filled.
#[inline(always)]
pub const fn choose(used: [u32; CHOICES as usize]) -> u32 {
    if used[0] < WAYS as u32 / 2 || used[0] <= used[1] { 0 } else { 1 }
}

/// Words of the map that holds the slots that were given back: the latest one of them, how many slots were ever given out,
/// and for each slot that was given back the one that was before it.
pub mod free {
    /// The word of the latest slot that was given back, see [`link`](super::link).
    pub const LATEST: u32 = 0;
    /// The word that counts the slots ever given out; those from there on are free.
    pub const GIVEN: u32 = 1;
    /// The word that belongs to slot 0: the slot that had been given back before it, plus 1, and 0 for none.
    pub const BEFORE: u32 = 2;
}

/// The word at [`free::LATEST`] that comes behind `latest` and says that `slot` (plus 1, and 0 for none) is the latest one.
/// It counts in its upper half, so that a word that was read is known to be still the same.
#[inline(always)]
pub const fn link(latest: u64, slot: u32) -> u64 {
    ((latest >> 32).wrapping_add(1)) << 32 | slot as u64
}

/// Slots for at least so many subflows: a power of two, and 8 at the least.
pub const fn slots_for(subflows: u32) -> u32 {
    let most = if subflows > MAX_SLOTS { MAX_SLOTS } else { subflows };
    let slots = most.next_power_of_two();
    if slots < WAYS as u32 { WAYS as u32 } else { slots }
}

/// More slots than this there cannot be.
pub const MAX_SLOTS: u32 = 1 << 20;

/// What a subflow is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SubflowState {
    /// There is none: the slot is free, or is being filled.
    #[default]
    Free = 0,
    /// Its SYN is about to be sent.
    Connecting = 1,
    /// Its three-way handshake is done.
    Established = 2,
    /// Its socket is closed. Packets still come and are counted: the last ones of TIME_WAIT, for example.
    Closed = 3,
}

impl SubflowState {
    /// The state with this number.
    pub const fn from_number(number: u8) -> Option<SubflowState> {
        match number {
            0 => Some(Self::Free),
            1 => Some(Self::Connecting),
            2 => Some(Self::Established),
            3 => Some(Self::Closed),
            _ => None,
        }
    }
}

/// Bits of [`SubflowInfo::flags`].
pub mod flags {
    /// Made by MP_JOIN; otherwise it is the connection's first, made by MP_CAPABLE.
    pub const JOINED: u16 = 1 << 0;
    /// To be used only when nothing else is left, as either end asked for (RFC 8684 section 3.3.8).
    pub const BACKUP: u16 = 1 << 1;
    /// The peer answered without MPTCP: it is plain TCP, and still counted.
    pub const FELL_BACK: u16 = 1 << 2;
    /// This host sent the SYN.
    pub const ACTIVE_OPEN: u16 = 1 << 3;
    /// The packets before it was registered came by uncounted.
    pub const HANDSHAKE_UNSEEN: u16 = 1 << 4;
    /// Older than the agent, which has it from the kernel's socket list: nothing of before is counted, and the kernel side
    /// is not told when it ends.
    pub const ADOPTED: u16 = 1 << 5;
    /// Its figures of TCP were read at least once.
    pub const HAS_FIGURES: u16 = 1 << 6;
    /// A reset was received; what it said is counted when the socket is closed.
    pub const RESET_RECEIVED: u16 = 1 << 7;
}

shared! {
    /// What is known of a subflow: two cache lines. Written when the socket calls back (include/uapi/linux/bpf.h, sock_ops),
    /// never by packets. Times are nanoseconds of CLOCK_MONOTONIC, and 0 for what has not happened.
    pub struct SubflowInfo {
        /// Which.
        pub key: SubflowKey,
        /// The local token of its connection.
        pub token: u32,
        /// A [`SubflowState`] as a number. Written last of all when a slot is filled, and first when it is freed.
        pub state: u8,
        /// State of TCP before it was closed, in the kernel's numbers (include/net/tcp_states.h); 0 while it is not.
        pub last_tcp_state: u8,
        /// Local address identifier; 255 while the kernel has none.
        pub local_id: u8,
        /// Remote address identifier.
        pub remote_id: u8,
        /// Bits of [`flags`], and a [`crate::probes::Closer`].
        pub flags: u16,
        /// Sender's maximum segment size in bytes, as of the last round trip.
        pub mss: u16,
        /// How often the slot has been given to a subflow.
        pub incarnation: u32,
        /// Segments sent again.
        pub total_retrans: u32,
        /// When it was registered.
        pub opened_ns: u64,
        /// When its handshake was done.
        pub established_ns: u64,
        /// When its socket was closed.
        pub closed_ns: u64,
        /// Payload bytes sent, those sent again included (`tcp_sock.bytes_sent`), as of the last round trip,
        /// retransmission, or the end. So are the others.
        pub bytes_sent: u64,
        /// Payload bytes that the peer has acknowledged (RFC 4898 tcpEStatsAppHCThruOctetsAcked, with the SYN).
        pub bytes_acked: u64,
        /// Payload bytes received in order.
        pub bytes_received: u64,
        /// Payload bytes sent again (`tcp_sock.bytes_retrans`); exact at every moment. Of one that was adopted: those of before.
        pub bytes_retrans: u64,
        /// Smoothed round-trip time in microseconds.
        pub srtt_us: u32,
        /// How many round trips were measured.
        pub rtt_reports: u32,
        /// Segments delivered in `rate_interval_us`.
        pub rate_delivered: u32,
        /// Microseconds over which they were, 0 when it is not known.
        pub rate_interval_us: u32,
    }
}
const _: () = assert!(size_of::<SubflowInfo>() == 128);

impl SubflowInfo {
    /// The state; what has another number is free.
    pub const fn state(&self) -> SubflowState {
        match SubflowState::from_number(self.state) {
            Some(state) => state,
            None => SubflowState::Free,
        }
    }

    /// True when all of these [`flags`] are set.
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    /// Payload bytes delivered per second over the last round trip, as the kernel reports it for sockets
    /// (tcp_compute_delivery_rate, net/ipv4/tcp.c, 6.18); `None` while there is none.
    pub const fn delivery_rate_bytes_per_second(&self) -> Option<u64> {
        let bytes = self.rate_delivered as u64 * self.mss as u64;
        (bytes * 1_000_000).checked_div(self.rate_interval_us as u64)
    }
}

shared! {
    /// What one CPU counted of a subflow in one direction: one cache line, which only that CPU adds to. It is never set
    /// back: what a slot counted for others before is for the reader to take off.
    pub struct SubflowCounter {
        /// Packets on the wire: a super-packet counts as the segments that it stands for.
        pub packets: u64,
        /// Bytes on the wire, as the interface's counters have them.
        pub bytes: u64,
        /// TCP payload bytes, retransmissions included.
        pub payload_bytes: u64,
        /// TCP payload bytes received below the highest sequence number: sent again by the peer, or overtaken on the way.
        /// Not kept for what is sent, of which [`SubflowInfo::bytes_retrans`] tells.
        pub retransmitted_bytes: u64,
        /// What comes behind the last byte received: a sequence number in the lower half, how often they have begun anew in
        /// the upper one, so that the later of two is known. 0 for unknown: on all CPUs but the one that has the latest
        /// segments, or two that have them at once.
        pub next_sequence: u64,
        /// What this CPU knew of [`Self::next_sequence`] on any when it last looked; 0 for nothing.
        pub known_sequence: u64,
        /// Index of the interface that the last packet came by on, the same on all CPUs; 0 for none.
        pub ifindex: u32,
        /// Always 0.
        pub reserved: [u32; 3],
    }
}
const _: () = assert!(size_of::<SubflowCounter>() == 64);

/// [`SubflowCounter::next_sequence`] of a sequence number that is the first known one.
#[inline(always)]
pub const fn first_sequence(sequence: u32) -> u64 {
    1 << 32 | sequence as u64
}

/// [`SubflowCounter::next_sequence`] of a sequence number, by the latest one of the same subflow.
#[inline(always)]
pub const fn extend_sequence(latest: u64, sequence: u32) -> u64 {
    latest.wrapping_add(sequence.wrapping_sub(latest as u32) as i32 as i64 as u64)
}

shared! {
    /// What one CPU counted of a subflow.
    pub struct SubflowCounters {
        /// Indexed by [`Direction`].
        pub directions: [SubflowCounter; 2],
    }
}

impl SubflowCounters {
    /// What was counted in a direction.
    pub const fn of(&self, direction: Direction) -> &SubflowCounter {
        &self.directions[direction as usize]
    }
}

/// The index of a slot's counters (of `slots`) of a CPU: what one CPU writes lies close together.
#[inline(always)]
pub const fn subflow_counter_index(slot: u32, slots: u32, cpu: u32) -> u32 {
    cpu.wrapping_mul(slots).wrapping_add(slot)
}

shared! {
    /// What came by of a handshake that this host answers, in one direction, before the subflow was registered.
    pub struct HandshakeCounter {
        /// As in [`SubflowCounter`].
        pub packets: u64,
        /// As in [`SubflowCounter`].
        pub bytes: u64,
        /// As in [`SubflowCounter`].
        pub payload_bytes: u64,
        /// Index of the interface.
        pub ifindex: u32,
        /// Always 0.
        pub reserved: u32,
    }
}

shared! {
    /// Both directions of a handshake, in the order of [`Direction`].
    pub struct Handshake {
        /// Indexed by [`Direction`].
        pub directions: [HandshakeCounter; 2],
        /// [`SubflowCounter::next_sequence`] of what was received; 0 for unknown.
        pub next_sequence: u64,
    }
}

/// Handshakes that can be under way at once; more than that push out the oldest.
pub const HANDSHAKES: u32 = 1 << 13;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_socket_is_that_of_its_packets() {
        let key = SubflowKey::v4([10, 0, 0, 1], [10, 0, 0, 2], 40000, 443);
        let word = u32::from_ne_bytes;
        // As they lie in a packet that is sent, and in one that is received.
        let sent = word([0x9c, 0x40, 0x01, 0xbb]);
        let received = word([0x01, 0xbb, 0x9c, 0x40]);
        assert_eq!(key.ports(), received);
        assert_eq!(key.ports(), sent.rotate_left(16));
        assert_eq!(port_entry(sent), port_entry(received));
        assert_eq!(key.tag(7), tag_v4(7, u64::from_ne_bytes([10, 0, 0, 2, 10, 0, 0, 1]), received));
        assert_ne!(key.tag(7), key.tag(8));
        let half = u64::from_ne_bytes;
        let v6 = SubflowKey { local: *b"0123456789abcdef", remote: *b"ghijklmnopqrstuv", ..key };
        let (local, remote) = ([half(*b"01234567"), half(*b"89abcdef")], [half(*b"ghijklmn"), half(*b"opqrstuv")]);
        assert_eq!(v6.tag(7), tag_v6(7, local, remote, received));
        let mapped = [[10, 0, 0, 1], [10, 0, 0, 2]].map(|address| mapped_halves(word(address)));
        assert_eq!(key.tag(7), tag(7, mapped[0], mapped[1], received));
    }

    #[test]
    fn tags_differ_and_leave_room_for_a_slot() {
        let mut tags = std::collections::BTreeSet::new();
        for port in 0..=u16::MAX {
            let tag = SubflowKey::v4([10, 0, 0, 1], [10, 0, 0, 2], port, 443).tag(0);
            let entry = entry_of(tag, MAX_SLOTS - 1);
            assert!(tag != ENTRY_FREE && slot_in(ENTRY_FREE, tag).is_none());
            assert_eq!((used(ENTRY_FREE), used(tag), used(entry)), (0, 1, 1));
            assert_eq!((slot_in(entry, tag), slot_in(entry, entry_of(tag ^ 1 << 21, 0))), (Some(MAX_SLOTS - 1), None));
            assert!(tags.insert(tag));
        }
    }

    /// Connections as hosts have them: many clients of a server, one client, many servers.
    fn shapes(number: u32) -> [SubflowKey; 3] {
        let [_, _, high, low] = number.to_be_bytes();
        let port = 32_768 + (number % 28_000) as u16;
        [
            SubflowKey::v4([10, 0, 0, 1], [10, 0, high, low], 443, port),
            SubflowKey::v4([10, 0, 0, 1], [10, 0, 0, 2], 443, number as u16),
            SubflowKey::v4([10, 0, 0, 1], [10, 0, high, low], port, 443),
        ]
    }

    #[test]
    fn there_is_an_entry_for_every_slot() {
        const SLOTS: u32 = 1 << 15;
        const SETS: u32 = sets_for(SLOTS);
        for seed in [0, 0x1234_5678, 0xdead_beef_cafe_f00d] {
            for shape in 0..3 {
                let mut used = vec![0; SETS as usize];
                for number in 0..SLOTS {
                    let tag = shapes(number)[shape].tag(seed);
                    let sets = [0, 1].map(|choice| set_of(tag, choice, SETS - 1) as usize);
                    let set = sets[choose(sets.map(|set| used[set])) as usize];
                    used[set] += 1;
                    assert!(used[set] <= WAYS as u32, "seed {seed} shape {shape}: no room for number {number}");
                }
            }
        }
    }

    #[test]
    fn capacities_are_powers_of_two() {
        assert_eq!([0, 1, 8, 9, 32_768, 40_000].map(slots_for), [8, 8, 8, 16, 32_768, 65_536]);
        assert_eq!(slots_for(u32::MAX), MAX_SLOTS);
    }

    #[test]
    fn sequence_numbers_go_on_where_they_begin_anew() {
        let before = first_sequence(0xffff_ff00);
        let after = extend_sequence(before, 0x100);
        assert_eq!(after - before, 0x200);
        assert_eq!(extend_sequence(after, 0xffff_ff00), before);
    }
}
