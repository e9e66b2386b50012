//! Two hosts and several paths between them, with the addresses, routes and endpoints that MPTCP wants.
//!
//! A client's subflow leaves by the path that its source address belongs to, whatever it leads to (a routing table and a rule
//! for each path); the server answers by the path that the client's address belongs to. The hosts know each other's link
//! addresses, IPv6 is off, and nothing but the scenario speaks. No host forwards or filters by the way back.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::need::{self, CannotRun};
use super::wire::{Path, Shape, Wires};
use crate::kernel::netns::private::PrivateNetns;
use crate::kernel::stream::{Protocol, set_congestion_control};
use crate::kernel::tap::Tap;

/// The most paths there can be: every kernel with MPTCP takes so many additional subflows.
pub const MAX_PATHS: usize = 8;
/// The routing table of path 0; each path has one of its own on the client.
const TABLE: usize = 100;
/// Where servers listen.
const PORT: u16 = 8080;
/// Room of a sender and of a receiver: what all paths together have on their way, and what waits for a piece that is late.
const BUFFER_BYTES: u64 = 8 << 20;
/// Linux' default, whatever this host's is.
const CONGESTION_CONTROL: &str = "cubic";
/// How long the first byte of a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Makes connections. Its devices are `west0`, `west1`, ...
    Client,
    /// Accepts them. Its devices are `east0`, `east1`, ...
    Server,
}

impl Host {
    /// Both.
    pub const ALL: [Host; 2] = [Host::Client, Host::Server];

    /// The name of its device on a path.
    #[must_use]
    pub fn device(self, path: usize) -> String {
        match self {
            Host::Client => format!("west{path}"),
            Host::Server => format!("east{path}"),
        }
    }

    /// Its address on a path.
    #[must_use]
    pub fn address(self, path: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, path as u8, self.number())
    }

    fn number(self) -> u8 {
        match self {
            Host::Client => 1,
            Host::Server => 2,
        }
    }

    fn link_address(self, path: usize) -> String {
        format!("02:00:00:00:{path:02x}:{:02x}", self.number())
    }
}

/// The path that an address belongs to, whichever host's it is.
#[must_use]
pub fn path_of(address: Ipv4Addr) -> usize {
    address.octets()[2].into()
}

/// The hosts with their paths. Everything is gone when this is dropped and the sockets in it are closed, or when the process
/// ends, however it does.
#[derive(Debug)]
pub struct Topology {
    client: PrivateNetns,
    server: PrivateNetns,
    wires: Wires,
}

impl Topology {
    /// Makes a path of each shape. No endpoint is set: connections use the path that they begin on.
    ///
    /// # Errors
    /// [`CannotRun`] where this machine lacks something.
    pub fn new(shapes: &[Shape]) -> Result<Topology> {
        need::laboratory()?;
        ensure!((1..=MAX_PATHS).contains(&shapes.len()), "from 1 to {MAX_PATHS} paths, not {}", shapes.len());
        let new =
            || PrivateNetns::new().map_err(|error| CannotRun(format!("no network namespace can be made: {error}")));
        let (client, server) = (new()?, new()?);
        let path = |(number, shape): (usize, &Shape)| -> io::Result<Path> {
            let tap = |host: Host, netns: &PrivateNetns| netns.run(|| Tap::new(&host.device(number)));
            Ok(Path::new(*shape, tap(Host::Client, &client)?, tap(Host::Server, &server)?))
        };
        let paths = shapes.iter().enumerate().map(path).collect::<io::Result<Vec<_>>>();
        let paths = paths.map_err(|error| CannotRun(format!("no TAP device (/dev/net/tun): {error}")))?;
        let topology = Topology { client, server, wires: Wires::start(paths)? };
        topology.settle()?;
        Ok(topology)
    }

    fn settle(&self) -> Result<()> {
        for host in Host::ALL {
            let netns = self.netns(host);
            for scope in ["all", "default"] {
                netns.set_sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
                // A kernel without IPv6 has nothing to be switched off.
                let _ = netns.set_sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1");
            }
            // What a connection has learnt of a path must not reach the next one: each begins alike.
            netns.set_sysctl("net/ipv4/tcp_no_metrics_save", "1")?;
            netns.set_sysctl("net/ipv4/tcp_wmem", &format!("4096 65536 {BUFFER_BYTES}"))?;
            netns.set_sysctl("net/ipv4/tcp_rmem", &format!("4096 131072 {BUFFER_BYTES}"))?;
            // The one that every kernel has and every namespace may use; sockets ask for a better one.
            netns.set_sysctl("net/ipv4/tcp_congestion_control", "reno")?;
            self.ip(host, &self.addresses(host))?;
        }
        Ok(())
    }

