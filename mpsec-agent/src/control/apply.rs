//! Making it so: changes are performed in order, what they led to is read back, and if it is not what was wanted they are
//! undone. It is written down beforehand what is about to be done, so that a start after a crash finds out.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::MultipathConfig;

use super::actual::Actual;
use super::change::Change;
use super::desired::{Desired, desired};
use super::owned::Owned;
use super::plan::{Plan, is_path_manager, plan};

mod unwritten;

/// A host that can be looked at and changed: the real one, or a model of it in tests.
pub trait Host {
    /// Looks at everything.
    ///
    /// # Errors
    /// What cannot be read, and why.
    fn retrieve(&mut self) -> Result<Actual, String>;

    /// Makes a change.
    ///
    /// # Errors
    /// What the kernel says.
    fn perform(&mut self, change: &Change) -> Result<(), String>;

    /// Other programs that would undo what is about to be done, and what to do about them.
    fn conflicts(&mut self, plan: &Plan) -> Vec<String>;
}

/// Where it is kept what is ours.
pub trait Memory {
    /// What is ours, and changes that were begun and not ended.
    fn owned(&self) -> &Owned;

    /// Writes down what is about to be done.
    ///
    /// # Errors
    /// When it cannot be kept; then nothing may be done but to give back.
    fn begin(&mut self, changes: &[Change]) -> Result<(), String>;

    /// Writes down what is ours now.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn end(&mut self, owned: Owned) -> Result<(), String>;
}

/// What becomes of the others when one change fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spirit {
    /// All or nothing: what an operator asked for.
    Whole,
    /// As much as can be had: the agent sees to it that all stays as it should.
    Parts,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// Changes that were made and hold.
    pub changes: Vec<Change>,
    /// What failed, with the kernel's own words.
    pub failures: Vec<Failure>,
    /// Changes that were made and taken back.
    pub undone: Vec<Change>,
    /// Why nothing was tried, in words.
    pub refusals: Vec<String>,
    /// What waits, and for what.
    pub waiting: Vec<String>,
}

impl Outcome {
    /// Whether all is as it should be.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.failures.is_empty() && self.refusals.is_empty()
    }

    /// Of what failed as a whole.
    #[must_use]
    pub fn failed(error: impl Into<String>) -> Outcome {
        Outcome { failures: vec![Failure::other(error)], ..Outcome::default() }
    }

    fn refused(plan: Plan) -> Outcome {
        Outcome { refusals: plan.refusals, waiting: plan.waiting, ..Outcome::default() }
    }
}

/// What would be done.
impl From<Plan> for Outcome {
    fn from(plan: Plan) -> Outcome {
        Outcome { changes: plan.changes, refusals: plan.refusals, waiting: plan.waiting, ..Outcome::default() }
    }
}

/// A change that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Failure {
    /// Which; `None` where it is no single one.
    pub change: Option<Change>,
    /// What the kernel said, or what did not hold.
    pub error: String,
    /// The command that would do the same.
    pub by_hand: Option<String>,
}

impl Failure {
    fn of(change: &Change, error: String) -> Failure {
        Failure { change: Some(change.clone()), error, by_hand: change.by_hand() }
    }

    fn other(error: impl Into<String>) -> Failure {
        Failure { change: None, error: error.into(), by_hand: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.change, &self.by_hand) {
            (Some(change), Some(command)) => write!(f, "{change}: {} (as by: {command})", self.error),
            (Some(change), None) => write!(f, "{change}: {}", self.error),
            (None, _) => f.write_str(&self.error),
        }
    }
}

/// What would be done.
///
/// # Errors
/// What cannot be read.
pub fn preview(host: &mut impl Host, owned: &Owned, settings: &MultipathConfig) -> Result<Plan, String> {
    let actual = host.retrieve()?;
    let mut plan = plan(&desired(settings, &actual, owned), &actual, owned);
    let conflicts = host.conflicts(&plan);
    plan.refusals.extend(conflicts);
    Ok(plan)
}

/// Makes the host what the settings ask for.
pub fn apply(host: &mut impl Host, memory: &mut impl Memory, settings: &MultipathConfig, spirit: Spirit) -> Outcome {
    let actual = match host.retrieve() {
        Ok(actual) => actual,
        Err(error) => return Outcome { failures: vec![Failure::other(error)], ..Outcome::default() },
    };
    let desired = desired(settings, &actual, memory.owned());
    let mut plan = plan(&desired, &actual, memory.owned());
    let conflicts = host.conflicts(&plan);
    plan.refusals.extend(conflicts);
    if !plan.refusals.is_empty() {
        return Outcome::refused(plan);
    }
    if plan.is_empty() {
        let mut owned = memory.owned().clone();
        owned.prune(&desired, &actual);
        // Also where nothing is new: it may have been impossible to write the last time.
        let failures = memory.end(owned).err().map(Failure::other).into_iter().collect();
        return Outcome { failures, waiting: plan.waiting, ..Outcome::default() };
    }
    perform(host, memory, &plan.changes, Some(&desired), spirit, plan.waiting)
}

/// Makes one change that is not part of the settings, such as taking an interface down.
pub fn command(host: &mut impl Host, memory: &mut impl Memory, change: Change) -> Outcome {
    perform(host, memory, &[change], None, Spirit::Parts, Vec::new())
}

