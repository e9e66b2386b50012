//! The only way in: what the outside asks of the agent, and the local socket on which it asks.

pub mod actual;
pub mod apply;
pub mod ask;
pub mod audit;
pub mod away;
pub mod change;
pub mod client;
pub mod command_line;
pub mod desired;
pub mod live;
pub mod mode;
pub mod owned;
pub mod plan;
pub mod request;
pub mod settings;
pub mod show;
pub mod socket;
pub mod standalone;
pub mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::snapshot::Snapshot;

use ask::{Answer, Ask, AskError, Who};

/// How much of a snapshot is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// What metrics are made of. Subflows, and what TCP says of them, may be missing.
    Metrics,
    /// Everything.
    Full,
}

/// What is asked of the agent's loop. Handlers send these; they never touch the kernel themselves.
#[derive(Debug)]
pub enum Command {
    /// A fresh snapshot, of this depth at least.
    Snapshot(Depth, oneshot::Sender<Arc<Snapshot>>),
    /// To plan or to change something. That who asks may do so has been checked.
    Ask(Ask, Who, oneshot::Sender<Result<Answer, AskError>>),
    /// To read the configuration file again. That who asks may do so has been checked.
    Reload(oneshot::Sender<Result<(), AskError>>),
}

/// Sends commands to the agent's loop.
#[derive(Clone, Debug)]
pub struct Commands(mpsc::Sender<Command>);

/// The agent is on its way out.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the agent is stopping")]
pub struct Stopping;

impl Commands {
    /// A way to the loop, and the end at which the loop takes commands. So many can wait at a time; more wait to wait.
    pub fn channel() -> (Commands, mpsc::Receiver<Command>) {
        let (sender, receiver) = mpsc::channel(64);
        (Commands(sender), receiver)
    }

    /// A fresh snapshot of this depth at least. All that ask before it is taken get the same one.
    pub async fn snapshot(&self, depth: Depth) -> Result<Arc<Snapshot>, Stopping> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::Snapshot(depth, reply)).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }

    /// Asks for a plan or a change, and waits until it is done.
    pub async fn ask(&self, ask: Ask, who: Who) -> Result<Answer, AskError> {
        let stopping = |_| AskError::Failed(Stopping.to_string());
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::Ask(ask, who, reply)).await.map_err(|_| AskError::Failed(Stopping.to_string()))?;
        answer.await.map_err(stopping)?
    }

    /// Has the configuration file read again, and waits until it is in force.
    ///
    /// # Errors
    /// [`AskError::Wrong`] with why it is not: what was read before is.
    pub async fn reload(&self) -> Result<(), AskError> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::Reload(reply)).await.map_err(|_| AskError::Failed(Stopping.to_string()))?;
        answer.await.map_err(|_| AskError::Failed(Stopping.to_string()))?
    }
}
