//! Many MPTCP connections: a burst of short ones at a rate, and a crowd that stays.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::mptcp::{self, Protocol};
use crate::netns::{Netns, check};
use crate::paths::{Family, Host, Paths, address};
use crate::{ss, wait};

/// Threads on each side: enough that one which waits for an answer holds nothing up.
const WORKERS: usize = 8;
/// Ports of the server, which multiply those of the client.
const PORTS: usize = 4;
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
        room(paths)?;
        let hall = Hall::open(&paths.server, self.family, |mut stream| {
            let mut got = Vec::new();
            stream.read_to_end(&mut got)?;
            stream.write_all(&got).map_err(Into::into)
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
    servers: Arc<Mutex<Vec<TcpStream>>>,
    _hall: Hall,
}

impl Crowd {
    /// Opens so many connections by path 0 and waits until each has a subflow on every path that has an endpoint:
    /// `subflows` of them.
    pub fn open(paths: &Paths, family: Family, connections: usize, subflows: usize) -> Result<Self> {
        room(paths)?;
        let servers: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let seats = Arc::clone(&servers);
        let hall = Hall::open(&paths.server, family, move |mut stream| {
            // A client joins when it knows that its peer has the connection for established.
            stream.read_exact(&mut [0])?;
            stream.write_all(&[0])?;
            seats.lock().map_err(|_| anyhow!("a server panicked"))?.push(stream);
            Ok(())
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
        let crowd = Self { clients: clients.into_iter().flatten().collect(), servers, _hall: hall };
        wait::until(JOIN, || {
            let joins = |key: &str| -> Result<u64> { Ok(ss::mib(&paths.server)?.get(key).copied().unwrap_or(0)) };
            let (have, wanted) = (joins("MPJoinAckRx")?, (connections * (subflows - 1)) as u64);
            ensure!(have == wanted, "{have} of {wanted} subflows have joined");
            Ok(())
        })?;
        Ok(crowd)
    }

    /// Ends the connections from `from` on, counted from 0, at both ends.
    pub fn shrink(&mut self, from: usize) -> Result<()> {
        let mut servers = self.servers.lock().map_err(|_| anyhow!("a server panicked"))?;
        let gone: std::collections::BTreeSet<SocketAddr> =
            self.clients.drain(from..).map(|client| client.local_addr()).collect::<Result<_, _>>()?;
        servers.retain(|server| server.peer_addr().is_ok_and(|peer| !gone.contains(&peer)));
        Ok(())
    }
}

/// A server with several ports that does the same with everyone who comes.
#[derive(Debug)]
struct Hall {
    targets: Vec<SocketAddr>,
    closing: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Hall {
    fn open(
        netns: &Arc<Netns>,
        family: Family,
        serve: impl Fn(TcpStream) -> Result<()> + Clone + Send + 'static,
    ) -> Result<Self> {
        let mut hall = Self { targets: Vec::new(), closing: Arc::default(), workers: Vec::new() };
        for _ in 0..PORTS {
            let (listener, port) = mptcp::listen(netns, family, Protocol::Mptcp)?;
            hall.targets.push((address(Host::Server, family, 0), port).into());
            // Somebody who waits for a connection must look up now and then.
            listener.set_nonblocking(true)?;
            for _ in 0..WORKERS / PORTS {
                let (listener, serve, closing) = (listener.try_clone()?, serve.clone(), Arc::clone(&hall.closing));
                hall.workers.push(thread::spawn(move || receive(&listener, &serve, &closing)));
            }
        }
        Ok(hall)
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
fn receive(listener: &TcpListener, serve: &impl Fn(TcpStream) -> Result<()>, closing: &AtomicBool) {
    while !closing.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let _ = stream.set_nonblocking(false);
                let _ = mptcp::patient(&stream).and_then(|()| serve(stream));
            }
            Err(_) => wait_for(listener),
        }
    }
}

fn wait_for(listener: &TcpListener) {
    use std::os::fd::AsRawFd;
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, as the count says.
    unsafe { libc::poll(&raw mut poll, 1, 100) };
}

/// Room for tens of thousands of sockets: descriptors for this process, ports for the client.
fn room(paths: &Paths) -> Result<()> {
    const FILES: libc::rlim_t = 200_000;
    let wanted = libc::rlimit { rlim_cur: FILES, rlim_max: FILES };
    // SAFETY: `wanted` is what the call wants a pointer to.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) }).context("RLIMIT_NOFILE")?;
    paths.client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")
}

fn joined<T>(worker: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    worker.join().map_err(|_| anyhow!("a client panicked"))?
}
