//! What the agent itself does as long as it runs: its path manager, failover, what new subflows are given by their address,
//! MPTCP for programs that ask for TCP.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use mpsec_common::force::flags;
use tokio::time::{Interval, MissedTickBehavior};

use crate::control::actual::Doings;
use crate::control::away::Away;
use crate::control::change::{Change, Daemon, Force as Forced, Policy};
use crate::control::live::Agency as Perform;
use crate::kernel::ebpf::Kernel;
use crate::kernel::force::Force;
use crate::kernel::mptcp_pm::Endpoint;
use crate::kernel::policy::{self, Timeout, Timeouts};
use crate::kernel::readable::Readable;
use crate::kernel::{cgroup, link};
use crate::pm;
use crate::snapshot::control::ForcedSockets;

use super::failover;
use super::failover::driver::{self, Driver};

/// What is being done.
#[derive(Default)]
pub struct Agency {
    daemon: Option<(Daemon, pm::Daemon)>,
    force: Option<Forcing>,
    /// What those counted that are no more; nothing where there was none.
    forced_before: Option<ForcedSockets>,
    policies: BTreeMap<IpAddr, Policy>,
    failover: Option<Driver>,
    /// Where it is written down what failover takes away.
    away: Option<Away>,
    /// Reports of subflows that hear nothing; taken from the kernel side when they are needed first.
    timeouts: Option<Timeouts>,
}

/// MPTCP for programs that ask for TCP.
struct Forcing {
    what: Forced,
    force: Force,
    /// Readable when control groups come or go.
    changes: Option<Readable>,
    /// When to see whether MPTCP was switched off or on, of which the kernel tells nobody.
    looks: Interval,
}

/// For so long at most do listed programs get no socket where MPTCP was switched off.
const LOOK: Duration = Duration::from_secs(1);

impl Forcing {
    fn new(what: Forced, force: Force) -> Forcing {
        let changes = Readable::new(&force);
        if let Err(error) = &changes {
            tracing::warn!(%error, "control groups are looked for now and then only");
        }
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Forcing { what, force, changes: changes.ok(), looks }
    }

    /// Waits until control groups have come or gone, or MPTCP was switched off or on.
    async fn changed(&mut self) {
        let Forcing { force, changes, looks, .. } = self;
        loop {
            tokio::select! {
                result = async { match changes {
                    Some(changes) => changes.ready().await,
                    None => std::future::pending().await,
                } } => {
                    if result.is_err() {
                        *changes = None;
                    }
                    return;
                }
                _ = looks.tick() => {
                    if force.should_pause() != force.paused().is_some() {
                        return;
                    }
                }
            }
        }
    }

    fn refresh(&mut self) {
        if let Err(error) = self.force.refresh() {
            tracing::warn!(%error, "MPTCP for TCP programs");
        }
    }
}

/// Something to be handed to [`Agency::observe`].
pub enum News {
    /// Of the path manager.
    PathManager(pm::News),
    /// Of subflows that hear nothing.
    Timeouts(io::Result<Vec<Timeout>>),
    /// Something of failover is due.
    Due,
    /// Control groups have come or gone, or MPTCP was switched off or on.
    ControlGroups,
}

impl Agency {
    /// Does nothing yet.
    pub fn new(away: Option<Away>) -> Agency {
        Agency { away, ..Agency::default() }
    }

