//! What the agent keeps of subflows that come and go, of connections older than itself, and of many at once.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::crowd::{Burst, Crowd};
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::paths::{Family, Host, Paths, Plan, device};
use mpsec_tests::trial::trial;
use mpsec_tests::wire::Sum;
use mpsec_tests::{need, ss, wait};

use crate::lab::Lab;
use crate::mptcp_view::{PathView, SHOWN, Stage, close_to, list, only_rises, view};

const LIMIT: Duration = Duration::from_secs(60);
/// Bytes per second of a steady conversation, and how many it has.
const RATE: u64 = 2_000_000;
const STEADY: u64 = 5_000_000;
/// How often the agent is asked meanwhile, and how often it has to have answered.
const SAMPLE: Duration = Duration::from_millis(50);
const SAMPLES: u32 = 10;
/// Between one change and the next.
const STEP: Duration = Duration::from_millis(500);
/// How much slower all of it goes where an answer takes a second.
const EMULATED: u32 = 8;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mptcp_life::endpoints_come_and_go", LIMIT, || churn(endpoints, true)),
        trial("mptcp_life::a_link_goes_down_and_comes_back", LIMIT, || churn(link, false)),
        trial("mptcp_life::a_path_is_silent_for_a_while", LIMIT, || churn(silence, false)),
        trial("mptcp_life::a_reset_is_told_from_an_end", LIMIT, endings),
        trial("mptcp_life::an_older_connection_is_adopted", LIMIT, || adopted(false)),
        trial("mptcp_life::a_connection_of_an_earlier_agent_is_adopted", LIMIT, || adopted(true)),
        trial("mptcp_life::a_burst_is_accounted_for", LIMIT, burst),
        trial("mptcp_life::what_finds_no_room_is_lost_once", LIMIT, no_room),
        trial("mptcp_life::a_crowd_is_shown_and_let_go", Duration::from_secs(120), crowd),
    ]
}

fn slower() -> u32 {
    if need::is_emulated() { EMULATED } else { 1 }
}

fn endpoints(paths: &Paths) -> Result<()> {
    for _ in 0..2 {
        paths.add_endpoint(1, Family::V4, "")?;
        thread::sleep(slower() * STEP);
        paths.remove_endpoint(1, Family::V4)?;
        thread::sleep(slower() * STEP / 4);
    }
    Ok(())
}

fn link(paths: &Paths) -> Result<()> {
    paths.add_endpoint(1, Family::V4, "")?;
    thread::sleep(slower() * STEP);
    paths.down(1)?;
    thread::sleep(slower() * STEP);
    paths.up(1)
}

fn silence(paths: &Paths) -> Result<()> {
    paths.add_endpoint(1, Family::V4, "")?;
    thread::sleep(slower() * STEP);
    paths.drop_arriving(Host::Server, 1, "")?;
    thread::sleep(slower() * STEP);
    paths.let_through(Host::Server, 1)
}

/// Something happens to path 1 amid a steady conversation. No counter goes backwards meanwhile, and in the end the client's
/// paths have all that ever crossed them. `stays` says that no packet of a subflow takes a way that is not its path's, as
/// happens when a device is down or a path repeats what got lost.
fn churn(happens: fn(&Paths) -> Result<()>, stays: bool) -> Result<()> {
    let stage = Stage::new(Plan::wires(2))?;
    let mut talk = Conversation::open(&stage.lab.paths, Family::V4)?;
    let agent = stage.agent(Host::Client);
    let slower = slower();
    thread::scope(|scope| {
        let steady = scope.spawn(|| talk.exchange_at(STEADY, STEADY / 10, Some(RATE / u64::from(slower))));
        let events = scope.spawn(|| happens(&stage.lab.paths));
        let (mut last, mut samples, start) = (agent.scrape()?, 0, Instant::now());
        while !steady.is_finished() {
            thread::sleep(SAMPLE);
            let now = agent.scrape()?;
            only_rises(&last, &now).with_context(|| format!("after {} ms", start.elapsed().as_millis()))?;
            (last, samples) = (now, samples + 1);
        }
        events.join().expect("no panic")?;
        steady.join().expect("no panic")?;
        ensure!(samples > SAMPLES, "{samples} samples");
        Ok(())
    })?;
    let truth = stage.lab.truth(Host::Client)?;
    let opened = truth.flows().filter(|(_, _, flow)| flow.answered).count() as u64;
    wait::until(SHOWN, || {
        let view = view(agent)?;
        let of = |path| view.path(&device(Host::Client, path), Family::V4);
        let said: Vec<PathView> = (0..2).map(of).collect::<Result<_>>()?;
        ensure!(said.iter().map(|path| path.opened).sum::<u64>() == opened, "{opened} were opened: {said:#?}");
        let missed = 3 * view.total("handshakes_lost")? + 4 * opened;
        if stays {
            let ended = opened - 1;
            ensure!(said[1].closed.values().sum::<u64>() == ended, "{ended} have ended: {said:#?}");
            for (path, said) in said.iter().enumerate() {
                let (rx, tx) = truth.path(path);
                close_to(said.rx, rx, missed)
                    .and(close_to(said.tx, tx, missed))
                    .with_context(|| format!("path {path}"))?;
            }
        }
        let mut all = Sum::default();
        said.iter().for_each(|path| all += path.tx);
        let is = truth.total().1;
        if !stays {
            // TCP counts what it sends again while the device is down, too, which no wire sees.
            ensure!(all.retransmitted >= is.retransmitted, "{all:?}, {is:?}");
            all.retransmitted = is.retransmitted;
        }
        close_to(all, is, missed)
    })
}

