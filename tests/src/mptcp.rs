//! Programs that speak MPTCP or plain TCP: a conversation whose every byte is counted and checked at both ends.

use std::io::{self, Read, Write};
use std::mem::{size_of, size_of_val};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::mptcp_socket;
pub use crate::mptcp_socket::Protocol;
use crate::need;
use crate::netns::{Netns, check};
use crate::paths::{Family, Host, Paths, address};
use crate::trial::Skip;
use crate::wait;

/// How long a conversation may stand still.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes that are written at once.
const CHUNK: usize = 64 * 1024;
/// A number that no segment size and no chunk is a multiple of, so that bytes out of place are noticed.
const PERIOD: usize = 251;
/// How often a sender at a constant rate sends.
const TICK: Duration = Duration::from_millis(5);
/// The option level of MPTCP (include/uapi/linux/mptcp.h).
const SOL_MPTCP: libc::c_int = 284;
/// `struct mptcp_info` of a connection.
const MPTCP_INFO: libc::c_int = 1;
const MPTCP_TCPINFO: libc::c_int = 2;
/// Connections that wait to be accepted.
const BACKLOG: libc::c_int = 4096;

/// Waits for connections on all addresses of a host. Gives the port, too.
pub fn listen(netns: &Netns, family: Family, protocol: Protocol) -> Result<(TcpListener, u16)> {
    let any: IpAddr = if family == Family::V4 { "0.0.0.0".parse()? } else { "::".parse()? };
    let socket = netns.run(|| protocol.socket(any))?;
    bind(&socket, any)?;
    // SAFETY: listen takes no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) }).context("listen")?;
    let listener = TcpListener::from(socket);
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Connects from one of the addresses of the namespace that the thread is in.
pub fn connect(from: IpAddr, to: SocketAddr, protocol: Protocol) -> Result<TcpStream> {
    let socket = protocol.socket(to.ip())?;
    bind(&socket, from)?;
    let stream = TcpStream::from(socket);
    // The limit on sending holds for connecting, too.
    patient(&stream)?;
    mptcp_socket::connect(&stream, to).with_context(|| format!("connect to {to}"))?;
    Ok(stream)
}

/// One end of a conversation.
#[derive(Debug)]
pub struct End {
    /// Its socket.
    pub stream: TcpStream,
    /// Payload bytes that the program sent.
    pub sent: u64,
    /// Payload bytes that it received, all as expected.
    pub received: u64,
}

/// A connection between two programs, both ends in hand.
#[derive(Debug)]
pub struct Conversation {
    /// The end that connected.
    pub client: End,
    /// The end that accepted.
    pub server: End,
    /// What the server listens with: the kernel takes joins only while somebody does.
    listener: TcpListener,
}

impl Conversation {
    /// Opens one by path 0, MPTCP at both ends, and sends a byte each way: a client joins, by the endpoints that there are
    /// and those to come, when it knows that its peer has the connection for established.
    pub fn open(paths: &Paths, family: Family) -> Result<Self> {
        let mut talk = Self::between(paths, family, [Protocol::Mptcp; 2])?;
        talk.exchange(1, 1)?;
        Ok(talk)
    }

    /// Opens one by path 0 between a client and a server that ask for these protocols.
    pub fn between(paths: &Paths, family: Family, [client, server]: [Protocol; 2]) -> Result<Self> {
        let (listener, port) = listen(&paths.server, family, server)?;
        let target = (address(Host::Server, family, 0), port).into();
        let stream = paths.client.run(|| connect(address(Host::Client, family, 0), target, client))?;
        let (accepted, _) = listener.accept().context("accept")?;
        patient(&accepted)?;
        let end = |stream| End { stream, sent: 0, received: 0 };
        Ok(Self { client: end(stream), server: end(accepted), listener })
    }

    /// Sends this many bytes up, from client to server, and down at the same time; all have arrived when this returns.
    pub fn exchange(&mut self, up: u64, down: u64) -> Result<()> {
        self.exchange_at(up, down, None)
    }

    /// The same with each way held to a constant rate in bytes per second.
    pub fn exchange_at(&mut self, up: u64, down: u64, rate: Option<u64>) -> Result<()> {
        let Self { client, server, .. } = self;
        thread::scope(|scope| {
            let (from, to) = (&*client, &*server);
            let workers = [
                scope.spawn(move || send(&from.stream, from.sent, up, rate)),
                scope.spawn(move || receive(&to.stream, to.received, up)),
                scope.spawn(move || send(&to.stream, to.sent, down, rate)),
                scope.spawn(move || receive(&from.stream, from.received, down)),
            ];
            workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a program panicked"))?)
        })?;
        client.sent += up;
        server.received += up;
        server.sent += down;
        client.received += down;
        Ok(())
    }

    /// What MPTCP says of the client's end and of the server's, where it says anything.
    pub fn info(&self) -> Result<[Option<Info>; 2]> {
        Ok([Info::of(&self.client.stream)?, Info::of(&self.server.stream)?])
    }

    /// The client's token. An error where there is no MPTCP.
    pub fn token(&self) -> Result<u32> {
        Ok(Info::of(&self.client.stream)?.context("no MPTCP")?.token)
    }

    /// Waits until both ends have this many subflows, the first included.
    pub fn joined(&self, subflows: u32) -> Result<()> {
        wait::until(PATIENCE, || {
            for info in self.info()? {
                let have = info.context("no MPTCP")?.subflows_total;
                ensure!(have == subflows, "{have} subflows instead of {subflows}");
            }
            Ok(())
        })
    }

    /// Both ends say that they are done, the client first, and see the other's end.
    pub fn close(self) -> Result<()> {
        let Self { client, server, listener: _listener } = self;
        for (from, to) in [(&client.stream, &server.stream), (&server.stream, &client.stream)] {
            from.shutdown(std::net::Shutdown::Write).context("shutdown")?;
            ensure!(read(to, &mut [0]).context("the other's end")? == 0, "bytes that nobody sent");
        }
        Ok(())
    }

    /// The server's program resets the connection.
    pub fn reset(self) -> Result<()> {
        self.reset_by_server().map(drop)
    }

    /// The server's program resets the connection, and goes on listening. Gives what is left: the client's end, and what the server
    /// listens with.
    pub fn reset_by_server(self) -> Result<(End, TcpListener)> {
        let Self { client, server, listener } = self;
        reset(server.stream)?;
        Ok((client, listener))
    }

    /// The client's program resets the connection.
    pub fn reset_by_client(self) -> Result<()> {
        reset(self.client.stream)
    }
}

/// Ends a connection with a reset.
pub fn reset(stream: TcpStream) -> Result<()> {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    option(&stream, libc::SOL_SOCKET, libc::SO_LINGER, at_once).context("SO_LINGER")
}

/// What of `struct mptcp_info` (include/uapi/linux/mptcp.h, Linux 6.18) is of use here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Info {
    /// Subflows beside the first one.
    pub extra_subflows: u8,
    /// Bit 0 tells of a fallback.
    pub flags: u32,
    /// The local token.
    pub token: u32,
    /// What it counts of payload; `None` before Linux 6.5.
    pub bytes: Option<Bytes>,
    /// All subflows of the moment.
    pub subflows_total: u32,
}

