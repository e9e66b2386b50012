//! A real agent and real connections over two paths: what the dashboard shows of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use mpsec_tests::agent::Options;
use mpsec_tests::grafana::{Dashboard, Query, Variables, substitute};
use mpsec_tests::mptcp::{Conversation, Protocol};
use mpsec_tests::paths::{Family, Host, Paths, Plan, device};
use mpsec_tests::prometheus::{Prometheus, grafana};
use mpsec_tests::{need, wait};

use crate::prometheus::{GRAFANA_BRINGS, SHOWN, empty, stack};

const PATHS: usize = 2;
/// What each round sends up, and down.
const ROUND: (u64, u64) = (400_000, 100_000);
/// From one round to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// Panels that have nothing to show while nothing is wrong.
const QUIET_WHEN_WELL: &[&str] = &[
    // Of findings, only those that are there are published.
    "Findings",
    // This kernel's counters are all known.
    "Any other counter",
    // The kernel tells of a blackhole only when one was met, and before Linux 6.12 never.
    "Blackhole",
    "Blackhole over time",
    // Where neither fentry nor kprobes are, nothing tells of them.
    "Timeouts of MPTCP",
];

/// Every panel shows something, but for those of which nothing is to be told; and each path's share is there.
pub(super) fn every_panel_shows_real_connections() -> Result<()> {
    need::mpsec()?;
    need::command("prometheus")?;
    let paths = Paths::new(Plan::wires(PATHS))?;
    paths.add_endpoints(Family::V4)?;
    let agent = Options::default().with("--subflow-series --max-subflow-series 1").start(&paths.client)?;
    let prometheus = Prometheus::start(&paths.client, stack::configuration()?)?;
    let traffic = Traffic::start(paths)?;
    let result = shown(&prometheus, &traffic).with_context(|| agent.stderr());
    // Whichever failed first: what the other says explains it.
    match (result, traffic.stop()) {
        (Err(shown), Err(sent)) => Err(shown.context(format!("traffic: {sent:#}"))),
        (shown, sent) => shown.and(sent.context("traffic")),
    }
}

fn shown(prometheus: &Prometheus, traffic: &Traffic) -> Result<()> {
    let dashboard = Dashboard::read(&grafana().join("dashboards/multipath.json"))?;
    wait::until(SHOWN * 2, || {
        traffic.is_well()?;
        let scrapes = prometheus.one("min(count_over_time(mpsec_path_bytes_total{direction=\"tx\"}[1m]))")?;
        ensure!(scrapes >= 8.0, "{scrapes} scrapes");
        Ok(())
    })?;
    let variables = dashboard.variables(prometheus, &GRAFANA_BRINGS)?;
    let devices: Vec<String> = (0..PATHS).map(|path| device(Host::Client, path)).collect();
    ensure!(variables["interface"] == format!("({})", devices.join("|")), "{variables:?}");
    wait::until(SHOWN * 2, || {
        let silent = silent_panels(prometheus, &dashboard, &variables)?;
        ensure!(silent.is_empty(), "panels without data: {silent:?}");
        Ok(())
    })?;
    let query = dashboard.query("Shares of paths, sent")?;
    wait::until(SHOWN, || {
        let shares = prometheus.query(&substitute(&query.expr, &variables))?;
        let carrying: BTreeSet<_> = shares
            .iter()
            .filter(|path| path.value() > 0.0)
            .filter_map(|path| path.labels.get("interface").cloned())
            .collect();
        ensure!(carrying == devices.iter().cloned().collect(), "only {carrying:?} carry");
        Ok(())
    })
}

/// Panels of which no query gives a number, though one should. Where several counters share a panel, this kernel may lack
/// some.
fn silent_panels(prometheus: &Prometheus, dashboard: &Dashboard, variables: &Variables) -> Result<BTreeSet<String>> {
    let queries: Vec<Query> = dashboard.queries();
    let empty: BTreeSet<String> = empty(prometheus, &queries, variables)?.into_iter().map(|(name, _)| name).collect();
    let speaking: BTreeSet<&str> =
        queries.iter().filter(|query| !empty.contains(&query.name)).map(|query| query.panel.as_str()).collect();
    let silent = queries.iter().map(|query| query.panel.as_str());
    let silent = silent.filter(|panel| !speaking.contains(panel) && !QUIET_WHEN_WELL.contains(panel));
    Ok(silent.map(str::to_owned).collect())
}

/// A connection that is always busy, and others that come and go, until told to stop.
struct Traffic {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Traffic {
    fn start(paths: Paths) -> Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ends);
        let thread = thread::Builder::new().name("traffic".into()).spawn(move || {
            let mut busy = Conversation::open(&paths, Family::V4)?;
            busy.joined(u32::try_from(PATHS)?)?;
            while !end.load(Ordering::Relaxed) {
                busy.exchange(ROUND.0, ROUND.1)?;
                thread::sleep(PAUSE);
                let short = Conversation::open(&paths, Family::V4)?;
                short.joined(u32::try_from(PATHS)?)?;
                short.close()?;
                let torn = Conversation::open(&paths, Family::V4)?;
                torn.reset()?;
                // A server without MPTCP makes a fallback.
                Conversation::between(&paths, Family::V4, [Protocol::Mptcp, Protocol::Tcp])?.close()?;
            }
            busy.close()
        })?;
        Ok(Self { ends, thread })
    }

    fn is_well(&self) -> Result<()> {
        if self.thread.is_finished() { Err(anyhow!("the traffic has ended")) } else { Ok(()) }
    }

    fn stop(self) -> Result<()> {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the traffic panicked"))?
    }
}
