//! What clients cannot do to the server.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::response::IntoResponse;
use hyper::body::Frame;

use super::*;

#[tokio::test]
async fn oversized_heads_are_refused() {
    let server = Running::plain().await;
    let fits = server.get("/metrics", &format!("X-Long: {}\r\n", "x".repeat(12_000))).await;
    assert_eq!(fits.status, 200);
    let long = server.get("/metrics", &format!("X-Long: {}\r\n", "x".repeat(40_000))).await;
    assert_eq!(long.status, 431);
    let many = server.get("/metrics", &"X: y\r\n".repeat(200)).await;
    assert_eq!(many.status, 431);
    assert_eq!(server.ask("no HTTP\r\n\r\n").await.status, 400);
    server.until(|stats| stats.open_connections == 0).await;
    let requests = server.stats.snapshot().requests;
    assert!(requests.contains(&RequestCount { handler: OTHER_HANDLER.into(), code: 431, count: 2 }), "{requests:?}");
    assert!(requests.contains(&RequestCount { handler: OTHER_HANDLER.into(), code: 400, count: 1 }), "{requests:?}");
}

#[tokio::test]
async fn oversized_bodies_are_refused() {
    let server = Running::plain().await;
    let body = "x".repeat(70_000);
    let long = server.get("/metrics", &format!("Content-Length: {}\r\n", body.len())).await;
    assert_eq!(long.status, 413);
    let sent = server.ask(&format!("{}{body}", get("/", &format!("Content-Length: {}\r\n", body.len())))).await;
    assert_eq!(sent.status, 413, "and a client that sends it all the same hears so");
    let small = server.ask(&format!("{}abc", get("/metrics", "Content-Length: 3\r\n"))).await;
    assert_eq!(small.status, 200);
}

/// Half of these connections say nothing, half a byte now and then; a scrape gets through among them.
#[tokio::test]
async fn a_flood_of_idle_connections_locks_nobody_out() {
    let limits = Limits { max_connections: 128, ..Limits::default() };
    let server = Running::start(Toy::default(), WebConfig::default(), limits).await;
    let mut flood = Vec::new();
    for index in 0..flood_size() {
        let mut stream = server.connect().await;
        if index % 2 == 0 {
            let _ = stream.write_all(b"G").await;
        }
        flood.push(stream);
        if index % 100 == 0 {
            assert_eq!(server.get("/metrics", "").await.status, 200);
        }
    }
    for _ in 0..3 {
        for stream in flood.iter_mut().step_by(2) {
            let _ = stream.write_all(b"E").await;
        }
        let scrape = timeout(Duration::from_secs(10), server.get("/metrics", "")).await;
        assert_eq!(scrape.expect("a scrape in time").status, 200);
    }
    let stats = server.stats.snapshot();
    assert!(stats.open_connections <= 129, "{stats:?}");
    assert!(stats.closed_for_room as usize >= flood.len() - 128, "{stats:?}");
}

/// A thousand, or what the limit on open files leaves to this test among others.
fn flood_size() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    soft.saturating_sub(400).clamp(200, 1000)
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_dropped() {
    let limits = Limits {
        header_timeout: Duration::from_millis(100),
        handshake_timeout: Duration::from_millis(100),
        idle_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = Running::start(Toy::default(), WebConfig::default(), limits).await;
    let mut streams = Vec::new();
    for said in ["", "GET /", "GET /-/healthy HTTP/1.1\r\nHost: toy\r\n\r\n"] {
        let mut stream = server.connect().await;
        stream.write_all(said.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    for mut stream in streams {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed in time");
    }
    server.until(|stats| stats.open_connections == 0 && stats.timed_out == 3).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped() {
    let limits = Limits { response_timeout: Duration::from_millis(300), ..Limits::default() };
    let site = Toy { bytes: 64_000_000, ..Toy::default() };
    let server = Running::start(site, WebConfig::default(), limits).await;
    let mut stream = server.connect().await;
    stream.write_all(get("/metrics", "").as_bytes()).await.unwrap();
    server.until(|stats| stats.timed_out == 1 && stats.open_connections == 0).await;
    let mut read = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut read)).await.unwrap();
    assert!(read.len() < 64_000_000, "cut off");
}

#[tokio::test]
async fn clients_that_do_not_read_make_room_for_those_that_do() {
    let limits = Limits { max_connections: 4, ..Limits::default() };
    let site = Toy { bytes: 16_000_000, ..Toy::default() };
    let server = Running::start(site, WebConfig::default(), limits).await;
    let mut stuck = Vec::new();
    for count in 1..=4 {
        let mut stream = server.connect().await;
        stream.write_all(get("/metrics", "").as_bytes()).await.unwrap();
        stuck.push(stream);
        server.until(|stats| stats.scrape_bytes[0].1 >= count * 15_000_000).await;
    }
    // It is only seen to be stuck once its first bytes have filled the socket.
    let answer = async {
        loop {
            let mut stream = server.connect().await;
            let _ = stream.write_all(get("/-/healthy", "").as_bytes()).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            if !answer.is_empty() {
                return Answer::parse(&answer).status;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, answer).await.unwrap(), 200);
    assert!(server.stats.snapshot().closed_for_room >= 1);
}

#[tokio::test]
async fn a_rate_limit_is_kept() {
    let files = Files::new("rate_limit:\n  interval: 1h\n  burst: 2\n");
    let server = Running::start(Toy::default(), files.load(), Limits::default()).await;
    for status in [200, 200, 429] {
        assert_eq!(server.get("/metrics", "").await.status, status);
    }
}

/// An answer that goes on and on, with a word in each tenth of a second.
struct Endless(Pin<Box<tokio::time::Interval>>);

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(b"word ")))))
    }
}

#[tokio::test]
async fn streams_outlive_the_deadline_of_answers_but_not_the_server() {
    let limits = Limits { response_timeout: Duration::from_millis(300), ..Limits::default() };
    let endless = axum::routing::get(async || {
        let body = Endless(Box::pin(tokio::time::interval(Duration::from_millis(100))));
        (axum::Extension(Streaming), axum::body::Body::new(body)).into_response()
    });
    let more = axum::Router::new().route("/words", endless);
    let mut server = Running::start_with(more, Toy::default(), WebConfig::default(), limits).await;
    let mut stream = server.connect().await;
    stream.write_all(get("/words", "").as_bytes()).await.unwrap();
    let mut read = String::new();
    while read.matches("word").count() < 10 {
        let mut buf = [0; 1000];
        let length = timeout(PATIENCE, stream.read(&mut buf)).await.unwrap().unwrap();
        assert_ne!(length, 0, "cut off after {read:?}");
        read.push_str(std::str::from_utf8(&buf[..length]).unwrap());
    }
    server.stop.take();
    timeout(PATIENCE, &mut server.task).await.unwrap().unwrap();
    assert_eq!(server.stats.snapshot().timed_out, 0);
    let requests = server.stats.snapshot().requests;
    assert_eq!(requests, [RequestCount { handler: "/words".into(), code: 200, count: 1 }]);
}
