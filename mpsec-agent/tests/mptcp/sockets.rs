//! Lists of sockets, compared with what the sockets themselves say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::sock_diag::{Extensions, SockDiag, States, SubflowFlags, SubflowInfo};
use mpsec_agent::snapshot::mptcp::{DataBytes, TcpDetails, TcpState};
use mpsec_tests::mptcp::{Conversation, Info, Protocol};
use mpsec_tests::paths::{Family, Paths, Plan};
use mpsec_tests::trial::trial;
use mpsec_tests::{ss, wait};

const LIMIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);
const UP: u64 = 3_000_000;
const DOWN: u64 = 1_000_000;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::ALL {
        let name = format!("sockets::a_connection_and_its_subflows_{family}");
        trials.push(trial(&name, LIMIT, move || connection(family)));
    }
    trials.push(trial("sockets::a_client_that_fell_back_says_so", LIMIT, fallback));
    trials.push(trial("sockets::listeners_are_listed_when_asked_for", LIMIT, listeners));
    trials
}

fn connection(family: Family) -> Result<()> {
    let paths = Paths::new(Plan::wires(2))?;
    paths.add_endpoint(1, family, "")?;
    let mut talk = Conversation::open(&paths, family)?;
    talk.joined(2)?;
    talk.exchange(UP, DOWN)?;
    let mut diag = paths.client.run(SockDiag::open)?;
    // The last acknowledgements may be under way between two looks.
    wait::until(PATIENCE, || connection_agrees(&mut diag, &talk))?;
    wait::until(PATIENCE, || subflows_agree(&mut diag, &paths, talk.token()?))?;
    ensure!(diag.undecoded() == 0, "{} sockets could not be decoded", diag.undecoded());
    Ok(())
}

fn connection_agrees(diag: &mut SockDiag, talk: &Conversation) -> Result<()> {
    let told = Info::of(&talk.client.stream)?.context("no MPTCP")?;
    let mut seen = Vec::new();
    diag.visit_mptcp(States::CONNECTIONS, Extensions::INFO, |socket| {
        let info = socket.mptcp_info();
        seen.push((
            socket.state(),
            socket.local(),
            socket.remote(),
            info.and_then(|info| info.token()),
            info.and_then(|info| info.data_bytes()),
            info.and_then(|info| info.fell_back()),
            info.and_then(|info| info.subflows()),
            info.and_then(|info| info.subflows_total()).map(u32::from),
        ));
    })?;
    let data = told.bytes.map(|bytes| DataBytes {
        sent_bytes: bytes.sent,
        acked_bytes: bytes.acked,
        received_bytes: bytes.received,
        retransmitted_bytes: bytes.retrans,
    });
    let moved = |data: &DataBytes| data.sent_bytes == UP + 1 && data.received_bytes == DOWN + 1;
    ensure!(data.as_ref().is_none_or(moved), "{data:?}");
    let (local, remote) = (talk.client.stream.local_addr()?, talk.client.stream.peer_addr()?);
    let state = Some(TcpState::Established);
    // Nobody says it of a kernel that does not count bytes either.
    let total = data.and(Some(told.subflows_total));
    let wanted = (state, local, remote, Some(told.token), data, Some(false), Some(1), total);
    ensure!(seen == [wanted], "{seen:?} instead of {wanted:?}");
    Ok(())
}

fn subflows_agree(diag: &mut SockDiag, paths: &Paths, token: u32) -> Result<()> {
    let subflows = subflows(diag)?;
    ensure!(subflows.len() == 2, "{subflows:?}");
    let mut sum = 0;
    for socket in ss::subflows(&paths.client)? {
        let (info, details) = subflows.get(&(socket.local, socket.remote)).context("a socket that only ss knows")?;
        agrees(&socket, info, details)?;
        ensure!(info.token_local == Some(token), "{info:?}");
        let flags = info.flags.context("no flags")?;
        ensure!(flags.joined() == (info.id_local != Some(0)) && !flags.backup(), "{info:?}");
        ensure!(flags.any(SubflowFlags::FULLY_ESTABLISHED) && flags.any(SubflowFlags::CONNECTED), "{info:?}");
        sum += details.sent_bytes.context("no bytes")? - details.retransmitted_bytes.context("no bytes")?;
    }
    ensure!(sum >= UP, "{sum} bytes on all subflows");
    Ok(())
}

