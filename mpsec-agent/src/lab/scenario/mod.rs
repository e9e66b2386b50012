//! The scenarios, one file each. A new one is a file here and a row in the table of [`crate::lab`].

pub mod backup;
pub mod failover;
pub mod fallback;
pub mod ndiffports;
pub mod stream;
pub mod throughput;

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::topology::MAX_PATHS;
use super::traffic::Reading;
use super::wire::Shape;

/// The least that a queue holds, as time at the path's rate.
const QUEUE: Duration = Duration::from_millis(50);

/// What the paths are like.
#[derive(Clone, Debug, clap::Args)]
pub struct PathSettings {
    /// How many paths, from 1 to 8 [default: 2, or as many as --rate or --delay name]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=MAX_PATHS as i64))]
    paths: Option<u8>,
    /// Mbit/s of each path; the last one holds for the rest
    #[arg(long, value_name = "MBIT", num_args = 1.., value_delimiter = ',', value_parser = rate)]
    rate: Vec<f64>,
    /// Milliseconds of one way of each path; the last one holds for the rest [default: 5]
    #[arg(long, value_name = "MS", num_args = 1.., value_delimiter = ',', value_parser = delay)]
    delay: Vec<f64>,
    /// Percent of packets lost at random on each path, each way; the last one holds for the rest [default: 0]
    #[arg(long, value_name = "PERCENT", num_args = 1.., value_delimiter = ',', value_parser = loss)]
    loss: Vec<f64>,
    /// Milliseconds that a full queue takes to drain [default: the round-trip time, at least 50]
    #[arg(long, value_name = "MS", num_args = 1.., value_delimiter = ',', value_parser = queue)]
    queue: Vec<f64>,
}

impl PathSettings {
    /// A shape for each path; `mbit` is the rate if none is given.
    ///
    /// # Errors
    /// What cannot be.
    pub fn shapes(&self, mbit: f64) -> Result<Vec<Shape>> {
        let named = [&self.rate, &self.delay, &self.loss, &self.queue].map(Vec::len).into_iter().max().unwrap_or(0);
        let count = self.paths.map_or(named.max(2), usize::from);
        ensure!(named <= count, "{count} paths, but values for {named}");
        ensure!(count <= MAX_PATHS, "at most {MAX_PATHS} paths, not {count}");
        Ok((0..count).map(|path| self.shape(path, mbit)).collect())
    }

    fn shape(&self, path: usize, mbit: f64) -> Shape {
        let of = |values: &[f64], default| values.get(path).or(values.last()).copied().unwrap_or(default);
        let delay = Duration::from_secs_f64(of(&self.delay, 5.0) / 1e3);
        let queue_ms = of(&self.queue, QUEUE.max(delay * 2).as_secs_f64() * 1e3);
        let bits_per_second = of(&self.rate, mbit) * 1e6;
        // A queue that cannot hold a few segments is none.
        let queue_bytes = (bits_per_second / 8.0 * queue_ms / 1e3).max(10_000.0);
        Shape { bits_per_second, delay, queue_bytes, loss: of(&self.loss, 0.0) / 100.0 }
    }

    /// Whether all paths are the same.
    #[must_use]
    pub fn are_alike(&self, shapes: &[Shape]) -> bool {
        shapes.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// The shapes for a report.
    #[must_use]
    pub fn to_json(&self, shapes: &[Shape]) -> Value {
        let row = |shape: &Shape| {
            json!({
                "mbit_per_second": shape.bits_per_second / 1e6,
                "one_way_delay_ms": shape.delay.as_secs_f64() * 1e3,
                "queue_bytes": shape.queue_bytes.round(),
                "loss_percent": shape.loss * 100.0,
            })
        };
        shapes.iter().map(row).collect()
    }
}

/// Mbit/s on a command line.
///
/// # Errors
/// What is none, or too many.
pub fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.1..=1000.0)
}

fn delay(text: &str) -> Result<f64, String> {
    within(text, 0.0..=1000.0)
}

fn loss(text: &str) -> Result<f64, String> {
    within(text, 0.0..=50.0)
}

fn queue(text: &str) -> Result<f64, String> {
    within(text, 1.0..=10_000.0)
}

/// Seconds on a command line.
///
/// # Errors
/// What is none, or too many.
pub fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.5..=3600.0)
}

fn within(text: &str, range: RangeInclusive<f64>) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("it is a number from {} to {}", range.start(), range.end()))
}

/// Everything that was sent has arrived, in its place.
///
/// # Errors
/// What is missing or wrong.
pub fn clean(sent: u64, reading: &Reading) -> Result<()> {
    ensure!(reading.first_wrong.is_none(), "byte {:?} of the stream is wrong", reading.first_wrong);
    ensure!(reading.total == sent, "{sent} bytes were sent, {} arrived", reading.total);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(words: &[&str]) -> Result<PathSettings, clap::Error> {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            paths: PathSettings,
        }
        Line::try_parse_from(["lab"].iter().chain(words)).map(|line| line.paths)
    }

    #[test]
    fn values_are_for_a_path_each_and_the_last_for_the_rest() {
        let shapes = settings(&["--rate", "20,10", "--delay", "5", "--paths", "3"]).unwrap().shapes(50.0).unwrap();
        let rates: Vec<_> = shapes.iter().map(|shape| shape.bits_per_second / 1e6).collect();
        assert_eq!(rates, [20.0, 10.0, 10.0]);
        assert!(shapes.iter().all(|shape| shape.delay == Duration::from_millis(5)));
        assert_eq!(shapes[0].queue_bytes, 125_000.0, "50 ms");
        assert_eq!(settings(&["--rate", "1", "2", "3"]).unwrap().shapes(50.0).unwrap().len(), 3);
        assert_eq!(settings(&[]).unwrap().shapes(50.0).unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for words in [&["--rate", "0"][..], &["--paths", "9"], &["--loss", "51"], &["--delay", "x"], &["--rate", "inf"]]
        {
            assert!(settings(words).is_err(), "{words:?}");
        }
        assert!(settings(&["--paths", "1", "--rate", "1,2"]).unwrap().shapes(50.0).is_err());
    }
}
