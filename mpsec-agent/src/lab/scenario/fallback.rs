//! What happens with a peer that has no MPTCP: the connection is plain TCP, everything arrives, and the kernel tells why.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::agent::fallback_causes;
use crate::kernel::mib::{self, Mib};
use crate::kernel::stream::Protocol;
use crate::lab::Scenario;
use crate::lab::report::{Figure, Goal, Outcome};
use crate::lab::scenario::{PathSettings, seconds};
use crate::lab::subflows;
use crate::lab::topology::{Host, Topology};
use crate::lab::traffic::{Pace, Reader, Sender};
use crate::lab::view::View;
use crate::lab::wire::Way;

/// How long the last bytes may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `mpsec lab fallback`.
#[derive(Debug, clap::Args)]
pub struct Settings {
    #[command(flatten)]
    paths: PathSettings,
    /// Seconds of sending
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
}

impl Scenario for Settings {
    const NAME: &'static str = "fallback";
    const GOAL: &'static str = "all data arrives over plain TCP, and the fallback is seen and its cause named";

    fn run(&self, view: View) -> Result<Outcome> {
        let shapes = self.paths.shapes(20.0)?;
        let topology = Topology::new(&shapes)?;
        topology.add_endpoints()?;
        topology.netns(Host::Server).set_sysctl("net/mptcp/enabled", "0")?;
        let counters = || topology.netns(Host::Client).run(mib::read).context("the client's counters");
        let before = counters()?;
        let watch = view.watch("no MPTCP at the server", topology.paths(), Way::Down);
        let connection = topology.open_unlike(Protocol::Mptcp, Protocol::Tcp, 0)?;
        let reader = Reader::start(connection.client.try_clone()?)?;
        let sender = Sender::start(connection.server.try_clone()?, Pace::Bulk)?;
        thread::sleep(Duration::from_secs_f64(self.seconds));
        let fell_back = subflows::fell_back(&topology)?;
        let cause = cause(&before, &counters()?);
        let sent = sender.finish()?;
        let reading = reader.finish(PATIENCE)?;
        drop(watch);
        let wrong = sent.saturating_sub(reading.total) + u64::from(reading.first_wrong.is_some());
        let parameters = json!({ "paths": self.paths.to_json(&shapes), "seconds": self.seconds });
        let mut outcome = Outcome::new(Self::NAME, parameters);
        let one_if = |is: bool| f64::from(u8::from(is));
        outcome.figures = vec![
            Figure::new("bytes_received", reading.total as f64, "bytes").goal(Goal::AtLeast(1.0)),
            Figure::new("bytes_lost_or_wrong", wrong as f64, "bytes").goal(Goal::Exactly(0.0)),
            Figure::new("fallbacks_seen", fell_back.map(one_if), "").goal(Goal::Exactly(1.0)),
            Figure::new("causes_named", one_if(cause.is_some()), "").goal(Goal::Exactly(1.0)),
        ];
        outcome.summary = match cause {
            Some(cause) => format!("plain TCP because {cause}"),
            None => "no cause was seen".to_owned(),
        };
        Ok(outcome)
    }
}

/// The cause whose counter has risen.
fn cause(before: &Mib, after: &Mib) -> Option<String> {
    let has_risen = |counter: &str| after.mptcp(counter) > before.mptcp(counter);
    let mut causes = fallback_causes().filter(|(counter, _)| has_risen(counter));
    causes.next().map(|(counter, because)| format!("{because} (counter {counter})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_that_rose_is_the_cause() {
        let mib = |answer: u64| Mib {
            mptcp: vec![("MPCapableFallbackACK".into(), 3), ("MPCapableFallbackSYNACK".into(), answer)],
            tcp: Vec::new(),
        };
        assert_eq!(cause(&mib(1), &mib(1)), None);
        let cause = cause(&mib(1), &mib(2)).unwrap();
        assert!(cause.ends_with("(counter MPCapableFallbackSYNACK)"), "{cause}");
    }
}
