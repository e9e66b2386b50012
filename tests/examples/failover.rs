//! What a reader notices when a path fails, for a choice of settings: the figures of docs/failover.md.
//!
//! `cargo run --release -p mpsec-tests --example failover -- fault=silent dir=up path=1 stale=1 rto_min=20000 rounds=10`

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mpsec_agent::agent::failover::driver::policy;
use mpsec_agent::kernel::mptcp_pm::{Endpoint, EndpointFlags, PathManager};
use mpsec_agent::kernel::policy::Policy;
use mpsec_tests::keeper::Keeper;
use mpsec_tests::mptcp::Info;
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::{Family, Host, address};
use mpsec_tests::stream::{Call, Stream};
use mpsec_tests::wan::{Line, Wan};

#[derive(Clone)]
struct Plan(BTreeMap<String, String>);

impl Plan {
    fn text<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.0.get(key).map_or(default, String::as_str)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key).map(|value| value.parse().expect("a number"))
    }
}

#[derive(Debug)]
struct Round {
    gap: f64,
    caught_up: Option<f64>,
    rest_mbit: f64,
    back: Option<f64>,
    subflows: u32,
    extra: u64,
}

fn main() -> Result<()> {
    let words = std::env::args().skip(1);
    let plan = Plan(words.filter_map(|word| word.split_once('=').map(|(k, v)| (k.into(), v.into()))).collect());
    let rounds = plan.number("rounds").unwrap_or(10);
    let at_once = plan.number("at_once").unwrap_or(5);
    let mut done = Vec::new();
    while (done.len() as u64) < rounds {
        let count = at_once.min(rounds - done.len() as u64);
        // Loading programs takes the processors that the streams of other rounds need.
        let ready = Arc::new(Barrier::new(count as usize));
        let workers: Vec<_> = (0..count)
            .map(|number| {
                let (plan, ready) = (plan.clone(), ready.clone());
                thread::spawn(move || round(&plan, number, &ready))
            })
            .collect();
        for worker in workers {
            done.push(worker.join().expect("no panic")?);
        }
    }
    let column = |take: &dyn Fn(&Round) -> f64| {
        let mut values: Vec<f64> = done.iter().map(take).collect();
        values.sort_by(f64::total_cmp);
        format!("{:.3}/{:.3}", values[values.len() / 2], values[values.len() - 1])
    };
    let never = f64::INFINITY;
    println!(
        "{:60} gap {} caught up {} rest {} Mbit/s back {} subflows {} resent {} KB",
        plan.0.iter().map(|(k, v)| format!("{k}={v} ")).collect::<String>(),
        column(&|round| round.gap),
        column(&|round| round.caught_up.unwrap_or(never)),
        column(&|round| round.rest_mbit),
        column(&|round| round.back.unwrap_or(never)),
        column(&|round| f64::from(round.subflows)),
        column(&|round| round.extra as f64 / 1000.0),
    );
    Ok(())
}

fn tune(plan: &Plan, netns: &Netns, end: &str) -> Result<()> {
    let ends = plan.text("ends", "both");
    netns.sysctl("net/ipv4/tcp_no_metrics_save", "1")?;
    if ends != "both" && ends != end {
        return Ok(());
    }
    for (key, sysctl) in [
        ("rto_min", "net/ipv4/tcp_rto_min_us"),
        ("rto_max", "net/ipv4/tcp_rto_max_ms"),
        ("stale", "net/mptcp/stale_loss_cnt"),
    ] {
        if let Some(value) = plan.number(key) {
            netns.sysctl(sysctl, &value.to_string())?;
        }
    }
    if let Some(bytes) = plan.number("wmem") {
        netns.sysctl("net/ipv4/tcp_wmem", &format!("4096 65536 {bytes}"))?;
    }
    if let Some(bytes) = plan.number("rmem") {
        netns.sysctl("net/ipv4/tcp_rmem", &format!("4096 {bytes} 33554432"))?;
    }
    if let Some(cc) = plan.0.get("cc") {
        netns.sysctl("net/ipv4/tcp_congestion_control", cc)?;
    }
    Ok(())
}

