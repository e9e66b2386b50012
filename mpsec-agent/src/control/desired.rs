//! From settings and a host to what the host should be like. Pure.

mod endpoints;

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::MultipathConfig;
use crate::config::multipath::{PathManagerMode, PerInterface, ReceiveBuffer};
use crate::kernel::address::Address;
use crate::scheduler::{self, Choice, CongestionControls, PathManagers};
use crate::snapshot::mptcp::Limits;

use super::actual::Actual;
use super::change::{Daemon, Endpoint, Force, Policy, SourceRoute, SourceRule};
use super::mode::{self};
use super::owned::Owned;

const RECEIVE_BUFFER: &str = "net.ipv4.tcp_rmem";
const STALE_LOSSES: &str = "net.mptcp.stale_loss_cnt";

/// What the host should be like, as far as MPSec is asked to see to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Settings by their dotted names; those that are not here are left alone.
    pub sysctls: BTreeMap<String, String>,
    /// The limits; `None` leaves them alone.
    pub limits: Option<Limits>,
    /// Endpoints of ours.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that are not made as things are, and stay if they are there: as long as the address is there, subflows may
    /// recover.
    pub held: Vec<Endpoint>,
    /// Routes of ours.
    pub routes: Vec<SourceRoute>,
    /// Rules of ours.
    pub rules: Vec<SourceRule>,
    /// What the agent's path manager does.
    pub daemon: Option<Daemon>,
    /// What new subflows are given.
    pub policies: BTreeMap<IpAddr, Policy>,
    /// Whether the agent takes paths out that went down or silent.
    pub failover: bool,
    /// Programs that get MPTCP sockets.
    pub force: Force,
    /// What this host cannot be: nothing is changed until these are gone.
    pub refusals: Vec<String>,
    /// What has to wait, and for what.
    pub waiting: Vec<String>,
}

/// Works out what a host should be like. It does not depend on what was wanted before.
#[must_use]
pub fn desired(settings: &MultipathConfig, actual: &Actual, owned: &Owned) -> Desired {
    let actual = &owned.originals(actual);
    let mut desired = Desired { force: force(settings), ..Desired::default() };
    desired.failover(settings, actual);
    desired.sysctls(settings, actual);
    let mode = settings.path_manager.map(mode::of);
    desired.daemon = mode.and_then(|mode| mode.daemon(settings));
    desired.limits(settings, actual);
    desired.endpoints(settings, actual, owned);
    if settings.manage_routes {
        desired.source_routes(settings, actual);
    }
    desired.policies(settings, actual);
    if actual.agent.is_none() {
        desired.without_agent(settings);
    }
    desired
}

fn force(settings: &MultipathConfig) -> Force {
    Force { clients: settings.force.clients.clone(), servers: settings.force.servers.clone() }
}

impl Desired {
    /// What lasts no longer than the agent is refused where none runs.
    fn without_agent(&mut self, settings: &MultipathConfig) {
        let needed = [
            ("path_manager = ndiffports", self.daemon.is_some()),
            ("failover = on", settings.failover == Some(true)),
            ("path_congestion_control", !settings.path_congestion_control.is_empty()),
            ("path_max_rate", !settings.path_max_rate.is_empty()),
            ("mptcp.force", !self.force.is_empty()),
        ];
        let names: Vec<&str> =
            needed.into_iter().filter(|(_, is_asked_for)| *is_asked_for).map(|(name, _)| name).collect();
        if !names.is_empty() {
            self.refusals.push(format!("{}: it needs the running agent; start it (mpsec run)", names.join(", ")));
        }
    }

    /// It needs an agent that counts subflows; where nobody asked for it by name, it is left out without one.
    fn failover(&mut self, settings: &MultipathConfig, actual: &Actual) {
        let Some(doings) = actual.agent.as_ref().filter(|_| settings.fails_over()) else { return };
        match (&doings.uncounted, settings.failover) {
            (None, _) => self.failover = true,
            (Some(reason), Some(true)) => self.refusals.push(format!("failover needs mptcp.count: {reason}")),
            (Some(reason), _) => self.waiting.push(format!("failover: it needs mptcp.count: {reason}")),
        }
    }

    fn sysctls(&mut self, settings: &MultipathConfig, actual: &Actual) {
        if let Some(on) = settings.enabled {
            self.sysctl(actual, "net.mptcp.enabled", u32::from(on).to_string());
        }
        if let Some(name) = &settings.scheduler {
            self.choice(actual, scheduler::scheduler(name, actual.sysctl("net.mptcp.available_schedulers")));
        }
        let controls = |name: &str| CongestionControls {
            available: actual.sysctl("net.ipv4.tcp_available_congestion_control").unwrap_or_default(),
            allowed: actual.sysctl("net.ipv4.tcp_allowed_congestion_control"),
            module_installed: actual.modules.iter().any(|module| module.strip_prefix("tcp_") == Some(name)),
            initial_namespace: actual.is_initial,
        };
        if let Some(name) = &settings.congestion_control {
            self.choice(actual, scheduler::congestion_control(name, &controls(name)));
        }
        for PerInterface { interfaces, value } in &settings.path_congestion_control {
            // What is set by a program needs no leave.
            let controls = CongestionControls { allowed: None, ..controls(value) };
            if let Err(refusal) = scheduler::congestion_control(value, &controls) {
                self.refusals.push(format!("path_congestion_control {interfaces}={value}: {refusal}"));
            }
        }
        let reordering = [
            ("net.ipv4.tcp_max_reordering", settings.max_reordering),
            ("net.ipv4.tcp_reordering", settings.reordering),
            ("net.ipv4.tcp_recovery", settings.recovery),
        ];
        for (name, value) in reordering {
            if let Some(value) = value {
                self.sysctl(actual, name, value.to_string());
            }
        }
        self.check_reordering(actual);
        // What a subflow has not got acknowledged goes to the others after its first timeout (mptcp_pm_subflow_chk_stale,
        // net/mptcp/pm.c, 6.18), unless it is said how many there have to be.
        if self.failover && actual.sysctl(STALE_LOSSES).is_some() {
            self.sysctls.insert(STALE_LOSSES.to_owned(), "1".to_owned());
        }
        if let Some(bytes) = settings.receive_buffer(self.failover) {
            let is_minimum = settings.receive_buffer == ReceiveBuffer::Auto;
            if let Some(sizes) = actual.sysctl(RECEIVE_BUFFER).and_then(|sizes| with_room(sizes, bytes, is_minimum)) {
                self.sysctls.insert(RECEIVE_BUFFER.to_owned(), sizes);
            }
        }
        for sysctl in &settings.sysctls {
            self.sysctl(actual, &format!("net.mptcp.{}", sysctl.name), sysctl.value.to_string());
        }
        if let Some(mode) = settings.path_manager {
            self.path_manager(mode, actual);
        }
    }

