//! Sockets as a program on the kernel's walk lists them, against what netlink tells of the same ones.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::ebpf::{Kernel, Settings};
use mpsec_agent::kernel::sock_diag::{Extensions, SockDiag, States, SubflowFlags};
use mpsec_agent::kernel::sockets_iter::SocketsIter;
use mpsec_agent::snapshot::mptcp::{DataBytes, TcpDetails, TcpState};
use mpsec_tests::mptcp::{Conversation, Protocol};
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::{Family, Host, Paths, Plan};
use mpsec_tests::trial::trial;
use mpsec_tests::wait;

const LIMIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);
const UP: u64 = 3_000_000;
const DOWN: u64 = 1_000_000;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::ALL {
        let name = format!("iter::tells_of_both_ends_what_netlink_tells_{family}");
        trials.push(trial(&name, LIMIT, move || the_same(family)));
    }
    trials.push(trial("iter::a_client_that_fell_back_is_suspect", LIMIT, fallback));
    trials
}

type Ends = (SocketAddr, SocketAddr);

/// State, token, flags, identifiers and details.
type Subflow = (Option<TcpState>, u32, SubflowFlags, [Option<u8>; 2], TcpDetails);

/// Ends, state and bytes.
type Connection = (Ends, Option<TcpState>, Option<DataBytes>);

/// All that one way of listing told.
#[derive(Debug, Default, PartialEq)]
struct Told {
    subflows: BTreeMap<Ends, Subflow>,
    connections: BTreeMap<u32, Connection>,
}

/// The list, by the program that is meant for it.
pub(crate) fn program(netns: &Netns) -> Result<SocketsIter> {
    let settings = Settings {
        max_interfaces: 1,
        wireguard_ports: [0; 4],
        max_subflows: 0,
        netns_cookie: 0,
        probes: Default::default(),
        log_level: 0,
    };
    netns.run(|| Kernel::load(&settings))?.sockets.map_err(|reason| anyhow!(reason))
}

/// What a program tells of a namespace, and the flags of connections.
fn listed(iter: &mut SocketsIter, netns: &Netns) -> Result<(Told, BTreeMap<u32, u64>)> {
    let (mut told, mut flags, mut twice) = (Told::default(), BTreeMap::new(), 0);
    netns.run(|| {
        iter.read(|socket| {
            let (Some(ends), token) = (socket.ends(), socket.token()) else { return };
            let what = (socket.state(), token, socket.flags(), socket.ids().map(Some), socket.details());
            twice += u32::from(told.subflows.insert(ends, what).is_some());
            if let Some(ends) = socket.connection_ends() {
                told.connections.insert(token, (ends, socket.connection_state(), socket.data_bytes()));
            }
            flags.insert(token, socket.connection_flags());
        })
    })?;
    ensure!(twice == 0, "{twice} sockets were listed twice");
    Ok((told, flags))
}

/// What netlink tells of it.
fn told(diag: &mut SockDiag) -> Result<Told> {
    let mut told = Told::default();
    diag.visit_tcp(States::CONNECTIONS, Extensions::INFO | Extensions::CONGESTION, |socket| {
        let details = socket.tcp_info().and_then(|info| info.details(socket.congestion_control()));
        if let (Some(info), Some(details)) = (socket.subflow(), details) {
            let token = info.token_local.unwrap_or_default();
            let what =
                (socket.state(), token, info.flags.unwrap_or_default(), [info.id_local, info.id_remote], details);
            told.subflows.insert((socket.local(), socket.remote()), what);
        }
    })?;
    diag.visit_mptcp(States::CONNECTIONS, Extensions::INFO, |socket| {
        let Some(info) = socket.mptcp_info() else { return };
        let what = ((socket.local(), socket.remote()), socket.state(), info.data_bytes());
        told.connections.insert(info.token().unwrap_or_default(), what);
    })?;
    Ok(told)
}

/// One program lists the sockets of either namespace, and of none but the one that it is read in.
fn the_same(family: Family) -> Result<()> {
    let paths = Paths::new(Plan::wires(2))?;
    paths.add_endpoint(1, family, "backup")?;
    let mut talk = Conversation::open(&paths, family)?;
    talk.joined(2)?;
    talk.exchange(UP, DOWN)?;
    // Neither of these is a subflow's.
    let _plain = Conversation::between(&paths, family, [Protocol::Tcp, Protocol::Tcp])?;
    let mut iter = program(&paths.client)?;
    let fallen = flags_of_a_fallback()?;
    for host in [Host::Client, Host::Server] {
        let netns = paths.netns(host);
        let mut diag = netns.run(SockDiag::open)?;
        // The last acknowledgements may be under way between two looks.
        wait::until(PATIENCE, || {
            let ((by_program, flags), by_netlink) = (listed(&mut iter, netns)?, told(&mut diag)?);
            ensure!(by_program == by_netlink, "{by_program:#?} instead of {by_netlink:#?}");
            ensure!(by_program.subflows.len() == 2 && by_program.connections.len() == 1, "{by_program:#?}");
            // Some kernels leave a bit behind that says nothing: on 6.12 it is the fifth.
            ensure!(flags.values().all(|flags| fallen & !flags != 0), "{flags:?} beside {fallen}");
            Ok(())
        })?;
        let (told, _) = listed(&mut iter, netns)?;
        let (ends, (state, _, flags, _, details)) = told.subflows.last_key_value().context("no subflow")?;
        ensure!(*state == Some(TcpState::Established) && flags.any(SubflowFlags::FULLY_ESTABLISHED), "{flags:?}");
        ensure!(details.congestion_control == "reno" && details.srtt_us > 0, "{ends:?} {details:?}");
    }
    Ok(())
}

/// The flags of a connection that has fallen back.
fn flags_of_a_fallback() -> Result<u64> {
    let paths = Paths::new(Plan::wires(1))?;
    let _talk = Conversation::between(&paths, Family::V4, [Protocol::Mptcp, Protocol::Tcp])?;
    let (_, flags) = listed(&mut program(&paths.client)?, &paths.client)?;
    flags.into_values().next().context("no connection")
}

fn fallback() -> Result<()> {
    let paths = Paths::new(Plan::wires(1))?;
    let mut talk = Conversation::between(&paths, Family::V4, [Protocol::Mptcp, Protocol::Tcp])?;
    talk.exchange(1000, 1000)?;
    let mut iter = program(&paths.client)?;
    let mut diag = paths.client.run(SockDiag::open)?;
    wait::until(PATIENCE, || {
        let ((by_program, flags), by_netlink) = (listed(&mut iter, &paths.client)?, told(&mut diag)?);
        ensure!(by_program == by_netlink, "{by_program:#?} instead of {by_netlink:#?}");
        ensure!(flags.len() == 1 && flags.values().all(|flags| *flags != 0), "{flags:?}");
        Ok(())
    })?;
    let (server, _) = listed(&mut iter, &paths.server)?;
    ensure!(server == Told::default(), "plain TCP: {server:#?}");
    Ok(())
}
