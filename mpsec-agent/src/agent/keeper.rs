//! Keeps the host as it is wanted: when something on it changes, when something else is asked for, and now and then.

use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{Config, Loader, MultipathConfig};
use crate::control::apply::{self, Failure, Memory as _, Outcome, Spirit};
use crate::control::ask::{Answer, AskError, Settings};
use crate::control::away::{self, Away};
use crate::control::change::Change;
use crate::control::live::{Agency as _, Live, interface_names};
use crate::control::settings;
use crate::control::store::{Place, Store};
use crate::kernel::rtnl_events::Events;
use crate::kernel::{cgroup, identity, link};
use crate::snapshot::control::Control;

use super::agency::Acting;

/// Changes of addresses, routes and rules come in bursts; those of links are answered at once.
const SETTLE: Duration = Duration::from_millis(50);
/// How late they are answered at most, where somebody takes back at once what is made.
const LAST_SETTLE: Duration = Duration::from_secs(5);
/// Looks take no more than one part in so many of the time: hosts with large routing tables have many changes of them.
const SHARE: u32 = 20;
/// How soon what failed is tried again: this, then twice as long each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// And no later than this.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What is wanted, what is ours, and when to look again.
pub struct Keeper {
    /// `None` while nothing can be changed, and why.
    store: Result<Store, String>,
    loader: Loader,
    wanted: MultipathConfig,
    events: Option<Events>,
    /// The first routing table that they tell of.
    heard_table: u32,
    /// Whether the agent itself does something, which it keeps no memory of.
    is_acting: bool,
    due: Option<Instant>,
    /// How long changes are let settle.
    settle: Duration,
    retry: Option<(Instant, Duration)>,
    control: Control,
}

impl Keeper {
    /// Finds out what is ours, what was set, and what an earlier agent left undone. Returns the configuration with what was set.
    pub fn open(config: Config, loader: Loader) -> (Keeper, Config) {
        let place = identity::boot_id().and_then(|boot| Ok(Place { boot, netns: cgroup::netns_cookie()? }));
        let store = place
            .map_err(|error| error.to_string())
            .and_then(|place| Store::open(&config.agent.state_dir, place).map_err(|error| error.to_string()));
        match &store {
            Ok(store) => put_back(store),
            Err(error) => tracing::warn!("nothing can be changed on this host: {error}"),
        }
        let kept = store.as_ref().map_or(&[][..], Store::settings);
        let config = match settings::load(&loader, kept) {
            Ok(loaded) => loaded.config,
            Err(error) => {
                tracing::error!("what was set with `mpsec apply --set` cannot be used, and is left out: {error}");
                config
            }
        };
        let mut keeper = Keeper {
            store,
            loader,
            wanted: MultipathConfig::default(),
            events: None,
            heard_table: 0,
            is_acting: false,
            due: None,
            settle: SETTLE,
            retry: None,
            control: Control::default(),
        };
        keeper.want(&config);
        (keeper, config)
    }

    /// Where it is written down what failover takes away.
    pub fn away(&self) -> Option<Away> {
        let store = self.store.as_ref().ok()?;
        Some(Away::new(store.folder(), store.place().clone()))
    }

