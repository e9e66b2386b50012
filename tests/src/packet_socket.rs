//! AF_PACKET sockets, bound to one device.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use anyhow::{Context, Result, bail};

use crate::netns::{Netns, check};

/// A raw packet socket.
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

    /// A socket that sends through any device of the namespace.
    pub fn unbound(netns: &Netns) -> Result<Self> {
        netns.run(Self::new).context("packet socket")
    }

    fn open(netns: &Netns, device: &str, protocol: u16) -> Result<Self> {
        let index = netns.ifindex(device)?;
        let socket = netns.run(Self::new).context("packet socket")?;
        let (address, len) = address(index, protocol)?;
        // SAFETY: `address` is a sockaddr_ll of `len` bytes.
        check(unsafe { libc::bind(socket.fd(), ptr::from_ref(&address).cast(), len) })
            .with_context(|| format!("packet socket on {device}"))?;
        Ok(socket)
    }

    fn new() -> Result<Self> {
        // SAFETY: socket takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends one frame through the device that the socket is bound to.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the pointer and the length are those of `frame`.
        all_sent(frame, unsafe { libc::send(self.fd(), frame.as_ptr().cast(), frame.len(), 0) })
    }

    /// Sends one frame through the device with this index.
    pub fn send_through(&self, index: u32, frame: &[u8]) -> Result<()> {
        let (address, len) = address(index, 0)?;
        let (data, target) = (frame.as_ptr().cast(), ptr::from_ref(&address).cast());
        // SAFETY: the pointers and the lengths are those of `frame` and of a sockaddr_ll of `len` bytes.
        all_sent(frame, unsafe { libc::sendto(self.fd(), data, frame.len(), 0, target, len) })
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

fn address(index: u32, protocol: u16) -> Result<(libc::sockaddr_ll, libc::socklen_t)> {
    // SAFETY: all zeros is a value of this structure of integers.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = i32::try_from(index)?;
    Ok((address, size_of::<libc::sockaddr_ll>() as libc::socklen_t))
}

fn all_sent(frame: &[u8], sent: isize) -> Result<()> {
    match usize::try_from(sent) {
        Ok(sent) if sent == frame.len() => Ok(()),
        Ok(sent) => bail!("sent {sent} of {} bytes", frame.len()),
        Err(_) => Err(io::Error::last_os_error()).with_context(|| format!("send {} bytes", frame.len())),
    }
}
