//! Clients that are slow, many or rude: a scrape still answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::http::{self, connect};
use mpsec_tests::netns::Netns;
use mpsec_tests::trial::trial;
use mpsec_tests::{need, wait};

const LIMIT: Duration = Duration::from_secs(120);
const CROWD: usize = 1000;
/// Connections that the agent serves at a time, and a few descriptors of its own work.
const SERVED: usize = 512 + 16;
/// How long a scrape may take while others misbehave.
const SCRAPE: Duration = Duration::from_secs(10);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("http::a_scrape_answers_in_a_slow_crowd", LIMIT, slow_crowd),
        trial("http::oversized_headers_are_refused", LIMIT, oversized),
        trial("http::what_is_not_http_is_refused", LIMIT, garbage),
        trial("http::metrics_come_compressed_for_who_asks", LIMIT, compressed),
        trial("http::an_address_that_comes_late_is_listened_on", LIMIT, late_address),
    ]
}

fn agent() -> Result<(Arc<Netns>, Agent)> {
    need::mpsec()?;
    need::root()?;
    let netns = Arc::new(Netns::new()?);
    let agent = Agent::start(&netns)?;
    Ok((netns, agent))
}

/// As at boot, where DHCP or the search for duplicates takes longer than the agent.
fn late_address() -> Result<()> {
    need::mpsec()?;
    need::root()?;
    let netns = Arc::new(Netns::new()?);
    netns.output("sh", &["-c", "echo 0 >/proc/sys/net/ipv6/conf/lo/disable_ipv6"])?;
    let addresses: [SocketAddr; 2] = ["192.0.2.9:9475".parse()?, "[2001:db8::9]:9475".parse()?];
    let flags: Vec<String> = addresses.iter().map(|address| format!("--listen {address}")).collect();
    let agent = Options::default().with(&flags.join(" ")).start(&netns)?;
    for address in addresses {
        let said = format!("no interface has the address {address} yet");
        ensure!(agent.stderr().contains(&said), "nothing is said of {address}: {}", agent.stderr());
        netns.ip(&format!("address add {} dev lo", address.ip()))?;
        let mut stream = wait::until(SCRAPE, || connect(&netns, address))?;
        stream.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{address} answered {answer:?}");
    }
    Ok(())
}

/// A thousand clients that each begin a request and never end it.
fn slow_crowd() -> Result<()> {
    let (netns, agent) = agent()?;
    let files = agent.open_files()?;
    let address = agent.address();
    let crowd: Vec<TcpStream> = netns.run(|| {
        // The agent need not accept them all: what matters is that they were let in line or turned away.
        let one = |_| TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok();
        let begun =
            |mut stream: TcpStream| stream.write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ").is_ok().then_some(stream);
        (0..CROWD).filter_map(one).filter_map(begun).collect()
    });
    ensure!(crowd.len() > CROWD / 4, "only {} of {CROWD} got in line", crowd.len());
    let start = Instant::now();
    wait::until(SCRAPE, || agent.scrape())?;
    println!("{} slow clients: a scrape answered after {} ms", crowd.len(), start.elapsed().as_millis());
    let held = agent.open_files()?;
    ensure!(held <= files + SERVED, "{held} descriptors, {files} before the crowd");
    drop(crowd);
    wait::until(SCRAPE, || {
        let now = agent.open_files()?;
        ensure!(now <= files + 4, "{now} descriptors, {files} before");
        Ok(())
    })
}

fn oversized() -> Result<()> {
    let (netns, agent) = agent()?;
    let mut stream = connect(&netns, agent.address())?;
    let memory = agent.resident_bytes()?;
    let line = [b"X-Long: ".as_slice(), &[b'a'; 64 * 1024], b"\r\n"].concat();
    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n");
    // 16 MiB of headers; the agent hangs up long before.
    let sent = (0..256).take_while(|_| stream.write_all(&line).is_ok()).count();
    ensure!(sent < 256, "the agent took 16 MiB of headers");
    ensure!(agent.resident_bytes()? < memory + (8 << 20), "the agent kept the headers");
    agent.scrape().map(drop)
}

fn garbage() -> Result<()> {
    let (netns, agent) = agent()?;
    for junk in
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), b"\r\n\r\n\r\n", b"GET\r\n\r\n", &[0; 4096]]
    {
        let mut stream = connect(&netns, agent.address())?;
        stream.write_all(junk)?;
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        // A reset is an answer, too.
        let _ = stream.read_to_end(&mut answer);
        ensure!(!answer.starts_with(b"HTTP/1.1 200"), "{junk:02x?} was answered with 200");
    }
    agent.scrape().map(drop)
}

fn compressed() -> Result<()> {
    let (netns, agent) = agent()?;
    for encoding in ["gzip", "zstd"] {
        let headers = [("Accept-Encoding", encoding)];
        let response = http::get_with(&netns, agent.address(), "/metrics", &headers)?;
        ensure!(response.status == 200, "{encoding}: {}", response.status);
        let used = response.header("content-encoding").unwrap_or("none");
        let magic: &[u8] = if encoding == "gzip" { &[0x1f, 0x8b] } else { &[0x28, 0xb5, 0x2f, 0xfd] };
        ensure!(used == encoding && response.body.starts_with(magic), "{encoding}: {used}");
    }
    Ok(())
}
