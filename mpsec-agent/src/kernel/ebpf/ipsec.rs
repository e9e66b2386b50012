//! Whether the programs ask for what IPsec decrypted: as soon as there is something to ask for, because it costs each packet
//! that is received a call.

use std::fs;

use aya::maps::{Array, Map, MapData, MapError};
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};

use crate::kernel::netlink::{Client, NetlinkError, Request, attribute, u32_at};

/// Messages and attributes of include/uapi/linux/xfrm.h.
const XFRM_MSG_NEWSADINFO: u16 = 0x22;
const XFRM_MSG_GETSADINFO: u16 = 0x23;
const XFRMA_SAD_CNT: u16 = 1;
/// The flags that the message begins with.
const HEADER: [u8; 4] = [0xff; 4];

/// Whether this kernel lets programs ask by which state a packet was decrypted. One that cannot tell does not; then what was
/// decrypted counts by what it is, and so as cleartext.
pub(super) fn can_ask() -> bool {
    is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_skb_get_xfrm_state).unwrap_or(false)
}

/// The switch that the programs turn on themselves with the first packet of ESP.
pub(super) struct Ipsec {
    in_use: Array<MapData, u32>,
    /// Nothing more is to be done.
    is_settled: bool,
}

/// The sockets of netlink, the kernel's own among them, in the caller's network namespace.
const SOCKETS: &str = "/proc/thread-self/net/netlink";

impl Ipsec {
    pub(super) fn new(map: Map, can_ask: bool) -> Result<Ipsec, MapError> {
        Ok(Ipsec { in_use: map.try_into()?, is_settled: !can_ask })
    }

    /// Turns it on if there is a state: where a device or GRO decrypts, the programs see no packet of ESP.
    pub(super) fn look(&mut self) {
        // To ask before the kernel's end is there would load the module that it is in. Without /proc nobody knows, and it is asked.
        let is_there = || fs::read_to_string(SOCKETS).map_or(true, |sockets| has_kernel_end(&sockets));
        if self.is_settled || !is_there() {
            return;
        }
        match states() {
            Ok(0) => {}
            Ok(_) => match self.in_use.set(0, 1, 0) {
                Ok(()) => self.is_settled = true,
                Err(error) => tracing::warn!(%error, "what IPsec decrypts may be taken for cleartext"),
            },
            // This kernel has no such interface, or does not tell: then only ESP that comes by does. A shortage passes.
            Err(error) => {
                tracing::debug!(%error, "states of IPsec cannot be counted");
                let shortages = [libc::ENOBUFS, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::EINTR];
                let errno = match &error {
                    NetlinkError::Socket(error) => error.raw_os_error(),
                    other => other.errno(),
                };
                self.is_settled = !errno.is_some_and(|errno| shortages.contains(&errno));
            }
        }
    }
}

/// Whether the kernel listens for what is asked about IPsec: its own sockets have port 0 (netlink_native_seq_show,
/// net/netlink/af_netlink.c, 6.1 to 6.18).
fn has_kernel_end(sockets: &str) -> bool {
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some("6") && fields.next() == Some("0")
    })
}
const _: () = assert!(libc::NETLINK_XFRM == 6);

/// How many states this network namespace has.
fn states() -> Result<u32, NetlinkError> {
    let mut count = None;
    let mut client = Client::open(libc::NETLINK_XFRM as isize)?;
    client.ask(Request::new(XFRM_MSG_GETSADINFO, 0, &HEADER), |message| {
        if let (XFRM_MSG_NEWSADINFO, Some(attributes)) = (message.kind, message.payload.get(HEADER.len()..)) {
            count = attribute(attributes, XFRMA_SAD_CNT).and_then(|value| u32_at(value, 0));
        }
    })?;
    count.ok_or(NetlinkError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_socket_tells_that_ipsec_can_be_asked() {
        let head = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n";
        let others = "00000000b4cf3d2c 0   0          00000000 0        0        0     2        0        4\n\
                      00000000c4cf3d2c 16  6          00000000 0        0        0     2        0        5\n\
                      00000000a1cf3d2c 6   4021       00000000 0        0        0     2        0        17\n";
        let kernels = "00000000d4cf3d2c 6   0          00000000 0        0        0     2        0        18\n";
        assert!(!has_kernel_end(&format!("{head}{others}")));
        assert!(has_kernel_end(&format!("{head}{others}{kernels}")));
    }
}
