//! What a reader notices when a path fails and comes back, with the kernel alone and with the agent's help.
//!
//! A stream at a constant rate, less than what one path carries, comes over all paths; one of them fails, the one that carries
//! most of it unless it is said.
//! The reader's longest time without a byte counts, and every byte is looked at: none may be missing or out of place. The
//! same is done with no agent and with one on each host, in namespaces of their own, one after the other; the client has the
//! same endpoints, which its agent makes, or the laboratory where there is none.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::lab::Scenario;
use crate::lab::agent::Agent;
use crate::lab::fault::{Fault, Faults, Victim};
use crate::lab::pull::{Pull, Pulled};
use crate::lab::report::{Figure, Goal, Outcome, number};
use crate::lab::scenario::{PathSettings, rate, seconds};
use crate::lab::topology::{Host, Topology};
use crate::lab::view::View;
use crate::lab::wire::Shape;

const KERNEL: &str = "kernel alone";
const AGENT: &str = "with the agent";

/// `mpsec lab failover`.
#[derive(Debug, clap::Args)]
pub struct Settings {
    #[command(flatten)]
    paths: PathSettings,
    /// How the path fails
    #[arg(long, value_enum, default_value = "both")]
    fault: Faults,
    /// The host that sends
    #[arg(long, value_enum, default_value = "server")]
    sender: Senders,
    /// The path that fails
    #[arg(long, value_enum, default_value = "busiest")]
    path: Victim,
    /// Mbit/s of the stream
    #[arg(long, value_name = "MBIT", default_value_t = 10.0, value_parser = rate)]
    stream: f64,
    /// Seconds before the fault
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    before: f64,
    /// Seconds that the fault lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    during: f64,
    /// Seconds after the fault
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0, value_parser = seconds)]
    after: f64,
    /// Rounds, of which the median counts, and the sum of lost bytes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Show the kernel alone
    #[arg(long)]
    no_agent: bool,
    /// Show only what the agent makes of it
    #[arg(long, conflicts_with = "no_agent")]
    only_agent: bool,
}

/// Which host sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Senders {
    /// The one that accepted the connection, as in a download
    Server,
    /// The one that made it
    Client,
    /// One after the other
    Both,
}

impl Senders {
    fn each(self) -> &'static [Host] {
        match self {
            Senders::Server => &[Host::Server],
            Senders::Client => &[Host::Client],
            Senders::Both => &Host::ALL,
        }
    }
}

/// What is shown: how a path fails while a host sends.
#[derive(Clone, Copy, Debug)]
struct Case {
    fault: Fault,
    sender: Host,
}

impl Case {
    /// Its name in a figure's name.
    fn name(self) -> String {
        match self.sender {
            Host::Server => self.fault.name().to_owned(),
            Host::Client => format!("{}_upload", self.fault.name()),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.sender == Host::Client { " of an upload" } else { "" };
        write!(f, "{}{what}", self.fault)
    }
}

impl Scenario for Settings {
    const NAME: &'static str = "failover";
    const GOAL: &'static str = "with the agent: a gap < 0.1 s when the link goes down, < 0.25 s when a path dies silently; \
                                nothing lost, full rate < 0.5 s, path used again < 2 s after it is back";

