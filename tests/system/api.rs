//! The JSON API of a running agent.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::Agent;
use mpsec_tests::topology::Pair;
use mpsec_tests::trial::trial;
use mpsec_tests::{http, link, need, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// How long the agent may take to show a change of the host's.
const SHOWN: Duration = Duration::from_secs(10);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("api::the_host_is_what_the_kernel_says", LIMIT, host),
        trial("api::status_and_api_say_the_same", LIMIT, same),
        trial("api::what_is_not_there_is_a_problem", LIMIT, problems),
        trial("api::the_document_lists_what_answers", LIMIT, document),
    ]
}

fn get(agent: &Agent, path: &str) -> Result<Value> {
    let response = agent.get(path)?;
    ensure!(response.status == 200, "{path}: {} {:?}", response.status, response.text());
    ensure!(response.header("content-type") == Some("application/json"), "{path}: {:?}", response.headers);
    ensure!(response.header("cache-control") == Some("no-store"), "{path}: {:?}", response.headers);
    Ok(serde_json::from_str(response.text()?)?)
}

fn host() -> Result<()> {
    need::mpsec()?;
    let pair = Pair::bare()?;
    let agent = Agent::start(&pair.left)?;
    let host = get(&agent, "/api/v1/host")?;
    for (name, file) in [("hostname", "hostname"), ("kernel_release", "osrelease")] {
        let expected = std::fs::read_to_string(format!("/proc/sys/kernel/{file}"))?;
        ensure!(host["host"][name] == expected.trim(), "{host:#}");
    }
    ensure!(host["host"]["cpus"].as_u64() >= Some(1) && host["host"]["tasks"].as_u64() > Some(1), "{host:#}");
    pair.left.enable_ipv6()?;
    link::address(&pair.left, Pair::WEST, "192.0.2.1/24")?;
    link::address(&pair.left, Pair::WEST, "2001:db8::1/64")?;
    pair.left.ip("link set dev west mtu 1400")?;
    let mac = pair.left.read("/sys/class/net/west/address")?;
    wait::until(SHOWN, || {
        let host = get(&agent, "/api/v1/host")?;
        let all = host["host"]["interfaces"].as_array().context("no interfaces")?;
        let west = all.iter().find(|one| one["name"] == Pair::WEST).with_context(|| format!("{host:#}"))?;
        ensure!(west["mac"] == mac.trim() && west["mtu_bytes"] == 1400 && west["operstate"] == "up", "{west:#}");
        ensure!(west["index"] == pair.left.ifindex(Pair::WEST)?, "{west:#}");
        let addresses = west["addresses"].as_array().context("no addresses")?;
        ensure!(["192.0.2.1/24", "2001:db8::1/64"].iter().all(|one| addresses.contains(&(*one).into())), "{west:#}");
        // Nothing to compare with at first, then a part of the whole.
        let busy = host["host"]["cpu_use"].as_f64().context("no use of the processors yet")?;
        ensure!((0.0..=1.0).contains(&busy), "{host:#}");
        Ok(())
    })
}

fn same() -> Result<()> {
    let program = need::mpsec()?;
    let pair = Pair::bare()?;
    let agent = Agent::start(&pair.left)?;
    let socket = agent.folder().join("mpsec.sock");
    let output = Command::new(program).args(["status", "--json", "--control-socket"]).arg(socket).output()?;
    let status: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let interfaces = get(&agent, "/api/v1/interfaces")?;
    // What asks crosses the loopback, and is counted there.
    let others = |value: &Value| -> Result<Vec<Value>> {
        let all = value["interfaces"].as_array().with_context(|| format!("{value:#}"))?;
        Ok(all.iter().filter(|one| one["name"] != "lo").cloned().collect())
    };
    let (asked, told) = (others(&interfaces)?, others(&status)?);
    ensure!(asked == told && !asked.is_empty(), "{interfaces:#}\n{status:#}");
    ensure!(interfaces["states"] == status["interface_states"], "{interfaces:#}\n{status:#}");
    let west = get(&agent, "/api/v1/interfaces?interface=west")?;
    ensure!(west["interfaces"].as_array().is_some_and(|all| all.len() == 1 && all[0]["name"] == "west"), "{west:#}");
    let netns = |value: &Value| -> Result<Vec<Value>> {
        let all = value["namespaces"].as_array().with_context(|| format!("{value:#}"))?;
        Ok(all.iter().map(|one| one["netns"].clone()).collect())
    };
    for path in ["/api/v1/connections", "/api/v1/paths"] {
        let answer = get(&agent, path)?;
        ensure!(netns(&answer)? == netns(&status)?, "{path}: {answer:#}");
        ensure!(answer["taken_at"].as_f64() > status["taken_at"].as_f64(), "{path}: an old snapshot");
    }
    ensure!(get(&agent, "/api/v1/host")?["host"]["hostname"] == status["host"]["hostname"], "{status:#}");
    Ok(())
}

fn problems() -> Result<()> {
    need::mpsec()?;
    let pair = Pair::bare()?;
    let agent = Agent::start(&pair.left)?;
    for (path, status) in [("/api/v1/nothing", 404), ("/api/v1/host?x=1", 400), ("/api/v1/connections?limit=0", 400)] {
        let response = agent.get(path)?;
        ensure!(response.status == status, "{path}: {}", response.status);
        ensure!(response.header("content-type") == Some("application/problem+json"), "{path}: {:?}", response.headers);
        let problem: Value = serde_json::from_str(response.text()?)?;
        ensure!(problem["status"] == status && problem["detail"].is_string(), "{path}: {problem:#}");
    }
    // Counted by the route's pattern, and what is not there under one name.
    let metrics = agent.get("/metrics")?;
    let text = metrics.text()?;
    ensure!(text.contains("handler=\"/api/v1/host\"") && !text.contains("/api/v1/nothing"), "{text}");
    Ok(())
}

fn document() -> Result<()> {
    need::mpsec()?;
    let pair = Pair::bare()?;
    let agent = Agent::start(&pair.left)?;
    let document = get(&agent, "/api/v1/openapi.json")?;
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let checked_in: Value = serde_json::from_str(&std::fs::read_to_string(checked_in)?)?;
    ensure!(document == checked_in, "the agent serves another document");
    for (path, methods) in document["paths"].as_object().context("no paths")? {
        if methods["post"].is_null() {
            get(&agent, path)?;
            continue;
        }
        let read = agent.get(path)?;
        ensure!(read.status == 405 && read.header("allow") == Some("POST"), "{path}: {read:?}");
        let stream = http::connect(&pair.left, agent.address())?;
        let refused = http::post(stream, "localhost", path, &[], "{}")?;
        ensure!(refused.status == 403, "{path}: {refused:?}");
    }
    let headers = [("Accept-Encoding", "gzip")];
    let response = http::get_with(&pair.left, agent.address(), "/api/v1/openapi.json", &headers)?;
    ensure!(
        response.header("content-encoding") == Some("gzip") && response.body.starts_with(&[0x1f, 0x8b]),
        "not gzip"
    );
    Ok(())
}
