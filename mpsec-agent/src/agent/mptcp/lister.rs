//! Who lists sockets: a program on the kernel's walk where that can be had, else netlink.
//!
//! The program does not see connections that have no subflow left, and does not know which ones fell back to TCP. Netlink is
//! asked for connections when there is a sign of either, and now and then.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::kernel::sock_diag::SockDiag;
use crate::kernel::sockets_iter::SocketsIter;
use crate::snapshot::mptcp::TcpState;

use super::sockets::{ConnectionSocket, Sockets};

/// How often netlink is asked for connections although there is no sign that it knows more.
const ASK_INTERVAL: Duration = Duration::from_secs(30);
/// Of the counters of MPTCP: connections that are established, on this end at least (from Linux 6.8 on).
pub const ESTABLISHED: &str = "MPCurrEstab";

/// The sources of sockets.
pub struct Lister {
    /// Connections without subflows are not among them.
    iter: Option<SocketsIter>,
    diag: Result<SockDiag, String>,
    known: Known,
    /// Subflows and connections of the last list.
    room: [usize; 2],
}

/// What netlink told of connections that the program does not tell.
#[derive(Default)]
struct Known {
    asked_at: Option<Instant>,
    /// Connections without subflows.
    lonely: HashMap<u32, ConnectionSocket, RandomState>,
    /// Connections that fell back, which none of them takes back.
    fallen: HashSet<u32, RandomState>,
    /// Bits of `mptcp_sock.flags` that a connection had which had not fallen back.
    harmless: u64,
    /// By how much the kernel's own count of established connections is off.
    uncounted: i64,
}

impl Lister {
    /// Opens netlink in the network namespace that the calling thread is in.
    pub fn open(iter: Result<SocketsIter, String>) -> Lister {
        if let Err(reason) = &iter {
            tracing::info!(reason, "sockets are listed by netlink, which takes longer");
        }
        Lister { iter: iter.ok(), diag: SockDiag::open().map_err(text), known: Known::default(), room: [0; 2] }
    }

    /// Lists subflows; where they come with them, their connections too.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn subflows(&mut self) -> Result<Sockets, String> {
        let mut sockets = Sockets::default();
        if let Some(iter) = &mut self.iter {
            sockets.make_room(self.room);
            match iter.read(|listed| sockets.add(listed)) {
                Ok(()) => {
                    sockets.with_connections = true;
                    self.room = [sockets.subflows.len(), sockets.connections.len()];
                    return Ok(sockets);
                }
                Err(error) => {
                    tracing::warn!(%error, "sockets are listed by netlink from now on, which takes longer");
                    (self.iter, sockets) = (None, Sockets::default());
                }
            }
        }
        sockets.list_subflows(self.diag.as_mut().map_err(|error| error.clone())?).map_err(text)?;
        Ok(sockets)
    }

    /// Adds what is not known of connections yet; with `established` of them by the kernel's own count, if it has one.
    ///
    /// # Errors
    /// The kernel's refusal. What was known before is added then.
    pub fn connections(&mut self, sockets: &mut Sockets, established: Option<u64>) -> Result<(), String> {
        let now = Instant::now();
        if sockets.with_connections && !self.known.is_outdated(sockets, established, now) {
            self.known.complete(sockets);
            return Ok(());
        }
        let mut told = Sockets::default();
        let diag = self.diag.as_mut().map_err(|error| error.clone());
        let outcome = diag.and_then(|diag| told.list_connections(diag).map_err(text));
        if !sockets.with_connections {
            sockets.connections = told.connections;
            return outcome;
        }
        if outcome.is_ok() {
            self.known.learn(sockets, told.connections, established, now);
        }
        self.known.complete(sockets);
        outcome
    }
}

impl Known {
    /// Whether there is a sign that netlink would tell more.
    fn is_outdated(&self, sockets: &Sockets, established: Option<u64>, now: Instant) -> bool {
        let due = self.asked_at.is_none_or(|at| now.saturating_duration_since(at) >= ASK_INTERVAL);
        due || self.uncounted(sockets, established) != self.uncounted
            || sockets.marks.iter().any(|(token, flags)| flags & !self.harmless != 0 && !self.fallen.contains(token))
    }

