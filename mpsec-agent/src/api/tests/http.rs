//! Routes, methods, formats and compression.

use std::io::Read;

use super::*;

#[tokio::test]
async fn a_plain_scrape() {
    let server = Running::plain().await;
    let answer = server.get("/metrics", "").await;
    assert_eq!((answer.status, answer.text()), (200, "# Classic\n"));
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(answer.header("vary"), Some("Accept, Accept-Encoding"));
    assert_eq!(answer.header("content-length"), Some("10"));
    let stats = server.stats.snapshot();
    assert_eq!(stats.requests, [RequestCount { handler: "/metrics".into(), code: 200, count: 1 }]);
    assert_eq!(stats.scrape_bytes[0], (Encoding::Identity, 10));
}

#[tokio::test]
async fn formats_and_compression_are_negotiated() {
    let site = Toy { bytes: 1_000_000, ..Toy::default() };
    let server = Running::start(site, WebConfig::default(), Limits::default()).await;
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let whole = server.get("/metrics", accept).await;
    assert_eq!(whole.header("content-encoding"), None);
    assert_eq!(whole.header("content-type"), Some(Format::OpenMetrics.content_type()));
    assert!(whole.body.starts_with(b"# OpenMetrics\n"));

    let gzip = server.get("/metrics", &format!("{accept}Accept-Encoding: gzip\r\n")).await;
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    let mut decoded = Vec::new();
    flate2::read::GzDecoder::new(&*gzip.body).read_to_end(&mut decoded).unwrap();
    assert!(decoded == whole.body);

    let zstd = server.get("/metrics", &format!("{accept}Accept-Encoding: gzip, zstd\r\n")).await;
    assert_eq!(zstd.header("content-encoding"), Some("zstd"));
    assert!(zstd::decode_all(&*zstd.body).unwrap() == whole.body);
    assert_eq!(zstd.header("vary"), whole.header("vary"));
}

#[tokio::test]
async fn several_requests_on_one_connection() {
    let server = Running::plain().await;
    let mut stream = server.connect().await;
    let keep = "GET /-/healthy HTTP/1.1\r\nHost: toy\r\n\r\n";
    let pipelined = format!("{keep}{keep}{}", get("/-/ready", ""));
    let answer = exchange(&mut stream, &pipelined).await;
    assert_eq!(answer.text().matches("HTTP/1.1 200").count(), 2, "{answer:?}");
    assert!(answer.text().ends_with("ready\n"));
    assert_eq!(server.stats.snapshot().connections, 1);
}

#[tokio::test]
async fn health_readiness_and_the_landing_page() {
    let starting = Toy { ready: Err("eBPF <programs> are loading".into()), ..Toy::default() };
    let server = Running::start(starting, WebConfig::default(), Limits::default()).await;
    assert_eq!(server.get("/-/healthy", "").await.status, 200);
    let ready = server.get("/-/ready", "").await;
    assert_eq!((ready.status, ready.text()), (503, "not ready: eBPF <programs> are loading\n"));
    let metrics = server.get("/metrics", "").await;
    assert_eq!((metrics.status, metrics.text()), (503, "not ready: eBPF <programs> are loading\n"));
    let page = server.get("/", "").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    for part in ["1.2.3&lt;toy&gt;", "eBPF &lt;programs&gt;", "\"metrics\"", "\"-/healthy\"", "\"-/ready\""] {
        assert!(page.text().contains(part), "{part}");
    }
    assert!(!page.text().contains("{{"));
}

#[tokio::test]
async fn head_has_no_body() {
    let server = Running::plain().await;
    for path in ["/", "/metrics", "/-/healthy", "/-/ready"] {
        let answer = server.ask(&get(path, "").replace("GET", "HEAD")).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
        assert_ne!(answer.header("content-length"), Some("0"), "{path}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_helpfully() {
    let server = Running::plain().await;
    let missing = server.get("/metric", "").await;
    assert_eq!(missing.status, 404);
    assert!(missing.text().starts_with("no such page: /metric\n"), "{}", missing.text());
    let post = server.ask(&get("/metrics", "Content-Length: 0\r\n").replace("GET", "POST")).await;
    assert_eq!((post.status, post.header("allow")), (405, Some("GET,HEAD")));
    assert_eq!(post.text(), "POST is not for /metrics: use GET or HEAD\n");
    let requests = server.stats.snapshot().requests;
    assert!(requests.contains(&RequestCount { handler: OTHER_HANDLER.into(), code: 404, count: 1 }), "{requests:?}");
    assert!(requests.contains(&RequestCount { handler: "/metrics".into(), code: 405, count: 1 }), "{requests:?}");
}

#[tokio::test]
async fn requests_in_progress_end_before_the_server_does() {
    let site = Toy { delay: Duration::from_millis(300), ..Toy::default() };
    let mut server = Running::start(site, WebConfig::default(), Limits::default()).await;
    let idle = server.connect().await;
    let mut busy = server.connect().await;
    busy.write_all(get("/metrics", "").replace("Connection: close\r\n", "").as_bytes()).await.unwrap();
    server.until(|stats| stats.connections == 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stop.take();
    let mut answer = Vec::new();
    timeout(PATIENCE, busy.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(Answer::parse(&answer).status, 200);
    timeout(PATIENCE, &mut server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err(), "it listens no more");
    assert_eq!(server.stats.snapshot().open_connections, 0);
    drop(idle);
}
