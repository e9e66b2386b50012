//! The agent: start, the loop (observe, publish), stop.

mod collect;
mod interfaces;
mod site;
mod slots;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::api::{self, HttpStats, Limits, Server, WebConfig};
use crate::config::{Attach, Config, Loaded, Loader};
use crate::control::socket::ControlSocket;
use crate::control::{Command, Commands};
use crate::kernel::attach::{Attacher, Method};
use crate::kernel::ebpf::{Kernel, KernelStats, Settings};
use crate::kernel::link::{self, Events};
use crate::kernel::netlink::NetlinkError;
use crate::logging::LogHandle;
use crate::snapshot::Reload;

use collect::Sources;
use interfaces::Interfaces;
use site::AgentSite;

/// How often the attached programs are looked after.
const VERIFY_INTERVAL: Duration = Duration::from_secs(10);

/// Runs the agent until SIGINT or SIGTERM.
///
/// # Errors
/// What kept it from starting; once it runs, nothing ends it but a signal.
pub fn run(loaded: Loaded, loader: Loader, log: LogHandle) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("tokio")?;
    runtime.block_on(async {
        let config = loaded.config;
        // Handled before anything is attached: a signal during the start must not leave it there.
        let signals = Signals::handle()?;
        let front = Front::open(&config).await?;
        let agent = Agent::start(config, loader, log, &front)?;
        front.serve(agent, signals).await
    })
}

/// What the outside reaches: made first, so that a second agent or a used port is told before anything is loaded.
struct Front {
    http: Option<Server>,
    stats: Arc<HttpStats>,
    socket: ControlSocket,
    commands: Commands,
    inbox: mpsc::Receiver<Command>,
}

impl Front {
    async fn open(config: &Config) -> anyhow::Result<Front> {
        let stats = Arc::new(HttpStats::default());
        let mut addresses = Vec::new();
        for listen in &config.http.listen {
            addresses.extend(listen.resolve().with_context(|| format!("cannot listen on {listen}"))?);
        }
        let http = if addresses.is_empty() {
            None
        } else {
            let web = match &config.http.web_config {
                Some(path) => WebConfig::load(path).context("the web configuration file cannot be used")?,
                None => WebConfig::default(),
            };
            let limits = Limits { max_connections: config.http.max_connections as usize, ..Limits::default() };
            Some(Server::bind(&addresses, Arc::new(web), limits, stats.clone()).await?)
        };
        let socket = ControlSocket::bind(&config.agent.control_socket).await?;
        let (commands, inbox) = Commands::channel();
        Ok(Front { http, stats, socket, commands, inbox })
    }

    /// Serves, and runs the agent's loop, until the loop ends.
    async fn serve(self, mut agent: Agent, signals: Signals) -> anyhow::Result<()> {
        let (ready, readiness) = watch::channel(agent.readiness());
        let (stop, mut stopped) = watch::channel(false);
        let addresses = self.http.as_ref().map(Server::local_addrs).unwrap_or_default();
        let site = Arc::new(AgentSite::new(self.commands.clone(), readiness));
        let http = self.http.map(|server| {
            let router = api::router(site, self.stats.clone());
            tokio::spawn(server.serve(router, async move {
                // An error means that the sender is gone, which is the end too.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            }))
        });
        agent.announce(&addresses);
        let result = tokio::select! {
            () = self.socket.serve(self.commands) => Ok(()),
            result = agent.run(self.inbox, signals, &ready) => result,
        };
        stop.send_replace(true);
        agent.stop().await;
        if let Some(http) = http {
            // It ends within the limits' time for shutting down.
            let _ = http.await;
        }
        result
    }
}

/// What the agent does when it is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn handle() -> anyhow::Result<Signals> {
        let handle = |kind| signal(kind).context("cannot handle signals");
        Ok(Signals {
            terminate: handle(SignalKind::terminate())?,
            interrupt: handle(SignalKind::interrupt())?,
            hangup: handle(SignalKind::hangup())?,
        })
    }
}

type EventResult = std::io::Result<Result<Vec<link::Event>, link::Overflow>>;

/// The state of the running agent.
struct Agent {
    config: Config,
    loader: Loader,
    log: LogHandle,
    interfaces: Interfaces,
    events: Events,
    /// Events were lost, and the interfaces could not be listed since.
    list_is_due: bool,
    /// Keeps the kernel's accounting of run time on, while it is there.
    kernel_stats: Option<KernelStats>,
    sources: Sources,
}

impl Agent {
    fn start(config: Config, loader: Loader, log: LogHandle, front: &Front) -> anyhow::Result<Agent> {
        crate::kernel::raise_descriptor_limit().context("cannot raise the limit of open descriptors")?;
        let mut kernel = Kernel::load(&Settings {
            max_interfaces: config.interfaces.max_interfaces,
            wireguard_ports: config.classify.wireguard_ports.padded(),
            max_subflows: 32_768,
            netns_cookie: crate::kernel::cgroup::netns_cookie().context("cannot tell the network namespace")?,
            log_level: config.log.kernel as u8,
        })?;
        if let Some(log) = kernel.take_log() {
            log.follow().context("cannot follow the log of the eBPF programs")?;
        }
        let wanted = match config.interfaces.attach {
            Attach::Auto => None,
            Attach::Tcx => Some(Method::Tcx),
            Attach::Clsact => Some(Method::Clsact),
        };
        let attacher = Attacher::new(wanted, kernel.program(mpsec_common::Direction::Rx))?;
        // Subscribed before the list is read, so that nothing is missed in between.
        let events = Events::subscribe().context("cannot subscribe to interface events")?;
        let list = link::list().context("cannot list the interfaces")?;
        let max_interfaces = u16::try_from(config.interfaces.max_interfaces).context("max_interfaces")?;
        let mut interfaces = Interfaces::new(kernel, attacher, config.interfaces.filter.clone(), max_interfaces);
        interfaces.remove_stale(&list);
        interfaces.replace(list);
        crate::kernel::trim_heap();
        let mut agent = Agent {
            kernel_stats: None,
            sources: Sources::new(front.stats.clone()),
            config,
            loader,
            log,
            interfaces,
            events,
            list_is_due: false,
        };
        agent.switch_kernel_stats();
        Ok(agent)
    }

