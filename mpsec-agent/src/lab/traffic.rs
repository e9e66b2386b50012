//! What crosses the paths: bytes that tell where they belong, a sender that keeps a pace, a reader that looks at each byte.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::series::Arrival;

/// The pattern repeats after so many bytes, a prime: neither a segment's nor a buffer's length hides a shift.
const PERIOD: usize = 262_139;
/// The most that is written or read at once.
const PIECE: usize = 64 << 10;
/// How often a sender with a pace sends.
const BEAT: Duration = Duration::from_millis(5);
/// How long a sender or a reader waits before it looks whether it shall end.
pub(super) const GLANCE: Duration = Duration::from_millis(100);

/// The period, and as much behind it as is ever looked at.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let byte = |at: usize| ((at % PERIOD) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) as u8;
    (0..PERIOD + PIECE).map(byte).collect()
});

/// The bytes that belong at `position` of a stream, at most 64 KiB.
#[must_use]
pub fn pattern(position: u64, len: usize) -> &'static [u8] {
    let begin = (position % PERIOD as u64) as usize;
    &PATTERN[begin..begin + len.min(PIECE)]
}

/// How fast a sender sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as the socket takes it.
    Bulk,
    /// So many bits per second; what the socket did not take in time follows as soon as it does.
    BitsPerSecond(f64),
}

/// A thread that sends.
#[derive(Debug)]
pub struct Sender {
    ending: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Sender {
    /// Begins to send.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(stream: TcpStream, pace: Pace) -> Result<Sender> {
        stream.set_write_timeout(Some(GLANCE))?;
        let ending = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ending);
        let body = move || send(&stream, pace, &end);
        let thread = thread::Builder::new().name("lab-sender".into()).spawn(body)?;
        Ok(Sender { ending, thread })
    }

    /// Sends no more, and says so to the peer. Gives the number of bytes that the socket took.
    ///
    /// # Errors
    /// Those of the sending.
    pub fn finish(self) -> Result<u64> {
        self.ending.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the sender panicked"))?
    }
}

fn send(mut stream: &TcpStream, pace: Pace, ending: &AtomicBool) -> Result<u64> {
    let (start, mut sent) = (Instant::now(), 0u64);
    while !ending.load(Ordering::Relaxed) {
        let due = match pace {
            Pace::Bulk => PIECE as u64,
            Pace::BitsPerSecond(rate) => ((start.elapsed().as_secs_f64() * rate / 8.0) as u64).saturating_sub(sent),
        };
        if due == 0 {
            thread::sleep(BEAT);
            continue;
        }
        let len = usize::try_from(due).unwrap_or(PIECE);
        match stream.write(pattern(sent, len)) {
            Ok(len) => sent += len as u64,
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error).with_context(|| format!("send after {sent} bytes")),
        }
        if pace != Pace::Bulk {
            thread::sleep(BEAT);
        }
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(sent)
}

/// A thread that reads to the end.
#[derive(Debug)]
pub struct Reader {
    /// When it began: what arrivals are told from.
    pub start: Instant,
    total: Arc<AtomicU64>,
    ending: Arc<AtomicBool>,
    thread: JoinHandle<Result<Reading>>,
}

/// What a reader got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Every piece.
    pub arrivals: Vec<Arrival>,
    /// All bytes.
    pub total: u64,
    /// Where the first byte was that did not belong there.
    pub first_wrong: Option<u64>,
}

impl Reader {
    /// Begins to read.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(stream: TcpStream) -> Result<Reader> {
        stream.set_read_timeout(Some(GLANCE))?;
        let (total, ending) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end, start) = (Arc::clone(&total), Arc::clone(&ending), Instant::now());
        let body = move || read(&stream, start, &count, &end);
        let thread = thread::Builder::new().name("lab-reader".into()).spawn(body)?;
        Ok(Reader { start, total, ending, thread })
    }

    /// Bytes up to now.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Waits for the end of the stream, or no longer than `patience`, and gives what came.
    ///
    /// # Errors
    /// Those of the reading.
    pub fn finish(self, patience: Duration) -> Result<Reading> {
        let limit = Instant::now() + patience;
        while !self.thread.is_finished() && Instant::now() < limit {
            thread::sleep(BEAT);
        }
        self.ending.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the reader panicked"))?
    }
}

fn read(mut stream: &TcpStream, start: Instant, total: &AtomicU64, ending: &AtomicBool) -> Result<Reading> {
    let mut buffer = vec![0; PIECE];
    let mut reading = Reading::default();
    while !ending.load(Ordering::Relaxed) {
        let len = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if is_timeout(&error) => continue,
            Err(error) => return Err(error).with_context(|| format!("read after {} bytes", reading.total)),
        };
        reading.add(start.elapsed(), &buffer[..len]);
        total.store(reading.total, Ordering::Relaxed);
    }
    Ok(reading)
}

impl Reading {
    fn add(&mut self, at: Duration, piece: &[u8]) {
        let expected = pattern(self.total, piece.len());
        if self.first_wrong.is_none() && piece != expected {
            let same = piece.iter().zip(expected).take_while(|(have, want)| have == want).count();
            self.first_wrong = Some(self.total + same as u64);
        }
        self.total += piece.len() as u64;
        self.arrivals.push(Arrival { at, bytes: piece.len() as u64 });
    }
}

/// Whether a socket with a time limit has only had to wait.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_position_has_its_bytes() {
        let position = PERIOD as u64 - 10;
        let piece = [pattern(position, 10), pattern(position + 10, 20)].concat();
        assert_eq!(pattern(position, 30), piece);
        assert_ne!(pattern(0, 1000), pattern(1448, 1000));
        assert_ne!(pattern(0, 1000), pattern(65536, 1000));
    }

    #[test]
    fn a_byte_in_the_wrong_place_is_found() {
        let mut reading = Reading::default();
        reading.add(Duration::ZERO, pattern(0, 100));
        assert_eq!(reading.first_wrong, None);
        let mut piece = pattern(100, 50).to_vec();
        piece[7] ^= 1;
        reading.add(Duration::ZERO, &piece);
        assert_eq!((reading.first_wrong, reading.total), (Some(107), 150));
    }

    #[test]
    fn a_missing_piece_is_found() {
        let mut reading = Reading::default();
        reading.add(Duration::ZERO, pattern(0, 100));
        reading.add(Duration::ZERO, pattern(1548, 100));
        assert!(reading.first_wrong.is_some());
    }
}
