//! Planning and changing without a running agent: the same engine in the process of the command.

use crate::config::{Config, Loader, nearest};
use crate::kernel::clsact::Clsact;
use crate::kernel::netns::Netns;
use crate::kernel::{cgroup, identity, link, peer};

use super::apply::{self, Failure, Host, Memory, Outcome, Spirit, preview};
use super::ask::{Answer, Ask, AskError, LinkSwitch, Settings, Who};
use super::audit::{Audit, Entry};
use super::away;
use super::change::Change;
use super::client::plain;
use super::live::{self, Live};
use super::settings;
use super::store::{Place, Store};

/// Does what is asked, and notes it in the log of changes.
///
/// # Errors
/// [`AskError::Wrong`] for settings and names that are wrong, [`AskError::Failed`] where host or state cannot be read.
pub fn act(loader: &Loader, ask: &Ask) -> Result<Answer, AskError> {
    let config = match load(loader, &[]) {
        Err(error) if *ask == Ask::Release => without_file(loader, &error)?,
        config => config?,
    };
    let mut store = open(&config)?;
    let outcome = match ask {
        Ask::Plan(asked) => plan(loader, &store, asked)?,
        Ask::Apply(asked) => apply(loader, &mut store, asked)?,
        Ask::Release => release(&config, &mut store)?,
        Ask::Link(switch) => {
            let mut host = host(&Config::default(), &mut store)?;
            switch_link(&mut host, &mut store, switch)?
        }
    };
    if ask.is_mutating() {
        let who = Who::Local { uid: peer::own_user(), pid: std::process::id().try_into().unwrap_or_default() };
        let entry = Entry::new(&who, ask.to_string(), store.generation(), &outcome);
        if let Err(error) = Audit::new(store.folder()).append(&entry) {
            eprintln!("mpsec: the log of changes in {} cannot be written: {error}", store.folder().display());
        }
    }
    let interfaces = live::interface_names(&outcome);
    Ok(Answer { generation: store.generation(), released: store.released(), outcome, effects: Vec::new(), interfaces })
}

/// Switches an interface, or says that it would. One that is so already is left alone.
///
/// # Errors
/// [`AskError::Wrong`] where there is no such interface.
pub fn switch_link(host: &mut impl Host, memory: &mut impl Memory, switch: &LinkSwitch) -> Result<Outcome, AskError> {
    let actual = host.retrieve().map_err(AskError::Failed)?;
    let Some(link) = actual.links.iter().find(|link| link.name == switch.name) else {
        let names: Vec<&str> = actual.links.iter().map(|link| link.name.as_str()).collect();
        let hint = match nearest(&switch.name, names.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("there are {}", names.join(", ")),
        };
        return Err(AskError::Wrong(format!("there is no interface {:?}; {hint}", switch.name)));
    };
    if link.is_enabled == switch.up {
        return Ok(Outcome::default());
    }
    let change = Change::Link { name: link.name.clone(), index: link.index, up: switch.up };
    Ok(match switch.dry_run {
        true => Outcome { changes: vec![change], ..Outcome::default() },
        false => apply::command(host, memory, change),
    })
}

fn load(loader: &Loader, kept: &[String]) -> Result<Config, AskError> {
    let loaded = settings::load(loader, kept).map_err(|error| AskError::Wrong(error.to_string()))?;
    Ok(loaded.config)
}

/// What was changed is to be given back whatever the configuration says; only where it is written down has to be known.
fn without_file(loader: &Loader, error: &AskError) -> Result<Config, AskError> {
    let config = load(&Loader { path: Some("/dev/null".into()), overrides: loader.overrides.clone() }, &[])?;
    eprintln!(
        "mpsec: the configuration is wrong, and is not needed for this: {error}; what was changed is looked up in {}",
        config.agent.state_dir.display()
    );
    Ok(config)
}

fn open(config: &Config) -> Result<Store, AskError> {
    let unknown = |error| AskError::Failed(format!("cannot tell this boot or this network namespace: {error}"));
    let place = Place { boot: identity::boot_id().map_err(unknown)?, netns: cgroup::netns_cookie().map_err(unknown)? };
    Store::open(&config.agent.state_dir, place).map_err(|error| AskError::Failed(error.to_string()))
}

