//! What MPTCP itself sends again: each time-out that the functions see is a segment that the kernel counts.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::kprobe::Kprobe;
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::paths::{Family, Host, Paths, Plan};
use mpsec_tests::{ss, wait};

use super::{FUNCTIONS, alone, for_each_way};
use crate::mptcp_view::{SHOWN, number, view};

/// How often something is lost.
const ROUNDS: u64 = 6;
/// Data that fits into one segment.
const LITTLE: u64 = 100;

pub(super) fn trials() -> Vec<Trial> {
    for_each_way(&FUNCTIONS, "counts_what_mptcp_sends_again", sent_again)
}

/// A little data is lost on the first path, time and again, and MPTCP sends it by the second one.
fn sent_again(way: &str) -> Result<()> {
    let paths = Paths::new(Plan::wires(2))?;
    let agent = alone(&paths.client, way, &["data_timeout"])?;
    paths.add_endpoints(Family::V4)?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.joined(2)?;
    talk.exchange(LITTLE, LITTLE)?;
    let judge = Kprobe::count("__mptcp_retrans")?;
    let (timeouts, segments) = (|| number(&view(&agent)?.get("probed")["data_timeouts"]), || segments(&paths));
    let before = (timeouts()?, segments()?);
    for _ in 0..ROUNDS {
        paths.drop_arriving(Host::Server, 0, "ip length > 120")?;
        talk.exchange(LITTLE, 0)?;
        paths.let_through(Host::Server, 0)?;
        ss::wait_acknowledged(&paths.client)?;
    }
    wait::until(SHOWN, || {
        let (counted, sent, calls) = (timeouts()? - before.0, segments()? - before.1, judge.hits()?);
        eprintln!("{way}: {counted} time-outs, {sent} segments sent again by MPTCP, {calls} calls");
        ensure!(sent >= ROUNDS, "MPTCP sent {sent} segments again");
        ensure!(counted == sent && counted <= calls, "{counted} time-outs, {sent} segments, {calls} calls");
        let told = agent.scrape()?;
        ensure!(
            told.sum("mpsec_mptcp_mib_mptcp_retrans_total", &[])? == sent + before.1,
            "the agent reads another count"
        );
        ensure!(told.sum("mpsec_mptcp_data_timeouts_total", &[])? == counted + before.0, "its metric is another count");
        Ok(())
    })
}

fn segments(paths: &Paths) -> Result<u64> {
    Ok(ss::mib(&paths.client)?.get("MPTCPRetrans").copied().unwrap_or(0))
}
