//! What stands around every route: counting, security headers, the rate limit, passwords and the limit of bodies.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http_body_util::Limited;

use super::auth::{Verdict, credentials};
use super::limits::Limits;
use super::routes::plain;
use super::stats::{HttpStats, OTHER_HANDLER, count};
use super::v1;
use super::web_config::WebConfig;

#[derive(Clone)]
struct Around {
    config: Arc<WebConfig>,
    stats: Arc<HttpStats>,
    max_body_bytes: usize,
}

/// Puts the layers around a router, fallbacks included; the first to see a request is counting.
pub(super) fn around(router: Router, config: Arc<WebConfig>, stats: Arc<HttpStats>, limits: &Limits) -> Router {
    let around = Around { config, stats, max_body_bytes: limits.max_body_bytes };
    router
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(around.clone(), limit_body))
        .layer(from_fn_with_state(around.clone(), authenticate))
        .layer(from_fn_with_state(around.clone(), limit_rate))
        .layer(from_fn_with_state(around.clone(), add_headers))
        .layer(from_fn_with_state(around, count_requests))
}

async fn count_requests(State(around): State<Around>, request: Request, next: Next) -> Response {
    // The pattern, not the path: its values are as many as there are routes.
    let pattern = request.extensions().get::<MatchedPath>().cloned();
    // A long-lived connection sees a change of the configuration as well.
    around.config.refresh(&around.stats);
    let response = next.run(request).await;
    let handler = pattern.as_ref().map_or(OTHER_HANDLER, MatchedPath::as_str);
    around.stats.count_request(handler, response.status().as_u16());
    response
}

async fn add_headers(State(around): State<Around>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in around.config.headers().iter() {
        response.headers_mut().insert(name.clone(), value.clone());
    }
    response
}

async fn limit_rate(State(around): State<Around>, request: Request, next: Next) -> Response {
    if around.config.allows_by_rate() {
        return next.run(request).await;
    }
    later(StatusCode::TOO_MANY_REQUESTS, "more requests than rate_limit allows\n")
}

fn later(status: StatusCode, text: &'static str) -> Response {
    let mut response = plain(status, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

async fn authenticate(State(around): State<Around>, request: Request, next: Next) -> Response {
    let Some(users) = around.config.users() else {
        return next.run(request).await;
    };
    if v1::has_token_for_action(&request) {
        // The route asks for more than a password.
        return next.run(request).await;
    }
    let given = request.headers().get(AUTHORIZATION).and_then(|value| credentials(value.as_bytes()));
    if let Some((user, password)) = given {
        match users.check(user, password).await {
            Verdict::Right => return next.run(request).await,
            Verdict::Wrong => count(&around.stats.auth_failures),
            Verdict::Busy => return later(StatusCode::SERVICE_UNAVAILABLE, "too many passwords are being checked\n"),
        }
    }
    let mut response = plain(StatusCode::UNAUTHORIZED, "a user name and password are required\n");
    let challenge = HeaderValue::from_static("Basic realm=\"mpsec\", charset=\"UTF-8\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

async fn limit_body(State(around): State<Around>, request: Request, next: Next) -> Response {
    let limit = around.max_body_bytes;
    if content_length(request.headers()).is_some_and(|length| length > limit as u64) {
        if v1::is_action(request.uri().path()) {
            return v1::too_large();
        }
        return plain(StatusCode::PAYLOAD_TOO_LARGE, format!("a request's body may have {limit} bytes\n"));
    }
    // A body of unknown length fails where it is read, as soon as it is too long.
    let request = request.map(|body| axum::body::Body::new(Limited::new(body, limit)));
    next.run(request).await
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