    /// Loads the configuration anew, with what was set.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Config, settings::LoadError> {
        let kept = self.store.as_ref().map_or(&[][..], Store::settings);
        settings::load(&self.loader, kept).map(|loaded| loaded.config)
    }

    /// Something else may be wanted from now on.
    pub fn want(&mut self, config: &Config) {
        let wanted = match &self.store {
            Ok(store) if !store.released() => config.multipath.clone(),
            _ => MultipathConfig::default(),
        };
        if wanted != self.wanted {
            self.wanted = wanted;
            if let Ok(store) = &mut self.store {
                store.count_generation();
            }
        }
        self.listen();
        self.touch();
    }

    /// Whether there is nothing to see to.
    fn is_idle(&self) -> bool {
        let Ok(store) = &self.store else { return true };
        let is_all_given_back = store.owned().is_empty() && store.begun().is_empty() && !self.is_acting;
        self.wanted == MultipathConfig::default() && is_all_given_back && !store.is_behind()
    }

    /// Listens to what may matter, as long as anything does.
    fn listen(&mut self) {
        let first = self.wanted.route_table;
        if self.is_idle() {
            self.events = None;
        } else if self.events.is_none() || self.heard_table != first {
            match Events::subscribe(tables(first)) {
                Ok(events) => (self.events, self.heard_table) = (Some(events), first),
                Err(error) => tracing::warn!(%error, "changes of addresses and routes are not heard, only looked for"),
            }
        }
    }

    /// Something on the host changed, or may have: look at once.
    pub fn touch(&mut self) {
        if !self.is_idle() {
            self.due = Some(Instant::now());
        }
    }

    /// Waits until it is time to look. Cancelling it loses nothing.
    pub async fn due(&mut self) {
        loop {
            let next = [self.due, self.retry.map(|(at, _)| at)].into_iter().flatten().min();
            let timer = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let events = async {
                match &mut self.events {
                    Some(events) => events.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = timer => return,
                changed = events => match changed {
                    Ok(_) => self.due = Some(self.due.unwrap_or_else(|| Instant::now() + self.settle)),
                    Err(error) => {
                        tracing::warn!(%error, "changes of addresses and routes are not heard any more, only looked for");
                        self.events = None;
                    }
                },
            }
        }
    }

    /// Looks, and mends what is not as it should be.
    pub fn reconcile(&mut self, agency: &mut Acting<'_>) -> Option<Outcome> {
        let begun_at = Instant::now();
        self.due = None;
        if self.is_idle() {
            self.retry = None;
            return None;
        }
        let Ok(store) = &mut self.store else { return None };
        let outcome = match Live::open(&self.wanted, Some(agency)) {
            Ok(mut host) => {
                if let Err(error) = recover(store, &mut host) {
                    Outcome::failed(error)
                } else {
                    apply::apply(&mut host, store, &self.wanted, Spirit::Parts)
                }
            }
            Err(error) => Outcome::failed(error),
        };
        self.is_acting = agency.doings().is_something();
        self.note(&outcome);
        // What was made is heard of too, and then there is nothing left to make: unless somebody else is at it.
        let longer = if outcome.changes.is_empty() { SETTLE } else { self.settle * 2 };
        self.settle = longer.max(begun_at.elapsed() * SHARE).min(LAST_SETTLE);
        Some(outcome)
    }

    fn note(&mut self, outcome: &Outcome) {
        let control = &mut self.control;
        control.changes_total += outcome.changes.len() as u64;
        control.failed_total += outcome.failures.len() as u64;
        control.undone_total += outcome.undone.len() as u64;
        let failures: Vec<String> =
            outcome.refusals.iter().cloned().chain(outcome.failures.iter().map(ToString::to_string)).collect();
        for new in failures.iter().filter(|failure| !control.failures.contains(failure)) {
            tracing::warn!("not as wanted: {new}");
        }
        for new in outcome.waiting.iter().filter(|waiting| !control.waiting.contains(waiting)) {
            tracing::info!("waiting: {new}");
        }
        for change in &outcome.changes {
            tracing::debug!("{change}");
        }
        control.waiting.clone_from(&outcome.waiting);
        control.failures = failures;
        if outcome.is_success() {
            self.retry = None;
            self.control.actual_generation = self.generation();
        } else {
            let wait = self.retry.map_or(FIRST_RETRY, |(_, wait)| (wait * 2).min(LAST_RETRY));
            self.retry = Some((Instant::now() + wait, wait));
        }
        self.listen();
    }

    fn generation(&self) -> u64 {
        self.store.as_ref().map_or(0, Store::generation)
    }

    /// What a snapshot tells.
    pub fn control(&self) -> Control {
        let (released, owned) = self.store.as_ref().map_or((false, 0), |store| {
            let owned = store.owned();
            let count = owned.sysctls.len() + owned.endpoints.len() + owned.links.len();
            (store.released(), count as u64 + u64::from(owned.limits.is_some()))
        });
        let idle_failure = self.store.as_ref().err().filter(|_| self.control.failures.is_empty());
        // Where there is nothing to see to, nothing is looked at either.
        let is_as_wanted = self.is_idle() && self.control.failures.is_empty() && idle_failure.is_none();
        let actual_generation = if is_as_wanted { self.generation() } else { self.control.actual_generation };
        Control {
            desired_generation: self.generation(),
            actual_generation,
            released,
            owned,
            failures: self.control.failures.iter().chain(idle_failure).cloned().collect(),
            ..self.control.clone()
        }
    }

    /// What would be done with these settings, and the configuration that file, flags and they make.
    pub fn plan(&mut self, asked: &Settings, agency: &mut Acting<'_>) -> Result<(Answer, Config), AskError> {
        let store = self.store.as_mut().map_err(|error| AskError::Failed(error.clone()))?;
        let settings = settings::merge(store.settings(), asked).map_err(AskError::Wrong)?;
        let config = settings::load(&self.loader, &settings).map_err(wrong)?.config;
        let mut host = Live::open(&config.multipath, Some(agency)).map_err(AskError::Failed)?;
        let plan = apply::preview(&mut host, store.owned(), &config.multipath).map_err(AskError::Failed)?;
        Ok((self.answer(Outcome::from(plan)), config))
    }

    /// Makes the host what file, flags and these settings want; keeps the settings if it could be done. Returns the
    /// configuration that they make, if so: what of it needs no restart is to be put in force.
    pub fn apply(&mut self, asked: &Settings, agency: &mut Acting<'_>) -> Result<(Answer, Option<Config>), AskError> {
        let store = self.store.as_mut().map_err(|error| AskError::Failed(error.clone()))?;
        let settings = settings::merge(store.settings(), asked).map_err(AskError::Wrong)?;
        let config = settings::load(&self.loader, &settings).map_err(wrong)?.config;
        let mut host = Live::open(&config.multipath, Some(agency)).map_err(AskError::Failed)?;
        recover(store, &mut host).map_err(AskError::Failed)?;
        let mut outcome = apply::apply(&mut host, store, &config.multipath, Spirit::Whole);
        let is_new = settings != store.settings() || store.released() || config.multipath != self.wanted;
        if outcome.is_success() && is_new {
            keep(store, settings, false, &mut outcome);
        }
        self.is_acting = agency.doings().is_something();
        if !outcome.is_success() {
            if !outcome.changes.is_empty() {
                // What was changed all the same is not wanted from now on.
                self.due = Some(Instant::now());
            }
            self.control.failed_total += outcome.failures.len() as u64;
            self.control.undone_total += outcome.undone.len() as u64;
            return Ok((self.answer(outcome), None));
        }
        self.wanted = config.multipath.clone();
        self.note(&outcome);
        Ok((self.answer(outcome), Some(config)))
    }

    /// Gives everything back.
    pub fn release(&mut self, agency: &mut Acting<'_>) -> Result<Answer, AskError> {
        let store = self.store.as_mut().map_err(|error| AskError::Failed(error.clone()))?;
        let nothing = MultipathConfig::default();
        let mut host = Live::open(&nothing, Some(agency)).map_err(AskError::Failed)?;
        recover(store, &mut host).map_err(AskError::Failed)?;
        let mut outcome = apply::release(&mut host, store);
        self.is_acting = agency.doings().is_something();
        keep(store, Vec::new(), true, &mut outcome);
        self.wanted = nothing;
        self.note(&outcome);
        Ok(self.answer(outcome))
    }

    /// Switches an interface on or off.
    pub fn link(&mut self, name: &str, up: bool, dry_run: bool, agency: &mut Acting<'_>) -> Result<Answer, AskError> {
        let links = link::list().map_err(|error| AskError::Failed(error.to_string()))?;
        let Some(link) = links.iter().find(|link| link.name == name) else {
            let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
            let meant = crate::config::nearest(name, names.iter().copied());
            let hint =
                meant.map_or_else(|| format!("there are {}", names.join(", ")), |name| format!("did you mean {name}?"));
            return Err(AskError::Wrong(format!("there is no interface {name:?}; {hint}")));
        };
        if link.is_enabled == up {
            return Ok(self.answer(Outcome::default()));
        }
        let change = Change::Link { name: name.to_owned(), index: link.index, up };
        if dry_run {
            return Ok(self.answer(Outcome { changes: vec![change], ..Outcome::default() }));
        }
        let store = self.store.as_mut().map_err(|error| AskError::Failed(error.clone()))?;
        let mut host = Live::open(&self.wanted, Some(agency)).map_err(AskError::Failed)?;
        recover(store, &mut host).map_err(AskError::Failed)?;
        let outcome = apply::command(&mut host, store, change);
        self.control.changes_total += outcome.changes.len() as u64;
        self.control.failed_total += outcome.failures.len() as u64;
        Ok(self.answer(outcome))
    }

    /// Before the agent ends: what would not work without it is given back; what works without it stays.
    pub fn stop(&mut self, agency: &mut Acting<'_>) -> Option<Outcome> {
        if self.is_idle() {
            return None;
        }
        let Ok(store) = &mut self.store else { return None };
        let wanted = self.wanted.without_agent();
        let host = Live::open(&wanted, Some(agency));
        // The first look after a crash may not have been taken yet.
        let host = host.and_then(|mut host| recover(store, &mut host).map(|()| host));
        let outcome = match host {
            Ok(mut host) => apply::stop(&mut host, store, &wanted),
            Err(error) => Outcome::failed(error),
        };
        for failure in &outcome.failures {
            match &failure.change {
                Some(_) => tracing::error!("not given back: {failure}"),
                None => tracing::error!("while stopping: {failure}"),
            }
        }
        Some(outcome)
    }

    fn answer(&self, outcome: Outcome) -> Answer {
        let released = self.store.as_ref().is_ok_and(Store::released);
        let interfaces = interface_names(&outcome);
        Answer { generation: self.generation(), released, outcome, interfaces, ..Answer::default() }
    }
}

