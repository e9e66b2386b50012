//! Subflows that come and go, peers without MPTCP, and many connections: what the other trials rely on.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::crowd::{Burst, Crowd};
use mpsec_tests::mptcp::{Conversation, Protocol};
use mpsec_tests::paths::{Family, Host, Plan};
use mpsec_tests::ss;
use mpsec_tests::trial::trial;
use mpsec_tests::{paths::Paths, wait};

use super::{Lab, all_agree};

const LIMIT: Duration = Duration::from_secs(60);
/// Bytes per second of a steady conversation.
const RATE: u64 = 2_000_000;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("lab::an_endpoint_comes_and_goes", LIMIT, endpoint),
        trial("lab::a_link_goes_down_and_comes_back", LIMIT, link),
        trial("lab::a_path_that_drops_silently_is_left", LIMIT, silent),
        trial("lab::an_announced_address_is_joined", LIMIT, announced),
        trial("lab::a_backup_waits", LIMIT, backup),
        trial("lab::a_reset_ends_every_subflow", LIMIT, reset),
        trial("lab::a_peer_without_mptcp_is_talked_to", LIMIT, fallback),
        trial("lab::a_burst_is_made_and_seen", LIMIT, burst),
        trial("lab::a_crowd_stays_and_goes", LIMIT, crowd),
    ]
}

fn talking(paths: usize) -> Result<(Lab, Conversation)> {
    let lab = Lab::new(Plan::wires(paths))?;
    let talk = Conversation::open(&lab.paths, Family::V4)?;
    Ok((lab, talk))
}

fn endpoint() -> Result<()> {
    let (lab, mut talk) = talking(2)?;
    talk.exchange(100_000, 100_000)?;
    lab.paths.add_endpoint(1, Family::V4, "")?;
    talk.joined(2)?;
    talk.exchange(4_000_000, 0)?;
    let [client, _] = all_agree(&lab, &talk, true)?;
    ensure!(client.path(1).1.payload > 0, "{client:?}");
    lab.paths.remove_endpoint(1, Family::V4)?;
    talk.joined(1)?;
    let before = lab.truth(Host::Client)?.path(1).1;
    talk.exchange(1_000_000, 0)?;
    let after = lab.truth(Host::Client)?;
    ensure!(after.path(1).1 == before, "the path still carries");
    ensure!(after.paths[1].values().all(|flow| flow.fins > 0), "{after:?}");
    talk.close()
}

fn link() -> Result<()> {
    let (lab, mut talk) = talking(2)?;
    lab.paths.add_endpoints(Family::V4)?;
    talk.joined(2)?;
    thread::scope(|scope| {
        let steady = scope.spawn(|| talk.exchange_at(2 * RATE, 0, Some(RATE)));
        thread::sleep(Duration::from_millis(400));
        lab.paths.down(1)?;
        thread::sleep(Duration::from_millis(400));
        lab.paths.up(1)?;
        steady.join().expect("no panic")
    })?;
    let before = lab.paths.packets()?[1];
    talk.exchange(4_000_000, 0)?;
    ensure!(lab.paths.packets()?[1] > before, "the path does not carry again");
    talk.close()
}

fn silent() -> Result<()> {
    let (lab, mut talk) = talking(2)?;
    lab.paths.add_endpoints(Family::V4)?;
    talk.joined(2)?;
    talk.exchange(1_000_000, 0)?;
    lab.paths.drop_arriving(Host::Server, 1, "")?;
    lab.paths.drop_arriving(Host::Client, 1, "")?;
    talk.exchange(2_000_000, 0)?;
    lab.paths.let_through(Host::Server, 1)?;
    lab.paths.let_through(Host::Client, 1)?;
    // What MPTCP gave to the silent path leaves at TCP's next try, which may be a second away.
    ss::wait_acknowledged(&lab.paths.client)?;
    let [client, server] = lab.truths()?;
    client.mirrors(&server)?;
    // What MPTCP sent again because the path was silent is more than TCP's repetitions.
    client.agrees_with(&lab.paths, &talk.client, talk.info()?[0])
}

