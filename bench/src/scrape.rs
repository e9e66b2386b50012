//! Scraping a hundred thousand series over HTTP: from the agent's server, from a bare one, and from node_exporter.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mpsec_agent::api::{self, Format, HttpStats, Limits, Site, SiteFuture, WebConfig};
use mpsec_agent::publish::prometheus::{Dialect, render};
use mpsec_agent::snapshot::Snapshot;

use crate::measure::{interleave, median, pairs, process_cpu};
use crate::report::{Row, Section};
use crate::{Options, net, series};

/// How much longer a scrape may take than from a bare server.
const GOAL: f64 = 1.4;
/// `Accept-Encoding` of each case.
const ENCODINGS: [&str; 3] = ["identity", "gzip", "zstd"];

/// What `--serve` serves with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Server {
    /// The agent's HTTP server.
    Agent,
    /// hyper and nothing around it.
    Bare,
}

/// `cargo xtask bench scrape`
pub fn run(options: &Options) -> Result<Vec<Section>> {
    let _namespace = net::Namespace::enter_new()?;
    let (agent, bare) = (Served::start("agent")?, Served::start("bare")?);
    let mut rows = Vec::new();
    for encoding in ENCODINGS {
        let servers = [&bare, &agent];
        // CPU time of the server, beside the time that the client waits.
        let mut cpu = [Vec::new(), Vec::new()];
        servers.iter().try_for_each(|server| server.scrape(encoding).map(drop))?;
        let times = interleave(options.rounds, 2, |_, subject| {
            let before = servers[subject].cpu()?;
            let time = servers[subject].scrape(encoding)?;
            cpu[subject].push((servers[subject].cpu()? - before).as_secs_f64() * 1e3);
            anyhow::Ok(time.as_secs_f64() * 1e3)
        })?;
        let ratio = median(&pairs(&times[1], &times[0], |agent, bare| agent / bare));
        let note = |cpu: &[f64]| format!("server's CPU {:.1} ms", median(cpu));
        rows.push(Row::new(format!("bare hyper, {encoding}"), median(&times[0])).note(note(&cpu[0])));
        rows.push(
            Row::new(format!("mpsec, {encoding}"), median(&times[1]))
                .ratio(ratio)
                .ratio_at_most(GOAL)
                .note(note(&cpu[1])),
        );
    }
    rows.push(node_exporter(options)?);
    Ok(vec![Section {
        bench: "scrape",
        title: format!("Scraping {} series over HTTP", series::count()),
        method: "Time until a client on the same host has all of the answer. Both servers, each a process of its own, render \
                 the same synthetic snapshot anew for every scrape, and compress at level 1; the bare one is hyper without \
                 limits, counting, headers or routes. node_exporter's textfile collector reads the same text from a file."
            .into(),
        unit: "ms",
        against: "bare hyper",
        rows,
    }])
}

fn node_exporter(options: &Options) -> Result<Row> {
    let case = "node_exporter, textfile collector, identity";
    let Some(exporter) = textfile_exporter()? else {
        return Ok(Row::skipped(case, "not installed"));
    };
    let rounds = options.rounds.min(5);
    let times = interleave(rounds, 1, |_, _| anyhow::Ok(exporter.scrape("identity")?.as_secs_f64() * 1e3))?;
    Ok(Row::new(case, median(&times[0])).note(format!("{rounds} rounds")))
}

/// node_exporter with the synthetic series in a text file; `None` where it is not installed.
pub fn textfile_exporter() -> Result<Option<Served>> {
    if !net::is_installed("prometheus-node-exporter") {
        return Ok(None);
    }
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("series.prom"), series::written_by_hand(&series::snapshot(), 0))?;
    let mut command = Command::new("prometheus-node-exporter");
    command
        .args(["--collector.disable-defaults", "--collector.textfile", "--web.listen-address=127.0.0.1:19100"])
        .arg(format!("--collector.textfile.directory={}", dir.path().display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn().context("cannot start prometheus-node-exporter")?;
    let served = Served { child, address: "127.0.0.1:19100".parse()?, _dir: Some(dir) };
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(50));
        if TcpStream::connect(served.address).is_ok() {
            return Ok(Some(served));
        }
    }
    bail!("prometheus-node-exporter does not listen")
}

