//! What a reader notices when a path fails: next to nothing, with the agent's help. And what is set on subflows by address.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use mpsec_agent::agent::failover::driver::policy;
use mpsec_agent::kernel::policy::Policy;
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::keeper::Keeper;
use mpsec_tests::mptcp::{Conversation, Info};
use mpsec_tests::paths::{Family, Host, Paths, Plan, address, device, table};
use mpsec_tests::stream::{Call, Stream};
use mpsec_tests::trial::{Skip, trial};
use mpsec_tests::wan::Wan;
use mpsec_tests::{need, ss, wait};

const LIMIT: Duration = Duration::from_secs(120);
/// 10 Mbit/s in bytes per second: half of what a line carries.
const RATE: u64 = 1_250_000;
/// How long a path stays away.
const OUTAGE: Duration = Duration::from_millis(1500);
/// How soon a path that is back must carry data again.
const BACK: Duration = Duration::from_secs(2);
/// How often a fault is tried: a machine that stands still for a moment makes a gap of its own. The kernel alone keeps the
/// bounds in none of them (docs/failover.md).
const TRIES: usize = 3;
/// The longest gap when a link goes down, which the kernel alone takes for about 0.3 s.
const LINK_GAP: Duration = Duration::from_millis(150);
/// The longest gap when a path falls silent: a bit less than the kernel alone needs.
const SILENCE_GAP: Duration = Duration::from_millis(250);
const SOON: Duration = Duration::from_secs(5);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("failover::a_link_that_goes_down", LIMIT, || each(Fault::Down, LINK_GAP)),
        trial("failover::a_carrier_that_is_lost", LIMIT, || each(Fault::Carrier, LINK_GAP)),
        trial("failover::a_path_that_falls_silent", LIMIT, || each(Fault::Silence, SILENCE_GAP)),
        trial("failover::a_receiver_notices_silence_alone", LIMIT, receiver),
        trial("failover::a_path_that_stalls_is_kept", LIMIT, stalls),
        trial("failover::what_carries_little_is_left_alone", LIMIT, || healthy(RATE / 5)),
        trial("failover::what_carries_all_it_can_is_left_alone", LIMIT, || healthy(4 * RATE)),
        trial("failover::the_end_puts_endpoints_back", LIMIT, restored),
        trial("failover::endpoints_of_one_address_go_and_come_together", LIMIT, of_one_address),
        trial("failover::an_address_that_went_with_its_link_is_a_path_again", LIMIT, returning),
        trial("failover::what_falls_silent_elsewhere_is_another_ones", LIMIT, bystander),
        trial("failover::what_connects_is_left_alone", LIMIT, connecting),
        trial("failover::congestion_control_by_address", LIMIT, congestion),
        trial("failover::pacing_by_address", LIMIT, pacing),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Down,
    Carrier,
    Silence,
}

/// Two lines, and hosts that have room for what comes too early while a hole is open.
fn two_lines() -> Result<Wan> {
    let wan = Wan::usual(2)?;
    for host in [&wan.client, &wan.server] {
        host.sysctl("net/ipv4/tcp_rmem", "4096 4000000 33554432")?;
        host.sysctl("net/mptcp/stale_loss_cnt", "1")?;
    }
    wan.add_endpoint(0)?;
    wan.add_endpoint(1)?;
    Ok(wan)
}

fn joined(call: &Call) -> Result<()> {
    wait::until(SOON, || {
        for end in [&call.client, &call.server] {
            let subflows = Info::of(end)?.context("no MPTCP")?.subflows_total;
            ensure!(subflows == 2, "{subflows} subflows");
        }
        Ok(())
    })
}

/// Two hosts with the same addresses, in namespaces of their own: a path of one falls silent, and the other's stay.
fn bystander() -> Result<()> {
    let (wan, other) = (two_lines()?, two_lines()?);
    let hosts = [&wan.client, &wan.server, &other.client].into_iter();
    let _keepers: Vec<Keeper> =
        hosts.map(|host| Keeper::start(host, vec![(None, policy())], true)).collect::<Result<_>>()?;
    let before = other.client.ip("mptcp endpoint show")?;
    let call = Call::open(&wan)?;
    let (from, to) = call.ends(Host::Client);
    let stream = Stream::start(from, to, RATE)?;
    joined(&call)?;
    thread::sleep(Duration::from_millis(700));
    wan.silence(1, [true; 2]);
    let (start, mut noticed) = (Instant::now(), false);
    while start.elapsed() < OUTAGE || !noticed && start.elapsed() < need::patience(OUTAGE) {
        noticed |= wan.client.ip("mptcp endpoint show")?.lines().count() == 1;
        let now = other.client.ip("mptcp endpoint show")?;
        ensure!(now == before, "{now} instead of {before}");
        // Where the machine is emulated, asking all the time leaves nobody else any.
        thread::sleep(Duration::from_millis(30));
    }
    ensure!(noticed, "the path that fell silent was not taken out");
    wan.silence(1, [false; 2]);
    stream.finish(from).map(drop)
}

