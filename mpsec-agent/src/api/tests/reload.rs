//! Changes of the web configuration while the server runs.

use super::*;

fn headers(csp: &str) -> String {
    format!("http_server_config:\n  headers:\n    Content-Security-Policy: {csp}\n")
}

#[tokio::test]
async fn a_change_is_taken_up_and_a_bad_one_keeps_what_was() {
    let files = Files::new(&headers("first"));
    let server = Running::start(Toy::default(), files.load(), Limits::default()).await;
    let policy = async || {
        let answer = server.get("/", "").await;
        answer.header("content-security-policy").map(str::to_owned)
    };
    assert_eq!(policy().await.as_deref(), Some("first"));
    files.write("web.yml", &headers("second"));
    assert_eq!(policy().await.as_deref(), Some("second"));
    files.write("web.yml", "http_server_config: [");
    assert_eq!(policy().await.as_deref(), Some("second"));
    assert!(server.stats.snapshot().config_reload_failed);
    std::fs::remove_file(files.path("web.yml")).unwrap();
    assert_eq!(policy().await.as_deref(), Some("second"));
    files.write("web.yml", &headers("third"));
    assert_eq!(policy().await.as_deref(), Some("third"));
    assert!(!server.stats.snapshot().config_reload_failed);
}

#[tokio::test]
async fn a_change_takes_no_protection_away() {
    let files = Files::new(&format!("basic_auth_users:\n  ann: {}\n", bcrypt::hash("apple", 4).unwrap()));
    let server = Running::start(Toy::default(), files.load(), Limits::default()).await;
    for content in ["", "http_server_config:\n", "basic_auth_users: {}\n"] {
        files.write("web.yml", content);
        assert_eq!(server.get("/metrics", "").await.status, 401, "{content:?}");
        assert!(server.stats.snapshot().config_reload_failed);
    }
}

#[tokio::test]
async fn an_open_connection_sees_a_change() {
    let files = Files::new("");
    let server = Running::start(Toy::default(), files.load(), Limits::default()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: toy\r\n\r\n").await.unwrap();
    server.until(|stats| stats.requests.iter().any(|row| row.code == 200)).await;
    files.write("web.yml", &format!("basic_auth_users:\n  ann: {}\n", bcrypt::hash("apple", 4).unwrap()));
    let both = exchange(&mut stream, &get("/metrics", "")).await;
    assert!(both.text().contains("HTTP/1.1 401"), "{both:?}");
}