fn announced() -> Result<()> {
    let (lab, mut talk) = talking(2)?;
    talk.joined(1)?;
    lab.paths.announce(1, Family::V4)?;
    talk.joined(2)?;
    talk.exchange(1_000_000, 0)?;
    all_agree(&lab, &talk, true)?;
    talk.close()
}

fn backup() -> Result<()> {
    let (lab, mut talk) = talking(2)?;
    lab.paths.add_endpoint(1, Family::V4, "backup")?;
    talk.joined(2)?;
    talk.exchange(4_000_000, 0)?;
    let waiting = lab.truth(Host::Client)?.path(1).1.payload;
    // MPTCP may say again on any subflow what it waits for.
    ensure!(waiting < 40_000, "a backup carried {waiting} bytes");
    let flags: Vec<_> =
        ss::subflows(&lab.paths.client)?.iter().filter_map(|one| one.word("flags").map(str::to_owned)).collect();
    ensure!(flags.iter().filter(|flags| flags.contains('b')).count() == 1, "{flags:?}");
    lab.paths.set_backup(1, Family::V4, false)?;
    talk.exchange(8_000_000, 0)?;
    ensure!(lab.truth(Host::Client)?.path(1).1.payload > 0, "a backup no more carries nothing");
    talk.close()
}

fn reset() -> Result<()> {
    let (lab, mut talk) = talking(2)?;
    lab.paths.add_endpoints(Family::V4)?;
    talk.joined(2)?;
    talk.exchange(1_000_000, 0)?;
    talk.reset()?;
    wait::until(Duration::from_secs(5), || {
        let left = ss::subflows(&lab.paths.client)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    let truth = lab.truth(Host::Client)?;
    ensure!(truth.flows().all(|(_, _, flow)| flow.resets > 0), "{truth:?}");
    Ok(())
}

fn fallback() -> Result<()> {
    for (protocols, counter) in
        [([Protocol::Mptcp, Protocol::Tcp], "MPCapableFallbackSYNACK"), ([Protocol::Tcp, Protocol::Mptcp], "")]
    {
        let lab = Lab::new(Plan::wires(2))?;
        lab.paths.add_endpoints(Family::V4)?;
        let mut talk = Conversation::between(&lab.paths, Family::V4, protocols)?;
        talk.exchange(1_000_000, 1_000_000)?;
        let [client, server] = talk.info()?;
        ensure!(client.is_none_or(|info| info.fallback()) && server.is_none(), "{client:?}, {server:?}");
        let mib = ss::mib(&lab.paths.client)?;
        ensure!(counter.is_empty() || mib.get(counter) == Some(&1), "{mib:?}");
        let truth = lab.truth(Host::Client)?;
        truth.agrees_with(&lab.paths, &talk.client, None)?;
        ensure!(truth.paths[1].is_empty(), "{truth:?}");
        talk.close()?;
    }
    Ok(())
}

fn burst() -> Result<()> {
    let lab = Lab::new(Plan::wires(1))?;
    let burst = Burst { family: Family::V4, connections: 1000, per_second: 5000, bytes: 100 };
    let outcome = burst.run(&lab.paths)?;
    let truth = lab.truth(Host::Client)?;
    let seen = truth.flows().filter(|(_, _, flow)| flow.answered && flow.fins > 1).count() as u64;
    ensure!(seen == outcome.done, "{outcome:?}: {seen} seen");
    ensure!(truth.total().1.payload - truth.total().1.retransmitted == 100 * outcome.done, "{:?}", truth.total());
    lab.devices_agree()
}

fn crowd() -> Result<()> {
    let paths = Paths::new(Plan::wires(2))?;
    paths.add_endpoints(Family::V4)?;
    let mut crowd = Crowd::open(&paths, Family::V4, 500, 2)?;
    ensure!(ss::subflows(&paths.server)?.len() == 1000, "{} subflows", ss::subflows(&paths.server)?.len());
    crowd.shrink(200);
    wait::until(Duration::from_secs(10), || {
        let left = ss::subflows(&paths.server)?.iter().filter(|one| one.state == "ESTAB").count();
        ensure!(left == 400, "{left} subflows");
        Ok(())
    })
}
