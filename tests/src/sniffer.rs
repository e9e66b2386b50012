//! A capture on a device that works out what it is for packet by packet, and knows when it has missed one.

use std::fmt;
use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::netns::{Netns, check};
use crate::packet_socket::PacketSocket;

/// `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h) before each packet: how it is kept together.
pub const VNET_HEADER: usize = 10;
/// Room for the longest headers: Ethernet, IP, TCP.
const SNAP: usize = VNET_HEADER + 14 + 60 + 60;
/// Room for packets that wait to be counted.
const QUEUE_BYTES: libc::c_int = 128 << 20;
/// How often the thread looks whether it shall end.
const TURN: Duration = Duration::from_millis(20);
/// Nothing is on its way when nothing has come for so long: longer than an acknowledgement is delayed (TCP_DELACK_MAX in
/// include/net/tcp.h, Linux 6.18: 200 ms).
const QUIET: Duration = Duration::from_millis(260);

/// Looks at every packet of a device from the moment that it is made, and keeps a `T` of them.
pub struct Sniffer<T> {
    seen: Arc<Mutex<T>>,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<Result<()>>>,
    socket: Arc<PacketSocket>,
}

impl<T: Clone + Default + Send + 'static> Sniffer<T> {
    /// Begins. `look` is given the beginning of each packet, behind its [`VNET_HEADER`] bytes, the length of all of it, and
    /// whether the host sends it.
    pub fn watch(
        netns: &Netns,
        device: &str,
        look: impl Fn(&mut T, &[u8], usize, bool) + Send + 'static,
    ) -> Result<Self> {
        let socket = Arc::new(PacketSocket::receiver(netns, device)?);
        socket.set(libc::PACKET_VNET_HDR, 1 as libc::c_int)?;
        let (size, len) = (QUEUE_BYTES, size_of::<libc::c_int>() as libc::socklen_t);
        let (from, fd) = ((&raw const size).cast(), socket.fd());
        // SAFETY: the pointer and the length are those of `size`.
        check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, from, len) })
            .context("SO_RCVBUFFORCE")?;
        let (seen, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let worker = {
            let (seen, stop, socket) = (Arc::clone(&seen), Arc::clone(&stop), Arc::clone(&socket));
            thread::Builder::new().name("sniffer".into()).spawn(move || follow(&socket, &seen, &stop, look))?
        };
        Ok(Self { seen, stop, worker: Some(worker), socket })
    }

    /// What has passed so far. An error if packets were missed.
    pub fn seen(&self) -> Result<T> {
        // SAFETY: all zeros is a value of this structure of integers.
        let mut stats: libc::tpacket_stats = unsafe { zeroed() };
        let mut len = size_of_val(&stats) as libc::socklen_t;
        let (fd, to) = (self.socket.fd(), (&raw mut stats).cast());
        // SAFETY: `stats` has room for `len` bytes.
        check(unsafe { libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, to, &raw mut len) })?;
        ensure!(stats.tp_drops == 0, "the capture missed {} packets", stats.tp_drops);
        ensure!(self.worker.as_ref().is_some_and(|worker| !worker.is_finished()), "the capture has ended");
        Ok(self.seen.lock().map_err(|_| anyhow!("the capture panicked"))?.clone())
    }
}

impl<T> fmt::Debug for Sniffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sniffer").field(&self.socket).finish()
    }
}

impl<T> Drop for Sniffer<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

/// What `read` gives when it gives nothing else any more.
pub fn settled<T: PartialEq>(read: impl Fn() -> Result<T>) -> Result<T> {
    let (start, mut last, mut since) = (Instant::now(), read()?, Instant::now());
    while since.elapsed() < QUIET {
        ensure!(start.elapsed() < Duration::from_secs(20), "traffic that does not end");
        thread::sleep(TURN);
        let now = read()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}

fn follow<T>(
    socket: &PacketSocket,
    seen: &Mutex<T>,
    stop: &AtomicBool,
    look: impl Fn(&mut T, &[u8], usize, bool),
) -> Result<()> {
    let mut buffer = [0; SNAP];
    while !stop.load(Ordering::Relaxed) {
        let mut poll = libc::pollfd { fd: socket.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, as the count says.
        if unsafe { libc::poll(&raw mut poll, 1, i32::try_from(TURN.as_millis())?) } <= 0 {
            continue;
        }
        // One turn at the lock takes what there is, so that reading packets stays quick.
        let mut seen = seen.lock().map_err(|_| anyhow!("a reader panicked"))?;
        for _ in 0..256 {
            let Some((len, outgoing)) = receive(socket, &mut buffer)? else { break };
            look(&mut seen, &buffer[..len.min(SNAP)], len, outgoing);
        }
    }
    Ok(())
}

/// The length of the next packet, the header before it included, and whether the host sends it.
fn receive(socket: &PacketSocket, buffer: &mut [u8; SNAP]) -> Result<Option<(usize, bool)>> {
    // SAFETY: all zeros is a value of this structure of integers.
    let mut from: libc::sockaddr_ll = unsafe { zeroed() };
    let mut len = size_of_val(&from) as libc::socklen_t;
    let (fd, to, name) = (socket.fd(), buffer.as_mut_ptr().cast(), (&raw mut from).cast());
    // SAFETY: the buffer has SNAP bytes and `from` has `len`.
    let got = unsafe { libc::recvfrom(fd, to, SNAP, libc::MSG_DONTWAIT | libc::MSG_TRUNC, name, &raw mut len) };
    match usize::try_from(got) {
        Ok(got) => Ok(Some((got, from.sll_pkttype == libc::PACKET_OUTGOING))),
        Err(_) => match io::Error::last_os_error() {
            // ENETDOWN is told once when the device goes down, and packets come again when it is up.
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENETDOWN)) => Ok(None),
            error => bail!("capture: {error}"),
        },
    }
}
