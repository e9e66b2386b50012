//! One network namespace that is watched: its interfaces, and what is heard of them.

use anyhow::Context as _;
use mpsec_common::maps::Event;

use crate::config::{Attach, Config, NetnsConfig};
use crate::kernel::attach::{Attacher, Method};
use crate::kernel::cgroup;
use crate::kernel::ebpf::{Kernel, Settings};
use crate::kernel::link::{self, Events};
use crate::kernel::netlink::NetlinkError;
use crate::kernel::netns::Netns;
use crate::kernel::possible_cpus;
use crate::snapshot::{self, Collector, OtherInterfaces, Snapshot};

use super::collect::{Wanted, add, timed};
use super::interfaces::Interfaces;
use super::mptcp::{Lost, Mptcp, PathManagerNews};

/// A watched network namespace.
pub struct Namespace {
    /// Its label; empty for the agent's own.
    pub name: String,
    /// `None` for the agent's own.
    netns: Option<Netns>,
    /// What is attached where.
    pub interfaces: Interfaces,
    events: Events,
    /// Events were lost, and the interfaces could not be listed since.
    list_is_due: bool,
    /// How often the kernel had more interface events than there was room for.
    pub overflows: u64,
    /// What is seen of MPTCP.
    pub mptcp: Mptcp,
}

/// What is heard of a namespace.
pub enum News {
    /// Of its interfaces; an error ends the subscription.
    Links(std::io::Result<Result<Vec<link::Event>, link::Overflow>>),
    /// Of its MPTCP connections.
    PathManager(PathManagerNews),
}

impl Namespace {
    /// The agent's own.
    pub fn own(config: &Config) -> anyhow::Result<Namespace> {
        Self::start(config, String::new())
    }

    /// Another one.
    pub fn named(config: &Config, named: &NetnsConfig) -> anyhow::Result<Namespace> {
        let netns = Netns::open(&named.path).with_context(|| format!("cannot enter {}", named.path.display()))?;
        let namespace = netns.inside(|| Self::start(config, named.name.clone()))??;
        Ok(Namespace { netns: Some(netns), ..namespace })
    }

    fn start(config: &Config, name: String) -> anyhow::Result<Namespace> {
        let mut kernel = Kernel::load(&Settings {
            max_interfaces: config.interfaces.max_interfaces,
            wireguard_ports: config.classify.wireguard_ports.padded(),
            max_subflows: config.mptcp.slots(possible_cpus().context("cannot count the CPUs")?),
            netns_cookie: cgroup::netns_cookie().context("cannot tell the network namespace")?,
            log_level: config.log.kernel as u8,
            probes: config.mptcp.probes.into(),
        })?;
        if let (true, Err(error)) = (config.mptcp.count, &kernel.subflows) {
            tracing::warn!(netns = name, "MPTCP subflows are not counted: {error}");
        }
        for probe in kernel.probes.states() {
            tracing::debug!(netns = name, probe = probe.name, entry = probe.entry, error = probe.error, "probe");
        }
        if let Some(log) = kernel.take_log() {
            log.follow().context("cannot follow the log of the eBPF programs")?;
        }
        let wanted = match config.interfaces.attach {
            Attach::Auto => None,
            Attach::Tcx => Some(Method::Tcx),
            Attach::Clsact => Some(Method::Clsact),
        };
        let sockets = std::mem::replace(&mut kernel.sockets, Err("it is in use".to_owned()));
        let attacher = Attacher::new(wanted, kernel.program(mpsec_common::Direction::Rx))?;
        // Subscribed before the list is read, so that nothing is missed in between.
        let events = Events::subscribe().context("cannot subscribe to interface events")?;
        let list = link::list().context("cannot list the interfaces")?;
        let max_interfaces = u16::try_from(config.interfaces.max_interfaces).context("max_interfaces")?;
        let mut interfaces = Interfaces::new(kernel, attacher, config.interfaces.filter.clone(), max_interfaces);
        interfaces.kernel.look_for_ipsec();
        interfaces.remove_stale(&list);
        interfaces.replace(list);
        let mptcp = Mptcp::open(config.paths.clone(), sockets);
        Ok(Namespace { name, netns: None, interfaces, events, list_is_due: false, overflows: 0, mptcp })
    }

    /// Does something inside the namespace. If it cannot be entered, which was possible before, nothing is done.
    pub fn inside<T: Default>(&mut self, body: impl FnOnce(&mut Namespace) -> T) -> T {
        let Some(netns) = self.netns.take() else { return body(self) };
        let result = netns.inside(|| body(self));
        self.netns = Some(netns);
        result.unwrap_or_else(|error| {
            tracing::error!(netns = self.name, %error, "cannot enter the network namespace");
            T::default()
        })
    }

    /// False when its name stands for another namespace by now, or for none.
    pub fn is_current(&self) -> bool {
        self.netns.as_ref().is_none_or(Netns::is_current)
    }

    /// Waits for news. Nothing is lost when it is given up and called again.
    pub async fn news(&mut self) -> News {
        tokio::select! {
            news = self.events.next() => News::Links(news),
            news = self.mptcp.news() => News::PathManager(news),
        }
    }

    /// News of interfaces that is there already, whether it was announced or not.
    pub fn news_of_links(&mut self) -> Option<News> {
        self.events.next_if_there().transpose().map(News::Links)
    }

