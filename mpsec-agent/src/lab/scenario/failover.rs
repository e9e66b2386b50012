//! What a reader notices when a path fails and comes back, with the kernel alone and with the agent's help.
//!
//! A stream at a constant rate, less than what one path carries, comes over all paths; the one that carries most of it fails.
//! The reader's longest time without a byte counts, and every byte is looked at: none may be missing or out of place. The
//! same is done with no agent and with one on each host, in namespaces of their own, one after the other.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::lab::Scenario;
use crate::lab::agent::Agent;
use crate::lab::fault::{Fault, Faults};
use crate::lab::pull::{Pull, Pulled};
use crate::lab::report::{Figure, Goal, Outcome, number};
use crate::lab::scenario::{PathSettings, rate, seconds};
use crate::lab::topology::Topology;
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
}

impl Scenario for Settings {
    const NAME: &'static str = "failover";
    const GOAL: &'static str = "with the agent: a gap < 0.1 s when the link goes down, < 0.25 s when a path dies silently; \
                                nothing lost, full rate < 0.5 s, path used again < 2 s after it is back";

    fn run(&self, view: View) -> Result<Outcome> {
        let shapes = self.paths.shapes(20.0)?;
        let faults: Vec<_> = self.fault.each().iter().map(|fault| fault.name()).collect();
        let parameters = json!({
            "paths": self.paths.to_json(&shapes), "stream_mbit_per_second": self.stream, "faults": faults,
            "before_seconds": self.before, "during_seconds": self.during, "after_seconds": self.after,
            "rounds": self.rounds, "agent": !self.no_agent,
        });
        let mut outcome = Outcome::new(Self::NAME, parameters);
        let columns: &[_] = if self.no_agent { &[KERNEL] } else { &[KERNEL, AGENT] };
        let mut told = Vec::new();
        for fault in self.fault.each() {
            for column in columns {
                let rounds = (0..self.rounds).map(|_| self.round(view, &shapes, *fault, column));
                let rounds = rounds.collect::<Result<Vec<_>>>()?;
                told.push(format!("{fault} {}, {column}", gap(&rounds)));
                figures(&mut outcome, *fault, column, &rounds);
            }
        }
        outcome.summary = format!("longest gap: {}", told.join("; "));
        Ok(outcome)
    }
}

impl Settings {
    fn round(&self, view: View, shapes: &[Shape], fault: Fault, column: &str) -> Result<Pulled> {
        let topology = Topology::new(shapes)?;
        topology.add_endpoints()?;
        let _agents = if column == AGENT { Some(Agent::both(&topology)?) } else { None };
        let [before, during, after] = [self.before, self.during, self.after].map(Duration::from_secs_f64);
        let pull = Pull { fault, bits_per_second: self.stream * 1e6, before, during, after };
        pull.run(&topology, view, &format!("{fault}, {column}"))
    }
}

fn gap(rounds: &[Pulled]) -> String {
    let gaps: Vec<_> = rounds.iter().map(|round| Some(round.longest_gap.as_secs_f64())).collect();
    Figure::of_rounds("", &gaps, "").value.map_or_else(|| "unknown".into(), |gap| format!("{} s", number(gap)))
}

fn figures(outcome: &mut Outcome, fault: Fault, column: &'static str, rounds: &[Pulled]) {
    let with_goal = |figure: Figure, goal| if column == AGENT { figure.goal(goal) } else { figure };
    let of = |name: &str, of: fn(&Pulled) -> Option<Duration>| {
        let seconds: Vec<_> = rounds.iter().map(|round| of(round).map(|time| time.as_secs_f64())).collect();
        Figure::of_rounds(format!("{}_{name}", fault.name()), &seconds, "s").column(column)
    };
    let limit = if fault == Fault::LinkDown { 0.1 } else { 0.25 };
    let wrong = |round: &Pulled| round.lost_bytes + u64::from(round.first_wrong.is_some());
    let lost = rounds.iter().map(wrong).sum::<u64>() as f64;
    let lost = Figure::new(format!("{}_bytes_lost_or_wrong", fault.name()), lost, "bytes").column(column);
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
            figures(&mut outcome, Fault::Silent, column, std::slice::from_ref(pulled));
            outcome
        };
        assert!(outcome(KERNEL, &pulled).is_met());
        assert!(!outcome(AGENT, &pulled).is_met());
        assert!(outcome(AGENT, &Pulled { longest_gap: Duration::from_millis(200), ..pulled.clone() }).is_met());
        assert!(!outcome(KERNEL, &Pulled { first_wrong: Some(9), ..pulled }).is_met());
    }
}