/// Payload bytes of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bytes {
    /// Those that were sent again on another subflow.
    pub retrans: u64,
    /// Those sent, each once.
    pub sent: u64,
    /// Those received in order.
    pub received: u64,
    /// Those that the peer has acknowledged.
    pub acked: u64,
}

impl Info {
    /// Asks a socket; `None` for one that is plain TCP.
    pub fn of(stream: &TcpStream) -> Result<Option<Self>> {
        let mut info = [0u64; 32];
        let mut len = size_of_val(&info) as libc::socklen_t;
        let (fd, to) = (stream.as_raw_fd(), info.as_mut_ptr().cast());
        // SAFETY: `info` has room for `len` bytes.
        if let Err(error) = check(unsafe { libc::getsockopt(fd, SOL_MPTCP, MPTCP_INFO, to, &raw mut len) }) {
            let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            return if code == Some(libc::EOPNOTSUPP) { Ok(None) } else { Err(error).context("MPTCP_INFO") };
        }
        ensure!(len >= 16, "mptcp_info of {len} bytes is too old");
        let half = |byte: usize| (info[byte / 8] >> (byte % 8 * 8)) as u32;
        let [retrans, sent, received, acked] = [6, 7, 8, 9].map(|word| info[word]);
        Ok(Some(Self {
            extra_subflows: half(0) as u8,
            flags: half(8),
            token: half(12),
            bytes: (len >= 80).then_some(Bytes { retrans, sent, received, acked }),
            subflows_total: if len > 80 { half(80) & 0xff } else { subflows_of(stream)? },
        }))
    }

