//! A path that loses, delays, reorders and repeats packets, beside one that does not: what the agents say of each subflow is what
//! the sockets, the captures and netem's own counters say, and the programs get every byte once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::paths::{Family, Host, Passed, Plan, device, path_of};
use mpsec_tests::ss::{self, Socket};
use mpsec_tests::trial::trial;
use mpsec_tests::wire::Sum;
use mpsec_tests::{need, wait};
use serde_json::Value;

use crate::lab::{HOSTS, Truth};
use crate::mptcp_view::{SHOWN, Stage, list, number, subflows, view};

const LIMIT: Duration = Duration::from_secs(90);
const UP: u64 = 3_000_000;
const DOWN: u64 = 500_000;
/// Room for all that a sender keeps on its way: nothing is dropped but by netem.
const PLAN: Plan = Plan::wires(2).bottleneck(10, 400_000);
/// The path that is spoiled.
const BAD: usize = 1;
/// Figures of TCP: the word of ss, and the member in JSON.
const FIGURES: [(&str, &str); 6] = [
    ("retrans", "retransmitted_segments"),
    ("bytes_retrans", "retransmitted_bytes"),
    ("bytes_sent", "sent_bytes"),
    ("rcv_ooopack", "out_of_order_segments"),
    ("reord_seen", "reordering_seen"),
    ("dsack_dups", "dsack_duplicates"),
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("netem::what_is_lost_is_sent_again", LIMIT, loss),
        trial("netem::what_is_late_is_late_in_all_figures", LIMIT, delay),
        trial("netem::what_is_overtaken_is_seen_out_of_order", LIMIT, reorder),
        trial("netem::what_comes_twice_was_sent_once", LIMIT, duplicate),
        trial("netem::all_of_it_both_ways_ipv4", LIMIT, || everything(Family::V4)),
        trial("netem::all_of_it_both_ways_ipv6", LIMIT, || everything(Family::V6)),
    ]
}

/// A conversation over a good path and a bad one.
struct Run {
    stage: Stage,
    family: Family,
    talk: Conversation,
    /// What the captures had when the path went bad.
    before: [Truth; 2],
}

impl Run {
    /// Opens it over two good paths, then has netem spoil one, up and down.
    fn spoilt(family: Family, up: &str, down: &str) -> Result<Run> {
        need::netem()?;
        let stage = Stage::new(PLAN)?;
        stage.lab.paths.add_endpoints(family)?;
        let talk = Conversation::open(&stage.lab.paths, family)?;
        talk.joined(2)?;
        let before = stage.lab.truths()?;
        spoil(&stage, up, down)?;
        Run { stage, family, talk, before }.exchanged()
    }

    /// The same, bad from the beginning.
    fn bad(family: Family, up: &str, down: &str) -> Result<Run> {
        need::netem()?;
        let stage = Stage::new(PLAN)?;
        stage.lab.paths.add_endpoints(family)?;
        let before = stage.lab.truths()?;
        spoil(&stage, up, down)?;
        let talk = Conversation::open(&stage.lab.paths, family)?;
        talk.joined(2)?;
        Run { stage, family, talk, before }.exchanged()
    }

    fn exchanged(mut self) -> Result<Run> {
        self.talk.exchange(UP, DOWN)?;
        for host in HOSTS {
            ss::wait_acknowledged(self.stage.lab.paths.netns(host))?;
        }
        Ok(self)
    }

    /// Everybody says the same of everything. Gives what the captures have.
    fn agrees(&self) -> Result<[Truth; 2]> {
        let truths = self.stage.lab.truths()?;
        let (paths, info) = (&self.stage.lab.paths, self.talk.info()?);
        for ((truth, end), info) in truths.iter().zip([&self.talk.client, &self.talk.server]).zip(info) {
            truth.agrees_with_ss(paths, false)?;
            truth.agrees_with(paths, end, info)?;
            ensure!([end.sent, end.received].iter().sum::<u64>() == UP + DOWN + 2, "{end:?}");
        }
        self.netem_agrees(&truths)?;
        self.stage.says_what_is_true(self.family, 0)?;
        for host in HOSTS {
            let netns = paths.netns(host);
            wait::until(SHOWN, || {
                let (sockets, view) = (ss::subflows(netns)?, view(self.stage.agent(host))?);
                let token = sockets[0].membership()?.context("no tokens")?.local_token;
                let said = subflows(view.connection(token)?)?;
                ensure!(sockets.len() == 2 && said.len() == 2, "{sockets:?}; {said:#?}");
                for socket in &sockets {
                    let said = said.get(&(socket.local, socket.remote)).with_context(|| format!("no {socket:?}"))?;
                    same_figures(socket, said)?;
                }
                same_counters(view.get("mib"), &ss::mib(netns)?)?;
                same_counters(view.get("tcp_mib"), &ss::counters(netns, "TcpExt")?)
            })
            .with_context(|| format!("{host:?}"))?;
        }
        Ok(truths)
    }