/// Gives back everything that is ours, also where it cannot be written down.
pub fn release(host: &mut impl Host, memory: &mut impl Memory) -> Outcome {
    let given_back = apply(host, memory, &MultipathConfig::default(), Spirit::Parts);
    let links = memory.owned().links.clone();
    if links.is_empty() {
        return given_back;
    }
    let Ok(actual) = host.retrieve() else { return given_back };
    let mut changes = Vec::new();
    let mut owned = memory.owned().clone();
    for (index, changed) in links {
        match actual.link(index) {
            Some(link) if link.is_enabled == changed.ours => {
                changes.push(Change::Link { name: link.name.clone(), index, up: changed.original });
            }
            // It is gone, or somebody else has set it since.
            _ => drop(owned.links.remove(&index)),
        }
    }
    let kept = memory.end(owned).err().map(Failure::other);
    let links = perform(host, memory, &changes, None, Spirit::Parts, Vec::new());
    let mut failures = given_back.failures;
    for failure in links.failures.into_iter().chain(kept) {
        // What cannot be written fails each time.
        if !failures.contains(&failure) {
            failures.push(failure);
        }
    }
    Outcome { changes: [given_back.changes, links.changes].concat(), failures, ..given_back }
}

/// Before the agent ends: makes it so as far as it can be had, and gives back what does not work without the agent even where
/// nothing else can be done.
pub fn stop(host: &mut impl Host, memory: &mut impl Memory, settings: &MultipathConfig) -> Outcome {
    let outcome = apply(host, memory, settings, Spirit::Parts);
    if outcome.refusals.is_empty() {
        return outcome;
    }
    let mut changes = match host.retrieve() {
        Ok(actual) => plan(&Desired::default(), &actual, memory.owned()).changes,
        Err(error) => return Outcome { failures: vec![Failure::other(error)], ..outcome },
    };
    let has_daemon = changes.iter().any(|change| matches!(change, Change::Daemon { .. }));
    changes.retain(|change| change.needs_agent() || (has_daemon && is_path_manager(change)));
    let given_back = perform(host, memory, &changes, None, Spirit::Parts, outcome.waiting);
    Outcome { refusals: outcome.refusals, ..given_back }
}

fn perform(
    host: &mut impl Host,
    memory: &mut impl Memory,
    changes: &[Change],
    desired: Option<&Desired>,
    spirit: Spirit,
    waiting: Vec<String>,
) -> Outcome {
    let mut outcome = Outcome { waiting, ..Outcome::default() };
    let before = memory.owned().clone();
    let changes = match memory.begin(changes) {
        Ok(()) => changes.to_vec(),
        Err(error) => {
            let (possible, failures) = unwritten::possible(changes, &before, spirit, &error);
            outcome.failures = failures;
            possible
        }
    };
    if changes.is_empty() && !outcome.failures.is_empty() {
        return outcome;
    }
    make(host, &changes, spirit, &mut outcome);
    let mut verified = None;
    if outcome.failures.is_empty()
        && let Some(desired) = desired
    {
        match verify(host, desired, &outcome.changes, &before) {
            Ok(actual) => verified = Some((desired, actual)),
            Err(failures) => outcome.failures.extend(failures),
        }
    }
    if spirit == Spirit::Whole && !outcome.failures.is_empty() {
        undo(host, &mut outcome);
    }
    let mut owned = before;
    outcome.changes.iter().for_each(|change| owned.note(change));
    if let Some((desired, actual)) = verified {
        owned.prune(desired, &actual);
    }
    outcome.failures.extend(memory.end(owned).err().map(Failure::other));
    outcome
}

/// Makes changes in their order. What failed before them stands in `outcome` already.
fn make(host: &mut impl Host, changes: &[Change], spirit: Spirit, outcome: &mut Outcome) {
    for change in changes {
        // Sockets that are still given to the agent's path manager need it.
        let is_path_manager = |failure: &Failure| failure.change.as_ref().is_some_and(is_path_manager);
        if matches!(change, Change::Daemon { to: None, .. }) && outcome.failures.iter().any(is_path_manager) {
            continue;
        }
        match host.perform(change) {
            Ok(()) => outcome.changes.push(change.clone()),
            Err(error) => {
                outcome.failures.push(Failure::of(change, error));
                // What is not there for sockets must not be where sockets are given to.
                if spirit == Spirit::Whole || matches!(change, Change::Daemon { .. }) {
                    break;
                }
            }
        }
    }
}

/// Looks whether what was wanted is there now, and returns what is.
fn verify(host: &mut impl Host, desired: &Desired, made: &[Change], before: &Owned) -> Result<Actual, Vec<Failure>> {
    let mut owned = before.clone();
    made.iter().for_each(|change| owned.note(change));
    let actual = host.retrieve().map_err(|error| vec![Failure::other(error)])?;
    let rest = plan(desired, &actual, &owned).changes;
    if rest.is_empty() {
        return Ok(actual);
    }
    Err(rest.iter().map(|change| Failure::of(change, "the kernel took it, and it did not hold".into())).collect())
}

/// Takes back what was made, the last first.
fn undo(host: &mut impl Host, outcome: &mut Outcome) {
    for change in std::mem::take(&mut outcome.changes).into_iter().rev() {
        match host.perform(&change.inverse()) {
            Ok(()) => outcome.undone.push(change),
            Err(error) => {
                let error = format!("it could not be taken back: {error}");
                outcome.failures.push(Failure { by_hand: change.inverse().by_hand(), ..Failure::of(&change, error) });
                outcome.changes.push(change);
            }
        }
    }
    outcome.changes.reverse();
}