    /// What it counts of payload, for a test that cannot do without.
    pub fn bytes(&self) -> Result<Bytes> {
        self.bytes.ok_or_else(|| Skip::because("MPTCP sockets of this kernel do not count payload (Linux 6.5)"))
    }

    /// Whether it fell back to plain TCP.
    pub const fn fallback(&self) -> bool {
        self.flags & 1 != 0
    }
}

/// How many subflows there are, for kernels whose `mptcp_info` does not say it: they say it before they tell of each
/// (`struct mptcp_subflow_data`, include/uapi/linux/mptcp.h, Linux 6.1), for which there is no room here.
fn subflows_of(stream: &TcpStream) -> Result<u32> {
    // Its own size, the number of subflows, the kernel's size of an entry, ours.
    let mut about = [16u32, 0, 0, 0];
    let mut len = size_of_val(&about) as libc::socklen_t;
    let (fd, to) = (stream.as_raw_fd(), about.as_mut_ptr().cast());
    // SAFETY: `about` has room for `len` bytes.
    check(unsafe { libc::getsockopt(fd, SOL_MPTCP, MPTCP_TCPINFO, to, &raw mut len) }).context("MPTCP_TCPINFO")?;
    Ok(about[1])
}

fn send(mut stream: &TcpStream, offset: u64, len: u64, rate: Option<u64>) -> Result<()> {
    let pattern = pattern();
    let (start, mut done) = (Instant::now(), 0);
    while done < len {
        let due = rate.map_or(len, |rate| (rate as f64 * start.elapsed().as_secs_f64()) as u64).min(len);
        while done < due {
            let part = (due - done).min(CHUNK as u64) as usize;
            let from = ((offset + done) % PERIOD as u64) as usize;
            stream.write_all(&pattern[from..][..part]).with_context(|| format!("send byte {}", offset + done))?;
            done += part as u64;
        }
        if rate.is_some() {
            thread::sleep(TICK);
        }
    }
    Ok(())
}

fn receive(stream: &TcpStream, offset: u64, len: u64) -> Result<()> {
    let pattern = pattern();
    let (mut buffer, mut done) = (vec![0; CHUNK], 0);
    while done < len {
        let room = (len - done).min(CHUNK as u64) as usize;
        let got = read(stream, &mut buffer[..room]).with_context(|| format!("receive byte {}", offset + done))?;
        ensure!(got > 0, "the end after {done} of {len} bytes");
        let from = ((offset + done) % PERIOD as u64) as usize;
        ensure!(buffer[..got] == pattern[from..][..got], "wrong bytes after {}", offset + done);
        done += got as u64;
    }
    Ok(())
}

/// Reads once. A wait that has a limit may be interrupted though no signal came (mptcp_recvmsg, net/mptcp/protocol.c, Linux
/// 6.18, takes work that the kernel has for a thread for one).
fn read(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// What a program sends, from any place in its period on.
fn pattern() -> Vec<u8> {
    (0..CHUNK + PERIOD).map(|at| (at % PERIOD) as u8).collect()
}

fn bind(socket: &OwnedFd, address: IpAddr) -> Result<()> {
    // The port is found when the peer is known, so that one port serves many connections.
    match option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1 as libc::c_int) {
        // MPTCP sockets have it since Linux 6.9; without, a port serves one connection, of which there are enough.
        Err(error) if error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) == Some(libc::EOPNOTSUPP) => {
        }
        result => result?,
    }
    mptcp_socket::bind(socket, (address, 0).into()).with_context(|| format!("bind to {address}"))
}

/// Makes reading and writing fail when nothing moves for [`PATIENCE`]; longer where the machine is emulated.
pub fn patient(stream: &TcpStream) -> Result<()> {
    let patience = Some(need::patience(PATIENCE));
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    Ok(())
}

fn option<T: Copy>(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: T) -> Result<()> {
    let (from, len) = (ptr::from_ref(&value).cast(), size_of::<T>() as libc::socklen_t);
    // SAFETY: the pointer and the length are those of `value`.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, from, len) })
}
