//! MPSec's tests on real kernel objects. One file a behaviour; each lists its trials.

mod act;
mod api;
mod bulk;
mod classes;
mod control_api;
mod devices;
mod doctor;
mod failover;
mod fleet;
mod flood;
mod force;
mod harness;
mod hotplug;
mod http;
mod ipsec;
mod lab;
mod laboratory;
mod mptcp_life;
mod mptcp_probes;
mod mptcp_truth;
mod mptcp_view;
mod mptcp_wrong;
mod multipath;
mod names;
mod netem;
mod netns;
mod overflow;
mod prometheus;
mod refuse;
mod reload;
mod status;
mod survive;
mod top;
mod watch;
mod ways;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use mpsec_tests::trial::run_independent;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Counts and times are compared with the kernel's own: tests share neither the processors nor the limits.
    arguments.test_threads.get_or_insert(1);
    let trials = [
        harness::trials(),
        lab::trials(),
        laboratory::trials(),
        mptcp_truth::trials(),
        mptcp_life::trials(),
        mptcp_probes::trials(),
        ways::trials(),
        mptcp_wrong::trials(),
        act::trials(),
        force::trials(),
        classes::trials(),
        devices::trials(),
        bulk::trials(),
        ipsec::trials(),
        hotplug::trials(),
        overflow::trials(),
        survive::trials(),
        failover::trials(),
        refuse::trials(),
        reload::trials(),
        status::trials(),
        http::trials(),
        api::trials(),
        control_api::trials(),
        top::trials(),
        fleet::trials(),
        flood::trials(),
        prometheus::trials(),
        multipath::trials(),
        netem::trials(),
        netns::trials(),
        doctor::trials(),
    ];
    run_independent(&arguments, trials.into_iter().flatten().collect())
}
