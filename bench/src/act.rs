//! What it takes to make a host what is wanted, to find that it is, and to give it back, beside the same commands by hand.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mpsec_agent::config::{Config, MultipathConfig};
use mpsec_agent::control::apply::{Outcome, Spirit, apply, release};
use mpsec_agent::control::live::Live;
use mpsec_agent::control::store::{Place, Store};
use mpsec_tests::link;
use mpsec_tests::netns::Netns;

use crate::Options;
use crate::measure::median;
use crate::report::{Row, Section};

/// Uplinks of the host.
const UPLINKS: u32 = 4;
/// Routes of a host with a large table.
const MANY_ROUTES: u32 = 100_000;
const WANTED: &str = "[mptcp]\npath_manager = \"fullmesh\"\nmanage_routes = true\nendpoints = [\"wan*\"]\n";

/// `cargo xtask bench act`
pub fn run(options: &Options) -> Result<Vec<Section>> {
    let netns = Netns::new()?;
    uplinks(&netns)?;
    netns.enter()?;
    let folder = tempfile::tempdir()?;
    let mut host = Host {
        wanted: Config::from_toml(WANTED, Path::new("bench"))?.multipath,
        store: Store::open(folder.path(), Place::default())?,
    };
    let few = host.rounds(options.rounds)?;
    many_routes(&netns)?;
    let many = host.rounds(options.rounds)?;
    let by_hand = |case: &str, time| Row::new(case, time).ratio(1.0);
    let rows = [
        vec![by_hand("by hand: 17 commands of iproute2", few.by_hand)],
        few.rows(""),
        many.rows(&format!(" with {MANY_ROUTES} routes in the main table")),
    ];
    Ok(vec![Section {
        bench: "act",
        title: format!("Making {UPLINKS} uplinks carry subflows, and giving them back"),
        method: "Endpoints, limits, rules and routes by source address in a network namespace, by the engine of `mpsec apply`: \
                 looking at the host, planning, writing the state file with fsync, changing, reading back. Wall time, in turns."
            .into(),
        unit: "ms",
        against: "by hand",
        rows: rows.concat(),
    }])
}

/// Medians in milliseconds.
struct Times {
    apply: f64,
    again: f64,
    release: f64,
    by_hand: f64,
}

impl Times {
    fn rows(&self, suffix: &str) -> Vec<Row> {
        let row = |case: &str, time: f64| Row::new(format!("{case}{suffix}"), time).ratio(time / self.by_hand);
        vec![
            row("apply: 17 changes", self.apply),
            row("apply again: nothing to change", self.again),
            row("release", self.release),
        ]
    }
}

struct Host {
    wanted: MultipathConfig,
    store: Store,
}

impl Host {
    fn rounds(&mut self, rounds: usize) -> Result<Times> {
        let mut times: [Vec<f64>; 4] = Default::default();
        for _ in 0..rounds {
            let wanted = self.wanted.clone();
            times[0].push(self.time(17, |live, store| apply(live, store, &wanted, Spirit::Whole))?);
            times[1].push(self.time(0, |live, store| apply(live, store, &wanted, Spirit::Whole))?);
            times[2].push(self.time(17, |live, store| release(live, store))?);
            times[3].push(by_hand()?);
        }
        let [apply, again, release, by_hand] = times.map(|all| median(&all));
        Ok(Times { apply, again, release, by_hand })
    }

    fn time(&mut self, changes: usize, work: impl FnOnce(&mut Live<'_>, &mut Store) -> Outcome) -> Result<f64> {
        let start = Instant::now();
        let mut live = Live::open(&self.wanted, None).map_err(anyhow::Error::msg)?;
        let outcome = work(&mut live, &mut self.store);
        let took = start.elapsed();
        ensure!(outcome.is_success() && outcome.changes.len() == changes, "{outcome:?}");
        Ok(millis(took))
    }
}

/// The same, and what takes it back, of which only the first is timed.
fn by_hand() -> Result<f64> {
    let start = Instant::now();
    ip("mptcp limits set subflows 8 add_addr_accepted 8")?;
    for number in 0..UPLINKS {
        let (table, device) = (4900 + number, format!("wan{number}"));
        ip(&format!("route add 10.0.{number}.0/24 dev {device} table {table}"))?;
        ip(&format!("route add default via 10.0.{number}.1 dev {device} table {table}"))?;
        ip(&format!("rule add from 10.0.{number}.2 lookup {table}"))?;
        ip(&format!("mptcp endpoint add 10.0.{number}.2 dev {device} subflow fullmesh"))?;
    }
    let took = start.elapsed();
    ip("mptcp endpoint flush")?;
    ip("mptcp limits set subflows 2 add_addr_accepted 0")?;
    for number in 0..UPLINKS {
        ip(&format!("rule del lookup {}", 4900 + number))?;
        ip(&format!("route flush table {}", 4900 + number))?;
    }
    Ok(millis(took))
}

fn uplinks(netns: &Netns) -> Result<()> {
    for number in 0..UPLINKS {
        link::veth((netns, &format!("wan{number}")), (netns, &format!("far{number}")))?;
        netns.ip(&format!("addr add 10.0.{number}.2/24 dev wan{number}"))?;
        netns.ip(&format!("route add default via 10.0.{number}.1 dev wan{number} metric {}", 100 + number))?;
    }
    Ok(())
}

fn many_routes(netns: &Netns) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("routes");
    let route = |number: u32| {
        let [_, high, middle, low] = number.to_be_bytes();
        format!("route add {}.{middle}.{low}.0/24 via 10.0.0.1\n", 100 + high)
    };
    std::fs::write(&file, (0..MANY_ROUTES).map(route).collect::<String>())?;
    netns.ip(&format!("-batch {}", file.display())).map(drop)
}

/// In the namespace of this thread.
fn ip(words: &str) -> Result<()> {
    let status = Command::new("ip").args(words.split_whitespace()).stdin(Stdio::null()).status();
    ensure!(status.context("ip")?.success(), "ip {words}");
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
