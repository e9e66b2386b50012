//! Bulk traffic whose size on the wire is known from the sockets themselves.

use std::io::{Read, Write};
use std::mem::size_of_val;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::netns::{Netns, check};
use crate::wait;

/// How long a transfer may stand still.
const PATIENCE: Duration = Duration::from_secs(20);
/// Options of our SYN without SACK and time stamps: segment size, no-operation, window scale.
const SYN_OPTIONS: u64 = 8;

/// What one socket of a TCP connection sent, by its own count (`tcp_info`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sent {
    /// Segments, SYN included where this side began the connection.
    pub segments: u64,
    /// Bytes of payload, repeated ones included.
    pub payload: u64,
}

impl Sent {
    /// Bytes from the network header on, for IP headers of `ip_len` bytes.
    pub fn l3_bytes(&self, ip_len: u64) -> u64 {
        self.payload + self.segments * (ip_len + 20)
    }
}

/// What a finished transfer put on the wire. It is still connected, so that this is all there was; the drop closes it.
#[derive(Debug)]
pub struct Transfer {
    /// From the client to the server.
    pub up: Sent,
    /// From the server to the client.
    pub down: Sent,
    /// Bytes of TCP options in `up` and in `down`: those of the SYN and its answer.
    pub options: u64,
    /// Client and server.
    pub sockets: [TcpStream; 2],
}

/// Makes TCP in a namespace so plain that every segment's size is known: no time stamps, no SACK, no ECN.
pub fn plain_tcp(netns: &Netns) -> Result<()> {
    for key in ["tcp_timestamps", "tcp_sack", "tcp_ecn", "tcp_fastopen"] {
        netns.sysctl(&format!("net/ipv4/{key}"), "0")?;
    }
    Ok(())
}

/// Sends `len` bytes over TCP from one namespace to an address of another, and one byte back. Both sockets are still
/// connected when they are asked for their counts, and nothing is in flight.
pub fn tcp(client: &Netns, server: &Netns, address: IpAddr, len: u64) -> Result<Transfer> {
    let listener = server.run(|| TcpListener::bind((address, 0)))?;
    let target = listener.local_addr()?;
    let receiver = thread::spawn(move || receive(&listener, len));
    let mut client = client.run(|| TcpStream::connect_timeout(&target, PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    client.set_read_timeout(Some(PATIENCE))?;
    let chunk = vec![0x5a; 64 * 1024];
    let mut left = len;
    while left > 0 {
        let part = left.min(chunk.len() as u64);
        client.write_all(&chunk[..usize::try_from(part)?]).context("send")?;
        left -= part;
    }
    client.read_exact(&mut [0]).context("the answer")?;
    let server = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    let sockets = [client, server];
    let (up, down) = settled(&sockets)?;
    Ok(Transfer { up, down, options: SYN_OPTIONS, sockets })
}

fn receive(listener: &TcpListener, len: u64) -> Result<TcpStream> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let got = std::io::copy(&mut Read::by_ref(&mut stream).take(len), &mut std::io::sink()).context("receive")?;
    ensure!(got == len, "received {got} of {len} bytes");
    stream.write_all(&[1])?;
    Ok(stream)
}

/// The counts once each side has seen all that the other sent, acknowledgements included.
fn settled([client, server]: &[TcpStream; 2]) -> Result<(Sent, Sent)> {
    wait::until(PATIENCE, || {
        let (up, down) = (TcpInfo::of(client)?, TcpInfo::of(server)?);
        ensure!(up.unacked == 0 && down.unacked == 0, "data is in flight");
        // The server's socket counts the SYN that it came from, but not the answer, which the listener sent.
        ensure!(up.segs_out == down.segs_in, "{up:?}, {down:?}");
        ensure!(up.segs_in == down.segs_out + 1, "{up:?}, {down:?}");
        let sent = |segments: u32, by: &TcpInfo| Sent { segments: segments.into(), payload: by.bytes_sent };
        Ok((sent(up.segs_out, &up), sent(up.segs_in, &down)))
    })
}

/// What of `struct tcp_info` (include/uapi/linux/tcp.h) is of use here.
#[derive(Clone, Copy, Debug)]
struct TcpInfo {
    unacked: u32,
    segs_out: u32,
    segs_in: u32,
    bytes_sent: u64,
}

impl TcpInfo {
    fn of(stream: &TcpStream) -> Result<Self> {
        let mut info = [0u64; 32];
        let mut len = size_of_val(&info) as libc::socklen_t;
        let (fd, to) = (stream.as_raw_fd(), info.as_mut_ptr().cast());
        // SAFETY: `info` has room for `len` bytes.
        check(unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut len) })?;
        ensure!(len >= 208, "tcp_info of {len} bytes is too old");
        let half = |byte: usize| (info[byte / 8] >> (byte % 8 * 8)) as u32;
        Ok(Self { unacked: half(24), segs_out: half(136), segs_in: half(140), bytes_sent: info[200 / 8] })
    }
}

/// Has a socket send what it is given in datagrams of so many bytes, kept together by the kernel (UDP_SEGMENT).
pub fn send_in_segments_of(socket: &UdpSocket, bytes: u16) -> Result<()> {
    let value = libc::c_int::from(bytes);
    let (fd, len) = (socket.as_raw_fd(), size_of_val(&value) as libc::socklen_t);
    // SAFETY: `value` is an int and `len` its size.
    check(unsafe { libc::setsockopt(fd, libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const value).cast(), len) })
        .map(drop)
        .context("UDP_SEGMENT")
}

/// Sends UDP datagrams of `segment` bytes, `per_call` of them in each of `calls` calls, kept together by the kernel
/// (UDP_SEGMENT). The last of each call is one byte short. Gives packets and bytes of UDP payload; all have arrived.
pub fn udp_segments(
    client: &Netns,
    server: &Netns,
    address: IpAddr,
    segment: u16,
    per_call: u64,
    calls: u64,
) -> Result<(u64, u64)> {
    let receiver = server.run(|| UdpSocket::bind((address, 0)))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let target = receiver.local_addr()?;
    let any: IpAddr = if address.is_ipv4() { "0.0.0.0".parse()? } else { "::".parse()? };
    let sender = client.run(|| UdpSocket::bind((any, 0)))?;
    send_in_segments_of(&sender, segment)?;
    let batch = vec![0x5a; usize::try_from(per_call * u64::from(segment) - 1)?];
    let mut buffer = vec![0; 65_536];
    for _ in 0..calls {
        sender.send_to(&batch, target).context("send")?;
        let mut got = 0;
        for _ in 0..per_call {
            got += receiver.recv(&mut buffer).context("receive")?;
        }
        ensure!(got == batch.len(), "received {got} of {} bytes", batch.len());
    }
    Ok((per_call * calls, calls * batch.len() as u64))
}

/// Sends one UDP datagram for each of `sizes` and waits for each to arrive.
pub fn datagrams(client: &Netns, server: &Netns, address: IpAddr, sizes: &[usize]) -> Result<()> {
    let receiver = server.run(|| UdpSocket::bind((address, 0)))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let any: IpAddr = if address.is_ipv4() { "0.0.0.0".parse()? } else { "::".parse()? };
    let sender = client.run(|| UdpSocket::bind((any, 0)))?;
    let target = receiver.local_addr()?;
    for size in sizes {
        sender.send_to(&vec![0x5a; *size], target).context("send")?;
        let got = receiver.recv(&mut vec![0; 65_536]).context("receive")?;
        ensure!(got == *size, "received {got} of {size} bytes");
    }
    Ok(())
}