/// The end of a connection by a FIN and by a reset are two reasons.
fn endings() -> Result<()> {
    let stage = Stage::new(Plan::wires(2))?;
    stage.lab.paths.add_endpoints(Family::V4)?;
    let mut reasons = Vec::new();
    for end in [Conversation::close, Conversation::reset] {
        let mut talk = Conversation::open(&stage.lab.paths, Family::V4)?;
        talk.joined(2)?;
        talk.exchange(100_000, 100_000)?;
        end(talk)?;
        let before = reasons.len() as u64;
        let closed = wait::until(SHOWN, || {
            let path = view(stage.agent(Host::Client))?.path("west1", Family::V4)?;
            ensure!(path.closed.values().sum::<u64>() == before + 1, "{path:?}");
            Ok(path.closed)
        })?;
        reasons.push(closed);
    }
    let had = |reason: &String| reasons[0].get(reason).copied().unwrap_or(0);
    let has_own = reasons[1].iter().any(|(reason, count)| *count == 1 && had(reason) == 0);
    ensure!(has_own, "the reset has no reason of its own: {reasons:?}");
    stage.says_what_is_true(Family::V4, 2)
}

/// An agent that comes late, and one that comes again, count from the moment that they show the connection: what crosses
/// between two quiet moments after that is exact, also when some of it is lost and sent again.
/// `was_seen`: by an agent before, which has asked its sockets for callbacks. They go on when that one is gone.
fn adopted(was_seen: bool) -> Result<()> {
    need::mpsec()?;
    let lab = Lab::new(Plan::wires(2))?;
    lab.paths.add_endpoints(Family::V4)?;
    let mut earlier = if was_seen { Some(Agent::start(&lab.paths.client)?) } else { None };
    let mut talk = Conversation::open(&lab.paths, Family::V4)?;
    talk.joined(2)?;
    let token = talk.token()?;
    if let Some(agent) = &mut earlier {
        talk.exchange(1_000_000, 1_000_000)?;
        lose_some(&lab.paths, &mut talk)?;
        agent.stop(libc::SIGTERM)?;
    }
    for _ in 0..2 {
        talk.exchange(1_000_000, 1_000_000)?;
        ss::wait_acknowledged(&lab.paths.client)?;
        let mut agent = Agent::start(&lab.paths.client)?;
        view(&agent)?;
        wait::until(SHOWN, || {
            let view = view(&agent)?;
            let connection = view.connection(token)?;
            ensure!(connection["role"] == "client", "{connection:#}");
            ensure!(list(&connection["subflows"])?.len() == 2, "{connection:#}");
            Ok(())
        })?;
        let (before, then) = (lab.truth(Host::Client)?, view(&agent)?);
        talk.exchange(2_000_000, 1_000_000)?;
        lose_some(&lab.paths, &mut talk)?;
        ss::wait_acknowledged(&lab.paths.client)?;
        let after = lab.truth(Host::Client)?;
        let mut again = 0;
        for path in 0..2 {
            let ((rx0, tx0), (rx1, tx1)) = (before.path(path), after.path(path));
            again += tx1.retransmitted - tx0.retransmitted;
            let device = device(Host::Client, path);
            let then = then.path(&device, Family::V4)?;
            wait::until(SHOWN, || {
                let now = view(&agent)?.path(&device, Family::V4)?;
                let (rx, tx) = (plus(then.rx, rx1, rx0), plus(then.tx, tx1, tx0));
                ensure!(now.rx == rx && now.tx == tx, "{device}: {rx:?}, {tx:?} instead of {now:?}; {then:?} at first");
                Ok(())
            })?;
        }
        ensure!(again > 0, "nothing was sent again");
        agent.stop(libc::SIGTERM)?;
    }
    talk.close()
}

