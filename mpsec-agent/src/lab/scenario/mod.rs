//! The scenarios, one file each. A new one is a file here and a row in the table of [`crate::lab`].

pub mod backup;
pub mod failover;
pub mod fallback;
pub mod ndiffports;
pub mod stream;
pub mod throughput;

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::traffic::Reading;
use super::wire::Shape;

/// The least that a queue holds, as time at the path's rate.
const QUEUE: Duration = Duration::from_millis(50);

/// What the paths are like.
#[derive(Clone, Debug, clap::Args)]
pub struct PathSettings {
    /// How many paths, from 1 to 8 [default: 2, or as many as --rate or --delay name]
    #[arg(long, value_name = "N")]
    paths: Option<usize>,
    /// Mbit/s of each path; the last one holds for the rest
    #[arg(long, value_name = "MBIT", num_args = 1.., value_delimiter = ',')]
    rate: Vec<f64>,
    /// Milliseconds of one way of each path; the last one holds for the rest [default: 5]
    #[arg(long, value_name = "MS", num_args = 1.., value_delimiter = ',')]
    delay: Vec<f64>,
    /// Percent of packets lost at random on each path, each way; the last one holds for the rest [default: 0]
    #[arg(long, value_name = "PERCENT", num_args = 1.., value_delimiter = ',')]
    loss: Vec<f64>,
    /// Milliseconds that a full queue takes to drain [default: the round-trip time, at least 50]
    #[arg(long, value_name = "MS", num_args = 1.., value_delimiter = ',')]
    queue: Vec<f64>,
}

impl PathSettings {
    /// A shape for each path; `mbit` is the rate if none is given.
    ///
    /// # Errors
    /// What cannot be.
    pub fn shapes(&self, mbit: f64) -> Result<Vec<Shape>> {
        let named = [&self.rate, &self.delay, &self.loss, &self.queue].map(Vec::len).into_iter().max().unwrap_or(0);
        let count = self.paths.unwrap_or(named.max(2));
        ensure!(named <= count, "{count} paths, but values for {named}");
        (0..count).map(|path| self.shape(path, mbit)).collect()
    }

    fn shape(&self, path: usize, mbit: f64) -> Result<Shape> {
        let of = |values: &[f64], default| values.get(path).or(values.last()).copied().unwrap_or(default);
        let (rate, delay, loss) = (of(&self.rate, mbit), of(&self.delay, 5.0), of(&self.loss, 0.0));
        ensure!((0.1..=1000.0).contains(&rate), "--rate goes from 0.1 to 1000, not {rate}");
        ensure!((0.0..=1000.0).contains(&delay), "--delay goes from 0 to 1000, not {delay}");
        ensure!((0.0..=50.0).contains(&loss), "--loss goes from 0 to 50, not {loss}");
        let delay = Duration::from_secs_f64(delay / 1e3);
        let queue = of(&self.queue, QUEUE.max(delay * 2).as_secs_f64() * 1e3);
        ensure!((1.0..=10_000.0).contains(&queue), "--queue goes from 1 to 10000, not {queue}");
        let bits_per_second = rate * 1e6;
        // A queue that cannot hold a few segments is none.
        let queue_bytes = (bits_per_second / 8.0 * queue / 1e3).max(10_000.0);
        Ok(Shape { bits_per_second, delay, queue_bytes, loss: loss / 100.0 })
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

/// Everything that was sent has arrived, in its place.
///
/// # Errors
/// What is missing or wrong.
pub fn clean(sent: u64, reading: &Reading) -> Result<()> {
    ensure!(reading.first_wrong.is_none(), "byte {:?} of the stream is wrong", reading.first_wrong);
    ensure!(reading.total == sent, "{sent} bytes were sent, {} arrived", reading.total);
    Ok(())
}
