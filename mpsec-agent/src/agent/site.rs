//! The agent as its HTTP server sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use crate::api::{AskFuture, Format, Site, SiteError, SiteFuture, SnapshotFuture};
use crate::control::ask::{Ask, Who};
use crate::control::{Commands, Depth};
use crate::publish::prometheus::{Dialect, render};

/// Renders snapshots for whoever asks.
pub struct AgentSite {
    commands: Commands,
    readiness: watch::Receiver<Result<(), String>>,
    /// Size of the last text, so that the next one's buffer need not grow.
    last_len: Arc<AtomicUsize>,
}

impl AgentSite {
    /// Asks the agent's loop through `commands`.
    pub fn new(commands: Commands, readiness: watch::Receiver<Result<(), String>>) -> AgentSite {
        AgentSite { commands, readiness, last_len: Arc::new(AtomicUsize::new(16 * 1024)) }
    }
}

impl Site for AgentSite {
    fn metrics(&self, format: Format) -> SiteFuture {
        let (commands, last_len) = (self.commands.clone(), self.last_len.clone());
        let dialect = match format {
            Format::Classic => Dialect::Classic,
            Format::OpenMetrics => Dialect::OpenMetrics,
        };
        Box::pin(async move {
            let snapshot = commands.snapshot(Depth::Metrics).await;
            let snapshot = snapshot.map_err(|error| SiteError::NotReady(error.to_string()))?;
            // A little more than last time: counters grow.
            let text = render(&snapshot, dialect, last_len.load(Ordering::Relaxed) + 4096);
            last_len.store(text.len(), Ordering::Relaxed);
            Ok(text)
        })
    }

    fn snapshot(&self) -> SnapshotFuture {
        let commands = self.commands.clone();
        Box::pin(async move {
            let snapshot = commands.snapshot(Depth::Full).await;
            snapshot.map_err(|error| SiteError::NotReady(error.to_string()))
        })
    }

    fn ask(&self, ask: Ask, who: Who) -> AskFuture {
        let commands = self.commands.clone();
        Box::pin(async move { commands.ask(ask, who).await })
    }

    fn ready(&self) -> Result<(), String> {
        self.readiness.borrow().clone()
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }
}
