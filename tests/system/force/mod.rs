//! MPTCP for programs that do not ask for it: curl, busybox' web server and iperf3, as their packages have them, in control
//! groups that the agents' files list and in others. What the connections are is told by both kernels' sockets and counters,
//! by captures, and by the agents.

mod ends;
mod life;
mod refused;
mod scope;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::force;
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::cgroup::{Group, Program};
use mpsec_tests::paths::{Family, Host, Plan, address};
use mpsec_tests::ss::{self, Socket};
use mpsec_tests::trial::Skip;
use mpsec_tests::{need, wait};
use tempfile::TempDir;

use crate::lab::Lab;
use crate::mptcp_view::{Stage, number, status, view};
use crate::watch::SHOWN;

const LIMIT: Duration = Duration::from_secs(90);
/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(40);
/// What is fetched: at [`SLOWLY`] it takes long enough to be stopped in the middle. curl 7.88 was seen to take 1.5 MB at once, before
/// it looked at the rate.
const LEN: usize = 4_000_000;
/// As curl takes it.
const SLOWLY: &str = "500k";
const PORT: u16 = 8080;

pub(crate) fn trials() -> Vec<Trial> {
    [ends::trials(), scope::trials(), life::trials(), refused::trials()].into_iter().flatten().collect()
}

/// What the kernel has is asked of the agent, whose answer is believed but where it is known: the kernels of the virtual machines
/// are Debian's, and have it from Linux 6.6 on.
fn possible() -> Result<()> {
    let Err(error) = force::probe() else { return Ok(()) };
    ensure!(!need::is_emulated() || need::linux(6, 6, "").is_err(), "this kernel has it, and the agent says: {error}");
    Err(Skip::because(error.to_string()))
}

/// What an agent's file says that gives a control group MPTCP.
fn listing(what: &str, group: &Path) -> String {
    format!("[mptcp.force]\n{what} = [\"{}\"]\n", group.display())
}

/// Whose programs get MPTCP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Forced {
    Both,
    Clients,
    Servers,
}

/// A host of clients and a host of servers, with a control group for each, an agent on each, and a file to be fetched.
struct Hosts {
    stage: Stage,
    clients: Group,
    servers: Group,
    folder: TempDir,
    content: Vec<u8>,
}

impl Hosts {
    fn new(plan: Plan, forced: Forced) -> Result<Hosts> {
        Hosts::with(plan, forced, "", LEN)
    }

    /// The same, with more in the client's file, and so much to be fetched.
    fn with(plan: Plan, forced: Forced, more: &str, len: usize) -> Result<Hosts> {
        possible()?;
        let hosts = Hosts::unsettled(plan, forced, more, len)?;
        hosts.stage.agents.iter().try_for_each(settled)?;
        Ok(hosts)
    }

    /// The same on any kernel.
    fn unsettled(plan: Plan, forced: Forced, more: &str, len: usize) -> Result<Hosts> {
        need::mpsec()?;
        for program in ["curl", "busybox"] {
            need::command(program)?;
        }
        let lab = Lab::new(plan)?;
        if plan.paths == 1 {
            // Little is on its way to who reads slowly: the server sends until shortly before the end.
            lab.paths.client.sysctl("net/ipv4/tcp_rmem", "4096 32768 65536")?;
        }
        let (clients, servers) = (Group::make("clients")?, Group::make("servers")?);
        let mut configs = [String::new(), String::new()];
        if forced != Forced::Servers {
            configs[0] = listing("clients", &clients.name());
        }
        if forced != Forced::Clients {
            configs[1] = listing("servers", &servers.name());
        }
        configs[0].insert_str(0, more);
        let [client, server] = configs;
        let start = |config, netns| Options { config, ..Options::default() }.start(netns);
        let agents = [start(client, &lab.paths.client)?, start(server, &lab.paths.server)?];
        let folder = tempfile::tempdir()?;
        let content: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        fs::write(folder.path().join("file"), &content)?;
        Ok(Hosts { stage: Stage { lab, agents }, clients, servers, folder, content })
    }

    fn agent(&self, host: Host) -> &Agent {
        self.stage.agent(host)
    }

    fn lab(&self) -> &Lab {
        &self.stage.lab
    }

    /// Starts a web server; it listens when this returns.
    fn serve(&self, group: Option<&Path>, family: Family) -> Result<Program> {
        let any = if family == Family::V4 { "0.0.0.0" } else { "[::]" };
        let (place, folder) = (format!("{any}:{PORT}"), self.folder.path().display().to_string());
        let server = &self.lab().paths.server;
        let program = Program::start(server, group, &["busybox", "httpd", "-f", "-p", &place, "-h", &folder])?;
        wait::until(SHOWN, || {
            let sockets = server.output("ss", &["-tlnHO"])?;
            ensure!(sockets.contains(&format!(":{PORT} ")), "nobody listens: {sockets}");
            Ok(())
        })?;
        Ok(program)
    }

