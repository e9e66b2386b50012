//! TAP devices: Ethernet interfaces whose other end is a descriptor (drivers/net/tun.c, Linux 6.18).

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

/// An interface of the kernel; it is gone when this is dropped.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// Makes one in the calling thread's network namespace, down, and with a carrier.
    ///
    /// The device offers no offload: what is read is one frame as it would be on a wire.
    ///
    /// # Errors
    /// `ENOENT` or `ENODEV` where this kernel has no TUN/TAP driver, `EPERM` without CAP_NET_ADMIN, `EBUSY` where the name is
    /// taken, `EINVAL` where it is too long.
    pub fn new(name: &str) -> io::Result<Tap> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        if name.len() >= libc::IFNAMSIZ {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: all zeros is a value of this structure of integers.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the descriptor is open, and TUNSETIFF takes an `ifreq`, which outlives the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
        Ok(Tap { file })
    }

    /// Plugs the cable in or out: the interface keeps its addresses and routes, and the kernel tells of the change
    /// (tun_net_change_carrier, since Linux 5.0).
    ///
    /// # Errors
    /// `EINVAL` on older kernels.
    pub fn set_carrier(&self, is_on: bool) -> io::Result<()> {
        let value = libc::c_int::from(is_on);
        // SAFETY: the descriptor is open, and TUNSETCARRIER reads an `int`, which outlives the call.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETCARRIER, &raw const value) })
    }

    /// The next frame that the kernel sends, if there is one: its length in `buffer`, which cuts off what is longer.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.file).read(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lets a frame arrive at the kernel, which has handled it when this returns: frames do not overtake each other.
    ///
    /// # Errors
    /// `EIO` while the interface is down, `EINVAL` for what is no frame.
    pub fn deliver(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write(frame).map(drop)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