    /// Commands of `ip` that give a host its addresses, neighbours and routes.
    fn addresses(&self, host: Host) -> Vec<String> {
        let mut lines = vec!["link set dev lo up".to_owned()];
        for path in 0..self.paths().len() {
            let peer = if host == Host::Client { Host::Server } else { Host::Client };
            let (device, near, far) = (host.device(path), host.address(path), peer.address(path));
            lines.push(format!("link set dev {device} address {} arp off up", host.link_address(path)));
            lines.push(format!("addr add {near}/24 dev {device}"));
            lines.push(format!("neigh replace {far} lladdr {} dev {device} nud permanent", peer.link_address(path)));
            if host == Host::Client {
                let table = TABLE + path;
                lines.push(format!("route add default via {far} dev {device} table {table}"));
                lines.push(format!("rule add from {near} lookup {table}"));
            }
        }
        lines.push(format!("mptcp limits set subflow {MAX_PATHS} add_addr_accepted {MAX_PATHS}"));
        lines
    }

    /// The paths.
    pub fn paths(&self) -> &Arc<Vec<Path>> {
        self.wires.paths()
    }

    /// A host's namespace.
    pub fn netns(&self, host: Host) -> &PrivateNetns {
        match host {
            Host::Client => &self.client,
            Host::Server => &self.server,
        }
    }

    /// Runs commands of `ip` inside a host, one a line, up to the first that fails.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, host: Host, lines: &[String]) -> Result<()> {
        let batch = lines.join("\n");
        let mut ip = Command::new("ip");
        ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = self.netns(host).run(|| {
            let mut child = ip.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(batch.as_bytes())?;
            }
            child.wait_with_output()
        })?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip -batch: {}\n{batch}", complaint.trim());
        Ok(())
    }

    /// Tells the client's path manager to join by a path; `flags` are words of `ip mptcp endpoint add` beside `subflow`. It
    /// holds for connections that are made from now on.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn add_endpoint(&self, path: usize, flags: &str) -> Result<()> {
        let address = Host::Client.address(path);
        self.ip(Host::Client, &[format!("mptcp endpoint add {address} id {} subflow {flags}", path + 1)])
    }

    /// The same for all paths but the first, over which connections are made.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn add_endpoints(&self) -> Result<()> {
        (1..self.paths().len()).try_for_each(|path| self.add_endpoint(path, ""))
    }

    /// The same for every path, as for the agent that is told to have a full mesh: a subflow that is lost can be made again on
    /// the first path, too.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn add_every_endpoint(&self) -> Result<()> {
        (0..self.paths().len()).try_for_each(|path| self.add_endpoint(path, "fullmesh"))
    }

    /// Forgets all endpoints.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn remove_endpoints(&self) -> Result<()> {
        self.ip(Host::Client, &["mptcp endpoint flush".to_owned()])
    }

    /// A server's listening socket, for every address of the server.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn listen(&self, protocol: Protocol) -> Result<TcpListener> {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
        self.server.run(|| protocol.listen(any)).with_context(|| format!("listen with {protocol:?}"))
    }

    /// The client's socket, connected over a path.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn connect(&self, protocol: Protocol, path: usize) -> Result<TcpStream> {
        let from = SocketAddrV4::new(Host::Client.address(path), 0);
        let to = SocketAddrV4::new(Host::Server.address(path), PORT);
        let connect = || protocol.connect(Some(from), to);
        self.client.run(connect).with_context(|| format!("connect with {protocol:?} over path {path}"))
    }

    /// What is set on each end of a connection.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn prepare(stream: &TcpStream) -> io::Result<()> {
        // It is a module; where a kernel lacks it, reno stays.
        let _ = set_congestion_control(stream, CONGESTION_CONTROL);
        stream.set_nodelay(true)
    }

    /// The client's and the server's end of a connection that begins on a path. A byte has gone each way, so that MPTCP is
    /// fully established and the path manager at work (RFC 8684 section 3.1).
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn open(&self, protocol: Protocol, path: usize) -> Result<Connection> {
        self.open_unlike(protocol, protocol, path)
    }

    /// The same where the client's socket speaks something else than the server's.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn open_unlike(&self, client: Protocol, server: Protocol, path: usize) -> Result<Connection> {
        let listener = self.listen(server)?;
        let start = Instant::now();
        let mut client = self.connect(client, path)?;
        let handshake = start.elapsed();
        let mut server = listener.accept().context("accept")?.0;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE))?;
            Self::prepare(stream)?;
        }
        client.write_all(&[1])?;
        server.read_exact(&mut [0]).context("the first byte")?;
        server.write_all(&[1])?;
        client.read_exact(&mut [0]).context("the answer to the first byte")?;
        Ok(Connection { client, server, handshake, _listener: listener })
    }
}

/// Both ends of a connection.
#[derive(Debug)]
pub struct Connection {
    /// The client's.
    pub client: TcpStream,
    /// The server's.
    pub server: TcpStream,
    /// How long the client waited for the answer to its SYN: the path's round-trip time.
    pub handshake: Duration,
    /// Subflows that join are taken for the listening socket (subflow_v4_conn_request, net/mptcp/subflow.c, Linux 6.18): it
    /// stays as long as they may come.
    _listener: TcpListener,
}
