//! Sockets of TCP and MPTCP that the standard library cannot make, as its streams.

use std::io;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// What a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP alone.
    Tcp,
    /// TCP that offers MPTCP, and takes it where it is offered.
    Mptcp,
}

impl Protocol {
    /// A listening socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` where this kernel has no MPTCP, `ENOPROTOOPT` where the namespace has it switched off, and those of
    /// bind(2) and listen(2).
    pub fn listen(self, address: SocketAddrV4) -> io::Result<TcpListener> {
        let socket = self.socket()?;
        set_reuse(&socket)?;
        bind(&socket, address)?;
        // SAFETY: the descriptor is open.
        check(unsafe { libc::listen(socket.as_raw_fd(), 16) })?;
        Ok(TcpListener::from(socket))
    }

    /// A connected socket in the calling thread's network namespace, from an address of choice.
    ///
    /// # Errors
    /// As [`Protocol::listen`], and those of connect(2).
    pub fn connect(self, from: Option<SocketAddrV4>, to: SocketAddrV4) -> io::Result<TcpStream> {
        let socket = self.socket()?;
        if let Some(from) = from {
            bind(&socket, from)?;
        }
        let (name, len) = name_of(to);
        // SAFETY: the descriptor is open, and the pointer and the length describe `name`, which outlives the call.
        check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const name).cast(), len) })?;
        Ok(TcpStream::from(socket))
    }

    fn socket(self) -> io::Result<OwnedFd> {
        let protocol = if self == Self::Mptcp { libc::IPPROTO_MPTCP } else { libc::IPPROTO_TCP };
        // SAFETY: socket takes numbers alone.
        let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, protocol) };
        check(socket)?;
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(socket) })
    }
}

/// Sets the congestion control of a socket, of an MPTCP one for all subflows that it has and will have.
///
/// # Errors
/// `ENOENT` where this kernel has none of that name.
pub fn set_congestion_control(stream: &TcpStream, name: &str) -> io::Result<()> {
    let (value, len) = (name.as_ptr().cast(), name.len() as libc::socklen_t);
    // SAFETY: the descriptor is open, and the pointer and the length are those of `name`, which outlives the call.
    check(unsafe { libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, value, len) })
}

/// Lets a socket be bound to an address that this host does not have (ip(7), IP_FREEBIND). One of IPv6 takes the option of IPv4,
/// too, and heeds it (inet_can_nonlocal_bind, include/net/inet_sock.h, 4.15 to 6.18).
///
/// # Errors
/// Those of setsockopt(2).
pub fn bind_anyway(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the pointer and the length are those of `on`, which outlives the call.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_FREEBIND, (&raw const on).cast(), len)
    })
}

/// The congestion control of a socket.
///
/// # Errors
/// Those of getsockopt(2).
pub fn congestion_control(stream: &TcpStream) -> io::Result<String> {
    let mut name = [0u8; 16];
    let mut len = name.len() as libc::socklen_t;
    let to = name.as_mut_ptr().cast();
    // SAFETY: the descriptor is open, and `name` has room for `len` bytes.
    check(unsafe { libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, to, &raw mut len) })?;
    Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
}

/// Lets a port be used that has just been.
fn set_reuse(socket: &OwnedFd) -> io::Result<()> {
    let yes: libc::c_int = 1;
    let len = size_of_val(&yes) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the pointer and the length describe `yes`, which outlives the call.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const yes).cast(), len)
    })
}

fn bind(socket: &OwnedFd, address: SocketAddrV4) -> io::Result<()> {
    let (name, len) = name_of(address);
    // SAFETY: the descriptor is open, and the pointer and the length describe `name`, which outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const name).cast(), len) })
}

fn name_of(address: SocketAddrV4) -> (libc::sockaddr_in, libc::socklen_t) {
    let name = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    };
    (name, size_of_val(&name) as libc::socklen_t)
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
