//! The wires between the hosts: a thread that carries frames from one TAP device to another, with a rate, a queue, a delay and
//! losses, until it is switched off.
//!
//! It is a program and no queueing discipline, because then one thing works on every kernel (netem and HTB are modules that
//! some lack), frames never overtake each other, and a cable can be pulled. When a frame leaves is computed, not waited for, so
//! that the rate is exact however late the thread wakes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::kernel::realtime;
use crate::kernel::tap::Tap;

/// How often the thread looks while something is on its way. Frames arrive so much later than they should at most.
const TICK: Duration = Duration::from_micros(250);
/// How long it sleeps at most, and so how long its end may take.
const IDLE: Duration = Duration::from_millis(50);
/// Room for a frame of 1,500 bytes with its Ethernet header.
const FRAME_BYTES: usize = 2048;

/// A direction of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What a path is like, each way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Bits per second.
    pub bits_per_second: f64,
    /// From one end to the other, once a frame has left.
    pub delay: Duration,
    /// What may wait to leave, in bytes; what finds no room is dropped.
    pub queue_bytes: f64,
    /// Share of frames that are lost at random, from 0 to 1.
    pub loss: f64,
}

/// What one way of a path has carried since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of frames that arrived.
    frame_bytes: AtomicU64,
    /// Bytes of TCP payload that arrived, repeated ones included.
    payload_bytes: AtomicU64,
    /// Frames that found no room in the queue.
    dropped: AtomicU64,
}

impl Counters {
    /// Bytes of frames that arrived.
    pub fn frame_bytes(&self) -> u64 {
        self.frame_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of TCP payload that arrived, repeated ones included.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes.load(Ordering::Relaxed)
    }

    /// Frames that found no room in the queue.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// One path: two devices and what lies between them.
#[derive(Debug)]
pub struct Path {
    shape: Shape,
    client: Tap,
    server: Tap,
    is_on: AtomicBool,
    up: Counters,
    down: Counters,
}

impl Path {
    /// A path that is on, between two devices.
    pub fn new(shape: Shape, client: Tap, server: Tap) -> Path {
        let (up, down) = <_>::default();
        Path { shape, client, server, is_on: AtomicBool::new(true), up, down }
    }