/// What the subflows of a namespace say, by their addresses.
fn subflows(diag: &mut SockDiag) -> Result<BTreeMap<(SocketAddr, SocketAddr), (SubflowInfo, TcpDetails)>> {
    let mut subflows = BTreeMap::new();
    diag.visit_tcp(States::CONNECTIONS, Extensions::INFO | Extensions::CONGESTION | Extensions::MEMORY, |socket| {
        let details = socket.tcp_info().and_then(|info| info.details(socket.congestion_control()));
        if let (Some(info), Some(details), Some(_)) = (socket.subflow(), details, socket.memory()) {
            subflows.insert((socket.local(), socket.remote()), (info, details));
        }
    })?;
    Ok(subflows)
}

/// What does not change between two looks at an idle connection is what ss says.
fn agrees(socket: &ss::Socket, info: &SubflowInfo, details: &TcpDetails) -> Result<()> {
    let membership = socket.membership()?.context("ss says that it is no subflow")?;
    ensure!(info.token_local == Some(membership.local_token), "{info:?} {membership:?}");
    ensure!(info.token_remote == Some(membership.remote_token), "{info:?} {membership:?}");
    ensure!(info.id_local == Some(membership.local_id), "{info:?} {membership:?}");
    ensure!(info.id_remote == Some(membership.remote_id), "{info:?} {membership:?}");
    let numbers = [
        ("bytes_sent", details.sent_bytes),
        ("bytes_acked", details.acked_bytes),
        ("bytes_received", details.received_bytes),
        ("cwnd", Some(details.cwnd_segments.into())),
        ("mss", Some(details.mss_bytes.into())),
    ];
    for (key, number) in numbers {
        let said = socket.number(key).ok();
        // ss leaves out what is 0.
        ensure!(said.or(Some(0)) == number.or(Some(0)), "{key}: ss {said:?}, here {number:?}");
    }
    ensure!(details.congestion_control == "reno", "{}", details.congestion_control);
    Ok(())
}

fn fallback() -> Result<()> {
    let paths = Paths::new(Plan::wires(1))?;
    let mut talk = Conversation::between(&paths, Family::V4, [Protocol::Mptcp, Protocol::Tcp])?;
    talk.exchange(1000, 1000)?;
    let mut diag = paths.client.run(SockDiag::open)?;
    let mut seen = Vec::new();
    diag.visit_mptcp(States::CONNECTIONS, Extensions::INFO, |socket| {
        seen.push((socket.local(), socket.mptcp_info().and_then(|info| info.fell_back())));
    })?;
    ensure!(seen == [(talk.client.stream.local_addr()?, Some(true))], "{seen:?}");
    let mut plain = 0;
    let mut server = paths.server.run(SockDiag::open)?;
    server.visit_tcp(States::CONNECTIONS, Extensions::default(), |socket| {
        plain += u32::from(!socket.is_subflow() && socket.tcp_info().is_none());
    })?;
    ensure!(plain == 1, "{plain} plain TCP sockets");
    Ok(())
}

fn listeners() -> Result<()> {
    let paths = Paths::new(Plan::wires(1))?;
    let talk = Conversation::open(&paths, Family::V6)?;
    let mut diag = paths.server.run(SockDiag::open)?;
    let mut ports = Vec::new();
    diag.visit_mptcp(States::LISTEN, Extensions::default(), |socket| ports.push(socket.local().port()))?;
    ensure!(ports == [talk.client.stream.peer_addr()?.port()], "{ports:?}");
    let mut states = Vec::new();
    diag.visit_tcp(States::LISTEN | States::CONNECTIONS, Extensions::default(), |socket| states.push(socket.state()))?;
    states.sort();
    ensure!(states == [Some(TcpState::Established), Some(TcpState::Listen)], "{states:?}");
    Ok(())
}
