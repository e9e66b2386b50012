//! Metrics, dashboard and rules of paths and MPTCP, on a real Prometheus.

mod real;
mod synthetic;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_agent::publish::prometheus::{Dialect, render};
use mpsec_tests::exposition::Exposition;
use mpsec_tests::grafana::{Dashboard, Variables, substitute};
use mpsec_tests::netns::Netns;
use mpsec_tests::prometheus::{Prometheus, array, grafana, promtool};
use mpsec_tests::trial::trial;
use mpsec_tests::{need, wait};

use crate::prometheus::{GRAFANA_BRINGS, SHOWN, no_query_is_empty, stack};
use synthetic::Exporter;

const LIMIT: Duration = Duration::from_secs(120);
/// How far a rate may be from what was published: Prometheus extrapolates to the ends of its window.
const RATE_ERROR: f64 = 0.25;
/// The same of ratios of rates over the same samples, and of quantiles.
const RATIO_ERROR: f64 = 0.02;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("multipath::promtool_accepts_the_metrics", LIMIT, metrics),
        trial("multipath::every_panel_shows_what_is_published", LIMIT, dashboard),
        trial("multipath::rules_evaluate_and_alerts_fire", LIMIT, rules),
        trial("multipath::every_panel_shows_real_connections", LIMIT, real::every_panel_shows_real_connections),
    ]
}

/// Every metric that there is, histograms among them.
fn metrics() -> Result<()> {
    need::command("promtool")?;
    let snapshot = synthetic::snapshot(Duration::from_secs(10));
    let text = render(&snapshot, Dialect::Classic, 0);
    let read = Exposition::parse(std::str::from_utf8(&text)?)?;
    let path = [("interface", "wan0"), ("netns", ""), ("family", "ipv4"), ("remote", "192.0.2.0/24")];
    let count = read.get("mpsec_path_rtt_seconds_count", &path).context("no histogram")?;
    let all = read.get("mpsec_path_rtt_seconds_bucket", &[&path[..], &[("le", "+Inf")]].concat());
    ensure!(count.whole()? > 0 && all == Some(count), "{count} observations, {all:?} in all buckets");
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), &text)?;
    let output = promtool(&["check", "metrics"], file.path())?;
    let complaints = [output.stdout, output.stderr].concat();
    ensure!(output.status.success() && complaints.is_empty(), "{}", String::from_utf8_lossy(&complaints));
    Ok(())
}

/// A Prometheus that scrapes a snapshot in which everything happens.
struct Stack {
    prometheus: Prometheus,
    _exporter: Exporter,
}

impl Stack {
    fn start() -> Result<Self> {
        need::root()?;
        need::command("prometheus")?;
        let netns = Arc::new(Netns::new()?);
        let exporter = Exporter::start(&netns)?;
        let prometheus = Prometheus::start(&netns, stack::configuration()?)?;
        let stack = Self { prometheus, _exporter: exporter };
        let expr = "min(count_over_time(mpsec_path_bytes_total[1m]))";
        wait::until(SHOWN * 2, || {
            let scrapes = stack.prometheus.one(expr)?;
            ensure!(scrapes >= 8.0, "{scrapes} scrapes");
            Ok(())
        })
        .with_context(|| stack.prometheus.complaints())?;
        Ok(stack)
    }

    /// Waits until a query gives these values by one label, and no others.
    fn agrees(&self, expr: &str, label: &str, expected: &[(&str, f64)], error: f64) -> Result<()> {
        let expected: BTreeMap<_, _> = expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        wait::until(SHOWN, || {
            let series = self.prometheus.query(expr)?.into_iter();
            let name = |labels: BTreeMap<String, String>| labels.get(label).cloned().unwrap_or_default();
            let shown: BTreeMap<_, _> = series.map(|series| (name(series.labels.clone()), series.value())).collect();
            let close = |(name, value): (&String, &f64)| {
                expected.get(name).is_some_and(|expected| (value - expected).abs() <= error * expected.abs())
            };
            ensure!(shown.len() == expected.len() && shown.iter().all(close), "{expr}: {shown:?} for {expected:?}");
            Ok(())
        })
    }
}

