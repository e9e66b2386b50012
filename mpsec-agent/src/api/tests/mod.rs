//! The server over real sockets, with a toy site behind it.

mod auth;
mod bounds;
mod control;
mod http;
mod reload;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// Long enough for any machine: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A site whose metrics are so many bytes.
struct Toy {
    bytes: usize,
    ready: Result<(), String>,
    delay: Duration,
}

impl Default for Toy {
    fn default() -> Self {
        Toy { bytes: 0, ready: Ok(()), delay: Duration::ZERO }
    }
}

impl Site for Toy {
    fn metrics(&self, format: Format) -> SiteFuture {
        let ready = self.ready.clone();
        let delay = self.delay;
        let body = format!("# {format:?}\n{}", "toy 1\n".repeat(self.bytes / 6));
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            ready.map(|()| Bytes::from(body)).map_err(SiteError::NotReady)
        })
    }

    fn ready(&self) -> Result<(), String> {
        self.ready.clone()
    }

    fn version(&self) -> &str {
        "1.2.3<toy>"
    }
}

/// A server that runs until it is dropped.
struct Running {
    addr: SocketAddr,
    stats: Arc<HttpStats>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(site: Toy, config: WebConfig, limits: Limits) -> Running {
        Running::start_with(axum::Router::new(), site, config, limits).await
    }

    async fn start_with(more: axum::Router, site: Toy, config: WebConfig, limits: Limits) -> Running {
        Running::start_for(more, Arc::new(site), config, Access::default(), limits).await
    }

    async fn start_for(
        more: axum::Router,
        site: Arc<dyn Site>,
        config: WebConfig,
        access: Access,
        limits: Limits,
    ) -> Running {
        let stats = Arc::new(HttpStats::default());
        let addr = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(&[addr], Arc::new(config), limits, stats.clone()).await.unwrap().with_access(access);
        let addr = server.local_addrs()[0];
        let (stop, stopped) = oneshot::channel();
        let router = router(site, stats.clone()).merge(more);
        let task = tokio::spawn(server.serve(router, async {
            let _ = stopped.await;
        }));
        Running { addr, stats, stop: Some(stop), task }
    }

    async fn plain() -> Running {
        Running::start(Toy::default(), WebConfig::default(), Limits::default()).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// One request on a connection of its own.
    async fn ask(&self, request: &str) -> Answer {
        exchange(&mut self.connect().await, request).await
    }

    async fn get(&self, path: &str, headers: &str) -> Answer {
        self.ask(&get(path, headers)).await
    }

    /// Waits until a statistic is so.
    async fn until(&self, holds: impl Fn(&HttpSnapshot) -> bool) {
        let wait = async {
            while !holds(&self.stats.snapshot()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, wait).await.is_err() {
            panic!("never came: {:?}", self.stats.snapshot());
        }
    }
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: toy\r\nConnection: close\r\n{headers}\r\n")
}

/// Sends a request and reads until the server closes.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &str) -> Answer {
    let mut bytes = Vec::new();
    let talk = async {
        // A server that refuses early may close before all is sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.read_to_end(&mut bytes).await;
    };
    timeout(PATIENCE, talk).await.expect("an answer in time");
    Answer::parse(&bytes)
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Answer {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: bytes[end + 4..].to_vec() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A directory with a web configuration in it.
struct Files(TempDir);

impl Files {
    fn new(config: &str) -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        files.write("web.yml", config);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        // By rename, as a careful editor does.
        let new = self.path("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    fn load(&self) -> WebConfig {
        WebConfig::load_eager(&self.path("web.yml")).unwrap()
    }

    fn error(&self) -> String {
        let error = WebConfig::load(&self.path("web.yml")).err().expect("an error");
        let dir: &Path = self.0.path();
        error.to_string().replace(&format!("{}/", dir.display()), "")
    }
}