fn round(plan: &Plan, number: u64, ready: &Barrier) -> Result<Round> {
    let delay = plan.number("rtt").unwrap_or(10) / 2;
    let line = Line { delay: Duration::from_millis(delay), mbit: plan.number("mbit").unwrap_or(20), ..Line::USUAL };
    let path = plan.number("path").unwrap_or(1) as usize;
    let mut lines = [line, line];
    if let Some(rtt) = plan.number("path_rtt") {
        lines[path].delay = Duration::from_millis(rtt / 2);
    }
    let wan = Wan::new(&lines)?;
    tune(plan, &wan.client, "client")?;
    tune(plan, &wan.server, "server")?;
    for path in 0..2 {
        wan.add_endpoint(path)?;
    }
    let keepers = keepers(plan, &wan)?;
    ready.wait();
    thread::sleep(Duration::from_millis(37 * number));
    let call = Call::open(&wan)?;
    let (from, to) = call.ends(if plan.text("dir", "up") == "up" { Host::Client } else { Host::Server });
    let rate = plan.number("rate").unwrap_or(10) * 125_000;
    let start = Instant::now();
    let stream = Stream::start(from, to, rate)?;
    thread::sleep(Duration::from_millis(1000));
    let before = Info::of(from)?.context("no MPTCP")?;
    if before.subflows_total != 2 {
        bail!("{} subflows", before.subflows_total);
    }
    if let Some(ppm) = plan.number("loss") {
        wan.lose(path, ppm);
    }
    let remove = plan.number("remove");
    let endpoint = wan.client.run(|| -> Result<_> {
        let mut manager = PathManager::open()?;
        Ok(manager
            .endpoints()?
            .into_iter()
            .find(|endpoint| endpoint.address == address(Host::Client, Family::V4, path)))
    })?;
    let endpoint = endpoint.context("no endpoint")?;
    let mut manager = wan.client.run(PathManager::open)?;
    let fault = Instant::now();
    match plan.text("fault", "none") {
        "down" => wan.down(path)?,
        "carrier" => wan.carrier(path, false)?,
        "silent" => wan.silence(path, [true; 2]),
        "to_server" => wan.silence(path, [true, false]),
        "to_client" => wan.silence(path, [false, true]),
        "hold" => {
            for _ in 0..6 {
                wan.hold(path, Duration::from_millis(plan.number("hold").unwrap_or(100)));
                thread::sleep(Duration::from_millis(400));
            }
        }
        _ => {}
    }
    if let Some(after) = remove {
        thread::sleep(Duration::from_millis(after));
        manager.delete_endpoint(&endpoint)?;
        if path == 0 {
            let zero = Endpoint { id: 0, flags: EndpointFlags::default(), ..endpoint.clone() };
            let _ = manager.delete_endpoint(&zero);
        }
    }
    if let Some(after) = plan.number("destroy") {
        thread::sleep(Duration::from_millis(after));
        let dead = address(Host::Client, Family::V4, path).to_string();
        println!("{}", wan.server.output("ss", &["-Ktn", "dst", &dead])?.lines().count());
    }
    thread::sleep((fault + Duration::from_millis(3000)).saturating_duration_since(Instant::now()));
    let healed = Instant::now();
    let carried = wan.carried(path);
    match plan.text("fault", "none") {
        "down" => wan.up(path)?,
        "carrier" => wan.carrier(path, true)?,
        _ => wan.silence(path, [false; 2]),
    }
    if remove.is_some() {
        manager.add_endpoint(&endpoint)?;
    }
    let mut back = None;
    while healed.elapsed() < Duration::from_secs(3) {
        if back.is_none() && wan.carried(path) > carried + 20 {
            back = Some(healed.elapsed().as_secs_f64());
        }
        thread::sleep(Duration::from_millis(5));
    }
    let info = Info::of(from)?.context("no MPTCP")?;
    let window = Duration::from_millis(3000);
    let result = Round {
        gap: stream.longest_gap(fault, window).as_secs_f64(),
        caught_up: stream.caught_up(start, fault, Duration::from_millis(30 + delay * 2)).map(|time| time.as_secs_f64()),
        rest_mbit: stream.mbit(fault + Duration::from_millis(500), Duration::from_secs(1)),
        back,
        subflows: info.subflows_total,
        extra: info.bytes_retrans - before.bytes_retrans,
    };
    if plan.number("counters").is_some() && back.is_none() {
        for netns in [&wan.client, &wan.server] {
            println!("{}", netns.output("ss", &["-ntiMm"])?);
            println!("{}", netns.output("ss", &["-ntimH"])?);
            let text = netns.read("/proc/thread-self/net/netstat")?;
            let lines: Vec<&str> = text.lines().collect();
            for pair in lines.chunks(2) {
                for (name, value) in pair[0].split_whitespace().zip(pair[1].split_whitespace()) {
                    if value != "0" {
                        print!("{name}={value} ");
                    }
                }
            }
            println!();
        }
    }
    if let Err(error) = stream.finish(from) {
        println!("  stuck: {error:#}; {result:?}");
    } else if plan.number("verbose").is_some() {
        println!("  {result:?}");
    }
    for keeper in keepers {
        keeper.stop()?;
    }
    Ok(result)
}

/// `keep=client`, `server` or `both`; `policy_rto_min=` and `policy_rto_max=`; `acts=0` for nothing but the policy.
fn keepers(plan: &Plan, wan: &Wan) -> Result<Vec<Keeper>> {
    let ends = plan.text("keep", "none");
    let usual = policy();
    let policy = Policy {
        rto_min_us: plan.number("policy_rto_min").map_or(usual.rto_min_us, |value| Some(value as u32)),
        rto_max_ms: plan.number("policy_rto_max").map_or(usual.rto_max_ms, |value| Some(value as u32)),
        ..usual
    };
    let acts = plan.number("acts") != Some(0);
    [("client", &wan.client), ("server", &wan.server)]
        .into_iter()
        .filter(|(end, _)| ends == "both" || ends == *end)
        .map(|(_, netns)| Keeper::start(netns, vec![(None, policy.clone())], acts))
        .collect()
}