fn dashboard() -> Result<()> {
    let stack = Stack::start()?;
    let dashboard = Dashboard::read(&grafana().join("dashboards/multipath.json"))?;
    no_query_is_empty(&stack.prometheus, &dashboard)?;
    let mut variables = dashboard.variables(&stack.prometheus, &GRAFANA_BRINGS)?;
    ensure!(variables["netns"] == ".*" && variables["interface"] == "(_other|wan0|wan1)", "{variables:?}");
    // The agent's own namespace alone.
    variables.insert("netns".into(), "^$".into());
    let panel = |title: &str, variables: &Variables| -> Result<String> {
        Ok(substitute(&dashboard.query(title)?.expr, variables))
    };
    let sent = synthetic::SENT.map(|(interface, bytes)| (interface, bytes as f64 * 8.0));
    stack.agrees(&panel("Shares of paths, sent", &variables)?, "interface", &sent, RATE_ERROR)?;
    // The middle of the bucket that all observations are in.
    let rtt = synthetic::RTT.map(|(interface, from, to)| (interface, (from + to) / 2.0));
    let own = rtt.iter().copied().chain([("_other", rtt[0].1)]).collect::<Vec<_>>();
    stack.agrees(&panel("Round-trip time, median", &variables)?, "interface", &own, RATIO_ERROR)?;
    stack.agrees(&panel("Silent paths", &variables)?, "", &[("", 1.0)], 0.0)?;
    stack.agrees(&panel("Blackhole", &variables)?, "", &[("", 1.0)], 0.0)?;
    units(&stack.prometheus)
}

/// The classic format says nothing of units: this is the other one, histograms and all.
fn units(prometheus: &Prometheus) -> Result<()> {
    for (metric, kind, unit) in [
        ("mpsec_path_rtt_seconds", "histogram", "seconds"),
        ("mpsec_path_delivery_rate_bytes_per_second", "histogram", "bytes_per_second"),
        ("mpsec_path_bytes", "counter", "bytes"),
        ("mpsec_mptcp_mib_mp_curr_estab", "gauge", ""),
    ] {
        let metadata = prometheus.api("targets/metadata", &[("metric", metric)])?;
        let known = &metadata[0];
        ensure!(known["type"] == kind && known["unit"] == unit, "{metric}: {metadata}");
    }
    Ok(())
}

fn rules() -> Result<()> {
    let stack = Stack::start()?;
    wait::until(SHOWN, || {
        let groups = stack.prometheus.api("rules", &[])?;
        let rules: Vec<_> = array(&groups["groups"]).iter().flat_map(|group| array(&group["rules"])).collect();
        let bad: Vec<_> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
        ensure!(bad.is_empty(), "{bad:?}");
        Ok(())
    })?;
    let all: u64 = synthetic::SENT.iter().map(|(_, bytes)| bytes).sum();
    let shares = synthetic::SENT.map(|(interface, bytes)| (interface, bytes as f64 / all as f64));
    let expr = "mpsec:path_share:ratio_rate5m{netns=\"\",direction=\"tx\"}";
    stack.agrees(expr, "interface", &shares, RATIO_ERROR)?;
    // In the snapshot a path is silent, one has gone down, and everything that can fail does.
    let firing = "count by (alertname) (ALERTS{alertstate=\"firing\",alertname=~\"Mpsec(Path|Mptcp|Fallb|Join|Subfl).*\"}) > bool 0";
    let expected = [
        "MpsecPathSilent",
        "MpsecPathDown",
        "MpsecFallbacksRising",
        "MpsecMptcpBlackhole",
        "MpsecJoinFailures",
        "MpsecSubflowTableFull",
        "MpsecSubflowsLost",
    ];
    stack.agrees(firing, "alertname", &expected.map(|alert| (alert, 1.0)), 0.0)
}
