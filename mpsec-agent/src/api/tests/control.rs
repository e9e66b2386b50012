//! Changes over real connections: what TLS, certificates, tokens and passwords are worth.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::tls::Authority;
use super::*;
use crate::control::ask::{self, Ask, Who};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const MUTUAL: &str = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";
const IF_GIVEN: &str = "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n";
const ANY: &str = "  client_auth_type: RequireAnyClientCert\n";
/// ann's password is apple.
const HASH_COST: u32 = 4;

/// Notes who asked.
#[derive(Default)]
struct Asked(Mutex<Vec<Who>>);

impl Site for Asked {
    fn metrics(&self, _: Format) -> SiteFuture {
        Box::pin(async { Ok(Bytes::new()) })
    }

    fn ask(&self, _: Ask, who: Who) -> AskFuture {
        self.0.lock().unwrap().push(who);
        Box::pin(async { Ok(ask::Answer::default()) })
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn version(&self) -> &str {
        "1"
    }
}

/// A server, and what it was asked.
struct Stage {
    authority: Authority,
    files: Files,
    server: Running,
    asked: Arc<Asked>,
}

impl Stage {
    async fn new(more: &str, with_token: bool) -> Stage {
        let authority = Authority::new();
        let files = authority.files(more);
        files.write("token", TOKEN);
        let token = files.path("token");
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        let access = Access::on(with_token.then_some(token.as_path()));
        let asked = Arc::new(Asked::default());
        let server =
            Running::start_for(axum::Router::new(), asked.clone(), files.load(), access, Limits::default()).await;
        Stage { authority, files, server, asked }
    }

    async fn post(&self, client: &TlsConnector, headers: &str, body: &str) -> Answer {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = client.connect(name, self.server.connect().await).await.unwrap();
        exchange(&mut stream, &post(headers, body)).await
    }

    fn who(&self) -> Vec<String> {
        let identity = |who: &Who| match who {
            Who::Remote { address, identity } if address.ip().is_loopback() => identity.clone(),
            other => panic!("{other:?}"),
        };
        self.asked.0.lock().unwrap().iter().map(identity).collect()
    }
}

fn post(headers: &str, body: &str) -> String {
    format!(
        "POST /api/v1/apply HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

fn bearer() -> String {
    format!("Authorization: Bearer {TOKEN}\r\n")
}

#[tokio::test]
async fn a_certificate_that_is_verified_is_enough_and_is_named() {
    for more in [MUTUAL, IF_GIVEN] {
        let stage = Stage::new(more, false).await;
        let client = stage.authority.client(Some(&stage.authority.issue("ops.example")));
        assert_eq!(stage.post(&client, "", "{}").await.status, 200);
        assert_eq!(stage.post(&client, "", "{}").await.status, 200, "resumed");
        assert_eq!(stage.who(), ["certificate ops.example", "certificate ops.example"]);
    }
    let stage = Stage::new(IF_GIVEN, false).await;
    assert_eq!(stage.post(&stage.authority.client(None), "", "{}").await.status, 401);
}

#[tokio::test]
async fn a_certificate_that_is_taken_back_proves_nothing_on_an_open_connection() {
    let stage = Stage::new(MUTUAL, false).await;
    let client = stage.authority.client(Some(&stage.authority.issue("ops.example")));
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = client.connect(name, stage.server.connect().await).await.unwrap();
    let first = post("", "{}").replace("Connection: close\r\n", "");
    stream.write_all(first.as_bytes()).await.unwrap();
    stage.server.until(|stats| stats.requests.iter().any(|row| row.code == 200)).await;
    let others = Authority::new().files(MUTUAL);
    stage.files.write("ca.pem", &std::fs::read_to_string(others.path("ca.pem")).unwrap());
    // It is not asked to be closed, and is.
    let both = exchange(&mut stream, &first).await;
    assert!(both.text().contains("HTTP/1.1 421") && both.text().contains("connection: close"), "{both:?}");
    assert_eq!(stage.who(), ["certificate ops.example"]);
}

#[tokio::test]
async fn a_certificate_that_nobody_verified_is_worth_nothing() {
    let stage = Stage::new(ANY, true).await;
    let client = stage.authority.client(Some(&Authority::new().issue("ops.example")));
    let refused = stage.post(&client, "", "{}").await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer realm=\"mpsec\"")));
    assert!(stage.who().is_empty());
    assert_eq!(stage.post(&client, &bearer(), "{}").await.status, 200);
    assert_eq!(stage.who(), ["token"]);
    stage.server.until(|stats| stats.auth_failures == 1).await;
}

#[tokio::test]
async fn a_password_is_not_enough_and_a_token_needs_none() {
    let hash = bcrypt::hash("apple", HASH_COST).unwrap();
    let stage = Stage::new(&format!("basic_auth_users:\n  ann: {hash}\n"), true).await;
    let client = stage.authority.client(None);
    // ann:apple
    let password = "Authorization: Basic YW5uOmFwcGxl\r\n";
    let refused = stage.post(&client, password, "{}").await;
    assert_eq!(refused.status, 401);
    assert!(refused.text().contains("a password is not enough"), "{}", refused.text());
    assert_eq!(stage.post(&client, "", "{}").await.status, 401);
    assert_eq!(stage.post(&client, "Authorization: Bearer wrong\r\n", "{}").await.status, 401);
    assert!(stage.who().is_empty());
    assert_eq!(stage.post(&client, &bearer(), "{}").await.status, 200);
    // A token opens nothing else.
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = client.connect(name, stage.server.connect().await).await.unwrap();
    assert_eq!(exchange(&mut stream, &get("/metrics", &bearer())).await.status, 401);
}

#[tokio::test]
async fn plain_http_changes_nothing_whatever_is_configured() {
    let files = Files::new("");
    files.write("token", TOKEN);
    let token = files.path("token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let asked = Arc::new(Asked::default());
    let access = Access::on(Some(&token));
    let server = Running::start_for(axum::Router::new(), asked.clone(), files.load(), access, Limits::default()).await;
    let answer = server.ask(&post(&bearer(), "{}")).await;
    assert_eq!((answer.status, answer.header("content-type")), (403, Some("application/problem+json")));
    assert!(answer.text().contains("plain HTTP"), "{}", answer.text());
    assert!(asked.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn bodies_are_bounded() {
    let stage = Stage::new("", true).await;
    let client = stage.authority.client(None);
    let long = format!(r#"{{"set": ["{}"]}}"#, "a".repeat(64 * 1024));
    let answer = stage.post(&client, &bearer(), &long).await;
    assert_eq!((answer.status, answer.header("content-type")), (413, Some("application/problem+json")));
    let chunked = format!(
        "POST /api/v1/apply HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n{}\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
        bearer(),
        long.len()
    );
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = client.connect(name, stage.server.connect().await).await.unwrap();
    assert_eq!(exchange(&mut stream, &chunked).await.status, 413);
    assert!(stage.who().is_empty());
}
