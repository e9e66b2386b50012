//! Real Prometheus scrapes the agent: its tools have nothing to complain about, every panel of the dashboard "MPSec / Host"
//! shows what passed, rules evaluate, alerts fire.

pub(crate) mod stack;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::Options;
use mpsec_tests::grafana::{Dashboard, Query, Variables, substitute};
use mpsec_tests::prometheus::{Prometheus, Series, array, grafana, promtool};
use mpsec_tests::send::{Buffer, Sender};
use mpsec_tests::topology::Pair;
use mpsec_tests::trial::trial;
use mpsec_tests::{frames, need, wait};

use stack::Stack;
use traffic::Mix;

const LIMIT: Duration = Duration::from_secs(120);
/// How long Prometheus may take to show what has been scraped.
pub(crate) const SHOWN: Duration = Duration::from_secs(15);
/// What Grafana puts in the place of its own variables, for a scrape interval of a second and a minute on the screen.
pub(crate) const GRAFANA_BRINGS: [(&str, &str); 2] = [("__rate_interval", "4s"), ("__range", "60s")];
/// How far a rate may be from what was sent: Prometheus extrapolates to the ends of its window, and a scrape may fall
/// into the middle of a batch.
const RATE_ERROR: f64 = 0.25;
/// The same of the ratio of two rates over the same samples.
const RATIO_ERROR: f64 = 0.02;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("prometheus::promtool_accepts_the_metrics", LIMIT, metrics),
        trial("prometheus::promtool_accepts_rules_and_configuration", LIMIT, rule_files),
        trial("prometheus::every_panel_shows_what_passed", LIMIT, dashboards),
        trial("prometheus::rules_evaluate_and_alerts_fire", LIMIT, rules),
    ]
}

/// With every class of traffic, and the metrics that are off by default.
fn metrics() -> Result<()> {
    need::mpsec()?;
    need::command("promtool")?;
    let pair = Pair::bare()?;
    let agent = Options::default().with("--kernel-stats").start(&pair.left)?;
    let mut sender = Sender::new(&pair.left, Pair::WEST, Buffer::Linear)?;
    for case in frames::all() {
        sender.send(&case.bytes)?;
    }
    let file = agent.folder().join("metrics");
    fs::write(&file, agent.get("/metrics")?.body)?;
    let output = promtool(&["check", "metrics"], &file)?;
    let complaints = [output.stdout, output.stderr].concat();
    ensure!(output.status.success() && complaints.is_empty(), "{}", String::from_utf8_lossy(&complaints));
    Ok(())
}

fn rule_files() -> Result<()> {
    need::command("promtool")?;
    let names = |folder: &str| -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(grafana().join(folder))? {
            let name = entry?.file_name().into_string().ok().context("a name that is not text")?;
            names.extend(name.ends_with(".yml").then(|| format!("{folder}/{name}")));
        }
        ensure!(!names.is_empty(), "no files in {folder}");
        Ok(names)
    };
    let runs = [
        (["check", "config"], vec!["prometheus.yml".to_owned()]),
        (["check", "rules"], names("rules")?),
        (["test", "rules"], names("rules/tests")?),
    ];
    for (command, files) in runs {
        let args: Vec<&str> = command.into_iter().chain(files.iter().map(String::as_str)).collect();
        let output = promtool(&args, Path::new("/dev/null"))?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "promtool {}:\n{text}", args.join(" "));
    }
    Ok(())
}

fn dashboards() -> Result<()> {
    let stack = Stack::start()?;
    stack.wait_for_scrapes(8)?;
    let host = Dashboard::read(&grafana().join("dashboards/host.json"))?;
    no_query_is_empty(&stack.prometheus, &host)?;
    let variables = host.variables(&stack.prometheus, &GRAFANA_BRINGS)?;
    // `lo` carries the scrapes and is left out.
    ensure!(variables["interface"] == format!("({}|{})", stack::FULL, Pair::WEST), "{}", variables["interface"]);
    let shown = Shown { stack: &stack, host, variables };
    shown.verdict()?;
    shown.rates()?;
    stack.speaks_openmetrics()?;
    let batches = stack.traffic.stop()?;
    shown.sums(batches)
}

