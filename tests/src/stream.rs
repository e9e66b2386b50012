//! A stream at a constant rate whose reader keeps the time: what somebody notices of a path that fails.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::mptcp_socket::{self, Protocol};
use crate::paths::{Family, Host, address};
use crate::wan::Wan;

const PORT: u16 = 4242;
/// How long an end may wait.
const PATIENCE: Duration = Duration::from_secs(6);
/// How often the sender sends.
const TICK: Duration = Duration::from_millis(2);
/// No segment size is a multiple of it, so that bytes out of place are noticed.
const PERIOD: usize = 251;
const CHUNK: usize = 64 * 1024;

/// A connection from the client's address on path 0 to the server's, and both ends of it.
#[derive(Debug)]
pub struct Call {
    /// The end that connected.
    pub client: TcpStream,
    /// The end that accepted.
    pub server: TcpStream,
    /// The kernel takes joins only while somebody listens.
    _listener: TcpListener,
}

impl Call {
    /// Opens it. A client joins when data has gone both ways, or an acknowledgement has come back.
    pub fn open(wan: &Wan) -> Result<Self> {
        let target: SocketAddr = (address(Host::Server, Family::V4, 0), PORT).into();
        let listener = wan.server.run(|| Protocol::Mptcp.listen(target))?;
        let client = Self::connect(wan)?;
        let (server, _) = listener.accept()?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        Ok(Self { client, server, _listener: listener })
    }

    /// Another connection like that to the listener of one that is open, as soon as its handshake is done.
    pub fn connect(wan: &Wan) -> Result<TcpStream> {
        let target: SocketAddr = (address(Host::Server, Family::V4, 0), PORT).into();
        wan.client.run(|| {
            let socket = Protocol::Mptcp.socket(target.ip())?;
            mptcp_socket::bind(&socket, (address(Host::Client, Family::V4, 0), 0).into())?;
            mptcp_socket::connect(&socket, target)?;
            Ok(TcpStream::from(socket))
        })
    }

    /// The end that sends and the one that receives.
    pub fn ends(&self, sender: Host) -> (&TcpStream, &TcpStream) {
        match sender {
            Host::Client => (&self.client, &self.server),
            Host::Server => (&self.server, &self.client),
        }
    }
}

/// A stream that runs.
#[derive(Debug)]
pub struct Stream {
    /// When how many bytes were read.
    reads: Arc<Mutex<Vec<(Instant, usize)>>>,
    rate: u64,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<u64>>,
    reader: JoinHandle<Result<u64>>,
}

impl Stream {
    /// Starts one at so many bytes per second.
    pub fn start(from: &TcpStream, to: &TcpStream, rate: u64) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let reads = Arc::new(Mutex::new(Vec::new()));
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        let (stopped, seen) = (stop.clone(), reads.clone());
        let sender = thread::spawn(move || send(&from, rate, &stopped));
        let reader = thread::spawn(move || receive(&to, &seen));
        Ok(Self { reads, rate, stop, sender, reader })
    }

    /// The longest time between reads from `from` on for `time`.
    pub fn longest_gap(&self, from: Instant, time: Duration) -> Duration {
        let reads = self.reads.lock().expect("no reader panics with it");
        let mut last = from;
        let mut longest = Duration::ZERO;
        for (at, _) in reads.iter().skip_while(|(at, _)| *at < from).take_while(|(at, _)| *at < from + time) {
            longest = longest.max(*at - last);
            last = *at;
        }
        longest.max((from + time).min(Instant::now()).saturating_duration_since(last))
    }

    /// Megabits per second that were read in `time` from `from` on.
    pub fn mbit(&self, from: Instant, time: Duration) -> f64 {
        let reads = self.reads.lock().expect("no reader panics with it");
        let bytes: usize = reads.iter().filter(|(at, _)| *at >= from && *at < from + time).map(|(_, len)| len).sum();
        bytes as f64 * 8e-6 / time.as_secs_f64()
    }

    /// How long after `fault` the reader had again all that the sender owed it, but for `slack`; `None` if it never had.
    pub fn caught_up(&self, start: Instant, fault: Instant, slack: Duration) -> Option<Duration> {
        let reads = self.reads.lock().expect("no reader panics with it");
        let mut read = 0;
        let mut stood_still = false;
        for (at, len) in reads.iter() {
            let owed = at.saturating_duration_since(start + slack).as_secs_f64() * self.rate as f64;
            let behind = (read as f64) < owed;
            read += len;
            stood_still |= behind && *at > fault;
            if stood_still && read as f64 >= owed {
                return Some(*at - fault);
            }
        }
        (!stood_still).then_some(Duration::ZERO)
    }

    /// Ends it, and proves that every byte has arrived once and in its place.
    pub fn finish(self, from: &TcpStream) -> Result<u64> {
        self.stop.store(true, Relaxed);
        let sent = self.sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        from.shutdown(std::net::Shutdown::Write).context("shutdown")?;
        let received = self.reader.join().map_err(|_| anyhow!("the reader panicked"))??;
        ensure!(sent == received, "{sent} bytes sent, {received} received");
        Ok(sent)
    }
}

fn send(mut to: &TcpStream, rate: u64, stop: &AtomicBool) -> Result<u64> {
    let pattern = pattern();
    let (start, mut done) = (Instant::now(), 0u64);
    while !stop.load(Relaxed) {
        let due = (rate as f64 * start.elapsed().as_secs_f64()) as u64;
        while done < due && !stop.load(Relaxed) {
            let part = (due - done).min(CHUNK as u64) as usize;
            let at = (done % PERIOD as u64) as usize;
            done += to.write(&pattern[at..][..part]).with_context(|| format!("send byte {done}"))? as u64;
        }
        thread::sleep(TICK);
    }
    Ok(done)
}

fn receive(mut from: &TcpStream, reads: &Mutex<Vec<(Instant, usize)>>) -> Result<u64> {
    let pattern = pattern();
    let (mut buffer, mut done) = (vec![0; CHUNK], 0u64);
    loop {
        let got = from.read(&mut buffer).with_context(|| format!("receive byte {done}"))?;
        if got == 0 {
            return Ok(done);
        }
        reads.lock().expect("nobody panics with it").push((Instant::now(), got));
        let at = (done % PERIOD as u64) as usize;
        ensure!(buffer[..got] == pattern[at..][..got], "wrong bytes after {done}");
        done += got as u64;
    }
}

/// What is sent, from any place in its period on.
fn pattern() -> Vec<u8> {
    (0..CHUNK + PERIOD).map(|at| (at % PERIOD) as u8).collect()
}
