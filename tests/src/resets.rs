//! Resets that cross a device, with what MP_TCPRST says in them, and resets from somebody on the way.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context, Result, ensure};

use crate::frames::checksum;
use crate::mptcp_socket;
use crate::netns::{Netns, check};
use crate::sniffer::{self, Sniffer};
use crate::wire::{FIN, Packet, RST, SYN, Tuple};

/// A reset, as the device's host sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reset {
    /// Local and remote address.
    pub ends: Tuple,
    /// The host sent it.
    pub sent: bool,
    /// The reason that MP_TCPRST gives (RFC 8684 section 3.6); `None` without that option.
    pub reason: Option<u8>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Seen {
    resets: Vec<Reset>,
    /// The sequence numbers that come next of each connection: received, sent.
    next: BTreeMap<Tuple, [u32; 2]>,
}

/// Keeps the resets that cross a device from the moment that it is made.
#[derive(Debug)]
pub struct Resets(Sniffer<Seen>);

impl Resets {
    /// Begins to watch.
    pub fn watch(netns: &Netns, device: &str) -> Result<Self> {
        Sniffer::watch(netns, device, |seen: &mut Seen, bytes, len, sent| {
            let Some(packet) = Packet::parse(bytes, len) else { return };
            let ends = if sent { (packet.from, packet.to) } else { (packet.to, packet.from) };
            if packet.flags & RST != 0 {
                return seen.resets.push(Reset { ends, sent, reason: packet.reason });
            }
            let counted = packet.sum.payload as u32 + u32::from(packet.flags & (SYN | FIN) != 0);
            seen.next.entry(ends).or_default()[usize::from(sent)] = packet.sequence.wrapping_add(counted);
        })
        .map(Self)
    }

    /// All of them, when nothing more comes.
    pub fn settled(&self) -> Result<Vec<Reset>> {
        Ok(sniffer::settled(|| self.0.seen())?.resets)
    }

    /// Has somebody on the way reset the only connection that has crossed the device since the last one was reset, in the name of
    /// the device's peer, with MP_TCPRST if a reason is given. `from` is the namespace that it is sent in. Gives the connection.
    pub fn inject(&self, from: &Netns, reason: Option<u8>) -> Result<Tuple> {
        let seen = sniffer::settled(|| self.0.seen())?;
        let open = seen.next.iter().filter(|(ends, _)| !seen.resets.iter().any(|reset| reset.ends == **ends));
        let open: Vec<_> = open.collect();
        let [(&(local, remote), [sequence, acknowledged])] = open[..] else { anyhow::bail!("connections: {open:?}") };
        let segment = segment((remote, local), [*sequence, *acknowledged], reason);
        from.run(|| send(remote, local, &segment))?;
        Ok((local, remote))
    }
}

/// A TCP segment that is a reset.
fn segment((from, to): Tuple, [sequence, acknowledged]: [u32; 2], reason: Option<u8>) -> Vec<u8> {
    let option = reason.map_or(vec![], |reason| vec![30, 4, 8 << 4, reason]);
    let words = 5 + option.len() as u8 / 4;
    let mut bytes = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    bytes.extend([sequence.to_be_bytes(), acknowledged.to_be_bytes(), [words << 4, RST | ACK, 0, 0], [0; 4]].concat());
    bytes.extend(option);
    let pseudo = [octets(from), octets(to), (bytes.len() as u32).to_be_bytes().to_vec(), vec![0, 0, 0, 6]].concat();
    let sum = checksum(&[&pseudo, &bytes]);
    bytes[16..18].copy_from_slice(&sum);
    bytes
}

const ACK: u8 = 16;

fn octets(end: SocketAddr) -> Vec<u8> {
    match end.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Sends a segment as it is, through a raw socket.
fn send(from: SocketAddr, to: SocketAddr, segment: &[u8]) -> Result<()> {
    let family = if from.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_TCP) };
    check(fd).context("raw socket")?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let portless = |end: SocketAddr| SocketAddr::new(end.ip(), 0);
    mptcp_socket::bind(&socket, portless(from)).context("bind")?;
    mptcp_socket::connect(&socket, portless(to)).context("connect")?;
    // SAFETY: the pointer and the length are those of `segment`.
    let sent = unsafe { libc::send(socket.as_raw_fd(), segment.as_ptr().cast(), segment.len(), 0) };
    ensure!(usize::try_from(sent) == Ok(segment.len()), "sent {sent}: {}", std::io::Error::last_os_error());
    Ok(())
}