/// Waits until every query of a dashboard gives numbers.
pub(crate) fn no_query_is_empty(prometheus: &Prometheus, dashboard: &Dashboard) -> Result<()> {
    let variables = dashboard.variables(prometheus, &GRAFANA_BRINGS)?;
    let queries = dashboard.queries();
    ensure!(queries.len() > 20, "there are only {} queries", queries.len());
    // A scrape that comes late leaves a gap in short windows.
    wait::until(SHOWN, || {
        let empty = empty(prometheus, &queries, &variables)?;
        let lines: Vec<_> = empty.iter().map(|(name, expr)| format!("{name}: {expr}")).collect();
        ensure!(lines.is_empty(), "{} queries show nothing:\n{}", lines.len(), lines.join("\n"));
        Ok(())
    })
}

/// Queries that give no number: their names, and what was asked.
pub(crate) fn empty(
    prometheus: &Prometheus,
    queries: &[Query],
    variables: &Variables,
) -> Result<Vec<(String, String)>> {
    let mut empty = Vec::new();
    for query in queries {
        let expr = substitute(&query.expr, variables);
        let answer = match query.instant {
            true => prometheus.query(&expr),
            false => prometheus.query_range(&expr, Duration::from_secs(5)),
        };
        let series = answer.with_context(|| query.name.clone())?;
        let numbers = series.iter().flat_map(|series| &series.samples).filter(|sample| sample.1.is_finite());
        if numbers.count() == 0 {
            empty.push((query.name.clone(), expr));
        }
    }
    Ok(empty)
}

/// The dashboard "MPSec / Host", opened.
struct Shown<'a> {
    stack: &'a Stack,
    host: Dashboard,
    variables: Variables,
}

