//! What is wanted of the host is made so, kept so, and given back.

mod churn;
mod given_back;
mod restart;
mod state_file;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::{Family, Host, Paths, Plan, address};
use mpsec_tests::trial::{Skip, trial};
use mpsec_tests::{link, need, ss, wait};

const LIMIT: Duration = Duration::from_secs(90);
/// How soon something is as it is wanted after something on the host changed.
const SOON: Duration = Duration::from_secs(5);
/// How soon the agent finds out by itself what nobody told it of.
const BY_ITSELF: Duration = Duration::from_secs(20);
const FULLMESH: &str = "[mptcp]\npath_manager = \"fullmesh\"\nendpoints = [\"west*=ipv4\"]\n";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("act::an_agent_that_is_asked_for_nothing_changes_nothing", LIMIT, nothing),
        trial("act::connections_get_the_paths_that_the_file_asks_for", LIMIT, fullmesh),
        trial("act::endpoints_follow_links_and_addresses", LIMIT, follow),
        trial("act::what_others_take_away_comes_back", LIMIT, keeps),
        trial("act::an_address_is_used_when_it_is_known_to_be_unique", LIMIT, duplicate_detection),
        trial("act::routes_lead_each_address_out_by_its_own_path", LIMIT, routes),
        trial("act::what_was_changed_outlives_a_crash_and_is_given_back", LIMIT, state_file::crash),
        trial("act::changes_that_a_crash_cut_short_are_found_out", LIMIT, state_file::cut_short),
        trial("act::what_is_in_no_state_file_is_given_back_too", LIMIT, given_back::unlisted),
        trial("act::a_stop_hands_sockets_back_whatever_else_is_refused", LIMIT, given_back::refused_at_last),
        trial("act::a_stop_gives_back_without_room_to_write", LIMIT, state_file::stopped_without_room),
        trial("act::a_release_gives_back_without_room_to_write", LIMIT, state_file::released_without_room),
        trial("act::a_release_gives_back_on_a_read_only_disk", LIMIT, state_file::read_only),
        trial("act::what_was_begun_and_not_done_is_somebody_elses_later", LIMIT, state_file::somebody_elses),
        trial("act::what_was_away_when_the_agent_was_killed_comes_back", LIMIT, state_file::killed_while_away),
        trial("act::what_needs_a_restart_is_told_and_not_taken_over", LIMIT, restart::told),
        trial("act::what_is_wanted_is_in_force_before_the_agent_is_ready", LIMIT, restart::ready),
        trial("act::addresses_that_change_all_the_time_can_be_looked_at", LIMIT, churn::addresses),
        trial("act::what_belongs_to_others_is_left_alone", LIMIT, foreign),
        trial("act::what_this_kernel_lacks_is_refused_with_the_reason", LIMIT, refused),
        trial("act::a_backup_carries_nothing_until_it_has_to", LIMIT, backup),
        trial("act::new_subflows_get_what_their_path_is_given", LIMIT, by_path),
        trial("act::a_link_that_is_switched_off_is_told_by_connection", LIMIT, effects),
        trial("act::what_the_kernel_refuses_is_undone_and_told", LIMIT, undone),
        trial("act::ndiffports_makes_subflows_that_carry_bytes", LIMIT, ndiffports),
    ]
}

fn start(netns: &Arc<Netns>, config: &str) -> Result<Agent> {
    Options { config: config.into(), ..Options::default() }.start(netns)
}

fn start_with_state(netns: &Arc<Netns>, config: &str, state: &Path) -> Result<Agent> {
    Options { config: config.into(), state: Some(state.to_owned()), ..Options::default() }.start(netns)
}

/// The endpoints, as iproute2 shows them, without the kernel's identifiers.
fn endpoints(netns: &Netns) -> Result<Vec<String>> {
    let text = netns.ip("mptcp endpoint show")?;
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let id = words.iter().position(|word| *word == "id").map_or(0..0, |at| at..at + 2);
        let kept = words.iter().enumerate().filter(|(at, _)| !id.contains(at)).map(|(_, word)| *word);
        kept.collect::<Vec<_>>().join(" ")
    };
    let mut all: Vec<String> = text.lines().map(line).collect();
    all.sort();
    Ok(all)
}

fn until_endpoints(agent: &Agent, netns: &Netns, limit: Duration, expected: &[&str]) -> Result<()> {
    wait::until(limit, || {
        let there = endpoints(netns)?;
        ensure!(there == expected, "{there:?} instead of {expected:?}; {}", agent.stderr());
        Ok(())
    })
}

