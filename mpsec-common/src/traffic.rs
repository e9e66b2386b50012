//! Traffic classes, directions, and the counters that the kernel side keeps of them.

use crate::shared;

/// What a class of traffic means for confidentiality on the path it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protection {
    /// The payload cannot be read on the path.
    Encrypted,
    /// The payload can be read on the path. What cannot be told is here too: a leak must never hide in doubt.
    Cleartext,
    /// Must be in clear for the link or the tunnel to work, and carries no payload of a user's.
    Exempt,
    /// What an IPsec tunnel of this host carries, seen inside it: it was, or will be, counted once more by its outer packet, and
    /// only that is on the wire. So it belongs to no sum of what the wire carries.
    Inner,
}

impl Protection {
    /// The value of the label `protection`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted",
            Self::Cleartext => "cleartext",
            Self::Exempt => "exempt",
            Self::Inner => "inner",
        }
    }
}

/// THE table of traffic classes: number, name, protection, meaning.
macro_rules! classes {
    ($($variant:ident = $number:literal, $name:literal, $protection:ident, $meaning:literal;)*) => {
        /// The class of a packet. The number is the index of its counter in [`InterfaceCounters`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Class { $(#[doc = $meaning] $variant = $number),* }

        impl Class {
            /// Every class, in the order of their numbers.
            pub const ALL: &'static [Class] = &[$(Class::$variant),*];

            /// The value of the label `class`.
            pub const fn name(self) -> &'static str {
                match self { $(Class::$variant => $name),* }
            }

            /// The class with this number.
            #[inline(always)]
            pub const fn from_number(number: u8) -> Option<Class> {
                match number { $($number => Some(Class::$variant),)* _ => None }
            }

            /// What this class means for confidentiality.
            pub const fn protection(self) -> Protection {
                match self { $(Class::$variant => Protection::$protection),* }
            }

            /// One sentence on what belongs to this class.
            pub const fn meaning(self) -> &'static str {
                match self { $(Class::$variant => $meaning),* }
            }
        }
    };
}

classes! {
    Esp = 0, "esp", Encrypted, "IP protocol 50 (RFC 4303), also behind an authentication header.";
    EspUdp = 1, "esp_udp", Encrypted, "ESP in UDP (RFC 3948): port 4500 with a non-zero marker.";
    Ah = 2, "ah", Cleartext, "IP protocol 51 (RFC 4302): authenticated, but readable.";
    Ike = 3, "ike", Exempt, "IKE (RFC 7296): UDP port 500, or port 4500 with a zero marker.";
    NatKeepalive = 4, "nat_keepalive", Exempt, "NAT keepalive (RFC 3948 section 2.3): port 4500, the single byte 0xff.";
    Wireguard = 5, "wireguard", Encrypted, "WireGuard: a configured UDP port and a message of its four types.";
    Mptcp = 6, "mptcp", Cleartext, "TCP whose header carries option 30 (RFC 8684).";
    Tcp = 7, "tcp", Cleartext, "Any other TCP.";
    Udp = 8, "udp", Cleartext, "Any other UDP.";
    Icmp = 9, "icmp", Cleartext, "ICMP, and ICMPv6 other than neighbour discovery.";
    Arp = 10, "arp", Exempt, "ARP (EtherType 0x0806).";
    NeighborDiscovery = 11, "neighbor_discovery", Exempt, "ICMPv6 types 133 to 137 (RFC 4861).";
    OtherIp = 12, "other_ip", Cleartext, "IPv4 or IPv6 with any other protocol.";
    Other = 13, "other", Cleartext, "Frames that carry neither IP nor ARP.";
    Malformed = 14, "malformed", Cleartext, "IP packets whose headers contradict themselves or are cut short.";
    Decrypted = 15, "decrypted", Inner, "What IPsec has decrypted, where it comes by again behind its tunnel; both ways on xfrm and vti interfaces.";
}

/// Room for classes in [`InterfaceCounters`]: a power of two, so that the kernel side can mask an index.
pub const CLASS_SLOTS: usize = 16;
const _: () = assert!(Class::ALL.len() <= CLASS_SLOTS && CLASS_SLOTS.is_power_of_two());

/// Which way a packet goes, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Received: TC ingress.
    Rx = 0,
    /// Sent: TC egress.
    Tx = 1,
}

impl Direction {
    /// Both, in the order of their numbers.
    pub const ALL: [Direction; 2] = [Direction::Rx, Direction::Tx];

    /// The value of the label `direction`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
        }
    }
}

shared! {
    /// What was counted of one class.
    pub struct Counter {
        /// Packets on the wire: a GSO or GRO super-packet counts as the segments that it stands for.
        pub packets: u64,
        /// Bytes on the wire, link header included where the device's own counters include it.
        pub bytes: u64,
        /// Bytes from the first byte of the network header on.
        pub l3_bytes: u64,
    }
}

impl Counter {
    /// True when nothing was counted.
    pub const fn is_zero(&self) -> bool {
        self.packets == 0
    }

    /// Adds `other`.
    pub const fn add(&mut self, other: &Counter) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.l3_bytes = self.l3_bytes.wrapping_add(other.l3_bytes);
    }

    /// What came since `base`.
    pub const fn since(&self, base: &Counter) -> Counter {
        Counter {
            packets: self.packets.wrapping_sub(base.packets),
            bytes: self.bytes.wrapping_sub(base.bytes),
            l3_bytes: self.l3_bytes.wrapping_sub(base.l3_bytes),
        }
    }
}

shared! {
    /// A [`Counter`] where it is kept: of a size that an index is shifted by rather than multiplied with.
    pub struct CounterCell {
        /// The counter.
        pub counter: Counter,
        /// Always 0.
        pub reserved: u64,
    }
}

shared! {
    /// The counters of one interface, one CPU and one direction: cache lines of their own, which only that CPU writes.
    pub struct InterfaceCounters {
        /// One counter a class, indexed by the class's number.
        pub classes: [CounterCell; CLASS_SLOTS],
    }
}
const _: () = assert!(size_of::<InterfaceCounters>() == 512);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_indices() {
        for (index, class) in Class::ALL.iter().enumerate() {
            assert_eq!(*class as usize, index);
            assert_eq!(Class::from_number(index as u8), Some(*class));
        }
    }

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<_> = Class::ALL.iter().map(|class| class.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Class::ALL.len());
    }
}