/// The conversation goes on while nothing that the client sends arrives for a moment.
fn lose_some(paths: &Paths, talk: &mut Conversation) -> Result<()> {
    thread::scope(|scope| {
        let steady = scope.spawn(|| talk.exchange_at(RATE, RATE, Some(RATE / u64::from(slower()))));
        thread::sleep(slower() * STEP / 2);
        (0..2).try_for_each(|path| paths.drop_arriving(Host::Server, path, ""))?;
        thread::sleep(slower() * STEP / 2);
        (0..2).try_for_each(|path| paths.let_through(Host::Server, path))?;
        steady.join().expect("no panic")
    })
}

/// `then` and what came from `before` to `after`.
fn plus(then: Sum, after: Sum, before: Sum) -> Sum {
    Sum {
        packets: then.packets + after.packets - before.packets,
        bytes: then.bytes + after.bytes - before.bytes,
        payload: then.payload + after.payload - before.payload,
        retransmitted: then.retransmitted + after.retransmitted - before.retransmitted,
    }
}

/// Every short connection was counted, or is said to have been lost; what was counted has its payload.
fn burst() -> Result<()> {
    const BYTES: usize = 100;
    let stage = Stage::new(Plan::wires(1))?;
    let made =
        Burst { family: Family::V4, connections: 10_000, per_second: 5000, bytes: BYTES }.run(&stage.lab.paths)?.done;
    for agent in &stage.agents {
        wait::until(SHOWN, || {
            let view = view(agent)?;
            let [opened, closed, lost] =
                [view.total("subflows_opened")?, view.total("subflows_closed")?, view.total("subflows_lost")?];
            ensure!(opened + lost == made, "{made} were made, {opened} opened, {lost} lost");
            ensure!(closed == opened, "{opened} were opened, {closed} closed");
            ensure!(list(view.get("connections"))?.is_empty(), "connections that are no more");
            Ok(())
        })?;
    }
    let view = view(stage.agent(Host::Client))?;
    let path = view.path("west0", Family::V4)?;
    let counted = made - view.total("subflows_lost")?;
    ensure!(path.opened == counted && path.closed.values().sum::<u64>() == counted, "{path:?}");
    let payload = path.tx.payload - path.tx.retransmitted;
    ensure!(payload == counted * BYTES as u64, "{payload} bytes of {counted} connections");
    Ok(())
}

/// Subflows beyond the table's room are told of at both ends, each once.
fn no_room() -> Result<()> {
    const ROOM: u64 = 8;
    const CONNECTIONS: u64 = 20;
    need::mpsec()?;
    let lab = Lab::new(Plan::wires(1))?;
    let start = |host| Options::default().with(&format!("--max-subflows {ROOM}")).start(lab.paths.netns(host));
    let agents = [start(Host::Client)?, start(Host::Server)?];
    let talks: Vec<_> = (0..CONNECTIONS).map(|_| Conversation::open(&lab.paths, Family::V4)).collect::<Result<_>>()?;
    for agent in &agents {
        let view = view(agent)?;
        let [opened, lost] = [view.total("subflows_opened")?, view.total("subflows_lost")?];
        ensure!((opened, lost) == (ROOM, CONNECTIONS - ROOM), "{opened} opened, {lost} lost");
    }
    talks.into_iter().try_for_each(Conversation::close)
}

fn crowd() -> Result<()> {
    need::mpsec()?;
    // An emulated machine takes minutes to make so many.
    let connections = if need::is_emulated() { 1000 } else { 10_000 };
    let paths = Paths::new(Plan::wires(2))?;
    let agent = Agent::start(&paths.server)?;
    view(&agent)?;
    paths.add_endpoints(Family::V4)?;
    let mut crowd = Crowd::open(&paths, Family::V4, connections, 2)?;
    let shown = |left: usize| {
        wait::until(SHOWN * 3, || {
            let view = view(&agent)?;
            let (have, lost) = (list(view.get("connections"))?.len(), view.total("subflows_lost")?);
            ensure!(have == left, "{have} connections instead of {left}");
            for path in ["east0", "east1"] {
                let active = view.path(path, Family::V4)?.subflows.get("active").copied().unwrap_or(0);
                let left = left as u64;
                ensure!(active <= left && active + lost >= left, "{active} on {path} instead of {left}, {lost} lost");
            }
            Ok(())
        })
    };
    shown(connections)?;
    crowd.shrink(connections / 10);
    shown(connections / 10)
}