/// What a reader noticed of a fault.
#[derive(Debug)]
struct Noticed {
    gap: Duration,
    /// What the rest carried from half a second after the fault on, in Mbit/s.
    rest: f64,
    /// Whether the path carried data again soon after it was back.
    is_used: bool,
}

impl Noticed {
    /// Breaks a path while the stream goes on, and mends it.
    fn of(wan: &Wan, stream: &Stream, fault: Fault, path: usize) -> Result<Self> {
        let start = Instant::now();
        match fault {
            Fault::Down => wan.down(path)?,
            Fault::Carrier => wan.carrier(path, false)?,
            Fault::Silence => wan.silence(path, [true; 2]),
        }
        thread::sleep(OUTAGE);
        let gap = stream.longest_gap(start, OUTAGE);
        let rest = stream.mbit(start + Duration::from_millis(500), Duration::from_secs(1));
        let before = wan.carried(path);
        match fault {
            Fault::Down => wan.up(path)?,
            Fault::Carrier => wan.carrier(path, true)?,
            Fault::Silence => wan.silence(path, [false; 2]),
        }
        Ok(Self { gap, rest, is_used: used(wan, path, before).is_ok() })
    }

    fn is_little(&self, most: Duration) -> bool {
        self.gap < most && self.rest > 9.0 && self.is_used
    }
}

/// Passes with the first attempt in which little was noticed. An attempt that loses a byte fails at once.
fn little(most: Duration, attempt: impl Fn() -> Result<Noticed>) -> Result<()> {
    let mut much = Vec::new();
    for _ in 0..TRIES {
        let noticed = attempt()?;
        if noticed.is_little(most) {
            return Ok(());
        }
        much.push(noticed);
    }
    bail!("each time more was noticed than a gap of {most:?}: {much:?}")
}

/// A fault of each path, with a stream in each direction.
fn each(fault: Fault, gap: Duration) -> Result<()> {
    for sender in [Host::Client, Host::Server] {
        for path in 0..2 {
            little(gap, || one(fault, sender, path))
                .with_context(|| format!("{sender:?} sends, {fault:?} of path {path}"))?;
        }
    }
    Ok(())
}

fn one(fault: Fault, sender: Host, path: usize) -> Result<Noticed> {
    let wan = two_lines()?;
    // The end that sees a link fail is enough; what is silent is noticed by the one that sends.
    let mut keepers = vec![Keeper::start(&wan.client, vec![(None, policy())], true)?];
    if fault == Fault::Silence {
        keepers.push(Keeper::start(&wan.server, vec![(None, policy())], true)?);
    }
    let noticed = observed(&wan, sender, fault, path)?;
    keepers.into_iter().try_for_each(Keeper::stop)?;
    Ok(noticed)
}

/// A server without the agent sends by a path that falls silent: its client alone can help.
fn receiver() -> Result<()> {
    for path in 0..2 {
        let attempt = || {
            let wan = two_lines()?;
            let keeper = Keeper::start(&wan.client, vec![(None, policy())], true)?;
            let noticed = observed(&wan, Host::Server, Fault::Silence, path)?;
            keeper.stop()?;
            Ok(noticed)
        };
        little(SILENCE_GAP, attempt).with_context(|| format!("path {path}"))?;
    }
    Ok(())
}

/// What the reader of a stream notices of a fault once both paths are known to carry it.
fn observed(wan: &Wan, sender: Host, fault: Fault, path: usize) -> Result<Noticed> {
    let call = Call::open(wan)?;
    let (from, to) = call.ends(sender);
    let stream = Stream::start(from, to, RATE)?;
    joined(&call)?;
    // A receiver takes a second to notice that there is something to be heard, and a bit more to know how much.
    thread::sleep(Duration::from_millis(1800));
    let noticed = Noticed::of(wan, &stream, fault, path)?;
    stream.finish(from)?;
    Ok(noticed)
}

/// Waits until a path carries data again.
fn used(wan: &Wan, path: usize, before: u64) -> Result<()> {
    wait::until(BACK, || {
        ensure!(wan.carried(path) > before + 20, "the path is not used again");
        Ok(())
    })
}

