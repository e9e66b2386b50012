//! A stream at a constant rate while the path that carries most of it fails and comes back.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::fault::{Fault, Victim};
use super::series::{first_at_rate, longest_gap};
use super::topology::{Host, Topology};
use super::traffic::{Pace, Reader, Reading, Sender};
use super::view::View;
use super::wire::{Path, Way};
use crate::kernel::stream::Protocol;

/// What a path carries in this time before the fault makes it the busiest.
const LATELY: Duration = Duration::from_millis(500);
/// The full rate is that of so long a time.
const WINDOW: Duration = Duration::from_millis(200);
/// Less than all, because a window may begin or end within a segment.
const FULL: f64 = 0.95;
/// A path is in use again when it has carried so many bytes: a dozen segments, more than what was on its way when it failed
/// and is sent once more.
const IN_USE: u64 = 16 << 10;
/// A shorter gap is none: the full rate may be there from the begin.
const INTERRUPTION: Duration = Duration::from_millis(50);
/// How exactly it is known when a path carries again.
const GLANCE: Duration = Duration::from_millis(2);
/// How long the last bytes may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is done, and when.
#[derive(Clone, Copy, Debug)]
pub struct Pull {
    /// How the path fails.
    pub fault: Fault,
    /// Which one.
    pub victim: Victim,
    /// The host that sends.
    pub sender: Host,
    /// Bits per second of the stream.
    pub bits_per_second: f64,
    /// From the start to the fault.
    pub before: Duration,
    /// From the fault to its end.
    pub during: Duration,
    /// From there to the end of the stream.
    pub after: Duration,
}

/// What a reader noticed.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The path that failed.
    pub victim: usize,
    /// The longest time without a byte before the fault.
    pub usual_gap: Duration,
    /// The longest time without a byte while the path was gone.
    pub longest_gap: Duration,
    /// The longest time without a byte from when it was back.
    pub gap_when_back: Duration,
    /// Bytes that were sent and did not arrive.
    pub lost_bytes: u64,
    /// Where the first byte was that did not belong there.
    pub first_wrong: Option<u64>,
    /// From the fault to when the reader had the full rate again of what was left; absent if it never had.
    pub full_rate_after: Option<Duration>,
    /// From the end of the fault to when that path had carried a dozen segments; absent if it never had.
    pub used_after: Option<Duration>,
}

impl Pull {
    /// Does it on a connection of MPTCP that begins on path 0. The topology has its endpoints.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn run(&self, topology: &Topology, view: View, title: &str) -> Result<Pulled> {
        let paths = topology.paths();
        let way = self.way();
        let _watch = view.watch(title, paths, way);
        let connection = topology.open(Protocol::Mptcp, 0)?;
        let (from, to) = match self.sender {
            Host::Client => (&connection.client, &connection.server),
            Host::Server => (&connection.server, &connection.client),
        };
        let reader = Reader::start(to.try_clone()?)?;
        let start = reader.start;
        let sender = Sender::start(from.try_clone()?, Pace::BitsPerSecond(self.bits_per_second))?;
        let busiest = self.busiest(paths);
        let victim = match self.victim {
            Victim::First => 0,
            Victim::Second => 1,
            Victim::Busiest => busiest,
        };
        let path = paths.get(victim).context("no such path")?;
        let failed_at = start.elapsed();
        self.fault.begin(path)?;
        thread::sleep(self.during);
        let carried = path.carried(way).payload_bytes();
        let repaired_at = start.elapsed();
        self.fault.end(path)?;
        let used_at = wait_for_use(path, (way, carried), start, repaired_at + self.after);
        let end = start.elapsed();
        let sent = sender.finish().context("the connection broke")?;
        let reading = reader.finish(PATIENCE).context("the connection broke")?;
        ensure!(reading.total > 0, "nothing arrived");
        let rate = self.bits_per_second.min(left(paths, victim)) * FULL;
        Ok(Times { failed_at, repaired_at, used_at, end }.judge(victim, sent, &reading, rate))
    }

    /// Where the data goes.
    fn way(&self) -> Way {
        match self.sender {
            Host::Client => Way::Up,
            Host::Server => Way::Down,
        }
    }

    /// Waits for the fault's time and gives the path that carried most lately; the first of several.
    fn busiest(&self, paths: &[Path]) -> usize {
        let bytes = || paths.iter().map(|path| path.carried(self.way()).payload_bytes()).collect::<Vec<_>>();
        thread::sleep(self.before.saturating_sub(LATELY));
        let then = bytes();
        thread::sleep(LATELY);
        let lately = bytes().into_iter().zip(then).map(|(now, then)| now - then).enumerate().rev();
        lately.max_by_key(|(_, bytes)| *bytes).map_or(0, |(path, _)| path)
    }
}

