//! An agent with something to do, and a Prometheus beside it that scrapes it each second.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::bpf::{Hook, Link, Program};
use mpsec_tests::netns::Netns;
use mpsec_tests::prometheus::{Prometheus, grafana};
use mpsec_tests::topology::Pair;
use mpsec_tests::{link, need, wait};
use tempfile::TempDir;

use super::SHOWN;
use super::traffic::Traffic;

/// A device whose hook for received packets is full, so that the agent cannot attach there.
pub(super) const FULL: &str = "full";
/// More programs than one hook of TCX takes (BPF_MPROG_MAX, Linux 6.6).
const TOO_MANY: usize = 100;

/// The agent is on the left, with `west` and [`FULL`].
pub(super) struct Stack {
    pub(super) prometheus: Prometheus,
    pub(super) agent: Agent,
    pub(super) traffic: Traffic,
    _full: Full,
    _pair: Pair,
}

impl Stack {
    pub(super) fn start() -> Result<Self> {
        need::mpsec()?;
        need::command("prometheus")?;
        need::tcx()?;
        let pair = Pair::bare()?;
        let agent = Options::default().with("--kernel-stats").start(&pair.left)?;
        let full = Full::add(&pair.left)?;
        let prometheus = Prometheus::start(&pair.left, configuration()?)?;
        let traffic = Traffic::start(&pair)?;
        Ok(Self { prometheus, agent, traffic, _full: full, _pair: pair })
    }

    /// Waits until the traffic was scraped this often.
    pub(super) fn wait_for_scrapes(&self, count: usize) -> Result<()> {
        let expr = "min(count_over_time(mpsec_interface_bytes_total{interface=\"west\"}[1m]))";
        wait::until(SHOWN * 2, || {
            let scrapes = self.prometheus.one(expr)?;
            ensure!(scrapes >= count as f64, "{scrapes} scrapes");
            Ok(())
        })
        .with_context(|| self.prometheus.complaints())
    }

    /// The classic format says nothing of units, and calls a counter by the name of its series.
    pub(super) fn speaks_openmetrics(&self) -> Result<()> {
        for (metric, kind, unit) in [
            ("mpsec_interface_bytes", "counter", "bytes"),
            ("mpsec_collector_duration_seconds", "gauge", "seconds"),
            ("process_cpu_seconds", "counter", "seconds"),
        ] {
            let metadata = self.prometheus.api("targets/metadata", &[("metric", metric)])?;
            let known = &metadata[0];
            ensure!(known["type"] == kind && known["unit"] == unit, "{metric}: {metadata}");
        }
        let up = self.prometheus.one("up{job=\"mpsec\"}")?;
        ensure!(up == 1.0, "up is {up}");
        Ok(())
    }

    /// Alerts that fire, each with its interface and direction where it has them.
    pub(super) fn firing(&self) -> Result<BTreeSet<String>> {
        let alerts = self.prometheus.query("ALERTS{alertstate=\"firing\"}")?;
        let words = |series: &mpsec_tests::prometheus::Series| {
            let labels = ["alertname", "interface", "direction"].map(|label| series.labels.get(label).cloned());
            labels.into_iter().flatten().collect::<Vec<_>>().join(" ")
        };
        Ok(alerts.iter().map(words).collect())
    }

    /// Waits until these alerts fire and no other.
    pub(super) fn fires_exactly(&self, expected: &[&str]) -> Result<()> {
        let expected: BTreeSet<String> = expected.iter().map(|alert| (*alert).to_owned()).collect();
        wait::until(SHOWN, || {
            let firing = self.firing()?;
            ensure!(firing == expected, "{firing:?} fire instead of {expected:?}");
            Ok(())
        })
    }
}

/// What keeps the device [`FULL`] and its hook full.
struct Full {
    _peer: Netns,
    _links: Vec<Link>,
}

impl Full {
    /// Fills the hook where the agent does not see it, then moves the device: what is attached moves along.
    fn add(netns: &Netns) -> Result<Self> {
        let elsewhere = Netns::new()?;
        link::veth((&elsewhere, FULL), (&elsewhere, "peer"))?;
        let index = elsewhere.ifindex(FULL)?;
        let mut links = Vec::new();
        while links.len() < TOO_MANY {
            let program = Program::pass("filler")?;
            match elsewhere.run(|| program.attach_tcx(index, Hook::Ingress)) {
                Ok(link) => links.push(link),
                Err(_) => break,
            }
        }
        ensure!(links.len() < TOO_MANY, "the hook takes more than {TOO_MANY} programs");
        elsewhere.ip(&format!("link set dev {FULL} netns {}", netns.path()))?;
        netns.ip(&format!("link set dev {FULL} up"))?;
        Ok(Self { _peer: elsewhere, _links: links })
    }
}

/// A copy of the checked-in configuration and rules that goes by seconds instead of minutes, and protects `west`.
pub(crate) fn configuration() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("mpsec-test-").tempdir()?;
    fs::create_dir(folder.path().join("rules"))?;
    copy("prometheus.yml", folder.path(), |line| line.replace("15s", "1s"))?;
    for entry in fs::read_dir(grafana().join("rules"))? {
        let name = entry?.file_name();
        let path = Path::new("rules").join(name);
        if path.extension().is_some_and(|extension| extension == "yml") {
            copy(path, folder.path(), |line| match line.split_once("for: ") {
                Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 1s"),
                _ => line.replace("interface=~\"\"", "interface=~\"west\""),
            })?;
        }
    }
    Ok(folder)
}

fn copy(path: impl AsRef<Path>, to: &Path, change: impl Fn(&str) -> String) -> Result<()> {
    let text = fs::read_to_string(grafana().join(&path))?;
    let changed: String = text.lines().map(|line| change(line) + "\n").collect();
    ensure!(changed != text || !path.as_ref().ends_with("prometheus.yml"), "nothing to change");
    fs::write(to.join(path), changed)?;
    Ok(())
}
