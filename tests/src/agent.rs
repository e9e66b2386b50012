//! A guard around one running agent: private folders, a private address, and no process left behind.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tempfile::TempDir;

use crate::exposition::Exposition;
use crate::http;
use crate::need;
use crate::netns::{Netns, check};
use crate::wait;

/// Where the agent listens: every agent has a loopback device to itself.
pub const LISTEN: &str = "127.0.0.1:9475";
/// How long it may take from start to ready.
pub const START: Duration = Duration::from_secs(20);
/// How long it may take from a signal to its end.
const STOP: Duration = Duration::from_secs(10);

/// How to start the agent. The default is `mpsec run` with an empty config file.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The text of the config file.
    pub config: String,
    /// More arguments after those of the guard.
    pub args: Vec<String>,
    /// Where it keeps what it changed; a folder of its own if nothing is said.
    pub state: Option<PathBuf>,
    /// A user to become first, through setpriv.
    pub user: Option<String>,
    /// Where it listens; [`LISTEN`] if nothing is said. For a second agent in a namespace.
    pub listen: Option<SocketAddr>,
}

impl Options {
    /// Adds arguments, split at spaces.
    pub fn with(mut self, args: &str) -> Self {
        self.args.extend(args.split_whitespace().map(str::to_owned));
        self
    }

    /// Starts the agent and waits until it says that it is ready.
    pub fn start(self, netns: &Arc<Netns>) -> Result<Agent> {
        let mut agent = self.spawn(netns)?;
        let ready = wait::until(START, || match agent.status() {
            Some(status) => Ok(Err(anyhow!("the agent ended with {status}"))),
            None => agent.ready().map(Ok),
        });
        ready.and_then(|ready| ready).with_context(|| agent.complaints())?;
        Ok(agent)
    }

