//! MPTCP sockets, as the standard library's streams.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd};

use anyhow::Result;

use crate::trial::Skip;

/// What a connection is asked to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// TCP that offers MPTCP, and takes it if it is offered.
    Mptcp,
}

impl Protocol {
    /// A listening socket.
    pub fn listen(self, address: SocketAddr) -> Result<TcpListener> {
        let socket = self.socket(address.ip())?;
        reuse(&socket)?;
        bind(&socket, address)?;
        // SAFETY: the descriptor is open.
        check(unsafe { libc::listen(socket.as_raw_fd(), 64) })?;
        Ok(TcpListener::from(socket))
    }

    /// A connected socket.
    pub fn connect(self, address: SocketAddr) -> Result<TcpStream> {
        self.connect_from(None, address)
    }

    /// A connected socket with an address and a port of its own choice.
    pub fn connect_from(self, from: Option<SocketAddr>, address: SocketAddr) -> Result<TcpStream> {
        let socket = self.socket(address.ip())?;
        if let Some(from) = from {
            reuse(&socket)?;
            bind(&socket, from)?;
        }
        connect(&socket, address)?;
        Ok(TcpStream::from(socket))
    }

    /// A socket for addresses like this one.
    pub fn socket(self, address: IpAddr) -> Result<OwnedFd> {
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let protocol = if self == Self::Mptcp { libc::IPPROTO_MPTCP } else { libc::IPPROTO_TCP };
        // SAFETY: socket takes any numbers.
        let socket = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, protocol) };
        match check(socket) {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
                Err(Skip::because("this kernel has no MPTCP"))
            }
            // SAFETY: the kernel has just made this descriptor for us alone.
            Ok(()) => Ok(unsafe { OwnedFd::from_raw_fd(socket) }),
            Err(error) => Err(error.into()),
        }
    }
}

/// An IPv4 socket of any kind, such as `SOCK_RAW`, and protocol, as socket(2) has them.
pub fn ipv4_socket(kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket takes any numbers.
    let socket = unsafe { libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, protocol) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Connects a socket.
pub fn connect(socket: &impl AsRawFd, address: SocketAddr) -> io::Result<()> {
    let (name, len) = name_of(address);
    // SAFETY: the descriptor is open, and the pointer and the length describe `name`, which outlives the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), name.as_ptr().cast(), len) })
}

/// Binds a socket.
pub fn bind(socket: &impl AsRawFd, address: SocketAddr) -> io::Result<()> {
    let (name, len) = name_of(address);
    // SAFETY: as in `connect`.
    check(unsafe { libc::bind(socket.as_raw_fd(), name.as_ptr().cast(), len) })
}

/// The number of a socket's protocol (SO_PROTOCOL).
pub fn protocol_of(socket: &impl AsRawFd) -> io::Result<i32> {
    let (mut value, mut len) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the descriptor is open, and both pointers are to variables that outlive the call; the length is the first's.
    check(unsafe {
        let value = (&raw mut value).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PROTOCOL, value, &raw mut len)
    })?;
    Ok(value)
}

/// Lets a port be used that has just been.
fn reuse(socket: &OwnedFd) -> io::Result<()> {
    let yes = 1i32;
    // SAFETY: the descriptor is open, and the pointer and the length describe `yes`, which outlives the call.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const yes).cast(), 4)
    })
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct sockaddr_in` or `sockaddr_in6` as bytes, and its length.
fn name_of(address: SocketAddr) -> ([u8; 28], libc::socklen_t) {
    let mut name = [0; 28];
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as libc::sa_family_t;
    name[..2].copy_from_slice(&family.to_ne_bytes());
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(address) => name[4..8].copy_from_slice(&address.ip().octets()),
        SocketAddr::V6(address) => name[8..24].copy_from_slice(&address.ip().octets()),
    }
    (name, if address.is_ipv4() { 16 } else { 28 })
}
