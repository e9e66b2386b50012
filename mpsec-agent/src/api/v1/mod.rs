//! The JSON API, version 1: views of a snapshot, and what changes something.
//!
//! [`RESOURCES`] and [`ACTIONS`] are the two tables: the routes are made from them, and so is the OpenAPI document in docs/,
//! which a test compares with them. What is read changes nothing; what changes something goes through `gate`. Handlers ask the
//! site and never touch the kernel.

mod actions;
mod gate;
#[cfg(test)]
mod openapi;
mod problem;
mod query;
#[cfg(test)]
mod tests;
mod views;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;

use super::negotiate::Encoding;
use super::routes::{Scrapes, SiteError};
use crate::snapshot::Snapshot;
pub(super) use actions::is_action;
#[cfg(test)]
use actions::{ACTIONS, Action};
use problem::Problem;
use query::{Parameter, Query};

/// What can be asked for.
struct Resource {
    path: &'static str,
    /// One line, for the document.
    #[cfg(test)]
    summary: &'static str,
    parameters: &'static [Parameter],
    /// The answer's body, from a snapshot.
    view: fn(&Snapshot, &Query) -> serde_json::Result<Vec<u8>>,
    /// The answer's schema.
    #[cfg(test)]
    schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

const RESOURCES: &[Resource] = &[
    Resource {
        path: "/api/v1/connections",
        #[cfg(test)]
        summary: "MPTCP connections with their subflows, by token",
        parameters: &[Parameter::Netns, Parameter::Interface, Parameter::State, Parameter::Limit, Parameter::Offset],
        view: views::connections,
        #[cfg(test)]
        schema: |generator| generator.subschema_for::<views::Connections<'_>>(),
    },
    Resource {
        path: "/api/v1/paths",
        #[cfg(test)]
        summary: "Paths that subflows take, and the path manager's endpoints and limits",
        parameters: &[Parameter::Netns, Parameter::Interface],
        view: views::paths,
        #[cfg(test)]
        schema: |generator| generator.subschema_for::<views::Paths<'_>>(),
    },
    Resource {
        path: "/api/v1/interfaces",
        #[cfg(test)]
        summary: "Interfaces that are counted, and what they carried",
        parameters: &[Parameter::Netns, Parameter::Interface],
        view: views::interfaces,
        #[cfg(test)]
        schema: |generator| generator.subschema_for::<views::Interfaces>(),
    },
    Resource {
        path: "/api/v1/host",
        #[cfg(test)]
        summary: "The host: what it is, how busy it is, and its network interfaces",
        parameters: &[],
        view: views::host,
        #[cfg(test)]
        schema: |generator| generator.subschema_for::<views::HostView<'_>>(),
    },
];

/// Where the OpenAPI document is.
const DOCUMENT_PATH: &str = "/api/v1/openapi.json";
const DOCUMENT: &str = include_str!("../../../../docs/openapi.json");
/// Beyond so many connections (some hundred microseconds of writing) an answer is written off the runtime's thread.
const WORTH_A_THREAD: usize = 128;

/// The routes below `/api/v1`.
pub(super) fn routes() -> Router<Arc<Scrapes>> {
    let router = actions::routes().route(DOCUMENT_PATH, get(document));
    RESOURCES.iter().fold(router, |router, resource| {
        let handler = move |State(scrapes): State<Arc<Scrapes>>, headers: HeaderMap, uri: Uri| async move {
            let body = read(resource, &scrapes, &uri).await;
            match body {
                Ok(body) => json(&scrapes, &headers, body).await,
                Err(problem) => problem.into_response(),
            }
        };
        router.route(resource.path, get(handler))
    })
}

/// Whether a path belongs to the API, so that its errors are JSON.
pub(super) fn is_below(path: &str) -> bool {
    path == "/api" || path.starts_with("/api/")
}

/// The answer to a path that is not there.
pub(super) fn not_found(uri: &Uri) -> Response {
    let path: String = uri.path().chars().take(100).collect();
    let detail = format!("There is nothing at {path}; {DOCUMENT_PATH} tells what there is.");
    Problem::new(StatusCode::NOT_FOUND, detail).into_response()
}

/// The answer to a method that is not there. The router adds `Allow`.
pub(super) fn wrong_method(method: &Method, uri: &Uri) -> Response {
    let path = uri.path();
    let detail = match is_action(path) {
        true => format!("{method} is not for {path}, which does something: use POST."),
        false => format!("{method} is not for {path}, which can only be read: use GET or HEAD."),
    };
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).into_response()
}

/// Whether a request comes with a token to where tokens are looked at.
pub(super) fn has_token_for_action(request: &Request) -> bool {
    request.method() == Method::POST && is_action(request.uri().path()) && gate::has_token(request.headers())
}

/// The answer to an action's body that is too large.
pub(super) fn too_large() -> Response {
    actions::too_large().into_response()
}

async fn document(State(scrapes): State<Arc<Scrapes>>, headers: HeaderMap, uri: Uri) -> Response {
    match Query::parse(uri.query(), &[]) {
        Ok(_) => json(&scrapes, &headers, Bytes::from_static(DOCUMENT.as_bytes())).await,
        Err(problem) => problem.into_response(),
    }
}

async fn read(resource: &'static Resource, scrapes: &Scrapes, uri: &Uri) -> Result<Bytes, Problem> {
    let query = Query::parse(uri.query(), resource.parameters)?;
    let snapshot = scrapes.site.snapshot().await.map_err(|error| {
        let status = match error {
            SiteError::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
            SiteError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, format!("{error}."))
    })?;
    let body = if snapshot.connections() > WORTH_A_THREAD {
        let task = scrapes.off_thread(move || (resource.view)(&snapshot, &query));
        task.await.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}.")))?
    } else {
        (resource.view)(&snapshot, &query)
    };
    body.map(Bytes::from).map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}.")))
}

async fn json(scrapes: &Scrapes, headers: &HeaderMap, body: Bytes) -> Response {
    let (encoding, body) = scrapes.encode(Encoding::from_headers(headers), body).await;
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Some(name) = encoding.header_value() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    response
}