    /// Starts the agent without waiting for anything.
    pub fn spawn(self, netns: &Arc<Netns>) -> Result<Agent> {
        let program = need::mpsec()?;
        let folder = tempfile::Builder::new().prefix("mpsec-test-").tempdir()?;
        let config = folder.path().join("mpsec.toml");
        fs::write(&config, &self.config)?;
        let mut command = match &self.user {
            Some(user) => {
                fs::set_permissions(folder.path(), Permissions::from_mode(0o777))?;
                let mut command = Command::new(need::command("setpriv")?);
                command
                    .args(["--reuid", user, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
                    .arg(program);
                command
            }
            None => Command::new(program),
        };
        let listen = self.listen.unwrap_or_else(|| LISTEN.parse().expect("the constant is an address"));
        command.arg("run").args(["--listen", &listen.to_string()]);
        command.arg("--control-socket").arg(folder.path().join("mpsec.sock"));
        command.arg("--state-dir").arg(self.state.unwrap_or_else(|| folder.path().join("state")));
        command.arg("--config").arg(config).args(&self.args);
        Agent::spawn(netns, command, folder, listen)
    }
}

/// A running agent, killed on drop.
#[derive(Debug)]
pub struct Agent {
    netns: Arc<Netns>,
    listen: SocketAddr,
    pid: libc::pid_t,
    ended: Receiver<ExitStatus>,
    status: Option<ExitStatus>,
    stderr: Arc<Mutex<String>>,
    folder: TempDir,
}

impl Agent {
    /// Starts the agent with no options.
    pub fn start(netns: &Arc<Netns>) -> Result<Self> {
        Options::default().start(netns)
    }

    fn spawn(netns: &Arc<Netns>, mut command: Command, folder: TempDir, listen: SocketAddr) -> Result<Self> {
        let (pid_sender, pid_receiver) = channel();
        let (end_sender, ended) = channel();
        let stderr = Arc::new(Mutex::new(String::new()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // SAFETY: between fork and exec this calls nothing but prctl, which is async-signal-safe.
        unsafe { command.pre_exec(die_with_parent) };
        let (inside, log) = (Arc::clone(netns), Arc::clone(&stderr));
        // The thread lives as long as the agent: the kernel takes its end for that of the parent.
        thread::Builder::new().name("agent".into()).spawn(move || {
            let child = inside.enter().and_then(|()| Ok(command.spawn()?));
            let mut child = match child {
                Ok(child) => child,
                Err(error) => return drop(pid_sender.send(Err(error))),
            };
            // A pid fits: the kernel's own type for it is pid_t.
            let _ = pid_sender.send(Ok(child.id() as libc::pid_t));
            if let Some(pipe) = child.stderr.take() {
                collect(pipe, &log);
            }
            if let Ok(status) = child.wait() {
                let _ = end_sender.send(status);
            }
        })?;
        let pid = pid_receiver.recv().context("the agent's thread is gone")?.context("start the agent")?;
        Ok(Self { netns: Arc::clone(netns), listen, pid, ended, status: None, stderr, folder })
    }

    /// Ready, as `/-/ready` says it.
    pub fn ready(&self) -> Result<()> {
        let response = self.get("/-/ready")?;
        ensure!(response.status == 200, "/-/ready says {}", response.status);
        Ok(())
    }

    /// GET from the agent.
    pub fn get(&self, path: &str) -> Result<http::Response> {
        http::get(&self.netns, self.address(), path)
    }

    /// Where it listens, for connections from inside its namespace.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Reads all metrics.
    pub fn scrape(&self) -> Result<Exposition> {
        let response = self.get("/metrics").with_context(|| self.complaints())?;
        ensure!(response.status == 200, "/metrics says {}", response.status);
        let content_type = response.header("content-type").unwrap_or_default();
        ensure!(content_type.starts_with("text/plain; version=0.0.4"), "content type {content_type:?}");
        Exposition::parse(response.text()?)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        ensure!(self.status.is_none(), "the agent has ended");
        // SAFETY: kill takes no pointers; the pid is our child's, which is not reaped before its status is taken.
        check(unsafe { libc::kill(self.pid, signal) }).with_context(|| format!("signal {signal}"))
    }

    /// Sends a signal and waits for the end.
    pub fn stop(&mut self, signal: libc::c_int) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.wait(STOP)
    }

    /// Waits for the end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait::until(limit, || self.status().context("the agent is still running")).with_context(|| self.complaints())
    }

    /// How the agent ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.status = self.status.or_else(|| self.ended.try_recv().ok());
        self.status
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().map(|text| text.clone()).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// The namespace that it runs in.
    pub fn netns(&self) -> &Arc<Netns> {
        &self.netns
    }

    /// The folder with its config and its socket.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Memory that is resident, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().next().unwrap_or_default().parse()?;
        Ok(kib * 1024)
    }

    /// The number of open descriptors.
    pub fn open_files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid))?.count())
    }

    fn complaints(&self) -> String {
        format!("the agent wrote:\n{}", self.stderr())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // An agent that has ended already is what this wants.
        if self.status().is_none() && self.signal(libc::SIGKILL).is_ok() {
            let _ = self.ended.recv_timeout(STOP);
        }
    }
}

/// How a process ended, for people and for comparisons: its exit code, or 128 and the signal.
pub fn exit_code(status: ExitStatus) -> Result<i32> {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(code),
        (None, Some(signal)) => Ok(128 + signal),
        (None, None) => bail!("{status}"),
    }
}

fn collect(pipe: impl std::io::Read, log: &Mutex<String>) {
    for line in BufReader::new(pipe).lines() {
        let Ok(line) = line else { return };
        if let Ok(mut text) = log.lock() {
            text.push_str(&line);
            text.push('\n');
        }
    }
}

/// Ends a child when the thread that started it ends. For `pre_exec`.
pub fn die_with_parent() -> std::io::Result<()> {
    // SAFETY: prctl with this option takes a signal number and no pointers.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// The open files of this process, to show that guards give back what they take.
pub fn own_open_files() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}
