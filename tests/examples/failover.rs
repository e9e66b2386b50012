//! What a reader notices when a path fails, for a choice of settings: the figures of docs/failover.md.
//!
//! `cargo run --release -p mpsec-tests --example failover -- fault=silent dir=up path=1 stale=1 rto_min=20000 rounds=10`

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mpsec_agent::agent::failover::driver::policy;
use mpsec_agent::kernel::mptcp_pm::{Endpoint, PathManager};
use mpsec_agent::kernel::policy::Policy;
use mpsec_tests::keeper::Keeper;
use mpsec_tests::mptcp::Info;
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::{Family, Host, address};
use mpsec_tests::stream::{Call, Stream};
use mpsec_tests::wan::{Line, Wan};

/// How long a path stays away, and how long it is waited for afterwards.
const OUTAGE: Duration = Duration::from_secs(3);

/// The words of the command line.
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
    report(&plan, &done);
    Ok(())
}

/// The median and the worst of each figure.
fn report(plan: &Plan, done: &[Round]) {
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
}

/// `rto_min=` microseconds, `rto_max=` milliseconds, `stale=`, `wmem=`, `rmem=` and `cc=`, on the `ends=`.
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
    let path = plan.number("path").unwrap_or(1) as usize;
    let wan = lay(plan, path)?;
    let keepers = keepers(plan, &wan)?;
    ready.wait();
    thread::sleep(Duration::from_millis(37 * number));
    let call = Call::open(&wan)?;
    let (from, to) = call.ends(if plan.text("dir", "up") == "up" { Host::Client } else { Host::Server });
    let start = Instant::now();
    let stream = Stream::start(from, to, plan.number("rate").unwrap_or(10) * 125_000)?;
    thread::sleep(Duration::from_millis(1000));
    let before = Info::of(from)?.context("no MPTCP")?;
    ensure!(before.subflows_total == 2, "{} subflows", before.subflows_total);
    let by_hand = ByHand::open(&wan, path)?;
    let fault = Instant::now();
    strike(plan, &wan, path)?;
    by_hand.act(plan, &wan)?;
    thread::sleep((fault + OUTAGE).saturating_duration_since(Instant::now()));
    let carried = wan.carried(path);
    heal(plan, &wan, path)?;
    if plan.number("remove").is_some() {
        by_hand.undo(&wan)?;
    }
    let back = back(&wan, path, carried);
    let info = Info::of(from)?.context("no MPTCP")?;
    let slack = Duration::from_millis(30 + plan.number("rtt").unwrap_or(10));
    let result = Round {
        gap: stream.longest_gap(fault, OUTAGE).as_secs_f64(),
        caught_up: stream.caught_up(start, fault, slack).map(|time| time.as_secs_f64()),
        rest_mbit: stream.mbit(fault + Duration::from_millis(500), Duration::from_secs(1)),
        back,
        subflows: info.subflows_total,
        extra: info.bytes()?.retrans - before.bytes()?.retrans,
    };
    if let Err(error) = stream.finish(from) {
        println!("  stuck: {error:#}; {result:?}");
    } else if plan.number("verbose").is_some() {
        println!("  {result:?}");
    }
    keepers.into_iter().try_for_each(Keeper::stop)?;
    Ok(result)
}

/// Two lines, as `rtt=` milliseconds and `mbit=` say; `path_rtt=` of the one that fails, `loss=` of a million packets on it.
fn lay(plan: &Plan, path: usize) -> Result<Wan> {
    let delay = |key: &str| plan.number(key).map(|rtt| Duration::from_millis(rtt / 2));
    let mbit = plan.number("mbit").unwrap_or(Line::USUAL.mbit);
    let line = Line { delay: delay("rtt").unwrap_or(Line::USUAL.delay), mbit, ..Line::USUAL };
    let mut lines = [line, line];
    lines[path].delay = delay("path_rtt").unwrap_or(line.delay);
    let wan = Wan::new(&lines)?;
    tune(plan, &wan.client, "client")?;
    tune(plan, &wan.server, "server")?;
    for path in 0..lines.len() {
        wan.add_endpoint(path)?;
    }
    wan.lose(path, plan.number("loss").unwrap_or(0));
    Ok(wan)
}

/// `fault=`
fn strike(plan: &Plan, wan: &Wan, path: usize) -> Result<()> {
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
    Ok(())
}

fn heal(plan: &Plan, wan: &Wan, path: usize) -> Result<()> {
    match plan.text("fault", "none") {
        "down" => wan.up(path)?,
        "carrier" => wan.carrier(path, true)?,
        _ => wan.silence(path, [false; 2]),
    }
    Ok(())
}

/// When the path has carried some data again.
fn back(wan: &Wan, path: usize, carried: u64) -> Option<f64> {
    let start = Instant::now();
    let mut back = None;
    while start.elapsed() < OUTAGE {
        if back.is_none() && wan.carried(path) > carried + 20 {
            back = Some(start.elapsed().as_secs_f64());
        }
        thread::sleep(Duration::from_millis(5));
    }
    back
}

/// What the agent could do, done at a given time: `remove=` milliseconds after the fault the client's endpoint, `destroy=` the
/// server's subflow.
struct ByHand(Endpoint);

impl ByHand {
    fn open(wan: &Wan, path: usize) -> Result<Self> {
        let local = address(Host::Client, Family::V4, path);
        let endpoints = wan.client.run(|| PathManager::open()?.endpoints())?;
        endpoints.into_iter().find(|endpoint| endpoint.address == local).map(Self).context("no endpoint")
    }

    fn act(&self, plan: &Plan, wan: &Wan) -> Result<()> {
        if let Some(after) = plan.number("remove") {
            thread::sleep(Duration::from_millis(after));
            wan.client.run(|| PathManager::open()?.delete_endpoint(&self.0))?;
        }
        if let Some(after) = plan.number("destroy") {
            thread::sleep(Duration::from_millis(after));
            wan.server.output("ss", &["-Ktn", "dst", &self.0.address.to_string()])?;
        }
        Ok(())
    }

    fn undo(&self, wan: &Wan) -> Result<()> {
        Ok(wan.client.run(|| PathManager::open()?.add_endpoint(&self.0))?)
    }
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
