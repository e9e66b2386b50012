//! The other end of a tun or tap device: the end that a VPN program would hold.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result, ensure};

use crate::netns::{Netns, check};

/// What a device carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// IP packets without a link header.
    Tun,
    /// Ethernet frames.
    Tap,
}

/// A tun or tap device, gone on drop. What is written here, its namespace receives.
#[derive(Debug)]
pub struct TunTap(File);

impl TunTap {
    /// Makes the device and brings it up.
    pub fn new(netns: &Netns, name: &str, kind: Kind) -> Result<Self> {
        let file = netns.run(|| attach(name, kind)).with_context(|| format!("{kind:?} device {name}"))?;
        netns.ip(&format!("link set dev {name} up"))?;
        Ok(Self(file))
    }

    /// Lets the device receive `packet`.
    pub fn inject(&mut self, packet: &[u8]) -> Result<()> {
        let written = self.0.write(packet).with_context(|| format!("write {} bytes to the device", packet.len()))?;
        ensure!(written == packet.len(), "wrote {written} of {} bytes", packet.len());
        Ok(())
    }

    /// Takes one packet that the device sent; waits for it.
    pub fn take(&mut self) -> Result<Vec<u8>> {
        let mut packet = vec![0; 65_536];
        let len = self.0.read(&mut packet)?;
        packet.truncate(len);
        Ok(packet)
    }
}

impl AsRawFd for TunTap {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// `struct ifreq` with the flags that TUNSETIFF reads.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

fn attach(name: &str, kind: Kind) -> Result<File> {
    ensure!(name.len() < libc::IFNAMSIZ, "the name {name} is too long");
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mode = if kind == Kind::Tun { libc::IFF_TUN } else { libc::IFF_TAP };
    let flags = (mode | libc::IFF_NO_PI) as libc::c_short;
    let mut request = Request { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: `request` has the layout and the size of the ifreq that this request reads and writes.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(file)
}
