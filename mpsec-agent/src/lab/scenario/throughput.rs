//! How much faster several paths are than one.
//!
//! A server sends as fast as it can. In each round every path is used alone and then all together, a new connection each; what
//! counts is what the reader gets in a window that begins when slow start is over. What it takes to add paths up:
//!
//! - Buffers for all that is on its way on all paths, and for what has to wait for the slowest of them: `tcp_wmem` and
//!   `tcp_rmem` allow 8 MiB.
//! - Queues of no more than what the congestion control needs to keep a path full (the bandwidth-delay product, but at least
//!   50 ms): each millisecond in a queue is one more for which data of the other paths has to wait.
//! - A congestion control that keeps what it has found on each path: cubic, else reno.
//! - No memory of earlier connections (`tcp_no_metrics_save`): it would start the next one at an old rate.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::kernel::stream::{Protocol, congestion_control};
use crate::lab::Scenario;
use crate::lab::report::{Figure, Goal, Outcome, number};
use crate::lab::scenario::{PathSettings, clean, seconds};
use crate::lab::series::bits_per_second;
use crate::lab::topology::Topology;
use crate::lab::traffic::{Pace, Reader, Sender};
use crate::lab::view::View;
use crate::lab::wire::Way;

/// Together no more can come than alone; beyond this it is not the measuring that wavers.
const FLATTERED: f64 = 1.03;

/// `mpsec lab throughput`.
#[derive(Debug, clap::Args)]
pub struct Settings {
    #[command(flatten)]
    paths: PathSettings,
    /// Seconds of each measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Seconds before each, in which slow start and the first cut of the window pass
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    warm_up: f64,
    /// Rounds, of which the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

impl Scenario for Settings {
    const NAME: &'static str = "throughput";
    const GOAL: &'static str = "2 like paths give >= 1.95 of one, 4 >= 3.8, unlike ones >= 0.93 of their sum";

