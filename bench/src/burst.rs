//! Short MPTCP connections, as many a second as one machine makes: whether the released agent accounts for all of them.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mpsec_tests::crowd::Burst;
use mpsec_tests::paths::{Family, Paths, Plan};
use serde_json::Value;

use crate::Options;
use crate::measure::{own_cpu, process_cpu};
use crate::memory::{self, resident};
use crate::report::{Row, Section};
use crate::scale::Host;

/// Connections that are asked for in a second.
const PER_SECOND: u64 = 5000;
/// For how many seconds.
const SECONDS: u64 = 10;
/// Payload of a connection, each way.
const BYTES: usize = 100;
/// How much longer than so many seconds they may take.
const GOAL_RATE: f64 = 1.1;
/// How long the agent may take to have settled everything.
const SETTLED: Duration = Duration::from_secs(15);

/// `cargo xtask bench burst`
pub fn run(options: &Options) -> Result<Vec<Section>> {
    let agent = memory::released(options)?;
    let paths = Paths::new(Plan::wires(1))?;
    paths.client.enter()?;
    let host = Host::start(agent)?;
    let memory_before = resident(host.agent.pid())?;
    let seconds = if options.quick { 2 } else { SECONDS };
    let burst = Burst { family: Family::V4, connections: PER_SECOND * seconds, per_second: PER_SECOND, bytes: BYTES };
    let cpu = || anyhow::Ok((process_cpu(host.agent.pid())?, own_cpu()));
    let before = cpu()?;
    let outcome = burst.run(&paths)?;
    let after = cpu()?;
    let (agent_cpu, apps_cpu) = ((after.0 - before.0).as_secs_f64(), (after.1 - before.1).as_secs_f64());
    let totals = settled(&host)?;
    let (made, took) = (outcome.done, outcome.took.as_secs_f64());
    let number = |name: &str| totals[name].as_u64().with_context(|| format!("no {name}"));
    let lost = number("subflows_lost")?;
    let off = |name| anyhow::Ok((number(name)? + lost).abs_diff(made) as f64);
    let payload = payload(&host.status()?)?.abs_diff((made - lost) * BYTES as u64) as f64;
    let micros = |cpu: f64| cpu * 1e6 / made as f64;
    let accounts = vec![
        Row::new("subflows opened and lost, against connections made", off("subflows_opened")?)
            .at_most(0.0)
            .note(format!("{made} made, {lost} lost for want of room")),
        Row::new("subflows closed and lost, likewise", off("subflows_closed")?).at_most(0.0),
        Row::new("payload bytes sent by those that are counted", payload).at_most(0.0),
        Row::new("entries of the table that stay in use", number("table_used")? as f64).at_most(0.0),
        Row::new("events that were lost, as it tells", host.sum("mpsec_events_lost_total")?),
    ];
    let costs = vec![
        Row::new("the programs at both ends, CPU time a connection", micros(apps_cpu)).ratio(1.0),
        Row::new("mpsec, CPU time a connection", micros(agent_cpu))
            .ratio(agent_cpu / apps_cpu)
            .note(format!("memory grew by {:.1} MB", resident(host.agent.pid())? - memory_before)),
    ];
    let rate = Row::new("time, against the time asked for", took)
        .ratio(took / seconds as f64)
        .ratio_at_most(GOAL_RATE)
        .note(format!("{:.0} connections a second", made as f64 / took));
    Ok(sections(seconds, rate, accounts, costs))
}

fn sections(seconds: u64, rate: Row, accounts: Vec<Row>, costs: Vec<Row>) -> Vec<Section> {
    let title = format!("{PER_SECOND} MPTCP connections a second for {seconds} s");
    vec![
        Section {
            bench: "burst",
            title: title.clone(),
            method: format!(
                "Eight threads make connections from one network namespace to another over a veth pair, eight serve them, all \
                 on this machine; each connection carries {BYTES} bytes each way and ends. The released agent runs in the \
                 clients' namespace."
            ),
            unit: "s",
            against: "asked for",
            rows: vec![rate],
        },
        Section {
            bench: "burst",
            title: format!("{title}: what is not accounted for"),
            method: "What the agent tells when all is over, against what the programs did.".into(),
            unit: "off by",
            against: "",
            rows: accounts,
        },
        Section {
            bench: "burst",
            title: format!("{title}: what it costs"),
            method: "CPU time of the agent's threads, and of the programs' with what the kernel does for them.".into(),
            unit: "us",
            against: "the programs",
            rows: costs,
        },
    ]
}

/// The counts when the table is empty, or when it should be.
fn settled(host: &Host<'_>) -> Result<Value> {
    let deadline = Instant::now() + SETTLED;
    loop {
        let totals = host.status()?["namespaces"][0]["totals"].take();
        ensure!(totals.is_object(), "the agent tells nothing of MPTCP");
        if totals["table_used"] == 0 || Instant::now() > deadline {
            return Ok(totals);
        }
        sleep(Duration::from_millis(500));
    }
}

/// Payload that was sent on all paths, each byte once.
fn payload(status: &Value) -> Result<u64> {
    let paths = status["namespaces"][0]["paths"].as_array().context("no paths")?;
    let of = |path: &Value| {
        let tx = &path["tx"];
        Some(tx["payload_bytes"].as_u64()? - tx["retransmitted_bytes"].as_u64()?)
    };
    paths.iter().map(of).sum::<Option<u64>>().context("paths without bytes")
}