    /// What netem let go is what arrived, and what it did not is missing.
    fn netem_agrees(&self, truths: &[Truth; 2]) -> Result<()> {
        for to in HOSTS {
            let (sent, received) = self.crossed(truths, to);
            let passed = self.passed(to)?;
            ensure!((passed.packets, passed.bytes) == received, "to {to:?}: {passed:?}, {received:?} arrived");
            ensure!(received.0 + passed.dropped >= sent.0, "to {to:?}: {passed:?}, {sent:?} sent");
        }
        Ok(())
    }

    fn passed(&self, to: Host) -> Result<Passed> {
        self.stage.lab.paths.passed(BAD, to)
    }

    /// Packets and bytes that left for a host by the bad path since it is bad, and those that arrived.
    fn crossed(&self, truths: &[Truth; 2], to: Host) -> ((u64, u64), (u64, u64)) {
        let (from, at) = if to == Host::Server { (0, 1) } else { (1, 0) };
        let (sent, sent_before) = (truths[from].path(BAD).1, self.before[from].path(BAD).1);
        let (received, received_before) = (truths[at].path(BAD).0, self.before[at].path(BAD).0);
        let since = |now: Sum, then: Sum| (now.packets - then.packets, now.bytes - then.bytes);
        (since(sent, sent_before), since(received, received_before))
    }

    /// The socket of a host's subflow on a path.
    fn socket(&self, host: Host, path: usize) -> Result<Socket> {
        let sockets = ss::subflows(self.stage.lab.paths.netns(host))?;
        let address = |socket: &Socket| if host == Host::Client { socket.local.ip() } else { socket.remote.ip() };
        let found = sockets.iter().find(|socket| path_of(address(socket)) == path).cloned();
        found.with_context(|| format!("{host:?} has no subflow on path {path}: {sockets:?}"))
    }
}

fn spoil(stage: &Stage, up: &str, down: &str) -> Result<()> {
    for (to, how) in [(Host::Server, up), (Host::Client, down)] {
        stage.lab.paths.shape(BAD, to, &format!("limit 1000 rate 10mbit {how}"))?;
    }
    Ok(())
}

/// A subflow in JSON has what ss prints of its socket.
fn same_figures(socket: &Socket, said: &Value) -> Result<()> {
    let tcp = &said["tcp"];
    for (word, member) in FIGURES {
        let is = socket.number(word)?;
        ensure!(number(&tcp[member]).with_context(|| member)? == is, "{word}:{is} of {socket:?}: {tcp:#}");
    }
    let rtt = socket.word("rtt").and_then(|text| text.split_once('/')).context("no rtt")?;
    for (text, member) in
        [(rtt.0, "srtt_us"), (rtt.1, "rttvar_us"), (socket.word("minrtt").context("no minrtt")?, "min_rtt_us")]
    {
        // ss prints milliseconds, with six digits.
        let is = text.parse::<f64>()? * 1000.0;
        let says = number(&tcp[member]).with_context(|| member)? as f64;
        ensure!((is - says).abs() <= 1.0 + is / 100_000.0, "{member}: {is} by ss: {tcp:#}");
    }
    Ok(())
}

/// Counters by name: the agent has what the kernel has, of those that it tells.
fn same_counters(said: &Value, is: &BTreeMap<String, u64>) -> Result<()> {
    for pair in list(said)? {
        let name = pair[0].as_str().context("no name")?;
        let is = is.get(name).copied().unwrap_or(0);
        ensure!(number(&pair[1])? == is, "{name} is {is}: {pair}");
    }
    Ok(())
}

