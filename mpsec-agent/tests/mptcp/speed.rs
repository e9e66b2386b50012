//! What lists of sockets cost, beside ss:
//! `MPSEC_SPEED=2000 cargo test --release -p mpsec-agent --test mptcp speed -- --ignored --nocapture`.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::sock_diag::{Extensions, SockDiag, States};
use mpsec_agent::kernel::sockets_iter::SocketsIter;
use mpsec_tests::mptcp::{self, Protocol};
use mpsec_tests::paths::{Family, Host, Paths, Plan, address};
use mpsec_tests::trial::{Skip, trial};
use mpsec_tests::{ss, wait};

use crate::iter::program;

const LIMIT: Duration = Duration::from_secs(300);
const ROUNDS: usize = 11;
const PATHS: usize = 2;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("speed::lists_beside_ss", LIMIT, lists_beside_ss).with_ignored_flag(true)]
}

fn lists_beside_ss() -> Result<()> {
    let number = std::env::var("MPSEC_SPEED").map_err(|_| Skip::because("needs MPSEC_SPEED"))?.parse()?;
    let paths = Paths::new(Plan::wires(PATHS))?;
    paths.add_endpoints(Family::V4)?;
    let _crowd = crowd(&paths, number)?;
    let mut rounds = [Vec::new(), Vec::new(), Vec::new()];
    let mut iter = program(&paths.client)?;
    let ss = paths.client.run(|| -> Result<f64> {
        let mut diag = SockDiag::open()?;
        let before = of_children()?;
        for _ in 0..ROUNDS {
            for (times, time) in rounds.iter_mut().zip(round(&mut diag, &mut iter, number)?) {
                times.push(time);
            }
            let status = Command::new("ss").args(["-tniM"]).stdout(Stdio::null()).status().context("ss")?;
            ensure!(status.success(), "ss failed");
        }
        Ok((of_children()? - before) / ROUNDS as f64)
    })?;
    let [tcp, mptcp, program] = rounds.map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e6
    });
    let (subflows, connections) = ((number * PATHS) as f64, number as f64);
    let all = (tcp / subflows * 2e4 + mptcp / connections * 1e4) / 1e3;
    println!("{number} connections, CPU time, median of {ROUNDS}; of ss the mean:");
    println!("TCP    {tcp:.0} us, {:.2} us a subflow", tcp / subflows);
    println!("MPTCP  {mptcp:.0} us, {:.2} us a connection", mptcp / connections);
    println!("a program {program:.0} us, {:.2} us a subflow; ratio {:.3}", program / subflows, program / ss);
    println!("both   {:.0} us; ss -tniM {ss:.0} us; ratio {:.3}", tcp + mptcp, (tcp + mptcp) / ss);
    println!("that is, of 10,000 connections with 20,000 subflows: {all:.1} ms");
    Ok(())
}

/// Connections, both ends of each, after all subflows have joined.
fn crowd(paths: &Paths, number: usize) -> Result<(TcpListener, Vec<TcpStream>)> {
    let (listener, port) = mptcp::listen(&paths.server, Family::V4, Protocol::Mptcp)?;
    let (from, to) = (address(Host::Client, Family::V4, 0), address(Host::Server, Family::V4, 0));
    paths.client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    let streams = paths.client.run(|| -> Result<Vec<TcpStream>> {
        let mut streams = Vec::new();
        for _ in 0..number {
            let mut client = mptcp::connect(from, (to, port).into(), Protocol::Mptcp)?;
            let (mut server, _) = listener.accept()?;
            // A client joins when it knows that its peer has the connection for established.
            client.write_all(&[0])?;
            server.read_exact(&mut [0])?;
            server.write_all(&[0])?;
            client.read_exact(&mut [0])?;
            streams.extend([client, server]);
        }
        Ok(streams)
    })?;
    wait::until(LIMIT, || {
        let joins = ss::mib(&paths.server)?.get("MPJoinAckRx").copied().unwrap_or(0);
        ensure!(joins == (number * (PATHS - 1)) as u64, "{joins} joins");
        Ok(())
    })?;
    Ok((listener, streams))
}

/// Lists everything once. CPU time of TCP, of MPTCP, and of the program that lists both.
fn round(diag: &mut SockDiag, iter: &mut SocketsIter, number: usize) -> Result<[Duration; 3]> {
    let (mut tcp, mut mptcp, mut listed, mut sum) = (0, 0, 0, 0);
    let start = of_thread()?;
    diag.visit_tcp(States::CONNECTIONS, Extensions::INFO | Extensions::CONGESTION, |socket| {
        let (Some(info), Some(_)) = (socket.tcp_info(), socket.subflow()) else { return };
        sum += info.bytes_sent().unwrap_or_default() + u64::from(info.rtt().unwrap_or_default());
        tcp += 1;
    })?;
    let middle = of_thread()?;
    diag.visit_mptcp(States::CONNECTIONS, Extensions::INFO, |socket| {
        sum += socket.mptcp_info().and_then(|info| info.bytes_sent()).unwrap_or_default();
        mptcp += 1;
    })?;
    let end = of_thread()?;
    iter.read(|socket| {
        sum += socket.data_bytes().map_or(0, |data| data.sent_bytes) + u64::from(socket.details().srtt_us);
        listed += 1;
    })?;
    let last = of_thread()?;
    ensure!(tcp == number * PATHS && mptcp == number && sum > 0, "{tcp} subflows, {mptcp} connections");
    ensure!(listed == tcp, "{listed} subflows by a program");
    Ok([middle - start, end - middle, last - end])
}

/// What this thread has had of a processor.
fn of_thread() -> Result<Duration> {
    // The kernel adds up when it looks for what to run next.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split_whitespace().next().context("an empty schedstat")?.parse()?))
}

/// Microseconds that the programs which this one started have had, to a hundredth of a second.
fn of_children() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let behind_name = text.rsplit(')').next().context("no name")?;
    let ticks = behind_name.split_whitespace().skip(13).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? * 1e4)
}
