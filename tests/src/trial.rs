//! One test: a body, a time limit, and the three ways it can end.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};

use crate::need;

/// Declares a test. A body that returns a [`Skip`] is reported as ignored with its reason; one that is still busy after
/// `limit` has failed, whatever it is waiting for; where the machine is emulated, the limit is longer.
pub fn trial(name: &str, limit: Duration, body: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    let (thread_name, limit) = (name.to_owned(), need::patience(limit));
    Trial::ignorable_test(name, move || run(thread_name, limit, body))
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

fn run(
    name: String,
    limit: Duration,
    body: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> Result<Completion, Failed> {
    let (sender, receiver) = channel();
    // The receiver is gone only when the limit is over, and then nobody wants the result.
    let work = move || drop(sender.send(catch_unwind(AssertUnwindSafe(body))));
    thread::Builder::new().name(name).spawn(work).map_err(Failed::from)?;
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

    fn outcome(body: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Result<Completion, String> {
        run("case".into(), Duration::from_secs(2), body)
            .map_err(|failed| failed.message().unwrap_or_default().to_owned())
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
}
