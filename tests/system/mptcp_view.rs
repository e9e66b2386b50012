//! What the agent says of MPTCP, read so that it can be held against what is true.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mpsec_tests::agent::Agent;
use mpsec_tests::counted::Classes;
use mpsec_tests::exposition::Exposition;
use mpsec_tests::need;
use mpsec_tests::paths::{Family, Host, Plan, device};
use mpsec_tests::wait;
use mpsec_tests::wire::{Sum, Tuple};
use serde_json::Value;

use crate::lab::{Lab, Truth};

/// How long the agent may take to show what has passed.
pub(crate) const SHOWN: Duration = Duration::from_secs(5);
/// Bytes of a packet without payload at most: Ethernet, IPv6 and the longest TCP header.
const BARE_BYTES: u64 = 14 + 40 + 60;
/// Packets that open a subflow, of which the agent may miss those that come before it has a record of it, and says so.
const HANDSHAKE: u64 = 3;
/// One number of a sum.
type Part = fn(&Sum) -> u64;
/// Counters of a path and what they are in a [`Sum`].
const COUNTERS: [(&str, Part); 4] = [
    ("mpsec_path_packets_total", |sum| sum.packets),
    ("mpsec_path_bytes_total", |sum| sum.bytes),
    ("mpsec_path_payload_bytes_total", |sum| sum.payload),
    ("mpsec_path_retransmitted_bytes_total", |sum| sum.retransmitted),
];

/// One namespace as the agent shows it.
#[derive(Debug)]
pub(crate) struct View(Value);

/// All that the agent says.
pub(crate) fn status(agent: &Agent) -> Result<Value> {
    let socket = agent.folder().join("mpsec.sock");
    let output = Command::new(need::mpsec()?).args(["status", "--json", "--control-socket"]).arg(socket).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What the agent says of its own namespace.
pub(crate) fn view(agent: &Agent) -> Result<View> {
    let status = status(agent)?;
    let all = status["namespaces"].as_array().context("no namespaces")?;
    let own = all.iter().find(|one| one["netns"] == "").with_context(|| format!("no namespace of its own: {all:?}"))?;
    Ok(View(own.clone()))
}

/// One path, the remotes that it leads to together.
#[derive(Clone, Debug, Default)]
pub(crate) struct PathView {
    pub(crate) rx: Sum,
    pub(crate) tx: Sum,
    /// Subflows by state.
    pub(crate) subflows: BTreeMap<String, u64>,
    pub(crate) opened: u64,
    /// Ended subflows by reason.
    pub(crate) closed: BTreeMap<String, u64>,
}

impl View {
    /// A member of the namespace.
    pub(crate) fn get(&self, name: &str) -> &Value {
        &self.0[name]
    }

    /// The paths over a device in one IP version; nothing where there is none.
    pub(crate) fn path(&self, device: &str, family: Family) -> Result<PathView> {
        let mut path = PathView::default();
        for one in list(self.get("paths"))? {
            if one["interface"] != device || one["family"] != family.name() {
                continue;
            }
            path.rx += sum(&one["rx"])?;
            path.tx += sum(&one["tx"])?;
            path.opened += number(&one["opened_total"])?;
            for (name, into) in [("subflows", &mut path.subflows), ("closed_total", &mut path.closed)] {
                for (key, value) in one[name].as_object().with_context(|| format!("{name} of {one}"))? {
                    *into.entry(key.clone()).or_default() += number(value)?;
                }
            }
        }
        Ok(path)
    }

    /// The connection with a local token.
    pub(crate) fn connection(&self, token: u32) -> Result<&Value> {
        let found = list(self.get("connections"))?.iter().find(|one| one["token"] == token);
        found.with_context(|| format!("no connection {token}: {}", self.get("connections")))
    }

    /// A number of the totals.
    pub(crate) fn total(&self, name: &str) -> Result<u64> {
        number(&self.get("totals")[name]).with_context(|| name.to_owned())
    }

    /// The findings of a kind.
    pub(crate) fn findings(&self, kind: &str) -> Result<usize> {
        Ok(list(self.get("findings"))?.iter().filter(|finding| finding["kind"] == kind).count())
    }
}

/// The subflows of a connection by their addresses.
pub(crate) fn subflows(connection: &Value) -> Result<BTreeMap<Tuple, &Value>> {
    let address = |value: &Value| -> Result<SocketAddr> {
        value.as_str().and_then(|text| text.parse().ok()).with_context(|| format!("address {value}"))
    };
    list(&connection["subflows"])?
        .iter()
        .map(|one| Ok(((address(&one["local"])?, address(&one["remote"])?), one)))
        .collect()
}

pub(crate) fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("not a list: {value}"))
}

