//! A path manager that runs on a thread of its own, and what its subflows carry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use mpsec_agent::kernel::sock_diag::{Extensions, SockDiag, States};
use mpsec_agent::kernel::sysctl;
use mpsec_agent::pm::mode::Kind;
use mpsec_agent::pm::{Daemon, Ends, Settings, Stats};
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::{Paths, Plan};
use mpsec_tests::wait;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// How long what is under way may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Room for events.
pub(crate) const ROOM: i32 = 1 << 24;

type Order = Box<dyn FnOnce(&mut Daemon) + Send>;

/// A path manager at work in a namespace.
pub(crate) struct Running {
    orders: UnboundedSender<Order>,
    thread: Option<JoinHandle<Result<Stats>>>,
}

impl Running {
    pub(crate) fn start(netns: &Arc<Netns>, settings: Settings) -> Result<Running> {
        Running::start_with(netns, settings, ROOM)
    }

    pub(crate) fn start_with(netns: &Arc<Netns>, settings: Settings, room: i32) -> Result<Running> {
        let netns = Arc::clone(netns);
        let (orders, mut inbox) = unbounded_channel::<Order>();
        let (ready, is_ready) = channel();
        let thread = thread::spawn(move || {
            netns.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut daemon = Daemon::open_with(settings, room)?;
                ready.send(()).map_err(|_| anyhow!("nobody waits"))?;
                loop {
                    tokio::select! {
                        news = daemon.news() => daemon.observe(news)?,
                        order = inbox.recv() => match order {
                            Some(order) => order(&mut daemon),
                            None => return Ok(daemon.close()),
                        },
                    }
                }
            })
        });
        let running = Running { orders, thread: Some(thread) };
        match is_ready.recv() {
            Ok(()) => Ok(running),
            Err(_) => Err(running.stop().err().context("it did not start")?),
        }
    }

    /// Does something with it, between two of its steps.
    pub(crate) fn with<T: Send + 'static>(&self, body: impl FnOnce(&mut Daemon) -> T + Send + 'static) -> Result<T> {
        let (answer, answered) = channel();
        self.orders.send(Box::new(move |daemon| drop(answer.send(body(daemon))))).map_err(|_| anyhow!("it stopped"))?;
        answered.recv().context("it stopped")
    }

    pub(crate) fn stats(&self) -> Result<Stats> {
        self.with(|daemon| daemon.stats())
    }

    /// Waits until its book has nothing open: no subflow is wanted or asked for.
    pub(crate) fn settled(&self) -> Result<Stats> {
        wait::until(PATIENCE, || {
            let stats = self.stats()?;
            ensure!(stats.wanted == 0 && stats.requested == 0, "{stats:?}");
            Ok(stats)
        })
    }

    /// Nanoseconds of processor time that it has taken.
    pub(crate) fn cpu_ns(&self) -> Result<u64> {
        let text = self.with(|_| std::fs::read_to_string("/proc/thread-self/schedstat"))??;
        text.split_whitespace().next().context("no number")?.parse().context("processor time")
    }

    /// Stops it, and says what went wrong.
    pub(crate) fn stop(self) -> Result<Stats> {
        let Running { orders, mut thread } = self;
        drop(orders);
        thread.take().context("it is stopped once")?.join().map_err(|_| anyhow!("the path manager panicked"))?
    }
}

/// Paths whose client leaves everything to a path manager in user space.
pub(crate) fn paths(count: usize) -> Result<Paths> {
    let paths = Paths::new(Plan::wires(count))?;
    leave_to_us(&paths.client)?;
    Ok(paths)
}

/// Has sockets that are made from now on leave everything to a path manager in user space.
pub(crate) fn leave_to_us(netns: &Netns) -> Result<()> {
    netns.sysctl("net/mptcp/pm_type", "1")?;
    ensure!(sysctl::is_userspace(&netns.run(sysctl::read_mptcp)?), "it is not so");
    Ok(())
}

pub(crate) fn settings(mode: Kind, subflows: u16) -> Settings {
    Settings { mode, subflows, ..Settings::default() }
}

/// The established subflows of the connection with this local token, as the kernel lists them, with the bytes that were
/// acknowledged on each.
pub(crate) fn subflows(netns: &Netns, token: u32) -> Result<BTreeMap<Ends, u64>> {
    Ok(all_subflows(netns)?.remove(&token).unwrap_or_default())
}

/// The same of all connections, by their tokens.
pub(crate) fn all_subflows(netns: &Netns) -> Result<BTreeMap<u32, BTreeMap<Ends, u64>>> {
    let mut diag = netns.run(SockDiag::open)?;
    let mut all: BTreeMap<u32, BTreeMap<Ends, u64>> = BTreeMap::new();
    diag.visit_tcp(States(1 << 1), Extensions::INFO, |socket| {
        let (Some(info), Some(tcp)) = (socket.subflow(), socket.tcp_info()) else { return };
        let (Some(token), Some(acked)) = (info.token_local, tcp.bytes_acked()) else { return };
        all.entry(token).or_default().insert(Ends { local: socket.local(), remote: socket.remote() }, acked);
    })?;
    Ok(all)
}

/// Waits until a connection has so many subflows in the kernel, and gives them.
pub(crate) fn has(netns: &Netns, token: u32, number: usize) -> Result<BTreeMap<Ends, u64>> {
    wait::until(PATIENCE, || {
        let subflows = subflows(netns, token)?;
        ensure!(subflows.len() == number, "{} subflows instead of {number}: {subflows:?}", subflows.len());
        Ok(subflows)
    })
}
