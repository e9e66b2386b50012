//! HTTP: what the agent shows, to whom, and how much of itself it gives to do so.
//!
//! ```text
//! accept (server) -> place (registry) -> bytes, time (connection, watched, limits) -> TLS (tls, san)
//!        -> count, headers, rate, password (layers, auth, rate) -> route (routes) -> format, compression (negotiate)
//! ```
//!
//! - A client can take a place, bytes and time only within [`Limits`]. When a place is needed, whoever uses his least
//!   loses it, so that clients that say nothing never keep a scrape out.
//! - Routes ask a [`Site`]; none touches the kernel. Whatever is in front of a route is in front of all.
//! - Nothing but `v1::actions` changes anything, over HTTPS alone, for clients that proved who they are; see [`Access`].
//! - What the web configuration asks for is done, or refused with file and line; see [`WebConfig`].

mod access;
mod auth;
mod channel;
mod connection;
mod layers;
mod limits;
mod negotiate;
mod rate;
mod registry;
mod routes;
mod san;
mod server;
mod stats;
#[cfg(test)]
mod tests;
mod tls;
mod v1;
mod watched;
mod web_config;

pub use access::{Access, TokenError};
pub use limits::{Limits, Streaming};
pub use negotiate::{Encoding, Format};
pub use routes::{AskFuture, Site, SiteError, SiteFuture, SnapshotFuture, router};
pub use server::{BindError, Server, exposure};
pub use stats::{HttpSnapshot, HttpStats, OTHER_HANDLER, RequestCount};
pub use web_config::{Protection, WebConfig, WebConfigError};