impl Shown<'_> {
    /// What the panel with this title shows now.
    fn panel(&self, title: &str) -> Result<Vec<Series>> {
        let query = self.host.query(title)?;
        self.stack.prometheus.query(&substitute(&query.expr, &self.variables)).with_context(|| title.to_owned())
    }

    /// The same, by one label.
    fn by(&self, title: &str, label: &str) -> Result<BTreeMap<String, f64>> {
        let series = self.panel(title)?.into_iter();
        Ok(series.map(|series| (series.labels.get(label).cloned().unwrap_or_default(), series.value())).collect())
    }

    /// The first line.
    fn verdict(&self) -> Result<()> {
        let expected: BTreeMap<_, _> =
            Mix::BOTH.iter().map(|mix| (mix.direction.to_owned(), mix.encrypted_share())).collect();
        self.agrees("Encrypted share", "direction", &expected, RATIO_ERROR)?;
        let worst = expected.values().copied().fold(f64::INFINITY, f64::min);
        self.agrees("Worst interface", "interface", &BTreeMap::from([(Pair::WEST.to_owned(), worst)]), RATIO_ERROR)?;
        for (title, value) in [("Agents down", 0.0), ("Not attached", 1.0), ("Not counted", 0.0)] {
            self.agrees(title, "", &BTreeMap::from([(String::new(), value)]), 0.0)?;
        }
        Ok(())
    }

    /// What rises with the batches that are sent.
    fn rates(&self) -> Result<()> {
        let each = |of: &dyn Fn(&Mix) -> f64| -> Result<BTreeMap<String, f64>> {
            let speed = self.stack.traffic.batches_a_second();
            Ok(Mix::BOTH.iter().map(|mix| (mix.direction.to_owned(), of(mix) * speed)).collect())
        };
        let bits = |bytes: u64| bytes as f64 * 8.0;
        self.agrees("Cleartext now", "direction", &each(&|mix| bits(mix.cleartext().bytes))?, RATE_ERROR)?;
        self.agrees("Traffic by interface", "direction", &each(&|mix| bits(mix.total().bytes))?, RATE_ERROR)?;
        self.agrees("Packets by interface", "direction", &each(&|mix| mix.total().packets as f64)?, RATE_ERROR)?;
        self.agrees("Malformed packets", "direction", &each(&|mix| mix.of("malformed").packets as f64)?, RATE_ERROR)?;
        let mean = |mix: &Mix| mix.total().l3_bytes as f64 / mix.total().packets as f64;
        let mean = Mix::BOTH.iter().map(|mix| (mix.direction.to_owned(), mean(mix))).collect();
        self.agrees("Mean packet length", "direction", &mean, RATIO_ERROR)?;
        let classes: BTreeSet<String> = self.by("Traffic by class", "class")?.into_keys().collect();
        ensure!(classes == frames::class::ALL.map(str::to_owned).into(), "{classes:?}");
        for (program, seconds) in self.by("Kernel program, per packet", "program")? {
            ensure!((1e-8..1e-4).contains(&seconds), "{program} takes {seconds} s for a packet");
        }
        Ok(())
    }

    /// Exact to the byte, once all was scraped.
    fn sums(&self, batches: u64) -> Result<()> {
        let prometheus = &self.stack.prometheus;
        for mix in &Mix::BOTH {
            for class in frames::class::ALL {
                let sent = mix.of(class);
                for (name, each) in [("packets", sent.packets), ("bytes", sent.bytes), ("l3_bytes", sent.l3_bytes)] {
                    let (direction, expected) = (mix.direction, each * batches);
                    let labels = format!("interface=\"west\",direction=\"{direction}\",class=\"{class}\"");
                    let expr = format!("mpsec_interface_{name}_total{{{labels}}}");
                    wait::until(SHOWN, || {
                        let value = prometheus.one(&expr)?;
                        ensure!(value == expected as f64, "{expr} is {value}, sent were {expected}");
                        Ok(())
                    })?;
                    // No scrape fell behind or went back, and none saw a part of a packet.
                    let raw = prometheus.query(&format!("{expr}[1m]"))?;
                    let raw = &raw.first().context("no samples")?.samples;
                    ensure!(raw.is_sorted_by(|a, b| a.1 <= b.1), "{expr}: {raw:?}");
                    let size = (each / sent.packets) as f64;
                    ensure!(raw.iter().all(|sample| sample.1 % size == 0.0), "{expr} not by {size}: {raw:?}");
                }
            }
        }
        let cleartext = |mix: &Mix| (mix.direction.to_owned(), (mix.cleartext().bytes * batches) as f64);
        self.agrees("Cleartext so far", "direction", &Mix::BOTH.iter().map(cleartext).collect(), 0.0)
    }

    /// Waits until a panel shows these values and no others, as exactly as `error` says.
    fn agrees(&self, title: &str, label: &str, expected: &BTreeMap<String, f64>, error: f64) -> Result<()> {
        wait::until(SHOWN, || {
            let shown = self.by(title, label)?;
            let close = |(name, value): (&String, &f64)| {
                expected.get(name).is_some_and(|expected| (value - expected).abs() <= error * expected.abs())
            };
            ensure!(shown.len() == expected.len() && shown.iter().all(close), "{title}: {shown:?} for {expected:?}");
            Ok(())
        })
    }
}

fn rules() -> Result<()> {
    let mut stack = Stack::start()?;
    stack.wait_for_scrapes(4)?;
    let healthy = wait::until(SHOWN, || {
        let groups = stack.prometheus.api("rules", &[])?;
        let rules: Vec<_> = array(&groups["groups"]).iter().flat_map(|group| array(&group["rules"])).collect();
        let bad: Vec<_> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
        ensure!(bad.is_empty(), "{bad:?}");
        Ok(rules.len())
    })?;
    ensure!(healthy > 15, "only {healthy} rules are loaded");
    for mix in &Mix::BOTH {
        for record in ["mpsec:interface_coverage:ratio_rate5m{interface=\"west\",", "mpsec:host_coverage:ratio_rate5m{"]
        {
            let (expr, expected) = (format!("{record}direction=\"{}\"}}", mix.direction), mix.encrypted_share());
            wait::until(SHOWN, || {
                let value = stack.prometheus.one(&expr)?;
                ensure!((value / expected - 1.0).abs() < RATIO_ERROR, "{expr} is {value}, sent was {expected}");
                Ok(())
            })?;
        }
    }
    let leak = "MpsecCleartextOnProtectedInterface west";
    stack.fires_exactly(&["MpsecAttachFailed full rx", &format!("{leak} rx"), &format!("{leak} tx")])?;
    stack.agent.stop(libc::SIGTERM)?;
    wait::until(SHOWN, || {
        let firing = stack.firing()?;
        ensure!(firing.contains("MpsecAgentDown"), "{firing:?}");
        Ok(())
    })
}