/// Whatever the scheduler needs of lines on which nothing fails, no subflow is made again more than once in 10 s.
fn healthy(rate: u64) -> Result<()> {
    let wan = two_lines()?;
    let keepers = [&wan.client, &wan.server].into_iter().map(|host| Keeper::start(host, vec![(None, policy())], true));
    let keepers = keepers.collect::<Result<Vec<_>>>()?;
    let call = Call::open(&wan)?;
    let stream = Stream::start(&call.server, &call.client, rate)?;
    joined(&call)?;
    thread::sleep(Duration::from_secs(10));
    let joined = ss::mib(&wan.client)?.get("MPJoinSynAckRx").copied().unwrap_or(0);
    ensure!((1..=3).contains(&joined), "{joined} subflows were made beside the first one");
    stream.finish(&call.server)?;
    keepers.into_iter().try_for_each(Keeper::stop)
}

/// Nothing is received for a tenth of a second now and then: no reason to give a path up.
fn stalls() -> Result<()> {
    for path in 0..2 {
        let wan = two_lines()?;
        let keeper = Keeper::start(&wan.client, vec![(None, policy())], true)?;
        let endpoints = wan.client.ip("mptcp endpoint show")?;
        let call = Call::open(&wan)?;
        let stream = Stream::start(&call.client, &call.server, RATE)?;
        joined(&call)?;
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(500));
            let before = wan.carried(path);
            wan.hold(path, Duration::from_millis(100));
            used(&wan, path, before)?;
        }
        joined(&call)?;
        ensure!(wan.client.ip("mptcp endpoint show")? == endpoints, "an endpoint is away");
        stream.finish(&call.client)?;
        keeper.stop()?;
    }
    Ok(())
}

/// What was taken away is put back as it was when the agent stops, while the path is still down.
fn restored() -> Result<()> {
    let wan = two_lines()?;
    wan.set_flags(1, "backup")?;
    let show = || wan.client.ip("mptcp endpoint show");
    let before = show()?;
    let keeper = Keeper::start(&wan.client, vec![(None, policy())], true)?;
    wan.down(1)?;
    wait::until(SOON, || {
        ensure!(!show()?.contains("10.0.1.1"), "it is there still");
        Ok(())
    })?;
    keeper.stop()?;
    ensure!(show()? == before, "{before} is now {}", show()?);
    Ok(())
}

/// A path's address may have several endpoints, with ports of their own.
fn of_one_address() -> Result<()> {
    let wan = two_lines()?;
    let path = address(Host::Client, Family::V4, 1);
    wan.client.ip(&format!("mptcp endpoint add {path} port 8443 dev {} id 7 signal", device(Host::Client, 1)))?;
    let show = || wan.client.ip("mptcp endpoint show");
    let before = show()?;
    let keeper = Keeper::start(&wan.client, vec![(None, policy())], true)?;
    for is_last in [false, true] {
        wan.down(1)?;
        wait::until(SOON, || {
            ensure!(!show()?.contains(&path.to_string()), "one is there still: {}", show()?);
            Ok(())
        })?;
        if !is_last {
            wan.up(1)?;
            wait::until(SOON, || {
                ensure!(show()? == before, "{before} is now {}", show()?);
                Ok(())
            })?;
        }
    }
    keeper.stop()?;
    ensure!(show()? == before, "{before} is now {}", show()?);
    Ok(())
}

/// As with IPv6, or a lease: the address goes when its link does, so that its endpoint is wanted no more, and the same one comes
/// back later than the link. The next outages of that path and of the other one are handled like the first.
fn returning() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let config = "[mptcp]\nendpoints = [\"west*=ipv4\"]\n";
    let agent = Options { config: config.into(), ..Options::default() }.start(&paths.client)?;
    until_endpoints(&paths, &agent, &[0, 1])?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    until_used(&paths, &mut talk, 1)?;
    paths.down(1)?;
    until_endpoints(&paths, &agent, &[0])?;
    let (near, west) = (address(Host::Client, Family::V4, 1), device(Host::Client, 1));
    paths.client.ip(&format!("addr del {near}/24 dev {west}"))?;
    wait::until(SOON, || {
        let is_told = |line: &str| line.contains(&format!("endpoint {near} ")) && line.contains(": remove");
        ensure!(agent.stderr().lines().any(is_told), "it is wanted still: {}", agent.stderr());
        Ok(())
    })?;
    paths.client.ip(&format!("link set dev {west} up"))?;
    // The kernel tries to join once, as soon as the endpoint is there.
    let far = address(Host::Server, Family::V4, 1);
    paths.client.ip(&format!("route add default via {far} dev {west} onlink table {}", table(1)))?;
    // Longer than from one list of endpoints to the next.
    thread::sleep(Duration::from_millis(1500));
    paths.up(1)?;
    until_endpoints(&paths, &agent, &[0, 1])?;
    until_used(&paths, &mut talk, 1)?;
    for path in [0, 1] {
        paths.down(path)?;
        until_endpoints(&paths, &agent, &[1 - path]).with_context(|| format!("the next outage, of path {path}"))?;
        talk.exchange(50_000, 50_000)?;
        paths.up(path)?;
        until_endpoints(&paths, &agent, &[0, 1])?;
        until_used(&paths, &mut talk, path)?;
    }
    Ok(())
}

