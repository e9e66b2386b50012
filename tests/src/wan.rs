//! Two hosts and long lines between them: paths with a delay and a rate, that can be cut, silenced and held up at any moment.
//!
//! Each path is a pair of TUN devices, one on each host, and a thread that carries packets between them. So it needs neither
//! netem nor a bottleneck of its own, and a fault takes effect within microseconds of being asked for.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::need;
use crate::netns::{Netns, check};
use crate::paths::{Family, Host, address, device};
use crate::tuntap::{Kind, TunTap};

/// The routing table of path 0; each path has one of its own on the client.
const TABLE: usize = 100;
/// How many additional subflows and addresses each host takes.
const LIMIT: usize = 8;
/// More than any packet here: the devices' MTU is 1,500 bytes.
const ROOM: usize = 2048;
/// `TUNSETCARRIER` (include/uapi/linux/if_tun.h, Linux 5.0): `_IOW('T', 226, int)`.
const TUNSETCARRIER: libc::Ioctl = 0x4004_54e2_u32 as libc::Ioctl;
/// Packets with more bytes than this carry payload, however many options there are.
const BARE: usize = 20 + 60;

/// What a line is like.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// From one end to the other.
    pub delay: Duration,
    /// Megabits per second, each way.
    pub mbit: u64,
    /// Bytes that wait for their turn, each way, before more are dropped.
    pub queue_bytes: usize,
}

impl Line {
    /// 20 Mbit/s, a round trip of 10 ms, and room for 50 ms.
    pub const USUAL: Self = Self { delay: Duration::from_millis(5), mbit: 20, queue_bytes: 125_000 };
}

/// What is done to a line, and what it has carried. Directions: 0 to the server, 1 to the client.
#[derive(Debug, Default)]
struct Control {
    /// What enters is lost.
    silent: [AtomicBool; 2],
    /// Nothing leaves; it does all at once when this ends.
    held: AtomicBool,
    /// Of a million packets, so many are lost.
    loss_ppm: AtomicU64,
    /// Packets with payload that have arrived.
    arrived: [AtomicU64; 2],
    stop: AtomicBool,
}

/// The two hosts with their lines. Everything is gone when this is dropped and the sockets in it are closed.
#[derive(Debug)]
pub struct Wan {
    /// The client's namespace.
    pub client: Netns,
    /// The server's namespace.
    pub server: Netns,
    lines: Vec<Arc<Control>>,
    /// The client's devices, whose carrier is to be lost.
    carriers: Vec<i32>,
    threads: Vec<JoinHandle<()>>,
}

impl Wan {
    /// Lays lines with IPv4 addresses. The client's path manager knows no endpoint yet.
    pub fn new(lines: &[Line]) -> Result<Self> {
        need::mptcp()?;
        need::command("ip")?;
        need::file("/dev/net/tun")?;
        let (client, server) = (Netns::new()?, Netns::new()?);
        for host in [&client, &server] {
            for scope in ["all", "default"] {
                host.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
            }
            host.sysctl("net/ipv4/tcp_congestion_control", "reno")?;
            host.ip(&format!("mptcp limits set subflow {LIMIT} add_addr_accepted {LIMIT}"))?;
        }
        let mut wan = Self { client, server, lines: Vec::new(), carriers: Vec::new(), threads: Vec::new() };
        for (path, line) in lines.iter().enumerate() {
            wan.lay(path, *line)?;
        }
        Ok(wan)
    }

    /// So many usual lines.
    pub fn usual(paths: usize) -> Result<Self> {
        Self::new(&vec![Line::USUAL; paths])
    }