    /// What it is like.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What it has carried.
    pub fn carried(&self, way: Way) -> &Counters {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    /// Carries frames, or drops all of them, also those on their way, without a word to anybody.
    pub fn switch(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    /// Plugs the cable in or out at both ends, which both hosts notice.
    ///
    /// # Errors
    /// Where a TAP device has no carrier to be switched (before Linux 5.0).
    pub fn plug(&self, is_plugged: bool) -> io::Result<()> {
        self.switch(is_plugged);
        self.client.set_carrier(is_plugged)?;
        self.server.set_carrier(is_plugged)
    }
}

/// All paths with the thread that serves them, which ends when this is dropped.
#[derive(Debug)]
pub struct Wires {
    paths: Arc<Vec<Path>>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wires {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(paths: Vec<Path>) -> io::Result<Wires> {
        let (paths, ending) = (Arc::new(paths), Arc::new(AtomicBool::new(false)));
        let (served, end) = (Arc::clone(&paths), Arc::clone(&ending));
        let thread = thread::Builder::new().name("lab-wires".into()).spawn(move || serve(&served, &end))?;
        Ok(Wires { paths, ending, thread: Some(thread) })
    }

    /// The paths.
    pub fn paths(&self) -> &Arc<Vec<Path>> {
        &self.paths
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed, and the result shows it.
            let _ = thread.join();
        }
    }
}

fn serve(paths: &[Path], ending: &AtomicBool) {
    // Without the right to be urgent it is less exact on a busy machine, which the spread of the figures shows.
    let _ = realtime::become_urgent();
    let both_ways = |path| [Line::new(path, Way::Up), Line::new(path, Way::Down)];
    let mut lines: Vec<Line<'_>> = paths.iter().flat_map(both_ways).collect();
    let readable: Vec<_> = paths.iter().flat_map(|path| [path.client.as_fd(), path.server.as_fd()]).collect();
    let mut chance = Chance::default();
    while !ending.load(Ordering::Relaxed) {
        let mut is_idle = true;
        for line in &mut lines {
            line.take(&mut chance);
            line.give(Instant::now());
            is_idle &= line.queue.is_empty();
        }
        match is_idle {
            // An error here would be one of this program; a loop that spins shows it and still carries.
            true => drop(realtime::wait_readable(&readable, IDLE)),
            false => thread::sleep(TICK),
        }
    }
}

/// One way of a path, as the thread sees it.
struct Line<'a> {
    path: &'a Path,
    from: &'a Tap,
    to: &'a Tap,
    counters: &'a Counters,
    /// Frames with the time at which they arrive, in order.
    queue: VecDeque<(Instant, Vec<u8>)>,
    /// Buffers to be used again.
    spare: Vec<Vec<u8>>,
    /// When the last frame has left.
    free_at: Instant,
}

impl<'a> Line<'a> {
    fn new(path: &'a Path, way: Way) -> Line<'a> {
        let (from, to) = match way {
            Way::Up => (&path.client, &path.server),
            Way::Down => (&path.server, &path.client),
        };
        let counters = path.carried(way);
        Line { path, from, to, counters, queue: VecDeque::new(), spare: Vec::new(), free_at: Instant::now() }
    }

    /// Takes what the sending host has sent.
    fn take(&mut self, chance: &mut Chance) {
        let mut buffer = [0; FRAME_BYTES];
        let is_on = self.path.is_on.load(Ordering::Relaxed);
        if !is_on {
            self.queue.clear();
        }
        // What cannot be read now is asked for again.
        while let Ok(Some(len)) = self.from.receive(&mut buffer) {
            if is_on {
                self.accept(&buffer[..len], Instant::now(), chance);
            }
        }
    }

    fn accept(&mut self, frame: &[u8], now: Instant, chance: &mut Chance) {
        let shape = self.path.shape;
        let begins = self.free_at.max(now);
        let waiting = (begins - now).as_secs_f64() * shape.bits_per_second / 8.0;
        if waiting + frame.len() as f64 > shape.queue_bytes {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.free_at = begins + Duration::from_secs_f64(frame.len() as f64 * 8.0 / shape.bits_per_second);
        if chance.next() < shape.loss {
            return;
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame);
        self.queue.push_back((self.free_at + shape.delay, copy));
    }

    /// Gives the receiving host what has arrived by now.
    fn give(&mut self, now: Instant) {
        while self.queue.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, frame)) = self.queue.pop_front() else { return };
            // A host whose device is down hears nothing, as with any cable.
            if self.to.deliver(&frame).is_ok() {
                self.counters.frame_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
                self.counters.payload_bytes.fetch_add(payload_bytes(&frame), Ordering::Relaxed);
            }
            self.spare.push(frame);
        }
    }
}

/// Bytes of TCP payload in an Ethernet frame of IPv4; 0 for every other frame.
fn payload_bytes(frame: &[u8]) -> u64 {
    let payload = || {
        let ip = frame.strip_prefix(frame.get(..12)?)?.strip_prefix(&[8, 0])?;
        let header = usize::from(ip.first()? & 15) * 4;
        let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
        let is_tcp = i32::from(*ip.get(9)?) == libc::IPPROTO_TCP;
        let tcp = usize::from(ip.get(header + 12)? >> 4) * 4;
        is_tcp.then(|| total.saturating_sub(header + tcp))
    };
    payload().unwrap_or_default() as u64
}

/// Numbers that look random, the same in every run (xorshift64, Marsaglia 2003).
struct Chance(u64);

impl Default for Chance {
    fn default() -> Chance {
        Chance(0x2545_f491_4f6c_dd1d)
    }
}

impl Chance {
    /// From 0 to 1, without 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(total: u16, protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 14 + 60];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        frame[14 + 9] = protocol;
        frame[14 + 20 + 12] = 8 << 4;
        frame
    }

    #[test]
    fn payload_is_what_the_headers_leave() {
        assert_eq!(payload_bytes(&frame(20 + 32 + 5, 6)), 5);
        assert_eq!(payload_bytes(&frame(20 + 32, 6)), 0);
        assert_eq!(payload_bytes(&frame(20 + 32 + 5, 17)), 0);
        assert_eq!(payload_bytes(&[0; 10]), 0);
        let arp = [&[0; 12][..], &[8, 6], &[0; 46]].concat();
        assert_eq!(payload_bytes(&arp), 0);
    }

    #[test]
    fn chance_is_even() {
        let mut chance = Chance::default();
        let hits = (0..100_000).filter(|_| chance.next() < 0.1).count();
        assert!((9_500..10_500).contains(&hits), "{hits}");
    }
}
