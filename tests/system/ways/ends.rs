//! Resets: what the agent tells of their reasons is what was on the wire, whichever way into the kernel it takes.
//!
//! | | tracepoints | functions |
//! | --- | --- | --- |
//! | sent | the kernel's own reason (since Linux 6.10), which is the option's where it is one of MPTCP's | that of the option |
//! | received | that of the option, where the kernel reads it | that of the option |

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use libtest_mimic::Trial;
use mpsec_tests::mptcp::{Conversation, Protocol, connect};
use mpsec_tests::mptcp_socket;
use mpsec_tests::paths::{Family, Host, Paths, Plan, address, device};
use mpsec_tests::resets::{Reset, Resets};
use mpsec_tests::trial::Skip;
use mpsec_tests::{need, ss, wait};

use super::{Both, WAYS, ensure_equal, for_each_way, total};
use crate::mptcp_probes::resets_of;
use crate::mptcp_view::{SHOWN, view};

/// The reasons of RFC 8684 section 3.6, by their codes.
const REASONS: [&str; 7] = [
    "unspecified",
    "mptcp_specific",
    "lack_of_resources",
    "administratively_prohibited",
    "too_much_outstanding_data",
    "unacceptable_performance",
    "middlebox_interference",
];
const WITHOUT: &str = "without_option";
const UNKNOWN: &str = "unknown";
/// How soon a connection is gone that its program resets.
const GONE: Duration = Duration::from_secs(2);
/// Two flags of TCP that only the answer to a SYN has both of.
const SYN_ACK: &str = "tcp flags & (syn | ack) == (syn | ack)";

pub(super) fn trials() -> Vec<Trial> {
    [
        for_each_way(&WAYS, "reads_every_reason_of_a_reset", every_reason),
        for_each_way(&WAYS, "reads_why_a_join_is_refused", refused_join),
        for_each_way(&WAYS, "reads_that_a_token_is_unknown", unknown_token),
        for_each_way(&WAYS, "tells_that_an_answer_is_no_join", stripped_answer),
        for_each_way(&WAYS, "tells_that_somebody_changes_the_data", changed_data),
        for_each_way(&WAYS, "tells_what_a_program_resets", program),
        for_each_way(&WAYS, "tells_of_resets_without_mptcp", without_mptcp),
    ]
    .into_iter()
    .flatten()
    .collect()
}

type Counts = BTreeMap<String, u64>;

