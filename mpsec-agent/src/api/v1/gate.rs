//! What a request that may change something has to be like: encrypted, from a client that proved who it is, and not one that a
//! browser was talked into (CSRF, DNS rebinding).

use std::net::IpAddr;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode};

use super::problem::Problem;
use crate::api::access::TokenVerdict;
use crate::api::channel::{Channel, Secured};
use crate::control::ask::Who;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Lets a request in, and says who sent it.
pub(super) fn admit(head: &Parts) -> Result<Who, Problem> {
    let (channel, tls) = secured(head)?;
    if !channel.access.is_on {
        return Err(forbidden("Nothing can be changed over HTTP here: http.control is off."));
    }
    no_browser(&head.headers)?;
    own_host(head, channel, tls)?;
    let identity = identity(&head.headers, channel, tls)?;
    is_json(&head.headers)?;
    Ok(Who::Remote { address: channel.peer, identity })
}

/// Whether this is a request that [`admit`] has the say over, so that passwords are not asked for.
pub(super) fn has_token(headers: &HeaderMap) -> bool {
    bearer(headers).is_some()
}

fn forbidden(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, detail)
}

fn secured(head: &Parts) -> Result<(&Channel, &Secured), Problem> {
    let channel = head.extensions.get::<Channel>();
    channel.and_then(|channel| Some((channel, channel.tls.as_ref()?))).ok_or_else(|| {
        forbidden("Nothing can be changed over plain HTTP, whatever is configured: use HTTPS, or mpsec on this host.")
    })
}

/// Browsers say where a request comes from; programs do not, and have no page to be talked into anything by.
fn no_browser(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(ORIGIN) {
        return Err(forbidden("Requests of web pages (those with Origin) change nothing."));
    }
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    match sites.all(|site| matches!(site.as_bytes(), b"none" | b"same-origin")) {
        true => Ok(()),
        false => Err(forbidden("Requests of other sites (Sec-Fetch-Site) change nothing.")),
    }
}

/// A name that leads here by somebody else's DNS is not this server's.
fn own_host(head: &Parts, channel: &Channel, tls: &Secured) -> Result<(), Problem> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    let named = first.filter(|_| second.is_none()).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let is_own = |authority: &Authority| is_own(authority, channel.local.ip(), &tls.names);
    if named.as_ref().is_some_and(is_own) && head.uri.authority().is_none_or(is_own) {
        return Ok(());
    }
    let detail =
        "Host names another server. This one goes by its address, localhost, and the names in its certificate.";
    Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail))
}

fn is_own(authority: &Authority, local: IpAddr, names: &[String]) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).parse::<IpAddr>();
    if let Ok(address) = address {
        let (address, local) = (address.to_canonical(), local.to_canonical());
        let is_named = names.iter().any(|name| name.parse() == Ok(address));
        return address == local || is_named || (address.is_loopback() && local.is_loopback());
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || names.iter().any(|name| is_of(host, name))
}

/// Whether a certificate's DNS name stands for this host (RFC 9525 6.3: a wildcard is the whole leftmost label).
fn is_of(host: &str, name: &str) -> bool {
    match name.strip_prefix("*.") {
        None => host.eq_ignore_ascii_case(name),
        Some(parent) => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent))
        }
    }
}

/// A token that is there has to be right, whatever else there is.
fn identity(headers: &HeaderMap, channel: &Channel, tls: &Secured) -> Result<String, Problem> {
    let unauthorized = |detail: &str| Err(Problem::new(StatusCode::UNAUTHORIZED, detail));
    let Some(token) = bearer(headers) else {
        return match &tls.client {
            Some(_) if tls.is_outdated => Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "The certificates here have changed since this connection was made: connect again.",
            )),
            Some(client) => Ok(client.to_string()),
            None => unauthorized(
                "To change things takes a token (Authorization: Bearer) or a client certificate that is verified; a password \
                 is not enough.",
            ),
        };
    };
    match channel.access.check(token) {
        TokenVerdict::Right => Ok("token".to_owned()),
        TokenVerdict::Wrong => unauthorized("This is not the token."),
        TokenVerdict::Unusable(reason) => {
            tracing::warn!(peer = %channel.peer, "a token was given: {reason}");
            unauthorized("There is no token here that could be compared with; the agent's log tells why.")
        }
    }
}

/// The token of an `Authorization: Bearer` header.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (scheme, token) = all.next()?.as_bytes().split_at_checked(7)?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && all.next().is_none()).then(|| token.trim_ascii())
}

/// A form of a web page cannot have this type.
fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let mut all = headers.get_all(CONTENT_TYPE).iter();
    let named = all.next().and_then(|value| value.to_str().ok()).filter(|_| all.next().is_none());
    let essence = named.map(|value| value.split(';').next().unwrap_or_default().trim());
    match essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        true => Ok(()),
        false => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "The body has to be JSON: Content-Type: application/json.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_the_servers_own_address_and_names() {
        let names = ["host.example".to_owned(), "*.wild.example".to_owned(), "192.0.2.7".to_owned()];
        let own = |host: &str, local: &str| {
            Authority::try_from(host).is_ok_and(|authority| is_own(&authority, local.parse().unwrap(), &names))
        };
        for host in [
            "127.0.0.1",
            "127.0.0.1:9475",
            "[::1]:9475",
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "host.example:443",
            "Host.Example",
            "host.example.",
            "a.wild.example",
            "192.0.2.7",
        ] {
            assert!(own(host, "127.0.0.1"), "{host}");
        }
        for host in [
            "evil.example",
            "host.example.evil",
            "ahost.example",
            "wild.example",
            ".wild.example",
            "a.b.wild.example",
            "192.0.2.8",
            "localhost@evil.example",
            "evil@localhost",
            "",
            "localhost.evil.example",
            "[::2]",
        ] {
            assert!(!own(host, "127.0.0.1"), "{host}");
        }
        assert!(!own("127.0.0.1", "192.0.2.8") && own("192.0.2.8:1", "::ffff:192.0.2.8"));
        assert!(own("[2001:db8::1]", "2001:db8::1") && !own("[2001:db8::2]", "2001:db8::1"));
    }

    #[test]
    fn tokens_stand_behind_bearer_alone() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(|token| String::from_utf8(token.to_vec()).unwrap())
        };
        assert_eq!(of(&["Bearer abc"]), Some("abc".into()));
        assert_eq!(of(&["bearer  abc "]), Some("abc".into()));
        for none in [&[][..], &["Basic YTpi"], &["Bearer"], &["abc"], &["Bearer a", "Bearer b"]] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }
}