    fn run(&self, view: View) -> Result<Outcome> {
        let shapes = self.paths.shapes(20.0)?;
        let faults: Vec<_> = self.fault.each().iter().map(|fault| fault.name()).collect();
        let senders: Vec<_> = self.sender.each().iter().map(|host| format!("{host:?}").to_lowercase()).collect();
        let victim = format!("{:?}", self.path).to_lowercase();
        let parameters = json!({
            "paths": self.paths.to_json(&shapes), "stream_mbit_per_second": self.stream, "faults": faults,
            "before_seconds": self.before, "during_seconds": self.during, "after_seconds": self.after,
            "rounds": self.rounds, "agent": !self.no_agent,
            "senders": senders, "path": victim,
        });
        let mut outcome = Outcome::new(Self::NAME, parameters);
        let columns: &[_] = match (self.no_agent, self.only_agent) {
            (true, _) => &[KERNEL],
            (_, true) => &[AGENT],
            _ => &[KERNEL, AGENT],
        };
        let mut told = Vec::new();
        let senders = self.sender.each().iter();
        let cases =
            senders.flat_map(|sender| self.fault.each().iter().map(|fault| Case { fault: *fault, sender: *sender }));
        for case in cases {
            for column in columns {
                let rounds = (0..self.rounds).map(|_| self.round(view, &shapes, case, column));
                let rounds = rounds.collect::<Result<Vec<_>>>()?;
                told.push(format!("{case} {}, {column}", gap(&rounds)));
                figures(&mut outcome, case, column, &rounds);
            }
        }
        outcome.summary = format!("longest gap: {}", told.join("; "));
        Ok(outcome)
    }
}

impl Settings {
    fn round(&self, view: View, shapes: &[Shape], case: Case, column: &str) -> Result<Pulled> {
        let Case { fault, sender } = case;
        let topology = Topology::new(shapes)?;
        let _agents = if column == AGENT {
            Some(Agent::both(&topology)?)
        } else {
            topology.add_every_endpoint()?;
            None
        };
        let [before, during, after] = [self.before, self.during, self.after].map(Duration::from_secs_f64);
        let bits_per_second = self.stream * 1e6;
        let pull = Pull { fault, victim: self.path, sender, bits_per_second, before, during, after };
        pull.run(&topology, view, &format!("{case}, {column}"))
    }
}

fn gap(rounds: &[Pulled]) -> String {
    let gaps: Vec<_> = rounds.iter().map(|round| Some(round.longest_gap.as_secs_f64())).collect();
    Figure::of_rounds("", &gaps, "").value.map_or_else(|| "unknown".into(), |gap| format!("{} s", number(gap)))
}

fn figures(outcome: &mut Outcome, case: Case, column: &'static str, rounds: &[Pulled]) {
    let with_goal = |figure: Figure, goal| if column == AGENT { figure.goal(goal) } else { figure };
    let of = |name: &str, of: fn(&Pulled) -> Option<Duration>| {
        let seconds: Vec<_> = rounds.iter().map(|round| of(round).map(|time| time.as_secs_f64())).collect();
        Figure::of_rounds(format!("{}_{name}", case.name()), &seconds, "s").column(column)
    };
    let limit = if case.fault == Fault::LinkDown { 0.1 } else { 0.25 };
    let wrong = |round: &Pulled| round.lost_bytes + u64::from(round.first_wrong.is_some());
    let lost = rounds.iter().map(wrong).sum::<u64>() as f64;
    let lost = Figure::new(format!("{}_bytes_lost_or_wrong", case.name()), lost, "bytes").column(column);
    outcome.figures.extend([
        of("usual_gap", |round| Some(round.usual_gap)),
        with_goal(of("longest_gap", |round| Some(round.longest_gap)), Goal::Below(limit)),
        with_goal(of("full_rate_after", |round| round.full_rate_after), Goal::Below(0.5)),
        with_goal(of("path_used_again_after", |round| round.used_after), Goal::Below(2.0)),
        of("longest_gap_when_back", |round| Some(round.gap_when_back)),
        // Nothing may be lost, whoever helps.
        lost.goal(Goal::Exactly(0.0)),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agent_has_to_be_quick_and_nobody_may_lose() {
        let pulled = Pulled {
            victim: 0,
            usual_gap: Duration::from_millis(10),
            longest_gap: Duration::from_millis(300),
            gap_when_back: Duration::from_millis(10),
            lost_bytes: 0,
            first_wrong: None,
            full_rate_after: Some(Duration::from_millis(400)),
            used_after: Some(Duration::from_millis(1500)),
        };
        let outcome = |column, pulled: &Pulled| {
            let mut outcome = Outcome::new("failover", json!({}));
            figures(
                &mut outcome,
                Case { fault: Fault::Silent, sender: Host::Server },
                column,
                std::slice::from_ref(pulled),
            );
            outcome
        };
        assert!(outcome(KERNEL, &pulled).is_met());
        assert!(!outcome(AGENT, &pulled).is_met());
        assert!(outcome(AGENT, &Pulled { longest_gap: Duration::from_millis(200), ..pulled.clone() }).is_met());
        assert!(!outcome(KERNEL, &Pulled { first_wrong: Some(9), ..pulled }).is_met());
    }
}