pub(crate) fn number(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("not a number: {value}"))
}

pub(crate) fn sum(value: &Value) -> Result<Sum> {
    // Where no packet was seen, nothing is said of them.
    let seen = |name: &str| if value[name].is_null() { Ok(0) } else { number(&value[name]) };
    Ok(Sum {
        packets: seen("packets")?,
        bytes: seen("bytes")?,
        payload: number(&value["payload_bytes"])?,
        retransmitted: number(&value["retransmitted_bytes"])?,
    })
}

/// The laboratory with an agent on each host, which are there before the first connection.
pub(crate) struct Stage {
    pub(crate) lab: Lab,
    pub(crate) agents: [Agent; 2],
}

impl Stage {
    pub(crate) fn new(plan: Plan) -> Result<Self> {
        need::mpsec()?;
        let lab = Lab::new(plan)?;
        let agents = [Agent::start(&lab.paths.client)?, Agent::start(&lab.paths.server)?];
        view(&agents[0])?;
        Ok(Self { lab, agents })
    }

    pub(crate) fn agent(&self, host: Host) -> &Agent {
        &self.agents[usize::from(host == Host::Server)]
    }

    /// Both agents say of every path what crossed it, in JSON and in metrics alike. `ended` is the number of subflows that
    /// are no more: of each the last packets, which have no payload, may come when the kernel has forgotten the socket.
    pub(crate) fn says_what_is_true(&self, family: Family, ended: u64) -> Result<()> {
        for truth in self.lab.truths()? {
            let host = truth.host;
            wait::until(SHOWN, || says(self.agent(host), &truth, family, ended))
                .with_context(|| format!("{host:?}"))?;
        }
        Ok(())
    }
}

fn says(agent: &Agent, truth: &Truth, family: Family, ended: u64) -> Result<()> {
    let (view, metrics) = (view(agent)?, agent.scrape()?);
    let missed = HANDSHAKE * view.total("handshakes_lost")? + 4 * ended;
    for path in 0..truth.paths.len() {
        let device = device(truth.host, path);
        let of_family = truth.paths[path].iter().filter(|((local, _), _)| local.is_ipv4() == (family == Family::V4));
        let (rx, tx) = mpsec_tests::wire::total(of_family.map(|(_, flow)| flow));
        let said = view.path(&device, family)?;
        for (direction, said, is) in [("rx", said.rx, rx), ("tx", said.tx, tx)] {
            close_to(said, is, missed).with_context(|| format!("{direction} of {device}"))?;
            published(&metrics, &device, family, direction, said)?;
            let seen = Classes::read(&metrics, &device, direction)?.total();
            ensure!(seen.bytes >= said.bytes, "{device}: {direction} {seen:?} is less than {said:?}");
        }
    }
    Ok(())
}

/// Payload and repetitions are exact; `missed` packets without payload may be missing, and none may be too much.
pub(crate) fn close_to(said: Sum, is: Sum, missed: u64) -> Result<()> {
    ensure!((said.payload, said.retransmitted) == (is.payload, is.retransmitted), "{said:?} instead of {is:?}");
    let fits = |said: u64, is: u64, missed: u64| said <= is && said + missed >= is;
    let packets = fits(said.packets, is.packets, missed);
    ensure!(packets && fits(said.bytes, is.bytes, missed * BARE_BYTES), "{said:?} instead of {is:?}, {missed} missed");
    Ok(())
}

/// The metrics of a path are what JSON says of it.
fn published(metrics: &Exposition, device: &str, family: Family, direction: &str, said: Sum) -> Result<()> {
    let labels = [("interface", device), ("family", family.name()), ("direction", direction)];
    for (name, of) in COUNTERS {
        let value = metrics.sum(name, &labels)?;
        ensure!(value == of(&said), "{name}{labels:?} is {value}, JSON says {said:?}");
    }
    Ok(())
}

/// No counter of a path has gone backwards or away.
pub(crate) fn only_rises(before: &Exposition, now: &Exposition) -> Result<()> {
    let more = ["mpsec_path_subflows_opened_total", "mpsec_path_subflows_closed_total"];
    for name in COUNTERS.iter().map(|(name, _)| *name).chain(more) {
        for (labels, then) in before.select(name, &[]) {
            let exact: Vec<_> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let value = now.get(name, &exact).with_context(|| format!("{name}{labels:?} is gone"))?;
            ensure!(value.whole()? >= then.whole()?, "{name}{labels:?} went from {then} to {value}");
        }
    }
    Ok(())
}
