//! The part of the agent that keeps streams going when a path fails, alone on one host, without the rest of the agent.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mpsec_agent::agent::failover::Settings;
use mpsec_agent::agent::failover::driver::Driver;
use mpsec_agent::agent::interfaces::Interfaces;
use mpsec_agent::config::InterfaceFilter;
use mpsec_agent::kernel::attach::Attacher;
use mpsec_agent::kernel::cgroup;
use mpsec_agent::kernel::ebpf::{self, Kernel};
use mpsec_agent::kernel::link::{self, Events};
use mpsec_agent::kernel::policy::Policy;
use mpsec_agent::kernel::probes::Ways;
use mpsec_common::Direction;
use tokio::sync::Notify;

use crate::netns::Netns;

/// More than a host of the trials has.
const MAX_INTERFACES: u16 = 8;

/// It runs until it is dropped.
#[derive(Debug)]
pub struct Keeper {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Keeper {
    /// Starts it in a namespace, with policies for local addresses or for all others. Without `acts` there is nothing but
    /// the policies.
    pub fn start(netns: &Netns, policies: Vec<(Option<IpAddr>, Policy)>, acts: bool) -> Result<Self> {
        let stop = Arc::new(Notify::new());
        let (ready, started) = channel();
        let stopped = stop.clone();
        let thread = thread::scope(|scope| {
            // A thread keeps the namespace that its parent is in.
            let spawn = || {
                netns.enter()?;
                Ok(thread::spawn(move || {
                    let started = || ready.send(()).context("nobody waits");
                    load(&policies).and_then(|interfaces| run(interfaces, acts, &stopped, started))
                }))
            };
            scope.spawn(spawn).join().unwrap_or_else(|_| bail!("no thread"))
        })?;
        let mut keeper = Self { stop, thread: Some(thread) };
        // It hangs up when it fails.
        if started.recv().is_err() {
            keeper.end()?;
        }
        Ok(keeper)
    }

    /// Ends it, and tells what went wrong.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.notify_one();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("it panicked"))?
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("keeper: {error:#}");
        }
    }
}

/// Loads the programs, and counts on all interfaces that there are: what was received by a path is known from there.
fn load(policies: &[(Option<IpAddr>, Policy)]) -> Result<Interfaces> {
    let mut kernel = Kernel::load(&ebpf::Settings {
        max_interfaces: MAX_INTERFACES.into(),
        wireguard_ports: [0; 4],
        max_subflows: 64,
        netns_cookie: cgroup::netns_cookie()?,
        probes: Ways::Any,
        log_level: 0,
    })?;
    for (address, policy) in policies {
        kernel.policies.set(*address, policy)?;
    }
    let attacher = Attacher::new(None, kernel.program(Direction::Rx))?;
    let mut interfaces = Interfaces::new(kernel, attacher, InterfaceFilter::default(), MAX_INTERFACES);
    link::list()?.into_iter().for_each(|interface| interfaces.present(interface));
    while interfaces.has_pending() {
        interfaces.attach_next();
    }
    ensure!(interfaces.all_attached(), "not attached to all interfaces");
    Ok(interfaces)
}

fn run(mut interfaces: Interfaces, acts: bool, stop: &Notify, started: impl FnOnce() -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kernel = &mut interfaces.kernel;
    let table = std::mem::replace(&mut kernel.subflows, Err("in use".into()));
    let mut table = table.map_err(anyhow::Error::msg)?;
    let mut timeouts = kernel.timeouts.take().context("no reports")?;
    runtime.block_on(async {
        let mut events = Events::subscribe()?;
        let mut driver = Driver::open(Settings::default())?;
        started()?;
        loop {
            tokio::select! {
                () = stop.notified() => break,
                news = events.next() => {
                    let news = news?.map_err(|_| anyhow!("overflow"))?;
                    if acts {
                        driver.links(&news, &mut table);
                    }
                }
                reports = timeouts.next() => {
                    let reports = reports?;
                    if acts {
                        driver.timeouts(&reports, &mut table);
                    }
                }
                () = tokio::time::sleep_until(driver.next_beat().into()) => driver.beat(&mut table),
            }
        }
        driver.release();
        let refused = kernel.events()?.into_iter().filter(|(event, _)| event.name() == "subflow_policy_refused");
        let count: u64 = refused.map(|(_, count)| count).sum();
        if count > 0 { bail!("{count} settings were refused") } else { Ok(()) }
    })
}