/// What a namespace looks like, in all that MPSec may change.
fn state(netns: &Netns) -> Result<String> {
    let mut text = String::new();
    for command in ["mptcp endpoint show", "mptcp limits show", "-4 rule", "-6 rule", "link show up"] {
        text += &netns.ip(command)?;
    }
    let mut routes: Vec<String> = netns.ip("route show table all")?.lines().map(str::to_owned).collect();
    routes.sort();
    for name in [
        "net/mptcp/enabled",
        "net/mptcp/stale_loss_cnt",
        "net/ipv4/tcp_reordering",
        "net/mptcp/path_manager",
        "net/mptcp/pm_type",
    ] {
        let file = format!("/proc/sys/{name}");
        text += &netns.run(|| fs::read_to_string(&file)).unwrap_or_default();
    }
    Ok(text + &routes.join("\n"))
}

fn nothing() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let before = state(&paths.client)?;
    let mut agent = start(&paths.client, "")?;
    agent.scrape()?;
    ensure!(state(&paths.client)? == before, "an agent that was asked for nothing changed something");
    ensure!(!agent.folder().join("state").exists(), "it keeps a state of nothing");
    agent.stop(libc::SIGTERM)?;
    ensure!(state(&paths.client)? == before, "its end changed something");
    Ok(())
}

fn fullmesh() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let agent = start(&paths.client, FULLMESH)?;
    let wanted = ["10.0.0.1 subflow fullmesh dev west0", "10.0.1.1 subflow fullmesh dev west1"];
    until_endpoints(&agent, &paths.client, SOON, &wanted)?;
    let limits = paths.client.ip("mptcp limits show")?;
    ensure!(limits.contains("add_addr_accepted 8 subflows 8"), "{limits}");
    let mut talk = Conversation::open(&paths, Family::V4)?;
    wait::until(SOON, || {
        let subflows = ss::subflows(&paths.client)?.len();
        ensure!(subflows == 2, "{subflows} subflows");
        Ok(())
    })?;
    let before = paths.packets()?;
    talk.exchange(20_000_000, 0)?;
    let carried: Vec<u64> = paths.packets()?.iter().zip(before).map(|(after, before)| after - before).collect();
    ensure!(carried.iter().all(|packets| *packets > 1000), "packets by path: {carried:?}");
    Ok(())
}

fn follow() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let agent = start(&paths.client, FULLMESH)?;
    let [first, second] = ["10.0.0.1 subflow fullmesh dev west0", "10.0.1.1 subflow fullmesh dev west1"];
    until_endpoints(&agent, &paths.client, SOON, &[first, second])?;
    paths.down(1)?;
    until_endpoints(&agent, &paths.client, SOON, &[first])?;
    paths.up(1)?;
    until_endpoints(&agent, &paths.client, SOON, &[first, second])?;
    // As when a lease ends and another one begins.
    paths.client.ip("addr del 10.0.1.1/24 dev west1")?;
    until_endpoints(&agent, &paths.client, SOON, &[first])?;
    paths.client.ip("addr add 10.0.1.77/24 dev west1")?;
    until_endpoints(&agent, &paths.client, SOON, &[first, "10.0.1.77 subflow fullmesh dev west1"])?;
    // As when a modem is pulled out and put in again.
    paths.client.ip("link del west1")?;
    until_endpoints(&agent, &paths.client, SOON, &[first])
}

fn keeps() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let config = format!("{FULLMESH}sysctls = [\"stale_loss_cnt=2\"]\n");
    let agent = start(&paths.client, &config)?;
    let wanted = ["10.0.0.1 subflow fullmesh dev west0", "10.0.1.1 subflow fullmesh dev west1"];
    until_endpoints(&agent, &paths.client, SOON, &wanted)?;
    paths.client.ip("mptcp endpoint flush")?;
    paths.client.ip("mptcp limits set subflows 0 add_addr_accepted 0")?;
    paths.client.sysctl("net/mptcp/stale_loss_cnt", "9")?;
    until_endpoints(&agent, &paths.client, BY_ITSELF, &wanted)?;
    let limits = paths.client.ip("mptcp limits show")?;
    ensure!(limits.contains("subflows 8"), "{limits}");
    let losses = paths.client.run(|| fs::read_to_string("/proc/sys/net/mptcp/stale_loss_cnt"))?;
    ensure!(losses.trim() == "2", "stale_loss_cnt is {losses}");
    Ok(())
}