/// The host, after it was found out what became of changes that a crash ended.
fn host<'a>(config: &Config, store: &mut Store) -> Result<Live<'a>, AskError> {
    // Before the host is looked at, which it belongs to.
    let (_, failures) = away::put_back(store.folder(), store.place());
    for error in failures {
        eprintln!("mpsec: what a killed agent had taken away stays away: {error}");
    }
    let mut host = Live::open(&config.multipath, None).map_err(AskError::Failed)?;
    if !store.begun().is_empty() {
        let actual = host.retrieve().map_err(AskError::Failed)?;
        // It is known all the same: what gives back can be done, and what else is asked for fails by itself.
        if let Err(error) = store.recover(&actual) {
            eprintln!("mpsec: {error}");
        }
    }
    Ok(host)
}

/// Changes nothing, not even what is kept.
fn plan(loader: &Loader, store: &Store, asked: &Settings) -> Result<Outcome, AskError> {
    let kept = settings::merge(store.settings(), asked).map_err(AskError::Wrong)?;
    let config = load(loader, &kept)?;
    let mut host = Live::open(&config.multipath, None).map_err(AskError::Failed)?;
    let actual = host.retrieve().map_err(AskError::Failed)?;
    let owned = store.owned().clone().recovered(store.begun(), &actual);
    preview(&mut host, &owned, &config.multipath).map(Outcome::from).map_err(AskError::Failed)
}

/// What was asked for is kept only if the host could be made so.
fn apply(loader: &Loader, store: &mut Store, asked: &Settings) -> Result<Outcome, AskError> {
    let kept = settings::merge(store.settings(), asked).map_err(AskError::Wrong)?;
    let config = load(loader, &kept)?;
    let mut host = host(&config, store)?;
    let mut outcome = apply::apply(&mut host, store, &config.multipath, Spirit::Whole);
    if outcome.is_success() && (store.released() || kept != store.settings()) {
        keep(store, kept, false, &mut outcome);
    }
    Ok(outcome)
}

/// What was set goes too, and what counted.
fn release(config: &Config, store: &mut Store) -> Result<Outcome, AskError> {
    let mut host = host(&Config::default(), store)?;
    let mut outcome = apply::release(&mut host, store);
    if !store.released() || !store.settings().is_empty() {
        keep(store, Vec::new(), true, &mut outcome);
    }
    let left = detach(config).into_iter().map(|error| Failure { change: None, error, by_hand: None });
    outcome.failures.extend(left);
    Ok(outcome)
}

/// Takes away what a killed agent left attached to interfaces, as the next one would, and says so. Returns what stays, and why.
fn detach(config: &Config) -> Vec<String> {
    let mut failures = detach_here();
    for named in &config.netns {
        match Netns::open(&named.path).and_then(|netns| netns.inside(detach_here)) {
            Ok(inside) => failures.extend(inside.into_iter().map(|error| format!("{}: {error}", named.name))),
            // What was attached in it went with it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => failures.push(format!("cannot enter {}: {error}", named.path.display())),
        }
    }
    failures
}

/// The same in the network namespace that this thread is in.
fn detach_here() -> Vec<String> {
    let (list, mut clsact) = match (link::list(), Clsact::open()) {
        (Ok(list), Ok(clsact)) => (list, clsact),
        (Err(error), _) => return vec![format!("interfaces: {error}")],
        (_, Err(error)) => return vec![format!("cannot open a netlink socket: {error}")],
    };
    let mut failures = Vec::new();
    for link in list {
        match clsact.remove_stale(link.index) {
            Ok(false) => {}
            // A kernel without traffic control holds nothing.
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {}
            Ok(true) => eprintln!("mpsec: removed from {} what a killed agent had left attached", plain(&link.name)),
            Err(error) => failures.push(format!("{}: what a killed agent left attached stays: {error}", link.name)),
        }
    }
    failures
}

fn keep(store: &mut Store, settings: Vec<String>, released: bool, outcome: &mut Outcome) {
    if let Err(error) = store.set(settings, released) {
        let error = format!("it cannot be kept what was asked for: {error}");
        outcome.failures.push(Failure { change: None, error, by_hand: None });
    }
}
