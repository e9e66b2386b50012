//! One test: a body, a time limit, and the three ways it can end.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::need;

/// What a test does.
type Body = Arc<dyn Fn() -> anyhow::Result<()> + Send + Sync>;

/// Declares a test. A body that returns a [`Skip`] is reported as ignored with its reason; one that is still busy after
/// `limit` has failed, whatever it is waiting for; where the machine is emulated, the limit is longer.
pub fn trial(name: &str, limit: Duration, body: impl Fn() -> anyhow::Result<()> + Send + Sync + 'static) -> Trial {
    let (own_name, limit, body): (_, _, Body) = (name.to_owned(), need::patience(limit), Arc::new(body));
    let tried = move || match run(&own_name, limit, &body) {
        Err(first) if SECOND_TRIES.take() => {
            let second = run(&own_name, limit, &body);
            if second.is_ok() {
                SECOND_TRIES.note(&own_name, &first);
            }
            second
        }
        result => result,
    };
    Trial::ignorable_test(name, move || tried().inspect_err(say_at_once))
}

/// A machine that is switched off when its minutes are over takes with it what a test program tells in the end.
fn say_at_once(failed: &Failed) {
    if need::is_emulated() {
        println!("\nsaid: {}", in_short(failed));
    }
}

/// The beginning of what a failed test said, on one line.
fn in_short(failed: &Failed) -> String {
    let lines = failed.message().unwrap_or("failed").lines().map(str::trim).collect::<Vec<_>>();
    lines.join(" | ").chars().take(SAID_CHARS).collect()
}

/// Runs tests that do not need each other. A machine that does something else for a moment may make one fail that compares
/// times or moments: the first few that fail are tried a second time, at once, and a line that begins with `flaky: ` tells in
/// the end what they had said. A fault that comes each time fails twice. `MPSEC_TRIES=1` in the environment allows no second
/// try.
pub fn run_independent(arguments: &Arguments, trials: Vec<Trial>) -> ExitCode {
    let tries = std::env::var("MPSEC_TRIES").ok().and_then(|tries| tries.parse().ok()).unwrap_or(2);
    SECOND_TRIES.allow(if tries > 1 { MOST_SECOND_TRIES } else { 0 });
    let conclusion = libtest_mimic::run(arguments, trials);
    SECOND_TRIES.state().1.iter().for_each(|said| println!("flaky: {said}"));
    conclusion.exit_code()
}

/// How much is told of what one said.
const SAID_CHARS: usize = 400;
/// Where more fail than these, the fault is no moment's.
const MOST_SECOND_TRIES: usize = 3;

static SECOND_TRIES: SecondTries = SecondTries(Mutex::new((0, Vec::new())));

/// How many tests may be tried again, and what those that passed then had said at first.
struct SecondTries(Mutex<(usize, Vec<String>)>);

impl SecondTries {
    fn state(&self) -> MutexGuard<'_, (usize, Vec<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allow(&self, most: usize) {
        self.state().0 = most;
    }

    fn take(&self) -> bool {
        let left = &mut self.state().0;
        let may = *left > 0;
        *left -= usize::from(may);
        may
    }

    fn note(&self, name: &str, first: &Failed) {
        self.state().1.push(format!("{name} at the first of two tries: {}", in_short(first)));
    }
}

/// Why a test cannot run on this machine. Travels as an error, so that a requirement is one `?`.
#[derive(Debug)]
pub struct Skip(String);

impl Skip {
    /// The reason, as an error to return from a test's body.
    pub fn because(reason: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self(reason.into()))
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

fn run(name: &str, limit: Duration, body: &Body) -> Result<Completion, Failed> {
    let (sender, receiver) = channel();
    let body = Arc::clone(body);
    // The receiver is gone only when the limit is over, and then nobody wants the result.
    let work = move || drop(sender.send(catch_unwind(AssertUnwindSafe(|| body()))));
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(Failed::from)?;
    match receiver.recv_timeout(limit) {
        Ok(Ok(result)) => completion(result),
        Ok(Err(panic)) => Err(Failed::from(panic_message(panic.as_ref()))),
        Err(RecvTimeoutError::Timeout) => Err(Failed::from(format!("still not done after {} s", limit.as_secs()))),
        Err(RecvTimeoutError::Disconnected) => Err(Failed::from("the test's thread is gone")),
    }
}

fn completion(result: anyhow::Result<()>) -> Result<Completion, Failed> {
    match result {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(skip) => Ok(Completion::ignored_with(skip)),
            None => Err(Failed::from(format!("{error:#}"))),
        },
    }
}

/// The text that a panic carries.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("(no message)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    fn outcome(body: impl Fn() -> anyhow::Result<()> + Send + Sync + 'static) -> Result<Completion, String> {
        let body: Body = Arc::new(body);
        run("case", Duration::from_secs(2), &body).map_err(|failed| failed.message().unwrap_or_default().to_owned())
    }

    #[test]
    fn each_ending_is_told_from_the_others() {
        assert!(matches!(outcome(|| Ok(())), Ok(Completion::Completed)));
        let skipped = outcome(|| Err(Skip::because("no such device")).context("while setting up"));
        assert!(matches!(skipped, Ok(Completion::Ignored { reason: Some(reason) }) if reason == "no such device"));
        assert!(outcome(|| Err(anyhow!("wrong"))).is_err_and(|text| text.contains("wrong")));
        assert!(outcome(|| panic!("boom {}", 1)).is_err_and(|text| text == "panicked: boom 1"));
        let stuck = || {
            thread::park_timeout(Duration::from_secs(5));
            Ok(())
        };
        assert!(outcome(stuck).is_err_and(|text| text.contains("still not done")));
    }

    #[test]
    fn a_few_may_fail_once_and_are_told_of() {
        let tries = SecondTries(Mutex::new((0, Vec::new())));
        assert!(!tries.take());
        tries.allow(1);
        assert!(tries.take() && !tries.take());
        tries.note("a", &Failed::from("3 is\n  not 4"));
        assert_eq!(tries.state().1, ["a at the first of two tries: 3 is | not 4"]);
    }
}