fn duplicate_detection() -> Result<()> {
    need::mpsec()?;
    need::mptcp()?;
    // Where others are asked: the laboratory's wires have no neighbour discovery.
    let hosts = [Arc::new(Netns::new()?), Arc::new(Netns::new()?)];
    let client = &hosts[0];
    client.enable_ipv6()?;
    link::veth((client, "west1"), (&hosts[1], "east1"))?;
    client.ip("link set dev west1 arp on")?;
    client.sysctl("net/ipv6/conf/west1/accept_dad", "1")?;
    client.sysctl("net/ipv6/conf/west1/dad_transmits", "3")?;
    let agent = start(client, "[mptcp]\npath_manager = \"fullmesh\"\nendpoints = [\"west1=ipv6\"]\n")?;
    client.ip("addr add 2001:db8:1::1/64 dev west1")?;
    wait::until(SOON, || {
        let said = agent.stderr();
        ensure!(said.contains("2001:db8:1::1 on west1: duplicate address detection has not ended"), "{said}");
        Ok(())
    })?;
    ensure!(endpoints(client)?.is_empty(), "it was used too early");
    until_endpoints(&agent, client, BY_ITSELF, &["2001:db8:1::1 subflow fullmesh dev west1"])
}

fn routes() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let client = &paths.client;
    // As a host is that has got two addresses, and one default route a router.
    for path in 0..2 {
        for (version, family) in [("-4", Family::V4), ("-6", Family::V6)] {
            client.ip(&format!("{version} rule del lookup {}", 100 + path))?;
            client.ip(&format!("{version} route flush table {}", 100 + path))?;
            let far = address(Host::Server, family, path);
            client.ip(&format!("{version} route add default via {far} dev west{path} metric {}", 100 + path))?;
        }
    }
    let lan = |name: &str, number: u8| -> Result<()> {
        client.ip(&format!("link add {name} type veth peer name far-{name}"))?;
        let ends = [name.to_owned(), format!("far-{name}")];
        // Without addresses of their own making, which come some time later.
        ends.iter().try_for_each(|end| client.ip(&format!("link set {end} addrgenmode none")).map(drop))?;
        client.ip(&format!("addr add 192.0.{number}.1/24 dev {name}"))?;
        client.ip(&format!("addr add 2001:db8:{number}::1/64 dev {name} nodad"))?;
        ends.iter().try_for_each(|end| client.ip(&format!("link set {end} up")).map(drop))
    };
    lan("lan2", 2)?;
    let before = state(client)?;
    let config = "[mptcp]\npath_manager = \"fullmesh\"\nendpoints = [\"west*\"]\nmanage_routes = true\n";
    let mut agent = start(client, config)?;
    // What an uplink's address answers to a local network stays inside.
    let stays_inside = |number: u8| {
        wait::until(SOON, || {
            for (family, far) in
                [(Family::V4, format!("192.0.{number}.7")), (Family::V6, format!("2001:db8:{number}::7"))]
            {
                let from = address(Host::Client, family, 1);
                let route = client.ip(&format!("route get {far} from {from}"))?;
                ensure!(route.contains(&format!("dev lan{number} table 48")), "to {far} from {from}: {route}");
            }
            Ok(())
        })
    };
    stays_inside(2)?;
    lan("lan3", 3)?;
    stays_inside(3)?;
    client.ip("link del lan3")?;
    wait::until(SOON, || {
        for path in 0..2 {
            for (family, far) in [(Family::V4, "198.51.100.1"), (Family::V6, "2001:db8:ffff::1")] {
                let from = address(Host::Client, family, path);
                let route = client.ip(&format!("route get {far} from {from}"))?;
                ensure!(route.contains(&format!("dev west{path}")), "from {from}: {route}; {}", agent.stderr());
            }
        }
        Ok(())
    })?;
    let rules = client.ip("-d rule")?;
    ensure!(rules.matches("proto 213").count() == 2, "{rules}");
    // A router that changes, as by DHCP.
    client.ip("route del default dev west1")?;
    client.ip("route add default via 10.0.1.9 dev west1 metric 101")?;
    wait::until(SOON, || {
        let route = client.ip("route get 198.51.100.1 from 10.0.1.1")?;
        ensure!(route.contains("via 10.0.1.9"), "{route}");
        Ok(())
    })?;
    client.ip("route del default via 10.0.1.9 dev west1")?;
    client.ip("route add default via 10.0.1.2 dev west1 metric 101")?;
    fs::write(agent.folder().join("mpsec.toml"), "")?;
    agent.signal(libc::SIGHUP)?;
    wait::until(SOON, || {
        let now = state(client)?;
        ensure!(now == before, "not given back:\n{now}\ninstead of\n{before}");
        Ok(())
    })?;
    agent.stop(libc::SIGTERM).map(drop)
}

