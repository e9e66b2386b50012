//! The Prometheus exporter-toolkit's web configuration: TLS, passwords, headers and a rate limit, re-read when it changes.
//!
//! Where it differs from the toolkit, it is stricter: a reload cannot take away TLS, passwords or client certificates,
//! since a file that is half written looks just like one that asks for no protection.

mod file;
mod load;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use rustls::ServerConfig;
use tokio::time::Instant;

use super::auth::Users;
use super::rate::Bucket;
use super::stats::HttpStats;
use load::{Stamps, load};

pub(super) use load::Stamp;
pub use load::WebConfigError;

/// How often at most to look whether a file changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A web configuration that follows its file. The default one has no file and no protection.
#[derive(Default)]
pub struct WebConfig {
    path: Option<PathBuf>,
    check_interval: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    active: Active,
    stamps: Stamps,
    checked: Option<Instant>,
}

/// What is in force.
#[derive(Clone, Default)]
struct Active {
    protection: Protection,
    tls: Option<Arc<Tls>>,
    headers: Arc<Vec<(HeaderName, HeaderValue)>>,
    users: Option<Arc<Users>>,
    rate: Option<Arc<Bucket>>,
}

/// What accepts encrypted connections.
pub(super) struct Tls {
    pub(super) config: Arc<ServerConfig>,
    /// The names in the server's certificate.
    pub(super) names: Arc<[String]>,
    /// Whether a certificate that a client shows is verified.
    pub(super) verifies_clients: bool,
    /// Whether every client has to show one, and it is verified.
    requires_clients: bool,
}

/// What stands between the network and the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// Connections are encrypted.
    pub tls: bool,
    /// Requests need a user name and a password.
    pub basic_auth: bool,
    /// Clients need a certificate that is verified.
    pub client_certs: bool,
}

impl WebConfig {
    /// Reads a configuration file, and warns of what in it has no effect.
    pub fn load(path: &Path) -> Result<WebConfig, WebConfigError> {
        let mut stamps = Stamps::default();
        let loaded = load(path, None, &mut stamps)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let state = State { active: loaded.active, stamps, checked: Some(Instant::now()) };
        Ok(WebConfig { path: Some(path.to_owned()), check_interval: CHECK_INTERVAL, state: Mutex::new(state) })
    }

    /// Reads a configuration file, and looks for changes as often as it is asked.
    #[cfg(test)]
    pub(super) fn load_eager(path: &Path) -> Result<WebConfig, WebConfigError> {
        WebConfig::load(path).map(|config| WebConfig { check_interval: Duration::ZERO, ..config })
    }

    /// What protects the server.
    pub fn protection(&self) -> Protection {
        self.lock().active.protection
    }

    /// Re-reads the configuration if one of its files changed, looking at most once a second. One that cannot be used is
    /// reported once, and the one before stays in force.
    pub(super) fn refresh(&self, stats: &HttpStats) {
        let Some(path) = &self.path else { return };
        let mut state = self.lock();
        let now = Instant::now();
        if state.checked.is_some_and(|checked| now - checked < self.check_interval) {
            return;
        }
        state.checked = Some(now);
        if state.stamps.are_current() {
            return;
        }
        let mut stamps = Stamps::default();
        let reloaded = load(path, Some(&state.active), &mut stamps).and_then(|loaded| {
            kept(path, state.active.protection, loaded.active.protection)?;
            Ok(loaded)
        });
        state.stamps = stamps;
        stats.config_reload_failed.store(reloaded.is_err(), Relaxed);
        match reloaded {
            Ok(loaded) => {
                tracing::info!("{}: web configuration re-read", path.display());
                for warning in &loaded.warnings {
                    tracing::warn!("{warning}");
                }
                state.active = loaded.active;
            }
            Err(error) => {
                tracing::error!("{error}; the web configuration before this change stays in force")
            }
        }
    }

    pub(super) fn tls(&self) -> Option<Arc<Tls>> {
        self.lock().active.tls.clone()
    }

    pub(super) fn headers(&self) -> Arc<Vec<(HeaderName, HeaderValue)>> {
        self.lock().active.headers.clone()
    }

    pub(super) fn users(&self) -> Option<Arc<Users>> {
        self.lock().active.users.clone()
    }

    /// Whether the rate limit leaves room for one more request.
    pub(super) fn allows_by_rate(&self) -> bool {
        let rate = self.lock().active.rate.clone();
        rate.is_none_or(|bucket| bucket.take(Instant::now()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is in force is replaced as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That a reload takes no protection away.
fn kept(path: &Path, before: Protection, after: Protection) -> Result<(), WebConfigError> {
    let lost = [
        (before.tls && !after.tls, "TLS"),
        (before.basic_auth && !after.basic_auth, "basic authentication"),
        (before.client_certs && !after.client_certs, "client certificates"),
    ];
    match lost.iter().find(|(is_lost, _)| *is_lost) {
        None => Ok(()),
        Some((_, what)) => Err(WebConfigError {
            file: path.to_owned(),
            line: None,
            message: format!("would turn off {what}, which takes a restart of the agent"),
        }),
    }
}