/// A server in a process of its own, which ends with this value.
pub struct Served {
    child: Child,
    address: SocketAddr,
    /// What it serves from.
    _dir: Option<tempfile::TempDir>,
}

impl Served {
    /// Starts this program with `--serve`.
    pub fn start(server: &str) -> Result<Served> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--serve", server])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a server")?;
        let mut line = String::new();
        let output = child.stdout.take().context("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("the server says {line:?}"))?;
        Ok(Served { child, address, _dir: None })
    }

    /// A program that is there already.
    pub fn adopt(child: Child, address: SocketAddr) -> Served {
        Served { child, address, _dir: None }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn cpu(&self) -> Result<Duration> {
        Ok(process_cpu(self.pid())?)
    }

    /// One scrape, on a connection of its own: the time that it took.
    pub fn scrape(&self, encoding: &str) -> Result<Duration> {
        let start = Instant::now();
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let head = "GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nAccept-Encoding: ";
        stream.write_all(format!("{head}{encoding}\r\n\r\n").as_bytes())?;
        let (mut answer, mut total) = (vec![0; 1 << 20], 0);
        let mut beginning = Vec::new();
        loop {
            let read = stream.read(&mut answer)?;
            if read == 0 {
                break;
            }
            if total == 0 {
                beginning = answer[..read.min(200)].to_vec();
            }
            total += read;
        }
        let time = start.elapsed();
        let beginning = String::from_utf8_lossy(&beginning);
        ensure!(beginning.starts_with("HTTP/1.1 200 OK") && total > 100_000, "{total} bytes: {beginning}");
        Ok(time)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves the synthetic snapshot until the process is killed; says where on standard output.
pub fn serve(server: Server) -> Result<()> {
    // As the agent does: one thread, and others for compression.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let snapshot = Arc::new(series::snapshot());
    let len = render(&snapshot, Dialect::Classic, 0).len() + 4096;
    let synthetic = Synthetic { snapshot, len };
    match server {
        Server::Agent => runtime.block_on(serve_as_the_agent(synthetic)),
        Server::Bare => runtime.block_on(serve_barely(synthetic)),
    }
}

struct Synthetic {
    snapshot: Arc<Snapshot>,
    len: usize,
}

impl Synthetic {
    fn text(&self) -> Bytes {
        render(&self.snapshot, Dialect::Classic, self.len)
    }
}

impl Site for Synthetic {
    fn metrics(&self, _format: Format) -> SiteFuture {
        let text = self.text();
        Box::pin(async move { Ok(text) })
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn version(&self) -> &str {
        "bench"
    }
}

async fn serve_as_the_agent(synthetic: Synthetic) -> Result<()> {
    let stats = Arc::new(HttpStats::default());
    let config = Arc::new(WebConfig::default());
    let server = api::Server::bind(&["127.0.0.1:0".parse()?], config, Limits::default(), stats.clone()).await?;
    println!("{}", server.local_addrs().first().context("no address")?);
    server.serve(api::router(Arc::new(synthetic), stats), std::future::pending()).await;
    Ok(())
}

async fn serve_barely(synthetic: Synthetic) -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let synthetic = Arc::new(synthetic);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let synthetic = synthetic.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(synthetic.clone(), request));
            // A client that goes away is no matter.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(synthetic: Arc<Synthetic>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let wanted = request.headers().get(ACCEPT_ENCODING).map_or(&b""[..], |value| value.as_bytes());
    let text = synthetic.text();
    let response = Response::builder().header(CONTENT_TYPE, "text/plain; version=0.0.4");
    let (response, body) = match wanted {
        b"gzip" => (response.header(CONTENT_ENCODING, "gzip"), gzip(&text)),
        b"zstd" => (
            response.header(CONTENT_ENCODING, "zstd"),
            zstd::bulk::compress(&text, 1).expect("memory takes all").into(),
        ),
        _ => (response, text),
    };
    Ok(response.body(Full::new(body)).expect("the headers are constants"))
}

fn gzip(text: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 4), Compression::new(1));
    encoder.write_all(text).expect("memory takes all");
    encoder.finish().expect("memory takes all").into()
}