fn foreign() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    paths.client.ip("mptcp endpoint add 10.0.1.1 signal")?;
    let agent = start(&paths.client, FULLMESH)?;
    wait::until(SOON, || {
        let said = agent.stderr();
        ensure!(said.contains("which is not MPSec's") && said.contains("ip mptcp endpoint delete id 1"), "{said}");
        Ok(())
    })?;
    ensure!(endpoints(&paths.client)? == ["10.0.1.1 signal"], "{:?}", endpoints(&paths.client)?);
    // The operator decides.
    paths.client.ip("mptcp endpoint delete id 1")?;
    let wanted = ["10.0.0.1 subflow fullmesh dev west0", "10.0.1.1 subflow fullmesh dev west1"];
    until_endpoints(&agent, &paths.client, BY_ITSELF, &wanted)
}

fn refused() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let before = state(&paths.client)?;
    let agent = start(&paths.client, &format!("{FULLMESH}scheduler = \"redundant\"\n"))?;
    wait::until(SOON, || {
        let said = agent.stderr();
        // The second is of kernels before 6.6, which have one scheduler and no name for it.
        let named = ["no packet scheduler `redundant`", "offers no choice, so no `redundant`"]
            .iter()
            .any(|text| said.contains(text));
        ensure!(named && said.contains("never sends data on two"), "{said}");
        Ok(())
    })?;
    ensure!(state(&paths.client)? == before, "something was changed all the same");
    Ok(())
}

fn ndiffports() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(1))?;
    let config = "[mptcp]\npath_manager = \"ndiffports\"\nndiffports = 4\n";
    // Before Linux 6.16 it has a number.
    let has = |name: &str| paths.client.run(|| need::file(name).map(|()| name.to_owned()));
    let (file, userspace) = match has("/proc/sys/net/mptcp/path_manager") {
        Ok(file) => (file, "userspace"),
        Err(_) => (has("/proc/sys/net/mptcp/pm_type")?, "1"),
    };
    let before = state(&paths.client)?;
    let mut agent = start(&paths.client, config)?;
    let manager = || paths.client.run(|| fs::read_to_string(&file));
    wait::until(SOON, || {
        ensure!(manager()?.trim() == userspace, "the path manager is {}; {}", manager()?, agent.stderr());
        Ok(())
    })?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    wait::until(SOON, || {
        let subflows = ss::subflows(&paths.client)?.len();
        ensure!(subflows == 4, "{subflows} subflows; {}", agent.stderr());
        Ok(())
    })?;
    // The scheduler takes the subflow that is done first: one may have to wait until the others are busy.
    wait::until(SOON, || {
        talk.exchange(40_000_000, 0)?;
        let sent: Vec<u64> =
            ss::subflows(&paths.client)?.iter().map(|subflow| subflow.number("bytes_acked")).collect::<Result<_>>()?;
        ensure!(sent.len() == 4 && sent.iter().all(|bytes| *bytes > 10_000), "bytes by subflow: {sent:?}");
        Ok(())
    })?;
    agent.stop(libc::SIGTERM)?;
    ensure!(state(&paths.client)? == before, "it was not handed back: {}", state(&paths.client)?);
    Ok(())
}

/// Runs a command beside the agent, and gives its exit code with what it prints.
fn mpsec(agent: &Agent, words: &[&str]) -> Result<(i32, String)> {
    let program = need::mpsec()?;
    let socket = agent.folder().join("mpsec.sock");
    let run = || Command::new(&program).args(words).arg("--control-socket").arg(&socket).output();
    let output = agent.netns().run(run)?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code().context("a signal ended it")?, String::from_utf8(text)?))
}

fn backup() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let config = "[mptcp]\npath_manager = \"backup\"\nendpoints = [\"west0=ipv4\", \"west1=ipv4\"]\n\
                  failover = \"off\"\n";
    let agent = start(&paths.client, config)?;
    let wanted = ["10.0.0.1 subflow dev west0", "10.0.1.1 subflow backup dev west1"];
    until_endpoints(&agent, &paths.client, SOON, &wanted)?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    wait::until(SOON, || {
        let subflows = ss::subflows(&paths.client)?.len();
        ensure!(subflows == 2, "{subflows} subflows");
        Ok(())
    })?;
    let before = paths.packets()?;
    talk.exchange(10_000_000, 0)?;
    let carried: Vec<u64> = paths.packets()?.iter().zip(&before).map(|(after, before)| after - before).collect();
    ensure!(carried[0] > 5000 && carried[1] < 50, "packets by path: {carried:?}");
    paths.down(0)?;
    let before = paths.packets()?;
    talk.exchange(10_000_000, 0)?;
    let carried: Vec<u64> = paths.packets()?.iter().zip(&before).map(|(after, before)| after - before).collect();
    ensure!(carried[1] > 5000, "packets by path without the first: {carried:?}");
    // Which one is first does not change because it is down.
    let there = endpoints(&paths.client)?;
    ensure!(there.contains(&wanted[1].to_owned()), "{there:?}");
    Ok(())
}

