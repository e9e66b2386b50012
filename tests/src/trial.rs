//! One test: a body, a time limit, and the three ways it can end.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
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
    Trial::ignorable_test(name, move || match run(&own_name, limit, &body) {
        Err(first) if SECOND_TRIES.take(&own_name, &first) => run(&own_name, limit, &body),
        result => result,
    })
}

/// Runs tests that do not need each other. A machine that does something else for a moment may make one fail that compares
/// times or moments: the first few that fail are tried a second time, at once, and a line that begins with `flaky: ` tells in
/// the end what they had said. A fault that comes each time fails twice. `MPSEC_TRIES=1` in the environment allows no second
/// try.
pub fn run_independent(arguments: &Arguments, trials: Vec<Trial>) -> ExitCode {
    let tries = std::env::var("MPSEC_TRIES").ok().and_then(|tries| tries.parse().ok()).unwrap_or(2);
    SECOND_TRIES.allow(if tries > 1 { MOST_SECOND_TRIES } else { 0 });
    let conclusion = libtest_mimic::run(arguments, trials);
    SECOND_TRIES.said().iter().for_each(|said| println!("flaky: {said}"));
    conclusion.exit_code()
}

/// Where more fail than these, the fault is no moment's.
const MOST_SECOND_TRIES: usize = 3;

static SECOND_TRIES: SecondTries = SecondTries(Mutex::new((0, Vec::new())));

/// How many tests may be tried again, and what those that were said first.
struct SecondTries(Mutex<(usize, Vec<String>)>);

impl SecondTries {
    fn allow(&self, most: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = most;
    }

    fn take(&self, name: &str, first: &Failed) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, said) = &mut *state;
        if *left == 0 {
            return false;
        }
        *left -= 1;
        let first = first.message().unwrap_or("failed");
        said.push(format!("{name} at the first of two tries: {}", first.lines().collect::<Vec<_>>().join(" | ")));
        true
    }

    fn said(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
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
        assert!(!tries.take("a", &Failed::from("no")));
        tries.allow(1);
        assert!(tries.take("a", &Failed::from("3 is\nnot 4")));
        assert!(!tries.take("b", &Failed::from("no")));
        assert_eq!(tries.said(), ["a at the first of two tries: 3 is | not 4"]);
    }
}
