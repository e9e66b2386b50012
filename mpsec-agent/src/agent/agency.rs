//! What the agent itself does as long as it runs: its path manager, MPTCP for programs that ask for TCP.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use mpsec_common::force::flags;

use crate::control::actual::Doings;
use crate::control::change::{Change, Daemon, Force as Forced, Policy};
use crate::control::live::Agency as Perform;
use crate::kernel::cgroup;
use crate::kernel::force::Force;
use crate::pm;

/// What is being done.
#[derive(Default)]
pub struct Agency {
    daemon: Option<(Daemon, pm::Daemon)>,
    force: Option<(Forced, Force)>,
    policies: BTreeMap<IpAddr, Policy>,
}

impl Agency {
    /// Waits for something to do; for ever while there is nothing. Cancelling it loses nothing.
    pub async fn news(&mut self) -> pm::News {
        match &mut self.daemon {
            Some((_, daemon)) => daemon.news().await,
            None => std::future::pending().await,
        }
    }

    /// Does it.
    pub fn observe(&mut self, news: pm::News) {
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
        if let Some((_, force)) = &mut self.force
            && let Err(error) = force.refresh()
        {
            tracing::warn!(%error, "MPTCP for TCP programs");
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
        self.force = None;
        if to.is_empty() {
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
        self.force = Some((to.clone(), force));
        Ok(())
    }
}

impl Perform for Agency {
    fn doings(&self) -> Doings {
        Doings {
            daemon: self.daemon.as_ref().map(|(what, _)| *what),
            policies: self.policies.clone(),
            force: self.force.as_ref().map(|(what, _)| what.clone()).unwrap_or_default(),
        }
    }

    fn perform(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::Daemon { to, .. } => self.manage(*to),
            Change::Force { to, .. } => self.force(to),
            Change::Policy { address, to: Some(policy), .. } => {
                self.policies.insert(*address, policy.clone());
                Ok(())
            }
            Change::Policy { address, to: None, .. } => {
                self.policies.remove(address);
                Ok(())
            }
            _ => Err("the agent does nothing of the kind".to_owned()),
        }
    }
}
