//! What changes something, or says what would be changed. Every request goes through [`gate::admit`] first.

#[cfg(test)]
mod tests;

use std::error::Error;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use http_body_util::{BodyExt as _, LengthLimitError};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use super::query::Query;
use super::{gate, json};
use crate::api::routes::Scrapes;
use crate::api::stats::count;
use crate::control::ask::{Answer, Ask, AskError};

/// What can be done.
pub(super) struct Action {
    pub(super) path: &'static str,
    /// One line, for the document.
    #[cfg(test)]
    pub(super) summary: &'static str,
    /// What a request's body asks for.
    ask: fn(&[u8]) -> serde_json::Result<Ask>,
    /// The body's schema.
    #[cfg(test)]
    pub(super) schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

/// The body of what needs no further word.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Nothing {}

pub(super) const ACTIONS: &[Action] = &[
    Action {
        path: "/api/v1/plan",
        #[cfg(test)]
        summary: "Say what apply would change, and change nothing",
        ask: |body| parse(body, Ask::Plan),
        #[cfg(test)]
        schema: |generator| generator.subschema_for::<crate::control::ask::Settings>(),
    },
    Action {
        path: "/api/v1/apply",
        #[cfg(test)]
        summary: "Make the host what configuration and settings want: all of it or nothing",
        ask: |body| parse(body, Ask::Apply),
        #[cfg(test)]
        schema: |generator| generator.subschema_for::<crate::control::ask::Settings>(),
    },
    Action {
        path: "/api/v1/release",
        #[cfg(test)]
        summary: "Give back everything that was changed, and change nothing until the next apply or boot",
        ask: |body| parse(body, |Nothing {}| Ask::Release),
        #[cfg(test)]
        schema: |generator| generator.subschema_for::<Nothing>(),
    },
    Action {
        path: "/api/v1/link",
        #[cfg(test)]
        summary: "Switch an interface on or off, or say what that would do",
        ask: |body| parse(body, Ask::Link),
        #[cfg(test)]
        schema: |generator| generator.subschema_for::<crate::control::ask::LinkSwitch>(),
    },
];

fn parse<T: DeserializeOwned>(body: &[u8], ask: impl FnOnce(T) -> Ask) -> serde_json::Result<Ask> {
    // serde takes a list for a structure, too.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(serde::de::Error::custom("expected an object, {...}"));
    }
    serde_json::from_slice(body).map(ask)
}

/// The routes of [`ACTIONS`].
pub(super) fn routes() -> Router<Arc<Scrapes>> {
    ACTIONS.iter().fold(Router::new(), |router, action| {
        let handler = move |State(scrapes): State<Arc<Scrapes>>, request: Request| async move {
            let outcome = act(action, &scrapes, request).await;
            let response = outcome.unwrap_or_else(|problem| problem.into_response());
            if response.status() == StatusCode::UNAUTHORIZED {
                count(&scrapes.stats.auth_failures);
            }
            response
        };
        router.route(action.path, post(handler))
    })
}

/// Whether something is changed here.
pub(in crate::api) fn is_action(path: &str) -> bool {
    ACTIONS.iter().any(|action| action.path == path)
}

async fn act(action: &'static Action, scrapes: &Scrapes, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let who = gate::admit(&head)?;
    Query::parse(head.uri.query(), &[])?;
    let body = body.collect().await.map_err(|error| unread(&error))?.to_bytes();
    let ask = (action.ask)(&body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("The body is not what this takes: {error}.")))?;
    let answer = scrapes.site.ask(ask, who).await.map_err(|error| refused(&error))?;
    respond(scrapes, &head, &answer).await
}

async fn respond(scrapes: &Scrapes, head: &Parts, answer: &Answer) -> Result<Response, Problem> {
    let body = serde_json::to_vec(answer)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}.")))?;
    let mut response = json(scrapes, &head.headers, Bytes::from(body)).await;
    if !answer.outcome.is_success() {
        *response.status_mut() = StatusCode::CONFLICT;
    }
    Ok(response)
}

fn refused(error: &AskError) -> Problem {
    let status = match error {
        AskError::Wrong(_) => StatusCode::BAD_REQUEST,
        AskError::Forbidden(_) => StatusCode::FORBIDDEN,
        AskError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::new(status, format!("{error}."))
}

fn unread(error: &axum::Error) -> Problem {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return too_large();
        }
        cause = error.source();
    }
    Problem::new(StatusCode::BAD_REQUEST, format!("The body cannot be read: {error}."))
}

pub(super) fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "The body is larger than any that this takes.")
}