    fn announce(&self, addresses: &[std::net::SocketAddr]) {
        let listen: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        tracing::info!(listen = listen.join(" "), method = self.interfaces.method().name(), "started");
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    /// Observes and answers, until a signal ends it.
    async fn run(
        &mut self,
        mut inbox: mpsc::Receiver<Command>,
        mut signals: Signals,
        ready: &watch::Sender<Result<(), String>>,
    ) -> anyhow::Result<()> {
        let mut verify = tokio::time::interval(VERIFY_INTERVAL);
        verify.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                events = self.events.next() => self.observe(events).await?,
                Some(command) = inbox.recv() => self.answer(command, &mut inbox),
                _ = signals.hangup.recv() => self.reload(),
                _ = verify.tick() => self.verify(),
                () = std::future::ready(()), if self.interfaces.has_pending() => {
                    self.interfaces.attach_next();
                    // The server has its turn between one interface and the next.
                    tokio::task::yield_now().await;
                }
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
            }
            ready.send_if_modified(|last| {
                let now = self.readiness();
                let changed = *last != now;
                *last = now;
                changed
            });
        }
    }

    /// Takes note of events, and of those that have come meanwhile, as far as a task may go at once.
    async fn observe(&mut self, first: EventResult) -> anyhow::Result<()> {
        self.take_note(first)?;
        loop {
            tokio::select! {
                biased;
                events = self.events.next() => self.take_note(events)?,
                () = std::future::ready(()) => return Ok(()),
            }
        }
    }

    fn take_note(&mut self, events: EventResult) -> anyhow::Result<()> {
        match events.context("interface events")? {
            Ok(events) => {
                for event in events {
                    match event {
                        link::Event::Present(interface) => self.interfaces.present(interface),
                        link::Event::Gone { index } => self.interfaces.gone(index),
                    }
                }
            }
            Err(link::Overflow) => {
                tracing::warn!("interface events were lost; listing all interfaces anew");
                self.sources.rtnetlink_overflows += 1;
                self.list_anew();
            }
        }
        Ok(())
    }

    /// Begins anew with the interfaces, on a new subscription: what the old one still holds is older than the list, and
    /// until it has been read the kernel drops, without a word, what comes after (netlink_overrun and netlink_rcv_wake,
    /// net/netlink/af_netlink.c, 6.18).
    fn list_anew(&mut self) {
        let list = Events::subscribe().map_err(NetlinkError::from).and_then(|events| {
            self.events = events;
            link::list()
        });
        self.list_is_due = list.is_err();
        match list {
            Ok(list) => self.interfaces.replace(list),
            Err(error) => tracing::error!(%error, "cannot list the interfaces; trying again"),
        }
    }

    fn verify(&mut self) {
        if self.list_is_due {
            self.list_anew();
        }
        self.interfaces.verify();
    }

    /// Answers a command, and every other one that waits for the same.
    fn answer(&mut self, first: Command, inbox: &mut mpsc::Receiver<Command>) {
        let snapshot = Arc::new(self.sources.collect(&self.interfaces, self.kernel_stats.is_some()));
        for command in std::iter::once(first).chain(std::iter::from_fn(|| inbox.try_recv().ok())) {
            match command {
                // Who asked may have gone away.
                Command::Snapshot(reply) => drop(reply.send(snapshot.clone())),
            }
        }
    }

    fn reload(&mut self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading]);
        let outcome = self.try_reload();
        match &outcome {
            Ok(()) => tracing::info!("configuration loaded"),
            Err(error) => tracing::error!("configuration not loaded, the old one stays in force: {error:#}"),
        }
        let loaded_at = if outcome.is_ok() { SystemTime::now() } else { self.sources.reload.loaded_at };
        self.sources.reload = Reload { succeeded: outcome.is_ok(), loaded_at };
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    fn try_reload(&mut self) -> anyhow::Result<()> {
        let new = self.loader.load()?.config;
        let fixed = self.config.needs_restart(&new);
        anyhow::ensure!(fixed.is_empty(), "{} cannot change while the agent runs: restart it", fixed.join(", "));
        self.log.set_level(&new.log.level)?;
        self.interfaces.set_filter(new.interfaces.filter.clone());
        self.config = new;
        self.switch_kernel_stats();
        Ok(())
    }

    fn switch_kernel_stats(&mut self) {
        self.kernel_stats = match (self.config.agent.kernel_stats, self.kernel_stats.take()) {
            (false, _) => None,
            (true, Some(on)) => Some(on),
            (true, None) => KernelStats::enable()
                .inspect_err(|error| tracing::warn!(%error, "the kernel does not keep the run time of programs"))
                .ok(),
        };
    }

    fn readiness(&self) -> Result<(), String> {
        if self.interfaces.all_attached() {
            Ok(())
        } else {
            Err("some interfaces are not attached; see mpsec status".into())
        }
    }

    async fn stop(&mut self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.interfaces.release_all().await;
        tracing::info!("stopped");
    }
}
