//! What the released agent takes of memory: idle, and with a hundred thousand series.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context as _, Result, bail, ensure};
use mpsec_common::Class;

use crate::report::{Row, Section};
use crate::scrape::{Served, textfile_exporter};
use crate::{Options, frames, net, series};

/// In megabytes.
const GOAL_IDLE: f64 = 8.0;
/// In megabytes.
const GOAL_FULL: f64 = 33.0;
/// Scrapes before memory is looked at.
const SCRAPES: usize = 5;

/// `cargo xtask bench memory`
pub fn run(options: &Options) -> Result<Vec<Section>> {
    let agent = released(options)?;
    let mut rows = vec![idle(agent)?.at_most(GOAL_IDLE)];
    rows.extend(full(agent)?);
    rows.push(match textfile_exporter()? {
        Some(exporter) => {
            for _ in 0..3 {
                exporter.scrape("identity")?;
            }
            Row::new("node_exporter, the same number of series from a text file", resident(exporter.pid())?)
        }
        None => Row::skipped("node_exporter", "not installed"),
    });
    Ok(vec![Section {
        bench: "memory",
        title: "Resident memory".into(),
        method: format!(
            "VmRSS of the released agent in a network namespace of its own: after its start, and with {} veth interfaces, \
             each of which has sent and received a frame of every class, after {SCRAPES} scrapes of each kind.",
            series::INTERFACES
        ),
        unit: "MB",
        against: "",
        rows,
    }])
}

/// The released agent.
pub fn released(options: &Options) -> Result<&Path> {
    options.agent.as_deref().context("name the released agent with --agent (cargo xtask bench does)")
}

fn idle(agent: &Path) -> Result<Row> {
    let _namespace = net::Namespace::enter_new()?;
    let dir = tempfile::tempdir()?;
    let agent = start(agent, dir.path())?;
    std::thread::sleep(Duration::from_secs(1));
    Ok(Row::new("mpsec, idle after its start", resident(agent.pid())?).note(parts(agent.pid())?))
}

fn full(agent: &Path) -> Result<Vec<Row>> {
    let namespace = net::Namespace::enter_new()?;
    net::quiet()?;
    interfaces()?;
    let dir = tempfile::tempdir()?;
    let agent = start(agent, dir.path())?;
    let before = resident(agent.pid())?;
    inject()?;
    let mut rows = vec![Row::new(format!("mpsec, {} interfaces, before any traffic", series::INTERFACES), before)];
    for encoding in ["identity", "gzip", "zstd"] {
        for _ in 0..SCRAPES {
            agent.scrape(encoding)?;
        }
        let row = Row::new(format!("mpsec, {} series, after {encoding}", published(&agent)?), resident(agent.pid())?);
        rows.push(row.at_most(GOAL_FULL).note(parts(agent.pid())?));
    }
    drop(namespace);
    Ok(rows)
}

/// Pairs of veth, all up.
fn interfaces() -> Result<()> {
    let mut batch = String::new();
    for pair in 0..series::INTERFACES / 2 {
        writeln!(batch, "link add va{pair:04} type veth peer name vb{pair:04}")?;
        writeln!(batch, "link set va{pair:04} up\nlink set vb{pair:04} up")?;
    }
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), batch)?;
    net::ip(&format!("-batch {}", file.path().display()))
}

/// Sends a frame of every class on every interface; its peer receives it.
fn inject() -> Result<()> {
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(socket >= 0, "a packet socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let frames: Vec<Vec<u8>> = Class::ALL.iter().filter_map(|class| frames::of(*class)).collect();
    let all = mpsec_agent::kernel::link::list()?;
    for interface in all.iter().filter(|interface| interface.kind == "veth") {
        // SAFETY: all zeroes is an address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        (address.sll_family, address.sll_ifindex) = (libc::AF_PACKET as u16, interface.index as i32);
        for frame in &frames {
            // SAFETY: both pointers are to as many bytes as the lengths say.
            let sent = unsafe {
                let length = size_of_val(&address) as libc::socklen_t;
                let to = (&raw const address).cast();
                libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, to, length)
            };
            ensure!(sent >= 0, "sending on {}: {}", interface.name, io::Error::last_os_error());
        }
    }
    Ok(())
}

const LISTEN: &str = "127.0.0.1:19475";

/// Starts the agent in the thread's network namespace, and waits until it answers. Its control socket is `mpsec.sock` in
/// `dir`.
pub fn start(agent: &Path, dir: &Path) -> Result<Served> {
    let child = Command::new(agent)
        .args(["run", "--listen", LISTEN, "--max-interfaces", "2048", "--log-level", "warn"])
        .arg("--control-socket")
        .arg(dir.join("mpsec.sock"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", agent.display()))?;
    let address: SocketAddr = LISTEN.parse()?;
    let served = Served::adopt(child, address);
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if is_ready(address) {
            return Ok(served);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("the agent did not become ready")
}

fn is_ready(address: SocketAddr) -> bool {
    get(address, "/-/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The answer to a GET, its head too.
pub fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// How many series of traffic the agent publishes.
fn published(agent: &Served) -> Result<usize> {
    let text = get(agent.address(), "/metrics")?;
    let count = series::samples(&text).count();
    ensure!(count > 0, "no series");
    Ok(count)
}

/// Resident memory of a process in megabytes.
pub fn resident(pid: u32) -> Result<f64> {
    Ok(status(pid, "VmRSS:")? / 1e3)
}

/// What it is made of.
pub fn parts(pid: u32) -> Result<String> {
    let part = |key| status(pid, key).map(|kilobytes| kilobytes / 1e3);
    Ok(format!(
        "{:.1} of them its own, {:.1} files, {:.1} shared",
        part("RssAnon:")?,
        part("RssFile:")?,
        part("RssShmem:")?
    ))
}

/// A field of /proc/PID/status, which is in units of 1024 bytes, in thousands of bytes.
fn status(pid: u32, key: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1.024)
}
