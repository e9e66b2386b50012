//! What really arrives on a device, tag included.

use std::io;
use std::mem::zeroed;
use std::ptr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::netns::{Netns, check};
use crate::packet_socket::PacketSocket;

/// Length of the two addresses before the EtherType or the tag.
const ADDRESSES: usize = 12;

/// Reads the frames that a device receives.
#[derive(Debug)]
pub struct Capture(PacketSocket);

impl Capture {
    /// Begins to capture.
    pub fn new(netns: &Netns, device: &str) -> Result<Self> {
        let socket = PacketSocket::receiver(netns, device)?;
        socket.set(libc::PACKET_IGNORE_OUTGOING, 1 as libc::c_int)?;
        socket.set(libc::PACKET_AUXDATA, 1 as libc::c_int)?;
        Ok(Self(socket))
    }

    /// The next frame, or `None` when none comes within `limit`.
    pub fn next(&self, limit: Duration) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd { fd: self.0.fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd, as the count says.
            let ready = unsafe { libc::poll(&raw mut poll, 1, i32::try_from(left.as_millis())?) };
            check(ready)?;
            if ready > 0 {
                return self.receive().map(Some);
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

    fn receive(&self) -> Result<Vec<u8>> {
        let mut frame = vec![0; 65_536];
        let mut control = [0u64; 16];
        let mut part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
        // SAFETY: all zeros is a value of this structure of pointers and integers.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in `message` is to memory of the length given beside it.
        let got = unsafe { libc::recvmsg(self.0.fd(), &raw mut message, 0) };
        let Ok(got) = usize::try_from(got) else { bail!("receive: {}", io::Error::last_os_error()) };
        frame.truncate(got);
        if let Some([tag_protocol, tag]) = stripped_tag(&message) {
            frame.splice(ADDRESSES..ADDRESSES, [tag_protocol.to_be_bytes(), tag.to_be_bytes()].concat());
        }
        Ok(frame)
    }
}

/// The VLAN tag that the kernel took out of the frame: protocol and value.
fn stripped_tag(message: &libc::msghdr) -> Option<[u16; 2]> {
    // SAFETY: `message` was filled by recvmsg, so its control data is a chain of well-formed headers, or empty.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    // SAFETY: a control message of this type holds a tpacket_auxdata, perhaps unaligned.
    let data: libc::tpacket_auxdata = unsafe { ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
    (data.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some([data.tp_vlan_tpid, data.tp_vlan_tci])
}
