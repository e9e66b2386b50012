//! The path manager in user space on the kernel that is here, at real connections in network namespaces.

mod addresses;
mod many;
mod ndiffports;
mod running;
mod trouble;

use libtest_mimic::Arguments;

fn main() {
    let arguments = Arguments::from_args();
    let trials = [ndiffports::trials(), trouble::trials(), addresses::trials(), many::trials()];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}
