//! Many MPTCP connections: a burst of short ones at a rate, and a crowd that stays.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use mpsec_agent::kernel::raise_descriptor_limit;

use crate::mptcp::{self, Protocol};
use crate::netns::{Netns, check};
use crate::paths::{Family, Host, Paths, address};
use crate::{ss, wait};

/// Threads on each side: enough that one which waits for an answer holds nothing up.
const WORKERS: usize = 8;
/// Ports of the server, which multiply those of the client.
const PORTS: usize = 4;
/// How often a server looks whether somebody it keeps has gone.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a crowd's subflows may take to join.
const JOIN: Duration = Duration::from_secs(60);

/// Short connections: each is made, sends `bytes`, has as many back, and ends in an orderly way.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// IP version.
    pub family: Family,
    /// How many.
    pub connections: u64,
    /// How many a second at most.
    pub per_second: u64,
    /// Payload of each, each way.
    pub bytes: usize,
}

/// What came of a burst.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Connections that did all they were made for.
    pub done: u64,
    /// How long they took.
    pub took: Duration,
}

impl Burst {
    /// Makes the connections by path 0. The first that fails is an error.
    pub fn run(self, paths: &Paths) -> Result<Outcome> {
        ports(paths)?;
        let hall = Hall::open(&paths.server, self.family, |mut stream| {
            let mut got = Vec::new();
            stream.read_to_end(&mut got)?;
            stream.write_all(&got)?;
            Ok(None)
        })?;
        let (next, start) = (AtomicU64::new(0), Instant::now());
        thread::scope(|scope| {
            let worker = || -> Result<()> {
                paths.client.enter()?;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= self.connections {
                        return Ok(());
                    }
                    let due = start + Duration::from_secs_f64(number as f64 / self.per_second as f64);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    self.one(hall.target(number)).with_context(|| format!("connection {number}"))?;
                }
            };
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().try_for_each(joined)
        })?;
        Ok(Outcome { done: self.connections, took: start.elapsed() })
    }

    fn one(self, to: SocketAddr) -> Result<()> {
        let mut stream = mptcp::connect(address(Host::Client, self.family, 0), to, Protocol::Mptcp)?;
        stream.write_all(&vec![0x5a; self.bytes]).context("send")?;
        stream.shutdown(std::net::Shutdown::Write).context("shutdown")?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back).context("receive")?;
        ensure!(back.len() == self.bytes, "{} bytes came back", back.len());
        Ok(())
    }
}

/// Connections that are open and say nothing.
#[derive(Debug)]
pub struct Crowd {
    /// The clients' sockets.
    pub clients: Vec<TcpStream>,
    _hall: Hall,
}

impl Crowd {
    /// Opens so many connections by path 0 and waits until each has a subflow on every path that has an endpoint:
    /// `subflows` of them.
    pub fn open(paths: &Paths, family: Family, connections: usize, subflows: usize) -> Result<Self> {
        raise_descriptor_limit()?;
        ports(paths)?;
        let hall = Hall::open(&paths.server, family, |mut stream| {
            // A client joins when it knows that its peer has the connection for established.
            stream.read_exact(&mut [0])?;
            stream.write_all(&[0])?;
            Ok(Some(stream))
        })?;
        let target = |number: usize| hall.target(number as u64);
        let clients = thread::scope(|scope| {
            let worker = |first: usize| -> Result<Vec<TcpStream>> {
                paths.client.enter()?;
                let from = address(Host::Client, family, 0);
                let numbers = (first..connections).step_by(WORKERS);
                let streams = numbers.map(|number| {
                    let mut stream = mptcp::connect(from, target(number), Protocol::Mptcp)?;
                    stream.write_all(&[0])?;
                    stream.read_exact(&mut [0])?;
                    Ok(stream)
                });
                streams.collect()
            };
            let workers: Vec<_> = (0..WORKERS).map(|first| scope.spawn(move || worker(first))).collect();
            workers.into_iter().map(joined).collect::<Result<Vec<_>>>()
        })?;
        let crowd = Self { clients: clients.into_iter().flatten().collect(), _hall: hall };
        wait::until(JOIN, || {
            let joins = |key: &str| -> Result<u64> { Ok(ss::mib(&paths.server)?.get(key).copied().unwrap_or(0)) };
            let (have, wanted) = (joins("MPJoinAckRx")?, (connections * (subflows - 1)) as u64);
            ensure!(have == wanted, "{have} of {wanted} subflows have joined");
            Ok(())
        })?;
        Ok(crowd)
    }

