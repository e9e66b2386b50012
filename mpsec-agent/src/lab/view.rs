//! What is seen while a scenario runs: what each path carries, on standard error.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::wire::{Path, Way};

/// From one line to the next.
const STEP: Duration = Duration::from_millis(500);
/// Characters of a bar that is full.
const BAR: usize = 12;

/// How much is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Nothing.
    Quiet,
    /// A line after the other.
    Lines,
    /// One line that changes.
    Live,
}

impl View {
    /// As much as is asked for and standard error can show.
    #[must_use]
    pub fn new(is_quiet: bool, is_json: bool) -> View {
        match (is_quiet, io::stderr().is_terminal()) {
            (true, _) => View::Quiet,
            (false, true) => View::Live,
            (false, false) if is_json => View::Quiet,
            (false, false) => View::Lines,
        }
    }

    /// Shows what the paths carry towards one host until the guard is dropped.
    #[must_use]
    pub fn watch(self, title: &str, paths: &Arc<Vec<Path>>, way: Way) -> Watch {
        let (stop, stopped) = channel();
        if self == View::Quiet {
            return Watch { stop: Some(stop), thread: None };
        }
        let (title, paths) = (title.to_owned(), Arc::clone(paths));
        let body = move || {
            let bytes = || paths.iter().map(|path| path.carried(way).frame_bytes()).collect::<Vec<_>>();
            let (start, mut before, mut then) = (Instant::now(), bytes(), Instant::now());
            while stopped.recv_timeout(STEP) == Err(RecvTimeoutError::Timeout) {
                let (now, seconds) = (bytes(), then.elapsed().as_secs_f64());
                then = Instant::now();
                let rates: Vec<_> =
                    now.iter().zip(&before).map(|(now, before)| (now - before) as f64 * 8.0 / seconds).collect();
                let full = paths.iter().map(|path| path.shape().bits_per_second);
                self.show(&line(&title, start.elapsed(), rates.into_iter().zip(full)));
                before = now;
            }
            if self == View::Live {
                let _ = writeln!(io::stderr());
            }
        };
        // Without a thread nothing is seen, and all is measured the same.
        let thread = thread::Builder::new().name("lab-view".into()).spawn(body).ok();
        Watch { stop: Some(stop), thread }
    }

    fn show(self, line: &str) {
        let mut error = io::stderr();
        let _ = match self {
            View::Live => write!(error, "\r\x1b[K{line}").and_then(|()| error.flush()),
            _ => writeln!(error, "{line}"),
        };
    }
}

/// Shows until it is dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A title, and a bar with a rate in Mbit/s for each path. `rates` are pairs of what is and what would be full.
fn line(title: &str, at: Duration, rates: impl Iterator<Item = (f64, f64)>) -> String {
    let mut line = format!("{title:<22} {:5.1} s", at.as_secs_f64());
    let mut sum = 0.0;
    for (path, (rate, full)) in rates.enumerate() {
        let filled = ((rate / full * BAR as f64).round() as usize).min(BAR);
        let _ = write!(line, "  {path} [{:<BAR$}] {:5.1}", "#".repeat(filled), rate / 1e6);
        sum += rate;
    }
    let _ = write!(line, "  all {:5.1} Mbit/s", sum / 1e6);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_rates_are_high() {
        let line = line("all", Duration::from_millis(1500), [(10e6, 20e6), (30e6, 20e6)].into_iter());
        assert_eq!(
            line,
            "all                      1.5 s  0 [######      ]  10.0  1 [############]  30.0  all  40.0 Mbit/s"
        );
    }
}
