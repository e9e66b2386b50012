//! The laboratory of MPTCP, proven without the agent: paths, programs, and the oracles that agree with them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::link::Offload;
use mpsec_tests::mptcp::{Conversation, Protocol};
use mpsec_tests::paths::{Family, Host, Paths, Plan, device, path_of};
use mpsec_tests::ss;
use mpsec_tests::trial::trial;
use mpsec_tests::wire::{self, Sum, Tuple, Wire};

const LIMIT: Duration = Duration::from_secs(60);
const UP: u64 = 6_000_000;
const DOWN: u64 = 2_000_000;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::ALL {
        for paths in [1, 2, 4] {
            let name = format!("lab::oracles_agree_{paths}_{family}");
            trials.push(trial(&name, LIMIT, move || oracles_agree(Plan::wires(paths), family)));
        }
    }
    for offload in [Offload::Software, Offload::Full] {
        let name = format!("lab::oracles_agree_offload_{}", format!("{offload:?}").to_lowercase());
        trials.push(trial(&name, LIMIT, move || oracles_agree(Plan::wires(2).offload(offload), Family::V4)));
    }
    trials
}

/// Each host's captures, a path after the other.
pub(crate) fn watch(paths: &Paths, host: Host) -> Result<Vec<Wire>> {
    (0..paths.count()).map(|path| Wire::watch(paths.netns(host), &device(host, path))).collect()
}

fn oracles_agree(plan: Plan, family: Family) -> Result<()> {
    let paths = Paths::new(plan)?;
    paths.add_endpoints(family)?;
    let wires = [watch(&paths, Host::Client)?, watch(&paths, Host::Server)?];
    let mut talk = Conversation::open(&paths, family)?;
    talk.joined(u32::try_from(plan.paths)?)?;
    talk.exchange(UP, DOWN)?;
    for (host, wires) in [Host::Client, Host::Server].into_iter().zip(&wires) {
        let mut all = Vec::new();
        for (path, wire) in wires.iter().enumerate() {
            let flows = wire.settled()?;
            eprintln!("{host:?} {path} {flows:#?}");
            all.extend(flows);
        }
        for socket in ss::subflows(paths.netns(host))? {
            eprintln!("{socket:?} {:?}", socket.membership()?);
        }
    }
    eprintln!("{:?}", talk.info()?);
    talk.close()
}