fn by_path() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let known = paths.client.read("/proc/sys/net/ipv4/tcp_available_congestion_control")?;
    if !known.contains("cubic") {
        return Err(Skip::because("this kernel has no congestion control but reno"));
    }
    let config = format!(
        "{FULLMESH}path_congestion_control = [\"west1=cubic\"]\npath_max_rate = [\"west1=8mbit\"]\nfailover = \"off\"\n"
    );
    let agent = start(&paths.client, &config)?;
    let wanted = ["10.0.0.1 subflow fullmesh dev west0", "10.0.1.1 subflow fullmesh dev west1"];
    until_endpoints(&agent, &paths.client, SOON, &wanted)?;
    let _talk = Conversation::open(&paths, Family::V4)?;
    wait::until(SOON, || {
        for (path, name) in [(0, " reno "), (1, " cubic ")] {
            let local = address(Host::Client, Family::V4, path).to_string();
            let told = paths.client.output("ss", &["-tinH", "src", &local])?;
            ensure!(told.contains(name), "{local} has not{name}but {told}; {}", agent.stderr());
        }
        Ok(())
    })
}

fn effects() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let agent = start(&paths.client, FULLMESH)?;
    let wanted = ["10.0.0.1 subflow fullmesh dev west0", "10.0.1.1 subflow fullmesh dev west1"];
    until_endpoints(&agent, &paths.client, SOON, &wanted)?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.exchange(1_000_000, 1_000_000)?;
    wait::until(SOON, || {
        let (code, text) = mpsec(&agent, &["link", "down", "west1", "--dry-run"])?;
        ensure!(code == 0 && text.contains("1 of 2 subflows: goes on over west0"), "{code}: {text}");
        Ok(())
    })?;
    let (code, text) = mpsec(&agent, &["link", "down", "west1"])?;
    ensure!(code == 0 && text.contains("interface west1: up -> down"), "{code}: {text}");
    talk.exchange(1_000_000, 1_000_000)?;
    let (_, text) = mpsec(&agent, &["link", "down", "west0", "--dry-run"])?;
    ensure!(text.contains("loses its only path"), "{text}");
    let (code, text) = mpsec(&agent, &["release"])?;
    ensure!(code == 0 && text.contains("interface west1: down -> up"), "{code}: {text}");
    ensure!(endpoints(&paths.client)?.is_empty(), "{:?}", endpoints(&paths.client)?);
    // Nothing is changed any more until it is asked for, not even by a new look at the file.
    agent.signal(libc::SIGHUP)?;
    wait::throughout(Duration::from_secs(2), || {
        ensure!(endpoints(&paths.client)?.is_empty(), "{:?}", endpoints(&paths.client)?);
        Ok(())
    })?;
    let (code, text) = mpsec(&agent, &["apply"])?;
    ensure!(code == 0, "{code}: {text}");
    Ok(())
}

/// The kernel takes the limits, and refuses an endpoint: with a port, on an address where another one listens on it.
fn undone() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let agent = start(&paths.client, "")?;
    let before = state(&paths.client)?;
    let _taken = paths.client.run(|| std::net::TcpListener::bind("10.0.1.1:4000"))?;
    let words =
        ["apply", "--set", "mptcp.path_manager=signal", "--set", "mptcp.endpoints=10.0.0.1,10.0.1.1=signal+port:4000"];
    let (code, text) = mpsec(&agent, &words)?;
    ensure!(code == 1, "{code}: {text}");
    for part in
        ["Failed", "10.0.1.1 port 4000", "Address already in use", "ip mptcp endpoint add", "Made and taken back"]
    {
        ensure!(text.contains(part), "no {part:?} in {text}");
    }
    ensure!(state(&paths.client)? == before, "not undone: {}", state(&paths.client)?);
    let (code, text) = mpsec(&agent, &["plan", "--check"])?;
    ensure!(code == 0 && text.contains("Nothing to change"), "what failed is wanted all the same: {text}");
    Ok(())
}
