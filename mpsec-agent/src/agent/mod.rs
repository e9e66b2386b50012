//! The agent: start, the loop (observe, publish), stop.

mod agency;
mod collect;
mod effects;
pub mod failover;
mod front;
pub mod interfaces;
mod keeper;
mod manager;
mod mptcp;
mod namespace;
mod site;
mod slots;
mod takeover;

use std::future::Future as _;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, Loaded, Loader};
use crate::control::apply::Outcome;
use crate::control::ask::{Answer, Ask, AskError, LinkSwitch, Who};
use crate::control::audit::{Audit, Entry};
use crate::control::{Command, Depth};
use crate::kernel::ebpf::KernelStats;
use crate::kernel::link;
use crate::logging::LogHandle;
use crate::snapshot::control::Control;
use crate::snapshot::{Reload, Snapshot};

use agency::{Acting, Agency};
use collect::{Sources, Wanted};
use front::{Front, Signals};
use keeper::Keeper;
use manager::Manager;
pub(crate) use mptcp::fallback_causes;
use namespace::{Namespace, News};

/// How often the attached programs are looked after.
const VERIFY_INTERVAL: Duration = Duration::from_secs(10);
/// How often the tables of subflows are read: what rates are worked out from, and how soon a closed subflow makes room.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A snapshot with more connections than this takes megabytes.
const LARGE: usize = 1000;

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

/// The state of the running agent.
struct Agent {
    config: Config,
    log: LogHandle,
    /// The agent's own network namespace, and behind it those that the configuration names, as far as they are there.
    namespaces: Vec<Namespace>,
    /// Keeps the kernel's accounting of run time on, while it is there.
    kernel_stats: Option<KernelStats>,
    sources: Sources,
    /// What is done for others as long as the agent runs.
    agency: Agency,
    /// Keeps the host as it is wanted.
    keeper: Keeper,
    /// The log of what was done for that.
    audit: Audit,
    /// Who started the agent.
    manager: Manager,
    /// A snapshot with many connections: when it is gone, there is memory to give back.
    large: Option<Weak<Snapshot>>,
}

impl Agent {
    fn start(config: Config, loader: Loader, log: LogHandle, front: &Front) -> anyhow::Result<Agent> {
        crate::kernel::return_large_memory();
        crate::kernel::raise_descriptor_limit().context("cannot raise the limit of open descriptors")?;
        let (keeper, config) = Keeper::open(config, loader);
        let namespaces = vec![Namespace::own(&config)?];
        let sources = Sources::new(front.stats.clone());
        let (agency, audit) = (Agency::new(keeper.away()), Audit::new(&config.agent.state_dir));
        let manager = Manager::of_this_process();
        let mut agent =
            Agent { kernel_stats: None, large: None, sources, agency, keeper, audit, manager, config, log, namespaces };
        agent.watch_named();
        crate::kernel::trim_heap();
        agent.switch_kernel_stats();
        Ok(agent)
    }

    /// Begins with the named namespaces that are there and not watched yet; gives up those that are gone.
    fn watch_named(&mut self) {
        self.namespaces.retain(|namespace| {
            let current = namespace.is_current();
            if !current {
                tracing::warn!(netns = namespace.name, "the network namespace is gone");
            }
            current
        });
        for named in &self.config.netns {
            if self.namespaces.iter().any(|namespace| namespace.name == named.name) {
                continue;
            }
            match Namespace::named(&self.config, named) {
                Ok(namespace) => {
                    tracing::info!(netns = named.name, "watching");
                    self.sources.unwatched.remove(&named.name);
                    self.namespaces.push(namespace);
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    // It is tried again and again; what has been said need not be repeated.
                    if self.sources.unwatched.get(&named.name) != Some(&text) {
                        tracing::warn!(netns = named.name, "not watched, trying again: {text}");
                        self.sources.unwatched.insert(named.name.clone(), text);
                    }
                }
            }
        }
    }

