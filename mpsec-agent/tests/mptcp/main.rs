//! What the agent asks the kernel of MPTCP and what it hears, on the kernel that is here, in network namespaces.

mod captures;
mod endpoints;
mod events;
mod iter;
mod sockets;
mod speed;
mod userspace;
mod watcher;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use mpsec_tests::trial::run_independent;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = [
        endpoints::trials(),
        events::trials(),
        userspace::trials(),
        sockets::trials(),
        iter::trials(),
        captures::trials(),
        speed::trials(),
    ];
    run_independent(&arguments, trials.into_iter().flatten().collect())
}