/// What was changed is told, even if it cannot be kept that it was asked for.
fn keep(store: &mut Store, settings: Vec<String>, released: bool, outcome: &mut Outcome) {
    if let Err(error) = store.set(settings, released) {
        let error = format!("it cannot be kept what was asked for: {error}");
        outcome.failures.push(Failure { change: None, error, by_hand: None });
    }
}

/// After a crash in the middle of changes: finds out how far they went, before anything else is changed.
fn recover(store: &mut Store, host: &mut Live<'_>) -> Result<(), String> {
    use crate::control::apply::Host as _;
    if store.begun().is_empty() {
        return Ok(());
    }
    tracing::warn!(changes = store.begun().len(), "changes were begun and not ended; finding out how far they went");
    let actual = host.retrieve()?;
    if let Err(error) = store.recover(&actual) {
        // It is known all the same, and written with what comes next.
        tracing::warn!("{error}");
    }
    Ok(())
}

/// The tables that may be ours, where this is the first: an interface's lies its index behind it, which is a positive `int`
/// (dev_index_reserve, net/core/dev.c, Linux 6.18).
fn tables(first: u32) -> RangeInclusive<u32> {
    first..=first.saturating_add(i32::MAX.cast_unsigned())
}

fn wrong(error: settings::LoadError) -> AskError {
    AskError::Wrong(error.to_string())
}

/// Puts back what an agent that was killed had taken away.
fn put_back(store: &Store) {
    let (done, failures) = away::put_back(store.folder(), store.place());
    for endpoint in done {
        tracing::warn!(address = %endpoint.address, "put back an endpoint that failover had taken away when the agent was killed");
    }
    for error in failures {
        tracing::warn!("what failover had taken away when the agent was killed stays away: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_every_interface_is_heard_of() {
        for first in [256, MultipathConfig::default().route_table, 0x7fff_ffff] {
            for index in [1, 0xffff, 0x1_0000, i32::MAX.cast_unsigned()] {
                assert!(tables(first).contains(&(first + index)), "{first} {index}");
            }
            assert!(!tables(first).contains(&(first - 1)), "{first}");
        }
    }
}
