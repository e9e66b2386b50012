//! The path manager in user space on the kernel that is here, at real connections in network namespaces.

mod addresses;
mod many;
mod ndiffports;
mod running;
mod trouble;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use mpsec_tests::trial::run_independent;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = [ndiffports::trials(), trouble::trials(), addresses::trials(), many::trials()];
    run_independent(&arguments, trials.into_iter().flatten().collect())
}