    /// Waits for something to do; for ever while there is nothing. Cancelling it loses nothing.
    pub async fn news(&mut self) -> News {
        let Agency { daemon, failover, timeouts, force, .. } = self;
        let due = failover.as_ref().map(Driver::next_beat);
        let is_on = failover.is_some();
        tokio::select! {
            news = async { match daemon {
                Some((_, daemon)) => daemon.news().await,
                None => std::future::pending().await,
            } } => News::PathManager(news),
            reports = async { match timeouts {
                Some(timeouts) if is_on => timeouts.next().await,
                _ => std::future::pending().await,
            } } => News::Timeouts(reports),
            () = async { match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            } } => News::Due,
            () = async { match force {
                Some(force) => force.changed().await,
                None => std::future::pending().await,
            } } => News::ControlGroups,
        }
    }

    /// Does it.
    pub fn observe(&mut self, news: News, kernel: &mut Kernel) {
        match (news, &mut self.failover, &mut kernel.subflows) {
            (News::PathManager(news), ..) => self.manage_connections(news),
            (News::Timeouts(Ok(reports)), Some(driver), Ok(table)) => driver.timeouts(&reports, table),
            (News::Timeouts(Err(error)), ..) => {
                tracing::warn!(%error, "silent paths are not told any more");
                self.timeouts = None;
            }
            (News::Due, Some(driver), Ok(table)) => driver.beat(table),
            (News::ControlGroups, ..) => self.force.iter_mut().for_each(Forcing::refresh),
            _ => {}
        }
    }

    /// Takes note of news of interfaces.
    pub fn links(&mut self, events: &[link::Event], kernel: &mut Kernel) {
        if let (Some(driver), Ok(table)) = (&mut self.failover, &mut kernel.subflows) {
            driver.links(events, table);
        }
    }

    /// Endpoints have changed.
    pub fn look_anew(&mut self) {
        if let Some(driver) = &mut self.failover {
            driver.look_anew();
        }
    }

    fn manage_connections(&mut self, news: pm::News) {
        let Some((what, daemon)) = &mut self.daemon else { return };
        if let Err(error) = daemon.observe(news) {
            tracing::error!(%error, "the path manager hears the kernel no more; beginning anew");
            let what = *what;
            self.daemon = None;
            if let Err(error) = self.manage(Some(what)) {
                tracing::error!(error, "the path manager is gone, trying again");
            }
        }
    }

    /// Now and then.
    pub fn beat(&mut self) {
        if let Some((_, daemon)) = &mut self.daemon {
            daemon.beat();
        }
        self.force.iter_mut().for_each(Forcing::refresh);
    }

    /// What it waits for.
    pub fn waiting(&self) -> Vec<String> {
        let Some(Forcing { force, .. }) = &self.force else { return Vec::new() };
        let missing = force.missing().map(|path| format!("the control group {}: it is not there yet", path.display()));
        let paused = force.paused().map(|reason| format!("MPTCP for TCP programs pauses: {reason}"));
        missing.chain(paused).collect()
    }

    /// How many sockets were made MPTCP since the agent started; nothing where that was never done.
    pub fn forced_sockets(&self) -> Option<ForcedSockets> {
        let counted = self.force.as_ref().map(|force| force.force.sockets());
        let counted = counted.and_then(|counted| {
            counted.inspect_err(|error| tracing::warn!(%error, "MPTCP for TCP programs is not counted")).ok()
        });
        match (self.forced_before, counted) {
            (before, None) => before,
            (before, Some(now)) => {
                let before = before.unwrap_or_default();
                Some(ForcedSockets {
                    clients: before.clients + now.clients,
                    servers: before.servers + now.servers,
                    both: before.both + now.both,
                })
            }
        }
    }

    fn manage(&mut self, to: Option<Daemon>) -> Result<(), String> {
        let Some(Daemon::Ndiffports(subflows)) = to else {
            self.daemon = None;
            return Ok(());
        };
        let settings = pm::Settings {
            mode: pm::mode::Kind::Ndiffports,
            subflows: u16::try_from(subflows).unwrap_or(u16::MAX),
            most_subflows: u16::try_from(subflows).unwrap_or(u16::MAX).max(pm::Settings::default().most_subflows),
            salt: u64::from(std::process::id()),
            ..pm::Settings::default()
        };
        match &mut self.daemon {
            Some((what, daemon)) => {
                daemon.set_settings(settings);
                *what = Daemon::Ndiffports(subflows);
            }
            None => {
                let daemon = pm::Daemon::open(settings).map_err(|error| error.to_string())?;
                self.daemon = Some((Daemon::Ndiffports(subflows), daemon));
            }
        }
        Ok(())
    }

    fn force(&mut self, to: &Forced) -> Result<(), String> {
        if to.is_empty() {
            self.set_force(None);
            return Ok(());
        }
        let mut cgroups: BTreeMap<PathBuf, u32> = BTreeMap::new();
        for (paths, flag) in [(&to.clients, flags::CLIENTS), (&to.servers, flags::SERVERS)] {
            for path in paths {
                *cgroups.entry(path.clone()).or_default() |= flag;
            }
        }
        let cgroups: Vec<(PathBuf, u32)> = cgroups.into_iter().collect();
        let cookie = cgroup::netns_cookie().map_err(|error| error.to_string())?;
        let force = Force::load(cookie, &cgroups).map_err(|error| format!("{error}; {}", error.remedy()))?;
        self.set_force(Some(Forcing::new(to.clone(), force)));
        self.waiting().iter().for_each(|waiting| tracing::info!("waiting: {waiting}"));
        Ok(())
    }

    /// The counts of the one before go on.
    fn set_force(&mut self, force: Option<Forcing>) {
        self.forced_before = self.forced_sockets();
        self.force = force;
    }
}

