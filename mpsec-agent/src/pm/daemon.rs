//! The driver: listens to the kernel, lists sockets, and makes the requests that the book asks for.

mod listing;
mod perform;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::book::Book;
use super::happening::Happening;
use super::locals::{Local, LocalsError};
use super::request::Request;
use super::settings::Settings;
use super::stats::Stats;
use crate::kernel::link::Overflow;
use crate::kernel::mptcp_pm::{Event, Events, PathManager, PathManagerError};
use crate::kernel::sock_diag::SockDiag;

/// Room for events in bytes, which is enough for tens of thousands.
const RECEIVE_BUFFER: i32 = 16 * 1024 * 1024;
/// Requests that are made at once: what each takes is some ten microseconds, and others wait.
const MOST_AT_ONCE: usize = 256;
/// After an overflow, what is left of the events is read before the sockets are listed.
const SETTLE: Duration = Duration::from_millis(20);
/// How often sockets are listed though nothing is amiss. The kernel tells the end of a subflow only while its connection is
/// open both ways (mptcp_close_ssk, net/mptcp/protocol.c, Linux 6.18).
const LIST_EVERY: Duration = Duration::from_secs(30);
/// After a list that could not be had.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// Lists take no more than one part in so many of the time.
const LIST_SHARE: u32 = 20;

/// A path manager for one network namespace.
///
/// Whoever owns it waits for [`Daemon::news`] and hands them to [`Daemon::observe`]; nothing else need be done. While it is
/// open, the kernel lets connections under the path manager of user space accept joins; without anybody who listens to events,
/// in whatever network namespace of the host, it refuses all of them (mptcp_pm_allow_new_subflow, net/mptcp/pm.c;
/// netlink_has_listeners, net/netlink/af_netlink.c; Linux 6.18). It leaves the setting of the path manager alone.
pub struct Daemon {
    book: Book,
    events: Events,
    manager: PathManager,
    diag: SockDiag,
    requests: VecDeque<Request>,
    list_at: Instant,
    list_not_before: Instant,
}

/// Something to be handed to [`Daemon::observe`].
#[derive(Debug)]
pub enum News {
    /// Events, or that some were lost, or why there will be none any more.
    Events(io::Result<Result<Vec<Event>, Overflow>>),
    /// A pause is over, a list is due or requests wait.
    Due,
}

impl Daemon {
    /// Opens it in the calling thread's network namespace, and takes over the connections that are there. Needs a runtime of
    /// tokio with its clock, and CAP_NET_ADMIN.
    ///
    /// # Errors
    /// When the kernel has no MPTCP, tells no events, or cannot list MPTCP sockets.
    pub fn open(settings: Settings) -> Result<Daemon, PathManagerError> {
        Daemon::open_with(settings, RECEIVE_BUFFER)
    }

    /// The same with room for events of so many bytes.
    pub fn open_with(settings: Settings, receive_buffer: i32) -> Result<Daemon, PathManagerError> {
        // Whatever begins after this is told, and what is there already is listed.
        let events = Events::subscribe_with(receive_buffer)?;
        let now = Instant::now();
        let mut daemon = Daemon {
            book: Book::new(settings),
            events,
            manager: PathManager::open()?,
            diag: SockDiag::open()?,
            requests: VecDeque::new(),
            list_at: now + LIST_EVERY,
            list_not_before: now,
        };
        let listing = listing::list(&mut daemon.diag)?;
        let requests = daemon.book.resync(&listing, now);
        daemon.requests.extend(requests);
        Ok(daemon)
    }

    /// Waits for something to do. Cancelling it loses nothing.
    pub async fn news(&mut self) -> News {
        let due = tokio::time::Instant::from_std(self.next_due());
        tokio::select! {
            biased;
            events = self.events.next() => News::Events(events),
            () = tokio::time::sleep_until(due) => News::Due,
        }
    }

    /// Does what news ask for. Takes a few milliseconds at most, but for lists, which take a few microseconds a socket.
    ///
    /// # Errors
    /// When the subscription to events is broken: then nothing will be told any more, and it should be opened anew.
    pub fn observe(&mut self, news: News) -> io::Result<()> {
        match news {
            News::Events(Ok(Ok(events))) => {
                let now = Instant::now();
                for (token, happening) in events.iter().filter_map(Happening::of) {
                    let requests = self.book.observe(token, &happening, now);
                    self.requests.extend(requests);
                }
            }
            News::Events(Ok(Err(Overflow))) => {
                self.book.counters_mut().overflows += 1;
                self.list_soon();
            }
            News::Events(Err(error)) => return Err(error),
            News::Due => {}
        }
        self.beat();
        Ok(())
    }

    /// Does what is due. [`Daemon::observe`] does so as well.
    pub fn beat(&mut self) {
        let now = Instant::now();
        if self.book.wants_listing() {
            self.list_soon();
        }
        if now >= self.list_at {
            self.list(now);
        }
        let requests = self.book.beat(now);
        self.requests.extend(requests);
        self.perform();
    }

    /// Takes over the local addresses of the moment. Of those that are gone peers are told, and their subflows ended.
    ///
    /// # Errors
    /// When addresses or their ids contradict each other; then nothing changes.
    pub fn set_locals(&mut self, locals: Vec<Local>) -> Result<(), LocalsError> {
        let requests = self.book.set_locals(locals, Instant::now())?;
        self.requests.extend(requests);
        self.perform();
        Ok(())
    }

    /// Takes over other settings, for the connections that there are, too.
    pub fn set_settings(&mut self, settings: Settings) {
        let requests = self.book.set_settings(settings, Instant::now());
        self.requests.extend(requests);
        self.perform();
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        self.book.settings()
    }

    /// The book of connections.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Where it stands.
    pub fn stats(&self) -> Stats {
        self.book.stats(Instant::now())
    }

    /// Stops listening. Subflows stay as they are; unless another path manager listens, no join is accepted from now on by
    /// connections that have the path manager of user space.
    pub fn close(self) -> Stats {
        self.stats()
    }

    fn next_due(&self) -> Instant {
        let due = self.book.next_due().unwrap_or(self.list_at).min(self.list_at);
        if self.requests.is_empty() { due } else { Instant::now() }
    }

    fn list_soon(&mut self) {
        let soon = (Instant::now() + SETTLE).max(self.list_not_before);
        self.list_at = self.list_at.min(soon);
    }

    fn list(&mut self, now: Instant) {
        match listing::list(&mut self.diag) {
            Ok(listing) => {
                let requests = self.book.resync(&listing, Instant::now());
                self.requests.extend(requests);
                self.list_at = now + LIST_EVERY;
                self.list_not_before = Instant::now() + now.elapsed() * LIST_SHARE;
            }
            Err(error) => {
                tracing::warn!(%error, "the connections of MPTCP could not be listed");
                self.book.counters_mut().resyncs_failed += 1;
                // Whatever events ask for a list meanwhile: each would try, and tell of it.
                self.list_at = now + LIST_AGAIN;
                self.list_not_before = self.list_at;
            }
        }
    }

    /// Makes requests that wait, up to a number.
    fn perform(&mut self) {
        for _ in 0..MOST_AT_ONCE {
            let Some(request) = self.requests.pop_front() else { return };
            // The connection may have ended meanwhile.
            if self.book.connection(request.token()).is_none() {
                continue;
            }
            let outcome = perform::perform(&mut self.manager, &request);
            if let Err(refusal) = &outcome {
                tracing::debug!(token = request.token(), %request, why = refusal.text, "refused");
            }
            let next = self.book.told(&request, outcome, Instant::now());
            self.requests.extend(next);
        }
    }
}