fn loss() -> Result<()> {
    let run = Run::spoilt(Family::V4, "loss 3%", "")?;
    let truths = run.agrees()?;
    let (up, down) = (run.passed(Host::Server)?, run.passed(Host::Client)?);
    let (sent, received) = run.crossed(&truths, Host::Server);
    ensure!(up.dropped > 5 && sent.0 == received.0 + up.dropped, "{up:?}: {sent:?}, {received:?}");
    ensure!(down.dropped == 0, "{down:?}");
    let (bad, good) = (run.socket(Host::Client, BAD)?, run.socket(Host::Client, 0)?);
    // What is lost but a bare acknowledgement is sent again, and again if need be.
    let (again, on_the_good) = (bad.number("retrans")?, good.number("retrans")?);
    ensure!(again * 2 >= up.dropped && again > on_the_good, "{again} and {on_the_good} sent again, {up:?}");
    let by_sockets = again + on_the_good;
    let kernel = ss::counters(&run.stage.lab.paths.client, "Tcp")?.get("RetransSegs").copied().unwrap_or(0);
    // The namespace now and then counts one or two more than its sockets do, seen on Linux 6.1 and 6.18.
    ensure!((by_sockets..=by_sockets + 2).contains(&kernel), "RetransSegs is {kernel}, {by_sockets} by ss");
    // By the probe, where it has a way in.
    let view = view(run.stage.agent(Host::Client))?;
    if let Some(states) = view.get("probed")["retransmissions"].as_object().filter(|states| !states.is_empty()) {
        let counted = states.values().map(number).sum::<Result<u64>>()?;
        ensure!((by_sockets..=kernel).contains(&counted), "{by_sockets} by ss, RetransSegs is {kernel}: {states:?}");
    }
    Ok(())
}

fn delay() -> Result<()> {
    let run = Run::bad(Family::V4, "delay 60ms", "delay 60ms")?;
    run.agrees()?;
    for host in HOSTS {
        let rtt = |path| -> Result<f64> {
            let socket = run.socket(host, path)?;
            Ok(socket.word("minrtt").context("no minrtt")?.parse()?)
        };
        let (bad, good) = (rtt(BAD)?, rtt(0)?);
        ensure!(bad >= 120.0 && good < bad, "{host:?}: {bad} ms, {good} ms on the good path");
        // The histogram has one for each second, none of which is shorter than the way there and back.
        let device = device(host, BAD);
        let labels = [("interface", device.as_str())];
        wait::until(SHOWN, || {
            let metrics = run.stage.agent(host).scrape()?;
            let count = metrics.sum("mpsec_path_rtt_seconds_count", &labels)?;
            let short = metrics.sum("mpsec_path_rtt_seconds_bucket", &[labels[0], ("le", "0.1")])?;
            ensure!(count > 0 && short == 0, "{short} of {count} are shorter than 0.1 s");
            Ok(())
        })?;
    }
    Ok(())
}

fn reorder() -> Result<()> {
    let run = Run::spoilt(Family::V4, "delay 15ms reorder 75%", "")?;
    let truths = run.agrees()?;
    let (up, (sent, received)) = (run.passed(Host::Server)?, run.crossed(&truths, Host::Server));
    ensure!(up.dropped == 0 && sent == received, "{up:?}: {sent:?}, {received:?}");
    let (client, server) = (run.socket(Host::Client, BAD)?, run.socket(Host::Server, BAD)?);
    let (late, seen) = (server.number("rcv_ooopack")?, client.number("reord_seen")?);
    ensure!(late > 10 && seen > 0, "{late} segments out of order, {seen} times seen by the sender");
    let queued = ss::counters(&run.stage.lab.paths.server, "TcpExt")?.get("TCPOFOQueue").copied().unwrap_or(0);
    ensure!(queued > 0, "TCP waited for nothing");
    Ok(())
}

fn duplicate() -> Result<()> {
    let run = Run::spoilt(Family::V4, "duplicate 10%", "")?;
    let [client, server] = run.agrees()?;
    let truths = [client, server];
    let (up, (sent, received)) = (run.passed(Host::Server)?, run.crossed(&truths, Host::Server));
    let twice = received.0 - sent.0;
    ensure!(up.dropped == 0 && twice > 10, "{up:?}: {sent:?}, {received:?}");
    // What the client's agent calls repeated was sent again; what the server's does came again.
    let (sent, received) = (truths[0].path(BAD).1, truths[1].path(BAD).0);
    let (payload, again) = (received.payload - sent.payload, received.retransmitted - sent.retransmitted);
    ensure!(payload > 0 && payload == again, "{payload} bytes came twice, {again} are told so: {sent:?}, {received:?}");
    let told = run.socket(Host::Client, BAD)?.number("dsack_dups")?;
    ensure!(told > 0, "nobody told the sender");
    Ok(())
}

fn everything(family: Family) -> Result<()> {
    let how = "delay 10ms 4ms loss 1% duplicate 2% reorder 10%";
    let run = Run::spoilt(family, how, how)?;
    run.agrees()?;
    let (up, down) = (run.passed(Host::Server)?, run.passed(Host::Client)?);
    ensure!(up.dropped > 0 && down.packets > 0, "{up:?}, {down:?}");
    Ok(())
}
