//! Several subflows on one pair of addresses, which the agent's path manager makes: each has a port of its own, so that a
//! router which spreads flows by their ports gives each another way.
//!
//! The client's agent is told so by its configuration; the server's kernel accepts what comes. One path is enough.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::kernel::stream::Protocol;
use crate::lab::Scenario;
use crate::lab::agent::{Agent, Refused, ndiffports_config};
use crate::lab::need::CannotRun;
use crate::lab::report::{Figure, Goal, Outcome};
use crate::lab::scenario::{PathSettings, clean, seconds};
use crate::lab::subflows::{self, Subflow};
use crate::lab::topology::{Host, Topology};
use crate::lab::traffic::{Pace, Reader, Sender};
use crate::lab::view::View;
use crate::lab::wire::Way;

/// How long the last bytes may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `mpsec lab ndiffports`.
#[derive(Debug, clap::Args)]
pub struct Settings {
    #[command(flatten)]
    paths: PathSettings,
    /// Subflows, the first one included
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=8))]
    subflows: u8,
    /// Seconds of sending
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
}

impl Scenario for Settings {
    const NAME: &'static str = "ndiffports";
    const GOAL: &'static str = "as many subflows as asked for on one pair of addresses, and bytes on each of them";

    fn run(&self, view: View) -> Result<Outcome> {
        let shapes = self.paths.shapes(20.0)?;
        let shapes = shapes.get(..1).context("no path")?;
        let topology = Topology::new(shapes)?;
        let agent = Agent::start(&topology, Host::Client, &ndiffports_config(self.subflows.into()));
        let _agent = agent.map_err(|error| match error.downcast_ref::<Refused>() {
            Some(refused) => CannotRun(refused.to_string()).into(),
            None => error,
        })?;
        let watch = view.watch("ndiffports", topology.paths(), Way::Down);
        let connection = topology.open(Protocol::Mptcp, 0)?;
        let reader = Reader::start(connection.client.try_clone()?)?;
        let sender = Sender::start(connection.server.try_clone()?, Pace::Bulk)?;
        thread::sleep(Duration::from_secs_f64(self.seconds));
        let all = subflows::list(&topology, Host::Client)?;
        clean(sender.finish()?, &reader.finish(PATIENCE)?)?;
        drop(watch);
        let parameters = json!({
            "paths": self.paths.to_json(shapes), "subflows": self.subflows, "seconds": self.seconds,
        });
        let mut outcome = Outcome::new(Self::NAME, parameters);
        judge(&mut outcome, &all, self.subflows.into());
        Ok(outcome)
    }
}

fn judge(outcome: &mut Outcome, all: &[Subflow], wanted: usize) {
    let mut pairs: Vec<_> = all.iter().map(|subflow| (subflow.local.ip(), subflow.remote.ip())).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let bytes: Option<Vec<_>> = all.iter().map(|subflow| subflow.received_bytes).collect();
    let least = bytes.and_then(|bytes| bytes.into_iter().min());
    outcome.figures.extend([
        Figure::new("subflows", all.len() as f64, "").goal(Goal::Exactly(wanted as f64)),
        Figure::new("pairs_of_addresses", pairs.len() as f64, "").goal(Goal::Exactly(1.0)),
        Figure::new("least_bytes_of_a_subflow", least.map(|bytes| bytes as f64), "bytes").goal(Goal::AtLeast(1.0)),
    ]);
    for (number, subflow) in all.iter().enumerate() {
        let name = format!("subflow_{}_bytes_received", number + 1);
        outcome.figures.push(Figure::new(name, subflow.received_bytes.map(|bytes| bytes as f64), "bytes"));
    }
    let words = if pairs.len() == 1 { "one pair".to_owned() } else { format!("{} pairs", pairs.len()) };
    outcome.summary = format!("{} of {wanted} subflows on {words} of addresses", all.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subflow_needs_bytes_and_the_same_addresses() {
        let subflow = |port: u16, bytes| Subflow {
            path: 0,
            local: ([10, 0, 0, 1], port).into(),
            remote: ([10, 0, 0, 2], 8080).into(),
            received_bytes: Some(bytes),
            is_backup: false,
        };
        let is_met = |all: &[Subflow]| {
            let mut outcome = Outcome::new("ndiffports", json!({}));
            judge(&mut outcome, all, 2);
            outcome.is_met()
        };
        assert!(is_met(&[subflow(1, 9), subflow(2, 1)]));
        assert!(!is_met(&[subflow(1, 9)]));
        assert!(!is_met(&[subflow(1, 9), subflow(2, 0)]));
        let elsewhere = Subflow { remote: ([10, 0, 1, 2], 8080).into(), ..subflow(2, 5) };
        assert!(!is_met(&[subflow(1, 9), elsewhere]));
    }
}
