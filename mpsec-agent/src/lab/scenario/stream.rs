//! A video over HTTP/1.1 while a path fails, over MPTCP and over plain TCP at the same time.
//!
//! Each plays on hosts of its own. The player fetches segments of one second over one connection, buffers a few, and plays by
//! the clock; path 0, over which both connections are made, fails for longer than the buffer lasts. Each byte is looked at.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::json;

use crate::kernel::stream::Protocol;
use crate::lab::Scenario;
use crate::lab::fault::{Fault, Faults};
use crate::lab::report::{Figure, Goal, Outcome, number};
use crate::lab::scenario::{PathSettings, rate, seconds};
use crate::lab::topology::Topology;
use crate::lab::video::{Played, SEGMENT, Video};
use crate::lab::view::View;
use crate::lab::wire::{Shape, Way};

/// How long TCP may take to notice that its path is back: its retransmissions are seconds apart by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// `mpsec lab stream`.
#[derive(Debug, clap::Args)]
pub struct Settings {
    #[command(flatten)]
    paths: PathSettings,
    /// How path 0 fails
    #[arg(long, value_enum, default_value = "silent")]
    fault: Faults,
    /// Mbit/s of the video
    #[arg(long, value_name = "MBIT", default_value_t = 5.0, value_parser = rate)]
    bitrate: f64,
    /// Seconds of video
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=3600))]
    length: u32,
    /// Seconds that the player buffers
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    buffer: f64,
    /// Seconds before the fault
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0, value_parser = seconds)]
    before: f64,
    /// Seconds that the fault lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 6.0, value_parser = seconds)]
    during: f64,
}

impl Scenario for Settings {
    const NAME: &'static str = "stream";
    const GOAL: &'static str = "over MPTCP the video does not stop when a path fails for longer than the buffer lasts";

    fn run(&self, view: View) -> Result<Outcome> {
        let shapes = self.paths.shapes(20.0)?;
        let faults: Vec<_> = self.fault.each().iter().map(|fault| fault.name()).collect();
        let parameters = json!({
            "paths": self.paths.to_json(&shapes), "faults": faults, "video_mbit_per_second": self.bitrate,
            "length_seconds": self.length, "segment_seconds": SEGMENT.as_secs(), "buffer_seconds": self.buffer,
            "before_seconds": self.before, "during_seconds": self.during,
        });
        let mut outcome = Outcome::new(Self::NAME, parameters);
        let mut told = Vec::new();
        for fault in self.fault.each() {
            let (mptcp, tcp) = thread::scope(|scope| {
                let tcp = scope.spawn(|| self.play(View::Quiet, &shapes, *fault, Protocol::Tcp));
                let mptcp = self.play(view, &shapes, *fault, Protocol::Mptcp);
                (mptcp, tcp.join().unwrap_or_else(|_| Err(anyhow!("the player over TCP panicked"))))
            });
            let (mptcp, tcp) = (mptcp.context("over MPTCP")?, tcp.context("over TCP")?);
            told.push(format!("{fault}: {} over MPTCP, {} over TCP", words(&mptcp), words(&tcp)));
            outcome.figures.extend(figures(*fault, "MPTCP", &mptcp, self.length));
            outcome.figures.extend(figures(*fault, "TCP", &tcp, self.length));
        }
        outcome.summary = told.join("; ");
        Ok(outcome)
    }
}

impl Settings {
    fn play(&self, view: View, shapes: &[Shape], fault: Fault, protocol: Protocol) -> Result<Played> {
        let topology = Topology::new(shapes)?;
        topology.add_endpoints()?;
        let paths = topology.paths();
        let _watch = view.watch(&format!("video over MPTCP, {fault}"), paths, Way::Down);
        let (before, during) = (Duration::from_secs_f64(self.before), Duration::from_secs_f64(self.during));
        let video = Video {
            bits_per_second: self.bitrate * 1e6,
            segments: self.length,
            buffer: Duration::from_secs_f64(self.buffer),
            patience: during + PATIENCE,
        };
        thread::scope(|scope| {
            let pull = scope.spawn(|| -> Result<()> {
                let path = paths.first().context("no path")?;
                thread::sleep(before);
                fault.begin(path)?;
                thread::sleep(during);
                Ok(fault.end(path)?)
            });
            let played = video.play(&topology, protocol);
            pull.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))?;
            played
        })
    }
}

fn longest(played: &Played) -> f64 {
    played.stalls.iter().max().copied().unwrap_or_default().as_secs_f64()
}

fn words(played: &Played) -> String {
    match played.stalls.len() {
        0 => "no stall".to_owned(),
        1 => format!("a stall of {} s", number(longest(played))),
        count => format!("{count} stalls of up to {} s", number(longest(played))),
    }
}

fn figures(fault: Fault, column: &'static str, played: &Played, segments: u32) -> [Figure; 4] {
    let figure =
        |what: &str, value: f64, unit| Figure::new(format!("{}_{what}", fault.name()), value, unit).column(column);
    let stalled: Duration = played.stalls.iter().sum();
    let stalls = figure("stalls", played.stalls.len() as f64, "");
    let fetched = figure("segments", played.segments.into(), "");
    let is_ours = column == "MPTCP";
    let with_goal = |figure: Figure, goal| if is_ours { figure.goal(goal) } else { figure };
    [
        with_goal(stalls, Goal::Exactly(0.0)),
        figure("stalled", stalled.as_secs_f64(), "s"),
        figure("longest_stall", longest(played), "s"),
        with_goal(fetched, Goal::Exactly(segments.into())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mptcp_must_not_stall() {
        let played = Played { stalls: vec![Duration::from_secs(2); 2], segments: 9 };
        let is_met = |column, played: &Played| figures(Fault::Silent, column, played, 9).iter().all(Figure::is_met);
        assert!(!is_met("MPTCP", &played));
        assert!(is_met("TCP", &played));
        assert!(is_met("MPTCP", &Played { stalls: Vec::new(), ..played.clone() }));
        assert!(!is_met("MPTCP", &Played { stalls: Vec::new(), segments: 8 }));
        assert_eq!(words(&played), "2 stalls of up to 2 s");
    }
}