    fn lay(&mut self, path: usize, line: Line) -> Result<()> {
        let west = TunTap::new(&self.client, &device(Host::Client, path), Kind::Tun)?;
        let east = TunTap::new(&self.server, &device(Host::Server, path), Kind::Tun)?;
        for end in [&west, &east] {
            // SAFETY: fcntl with F_SETFL takes a number.
            check(unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
        }
        for (netns, host) in [(&self.client, Host::Client), (&self.server, Host::Server)] {
            let (device, address) = (device(host, path), address(host, Family::V4, path));
            netns.ip(&format!("addr add {address}/24 dev {device}"))?;
        }
        let near = address(Host::Client, Family::V4, path);
        self.client.ip(&format!("rule add from {near} lookup {}", TABLE + path))?;
        self.route(path)?;
        let control = Arc::new(Control::default());
        self.lines.push(control.clone());
        self.carriers.push(west.as_raw_fd());
        let carrier = Carrier { ends: [west, east], line, control, waiting: [VecDeque::new(), VecDeque::new()] };
        self.threads.push(thread::Builder::new().name(format!("line{path}")).spawn(move || carrier.run())?);
        Ok(())
    }

    fn route(&self, path: usize) -> Result<()> {
        let device = device(Host::Client, path);
        self.client.ip(&format!("route replace default dev {device} table {}", TABLE + path)).map(drop)
    }

    /// Tells the client's path manager to join by a path, with the path's number plus 1 as identifier.
    pub fn add_endpoint(&self, path: usize) -> Result<()> {
        let address = address(Host::Client, Family::V4, path);
        let device = device(Host::Client, path);
        self.client.ip(&format!("mptcp endpoint add {address} dev {device} id {} subflow", path + 1)).map(drop)
    }

    /// Changes what `ip mptcp endpoint change` can of an endpoint.
    pub fn set_flags(&self, path: usize, flags: &str) -> Result<()> {
        self.client.ip(&format!("mptcp endpoint change id {} {flags}", path + 1)).map(drop)
    }

    /// Takes the client's device down, as an administrator does.
    pub fn down(&self, path: usize) -> Result<()> {
        self.client.ip(&format!("link set dev {} down", device(Host::Client, path))).map(drop)
    }

    /// Takes it up again, with its route.
    pub fn up(&self, path: usize) -> Result<()> {
        self.client.ip(&format!("link set dev {} up", device(Host::Client, path)))?;
        self.route(path)
    }

    /// Takes the carrier of the client's device away, and with it all that is under way; or gives it back.
    pub fn carrier(&self, path: usize, on: bool) -> Result<()> {
        self.silence(path, [!on; 2]);
        let value = libc::c_int::from(on);
        // SAFETY: the descriptor is open while the line's thread runs, and the request reads a number of this size.
        check(unsafe { libc::ioctl(self.carriers[path], TUNSETCARRIER, &raw const value) }).context("TUNSETCARRIER")
    }

    /// Loses what enters a line, to the server and to the client, without a word.
    pub fn silence(&self, path: usize, silent: [bool; 2]) {
        for (flag, value) in self.lines[path].silent.iter().zip(silent) {
            flag.store(value, Relaxed);
        }
    }

    /// Lets nothing leave a line for a while.
    pub fn hold(&self, path: usize, time: Duration) {
        self.lines[path].held.store(true, Relaxed);
        thread::sleep(time);
        self.lines[path].held.store(false, Relaxed);
    }

    /// Loses so many of a million packets, at random.
    pub fn lose(&self, path: usize, ppm: u64) {
        self.lines[path].loss_ppm.store(ppm, Relaxed);
    }

    /// Packets with payload that a line has carried, to the server and to the client together.
    pub fn carried(&self, path: usize) -> u64 {
        self.lines[path].arrived.iter().map(|count| count.load(Relaxed)).sum()
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.lines.iter().for_each(|line| line.stop.store(true, Relaxed));
        for thread in self.threads.drain(..) {
            // A panic in there has been printed.
            let _ = thread.join();
        }
    }
}

/// What carries packets along a line.
struct Carrier {
    /// The client's device and the server's.
    ends: [TunTap; 2],
    line: Line,
    control: Arc<Control>,
    waiting: [VecDeque<(Instant, Vec<u8>)>; 2],
}

impl Carrier {
    fn run(mut self) {
        let mut free_from = [Instant::now(); 2];
        let mut chance: u64 = 0x9e37_79b9_7f4a_7c15;
        while !self.control.stop.load(Relaxed) {
            self.sleep();
            for (way, free_from) in free_from.iter_mut().enumerate() {
                self.take(way, free_from, &mut chance);
                self.give(way);
            }
        }
    }

    /// Waits for a packet, or until one is due; a tenth of a second at most.
    fn sleep(&self) {
        let mut wait = Duration::from_millis(100);
        if self.control.held.load(Relaxed) {
            wait = Duration::from_millis(1);
        } else {
            let now = Instant::now();
            for (due, _) in self.waiting.iter().filter_map(VecDeque::front) {
                wait = wait.min(due.saturating_duration_since(now));
            }
        }
        let timeout = libc::timespec { tv_sec: 0, tv_nsec: wait.as_nanos().min(100_000_000) as libc::c_long };
        let mut polled = [&self.ends[0], &self.ends[1]].map(|end| libc::pollfd {
            fd: end.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: the pointers are to two `pollfd` and a `timespec` that outlive the call. Whatever it returns, reading
        // shows what there is.
        unsafe { libc::ppoll(polled.as_mut_ptr(), 2, &raw const timeout, std::ptr::null()) };
    }

    /// Takes what has entered the line in a direction.
    fn take(&mut self, way: usize, free_from: &mut Instant, chance: &mut u64) {
        let mut packet = [0; ROOM];
        loop {
            // SAFETY: the pointer and the length are those of `packet`.
            let len = unsafe { libc::read(self.ends[way].as_raw_fd(), packet.as_mut_ptr().cast(), ROOM) };
            let Ok(len @ 1..) = usize::try_from(len) else { return };
            let now = Instant::now();
            let backlog = free_from.saturating_duration_since(now);
            let room = Duration::from_micros(self.line.queue_bytes as u64 * 8 / self.line.mbit);
            *chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let unlucky = (*chance >> 33) % 1_000_000 < self.control.loss_ppm.load(Relaxed);
            if self.control.silent[way].load(Relaxed) || backlog > room || unlucky {
                continue;
            }
            *free_from = now + backlog + Duration::from_nanos(len as u64 * 8_000 / self.line.mbit);
            self.waiting[way].push_back((*free_from + self.line.delay, packet[..len].to_vec()));
        }
    }

    /// Delivers what is due in a direction.
    fn give(&mut self, way: usize) {
        if self.control.held.load(Relaxed) {
            return;
        }
        let now = Instant::now();
        while let Some((_, packet)) = self.waiting[way].pop_front_if(|(due, _)| *due <= now) {
            if self.control.silent[way].load(Relaxed) {
                continue;
            }
            self.control.arrived[way].fetch_add(u64::from(packet.len() > BARE + 20), Relaxed);
            // A device that is down takes nothing, which is a loss like any other.
            let _ = self.ends[1 - way].inject(&packet);
        }
    }
}