    fn announce(&self, addresses: &[std::net::SocketAddr]) {
        let listen: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        tracing::info!(listen = listen.join(" "), method = self.namespaces[0].interfaces.method().name(), "started");
        self.manager.ready();
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
        let mut beat = tokio::time::interval(BEAT_INTERVAL);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                (index, news) = next_of(&mut self.namespaces) => self.observe(index, news).await?,
                Some(command) = inbox.recv() => self.answer(command, &mut inbox),
                () = self.keeper.due() => self.reconcile(),
                news = self.agency.news() => self.agency.observe(news, &mut self.namespaces[0].interfaces.kernel),
                _ = signals.hangup.recv() => drop(self.reload()),
                _ = verify.tick() => self.verify()?,
                _ = beat.tick() => self.beat(),
                () = std::future::ready(()), if self.has_pending() => {
                    self.attach_next();
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

    /// Takes note of news, and of those that have come meanwhile, as far as a task may go at once.
    async fn observe(&mut self, index: usize, news: News) -> anyhow::Result<()> {
        self.take_note(index, news)?;
        loop {
            tokio::select! {
                biased;
                (index, news) = next_of(&mut self.namespaces) => self.take_note(index, news)?,
                () = std::future::ready(()) => return Ok(()),
            }
        }
    }

    fn take_note(&mut self, index: usize, news: News) -> anyhow::Result<()> {
        if let (0, News::Links(Ok(events))) = (index, &news) {
            // Which events were lost is not known, but how things are.
            let present = || link::list().unwrap_or_default().into_iter().map(link::Event::Present).collect();
            let events = events.clone().unwrap_or_else(|link::Overflow| present());
            self.agency.links(&events, &mut self.namespaces[0].interfaces.kernel);
            self.keeper.touch();
        }
        match self.namespaces[index].observe(news) {
            Err(error) if index > 0 => {
                let namespace = self.namespaces.remove(index);
                tracing::error!(netns = namespace.name, "watched no more, for now: {error:#}");
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn has_pending(&self) -> bool {
        self.namespaces.iter().any(|namespace| namespace.interfaces.has_pending())
    }

    fn attach_next(&mut self) {
        if let Some(namespace) = self.namespaces.iter_mut().find(|namespace| namespace.interfaces.has_pending()) {
            namespace.inside(|this| this.interfaces.attach_next());
        }
    }

    fn verify(&mut self) -> anyhow::Result<()> {
        self.watch_named();
        // What is attached to an interface goes with it. Whoever does not know yet that it went would attach to the one that
        // has its index now, and count on from where the old one was.
        for index in (0..self.namespaces.len()).rev() {
            while let Some(news) = self.namespaces.get_mut(index).and_then(Namespace::news_of_links) {
                self.take_note(index, news)?;
            }
        }
        self.namespaces.iter_mut().for_each(Namespace::verify);
        self.agency.beat();
        self.keeper.touch();
        Ok(())
    }

    fn beat(&mut self) {
        self.manager.alive(self.status());
        self.namespaces.iter_mut().for_each(Namespace::beat);
        if self.large.take_if(|snapshot| snapshot.strong_count() == 0).is_some() {
            crate::kernel::trim_heap();
        }
    }

    /// Answers a command, and every other one that waits for the same.
    fn answer(&mut self, first: Command, inbox: &mut mpsc::Receiver<Command>) {
        let commands: Vec<_> = std::iter::once(first).chain(std::iter::from_fn(|| inbox.try_recv().ok())).collect();
        let mut asked = None;
        let mut replies = Vec::new();
        for command in commands {
            match command {
                Command::Snapshot(depth, reply) => {
                    asked = asked.max(Some(depth));
                    replies.push(reply);
                }
                Command::Ask(ask, who, reply) => drop(reply.send(self.act(&ask, &who))),
                Command::Reload(reply) => drop(reply.send(self.reload())),
            }
        }
        if replies.is_empty() {
            return;
        }
        let mptcp = &self.config.mptcp;
        let wanted = Wanted {
            program_stats: self.kernel_stats.is_some(),
            subflow_series: mptcp.subflow_series.then_some(mptcp.max_subflow_series as usize),
            // The series of single subflows have figures of TCP.
            subflows: asked == Some(Depth::Full) || mptcp.subflow_series,
        };
        let mut control = Control {
            audit_errors_total: self.audit.errors(),
            forced_sockets: self.agency.forced_sockets(),
            ..self.keeper.control()
        };
        control.waiting.extend(self.agency.waiting());
        let snapshot = Arc::new(Snapshot { control, ..self.sources.collect(&mut self.namespaces, wanted) });
        if snapshot.connections() > LARGE {
            self.large = Some(Arc::downgrade(&snapshot));
        }
        for reply in replies {
            // Who asked may have gone away.
            let _ = reply.send(snapshot.clone());
        }
    }

    fn reconcile(&mut self) {
        let known = self.keeper.control().failures;
        let (keeper, mut acting) = self.acting();
        let Some(outcome) = keeper.reconcile(&mut acting) else { return };
        // What fails is tried again and again, and noted once.
        if !outcome.changes.is_empty() || (!outcome.is_success() && self.keeper.control().failures != known) {
            self.note(&Who::Agent, "reconcile", &outcome);
        }
        if !outcome.changes.is_empty() {
            self.agency.look_anew();
        }
    }

    /// Writes into the log of changes what somebody asked for, and what the agent did by itself.
    fn note(&self, who: &Who, what: &str, outcome: &Outcome) {
        let entry = Entry::new(who, what, self.keeper.control().desired_generation, outcome);
        if *who != Who::Agent || !entry.is_empty() {
            self.audit.record(&entry);
        }
    }

    /// Who keeps the host as it is wanted, and who acts for them, in the agent's own network namespace.
    fn acting(&mut self) -> (&mut Keeper, Acting<'_>) {
        let kernel = &mut self.namespaces[0].interfaces.kernel;
        (&mut self.keeper, Acting { agency: &mut self.agency, kernel })
    }

    /// Plans or changes something, and writes down what came of it.
    fn act(&mut self, ask: &Ask, who: &Who) -> Result<Answer, AskError> {
        tracing::debug!(%who, "{ask}");
        let answer = self.perform(ask);
        match &answer {
            Ok(answer) if ask.is_mutating() => self.note(who, &ask.to_string(), &answer.outcome),
            Err(AskError::Failed(error)) if ask.is_mutating() => {
                self.note(who, &ask.to_string(), &Outcome::failed(error));
            }
            _ => {}
        }
        answer
    }

    fn perform(&mut self, ask: &Ask) -> Result<Answer, AskError> {
        let (keeper, mut acting) = self.acting();
        match ask {
            Ask::Plan(settings) => {
                let (mut answer, config) = keeper.plan(settings, &mut acting)?;
                answer.outcome.waiting.extend(takeover::left(&self.config, &config));
                Ok(answer)
            }
            Ask::Apply(settings) => {
                let (mut answer, config) = keeper.apply(settings, &mut acting)?;
                self.agency.look_anew();
                answer.outcome.waiting.extend(self.agency.waiting());
                if let Some(config) = config {
                    answer.outcome.waiting.extend(takeover::left(&self.config, &config));
                    self.adopt(config).map_err(|error| AskError::Failed(format!("{error:#}")))?;
                }
                Ok(answer)
            }
            Ask::Release => keeper.release(&mut acting),
            Ask::Link(LinkSwitch { name, up, dry_run }) => {
                let effects = if *up { Vec::new() } else { effects::of_losing(name, &self.full_snapshot()) };
                let (keeper, mut acting) = self.acting();
                let answer = keeper.link(name, *up, *dry_run, &mut acting)?;
                let effects = if answer.outcome.changes.is_empty() { Vec::new() } else { effects };
                Ok(Answer { effects, ..answer })
            }
        }
    }

    fn full_snapshot(&mut self) -> Snapshot {
        let wanted = Wanted { program_stats: false, subflow_series: None, subflows: true };
        self.sources.collect(&mut self.namespaces, wanted)
    }

    fn reload(&mut self) -> Result<(), AskError> {
        self.manager.loading();
        let outcome = self.try_reload();
        match &outcome {
            Ok(()) => tracing::info!("configuration loaded"),
            Err(error) => tracing::error!("configuration not loaded, the old one stays in force: {error:#}"),
        }
        let loaded_at = if outcome.is_ok() { SystemTime::now() } else { self.sources.reload.loaded_at };
        self.sources.reload = Reload { succeeded: outcome.is_ok(), loaded_at };
        self.manager.ready();
        outcome.map_err(|error| AskError::Wrong(format!("{error:#}")))
    }

    fn try_reload(&mut self) -> anyhow::Result<()> {
        let new = self.keeper.load()?;
        let fixed = self.config.needs_restart(&new);
        anyhow::ensure!(fixed.is_empty(), "{} cannot change while the agent runs: restart it", fixed.join(", "));
        self.keeper.want(&new);
        self.adopt(new)
    }

    /// Puts in force what of a configuration needs no restart.
    fn adopt(&mut self, new: Config) -> anyhow::Result<()> {
        self.log.set_level(&new.log.level)?;
        for namespace in &mut self.namespaces {
            namespace.inside(|this| this.interfaces.set_filter(new.interfaces.filter.clone()));
        }
        self.config = takeover::merged(&self.config, new);
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
        if !self.namespaces.iter().all(|namespace| namespace.interfaces.all_attached()) {
            return Err("some interfaces are not attached; see mpsec status".into());
        }
        match self.sources.unwatched.keys().next() {
            Some(name) => Err(format!("the network namespace {name} is not watched; see mpsec status")),
            None => Ok(()),
        }
    }

    /// What the agent does, in a line.
    fn status(&self) -> String {
        let counted: usize = self.namespaces.iter().map(|namespace| namespace.interfaces.counted()).sum();
        let method = self.namespaces[0].interfaces.method().name();
        let wrong = match (self.readiness(), self.sources.reload.succeeded) {
            (Err(reason), _) => format!("; {reason}"),
            (Ok(()), false) => "; the configuration file was not loaded, what was read before is in force".to_owned(),
            (Ok(()), true) => String::new(),
        };
        format!("{counted} interfaces counted by {method}{wrong}")
    }

    async fn stop(&mut self) {
        self.manager.stopping();
        let (keeper, mut acting) = self.acting();
        if let Some(outcome) = keeper.stop(&mut acting) {
            self.note(&Who::Agent, "stop", &outcome);
        }
        for namespace in &mut self.namespaces {
            namespace.release_all().await;
        }
        tracing::info!("stopped");
    }
}

/// Waits for news of any namespace, and says of which.
async fn next_of(namespaces: &mut [Namespace]) -> (usize, News) {
    let mut waiting: Vec<_> = namespaces.iter_mut().map(|namespace| Box::pin(namespace.news())).collect();
    std::future::poll_fn(|context| {
        for (index, news) in waiting.iter_mut().enumerate() {
            if let Poll::Ready(news) = news.as_mut().poll(context) {
                return Poll::Ready((index, news));
            }
        }
        Poll::Pending
    })
    .await
}