/// Resets in one direction by what the wire says of them. Of a connection the first one alone: its socket is gone then, and what
/// comes later the host answers, or gets, without one.
fn on_wire(resets: &[Reset], sent: bool) -> Counts {
    let (mut counts, mut gone) = (Counts::new(), BTreeSet::new());
    for reset in resets.iter().filter(|reset| reset.sent == sent && gone.insert(reset.ends)) {
        let name = reset.reason.map_or(WITHOUT, |code| REASONS.get(usize::from(code)).unwrap_or(&"other"));
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

/// Waits until both agents have counted what crossed a device; `as_told` is what tracepoints make of it.
fn agree(agents: &Both, way: &str, direction: &str, truth: &Counts, as_told: impl Fn(&Counts) -> Counts) -> Result<()> {
    wait::until(SHOWN, || {
        for (agent, way) in [(&agents.tracepoints, "tp_btf"), (&agents.tried, way)] {
            let expected = if way == "tp_btf" { as_told(truth) } else { truth.clone() };
            ensure_equal(
                &format!("{direction}, told through {way}, and captured"),
                &resets_of(agent, direction)?,
                &expected,
            )?;
        }
        Ok(())
    })?;
    eprintln!("{way}, {direction}: {truth:?}");
    Ok(())
}

/// Where the kernel does not look at the option, it is not known what it says.
fn unread(truth: &Counts) -> Counts {
    BTreeMap::from([(UNKNOWN.to_owned(), total(truth))])
}

/// Of resets with a reason of MPTCP's the kernel's is the same; what programs do has other names, and none before Linux 6.10.
fn sent_agree(agents: &Both, way: &str, truth: &Counts) -> Result<()> {
    let has_reasons = need::linux(6, 10, "").is_ok();
    wait::until(SHOWN, || {
        for (agent, way) in [(&agents.tracepoints, "tp_btf"), (&agents.tried, way)] {
            let told = resets_of(agent, "sent")?;
            ensure!(total(&told) == total(truth), "through {way}: {told:?}, captured {truth:?}");
            for reason in REASONS.iter().skip(1) {
                ensure!(told.get(*reason) == truth.get(*reason), "through {way}: {told:?}, captured {truth:?}");
            }
            if way != "tp_btf" || !has_reasons {
                ensure_equal(&format!("sent, told through {way}, and captured"), &told, truth)?;
            }
            ensure!(!told.contains_key("other"), "{told:?}");
        }
        Ok(())
    })?;
    eprintln!("{way}, sent: {truth:?}, {:?}", resets_of(&agents.tracepoints, "sent")?);
    Ok(())
}

/// Somebody on the way resets a connection after the other, for each reason that there is, for one that there is not, and for none.
fn every_reason(way: &str) -> Result<()> {
    let paths = Paths::new(Plan::wires(1))?;
    let wire = Resets::watch(&paths.client, &device(Host::Client, 0))?;
    let agents = Both::start(&paths.client, way, &["reset_received"])?;
    for (turn, reason) in [None].into_iter().chain((0..8).map(Some)).enumerate() {
        let mut talk = Conversation::open(&paths, Family::ALL[turn % 2])?;
        talk.exchange(1_000, 1_000)?;
        wire.inject(&paths.server, reason)?;
        wait::until(SHOWN, || {
            let left = ss::subflows(&paths.client)?;
            ensure!(left.is_empty(), "it did not take the reset: {left:?}");
            Ok(())
        })?;
    }
    let truth = on_wire(&wire.settled()?, false);
    ensure!(truth.len() == 9 && total(&truth) == 9, "{truth:?}");
    agree(&agents, way, "received", &truth, Counts::clone)
}

/// The server takes no second subflow and says so when the client's third packet comes.
fn refused_join(way: &str) -> Result<()> {
    let paths = Paths::new(Plan::wires(2))?;
    let wire = Resets::watch(&paths.client, &device(Host::Client, 1))?;
    let agents = Both::start(&paths.client, way, &["reset_received", "reset_sent"])?;
    paths.server.ip("mptcp limits set subflows 0")?;
    paths.add_endpoint(1, Family::V4, "")?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.exchange(1_000, 1_000)?;
    let resets = reset(&wire, false)?;
    agree(&agents, way, "received", &on_wire(&resets, false), unread)?;
    sent_agree(&agents, way, &on_wire(&resets, true))
}

/// The server's end of the connection is gone, which its client does not know, and joins.
fn unknown_token(way: &str) -> Result<()> {
    let paths = Paths::new(Plan::wires(2))?;
    let wire = Resets::watch(&paths.client, &device(Host::Client, 1))?;
    let agents = Both::start(&paths.client, way, &["reset_received"])?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.exchange(1_000, 1_000)?;
    paths.drop_arriving(Host::Client, 0, "")?;
    let _kept = talk.reset_by_server()?;
    let is_gone = wait::until(GONE, || {
        let left = ss::mptcp(&paths.server)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
    is_gone.map_err(unless_never_reset)?;
    paths.add_endpoint(1, Family::V4, "")?;
    let truth = on_wire(&reset(&wire, false)?, false);
    ensure!(truth.contains_key("mptcp_specific"), "{truth:?}");
    agree(&agents, way, "received", &truth, unread)
}

/// Somebody takes MP_JOIN out of the answer to the SYN: the client resets what is no join, and nothing is left of it.
fn stripped_answer(way: &str) -> Result<()> {
    let paths = Paths::new(Plan::wires(2))?;
    let wire = Resets::watch(&paths.client, &device(Host::Client, 1))?;
    let agents = Both::start(&paths.client, way, &["reset_sent"])?;
    paths.handle_arriving(Host::Client, 1, &format!("{SYN_ACK} reset tcp option mptcp"))?;
    paths.add_endpoint(1, Family::V4, "")?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.exchange(1_000, 1_000)?;
    let truth = on_wire(&reset(&wire, true)?, true);
    ensure!(truth.keys().eq(["mptcp_specific"]), "{truth:?}");
    sent_agree(&agents, way, &truth)?;
    for (name, agent) in agents.each() {
        wait::until(SHOWN, || {
            let view = view(agent)?;
            let path = view.path(&device(Host::Client, 1), Family::V4)?;
            ensure!(path.subflows.values().sum::<u64>() == 0, "{name}: {path:?}");
            ensure!(view.total("subflows_opened")? == 1, "{name}: {}", view.get("totals"));
            Ok(())
        })?;
    }
    Ok(())
}

/// Somebody changes data on the second path, and MPTCP's checksums show it: the server resets the subflow.
fn changed_data(way: &str) -> Result<()> {
    let paths = Paths::new(Plan::wires(2))?;
    for host in [&paths.client, &paths.server] {
        host.sysctl("net/mptcp/checksum_enabled", "1")?;
    }
    let wires = [Host::Client, Host::Server].map(|host| Resets::watch(paths.netns(host), &device(host, 1)));
    let [client, server] = wires;
    let (client, server) = (client?, server?);
    let receives = Both::start(&paths.client, way, &["reset_received"])?;
    let sends = Both::start(&paths.server, way, &["reset_sent"])?;
    paths.add_endpoints(Family::V4)?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.joined(2)?;
    // Behind all headers, of segments that are long enough.
    paths.handle_arriving(Host::Server, 1, "ip length > 600 @th,800,32 set 0x6d707363")?;
    talk.exchange(2_000_000, 0)?;
    let sent = on_wire(&reset(&server, true)?, true);
    ensure!(sent.contains_key("middlebox_interference"), "{sent:?}");
    sent_agree(&sends, way, &sent)?;
    agree(&receives, way, "received", &on_wire(&client.settled()?, false), Counts::clone)
}

/// The error, but where it is the kernel's: Linux 6.18.15 ends in order what a program resets with SO_LINGER of 0 s, which
/// 6.12, 6.18.44 and 7.2 do not.
pub(super) fn unless_never_reset(error: anyhow::Error) -> anyhow::Error {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if release.split(['+', '-', '\n']).next() != Some("6.18.15") {
        return error;
    }
    Skip::because("this kernel ends a connection in order that its program resets (SO_LINGER of 0 s)")
}

/// A program gives a connection up with all of its subflows.
fn program(way: &str) -> Result<()> {
    let paths = Paths::new(Plan::wires(2))?;
    let watch = |host| -> Result<Vec<Resets>> {
        (0..2).map(|path| Resets::watch(paths.netns(host), &device(host, path))).collect()
    };
    let (client, server) = (watch(Host::Client)?, watch(Host::Server)?);
    let receives = Both::start(&paths.client, way, &["reset_received"])?;
    let sends = Both::start(&paths.server, way, &["reset_sent"])?;
    paths.add_endpoints(Family::V4)?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.joined(2)?;
    talk.exchange(100_000, 100_000)?;
    let _kept = talk.reset_by_server()?;
    let of = |wires: &[Resets], sent| -> Result<Counts> {
        let all: Vec<_> = wires.iter().map(Resets::settled).collect::<Result<_>>()?;
        Ok(on_wire(&all.concat(), sent))
    };
    let sent = of(&server, true)?;
    if sent.is_empty() {
        return Err(unless_never_reset(anyhow!("no reset was sent")));
    }
    ensure!(sent.keys().eq(["unspecified"]), "{sent:?}");
    sent_agree(&sends, way, &sent)?;
    // The first one has MPTCP close all of them, which may be before the next comes: how many is up to who is quicker.
    let captured = of(&client, false)?;
    wait::until(SHOWN, || {
        let [told, tried] = [&receives.tracepoints, &receives.tried].map(|agent| resets_of(agent, "received"));
        let (told, tried) = (told?, tried?);
        ensure_equal("received", &told, &tried)?;
        ensure!(told.keys().eq(captured.keys()) && total(&told) <= total(&captured), "{told:?}, captured {captured:?}");
        Ok(())
    })
}

/// A server that is not there, and one that knows no MPTCP and whose client gives up.
fn without_mptcp(way: &str) -> Result<()> {
    let paths = Paths::new(Plan::wires(1))?;
    let wire = Resets::watch(&paths.client, &device(Host::Client, 0))?;
    let agents = Both::start(&paths.client, way, &["reset_received", "reset_sent"])?;
    let nobody = (address(Host::Server, Family::V4, 0), 9).into();
    let refused = paths.client.run(|| connect(address(Host::Client, Family::V4, 0), nobody, Protocol::Mptcp));
    ensure!(refused.is_err(), "{refused:?}");
    agree(&agents, way, "received", &on_wire(&wire.settled()?, false), unread)?;
    let mut talk = Conversation::between(&paths, Family::V4, [Protocol::Mptcp, Protocol::Tcp])?;
    talk.exchange(1_000, 1_000)?;
    ensure!(mptcp_socket::protocol_of(&talk.client.stream)? == libc::IPPROTO_MPTCP, "it did not ask for MPTCP");
    talk.reset_by_client()?;
    let sent = on_wire(&reset(&wire, true).map_err(unless_never_reset)?, true);
    ensure!(sent.keys().eq([WITHOUT]), "{sent:?}");
    sent_agree(&agents, way, &sent)
}

/// What has crossed a device when there is a reset in this direction and nothing more comes.
fn reset(wire: &Resets, sent: bool) -> Result<Vec<Reset>> {
    wait::until(SHOWN, || {
        let resets = wire.settled()?;
        ensure!(resets.iter().any(|reset| reset.sent == sent), "no reset: {resets:?}");
        Ok(resets)
    })
}