/// Waits until `end`, and gives the time at which the path had carried more payload than it had, by what makes it used.
fn wait_for_use(path: &Path, (way, carried): (Way, u64), start: Instant, end: Duration) -> Option<Duration> {
    let mut used_at = None;
    while start.elapsed() < end {
        if used_at.is_none() && path.carried(way).payload_bytes() > carried + IN_USE {
            used_at = Some(start.elapsed());
        }
        thread::sleep(GLANCE);
    }
    used_at
}

/// Bits per second of all paths but one.
fn left(paths: &[Path], victim: usize) -> f64 {
    let rest = paths.iter().enumerate().filter(|(path, _)| *path != victim);
    rest.map(|(_, path)| path.shape().bits_per_second).sum()
}

/// What happened when, from the start of the reading.
#[derive(Clone, Copy, Debug)]
struct Times {
    failed_at: Duration,
    repaired_at: Duration,
    used_at: Option<Duration>,
    end: Duration,
}

impl Times {
    fn judge(self, victim: usize, sent: u64, reading: &Reading, rate: f64) -> Pulled {
        let Times { failed_at, repaired_at, used_at, end } = self;
        let arrivals = &reading.arrivals;
        let (gap_at, gap) = longest_gap(arrivals, failed_at, repaired_at);
        let from = if gap < INTERRUPTION { failed_at } else { gap_at + gap };
        let full = first_at_rate(arrivals, (from, repaired_at), WINDOW, rate);
        Pulled {
            victim,
            usual_gap: longest_gap(arrivals, failed_at / 2, failed_at).1,
            longest_gap: gap,
            gap_when_back: longest_gap(arrivals, repaired_at, end).1,
            lost_bytes: sent.saturating_sub(reading.total),
            first_wrong: reading.first_wrong,
            full_rate_after: full.map(|at| at.saturating_sub(failed_at)),
            used_after: used_at.map(|at| at.saturating_sub(repaired_at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::series::Arrival;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_failure_is_judged_from_its_begin() {
        // A thousand bytes each 10 ms; 250 ms of silence from 1 s on, and 50 ms when the path comes back at 2 s.
        let silent = |at: u64| (1000..1250).contains(&at) || (2100..2150).contains(&at);
        let times = (0..300).map(|step| step * 10).filter(|at| !silent(*at));
        let arrivals: Vec<_> = times.map(|at| Arrival { at: ms(at), bytes: 1000 }).collect();
        let total = arrivals.len() as u64 * 1000;
        let reading = Reading { arrivals, total, first_wrong: None };
        let times = Times { failed_at: ms(995), repaired_at: ms(2000), used_at: Some(ms(2300)), end: ms(2990) };
        let pulled = times.judge(1, total + 7, &reading, 0.95 * 800_000.0);
        assert_eq!((pulled.usual_gap, pulled.longest_gap), (ms(10), ms(255)));
        assert_eq!(pulled.gap_when_back, ms(60));
        assert_eq!((pulled.full_rate_after, pulled.used_after), (Some(ms(255)), Some(ms(300))));
        assert_eq!((pulled.lost_bytes, pulled.victim), (7, 1));
        let never = times.judge(1, total, &reading, 900_000.0);
        assert_eq!(never.full_rate_after, None);
    }
}