    /// Starts a download on the client's host, and has it stand still in the middle until it is to end.
    fn held(&self, group: Option<&Path>, family: Family, from: u16) -> Result<Download<'_>> {
        let download = self.curl(group, family, from, true)?;
        if let Err(lack) = connected(self, Host::Client, from) {
            let ended = download.program.finish(Duration::ZERO);
            return Err(lack.context(format!("its program: {ended:?}")));
        }
        download.program.signal(libc::SIGSTOP)?;
        Ok(download)
    }

    /// Starts a download on the client's host.
    fn curl(&self, group: Option<&Path>, family: Family, from: u16, slowly: bool) -> Result<Download<'_>> {
        let file = self.folder.path().join(format!("got-{from}"));
        let host = match address(Host::Server, family, 0) {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        let (url, to, from) = (format!("http://{host}:{PORT}/file"), file.display().to_string(), from.to_string());
        let mut line = vec!["curl", "-gsS", "--noproxy", "*", "--fail", "--local-port", &from, "-o", &to];
        if slowly {
            line.extend(["--limit-rate", SLOWLY]);
        }
        line.push(&url);
        let program = Program::start(&self.lab().paths.client, group, &line)?;
        Ok(Download { program, file, content: &self.content })
    }

    /// Downloads, and says whether it was by MPTCP, of which both kernels must be of one mind.
    fn fetches_by_mptcp(&self, group: Option<&Path>, from: u16) -> Result<bool> {
        let before = self.handshakes()?;
        self.curl(group, Family::V4, from, false)?.finish()?;
        let now = self.handshakes()?;
        let [asked, answered, taken] = [0, 1, 2].map(|at| now[at] - before[at]);
        ensure!(asked == answered && answered == taken, "{asked} asked, {answered} answered, {taken} taken");
        ensure!(asked <= 1, "{asked} connections");
        Ok(asked == 1)
    }

    /// Connections that the client's kernel asked MPTCP for, those that it was given it for, and those that the server's
    /// kernel opened with it.
    fn handshakes(&self) -> Result<[u64; 3]> {
        let [client, server] = [&self.lab().paths.client, &self.lab().paths.server].map(|netns| ss::mib(netns));
        let (client, server) = (client?, server?);
        let count = |mib: &BTreeMap<String, u64>, name: &str| mib.get(name).copied().unwrap_or(0);
        Ok([count(&client, "MPCapableSYNTX"), count(&client, "MPCapableSYNACKRX"), count(&server, "MPCapableACKRX")])
    }
}

/// A download that goes on.
struct Download<'a> {
    program: Program,
    file: PathBuf,
    content: &'a [u8],
}

impl Download<'_> {
    /// All of it has come, as it was.
    fn finish(self) -> Result<()> {
        self.program.signal(libc::SIGCONT)?;
        self.program.finish(PATIENCE)?;
        let got = fs::read(&self.file).context("nothing was written")?;
        ensure!(got == self.content, "{} bytes came, and not those that were sent", got.len());
        Ok(())
    }
}

/// An agent has done what it was asked for.
fn settled(agent: &Agent) -> Result<()> {
    wait::until(SHOWN, || {
        let control = &status(agent)?["control"];
        let (wanted, is) = (&control["desired_generation"], &control["actual_generation"]);
        ensure!(wanted == is, "generation {is} instead of {wanted}: {control}");
        Ok(())
    })
}

/// Sockets that an agent says it made MPTCP, by what the control group is listed for; JSON and metrics say the same.
fn counted(agent: &Agent, listed: &str) -> Result<u64> {
    let said = number(&status(agent)?["control"]["forced_sockets"][listed])?;
    let published = agent.scrape()?.sum("mpsec_control_forced_sockets_total", &[("listed", listed)])?;
    ensure!(said == published, "{said} in JSON, {published} in metrics");
    Ok(said)
}

/// The socket of the client's port at a host, once its connection is there.
fn connected(hosts: &Hosts, host: Host, from: u16) -> Result<Socket> {
    wait::until(SHOWN, || {
        let sockets = ss::tcp(hosts.lab().paths.netns(host))?;
        let port = |socket: &Socket| if host == Host::Client { socket.local.port() } else { socket.remote.port() };
        let found = sockets.iter().find(|socket| port(socket) == from && socket.state == "ESTAB");
        found.cloned().with_context(|| format!("{host:?} has no connection of port {from}: {sockets:?}"))
    })
}

/// Whether the connection of a port is MPTCP, in which both ends must be of one mind.
fn is_mptcp(hosts: &Hosts, from: u16) -> Result<bool> {
    let [client, server] = [Host::Client, Host::Server].map(|host| connected(hosts, host, from));
    let (client, server) = (client?.membership()?, server?.membership()?);
    ensure!(client.is_some() == server.is_some(), "one end alone: {client:?}, {server:?}");
    Ok(client.is_some_and(|of| of.local_token != 0))
}