    /// Takes note of what netlink told after the program.
    fn learn(
        &mut self,
        sockets: &Sockets,
        told: HashMap<u32, ConnectionSocket, RandomState>,
        established: Option<u64>,
        now: Instant,
    ) {
        self.asked_at = Some(now);
        self.fallen = told.iter().filter(|(_, connection)| connection.fell_back).map(|(token, _)| *token).collect();
        // Whoever has not fallen back by now had not when the program looked, so none of its bits says so.
        let healthy = sockets.marks.iter().filter(|(token, _)| told.get(token).is_some_and(|one| !one.fell_back));
        self.harmless = healthy.fold(self.harmless, |all, (_, flags)| all | flags);
        self.lonely = told.into_iter().filter(|(token, _)| !sockets.connections.contains_key(token)).collect();
        self.uncounted = self.uncounted(sockets, established);
    }

    /// Adds it to a list.
    fn complete(&self, sockets: &mut Sockets) {
        for token in &self.fallen {
            if let Some(connection) = sockets.connections.get_mut(token) {
                connection.fell_back = true;
            }
        }
        for (token, connection) in &self.lonely {
            sockets.connections.entry(*token).or_insert_with(|| connection.clone());
        }
    }

    /// Established connections by the kernel's count that are not known of.
    fn uncounted(&self, sockets: &Sockets, established: Option<u64>) -> i64 {
        let Some(established) = established else { return 0 };
        let lonely = self.lonely.iter().filter(|(token, _)| !sockets.connections.contains_key(token));
        let known = sockets.connections.iter().chain(lonely);
        let is_established = |state: TcpState| matches!(state, TcpState::Established | TcpState::CloseWait);
        established.cast_signed() - known.filter(|(_, one)| is_established(one.state)).count() as i64
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(fell_back: bool) -> ConnectionSocket {
        let ends = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        ConnectionSocket { ends, state: TcpState::Established, fell_back, data: None }
    }

    fn listed(tokens: &[u32], marks: &[(u32, u64)]) -> Sockets {
        let connections = tokens.iter().map(|token| (*token, connection(false))).collect();
        let mut sockets = Sockets::default();
        (sockets.connections, sockets.marks, sockets.with_connections) = (connections, marks.to_vec(), true);
        sockets
    }

    #[test]
    fn netlink_is_asked_when_it_knows_more_and_only_then() {
        let (mut known, now) = (Known::default(), Instant::now());
        let outdated = |known: &Known, sockets: &Sockets, count| known.is_outdated(sockets, Some(count), now);
        assert!(outdated(&known, &listed(&[1], &[]), 1), "it was never asked");
        // 2 has fallen back, 3 has no subflow, 1 has a bit that says nothing.
        let seen = listed(&[1, 2], &[(1, 8), (2, 4)]);
        let told = [(1, false), (2, true), (3, false)].map(|(token, fell_back)| (token, connection(fell_back)));
        known.learn(&seen, told.into_iter().collect(), Some(3), now);
        assert!(!outdated(&known, &seen, 3));
        assert!(known.is_outdated(&seen, Some(3), now + ASK_INTERVAL), "it is asked now and then");
        assert!(outdated(&known, &seen, 4), "somebody has no subflow");
        assert!(outdated(&known, &seen, 2), "3 is gone");
        assert!(!outdated(&known, &listed(&[1, 2, 3], &[]), 3), "3 has a subflow again");
        assert!(outdated(&known, &listed(&[1, 2], &[(1, 4)]), 3), "1 may have fallen back");
        assert!(!outdated(&known, &listed(&[1, 2], &[(1, 8)]), 3));
        let mut sockets = seen;
        known.complete(&mut sockets);
        let fell_back = |token: u32| sockets.connections.get(&token).map(|one| one.fell_back);
        assert_eq!([1, 2, 3].map(fell_back), [Some(false), Some(true), Some(false)]);
    }
}
