//! AF_PACKET sockets, bound to one device.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use anyhow::{Context, Result};

use crate::netns::{Netns, check};

/// A raw packet socket that sees, or sends to, one device.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// A socket that can only send.
    pub fn sender(netns: &Netns, device: &str) -> Result<Self> {
        Self::open(netns, device, 0)
    }

    /// A socket that receives every frame of the device, those that the host sends included.
    pub fn receiver(netns: &Netns, device: &str) -> Result<Self> {
        Self::open(netns, device, libc::ETH_P_ALL as u16)
    }

    fn open(netns: &Netns, device: &str, protocol: u16) -> Result<Self> {
        let index = netns.ifindex(device)?;
        netns.run(|| Self::bound(index, protocol)).with_context(|| format!("packet socket on {device}"))
    }

    fn bound(index: u32, protocol: u16) -> Result<Self> {
        // SAFETY: socket takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: the kernel has just made this descriptor for us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zeros is a value of this structure of integers.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = i32::try_from(index)?;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `address` is a sockaddr_ll of `len` bytes.
        check(unsafe { libc::bind(fd.as_raw_fd(), ptr::from_ref(&address).cast(), len) })?;
        Ok(Self(fd))
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the pointer and the length are those of `frame`.
        let sent = unsafe { libc::send(self.fd(), frame.as_ptr().cast(), frame.len(), 0) };
        match usize::try_from(sent) {
            Ok(sent) if sent == frame.len() => Ok(()),
            Ok(sent) => anyhow::bail!("sent {sent} of {} bytes", frame.len()),
            Err(_) => Err(io::Error::last_os_error()).with_context(|| format!("send {} bytes", frame.len())),
        }
    }

    /// Sets an option of level SOL_PACKET.
    pub fn set<T: Copy>(&self, option: libc::c_int, value: T) -> Result<()> {
        let len = size_of::<T>() as libc::socklen_t;
        // SAFETY: the pointer and the length are those of `value`.
        check(unsafe { libc::setsockopt(self.fd(), libc::SOL_PACKET, option, ptr::from_ref(&value).cast(), len) })
            .with_context(|| format!("packet socket option {option}"))
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
