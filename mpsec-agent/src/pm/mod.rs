//! The path manager in user space: it decides which subflows an MPTCP connection has where `net.mptcp.path_manager` (before
//! Linux 6.18: `pm_type`) leaves that to a program.
//!
//! ```text
//! kernel/mptcp_pm::Events ─┐
//! kernel/sock_diag (dump) ─┼─> Book (pure) ──> Request ──> kernel/mptcp_pm::PathManager
//! clock, local addresses ──┘     ^  Mode::plan                      │
//!                                └────────── told(request, outcome) ┘
//! ```
//! [`Book`] holds what is known of each connection and decides; [`Daemon`] listens, lists and asks. What is to be is said by
//! a [`mode`]. Nothing here is remembered across a restart: connections that are there are taken over from the kernel's list.

mod backoff;
mod book;
mod connection;
mod daemon;
mod happening;
mod locals;
pub mod mode;
mod reconcile;
mod request;
mod resync;
mod settings;
mod stats;
mod subflow;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use book::Book;
pub use connection::{Connection, Role};
pub use daemon::{Daemon, News};
pub use happening::Happening;
pub use locals::{Local, Locals, LocalsError};
pub use request::{Refusal, Request, Why};
pub use resync::{ListedConnection, ListedSubflow, Listing};
pub use settings::Settings;
pub use stats::{Counters, Failure, Stats};
pub use subflow::{Attempt, Ends, Origin, Pair, PairState, Remote, Subflow};
