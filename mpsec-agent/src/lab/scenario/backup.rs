//! A path that is used only when the other one has failed.
//!
//! The client's endpoint of path 1 has the flag backup. A stream comes; the backup path has a subflow and must carry no payload
//! until path 0 fails, and everything afterwards. Payload is counted on the wire, repeated bytes included.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::kernel::stream::Protocol;
use crate::lab::Scenario;
use crate::lab::fault::{Fault, Faults};
use crate::lab::report::{Figure, Goal, Outcome};
use crate::lab::scenario::{PathSettings, rate, seconds};
use crate::lab::series::longest_gap;
use crate::lab::subflows;
use crate::lab::topology::{Host, Topology};
use crate::lab::traffic::{Pace, Reader, Sender};
use crate::lab::view::View;
use crate::lab::wire::{Shape, Way};

/// How long the last bytes may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// `mpsec lab backup`.
#[derive(Debug, clap::Args)]
pub struct Settings {
    #[command(flatten)]
    paths: PathSettings,
    /// How path 0 fails
    #[arg(long, value_enum, default_value = "silent")]
    fault: Faults,
    /// Mbit/s of the stream
    #[arg(long, value_name = "MBIT", default_value_t = 5.0, value_parser = rate)]
    stream: f64,
    /// Seconds before the fault and after it
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
}

impl Scenario for Settings {
    const NAME: &'static str = "backup";
    const GOAL: &'static str =
        "no payload on the backup path until the primary one dies, then all of it, and none lost";

    fn run(&self, view: View) -> Result<Outcome> {
        let shapes = self.paths.shapes(20.0)?;
        ensure!(shapes.len() == 2, "a primary path and a backup path, not {} paths", shapes.len());
        let faults: Vec<_> = self.fault.each().iter().map(|fault| fault.name()).collect();
        let parameters = json!({
            "paths": self.paths.to_json(&shapes), "stream_mbit_per_second": self.stream, "seconds": self.seconds,
            "faults": faults,
        });
        let mut outcome = Outcome::new(Self::NAME, parameters);
        let mut told = Vec::new();
        for fault in self.fault.each() {
            let seen = self.round(view, &shapes, *fault)?;
            told.push(format!("{fault}: {} bytes on the backup path before, {} after", seen.early, seen.late));
            seen.figures(&mut outcome, *fault);
        }
        outcome.summary = told.join("; ");
        Ok(outcome)
    }
}

/// What was seen of the backup path.
struct Seen {
    subflows: usize,
    early: u64,
    late: u64,
    primary_late: u64,
    gap: Duration,
    wrong: u64,
}

impl Settings {
    fn round(&self, view: View, shapes: &[Shape], fault: Fault) -> Result<Seen> {
        let topology = Topology::new(shapes)?;
        topology.add_endpoint(1, "backup")?;
        let paths = topology.paths();
        let _watch = view.watch(&format!("backup, {fault}"), paths, Way::Down);
        let carried = |path: usize| paths.get(path).map_or(0, |path| path.carried(Way::Down).payload_bytes());
        let connection = topology.open(Protocol::Mptcp, 0)?;
        let reader = Reader::start(connection.client.try_clone()?)?;
        let start = reader.start;
        let sender = Sender::start(connection.server.try_clone()?, Pace::BitsPerSecond(self.stream * 1e6))?;
        let time = Duration::from_secs_f64(self.seconds);
        thread::sleep(time);
        let all = subflows::list(&topology, Host::Client)?;
        let (early, primary, failed_at) = (carried(1), carried(0), start.elapsed());
        paths.first().map_or(Ok(()), |path| fault.begin(path))?;
        thread::sleep(time);
        let end = start.elapsed();
        let sent = sender.finish()?;
        let reading = reader.finish(PATIENCE)?;
        Ok(Seen {
            subflows: all.iter().filter(|one| one.is_backup && one.path == 1).count(),
            early,
            late: carried(1) - early,
            primary_late: carried(0) - primary,
            gap: longest_gap(&reading.arrivals, failed_at, end).1,
            wrong: sent.saturating_sub(reading.total) + u64::from(reading.first_wrong.is_some()),
        })
    }
}

impl Seen {
    fn figures(&self, outcome: &mut Outcome, fault: Fault) {
        let name = |what: &str| format!("{}_{what}", fault.name());
        let late = self.late as f64;
        let share = (late > 0.0).then(|| late / (late + self.primary_late as f64));
        outcome.figures.extend([
            Figure::new(name("backup_subflows"), self.subflows as f64, "").goal(Goal::Exactly(1.0)),
            Figure::new(name("payload_on_backup_before"), self.early as f64, "bytes").goal(Goal::Exactly(0.0)),
            Figure::new(name("payload_on_backup_after"), late, "bytes").goal(Goal::AtLeast(1.0)),
            Figure::new(name("share_of_backup_after"), share, "").goal(Goal::AtLeast(0.98)),
            Figure::new(name("longest_gap"), self.gap.as_secs_f64(), "s"),
            Figure::new(name("bytes_lost_or_wrong"), self.wrong as f64, "bytes").goal(Goal::Exactly(0.0)),
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_too_early_or_a_rest_on_the_primary_path_is_a_failure() {
        let seen = |early, late, primary_late| Seen {
            subflows: 1,
            early,
            late,
            primary_late,
            gap: Duration::from_millis(300),
            wrong: 0,
        };
        let is_met = |seen: Seen| {
            let mut outcome = Outcome::new("backup", json!({}));
            seen.figures(&mut outcome, Fault::Silent);
            outcome.is_met()
        };
        assert!(is_met(seen(0, 1000, 0)));
        assert!(!is_met(seen(1, 1000, 0)));
        assert!(!is_met(seen(0, 1000, 100)));
        assert!(!is_met(seen(0, 0, 0)));
        assert!(!is_met(Seen { subflows: 0, ..seen(0, 1000, 0) }));
    }
}