/// The agency, with what it works on.
pub struct Acting<'a> {
    /// What is done.
    pub agency: &'a mut Agency,
    /// The eBPF programs of the agent's own network namespace.
    pub kernel: &'a mut Kernel,
}

impl Acting<'_> {
    /// What new subflows get is set by the program that counts them.
    fn check_program(&self) -> Result<(), String> {
        match &self.kernel.subflows {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("it needs subflows to be counted (mptcp.count): {error}")),
        }
    }

    fn failover(&mut self, to: bool) -> Result<(), String> {
        if !to {
            // What was taken away is put back when it is dropped.
            self.agency.failover = None;
            return self.set_policies();
        }
        self.check_program()?;
        let mut driver = Driver::open(failover::Settings::default()).map_err(|error| error.to_string())?;
        driver.write_down_in(self.agency.away.clone());
        if self.agency.timeouts.is_none() {
            self.agency.timeouts = self.kernel.timeouts.take();
        }
        // What was reported before nobody read says nothing of now.
        self.agency.timeouts.iter_mut().for_each(|timeouts| drop(timeouts.take()));
        self.agency.failover = Some(driver);
        self.set_policies()
    }

    fn policy(&mut self, address: IpAddr, to: Option<&Policy>) -> Result<(), String> {
        let before = match to {
            Some(policy) => {
                self.check_program()?;
                self.agency.policies.insert(address, policy.clone())
            }
            None => self.agency.policies.remove(&address),
        };
        let outcome = self.set_policy(address);
        if outcome.is_err() {
            // As it was: what is not in force is not claimed to be.
            match before {
                Some(policy) => drop(self.agency.policies.insert(address, policy)),
                None => drop(self.agency.policies.remove(&address)),
            }
        }
        outcome
    }

    /// Every address has all that is set for it, as there is one entry for each, and one for all others.
    fn set_policies(&mut self) -> Result<(), String> {
        let addresses: Vec<IpAddr> = self.agency.policies.keys().copied().collect();
        addresses.into_iter().try_for_each(|address| self.set_policy(address))?;
        let usual = self.combined(None);
        let outcome = match usual == policy::Policy::default() {
            true => self.kernel.policies.clear(None),
            false => self.kernel.policies.set(None, &usual),
        };
        outcome.map_err(|error| error.to_string())
    }

    fn set_policy(&mut self, address: IpAddr) -> Result<(), String> {
        let outcome = match self.agency.policies.get(&address).cloned() {
            Some(policy) => self.kernel.policies.set(Some(address), &self.combined(Some(&policy))),
            None => self.kernel.policies.clear(Some(address)),
        };
        outcome.map_err(|error| error.to_string())
    }

    fn combined(&self, policy: Option<&Policy>) -> policy::Policy {
        let fails_over = self.agency.failover.is_some();
        policy::Policy {
            max_pacing_rate: policy.and_then(|policy| policy.max_rate),
            congestion: policy.and_then(|policy| policy.congestion_control.clone()),
            ..if fails_over { driver::policy() } else { policy::Policy::default() }
        }
    }
}

impl Perform for Acting<'_> {
    fn doings(&self) -> Doings {
        Doings {
            uncounted: self.kernel.subflows.as_ref().err().cloned(),
            daemon: self.agency.daemon.as_ref().map(|(what, _)| *what),
            policies: self.agency.policies.clone(),
            failover: self.agency.failover.is_some(),
            force: self.agency.force.as_ref().map(|force| force.what.clone()).unwrap_or_default(),
        }
    }

    fn suspended(&self) -> Vec<Endpoint> {
        self.agency.failover.iter().flat_map(Driver::taken).cloned().collect()
    }

    fn forget(&mut self, endpoint: &Endpoint) -> bool {
        self.agency.failover.as_mut().is_some_and(|driver| driver.forget(endpoint))
    }

    fn perform(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::Daemon { to, .. } => self.agency.manage(*to),
            Change::Force { to, .. } => self.agency.force(to),
            Change::Policy { address, to, .. } => self.policy(*address, to.as_ref()),
            Change::Failover { to } => self.failover(*to),
            _ => Err("the agent does nothing of the kind".to_owned()),
        }
    }
}