    fn run(&self, view: View) -> Result<Outcome> {
        let shapes = self.paths.shapes(50.0)?;
        let topology = Topology::new(&shapes)?;
        let round_trips = (0..shapes.len()).map(|path| round_trip(&topology, path)).collect::<Result<Vec<_>>>()?;
        let measure = |title: &str, first| self.measure(&topology, view, title, first);
        let mut alone = vec![Vec::new(); shapes.len()];
        let mut all = Vec::new();
        for _ in 0..self.rounds {
            topology.remove_endpoints()?;
            for (path, rates) in alone.iter_mut().enumerate() {
                rates.push(measure(&format!("path {path} alone"), path)?);
            }
            topology.add_endpoints()?;
            all.push(measure("all paths", 0)?);
        }
        let mut outcome = Outcome::new(
            Self::NAME,
            json!({
                "paths": self.paths.to_json(&shapes), "seconds": self.seconds, "warm_up_seconds": self.warm_up,
                "rounds": self.rounds,
                "congestion_control": congestion_control(&topology.open(Protocol::Mptcp, 0)?.server)?,
            }),
        );
        outcome.figures.extend(round_trips);
        judge(&mut outcome, &alone, &all, self.paths.are_alike(&shapes));
        let wires = shapes.iter().map(|shape| shape.bits_per_second).sum::<f64>();
        let of_wires: Vec<_> = all.iter().map(|rate| Some(rate / wires)).collect();
        outcome.figures.push(Figure::of_rounds("all_paths_by_rate_of_the_wires", &of_wires, ""));
        Ok(outcome)
    }
}

/// The time of a handshake on a path where nothing waits.
fn round_trip(topology: &Topology, path: usize) -> Result<Figure> {
    let ms = topology.open(Protocol::Mptcp, path)?.handshake.as_secs_f64() * 1e3;
    Ok(Figure::new(format!("path_{path}_round_trip"), ms, "ms"))
}

impl Settings {
    /// Bits per second that a reader gets of a connection that begins on this path.
    fn measure(&self, topology: &Topology, view: View, title: &str, path: usize) -> Result<f64> {
        let _watch = view.watch(title, topology.paths(), Way::Down);
        let connection = topology.open(Protocol::Mptcp, path)?;
        let reader = Reader::start(connection.client.try_clone()?)?;
        let sender = Sender::start(connection.server.try_clone()?, Pace::Bulk)?;
        let begin = Duration::from_secs_f64(self.warm_up);
        let end = begin + Duration::from_secs_f64(self.seconds);
        thread::sleep(end);
        let sent = sender.finish()?;
        let reading = reader.finish(Duration::from_secs(5))?;
        clean(sent, &reading)?;
        Ok(bits_per_second(&reading.arrivals, begin, end))
    }
}

/// The figures of all rounds.
fn judge(outcome: &mut Outcome, alone: &[Vec<f64>], all: &[f64], are_alike: bool) {
    let mbit = |rates: &[f64]| rates.iter().map(|rate| Some(rate / 1e6)).collect::<Vec<_>>();
    for (path, rates) in alone.iter().enumerate() {
        outcome.figures.push(Figure::of_rounds(format!("path_{path}_alone"), &mbit(rates), "Mbit/s"));
    }
    outcome.figures.push(Figure::of_rounds("all_paths", &mbit(all), "Mbit/s"));
    // Rounds are compared with themselves: what slows a machine down for a while slows all of a round.
    let sum = |round: usize| alone.iter().map(|rates| rates[round]).sum::<f64>();
    let of_sum: Vec<_> = all.iter().enumerate().map(|(round, rate)| Some(rate / sum(round))).collect();
    let of_one: Vec<_> = of_sum.iter().map(|ratio| ratio.map(|ratio| ratio * alone.len() as f64)).collect();
    let of_sum = Figure::of_rounds("all_paths_by_sum_of_each_alone", &of_sum, "");
    let of_one = Figure::of_rounds("all_paths_by_one", &of_one, "");
    if of_sum.value.is_some_and(|ratio| ratio > FLATTERED) {
        outcome.notes.push(
            "the ratio flatters: alone, a path was slower than its wire allows, or what had to wait came in the window"
                .to_owned(),
        );
    }
    let (ratio, words) = match (are_alike, alone.len()) {
        (true, 1) => (of_one, "of itself"),
        (true, paths) => (of_one.goal(Goal::AtLeast(if paths == 2 { 1.95 } else { 0.95 * paths as f64 })), "of one"),
        (false, _) => (of_sum.goal(Goal::AtLeast(0.93)), "of what each carries alone, added up"),
    };
    if alone.len() == 1 {
        // The same thing twice: it shows how much the machine wavers.
        outcome.summary = format!("one path twice: the second time {} of the first", value_of(&ratio));
        return outcome.figures.push(ratio);
    }
    outcome.summary = format!("{} paths together give {} {words}", alone.len(), value_of(&ratio));
    outcome.figures.push(ratio);
}

fn value_of(figure: &Figure) -> String {
    figure.value.map_or_else(|| "nothing".to_owned(), number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(alone: &[Vec<f64>], all: &[f64], are_alike: bool) -> Outcome {
        let mut outcome = Outcome::new("throughput", json!({}));
        judge(&mut outcome, alone, all, are_alike);
        outcome
    }

    #[test]
    fn like_paths_are_judged_by_one_and_unlike_ones_by_their_sum() {
        let like = outcome(&[vec![50e6, 49e6, 50e6], vec![50e6, 51e6, 50e6]], &[98e6, 98e6, 60e6], true);
        assert_eq!(like.figures.last().and_then(|figure| figure.value), Some(1.96));
        assert!(like.is_met());
        let unlike = outcome(&[vec![20e6], vec![10e6]], &[27e6], false);
        assert_eq!(unlike.figures.last().and_then(|figure| figure.value), Some(0.9));
        assert!(!unlike.is_met());
    }
}
