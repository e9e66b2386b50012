//! Actions over the router: who is let in, what is answered, and that the document says so.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::api::access::Access;
use crate::api::channel::{Channel, Secured};
use crate::api::v1::openapi::document;
use crate::api::v1::tests::{Fixed, assert_valid, body};
use crate::api::{AskFuture, Format, HttpStats, Site, SiteFuture, SnapshotFuture, router};
use crate::control::apply::{Failure, Outcome};
use crate::control::ask::{Effect, Who};
use crate::control::change::{Change, Daemon, Endpoint, Force, Policy, SourceRoute, SourceRule};
use crate::snapshot::mptcp::{Limits, Role};
use crate::snapshot::sample;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Answers with what it is given, and notes what it is asked.
struct Asked {
    reads: Fixed,
    answer: Result<Answer, AskError>,
    asked: Mutex<Vec<(Ask, Who)>>,
}

impl Site for Asked {
    fn metrics(&self, format: Format) -> SiteFuture {
        self.reads.metrics(format)
    }

    fn snapshot(&self) -> SnapshotFuture {
        self.reads.snapshot()
    }

    fn ask(&self, ask: Ask, who: Who) -> AskFuture {
        self.asked.lock().unwrap().push((ask, who));
        let answer = self.answer.clone();
        Box::pin(async { answer })
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn version(&self) -> &str {
        "1"
    }
}

fn site(answer: Result<Answer, AskError>) -> Arc<Asked> {
    Arc::new(Asked { reads: Fixed(Some(Arc::new(sample::snapshot()))), answer, asked: Mutex::default() })
}

fn token_file(folder: &Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join("token");
    std::fs::write(&path, TOKEN).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

type Headers<'a> = &'a [(&'a str, &'a str)];

/// What a request comes by.
struct By {
    is_on: bool,
    is_tls: bool,
    has_certificate: bool,
}

const TLS: By = By { is_on: true, is_tls: true, has_certificate: false };
const MUTUAL: By = By { has_certificate: true, ..TLS };

impl By {
    fn channel(&self, folder: &Path) -> Channel {
        let client = self.has_certificate.then(|| "certificate ops".into());
        let names = ["host.example".to_owned()].into();
        Channel {
            access: Arc::new(if self.is_on { Access::on(Some(&token_file(folder))) } else { Access::default() }),
            peer: "192.0.2.9:5".parse().unwrap(),
            local: (IpAddr::from([192, 0, 2, 1]), 443).into(),
            tls: self.is_tls.then_some(Secured { names, client, is_outdated: false }),
        }
    }
}

/// A request that is right but for its lack of a token, with these headers in place of or beside its own.
fn request(method: &str, path: &str, headers: Headers<'_>, body: &str) -> Request<Body> {
    let mut all = vec![("host", "host.example"), ("content-type", "application/json")];
    all.retain(|(name, _)| headers.iter().all(|(other, _)| other != name));
    all.extend(headers.iter().filter(|(_, value)| !value.is_empty()));
    let builder = Request::builder().method(method).uri(path);
    let builder = all.into_iter().fold(builder, |builder, (name, value)| builder.header(name, value));
    builder.body(Body::from(body.to_owned())).unwrap()
}

async fn send(site: Arc<Asked>, channel: Option<Channel>, mut request: Request<Body>) -> axum::response::Response {
    request.extensions_mut().extend(channel.into_iter().fold(axum::http::Extensions::new(), |mut all, channel| {
        all.insert(channel);
        all
    }));
    router(site, Arc::new(HttpStats::default())).oneshot(request).await.unwrap()
}

#[tokio::test]
async fn only_clients_that_proved_who_they_are_and_no_browsers_change_things() {
    let folder = tempfile::tempdir().unwrap();
    let token = format!("Bearer {TOKEN}");
    let token = ("authorization", token.as_str());
    let wrong = ("authorization", "Bearer 0123456789abcdef0123456789abcdee");
    let plain = By { is_tls: false, ..MUTUAL };
    let off = By { is_on: false, ..MUTUAL };
    let cases: [(&By, Headers<'_>, u16); 27] = [
        (&TLS, &[token], 200),
        (&MUTUAL, &[], 200),
        (&MUTUAL, &[token], 200),
        (&MUTUAL, &[("content-type", "Application/JSON; charset=utf-8")], 200),
        (&MUTUAL, &[("host", "192.0.2.1:9475")], 200),
        (&MUTUAL, &[("host", "localhost")], 200),
        (&MUTUAL, &[("sec-fetch-site", "none")], 200),
        (&plain, &[token], 403),
        (&plain, &[], 403),
        (&off, &[token], 403),
        (&TLS, &[], 401),
        (&TLS, &[wrong], 401),
        (&MUTUAL, &[wrong], 401),
        (&TLS, &[("authorization", "Basic b3BzOnNlY3JldA==")], 401),
        (&TLS, &[token, token], 401),
        (&MUTUAL, &[("origin", "https://evil.example")], 403),
        (&MUTUAL, &[("origin", "null")], 403),
        (&TLS, &[token, ("origin", "https://host.example")], 403),
        (&MUTUAL, &[("sec-fetch-site", "cross-site")], 403),
        (&MUTUAL, &[("sec-fetch-site", "same-site")], 403),
        (&MUTUAL, &[("host", "evil.example")], 421),
        (&MUTUAL, &[("host", "192.0.2.2")], 421),
        (&MUTUAL, &[("host", "host.example"), ("host", "evil.example")], 421),
        (&MUTUAL, &[("host", "")], 421),
        (&MUTUAL, &[("content-type", "text/plain")], 415),
        (&MUTUAL, &[("content-type", "application/x-www-form-urlencoded")], 415),
        (&MUTUAL, &[("content-type", "")], 415),
    ];
    for (number, (by, headers, status)) in cases.into_iter().enumerate() {
        let site = site(Ok(Answer::default()));
        let request = request("POST", "/api/v1/apply", headers, "{}");
        let response = send(site.clone(), Some(by.channel(folder.path())), request).await;
        assert_eq!(response.status(), status, "case {number}: {headers:?}");
        assert_eq!(site.asked.lock().unwrap().len(), usize::from(status == 200), "case {number}");
        assert!(response.headers().keys().all(|name| !name.as_str().starts_with("access-control")), "case {number}");
        assert!(!response.headers().contains_key("set-cookie"), "case {number}");
        assert_eq!(response.headers().contains_key("www-authenticate"), status == 401, "case {number}");
        if status != 200 {
            assert_eq!(response.headers()["content-type"], "application/problem+json", "case {number}");
            let problem = body(response).await;
            assert_valid(&json!({"$ref": "#/components/schemas/Problem"}), &problem, "problem");
        }
    }
    let response = send(site(Ok(Answer::default())), None, request("POST", "/api/v1/apply", &[token], "{}")).await;
    let problem = body(response).await;
    assert!(problem["detail"].as_str().unwrap().contains("plain HTTP, whatever is configured"), "{problem}");
}

#[tokio::test]
async fn who_asks_is_handed_on() {
    let folder = tempfile::tempdir().unwrap();
    let token = format!("Bearer {TOKEN}");
    let named: [(&By, Headers<'_>, &str); 2] =
        [(&MUTUAL, &[], "certificate ops"), (&TLS, &[("authorization", &token)], "token")];
    for (by, headers, expected) in named {
        let site = site(Ok(Answer::default()));
        let request = request("POST", "/api/v1/release", headers, "{}");
        send(site.clone(), Some(by.channel(folder.path())), request).await;
        let asked = site.asked.lock().unwrap().clone();
        let who = Who::Remote { address: "192.0.2.9:5".parse().unwrap(), identity: expected.into() };
        assert_eq!(asked, [(Ask::Release, who)]);
    }
}

#[tokio::test]
async fn bodies_are_what_the_document_says() {
    let folder = tempfile::tempdir().unwrap();
    let document = document();
    let long = format!(r#"{{"set": ["{}"]}}"#, "a".repeat(70_000));
    let cases: [(&str, &str, u16); 16] = [
        ("plan", "{}", 200),
        ("plan", r#"{"set": ["a=b"], "unset": ["c"]}"#, 200),
        ("apply", r#"{"set": []}"#, 200),
        ("release", "{}", 200),
        ("link", r#"{"name": "wan0", "up": false}"#, 200),
        ("link", r#"{"name": "wan0", "up": true, "dry_run": true}"#, 200),
        ("plan", "", 400),
        ("plan", "null", 400),
        ("plan", "[]", 400),
        ("plan", r#"{"sett": []}"#, 400),
        ("plan", r#"{"set": [1]}"#, 400),
        ("release", r#"{"set": []}"#, 400),
        ("link", "{}", 400),
        ("link", r#"{"name": "wan0", "up": "false"}"#, 400),
        ("apply", "set=a", 400),
        ("apply?set=a", "{}", 400),
    ];
    for (name, text, status) in cases {
        let path = format!("/api/v1/{name}");
        let channel = MUTUAL.channel(folder.path());
        let response = send(site(Ok(Answer::default())), Some(channel), request("POST", &path, &[], text)).await;
        assert_eq!(response.status(), status, "{path} {text}");
        let operation = &document["paths"][&path]["post"];
        if let (Ok(value), false) = (serde_json::from_str::<Value>(text), operation.is_null()) {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let fits = jsonschema::draft202012::new(schema).unwrap().is_valid(&value);
            assert_eq!(fits, status == 200, "{path} {text}");
        }
    }
    // Whatever its size, so long as it is under the server's own limit, which stands in front of the routes.
    let channel = MUTUAL.channel(folder.path());
    let response = send(site(Ok(Answer::default())), Some(channel), request("POST", "/api/v1/plan", &[], &long)).await;
    assert_eq!(response.status(), 200);
}

/// An answer with everything that there can be.
fn full() -> Answer {
    let endpoint = Endpoint {
        id: 0,
        address: "192.0.2.1".parse().unwrap(),
        port: Some(7),
        flags: vec!["subflow".into()],
        interface: Some(3),
    };
    let gateway = Some("192.0.2.254".parse().unwrap());
    let route = SourceRoute { table: 7, destination: "0.0.0.0/0".parse().unwrap(), gateway, interface: 3 };
    let rule = SourceRule { source: "2001:db8::1".parse().unwrap(), table: 7 };
    let limits = |subflows| Limits { subflows, add_addr_accepted: 0 };
    let policy = Policy { congestion_control: Some("bbr".into()), max_rate: Some(1) };
    let force = Force { clients: vec!["/a".into()], servers: Vec::new() };
    let changes = vec![
        Change::Sysctl { name: "net.mptcp.enabled".into(), from: "0".into(), to: "1".into() },
        Change::Limits { from: limits(2), to: limits(8) },
        Change::AddEndpoint(endpoint.clone()),
        Change::RemoveEndpoint(endpoint.clone()),
        Change::EndpointFlags { from: endpoint.clone(), to: endpoint },
        Change::AddRoute(route.clone()),
        Change::RemoveRoute(route),
        Change::AddRule(rule.clone()),
        Change::RemoveRule(rule),
        Change::Link { name: "wan0".into(), index: 3, up: false },
        Change::Daemon { from: None, to: Some(Daemon::Ndiffports(2)) },
        Change::Policy { address: "192.0.2.1".parse().unwrap(), from: None, to: Some(policy) },
        Change::Failover { to: true },
        Change::Force { from: Force::default(), to: force },
    ];
    let failure =
        |change: &Change| Failure { change: Some(change.clone()), error: "no".into(), by_hand: change.by_hand() };
    let failures = changes.iter().map(failure).chain([Failure { change: None, error: "no".into(), by_hand: None }]);
    let effect = Effect {
        token: 1,
        role: Role::Client,
        local: "192.0.2.1:1".parse().unwrap(),
        remote: "[2001:db8::1]:2".parse().unwrap(),
        subflows: 2,
        affected: 1,
        text: "goes on".into(),
    };
    let texts = vec!["text".to_owned()];
    Answer {
        generation: 3,
        released: true,
        outcome: Outcome {
            failures: failures.collect(),
            undone: changes.clone(),
            changes,
            refusals: texts.clone(),
            waiting: texts,
        },
        effects: vec![effect],
        interfaces: [(3, "wan0".to_owned())].into(),
    }
}

#[tokio::test]
async fn every_answer_is_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let document = document();
    let failed = |error: fn(String) -> AskError| Err(error("no".into()));
    let answers = [
        (Ok(Answer::default()), 200),
        (Ok(full()), 409),
        (failed(AskError::Wrong), 400),
        (failed(AskError::Forbidden), 403),
        (failed(AskError::Failed), 500),
    ];
    for action in ACTIONS {
        let text = if action.path.ends_with("link") { r#"{"name": "a", "up": true}"# } else { "{}" };
        let responses = &document["paths"][action.path]["post"]["responses"];
        for (answer, status) in &answers {
            let channel = MUTUAL.channel(folder.path());
            let response = send(site(answer.clone()), Some(channel), request("POST", action.path, &[], text)).await;
            assert_eq!(response.status(), *status, "{}", action.path);
            assert_eq!(response.headers()["cache-control"], "no-store");
            let documented = &responses[status.to_string()];
            let schema =
                match documented["$ref"].as_str() {
                    Some(place) => {
                        document.pointer(place.trim_start_matches('#')).unwrap()["content"]["application/problem+json"]
                            ["schema"]
                            .clone()
                    }
                    None => documented["content"]["application/json"]["schema"].clone(),
                };
            assert!(schema.is_object(), "{} {status}", action.path);
            assert_valid(&schema, &body(response).await, action.path);
        }
    }
}

#[tokio::test]
async fn nothing_that_is_read_changes_anything() {
    let folder = tempfile::tempdir().unwrap();
    let document = document();
    for path in document["paths"].as_object().unwrap().keys() {
        for method in ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"] {
            let site = site(Ok(Answer::default()));
            let response =
                send(site.clone(), Some(MUTUAL.channel(folder.path())), request(method, path, &[], "{}")).await;
            assert!(site.asked.lock().unwrap().is_empty(), "{method} {path}");
            assert_eq!(
                response.status() == 405,
                is_action(path) || !matches!(method, "GET" | "HEAD"),
                "{method} {path}"
            );
        }
    }
    let response = send(site(Ok(Answer::default())), None, request("GET", "/api/v1/apply", &[], "")).await;
    assert_eq!(response.headers()["allow"], "POST");
    assert!(body(response).await["detail"].as_str().unwrap().ends_with("which does something: use POST."));
}
