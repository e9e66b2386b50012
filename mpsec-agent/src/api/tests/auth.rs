//! Passwords and security headers.

use super::*;

/// ann with the password `apple`, at bcrypt's lowest cost.
fn config() -> String {
    let hash = bcrypt::hash("apple", 4).unwrap();
    let headers = "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    X-Content-Type-Options: nosniff\n";
    format!("{headers}basic_auth_users:\n  ann: {hash}\n")
}

const ANN_APPLE: &str = "Authorization: Basic YW5uOmFwcGxl\r\n";
const ANN_WRONG: &str = "Authorization: Basic YW5uOndyb25n\r\n";
const EVE_APPLE: &str = "Authorization: Basic ZXZlOmFwcGxl\r\n";

#[tokio::test]
async fn passwords_are_asked_on_all_routes() {
    let files = Files::new(&config());
    let server = Running::start(Toy::default(), files.load(), Limits::default()).await;
    for path in ["/", "/metrics", "/-/healthy", "/-/ready", "/missing"] {
        let answer = server.get(path, "").await;
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"mpsec\", charset=\"UTF-8\""));
        assert_eq!(answer.header("x-frame-options"), Some("deny"));
    }
    assert_eq!(server.stats.snapshot().auth_failures, 0, "nobody tried");
    assert_eq!(server.get("/metrics", ANN_WRONG).await.status, 401);
    assert_eq!(server.get("/metrics", EVE_APPLE).await.status, 401);
    assert_eq!(server.get("/metrics", "Authorization: Basic *\r\n").await.status, 401);
    for _ in 0..3 {
        let answer = server.get("/metrics", ANN_APPLE).await;
        assert_eq!((answer.status, answer.header("x-content-type-options")), (200, Some("nosniff")));
    }
    assert_eq!(server.stats.snapshot().auth_failures, 2);
}

#[tokio::test]
async fn a_new_password_counts_at_once() {
    let files = Files::new(&config());
    let server = Running::start(Toy::default(), files.load(), Limits::default()).await;
    assert_eq!(server.get("/metrics", ANN_APPLE).await.status, 200);
    files.write("web.yml", &format!("basic_auth_users:\n  ann: {}\n", bcrypt::hash("wrong", 4).unwrap()));
    assert_eq!(server.get("/metrics", ANN_APPLE).await.status, 401);
    assert_eq!(server.get("/metrics", ANN_WRONG).await.status, 200);
}