/// Waits until there are endpoints of these paths and of no others.
fn until_endpoints(paths: &Paths, agent: &Agent, expected: &[usize]) -> Result<()> {
    wait::until(SOON, || {
        let show = paths.client.ip("mptcp endpoint show")?;
        let has = |path: &usize| show.contains(&format!("{} ", address(Host::Client, Family::V4, *path)));
        let there: Vec<usize> = (0..paths.count()).filter(has).collect();
        ensure!(there == expected, "endpoints of the paths {there:?} instead of {expected:?}; {}", agent.stderr());
        Ok(())
    })
}

/// Waits until a path carries its part of what a client sends.
fn until_used(paths: &Paths, talk: &mut Conversation, path: usize) -> Result<()> {
    wait::until(SOON, || {
        let before = paths.packets()?[path];
        talk.exchange(5_000_000, 0)?;
        let carried = paths.packets()?[path] - before;
        ensure!(carried > 100, "path {path} has carried {carried} packets");
        Ok(())
    })
}

/// A socket that connects while its path is away, and tried again and again, gets through when the path is back.
fn connecting() -> Result<()> {
    let wan = two_lines()?;
    let keeper = Keeper::start(&wan.client, vec![(None, policy())], true)?;
    let call = Call::open(&wan)?;
    let stream = Stream::start(&call.client, &call.server, RATE)?;
    joined(&call)?;
    thread::sleep(Duration::from_millis(700));
    wan.silence(0, [true; 2]);
    let outcome = thread::scope(|scope| {
        let connecting = scope.spawn(|| Call::connect(&wan));
        // It is asked for again after one second and after three.
        thread::sleep(Duration::from_millis(2200));
        let is_early = connecting.is_finished();
        wan.silence(0, [false; 2]);
        (is_early, connecting.join().expect("a thread that does not panic"))
    });
    let (is_early, connected) = outcome;
    connected
        .with_context(|| format!("connecting, {}", if is_early { "aborted" } else { "after the path was back" }))?;
    ensure!(!is_early, "it was connected by a path that is silent");
    stream.finish(&call.client)?;
    keeper.stop()
}

fn congestion() -> Result<()> {
    let wan = two_lines()?;
    let known = wan.client.read("/proc/sys/net/ipv4/tcp_available_congestion_control")?;
    if !known.contains("cubic") {
        return Err(Skip::because("this kernel has no congestion control but reno"));
    }
    let path: IpAddr = address(Host::Client, Family::V4, 1);
    let cubic = Policy { congestion: Some("cubic".into()), ..Policy::default() };
    let keeper = Keeper::start(&wan.client, vec![(Some(path), cubic)], false)?;
    let call = Call::open(&wan)?;
    let stream = Stream::start(&call.client, &call.server, RATE)?;
    joined(&call)?;
    for (path, name) in [(0, " reno "), (1, " cubic ")] {
        let local = address(Host::Client, Family::V4, path).to_string();
        let told = wan.client.output("ss", &["-tinH", "src", &local])?;
        ensure!(told.contains(name), "{local} has not{name}but {told}");
    }
    stream.finish(&call.client)?;
    keeper.stop()
}

/// A subflow's pace holds without a queueing discipline: a connection that would fill both lines fills one and a quarter.
fn pacing() -> Result<()> {
    const PACE: u64 = 625_000;
    let wan = two_lines()?;
    let path: IpAddr = address(Host::Client, Family::V4, 1);
    let slow = Policy { max_pacing_rate: Some(PACE), ..Policy::default() };
    let keeper = Keeper::start(&wan.client, vec![(Some(path), slow)], false)?;
    let call = Call::open(&wan)?;
    let stream = Stream::start(&call.client, &call.server, 4 * RATE)?;
    joined(&call)?;
    thread::sleep(Duration::from_millis(500));
    let before = [0, 1].map(|path| wan.carried(path));
    thread::sleep(Duration::from_secs(2));
    let [first, second] = [0, 1].map(|path| (wan.carried(path) - before[path]) * 1500 / 2);
    ensure!((PACE * 3 / 4..PACE * 5 / 4).contains(&second), "{second} bytes per second instead of {PACE}");
    ensure!(first > 2 * second, "{first} bytes per second on the other path");
    stream.finish(&call.client)?;
    keeper.stop()
}