    fn sysctl(&mut self, actual: &Actual, name: &str, value: String) {
        match actual.sysctl(name) {
            Some(_) => drop(self.sysctls.insert(name.to_owned(), value)),
            None => self.refusals.push(format!("this kernel has no {name}")),
        }
    }

    fn choice(&mut self, actual: &Actual, choice: Choice) {
        match choice {
            Ok(Some(setting)) => self.sysctl(actual, setting.sysctl, setting.value),
            // The kernel does nothing else anyway.
            Ok(None) => {}
            Err(refusal) => self.refusals.push(refusal.to_string()),
        }
    }

    /// The kernel checks neither against the other.
    fn check_reordering(&mut self, actual: &Actual) {
        let value = |name: &str| {
            let text = self.sysctls.get(name).map(String::as_str).or_else(|| actual.sysctl(name));
            text.and_then(|text| text.parse::<u32>().ok())
        };
        let names = ["net.ipv4.tcp_reordering", "net.ipv4.tcp_max_reordering"];
        if let [Some(begin), Some(most)] = names.map(value)
            && begin > most
            && names.iter().any(|name| self.sysctls.contains_key(*name))
        {
            self.refusals.push(format!("tcp_reordering {begin} is more than tcp_max_reordering {most}"));
        }
    }

    fn path_manager(&mut self, mode: PathManagerMode, actual: &Actual) {
        let managers =
            PathManagers::new(actual.sysctl("net.mptcp.available_path_managers"), actual.sysctl("net.mptcp.pm_type"));
        let name = if mode == PathManagerMode::Ndiffports { "userspace" } else { "kernel" };
        self.choice(actual, scheduler::path_manager(name, managers));
    }

    fn limits(&mut self, settings: &MultipathConfig, actual: &Actual) {
        let wanted = (settings.subflow_limit, settings.add_addr_accepted_limit);
        if settings.path_manager.is_none() && wanted == (None, None) {
            return;
        }
        let Some(now) = actual.limits else {
            return self.refusals.push("this kernel has no MPTCP: boot one that is built with CONFIG_MPTCP".into());
        };
        let usual = settings.path_manager.map_or(now, |mode| mode::of(mode).limits());
        self.limits = Some(Limits {
            subflows: wanted.0.unwrap_or(usual.subflows),
            add_addr_accepted: wanted.1.unwrap_or(usual.add_addr_accepted),
        });
    }

    fn policies(&mut self, settings: &MultipathConfig, actual: &Actual) {
        let is_far = |address: &&Address| !address.address.is_loopback() && !address.is_local;
        for address in actual.addresses.iter().filter(is_far) {
            let Some(link) = actual.link(address.ifindex) else { continue };
            let policy = Policy {
                congestion_control: PerInterface::of(&settings.path_congestion_control, &link.name).cloned(),
                max_rate: PerInterface::of(&settings.path_max_rate, &link.name).map(|rate| rate.bytes_per_second()),
            };
            if policy != Policy::default() {
                self.policies.insert(address.address, policy);
            }
        }
    }
}

/// Minimum, default and maximum with this default, or a larger one that is there if `is_minimum`.
fn with_room(sizes: &str, bytes: u32, is_minimum: bool) -> Option<String> {
    let sizes: Vec<u32> = sizes.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let [least, usual, most] = sizes.try_into().ok()?;
    let usual = if is_minimum { bytes.max(usual) } else { bytes };
    // The kernel keeps them in `int`.
    Some(format!("{least} {usual} {}", most.max(usual.saturating_mul(8)).min(i32::MAX as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receive_buffer_is_not_made_smaller_unasked() {
        assert_eq!(with_room("4096 131072 6291456", 4_000_000, true).as_deref(), Some("4096 4000000 32000000"));
        assert_eq!(with_room("4096 9000000 80000000", 4_000_000, true).as_deref(), Some("4096 9000000 80000000"));
        assert_eq!(with_room("4096 9000000 80000000", 65_536, false).as_deref(), Some("4096 65536 80000000"));
        assert_eq!(with_room("4096 131072 6291456", 1 << 30, false).as_deref(), Some("4096 1073741824 2147483647"));
        assert_eq!(with_room("4096 131072", 4_000_000, true), None);
    }
}
