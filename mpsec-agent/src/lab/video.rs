//! A video over HTTP/1.1: a server of segments and a client that fetches one after the other over one connection.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::player::Player;
use super::topology::Topology;
use super::traffic::{GLANCE, is_timeout, pattern};
use crate::kernel::stream::Protocol;

/// How long a segment plays.
pub const SEGMENT: Duration = Duration::from_secs(1);
/// How often a player with a full buffer looks whether there is room.
const BEAT: Duration = Duration::from_millis(5);
/// The most that is read or written at once.
const PIECE: usize = 64 << 10;

/// What is played.
#[derive(Clone, Copy, Debug)]
pub struct Video {
    /// Bits per second.
    pub bits_per_second: f64,
    /// Segments of [`SEGMENT`].
    pub segments: u32,
    /// What the player buffers.
    pub buffer: Duration,
    /// How long it may take beside its own length before it is given up.
    pub patience: Duration,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Played {
    /// How long the player stood still, each time.
    pub stalls: Vec<Duration>,
    /// Segments that were fetched, every byte of them as it should be.
    pub segments: u32,
}

impl Video {
    /// Plays it over path 0.
    ///
    /// # Errors
    /// When the connection breaks, or a byte is wrong.
    pub fn play(&self, topology: &Topology, protocol: Protocol) -> Result<Played> {
        let listener = topology.listen(protocol)?;
        let client = topology.connect(protocol, 0)?;
        let server = listener.accept().context("accept")?.0;
        for stream in [&client, &server] {
            Topology::prepare(stream)?;
            stream.set_read_timeout(Some(GLANCE))?;
            stream.set_write_timeout(Some(GLANCE))?;
        }
        let ending = Arc::new(AtomicBool::new(false));
        let (end, bytes) = (Arc::clone(&ending), self.segment_bytes());
        let server = thread::Builder::new().name("lab-http".into()).spawn(move || serve(&server, bytes, &end))?;
        let played = self.watch(client, &ending);
        ending.store(true, Ordering::Relaxed);
        server.join().map_err(|_| anyhow!("the HTTP server panicked"))?.context("the HTTP server")?;
        played
    }

    fn segment_bytes(&self) -> usize {
        (self.bits_per_second / 8.0 * SEGMENT.as_secs_f64()) as usize
    }

    /// The clock runs here; fetching has a thread of its own, because it may hang.
    fn watch(&self, client: TcpStream, ending: &Arc<AtomicBool>) -> Result<Played> {
        let player = Arc::new(Mutex::new(Player::new(self.segments, SEGMENT, self.buffer)));
        let (start, shared, end, segments) = (Instant::now(), Arc::clone(&player), Arc::clone(ending), self.segments);
        let body = move || fetch_all(client, &shared, start, segments, &end);
        let fetcher = thread::Builder::new().name("lab-player".into()).spawn(body)?;
        let limit = SEGMENT * self.segments + self.patience;
        while start.elapsed() < limit && !lock(&player, start).is_finished() {
            thread::sleep(BEAT);
        }
        ending.store(true, Ordering::Relaxed);
        let segments = fetcher.join().map_err(|_| anyhow!("the player panicked"))??;
        let player = player.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Played { stalls: player.stalls(), segments })
    }
}

/// The player, at the present time.
fn lock(player: &Mutex<Player>, start: Instant) -> std::sync::MutexGuard<'_, Player> {
    let mut player = player.lock().unwrap_or_else(PoisonError::into_inner);
    player.advance(start.elapsed());
    player
}

/// Fetches segments as there is room for them, and says how many came.
fn fetch_all(
    client: TcpStream,
    player: &Mutex<Player>,
    start: Instant,
    segments: u32,
    ending: &AtomicBool,
) -> Result<u32> {
    let mut stream = BufReader::with_capacity(PIECE, client);
    let mut count = 0;
    while count < segments && !ending.load(Ordering::Relaxed) {
        if !lock(player, start).wants() {
            thread::sleep(BEAT);
            continue;
        }
        if !fetch(&mut stream, count, ending).with_context(|| format!("segment {count}"))? {
            break;
        }
        lock(player, start).add(start.elapsed());
        count += 1;
    }
    Ok(count)
}

/// Fetches a segment and looks at each byte; false if that was given up.
fn fetch(stream: &mut BufReader<TcpStream>, number: u32, ending: &AtomicBool) -> Result<bool> {
    let request = format!("GET /segments/{number} HTTP/1.1\r\nHost: server\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes())?;
    let Some(head) = read_head(stream, ending)? else { return Ok(false) };
    ensure!(head.starts_with("HTTP/1.1 200 "), "the server said {:?}", head.lines().next());
    let len: usize = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .context("no Content-Length")?;
    let (mut buffer, mut got) = (vec![0; PIECE], 0);
    while got < len {
        let room = buffer.len().min(len - got);
        match stream.read(&mut buffer[..room]) {
            Ok(0) => bail!("the connection ended after {got} of {len} bytes"),
            Ok(count) => {
                ensure!(buffer[..count] == *pattern(position(number, len, got), count), "a wrong byte behind {got}");
                got += count;
            }
            Err(error) if is_timeout(&error) && ending.load(Ordering::Relaxed) => return Ok(false),
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Where a byte of a segment lies in the whole video.
fn position(number: u32, len: usize, at: usize) -> u64 {
    u64::from(number) * len as u64 + at as u64
}

/// Answers requests for segments until the client closes or the end is wanted.
fn serve(stream: &TcpStream, bytes: usize, ending: &AtomicBool) -> Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(head) = read_head(&mut reader, ending)? {
        let number = head.strip_prefix("GET /segments/").and_then(|rest| rest.split(' ').next());
        let number: u32 = number.and_then(|number| number.parse().ok()).context("a request for no segment")?;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: {bytes}\r\n\r\n");
        write_while(stream, head.as_bytes(), ending)?;
        let mut sent = 0;
        while sent < bytes && !ending.load(Ordering::Relaxed) {
            let piece = pattern(position(number, bytes, sent), bytes - sent);
            write_while(stream, piece, ending)?;
            sent += piece.len();
        }
    }
    Ok(())
}

/// A request's or an answer's head up to its empty line; `None` at the end of the stream, or when the end is wanted.
fn read_head(stream: &mut BufReader<impl io::Read>, ending: &AtomicBool) -> Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match stream.read_line(&mut head) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if is_timeout(&error) && ending.load(Ordering::Relaxed) => return Ok(None),
            Err(error) if is_timeout(&error) => {}
            // The player has closed, and wants no more.
            Err(_) if ending.load(Ordering::Relaxed) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(head))
}

/// Writes all of it, unless the end is wanted meanwhile.
fn write_while(mut stream: &TcpStream, mut bytes: &[u8], ending: &AtomicBool) -> Result<()> {
    while !bytes.is_empty() && !ending.load(Ordering::Relaxed) {
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if is_timeout(&error) => {}
            Err(_) if ending.load(Ordering::Relaxed) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_empty_line() {
        let ending = AtomicBool::new(false);
        let mut stream = BufReader::new(&b"GET /segments/3 HTTP/1.1\r\nHost: a\r\n\r\nrest"[..]);
        let head = read_head(&mut stream, &ending).unwrap();
        assert_eq!(head.as_deref(), Some("GET /segments/3 HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "rest");
        assert_eq!(read_head(&mut BufReader::new(&b"GET"[..]), &ending).unwrap(), None);
    }
}
