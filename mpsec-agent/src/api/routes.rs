//! The routes that every agent has. They know nothing of the agent: a [`Site`] tells them what to show.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinError;

use super::negotiate::{Encoding, Format};
use super::stats::HttpStats;
use super::v1;
use crate::control::ask::{Answer, Ask, AskError, Who};
use crate::snapshot::Snapshot;

/// The answer to a scrape, to come.
pub type SiteFuture = Pin<Box<dyn Future<Output = Result<Bytes, SiteError>> + Send>>;

/// A snapshot, to come.
pub type SnapshotFuture = Pin<Box<dyn Future<Output = Result<Arc<Snapshot>, SiteError>> + Send>>;

/// What comes of a plan or a change, to come.
pub type AskFuture = Pin<Box<dyn Future<Output = Result<Answer, AskError>> + Send>>;

/// What the routes show, and have changed.
pub trait Site: Send + Sync + 'static {
    /// All metrics in this format. Called once a scrape, so it is the site's to share one rendering among several.
    fn metrics(&self, format: Format) -> SiteFuture;

    /// A fresh snapshot, for the JSON API. A site that has none is not ready.
    fn snapshot(&self) -> SnapshotFuture {
        Box::pin(async { Err(SiteError::NotReady("there is no snapshot".to_owned())) })
    }

    /// Plans or changes something. That who asks may do so has been checked.
    fn ask(&self, _ask: Ask, _who: Who) -> AskFuture {
        Box::pin(async { Err(AskError::Failed("nothing can be changed here".to_owned())) })
    }

    /// Whether the agent does its work, or the reason why it does not, or not yet.
    fn ready(&self) -> Result<(), String>;

    /// The agent's version, for the landing page.
    fn version(&self) -> &str;
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// Not now, but a later scrape may succeed: answered with 503.
    #[error("not ready: {0}")]
    NotReady(String),
    /// A failure: answered with 500.
    #[error("cannot collect metrics: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The routes `/`, `/metrics`, `/-/healthy`, `/-/ready` and the JSON API, with helpful answers to what is not there.
///
/// Further routes are merged into it, or it into them; only this one brings a fallback.
pub fn router(site: Arc<dyn Site>, stats: Arc<HttpStats>) -> Router {
    let scrapes = Arc::new(Scrapes { site, stats, busy: Arc::new(Semaphore::new(BUSY_THREADS)) });
    Router::new()
        .route("/", get(landing))
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(|| async { plain(StatusCode::OK, "healthy\n") }))
        .route("/-/ready", get(ready))
        .merge(v1::routes())
        .method_not_allowed_fallback(wrong_method)
        .fallback(not_found)
        .with_state(scrapes)
}

/// Threads that write or compress answers. More would only take cores from what the host is there for.
const BUSY_THREADS: usize = 2;
/// Below this a compressed body is not smaller by a packet.
const WORTH_COMPRESSING: usize = 1024;
/// From here on (about half a millisecond) a compression leaves the runtime's thread.
const WORTH_A_THREAD: usize = 256 * 1024;

/// What handlers share.
pub(super) struct Scrapes {
    pub(super) site: Arc<dyn Site>,
    pub(super) stats: Arc<HttpStats>,
    /// One permit for each thread that may be busy.
    busy: Arc<Semaphore>,
}

async fn metrics(State(scrapes): State<Arc<Scrapes>>, headers: HeaderMap) -> Response {
    let format = Format::from_headers(&headers);
    let body = match scrapes.site.metrics(format).await {
        Ok(body) => body,
        Err(error @ SiteError::NotReady(_)) => {
            return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"));
        }
        Err(error) => {
            // The answer says why, and counts; a log line a scrape would tell no more.
            tracing::debug!("/metrics: {error}");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
        }
    };
    let wanted = Encoding::from_headers(&headers);
    let (encoding, body) = scrapes.encode(wanted, body).await;
    scrapes.stats.count_scrape_bytes(encoding, body.len());
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if let Some(name) = encoding.header_value() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    response
}

impl Scrapes {
    /// Does what takes long off the runtime's thread, a few at a time.
    pub(super) async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let permit = self.busy.clone().acquire_owned().await;
        // The permit goes along: a client that goes away does not end what was begun for it.
        tokio::task::spawn_blocking(move || (work(), permit).0).await
    }

    /// Compresses as asked; where that fails or does not pay, the body goes as it is.
    pub(super) async fn encode(&self, wanted: Encoding, body: Bytes) -> (Encoding, Bytes) {
        if wanted == Encoding::Identity || body.len() < WORTH_COMPRESSING {
            return (Encoding::Identity, body);
        }
        let input = body.clone();
        let encoded = if body.len() < WORTH_A_THREAD {
            wanted.encode(input)
        } else {
            match self.off_thread(move || wanted.encode(input)).await {
                Ok(encoded) => encoded,
                Err(error) => Err(std::io::Error::other(error)),
            }
        };
        match encoded {
            Ok(encoded) => (wanted, encoded),
            Err(error) => {
                tracing::warn!("cannot compress an answer with {}, sent as it is: {error}", wanted.name());
                (Encoding::Identity, body)
            }
        }
    }
}

async fn ready(State(scrapes): State<Arc<Scrapes>>) -> Response {
    match scrapes.site.ready() {
        Ok(()) => plain(StatusCode::OK, "ready\n"),
        Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn landing(State(scrapes): State<Arc<Scrapes>>) -> Html<String> {
    let state = match scrapes.site.ready() {
        Ok(()) => ("ok", "ready".to_owned()),
        Err(reason) => ("wait", format!("not ready: {}", escape(&reason))),
    };
    let page = include_str!("landing.html")
        .replace("{{version}}", &escape(scrapes.site.version()))
        .replace("{{class}}", state.0)
        .replace("{{state}}", &state.1);
    Html(page)
}

async fn not_found(uri: Uri) -> Response {
    if v1::is_below(uri.path()) {
        return v1::not_found(&uri);
    }
    let path: String = uri.path().chars().take(100).collect();
    plain(
        StatusCode::NOT_FOUND,
        format!("no such page: {path}\nMetrics are at /metrics, the other pages are listed at /\n"),
    )
}

/// The router adds `Allow`.
async fn wrong_method(method: Method, uri: Uri) -> Response {
    if v1::is_below(uri.path()) {
        return v1::wrong_method(&method, &uri);
    }
    plain(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not for {}: use GET or HEAD\n", uri.path()))
}

/// A plain text answer that no cache keeps.
pub(super) fn plain(status: StatusCode, text: impl Into<Body>) -> Response {
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    (status, headers, text.into()).into_response()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