    /// Ends the connections from `from` on, counted from 0. The server ends them, too, when it notices.
    pub fn shrink(&mut self, from: usize) {
        self.clients.truncate(from);
    }
}

/// What a server does with who comes: the connection is kept open if it is given back.
type Serve = fn(TcpStream) -> Result<Option<TcpStream>>;

/// A server with several ports that does the same with everyone who comes.
#[derive(Debug)]
struct Hall {
    targets: Vec<SocketAddr>,
    closing: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    _listeners: Vec<TcpListener>,
}

impl Hall {
    fn open(netns: &Arc<Netns>, family: Family, serve: Serve) -> Result<Self> {
        let mut hall = Self { targets: vec![], closing: Arc::default(), workers: vec![], _listeners: vec![] };
        for _ in 0..PORTS {
            let (listener, port) = mptcp::listen(netns, family, Protocol::Mptcp)?;
            hall.targets.push((address(Host::Server, family, 0), port).into());
            // Somebody who waits for a connection must look up now and then.
            listener.set_nonblocking(true)?;
            for _ in 0..WORKERS / PORTS {
                hall.hire(&listener, serve)?;
            }
            hall._listeners.push(listener);
        }
        Ok(hall)
    }

    /// A thread with a table of descriptors of its own, so that what it keeps does not count against this process' limit,
    /// and is closed when it ends.
    fn hire(&mut self, listener: &TcpListener, serve: Serve) -> Result<()> {
        let (fd, closing) = (listener.as_raw_fd(), Arc::clone(&self.closing));
        let (sender, receiver) = channel();
        self.workers.push(thread::spawn(move || {
            // SAFETY: unshare changes nothing but the calling thread.
            let own = check(unsafe { libc::unshare(libc::CLONE_FILES) });
            let failed = own.is_err();
            let _ = sender.send(own);
            if !failed {
                // SAFETY: the descriptor is open in the thread's own table, where nobody else closes it.
                receive(&unsafe { TcpListener::from_raw_fd(fd) }, serve, &closing);
            }
        }));
        receiver.recv().context("a server panicked")?.context("a table of descriptors")
    }

    fn target(&self, number: u64) -> SocketAddr {
        self.targets[(number % PORTS as u64) as usize]
    }
}

impl Drop for Hall {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// A guest that fails is noticed by the client, who does not get what it waits for.
fn receive(listener: &TcpListener, serve: Serve, closing: &AtomicBool) {
    let mut kept = Vec::new();
    while !closing.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            poll(&mut [asked(listener)], PAUSE);
            let mut asked: Vec<_> = kept.iter().map(asked).collect();
            poll(&mut asked, Duration::ZERO);
            let mut said = asked.iter().map(|one| one.revents != 0);
            // Those who stay say nothing, so this is their end.
            kept.retain(|_| !said.next().unwrap_or(false));
            continue;
        };
        let served = stream.set_nonblocking(false).map_err(Into::into).and_then(|()| mptcp::patient(&stream));
        kept.extend(served.and_then(|()| serve(stream)).ok().flatten());
    }
}

fn asked(socket: &impl AsRawFd) -> libc::pollfd {
    libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

fn poll(sockets: &mut [libc::pollfd], limit: Duration) {
    // SAFETY: the pointer and the count are those of `sockets`.
    unsafe { libc::poll(sockets.as_mut_ptr(), sockets.len() as libc::nfds_t, limit.as_millis() as libc::c_int) };
}

/// Ports for tens of thousands of the client's sockets.
fn ports(paths: &Paths) -> Result<()> {
    paths.client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")
}

fn joined<T>(worker: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    worker.join().map_err(|_| anyhow!("a client panicked"))?
}