    /// Takes note of news.
    ///
    /// # Errors
    /// When there will be no more of them.
    pub fn observe(&mut self, news: News) -> anyhow::Result<()> {
        match news {
            News::Links(events) => match events.context("interface events")? {
                Ok(events) => self.inside(|this| this.take_note(events)),
                Err(link::Overflow) => {
                    tracing::warn!(netns = self.name, "interface events were lost; listing all interfaces anew");
                    self.overflows += 1;
                    self.inside(Self::list_anew);
                }
            },
            News::PathManager(news) => self.mptcp.observe(news),
        }
        Ok(())
    }

    fn take_note(&mut self, events: Vec<link::Event>) {
        for event in events {
            match event {
                link::Event::Present(interface) => self.interfaces.present(interface),
                link::Event::Gone { index } => self.interfaces.gone(index),
            }
        }
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

    /// Looks at the table of subflows, for a snapshot or a beat.
    fn poll(&mut self) -> Result<(), String> {
        let (table, names) = self.interfaces.subflows_and_names();
        let table = table.map_err(|reason| reason.clone())?;
        self.mptcp.poll(table, names).map_err(|error| error.to_string())
    }

    /// Once a second.
    pub fn beat(&mut self) {
        self.inside(|this| {
            if let (Err(error), Ok(_)) = (this.poll(), &this.interfaces.kernel.subflows) {
                tracing::warn!(netns = this.name, error, "cannot read the table of subflows");
            }
            this.mptcp.beat(this.interfaces.kernel.subflows.as_mut().ok());
            this.interfaces.kernel.look_for_ipsec();
        });
    }

    /// What is known of MPTCP, with or without subflows, and how each source fared.
    pub fn mptcp(&mut self, subflows: bool, reports: &mut Vec<Collector>) -> snapshot::mptcp::Namespace {
        self.inside(|this| {
            timed(reports, "mptcp_subflows", || this.poll());
            let events = this.interfaces.kernel.events().unwrap_or_default();
            let count = |wanted| events.iter().find(|(event, _)| *event == wanted).map_or(0, |(_, count)| *count);
            let lost = Lost {
                subflows: count(Event::SubflowTableFull) + count(Event::SubflowTagTaken),
                handshakes: count(Event::HandshakeUnseen),
            };
            let probed = timed(reports, "probes", || this.interfaces.kernel.probes.read()).unwrap_or_default();
            let links = this.interfaces.links();
            let table = this.interfaces.kernel.subflows.as_mut().ok();
            let seen = this.mptcp.snapshot(&this.name, table, lost, subflows, &links, reports);
            snapshot::mptcp::Namespace { probed, ..seen }
        })
    }

    /// Adds what is known of interfaces and programs to a snapshot.
    pub fn collect(&self, snapshot: &mut Snapshot, wanted: Wanted, reports: &mut Vec<Collector>) {
        let (interfaces, kernel) = (&self.interfaces, &self.interfaces.kernel);
        let counters = timed(reports, "counters", || Ok::<_, String>(interfaces.traffic()));
        let (mut list, traffic) = counters.unwrap_or_default();
        list.iter_mut().for_each(|interface| interface.netns.clone_from(&self.name));
        snapshot.interfaces.append(&mut list);
        snapshot.others.push(OtherInterfaces { netns: self.name.clone(), traffic });
        snapshot.interface_states.add(interfaces.states());
        let agent = &mut snapshot.agent;
        add(&mut agent.kernel_events, timed(reports, "ebpf_events", || kernel.events()).unwrap_or_default());
        add(&mut agent.lost_events, [("rtnetlink", self.overflows), ("mptcp_pm", self.mptcp.overflows)]);
        add(&mut agent.missed_by_probes, kernel.probes.missed());
        // The same ways lead into the kernel from all namespaces.
        if agent.probes.is_empty() {
            agent.probes = kernel.probes.states().to_vec();
        }
        let troubles = interfaces.troubles;
        agent.folded_total += troubles.folded;
        agent.attach_failures_total += troubles.attach_failures;
        agent.attachments_lost_total += troubles.attachments_lost;
        for map in interfaces.maps() {
            match agent.maps.iter_mut().find(|known| known.name == map.name) {
                Some(known) => {
                    (known.entries, known.capacity) = (known.entries + map.entries, known.capacity + map.capacity)
                }
                None => agent.maps.push(map),
            }
        }
        if wanted.program_stats {
            for program in timed(reports, "ebpf_programs", || kernel.program_stats()).unwrap_or_default() {
                match agent.programs.iter_mut().find(|known| known.name == program.name) {
                    Some(known) => {
                        known.run_time_seconds += program.run_time_seconds;
                        known.runs += program.runs;
                    }
                    None => agent.programs.push(program),
                }
            }
        }
    }

    /// Detaches everything, and lets others run between one interface and the next.
    pub async fn release_all(&mut self) {
        while self.inside(|this| this.interfaces.release_one()) {
            tokio::task::yield_now().await;
        }
    }

    /// Looks whether all is as it was left.
    pub fn verify(&mut self) {
        self.inside(|this| {
            if this.list_is_due {
                this.list_anew();
            }
            this.interfaces.verify();
        });
    }
}
